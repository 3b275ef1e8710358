"""Small copies of real data sets, and the faults that are planted in them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

CAMVID = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
VOID = 11

Section = dict[str, Any]
"""The `data` section of a recipe, or changes to one."""

CAMVID_DATA: Section = {
    "kind": "folder",
    "images": "{split}/{id}.jpg",
    "labels": "{split}annot/{id}.png",
    "classes": list(CAMVID),
    "decode": {"kind": "index", "ignore": [VOID, 255]},
    "splits": {"kind": "folders", "test": "test"},
}
PETS_DATA: Section = {
    "kind": "folder",
    "images": "images",
    "labels": "labels",
    "classes": ["background", "cat", "dog"],
    "splits": {"kind": "ratio", "train": 0.6, "val": 0.2, "test": 0.2},
}
WBC_DATA: Section = {
    "kind": "folder",
    "images": "images",
    "labels": "masks",
    "classes": ["background", "cytoplasm", "nucleus"],
    "decode": {"kind": "values", "map": {0: "background", 128: "cytoplasm", 255: "nucleus"}},
    "splits": {"kind": "ratio"},
}


def make_camvid(shared: Path, root: Path) -> Section:
    """32 of CamVid's images at half size."""
    for split, number in (("train", 16), ("val", 8), ("test", 8)):
        files = sorted((shared / "camvid" / split).glob("*.jpg"))
        for file in files[:: len(files) // number][:number]:
            label = shared / "camvid" / f"{split}annot" / f"{file.stem}.png"
            _smaller(file, root / split / file.name, 240)
            _smaller(label, root / f"{split}annot" / label.name, 240)
    return CAMVID_DATA


def make_pets(shared: Path, root: Path) -> Section:
    """All 26 pets at half size."""
    for folder in ("images", "labels", "trimaps"):
        for file in sorted((shared / "pets-mini" / folder).iterdir()):
            _smaller(file, root / folder / file.name, 250)
    return PETS_DATA


def make_wbc(shared: Path, root: Path) -> Section:
    """40 white blood cells."""
    for folder in ("images", "masks"):
        for file in sorted((shared / "wbc" / folder).iterdir())[:40]:
            _smaller(file, root / folder / file.name, 120)
    return WBC_DATA


BASES: dict[str, Callable[[Path, Path], Section]] = {"camvid": make_camvid, "pets": make_pets, "wbc": make_wbc}


def _smaller(source: Path, target: Path, side: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(source)
    factor = min(1.0, side / max(image.size))
    photo = image.mode == "RGB"
    size = (round(image.width * factor), round(image.height * factor))
    small = image.resize(size, Image.Resampling.BOX if photo else Image.Resampling.NEAREST)
    small.save(target, **({"quality": 92} if target.suffix == ".jpg" else {}))


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong in real data sets."""

    code: str
    """Of the verdict that must find it."""
    base: str
    plant: Callable[[Path], Section | None]
    """Damages a copy of the base; returns changes to the `data` section."""
    what: str = ""
    quick: bool = False
    """Whether it is seen before training begins, without the whole pass."""


def recipe(root: Path, section: Section, place: Path | None = None) -> Path:
    """A recipe of this data, beside it unless another place is given."""
    path = (place or root.parent) / f"{root.name}.yaml"
    path.write_text(yaml.safe_dump({"data": {"root": str(root), **section}, "model": {"kind": "unet"}}))
    return path


def labels_of(root: Path) -> list[Path]:
    folders = [
        folder for folder in root.iterdir() if folder.name in ("labels", "masks") or folder.name.endswith("annot")
    ]
    return sorted(file for folder in folders for file in folder.iterdir())


def change_labels(root: Path, change: Callable[[NDArray[Any]], NDArray[Any]], folder: str = "") -> None:
    for path in labels_of(root):
        if folder in path.as_posix():
            Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def first(root: Path, folder: str) -> Path:
    return sorted((root / folder).iterdir())[0]


def ids_start_at_one(root: Path) -> Section:
    return {"labels": "trimaps", "classes": ["pet", "background", "border"]}


def foreground_255(root: Path) -> Section:
    change_labels(root, lambda label: np.where(label == 255, label, 0).astype(np.uint8))
    return {"classes": ["rest", "nucleus"], "decode": {"kind": "index"}}


def spread_values(root: Path) -> Section:
    return {"decode": {"kind": "index"}}


def painted(label: NDArray[Any]) -> NDArray[np.uint8]:
    return np.array([*CAMVID.values(), (0, 0, 0)], np.uint8)[label]


def colour_labels(root: Path) -> None:
    change_labels(root, painted)


def grey_of_palette(root: Path) -> None:
    for path in labels_of(root):
        Image.open(path).convert("RGB").convert("L").save(path)


def jpeg_labels(root: Path) -> None:
    for path in labels_of(root):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


def smoothed_labels(root: Path) -> None:
    for path in labels_of(root):
        label = Image.open(path)
        smaller = label.resize((label.width * 2 // 3, label.height * 2 // 3), Image.Resampling.BILINEAR)
        smaller.resize(label.size, Image.Resampling.BILINEAR).save(path)


def unknown_value(root: Path) -> None:
    path = first(root, "trainannot")
    label = np.array(Image.open(path))
    label[10:14, 20:30] = 37
    Image.fromarray(label).save(path)


def without_class(k: int, split: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        change_labels(root, lambda label: np.where(label == k, VOID, label).astype(np.uint8), f"{split}annot")

    return plant


def unused_class(root: Path) -> Section:
    return {"classes": ["background", "cat", "dog", "horse"]}


def size_mismatch(root: Path) -> None:
    path = first(root, "valannot")
    label = Image.open(path)
    label.resize((label.width // 2, label.height // 2), Image.Resampling.NEAREST).save(path)


def image_without_label(root: Path) -> None:
    first(root, "labels").unlink()


def label_without_image(root: Path) -> None:
    first(root, "images").unlink()


def duplicate_stem(root: Path) -> None:
    path = first(root, "images")
    Image.open(path).save(path.with_suffix(".png"))


def exact_copy(root: Path) -> None:
    for folder in ("", "annot"):
        path = first(root, f"train{folder}")
        (root / f"val{folder}" / f"copy{path.suffix}").write_bytes(path.read_bytes())


def near_copy(root: Path) -> None:
    photo, label = Image.open(first(root, "train")), Image.open(first(root, "trainannot"))
    size = (photo.width * 9 // 10, photo.height * 9 // 10)
    brighter = photo.resize(size, Image.Resampling.BICUBIC).point(lambda value: min(255, round(value * 1.08)))
    brighter.save(root / "val" / "again.jpg", quality=60)
    label.resize(size, Image.Resampling.NEAREST).save(root / "valannot" / "again.png")


def all_ignored(root: Path) -> None:
    path = first(root, "trainannot")
    Image.fromarray(np.full_like(np.asarray(Image.open(path)), VOID)).save(path)


def truncated_image(root: Path) -> None:
    path = first(root, "train")
    path.write_bytes(path.read_bytes()[:3000])


def times_256(root: Path) -> None:
    change_labels(root, lambda label: label.astype(np.uint16) * 256)


def exif_turned(root: Path) -> None:
    for path in sorted((root / "train").iterdir())[:4]:
        photo = Image.open(path)
        exif = photo.getexif()
        exif[0x0112] = 6
        photo.save(path, exif=exif, quality=95)


def shifted(root: Path) -> None:
    def move(label: NDArray[Any]) -> NDArray[Any]:
        moved = np.full_like(label, VOID)
        moved[6:, 9:] = label[:-6, :-9]
        return moved

    change_labels(root, move)


def mirrored(root: Path) -> None:
    change_labels(root, lambda label: np.ascontiguousarray(label[:, ::-1]))


def bgr_palette(root: Path) -> Section:
    change_labels(root, lambda label: np.ascontiguousarray(painted(label)[..., ::-1]))
    colors = {name: list(color) for name, color in CAMVID.items()}
    return {"classes": colors, "decode": {"kind": "palette", "ignore_colors": ["#000000"]}}


def shuffled_pairs(root: Path) -> Section:
    rng = np.random.default_rng(3)
    for split in ("train", "val", "test"):
        images = sorted(f"{split}/{path.name}" for path in (root / split).iterdir())
        labels = sorted(f"{split}annot/{path.name}" for path in (root / f"{split}annot").iterdir())
        mixed = [labels[k] for k in rng.permutation(len(labels))]
        (root / f"{split}.txt").write_text("".join(f"{a} {b}\n" for a, b in zip(images, mixed, strict=True)))
    lists = {split: f"{split}.txt" for split in ("train", "val", "test")}
    return {"images": None, "labels": None, "splits": {"kind": "lists", "lines": "pairs", **lists}}


FAULTS: tuple[Fault, ...] = (
    Fault("ids-start-at-one", "pets", ids_start_at_one, quick=True),
    Fault("foreground-255", "wbc", foreground_255, quick=True),
    Fault("spread-values", "wbc", spread_values, "0/128/255", quick=True),
    Fault("colour-labels", "camvid", colour_labels, quick=True),
    Fault("grey-of-palette", "pets", grey_of_palette, quick=True),
    Fault("jpeg-labels", "wbc", jpeg_labels, quick=True),
    Fault("anti-aliased-labels", "wbc", smoothed_labels, quick=True),
    Fault("unknown-values", "camvid", unknown_value, "in one file"),
    Fault("class-absent-train", "camvid", without_class(5, "train")),
    Fault("class-absent-val", "camvid", without_class(3, "val")),
    Fault("class-unused", "pets", unused_class),
    Fault("size-mismatch", "camvid", size_mismatch, quick=True),
    Fault("image-without-label", "pets", image_without_label, quick=True),
    Fault("label-without-image", "pets", label_without_image, quick=True),
    Fault("duplicate-stem", "pets", duplicate_stem, quick=True),
    Fault("duplicate-across-splits", "camvid", exact_copy),
    Fault("near-duplicate-across-splits", "camvid", near_copy),
    Fault("all-ignored", "camvid", all_ignored),
    Fault("unreadable-image", "camvid", truncated_image, "truncated"),
    Fault("ids-times-256", "camvid", times_256, quick=True),
    Fault("exif-rotation", "camvid", exif_turned, quick=True),
    Fault("shifted-labels", "camvid", shifted),
    Fault("mirrored-labels", "camvid", mirrored),
    Fault("bgr-palette", "camvid", bgr_palette, quick=True),
    Fault("shuffled-pairs", "camvid", shuffled_pairs),
)
