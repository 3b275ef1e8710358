"""One small network of every form of every published family: sizes that nobody published, and the same code."""

from dataclasses import replace
from typing import Any, get_args

from terrazzo.published.loading import Architecture
from terrazzo.published.networks import (
    beit_upernet,
    bisenetv1,
    bisenetv2,
    cgnet,
    convnext_upernet,
    ddrnet,
    deeplab_mobilenet,
    dilated,
    dpt_vit,
    erfnet,
    espnet,
    fast_scnn,
    fastfcn,
    hrnet,
    icnet,
    knet,
    mobilenet_v3,
    ocrnet,
    pidnet,
    pointrend,
    poolformer_fpn,
    segformer_mit,
    segformer_paper,
    segmenter_vit,
    segnext,
    semantic_fpn,
    setr_vit,
    stdc,
    swin_upernet,
    twins,
    unet_s5,
    vit_upernet,
)
from terrazzo.published.networks.resnet_v1c import D8, D32
from terrazzo.published.networks.vit import VitSizes

TAPS = (0, 1, 2, 3)
VIT = VitSizes(16, 2, 4, (4, 5), TAPS, drop_path=0.0)
SMALL_D8, SMALL_D32 = replace(D8, depth=18), replace(D32, depth=18)
MIT = segformer_mit.MitSizes((8, 16, 16, 24), (1, 1, 1, 1), (1, 2, 2, 3), head_channels=16, drop_path=0.0)
HRNET = hrnet.HRNetSizes(width=4, blocks=1, modules=(1, 1, 1))
PCPVT = twins.TwinsSizes(
    (1, 2, 1, 1), (8, 16, 16, 24), (1, 2, 2, 3), (2, 2, 2, 2), drop_path=0.0, neck_width=16, head_width=12, aux_width=8
)
SWIN = swin_upernet.SwinSizes(8, (2, 2, 1, 1), (1, 2, 2, 4), window=3, drop_path=0.0, head_width=16, aux_width=8)
SETR = {"encoder": replace(VIT, interpolation="bilinear"), "width": 16}


def attending() -> dict[str, Any]:
    """Networks over the smallest ResNet, one for each of their heads."""
    kinds = [kind for part in get_args(dilated.HeadKind) for kind in (get_args(part) or (part,))]
    shared = {"channels": 32, "aux_channels": 8, "fine_channels": 8}
    return {kind: dilated.DilatedSizes(kind, SMALL_D32 if kind == "upernet" else SMALL_D8, **shared) for kind in kinds}


SIZES: dict[Any, dict[str, Any]] = {
    beit_upernet: {
        "beit": beit_upernet.BeitSizes(16, 2, 4, (4, 5), TAPS, drop_path=0.0, head_width=16, aux_width=8),
        "mae": beit_upernet.BeitSizes(
            16, 2, 4, (4, 5), TAPS, positions=True, drop_path=0.0, head_width=16, aux_width=8
        ),
    },
    bisenetv1: {"bisenetv1": bisenetv1.BiSeNetV1Sizes(SMALL_D32, (8, 8, 8, 16), context=16, fused=16, aux=8)},
    bisenetv2: {
        "bisenetv2": bisenetv2.BiSeNetV2Sizes(
            (8, 8, 16), (1, 1, 1), (4, 8, 8, 16), (1, 1, 1), expansion=2, head=16, aux=(4, 4, 4, 4)
        )
    },
    cgnet: {"cgnet": cgnet.CgNetSizes((16, 16, 32), (2, 2), shares=(2, 2))},
    convnext_upernet: {
        "convnext": convnext_upernet.ConvNextSizes(8, (1, 1, 1, 1), drop_path=0.0, head_width=16, aux_width=8)
    },
    ddrnet: {"ddrnet": ddrnet.DDRNetSizes(width=8, head_width=8, pooling_width=8)},
    deeplab_mobilenet: {
        "deeplab": deeplab_mobilenet.DeepLabMobileNetSizes(width_multiplier=0.1, channels=8, dropout=0.0)
    },
    dilated: attending(),
    dpt_vit: {"dpt": dpt_vit.DptSizes(replace(VIT, positions=(4, 4), eps=1e-5), (6, 8, 10, 12), 16)},
    erfnet: {"erfnet": erfnet.ErfNetSizes((4, 16, 32), 1, (2, 4), 1, 16)},
    espnet: {
        "espnet": espnet.EspNetSizes(1, 1, width=6),
        "espnet cityscapes": espnet.EspNetSizes(1, 1, width=6, image_in_decoder=False),
    },
    fastfcn: {
        head: fastfcn.FastFcnSizes(head, SMALL_D8, joint=8, channels=16, aux_channels=8)
        for head in ("psp", "aspp", "enc")
    },
    fast_scnn: {
        "fast_scnn": fast_scnn.FastScnnSizes((8, 8, 8), (8, 8, 16), (1, 1, 1), expansion=2, fused=16, aux=8),
    },
    hrnet: {"hrnet": HRNET},
    icnet: {"icnet": icnet.IcNetSizes(SMALL_D8, light=8, pooled=16, branches=(8, 16, 16), fused=16)},
    knet: {
        "knet": knet.KNetSizes(SWIN, width=16, groups=2, heads=2, hidden=16, aux_width=8),
    },
    mobilenet_v3: {"lraspp": next(iter(mobilenet_v3.VARIANTS.values()))},
    ocrnet: {"ocrnet": ocrnet.OcrNetSizes(HRNET, width=16, key_width=8)},
    pidnet: {
        "pidnet": pidnet.PIDNetSizes(8, 8, pooling_width=8, blocks=1, context_blocks=1),
        "pidnet-l": pidnet.PIDNetSizes(8, 8, pooling_width=8, blocks=1, context_blocks=1, light=False),
    },
    pointrend: {"pointrend": pointrend.PointRendSizes(SMALL_D32, 16, 16, 16, points=64)},
    poolformer_fpn: {
        "poolformer": poolformer_fpn.PoolFormerSizes((1, 1, 1, 1), (8, 12, 16, 20), neck_width=16, head_width=12)
    },
    segformer_mit: {"segformer": MIT},
    segformer_paper: {"segformer paper": MIT},
    segmenter_vit: {
        "segmenter mask": segmenter_vit.SegmenterSizes(16, 2, 2, (4, 5), drop_path=0.0),
        "segmenter linear": segmenter_vit.SegmenterSizes(16, 2, 2, (4, 5), decoder="linear", drop_path=0.0),
    },
    segnext: {"segnext": segnext.SegNextSizes((8, 8, 8, 16), (1, 1, 1, 1), 32, rank=4, drop_path=0.0)},
    semantic_fpn: {"semantic_fpn": semantic_fpn.SemanticFpnSizes(SMALL_D32, 16, 16)},
    setr_vit: {
        "setr naive": setr_vit.SetrSizes(**SETR, decoder="naive"),
        "setr pup": setr_vit.SetrSizes(**SETR, decoder="pup"),
        "setr mla": setr_vit.SetrSizes(**SETR, decoder="mla"),
    },
    stdc: {"stdc": stdc.StdcSizes((1, 1, 1), (8, 8, 16, 16, 32), context=16, fused=16, aux=8)},
    swin_upernet: {
        "swin": SWIN,
    },
    twins: {
        "pcpvt fpn": PCPVT,
        "pcpvt uper": twins.upernet(PCPVT),
        "svt fpn": replace(PCPVT, windows=7),
        "svt uper": twins.upernet(replace(PCPVT, windows=7)),
    },
    unet_s5: {
        head: unet_s5.UNetSizes(head, (8, 8, 8, 8, 16), head_width=8, aux_width=8) for head in ("fcn", "psp", "aspp")
    },
    vit_upernet: {
        "vit": vit_upernet.VitUperSizes(VIT, neck=False, head_width=16, aux_width=8),
        "vit mln": vit_upernet.VitUperSizes(replace(VIT, final_norm=True), head_width=16, aux_width=8),
    },
}
"""By family, one for each form of its networks."""


def small_zoo() -> dict[str, Architecture]:
    """By a name of the family and the form."""
    return {
        f"{family.__name__.rpartition('.')[2]}-{form}": Architecture(next(iter(family.VARIANTS)), family, sizes)
        for family, forms in SIZES.items()
        for form, sizes in forms.items()
    }
