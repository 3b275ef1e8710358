"""STDC (Fan et al. 2021): short-term dense concatenation, with the context path of BiSeNet (Yu et al. 2018) on top.

The encoder answers at strides 8, 16 and 32; what it sees far away is carried down to stride 8 and fused there.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, draw_conv, size_of
from terrazzo.published.networks.heads import FcnHead


@dataclass(frozen=True)
class StdcSizes:
    """Sizes of one variant."""

    depths: tuple[int, int, int]
    """Blocks at strides 8, 16 and 32."""
    widths: tuple[int, int, int, int, int] = (32, 64, 256, 512, 1024)
    """Channels at strides 2, 4, 8, 16 and 32; the last three are multiples of 8."""
    context: int = 128
    """Channels of the context path."""
    fused: int = 256
    """Channels of the fused map and of the main head."""
    aux: int = 64
    """Channels of the auxiliary heads."""
    dropout: float = 0.1
    """Share of a head's channels dropped before its classifier while training."""


VARIANTS = {"stdc1": StdcSizes(depths=(2, 2, 2)), "stdc2": StdcSizes(depths=(4, 5, 3))}
"""By published name."""


class Stdc(nn.Module):
    """Normalised images [B, 3, H, W] to logits [B, K, H/8, W/8], sides rounded up; of any size.

    `aux` holds what the heads on the context path say at strides 8 and 16, and on the encoder's map at stride 8 two
    logits that a pixel lies on an edge [B, 2, H/8, W/8]. That third head's parameters ask for no gradient until
    somebody who has a loss of edges calls `train_edges()`.
    """

    def __init__(self, sizes: StdcSizes, classes: int):
        super().__init__()
        self.backbone = ContextPath(sizes)
        self.decode_head = FcnHead(sizes.fused, sizes.fused, classes, dropout=sizes.dropout)
        on_8 = FcnHead(sizes.context, sizes.aux, classes, dropout=sizes.dropout)
        on_16 = FcnHead(sizes.context, sizes.aux, classes, dropout=sizes.dropout)
        self.auxiliary_head = nn.ModuleList([on_8, on_16, edge_head(sizes)])
        self.train_edges(False)

    def train_edges(self, wanted: bool = True) -> None:
        """Whether the edge head's parameters ask for gradients, which only a loss on edges gives them."""
        self.auxiliary_head[-1].requires_grad_(wanted)

    def forward(self, images: Tensor) -> Output:
        detail, context_16, context_8, fused = self.backbone(images)
        on_8, on_16, edges = self.auxiliary_head
        aux = (on_8([context_8]), on_16([context_16]), edges([detail]))
        # Published training enlarges the logits of the first two without aligned corners; only training can tell.
        return Output(logits=self.decode_head([fused]), aux=aux, align_corners=True, edges=(2,))


def edge_head(sizes: StdcSizes) -> FcnHead:
    """The head that learns edges, with the fixed filters that published training draws its labels with.

    The answer does not need the filters; they are kept because the published weights hold them.
    """
    head = FcnHead(sizes.widths[2], sizes.aux, 2, dropout=sizes.dropout)
    laplacian = torch.full((1, 1, 3, 3), -1.0)
    laplacian[..., 1, 1] = 8.0
    head.register_buffer("laplacian_kernel", laplacian)
    head.register_buffer("fusion_kernel", torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1))
    return head


class ContextPath(nn.Module):
    """The encoder, and its two coarser maps brought down to stride 8.

    Images to four maps: the encoder's at stride 8, the context at stride 16 and at stride 8, and the fused one. A
    context is what came from one stride coarser, after its enlargement.
    """

    def __init__(self, sizes: StdcSizes):
        super().__init__()
        _, _, fine, middle, coarse = sizes.widths
        self.backbone = Encoder(sizes)
        self.arms = nn.ModuleList(AttentionRefinement(width, sizes.context) for width in (coarse, middle))
        self.convs = nn.ModuleList(ConvBNAct(sizes.context, sizes.context, 3) for _ in range(2))
        self.conv_avg = ConvBNAct(coarse, sizes.context)
        self.ffm = FeatureFusion(fine + sizes.context, sizes.fused)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        fine, middle, coarse = self.backbone(images)
        # The mean of a map has one pixel: adding it needs no enlargement.
        context = self.arms[0](coarse) + self.conv_avg(functional.adaptive_avg_pool2d(coarse, 1))
        context_16 = self.convs[0](functional.interpolate(context, size_of(middle), mode="nearest"))
        context = self.arms[1](middle) + context_16
        context_8 = self.convs[1](functional.interpolate(context, size_of(fine), mode="nearest"))
        return fine, context_16, context_8, self.ffm(fine, context_8)


class Encoder(nn.Module):
    """Images to maps at strides 8, 16 and 32."""

    def __init__(self, sizes: StdcSizes):
        super().__init__()
        first, second, *widths = sizes.widths
        self.stages = nn.ModuleList([ConvBNAct(3, first, 3, stride=2), ConvBNAct(first, second, 3, stride=2)])
        for fan_in, width, depth in zip((second, *widths), widths, sizes.depths, strict=False):
            blocks = [DenseBlock(fan_in, width, stride=2), *(DenseBlock(width, width) for _ in range(depth - 1))]
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, images: Tensor) -> list[Tensor]:
        current, maps = images, []
        for stage in self.stages:
            current = stage(current)
            maps.append(current)
        return maps[2:]


class DenseBlock(nn.Module):
    """Four convolutions in a row whose answers, [1/2, 1/4, 1/8, 1/8] of the channels, are joined.

    With stride 2 the first answer, a 1x1 convolution's, is made smaller in two ways: by its mean for the join, and by
    a depthwise convolution for the second convolution.
    """

    def __init__(self, fan_in: int, fan_out: int, *, stride: int = 1):
        super().__init__()
        half, quarter, eighth = fan_out // 2, fan_out // 4, fan_out // 8
        self.layers = nn.ModuleList(
            [
                ConvBNAct(fan_in, half),
                ConvBNAct(half, quarter, 3),
                ConvBNAct(quarter, eighth, 3),
                ConvBNAct(eighth, eighth, 3),
            ]
        )
        strided = stride > 1
        self.downsample = ConvBNAct(half, half, 3, stride=stride, groups=half, act=False) if strided else nn.Identity()
        self.skip = nn.AvgPool2d(3, stride, 1) if strided else nn.Identity()

    def forward(self, current: Tensor) -> Tensor:
        first, *others = self.layers
        current = first(current)
        answers = [self.skip(current)]
        current = self.downsample(current)
        for layer in others:
            current = layer(current)
            answers.append(current)
        return torch.cat(answers, dim=1)


class AttentionRefinement(nn.Module):
    """A convolution whose channels are weighed by what the whole map shows."""

    def __init__(self, fan_in: int, width: int):
        super().__init__()
        self.conv_layer = ConvBNAct(fan_in, width, 3)
        self.atten_conv_layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvBNAct(width, width, act=False), nn.Sigmoid())

    def forward(self, current: Tensor) -> Tensor:
        current = self.conv_layer(current)
        weighed: Tensor = current * self.atten_conv_layer(current)
        return weighed


class FeatureFusion(nn.Module):
    """The map of the encoder and the context, joined; channels that the whole map calls for count up to twice."""

    def __init__(self, fan_in: int, width: int):
        super().__init__()
        self.conv0 = ConvBNAct(fan_in, width)
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            plain_conv(width, width // 4, nn.ReLU()),
            plain_conv(width // 4, width, nn.Sigmoid()),
        )

    def forward(self, fine: Tensor, context: Tensor) -> Tensor:
        current = self.conv0(torch.cat([fine, context], dim=1))
        fused: Tensor = current * self.attention(current) + current
        return fused


def plain_conv(fan_in: int, fan_out: int, act: nn.Module) -> nn.Sequential:
    """A 1x1 convolution without bias or normalisation: `conv.weight`."""
    conv = nn.Conv2d(fan_in, fan_out, 1, bias=False)
    draw_conv(conv)
    return nn.Sequential(OrderedDict(conv=conv, act=act))


def build(name_or_sizes: str | StdcSizes, classes: int) -> Stdc:
    """A published network by its name, or one of other sizes; with random weights."""
    if isinstance(name_or_sizes, StdcSizes):
        return Stdc(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no STDC is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return Stdc(VARIANTS[name_or_sizes], classes)
