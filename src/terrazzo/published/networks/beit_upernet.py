"""BEiT (Bao et al. 2022) and MAE (He et al. 2022) with a pyramid neck and UPerNet's head, as MMSegmentation has them.

A plain transformer whose attention also adds a learned number for how far two patches lie apart. Tokens are
[B, 1 + N, C], the class token first.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.facts import PublishedInput
from terrazzo.published.networks.blocks import drop_path, drop_rates, padded, size_of
from terrazzo.published.networks.heads import FcnHead, UperHead
from terrazzo.published.networks.necks import SMALLEST, PyramidNeck
from terrazzo.published.networks.transformer import FeedForward, draw_linear
from terrazzo.published.networks.vit import PATCH, to_map

INPUT = PublishedInput(smallest=SMALLEST)

EPS = 1e-6
"""Added to the variance by every normalisation."""

TOKEN_ROWS = 3
"""Last rows of a table of distances: class token to patch, patch to class token, class token to itself."""


@dataclass(frozen=True)
class BeitSizes:
    """Sizes of one published BEiT or MAE with its heads."""

    width: int = 768
    """Channels."""
    heads: int = 12
    """Attention heads."""
    depth: int = 12
    """Blocks."""
    grid: tuple[int, int] = (40, 40)
    """Rows and columns of patches that the tables of distances are for. Smaller maps read a part of them, larger ones
    enlarge them."""
    taps: tuple[int, ...] = (3, 5, 7, 11)
    """Blocks whose answers the head reads, counted from 0."""
    positions: bool = False
    """MAE: learned positions are added to the patches too, and the keys have a bias."""
    scale: float = 0.1
    """First numbers of the factors on what each block adds."""
    drop_path: float = 0.1
    """Share of samples that skip the last block while training; it rises evenly from 0 at the first."""
    head_width: int = 768
    """Channels inside the head."""
    aux_width: int = 256
    """Channels inside the auxiliary head."""
    dropout: float = 0.1
    """Share of channels dropped before each classifier while training."""


VARIANTS: Mapping[str, BeitSizes] = {
    "beit-base_upernet": BeitSizes(),
    "beit-large_upernet": BeitSizes(1024, 16, 24, taps=(7, 11, 15, 23), scale=1e-6, drop_path=0.2, head_width=1024),
    "mae-base_upernet": BeitSizes(grid=(32, 32), positions=True, scale=1.0),
}


class BeitUperNet(nn.Module):
    """Images [B, 3, H, W] of any size from 32 on to logits [B, K, H/4, W/4] and auxiliary ones [B, K, H/16, W/16].

    Images are padded to whole patches, and the logits cover the padding. The published code takes images of one size
    only, 640x640 (MAE: 512x512), and cuts others into windows of it.
    """

    def __init__(self, sizes: BeitSizes, classes: int):
        super().__init__()
        self.backbone = Beit(sizes)
        self.neck = PyramidNeck(sizes.width)
        dims = [sizes.width] * len(sizes.taps)
        self.decode_head = UperHead(dims, sizes.head_width, classes, dropout=sizes.dropout)
        self.auxiliary_head = FcnHead(sizes.width, sizes.aux_width, classes, dropout=sizes.dropout)

    def forward(self, images: Tensor) -> Output:
        whole = padded(images, PATCH)
        maps = self.neck(self.backbone(whole))
        return Output(logits=self.decode_head(maps), aux=(self.auxiliary_head(maps[:3]),), covers=size_of(whole))


class Beit(nn.Module):
    """Images to the maps [B, C, h, w] after each of the `taps`; the class token stays inside."""

    def __init__(self, sizes: BeitSizes):
        super().__init__()
        rows, columns = sizes.grid
        self.grid = sizes.grid
        self.taps = sizes.taps
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.width))
        positions = torch.empty(1, 1 + rows * columns, sizes.width)
        self.pos_embed = nn.Parameter(positions) if sizes.positions else None
        self.patch_embed = PatchEmbed(sizes.width)
        (rates,) = drop_rates(sizes.drop_path, [sizes.depth])
        self.layers = nn.ModuleList(Block(sizes, rate) for rate in rates)
        self.apply(draw_linear)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> list[Tensor]:
        patches = self.patch_embed(images)
        size = size_of(patches)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        if self.pos_embed is not None:
            tokens = tokens + resized_positions(self.pos_embed, self.grid, size)
        index, maps = distances(size, images.device), []
        for number, layer in enumerate(self.layers):
            tokens = layer(tokens, size, index)
            if number in self.taps:
                maps.append(to_map(tokens[:, 1:], size))
        return maps


class PatchEmbed(nn.Module):
    """Images [B, 3, H, W] to a map [B, C, H/16, W/16]."""

    def __init__(self, dim: int):
        super().__init__()
        self.projection = nn.Conv2d(3, dim, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        embedded: Tensor = self.projection(images)
        return embedded


class Block(nn.Module):
    """Attention, then a feed-forward part, each scaled channel by channel and added to what it was given."""

    def __init__(self, sizes: BeitSizes, rate: float):
        super().__init__()
        dim = sizes.width
        self.ln1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = DistanceAttention(sizes)
        self.ln2 = nn.LayerNorm(dim, eps=EPS)
        self.ffn = FeedForward(dim, 4 * dim)
        self.gamma_1 = nn.Parameter(torch.full((dim,), sizes.scale))
        self.gamma_2 = nn.Parameter(torch.full((dim,), sizes.scale))
        self.rate = rate

    def forward(self, tokens: Tensor, size: tuple[int, int], index: Tensor) -> Tensor:
        attended = self.gamma_1 * self.attn(self.ln1(tokens), size, index)
        tokens = tokens + drop_path(attended, self.rate, training=self.training)
        return tokens + drop_path(self.gamma_2 * self.ffn(self.ln2(tokens)), self.rate, training=self.training)


class DistanceAttention(nn.Module):
    """Every token asks all; a number for the distance of the two, one a head, is added to what they say."""

    def __init__(self, sizes: BeitSizes):
        super().__init__()
        dim, (rows, columns) = sizes.width, sizes.grid
        self.heads = sizes.heads
        self.grid = sizes.grid
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * rows - 1) * (2 * columns - 1) + TOKEN_ROWS, sizes.heads)
        )
        self.qkv = nn.Linear(dim, 3 * dim, bias=sizes.positions)
        # BEiT's keys have no bias, so the two others are parameters of their own.
        self.q_bias = None if sizes.positions else nn.Parameter(torch.zeros(dim))
        self.v_bias = None if sizes.positions else nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, tokens: Tensor, size: tuple[int, int], index: Tensor) -> Tensor:
        batch, count, _ = tokens.shape
        bias: Tensor | None = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        packed = functional.linear(tokens, self.qkv.weight, bias)
        query, key, value = packed.view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        table = resized_table(self.relative_position_bias_table, self.grid, size)
        added = table[index].permute(2, 0, 1).to(query.dtype)
        answer = functional.scaled_dot_product_attention(query, key, value, added)
        projected: Tensor = self.proj(answer.transpose(1, 2).flatten(2))
        return projected


def distances(size: tuple[int, int], device: torch.device) -> Tensor:
    """[1 + N, 1 + N]: the row of a table of distances for every pair of tokens of `size` = (rows, columns) patches."""
    rows, columns = size
    place = torch.arange(rows * columns, device=device)
    row, column = place // columns, place % columns
    down, across = row[:, None] - row, column[:, None] - column
    apart = (down + rows - 1) * (2 * columns - 1) + across + columns - 1
    pairs = (2 * rows - 1) * (2 * columns - 1)
    from_class, to_class, itself = (torch.full((1, 1), pairs + row, device=device) for row in range(TOKEN_ROWS))
    above = torch.cat([itself, from_class.expand(1, len(place))], dim=1)
    return torch.cat([above, torch.cat([to_class.expand(len(place), 1), apart], dim=1)])


def resized_table(table: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """A table of distances [.., heads] for `grid` = (rows, columns) patches as one for `size`.

    Distances that the grid has keep their numbers: a smaller map reads the middle of the table. Only where the map is
    larger than the grid is the table enlarged first, bicubic.
    """
    if size == grid:
        return table
    known, tokens = table[:-TOKEN_ROWS], table[-TOKEN_ROWS:]
    (rows, columns), (height, width) = grid, size
    picture = known.view(2 * rows - 1, 2 * columns - 1, -1).permute(2, 0, 1)[None]
    wanted = (2 * max(rows, height) - 1, 2 * max(columns, width) - 1)
    if wanted != size_of(picture):
        picture = functional.interpolate(picture, wanted, mode="bicubic", align_corners=True)
    top, left = wanted[0] // 2 - (height - 1), wanted[1] // 2 - (width - 1)
    part = picture[0, :, top : top + 2 * height - 1, left : left + 2 * width - 1]
    return torch.cat([part.permute(1, 2, 0).flatten(0, 1), tokens])


def resized_positions(table: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """[1, 1 + N, C] of another number of patches, bicubic; the class token's row stays."""
    if size == grid:
        return table
    resized = functional.interpolate(to_map(table[:, 1:], grid), size, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


def build(name_or_sizes: str | BeitSizes, classes: int) -> BeitUperNet:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, BeitSizes):
        return BeitUperNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no BEiT is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return BeitUperNet(VARIANTS[name_or_sizes], classes)
