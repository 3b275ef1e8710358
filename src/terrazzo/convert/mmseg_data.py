"""The data of an MMSegmentation configuration as the section `data` of a recipe."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from terrazzo.base import InputError
from terrazzo.convert.ledger import Ledger, Path
from terrazzo.convert.mmseg_datasets import KNOWN, KnownSet

Tree = dict[str, Any]

WRAPPERS = ("RepeatDataset", "ConcatDataset", "MultiImageMixDataset", "ClassBalancedDataset")
SPLITS = ("train", "val", "test")


def convert_data(ledger: Ledger, classes: int) -> tuple[Tree, tuple[str, ...]]:
    """The section `data`, and the names of the classes.

    Args:
        classes: what the network answers.

    Raises:
        InputError: no data set, or none with image and label files.
    """
    places = {split: place for split in SPLITS if (place := _place(ledger, split)) is not None}
    if ledger.look("test_dataloader") == ledger.look("val_dataloader"):
        ledger.take("test_dataloader")
        places.pop("test", None)
    first = places.get("train") or places.get("val")
    _drop_other_test(ledger, places)
    if first is None:
        raise InputError("the config names no data set (train_dataloader.dataset); a recipe needs one")
    kind = ledger.kind(*first)
    known = KNOWN.get(kind)
    if known is None:
        ledger.remark(f"the data set class {kind or 'none'} is not known here; its files are taken to be .jpg and .png")
        known = KnownSet()
    root = str(ledger.take(*first, "data_root", default=None) or ".")
    tree = _public(ledger, kind, places)
    names = known.classes
    if tree is None:
        tree, names = _folder(ledger, kind, known, places, classes)
    elif _said(ledger, first) is not None:
        ledger.remark(f"data.kind={tree['kind']} names its own classes; metainfo is left out")
    workers = ledger.look("train_dataloader", "num_workers")
    kind_of, rest = tree.pop("kind"), tree
    tree = {"kind": kind_of, "root": root.rstrip("/") or "/", **rest}
    if isinstance(workers, int) and workers >= 0:
        tree["workers"] = ledger.take("train_dataloader", "num_workers")
    _known_options(ledger, places)
    return tree, names


def _place(ledger: Ledger, split: str) -> Path | None:
    """Where the innermost dataset of a split stands."""
    place: Path = (f"{split}_dataloader", "dataset")
    if not isinstance(ledger.look(*place), dict):
        return None
    while True:
        inner = ledger.look(*place, "dataset")
        several = ledger.look(*place, "datasets")
        if isinstance(inner, dict):
            if ledger.look(*place, "times") is not None:
                ledger.take(*place, "times")  # repeating changes nothing: a recipe's order has no end
            ledger.kind(*place)
            place = (*place, "dataset")
        elif isinstance(several, list | tuple) and several and isinstance(several[0], dict):
            if len(several) > 1:
                ledger.remark(f"{split}: of {len(several)} data sets that are joined, the recipe reads the first alone")
            ledger.kind(*place)
            place = (*place, "datasets", 0)
        else:
            return place


def _drop_other_test(ledger: Ledger, places: dict[str, Path]) -> None:
    """A recipe's splits are of one data set; some configs test on another one."""
    test, val = places.get("test"), places.get("val")
    if test is None or val is None:
        return
    if any(ledger.look(*test, key) != ledger.look(*val, key) for key in ("type", "data_root")):
        ledger.remark("data: the test split is of another data set, and left out; it needs a recipe of its own")
        ledger.take("test_dataloader")
        places.pop("test")


def _said(ledger: Ledger, place: Path) -> Any:
    """Classes that the config itself names."""
    return ledger.look(*place, "metainfo", "classes")


def _prefix(ledger: Ledger, place: Path, part: str) -> str:
    return str(ledger.take(*place, "data_prefix", part, default="") or "").strip("/")


def _public(ledger: Ledger, kind: str, places: dict[str, Path]) -> Tree | None:
    """A public data set in its own layout; None if the files lie in another way, or it is another data set."""
    lies = {
        split: tuple(
            str(ledger.look(*place, "data_prefix", part, default="")).strip("/")
            for part in ("img_path", "seg_map_path")
        )
        for split, place in places.items()
    }
    standard = {
        "CityscapesDataset": {split: (f"leftImg8bit/{split}", f"gtFine/{split}") for split in SPLITS},
        "ADE20KDataset": {
            "train": ("images/training", "annotations/training"),
            "val": ("images/validation", "annotations/validation"),
        },
        "PascalVOCDataset": dict.fromkeys(("train", "val"), ("JPEGImages", "SegmentationClass")),
    }.get(kind)
    if standard is None or any(lies[split] != standard.get(split) for split in lies):
        return None
    for place in places.values():
        ledger.kind(*place)
        ledger.take(*place, "data_prefix")
        ledger.take(*place, "data_root")
    match kind:
        case "CityscapesDataset":
            ledger.remark("data: the recipe reads Cityscapes' own labelIds files; *_labelTrainIds.png are not needed")
            return {"kind": "cityscapes"}
        case "ADE20KDataset":
            for place in places.values():
                ledger.take(*place, "reduce_zero_label")
            return {"kind": "ade20k"}
        case _:
            lists = {split: ledger.take(*place, "ann_file", default="") for split, place in places.items()}
            return {
                "kind": "voc",
                **{f"{split}_list": file for split, file in lists.items() if file and split != "test"},
            }


def _folder(
    ledger: Ledger, kind: str, known: KnownSet, places: dict[str, Path], classes: int
) -> tuple[Tree, tuple[str, ...]]:
    """Any data set as image and label files."""
    first = places.get("train") or places["val"]
    images = {split: _prefix(ledger, place, "img_path") for split, place in places.items()}
    labels = {split: _prefix(ledger, place, "seg_map_path") for split, place in places.items()}
    lists = {split: str(ledger.take(*place, "ann_file", default="") or "") for split, place in places.items()}
    for place in places.values():
        ledger.kind(*place)
        if ledger.look(*place, "data_root") == ledger.look(*first, "data_root"):
            ledger.take(*place, "data_root")
    if len({str(ledger.look(*place, "data_root")) for place in places.values()}) > 1:
        ledger.remark("data: the splits have different data_root; the recipe has the first one's, correct data.root")
    suffixes = (
        str(ledger.take(*first, "img_suffix", default=None) or known.image_suffix),
        str(ledger.take(*first, "seg_map_suffix", default=None) or known.label_suffix),
    )
    tree: Tree = {"kind": "folder"}
    image, label, splits = _layout(ledger, images, labels, lists)
    tree["images"] = str(PurePosixPath(image) / f"{{id}}{suffixes[0]}")
    tree["labels"] = str(PurePosixPath(label) / f"{{id}}{suffixes[1]}")
    named, names = _classes(ledger, first, kind, known, classes)
    tree["classes"] = named
    reduces = ledger.take(*first, "reduce_zero_label", default=None)
    if reduces is None:
        reduces = known.reduce_zero or _in_pipeline(ledger, first)
    if reduces:
        tree["decode"] = {"kind": "values", "map": {0: "ignore", **dict(enumerate(names, start=1)), 255: "ignore"}}
        if len(names) == 255 or 255 in range(1, len(names) + 1):
            tree["decode"]["map"].pop(255)
    tree["splits"] = splits
    return tree, names


def _in_pipeline(ledger: Ledger, place: Path) -> bool:
    return any(ledger.look(*step, "reduce_zero_label") is True for step in ledger.places(*place, "pipeline"))


def _layout(
    ledger: Ledger, images: dict[str, str], labels: dict[str, str], lists: dict[str, str]
) -> tuple[str, str, Tree]:
    """Templates' folders with {split} where the splits' folders differ, and the section `splits`."""
    if all(lists.values()):
        if len({*images.values()}) > 1 or len({*labels.values()}) > 1:
            ledger.remark("data: the splits lie in different folders and have lists; the recipe has train's folders")
        return next(iter(images.values())), next(iter(labels.values())), {"kind": "lists", **lists}
    if any(lists.values()):
        ledger.remark("data: some splits have lists, others none; the recipe takes whole folders")
    if len(images) == 1:
        (split,) = images
        ledger.remark(f"data: there is a {split} split alone; the recipe shares its images out")
        return images[split], labels[split], {"kind": "ratio"}
    for names in _split_names(images):
        image, label = _with_split(images, names), _with_split(labels, names)
        if image is not None and label is not None:
            return image, label, {"kind": "folders", "train": None, "val": None, **names}
    if len({*images.values()}) == 1 and len({*labels.values()}) == 1:
        ledger.remark("data: all splits are the same files; the recipe shares them out, 4 to 1")
        return next(iter(images.values())), next(iter(labels.values())), {"kind": "ratio"}
    ledger.remark(
        "data: the folders of the splits differ in more than a name; the recipe shares out train's images, 4 to 1"
    )
    return next(iter(images.values())), next(iter(labels.values())), {"kind": "ratio"}


def _split_names(folders: dict[str, str]) -> Iterator[dict[str, str]]:
    """What may stand for the splits in their folders: the first part of the paths that differs, or its differing end
    or beginning."""
    paths = {split: PurePosixPath(folder).parts for split, folder in folders.items()}
    if len({len(parts) for parts in paths.values()}) != 1:
        return
    for each in zip(*paths.values(), strict=True):
        if len({*each}) == len(each):
            yield dict(zip(folders, each, strict=True))
            for shared in (r"^.*[_-]", r"[_-].*$"):
                cut = [re.sub(shared, "", part) for part in each]
                if len({*cut}) == len(each) and all(cut):
                    yield dict(zip(folders, cut, strict=True))
            return


def _with_split(folders: dict[str, str], names: dict[str, str]) -> str | None:
    """The folder with {split} in the place of the splits' names; None if that does not make all of them the same."""
    texts = {folder.replace(names[split], "{split}") for split, folder in folders.items()}
    return texts.pop() if len(texts) == 1 else None


def _classes(
    ledger: Ledger, place: Path, kind: str, known: KnownSet, count: int
) -> tuple[list[str] | dict[str, list[int]], tuple[str, ...]]:
    """`data.classes`, with colours if the config has some; and the names."""
    given, colors = _said(ledger, place), ledger.look(*place, "metainfo", "palette")
    names = known.classes
    if isinstance(given, list | tuple) and given and all(isinstance(name, str) for name in given):
        ledger.take(*place, "metainfo")
        names = tuple(name.strip() for name in given)
    if not names or len({*names}) != len(names):
        names = tuple(f"class_{number}" for number in range(count))
        ledger.remark(
            f"data.classes: the config does not name the classes of {kind}; put their names in the place of class_0 ..."
        )
    if len(names) != count:
        ledger.remark(
            f"the network answers {count} classes, the data have {len(names)}; the recipe's network has the data's"
        )
    if isinstance(colors, list | tuple) and len(colors) == len(names) == len(given or ()):
        listed = [[*color] for color in colors if isinstance(color, list | tuple) and len(color) == 3]
        if len(listed) == len(names) and all(isinstance(part, int) and 0 <= part < 256 for c in listed for part in c):
            return dict(zip(names, listed, strict=True)), names
    return [*names], names


def _known_options(ledger: Ledger, places: dict[str, Path]) -> None:
    """What says how files are read, and nothing else."""
    for split, place in places.items():
        for key in ("ignore_index", "metainfo", "reduce_zero_label", "img_suffix", "seg_map_suffix"):
            value = ledger.look(*place, key)
            first = places.get("train") or place
            if value == 255 or (value is not None and value == ledger.look(*first, key)):
                ledger.take(*place, key)
        for key in ("persistent_workers", "pin_memory", "sampler"):
            ledger.take(f"{split}_dataloader", key)
        if split != "train":
            for key in ("num_workers", "batch_size"):
                ledger.take(f"{split}_dataloader", key)
