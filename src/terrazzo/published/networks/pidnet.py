"""PIDNet (Xu et al. 2023, "A Real-time Semantic Segmentation Network Inspired by PID Controllers").

Three branches after a common stem: P keeps detail at stride 8, I integrates context down to stride 64, D, at stride 8,
learns where boundaries are and decides, pixel by pixel, which of the two others is believed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, draw_conv, resize, size_of
from terrazzo.published.networks.dual_resolution import (
    BasicBlock,
    Dappm,
    NormActConv,
    Pappm,
    basic_layer,
    bottleneck_layer,
    stem,
)


@dataclass(frozen=True)
class PIDNetSizes:
    """What tells one published PIDNet from another."""

    width: int
    """Channels of the first convolution; all others are multiples."""
    head_width: int
    """Channels before the classifiers of P and I."""
    pooling_width: int = 96
    """Channels of each scale of the pooled context."""
    blocks: int = 2
    """Residual blocks in the layers of the stem and of P."""
    context_blocks: int = 3
    """Residual blocks in the layers of I."""
    light: bool = True
    """Whether pooling, the D branch and the fusion at the end are the cheaper ones."""
    dropout: float = 0.1
    """Share of channels dropped before the main classifier while training."""


VARIANTS = {
    "pidnet-s": PIDNetSizes(width=32, head_width=128),
    "pidnet-m": PIDNetSizes(width=64, head_width=128),
    "pidnet-l": PIDNetSizes(width=64, head_width=256, pooling_width=112, blocks=3, context_blocks=4, light=False),
}
"""The published sizes."""


class PIDNet(nn.Module):
    """Images [B, 3, H, W] to logits [B, K, H/8, W/8].

    `aux`, as large, holds the logits of the P branch and those of D that a pixel lies on a boundary [B, 1, H/8, W/8].
    The boundary head's parameters ask for no gradient until somebody who has a loss of boundaries calls
    `decode_head.train_boundary()`.
    """

    def __init__(self, sizes: PIDNetSizes, classes: int):
        super().__init__()
        self.backbone = Backbone(sizes)
        self.decode_head = Head(4 * sizes.width, sizes.head_width, classes, sizes.dropout)

    def forward(self, images: Tensor) -> Output:
        detail, fused, boundary = self.backbone(images)
        head = self.decode_head
        aux = (head.detail(detail), head.boundary(boundary))
        return Output(logits=head.segment(fused), aux=aux, align_corners=True, edges=(1,))


class Backbone(nn.Module):
    """Images to maps at stride 8: P [B, 2w, h, w] and the fused answer [B, 4w, h, w], and D [B, 2w, h, w]."""

    def __init__(self, sizes: PIDNetSizes):
        super().__init__()
        width, high, light = sizes.width, 2 * sizes.width, sizes.light
        self.stem = stem(width, sizes.blocks, shortcut)
        self.i_branch_layers = nn.ModuleList(
            [
                basic_layer(high, 4 * width, sizes.context_blocks, shortcut, stride=2),
                basic_layer(4 * width, 8 * width, sizes.context_blocks, shortcut, stride=2),
                bottleneck_layer(8 * width, 8 * width, 2, shortcut, stride=2),
            ]
        )
        self.p_branch_layers = nn.ModuleList(
            [
                basic_layer(high, high, sizes.blocks, shortcut),
                basic_layer(high, high, sizes.blocks, shortcut),
                bottleneck_layer(high, high, 1, shortcut),
            ]
        )
        first = width if light else high  # channels of D before its second layer
        self.d_branch_layers = nn.ModuleList(
            [
                BasicBlock(high, first, 1, shortcut, act=False),
                bottleneck_layer(width, width, 1, shortcut)
                if light
                else BasicBlock(high, high, 1, shortcut, act=False),
                bottleneck_layer(high, high, 1, shortcut),
            ]
        )
        self.compression_1 = ConvBNAct(4 * width, high, act=False)
        self.compression_2 = ConvBNAct(8 * width, high, act=False)
        self.pag_1 = PixelAttention(high, width)
        self.pag_2 = PixelAttention(high, width)
        self.diff_1 = ConvBNAct(4 * width, first, 3, act=False)
        self.diff_2 = ConvBNAct(8 * width, high, 3, act=False)
        pooling, fusion = (Pappm, LightBoundaryFusion) if light else (Dappm, BoundaryFusion)
        self.spp = pooling(16 * width, sizes.pooling_width, 4 * width)
        self.dfm = fusion(4 * width)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = i = d = self.stem(images)
        exchanges = (
            (self.compression_1, self.pag_1, self.diff_1),
            (self.compression_2, self.pag_2, self.diff_2),
        )
        details, boundaries = [], []
        # P's own size, not the image's divided by 8, which the published network takes: the same where 8 divides the
        # sides, and it makes no other sizes fail.
        for stage, (compression, attention, difference) in enumerate(exchanges):
            i = functional.relu(self.i_branch_layers[stage](i))
            details.append(attention(self.p_branch_layers[stage](p), compression(i)))
            d = self.d_branch_layers[stage](d)
            boundaries.append(d + resize(difference(i), size_of(d)))
            p, d = functional.relu(details[-1]), functional.relu(boundaries[-1])
        p, d = self.p_branch_layers[2](p), self.d_branch_layers[2](d)
        context = resize(self.spp(self.i_branch_layers[2](i)), size_of(p))
        return details[0], self.dfm(p, context, d), boundaries[1]


class PixelAttention(nn.Module):
    """P takes from I where the two agree: [B, C, h, w] and a smaller [B, C, h', w'] to [B, C, h, w]."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.f_i = ConvBNAct(channels, width, act=False)
        self.f_p = ConvBNAct(channels, width, act=False)

    def forward(self, p: Tensor, i: Tensor) -> Tensor:
        similarity = (self.f_p(p) * resize(self.f_i(i), size_of(p))).sum(dim=1, keepdim=True)
        trust = torch.sigmoid(similarity)
        return trust * resize(i, size_of(p)) + (1 - trust) * p


class BoundaryFusion(nn.Module):
    """P near boundaries, I elsewhere, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = NormActConv(channels, channels, 3)

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        near = torch.sigmoid(d)
        fused: Tensor = self.conv(near * p + (1 - near) * i)
        return fused


class LightBoundaryFusion(nn.Module):
    """The same with two 1x1 convolutions in place of the 3x3 one: each branch whole, and its share of the other."""

    def __init__(self, channels: int):
        super().__init__()
        self.f_p = ConvBNAct(channels, channels, act=False)
        self.f_i = ConvBNAct(channels, channels, act=False)

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        near = torch.sigmoid(d)
        fused: Tensor = self.f_p((1 - near) * i + p) + self.f_i(i + near * p)
        return fused


class HeadPart(nn.Module):
    """Convolution and normalisation before a classifier: `conv` (bn, conv), `norm`."""

    def __init__(self, fan_in: int, width: int):
        super().__init__()
        self.conv = NormActConv(fan_in, width, 3)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, current: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(current)), inplace=True)


class Head(nn.Module):
    """One classifier for each branch: I (the main one), P and D."""

    def __init__(self, fan_in: int, width: int, classes: int, dropout: float):
        super().__init__()
        self.conv_seg = nn.Conv2d(width, classes, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.i_head = HeadPart(fan_in, width)
        self.p_head = HeadPart(fan_in // 2, width)
        self.d_head = HeadPart(fan_in // 2, fan_in // 4)
        self.p_cls_seg = nn.Conv2d(width, classes, 1)
        self.d_cls_seg = nn.Conv2d(fan_in // 4, 1, 1)
        for classifier in (self.conv_seg, self.p_cls_seg, self.d_cls_seg):
            draw_conv(classifier)
        self.train_boundary(False)

    def train_boundary(self, wanted: bool = True) -> None:
        """Whether the boundary head's parameters ask for gradients, which only a loss on boundaries gives them."""
        for part in (self.d_head, self.d_cls_seg):
            part.requires_grad_(wanted)

    def segment(self, fused: Tensor) -> Tensor:
        """The logits [B, K, h, w]."""
        logits: Tensor = self.conv_seg(self.dropout(self.i_head(fused)))
        return logits

    def detail(self, p: Tensor) -> Tensor:
        """The P branch's own logits [B, K, h, w]."""
        logits: Tensor = self.p_cls_seg(self.p_head(p))
        return logits

    def boundary(self, d: Tensor) -> Tensor:
        """The D branch's boundary logits [B, 1, h, w]."""
        logits: Tensor = self.d_cls_seg(self.d_head(d))
        return logits


def shortcut(fan_in: int, fan_out: int, stride: int) -> nn.Module:
    """`conv`, `bn`."""
    return ConvBNAct(fan_in, fan_out, stride=stride, act=False)


def build(name_or_sizes: str | PIDNetSizes, classes: int) -> PIDNet:
    """A PIDNet with fresh weights, by the name of a published size or by its sizes.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, PIDNetSizes):
        return PIDNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no PIDNet is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return PIDNet(VARIANTS[name_or_sizes], classes)
