"""What can be counted in one picture or one mask: pure functions of arrays."""

from collections.abc import Sequence
from hashlib import blake2b
from math import sqrt
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.base import Image, Mask

KINDS = 1024
"""How many values, or colours, of a file are counted by name."""

GOLDEN = (sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, spread evenly and never fall into step with the rows of a picture."""

Position = tuple[int, int]
"""(y, x) of a pixel."""


class Components(NamedTuple):
    """The connected regions (8 neighbours) of one class in one mask."""

    number: int
    largest: int
    """Pixels of the largest region."""
    median: float
    """Pixels of the median region."""


class Counted(NamedTuple):
    """How often each value, or colour, stands in a label file: the `KINDS` most frequent, in that order."""

    values: dict[int, int] | None
    """Value -> pixels; also where every colour is a grey. None where pixels are real colours."""
    colors: dict[str, int] | None
    """'#rrggbb' -> pixels; of palette files the colours that their indices stand for. None for plain values."""
    more: int
    """How many further values (colours, where there are no values) there are."""


def counted_raw(array: NDArray[np.integer], palette: NDArray[np.uint8] | None = None) -> Counted:
    """Values [H, W], indices into a palette [N, 3], or colours [H, W, 3], of a label file as it is stored."""
    if array.ndim == 2:
        found = _by_frequency(_counts(array))
        kept = dict(found[:KINDS])
        return Counted(kept, None if palette is None else _colors_of(kept, palette), len(found[KINDS:]))
    bgra = np.asarray(cv2.cvtColor(np.ascontiguousarray(array, np.uint8), cv2.COLOR_RGB2BGRA))
    found = _by_frequency(_counts(bgra.view("<u4")[..., 0] & np.uint32(0xFFFFFF)))  # 0xrrggbb
    colors = {f"#{value:06x}": pixels for value, pixels in found[:KINDS]}
    grey = all(value == (value & 255) * 0x010101 for value, _ in found)
    return Counted({value & 255: pixels for value, pixels in found} if grey else None, colors, len(found[KINDS:]))


def counted_ids(mask: Mask) -> dict[int, int]:
    """Pixels of every id that a mask shows, IGNORE and UNKNOWN among them, in the order of the ids."""
    return _counts(mask)


def counted_classes(mask: Mask, classes: int) -> dict[int, int]:
    """Pixels of every class 0..classes-1 that a mask shows, in the order of the classes."""
    return {k: pixels for k, pixels in _counts(mask).items() if k < classes}


def sampled_positions(mask: Mask, ids: Sequence[int], most: int = 32) -> dict[int, list[Position]]:
    """At most `most` pixels of each of these ids that the mask shows, spread evenly over all its pixels."""
    runs = _runs(mask)
    found = {}
    for k in ids:
        mine = runs.values == k
        if not mine.any():
            continue
        starts, ends = runs.starts[mine], np.cumsum(runs.lengths[mine])
        pixels = int(ends[-1])
        parts = np.arange(min(most, pixels) + 1) * pixels // min(most, pixels)
        order = parts[:-1] + (np.arange(len(parts) - 1) * GOLDEN % 1 * np.diff(parts)).astype(np.int64)
        run = np.searchsorted(ends, order, side="right")
        flat = starts[run] + order - (ends[run] - runs.lengths[mine][run])
        rows, columns = np.divmod(flat, mask.shape[1])
        found[k] = list(zip(rows.tolist(), columns.tolist(), strict=True))
    return found


def components(mask: Mask, ids: Sequence[int]) -> dict[int, Components]:
    """The connected regions of each of these ids that the mask shows."""
    found = {}
    for k in ids:
        rows = np.flatnonzero((mask == k).any(1))
        if not len(rows):
            continue
        part = (mask[rows[0] : rows[-1] + 1] == k).view(np.uint8)
        _, _, boxes, _ = cv2.connectedComponentsWithStats(part, connectivity=8, ltype=cv2.CV_32S)
        pixels = boxes[1:, cv2.CC_STAT_AREA]
        found[k] = Components(len(pixels), int(pixels.max()), float(np.median(pixels)))
    return found


def moments(image: Image) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and mean square of each channel, of values 0..255; averages over images weigh them by their pixels."""
    mean, deviation = (each[:, 0] for each in cv2.meanStdDev(image))
    return tuple(mean.tolist()), tuple((deviation**2 + mean**2).tolist())


def digest(array: NDArray[np.generic]) -> str:
    """Equal for equal shapes and pixels, whatever files they came from."""
    made = blake2b(repr((array.shape, array.dtype.str)).encode(), digest_size=16)
    made.update(np.ascontiguousarray(array).data)
    return made.hexdigest()


class _Runs(NamedTuple):
    """An array in reading order as stretches of one value: masks have few, so that what follows is cheap."""

    values: NDArray[np.integer]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


def _runs(array: NDArray[np.integer]) -> _Runs:
    flat = array.reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    return _Runs(flat[starts], starts, np.diff(starts, append=flat.size))


def _counts(array: NDArray[np.integer]) -> dict[int, int]:
    """Value -> pixels, in the order of the values."""
    runs = _runs(array)
    values, inverse = np.unique(runs.values, return_inverse=True)
    pixels = np.bincount(inverse, runs.lengths).astype(np.int64)  # sums in float64 are exact below 2**53
    return dict(zip(values.tolist(), pixels.tolist(), strict=True))


def _by_frequency(counts: dict[int, int]) -> list[tuple[int, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def _colors_of(indices: dict[int, int], palette: NDArray[np.uint8]) -> dict[str, int]:
    """Colour -> pixels; several indices may stand for one colour, and files may hold indices beyond their palette."""
    colors: dict[str, int] = {}
    for index, pixels in indices.items():
        if index < len(palette):
            color = f"#{palette[index].tobytes().hex()}"
            colors[color] = colors.get(color, 0) + pixels
    return colors
