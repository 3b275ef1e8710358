"""Cases of `data`."""

from typing import Any

from settings_base import BASE, OWN, Case, Tree, With, case
from settings_seen import crew, or_refusal, read, weights


def folder(**section: Any) -> Tree:
    """The one tree as a source of another layout: its training images alone."""
    return {"images": "train/images/{id}.png", "labels": "train/labels/{id}.png"} | section


BITS = {
    "root": "one/bits",
    "images": "images/{id}.png",
    "labels": "labels/{id}.png",
    "splits": {"kind": "ratio", "train": 1, "val": 0},
    "classes": {"a": "#ffffff", "b": "#000000"},
}
COLORS = BITS | {"root": "one/colors", "classes": {"red": "#ff0000", "green": "#00ff00"}}
RED_GREEN_BLUE = {"red": "#ff0000", "green": "#00ff00", "blue": "#0000ff"}
CLOSE = {"kind": "values", "map": {0: "a", 1: "b", 4: "c"}}
NEARLY = BITS | {"root": "one/colors", "classes": {"red": "#fe0101", "green": "#01ff00", "blue": "#0100ff"}}
OUTLINES = BITS | {"root": "one/polygons", "labels": "labels/{id}.json"}
NUMBERS = BITS | {
    "root": "one/stanford",
    "images": "images/{id}.jpg",
    "labels": "labels/{id}.regions.txt",
    "classes": [*"abcdefgh"],
}

REMAPS = {
    "camvid": {"Sky": "Road"},
    "cityscapes": {"road": "sidewalk"},
    "idd": {"road": "sidewalk"},
    "idd_lite": {"drivable": "sky"},
    "ade20k": {"wall": "building"},
    "stanford": {"sky": "tree"},
    "voc": {"cat": "dog"},
    "pets": {"pet": "animal"},
    "packed": {"sky": "ignore"},
}
FIRST = {
    "folder": "train/images/a",
    "camvid": "train/0",
    "cityscapes": "leftImg8bit/train/ulm/ulm_0_leftImg8bit",
    "idd": "leftImg8bit/train/0/frame0_leftImg8bit",
    "idd_lite": "leftImg8bit/train/0/1_image",
    "ade20k": "images/training/ADE_0",
    "stanford": "images/a",
    "voc": "JPEGImages/0",
    "pets": "images/0",
}
"""An image of the training split."""

PUBLIC: dict[str, Tree] = {kind: {"kind": kind, "root": f"one/{kind}", "workers": 0} for kind in REMAPS}


def lists_and_shares(kind: str, data: Tree) -> dict[str, Case]:
    """Cases of the splits that two kinds have; `data` gives them the same four images and lists."""

    def among(splits: Tree) -> Tree:
        return {"data": data | {"splits": splits}}

    train, everything = {"kind": "lists", "train": "ac.txt"}, {"kind": "lists", "train": "all.txt"}
    lists, ratio = f"data.{kind}.splits.lists", f"data.{kind}.splits.ratio"
    return {
        f"{lists}.train": case(read("train"), "ac.txt", "d.txt", **among(train)),
        f"{lists}.val": case(read(), None, "ac.txt", "d.txt", **among(train)),
        f"{lists}.test": case(read(), None, "ac.txt", "d.txt", **among(train)),
        f"{lists}.lines": case(read("train"), "ids", "first", **among({"kind": "lists", "train": "columns.txt"})),
        f"{lists}.val_fraction": case(read(), 0.25, 0.5, **among(everything)),
        f"{lists}.seed": case(read(), 0, 1, **among(everything | {"val_fraction": 0.5})),
        f"{ratio}.train": case(
            read("train"),
            With(0.25, among({"kind": "ratio", "val": 0.75})),
            With(0.5, among({"kind": "ratio", "val": 0.5})),
        ),
        f"{ratio}.val": case(
            read("val"),
            With(0.25, among({"kind": "ratio", "train": 0.25, "test": 0.5})),
            With(0.5, among({"kind": "ratio", "train": 0.25, "test": 0.25})),
        ),
        f"{ratio}.test": case(
            read("test"),
            With(0.25, among({"kind": "ratio", "train": 0.25, "val": 0.5})),
            With(0.5, among({"kind": "ratio", "train": 0.25, "val": 0.25})),
        ),
        f"{ratio}.seed": case(read(), 0, 1, **among({"kind": "ratio", "train": 0.5, "val": 0.5})),
    }


FOLDER = {
    "data.folder.root": case(read(), "one/folder", "two/folder"),
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
        With({"kind": "polygons", "map": {"thing": "a"}}, {"data": OUTLINES}),
        data=BITS,
    ),
    "data.folder.decode.index.ignore": case(or_refusal(read()), [255], [2], [255, 2], data={"classes": ["a", "b"]}),
    "data.folder.decode.index.ignore_negative": case(or_refusal(read()), False, True, data=NUMBERS),
    "data.folder.decode.values.map": case(read(), {0: "a", 1: "b", 2: "c"}, {0: "b", 1: "a", 2: "c"}),
    "data.folder.decode.values.tolerance": case(or_refusal(read()), 0, 1, data={"decode": CLOSE}),
    "data.folder.decode.values.unknown": case(or_refusal(read()), "error", "ignore", data={"decode": CLOSE}),
    "data.folder.decode.palette.ignore_colors": case(or_refusal(read()), [], ["#0000ff"], data=COLORS),
    "data.folder.decode.palette.tolerance": case(or_refusal(read()), 0, 1, data=NEARLY),
    "data.folder.decode.palette.unknown": case(or_refusal(read()), "error", "ignore", data=COLORS),
    "data.folder.decode.palette.channels": case(read(), "rgb", "bgr", data=COLORS | {"classes": RED_GREEN_BLUE}),
    "data.folder.decode.polygons.map": case(read(), {"thing": "a"}, {"thing": "b"}, {"thing": "ignore"}, data=OUTLINES),
    "data.folder.decode.polygons.unknown": case(or_refusal(read()), "error", "skip", data=OUTLINES),
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
    **lists_and_shares("folder", folder()),
}

SHARED = {
    **{f"data.{kind}.root": case(read(), f"one/{kind}", f"two/{kind}") for kind in PUBLIC},
    **{f"data.{kind}.limit": case(read(), None, 1, data=data) for kind, data in PUBLIC.items()},
    **{f"data.{kind}.remap": case(read(), {}, REMAPS[kind], data=data) for kind, data in PUBLIC.items()},
    **{
        f"data.{kind}.{leaf}": each
        for kind, data in ({"folder": {}, "own": OWN} | PUBLIC).items()
        for leaf, each in (
            ("workers", case(crew, 0, 2, data=data)),
            ("worker_kind", case(crew, "thread", "process", data=data | {"workers": 1})),
        )
    },
}

FILES = {
    f"data.{kind}.{leaf}": each
    for kind, image in FIRST.items()
    for data in [PUBLIC.get(kind, {})]
    for leaf, each in (
        ("exclude", case(read("train"), [], [image], data=data)),
        ("exif", case(read(), "obey", "ignore", data=data | {"root": f"two/{kind}"})),
        ("align.mirror", case(read(), False, True, data=data)),
        ("align.shift", case(read(), [0, 0], [3, 0], [0, 3], [0, -3], data=data)),
    )
}

LAYOUTS = {
    "data.cityscapes.ids": case(read(), "train", "categories", "raw", data=PUBLIC["cityscapes"]),
    "data.cityscapes.val_fraction": case(read(), None, 0.25, 0.5, data=PUBLIC["cityscapes"]),
    "data.cityscapes.split_seed": case(read(), 42, 43, data=PUBLIC["cityscapes"] | {"val_fraction": 0.5}),
    "data.idd.level": case(read(), 1, 2, 3, data=PUBLIC["idd"]),
    "data.idd.masks": case(read(), "polygons", "pngs", data=PUBLIC["idd"]),
    "data.voc.train_list": case(
        read("train"), "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/other.txt", data=PUBLIC["voc"]
    ),
    "data.voc.val_list": case(
        read("val"), "ImageSets/Segmentation/val.txt", "ImageSets/Segmentation/other.txt", data=PUBLIC["voc"]
    ),
    "data.pets.border": case(read(), "ignore", "class", data=PUBLIC["pets"]),
    "data.pets.val_fraction": case(read(), None, 0.25, 0.5, data=PUBLIC["pets"]),
    "data.pets.split_seed": case(read(), 0, 1, data=PUBLIC["pets"] | {"val_fraction": 0.5}),
    "data.stanford.labels": case(read(), "labels", "labels_other/{id}.regions.txt", data=PUBLIC["stanford"]),
    "data.stanford.splits.kind": case(
        read(), {"kind": "lists", "train": "ac.txt", "val": "d.txt"}, {"kind": "ratio"}, data=PUBLIC["stanford"]
    ),
    **lists_and_shares("stanford", PUBLIC["stanford"]),
}

DATA: dict[str, Case] = {
    "data.kind": case(weights, BASE["data"], *PUBLIC.values(), OWN),
    **FOLDER,
    **SHARED,
    **FILES,
    **LAYOUTS,
}
