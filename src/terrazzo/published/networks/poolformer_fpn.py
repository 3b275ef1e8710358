"""PoolFormer (Yu et al. 2022) with semantic FPN, as MMSegmentation publishes it: averages in the place of attention."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import drop_path
from terrazzo.published.networks.semantic_fpn import FpnHead, Pyramid


@dataclass(frozen=True)
class PoolFormerSizes:
    """Sizes of one published PoolFormer with its head."""

    depths: tuple[int, int, int, int]
    """Blocks of the four stages."""
    dims: tuple[int, int, int, int] = (64, 128, 320, 512)
    """Channels of the four stages."""
    scale: float = 1e-5
    """First numbers of the factors on what each block adds."""
    drop_path: float = 0.0
    """Share of samples that skip a block while training."""
    neck_width: int = 256
    """Channels of the feature pyramid."""
    head_width: int = 128
    """Channels inside the head."""
    dropout: float = 0.1
    """Share of channels dropped before the classifier while training."""


WIDE = (96, 192, 384, 768)

VARIANTS: Mapping[str, PoolFormerSizes] = {
    "fpn_poolformer_s12": PoolFormerSizes((2, 2, 6, 2)),
    "fpn_poolformer_s24": PoolFormerSizes((4, 4, 12, 4)),
    "fpn_poolformer_s36": PoolFormerSizes((6, 6, 18, 6), scale=1e-6),
    "fpn_poolformer_m36": PoolFormerSizes((6, 6, 18, 6), WIDE, 1e-6),
    "fpn_poolformer_m48": PoolFormerSizes((8, 8, 24, 8), WIDE, 1e-6),
}


class PoolFormerFpn(nn.Module):
    """Images [B, 3, H, W] of any size to logits [B, K, H/4, W/4]; sides are rounded as convolutions round them."""

    def __init__(self, sizes: PoolFormerSizes, classes: int):
        super().__init__()
        self.backbone = PoolFormer(sizes)
        self.neck = Pyramid(sizes.dims, sizes.neck_width)
        self.decode_head = FpnHead([sizes.neck_width] * 4, sizes.head_width, classes, dropout=sizes.dropout)

    def forward(self, images: Tensor) -> Output:
        return Output(logits=self.decode_head(self.neck(self.backbone(images))))


class PoolFormer(nn.Module):
    """Images to the maps of the four stages, each normalised. In `network` stages and their shrinking take turns."""

    def __init__(self, sizes: PoolFormerSizes):
        super().__init__()
        self.patch_embed = PatchEmbed(3, sizes.dims[0], kernel=7, stride=4, padding=2)
        self.network = nn.ModuleList()
        for stage, (dim, depth) in enumerate(zip(sizes.dims, sizes.depths, strict=True)):
            if stage:
                self.network.append(PatchEmbed(sizes.dims[stage - 1], dim, kernel=3, stride=2, padding=1))
            self.network.append(nn.Sequential(*(Block(dim, sizes) for _ in range(depth))))
            self.add_module(f"norm{2 * stage}", nn.GroupNorm(1, dim))

    def forward(self, images: Tensor) -> list[Tensor]:
        current, maps = self.patch_embed(images), []
        for number, part in enumerate(self.network):
            current = part(current)
            if number % 2 == 0:
                maps.append(self.get_submodule(f"norm{number}")(current))
        return maps


class PatchEmbed(nn.Module):
    """A convolution whose windows overlap."""

    def __init__(self, fan_in: int, dim: int, *, kernel: int, stride: int, padding: int):
        super().__init__()
        self.proj = nn.Conv2d(fan_in, dim, kernel, stride, padding)

    def forward(self, current: Tensor) -> Tensor:
        embedded: Tensor = self.proj(current)
        return embedded


class Block(nn.Module):
    """Means of 3x3 neighbours, then two 1x1 convolutions, each scaled and added to what it was given."""

    def __init__(self, dim: int, sizes: PoolFormerSizes):
        super().__init__()
        self.norm1 = nn.GroupNorm(1, dim)
        self.norm2 = nn.GroupNorm(1, dim)
        self.mlp = FeedForward(dim, 4 * dim)
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), sizes.scale))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), sizes.scale))
        self.rate = sizes.drop_path

    def forward(self, current: Tensor) -> Tensor:
        """[B, C, h, w] to the same."""
        normed = self.norm1(current)
        # What a position differs from its neighbourhood by; beyond the border there are no neighbours to count.
        mixed = functional.avg_pool2d(normed, 3, stride=1, padding=1, count_include_pad=False) - normed
        current = current + drop_path(self.layer_scale_1[:, None, None] * mixed, self.rate, training=self.training)
        mixed = self.layer_scale_2[:, None, None] * self.mlp(self.norm2(current))
        return current + drop_path(mixed, self.rate, training=self.training)


class FeedForward(nn.Module):
    """Two 1x1 convolutions with GELU between them."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, dim, 1)
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, current: Tensor) -> Tensor:
        mixed: Tensor = self.fc2(functional.gelu(self.fc1(current)))
        return mixed


def build(name_or_sizes: str | PoolFormerSizes, classes: int) -> PoolFormerFpn:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, PoolFormerSizes):
        return PoolFormerFpn(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no PoolFormer is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return PoolFormerFpn(VARIANTS[name_or_sizes], classes)
