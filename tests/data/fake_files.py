"""Made-up pictures, label files and lists, for trees in exactly the layout of a real data set."""

from pathlib import Path

import numpy as np
from PIL import Image

from terrazzo.base import distinct_colors


def photo(path: Path, size: tuple[int, int] = (6, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 99, np.uint8)).save(path)


def label(path: Path, ids: object, voc_palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.uint8(ids))
    if voc_palette:
        image.putpalette([channel for color in distinct_colors(256) for channel in color])
        assert image.mode == "P"
    image.save(path)


def lines(path: Path, *entries: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{entry}\n" for entry in entries))


def streets_and_pets(root: Path, frames: int) -> Path:
    """Folders `cityscapes` (`frames` images to train on) and `pets` (two), as they are downloaded; `root`."""
    rng = np.random.default_rng(0)
    for split, city, count in (("train", "aachen", frames), ("val", "munster", 2)):
        for frame in range(count):
            stem = f"{split}/{city}/{city}_000000_{frame:06}"
            label(root / f"cityscapes/leftImg8bit/{stem}_leftImg8bit.png", rng.integers(0, 256, (32, 64, 3)))
            ids = rng.choice([0, 7, 8, 11, 23, 26], (4, 8)).repeat(8, 0).repeat(8, 1)
            label(root / f"cityscapes/gtFine/{stem}_gtFine_labelIds.png", ids)
    for name, stems in {"trainval": ["Abyssinian_1", "Abyssinian_2"], "test": ["Bengal_1"]}.items():
        lines(root / f"pets/annotations/{name}.txt", *(f"{stem} 1 1 1" for stem in stems))
        for stem in stems:
            label(root / f"pets/images/{stem}.jpg", rng.integers(0, 256, (40, 50, 3)))
            label(root / f"pets/annotations/trimaps/{stem}.png", rng.integers(1, 4, (10, 10)).repeat(4, 0).repeat(5, 1))
    return root
