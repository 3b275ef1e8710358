"""CGNet (Wu et al. 2021): blocks of a local and a surrounding convolution, weighed by the image; PReLU throughout."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError, Normalization
from terrazzo.output import Output
from terrazzo.published.facts import PublishedInput
from terrazzo.published.networks.blocks import draw_conv
from terrazzo.published.networks.heads import FcnHead

EPS = 1e-3
"""Of batch normalisation."""

INPUT = PublishedInput(
    Normalization(mean=(72.39239876, 82.90891754, 73.15835921), std=(1, 1, 1), max_value=255, channel_order="rgb")
)
"""Of the published configuration."""


@dataclass(frozen=True)
class CgNetSizes:
    """Sizes of one variant."""

    widths: tuple[int, int, int] = (32, 64, 128)
    """Channels at strides 2, 4 and 8."""
    blocks: tuple[int, int] = (3, 21)
    """Blocks at strides 4 and 8, the strided one among them."""
    dilations: tuple[int, int] = (2, 4)
    """Of what is seen around a pixel, at strides 4 and 8."""
    shares: tuple[int, int] = (8, 16)
    """What part of the channels weighs all of them, at strides 4 and 8."""


VARIANTS: Mapping[str, CgNetSizes] = {"cgnet_fcn": CgNetSizes()}
"""By published name."""


class CgNet(nn.Module):
    """Normalised images [B, 3, H, W] of any size to logits [B, K, H/8, W/8], sides rounded up."""

    def __init__(self, sizes: CgNetSizes, classes: int):
        super().__init__()
        width = 2 * sizes.widths[2]
        self.backbone = Backbone(sizes)
        self.decode_head = FcnHead(width, width, classes, convs=0, dropout=0.0)

    def forward(self, images: Tensor) -> Output:
        return Output(logits=self.decode_head([self.backbone(images)]))


class Backbone(nn.Module):
    """Images to a map at stride 8.

    At strides 4 and 8 the first block's answer is joined to the last one's, at strides 2 and 4 the smaller image.
    """

    def __init__(self, sizes: CgNetSizes):
        super().__init__()
        fine, middle, coarse = sizes.widths
        self.stem = nn.ModuleList([conv_norm(3, fine, 3, stride=2), conv_norm(fine, fine, 3), conv_norm(fine, fine, 3)])
        self.norm_prelu_0 = norm_act(fine + 3)
        self.level1 = level(fine + 3, middle, sizes, 0)
        self.norm_prelu_1 = norm_act(2 * middle + 3)
        self.level2 = level(2 * middle + 3, coarse, sizes, 1)
        self.norm_prelu_2 = norm_act(2 * coarse)

    def forward(self, images: Tensor) -> Tensor:
        half = functional.avg_pool2d(images, 3, stride=2, padding=1)
        quarter = functional.avg_pool2d(half, 3, stride=2, padding=1)
        current = images
        for part in self.stem:
            current = part(current)
        first, current = run(self.level1, self.norm_prelu_0(torch.cat([current, half], dim=1)))
        first, current = run(self.level2, self.norm_prelu_1(torch.cat([current, first, quarter], dim=1)))
        joined: Tensor = self.norm_prelu_2(torch.cat([first, current], dim=1))
        return joined


def level(fan_in: int, width: int, sizes: CgNetSizes, number: int) -> nn.ModuleList:
    """The blocks of one stride."""
    dilation, share = sizes.dilations[number], sizes.shares[number]
    others = (Guided(width, width, dilation, share) for _ in range(sizes.blocks[number] - 1))
    return nn.ModuleList([Guided(fan_in, width, dilation, share, strided=True), *others])


def run(blocks: nn.ModuleList, current: Tensor) -> tuple[Tensor, Tensor]:
    """What the first and the last of some blocks answer."""
    first, *others = blocks
    current = start = first(current)
    for block in others:
        current = block(current)
    return start, current


class Guided(nn.Module):
    """A pixel's neighbours and what lies around them, weighed by the image; at stride 1 around an identity."""

    def __init__(self, fan_in: int, width: int, dilation: int, share: int, *, strided: bool = False):
        super().__init__()
        self.strided = strided
        inner = width if strided else width // 2
        self.conv1x1 = conv_norm(fan_in, inner, 3 if strided else 1, stride=2 if strided else 1)
        self.f_loc = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.f_sur = nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, groups=inner, bias=False)
        self.bn = nn.BatchNorm2d(2 * inner, eps=EPS)
        self.activate = nn.PReLU(2 * inner)
        self.bottleneck = nn.Conv2d(2 * inner, width, 1, bias=False) if strided else nn.Identity()
        self.f_glo = Weighing(width, share)

    def forward(self, current: Tensor) -> Tensor:
        narrow = self.conv1x1(current)
        joined = self.activate(self.bn(torch.cat([self.f_loc(narrow), self.f_sur(narrow)], dim=1)))
        answer: Tensor = self.f_glo(self.bottleneck(joined))
        return answer if self.strided else current + answer


class Weighing(nn.Module):
    """Channels weighed by what the whole map shows, through one in `share` of them: `fc`."""

    def __init__(self, channels: int, share: int):
        super().__init__()
        inner = channels // share
        self.fc = nn.Sequential(
            nn.Linear(channels, inner), nn.ReLU(inplace=True), nn.Linear(inner, channels), nn.Sigmoid()
        )

    def forward(self, current: Tensor) -> Tensor:
        weighed: Tensor = current * self.fc(current.mean((2, 3)))[..., None, None]
        return weighed


def conv_norm(fan_in: int, fan_out: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, batch normalisation and PReLU: `conv`, `bn`, `activate`."""
    conv = nn.Conv2d(fan_in, fan_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    draw_conv(conv)
    parts: dict[str, nn.Module] = {
        "conv": conv,
        "bn": nn.BatchNorm2d(fan_out, eps=EPS),
        "activate": nn.PReLU(fan_out),
    }
    return nn.Sequential(OrderedDict(parts))


def norm_act(channels: int) -> nn.Sequential:
    """Batch normalisation and PReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels, eps=EPS), nn.PReLU(channels))


def build(name_or_sizes: str | CgNetSizes, classes: int) -> CgNet:
    """The published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, CgNetSizes):
        return CgNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no CGNet is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return CgNet(VARIANTS[name_or_sizes], classes)
