"""Small networks of the transformer and ConvNeXt families, one of each form that is published."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from terrazzo.published.networks import (
    beit_upernet,
    convnext_upernet,
    dpt_vit,
    knet,
    poolformer_fpn,
    setr_vit,
    twins,
    vit_upernet,
)
from terrazzo.published.networks.beit_upernet import BeitSizes
from terrazzo.published.networks.convnext_upernet import ConvNextSizes
from terrazzo.published.networks.dpt_vit import DptSizes
from terrazzo.published.networks.knet import KNetSizes
from terrazzo.published.networks.poolformer_fpn import PoolFormerSizes
from terrazzo.published.networks.setr_vit import SetrSizes
from terrazzo.published.networks.swin_upernet import SwinSizes
from terrazzo.published.networks.twins import TwinsSizes
from terrazzo.published.networks.vit import VitSizes
from terrazzo.published.networks.vit_upernet import VitUperSizes

CLASSES = 5
FAMILIES = (beit_upernet, convnext_upernet, dpt_vit, knet, poolformer_fpn, setr_vit, twins, vit_upernet)

TAPS = (0, 1, 2, 3)
VIT = VitSizes(24, 3, 4, (4, 5), TAPS)
NORMED = VitSizes(24, 3, 4, (4, 5), TAPS, final_norm=True)
SETR = VitSizes(24, 3, 4, (4, 5), TAPS, interpolation="bilinear", drop_path=0.0)
TOKENLESS = VitSizes(24, 3, 4, (4, 5), TAPS, class_token=False, interpolation="bilinear", drop_path=0.0)
SQUARE = VitSizes(24, 3, 4, (4, 4), TAPS, eps=1e-5, drop_path=0.0)
PCPVT = TwinsSizes(
    (2, 3, 2, 2), (8, 16, 24, 32), (1, 2, 3, 4), (4, 2, 2, 2), neck_width=16, head_width=12, aux_width=10
)
SVT = TwinsSizes(
    (2, 3, 2, 2), (8, 16, 24, 32), (1, 2, 3, 4), (4, 2, 2, 2), windows=7, neck_width=16, head_width=12, aux_width=10
)


TINY_SWIN = SwinSizes(8, (2, 2, 2, 2), (1, 2, 2, 4), window=3)
TINY_VIT = VitUperSizes(VIT, neck=False, head_width=16, aux_width=12)
TINY_BEIT = BeitSizes(24, 3, 4, (8, 10), TAPS, head_width=16, aux_width=12)

SMALL: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: vit_upernet.build(TINY_VIT, CLASSES),
    "vit mln": lambda: vit_upernet.build(VitUperSizes(VIT, head_width=16, aux_width=12), CLASSES),
    "vit ln mln": lambda: vit_upernet.build(VitUperSizes(NORMED, head_width=16, aux_width=12), CLASSES),
    "beit": lambda: beit_upernet.build(TINY_BEIT, CLASSES),
    "mae": lambda: beit_upernet.build(replace(TINY_BEIT, positions=True), CLASSES),
    "setr naive": lambda: setr_vit.build(SetrSizes(SETR, "naive", width=16), CLASSES),
    "setr naive city": lambda: setr_vit.build(SetrSizes(SETR, "naive", aux_convs=1, width=16), CLASSES),
    "setr pup": lambda: setr_vit.build(SetrSizes(SETR, "pup", width=16), CLASSES),
    "setr mla": lambda: setr_vit.build(SetrSizes(TOKENLESS, "mla", width=16), CLASSES),
    "dpt": lambda: dpt_vit.build(DptSizes(SQUARE, (6, 8, 10, 12), 16), CLASSES),
    "convnext": lambda: convnext_upernet.build(ConvNextSizes(8, (1, 2, 3, 1), head_width=16, aux_width=12), CLASSES),
    "poolformer": lambda: poolformer_fpn.build(
        PoolFormerSizes((1, 2, 3, 1), (8, 12, 16, 20), neck_width=16, head_width=12), CLASSES
    ),
    "knet": lambda: knet.build(KNetSizes(TINY_SWIN, width=16, groups=2, heads=4, hidden=20, aux_width=12), CLASSES),
    "pcpvt fpn": lambda: twins.build(PCPVT, CLASSES),
    "pcpvt uper": lambda: twins.build(twins.upernet(PCPVT), CLASSES),
    "svt fpn": lambda: twins.build(SVT, CLASSES),
    "svt uper": lambda: twins.build(twins.upernet(SVT), CLASSES),
}
