"""Twins (Chu et al. 2021) with semantic FPN or UPerNet's head, as MMSegmentation publishes it.

PCPVT: every position asks a smaller map. SVT: inside windows and over a smaller map by turns. Maps are [B, C, h, w].
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.facts import PublishedInput
from terrazzo.published.networks.blocks import MapNorm, drop_path, drop_rates, padded
from terrazzo.published.networks.heads import FcnHead, UperHead
from terrazzo.published.networks.segformer_mit import ReducedAttention, draw
from terrazzo.published.networks.semantic_fpn import FpnHead, Pyramid
from terrazzo.published.networks.transformer import FeedForward

INPUT = PublishedInput(smallest=32)

EPS = 1e-5
"""Added to the variance by every normalisation."""

REDUCTIONS = (8, 4, 2, 1)
"""By stage: how much smaller the map is, in each direction, that positions ask."""

APART = -1000.0
"""Added to the attention between a window's positions in the image and in the padding."""


@dataclass(frozen=True)
class TwinsSizes:
    """Sizes of one published Twins with its heads."""

    depths: tuple[int, int, int, int]
    """Blocks of the four stages."""
    dims: tuple[int, int, int, int] = (64, 128, 320, 512)
    """Channels of the four stages."""
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    """Attention heads of the four stages."""
    ratios: tuple[int, int, int, int] = (8, 8, 4, 4)
    """Channels inside the feed-forward parts, as multiples of their stage's."""
    windows: int | None = None
    """SVT: side of the windows of every other block; its stages' answers are normalised too."""
    head: Literal["fpn", "uper"] = "fpn"
    """Semantic FPN, or UPerNet's head with an auxiliary one."""
    drop_path: float = 0.2
    """Share of samples that skip the last block while training; it rises evenly from 0 at the first."""
    neck_width: int = 256
    """Channels of the feature pyramid before FPN's head."""
    head_width: int = 128
    """Channels inside the head."""
    aux_width: int = 256
    """Channels inside the auxiliary head."""
    dropout: float = 0.1
    """Share of channels dropped before each classifier while training."""


def upernet(sizes: TwinsSizes, drop_path: float = 0.2) -> TwinsSizes:
    """The same encoder with UPerNet's head."""
    return replace(sizes, head="uper", head_width=4 * sizes.head_width, drop_path=drop_path)


def svt(width: int, heads: int, depths: tuple[int, int, int, int]) -> TwinsSizes:
    """An SVT by its first stage's channels and heads; each further stage has twice as many."""
    first, second, third, last = (2**stage for stage in range(4))
    return TwinsSizes(
        depths,
        dims=(width * first, width * second, width * third, width * last),
        heads=(heads * first, heads * second, heads * third, heads * last),
        ratios=(4, 4, 4, 4),
        windows=7,
    )


PCPVT_S, PCPVT_B, PCPVT_L = TwinsSizes((3, 4, 6, 3)), TwinsSizes((3, 4, 18, 3)), TwinsSizes((3, 8, 27, 3))
SVT_S, SVT_B, SVT_L = svt(64, 2, (2, 2, 10, 4)), svt(96, 3, (2, 2, 18, 2)), svt(128, 4, (2, 2, 18, 2))

VARIANTS: Mapping[str, TwinsSizes] = {
    "twins_pcpvt-s_fpn": PCPVT_S,
    "twins_pcpvt-b_fpn": PCPVT_B,
    "twins_pcpvt-l_fpn": PCPVT_L,
    "twins_svt-s_fpn": SVT_S,
    "twins_svt-b_fpn": SVT_B,
    "twins_svt-l_fpn": replace(SVT_L, drop_path=0.3),
    "twins_pcpvt-s_uperhead": upernet(PCPVT_S),
    "twins_pcpvt-b_uperhead": upernet(PCPVT_B, 0.3),
    "twins_pcpvt-l_uperhead": upernet(PCPVT_L, 0.3),
    "twins_svt-s_uperhead": upernet(SVT_S),
    "twins_svt-b_uperhead": upernet(SVT_B),
    "twins_svt-l_uperhead": upernet(SVT_L, 0.3),
    # What is published under this name is the file of an SVT-L.
    "twins_pcpvt-l_uperhead_8xb2-160k_ade20k-512x512": upernet(SVT_L, 0.3),
}


class Twins(nn.Module):
    """Images [B, 3, H, W] of any size from 32 on to logits [B, K, H/4, W/4], rounded up.

    With UPerNet's head there are auxiliary ones too, [B, K, H/16, W/16]. The encoder pads to whole patches, but the
    published code lays the logits over the image alone: so do we.
    """

    def __init__(self, sizes: TwinsSizes, classes: int):
        super().__init__()
        self.backbone = Backbone(sizes)
        self.neck: Pyramid | None = None
        self.auxiliary_head: FcnHead | None = None
        self.decode_head: FpnHead | UperHead
        width, dropout = sizes.head_width, sizes.dropout
        match sizes.head:
            case "fpn":
                self.neck = Pyramid(sizes.dims, sizes.neck_width)
                self.decode_head = FpnHead([sizes.neck_width] * 4, width, classes, dropout=dropout)
            case "uper":
                self.decode_head = UperHead(sizes.dims, width, classes, dropout=dropout)
                self.auxiliary_head = FcnHead(sizes.dims[2], sizes.aux_width, classes, dropout=dropout)
            case _:
                assert_never(sizes.head)

    def forward(self, images: Tensor) -> Output:
        maps = self.backbone(images)
        aux = () if self.auxiliary_head is None else (self.auxiliary_head(maps[:3]),)
        return Output(logits=self.decode_head(maps if self.neck is None else self.neck(maps)), aux=aux)


class Backbone(nn.Module):
    """Images to the maps of the four stages."""

    def __init__(self, sizes: TwinsSizes):
        super().__init__()
        rates = drop_rates(sizes.drop_path, sizes.depths)
        inputs = (3, *sizes.dims[:-1])
        self.patch_embeds = nn.ModuleList(
            PatchEmbed(fan_in, dim, 2 if stage else 4)
            for stage, (fan_in, dim) in enumerate(zip(inputs, sizes.dims, strict=True))
        )
        self.position_encodings = nn.ModuleList(PositionEncoding(dim) for dim in sizes.dims)
        self.layers = nn.ModuleList(
            nn.ModuleList(Block(sizes, stage, number, rate) for number, rate in enumerate(rates[stage]))
            for stage in range(4)
        )
        self.norm_list = None if sizes.windows is None else nn.ModuleList(MapNorm(dim, eps=EPS) for dim in sizes.dims)
        self.apply(draw)

    def forward(self, images: Tensor) -> list[Tensor]:
        current, maps = images, []
        for number, (embed, position, blocks) in enumerate(
            zip(self.patch_embeds, self.position_encodings, self.layers, strict=True)
        ):
            assert isinstance(blocks, nn.ModuleList)
            first, *others = blocks
            current = position(first(embed(current)))
            for block in others:
                current = block(current)
            if self.norm_list is not None:  # the next stage starts from the normalised map
                current = self.norm_list[number](current)
            maps.append(current)
        return maps


class PatchEmbed(nn.Module):
    """Patches of `side` x `side` pixels become positions; sides rounded up."""

    def __init__(self, fan_in: int, dim: int, side: int):
        super().__init__()
        self.side = side
        self.projection = nn.Conv2d(fan_in, dim, side, side)
        self.norm = MapNorm(dim, eps=EPS)

    def forward(self, current: Tensor) -> Tensor:
        embedded: Tensor = self.norm(self.projection(padded(current, self.side)))
        return embedded


class PositionEncoding(nn.Module):
    """What the neighbourhood says about where a position is: a depthwise 3x3 convolution, added."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, current: Tensor) -> Tensor:
        where: Tensor = self.proj(current)
        return current + where


class Block(nn.Module):
    """Attention, then a feed-forward part, each added to what it was given."""

    def __init__(self, sizes: TwinsSizes, stage: int, number: int, rate: float):
        super().__init__()
        dim, heads = sizes.dims[stage], sizes.heads[stage]
        self.norm1 = MapNorm(dim, eps=EPS)
        if sizes.windows is None or number % 2:
            self.attn: nn.Module = ReducedAttention(dim, heads, REDUCTIONS[stage], EPS)
        else:
            self.attn = WindowAttention(dim, heads, sizes.windows)
        self.norm2 = MapNorm(dim, eps=EPS)
        self.ffn = FeedForward(dim, sizes.ratios[stage] * dim)
        self.rate = rate

    def forward(self, current: Tensor) -> Tensor:
        current = current + drop_path(self.attn(self.norm1(current)), self.rate, training=self.training)
        mixed = self.ffn(self.norm2(current).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return current + drop_path(mixed, self.rate, training=self.training)


class WindowAttention(nn.Module):
    """Positions of a window ask each other; a map that windows do not fit is padded at the bottom and right."""

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.window = window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, current: Tensor) -> Tensor:
        batch, dim, height, width = current.shape
        whole = padded(current, self.window)
        tall, wide = whole.shape[-2:]
        windows = self._cut(whole)
        count = windows.shape[1]
        packed = self.qkv(windows).view(batch, count, -1, 3, self.heads, dim // self.heads)
        # three of [B, windows * heads, N, C / heads]: four dimensions suit fast kernels
        query, key, value = packed.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        answer = functional.scaled_dot_product_attention(query, key, value, self._apart(current, tall, wide))
        answer = answer.view(batch, count, self.heads, -1, dim // self.heads).transpose(2, 3).flatten(3)
        rows = answer.view(batch, tall // self.window, wide // self.window, self.window, self.window, dim)
        joined = rows.permute(0, 1, 3, 2, 4, 5).reshape(batch, tall, wide, dim)
        projected: Tensor = self.proj(joined[:, :height, :width]).permute(0, 3, 1, 2)
        return projected

    def _cut(self, whole: Tensor) -> Tensor:
        """[B, C, H, W] to [B, windows, N, C] with N = window * window positions."""
        batch, dim, height, width = whole.shape
        side = self.window
        parts = whole.view(batch, dim, height // side, side, width // side, side)
        return parts.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, side * side, dim)

    def _apart(self, current: Tensor, tall: int, wide: int) -> Tensor | None:
        """What is added to the attention, [windows * heads, N, N].

        The published code marks the padding by slices from the end, `mask[-below:]` and `mask[-right:]`, and one of 0
        rows or columns is all of them: the padding is told apart only where both sides have some.
        """
        height, width = current.shape[-2:]
        if tall == height or wide == width:
            return None
        inside = current.new_zeros(1, 1, tall, wide)
        inside[..., :height, :width] = 1
        flags = self._cut(inside)[0, :, :, 0]
        apart = (flags[:, :, None] - flags[:, None, :]).abs() * APART
        return apart.repeat_interleave(self.heads, dim=0)


def build(name_or_sizes: str | TwinsSizes, classes: int) -> Twins:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, TwinsSizes):
        return Twins(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no Twins is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return Twins(VARIANTS[name_or_sizes], classes)
