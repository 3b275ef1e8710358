"""ConvNeXt (Liu et al. 2022) with UPerNet's head (Xiao et al. 2018), as MMSegmentation publishes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.facts import PublishedInput
from terrazzo.published.networks.blocks import MapNorm, drop_path, drop_rates
from terrazzo.published.networks.heads import FcnHead, UperHead

INPUT = PublishedInput(smallest=32)

EPS = 1e-6
"""Added to the variance by every normalisation."""


@dataclass(frozen=True)
class ConvNextSizes:
    """Sizes of one published ConvNeXt with its heads."""

    width: int = 96
    """Channels of the first stage; each further one has twice as many."""
    depths: tuple[int, int, int, int] = (3, 3, 27, 3)
    """Blocks of the four stages."""
    drop_path: float = 0.4
    """Share of samples that skip the last block while training; it rises evenly from 0 at the first."""
    head_width: int = 512
    """Channels inside the head."""
    aux_width: int = 256
    """Channels inside the auxiliary head."""
    dropout: float = 0.1
    """Share of channels dropped before each classifier while training."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of the four stages."""
        return tuple(self.width * 2**stage for stage in range(4))


VARIANTS: Mapping[str, ConvNextSizes] = {
    "convnext-tiny_upernet": ConvNextSizes(depths=(3, 3, 9, 3)),
    "convnext-small_upernet": ConvNextSizes(drop_path=0.3),
    "convnext-base_upernet": ConvNextSizes(128),
    "convnext-large_upernet": ConvNextSizes(192),
    "convnext-xlarge_upernet": ConvNextSizes(256),
}


class ConvNextUperNet(nn.Module):
    """Images [B, 3, H, W] of any size from 32 on to logits [B, K, H/4, W/4] and auxiliary ones [B, K, H/16, W/16].

    Sides are rounded down: pixels beyond the last whole patch are not looked at. The published code lays the logits
    over the image all the same: so do we.
    """

    def __init__(self, sizes: ConvNextSizes, classes: int):
        super().__init__()
        self.backbone = ConvNext(sizes)
        self.decode_head = UperHead(sizes.dims, sizes.head_width, classes, dropout=sizes.dropout)
        self.auxiliary_head = FcnHead(sizes.dims[2], sizes.aux_width, classes, dropout=sizes.dropout)

    def forward(self, images: Tensor) -> Output:
        maps = self.backbone(images)
        return Output(logits=self.decode_head(maps), aux=(self.auxiliary_head(maps[:3]),))


class ConvNext(nn.Module):
    """Images to the maps of the four stages, [B, C, h, w], each normalised."""

    def __init__(self, sizes: ConvNextSizes):
        super().__init__()
        rates = drop_rates(sizes.drop_path, sizes.depths)
        first, *_ = dims = sizes.dims
        self.downsample_layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, first, 4, 4), MapNorm(first, eps=EPS))])
        for finer, coarser in pairwise(dims):
            self.downsample_layers.append(nn.Sequential(MapNorm(finer, eps=EPS), nn.Conv2d(finer, coarser, 2, 2)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim, rate) for rate in rates[stage])) for stage, dim in enumerate(dims)
        )
        for stage, dim in enumerate(dims):
            self.add_module(f"norm{stage}", MapNorm(dim, eps=EPS))
        self.apply(draw)

    def forward(self, images: Tensor) -> list[Tensor]:
        current, maps = images, []
        for number, (shrink, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            current = stage(shrink(current))
            maps.append(self.get_submodule(f"norm{number}")(current))
        return maps


class Block(nn.Module):
    """A depthwise 7x7 convolution, then two linear layers; scaled channel by channel and added to what it was given."""

    def __init__(self, dim: int, rate: float):
        super().__init__()
        self.depthwise_conv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.pointwise_conv1 = nn.Linear(dim, 4 * dim)
        self.pointwise_conv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim))
        self.rate = rate

    def forward(self, current: Tensor) -> Tensor:
        """[B, C, h, w] to the same."""
        mixed = self.norm(self.depthwise_conv(current).permute(0, 2, 3, 1))
        mixed = self.gamma * self.pointwise_conv2(functional.gelu(self.pointwise_conv1(mixed)))
        return current + drop_path(mixed.permute(0, 3, 1, 2), self.rate, training=self.training)


def draw(module: nn.Module) -> None:
    """First numbers: normal with 0.02, cut at two sides, and no bias."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


def build(name_or_sizes: str | ConvNextSizes, classes: int) -> ConvNextUperNet:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, ConvNextSizes):
        return ConvNextUperNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no ConvNeXt is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return ConvNextUperNet(VARIANTS[name_or_sizes], classes)
