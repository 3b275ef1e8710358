"""The few parts that most published networks are made of, with the names that their weights carry."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvBNAct(nn.Module):
    """Convolution without bias, batch normalisation and ReLU: `conv.weight`, `bn.*`.

    [B, fan_in, H, W] to [B, fan_out, H / stride, W / stride]; where `padding` is not given, stride 1 keeps the size.
    """

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        act: bool = True,
    ):
        super().__init__()
        side = dilation * (kernel // 2) if padding is None else padding
        self.conv = nn.Conv2d(
            fan_in, fan_out, kernel, stride=stride, padding=side, dilation=dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(fan_out)
        self.act = act
        draw_conv(self.conv)

    def forward(self, current: Tensor) -> Tensor:
        normed: Tensor = self.bn(self.conv(current))
        return functional.relu(normed, inplace=True) if self.act else normed


class SeparableConv(nn.Module):
    """A depthwise convolution and a 1x1 one, each normalised (Chollet 2017): `depthwise_conv.*`, `pointwise_conv.*`.

    `depthwise_act` and `pointwise_act` say which of the two is followed by ReLU.
    """

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        depthwise_act: bool = True,
        pointwise_act: bool = True,
    ):
        super().__init__()
        self.depthwise_conv = ConvBNAct(
            fan_in, fan_in, kernel, stride=stride, dilation=dilation, groups=fan_in, act=depthwise_act
        )
        self.pointwise_conv = ConvBNAct(fan_in, fan_out, act=pointwise_act)

    def forward(self, current: Tensor) -> Tensor:
        mixed: Tensor = self.pointwise_conv(self.depthwise_conv(current))
        return mixed


class MapNorm(nn.LayerNorm):
    """Layer normalisation over the channels of a map [B, C, H, W], position by position; answers it channels-last."""

    def forward(self, current: Tensor) -> Tensor:
        return super().forward(current.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def resize(current: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """[B, C, h, w] to [B, C, *size], bilinear; the map itself if it has that size already."""
    if current.shape[-2:] == size:
        return current
    return functional.interpolate(current, size, mode="bilinear", align_corners=align_corners)


def size_of(current: Tensor) -> tuple[int, int]:
    """Height and width of a map [..., H, W]."""
    return current.shape[-2], current.shape[-1]


def draw_conv(conv: nn.Conv2d) -> None:
    """First numbers of a convolution before ReLU, by its outgoing connections (He et al. 2015)."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def joined(conv: nn.Conv2d, maps: Sequence[Tensor], size: tuple[int, int] | None = None) -> Tensor:
    """`conv`, 1x1 and without bias, of all maps enlarged to `size` (the first one's) and joined.

    A 1x1 convolution commutes with the enlargement. So each map meets its own share of the weights while it is small,
    and the enlarged answers are added: the same numbers, and the joined map [B, sum of channels, H, W] is never made.
    """
    shares = torch.split(conv.weight, [current.shape[1] for current in maps], dim=1)
    wanted = size or size_of(maps[0])
    first, *others = (
        resize(functional.conv2d(current, share), wanted) for current, share in zip(maps, shares, strict=True)
    )
    return sum(others, first)


def drop_path(residual: Tensor, rate: float, *, training: bool) -> Tensor:
    """Whole samples [B, ...] set to 0 while training, the others enlarged to keep the mean (Huang et al. 2016)."""
    if not training or not rate:
        return residual
    kept = residual.new_empty(len(residual), *[1] * (residual.ndim - 1)).bernoulli_(1 - rate)
    return residual * kept / (1 - rate)


def drop_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates of `drop_path` by stage and block: from 0 at the first block evenly to `last` at the last."""
    blocks = sum(depths)
    rates = iter([last * block / max(1, blocks - 1) for block in range(blocks)])
    return [[next(rates) for _ in range(depth)] for depth in depths]


def padded(images: Tensor, side: int) -> Tensor:
    """[..., H, W] with zeros at the bottom and right until `side` divides both; itself if it does already."""
    below, right = -images.shape[-2] % side, -images.shape[-1] % side
    return functional.pad(images, (0, right, 0, below)) if below or right else images
