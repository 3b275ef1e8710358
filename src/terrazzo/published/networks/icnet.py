"""ICNet (Zhao et al. 2018): a light branch on the whole image, a deep one on a half and a quarter of it, fused."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.facts import PublishedInput
from terrazzo.published.networks.blocks import ConvBNAct, resize, size_of
from terrazzo.published.networks.heads import FcnHead, Pyramid
from terrazzo.published.networks.resnet_v1c import D8, ResNet, ResnetSizes

INPUT = PublishedInput(smallest=32)
"""A smaller image has no map at a quarter of the resolution."""


@dataclass(frozen=True)
class IcNetSizes:
    """What tells one published ICNet from another."""

    backbone: ResnetSizes = D8
    light: int = 32
    """Channels inside the light branch."""
    pooled: int = 512
    """Channels of the pyramid pooling."""
    branches: tuple[int, int, int] = (64, 256, 256)
    """Channels of the three branches, the finest first."""
    fused: int = 128
    """Channels after the fusions, and of the heads."""
    dropout: float = 0.1
    """Share of an auxiliary head's channels dropped before its classifier while training."""


VARIANTS: Mapping[str, IcNetSizes] = {
    "icnet_r18-d8": IcNetSizes(replace(D8, depth=18)),
    "icnet_r50-d8": IcNetSizes(),
    "icnet_r101-d8": IcNetSizes(replace(D8, depth=101)),
}
"""By published name."""


class IcNet(nn.Module):
    """Normalised images [B, 3, H, W], of 32 pixels a side at least, to logits [B, K, H/8, W/8], sides rounded up.

    `aux` holds the heads on the branches of stride 16 (of the half image) and of stride 8.
    """

    def __init__(self, sizes: IcNetSizes, classes: int):
        super().__init__()
        fused = sizes.fused
        self.backbone = Cascade(sizes)
        self.neck = Fusions(sizes)
        self.decode_head = FcnHead(fused, fused, classes, dropout=0.0)
        self.auxiliary_head = nn.ModuleList(FcnHead(fused, fused, classes, dropout=sizes.dropout) for _ in range(2))

    def forward(self, images: Tensor) -> Output:
        coarse, fine, fused = self.neck(*self.backbone(images))
        first, second = self.auxiliary_head
        return Output(logits=self.decode_head([fused]), aux=(first([coarse]), second([fine])))


class Cascade(nn.Module):
    """Images to the three branches' maps, at strides 8, 16 and 32."""

    def __init__(self, sizes: IcNetSizes):
        super().__init__()
        _, second, _, last = sizes.backbone.dims
        whole, half, quarter = sizes.branches
        self.backbone = ResNet(sizes.backbone)
        self.psp_modules = Pyramid(last, sizes.pooled, (1, 2, 3, 6), align_corners=False)
        self.psp_bottleneck = ConvBNAct(last + 4 * sizes.pooled, sizes.pooled, 3)
        widths = ((3, sizes.light), (sizes.light, sizes.light), (sizes.light, whole))
        self.conv_sub1 = nn.Sequential(*(ConvBNAct(fan_in, fan_out, 3, stride=2) for fan_in, fan_out in widths))
        self.conv_sub2 = ConvBNAct(second, half)
        self.conv_sub4 = ConvBNAct(sizes.pooled, quarter)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        net = self.backbone
        # Its last row and column count, unlike in the other networks of a ResNet.
        current = functional.max_pool2d(net.stem(halved(images)), 3, stride=2, padding=1, ceil_mode=True)
        middle = net.layer2(net.layer1(current))
        deep = net.layer4(net.layer3(halved(middle)))
        # The published network joins the averages before the map itself.
        pooled = self.psp_modules(deep)
        joined = torch.cat([pooled[:, deep.shape[1] :], deep], dim=1)
        return self.conv_sub1(images), self.conv_sub2(middle), self.conv_sub4(self.psp_bottleneck(joined))


def halved(current: Tensor) -> Tensor:
    """[B, C, h, w] to [B, C, h // 2, w // 2], bilinear; of odd sides the last pixel is left out."""
    return functional.interpolate(current, scale_factor=0.5, mode="bilinear")


class Fusions(nn.Module):
    """The coarse branch fused into the middle one, and the answer into the fine one.

    Answers what the two fusions see of the coarser map, and the fused map.
    """

    def __init__(self, sizes: IcNetSizes):
        super().__init__()
        fine, middle, coarse = sizes.branches
        self.cff_24 = Fusion(coarse, middle, sizes.fused)
        self.cff_12 = Fusion(sizes.fused, fine, sizes.fused)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused, from_coarse = self.cff_24(coarse, middle)
        fused, from_middle = self.cff_12(fused, fine)
        return from_coarse, from_middle, fused


class Fusion(nn.Module):
    """A coarse map, enlarged and convolved, added to a fine one; also answers the first of the two."""

    def __init__(self, coarse: int, fine: int, width: int):
        super().__init__()
        self.conv_low = ConvBNAct(coarse, width, 3, dilation=2)
        self.conv_high = ConvBNAct(fine, width)

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        low = self.conv_low(resize(coarse, size_of(fine)))
        return functional.relu(low + self.conv_high(fine)), low


def build(name_or_sizes: str | IcNetSizes, classes: int) -> IcNet:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, IcNetSizes):
        return IcNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no ICNet is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return IcNet(VARIANTS[name_or_sizes], classes)
