"""A flat recipe (`KEY : value` lines) with a mark on every key: what became of it."""

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from terrazzo.base import InputError

EMPTY = (None, "", "None", "none")
"""Values that say nothing."""


class Flat:
    """The keys of a flat recipe, in its order, and what became of each."""

    def __init__(self, values: dict[str, Any], path: Path):
        self.values = values
        self.path = path
        self.became: dict[str, str] = {}

    @classmethod
    def read(cls, path: Path) -> "Flat":
        """Raises InputError if the file cannot be read, or is not flat."""
        try:
            text = path.read_text(encoding="utf-8")
            tree = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; give a flat YAML or JSON recipe") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: cannot be read as YAML or JSON: {' '.join(str(error).split())[:200]}") from None
        if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
            raise InputError(f"{path}: a flat recipe is a list of `KEY : value` lines, found a {type(tree).__name__}")
        return cls(tree, path)

    def given(self, key: str) -> bool:
        """Whether the key is there and says something."""
        return key in self.values and self.values[key] not in EMPTY

    def take(self, *names: str, what: str) -> Any:
        """The value of the first of these keys that says something, which becomes `what`; None if none does."""
        first = next((name for name in names if self.given(name)), None)
        for name in names:
            self.say(name, what if name == first else f"nothing: {first} says it" if first else "nothing: it is empty")
        return None if first is None else self.values[first]

    def number(self, *names: str, what: str, default: float) -> float:
        """A number; YAML takes 5e-4 for a text."""
        value = self.take(*names, what=what)
        if value is None:
            return default
        try:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
        except ValueError:
            number = None
        if number is None or not isfinite(number):
            raise self.fault(names, "a number")
        return number

    def whole(self, *names: str, what: str, default: int, least: int = 1) -> int:
        """A whole number."""
        number = self.number(*names, what=what, default=default)
        if number != int(number) or number < least:
            raise self.fault(names, f"a whole number, {least} or more")
        return int(number)

    def flag(self, *names: str, what: str) -> bool:
        """Yes or no; no if no key says anything."""
        value = self.take(*names, what=what)
        if value is None:
            return False
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in known:
            raise self.fault(names, "True or False")
        return known[str(value).lower()]

    def word(self, *names: str, what: str) -> str | None:
        """A text; a number is one too."""
        value = self.take(*names, what=what)
        if isinstance(value, list | dict | bool):
            raise self.fault(names, "a text")
        return None if value is None else str(value)

    def fault(self, names: Sequence[str], wanted: str) -> InputError:
        """What to raise about the key that was taken last of these names."""
        name = next(name for name in names if self.given(name))
        return InputError(f"{self.path}: {name} is {self.values[name]!r}, and must be {wanted}")

    def say(self, key: str, what: str) -> None:
        """Note what became of a key, if it is there."""
        if key in self.values:
            self.became[key] = what

    def left(self) -> list[str]:
        """Keys of which nothing was said."""
        return [key for key in self.values if key not in self.became]
