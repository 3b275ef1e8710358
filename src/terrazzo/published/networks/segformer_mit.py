"""SegFormer (Xie et al. 2021) as MMSegmentation published it: MiT encoders B0 to B5 and its own head.

Unlike the paper's head, this one normalises every projected map (`convs`) and has 256 channels for all sizes. Maps
[B, C, H, W] are channels-last throughout, so that the positions [B, N, C] that attention works on are views of them.
"""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, MapNorm, drop_path, drop_rates, joined
from terrazzo.published.networks.heads import Head

Stages = tuple[int, int, int, int]

EPS = 1e-6
"""Of the encoder's layer normalisations."""


@dataclass(frozen=True)
class MitSizes:
    """Numbers of the four stages, which lie at strides 4 to 32, and of the head."""

    dims: Stages
    depths: Stages
    heads: Stages = (1, 2, 5, 8)
    reductions: Stages = (8, 4, 2, 1)
    """Attention looks at a map that is so many times smaller in each direction."""
    mlp_ratio: int = 4
    head_channels: int = 256
    inner_eps: float = EPS
    """Of the layer normalisations after a convolution, where the paper's code has another than elsewhere."""
    dropout: float = 0.1
    """Share of the head's channels dropped while training."""
    drop_path: float = 0.1
    """Share of samples that skip the last block while training; it rises evenly from 0 at the first."""


WIDE = (64, 128, 320, 512)

VARIANTS = {
    "segformer_mit-b0": MitSizes((32, 64, 160, 256), (2, 2, 2, 2)),
    "segformer_mit-b1": MitSizes(WIDE, (2, 2, 2, 2)),
    "segformer_mit-b2": MitSizes(WIDE, (3, 4, 6, 3)),
    "segformer_mit-b3": MitSizes(WIDE, (3, 4, 18, 3)),
    "segformer_mit-b4": MitSizes(WIDE, (3, 8, 27, 3)),
    "segformer_mit-b5": MitSizes(WIDE, (3, 6, 40, 3)),
}


def build(name_or_sizes: str | MitSizes, classes: int) -> nn.Module:
    """The network, with its first numbers."""
    if isinstance(name_or_sizes, MitSizes):
        return SegFormerMit(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no SegFormer is called {name_or_sizes}; there are {', '.join(VARIANTS)}")
    return SegFormerMit(VARIANTS[name_or_sizes], classes)


class SegFormerMit(nn.Module):
    """Normalised images [B, 3, H, W] to logits [B, K, H/4, W/4]."""

    def __init__(self, sizes: MitSizes, classes: int):
        super().__init__()
        self.backbone = MixTransformer(sizes)
        self.decode_head = SegFormerHead(sizes, classes)

    def forward(self, images: Tensor) -> Output:
        return Output(logits=self.decode_head(self.backbone(images)))


class MixTransformer(nn.Module):
    """Images to the maps of the four stages. A stage: `0` makes the map smaller, `1` the blocks, `2` normalises."""

    def __init__(self, sizes: MitSizes):
        super().__init__()
        rates = drop_rates(sizes.drop_path, sizes.depths)
        self.layers = nn.ModuleList(
            nn.Sequential(
                PatchEmbed(sizes, stage),
                nn.Sequential(*(Block(sizes, stage, rate) for rate in rates[stage])),
                MapNorm(sizes.dims[stage], eps=EPS),
            )
            for stage in range(len(sizes.dims))
        )
        self.apply(draw)

    def forward(self, images: Tensor) -> list[Tensor]:
        current, maps = images, []
        for stage in self.layers:
            current = stage(current)
            maps.append(current)
        return maps


class PatchEmbed(nn.Module):
    """A convolution whose windows overlap: 7x7 with stride 4 at the first stage, 3x3 with stride 2 at the others."""

    def __init__(self, sizes: MitSizes, stage: int):
        super().__init__()
        dim = sizes.dims[stage]
        self.projection = nn.Conv2d(sizes.dims[stage - 1], dim, 3, 2, 1) if stage else nn.Conv2d(3, dim, 7, 4, 3)
        self.norm = MapNorm(dim, eps=sizes.inner_eps)

    def forward(self, current: Tensor) -> Tensor:
        embedded: Tensor = self.norm(self.projection(current))
        return embedded


class Block(nn.Module):
    """Attention, then a feed-forward part, each added to what it was given; [B, C, H, W] to the same."""

    def __init__(self, sizes: MitSizes, stage: int, rate: float):
        super().__init__()
        dim = sizes.dims[stage]
        self.norm1 = MapNorm(dim, eps=EPS)
        self.attn = ReducedAttention(dim, sizes.heads[stage], sizes.reductions[stage], sizes.inner_eps)
        self.norm2 = MapNorm(dim, eps=EPS)
        self.ffn = MixFeedForward(dim, sizes.mlp_ratio * dim)
        self.rate = rate

    def forward(self, current: Tensor) -> Tensor:
        current = current + drop_path(self.attn(self.norm1(current)), self.rate, training=self.training)
        return current + drop_path(self.ffn(self.norm2(current)), self.rate, training=self.training)


class ReducedAttention(nn.Module):
    """Every position asks all positions of a map that is `reduction` times smaller in each direction."""

    def __init__(self, dim: int, heads: int, reduction: int, eps: float):
        super().__init__()
        self.attn = PackedAttention(dim, heads)
        self.sr = nn.Conv2d(dim, dim, reduction, reduction) if reduction > 1 else None
        self.norm = MapNorm(dim, eps=eps) if reduction > 1 else None

    def forward(self, current: Tensor) -> Tensor:
        asked = current
        if self.sr is not None and self.norm is not None:
            asked = self.norm(self.sr(current))
        answer: Tensor = self.attn(current.flatten(2).transpose(1, 2), asked.flatten(2).transpose(1, 2))
        return answer.transpose(1, 2).view(current.shape)


class PackedAttention(nn.Module):
    """Positions [B, N, C] ask positions [B, M, C]; the matrices of query, key and value lie in one, as torch's do."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.in_proj_weight, std=0.02)

    def forward(self, tokens: Tensor, asked: Tensor) -> Tensor:
        batch, _, dim = tokens.shape
        query = functional.linear(tokens, self.in_proj_weight[:dim], self.in_proj_bias[:dim])
        key, value = functional.linear(asked, self.in_proj_weight[dim:], self.in_proj_bias[dim:]).chunk(2, dim=-1)
        # [B, heads, N, C / heads]
        query, key, value = (
            part.reshape(batch, -1, self.heads, dim // self.heads).transpose(1, 2) for part in (query, key, value)
        )
        answer = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.out_proj(answer.transpose(1, 2).flatten(2))
        return projected


class MixFeedForward(nn.Module):
    """Two 1x1 convolutions with a depthwise 3x3 one between them, which tells positions apart."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        # The weights are numbered as published; the dropout in the third place was never used.
        self.layers = nn.Sequential(
            nn.Conv2d(dim, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Identity(),
            nn.Conv2d(hidden, dim, 1),
        )

    def forward(self, current: Tensor) -> Tensor:
        mixed: Tensor = self.layers(current)
        return mixed


class SegFormerHead(Head):
    """Every map to the same number of channels, all enlarged to the first one's size and fused by a 1x1 convolution."""

    def __init__(self, sizes: MitSizes, classes: int):
        super().__init__(sizes.head_channels, classes, dropout=sizes.dropout)
        width = sizes.head_channels
        self.convs = nn.ModuleList(ConvBNAct(dim, width) for dim in sizes.dims)
        self.fusion_conv = ConvBNAct(len(sizes.dims) * width, width)

    def forward(self, maps: list[Tensor]) -> Tensor:
        projected = [conv(current) for conv, current in zip(self.convs, maps, strict=True)]
        fused = self.fusion_conv.bn(joined(self.fusion_conv.conv, projected))
        return self.classify(functional.relu(fused))


def draw(module: nn.Module) -> None:
    """First numbers of the encoder: linear layers normal with 0.02, convolutions by their outgoing connections."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        outgoing = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=sqrt(2 / outgoing))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
