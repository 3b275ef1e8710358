"""Public data sets recognised by their files: the layout's own paths must be there, and its labels must decode."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from terrazzo.base import IGNORE, InputError, Split, distinct_colors
from terrazzo.data.class_files import class_files
from terrazzo.data.folder import FileOptions, FolderData
from terrazzo.data.inventory import Inventory, inventory
from terrazzo.data.labels import Decoder, Polygons
from terrazzo.data.layouts import VOC, Ade20kData, PetsData, StanfordData, VocData, ade20k, pets, stanford, voc
from terrazzo.data.layouts_driving import (
    IDD,
    IDD_VOID,
    CamvidData,
    CityscapesData,
    IddData,
    IddLiteData,
    camvid,
    cityscapes,
    idd,
    idd_lite,
)
from terrazzo.data.pixels import read_raw
from terrazzo.data.split import splits_of
from terrazzo.data.templates import Pair
from terrazzo.discover.findings import Confidence, Finding
from terrazzo.discover.roles import outline_labels

DEPTH = 2
"""Folders below the given one in which a layout may begin."""
MOST_FOLDERS = 99
"""Folders of one folder in which it is looked for."""
LOOKED_AT = 16
"""Label files that are decoded to be sure of a layout."""
MOST_EXCLUDED = 20
"""Images without a label up to which a recipe names them."""


@dataclass(frozen=True)
class Known:
    """A public data set that was recognised."""

    data: FileOptions
    folder: FolderData
    found: Inventory
    layout: Finding
    encoding: Finding
    remarks: tuple[str, ...]


def recognised(root: Path) -> tuple[list[Known], tuple[str, ...]]:
    """The public data sets in a folder, and what its paths look like although its labels are others."""
    found: list[Known] = []
    doubts: list[str] = []
    for place in _places(root):
        if not any(place.is_relative_to(each.folder.root) for each in found):
            found += _recognised_at(place, doubts)
    return found, tuple(dict.fromkeys(doubts))


def _recognised_at(place: Path, doubts: list[str]) -> list[Known]:
    for data, folder in _candidates(place):
        try:
            found = inventory(folder)
        except InputError:
            continue
        if all(found.pairs.get(split) for split in _needed(data, folder)):
            known = _verified(data, folder, found)
            if isinstance(known, Known):
                return [known]
            doubts.append(f"the paths are those of data.kind={data.model_dump()['kind']}, but {known}")
    return []


def _places(root: Path) -> list[Path]:
    """The folder, and those below it in which a layout could begin."""
    found, level = [root], [root]
    for _ in range(DEPTH):
        level = [child for place in level for child in _folders(place)]
        found += [
            place
            for place in level
            if {"leftImg8bit", "JPEGImages", "images", "train"} & {p.name for p in _folders(place)}
        ]
    return found


def _folders(place: Path) -> list[Path]:
    try:
        found = (path for path in place.iterdir() if path.is_dir() and not path.is_symlink())
        return sorted(path for path in found if not path.name.startswith("."))[:MOST_FOLDERS]
    except OSError:
        return []


def _candidates(root: Path) -> Iterator[tuple[FileOptions, FolderData]]:
    """Every layout at this folder, and in which of its forms; those with the most telling paths first."""
    yield (city := CityscapesData(root=root)), cityscapes(city)
    for masks in (IddData(root=root, masks="pngs"), IddData(root=root)):
        yield masks, idd(masks)
    yield (lite := IddLiteData(root=root)), idd_lite(lite)
    yield (scenes := Ade20kData(root=root)), ade20k(scenes)
    yield (objects := VocData(root=root)), voc(objects)
    for animals in (PetsData(root=root, val_fraction=0.2), PetsData(root=root)):
        yield animals, pets(animals)
    for folder in _folders(root):
        if any(folder.glob("*.regions.txt")):
            yield (background := StanfordData(root=root, labels=folder.name)), stanford(background)
    yield (roads := CamvidData(root=root)), camvid(roads)


def _needed(data: FileOptions, folder: FolderData) -> tuple[Split, ...]:
    """The splits that a run reads; the labels of Cityscapes' test split are dummies."""
    return tuple(
        split for split in splits_of(folder.splits) if not (isinstance(data, CityscapesData) and split == "test")
    )


def _verified(data: FileOptions, folder: FolderData, found: Inventory) -> Known | str:
    """The layout if a few labels decode as it says, else what they do instead."""
    pairs = [pair for split in _needed(data, folder) for pair in found.pairs[split]]
    looked = spread(pairs, LOOKED_AT)
    decoder = Decoder(folder.classes, folder.decode, {})
    seen: set[int] = set()
    refused = []
    for pair in looked:
        try:
            seen |= set(np.unique(decoder.read(folder.root / pair.label)).tolist()) - {IGNORE}
        except InputError as error:
            refused.append(str(error))
    if 2 * len(refused) > len(looked):
        return f"their labels do not decode so: {refused[0]}"
    count = len(decoder.classes)
    if not _typical(data, folder, looked, len(seen), count):
        return f"{len(looked)} of their labels show {len(seen)} of its {count} classes only"
    kind = data.model_dump()["kind"]
    evidence = f"{sum(map(len, found.pairs.values()))} images with labels lie as in this layout, below {folder.root}"
    sure: Confidence = "likely" if refused else "certain"
    other = "the classes are others of your own: data.kind=folder with images, labels and classes"
    encoding = f"{len(looked)} labels were decoded and show {len(seen)} of {count} classes"
    remarks = tuple(refused[:3])
    excluded = found.unlabelled
    if 0 < len(excluded) <= MOST_EXCLUDED:
        data = data.model_copy(update={"exclude": excluded})
        folder = folder.model_copy(update={"exclude": excluded})
        remarks += (f"{len(excluded)} images without a label are left out (exclude)",)
    elif excluded:
        remarks += (f"{len(excluded)} images have no label ({excluded[0]}, ...): a run asks for them",)
    return Known(
        data,
        folder,
        found,
        Finding("layout", f"{kind}, below {folder.root}", sure, evidence, other),
        Finding("encoding", f"that of {kind}: {folder.decode.kind}, {count} classes", sure, encoding),
        remarks,
    )


def _typical(data: FileOptions, folder: FolderData, looked: Sequence[Pair], seen: int, count: int) -> bool:
    """Whether a few labels show what those of the layout do, and not another label space within the same ids."""
    first = folder.root / looked[0].label
    match data:
        case VocData():
            return seen >= 8 or (seen > 1 and _has_voc_palette(first) and not _own_names(folder.root))
        case Ade20kData():
            return looked[0].image.rpartition("/")[2].startswith("ADE_") or seen >= 40
        case CamvidData():  # train and trainannot may hold anybody's labels
            return seen >= 8
        case IddData() if isinstance(folder.decode, Polygons):
            return _is_idd(first)
        case _:
            return seen >= min(count, 3)


def _has_voc_palette(path: Path) -> bool:
    palette = read_raw(path).palette
    standard = [list(color) for color in distinct_colors(len(VOC))]
    return palette is not None and len(palette) > 1 and palette[: len(VOC)].tolist() == standard[: len(palette)]


def _own_names(root: Path) -> bool:
    """Whether a class list beside the data names others: tools write their users' classes in the layout of VOC."""
    lists = class_files(root, [path.name for path in root.iterdir() if path.is_file()])
    return any(2 * len({*each.names} & {*VOC}) < len(each.names) for each in lists)


def _is_idd(path: Path) -> bool:
    """Whether the labels of a polygon file are those of IDD; Cityscapes' files are written in the same way."""
    labels = outline_labels(path) or set()
    known = {label for name in IDD for label in name.split(", ")} | {*IDD_VOID}
    return len(labels & known) >= 0.8 * len(labels) and not labels & {"terrain", "static", "dynamic"}


def spread(items: Sequence[Pair], most: int) -> list[Pair]:
    """At most so many, evenly from all."""
    if len(items) <= most:
        return [*items]
    return [items[k * len(items) // most] for k in range(most)]
