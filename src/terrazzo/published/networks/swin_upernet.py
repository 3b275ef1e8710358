"""Swin Transformer (Liu et al. 2021) with UPerNet's head (Xiao et al. 2018), as MMSegmentation publishes it.

Maps inside the encoder are [B, H, W, C]. Where windows do not fit, the map is padded first and rolled afterwards, and
every padded window takes part in attention: other ports leave windows out or shrink them, and answer other numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import drop_path, drop_rates, padded
from terrazzo.published.networks.heads import FcnHead, UperHead
from terrazzo.published.networks.transformer import FeedForward, draw_linear

PATCH = 4
"""Side of the patches that the first layer reads."""

APART = -100.0
"""Added to the attention between positions that only the rolling brought together. Finite, as published."""


@dataclass(frozen=True)
class SwinSizes:
    """Sizes of one published Swin with its heads."""

    width: int = 96
    """Channels of the first stage; each further one has twice as many."""
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    """Blocks of the four stages."""
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    """Attention heads of the four stages."""
    window: int = 7
    """Side of the windows inside which positions attend to each other."""
    drop_path: float = 0.3
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


TINY, SMALL = SwinSizes(), SwinSizes(depths=(2, 2, 18, 2))
BASE, LARGE = SwinSizes(128, (2, 2, 18, 2), (4, 8, 16, 32)), SwinSizes(192, (2, 2, 18, 2), (6, 12, 24, 48))
BASE_12, LARGE_12 = replace(BASE, window=12), replace(LARGE, window=12)

VARIANTS: Mapping[str, SwinSizes] = {
    "upernet_swin-t": TINY,
    "upernet_swin-s": SMALL,
    "upernet_swin-b": BASE,
    "upernet_swin-b-window12": BASE_12,
    "upernet_swin-l": LARGE,
    "upernet_swin-l-window12": LARGE_12,
    # the same by the names of the published configs
    "swin-tiny-patch4-window7-in1k-pre_upernet": TINY,
    "swin-small-patch4-window7-in1k-pre_upernet": SMALL,
    "swin-base-patch4-window7-in1k-pre_upernet": BASE,
    "swin-base-patch4-window7-in22k-pre_upernet": BASE,
    "swin-base-patch4-window12-in1k-384x384-pre_upernet": BASE_12,
    "swin-base-patch4-window12-in22k-384x384-pre_upernet": BASE_12,
    "swin-large-patch4-window7-in22k-pre_upernet": LARGE,
    "swin-large-patch4-window12-in22k-384x384-pre_upernet": LARGE_12,
}


class SwinUperNet(nn.Module):
    """Images [B, 3, H, W] of any size to logits [B, K, H/4, W/4] and auxiliary ones [B, K, H/16, W/16], rounded up.

    The encoder pads to whole patches, but the published code lays the logits over the image alone: so do we.
    """

    def __init__(self, sizes: SwinSizes, classes: int):
        super().__init__()
        self.backbone = Backbone(sizes)
        self.decode_head = UperHead(sizes.dims, sizes.head_width, classes, dropout=sizes.dropout)
        self.auxiliary_head = FcnHead(sizes.dims[2], sizes.aux_width, classes, dropout=sizes.dropout)

    def forward(self, images: Tensor) -> Output:
        maps = self.backbone(images)
        return Output(logits=self.decode_head(maps), aux=(self.auxiliary_head(maps[:3]),))


class Backbone(nn.Module):
    """Images to the maps of the four stages, [B, C, h, w], each normalised."""

    def __init__(self, sizes: SwinSizes):
        super().__init__()
        rates = drop_rates(sizes.drop_path, sizes.depths)
        self.patch_embed = PatchEmbed(sizes.width)
        self.stages = nn.ModuleList(Stage(sizes, stage, rates[stage]) for stage in range(4))
        for stage, dim in enumerate(sizes.dims):
            self.add_module(f"norm{stage}", nn.LayerNorm(dim))
        self.apply(draw_linear)

    def forward(self, images: Tensor) -> list[Tensor]:
        current, maps = self.patch_embed(images), []
        for number, stage in enumerate(self.stages):
            answer, current = stage(current)
            maps.append(self.get_submodule(f"norm{number}")(answer).permute(0, 3, 1, 2))
        return maps


class PatchEmbed(nn.Module):
    """Images [B, 3, H, W] to a map [B, H/4, W/4, C], sides rounded up."""

    def __init__(self, dim: int):
        super().__init__()
        self.projection = nn.Conv2d(3, dim, PATCH, PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        embedded: Tensor = self.norm(self.projection(padded(images, PATCH)).permute(0, 2, 3, 1))
        return embedded


class Stage(nn.Module):
    """Blocks whose windows lie straight and shifted in turn; answers their map, and what the next stage starts from."""

    def __init__(self, sizes: SwinSizes, stage: int, rates: list[float]):
        super().__init__()
        dim, shifts = sizes.dims[stage], (0, sizes.window // 2)
        self.blocks = nn.ModuleList(
            Block(dim, sizes.heads[stage], sizes.window, shift=shifts[number % 2], rate=rate)
            for number, rate in enumerate(rates)
        )
        self.downsample = PatchMerging(dim) if stage < 3 else None

    def forward(self, current: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            current = block(current)
        return current, current if self.downsample is None else self.downsample(current)


class PatchMerging(nn.Module):
    """Every 2x2 positions become one of twice the channels: [B, H, W, C] to [B, H/2, W/2, 2 * C], rounded up.

    The four positions lie together under each channel, which is how these weights were published; Swin's own files
    have the four blocks of channels one after the other, with the positions by columns.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, current: Tensor) -> Tensor:
        gathered = functional.pixel_unshuffle(padded(current.permute(0, 3, 1, 2), 2), 2).permute(0, 2, 3, 1)
        merged: Tensor = self.reduction(self.norm(gathered))
        return merged


class Block(nn.Module):
    """Attention inside windows, then a feed-forward part, each added to what it was given; [B, H, W, C] to the same."""

    def __init__(self, dim: int, heads: int, window: int, *, shift: int, rate: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ShiftedWindows(dim, heads, window, shift=shift)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, 4 * dim)
        self.rate = rate

    def forward(self, current: Tensor) -> Tensor:
        current = current + drop_path(self.attn(self.norm1(current)), self.rate, training=self.training)
        return current + drop_path(self.ffn(self.norm2(current)), self.rate, training=self.training)


class ShiftedWindows(nn.Module):
    """Cuts a map [B, H, W, C] into windows, moved by `shift` rows and columns, and puts their answers together."""

    def __init__(self, dim: int, heads: int, window: int, *, shift: int):
        super().__init__()
        self.window = window
        self.shift = shift
        self.w_msa = WindowAttention(dim, heads, window)

    def forward(self, current: Tensor) -> Tensor:
        _, height, width, _ = current.shape
        below, right = -height % self.window, -width % self.window
        current = functional.pad(current, (0, 0, 0, right, 0, below))
        tall, wide = height + below, width + right
        apart = None
        if self.shift:
            current = current.roll((-self.shift, -self.shift), (1, 2))
            apart = self._apart(tall, wide, current)
        answer = self._joined(self.w_msa(self._cut(current), apart), tall, wide)
        if self.shift:
            answer = answer.roll((self.shift, self.shift), (1, 2))
        return answer[:, :height, :width]

    def _cut(self, current: Tensor) -> Tensor:
        """[B, H, W, C] to [B, windows, N, C] with N = window * window positions."""
        batch, height, width, dim = current.shape
        side = self.window
        parts = current.reshape(batch, height // side, side, width // side, side, dim)
        return parts.transpose(2, 3).reshape(batch, -1, side * side, dim)

    def _joined(self, windows: Tensor, height: int, width: int) -> Tensor:
        """The way back from `_cut`."""
        side = self.window
        parts = windows.view(-1, height // side, width // side, side, side, windows.shape[-1])
        return parts.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])

    def _apart(self, height: int, width: int, like: Tensor) -> Tensor:
        """What is added to the attention [windows, N, N] of rolled windows: 0 inside a region, `APART` across."""
        rows, columns = (self._regions(side, like.device) for side in (height, width))
        regions = self._cut((3 * rows[:, None] + columns).view(1, height, width, 1))[0, :, :, 0]
        across = regions[:, :, None] != regions[:, None, :]
        return like.new_zeros(()).masked_fill(across, APART)

    def _regions(self, side: int, device: torch.device) -> Tensor:
        """[side]: 0 before the last window, in it 1 for what lay there before and 2 for what the roll brought."""
        places = torch.arange(side, device=device)
        return (places >= side - self.window).long() + (places >= side - self.shift).long()


class WindowAttention(nn.Module):
    """Positions of a window [B, windows, N, C] attend to each other, with a learned number by relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        # Not in the state dict, for it follows from the window; published files hold it, see `_derived`.
        self.register_buffer("relative_position_index", relative_positions(window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_load_state_dict_pre_hook(_derived)  # type: ignore[no-untyped-call]  # torch's method is not typed

    def forward(self, windows: Tensor, apart: Tensor | None) -> Tensor:
        batch, count, positions, dim = windows.shape
        # [B, windows, N, 3 * C] to three of [B, windows * heads, N, C / heads]: four dimensions suit fast kernels.
        packed = self.qkv(windows).view(batch, count, positions, 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        query, key, value = packed.flatten(2, 3)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        added = bias.expand(count, -1, -1, -1) if apart is None else bias + apart[:, None]
        mask = added.flatten(0, 1).to(query.dtype).expand(batch, -1, -1, -1)
        answer = functional.scaled_dot_product_attention(query, key, value, mask)
        answer = answer.view(batch, count, self.heads, positions, -1).transpose(2, 3)
        projected: Tensor = self.proj(answer.reshape(batch, count, positions, dim))
        return projected


def relative_positions(window: int) -> Tensor:
    """[N, N]: the row of the bias table for every pair of the N = window * window positions."""
    place = torch.arange(window)
    rows, columns = place.repeat_interleave(window), place.repeat(window)
    down, across = rows[:, None] - rows, columns[:, None] - columns
    return (down + window - 1) * (2 * window - 1) + across + window - 1


def _derived(
    module: nn.Module,
    state: dict[str, Tensor],
    prefix: str,
    _metadata: dict[str, object],
    _strict: bool,
    _missing: list[str],
    _unexpected: list[str],
    errors: list[str],
) -> None:
    """Takes the table of positions out of published weights; an error if it counts otherwise than ours."""
    assert isinstance(module, WindowAttention)
    given = state.pop(f"{prefix}relative_position_index", None)
    if given is not None and not torch.equal(given.cpu(), relative_positions(module.window)):
        errors.append(f"{prefix}relative_position_index is not that of windows of {module.window} positions")


def build(name_or_sizes: str | SwinSizes, classes: int) -> SwinUperNet:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, SwinSizes):
        return SwinUperNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no Swin is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return SwinUperNet(VARIANTS[name_or_sizes], classes)
