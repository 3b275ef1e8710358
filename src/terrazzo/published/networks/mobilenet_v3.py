"""MobileNetV3 with the lite R-ASPP head (Howard et al. 2019), as MMSegmentation publishes it: logits at stride 2.

The strides after 8 are traded for dilations. Convolutions of stride 2 are padded as TensorFlow pads them: by what the
last window lacks, the larger half at the bottom and right.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import draw_conv, resize, size_of
from terrazzo.published.networks.heads import Head

Act = Literal["relu", "hardswish", "none"]
EPS = 1e-3
"""Of batch normalisation."""


class BlockSizes(NamedTuple):
    """One block of the paper's tables 1 and 2."""

    kernel: int
    inner: int
    width: int
    squeeze: bool
    act: Act
    stride: int
    dilation: int


def dilated_blocks(rows: str) -> tuple[BlockSizes, ...]:
    """Blocks from rows of the paper's tables; strides after stride 8 become dilations."""
    blocks: list[BlockSizes] = []
    stride, dilation = 2, 1
    for row in rows.strip().splitlines():
        kernel, inner, width, squeeze, act, step = row.split()
        if int(step) == 2 and stride == 8:
            dilation *= 2
            step = "1"
        stride *= int(step)
        acts: dict[str, Act] = {"RE": "relu", "HS": "hardswish"}
        blocks.append(BlockSizes(int(kernel), int(inner), int(width), squeeze == "SE", acts[act], int(step), dilation))
    return tuple(blocks)


LARGE = """
3  16  16  -  RE 1
3  64  24  -  RE 2
3  72  24  -  RE 1
5  72  40  SE RE 2
5  120 40  SE RE 1
5  120 40  SE RE 1
3  240 80  -  HS 2
3  200 80  -  HS 1
3  184 80  -  HS 1
3  184 80  -  HS 1
3  480 112 SE HS 1
3  672 112 SE HS 1
5  672 160 SE HS 2
5  960 160 SE HS 1
5  960 160 SE HS 1
"""
SMALL = """
3  16  16  SE RE 2
3  72  24  -  RE 2
3  88  24  -  RE 1
5  96  40  SE HS 2
5  240 40  SE HS 1
5  240 40  SE HS 1
5  120 48  SE HS 1
5  144 48  SE HS 1
5  288 96  SE HS 2
5  576 96  SE HS 1
5  576 96  SE HS 1
"""


@dataclass(frozen=True)
class LrasppSizes:
    """What tells one of these networks from another."""

    blocks: tuple[BlockSizes, ...]
    last: int
    """Channels of the 1x1 convolution after the blocks."""
    fine: tuple[int, int]
    """Layers whose maps the head joins: 0 is the first convolution, 1 the first block."""
    stem: int = 16
    """Channels of the first convolution."""
    channels: int = 128
    """Inside the head."""
    branches: tuple[int, int] = (32, 64)
    """Channels that the head narrows the two fine maps to."""
    dropout: float = 0.1
    """Share of channels dropped before the classifier while training."""

    @property
    def dims(self) -> tuple[int, int, int]:
        """Channels of the maps that the head reads."""
        widths = (self.stem, *(block.width for block in self.blocks))
        return widths[self.fine[0]], widths[self.fine[1]], self.last


_LARGE = LrasppSizes(dilated_blocks(LARGE), last=960, fine=(1, 3))
_SMALL = LrasppSizes(dilated_blocks(SMALL), last=576, fine=(0, 1))
VARIANTS: Mapping[str, LrasppSizes] = {
    "mobilenet-v3-d8_lraspp": _LARGE,
    "mobilenet-v3-d8-scratch_lraspp": _LARGE,
    "mobilenet-v3-d8-s_lraspp": _SMALL,
    "mobilenet-v3-d8-scratch-s_lraspp": _SMALL,
}
"""By published name."""


class Lraspp(nn.Module):
    """Normalised images [B, 3, H, W] of any size to logits [B, K, H/2, W/2], sides rounded up."""

    def __init__(self, sizes: LrasppSizes, classes: int):
        super().__init__()
        self.backbone = MobileNetV3(sizes)
        self.decode_head = LrasppHead(sizes, classes)

    def forward(self, images: Tensor) -> Output:
        return Output(logits=self.decode_head(self.backbone(images)))


class MobileNetV3(nn.Module):
    """Images to two fine maps and the last one, at stride 8."""

    def __init__(self, sizes: LrasppSizes):
        super().__init__()
        self.fine = sizes.fine
        self.depth = len(sizes.blocks) + 2
        self.layer0 = normed(3, sizes.stem, 3, stride=2, act="hardswish")
        fan_in = sizes.stem
        for number, block in enumerate(sizes.blocks, start=1):
            self.add_module(f"layer{number}", Block(fan_in, block))
            fan_in = block.width
        self.add_module(f"layer{self.depth - 1}", normed(fan_in, sizes.last, act="hardswish"))

    def forward(self, images: Tensor) -> list[Tensor]:
        current, maps = images, []
        for number in range(self.depth):
            current = self.get_submodule(f"layer{number}")(current)
            if number in self.fine:
                maps.append(current)
        return [*maps, current]


class Block(nn.Module):
    """Widen, convolve each channel by itself, weigh channels by the image, narrow; around an identity where it fits."""

    def __init__(self, fan_in: int, sizes: BlockSizes):
        super().__init__()
        inner, act = sizes.inner, sizes.act
        self.residual = sizes.stride == 1 and fan_in == sizes.width
        self.expand_conv = normed(fan_in, inner, act=act) if fan_in != inner else nn.Identity()
        self.depthwise_conv = normed(
            inner, inner, sizes.kernel, stride=sizes.stride, dilation=sizes.dilation, groups=inner, act=act
        )
        self.se = Squeeze(inner) if sizes.squeeze else nn.Identity()
        self.linear_conv = normed(inner, sizes.width, act="none")

    def forward(self, current: Tensor) -> Tensor:
        answer: Tensor = self.linear_conv(self.se(self.depthwise_conv(self.expand_conv(current))))
        return current + answer if self.residual else answer


class Squeeze(nn.Module):
    """Channels weighed by what the whole map shows (Hu et al. 2018), through a quarter as many."""

    def __init__(self, channels: int):
        super().__init__()
        inner = max(8, (channels // 4 + 4) // 8 * 8)
        inner += 8 if inner < 0.9 * (channels // 4) else 0
        self.conv1 = nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, inner, 1), act=nn.ReLU(inplace=True)))
        self.conv2 = nn.Sequential(OrderedDict(conv=nn.Conv2d(inner, channels, 1), act=nn.Hardsigmoid()))

    def forward(self, current: Tensor) -> Tensor:
        weighed: Tensor = current * self.conv2(self.conv1(functional.adaptive_avg_pool2d(current, 1)))
        return weighed


class LrasppHead(Head):
    """The last map, weighed by averages of large windows, refined beside two finer ones.

    `maps` are those of `MobileNetV3`; the logits have the size of the first.
    """

    window = 49
    """Side of the windows; a map that is smaller is one window."""
    steps = (16, 20)
    """Rows and columns between two windows."""

    def __init__(self, sizes: LrasppSizes, classes: int):
        super().__init__(sizes.channels, classes, dropout=sizes.dropout)
        channels, (first, second, last) = sizes.channels, sizes.dims
        finest, finer = sizes.branches
        self.convs = nn.Sequential(
            OrderedDict(conv0=nn.Conv2d(first, finest, 1, bias=False), conv1=nn.Conv2d(second, finer, 1, bias=False))
        )
        self.conv_ups = nn.Sequential(
            OrderedDict(
                conv_up0=normed(channels + finest, channels, act="relu"),
                conv_up1=normed(channels + finer, channels, act="relu"),
            )
        )
        self.conv_up_input = nn.Conv2d(channels, channels, 1)
        self.aspp_conv = normed(last, channels, act="relu")
        weights = OrderedDict(conv=nn.Conv2d(last, channels, 1, bias=False), act=nn.Sigmoid())
        self.image_pool = nn.Sequential(nn.Identity(), nn.Sequential(weights))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *fine, last = maps
        height, width = size_of(last)
        window = (min(self.window, height), min(self.window, width))
        means = functional.avg_pool2d(last, window, self.steps)
        current = self.aspp_conv(last) * resize(self.image_pool(means), (height, width))
        current = self.conv_up_input(current)
        for beside, narrow, up in zip(reversed(fine), reversed(self.convs), reversed(self.conv_ups), strict=True):
            current = up(torch.cat([resize(current, size_of(beside)), narrow(beside)], dim=1))
        return self.classify(current)


class EvenlyPadded(nn.Conv2d):
    """A convolution whose answer has ceil(side / stride) pixels a side, padded as TensorFlow does."""

    def forward(self, current: Tensor) -> Tensor:
        lacking = [
            max(0, (-(-side // step) - 1) * step + (kernel - 1) * spread + 1 - side)
            for side, step, kernel, spread in zip(
                size_of(current), self.stride, self.kernel_size, self.dilation, strict=True
            )
        ]
        (top, bottom), (left, right) = ((lack // 2, lack - lack // 2) for lack in lacking)
        return super().forward(functional.pad(current, (left, right, top, bottom)))


def normed(
    fan_in: int, fan_out: int, kernel: int = 1, *, stride: int = 1, dilation: int = 1, groups: int = 1, act: Act
) -> nn.Sequential:
    """A convolution without bias, batch normalisation and what `act` says: `conv.weight`, `bn.*`."""
    side = 0 if stride > 1 else dilation * (kernel // 2)
    kind = EvenlyPadded if stride > 1 else nn.Conv2d
    conv = kind(fan_in, fan_out, kernel, stride=stride, padding=side, dilation=dilation, groups=groups, bias=False)
    draw_conv(conv)
    parts: dict[str, nn.Module] = {"conv": conv, "bn": nn.BatchNorm2d(fan_out, eps=EPS)}
    if act != "none":
        parts["act"] = nn.ReLU(inplace=True) if act == "relu" else nn.Hardswish(inplace=True)
    return nn.Sequential(OrderedDict(parts))


def build(name_or_sizes: str | LrasppSizes, classes: int) -> Lraspp:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, LrasppSizes):
        return Lraspp(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no MobileNetV3 is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return Lraspp(VARIANTS[name_or_sizes], classes)
