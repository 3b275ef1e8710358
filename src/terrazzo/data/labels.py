"""Decoders: from label files as they are (ids, values, colours, bits, polygons) to masks of class ids."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, assert_never

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from terrazzo.base import IGNORE, Classes, Color, Config, InputError, Mask, distinct_colors
from terrazzo.data.colors import ColorMap, ColorSpec, hex_of
from terrazzo.data.pixels import SHOWN, UNKNOWN, Raw, counted, no_values, read_raw, read_values
from terrazzo.data.polygons import read_polygons
from terrazzo.data.values import ValueMap

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
    tolerance: Annotated[int, Field(ge=0, le=32767)] = 0
    """A value that is not in `map` counts as the nearest that is, if they differ by no more than this."""
    unknown: Literal["error", "ignore"] = "error"
    """What a value that belongs to none, or equally to two classes, does: end the run, or mean no class."""


class Palette(Config):
    """The colour of a pixel is its class: RGB files, or palette files through each file's own palette."""

    kind: Literal["palette"] = "palette"
    ignore_colors: tuple[ColorSpec, ...] = ()
    """Colours that mean "no class". The colours of the classes stand in `data.classes`."""
    tolerance: Annotated[int, Field(ge=0, le=127)] = 0
    """A pixel goes to the nearest colour that differs by no more than this in any channel; 0 asks for exact colours."""
    unknown: Literal["error", "ignore"] = "error"
    """What a colour that belongs to none, or equally to two classes, does: end the run, or mean no class."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels in the files; `bgr` for files whose red and blue were swapped when they were written."""


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


class Looked(NamedTuple):
    """A label file and what the config makes of it."""

    raw: Raw | None
    """As it is stored; None for polygons."""
    mask: Mask
    """Class ids, IGNORE, and UNKNOWN (254) where the config gives no class; [H, W] like `raw`."""


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
        table = {
            mark: IGNORE if name == IGNORED else new.get(remap.get(name, name), IGNORE)
            for mark, name in meaning.items()
        }
        # Reversed, so that of several values for one name the first one stays. Colours, labels have none: 0, 1, 2, ...
        values = {name: mark for mark, name in reversed(meaning.items()) if isinstance(mark, int)}
        file_ids = values or {name: k for k, name in enumerate(named)}
        ids = tuple(file_ids[old] for old in owners.values())
        colors = tuple(named[old] for old in owners.values())
        self.classes = Classes(tuple(owners), colors, ids, _ignore_id(file_ids.get(IGNORED), ids))
        self._values = _value_map(decode, {mark: k for mark, k in table.items() if isinstance(mark, int)})
        self._colors = _color_map(decode, {mark: k for mark, k in table.items() if isinstance(mark, tuple)})
        self._labels = {mark: k for mark, k in table.items() if isinstance(mark, str)}

    def look(self, path: Path) -> Looked:
        """A label file with its mask, for those who want to know what is wrong with it. Of a file that holds colours
        where values are wanted, or the other way round, every pixel is UNKNOWN.

        Raises:
            InputError: the file cannot be read at all.
        """
        match self.decode:
            case Polygons(unknown=unknown):
                return Looked(None, read_polygons(path, self._labels, "mark" if unknown == "error" else unknown))
            case Index() | Values() | Bits() | Palette():
                raw = read_raw(path)
                return Looked(raw, self._mask(raw))
            case _:
                assert_never(self.decode)

    def read(self, path: Path) -> Mask:
        """The mask of a label file, uint8 [H, W].

        Raises:
            InputError: the file is missing or damaged, or holds what the label space does not know.
        """
        if isinstance(self.decode, Polygons):
            return read_polygons(path, self._labels, self.decode.unknown)
        raw, mask = self.look(path)
        if raw is not None and (mask == UNKNOWN).any():
            raise InputError(self._complaint(path, raw, mask))
        return mask

    def _mask(self, raw: Raw) -> Mask:
        if isinstance(self.decode, Palette):
            return self._colors.mask(raw)
        values = raw.values
        if values is None:
            return np.full(raw.array.shape[:2], UNKNOWN, np.uint8)
        if isinstance(self.decode, Bits):
            known = (values == 0) | (values == values.max())
            return np.where(known, self._values.mask((values != 0) * np.uint8(255)), np.uint8(UNKNOWN))
        return self._values.mask(values)

    def _complaint(self, path: Path, raw: Raw, mask: Mask) -> str:
        """What to say about the pixels of a file that are UNKNOWN."""
        if isinstance(self.decode, Palette):
            return self._colors.complaint(path, raw, mask)
        values = raw.values
        if values is None:
            return no_values(path, raw)
        return _not_two_valued(path, values) if isinstance(self.decode, Bits) else self._unknown(path, values, mask)

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

    def _unknown(self, path: Path, raw: NDArray[np.integer], mask: Mask) -> str:
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
                advice = (
                    f"Add them to data.decode.map, for example {{{unknown[0]}: ignore}}, or leave out all that are not "
                    "in it with data.decode.unknown=ignore"
                )
        if len(unknown) > SHOWN or path.suffix.lower() in (".jpg", ".jpeg"):
            advice += ". Many odd values come from masks stored as JPEG or resized smoothly: use the original masks"
        return f"{path}: {found} not in the label space of {len(self.names)} classes. {advice}"


def _value_map(decode: DecodeConfig, ids: Mapping[int, int]) -> ValueMap:
    match decode:
        case Values(tolerance=tolerance, unknown=unknown):
            other = IGNORE if unknown == "ignore" else UNKNOWN
            return ValueMap(ids, tolerance, unknown=other, negative=other)
        case Index(ignore_negative=True):
            return ValueMap(ids, negative=IGNORE)
        case _:
            return ValueMap(ids)


def _color_map(decode: DecodeConfig, ids: Mapping[Color, int]) -> ColorMap:
    if not isinstance(decode, Palette):
        return ColorMap(ids, 0)
    return ColorMap(ids, decode.tolerance, IGNORE if decode.unknown == "ignore" else UNKNOWN, decode.channels)


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
