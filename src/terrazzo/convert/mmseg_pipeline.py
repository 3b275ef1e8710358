"""Pipelines and testing of an MMSegmentation configuration as the sections `augment` and `evaluation` of a recipe."""

from typing import Any

from terrazzo.convert.ledger import Ledger, Path
from terrazzo.published.mmseg_config import pair

Tree = dict[str, Any]

PLAIN = ("LoadImageFromFile", "LoadAnnotations", "PackSegInputs", "DefaultFormatBundle", "Collect", "ToTensor")
"""Steps that every sample goes through here as well."""


def convert_augment(ledger: Ledger) -> Tree:
    """The training pipeline; settings of terrazzo's own that it does not have are switched off."""
    tree: Tree = {"crop": None, "base": {"kind": "keep"}, "scale": [1.0, 1.0], "flip": 0.0}
    tree |= {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    where = _pipeline(ledger, "train")
    for step in ledger.places(*where):
        _augment_step(ledger, step, tree)
    if tree["crop"] is None and (tree["base"]["kind"] != "exact" or tree["scale"] != [1.0, 1.0]):
        size = pair(ledger.look("model", "data_preprocessor", "size")) or (512, 512)
        tree["crop"] = [*size]
        tree.setdefault("cat_max_ratio", 1.0)
        ledger.remark(f"augment.crop: the pipeline has no RandomCrop; the recipe cuts out {size[0]}x{size[1]}")
    if tree["crop"] is None:
        tree.pop("cat_max_ratio", None)
    return tree


def _pipeline(ledger: Ledger, split: str) -> Path:
    """Where the steps of a split stand."""
    place: Path = (f"{split}_dataloader", "dataset")
    while not isinstance(ledger.look(*place, "pipeline"), list | tuple) or not ledger.look(*place, "pipeline"):
        if isinstance(ledger.look(*place, "dataset"), dict):
            place = (*place, "dataset")
        elif isinstance(ledger.look(*place, "datasets", 0), dict):
            place = (*place, "datasets", 0)
        else:
            return (f"{split}_pipeline",)
    return (*place, "pipeline")


def _augment_step(ledger: Ledger, step: Path, tree: Tree) -> None:
    kind = str(ledger.look(*step, "type")).rpartition(".")[2]
    match kind:
        case _ if kind in PLAIN:
            ledger.take(*step)
        case "RandomResize" | "Resize":
            if (base := _resize(ledger, step)) is not None:
                tree["base"] = base
            if (span := pair_of_numbers(ledger.look(*step, "ratio_range"))) is not None:
                ledger.take(*step, "ratio_range")
                tree["scale"] = [float(one) for one in span]
            ledger.kind(*step)
        case "RandomChoiceResize":
            _choice(ledger, step, tree)
        case "RandomCrop" if (size := pair(ledger.look(*step, "crop_size"))) is not None:
            ledger.kind(*step)
            ledger.take(*step, "crop_size")
            tree["crop"] = [*size]
            ratio = ledger.number(*step, "cat_max_ratio")
            tree["cat_max_ratio"] = 1.0 if ratio is None else float(ratio)
        case "RandomFlip" if ledger.look(*step, "direction", default="horizontal") == "horizontal":
            ledger.kind(*step)
            ledger.take(*step, "direction")
            ratio = ledger.number(*step, "prob")
            ratio = ledger.number(*step, "flip_ratio") if ratio is None else ratio
            tree["flip"] = float(0.0 if ratio is None else ratio)
        case "PhotoMetricDistortion":
            tree["photometric"] = _photometric(ledger, step)
        case "RandomRotate" if (turn := pair_of_numbers(ledger.look(*step, "degree"))) is not None and max(turn) > 0:
            ledger.kind(*step)
            ledger.take(*step, "degree")
            ledger.take(*step, "pad_val")
            ledger.take(*step, "seg_pad_val")
            chance = ledger.number(*step, "prob")
            tree["warp"] = {"rotate": max(turn), "chance": 1.0 if chance is None else chance}
        case "Pad":
            ledger.take(*step)  # samples are padded to the crop
        case _:
            ledger.remark(f"the training pipeline's {kind} has no counterpart")


def _resize(ledger: Ledger, step: Path) -> Tree | None:
    """The size that a step gives; None if it says none. `scale` is (width, height)."""
    scale = pair(ledger.look(*step, "scale"))
    if scale is None:
        return None
    if len(ledger.look(*step, "scale") if not isinstance(ledger.look(*step, "scale"), int) else ()) not in (0, 2):
        ledger.remark("a Resize has several scales; the recipe has the first")
    ledger.take(*step, "scale")
    if ledger.take(*step, "keep_ratio", default=False) is True:
        return {"kind": "fit", "short": min(scale), "long": max(scale)}
    return {"kind": "exact", "height": scale[1], "width": scale[0]}


def _choice(ledger: Ledger, step: Path, tree: Tree) -> None:
    """One of several lengths of the short side as a range of them."""
    scales = ledger.look(*step, "scales")
    if not isinstance(scales, list | tuple) or not scales or not all(isinstance(each, int) for each in scales):
        ledger.remark("the training pipeline's RandomChoiceResize is not one of short sides; it is left out")
        return
    for key in ("type", "scales", "resize_type"):
        ledger.take(*step, key)
    middle = sorted(scales)[len(scales) // 2]
    tree["base"] = {"kind": "short_side", "pixels": middle}
    tree["scale"] = [round(min(scales) / middle, 4), round(max(scales) / middle, 4)]
    ledger.remark(
        f"the short side is one of {len(scales)} lengths there, and anything from {min(scales)} to {max(scales)} here"
    )


def _photometric(ledger: Ledger, step: Path) -> Tree:
    ledger.kind(*step)
    tree: Tree = {}
    for key, own in (("brightness_delta", "brightness"), ("hue_delta", "hue")):
        if (value := ledger.number(*step, key)) is not None:
            tree[own] = value
    for key, own in (("contrast_range", "contrast"), ("saturation_range", "saturation")):
        if (span := pair_of_numbers(ledger.look(*step, key))) is not None:
            ledger.take(*step, key)
            tree[own] = [*span]
    return tree


def convert_evaluation(ledger: Ledger) -> Tree:
    """How validation, test and prediction look at images."""
    tree: Tree = {}
    split = "val" if ledger.look("val_dataloader") is not None else "test"
    where = _pipeline(ledger, split)
    for step in ledger.places(*where):
        kind = str(ledger.look(*step, "type")).rpartition(".")[2]
        if kind in PLAIN or kind == "RandomFlip":
            ledger.take(*step)
        elif kind == "Resize" and (size := _resize(ledger, step)) is not None:
            ledger.kind(*step)
            tree["resize"] = size
        else:
            ledger.remark(f"the test pipeline's {kind} has no counterpart")
    if ledger.look("test_dataloader", "dataset", "pipeline") == ledger.look(*where):
        ledger.take("test_dataloader", "dataset", "pipeline")
    test = ("model", "test_cfg")
    crop, stride = pair(ledger.look(*test, "crop_size")), pair(ledger.look(*test, "stride"))
    mode = ledger.take(*test, "mode", default="whole")
    if mode == "whole":
        ledger.take(*test)
    if mode == "slide" and crop is not None and stride is not None and min(crop) > 0:
        ledger.take(*test)
        overlaps = [max(0.0, 1 - step / side) for step, side in zip(stride, crop, strict=True)]
        if overlaps[0] != overlaps[1]:
            ledger.remark(
                f"windows overlap by {overlaps[0]:.3g} and {overlaps[1]:.3g} there, by the greater share here"
            )
        tree["window"] = {
            "size": [*crop],
            "overlap": min(0.99, max(overlaps)),
            "blend": "mean",
            "accumulate": "pixel",
        }
    return tree


def pair_of_numbers(value: object) -> tuple[float, float] | None:
    """Two numbers; one stands for minus and plus itself."""
    match value:
        case bool():
            return None
        case int() | float():
            return -value, value
        case [int() | float() as first, int() | float() as second]:
            return first, second
        case _:
            return None
