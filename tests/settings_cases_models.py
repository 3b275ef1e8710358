"""Cases of `model`."""

from typing import Any

from settings_base import FCN, HUGGINGFACE, MODELS, OWN, SEGFORMER, SMP, TIMM, TORCHVISION, ZOO, Case, Tree, With, case
from settings_seen import answer, queries

HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def of(section: Tree, **leaves: tuple[Any, ...]) -> dict[str, Case]:
    """Cases of one kind of network: the values of each leaf, beside the small section."""
    return {f"model.{section['kind']}.{name}": case(answer, *leaves[name], model=section) for name in leaves}


def pixels(section: Tree) -> dict[str, Case]:
    """What every network can be told about its input, and weights of the whole."""
    scaled, file = section | HALF, f"{section['kind']}.safetensors"
    return {
        **of(scaled, mean=([0, 0, 0], [0.5, 0.5, 0.5]), std=([1, 1, 1], [0.5, 0.5, 0.5]), max_value=(1, 255)),
        **of(section, channel_order=("rgb", "bgr"), weights=("none", file)),
    }


DEEPLAB = TORCHVISION | {"arch": "deeplabv3_mobilenet_v3_large"}


def timm_decoders() -> dict[str, Case]:
    """The decoders over a transformer of timm; what `eomt` says beside its scores is looked at too."""
    loss = {"losses": [{"kind": "mask_classification"}]}
    pixels: dict[str, tuple[Any, ...]] = {
        "linear.dropout": (0, 0.1, 0.5),
        **{f"{kind}.width": (16, 32) for kind in ("fpn", "uper", "segformer")},
        **{f"{kind}.dropout": (0, 0.1, 0.5) for kind in ("fpn", "uper", "segformer")},
    }
    eomt: dict[str, tuple[Any, ...]] = {
        "queries": (5, 10),
        "blocks": (1, 2),
        "masked_steps": (0, 100),
        "deep_supervision": (False, True),
    }
    kinds = [{"kind": kind} for kind in ("linear", "fpn", "uper", "segformer")]
    place = "model.timm.decoder"
    return {
        f"{place}.kind": case(queries, *kinds, With({"kind": "eomt"}, loss), model=TIMM),
        **{f"{place}.{name}": case(queries, *values, model=TIMM) for name, values in pixels.items()},
        **{f"{place}.eomt.{name}": case(queries, *values, model=TIMM, **loss) for name, values in eomt.items()},
    }


MODEL: dict[str, Case] = {
    "model.kind": case(answer, *MODELS),
    # Downloads (weights, weights_backbone: pretrained) are tests/models/test_weights.py, test_pretrained.py.
    **{name: each for section in MODELS for name, each in pixels(section).items()},
    **of(SMP, arch=("pspnet", "fpn"), encoder=("mobilenet_v2", "resnet18")),
    **of(
        TIMM,
        encoder=("resnet18", "mobilevit_xxs"),
        layers=([5], [11]),
        image_size=(64, 224),
        drop_path=(0, 0.1, 0.5),
        aux=(False, True),
    ),
    **timm_decoders(),
    **of(
        TORCHVISION,
        arch=("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"),
        weights_backbone=("none", "torchvision.safetensors"),
    ),
    **of(DEEPLAB, aux=(False, True)),
    **of(
        FCN,
        encoder=("resnet18", "resnet34"),
        dropout=(0, 0.1, 0.5),
        weights_backbone=("none", "fcn_resnet.safetensors"),
    ),
    **of(HUGGINGFACE, config=({"drop_path_rate": 0.5}, {"decoder_hidden_size": 8}, {"decoder_hidden_size": 16})),
    **of({"kind": "huggingface"}, name=("huggingface_1", "huggingface_2")),
    **of({"kind": "segformer"}, size=("small", "base")),
    **of(
        SEGFORMER,
        stem=("7x7", "5x5"),
        dims=([8, 8, 8, 8], [8, 8, 16, 8]),
        heads=([1, 1, 1, 1], [1, 1, 1, 2]),
        depths=([1, 1, 1, 1], [1, 1, 2, 1]),
        reductions=([8, 4, 2, 1], [4, 4, 2, 1]),
        mlp_ratio=(2, 4),
        decoder_width=(16, 32),
        dropout=(0, 0.1, 0.5),
        drop_path=(0, 0.1, 0.5),
        weights_backbone=("none", "segformer.safetensors"),
    ),
    **of(
        {"kind": "unet"},
        width=(4, 8),
        depth=(1, 2),
        norm=("batch", "group"),
        dropout=(0, 0.2, 0.5),
        deep_supervision=(False, True),
    ),
    **of(ZOO, name=("fast_scnn", "espnet_p_2_q_8_camvid")),
    **of(ZOO | {"weights": "zoo.safetensors"}, head=("by_name", "new")),
    **of(OWN, stride=(1, 32)),
}
