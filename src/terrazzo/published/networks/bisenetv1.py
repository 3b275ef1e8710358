"""BiSeNet (Yu et al. 2018): a few wide convolutions for detail, a ResNet for context, fused at stride 8."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, size_of
from terrazzo.published.networks.heads import FcnHead
from terrazzo.published.networks.resnet_v1c import D32, ResNet, ResnetSizes
from terrazzo.published.networks.stdc import AttentionRefinement

Four = tuple[int, int, int, int]


@dataclass(frozen=True)
class BiSeNetV1Sizes:
    """What tells one published BiSeNet from another."""

    backbone: ResnetSizes
    """Of the context path, down to stride 32."""
    detail: Four = (64, 64, 64, 128)
    """Channels of the four convolutions of the detail path."""
    context: int = 128
    """Channels of the context path after the ResNet."""
    fused: int = 256
    """Channels of the fused map and of the main head."""
    aux: int = 64
    """Channels of the auxiliary heads."""
    dropout: float = 0.1
    """Share of a head's channels dropped before its classifier while training."""


_PLAIN = replace(D32, stem="plain")
_WIDE = BiSeNetV1Sizes(_PLAIN, (256, 256, 256, 512), context=512, fused=1024, aux=256)
VARIANTS: Mapping[str, BiSeNetV1Sizes] = {
    "bisenetv1_r18-d32": BiSeNetV1Sizes(replace(_PLAIN, depth=18)),
    "bisenetv1_r50-d32": _WIDE,
    "bisenetv1_r101-d32": replace(_WIDE, backbone=replace(_PLAIN, depth=101)),
}
"""By published name."""


class BiSeNetV1(nn.Module):
    """Normalised images [B, 3, H, W] of any size to logits [B, K, H/8, W/8].

    `aux` holds the heads on the context path at strides 8 and 16.
    """

    def __init__(self, sizes: BiSeNetV1Sizes, classes: int):
        super().__init__()
        self.backbone = TwoPaths(sizes)
        self.decode_head = FcnHead(sizes.fused, sizes.fused, classes, dropout=sizes.dropout)
        self.auxiliary_head = nn.ModuleList(
            FcnHead(sizes.context, sizes.aux, classes, dropout=sizes.dropout) for _ in range(2)
        )

    def forward(self, images: Tensor) -> Output:
        fused, context_8, context_16 = self.backbone(images)
        on_8, on_16 = self.auxiliary_head
        return Output(logits=self.decode_head([fused]), aux=(on_8([context_8]), on_16([context_16])))


class TwoPaths(nn.Module):
    """Images to the fused map at stride 8, and the context at strides 8 and 16."""

    def __init__(self, sizes: BiSeNetV1Sizes):
        super().__init__()
        self.context_path = ContextPath(sizes)
        self.spatial_path = DetailPath(sizes.detail)
        self.ffm = Fusion(sizes.detail[-1] + sizes.context, sizes.fused)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        context_8, context_16 = self.context_path(images)
        return self.ffm(self.spatial_path(images), context_8), context_8, context_16


class DetailPath(nn.Module):
    """Images to a map at stride 8, by three strided convolutions and a 1x1 one."""

    def __init__(self, widths: Four):
        super().__init__()
        first, second, third, last = widths
        self.layer1 = ConvBNAct(3, first, 7, stride=2)
        self.layer2 = ConvBNAct(first, second, 3, stride=2)
        self.layer3 = ConvBNAct(second, third, 3, stride=2)
        self.layer4 = ConvBNAct(third, last)

    def forward(self, images: Tensor) -> Tensor:
        detail: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(images))))
        return detail


class ContextPath(nn.Module):
    """Images to what a ResNet sees at strides 32 and 16, carried down to strides 8 and 16."""

    def __init__(self, sizes: BiSeNetV1Sizes):
        super().__init__()
        *_, middle, coarse = sizes.backbone.dims
        width = sizes.context
        self.backbone = ResNet(sizes.backbone)
        self.arm16 = AttentionRefinement(middle, width)
        self.arm32 = AttentionRefinement(coarse, width)
        self.conv_head32 = ConvBNAct(width, width, 3)
        self.conv_head16 = ConvBNAct(width, width, 3)
        self.gap_conv = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvBNAct(coarse, width))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        _, fine, middle, coarse = self.backbone(images)
        context = self.arm32(coarse) + self.gap_conv(coarse)
        context_16 = self.conv_head32(functional.interpolate(context, size_of(middle), mode="nearest"))
        context = self.arm16(middle) + context_16
        context_8 = self.conv_head16(functional.interpolate(context, size_of(fine), mode="nearest"))
        return context_8, context_16


class Fusion(nn.Module):
    """Detail and context joined; channels that the whole map calls for count up to twice."""

    def __init__(self, fan_in: int, width: int):
        super().__init__()
        self.conv1 = ConvBNAct(fan_in, width)
        self.conv_atten = nn.Sequential(ConvBNAct(width, width), nn.Sigmoid())

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        current = self.conv1(torch.cat([detail, context], dim=1))
        fused: Tensor = current * self.conv_atten(functional.adaptive_avg_pool2d(current, 1)) + current
        return fused


def build(name_or_sizes: str | BiSeNetV1Sizes, classes: int) -> BiSeNetV1:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, BiSeNetV1Sizes):
        return BiSeNetV1(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no BiSeNet is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return BiSeNetV1(VARIANTS[name_or_sizes], classes)
