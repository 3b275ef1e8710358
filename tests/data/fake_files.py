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
