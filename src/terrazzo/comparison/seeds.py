"""Repetitions: runs that differ in nothing but their seed, as mean and standard deviation; and what is chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from terrazzo.base import InputError
from terrazzo.comparison.columns import Column
from terrazzo.comparison.recipes import same_but_seed
from terrazzo.comparison.runs import image_scores
from terrazzo.comparison.table import Comparison, Row
from terrazzo.metrics.significance import RESAMPLES, Interval, paired_bootstrap

NUMBERS_DRAWN = 60_000_000
"""Image numbers that all pairs of a matrix draw together: some seconds. More pairs or images get fewer resamples."""
FEWEST = 1000

Scores = Mapping[str, float]
"""mIoU of each image, by its name."""


@dataclass(frozen=True)
class Spread:
    """A column over the seeds of a group."""

    mean: float
    sd: float | None
    """Of the sample (n - 1); None for one seed."""
    n: int

    def text(self, column: Column) -> str:
        """`0.7123 ± 0.0041`."""
        if self.sd is None:
            return column.text(self.mean)
        return f"{column.text(self.mean)} ± {column.text(self.sd)}"


@dataclass(frozen=True)
class SeedGroup:
    """Rows that differ in nothing but the seed."""

    name: str
    rows: tuple[Row, ...]
    spreads: dict[str, Spread]
    """By column."""
    seeds: tuple[str, ...]
    against_best: Interval | None
    """Of the mean over images of (this group's score - the best group's); None for the best itself."""
    remark: str = ""

    @property
    def protocol(self) -> str:
        """Letter of the protocol that all were scored under."""
        return self.rows[0].protocol


def seed_groups(comparison: Comparison) -> list[SeedGroup]:
    """Groups of rows by recipe without seed, checkpoint and protocol; [] where no group has two seeds.

    Ordered as the table is: by protocol, then the best mean first.
    """
    gathered: dict[tuple[str, str, str], list[Row]] = {}
    for row in comparison.rows:
        if row.run.recipe and row.values.get("miou") is not None:
            gathered.setdefault((row.protocol, row.checkpoint, same_but_seed(row.run.recipe)), []).append(row)
    if all(len(rows) < 2 for rows in gathered.values()):
        return []
    numeric = [column for column in comparison.columns if column.kind not in ("what", "recipe")]
    listed = []
    for rows in gathered.values():
        spreads = {column.key: found for column in numeric if (found := _spread(rows, column.key)) is not None}
        seeds = tuple(str(row.run.recipe.get("seed")) for row in rows)
        twice = len(set(seeds)) < len(seeds)
        remark = "a seed stands here twice: these are not independent" if twice else ""
        listed.append(SeedGroup(_name(rows, comparison), tuple(rows), spreads, seeds, None, remark))
    letters = [group.letter for group in comparison.protocols]
    listed.sort(key=lambda group: (letters.index(group.protocol), -group.spreads["miou"].mean))
    return _against_best(listed)


def _spread(rows: Sequence[Row], key: str) -> Spread | None:
    values = [float(v) for row in rows if isinstance(v := row.values.get(key), int | float)]
    if not values:
        return None
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def _name(rows: Sequence[Row], comparison: Comparison) -> str:
    """What varies, beside the seed, among the rows of the same protocol."""
    first, others = rows[0].values, [row.values for row in comparison.rows if row.protocol == rows[0].protocol]
    keys = [key for key in comparison.varied if key != "seed" and len({values.get(key) for values in others}) > 1]
    words = [f"{key}={first[key]}" for key in keys if first.get(key) is not None]
    return ", ".join(words) or str(first["run"])


def _against_best(groups: Sequence[SeedGroup]) -> list[SeedGroup]:
    scores = {id(row): _scores(row) for group in groups for row in group.rows}
    images = max(map(len, scores.values()))
    resamples = _affordable(images * len(groups))
    best: dict[str, SeedGroup] = {}
    listed = []
    for group in groups:
        top = best.setdefault(group.protocol, group)
        if top is group:
            listed.append(group)
            continue
        first, second = ([scores[id(row)] for row in rows] for rows in (group.rows, top.rows))
        found = compared(first, second, resamples)
        interval, remark = (found, group.remark) if isinstance(found, Interval) else (None, found)
        listed.append(replace(group, against_best=interval, remark=remark))
    return listed


def _affordable(numbers: int) -> int:
    return max(FEWEST, min(RESAMPLES, NUMBERS_DRAWN // max(1, numbers)))


def compared(first: Sequence[Scores], second: Sequence[Scores], resamples: int = RESAMPLES) -> Interval | str:
    """How much better some repetitions are than others by their per-image scores; a sentence where that fails."""
    names = sorted(first[0])
    if not names or any(one.keys() != first[0].keys() for one in (*first, *second)):
        return "not tested: their tables of per-image scores are missing or of other images"
    arrays: list[NDArray[np.float64]] = [
        np.array([[one[name] for name in names] for one in repetitions]) for repetitions in (first, second)
    ]
    try:
        return paired_bootstrap(arrays[0], arrays[1], resamples=resamples)
    except InputError as error:
        return f"not tested: {error}"


def _scores(row: Row) -> Scores:
    return {} if row.scored is None else image_scores(row.scored)


@dataclass(frozen=True)
class Pairs:
    """Every pair of some rows, compared image by image."""

    rows: tuple[Row, ...]
    intervals: dict[tuple[int, int], Interval]
    """(i, j) with i < j: how much better row i is than row j."""
    certain: frozenset[tuple[int, int]]
    """Pairs whose difference holds at 5 % for all pairs together (Holm's step-down procedure)."""
    resamples: int


def pairs_of(rows: Sequence[Row]) -> Pairs | None:
    """The paired bootstrap of every two rows of one protocol; None where fewer than two have per-image scores."""
    known = [(row, scores) for row in rows if (scores := _scores(row))]
    pairs = list(combinations(range(len(known)), 2))
    if not pairs:
        return None
    resamples = _affordable(max(len(scores) for _, scores in known) * len(pairs))
    found: dict[tuple[int, int], Interval] = {}
    for i, j in pairs:
        interval = compared([known[i][1]], [known[j][1]], resamples)
        if isinstance(interval, Interval):
            found[i, j] = interval
    if not found:
        return None
    certain = frozenset(holm({pair: one.p for pair, one in found.items()}))
    return Pairs(tuple(row for row, _ in known), found, certain, resamples)


def holm(levels: dict[tuple[int, int], float], level: float = 0.05) -> list[tuple[int, int]]:
    """Pairs that stay significant when all are tested together.

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. of Statistics 6, 1979.
    """
    kept: list[tuple[int, int]] = []
    for n, (pair, p) in enumerate(sorted(levels.items(), key=lambda item: item[1])):
        if p > level / (len(levels) - n):
            break
        kept.append(pair)
    return kept
