"""MobileNetV2 (Sandler et al. 2018) as segmentation networks use it: four maps out, the last one at stride 8."""

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from terrazzo.published.networks.blocks import draw_conv

Seven = tuple[int, int, int, int, int, int, int]


@dataclass(frozen=True)
class MobileNetV2Sizes:
    """Its seven stages; "d8" trades the strides of two of them for dilations."""

    stem: int = 32
    """Channels of the first convolution."""
    widths: Seven = (16, 24, 32, 64, 96, 160, 320)
    blocks: Seven = (1, 2, 3, 4, 3, 3, 1)
    strides: Seven = (1, 2, 2, 1, 1, 1, 1)
    """Of the first block of every stage, after the first convolution's 2."""
    dilations: Seven = (1, 1, 1, 2, 2, 4, 4)
    """Of the first block of every stage; in the published networks the other blocks are not dilated."""

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """Channels of the four maps."""
        return tuple(self.widths[number] for number in MAPS)  # type: ignore[return-value]  # there are four


MAPS = (1, 2, 4, 6)
"""Stages whose maps heads read."""


class MobileNetV2(nn.Module):
    """Images [B, 3, H, W] to the maps of four stages, the first at stride 4."""

    def __init__(self, sizes: MobileNetV2Sizes):
        super().__init__()
        self.conv1 = normed(3, sizes.stem, 3, stride=2)
        fan_in = sizes.stem
        for number, (width, count) in enumerate(zip(sizes.widths, sizes.blocks, strict=True)):
            first = Inverted(
                fan_in,
                width,
                expansion=6 if number else 1,
                stride=sizes.strides[number],
                dilation=sizes.dilations[number],
            )
            others = (Inverted(width, width, expansion=6 if number else 1) for _ in range(count - 1))
            self.add_module(f"layer{number + 1}", nn.Sequential(first, *others))
            fan_in = width

    def forward(self, images: Tensor) -> list[Tensor]:
        current, maps = self.conv1(images), []
        for number in range(7):
            current = self.get_submodule(f"layer{number + 1}")(current)
            if number in MAPS:
                maps.append(current)
        return maps


class Inverted(nn.Module):
    """A depthwise convolution in `expansion` times as many channels, around an identity where shapes fit."""

    def __init__(self, fan_in: int, fan_out: int, *, expansion: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        inner = fan_in * expansion
        self.residual = stride == 1 and fan_in == fan_out
        self.conv = nn.Sequential(
            *([normed(fan_in, inner)] if expansion > 1 else []),
            normed(inner, inner, 3, stride=stride, dilation=dilation, groups=inner),
            normed(inner, fan_out, act=False),
        )

    def forward(self, current: Tensor) -> Tensor:
        answer: Tensor = self.conv(current)
        return current + answer if self.residual else answer


def normed(
    fan_in: int, fan_out: int, kernel: int = 1, *, stride: int = 1, dilation: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """A convolution without bias, batch normalisation and ReLU6: `conv.weight`, `bn.*`."""
    side = dilation * (kernel // 2)
    conv = nn.Conv2d(fan_in, fan_out, kernel, stride=stride, padding=side, dilation=dilation, groups=groups, bias=False)
    draw_conv(conv)
    parts: dict[str, nn.Module] = {"conv": conv, "bn": nn.BatchNorm2d(fan_out)}
    return nn.Sequential(OrderedDict(parts | ({"act": nn.ReLU6(inplace=True)} if act else {})))
