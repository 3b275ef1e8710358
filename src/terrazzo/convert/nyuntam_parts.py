"""Data, network, adaptation, optimiser and schedule of a flat Nyuntam recipe."""

import ast
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from terrazzo.base import InputError
from terrazzo.convert.flat import Flat
from terrazzo.data.layouts import STANFORD, STANFORD_SHORT

Tree = dict[str, Any]

SIZE: Tree = {"kind": "fit", "short": 512, "long": 2048}
"""What the old tool's base configuration resized to, keeping the ratio."""
AUGMENT: Tree = {
    "base": SIZE,
    "scale": [0.5, 2.0],
    "crop": 512,
    "cat_max_ratio": 0.75,
    "flip": 0.5,
    **dict.fromkeys(("brightness", "contrast", "saturation"), 0),
    "photometric": {},
}
HEAD_FACTOR = 10.0
"""How much faster than the rest the base configuration trained the decode head."""
LISTS = {"train": "train_ann_file", "val": "val_ann_file"}


def convert_data(flat: Flat, remarks: list[str]) -> Tree:
    """The data section.

    Raises:
        InputError: keys are missing or contradict each other.
    """
    root = flat.word("CUSTOM_DATASET_PATH", what="data.root")
    if root is None:
        raise InputError(f"{flat.path}: CUSTOM_DATASET_PATH is missing: where is the data?")
    names = _names(flat)
    images = _folder(flat, "train_img_file", "val_img_file", "images", "data.images")
    labels = _folder(flat, "train_seg_file", "val_seg_file", "labels", "data.labels")
    shared: Tree = {
        "root": root,
        "workers": flat.whole("NUM_WORKERS", what="data.workers", default=4, least=0),
        "splits": {"kind": "lists", **_lists(flat, Path(root), remarks)},
    }
    suffix = _label_suffix(Path(root) / labels, remarks)
    if images == "images" and [STANFORD_SHORT.get(name, name) for name in names] == [*STANFORD]:
        flat.say("palette", "nothing: data.kind stanford knows its colours")
        return {"kind": "stanford", **shared, "labels": labels if suffix == ".regions.txt" else f"{labels}/{{id}}.png"}
    decode: Tree = {"decode": {"kind": "index", "ignore_negative": True}} if suffix == ".regions.txt" else {}
    place = {"images": f"{images}/{{id}}.*", "labels": f"{labels}/{{id}}{suffix}"}
    return {"kind": "folder", **shared, **place, "classes": _colored(flat, names), **decode}


def _names(flat: Flat) -> list[str]:
    names = flat.take("class_list", what="data: the classes, in the order of their values")
    if names is None:
        names = [*STANFORD]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise flat.fault(["class_list"], "a list of names")
    count = flat.whole("num_classes", what="nothing: the class list says it", default=len(names))
    if count != len(names):
        raise InputError(f"{flat.path}: num_classes is {count}, and class_list has {len(names)} names")
    return names


def _colored(flat: Flat, names: list[str]) -> Any:
    palette = flat.take("palette", what="data.classes: their colours")
    if palette is None:
        return names
    if not isinstance(palette, list) or len(palette) != len(names):
        raise flat.fault(["palette"], f"a list of {len(names)} colours, one for each class")
    return dict(zip(names, palette, strict=True))


def _folder(flat: Flat, train: str, val: str, default: str, what: str) -> str:
    """One folder for both splits, or a template of both."""
    first, second = flat.word(train, what=what), flat.word(val, what=what)
    folder, other = first or second or default, second or first or default
    if folder == other:
        return folder.strip("/")
    if folder.replace("train", "{split}") == other.replace("val", "{split}"):
        return folder.replace("train", "{split}").strip("/")
    raise InputError(
        f"{flat.path}: {train} is {folder!r} and {val} {other!r}; give both one folder, or two that differ in the "
        "words train and val alone"
    )


def _lists(flat: Flat, root: Path, remarks: list[str]) -> Tree:
    """Its documentation calls the lists train_ann.txt, its own recipe train_ann_file.txt: the one that is there."""
    found = {}
    for split, key in LISTS.items():
        name = flat.word(key, what="data.splits: names without extension, one a line") or f"{split}_ann_file.txt"
        other = name.replace("_ann_file", "_ann") if "_ann_file" in name else name.replace("_ann", "_ann_file")
        found[split] = other if not (root / name).is_file() and (root / other).is_file() else name
        if found[split] != name:
            flat.say(key, f"data.splits.{split}: {other}, which is there, and {name} is not")
            if key not in flat.values:
                remarks.append(f"{key} is not given: {other} is there")
        elif not (root / name).is_file():
            remarks.append(f"data.splits.{split}: there is no {root / name} here")
    return found


def _label_suffix(folder: Path, remarks: list[str]) -> str:
    split = Path(str(folder).replace("{split}", "train"))
    if any(split.glob("*.png")):
        return ".png"
    if any(split.glob("*.regions.txt")):
        return ".regions.txt"
    remarks.append(
        f"data.labels: no labels lie in {split}; they are taken to be PNG files. If they are NAME.regions.txt, as "
        "Stanford Background has them, write the folder alone"
    )
    return ".png"


def convert_model(flat: Flat) -> Tree:
    """The model section.

    Raises:
        InputError: the network is not named.
    """
    name = flat.word("MODEL_PATH", what="model.name")
    local = flat.word("LOCAL_MODEL_PATH", what="model.weights")
    if name is None:
        raise InputError(f"{flat.path}: MODEL_PATH is missing: which network of the zoo?")
    return {"kind": "zoo", "name": name, "weights": local or "pretrained", "head": "new"}


def convert_adapt(flat: Flat) -> Tree:
    """The adapt section.

    Raises:
        InputError: there is no such method here.
    """
    whole = flat.flag("FULL_FINE_TUNING", what="adapt.kind: full, where no PEFT_METHOD is given")
    last = flat.flag("LAST_LAYER_TUNING", what="adapt.also_train: decoder")
    method = (flat.word("PEFT_METHOD", "peft_type", what="adapt.kind") or "").lower()
    if method not in ("", "ssf", "lora", "dora"):
        raise flat.fault(["PEFT_METHOD", "peft_type"], "SSF, LoRA, DoRA, or nothing")
    if not method:
        flat.say("LAST_LAYER_TUNING", "adapt.kind: frozen, where FULL_FINE_TUNING is not asked for")
        return {"kind": "frozen"} if last and not whole else {"kind": "full"}
    both = f"nothing: PEFT_METHOD is {method}, and both cannot be"
    flat.say("FULL_FINE_TUNING", both if whole else "nothing: PEFT_METHOD says what learns")
    if not last:
        flat.say("LAST_LAYER_TUNING", "adapt.also_train: classifier, since the last layer is new and must learn")
    tree: Tree = {"kind": "ssf" if method == "ssf" else "lora"}
    if method != "ssf":
        tree["rank"] = flat.whole("r", what="adapt.rank", default=16)
        tree["alpha"] = flat.number("lora_alpha", "alpha", what="adapt.alpha", default=16.0)
        tree["dropout"] = flat.number("lora_dropout", "dropout", what="adapt.dropout", default=0.0)
        tree |= {"dora": True} if method == "dora" else {}
    return {**tree, "targets": _targets(flat), "also_train": "decoder" if last else "classifier"}


def _targets(flat: Flat) -> Any:
    automatic = flat.flag("auto_select_modules", what="adapt.targets: auto, where no target_modules are given")
    targets = flat.take("target_modules", what="adapt.targets, by the names that layers have here")
    if targets is None:
        return "auto"
    if automatic:
        flat.say("auto_select_modules", "nothing: target_modules names the layers")
    if isinstance(targets, str):
        return {"regex": targets}
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise flat.fault(["target_modules"], "a list of names, or a regular expression")
    return targets


def convert_optim(flat: Flat, adapt: Tree) -> Tree:
    """The optim section.

    Raises:
        InputError: there is no such optimiser here.
    """
    name = (flat.word("OPTIMIZER", what="optim.kind") or "AdamW").lower()
    if name not in ("adamw", "adam", "sgd", "rmsprop"):
        raise flat.fault(["OPTIMIZER"], "AdamW, Adam, SGD or RMSprop")
    optim: Tree = {"kind": name, "lr": flat.number("LR", what="optim.lr", default=1e-3)}
    optim["weight_decay"] = flat.number("WEIGHT_DECAY", what="optim.weight_decay", default=0.0)
    if name in ("adam", "adamw"):
        first = flat.number("BETA1", what="optim.betas", default=0.9)
        optim["betas"] = [first, flat.number("BETA2", what="optim.betas", default=0.999)]
        optim["eps"] = flat.number("ADAM_EPS", what="optim.eps", default=1e-8)
    for key in ("BETA1", "BETA2", "ADAM_EPS"):
        if key not in flat.became:
            flat.say(key, f"nothing: {name} has none")
    learning = ("head",) if adapt.get("also_train") == "classifier" else ("decoder", "head")
    return {**optim, "lr_factors": dict.fromkeys(learning, HEAD_FACTOR)}


def convert_schedule(flat: Flat, accumulate: int) -> Tree:
    """The schedule section.

    Raises:
        InputError: there is no such schedule here.
    """
    name = (flat.word("SCHEDULER_TYPE", what="schedule.kind") or "ConstantLR").lower()
    kinds: dict[str, Callable[[], Tree]] = {
        "constantlr": lambda: {"kind": "constant"},
        "multisteplr": lambda: {"kind": "multi_step", "milestones": {"epochs": _milestones(flat)}, "gamma": gamma()},
        "linearlr": lambda: {"kind": "linear"},
        "cosineannealinglr": lambda: {"kind": "cosine"},
        "polylr": lambda: {"kind": "poly"},
        "exponentiallr": lambda: {"kind": "exponential", "gamma": {"per_epoch": gamma()}},
    }

    def gamma() -> float:
        return flat.number("GAMMA", what="schedule.gamma", default=0.1)

    if (make := kinds.get(name) or kinds.get(f"{name}lr")) is None:
        known = "ConstantLR, MultiStepLR, LinearLR, CosineAnnealingLR, PolyLR or ExponentialLR"
        raise flat.fault(["SCHEDULER_TYPE"], known)
    schedule = make()
    for key in ("GAMMA", "MILESTONES"):
        if key not in flat.became:
            flat.say(key, f"nothing: schedule.kind {schedule['kind']} has none")
    flat.say("T_MAX", "nothing: schedules end with the run")
    return schedule | _warmup(flat, accumulate)


def _milestones(flat: Flat) -> list[float]:
    found = flat.take("MILESTONES", what="schedule.milestones, in epochs")
    try:
        listed = ast.literal_eval(found) if isinstance(found, str) else found
        return [5.0, 10.0] if listed is None else [float(epoch) for epoch in _listed(listed)]
    except (ValueError, TypeError, SyntaxError):
        raise flat.fault(["MILESTONES"], "a list of epochs") from None


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _warmup(flat: Flat, accumulate: int) -> Tree:
    """Its iterations are batches, of which an optimizer step here takes `accumulate`."""
    on = flat.flag("WARMUP", what="schedule.warmup")
    batches = flat.whole("WARMUP_ITERS", what="schedule.warmup, in optimizer steps", default=0, least=0)
    factor = flat.number("WARMUP_RATIO", what="schedule.warmup_factor", default=0.1)
    if on and batches:
        return {"warmup": {"steps": -(-batches // accumulate)}, "warmup_factor": factor}
    for key in ("WARMUP", "WARMUP_ITERS", "WARMUP_RATIO"):
        flat.say(key, "nothing: no warm-up is asked for" if not on else "nothing: WARMUP_ITERS gives no length")
    return {}
