"""Which images belong to train, val and test: by folder, by list file, or by seeded shares."""

import csv
from collections.abc import Sequence
from itertools import pairwise
from math import isclose
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self, assert_never

import numpy as np
from pydantic import Field, NonNegativeInt, model_validator

from terrazzo.base import SPLITS, Config, InputError, Split

Share = Annotated[float, Field(ge=0, le=1)]


class FolderSplits(Config):
    """Each split is a folder; its name goes where `{split}` stands in `images` and `labels`."""

    kind: Literal["folders"] = "folders"
    train: str | None = "train"
    """Folder of the training split."""
    val: str | None = "val"
    """Folder of the validation split."""
    test: str | None = None
    """Folder of the test split, if there is one."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Takes this share of the training folder for validation instead; then `val` must be null."""
    seed: NonNegativeInt = 0
    """Of the shuffle before `val_fraction` is taken."""

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        _check_sources(self.train, self.val, self.test, self.val_fraction, self.seed)
        return self


class ListSplits(Config):
    """Each split is a text file of images, relative to `data.root`. Empty lines and #comments do not count."""

    kind: Literal["lists"] = "lists"
    train: str | None = None
    """List file of the training split."""
    val: str | None = None
    """List file of the validation split."""
    test: str | None = None
    """List file of the test split, if there is one."""
    lines: Literal["ids", "first", "pairs"] = "ids"
    """`ids`: the whole line stands for `{id}`. `first`: only its first column does. `pairs`: image and label file,
    relative to `data.root`, separated by tab, comma or blanks; names with blanks in double quotes."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Takes this share of the training list for validation instead; then `val` must be null."""
    seed: NonNegativeInt = 0
    """Of the shuffle before `val_fraction` is taken."""

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        _check_sources(self.train, self.val, self.test, self.val_fraction, self.seed)
        return self


class RatioSplits(Config):
    """All images are sorted by name, shuffled by the seed and shared out; never the order of a folder listing."""

    kind: Literal["ratio"] = "ratio"
    train: Share = 0.8
    """Share of the training split."""
    val: Share = 0.2
    """Share of the validation split."""
    test: Share = 0.0
    """Share of the test split."""
    seed: NonNegativeInt = 0
    """Of the shuffle."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train + self.val + self.test
        if not isclose(total, 1, abs_tol=1e-6):
            raise InputError(f"data.splits: train, val and test add up to {total:g}; they must add up to 1")
        return self


SplitConfig = Annotated[FolderSplits | ListSplits | RatioSplits, Field(discriminator="kind")]


class Line(NamedTuple):
    """A line of a list file."""

    number: int
    """Counted from 1."""
    columns: tuple[str, ...]


def splits_of(cfg: SplitConfig) -> tuple[Split, ...]:
    """The splits that there are."""
    there: dict[Split, bool]
    match cfg:
        case FolderSplits() | ListSplits():
            val = cfg.val is not None or cfg.val_fraction is not None
            there = {"train": cfg.train is not None, "val": val, "test": cfg.test is not None}
        case RatioSplits():
            there = {"train": cfg.train > 0, "val": cfg.val > 0, "test": cfg.test > 0}
        case _:
            assert_never(cfg)
    return tuple(split for split in SPLITS if there[split])


def origin_of(cfg: SplitConfig, split: Split) -> Split:
    """The split whose folder or list holds the images of `split`: train where validation is a share of it."""
    taken = not isinstance(cfg, RatioSplits) and cfg.val_fraction is not None
    return "train" if taken and split == "val" else split


def source_of(cfg: FolderSplits | ListSplits, split: Split) -> str:
    """The folder or list file in which the images of `split` are found."""
    source = {"train": cfg.train, "val": cfg.val, "test": cfg.test}[origin_of(cfg, split)]
    assert source is not None, "asked for a split that splits_of does not name"
    return source


def chosen(cfg: SplitConfig, split: Split, names: Sequence[str]) -> set[str]:
    """The names of a split, of all that its source has."""
    match cfg:
        case RatioSplits():
            return divide(names, (cfg.train, cfg.val, cfg.test), cfg.seed)[SPLITS.index(split)]
        case FolderSplits() | ListSplits():
            if cfg.val_fraction is None or split == "test":
                return set(names)
            return divide(names, (1 - cfg.val_fraction, cfg.val_fraction), cfg.seed)[SPLITS.index(split)]
        case _:
            assert_never(cfg)


def divide(names: Sequence[str], shares: Sequence[float], seed: int) -> list[set[str]]:
    """Names shared out at random: every name once, each part within one of its share, whatever order they come in."""
    ordered = sorted(names)
    shuffled = [ordered[k] for k in np.random.default_rng(seed).permutation(len(ordered))]
    edges = [0, *np.rint(np.cumsum(shares) * len(ordered)).astype(int).tolist()]
    return [set(shuffled[start:end]) for start, end in pairwise(edges)]


def read_list(path: Path, lines: Literal["ids", "first", "pairs"], faults: list[str] | None = None) -> list[Line]:
    """The entries of a list file.

    Args:
        faults: where to say which lines are wrong; without it the first one is an error.

    Raises:
        InputError: it is missing, no text, or a line does not have the columns it should have.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{path}: cannot read this list of images ({error.strerror}); name an existing one under data.splits, or "
            "choose data.splits.kind=folders or ratio"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this list of images is not UTF-8 text ({error.reason})") from error
    numbered = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    entries = []
    for number, line in numbered:
        if not line or line.startswith("#"):
            continue
        columns = (line,) if lines == "ids" else _columns(line)
        if lines == "pairs" and len(columns) != 2:
            sentence = (
                f"{path}, line {number}: {len(columns)} columns ({line!r}), expected image and label; put names with "
                "blanks in double quotes, or say data.splits.lines=ids"
            )
            if faults is None:
                raise InputError(sentence)
            faults.append(sentence)
            continue
        entries.append(Line(number, columns[:1] if lines == "first" else columns))
    return entries


def _columns(line: str) -> tuple[str, ...]:
    delimiter = next((mark for mark in "\t," if mark in line), " ")
    (row,) = csv.reader([line], delimiter=delimiter, skipinitialspace=True)
    return tuple(cell.strip() for cell in row if cell.strip())


def _check_sources(train: str | None, val: str | None, test: str | None, val_fraction: float | None, seed: int) -> None:
    if not (train or val or test):
        raise InputError("data.splits names no split: give train, val or test")
    if val_fraction is not None and (val is not None or train is None):
        raise InputError(
            f"data.splits: val_fraction={val_fraction:g} takes validation images from train, but train={train!r} and "
            f"val={val!r}; name train and set val to null, or leave val_fraction out"
        )
    if val_fraction is None and seed:
        raise InputError(f"data.splits: seed={seed} changes nothing: without val_fraction nothing is shuffled")
