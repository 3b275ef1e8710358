"""SegNeXt (Guo et al. 2022) as MMSegmentation published it: MSCAN encoders T to L and the light Hamburger head.

The head factorises its map (Geng et al. 2021) from starting bases that the published code draws anew at every call,
so that it never answers twice the same. Here they are drawn for training only; in eval mode they are `NMF2D.bases`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import MapNorm, drop_path, drop_rates, joined
from terrazzo.published.networks.heads import Head

Stages = tuple[int, int, int, int]

STRIPS = (7, 11, 21)
"""Lengths of the pairs of 1xN and Nx1 convolutions: attention's scales."""

GROUPS = 32
"""Of the head's group normalisation."""


@dataclass(frozen=True)
class SegNextSizes:
    """Numbers of the four stages, which lie at strides 4 to 32, and of the head, which reads the last three."""

    dims: Stages
    depths: Stages
    head_channels: int
    mlp_ratios: Stages = (8, 8, 4, 4)
    rank: int = 16
    """Number of bases that the head's map is made of."""
    train_steps: int = 6
    """Updates of the factorisation while training."""
    eval_steps: int = 7
    """The same in eval mode."""
    dropout: float = 0.1
    """Share of the head's channels dropped while training."""
    drop_path: float = 0.1
    """Share of samples that skip the last block while training; it rises evenly from 0 at the first."""


WIDE = (64, 128, 320, 512)

VARIANTS = {
    "segnext_mscan-t": SegNextSizes((32, 64, 160, 256), (3, 3, 5, 2), 256),
    "segnext_mscan-s": SegNextSizes(WIDE, (2, 2, 4, 2), 256),
    "segnext_mscan-b": SegNextSizes(WIDE, (3, 3, 12, 3), 512),
    "segnext_mscan-l": SegNextSizes(WIDE, (3, 5, 27, 3), 1024, drop_path=0.3),
}


def build(name_or_sizes: str | SegNextSizes, classes: int) -> nn.Module:
    """The network, with its first numbers."""
    if isinstance(name_or_sizes, SegNextSizes):
        return SegNext(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no SegNeXt is called {name_or_sizes}; there are {', '.join(VARIANTS)}")
    return SegNext(VARIANTS[name_or_sizes], classes)


class SegNext(nn.Module):
    """Normalised images [B, 3, H, W] to logits [B, K, H/8, W/8]."""

    def __init__(self, sizes: SegNextSizes, classes: int):
        super().__init__()
        self.backbone = Mscan(sizes)
        self.decode_head = LightHamHead(sizes, classes)

    def forward(self, images: Tensor) -> Output:
        return Output(logits=self.decode_head(self.backbone(images)))


class Mscan(nn.Module):
    """Images to the maps of the four stages: `patch_embed1` makes the map smaller, `block1`, `norm1`, and so on."""

    def __init__(self, sizes: SegNextSizes):
        super().__init__()
        rates = drop_rates(sizes.drop_path, sizes.depths)
        for stage, dim in enumerate(sizes.dims):
            embed = PatchEmbed(sizes.dims[stage - 1], dim) if stage else Stem(dim)
            blocks = nn.Sequential(*(Block(dim, sizes.mlp_ratios[stage] * dim, rate) for rate in rates[stage]))
            self.add_module(f"patch_embed{stage + 1}", embed)
            self.add_module(f"block{stage + 1}", blocks)
            self.add_module(f"norm{stage + 1}", MapNorm(dim))
        self.stages = len(sizes.dims)
        self.apply(draw)

    def forward(self, images: Tensor) -> list[Tensor]:
        current, maps = images, []
        for stage in range(1, self.stages + 1):
            for part in ("patch_embed", "block", "norm"):
                current = self.get_submodule(f"{part}{stage}")(current)
            maps.append(current)
        return maps


class Stem(nn.Module):
    """Images to a map at stride 4, by two convolutions."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(3, dim // 2, 3, 2, 1),
            nn.BatchNorm2d(dim // 2),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, 2, 1),
            nn.BatchNorm2d(dim),
        )

    def forward(self, images: Tensor) -> Tensor:
        embedded: Tensor = self.proj(images)
        return embedded


class PatchEmbed(nn.Module):
    """A map to one of half its size, by a convolution whose windows overlap."""

    def __init__(self, fan_in: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(fan_in, dim, 3, 2, 1)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, current: Tensor) -> Tensor:
        embedded: Tensor = self.norm(self.proj(current))
        return embedded


class Block(nn.Module):
    """Attention by convolutions, then a feed-forward part, each scaled by channel and added to what it was given."""

    def __init__(self, dim: int, hidden: int, rate: float):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = Attention(dim)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = Mlp(dim, hidden)
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), 0.01))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), 0.01))
        self.rate = rate

    def forward(self, current: Tensor) -> Tensor:
        attended = self.layer_scale_1[:, None, None] * self.attn(self.norm1(current))
        current = current + drop_path(attended, self.rate, training=self.training)
        mixed = self.layer_scale_2[:, None, None] * self.mlp(self.norm2(current))
        return current + drop_path(mixed, self.rate, training=self.training)


class Attention(nn.Module):
    """The gate between two 1x1 convolutions, added to its input."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.spatial_gating_unit = Gate(dim)
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, current: Tensor) -> Tensor:
        projected: Tensor = self.proj_2(self.spatial_gating_unit(functional.gelu(self.proj_1(current))))
        return projected + current


class Gate(nn.Module):
    """A map times what depthwise convolutions see around each position: 5x5, and from there strips of three lengths.

    The strips are `conv0_1` (1x7) and `conv0_2` (7x1), `conv1_1` and `conv1_2` (11), `conv2_1` and `conv2_2` (21).
    """

    def __init__(self, dim: int):
        super().__init__()
        self.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        for scale, length in enumerate(STRIPS):
            side = length // 2
            row = nn.Conv2d(dim, dim, (1, length), padding=(0, side), groups=dim)
            column = nn.Conv2d(dim, dim, (length, 1), padding=(side, 0), groups=dim)
            self.add_module(f"conv{scale}_1", row)
            self.add_module(f"conv{scale}_2", column)
        self.conv3 = nn.Conv2d(dim, dim, 1)

    def forward(self, current: Tensor) -> Tensor:
        near = self.conv0(current)
        seen = near
        for scale in range(len(STRIPS)):
            row, column = (self.get_submodule(f"conv{scale}_{part}") for part in (1, 2))
            seen = seen + column(row(near))
        gate: Tensor = self.conv3(seen)
        return gate * current


class Mlp(nn.Module):
    """Two 1x1 convolutions with a depthwise 3x3 one between them."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, current: Tensor) -> Tensor:
        projected: Tensor = self.fc2(functional.gelu(self.dwconv(self.fc1(current))))
        return projected


class LightHamHead(Head):
    """The maps at strides 8 to 32, enlarged to the first one's size, fused and added to their low-rank part."""

    def __init__(self, sizes: SegNextSizes, classes: int):
        super().__init__(sizes.head_channels, classes, dropout=sizes.dropout)
        width = sizes.head_channels
        self.squeeze = ConvNorm(sum(sizes.dims[1:]), width)
        self.hamburger = Hamburger(sizes)
        self.align = ConvNorm(width, width)

    def forward(self, maps: list[Tensor]) -> Tensor:
        squeezed = functional.relu(self.squeeze.gn(joined(self.squeeze.conv, maps[1:])))
        return self.classify(functional.relu(self.align(self.hamburger(squeezed))))


class ConvNorm(nn.Module):
    """A 1x1 convolution and group normalisation: `conv.weight`, `gn.*`."""

    def __init__(self, fan_in: int, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(fan_in, channels, 1, bias=False)
        self.gn = nn.GroupNorm(GROUPS, channels)
        draw(self.conv)

    def forward(self, current: Tensor) -> Tensor:
        normed: Tensor = self.gn(self.conv(current))
        return normed


class Hamburger(nn.Module):
    """A map [B, C, H, W] plus its low-rank part, which holds what all positions share (Geng et al. 2021)."""

    def __init__(self, sizes: SegNextSizes):
        super().__init__()
        self.ham_in = nn.ModuleDict({"conv": nn.Conv2d(sizes.head_channels, sizes.head_channels, 1)})
        self.ham = NMF2D(sizes)
        self.ham_out = ConvNorm(sizes.head_channels, sizes.head_channels)
        self.ham_in.apply(draw)

    def forward(self, current: Tensor) -> Tensor:
        shared = self.ham(functional.relu(self.ham_in["conv"](current)))
        return functional.relu(current + self.ham_out(shared))


class NMF2D(nn.Module):
    """A map >= 0 [B, C, H, W] to the nearest product of `rank` bases and coefficients >= 0 (Lee and Seung 2000).

    `bases` [1, C, rank], of length 1 over the channels, is where the search starts in eval mode. It is seeded, may be
    set with `bases.copy_`, and is not in the state dict, as published weights do not hold it.
    """

    bases: Tensor

    def __init__(self, sizes: SegNextSizes):
        super().__init__()
        self.train_steps = sizes.train_steps
        self.eval_steps = sizes.eval_steps
        # Drawn on the CPU, so that the same network on another device answers the same.
        drawn = torch.rand(1, sizes.head_channels, sizes.rank, generator=torch.Generator().manual_seed(0), device="cpu")
        start = functional.normalize(drawn, dim=1).to(torch.get_default_device())
        self.register_buffer("bases", start, persistent=False)

    def forward(self, current: Tensor) -> Tensor:
        # Sums over all positions overflow half precision, and the updates divide by small numbers.
        device = "cpu" if current.is_meta else current.device.type  # autocast knows no device without numbers
        with torch.autocast(device, enabled=False):
            exact = torch.promote_types(current.dtype, torch.float32)
            nearest = self._nearest(current.flatten(2).to(exact))
        return nearest.view(current.shape).to(current.dtype)

    def _nearest(self, columns: Tensor) -> Tensor:
        """Columns [B, C, N] to bases [B, C, rank] times coefficients [B, N, rank]; gradients flow through each step."""
        bases = self.bases.to(columns.dtype).expand(columns.shape[0], -1, -1)  # len() would fix it in torch.export
        if self.training:
            bases = functional.normalize(torch.rand_like(bases, memory_format=torch.contiguous_format), dim=1)
        rows = columns.transpose(1, 2)
        coefficients = (rows @ bases).softmax(dim=-1)
        for _ in range(self.train_steps if self.training else self.eval_steps):
            coefficients = updated(coefficients, rows, bases)
            bases = updated(bases, columns, coefficients)
        return bases @ updated(coefficients, rows, bases).transpose(1, 2)


def updated(factor: Tensor, target: Tensor, other: Tensor) -> Tensor:
    """`factor` [B, N, rank] one multiplicative step closer to `target` [B, N, M] = factor x other [B, M, rank]^T."""
    return factor * (target @ other) / (factor @ (other.transpose(1, 2) @ other) + 1e-6)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' own weights by the names used here, which differ in the feed-forward parts only."""
    return {key.replace(".dwconv.dwconv.", ".dwconv."): tensor for key, tensor in state.items()}


def draw(module: nn.Module) -> None:
    """First numbers of a convolution: normal, by its outgoing connections; its bias 0."""
    if isinstance(module, nn.Conv2d):
        outgoing = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=sqrt(2 / outgoing))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
