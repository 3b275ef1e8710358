"""ResNet (He et al. 2016) as segmentation networks use it: four maps out, strides traded for dilations, two stems.

The stem "deep" is version 1c (He et al. 2019, bag of tricks): three 3x3 convolutions in place of one of 7x7. Names of
the parameters are torchvision's but for this stem.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from terrazzo.published.networks.blocks import draw_conv

Depth = Literal[18, 50, 101]
Four = tuple[int, int, int, int]

BLOCKS: dict[Depth, Four] = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Residual blocks of the four stages."""


@dataclass(frozen=True)
class ResnetSizes:
    """Depth, stem and how each stage keeps or halves its resolution."""

    depth: Depth = 50
    stem: Literal["deep", "plain"] = "deep"
    strides: Four = (1, 2, 1, 1)
    """Of the first block of every stage, after the stem's 4."""
    dilations: Four = (1, 1, 2, 4)
    contract_dilation: bool = True
    """The first block of a dilated stage has half its dilation, as it still reads a finer map."""
    last_dilations: tuple[int, ...] | None = None
    """Dilation of each block of the last stage (its "multi grid"), in place of the ones above."""

    @property
    def dims(self) -> Four:
        """Channels of the four maps."""
        growth = Basic.growth if self.depth == 18 else Bottleneck.growth
        return (64 * growth, 128 * growth, 256 * growth, 512 * growth)

    def stage_dilations(self, stage: int) -> tuple[int, ...]:
        """Dilation of each block of a stage."""
        count, dilation = BLOCKS[self.depth][stage], self.dilations[stage]
        if stage == 3 and self.last_dilations is not None:
            return self.last_dilations
        first = dilation // 2 if self.contract_dilation and dilation > 1 else dilation
        return (first, *[dilation] * (count - 1))


D8 = ResnetSizes()
"""The last map at stride 8."""
D16 = ResnetSizes(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
"""The last map at stride 16."""
D32 = ResnetSizes(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1))
"""The last map at stride 32, nothing dilated."""


class Basic(nn.Module):
    """Two 3x3 convolutions around an identity; only the first is dilated."""

    growth = 1

    def __init__(self, fan_in: int, width: int, *, stride: int, dilation: int):
        super().__init__()
        self.conv1 = conv(fan_in, width, 3, stride=stride, dilation=dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(fan_in, width, stride)

    def forward(self, current: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(current)), inplace=True)
        added: Tensor = self.bn2(self.conv2(inner)) + self.downsample(current)
        return functional.relu(added, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided and dilated) and 1x1 convolutions around an identity; four times as wide outside as within."""

    growth = 4

    def __init__(self, fan_in: int, width: int, *, stride: int, dilation: int):
        super().__init__()
        outside = width * self.growth
        self.conv1 = conv(fan_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride=stride, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outside, 1)
        self.bn3 = nn.BatchNorm2d(outside)
        self.downsample = shortcut(fan_in, outside, stride)

    def forward(self, current: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(current)), inplace=True)
        inner = functional.relu(self.bn2(self.conv2(inner)), inplace=True)
        added: Tensor = self.bn3(self.conv3(inner)) + self.downsample(current)
        return functional.relu(added, inplace=True)


class ResNet(nn.Module):
    """Images [B, 3, H, W] to the maps of the four stages, the first at stride 4."""

    def __init__(self, sizes: ResnetSizes):
        super().__init__()
        self.deep = sizes.stem == "deep"
        if self.deep:
            self.stem = deep_stem()
        else:
            self.conv1 = conv(3, 64, 7, stride=2)
            self.bn1 = nn.BatchNorm2d(64)
        fans_in = (64, *sizes.dims[:-1])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            stage(sizes, number, fan_in) for number, fan_in in enumerate(fans_in)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        half = self.stem(images) if self.deep else functional.relu(self.bn1(self.conv1(images)), inplace=True)
        first = self.layer1(functional.max_pool2d(half, 3, stride=2, padding=1))
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)


def stage(sizes: ResnetSizes, number: int, fan_in: int) -> nn.Sequential:
    """The blocks of one stage, numbered from 0."""
    block = Basic if sizes.depth == 18 else Bottleneck
    outside, width = sizes.dims[number], 64 * 2**number
    first, *others = sizes.stage_dilations(number)
    return nn.Sequential(
        block(fan_in, width, stride=sizes.strides[number], dilation=first),
        *(block(outside, width, stride=1, dilation=dilation) for dilation in others),
    )


def deep_stem(width: int = 64) -> nn.Sequential:
    """Three 3x3 convolutions, the first with stride 2: [B, 3, H, W] to [B, width, H/2, W/2]."""
    parts: list[nn.Module] = []
    for fan_in, fan_out, stride in ((3, width // 2, 2), (width // 2, width // 2, 1), (width // 2, width, 1)):
        parts += [conv(fan_in, fan_out, 3, stride=stride), nn.BatchNorm2d(fan_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts)


def shortcut(fan_in: int, width: int, stride: int) -> nn.Module:
    """The way around a block: nothing where shapes fit, else a 1x1 convolution."""
    if stride == 1 and fan_in == width:
        return nn.Identity()
    return nn.Sequential(conv(fan_in, width, 1, stride=stride), nn.BatchNorm2d(width))


def conv(fan_in: int, width: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size at stride 1."""
    side = dilation * (kernel // 2)
    made = nn.Conv2d(fan_in, width, kernel, stride=stride, padding=side, dilation=dilation, groups=groups, bias=False)
    draw_conv(made)
    return made
