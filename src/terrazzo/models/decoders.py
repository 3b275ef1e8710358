"""Decoders over the maps of any encoder: linear, feature pyramid, UPer, SegFormer. Each ends in its classifier.

All read maps [B, C, h, w], finest first, and answer logits [B, K, h, w] at the first one's size. A plain vision
transformer's maps have one size; `Pyramid` makes the sizes of the usual stages of them.
"""

from collections.abc import Sequence
from math import log2
from typing import Annotated, Literal, assert_never, cast

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import Config, InputError
from terrazzo.models.eomt import EomtDecoder
from terrazzo.published.networks.blocks import ConvBNAct, MapNorm, joined, resize, size_of
from terrazzo.published.networks.heads import Head, UperHead


class LinearDecoder(Config):
    """Nothing but a normalisation and a 1x1 convolution of the last map, as encoders are probed (Oquab et al. 2023)."""

    kind: Literal["linear"] = "linear"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the last map's channels dropped while training."""


class FpnDecoder(Config):
    """A feature pyramid, its levels enlarged by convolutions and added (Kirillov et al. 2019, Panoptic FPN)."""

    kind: Literal["fpn"] = "fpn"
    width: PositiveInt = 256
    """Channels of the pyramid; the levels are added with half as many."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the channels dropped before the classifier while training."""


class UperDecoder(Config):
    """Pyramid pooling of the last map and a feature pyramid, all levels joined (Xiao et al. 2018, UPerNet)."""

    kind: Literal["uper"] = "uper"
    width: PositiveInt = 512
    """Channels of every level."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the channels dropped before the classifier while training."""


class SegFormerDecoder(Config):
    """Every map to the same number of channels, enlarged and fused by 1x1 convolutions (Xie et al. 2021)."""

    kind: Literal["segformer"] = "segformer"
    width: PositiveInt = 256
    """Channels of every map and of their mixture."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the channels dropped before the classifier while training."""


PixelDecoder = LinearDecoder | FpnDecoder | UperDecoder | SegFormerDecoder
DecoderConfig = Annotated[PixelDecoder | EomtDecoder, Field(discriminator="kind")]

CLASSIFIER = "conv_seg"
"""Name of the last layer of every decoder here."""


def pixel_decoder(cfg: PixelDecoder, dims: Sequence[int], classes: int) -> Head:
    """The decoder of maps with `dims` channels, finest first; `linear` reads the last one only."""
    match cfg:
        case LinearDecoder():
            return LinearHead(dims[-1], classes, dropout=cfg.dropout)
        case FpnDecoder():
            return FpnHead(dims, cfg.width, classes, dropout=cfg.dropout)
        case UperDecoder():
            return BatchUperHead(dims, cfg.width, classes, dropout=cfg.dropout)
        case SegFormerDecoder():
            return SegFormerHead(dims, cfg.width, classes, dropout=cfg.dropout)
        case _:
            assert_never(cfg)


class LinearHead(Head):
    """Batch normalisation of the last map, then the classifier."""

    def __init__(self, dim: int, classes: int, *, dropout: float):
        super().__init__(dim, classes, dropout=dropout)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classify(self.norm(maps[-1]))


class FpnHead(Head):
    """Each map to `width` channels and added to the enlarged coarser one; the levels, enlarged step by step, summed."""

    def __init__(self, dims: Sequence[int], width: int, classes: int, *, dropout: float):
        narrow = max(1, width // 2)
        super().__init__(narrow, classes, dropout=dropout)
        self.laterals = nn.ModuleList(nn.Conv2d(dim, width, 1) for dim in dims)
        # Level n is n steps coarser than the first, and takes n convolutions to get there.
        self.levels = nn.ModuleList(
            nn.ModuleList(ConvBNAct(narrow if step else width, narrow, 3) for step in range(max(1, level)))
            for level in range(len(dims))
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        pyramid = [lateral(current) for lateral, current in zip(self.laterals, maps, strict=True)]
        for level in range(len(pyramid) - 2, -1, -1):
            pyramid[level] = pyramid[level] + resize(pyramid[level + 1], size_of(pyramid[level]))
        sizes = [size_of(current) for current in pyramid]
        first, *coarser = (self._enlarged(level, current, sizes) for level, current in enumerate(pyramid))
        return self.classify(sum(coarser, first))

    def _enlarged(self, level: int, current: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Level `level` of the pyramid at the first one's size."""
        for step, conv in enumerate(cast(nn.ModuleList, self.levels[level])):
            current = resize(conv(current), sizes[max(0, level - step - 1)])
        return current


class BatchUperHead(UperHead):
    """UPerNet's head, which says what it needs of a batch."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        if self.training and len(maps[-1]) == 1:
            raise InputError(
                "model.decoder.kind=uper normalises a map of one cell over the batch, and was given a single image to "
                "train on; train on two or more at a time (batch, step.accumulate), or type model.decoder.kind=fpn"
            )
        return super().forward(maps)


class SegFormerHead(Head):
    """Every map to `width` channels, all enlarged to the first one's size and fused by a 1x1 convolution."""

    def __init__(self, dims: Sequence[int], width: int, classes: int, *, dropout: float):
        super().__init__(width, classes, dropout=dropout)
        self.projections = nn.ModuleList(nn.Conv2d(dim, width, 1) for dim in dims)
        self.fusion = ConvBNAct(len(dims) * width, width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        projected = [project(current) for project, current in zip(self.projections, maps, strict=True)]
        return self.classify(functional.relu(self.fusion.bn(joined(self.fusion.conv, projected))))


class Pyramid(nn.Module):
    """Maps [B, dim, h, w] of one size to maps of `finest`, `finest` / 2, ... times that size (Bao et al. 2022, BEiT).

    Larger ones are made by transposed convolutions, smaller ones by the largest of each group of cells.
    """

    def __init__(self, dim: int, count: int, finest: int):
        super().__init__()
        first = int(log2(finest))
        self.levels = nn.ModuleList(_rescaled(dim, first - level) for level in range(count))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [level(current) for level, current in zip(self.levels, maps, strict=True)]


def _rescaled(dim: int, doublings: int) -> nn.Module:
    """A map with 2 ** doublings times the sides."""
    if doublings < 0:
        side = 2**-doublings
        return nn.MaxPool2d(side, side, ceil_mode=True)
    layers: list[nn.Module] = []
    for _ in range(doublings):
        layers += [nn.ConvTranspose2d(dim, dim, 2, 2), MapNorm(dim), nn.GELU()]
    return nn.Sequential(*layers[:-2])  # the last convolution's answer is the map
