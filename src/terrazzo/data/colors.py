"""Colours as labels: from RGB and palette files to class ids, exact or nearest within a tolerance."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from terrazzo.base import Color, InputError, Mask
from terrazzo.data.pixels import SHOWN, UNKNOWN, counted, open_upright

HINT = 32
"""Up to this distance an error about unknown colours proposes a tolerance; farther ones are no noise."""


def _color(value: object) -> object:
    """`"#8040ff"` -> (128, 64, 255); anything else is left to pydantic."""
    if not isinstance(value, str):
        return value
    digits = value.removeprefix("#")
    if len(digits) != 6 or set(digits.lower()) - set("0123456789abcdef"):
        raise ValueError(f"{value!r} is not a colour: write '#rrggbb' or [red, green, blue]")
    return tuple(bytes.fromhex(digits))


Channel = Annotated[int, Field(ge=0, le=255)]
ColorSpec = Annotated[tuple[Channel, Channel, Channel], BeforeValidator(_color, json_schema_input_type=str | Color)]
"""RGB as '#rrggbb' or [red, green, blue]."""


class ColorMap:
    """Reads masks whose pixels are colours. Made once, used from any thread.

    Args:
        ids: class id (or IGNORE) of each colour.
        tolerance: a pixel has the id of the nearest colour up to this distance, the greatest difference of a channel.
    """

    def __init__(self, ids: Mapping[Color, int], tolerance: int):
        self.ids, self.tolerance = ids, tolerance

    def read(self, path: Path) -> Mask:
        """The mask of an RGB, grey or palette file, uint8 [H, W]; palette files through their own palette.

        Raises:
            InputError: the file is missing or damaged, or has a colour that is near to no class or equally near to two.
        """
        image = open_upright(path)
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            raise InputError(f"{path}: pixels of type {image.mode} have no RGB colour for data.decode.kind=palette")
        if image.mode == "P":
            palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
            table = np.full(256, UNKNOWN, np.uint8)
            if len(palette):
                table[: len(palette)] = self._table[_packed(palette[None])[0]]
            mask = np.asarray(cv2.LUT(np.asarray(image), table), np.uint8)
        else:
            mask = self._table[_packed(np.asarray(image.convert("RGB")))]
        if (mask == UNKNOWN).any():
            raise InputError(self._unknown(path, np.asarray(image.convert("RGB"))[mask == UNKNOWN]))
        return mask

    @cached_property
    def _table(self) -> Mask:
        """Id of every colour as `_packed` numbers it; 16 MiB, and one look-up a pixel."""
        table = np.full((256, 256, 256), UNKNOWN, np.uint8)  # [blue, green, red]
        nearest = np.full_like(table, 255)
        for color, k in self.ids.items():
            ranges = [(max(0, c - self.tolerance), min(255, c + self.tolerance) + 1) for c in reversed(color)]
            box = tuple(slice(*each) for each in ranges)
            away = [
                np.abs(np.arange(*each) - c).astype(np.uint8) for each, c in zip(ranges, reversed(color), strict=True)
            ]
            distance = np.maximum(np.maximum(away[0][:, None, None], away[1][:, None]), away[2])
            here, best = table[box], nearest[box]
            here[(distance == best) & (here != k)] = UNKNOWN  # two classes, equally near
            here[distance < best] = k
            np.minimum(best, distance, out=best)
        return table.reshape(-1)

    def _unknown(self, path: Path, pixels: NDArray[np.uint8]) -> str:
        """What to say about pixels [N, 3] without a class."""
        values, counts = np.unique(_packed(pixels[None]), return_counts=True)
        order = np.argsort(-counts, kind="stable")
        numbers = dict(zip(map(_unpacked, values[order].tolist()), counts[order].tolist(), strict=True))
        found = counted([(hex_of(color), n) for color, n in numbers.items()])
        shown = [*numbers][:SHOWN]
        known = np.array([*self.ids], np.int16)
        distances = np.abs(np.array(shown, np.int16)[:, None] - known).max(2)  # [colours shown, class colours]
        for color, row in zip(shown, distances, strict=True):
            if row.min() <= self.tolerance:
                tied = [each for each, away in zip(self.ids, row, strict=True) if away == row.min()]
                other = next(each for each in tied if self.ids[each] != self.ids[tied[0]])
                return (
                    f"{path}: {counted([(hex_of(color), numbers[color])])} is as near to {hex_of(tied[0])} as to "
                    f"{hex_of(other)}; lower data.decode.tolerance={self.tolerance}, or add it to ignore_colors"
                )
        if all(color[::-1] in self.ids for color in numbers):
            advice = "With red and blue swapped they are class colours: data.classes wants red first"
        else:
            listed = ", ".join(f"'{hex_of(c)}'" for c in shown)
            advice = f"Give them a class in data.classes, or say data.decode.ignore_colors=[{listed}]"
            if (farthest := int(distances.min(1).max())) <= HINT:
                advice += f"; data.decode.tolerance={farthest} would take the nearest class colour for those named here"
        within = f" within {self.tolerance}" if self.tolerance else ""
        return f"{path}: {found} not among the colours of data.classes{within}. {advice}"


def hex_of(color: Color) -> str:
    """(128, 64, 255) -> '#8040ff'."""
    return f"#{bytes(color).hex()}"


def _packed(rgb: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """RGB [H, W, 3] as one number a pixel: red + 256 green + 65536 blue."""
    rgba = np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2RGBA), np.uint8)
    return rgba.view("<u4")[..., 0] & np.uint32(0xFFFFFF)


def _unpacked(value: int) -> Color:
    return value & 255, value >> 8 & 255, value >> 16
