"""The network of an MMSegmentation configuration as the section `model` of a recipe."""

from math import isfinite
from pathlib import PurePosixPath
from typing import Any

from terrazzo.base import InputError, Normalization
from terrazzo.convert.ledger import Ledger, Path
from terrazzo.published.catalog import find_entry
from terrazzo.published.loading import Architecture, find_architecture, published_names
from terrazzo.published.mmseg_config import architecture_name
from terrazzo.published.mmseg_sizes import PARTS

Tree = dict[str, Any]

NEAR_HEADS = {
    "PSPHead": "pspnet",
    "ASPPHead": "deeplabv3",
    "DepthwiseSeparableASPPHead": "deeplabv3plus",
    "UPerHead": "upernet",
    "FPNHead": "fpn",
    "SegformerHead": "segformer",
}
"""Heads to architectures of segmentation-models-pytorch."""
SAID = ("dropout_ratio", "drop_path_rate", "norm_eval", "with_cp", "frozen_stages", "init_cfg", "pretrained")
"""Keys of a part that training notices, though they are no sizes."""


def convert_model(ledger: Ledger) -> tuple[Tree, int]:
    """The section `model`, and the number of classes that the config's network answers.

    Raises:
        InputError: the config has no model, or one to which nothing here is near.
    """
    model = ledger.look("model")
    if not isinstance(model, dict):
        raise InputError("the config has no model; a recipe needs one")
    try:
        name = architecture_name(dict(ledger.config))
        assert name is not None, "a config with a model has a name, or an error"
        architecture = find_architecture(name)
    except InputError as error:
        tree = _nearest(ledger, error)
        wanted: Normalization | None = None
    else:
        tree = {"kind": "zoo", "name": _shortest(architecture, name), "weights": "none"}
        wanted = architecture.input.normalization
        _take_sizes(ledger, architecture)
    tree |= _normalization(ledger, wanted)
    tree |= _start(ledger, tree)
    return tree, _classes(ledger)


def _classes(ledger: Ledger) -> int:
    """Of the last decode head."""
    head = _last_head(ledger)
    if ledger.look(*head, "kernel_generate_head") is not None:
        head = (*head, "kernel_generate_head")  # of K-Net, whose other heads only refine this one's answer
    count = ledger.look(*head, "num_classes")
    answered = ledger.look(*head, "out_channels")
    if isinstance(answered, int) and isinstance(count, int) and answered != count:
        ledger.remark(f"the head has {answered} outputs for {count} classes; here it has one for each class")
        ledger.take(*head, "out_channels")
        ledger.take(*head, "threshold")
    if not isinstance(count, int) or count < 1:
        raise InputError(f"model.decode_head.num_classes is {count!r}; expected how many classes there are")
    return count


def _last_head(ledger: Ledger) -> Path:
    heads = ledger.look("model", "decode_head")
    return (
        ("model", "decode_head", len(heads) - 1)
        if isinstance(heads, list | tuple) and heads
        else ("model", "decode_head")
    )


def _shortest(architecture: Architecture, name: str) -> str:
    """The architecture's own name if it means the same network, else the published config's."""
    for known in published_names():
        if known == architecture.name:
            return known
    return name


def _take_sizes(ledger: Ledger, architecture: Architecture) -> None:
    """Everything that says what the network is; what only training notices stays, unless it is as here."""
    for key in ("type", "num_stages"):
        ledger.take("model", key)
    sizes = architecture.sizes
    for part in PARTS:
        value = ledger.look("model", part)
        several = isinstance(value, list | tuple)
        for place, one in enumerate(value) if several else [(-1, value)]:
            where: Path = ("model", part, place) if several else ("model", part)
            for key in one if isinstance(one, dict) else ():
                same = (key == "dropout_ratio" and one[key] == getattr(sizes, "dropout", None)) or (
                    key == "drop_path_rate" and one[key] == getattr(sizes, "drop_path", None)
                )
                silent = key in SAID and not same and one[key] not in (None, False, -1, 0)
                if not silent and not key.startswith("loss_") and key != "sampler":
                    ledger.take(*where, key)


def _nearest(ledger: Ledger, reason: InputError) -> Tree:
    """A network of another library that is alike.

    Raises:
        InputError: there is none.
    """
    backbone = ledger.look("model", "backbone", default={})
    head = str(ledger.look(*_last_head(ledger), "type")).rpartition(".")[2]
    arch, encoder = NEAR_HEADS.get(head), _encoder(backbone if isinstance(backbone, dict) else {})
    if arch is None or encoder is None or (arch == "segformer") != encoder.startswith("mit_"):
        raise InputError(f"{reason}. No kind of model here is near it; write the recipe by hand")
    for part in PARTS:
        for key in ("type", "depth", "in_channels", "in_index", "num_classes", "style", "widen_factor"):
            ledger.take("model", part, key)
    ledger.take("model", "type")
    ledger.remark(
        f"model: {reason}. The recipe has SMP's {arch} with the encoder {encoder} in its place, another network"
    )
    return {"kind": "smp", "arch": arch, "encoder": encoder, "weights": "none"}


def _encoder(backbone: Tree) -> str | None:
    match str(backbone.get("type")).rpartition(".")[2]:
        case "ResNet" | "ResNetV1c" | "ResNetV1d" if backbone.get("depth") in (18, 34, 50, 101, 152):
            return f"resnet{backbone['depth']}"
        case "ResNeXt" if backbone.get("depth") in (50, 101):
            return "resnext50_32x4d" if backbone["depth"] == 50 else "resnext101_32x8d"
        case "MobileNetV2":
            return "mobilenet_v2"
        case "MixVisionTransformer" if backbone.get("embed_dims") in (32, 64):
            return "mit_b0" if backbone["embed_dims"] == 32 else "mit_b1"
        case _:
            return None


def _normalization(ledger: Ledger, wanted: Normalization | None) -> Tree:
    """mean, std and order of the channels where they are not the network's own."""
    where = ("model", "data_preprocessor")
    ledger.kind(*where)
    for key in ("pad_val", "seg_pad_val", "size", "size_divisor"):
        ledger.take(*where, key)
    mean, std = ledger.look(*where, "mean"), ledger.look(*where, "std")
    rgb = ledger.look(*where, "bgr_to_rgb", default=ledger.look(*where, "rgb_to_bgr", default=False)) is True
    if not (_numbers(mean) and _numbers(std) and min(std) > 0):
        return {}
    for key in ("mean", "std", "bgr_to_rgb"):
        ledger.take(*where, key)
    given = Normalization(
        mean=tuple(map(float, mean)), std=tuple(map(float, std)), max_value=255, channel_order="rgb" if rgb else "bgr"
    )
    if wanted is not None and _same(given, wanted):
        return {}
    return {"mean": [*given.mean], "std": [*given.std], "max_value": 255.0, "channel_order": given.channel_order}


def _numbers(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(each, int | float) and isfinite(each) for each in value)
    )


def _same(one: Normalization, other: Normalization) -> bool:
    """Equal within half a thousandth of white, as ImageNet's numbers are rounded in two ways."""
    pairs = zip((*one.mean, *one.std), (*other.mean, *other.std), strict=True)
    alike = all(abs(a / one.max_value - b / other.max_value) < 5e-4 for a, b in pairs)
    return alike and one.channel_order == other.channel_order


def _start(ledger: Ledger, tree: Tree) -> Tree:
    """What the network starts from."""
    start = ledger.text("load_from")
    if start is None:
        if any(_says_weights(ledger, part) for part in ("backbone", "")):
            ledger.remark(
                "the encoder's first weights (init_cfg, pretrained) have no counterpart: the recipe starts from random "
                "ones; model.weights=pretrained or a file starts it from a trained network"
            )
        return {}
    entry = find_entry(PurePosixPath(start).stem)
    if entry is not None and tree["kind"] == "zoo" and _is(entry.name, tree["name"]):
        return {"name": entry.name, "weights": "pretrained"}
    if "://" in start:
        ledger.remark(f"load_from is {start}: download it and write its path as model.weights")
        return {}
    return {"weights": start}


def _is(published: str, name: str) -> bool:
    """Whether a published result's network is the one that a name means."""
    try:
        found, wanted = find_architecture(published), find_architecture(name)
    except InputError:
        return False
    return (found.family, found.sizes) == (wanted.family, wanted.sizes)


def _says_weights(ledger: Ledger, part: str) -> bool:
    where = ("model", part) if part else ("model",)
    given = ledger.look(*where, "pretrained") or ledger.look(*where, "init_cfg", "checkpoint")
    if given:
        ledger.take(*where, "pretrained")
        ledger.take(*where, "init_cfg")
    return bool(given)
