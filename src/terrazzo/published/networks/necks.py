"""What stands between a plain transformer, whose maps all have one size, and a head that reads a pyramid."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

SCALES = (4.0, 2.0, 1.0, 0.5)
"""Sizes of the pyramid's levels, as multiples of the map's."""

SMALLEST = 32
"""Pixels of the shortest side, with patches of 16: the coarsest level halves the map."""


class PlainConv(nn.Module):
    """Convolution with a bias and nothing behind it, in a module of its own: `conv.*`; keeps the size."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int = 1, *, bias: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, bias=bias)
        nn.init.xavier_uniform_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, current: Tensor) -> Tensor:
        mixed: Tensor = self.conv(current)
        return mixed


class MultiLevelNeck(nn.Module):
    """Each map projected, resized to its level of the pyramid, and smoothed: four [B, C, h, w] to four of `SCALES`."""

    def __init__(self, dim: int):
        super().__init__()
        self.lateral_convs = nn.ModuleList(PlainConv(dim, dim) for _ in SCALES)
        self.convs = nn.ModuleList(PlainConv(dim, dim, 3) for _ in SCALES)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = zip(self.lateral_convs, maps, SCALES, self.convs, strict=True)
        return [smooth(rescaled(lateral(current), scale)) for lateral, current, scale, smooth in levels]


class PyramidNeck(nn.Module):
    """Each map brought to its level by transposed convolutions or pooling (Bao et al. 2022, BEiT)."""

    def __init__(self, dim: int):
        super().__init__()
        self.upsample_4x = nn.Sequential(
            nn.ConvTranspose2d(dim, dim, 2, 2), nn.BatchNorm2d(dim), nn.GELU(), nn.ConvTranspose2d(dim, dim, 2, 2)
        )
        self.upsample_2x = nn.Sequential(nn.ConvTranspose2d(dim, dim, 2, 2))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        first, second, third, last = maps
        return [self.upsample_4x(first), self.upsample_2x(second), third, functional.max_pool2d(last, 2)]


def rescaled(current: Tensor, scale: float) -> Tensor:
    """[B, C, h, w] to [B, C, scale * h, scale * w], rounded down, bilinear.

    Sample points follow `scale` itself and not the rounded sizes, as published.
    """
    if scale == 1:
        return current
    return functional.interpolate(current, scale_factor=scale, mode="bilinear", align_corners=False)
