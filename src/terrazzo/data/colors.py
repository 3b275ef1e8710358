"""Colours as labels: from RGB and palette files to class ids, exact or nearest within a tolerance."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from terrazzo.base import Color, Mask
from terrazzo.data.pixels import SHOWN, UNKNOWN, Raw, counted

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
    """The class of every colour. Made once, used from any thread.

    Args:
        ids: class id (or IGNORE) of each colour.
        tolerance: a pixel has the id of the nearest colour up to this distance, the greatest difference of a channel.
        unknown: id of a colour that is near to no class, or equally near to two.
        channels: the order in which the files hold red, green and blue.
    """

    def __init__(
        self, ids: Mapping[Color, int], tolerance: int, unknown: int = UNKNOWN, channels: Literal["rgb", "bgr"] = "rgb"
    ):
        self.ids, self.tolerance, self.unknown = ids, tolerance, unknown
        self.red_first = channels == "rgb"

    def mask(self, raw: Raw) -> Mask:
        """The ids of an RGB, grey or palette file, uint8 [H, W]; palette files through their own palette. UNKNOWN
        everywhere if its pixels have no colours."""
        palette = _palette(raw)
        if palette is not None:
            table = self._table[self._packed(palette[None])[0]]
            if raw.palette is not None:
                table[len(raw.palette) :] = self.unknown
            return np.asarray(cv2.LUT(np.ascontiguousarray(raw.array), table), np.uint8)
        if raw.mode not in ("RGB", "RGBA"):
            return np.full(raw.array.shape[:2], UNKNOWN, np.uint8)
        return self._table[self._packed(raw.array)]

    def complaint(self, path: Path, raw: Raw, mask: Mask) -> str:
        """What to say about the pixels of a file that are UNKNOWN."""
        palette = _palette(raw)
        if palette is None and raw.mode not in ("RGB", "RGBA"):
            return f"{path}: pixels of type {raw.mode} have no RGB colour for data.decode.kind=palette"
        pixels = raw.array[mask == UNKNOWN]
        if raw.palette is not None and pixels.max() >= len(raw.palette):
            colors, index = len(raw.palette), pixels.max()
            return f"{path}: the file's palette has {colors} colours, but its pixels ask for index {index}"
        packed = self._packed((pixels if palette is None else palette[pixels])[None])
        return self._unknown(path, *np.unique(packed, return_counts=True))

    def _packed(self, colors: NDArray[np.integer]) -> NDArray[np.uint32]:
        """Colours [H, W, 3] as the files hold them, as one number a pixel: red + 256 green + 65536 blue."""
        order = cv2.COLOR_RGB2RGBA if self.red_first else cv2.COLOR_BGR2RGBA
        rgba = np.asarray(cv2.cvtColor(np.ascontiguousarray(colors, np.uint8), order), np.uint8)
        return rgba.view("<u4")[..., 0] & np.uint32(0xFFFFFF)

    @cached_property
    def _table(self) -> Mask:
        """Id of every colour as `_packed` numbers it; 16 MiB, and one look-up a pixel."""
        table = np.full((256, 256, 256), self.unknown, np.uint8)  # [blue, green, red]
        nearest = np.full_like(table, 255)
        for color, k in self.ids.items():
            ranges = [(max(0, c - self.tolerance), min(255, c + self.tolerance) + 1) for c in reversed(color)]
            box = tuple(slice(*each) for each in ranges)
            away = [
                np.abs(np.arange(*each) - c).astype(np.uint8) for each, c in zip(ranges, reversed(color), strict=True)
            ]
            distance = np.maximum(np.maximum(away[0][:, None, None], away[1][:, None]), away[2])
            here, best = table[box], nearest[box]
            here[(distance == best) & (here != k)] = self.unknown  # two classes, equally near
            here[distance < best] = k
            np.minimum(best, distance, out=best)
        return table.reshape(-1)

    def _unknown(self, path: Path, values: NDArray[np.uint32], counts: NDArray[np.intp]) -> str:
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
            other_order = "bgr" if self.red_first else "rgb"
            advice = f"With red and blue swapped they are class colours: say data.decode.channels={other_order}"
        else:
            listed = ", ".join(f"'{hex_of(c)}'" for c in shown)
            advice = f"Give them a class in data.classes, or say data.decode.ignore_colors=[{listed}]"
            if (farthest := int(distances.min(1).max())) <= HINT:
                advice += f"; data.decode.tolerance={farthest} would take the nearest class colour for those named here"
        within = f" within {self.tolerance}" if self.tolerance else ""
        return f"{path}: {found} not among the colours of data.classes{within}. {advice}"


def _palette(raw: Raw) -> NDArray[np.uint8] | None:
    """RGB [256, 3] of the numbers in a palette or grey file; black where a palette says nothing. None for others."""
    colors = np.zeros((256, 3), np.uint8)
    match raw.mode:
        case "P" | "PA" if raw.palette is not None:
            colors[: len(raw.palette)] = raw.palette
        case "1":
            colors[1] = 255
        case "L" | "LA":
            colors[:] = np.arange(256, dtype=np.uint8)[:, None]
        case _:
            return None
    return colors


def hex_of(color: Color) -> str:
    """(128, 64, 255) -> '#8040ff'."""
    return f"#{bytes(color).hex()}"


def _unpacked(value: int) -> Color:
    return value & 255, value >> 8 & 255, value >> 16
