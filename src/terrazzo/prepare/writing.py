"""Images and masks into files that are read back before they get their names; large ones in tiles."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from terrazzo.base import Image, InputError, Mask
from terrazzo.data.geometry import Window
from terrazzo.data.pixels import IMAGE_SUFFIXES, read_image, read_values
from terrazzo.files import replacing

ImageFormat = Literal["copy", "png", "jpg"]

SUFFIXES: dict[ImageFormat, frozenset[str]] = {
    "copy": IMAGE_SUFFIXES,
    "png": frozenset((".png",)),
    "jpg": frozenset((".jpg", ".jpeg")),
}
"""What a file may be called to be copied under a format, if no pixel changes."""

JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
"""Full colour resolution: labels have sharp edges."""


def windows(size: tuple[int, int], tile: int | None, overlap: int) -> list[Window]:
    """The whole, or squares that cover it; the last one of a row or column ends where the image does.

    What is smaller than a square stays as it is.
    """
    if tile is None:
        return [Window(0, 0, *size)]
    rows, columns = (_starts(length, tile, overlap) for length in size)
    return [Window(y, x, min(tile, size[0]), min(tile, size[1])) for y in rows for x in columns]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    return [*range(0, length - tile, tile - overlap), max(0, length - tile)]


def write_image(stem: Path, image: Image, original: Path | None, image_format: ImageFormat) -> Path:
    """`stem` with its suffix: the bytes of `original` if there is one and the format allows, else the pixels."""
    if original is not None and original.suffix.lower() in SUFFIXES[image_format]:
        data = original.read_bytes()
        return _write(_named(stem, original.suffix), data, lambda draft: draft.read_bytes() == data)
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if image_format == "jpg":
        _, encoded = cv2.imencode(".jpg", pixels, JPEG)
        return _write(_named(stem, ".jpg"), encoded.tobytes(), lambda draft: read_image(draft).shape == image.shape)
    _, encoded = cv2.imencode(".png", pixels)
    return _write(_named(stem, ".png"), encoded.tobytes(), lambda draft: np.array_equal(read_image(draft), image))


def write_mask(stem: Path, mask: Mask) -> Path:
    """`stem`.png, plain grey: some readers would give the colours of a palette."""
    _, encoded = cv2.imencode(".png", mask)
    return _write(_named(stem, ".png"), encoded.tobytes(), lambda draft: np.array_equal(read_values(draft), mask))


def _write(path: Path, data: bytes, reads_back: Callable[[Path], bool]) -> Path:
    with replacing(path) as draft:
        draft.write_bytes(data)
        if not reads_back(draft):
            raise InputError(f"{path}: what was written reads back differently; is the disk in order?")
    return path


def _named(stem: Path, suffix: str) -> Path:
    """Path.with_suffix would take a dot in the name for the start of one."""
    return stem.with_name(stem.name + suffix)
