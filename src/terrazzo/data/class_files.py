"""Class lists that lie beside a data set: text, CSV, JSON and YAML files of names with ids or colours."""

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from terrazzo.base import MAX_CLASSES, Color

CALLED = re.compile(r"(?i)(class|label|categor|codes|palette|color|colour|names|^meta|^data|^config|objectinfo)")
"""What such files are called."""
SUFFIXES = frozenset((".txt", ".csv", ".tsv", ".json", ".yaml", ".yml", ".names"))
LARGEST = 1 << 20
"""Bytes of a class list at most; longer files are annotations."""
DEPTH = 3
"""Folders below the data set's in which they are looked for."""

VOID = frozenset(("void", "ignore", "ignored", "unlabeled", "unlabelled", "unlabel", "unknown"))
"""Names (lower case) that mean: no class."""

_NUMBER, _GAP = r"(\d{1,3})", r"[\s,;:]+"
_LINES = (  # what a line may be, and where name, id and colour stand in it
    (re.compile(rf"^{_NUMBER}{_GAP}{_NUMBER}{_GAP}{_NUMBER}{_GAP}(\D.*)$"), (4, None, (1, 2, 3))),
    (re.compile(rf"^(.*?\D.*?){_GAP}{_NUMBER}{_GAP}{_NUMBER}{_GAP}{_NUMBER}[\s:,;]*$"), (1, None, (2, 3, 4))),
    (re.compile(rf"^(.+?){_GAP}(#[0-9a-fA-F]{{6}})\b.*$"), (1, None, (2,))),
    (re.compile(rf"^(\d+)(?:{_GAP}|\s*=\s*)(.*[^\W\d].*)$"), (2, 1, None)),
    (re.compile(rf"^(.*[^\W\d].*?)(?:{_GAP}|\s*=\s*)(\d+)$"), (1, 2, None)),
    (re.compile(r"^(.*[^\W\d].*)$"), (1, None, None)),
)


class Entry(NamedTuple):
    """A class of a list."""

    name: str
    id: int | None = None
    color: Color | None = None


@dataclass(frozen=True)
class ClassFile:
    """A class list that was found."""

    path: str
    """Below the data set's folder."""
    entries: tuple[Entry, ...]

    @property
    def by_id(self) -> dict[int, str]:
        """Names of ids; empty if the file gives none."""
        return {each.id: each.name for each in self.entries if each.id is not None}

    @property
    def by_color(self) -> dict[Color, str]:
        """Names of colours; empty if the file gives none."""
        return {each.color: each.name for each in self.entries if each.color is not None}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.entries)


def class_files(root: Path, paths: Iterable[str]) -> list[ClassFile]:
    """The class lists among the files of a data set, those nearest to its folder first."""
    found = []
    for text in sorted(paths, key=lambda path: (path.count("/"), path)):
        path = PurePosixPath(text)
        if len(path.parts) > DEPTH or path.suffix.lower() not in SUFFIXES or not CALLED.search(path.stem):
            continue
        entries = _entries(root / path)
        if 1 < len(entries) <= MAX_CLASSES and len({each.name for each in entries}) == len(entries):
            found.append(ClassFile(text, tuple(entries)))
    return found


def _entries(path: Path) -> list[Entry]:
    """The classes of a file; none if it is no class list."""
    try:
        if path.stat().st_size > LARGEST:
            return []
        text = path.read_text(encoding="utf-8-sig")
        match path.suffix.lower():
            case ".json":
                return _of_tree(json.loads(text))
            case ".yaml" | ".yml":
                return _of_tree(yaml.safe_load(text))
            case _:
                lines = [line.strip() for line in text.splitlines()]
                return _of_lines([line for line in lines if line and not line.startswith("#")])
    except (OSError, ValueError, yaml.YAMLError):  # whatever it is, it is no class list
        return []


def _of_tree(tree: Any) -> list[Entry]:
    """`[names]`, `[{name, id, color}]`, `{id: name}`, `{name: id}`, `{name: colour}`, or one of these under a key."""
    if isinstance(tree, dict):
        for key in ("classes", "labels", "categories", "names"):
            if isinstance(tree.get(key), list | dict):
                return _of_tree(tree[key])
        return [entry for key, value in tree.items() if (entry := _of_item(str(key), value))]
    if isinstance(tree, list):
        return [entry for each in tree if (entry := _of_record(each))]
    return []


def _of_item(key: str, value: Any) -> Entry | None:
    if isinstance(value, str) and key.isdigit():
        return Entry(value, id=int(key))
    if isinstance(value, int) and not isinstance(value, bool):
        return Entry(key, id=value)
    color = _color(value)
    return Entry(key, color=color) if color else None


def _of_record(each: Any) -> Entry | None:
    if isinstance(each, str):
        return Entry(each)
    if not isinstance(each, dict):
        return None
    name = next((each[key] for key in ("readable", "title", "name", "label") if isinstance(each.get(key), str)), None)
    number = next((each[key] for key in ("id", "value", "index") if isinstance(each.get(key), int)), None)
    return Entry(name, number, _color(each.get("color", each.get("colour")))) if name else None


def _color(value: Any) -> Color | None:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        red, green, blue = bytes.fromhex(value[1:])
        return red, green, blue
    if (
        isinstance(value, list | tuple)
        and len(value) in (3, 4)
        and all(isinstance(c, int) and 0 <= c < 256 for c in value)
    ):
        return value[0], value[1], value[2]
    return None


def _of_lines(lines: Sequence[str]) -> list[Entry]:
    """A table with heads, else the first kind of line that all of them are."""
    if not lines or any(re.search(r"(?i)\.(png|jpe?g|tiff?|bmp)\b", line) for line in lines):
        return []
    if entries := _of_table(lines):
        return entries
    for pattern, (name, number, color) in _LINES:
        found = [pattern.match(line) for line in lines]
        if not all(found):
            continue
        entries = []
        for m in filter(None, found):
            paint = None if color is None else _color([int(m[k]) for k in color] if len(color) == 3 else m[color[0]])
            entries.append(Entry(_first(m[name]), None if number is None else int(m[number]), paint))
        return entries
    return []


def _of_table(lines: Sequence[str]) -> list[Entry]:
    """Columns under heads: name, and id or r, g, b."""
    delimiter = next((mark for mark in "\t;," if mark in lines[0]), None)
    if delimiter is None:
        return []
    heads, *rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    place = {head.strip().lower(): k for k, head in enumerate(heads)}
    name = _column(place, ("name", "class", "class_name", "label", "names", "category"))
    number = _column(place, ("id", "idx", "index", "value", "label_id", "class_id"))
    paint = [_column(place, each) for each in (("r", "red"), ("g", "green"), ("b", "blue"))]
    if name is None:
        return []
    entries = []
    for row in rows:
        cells = [cell.strip() for cell in row]
        if len(cells) <= name:
            return []
        found = [cells[k] for k in paint if k is not None and k < len(cells)]
        color = _color([int(each) for each in found]) if len(found) == 3 and all(map(str.isdigit, found)) else None
        numbered = number is not None and number != name and number < len(cells) and cells[number].isdigit()
        entries.append(Entry(_first(cells[name]), int(cells[number or 0]) if numbered else None, color))
    return entries


def _column(place: dict[str, int], heads: Sequence[str]) -> int | None:
    return next((place[head] for head in heads if head in place), None)


def _first(name: str) -> str:
    """The first of several names for one class, without quotes."""
    return re.split(r"[;,]", name)[0].strip().strip("'\"")
