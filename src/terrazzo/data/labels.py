"""Decoders: from label files as they are (ids, values, colours, bits, polygons) to masks of class ids."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, assert_never

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from terrazzo.base import IGNORE, Classes, Color, Config, InputError, Mask, distinct_colors
from terrazzo.data.colors import ColorMap, ColorSpec, hex_of
from terrazzo.data.pixels import SHOWN, UNKNOWN, counted, read_values
from terrazzo.data.polygons import read_polygons

IGNORED = "ignore"
"""The name that stands for "no class" wherever a class name is asked for."""

ClassList = tuple[str, ...] | dict[str, ColorSpec]
"""Class names in the order of their ids, or class names with their colours."""

Mark = int | Color | str
"""What stands for a class in a label file: a value, a colour, or the label of an outline."""


class Index(Config):
    """The value of a pixel (grey of 1 to 16 bits, the index of a palette image, a number of a text) is its class id."""

    kind: Literal["index"] = "index"
    ignore: tuple[int, ...] = (255,)
    """Values that mean "no class"."""
    ignore_negative: bool = False
    """Values below zero mean "no class" too; only text and TIFF files can have them."""


class Values(Config):
    """Every value that occurs is given a class."""

    kind: Literal["values"] = "values"
    map: dict[int, str]
    """Value -> class name, or `ignore`. Several values may have one class."""


class Palette(Config):
    """The colour of a pixel is its class: RGB files, or palette files through each file's own palette.

    A colour that is equally near to two classes is an error.
    """

    kind: Literal["palette"] = "palette"
    ignore_colors: tuple[ColorSpec, ...] = ()
    """Colours that mean "no class". The colours of the classes stand in `data.classes`."""
    tolerance: Annotated[int, Field(ge=0, le=127)] = 0
    """A pixel goes to the nearest colour that differs by no more than this in any channel; 0 asks for exact colours."""


class Bits(Config):
    """Two-valued masks: zero is the first class, the other value (1, 255, ...) the second."""

    kind: Literal["bits"] = "bits"


class Polygons(Config):
    """Outlines in JSON as Cityscapes and IDD write them (imgHeight, imgWidth, objects with label and polygon, maybe
    deleted). Later objects cover earlier ones; what nothing covers has no class."""

    kind: Literal["polygons"] = "polygons"
    map: dict[str, str] = Field(default_factory=dict)
    """Label -> class name, or `ignore`. Class names are labels too; `cargroup` without an entry is read as `car`."""
    unknown: Literal["error", "skip"] = "error"
    """What an object with a label that is no class and not in `map` does: end the run, or not be drawn."""


DecodeConfig = Annotated[Index | Values | Palette | Bits | Polygons, Field(discriminator="kind")]


class Decoder:
    """Reads label files of one data set. Made once, used from any thread.

    Args:
        names: the classes that the files know.
        decode: how they are written in them.
        remap: class name -> other or new class name, or `ignore`; all at once, so that names can also be swapped.

    Raises:
        InputError: the three do not fit together.
    """

    classes: Classes
    """The label space after `remap`."""

    def __init__(self, names: Sequence[str] | Mapping[str, Color], decode: DecodeConfig, remap: Mapping[str, str]):
        named = names if isinstance(names, Mapping) else dict(zip(names, distinct_colors(len(names)), strict=True))
        if len(named) < len(names):
            twice = sorted({name for name in names if list(names).count(name) > 1})
            raise InputError(f"data.classes names {twice} more than once")
        if IGNORED in named:
            raise InputError(f"data.classes: {IGNORED!r} cannot name a class, it means no class")
        if isinstance(decode, Palette) and not isinstance(names, Mapping):
            raise InputError("data.decode.kind=palette needs colours: write data.classes as {name: '#rrggbb', ...}")
        self.decode = decode
        self.names = tuple(named)
        meaning = dict(_meaning(decode, named))
        owners = _owners(named, remap)
        new = {name: k for k, name in enumerate(owners)}
        self._table = {
            mark: IGNORE if name == IGNORED else new.get(remap.get(name, name), IGNORE)
            for mark, name in meaning.items()
        }
        # Reversed, so that of several values for one name the first one stays. Colours, labels have none: 0, 1, 2, ...
        values = {name: mark for mark, name in reversed(meaning.items()) if isinstance(mark, int)}
        file_ids = values or {name: k for k, name in enumerate(named)}
        ids = tuple(file_ids[old] for old in owners.values())
        colors = tuple(named[old] for old in owners.values())
        self.classes = Classes(tuple(owners), colors, ids, _ignore_id(file_ids.get(IGNORED), ids))
        tolerance = decode.tolerance if isinstance(decode, Palette) else 0
        self._colors = ColorMap({mark: k for mark, k in self._table.items() if isinstance(mark, tuple)}, tolerance)
        self._labels = {mark: k for mark, k in self._table.items() if isinstance(mark, str)}

    def read(self, path: Path) -> Mask:
        """The mask of a label file, uint8 [H, W].

        Raises:
            InputError: the file is missing or damaged, or holds what the label space does not know.
        """
        match self.decode:
            case Index() | Values():
                raw = read_values(path)
                mask = self._of_values(raw)
                if (mask == UNKNOWN).any():
                    raise InputError(self._unknown_values(path, raw, mask))
                return mask
            case Bits():
                raw = read_values(path)
                if not ((raw == 0) | (raw == raw.max())).all():
                    raise InputError(_not_two_valued(path, raw))
                return self._of_values((raw != 0).view(np.uint8) * np.uint8(255))
            case Palette():
                return self._colors.read(path)
            case Polygons(unknown=unknown):
                return read_polygons(path, self._labels, unknown)
            case _:
                assert_never(self.decode)

    def probe(self, paths: Sequence[Path]) -> None:
        """Look into a few label files for a trap that no single file shows: 0/255 masks whose foreground is "ignore".

        Raises:
            InputError: 0 and 255 are all there is, although there are two classes or more.
        """
        if not isinstance(self.decode, Index) or 255 not in self.decode.ignore or len(self.names) < 2:
            return
        looked = paths[:: max(1, len(paths) // 8)][:8]
        if set().union(*(np.unique(read_values(path)).tolist() for path in looked)) == {0, 255}:
            raise InputError(
                f"{looked[0]} and {len(looked) - 1} more label files hold only 0 and 255, and data.decode ignores 255: "
                f"{self.names[1]!r} would never be seen. If 255 is the foreground, say data.decode={{kind: bits}}; if "
                f"it is no class, say data.decode={{kind: values, map: {{0: {self.names[0]}, ..., 255: ignore}}}}"
            )

    @cached_property
    def _by_value(self) -> Mask:
        """Class id of every value of 0..65535."""
        table = np.full(1 << 16, UNKNOWN, np.uint8)
        for value, k in self._table.items():
            if isinstance(value, int) and 0 <= value < len(table):
                table[value] = k
        return table

    def _of_values(self, raw: NDArray[np.integer]) -> Mask:
        if raw.dtype == np.uint8:
            return np.asarray(cv2.LUT(np.ascontiguousarray(raw), self._by_value[:256]), np.uint8)
        if raw.dtype == np.uint16:
            return np.take(self._by_value, raw)
        low, high = int(raw.min()), int(raw.max())  # signed: a cast would turn -1 into 255 or 65535
        if high - low < 1024:
            return np.take(np.array([self._of_value(v) for v in range(low, high + 1)], np.uint8), raw - low)
        values, inverse = np.unique(raw, return_inverse=True)
        return np.array([self._of_value(v) for v in values.tolist()], np.uint8)[inverse].reshape(raw.shape)

    def _of_value(self, value: int) -> int:
        negative = isinstance(self.decode, Index) and self.decode.ignore_negative and value < 0
        return self._table.get(value, IGNORE if negative else UNKNOWN)

    def _unknown_values(self, path: Path, raw: NDArray[np.integer], mask: Mask) -> str:
        values, counts = np.unique(raw[mask == UNKNOWN], return_counts=True)
        present, unknown = set(np.unique(raw).tolist()), values.tolist()
        found = counted([(f"value {v}", n) for v, n in zip(unknown, counts.tolist(), strict=True)])
        match self.decode:
            case Index() if unknown == [255] and present <= {0, 255}:
                advice = "It looks like a 0/255 mask: say data.decode={kind: bits}"
            case Index() if unknown == [len(self.names)] and 0 not in present:
                ids = ", ".join(f"{k}: {name}" for k, name in enumerate(self.names[:3], start=1))
                more = ", ..." if len(self.names) > 3 else ""
                advice = f"Its ids seem to start at 1: say data.decode={{kind: values, map: {{{ids}{more}}}}}"
            case Index() if max(unknown) < 0:
                advice = "If numbers below zero mean no class, say data.decode.ignore_negative=true"
            case Index(ignore=ignore):
                listed = ", ".join(map(str, [*ignore, *unknown[:SHOWN]]))
                advice = f"Name them in data.classes, or ignore them too: data.decode.ignore=[{listed}]"
            case _:
                advice = f"Add them to data.decode.map, for example {{{unknown[0]}: ignore}}"
        if len(unknown) > SHOWN or path.suffix.lower() in (".jpg", ".jpeg"):
            advice += ". Many odd values come from masks stored as JPEG or resized smoothly: use the original masks"
        return f"{path}: {found} not in the label space of {len(self.names)} classes. {advice}"


def _meaning(decode: DecodeConfig, named: Mapping[str, Color]) -> list[tuple[Mark, str]]:
    """What stands in the files, with its class name or `ignore`, in the order of the config."""
    match decode:
        case Index(ignore=ignore):
            if taken := [value for value in ignore if 0 <= value < len(named)]:
                raise InputError(
                    f"data.decode.ignore: {taken[0]} is the id of class {list(named)[taken[0]]!r}; drop a class with "
                    f"data.remap={{{list(named)[taken[0]]}: ignore}}, or take it off data.classes"
                )
            return [*enumerate(named), *((value, IGNORED) for value in ignore)]
        case Values(map=values):
            check_names(values.values(), (*named, IGNORED), "data.decode.map")
            if idle := [name for name in named if name not in values.values()]:
                raise InputError(
                    f"data.decode.map gives no value to the classes {idle}; add them or take them off data.classes"
                )
            return [*values.items()]
        case Palette(ignore_colors=ignore_colors):
            marks = [*((c, n) for n, c in named.items()), *((c, IGNORED) for c in dict.fromkeys(ignore_colors))]
            owner: dict[Color, str] = {}
            for color, name in marks:
                if owner.setdefault(color, name) != name:
                    raise InputError(
                        f"data.classes: {owner[color]!r} and {name!r} have the same colour {hex_of(color)}"
                    )
            return [*marks]
        case Bits():
            if len(named) != 2:
                raise InputError(
                    f"data.decode.kind=bits needs 2 classes (zero, non-zero), data.classes has {len(named)}"
                )
            background, foreground = named
            return [(0, background), (255, foreground)]
        case Polygons(map=labels):
            check_names(labels.values(), (*named, IGNORED), "data.decode.map")
            drawn = {name: name for name in named} | labels
            if idle := [name for name in named if name not in drawn.values()]:
                raise InputError(f"data.decode.map takes their only label from the classes {idle}; give them another")
            return [*drawn.items()]
        case _:
            assert_never(decode)


def check_names(used: Iterable[str], known: Sequence[str], where: str) -> None:
    """Refuse class names that do not exist, with the nearest that does."""
    for name in used:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            raise InputError(f"{where}: no class is called {name!r}; {meant}")


def _owners(named: Mapping[str, Color], remap: Mapping[str, str]) -> dict[str, str]:
    """The classes after `remap`, in order: new name -> the old class whose place, colour and file value it has."""
    check_names(remap, tuple(named), "data.remap")
    owners: dict[str, str] = {}
    for name in named:
        target = remap.get(name, name)
        joins = target != name and target in named and remap.get(target, target) == target  # that one has its own place
        if target != IGNORED and not joins:
            owners.setdefault(target, name)
    if not owners:
        raise InputError("data.remap drops every class")
    return owners


def _ignore_id(asked: int | None, ids: tuple[int, ...]) -> int:
    """A file value for "no class" that no class has: the data set's own, else the highest free one of 8 bits."""
    if asked is not None and 0 <= asked < 1 << 16 and asked not in ids:
        return asked
    return next(value for value in range(IGNORE, -1, -1) if value not in ids)


def _not_two_valued(path: Path, raw: NDArray[np.integer]) -> str:
    values, counts = np.unique(raw, return_counts=True)
    found = counted([(f"value {v}", n) for v, n in zip(values.tolist(), counts.tolist(), strict=True)])
    return (
        f"{path}: {found}, but data.decode.kind=bits reads masks of two values, one of them 0. Masks stored as JPEG or "
        "resized smoothly have more: use the original ones; for more classes say data.decode={kind: values, map: {...}}"
    )
