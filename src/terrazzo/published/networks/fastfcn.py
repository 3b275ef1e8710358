"""FastFCN (Wu et al. 2019): joint pyramid upsampling makes a map at stride 8 of those at strides 8, 16 and 32."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, SeparableConv, resize, size_of
from terrazzo.published.networks.code_heads import EncHead
from terrazzo.published.networks.heads import AsppHead, FcnHead, PspHead
from terrazzo.published.networks.resnet_v1c import ResNet, ResnetSizes

BACKBONE = ResnetSizes(strides=(1, 2, 2, 2))
"""ResNet-50, down to stride 32."""


@dataclass(frozen=True)
class FastFcnSizes:
    """What tells one published FastFCN from another."""

    head: Literal["psp", "aspp", "enc"]
    """What reads the joint map: pyramid pooling, dilated convolutions (DeepLabV3), or code words (EncNet)."""
    backbone: ResnetSizes = BACKBONE
    """Its last two stages are dilated and keep their strides."""
    joint: int = 512
    """Channels of each of the four dilated convolutions of the joint map."""
    channels: int = 512
    """Inside the head."""
    aux_channels: int = 256
    """Inside the auxiliary head, which reads the map at stride 16."""
    dropout: float = 0.1
    """Share of a head's channels dropped before its classifier while training."""


VARIANTS: Mapping[str, FastFcnSizes] = {
    "fastfcn_r50-d32_jpu_psp": FastFcnSizes("psp"),
    "fastfcn_r50-d32_jpu_aspp": FastFcnSizes("aspp"),
    "fastfcn_r50-d32_jpu_enc": FastFcnSizes("enc"),
}
"""By published name."""


class FastFcn(nn.Module):
    """Normalised images [B, 3, H, W] of any size to logits [B, K, H/8, W/8], and auxiliary ones at stride 16."""

    def __init__(self, sizes: FastFcnSizes, classes: int):
        super().__init__()
        self.backbone = ResNet(sizes.backbone)
        self.decode_head = head(sizes, classes)
        self.auxiliary_head = FcnHead(sizes.backbone.dims[2], sizes.aux_channels, classes, dropout=sizes.dropout)
        self.neck = JointUpsampling(sizes.backbone.dims[1:], sizes.joint)

    def forward(self, images: Tensor) -> Output:
        _, *maps = self.backbone(images)
        return Output(logits=self.decode_head([self.neck(maps)]), aux=(self.auxiliary_head(maps[:2]),))


class JointUpsampling(nn.Module):
    """Maps of `dims` channels, finest first, to one of 4 * `width` at the first one's size."""

    def __init__(self, dims: Sequence[int], width: int):
        super().__init__()
        self.conv_layers = nn.ModuleList(nn.Sequential(ConvBNAct(dim, width, 3)) for dim in dims)
        self.dilation_layers = nn.ModuleList(
            nn.Sequential(SeparableConv(len(dims) * width, width, dilation=dilation, depthwise_act=False))
            for dilation in (1, 2, 4, 8)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        narrow = [layer(current) for layer, current in zip(self.conv_layers, maps, strict=True)]
        joined = torch.cat([resize(current, size_of(maps[0])) for current in narrow], dim=1)
        return torch.cat([layer(joined) for layer in self.dilation_layers], dim=1)


def head(sizes: FastFcnSizes, classes: int) -> PspHead | AsppHead | EncHead:
    """What reads the joint map."""
    fan_in = 4 * sizes.joint
    match sizes.head:
        case "psp":
            return PspHead(fan_in, sizes.channels, classes, dropout=sizes.dropout)
        case "aspp":
            return AsppHead(fan_in, sizes.channels, classes, dropout=sizes.dropout)
        case "enc":
            return EncHead(fan_in, sizes.channels, classes, dropout=sizes.dropout)
        case _:
            assert_never(sizes.head)


def build(name_or_sizes: str | FastFcnSizes, classes: int) -> FastFcn:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, FastFcnSizes):
        return FastFcn(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no FastFCN is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return FastFcn(VARIANTS[name_or_sizes], classes)
