"""UNet (Ronneberger et al. 2015) in five stages down to stride 16, as MMSegmentation publishes it with three heads.

Batch-normalised convolutions that keep the size, 2x2 max pooling on the way down; on the way up the map is enlarged
bilinearly and joined to the one it meets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, assert_never

import torch
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, padded, size_of
from terrazzo.published.networks.heads import AsppHead, FcnHead, PspHead

STRIDE = 16
"""Of the deepest map."""


@dataclass(frozen=True)
class UNetSizes:
    """Sizes of one published UNet."""

    head: Literal["fcn", "psp", "aspp"] = "fcn"
    """What reads the last map: one 3x3 convolution, pyramid pooling, or dilated convolutions (DeepLabV3)."""
    widths: tuple[int, int, int, int, int] = (64, 128, 256, 512, 1024)
    """Channels of the five stages."""
    head_width: int = 64
    """Channels inside the head."""
    aux_width: int = 64
    """Channels inside the auxiliary head."""
    dropout: float = 0.1
    """Share of channels dropped before each classifier while training."""


VARIANTS: Mapping[str, UNetSizes] = {
    "unet-s5-d16_fcn": UNetSizes(),
    "unet-s5-d16_pspnet": UNetSizes(head="psp", head_width=16),
    "unet-s5-d16_deeplabv3": UNetSizes(head="aspp", head_width=16),
    "unet_s5-d16_deeplabv3": UNetSizes(head="aspp", head_width=16),  # as one published result is spelled
}


class UNetS5(nn.Module):
    """Images [B, 3, H, W] to logits [B, K, H, W] and, from one stage earlier, auxiliary ones [B, K, H/2, W/2].

    Other sides than multiples of 16 are padded with zeros at the bottom and right, where the published code refuses
    them; the logits then cover the padded image, and `Output.covers` says so.
    """

    def __init__(self, sizes: UNetSizes, classes: int):
        super().__init__()
        second = sizes.widths[1]
        self.backbone = Backbone(sizes.widths)
        self.decode_head = head(sizes, classes)
        self.auxiliary_head = FcnHead(second, sizes.aux_width, classes, dropout=sizes.dropout)

    def forward(self, images: Tensor) -> Output:
        whole = padded(images, STRIDE)
        maps = self.backbone(whole)
        return Output(
            logits=self.decode_head(maps[-1:]), aux=(self.auxiliary_head(maps[-2:-1]),), covers=size_of(whole)
        )


class Backbone(nn.Module):
    """Images to the maps of the way up, from stride 16 to stride 1."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        inputs = (3, *widths[:-1])
        self.encoder = nn.ModuleList(
            nn.Sequential(*([nn.MaxPool2d(2)] if stage else []), Convs(fan_in, fan_out))
            for stage, (fan_in, fan_out) in enumerate(zip(inputs, widths, strict=True))
        )
        self.decoder = nn.ModuleList(Up(below, beside) for beside, below in pairwise(widths))

    def forward(self, images: Tensor) -> list[Tensor]:
        current, sides = images, []
        for stage in self.encoder:
            current = stage(current)
            sides.append(current)
        maps = [sides.pop()]
        for stage in reversed(self.decoder):
            maps.append(stage(sides.pop(), maps[-1]))
        return maps


class Convs(nn.Module):
    """Two 3x3 convolutions."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        self.convs = nn.Sequential(ConvBNAct(fan_in, fan_out, 3), ConvBNAct(fan_out, fan_out, 3))

    def forward(self, current: Tensor) -> Tensor:
        mixed: Tensor = self.convs(current)
        return mixed


class Up(nn.Module):
    """The deeper map [B, `below`, h/2, w/2], enlarged, joined to its counterpart [B, `beside`, h, w] and mixed."""

    def __init__(self, below: int, beside: int):
        super().__init__()
        self.conv_block = Convs(2 * beside, beside)
        self.upsample = Enlarge(below, beside)

    def forward(self, side: Tensor, current: Tensor) -> Tensor:
        mixed: Tensor = self.conv_block(torch.cat([side, self.upsample(current)], dim=1))
        return mixed


class Enlarge(nn.Module):
    """[B, fan_in, h, w] to [B, fan_out, 2h, 2w]: bilinear, then a 1x1 convolution."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        self.interp_upsample = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), ConvBNAct(fan_in, fan_out))

    def forward(self, current: Tensor) -> Tensor:
        enlarged: Tensor = self.interp_upsample(current)
        return enlarged


def head(sizes: UNetSizes, classes: int) -> nn.Module:
    """The main head, a reader of the map at stride 1."""
    width, inner, dropout = sizes.widths[0], sizes.head_width, sizes.dropout
    match sizes.head:
        case "fcn":
            return FcnHead(width, inner, classes, dropout=dropout)
        case "psp":
            return PspHead(width, inner, classes, dropout=dropout)
        case "aspp":
            return AsppHead(width, inner, classes, dropout=dropout)
        case _:
            assert_never(sizes.head)


def build(name_or_sizes: str | UNetSizes, classes: int) -> UNetS5:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, UNetSizes):
        return UNetS5(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no UNet is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return UNetS5(VARIANTS[name_or_sizes], classes)
