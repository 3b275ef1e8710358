"""A foreign configuration with a mark on every key that was understood, so that what is left can be listed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

Path = tuple[str | int, ...]

LONGEST = 70
"""Characters of a value that a list shows."""


@dataclass
class Ledger:
    """Keys that were taken, and remarks on those that became something else."""

    config: Mapping[str, Any]
    taken: set[Path] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)
    """Sentences: where the recipe is not the same as the configuration."""

    def look(self, *path: str | int, default: Any = None) -> Any:
        """The value at a path, or the default; it counts as left until it is taken."""
        value: Any = self.config
        for part in path:
            listed = isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
            if not listed and not (isinstance(value, Mapping) and part in value):
                return default
            value = value[part]
        return value

    def take(self, *path: str | int, default: Any = None) -> Any:
        """The value at a path, or the default; it and all below it count as understood."""
        self.taken.add(path)
        return self.look(*path, default=default)

    def places(self, *path: str | int) -> list[Path]:
        """Where the parts of a list stand, or the only one if it is no list; none if it is neither list nor dict."""
        value = self.look(*path)
        if isinstance(value, Mapping):
            return [path]
        return [(*path, place) for place in range(len(value))] if isinstance(value, list | tuple) else []

    def keys(self, *path: str | int) -> list[str]:
        """The keys of a dict at a path; none if there is no dict."""
        value = self.look(*path)
        return [key for key in value if isinstance(key, str)] if isinstance(value, Mapping) else []

    def number(self, *path: str | int) -> float | None:
        """A number at a path, taken; None if there is none."""
        value = self.look(*path)
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            return None
        self.taken.add(path)
        return value

    def whole(self, *path: str | int) -> int | None:
        """A whole number above 0 at a path, taken; None if there is none."""
        value = self.look(*path)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return None
        self.taken.add(path)
        return value

    def text(self, *path: str | int) -> str | None:
        """A text at a path, taken; None if there is none."""
        value = self.look(*path)
        if not isinstance(value, str):
            return None
        self.taken.add(path)
        return value

    def kind(self, *path: str | int) -> str:
        """The class that `type` at a path names, without its module; empty if it names none. Taken."""
        value = self.look(*path, "type")
        if not isinstance(value, str):
            return ""
        self.taken.add((*path, "type"))
        return value.rpartition(".")[2]

    def remark(self, sentence: str) -> None:
        """Remember where the recipe differs; once."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def left(self, keys: tuple[str, ...]) -> list[tuple[str, str]]:
        """(key with dots, value) of all that was not taken below the given top-level keys."""
        found = []
        for key in keys:
            if key in self.config:
                found += [(dotted(path), shown(value)) for path, value in self._left(self.config[key], (key,))]
        return found

    def unread(self, read: tuple[str, ...]) -> list[tuple[str, str]]:
        """(key, value) of the top-level keys besides `read` whose value is no part of those either: nothing uses it."""
        used = [part for key in read if key in self.config for part in _parts(self.config[key])]
        others = {
            key: value for key, value in self.config.items() if key not in read and value not in (None, {}, [], ())
        }
        return [(key, shown(value)) for key, value in others.items() if not any(_within(value, part) for part in used)]

    def _left(self, value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
        if any(path[: len(done)] == done for done in self.taken) or value is None or value in ({}, [], ()):
            return
        begun = any(done[: len(path)] == path for done in self.taken)
        if begun and isinstance(value, Mapping):
            for key, part in value.items():
                yield from self._left(part, (*path, key))
        elif begun and isinstance(value, list | tuple):
            for place, part in enumerate(value):
                yield from self._left(part, (*path, place))
        else:
            yield path, value


def _within(value: Any, used: Any) -> bool:
    """Whether a value is another one, or was laid into it (`dict(**value)`)."""
    if isinstance(value, Mapping) and isinstance(used, Mapping):
        return all(key in used and used[key] == part for key, part in value.items())
    return bool(value == used)


def _parts(value: Any) -> Iterator[Any]:
    """A value, and all values in it."""
    yield value
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _parts(part)


def dotted(path: Path) -> str:
    """A path as the reader of a configuration writes it: `train_pipeline.3.prob`."""
    return ".".join(str(part) for part in path)


def shown(value: Any) -> str:
    """A value on one short line."""
    text = " ".join(_as_code(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _as_code(value: Any) -> str:
    """As it would stand in a config."""
    match value:
        case Mapping():
            return f"dict({', '.join(f'{key}={_as_code(part)}' for key, part in value.items())})"
        case list():
            return f"[{', '.join(map(_as_code, value))}]"
        case _:
            return repr(value)
