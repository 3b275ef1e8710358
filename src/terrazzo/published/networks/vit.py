"""The plain vision transformer (Dosovitskiy et al. 2021) inside MMSegmentation's networks. Tokens are [B, N, C]."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.published.networks.blocks import drop_path, drop_rates, padded, size_of
from terrazzo.published.networks.transformer import FeedForward, SelfAttention, draw_linear

PATCH = 16
"""Side of the patches."""


@dataclass(frozen=True)
class VitSizes:
    """Sizes of one encoder; the defaults are ViT-B/16's for images of 512x512."""

    width: int = 768
    """Channels."""
    heads: int = 12
    """Attention heads."""
    depth: int = 12
    """Blocks."""
    positions: tuple[int, int] = (32, 32)
    """Rows and columns of the table of learned positions; for other maps it is enlarged or shrunk."""
    taps: tuple[int, ...] = (2, 5, 8, 11)
    """Blocks whose answers are given away, counted from 0."""
    class_token: bool = True
    """Whether the blocks see the class token. The table of positions has a row for it in any case."""
    final_norm: bool = False
    """Whether the last block's answer is normalised."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How the table of positions is enlarged or shrunk."""
    eps: float = 1e-6
    """Added to the variance by every normalisation."""
    drop_path: float = 0.1
    """Share of samples that skip the last block while training; it rises evenly from 0 at the first."""
    patch_bias: bool = False
    """Whether the first layer has a bias. MMSegmentation 1.2 builds it without; older versions had one."""


PATCH_BIAS = "backbone.patch_embed.projection.bias"
"""The tensor that a network with `patch_bias` has besides, and every published file: see `renamed`."""

POSITIONS = "backbone.pos_embed"


class Taps(NamedTuple):
    """What an encoder gives away."""

    tokens: list[Tensor]
    """After each of the `taps`: [B, N, C], the class token first if there is one."""
    size: tuple[int, int]
    """Rows and columns of the patches; their product is N, without the class token."""

    def maps(self) -> list[Tensor]:
        """Each as [B, C, h, w], without the class token."""
        height, width = self.size
        return [to_map(tokens[:, -height * width :], self.size) for tokens in self.tokens]


class VisionTransformer(nn.Module):
    """Images [B, 3, H, W] to tokens of their patches, rows and columns rounded up."""

    def __init__(self, sizes: VitSizes):
        super().__init__()
        rows, columns = sizes.positions
        self.grid = sizes.positions
        self.taps = sizes.taps
        self.class_token = sizes.class_token
        self.interpolation = sizes.interpolation
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.width), requires_grad=sizes.class_token)
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + rows * columns, sizes.width))
        self.patch_embed = PatchEmbed(sizes.width, bias=sizes.patch_bias)
        (rates,) = drop_rates(sizes.drop_path, [sizes.depth])
        self.layers = nn.ModuleList(Block(sizes.width, sizes.heads, eps=sizes.eps, rate=rate) for rate in rates)
        self.ln1 = nn.LayerNorm(sizes.width, eps=sizes.eps) if sizes.final_norm else None
        self.apply(draw_linear)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> Taps:
        patches = self.patch_embed(images)
        size = size_of(patches)
        tokens = patches.flatten(2).transpose(1, 2) + self.positions(size)
        if self.class_token:
            first = self.cls_token + self.pos_embed[:, :1]
            tokens = torch.cat([first.expand(len(images), -1, -1), tokens], dim=1)
        given = []
        for number, layer in enumerate(self.layers):
            tokens = layer(tokens)
            if self.ln1 is not None and number == len(self.layers) - 1:
                tokens = self.ln1(tokens)
            if number in self.taps:
                given.append(tokens)
        return Taps(given, size)

    def positions(self, size: tuple[int, int]) -> Tensor:
        """[1, h * w, C]: the table without the class token's row, resized if the map has another size."""
        table = self.pos_embed[:, 1:]
        if size == self.grid:
            return table
        resized = functional.interpolate(to_map(table, self.grid), size, mode=self.interpolation, align_corners=False)
        return resized.flatten(2).transpose(1, 2)


class PatchEmbed(nn.Module):
    """Images [B, 3, H, W] to a map [B, C, H/16, W/16], sides rounded up."""

    def __init__(self, dim: int, *, bias: bool):
        super().__init__()
        self.projection = nn.Conv2d(3, dim, PATCH, PATCH, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        embedded: Tensor = self.projection(padded(images, PATCH))
        return embedded


class Block(nn.Module):
    """Attention, then a feed-forward part, each added to what it was given; [B, N, C] to the same."""

    def __init__(self, dim: int, heads: int, *, eps: float, rate: float):
        super().__init__()
        self.ln1 = nn.LayerNorm(dim, eps=eps)
        self.attn = SelfAttention(dim, heads)
        self.ln2 = nn.LayerNorm(dim, eps=eps)
        self.ffn = FeedForward(dim, 4 * dim)
        self.rate = rate

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + drop_path(self.attn(self.ln1(tokens)), self.rate, training=self.training)
        return tokens + drop_path(self.ffn(self.ln2(tokens)), self.rate, training=self.training)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, h * w, C] to [B, C, h, w]."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *size)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights for a network without `patch_bias`: the bias is added to the positions of all patches.

    That is the same, as the table of positions is added next, and enlarging it keeps what is equal everywhere.
    """
    answer = dict(state)
    bias = answer.pop(PATCH_BIAS, None)
    positions = answer.get(POSITIONS)
    if bias is not None and positions is not None and positions.ndim == 3 and positions.shape[2:] == bias.shape:
        answer[POSITIONS] = torch.cat([positions[:, :1], positions[:, 1:] + bias], dim=1)
    return answer
