"""SETR (Zheng et al. 2021): ViT-L and three ways to enlarge its answer, as MMSegmentation publishes them.

"naive" enlarges once, "pup" step by step, "mla" adds up four depths from the last one down.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import torch
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, MapNorm, resize, size_of
from terrazzo.published.networks.heads import FcnHead, Head
from terrazzo.published.networks.vit import VisionTransformer, VitSizes
from terrazzo.published.networks.vit import renamed as renamed

EPS = 1e-6
"""Added to the variance where a map is normalised before a head."""


@dataclass(frozen=True)
class SetrSizes:
    """Sizes of one published SETR."""

    encoder: VitSizes
    """The transformer."""
    decoder: Literal["naive", "pup", "mla"]
    """The head."""
    aux_convs: int = 2
    """Convolutions of each auxiliary head, each followed by an enlargement by 4 ("mla" has none)."""
    width: int = 256
    """Channels inside the heads."""


DEEP = VitSizes(1024, 16, 24, taps=(9, 14, 19, 23), interpolation="bilinear", drop_path=0.0)
EVEN = replace(DEEP, taps=(5, 11, 17, 23), class_token=False)
CITY = (48, 48)

VARIANTS: Mapping[str, SetrSizes] = {
    "setr_vit-l_naive": SetrSizes(DEEP, "naive"),
    "setr_vit-l_naive_8xb1-80k_cityscapes": SetrSizes(replace(DEEP, positions=CITY), "naive", aux_convs=1),
    "setr_vit-l_pup": SetrSizes(DEEP, "pup"),
    "setr_vit-l_pup_8xb1-80k_cityscapes": SetrSizes(replace(DEEP, positions=CITY), "pup"),
    "setr_vit-l_mla": SetrSizes(EVEN, "mla"),
    "setr_vit-l-mla": SetrSizes(EVEN, "mla"),
    "setr_vit-l_mla_8xb1-80k_cityscapes": SetrSizes(replace(EVEN, positions=CITY), "mla"),
}


class Setr(nn.Module):
    """Images [B, 3, H, W] of any size to logits; h = H/16 rounded up, w alike.

    naive and mla: [B, K, 4 * h, 4 * w]; pup: [B, K, 16 * h, 16 * w]. The auxiliary ones of naive and pup are 4 times
    h and w for each of their convolutions, mla's h and w. The published code lays all of them over the image alone.
    """

    def __init__(self, sizes: SetrSizes, classes: int):
        super().__init__()
        dim, width = sizes.encoder.width, sizes.width
        self.backbone = VisionTransformer(sizes.encoder)
        self.neck: nn.Module | None = None
        self.decode_head: nn.Module
        match sizes.decoder:
            case "naive" | "pup":
                # 1x1 convolutions in "naive", 3x3 ones in "pup"
                kernel, convs, scale = (1, 1, 4) if sizes.decoder == "naive" else (3, 4, 2)
                self.decode_head = GrowingHead(dim, width, classes, convs=convs, kernel=kernel, scale=scale)
                self.auxiliary_head = nn.ModuleList(
                    GrowingHead(dim, width, classes, convs=sizes.aux_convs, kernel=kernel, scale=4)
                    for _ in sizes.encoder.taps[:-1]
                )
            case "mla":
                self.neck = AggregatingNeck(dim, width, len(sizes.encoder.taps))
                self.decode_head = MultiLevelHead(width, width // 2, classes, maps=len(sizes.encoder.taps))
                self.auxiliary_head = nn.ModuleList(
                    FcnHead(width, width, classes, convs=0, dropout=0.0) for _ in sizes.encoder.taps
                )
            case _:
                assert_never(sizes.decoder)

    def forward(self, images: Tensor) -> Output:
        maps = self.backbone(images).maps()
        if self.neck is not None:
            maps = self.neck(maps)
        aux = tuple(head([current]) for head, current in zip(self.auxiliary_head, maps, strict=False))
        return Output(logits=self.decode_head(maps), aux=aux)


class GrowingHead(Head):
    """Normalises the last map, then convolves and enlarges it by turns."""

    def __init__(self, fan_in: int, channels: int, classes: int, *, convs: int, kernel: int, scale: int):
        super().__init__(channels, classes, dropout=0.0)
        self.scale = scale
        self.norm = MapNorm(fan_in, eps=EPS)
        inputs = [fan_in, *[channels] * (convs - 1)]
        self.up_convs = nn.ModuleList(nn.Sequential(ConvBNAct(width, channels, kernel)) for width in inputs)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        current = self.norm(maps[-1])
        for convolve in self.up_convs:
            current = enlarged(convolve(current), self.scale)
        return self.classify(current)


class AggregatingNeck(nn.Module):
    """Every map normalised and projected; sums from the last one up, each smoothed: the deepest comes first."""

    def __init__(self, dim: int, channels: int, maps: int):
        super().__init__()
        self.norm = nn.ModuleList(MapNorm(dim, eps=EPS) for _ in range(maps))
        self.mla = nn.ModuleDict(
            {
                "channel_proj": nn.ModuleList(ConvBNAct(dim, channels) for _ in range(maps)),
                "feat_extract": nn.ModuleList(ConvBNAct(channels, channels, 3) for _ in range(maps)),
            }
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        project, smooth = self.mla["channel_proj"], self.mla["feat_extract"]
        assert isinstance(project, nn.ModuleList)
        assert isinstance(smooth, nn.ModuleList)
        projected = [conv(norm(one)) for conv, norm, one in zip(project, self.norm, maps, strict=True)]
        sums = [projected.pop()]
        while projected:
            sums.append(sums[-1] + projected.pop())
        return [conv(one) for conv, one in zip(smooth, sums, strict=True)]


class MultiLevelHead(Head):
    """Every map convolved twice and enlarged by 4; all are joined."""

    def __init__(self, fan_in: int, channels: int, classes: int, *, maps: int):
        super().__init__(maps * channels, classes, dropout=0.0)
        self.up_convs = nn.ModuleList(
            nn.Sequential(ConvBNAct(fan_in, channels, 3), ConvBNAct(channels, channels, 3)) for _ in range(maps)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        grown = [enlarged(convolve(current), 4) for convolve, current in zip(self.up_convs, maps, strict=True)]
        return self.classify(torch.cat(grown, dim=1))


def enlarged(current: Tensor, scale: int) -> Tensor:
    """[B, C, h, w] to [B, C, scale * h, scale * w], bilinear."""
    height, width = size_of(current)
    return resize(current, (scale * height, scale * width))


def build(name_or_sizes: str | SetrSizes, classes: int) -> Setr:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, SetrSizes):
        return Setr(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no SETR is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return Setr(VARIANTS[name_or_sizes], classes)
