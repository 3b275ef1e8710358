"""Runs from text files, one a line: values in columns."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from terrazzo.base import InputError
from terrazzo.sweep.block import ListsConfig


@dataclass(frozen=True)
class Line:
    """One run of a file."""

    values: dict[str, str]
    """By column."""
    where: str
    """File and line, for sentences."""


def read_lists(cfg: ListsConfig) -> Iterator[Line]:
    """The lines of all files in the order of their names; a pattern's files come in the order of the numbers in them.

    Raises:
        InputError: a pattern fits no file, or a line has another number of values than there are columns.
    """
    for pattern in cfg.files:
        paths = sorted((Path(found) for found in glob(pattern, recursive=True)), key=_natural)  # noqa: PTH207  # Path.glob takes no absolute pattern
        if not paths:
            raise InputError(
                f"sweep.lists.files: {pattern} fits no file (looked in {Path.cwd()}); give paths or patterns"
            )
        for path in paths:
            yield from _read(path, cfg.columns)


def _read(path: Path, columns: tuple[str, ...]) -> Iterator[Line]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"sweep.lists.files: {path} cannot be read as text: {error}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != len(columns):
            raise InputError(
                f"{path}, line {number}: {len(words)} values ({line.strip()}), and sweep.lists.columns names "
                f"{len(columns)}: {', '.join(columns)}"
            )
        yield Line(dict(zip(columns, words, strict=True)), f"{path}, line {number}")


def _natural(path: Path) -> list[tuple[int, str]]:
    """hyperparameters_2.txt before hyperparameters_10.txt."""
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", str(path))]
