"""What stands in all label files together, against what the config knows: of numbers, and of colours."""

from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from terrazzo.check.scan import Record
from terrazzo.check.verdict import override
from terrazzo.check.verdicts_case import Case, count, share, some
from terrazzo.data.colors import hex_of
from terrazzo.data.labels import IGNORED, Bits, Index, Palette, Values
from terrazzo.data.pixels import UNKNOWN


@dataclass(frozen=True)
class ValueTally:
    """The values of all label files that hold values."""

    case: Case
    records: tuple[Record, ...]

    @cached_property
    def meaning(self) -> dict[int, str]:
        """Value -> class name or `ignore`, as configured."""
        match self.case.cfg.decode:
            case Index(ignore=ignore):
                return {**dict(enumerate(self.case.names)), **dict.fromkeys(ignore, IGNORED)}
            case Values(map=meaning):
                return dict(meaning)
            case Bits():
                return {0: self.case.names[0], 255: self.case.names[1]}
            case _:
                return {}

    @cached_property
    def pixels(self) -> Counter[int]:
        """Value -> pixels in all files."""
        found: Counter[int] = Counter()
        for record in self.records:
            found.update(record.values or {})
        return found

    @cached_property
    def bad(self) -> tuple[Record, ...]:
        """The files with unknown values, worst first."""
        return by_unknown(self.records)

    @property
    def files(self) -> tuple[str, ...]:
        """All label files, those with unknown values first."""
        return tuple(dict.fromkeys(record.label for record in (*self.bad, *self.records)))

    @cached_property
    def unknown(self) -> Counter[int]:
        """Unknown value -> pixels."""
        found: Counter[int] = Counter()
        for record in self.bad:
            found.update(self.unknown_in(record))
        return found

    def unknown_in(self, record: Record) -> dict[int, int]:
        """Unknown value -> pixels of one file."""
        return {value: n for value, n in (record.values or {}).items() if not self._knows(value, record)}

    @cached_property
    def _marks(self) -> list[int]:
        return sorted(self.meaning)

    def _knows(self, value: int, record: Record) -> bool:
        match self.case.cfg.decode:
            case Bits():
                return value in (0, max(record.values or (0,)))
            case Index(ignore_negative=True) if value < 0:
                return True
            case Values(tolerance=tolerance) if tolerance and self._marks:
                place = bisect(self._marks, value)
                return min(abs(value - mark) for mark in self._marks[max(0, place - 1) : place + 1]) <= tolerance
            case _:
                return value in self.meaning

    @property
    def gap(self) -> int:
        """The smallest distance of two values that mean classes."""
        marks = sorted(value for value, name in self.meaning.items() if name != IGNORED)
        return min((b - a for a, b in pairwise(marks)), default=256)

    def near(self, limit: int) -> float:
        """The share of the unknown pixels that are not farther than this from a known value."""
        close = sum(n for value, n in self.unknown.items() if min(abs(value - mark) for mark in self.meaning) <= limit)
        return close / self.unknown.total()

    @property
    def shown(self) -> str:
        return pixels_of(self.pixels)

    @property
    def unknown_share(self) -> str:
        return share_of(self.unknown, self.pixels, self.bad, self.records)


@dataclass(frozen=True)
class ColorTally:
    """The colours of all label files."""

    case: Case
    decode: Palette
    records: tuple[Record, ...]

    @cached_property
    def known(self) -> frozenset[str]:
        """Colours as they stand in the files."""
        colors = {*(self.case.colors or {}).values(), *map(hex_of, self.decode.ignore_colors)}
        return frozenset(map(swapped, colors) if self.decode.channels == "bgr" else colors)

    @cached_property
    def pixels(self) -> Counter[str]:
        """Colour -> pixels in all files."""
        found: Counter[str] = Counter()
        for record in self.records:
            found.update(colors_of(record))
        return found

    @cached_property
    def bad(self) -> tuple[Record, ...]:
        """The files with unknown colours, worst first."""
        return by_unknown(self.records)

    @cached_property
    def unknown(self) -> Counter[str]:
        """Unknown colour -> pixels."""
        found: Counter[str] = Counter()
        for record in self.bad:
            found.update({color: n for color, n in colors_of(record).items() if not self._knows(color)})
        return found

    @cached_property
    def _away(self) -> dict[str, int]:
        """Every colour of the files -> its distance from the nearest known one, as `tolerance` means it."""
        colors = list(self.pixels)
        known = channels(self.known)
        away = np.full(len(colors), 256)
        for color in known:
            away = np.minimum(away, np.abs(channels(colors) - color).max(1))
        return dict(zip(colors, away.tolist(), strict=True))

    def _knows(self, color: str) -> bool:
        return self._away[color] <= self.decode.tolerance

    @property
    def gap(self) -> int:
        """The smallest distance of two known colours."""
        known = channels(self.known)
        return min((int(np.abs(known[:k] - known[k]).max(1).min()) for k in range(1, len(known))), default=255)

    def near(self, limit: int) -> float:
        """The share of the unknown pixels that are not farther than this from a known colour."""
        return sum(n for color, n in self.unknown.items() if self._away[color] <= limit) / self.unknown.total()

    def change(self, settings: Mapping[str, object]) -> tuple[str, ...]:
        """`data.decode` with other settings; none for a layout, whose decoding is fixed."""
        if not self.case.open:
            return ()
        return tuple(override(f"data.decode.{key}", value) for key, value in settings.items())

    @property
    def shown(self) -> str:
        return pixels_of(self.unknown)

    @property
    def unknown_share(self) -> str:
        return share_of(self.unknown, self.pixels, self.bad, self.records)


def by_unknown(records: Sequence[Record]) -> tuple[Record, ...]:
    """The records with pixels that the config gives no class, those with most first."""
    bad = [record for record in records if (record.counts or {}).get(UNKNOWN)]
    return tuple(sorted(bad, key=lambda record: -(record.counts or {})[UNKNOWN]))


def colors_of(record: Record) -> Mapping[str, int]:
    """Colour -> pixels of a label file, grey values as grey colours."""
    if record.colors is not None:
        return record.colors
    return {f"#{value:02x}{value:02x}{value:02x}": n for value, n in (record.values or {}).items() if 0 <= value < 256}


def swapped(color: str) -> str:
    """'#rrggbb' -> '#bbggrr'."""
    return f"#{color[5:7]}{color[3:5]}{color[1:3]}"


def channels(colors: Iterable[str]) -> NDArray[np.int64]:
    """Colours as numbers, [N, 3]."""
    return np.array([list(bytes.fromhex(color[1:])) for color in colors], np.int64).reshape(-1, 3)


def pixels_of(found: Mapping[int, int] | Mapping[str, int]) -> str:
    """'0 (1,200 pixels), 255 (30 pixels)', the most frequent first."""
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return some(f"{what} ({count(n, 'pixel')})" for what, n in ordered)


def share_of(
    unknown: Counter[int] | Counter[str],
    pixels: Counter[int] | Counter[str],
    bad: Sequence[Record],
    records: Sequence[Record],
) -> str:
    part = share(unknown.total(), pixels.total())
    return f"{part} of all pixels, in {count(len(bad), 'file')} of {len(records)}"
