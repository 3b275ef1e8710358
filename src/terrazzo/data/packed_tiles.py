"""Tiles of a pack: pictures cut into squares that are written and read one by one."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, assert_never, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.base import InputError, Mask

Format = Literal["zstd", "raw"]
"""How tiles are written: compressed, each with zstd's own checksum, or as they are, each followed by its CRC-32."""

FORMATS: tuple[Format, ...] = get_args(Format)

CRC_BYTES = 4

IMAGE_LEVEL, MASK_LEVEL = -1, 9
"""Of zstd. Below zero it leaves the entropy of single bytes alone: pictures get a sixth larger than at the usual 3 and
are read in two thirds of the time."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """An image or a mask in a pack. A slice of it is an array, for which only the tiles it touches are read."""

    file: Path
    start: NDArray[np.int64]
    """Where each tile starts in the file, row by row, and where the last one ends."""
    shape: tuple[int, ...]
    tile: int
    format: Format
    what: str
    """For messages."""
    table: Mask | None = None
    """New id of every id."""

    dtype = np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError(f"{self.what} stands in a file: it cannot become an array without a copy")
        return self[: self.shape[0], : self.shape[1]].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[np.uint8]:
        """Rows and columns, as of an array; steps are not allowed.

        Raises:
            InputError: the file cannot be read, or is damaged.
        """
        rows, columns = (range(*part.indices(side)) for part, side in zip(window, self.shape, strict=False))
        if rows.step != 1 or columns.step != 1:
            raise IndexError(f"{self.what}: only slices without a step can be read, not {window}")
        seen = np.empty((len(rows), len(columns), *self.shape[2:]), np.uint8)
        if seen.size:
            for top, left, tile in self._touched(rows, columns):
                down, across = slice(max(0, -top), len(rows) - top), slice(max(0, -left), len(columns) - left)
                part = tile[down, across]
                top, left = max(0, top), max(0, left)
                seen[top : top + part.shape[0], left : left + part.shape[1]] = part
        return seen if self.table is None else np.asarray(cv2.LUT(seen, self.table), np.uint8)

    def _touched(self, rows: range, columns: range) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """Each tile with the place of its corner in the window, which may lie outside."""
        side, (height, width, *channels) = self.tile, self.shape
        beside, across = range(columns.start // side, -(-columns.stop // side)), -(-width // side)
        decoded = tile_reader(self.format)
        try:
            with self.file.open("rb", buffering=0) as shard:
                for row in range(rows.start // side, -(-rows.stop // side)):
                    first = row * across + beside.start
                    edges = self.start[first : first + len(beside) + 1].tolist()
                    shard.seek(edges[0])
                    data = memoryview(shard.read(edges[-1] - edges[0]))
                    for column, (start, end) in zip(beside, pairwise(edges), strict=True):
                        shape = min(side, height - row * side), min(side, width - column * side), *channels
                        pixels = decoded(data[start - edges[0] : end - edges[0]])
                        tile = np.frombuffer(pixels, np.uint8).reshape(shape)
                        yield row * side - rows.start, column * side - columns.start, tile
        except OSError as error:
            raise InputError(f"{self.file}: cannot read this part of a pack ({error.strerror})") from error
        except ValueError as error:
            raise InputError(
                f"{self.file}: {self.what} is damaged ({error}); copy the pack again, or make it again"
            ) from error


def cut(array: NDArray[np.uint8], side: int) -> Iterator[NDArray[np.uint8]]:
    """The tiles of an image or a mask, row by row."""
    height, width = array.shape[:2]
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield np.ascontiguousarray(array[top : top + side, left : left + side])


def tile_writer(format: Format) -> Callable[[NDArray[np.uint8]], bytes]:
    """From a tile to the bytes that `tile_reader` reads."""
    match format:
        case "zstd":
            image, mask = (
                zstandard().ZstdCompressor(level=level, write_checksum=True) for level in (IMAGE_LEVEL, MASK_LEVEL)
            )
            return lambda tile: bytes((image if tile.ndim == 3 else mask).compress(tile.tobytes()))
        case "raw":
            return lambda tile: tile.tobytes() + zlib.crc32(tile.data).to_bytes(CRC_BYTES, "little")
        case _:
            assert_never(format)


def tile_reader(format: Format) -> Callable[[memoryview], bytes | memoryview]:
    """From the bytes of a tile in a shard to those of its pixels; a ValueError if they are not as they were written."""
    match format:
        case "zstd":
            library = zstandard()
            inflate = library.ZstdDecompressor().decompress

            def opened(data: memoryview) -> bytes | memoryview:
                try:
                    return bytes(inflate(data))
                except library.ZstdError as error:
                    raise ValueError(error) from error

            return opened
        case "raw":
            return _without_crc
        case _:
            assert_never(format)


def _without_crc(data: memoryview) -> memoryview:
    pixels, crc = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if zlib.crc32(pixels) != int.from_bytes(crc, "little"):
        raise ValueError("its checksum is another")
    return pixels


def zstandard() -> ModuleType:
    """The library of compressed packs, which is an extra.

    Raises:
        InputError: it is not installed.
    """
    try:
        import zstandard as library
    except ImportError as error:
        raise InputError(
            "packs in zstd need the package zstandard: pip install 'terrazzo[pack]'; packs with --format raw need none"
        ) from error
    return library
