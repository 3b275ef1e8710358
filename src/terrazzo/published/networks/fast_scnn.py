"""Fast-SCNN (Poudel et al. 2019): one shallow path to stride 8, from which a cheap deep one to stride 32 branches off.

Its published training takes every class as a yes or no of its own (a sigmoid each); the highest logit answers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, SeparableConv, resize, size_of
from terrazzo.published.networks.heads import FcnHead, Head


@dataclass(frozen=True)
class FastScnnSizes:
    """Sizes of one variant."""

    downsample: tuple[int, int, int] = (32, 48, 64)
    """Channels at strides 2, 4 and 8."""
    widths: tuple[int, int, int] = (64, 96, 128)
    """Channels of the three stages of the deep path."""
    depths: tuple[int, int, int] = (3, 3, 3)
    """Blocks of the three stages."""
    strides: tuple[int, int, int] = (2, 2, 1)
    """Stride of the first block of each stage."""
    expansion: int = 6
    """Channels inside a block, as a multiple of those it is given."""
    pools: tuple[int, ...] = (1, 2, 3, 6)
    """Sides of the grids that the deep path's end is averaged over."""
    fused: int = 128
    """Channels of the two paths' sum and of the main head."""
    aux: int = 32
    """Channels of the auxiliary heads."""
    dropout: float = 0.1
    """Share of a head's channels dropped before its classifier while training."""
    momentum: float = 0.01
    """Share of a step in the running statistics of batch normalisation."""


VARIANTS = {"fast_scnn": FastScnnSizes()}
"""By published name."""


class FastScnn(nn.Module):
    """Normalised images [B, 3, H, W] to logits [B, K, H/8, W/8], sides rounded up; of any size.

    `aux` holds the heads on the deep path (stride 32) and on the shallow one (stride 8).
    """

    def __init__(self, sizes: FastScnnSizes, classes: int):
        super().__init__()
        self.backbone = TwoPaths(sizes)
        self.decode_head = SeparableHead(sizes.fused, classes, dropout=sizes.dropout)
        self.auxiliary_head = nn.ModuleList(
            FcnHead(width, sizes.aux, classes, dropout=sizes.dropout) for width in (sizes.fused, sizes.downsample[-1])
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = sizes.momentum

    def forward(self, images: Tensor) -> Output:
        shallow, deep, fused = self.backbone(images)
        aux = tuple(head([current]) for head, current in zip(self.auxiliary_head, (deep, shallow), strict=True))
        return Output(logits=self.decode_head(fused), aux=aux)


class SeparableHead(Head):
    """Two separable convolutions and the classifier."""

    def __init__(self, channels: int, classes: int, *, dropout: float):
        super().__init__(channels, classes, dropout=dropout)
        self.convs = nn.Sequential(*(SeparableConv(channels, channels, depthwise_act=False) for _ in range(2)))

    def forward(self, current: Tensor) -> Tensor:
        return self.classify(self.convs(current))


class TwoPaths(nn.Module):
    """Images to the shallow path's map at stride 8, the deep path's at stride 32, and their sum at stride 8."""

    def __init__(self, sizes: FastScnnSizes):
        super().__init__()
        self.learning_to_downsample = Shallow(sizes)
        self.global_feature_extractor = Deep(sizes)
        self.feature_fusion = Fusion(sizes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shallow = self.learning_to_downsample(images)
        deep = self.global_feature_extractor(shallow)
        return shallow, deep, self.feature_fusion(shallow, deep)


class Shallow(nn.Module):
    """Images to a map at stride 8: one convolution and two separable ones."""

    def __init__(self, sizes: FastScnnSizes):
        super().__init__()
        first, second, third = sizes.downsample
        self.conv = ConvBNAct(3, first, 3, stride=2)
        self.dsconv1 = SeparableConv(first, second, stride=2, depthwise_act=False)
        self.dsconv2 = SeparableConv(second, third, stride=2, depthwise_act=False)

    def forward(self, images: Tensor) -> Tensor:
        shallow: Tensor = self.dsconv2(self.dsconv1(self.conv(images)))
        return shallow


class Deep(nn.Module):
    """Three stages of bottlenecks and a pyramid of averages."""

    def __init__(self, sizes: FastScnnSizes):
        super().__init__()
        first, second, third = sizes.widths
        self.bottleneck1 = stage(sizes, 0, sizes.downsample[-1])
        self.bottleneck2 = stage(sizes, 1, first)
        self.bottleneck3 = stage(sizes, 2, second)
        width = third // len(sizes.pools)
        self.ppm = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), ConvBNAct(third, width)) for side in sizes.pools
        )
        self.out = ConvBNAct(third + width * len(sizes.pools), sizes.fused, 3)

    def forward(self, current: Tensor) -> Tensor:
        current = self.bottleneck3(self.bottleneck2(self.bottleneck1(current)))
        averages = [resize(branch(current), size_of(current)) for branch in self.ppm]
        deep: Tensor = self.out(torch.cat([current, *averages], dim=1))
        return deep


def stage(sizes: FastScnnSizes, index: int, fan_in: int) -> nn.Sequential:
    """Bottlenecks of one stage, of which the first changes stride and channels."""
    width, depth = sizes.widths[index], sizes.depths[index]
    first = Bottleneck(fan_in, width, stride=sizes.strides[index], expansion=sizes.expansion)
    return nn.Sequential(first, *(Bottleneck(width, width, expansion=sizes.expansion) for _ in range(depth - 1)))


class Bottleneck(nn.Module):
    """More channels, a depthwise convolution, fewer channels (Sandler et al. 2018); added to its input if it fits."""

    def __init__(self, fan_in: int, fan_out: int, *, stride: int = 1, expansion: int):
        super().__init__()
        hidden = fan_in * expansion
        self.residual = stride == 1 and fan_in == fan_out
        self.conv = nn.Sequential(
            ConvBNAct(fan_in, hidden),
            ConvBNAct(hidden, hidden, 3, stride=stride, groups=hidden),
            ConvBNAct(hidden, fan_out, act=False),
        )

    def forward(self, current: Tensor) -> Tensor:
        answer: Tensor = self.conv(current)
        return current + answer if self.residual else answer


class Fusion(nn.Module):
    """The deep path's map enlarged to the shallow one's size, and the sum of the two."""

    def __init__(self, sizes: FastScnnSizes):
        super().__init__()
        width = sizes.fused
        self.dwconv = ConvBNAct(width, width, 3, groups=width)
        self.conv_lower_res = ConvBNAct(width, width, act=False)
        self.conv_higher_res = ConvBNAct(sizes.downsample[-1], width, act=False)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        deep = self.conv_lower_res(self.dwconv(resize(deep, size_of(shallow))))
        return functional.relu(self.conv_higher_res(shallow) + deep)


def build(name_or_sizes: str | FastScnnSizes, classes: int) -> FastScnn:
    """A published network by its name, or one of other sizes; with random weights."""
    if isinstance(name_or_sizes, FastScnnSizes):
        return FastScnn(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no Fast-SCNN is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return FastScnn(VARIANTS[name_or_sizes], classes)
