"""What the tables of cases share: the recipe that they change, the shape of a case, parts of recipes."""

from typing import Any, NamedTuple

import huggingface_configs as huggingface
from settings_seen import See

Tree = dict[str, Any]

BASE: Tree = {
    "data": {
        "kind": "folder",
        "root": "one/folder",
        "images": "{split}/images/{id}.png",
        "labels": "{split}/labels/{id}.png",
        "classes": ["a", "b", "c"],
        "workers": 0,
    },
    "model": {"kind": "unet", "width": 4, "depth": 2},
    "augment": {"crop": 24},
    "length": {"steps": 2},
    "batch": 2,
    "threads": 1,
    "device": "cpu",
}
"""A run of about 0.2 seconds."""


class With(NamedTuple):
    """A value that needs other settings beside it."""

    value: Any
    given: Tree


class Case(NamedTuple):
    see: See
    values: tuple[Any, ...]
    """Two or more, each to be seen differently. Of a `.kind` leaf: whole sections, of every member of the union."""
    given: Tree


def case(see: See, *values: Any, **given: Any) -> Case:
    return Case(see, values, given)


SMP = {"kind": "smp", "arch": "pspnet", "encoder": "mobilenet_v2", "weights": "none"}
TORCHVISION = {"kind": "torchvision", "arch": "lraspp_mobilenet_v3_large", "weights_backbone": "none"}
TIMM = {"kind": "timm", "encoder": "vit_tiny_patch16_224", "weights": "none"}
FCN = {"kind": "fcn_resnet", "encoder": "resnet18", "weights_backbone": "none"}
SEGFORMER = {
    "kind": "segformer",
    "dims": [8, 8, 8, 8],
    "heads": [1, 1, 1, 1],
    "depths": [1, 1, 1, 1],
    "decoder_width": 16,
    "dropout": 0,
}
HUGGINGFACE = huggingface.section("segformer", drop_path_rate=0.0)
ZOO = {"kind": "zoo", "name": "fast_scnn", "weights": "none"}
OWN = {"kind": "own"}
MODELS = (BASE["model"], SMP, TIMM, TORCHVISION, FCN, SEGFORMER, HUGGINGFACE, ZOO, OWN)
"""Of every kind a small one."""

RESIZES = (
    {"kind": "keep"},
    {"kind": "short_side", "pixels": 16},
    {"kind": "fit", "short": 20, "long": 24},
    {"kind": "exact", "height": 30, "width": 30},
)
STEP = {"steps": 1}
