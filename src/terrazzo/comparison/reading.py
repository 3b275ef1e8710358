"""Small files of run folders, read so that a damaged one becomes a remark instead of the end of everything."""

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where PyYAML was built with libyaml; a comparison reads hundreds of recipes."""


@dataclass
class Reader:
    """Reads files below one folder and remembers what could not be read."""

    folder: Path
    faults: list[str] = field(default_factory=list)
    """Sentences."""

    def text(self, name: str) -> str | None:
        """A file as text; None if there is none, or if it cannot be read (a fault then)."""
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            self.faults.append(f"{name} cannot be read ({_short(error)})")
            return None

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object; {} if there is none or it is damaged."""
        text = self.text(name)
        if text is None:
            return {}
        try:
            tree = json.loads(text)
        except ValueError as error:
            self.faults.append(f"{name} is damaged ({_short(error)})")
            return {}
        return self._mapping(name, tree)

    def yaml(self, name: str) -> dict[str, Any]:
        """The same of a YAML file."""
        text = self.text(name)
        if text is None:
            return {}
        try:
            tree = yaml.load(text, Loader)
        except (yaml.YAMLError, ValueError) as error:
            self.faults.append(f"{name} is damaged ({_short(error)})")
            return {}
        return self._mapping(name, tree)

    def json_lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a file of JSON objects; half a last line is what a kill leaves, and is no fault."""
        lines: list[dict[str, Any]] = []
        texts = (self.text(name) or "").split("\n")
        bad = 0
        for number, text in enumerate(texts):
            if not text:
                continue
            try:
                line = json.loads(text)
            except ValueError:
                bad += number < len(texts) - 1
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
            else:
                bad += 1
        if bad:
            self.faults.append(f"{bad} lines of {name} are damaged and left out")
        return lines

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file with a head."""
        try:
            return list(csv.DictReader(io.StringIO(self.text(name) or "")))
        except csv.Error as error:
            self.faults.append(f"{name} is damaged ({_short(error)})")
            return []

    def _mapping(self, name: str, tree: object) -> dict[str, Any]:
        if isinstance(tree, dict):
            return tree
        self.faults.append(f"{name} holds no section of keys, but {type(tree).__name__}")
        return {}


def number(value: object) -> float | None:
    """A finite or infinite number; None for anything else, nan too."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return float(value)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100]
