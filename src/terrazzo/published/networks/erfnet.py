"""ERFNet (Romera et al. 2018): 3x3 convolutions factorised into 3x1 and 1x3, down to stride 8 and up to stride 2."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import draw_conv, resize, size_of
from terrazzo.published.networks.heads import FcnHead

EPS = 1e-3
"""Of batch normalisation before the head."""


@dataclass(frozen=True)
class ErfNetSizes:
    """Sizes of one variant."""

    widths: tuple[int, int, int] = (16, 64, 128)
    """Channels at strides 2, 4 and 8; on the way up those at strides 4 and 2."""
    blocks: int = 5
    """Blocks at stride 4."""
    dilations: tuple[int, ...] = (2, 4, 8, 16, 2, 4, 8, 16)
    """Of the blocks at stride 8."""
    blocks_up: int = 2
    """Blocks after each enlargement."""
    channels: int = 128
    """Inside the head."""
    dropout: float = 0.1
    """Share of numbers dropped in the blocks on the way down, and of the head's channels, while training."""


VARIANTS: Mapping[str, ErfNetSizes] = {"erfnet_fcn": ErfNetSizes()}
"""By published name."""


class ErfNet(nn.Module):
    """Normalised images [B, 3, H, W] of any size to logits over them, [B, K, 4 * ceil(H/8), 4 * ceil(W/8)]."""

    def __init__(self, sizes: ErfNetSizes, classes: int):
        super().__init__()
        self.backbone = DownAndUp(sizes)
        self.decode_head = FcnHead(sizes.widths[0], sizes.channels, classes, dropout=sizes.dropout)

    def forward(self, images: Tensor) -> Output:
        return Output(logits=self.decode_head([self.backbone(images)]))


class DownAndUp(nn.Module):
    """Images to a map of half their size."""

    def __init__(self, sizes: ErfNetSizes):
        super().__init__()
        fine, middle, coarse = sizes.widths
        self.encoder = nn.ModuleList(
            [
                Down(3, fine),
                Down(fine, middle),
                *(Factorised(middle, dropout=sizes.dropout) for _ in range(sizes.blocks)),
                Down(middle, coarse),
                *(Factorised(coarse, dilation=dilation, dropout=sizes.dropout) for dilation in sizes.dilations),
            ]
        )
        self.decoder = nn.ModuleList(
            [
                Up(coarse, middle),
                *(Factorised(middle) for _ in range(sizes.blocks_up)),
                Up(middle, fine),
                *(Factorised(fine) for _ in range(sizes.blocks_up)),
            ]
        )

    def forward(self, images: Tensor) -> Tensor:
        current = images
        for part in (*self.encoder, *self.decoder):
            current = part(current)
        return current


class Down(nn.Module):
    """Half the size: a strided convolution beside the largest of each 2 x 2."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out - fan_in, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(fan_out, eps=EPS)
        draw_conv(self.conv)

    def forward(self, current: Tensor) -> Tensor:
        convolved = self.conv(current)
        # A row or column without a second one has no largest of two: what there is of the others is stretched.
        window = min(2, current.shape[2]), min(2, current.shape[3])
        largest = resize(functional.max_pool2d(current, window, stride=2), size_of(convolved))
        normed: Tensor = self.bn(torch.cat([convolved, largest], dim=1))
        return functional.relu(normed, inplace=True)


class Factorised(nn.Module):
    """3x1, 1x3, and the same dilated, around an identity."""

    def __init__(self, channels: int, *, dilation: int = 1, dropout: float = 0.0):
        super().__init__()
        parts: list[nn.Module] = []
        for spread, last in ((1, nn.ReLU(inplace=True)), (dilation, nn.Dropout(dropout))):
            tall = nn.Conv2d(channels, channels, (3, 1), padding=(spread, 0), dilation=(spread, 1))
            wide = nn.Conv2d(channels, channels, (1, 3), padding=(0, spread), dilation=(1, spread))
            draw_conv(tall)
            draw_conv(wide)
            parts += [tall, nn.ReLU(inplace=True), wide, nn.BatchNorm2d(channels, eps=EPS), last]
        self.convs_layers = nn.Sequential(*parts)

    def forward(self, current: Tensor) -> Tensor:
        added: Tensor = self.convs_layers(current) + current
        return functional.relu(added, inplace=True)


class Up(nn.Module):
    """Twice the size, by a transposed convolution."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(fan_in, fan_out, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(fan_out, eps=EPS)

    def forward(self, current: Tensor) -> Tensor:
        normed: Tensor = self.bn(self.conv(current))
        return functional.relu(normed, inplace=True)


def build(name_or_sizes: str | ErfNetSizes, classes: int) -> ErfNet:
    """The published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, ErfNetSizes):
        return ErfNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no ERFNet is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return ErfNet(VARIANTS[name_or_sizes], classes)
