"""ResNeSt (Zhang et al. 2020): a ResNet whose 3x3 convolutions answer twice and weigh the two answers by the image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.published.networks.blocks import size_of
from terrazzo.published.networks.resnet_v1c import BLOCKS, Depth, Four, conv, deep_stem

RADIX = 2
"""Answers of a convolution."""


@dataclass(frozen=True)
class ResNeStSizes:
    """Depth, and how each stage keeps or halves its resolution; the published ones keep it from stride 8 on."""

    depth: Depth = 101
    stem: int = 128
    """Channels after the stem."""
    strides: Four = (1, 2, 1, 1)
    dilations: Four = (1, 1, 2, 4)
    """Of a stage's blocks; its first block has half of it, as it still reads a finer map."""
    width: int = 64
    """Channels inside the first stage; later stages have 2, 4 and 8 times as many."""

    @property
    def dims(self) -> Four:
        """Channels of the four maps."""
        return (4 * self.width, 8 * self.width, 16 * self.width, 32 * self.width)


class ResNeSt(nn.Module):
    """Images [B, 3, H, W] to the maps of the four stages, the first at stride 4."""

    def __init__(self, sizes: ResNeStSizes):
        super().__init__()
        self.stem = deep_stem(sizes.stem)
        fans_in = (sizes.stem, *sizes.dims[:-1])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            stage(sizes, number, fan_in) for number, fan_in in enumerate(fans_in)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first = self.layer1(functional.max_pool2d(self.stem(images), 3, stride=2, padding=1))
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)


def stage(sizes: ResNeStSizes, number: int, fan_in: int) -> nn.Sequential:
    """The blocks of one stage, numbered from 0."""
    width, dilation = sizes.width * 2**number, sizes.dilations[number]
    first = Block(fan_in, width, stride=sizes.strides[number], dilation=max(1, dilation // 2))
    others = (Block(4 * width, width, stride=1, dilation=dilation) for _ in range(BLOCKS[sizes.depth][number] - 1))
    return nn.Sequential(first, *others)


class Block(nn.Module):
    """1x1, split 3x3 and 1x1 convolutions around an identity; a stride is taken by averages."""

    def __init__(self, fan_in: int, width: int, *, stride: int, dilation: int):
        super().__init__()
        outside = 4 * width
        self.conv1 = conv(fan_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = SplitAttention(width, dilation=dilation)
        self.avd_layer = nn.AvgPool2d(3, stride, padding=1) if stride > 1 else nn.Identity()
        self.conv3 = conv(width, outside, 1)
        self.bn3 = nn.BatchNorm2d(outside)
        self.downsample = shortcut(fan_in, outside, stride)

    def forward(self, current: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(current)), inplace=True)
        inner = self.avd_layer(self.conv2(inner))
        added: Tensor = self.bn3(self.conv3(inner)) + self.downsample(current)
        return functional.relu(added, inplace=True)


class SplitAttention(nn.Module):
    """A 3x3 convolution that answers RADIX times, and the answers' mean, weighed channel by channel by the image."""

    def __init__(self, channels: int, *, dilation: int, share: int = 4):
        super().__init__()
        inner = max(channels * RADIX // share, 32)
        self.conv = conv(channels, channels * RADIX, 3, dilation=dilation, groups=RADIX)
        self.bn0 = nn.BatchNorm2d(channels * RADIX)
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.fc2 = nn.Conv2d(inner, channels * RADIX, 1)

    def forward(self, current: Tensor) -> Tensor:
        answers = functional.relu(self.bn0(self.conv(current)), inplace=True)
        answers = answers.view(len(answers), RADIX, -1, *size_of(answers))
        whole = answers.sum(1).mean((2, 3), keepdim=True)
        weights = self.fc2(functional.relu(self.bn1(self.fc1(whole)), inplace=True)).view(len(whole), RADIX, -1, 1, 1)
        return torch.sum(answers * weights.softmax(1), dim=1)


def shortcut(fan_in: int, width: int, stride: int) -> nn.Module:
    """The way around a block: nothing where shapes fit, else averages and a 1x1 convolution."""
    if stride == 1 and fan_in == width:
        return nn.Identity()
    pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, conv(fan_in, width, 1), nn.BatchNorm2d(width))
