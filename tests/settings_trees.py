"""The files that the cases of settings read: every layout twice with other pixels, one/ and two/, and weights."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.random import Generator
from numpy.typing import NDArray
from safetensors.torch import save_file

from settings_base import BASE, HUGGINGFACE, MODELS, SEGFORMER
from settings_own import SIZE
from settings_seen import built
from terrazzo.config import config_of
from terrazzo.data.folder import Folder
from terrazzo.data.layouts import StanfordData, stanford
from terrazzo.data.layouts_driving import IDD
from terrazzo.data.split import ListSplits
from terrazzo.prepare.packing import write_pack

BLOCK = 4
"""Labels are squares of so many pixels: a region needs an inside for its border to have a width."""

LISTS = {"ac.txt": "a\nc\n", "d.txt": "d\n", "all.txt": "a\na b\nc\nd\n", "columns.txt": "a b\n"}
FOUR = ("a", "a b", "c", "d")


def write_trees() -> None:
    """Below the working folder."""
    for seed, name in enumerate(("one", "two")):
        rng, root = np.random.default_rng(seed), Path(name)
        _folders(root, rng)
        _driving(root, rng)
        _others(root, rng)
        _pack(root / "stanford", root / "packed")
    _turn(Path("two"))
    for model in MODELS:
        network = built(config_of(BASE | {"model": model}), seed=7)
        save_file(network.state_dict(), f"{model['kind']}.safetensors")
    for seed in (1, 2):
        save_file(built(config_of(BASE | {"model": SEGFORMER}), seed=seed).state_dict(), f"init_{seed}.safetensors")
        network = built(config_of(BASE | {"model": HUGGINGFACE}), seed=seed)
        network.net.model.save_pretrained(f"huggingface_{seed}")


def _folders(root: Path, rng: Generator) -> None:
    for split, ids in (("train", FOUR), ("val", ("e", "f"))):
        for each in ids:
            for variant in ("", "_other"):
                here = root / "folder" / split
                _pair(here / f"images{variant}/{each}.png", here / f"labels{variant}/{each}.png", [0, 1, 2], rng)
    for file, text in LISTS.items():
        (root / "folder" / file).write_text(text)
    for each, values in (("x", [0, 255]), ("y", [0, 1])):
        _pair(root / f"bits/images/{each}.png", root / f"bits/labels/{each}.png", values, rng)
        _photo(root / f"polygons/images/{each}.png", rng)
        _outlines(root / f"polygons/labels/{each}.json", ("a", "b", "thing"), rng)
    _pair(root / "colors/images/x.png", root / "colors/labels/x.png", [(0, 0, 255), (0, 255, 0), (255, 0, 0)], rng)


def _driving(root: Path, rng: Generator) -> None:
    for split in ("train", "val", "test"):
        for k in range(2):
            _pair(root / f"camvid/{split}/{k}.png", root / f"camvid/{split}annot/{k}.png", range(12), rng)
        for k in range(6 if split == "train" else 2):
            city = root / "cityscapes/{}" / split / f"ulm/ulm_{k}_{{}}.png"
            label = Path(str(city).format("gtFine", "gtFine_labelIds"))
            _pair(Path(str(city).format("leftImg8bit", "leftImg8bit")), label, range(34), rng)
            _label(Path(str(city).format("gtFine", "gtFine_instanceIds")), [7, 26_000, 26_001, 24_000], rng, np.uint16)
    names = [label for name in IDD for label in name.split(", ") if label != "obs-str-bar fallback"]
    for split in ("train", "val"):
        for k in range(2):
            ours, theirs = (root / f"idd/{part}/{split}/{k}" for part in ("leftImg8bit", "gtFine"))
            _photo(ours / "frame0_leftImg8bit.png", rng)
            _outlines(theirs / "frame0_gtFine_polygons.json", names, rng)
            _label(theirs / "frame0_gtFine_labellevel3Ids.png", range(26), rng)
            ours, theirs = (root / f"idd_lite/{part}/{split}/{k}" for part in ("leftImg8bit", "gtFine"))
            _pair(ours / "1_image.jpg", theirs / "1_label.png", [*range(7), 255], rng)


def _others(root: Path, rng: Generator) -> None:
    for k in range(6):
        image, label = f"JPEGImages/{k}.jpg", f"SegmentationClass/{k}.png"
        _pair(root / "voc" / image, root / "voc" / label, range(21), rng)
        _pair(root / f"pets/images/{k}.jpg", root / f"pets/annotations/trimaps/{k}.png", [1, 2, 3], rng)
    lists = root / "voc/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for file, ids in (("train.txt", "012"), ("val.txt", "34"), ("other.txt", "45")):
        (lists / file).write_text("\n".join(ids))
    for file, ids in (("trainval.txt", "0123"), ("test.txt", "45")):
        (root / "pets/annotations" / file).write_text("".join(f"{k} 1 1 1\n" for k in ids))
    for split, count in (("training", 2), ("validation", 1)):
        for k in range(count):
            name = f"{split}/ADE_{k}"
            ade = root / "ade20k"
            _pair(ade / f"images/{name}.jpg", ade / f"annotations/{name}.png", range(151), rng)
    for each in FOUR:
        _photo(root / f"stanford/images/{each}.jpg", rng)
        for folder in ("labels", "labels_other"):
            path = root / f"stanford/{folder}/{each}.regions.txt"
            path.parent.mkdir(exist_ok=True)
            np.savetxt(path, _blocks(range(-1, 8), rng), fmt="%d")
    for file, text in LISTS.items():
        (root / "stanford" / file).write_text(text)


def _pack(root: Path, out: Path) -> None:
    """Two files of a tree as a pack of two splits."""
    cfg = stanford(StanfordData(root=root, splits=ListSplits(train="ac.txt", val="d.txt")))
    write_pack({split: Folder(cfg, split) for split in ("train", "val")}, cfg, out, format="raw", tile=16, workers=1)


def _turn(root: Path) -> None:
    """All photos are marked as taken upside down."""
    upside_down = PIL.Image.Exif()
    upside_down[0x0112] = 3
    for path in root.rglob("*"):
        label = {"labels", "labels_other", "gtFine", "annotations", "SegmentationClass"} & {*path.parts}
        if path.suffix in (".png", ".jpg") and not label and not path.parent.name.endswith("annot"):
            with PIL.Image.open(path) as photo:
                photo.load()
            photo.save(path, exif=upside_down, quality=95)


def _pair(image: Path, label: Path, values: Iterable[Any], rng: Generator) -> None:
    _photo(image, rng)
    _label(label, values, rng)


def _photo(path: Path, rng: Generator) -> None:
    _write(path, rng.integers(0, 256, (*SIZE, 3), np.uint8))


def _label(path: Path, values: Iterable[Any], rng: Generator, dtype: type = np.uint8) -> None:
    _write(path, _blocks(values, rng).astype(dtype))


def _blocks(values: Iterable[Any], rng: Generator) -> NDArray[Any]:
    """Squares, each of one of the values, [H, W] or, of colours, [H, W, 3]."""
    small = rng.choice(np.array([*values]), (SIZE[0] // BLOCK, SIZE[1] // BLOCK))
    return small.repeat(BLOCK, 0).repeat(BLOCK, 1)


def _outlines(path: Path, labels: Iterable[str], rng: Generator) -> None:
    """Twenty boxes; the labels come in turn."""
    objects = []
    for label, left, top in zip([*labels] * 20, rng.integers(0, 36, 20), rng.integers(0, 20, 20), strict=False):
        x, y = int(left), int(top)
        objects.append({"label": label, "polygon": [[x, y], [x + 8, y], [x + 8, y + 8], [x, y + 8]]})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": objects}))


def _write(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
