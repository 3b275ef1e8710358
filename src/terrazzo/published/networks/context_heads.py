"""Heads that look at the whole image: attention, dynamic filters, code words; beside those of `heads`.

As there, each is called with the encoder's maps, finest first, and answers logits [B, K, h, w] at the last one's size.
"""

from collections.abc import Sequence
from typing import Literal, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.published.networks.attention import (
    ChannelAttention,
    CrissCross,
    DisentangledNonLocal,
    GlobalContext,
    KeyedAttention,
    NonLocal,
    PooledAttention,
    PositionAttention,
)
from terrazzo.published.networks.blocks import ConvBNAct, size_of
from terrazzo.published.networks.heads import FcnHead, Head

ContextKind = Literal["nonlocal", "dnl", "gcnet", "ccnet", "danet", "ann", "isanet", "apcnet", "dmnet"]


class BlockHead(FcnHead):
    """FCN's head with a block between its two convolutions, run `times` times, under the name `name`."""

    def __init__(
        self, fan_in: int, channels: int, classes: int, name: str, block: nn.Module, *, times: int = 1, dropout: float
    ):
        super().__init__(fan_in, channels, classes, convs=2, concat_input=True, dropout=dropout)
        self.name, self.times = name, times
        self.add_module(name, block)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """What is classified, [B, channels, h, w]."""
        block, (before, after) = self.get_submodule(self.name), self.convs
        current = before(maps[-1])
        for _ in range(self.times):
            current = block(current)
        assert self.conv_cat is not None
        fused: Tensor = self.conv_cat(torch.cat([maps[-1], after(current)], dim=1))
        return fused


class DualHead(Head):
    """DANet (Fu et al. 2019): attention among positions and among channels, added; and each one's own logits."""

    def __init__(self, fan_in: int, channels: int, classes: int, *, inner: int = 64, dropout: float = 0.1):
        super().__init__(channels, classes, dropout=dropout)
        self.pam_in_conv = ConvBNAct(fan_in, channels, 3)
        self.pam = PositionAttention(channels, inner)
        self.pam_out_conv = ConvBNAct(channels, channels, 3)
        self.pam_conv_seg = nn.Conv2d(channels, classes, 1)
        self.cam_in_conv = ConvBNAct(fan_in, channels, 3)
        self.cam = ChannelAttention()
        self.cam_out_conv = ConvBNAct(channels, channels, 3)
        self.cam_conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The logits, those of positions alone and those of channels alone."""
        positions = self.pam_out_conv(self.pam(self.pam_in_conv(maps[-1])))
        channels = self.cam_out_conv(self.cam(self.cam_in_conv(maps[-1])))
        by_positions = self.pam_conv_seg(self.dropout(positions))
        by_channels = self.cam_conv_seg(self.dropout(channels))
        return self.classify(positions + channels), by_positions, by_channels


class AsymmetricHead(Head):
    """ANN (Zhu et al. 2019): the last map asks the one before it, then, narrowed, itself."""

    def __init__(
        self, low: int, high: int, channels: int, classes: int, *, inner: int | None = None, dropout: float = 0.1
    ):
        super().__init__(channels, classes, dropout=dropout)
        width = channels // 2 if inner is None else inner
        self.fusion = Asking(PooledAttention(low, high, width, high, shared=False), 2 * high, high, act=False)
        self.bottleneck = ConvBNAct(high, channels, 3)
        own = PooledAttention(channels, channels, width, channels, shared=True)
        self.context = Asking(own, 2 * channels, channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        low, high = maps[-2:]
        current = self.bottleneck(self.dropout(self.fusion(low, high)))
        return self.classify(self.context(current, current))


class Asking(nn.Module):
    """Attention, its answer joined to the map that asked and mixed: `stages.0`, `bottleneck`."""

    def __init__(self, attention: PooledAttention, joined: int, fan_out: int, *, act: bool = True):
        super().__init__()
        self.stages = nn.ModuleList([attention])
        self.bottleneck = ConvBNAct(joined, fan_out, act=act)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        (attention,) = self.stages
        mixed: Tensor = self.bottleneck(torch.cat([attention(low, high), high], dim=1))
        return mixed


class InterlacedHead(Head):
    """ISANet (Huang et al. 2019): pixels at the same place of all windows ask each other, then those of one window.

    The map is padded with zeros on all sides, and windows are `side` x `side`.
    """

    def __init__(
        self,
        fan_in: int,
        channels: int,
        classes: int,
        *,
        inner: int | None = None,
        side: int = 8,
        dropout: float = 0.1,
    ):
        super().__init__(channels, classes, dropout=dropout)
        width = channels // 2 if inner is None else inner
        self.side = side
        self.in_conv = ConvBNAct(fan_in, channels, 3)
        self.global_relation = KeyedAttention(channels, width, convs=2)
        self.local_relation = KeyedAttention(channels, width, convs=2)
        self.out_conv = ConvBNAct(2 * channels, channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        entered = self.in_conv(maps[-1])
        (height, width), side, channels = size_of(entered), self.side, entered.shape[1]
        below, right = -height % side, -width % side
        top, left = below // 2, right // 2
        padded = functional.pad(entered, (left, right - left, top, below - top))
        batch, rows, columns = len(padded), padded.shape[2] // side, padded.shape[3] // side
        cut = padded.view(batch, channels, rows, side, columns, side)
        # [B * side * side, C, rows, columns]: what lies at one place of every window.
        far = self.global_relation(cut.permute(0, 3, 5, 1, 2, 4).reshape(-1, channels, rows, columns))
        cut = far.view(batch, side, side, channels, rows, columns)
        # [B * rows * columns, C, side, side]: the windows.
        near = self.local_relation(cut.permute(0, 4, 5, 3, 1, 2).reshape(-1, channels, side, side))
        cut = near.view(batch, rows, columns, channels, side, side)
        whole = cut.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, rows * side, columns * side)
        context = whole[:, :, top : top + height, left : left + width]
        return self.classify(self.out_conv(torch.cat([context, entered], dim=1)))


class BranchesHead(Head):
    """The last map joined to what several readers of it say: `name`.0 ..., `bottleneck`."""

    def __init__(
        self, fan_in: int, channels: int, classes: int, name: str, branches: Sequence[nn.Module], *, dropout: float
    ):
        super().__init__(channels, classes, dropout=dropout)
        self.name = name
        self.add_module(name, nn.ModuleList(branches))
        self.bottleneck = ConvBNAct(fan_in + len(branches) * channels, channels, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        branches = self.get_submodule(self.name).children()
        joined = torch.cat([maps[-1], *(branch(maps[-1]) for branch in branches)], dim=1)
        return self.classify(self.bottleneck(joined))


class AdaptiveContext(nn.Module):
    """APCNet (He et al. 2019): pixels weigh the averages of a grid of `scale` x `scale` cells."""

    def __init__(self, fan_in: int, channels: int, scale: int):
        super().__init__()
        self.scale = scale
        self.pooled_redu_conv = ConvBNAct(fan_in, channels)
        self.input_redu_conv = ConvBNAct(fan_in, channels)
        self.global_info = ConvBNAct(channels, channels)
        self.gla = nn.Conv2d(channels, scale**2, 1)
        self.residual_conv = ConvBNAct(channels, channels)
        self.fusion_conv = ConvBNAct(channels, channels)

    def forward(self, current: Tensor) -> Tensor:
        regions = self.pooled_redu_conv(functional.adaptive_avg_pool2d(current, self.scale)).flatten(2)
        narrow = self.input_redu_conv(current)
        whole = self.global_info(functional.adaptive_avg_pool2d(narrow, 1))
        shares = self.gla(narrow + whole).sigmoid().flatten(2)  # [B, scale * scale, h * w]
        context = (regions @ shares).view_as(narrow)
        fused: Tensor = self.fusion_conv(functional.relu(self.residual_conv(context) + narrow))
        return fused


class DynamicFilters(nn.Module):
    """DMNet (He et al. 2019): filters of `size` x `size`, drawn from the image itself, one for each channel."""

    def __init__(self, fan_in: int, channels: int, size: int):
        super().__init__()
        self.size = size
        self.filter_gen_conv = nn.Conv2d(fan_in, channels, 1)
        self.input_redu_conv = ConvBNAct(fan_in, channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, current: Tensor) -> Tensor:
        filters = self.filter_gen_conv(functional.adaptive_avg_pool2d(current, self.size))
        narrow = self.input_redu_conv(current)
        # Every channel of every image is convolved with its own filter: they are the groups of one convolution.
        images = narrow.flatten(0, 1).unsqueeze(0)
        answer = functional.conv2d(
            images, filters.flatten(0, 1).unsqueeze(1), padding=self.size // 2, groups=images.shape[1]
        )
        normed: Tensor = self.norm(answer.view_as(narrow))
        return functional.relu(normed, inplace=True)


def context_head(
    kind: ContextKind, dims: Sequence[int], channels: int, classes: int, *, dropout: float
) -> BlockHead | DualHead | AsymmetricHead | InterlacedHead | BranchesHead:
    """A head by its name, for maps of `dims` channels."""
    *_, low, last = dims
    match kind:
        case "nonlocal":
            return BlockHead(last, channels, classes, "nl_block", NonLocal(channels), dropout=dropout)
        case "dnl":
            return BlockHead(last, channels, classes, "dnl_block", DisentangledNonLocal(channels), dropout=dropout)
        case "gcnet":
            return BlockHead(last, channels, classes, "gc_block", GlobalContext(channels), dropout=dropout)
        case "ccnet":
            return BlockHead(last, channels, classes, "cca", CrissCross(channels), times=2, dropout=dropout)
        case "danet":
            return DualHead(last, channels, classes, dropout=dropout)
        case "ann":
            return AsymmetricHead(low, last, channels, classes, dropout=dropout)
        case "isanet":
            return InterlacedHead(last, channels, classes, dropout=dropout)
        case "apcnet":
            grids = [AdaptiveContext(last, channels, scale) for scale in (1, 2, 3, 6)]
            return BranchesHead(last, channels, classes, "acm_modules", grids, dropout=dropout)
        case "dmnet":
            filters = [DynamicFilters(last, channels, size) for size in (1, 3, 5, 7)]
            return BranchesHead(last, channels, classes, "dcm_modules", filters, dropout=dropout)
        case _:
            assert_never(kind)
