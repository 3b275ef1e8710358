"""For every setting of RunConfig: values, and something real that looks different for each of them.

A new setting: one line in CASES. `case(see, value, value)`: `see(config)` is called with the recipe BASE, changed by
`given` and then by each value at the leaf's own place. Look as low as is honest, and never at the config itself.
"""

from typing import Any, NamedTuple

from settings_seen import (
    See,
    answer,
    bundle_resize,
    crops,
    device,
    exact_on_cuda,
    fused,
    kept_checkpoints,
    lines_with,
    loader_threads,
    loss,
    or_refusal,
    rates,
    read,
    run_folders,
    scored,
    torch_threads,
    training_convolutions,
    updated,
    validation,
    weights,
)

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


def case(see: See, *values: Any, **given: Tree) -> Case:
    return Case(see, values, given)


def folder(**section: Any) -> Tree:
    """The one tree as a source of another layout: its training images alone."""
    return {"images": "train/images/{id}.png", "labels": "train/labels/{id}.png"} | section


LISTS = folder(splits={"kind": "lists", "train": "ac.txt"})
BITS = {
    "root": "one/bits",
    "images": "images/{id}.png",
    "labels": "labels/{id}.png",
    "splits": {"kind": "ratio", "train": 1, "val": 0},
    "classes": {"a": "#ffffff", "b": "#000000"},
}
COLORS = BITS | {"root": "one/colors", "classes": {"red": "#ff0000", "green": "#00ff00"}}
PUBLIC = {kind: {"kind": kind, "root": f"one/{kind}", "workers": 0} for kind in ("camvid", "voc", "pets")}
SMP = {"kind": "smp", "arch": "pspnet", "encoder": "mobilenet_v2", "weights": "none"}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
RESIZES = (
    {"kind": "keep"},
    {"kind": "short_side", "pixels": 16},
    {"kind": "fit", "short": 20, "long": 24},
    {"kind": "exact", "height": 30, "width": 30},
)
STEP = {"steps": 1}

RUN = {
    "out": case(run_folders, "runs/one", "runs/two"),
    "auxiliary_weight": case(weights, 0, 0.4, model={"deep_supervision": True}),
    "length.steps": case(lines_with("train/loss"), 1, 2, log_every=STEP),
    "length.epochs": case(lines_with("train/loss"), 0.5, 1, log_every=STEP),
    "batch": case(training_convolutions(lambda conv, images, out: len(images)), 1, 2),
    "log_every.steps": case(lines_with("train/loss"), 1, 2, length={"steps": 4}),
    "log_every.epochs": case(lines_with("train/loss"), 0.5, 1, length={"steps": 4}),
    "validate_every.steps": case(lines_with("val/loss"), 1, 2, length={"steps": 4}),
    "validate_every.epochs": case(lines_with("val/loss"), 0.5, 1, length={"steps": 4}),
    "save_every.steps": case(kept_checkpoints, 1, 2, length={"steps": 4}, keep=9),
    "save_every.epochs": case(kept_checkpoints, 0.5, 1, length={"steps": 4}, keep=9),
    "keep": case(kept_checkpoints, 0, 1, 2, length={"steps": 3}, save_every=STEP),
    "seed": case(weights, 0, 1),
    "threads": case(torch_threads, 1, 2),
    "device": case(or_refusal(device), "cpu", "cuda", "mps"),
    "deterministic": case(exact_on_cuda, False, True),
    "step.precision": case(training_convolutions(lambda conv, images, out: out.dtype), "float32", "bfloat16"),
    "step.clip": case(weights, None, 0.1, 0.001, optim={"kind": "sgd"}),
    "step.channels_last": case(training_convolutions(lambda conv, images, out: conv.weight.stride()), True, False),
}

DATA = {
    "data.kind": case(
        weights,
        BASE["data"],
        *PUBLIC.values(),
        {"kind": "own"},
    ),
    "data.folder.root": case(read(), "one/folder", "two/folder"),
    "data.folder.workers": case(loader_threads, 0, 2),
    "data.folder.limit": case(read(), None, 1, 2),
    "data.folder.remap": case(read(), {}, {"c": "b"}, {"c": "ignore"}, {"c": "d"}),
    "data.folder.images": case(read(), "{split}/images/{id}.png", "{split}/images_other/{id}.png"),
    "data.folder.labels": case(read(), "{split}/labels/{id}.png", "{split}/labels_other/{id}.png"),
    "data.folder.classes": case(
        read(), ["a", "b", "c"], ["c", "b", "a"], {"a": "#010101", "b": "#020202", "c": "#000000"}
    ),
    "data.folder.decode.kind": case(
        read(),
        {"kind": "index"},
        {"kind": "values", "map": {0: "b", 1: "a", 255: "ignore"}},
        {"kind": "palette", "ignore_colors": ["#010101"]},
        {"kind": "bits"},
        data=BITS,
    ),
    "data.folder.decode.index.ignore": case(or_refusal(read()), [255], [2], [255, 2], data={"classes": ["a", "b"]}),
    "data.folder.decode.values.map": case(read(), {0: "a", 1: "b", 2: "c"}, {0: "b", 1: "a", 2: "c"}),
    "data.folder.decode.palette.ignore_colors": case(or_refusal(read()), [], ["#0000ff"], data=COLORS),
    "data.folder.splits.kind": case(
        read(),
        {"kind": "folders"},
        With({"kind": "lists", "train": "ac.txt", "val": "d.txt"}, {"data": folder()}),
        With({"kind": "ratio"}, {"data": folder()}),
    ),
    "data.folder.splits.folders.train": case(read("train"), "train", "val"),
    "data.folder.splits.folders.val": case(read("val"), "train", "val"),
    "data.folder.splits.folders.test": case(read(), None, "val", "train"),
    "data.folder.splits.folders.val_fraction": case(read(), 0.25, 0.5, data={"splits": {"val": None}}),
    "data.folder.splits.folders.seed": case(read(), 0, 1, data={"splits": {"val": None, "val_fraction": 0.5}}),
    "data.folder.splits.lists.train": case(read("train"), "ac.txt", "d.txt", data=LISTS),
    "data.folder.splits.lists.val": case(read(), None, "ac.txt", "d.txt", data=LISTS),
    "data.folder.splits.lists.test": case(read(), None, "ac.txt", "d.txt", data=LISTS),
    "data.folder.splits.lists.lines": case(
        read("train"), "ids", "first", data=folder(splits={"kind": "lists", "train": "columns.txt"})
    ),
    "data.folder.splits.lists.val_fraction": case(
        read(), 0.25, 0.5, data=folder(splits={"kind": "lists", "train": "all.txt"})
    ),
    "data.folder.splits.lists.seed": case(
        read(), 0, 1, data=folder(splits={"kind": "lists", "train": "all.txt", "val_fraction": 0.5})
    ),
    "data.folder.splits.ratio.train": case(
        read("train"),
        With(0.25, {"data": folder(splits={"kind": "ratio", "val": 0.75})}),
        With(0.5, {"data": folder(splits={"kind": "ratio", "val": 0.5})}),
    ),
    "data.folder.splits.ratio.val": case(
        read("val"),
        With(0.25, {"data": folder(splits={"kind": "ratio", "train": 0.25, "test": 0.5})}),
        With(0.5, {"data": folder(splits={"kind": "ratio", "train": 0.25, "test": 0.25})}),
    ),
    "data.folder.splits.ratio.test": case(
        read("test"),
        With(0.25, {"data": folder(splits={"kind": "ratio", "train": 0.25, "val": 0.5})}),
        With(0.5, {"data": folder(splits={"kind": "ratio", "train": 0.25, "val": 0.25})}),
    ),
    "data.folder.splits.ratio.seed": case(
        read(), 0, 1, data=folder(splits={"kind": "ratio", "train": 0.5, "val": 0.5})
    ),
    "data.camvid.root": case(read(), "one/camvid", "two/camvid"),
    "data.camvid.workers": case(loader_threads, 0, 2, data=PUBLIC["camvid"]),
    "data.camvid.limit": case(read(), None, 1, data=PUBLIC["camvid"]),
    "data.camvid.remap": case(read(), {}, {"Sky": "Road"}, data=PUBLIC["camvid"]),
    "data.voc.root": case(read(), "one/voc", "two/voc"),
    "data.voc.workers": case(loader_threads, 0, 2, data=PUBLIC["voc"]),
    "data.voc.limit": case(read(), None, 1, data=PUBLIC["voc"]),
    "data.voc.remap": case(read(), {}, {"cat": "dog"}, data=PUBLIC["voc"]),
    "data.voc.train_list": case(
        read("train"), "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/other.txt", data=PUBLIC["voc"]
    ),
    "data.voc.val_list": case(
        read("val"), "ImageSets/Segmentation/val.txt", "ImageSets/Segmentation/other.txt", data=PUBLIC["voc"]
    ),
    "data.pets.root": case(read(), "one/pets", "two/pets"),
    "data.pets.workers": case(loader_threads, 0, 2, data=PUBLIC["pets"]),
    "data.pets.limit": case(read(), None, 1, data=PUBLIC["pets"]),
    "data.pets.remap": case(read(), {}, {"pet": "animal"}, data=PUBLIC["pets"]),
    "data.pets.border": case(read(), "ignore", "class", data=PUBLIC["pets"]),
    "data.pets.val_fraction": case(read(), None, 0.25, 0.5, data=PUBLIC["pets"]),
    "data.pets.split_seed": case(read(), 0, 1, data=PUBLIC["pets"] | {"val_fraction": 0.5}),
    "data.own.workers": case(loader_threads, 0, 2),
}

MODEL = {
    "model.kind": case(answer, BASE["model"], SMP, {"kind": "own"}),
    "model.smp.arch": case(answer, "pspnet", "fpn", model=SMP),
    "model.smp.encoder": case(answer, "mobilenet_v2", "resnet18", model=SMP),
    "model.smp.weights": case(answer, "none", "smp.safetensors", model=SMP),  # pretrained: tests/models/test_weights.py
    "model.smp.mean": case(answer, [0, 0, 0], [0.5, 0.5, 0.5], model=SMP | HALF),
    "model.smp.std": case(answer, [1, 1, 1], [0.5, 0.5, 0.5], model=SMP | HALF),
    "model.smp.max_value": case(answer, 1, 255, model=SMP | HALF),
    "model.smp.channel_order": case(answer, "rgb", "bgr", model=SMP),
    "model.unet.width": case(answer, 4, 8),
    "model.unet.depth": case(answer, 1, 2),
    "model.unet.norm": case(answer, "batch", "group"),
    "model.unet.dropout": case(answer, 0, 0.2, 0.5),
    "model.unet.deep_supervision": case(answer, False, True),
    "model.unet.weights": case(answer, "none", "unet.safetensors"),
    "model.unet.mean": case(answer, [0, 0, 0], [0.5, 0.5, 0.5], model=HALF),
    "model.unet.std": case(answer, [1, 1, 1], [0.5, 0.5, 0.5], model=HALF),
    "model.unet.max_value": case(answer, 1, 255, model=HALF),
    "model.unet.channel_order": case(answer, "rgb", "bgr"),
    "model.own.stride": case(answer, 1, 32),
    "model.own.weights": case(answer, "none", "own.safetensors"),
    "model.own.mean": case(answer, [0, 0, 0], [0.5, 0.5, 0.5], model={"kind": "own"} | HALF),
    "model.own.std": case(answer, [1, 1, 1], [0.5, 0.5, 0.5], model={"kind": "own"} | HALF),
    "model.own.max_value": case(answer, 1, 255, model={"kind": "own"} | HALF),
    "model.own.channel_order": case(answer, "rgb", "bgr"),
}

AUGMENT = {
    "augment.crop": case(crops, 16, 24, [16, 24]),
    "augment.base.kind": case(weights, *RESIZES),
    "augment.base.short_side.pixels": case(crops, 16, 24),
    "augment.base.fit.short": case(crops, 8, 16, augment={"base": {"kind": "fit", "long": 40}}),
    "augment.base.fit.long": case(crops, 20, 30, augment={"base": {"kind": "fit", "short": 20}}),
    "augment.base.exact.height": case(crops, 20, 30, augment={"base": {"kind": "exact", "width": 30}}),
    "augment.base.exact.width": case(crops, 20, 30, augment={"base": {"kind": "exact", "height": 30}}),
    "augment.scale": case(crops, [1, 1], [0.5, 1], [0.5, 2]),
    "augment.cat_max_ratio": case(crops, 1.0, 0.3, augment={"crop": 16}),
    "augment.flip": case(crops, 0, 1),
    "augment.brightness": case(crops, 0, 0.5),
    "augment.contrast": case(crops, 0, 0.5),
    "augment.saturation": case(crops, 0, 0.5),
}

EVALUATION = {
    "evaluation.resize.kind": case(bundle_resize, *RESIZES),
    "evaluation.resize.short_side.pixels": case(scored, 16, 32),
    "evaluation.resize.fit.short": case(scored, 8, 16, evaluation={"resize": {"kind": "fit", "long": 40}}),
    "evaluation.resize.fit.long": case(scored, 20, 30, evaluation={"resize": {"kind": "fit", "short": 20}}),
    "evaluation.resize.exact.height": case(scored, 20, 30, evaluation={"resize": {"kind": "exact", "width": 30}}),
    "evaluation.resize.exact.width": case(scored, 20, 30, evaluation={"resize": {"kind": "exact", "height": 30}}),
    "evaluation.score_at": case(validation, "label", "network", evaluation={"resize": RESIZES[3]}),
    "evaluation.absent": case(
        validation, "exclude", "zero", data={"classes": ["a", "b", "c", "never said"]}, model={"kind": "own"}
    ),
}

LEARNING = {
    "losses.kind": case(weights, {"kind": "cross_entropy"}, {"kind": "tversky"}),
    "losses.cross_entropy.weight": case(loss, 1, 2),
    "losses.cross_entropy.smoothing": case(loss, 0, 0.1),
    "losses.cross_entropy.class_weights": case(loss, "none", "auto", {"b": 3}),
    "losses.tversky.weight": case(loss, 1, 2),
    "losses.tversky.setting": case(loss, "dice", "jaccard"),
    "losses.tversky.alpha": case(loss, 0.3, 0.7, losses=[{"kind": "tversky", "beta": 0.5}]),
    "losses.tversky.beta": case(loss, 0.3, 0.7, losses=[{"kind": "tversky", "alpha": 0.5}]),
    "losses.tversky.eps": case(loss, 1, 100),
    "optim.kind": case(weights, {"kind": "adamw"}, {"kind": "sgd"}),
    "optim.adamw.lr_factors": case(updated, {}, {"encoder": 0.1}, {"decoder": 0.1}, {"head": 0.1}),
    "optim.adamw.decay_norms": case(updated, False, True),
    "optim.adamw.lr": case(updated, 0.001, 0.01),
    "optim.adamw.weight_decay": case(updated, 0, 0.01),
    "optim.adamw.betas": case(updated, [0.9, 0.999], [0.8, 0.999], [0.9, 0.99]),
    "optim.adamw.eps": case(updated, 1e-8, 1e-2),
    "optim.adamw.amsgrad": case(updated, False, True),
    "optim.adamw.fused": case(fused, False, True),
    "optim.sgd.lr_factors": case(updated, {}, {"encoder": 0.1}, {"decoder": 0.1}, {"head": 0.1}),
    "optim.sgd.decay_norms": case(updated, False, True),
    "optim.sgd.lr": case(updated, 0.001, 0.01),
    "optim.sgd.weight_decay": case(updated, 0, 0.01),
    "optim.sgd.momentum": case(updated, 0, 0.5, 0.9),
    "optim.sgd.nesterov": case(updated, False, True),
    "schedule.kind": case(weights, {"kind": "constant"}, {"kind": "cosine"}, {"kind": "poly"}),
    **{
        f"schedule.{kind}.{leaf}": case(
            rates, *values, length={"steps": 8}, schedule={"kind": kind} | ({"warmup": {"steps": 3}} if ramp else {})
        )
        for kind in ("constant", "cosine", "poly")
        for leaf, values, ramp in (
            ("warmup.steps", (2, 4), False),
            ("warmup.epochs", (1, 2), False),
            ("warmup_factor", (0.1, 0.5), True),
        )
    },
    "schedule.cosine.end_factor": case(rates, 0, 0.1, length={"steps": 8}),
    "schedule.poly.end_factor": case(rates, 0, 0.1, length={"steps": 8}),
    "schedule.poly.power": case(rates, 0.9, 2, length={"steps": 8}),
}

CASES: dict[str, Case] = RUN | DATA | MODEL | AUGMENT | EVALUATION | LEARNING

REFUSED: dict[str, tuple[Any, str]] = {
    "data.own.root": ("elsewhere", "data.root .*change nothing"),
    "data.own.limit": (2, "data.limit change nothing"),
    "data.own.remap": ({"x": "y"}, "data.remap works on label files"),
}
"""Settings that can change nothing where they stand: giving this value must be an error with these words."""

EXEMPT: dict[str, str] = {}
"""Settings that no test can see, with the reason; a test of some other kind is better than an entry here."""
