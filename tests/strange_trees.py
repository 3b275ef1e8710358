"""Made-up data sets of strangers: photographs and label maps, laid out and encoded in every way that is wanted."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (96, 128)
BLOCK = 20
"""Pixels of a square: JPEG stores squares of 8 without a trace, these not."""


def scene(path: Path, seed: int, size: tuple[int, int] = SIZE, mode: str = "RGB") -> None:
    """A photograph: smooth shapes with grain."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(coarse + rng.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def areas(values: Sequence[object], seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.integer]:
    """Squares that are filled with the values in turn, every value at least once: [H, W], or [H, W, 3] of colours."""
    rows, columns = -(-size[0] // BLOCK), -(-size[1] // BLOCK)
    order = np.random.default_rng(seed).permutation(np.arange(rows * columns) % len(values)).reshape(rows, columns)
    return np.array(values)[order].repeat(BLOCK, 0).repeat(BLOCK, 1)[: size[0], : size[1]]


def label(path: Path, values: Sequence[object], seed: int = 0, *, dtype: type = np.uint8, smooth: bool = False) -> None:
    """A label file of squares; `smooth` as if it had been resized like a photograph."""
    pixels = areas(values, seed).astype(dtype)
    if smooth:
        pixels = cv2.resize(cv2.resize(pixels, (100, 75), interpolation=cv2.INTER_AREA), SIZE[::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=75) if path.suffix == ".jpg" else Image.fromarray(pixels).save(path)


def palette_label(path: Path, colors: Sequence[tuple[int, int, int]], order: Sequence[int], seed: int = 0) -> None:
    """A palette file whose index k stands for colors[order[k]]."""
    image = Image.fromarray(areas([*range(len(order))], seed).astype(np.uint8), "P")
    image.putpalette([channel for k in order for channel in colors[k]])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def simple(root: Path, values: Sequence[object], count: int = 6, **options: object) -> Path:
    """images/NAME.png with masks/NAME.png."""
    for k in range(count):
        scene(root / f"images/{k:03}.png", k)
        label(root / f"masks/{k:03}.png", values, k, **options)  # type: ignore[arg-type]
    return root


def public(root: Path, kind: str) -> Path:
    """Made-up files in exactly the layout of a public data set."""
    match kind:
        case "camvid":
            for split in ("train", "val", "test"):
                _pairs(root, f"{split}/{{}}.png", f"{split}annot/{{}}.png", range(12))
        case "cityscapes":
            for split in ("train", "val", "test"):
                image, mask = (
                    f"leftImg8bit/{split}/ulm/{{}}_leftImg8bit.png",
                    f"gtFine/{split}/ulm/{{}}_gtFine_{{kind}}.png",
                )
                _pairs(root, image, mask.replace("{kind}", "labelIds"), range(34))
                _pairs(root, image, mask.replace("{kind}", "instanceIds"), [7, 26, 26000])
        case "idd":
            for split in ("train", "val"):
                for drive in "01":
                    image, mask = (
                        f"leftImg8bit/{split}/{drive}/{{}}_leftImg8bit.jpg",
                        f"gtFine/{split}/{drive}/{{}}_gtFine_",
                    )
                    _pairs(root, image, f"{mask}labellevel3Ids.png", range(26))
                    for k in range(2):
                        outlines(
                            root / f"{mask.format(k)}polygons.json", ["road", "sky", "autorickshaw", "ego vehicle"]
                        )
        case "idd_lite":
            for split in ("train", "val"):
                _pairs(
                    root, f"leftImg8bit/{split}/7/{{}}_image.jpg", f"gtFine/{split}/7/{{}}_label.png", [*range(7), 255]
                )
        case "ade20k":
            for split in ("training", "validation"):
                _pairs(root, f"images/{split}/ADE_{{}}.jpg", f"annotations/{split}/ADE_{{}}.png", range(0, 151, 5))
        case "stanford":
            _pairs(root, "images/{}.jpg", "labels/{}.regions.txt", range(-1, 8), 5)
        case "voc":
            _pairs(root, "JPEGImages/{}.jpg", "SegmentationClass/{}.png", [*range(21), 255], 5)
            _lists(root / "ImageSets/Segmentation", train="0\n1\n2\n", val="3\n4\n")
        case "pets":
            _pairs(root, "images/{}.jpg", "annotations/trimaps/{}.png", [1, 2, 3], 8)
            _lists(
                root / "annotations",
                trainval="0 1 1 1\n1 1 1 1\n2 1 1 1\n3 1 1 1\n4 1 1 1\n",
                test="5 1 1 1\n6 1 1 1\n",
            )
    return root


def outlines(path: Path, names: Sequence[str]) -> None:
    """A polygon file with one box of each label."""
    objects = [{"label": name, "polygon": [[9 * k, 0], [9 * k + 8, 0], [9 * k + 8, 8]]} for k, name in enumerate(names)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": objects}))


def _pairs(root: Path, image: str, mask: str, values: Sequence[object], count: int = 2) -> None:
    for k in range(count):
        scene(root / image.format(k), k)
        path = root / mask.format(k)
        if path.suffix == ".txt":
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savetxt(path, areas(values, k), fmt="%d")
        else:
            label(path, values, k, dtype=np.uint16 if max(values) > 255 else np.uint8)


def _lists(folder: Path, **texts: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
