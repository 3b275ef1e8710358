"""Cases of `model`."""

from typing import Any

from settings_base import FCN, MODELS, OWN, SEGFORMER, SMP, TORCHVISION, Case, Tree, case
from settings_seen import answer

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

MODEL: dict[str, Case] = {
    "model.kind": case(answer, *MODELS),
    # Downloads (weights, weights_backbone: pretrained) are tests/models/test_weights.py, test_pretrained.py.
    **{name: each for section in MODELS for name, each in pixels(section).items()},
    **of(SMP, arch=("pspnet", "fpn"), encoder=("mobilenet_v2", "resnet18")),
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
    **of(OWN, stride=(1, 32)),
}
