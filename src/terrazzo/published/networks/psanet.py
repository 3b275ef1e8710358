"""PSANet's head (Zhao et al. 2018): every pixel predicts how much it takes from, and gives to, each place around it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terrazzo.published.networks.blocks import ConvBNAct, resize, size_of
from terrazzo.published.networks.heads import Head


class PsaHead(Head):
    """The last map beside what was collected and distributed at half its resolution.

    `window` is the height and width of the places around a pixel, (97, 97) for all those of a crop of 769 pixels; what
    lies outside counts as a place of weight exp(0).
    """

    def __init__(
        self, fan_in: int, channels: int, classes: int, *, window: tuple[int, int] = (97, 97), dropout: float = 0.1
    ):
        super().__init__(channels, classes, dropout=dropout)
        self.window = window
        self.reduce = ConvBNAct(fan_in, channels)
        self.attention = around(channels, window)
        self.reduce_p = ConvBNAct(fan_in, channels)
        self.attention_p = around(channels, window)
        # Padded as published: its answer has a frame of one pixel, which the enlargement behind it squeezes in.
        self.proj = ConvBNAct(2 * channels, fan_in, padding=1)
        self.bottleneck = ConvBNAct(2 * fan_in, channels, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        current = maps[-1]
        height, width = size_of(current)
        # As published: only where both sides are odd do the halves' corners lie on corners.
        odd = height % 2 == 1 and width % 2 == 1
        half = (-(-height // 2), -(-width // 2)) if odd else (max(1, height // 2), max(1, width // 2))
        taking = resize(self.reduce(current), half, align_corners=odd)
        giving = resize(self.reduce_p(current), half, align_corners=odd)
        places = half[0] * half[1]
        weights = placed(self.attention(taking), self.window).view(len(current), places, places)
        collected = taking.flatten(2) @ weights.softmax(1)
        weights = placed(self.attention_p(giving), self.window).view(len(current), places, places).transpose(1, 2)
        distributed = giving.flatten(2) @ weights.softmax(1)
        both = self.proj(torch.cat([collected, distributed], dim=1).view(len(current), -1, *half))
        context = resize(both, (height, width), align_corners=odd)
        return self.classify(self.bottleneck(torch.cat([current, context], dim=1)))


def around(channels: int, window: tuple[int, int]) -> nn.Sequential:
    """A map to one number for each place of the window around each pixel."""
    return nn.Sequential(
        ConvBNAct(channels, channels), nn.Conv2d(channels, window[0] * window[1], kernel_size=1, bias=False)
    )


def placed(weights: Tensor, window: tuple[int, int]) -> Tensor:
    """Numbers by place relative to a pixel, as numbers by place in the map; 0 for places outside the window.

    Args:
        weights: [B, rows * columns of the window, h, w].
        window: its rows and columns; its middle, or the place before it for even sides, is the pixel itself.

    Returns:
        [B, h * w, h, w]: for each place of the map, what each pixel says of it.
    """
    height, width = size_of(weights)
    rows, row_inside = steps(height, window[0], weights.device)
    columns, column_inside = steps(width, window[1], weights.device)
    # [h, w, h, w]: for a place (first two) and a pixel (last two), the place's number in the pixel's window.
    number = rows[:, None, :, None] * window[1] + columns[None, :, None, :]
    inside = row_inside[:, None, :, None] & column_inside[None, :, None, :]
    number, inside = (part.reshape(1, height * width, height, width) for part in (number, inside))
    return torch.where(inside, weights.gather(1, number.expand(len(weights), -1, -1, -1)), 0)


def steps(side: int, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For places and pixels of a side, [side, side]: the place's number in the pixel's window; whether it has one."""
    places = torch.arange(side, device=device)
    number = places[:, None] - places[None, :] + (window - 1) // 2
    return number.clamp(0, window - 1), (number >= 0) & (number < window)
