"""ViT and DeiT (Dosovitskiy, Touvron et al. 2021) with UPerNet's head, as MMSegmentation publishes them.

A plain transformer has maps of one size. "mln" (multi-level neck) makes a pyramid of them; without it the head
reads four maps of stride 16. "ln" normalises the last block's answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.facts import PublishedInput
from terrazzo.published.networks.heads import FcnHead, UperHead
from terrazzo.published.networks.necks import SMALLEST, MultiLevelNeck
from terrazzo.published.networks.vit import VisionTransformer, VitSizes
from terrazzo.published.networks.vit import renamed as renamed

INPUT = PublishedInput(smallest=SMALLEST)


@dataclass(frozen=True)
class VitUperSizes:
    """Sizes of one published ViT with its heads."""

    encoder: VitSizes
    """The transformer."""
    neck: bool = True
    """Whether the maps become a pyramid."""
    head_width: int = 512
    """Channels inside the head."""
    aux_width: int = 256
    """Channels inside the auxiliary head."""
    dropout: float = 0.1
    """Share of channels dropped before each classifier while training."""


BASE, SMALL = VitSizes(), VitSizes(384, 6)
BASE_NORMED, SMALL_NORMED = VitSizes(final_norm=True), VitSizes(384, 6, final_norm=True)

VARIANTS: Mapping[str, VitUperSizes] = {
    "vit_vit-b16_mln_upernet": VitUperSizes(VitSizes(drop_path=0.0)),
    "vit_vit-b16-ln_mln_upernet": VitUperSizes(BASE_NORMED),
    "vit_deit-s16_upernet": VitUperSizes(SMALL, neck=False),
    "vit_deit-s16_mln_upernet": VitUperSizes(SMALL),
    "vit_deit-s16-ln_mln_upernet": VitUperSizes(SMALL_NORMED),
    "vit_deit-b16_upernet": VitUperSizes(BASE, neck=False),
    "vit_deit-b16_mln_upernet": VitUperSizes(BASE),
    "vit_deit-b16-ln_mln_upernet": VitUperSizes(BASE_NORMED),
}


class VitUperNet(nn.Module):
    """Images [B, 3, H, W] of any size from 32 on to logits [B, K, H/4, W/4], rounded up to patches.

    Auxiliary logits are [B, K, H/32, W/32]. Without the neck both are [B, K, H/16, W/16].
    """

    def __init__(self, sizes: VitUperSizes, classes: int):
        super().__init__()
        dim = sizes.encoder.width
        self.backbone = VisionTransformer(sizes.encoder)
        self.neck = MultiLevelNeck(dim) if sizes.neck else None
        dims = [dim] * len(sizes.encoder.taps)
        self.decode_head = UperHead(dims, sizes.head_width, classes, dropout=sizes.dropout)
        self.auxiliary_head = FcnHead(dim, sizes.aux_width, classes, dropout=sizes.dropout)

    def forward(self, images: Tensor) -> Output:
        maps = self.backbone(images).maps()
        if self.neck is not None:
            maps = self.neck(maps)
        return Output(logits=self.decode_head(maps), aux=(self.auxiliary_head(maps),))


def build(name_or_sizes: str | VitUperSizes, classes: int) -> VitUperNet:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, VitUperSizes):
        return VitUperNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no ViT is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return VitUperNet(VARIANTS[name_or_sizes], classes)
