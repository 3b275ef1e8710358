"""HRNet (Wang et al. 2020, "Deep High-Resolution Representation Learning"; Sun et al. 2019 for segmentation).

Two, then three, then four branches run beside each other, each at half the resolution of the one before and twice as
wide, and exchange their maps after every module. The head joins all four at the first one's size, stride 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import draw_conv, resize, size_of
from terrazzo.published.networks.heads import FcnHead
from terrazzo.published.networks.resnet_v1c import Basic, Bottleneck

STEM = 64
"""Channels of the stem, and within the bottlenecks of the first stage."""


@dataclass(frozen=True)
class HRNetSizes:
    """What tells one published HRNet from another."""

    width: int
    """Channels of the finest branch."""
    blocks: int = 4
    """Residual blocks of the first stage, and of every branch of a module."""
    modules: tuple[int, int, int] = (1, 4, 3)
    """Modules with two, three and four branches."""
    dropout: float = 0.0
    """Share of channels dropped before the classifier while training."""

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """Channels of the four maps."""
        return self.width, 2 * self.width, 4 * self.width, 8 * self.width


VARIANTS = {
    "fcn_hr18s": HRNetSizes(width=18, blocks=2, modules=(1, 3, 2)),
    "fcn_hr18": HRNetSizes(width=18),
    "fcn_hr48": HRNetSizes(width=48),
}
"""The published sizes with an FCN head."""


class FcnHRNet(nn.Module):
    """Images [B, 3, H, W] to logits [B, K, H/4, W/4]: an HRNet, a 1x1 convolution of its joined maps, a classifier."""

    def __init__(self, sizes: HRNetSizes, classes: int):
        super().__init__()
        self.backbone = HRNet(sizes)
        width = sum(sizes.dims)
        self.decode_head = FcnHead(width, width, classes, kernel=1, dropout=sizes.dropout)

    def forward(self, images: Tensor) -> Output:
        logits = self.decode_head([concatenated(self.backbone(images))])
        return Output(logits=logits, aux=(), queries=None)


class HRNet(nn.Module):
    """Images to four maps [B, w, H/4, W/4], [B, 2w, H/8, W/8], [B, 4w, H/16, W/16], [B, 8w, H/32, W/32]."""

    def __init__(self, sizes: HRNetSizes):
        super().__init__()
        dims, (second, third, fourth) = sizes.dims, sizes.modules
        self.conv1 = nn.Conv2d(3, STEM, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.conv2 = nn.Conv2d(STEM, STEM, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(STEM)
        wide = STEM * Bottleneck.growth
        self.layer1 = nn.Sequential(
            *(Bottleneck(STEM if n == 0 else wide, STEM, stride=1, dilation=1) for n in range(sizes.blocks))
        )
        self.transition1 = nn.ModuleList([conv_norm_act(wide, dims[0]), nn.Sequential(smaller(wide, dims[1]))])
        self.stage2 = modules(second, dims[:2], sizes.blocks)
        self.transition2 = transition(dims[:3])
        self.stage3 = modules(third, dims[:3], sizes.blocks)
        self.transition3 = transition(dims)
        self.stage4 = modules(fourth, dims, sizes.blocks)
        for conv in (self.conv1, self.conv2):
            draw_conv(conv)

    def forward(self, images: Tensor) -> list[Tensor]:
        current = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        current = self.layer1(functional.relu(self.bn2(self.conv2(current)), inplace=True))
        two: list[Tensor] = self.stage2([change(current) for change in self.transition1])
        three: list[Tensor] = self.stage3([*two, self.transition2[-1](two[-1])])
        four: list[Tensor] = self.stage4([*three, self.transition3[-1](three[-1])])
        return four


class Exchange(nn.Module):
    """One module: residual blocks in every branch, then every branch gets the sum of all, at its own size and width."""

    def __init__(self, dims: Sequence[int], blocks: int):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(Basic(dim, dim, stride=1, dilation=1) for _ in range(blocks))) for dim in dims
        )
        self.fuse_layers = nn.ModuleList(Fusion(dims, target) for target in range(len(dims)))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(current) for branch, current in zip(self.branches, maps, strict=True)]
        return [functional.relu(sum_at(target, row(maps))) for target, row in enumerate(self.fuse_layers)]


class Fusion(nn.ModuleList):
    """Brings every branch to the width of one, `target`, and those that are finer to its size too."""

    def __init__(self, dims: Sequence[int], target: int):
        super().__init__(fuse(dims, source, target) for source in range(len(dims)))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [change(current) for change, current in zip(self, maps, strict=True)]


def sum_at(target: int, parts: Sequence[Tensor]) -> Tensor:
    """The parts added up at the size of part number `target`; each one after it is half as large as the one before."""
    size = size_of(parts[target])
    first, *others = (enlarged(part, 2 ** max(0, source - target), size) for source, part in enumerate(parts))
    return sum(others, start=first)


def enlarged(part: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """First by a power of two, then to the very size.

    For odd sides this differs from one enlargement, and the published weights were trained with it.
    """
    height, width = size_of(part)
    return resize(resize(part, (factor * height, factor * width)), size)


def fuse(dims: Sequence[int], source: int, target: int) -> nn.Module:
    """Brings branch `source` to the width of branch `target`, and to its size if that is smaller."""
    if source == target:
        return nn.Identity()
    if source > target:
        return conv_norm(dims[source], dims[target])
    steps = [smaller(dims[source], dims[source]) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, conv_norm(dims[source], dims[target], 3, stride=2))


def transition(dims: Sequence[int]) -> nn.ModuleList:
    """Adds a branch, made of the last one before it; the others go on as they are."""
    *_, last, new = dims
    return nn.ModuleList([*(nn.Identity() for _ in dims[:-1]), nn.Sequential(smaller(last, new))])


def modules(count: int, dims: Sequence[int], blocks: int) -> nn.Sequential:
    """The modules of one stage."""
    return nn.Sequential(*(Exchange(dims, blocks) for _ in range(count)))


def conv_norm(fan_in: int, fan_out: int, kernel: int = 1, *, stride: int = 1) -> nn.Sequential:
    """`0` convolution, `1` normalisation."""
    conv = nn.Conv2d(fan_in, fan_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    draw_conv(conv)
    return nn.Sequential(conv, nn.BatchNorm2d(fan_out))


def conv_norm_act(fan_in: int, fan_out: int, *, stride: int = 1) -> nn.Sequential:
    """The same with a 3x3 convolution, and ReLU behind."""
    return conv_norm(fan_in, fan_out, 3, stride=stride).append(nn.ReLU())


def smaller(fan_in: int, fan_out: int) -> nn.Sequential:
    """Half the size."""
    return conv_norm_act(fan_in, fan_out, stride=2)


def concatenated(maps: Sequence[Tensor]) -> Tensor:
    """All maps at the first one's size, their channels one after the other."""
    size = size_of(maps[0])
    return torch.cat([resize(current, size) for current in maps], dim=1)


def build(name_or_sizes: str | HRNetSizes, classes: int) -> FcnHRNet:
    """An HRNet with an FCN head and fresh weights, by the name of a published size or by its sizes.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, HRNetSizes):
        return FcnHRNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no HRNet is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return FcnHRNet(VARIANTS[name_or_sizes], classes)
