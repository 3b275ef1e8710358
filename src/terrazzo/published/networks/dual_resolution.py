"""What DDRNet and PIDNet share: residual blocks named as their weights are, and pooling over several scales.

Both keep one branch at stride 8 beside others that go on to stride 64, and end in context from pooled maps.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.published.networks.blocks import ConvBNAct, draw_conv, resize, size_of

Shortcut = Callable[[int, int, int], nn.Module]
"""(channels in, channels out, stride) to what the input passes before it is added to a block's answer."""

POOLS = ((5, 2), (9, 4), (17, 8))
"""Side and stride of the averages between the map itself and its one mean."""


class NormActConv(nn.Module):
    """Batch normalisation, ReLU and a convolution without bias, in this order (He et al. 2016): `bn.*`, `conv.weight`.

    [B, fan_in, H, W] to [B, fan_out, H, W].
    """

    def __init__(self, fan_in: int, fan_out: int, kernel: int = 1, *, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(fan_in)
        draw_conv(self.conv)

    def forward(self, current: Tensor) -> Tensor:
        mapped: Tensor = self.conv(functional.relu(self.bn(current), inplace=True))
        return mapped


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to the input (He et al. 2015); `act` says whether ReLU follows the sum."""

    expansion = 1

    def __init__(self, fan_in: int, width: int, stride: int, shortcut: Shortcut, *, act: bool):
        super().__init__()
        self.conv1 = ConvBNAct(fan_in, width, 3, stride=stride)
        self.conv2 = ConvBNAct(width, width, 3, act=False)
        self.downsample = shortcut(fan_in, width, stride) if stride > 1 or fan_in != width else None
        self.act = act

    def forward(self, current: Tensor) -> Tensor:
        kept = current if self.downsample is None else self.downsample(current)
        total: Tensor = self.conv2(self.conv1(current)) + kept
        return functional.relu(total, inplace=True) if self.act else total


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions to 2 * `width` channels, added to the input, without ReLU after the sum."""

    expansion = 2

    def __init__(self, fan_in: int, width: int, stride: int, shortcut: Shortcut):
        super().__init__()
        fan_out = self.expansion * width
        self.conv1 = ConvBNAct(fan_in, width)
        self.conv2 = ConvBNAct(width, width, 3, stride=stride)
        self.conv3 = ConvBNAct(width, fan_out, act=False)
        self.downsample = shortcut(fan_in, fan_out, stride) if stride > 1 or fan_in != fan_out else None

    def forward(self, current: Tensor) -> Tensor:
        kept = current if self.downsample is None else self.downsample(current)
        total: Tensor = self.conv3(self.conv2(self.conv1(current))) + kept
        return total


def basic_layer(fan_in: int, width: int, blocks: int, shortcut: Shortcut, *, stride: int = 1) -> nn.Sequential:
    """`blocks` basic blocks, at least two; the sum of the last one goes on without ReLU, to be fused before it."""
    return nn.Sequential(
        *(
            BasicBlock(
                fan_in if block == 0 else width,
                width,
                stride if block == 0 else 1,
                shortcut,
                act=block < blocks - 1,
            )
            for block in range(blocks)
        )
    )


def bottleneck_layer(fan_in: int, width: int, blocks: int, shortcut: Shortcut, *, stride: int = 1) -> nn.Sequential:
    """One or two bottlenecks."""
    later = (Bottleneck(Bottleneck.expansion * width, width, 1, shortcut) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(fan_in, width, stride, shortcut), *later)


def stem(width: int, blocks: int, shortcut: Shortcut) -> nn.Sequential:
    """Images [B, 3, H, W] to [B, 2 * width, H/8, W/8]."""
    return nn.Sequential(
        ConvBNAct(3, width, 3, stride=2),
        ConvBNAct(width, width, 3, stride=2),
        basic_layer(width, width, blocks, shortcut),
        nn.ReLU(),
        basic_layer(width, 2 * width, blocks, shortcut, stride=2),
        nn.ReLU(),
    )


class PyramidPooling(nn.Module):
    """Context from the map, three averages of it and its one mean.

    [B, fan_in, h, w] to [B, fan_out, h, w]. In training the mean is normalised over the batch alone, so a batch needs
    two images at least.
    """

    def __init__(self, fan_in: int, width: int, fan_out: int):
        super().__init__()
        pools: list[nn.Module] = [nn.AvgPool2d(side, stride, padding=side // 2) for side, stride in POOLS]
        pooled = (nn.Sequential(pool, NormActConv(fan_in, width)) for pool in [*pools, nn.AdaptiveAvgPool2d(1)])
        self.scales = nn.ModuleList([NormActConv(fan_in, width), *pooled])
        self.compression = NormActConv(len(self.scales) * width, fan_out)
        self.shortcut = NormActConv(fan_in, fan_out)

    def pooled(self, current: Tensor) -> list[Tensor]:
        """The map and its averages, each [B, width, h, w]."""
        return [resize(scale(current), size_of(current)) for scale in self.scales]

    def joined(self, parts: list[Tensor], current: Tensor) -> Tensor:
        """The parts, brought to the channels wanted, added to the map itself."""
        total: Tensor = self.compression(torch.cat(parts, dim=1)) + self.shortcut(current)
        return total


class Dappm(PyramidPooling):
    """Deep aggregation (Hong et al. 2021): every average is added to the answer of the finer one, and convolved."""

    def __init__(self, fan_in: int, width: int, fan_out: int):
        super().__init__(fan_in, width, fan_out)
        self.processes = nn.ModuleList(NormActConv(width, width, 3) for _ in self.scales[1:])

    def forward(self, current: Tensor) -> Tensor:
        finest, *averages = self.pooled(current)
        parts = [finest]
        for process, average in zip(self.processes, averages, strict=True):
            parts.append(process(average + parts[-1]))
        return self.joined(parts, current)


class Pappm(PyramidPooling):
    """Parallel aggregation (Xu et al. 2023): the map is added to every average, and all are convolved in one call."""

    def __init__(self, fan_in: int, width: int, fan_out: int):
        super().__init__(fan_in, width, fan_out)
        averages = len(self.scales) - 1
        self.processes = NormActConv(averages * width, averages * width, 3, groups=averages)

    def forward(self, current: Tensor) -> Tensor:
        finest, *averages = self.pooled(current)
        processed = self.processes(torch.cat([average + finest for average in averages], dim=1))
        return self.joined([finest, processed], current)


class HeadStem(nn.Sequential):
    """Convolution and normalisation before a classifier: `0` (bn, conv), `1` (norm)."""

    def __init__(self, fan_in: int, width: int):
        super().__init__(NormActConv(fan_in, width, 3), nn.BatchNorm2d(width), nn.ReLU())
