"""The table of a comparison: rows of run and checkpoint, ranked only with rows of the same protocol."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from terrazzo.base import InputError
from terrazzo.comparison.columns import Column, Like, columns_of, fixed_values, likes
from terrazzo.comparison.filters import known_key, matcher
from terrazzo.comparison.recipes import Value, described, value_of, varied
from terrazzo.comparison.runs import Place, Run, Scored, find_runs, read_run

Which = Literal["best_miou", "last", "best_loss", "all"]
CHECKPOINTS = ("best_miou", "last", "best_loss")
NOT_PROTOCOL = ("terrazzo",)
"""Facts of a score that may differ between two that are compared."""


@dataclass(frozen=True)
class Row:
    """One checkpoint of one run."""

    run: Run
    checkpoint: str
    scored: Scored | None
    values: Mapping[str, Value]
    likes: Mapping[Like, str]
    protocol: str = ""
    """Letter of the protocol that it was scored under; "" without a score."""


@dataclass(frozen=True)
class ProtocolGroup:
    """A way of scoring that some rows share."""

    letter: str
    facts: Mapping[str, Any]
    rows: int
    differs: tuple[str, ...]
    """From the first one, in words."""


@dataclass(frozen=True)
class Comparison:
    """Rows in the order they are shown: by protocol, and sorted within it; rows without a score last."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    protocols: tuple[ProtocolGroup, ...]
    varied: tuple[str, ...]
    """Keys in which the recipes differ."""
    remarks: tuple[str, ...]
    best: frozenset[tuple[int, str]]
    """(row's number, column's key) of the best values of each protocol."""
    shown: tuple[str, ...]
    """Keys of the columns that were asked for."""

    def column(self, key: str) -> Column:
        """A column by its key."""
        return next(column for column in self.columns if column.key == key)

    def as_dicts(self) -> list[dict[str, Value]]:
        """Every row with every column, for programs."""
        return [{column.key: row.values.get(column.key) for column in self.columns} for row in self.rows]


def build_table(
    given: Sequence[Path],
    *,
    checkpoint: Which = "best_miou",
    sort: str | None = None,
    where: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> Comparison:
    """Read all runs in and below the given folders.

    Raises:
        InputError: no run is there, or a column or a condition is not understood.
    """
    places, remarks = find_runs(given)
    return table_of(read_runs(places), remarks=remarks, checkpoint=checkpoint, sort=sort, where=where, columns=columns)


def read_runs(places: Sequence[Place]) -> list[Run]:
    """Read several at a time: on a cluster's file system each file is a wait."""
    with ThreadPoolExecutor(8, thread_name_prefix="compare") as pool:
        return [*pool.map(read_run, places)]


def table_of(
    runs: Sequence[Run],
    *,
    remarks: Sequence[str] = (),
    checkpoint: Which = "best_miou",
    sort: str | None = None,
    where: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> Comparison:
    """The same of runs that have been read."""
    keys = varied([run.recipe for run in runs if run.recipe])
    rows = [_row(run, name, scored, keys) for run in runs for name, scored in _checkpoints(run, checkpoint)]
    rows, protocols = _with_protocols(rows)
    names = list(dict.fromkeys(key for row in rows for key in row.values if key.startswith("iou/")))
    splits = {row.scored.split for row in rows if row.scored is not None}
    every = columns_of([name.removeprefix("iou/") for name in names], keys, splits.pop() if len(splits) == 1 else None)
    rows = [row for row in rows if all(test(_searched(row)) for test in (matcher(text, every) for text in where))]
    if where and not rows:
        raise InputError(f"no run is left with {' and '.join(where)}; {len(runs)} were found")
    rows = _sorted(rows, sort, every, [group.letter for group in protocols])
    return Comparison(
        rows=tuple(rows),
        columns=every,
        protocols=protocols,
        varied=tuple(keys),
        remarks=tuple(remarks),
        best=_best(rows, every),
        shown=_shown(columns, every),
    )


def _checkpoints(run: Run, which: Which) -> list[tuple[str, Scored | None]]:
    """The checkpoints that a run has a row for, with their scores; a run that has none gets one row still.

    Of several splits the test split counts, unless another one alone was scored.
    """
    by_name: dict[str, Scored] = {}
    for scored in sorted(run.scored, key=lambda scored: scored.split != "test", reverse=True):
        by_name[scored.checkpoint] = scored  # the test split comes last and wins
    there = [name for name in CHECKPOINTS if name in by_name or name in run.checkpoints]
    if which == "all":
        return [(name, by_name.get(name)) for name in there] or [("-", None)]
    if which in there:
        return [(which, by_name.get(which))]
    if which == "best_miou" and there:
        return [(there[0], by_name.get(there[0]))]
    return [("-", None)]


def _row(run: Run, checkpoint: str, scored: Scored | None, keys: Sequence[str]) -> Row:
    values = fixed_values(run, checkpoint, scored) | {key: value_of(run.recipe, key) for key in keys}
    if scored is None and not run.reason:
        values["reason"] = _why_unscored(run, checkpoint)
    return Row(run, checkpoint, scored, values, likes(run))


def _why_unscored(run: Run, checkpoint: str) -> str:
    if run.folder is None:
        return "not started"
    if checkpoint == "-":
        return "no such checkpoint has been saved"
    return f"{checkpoint} has not been scored: --evaluate does it"


def _searched(row: Row) -> Mapping[str, Value]:
    """What a condition may ask for: columns, and every key of the recipe."""
    return {key: value_of(row.run.recipe, key) for key in row.run.recipe} | dict(row.values)


def _with_protocols(rows: Sequence[Row]) -> tuple[list[Row], tuple[ProtocolGroup, ...]]:
    """Give each row the letter of its protocol; A is the one that most rows share."""
    texts = [_protocol_text(row) for row in rows]
    order = sorted({text for text in texts if text}, key=lambda text: (-texts.count(text), texts.index(text)))
    letters = {text: _letter(n) for n, text in enumerate(order)}
    lettered = [
        replace(row, protocol=letters.get(text, ""), values={**row.values, "protocol": letters.get(text)})
        for row, text in zip(rows, texts, strict=True)
    ]
    groups: list[ProtocolGroup] = []
    for text in order:
        scored = rows[texts.index(text)].scored
        assert scored is not None
        facts = {key: value for key, value in scored.protocol.items() if key not in NOT_PROTOCOL}
        differs = () if not groups else _differences(groups[0].facts, facts)
        groups.append(ProtocolGroup(letters[text], facts, texts.count(text), differs))
    return lettered, tuple(groups)


def _protocol_text(row: Row) -> str:
    if row.scored is None:
        return ""
    return repr(sorted((key, repr(value)) for key, value in row.scored.protocol.items() if key not in NOT_PROTOCOL))


def _letter(number: int) -> str:
    return chr(65 + number) if number < 26 else f"{_letter(number // 26 - 1)}{chr(65 + number % 26)}"


def _differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    keys = [key for key in dict.fromkeys([*first, *other]) if first.get(key) != other.get(key)]
    return tuple(f"{key}: {described(first.get(key))} -> {described(other.get(key))}" for key in keys)


def _sorted(rows: Sequence[Row], sort: str | None, columns: Sequence[Column], letters: Sequence[str]) -> list[Row]:
    """By protocol first; within it by a column, the best first (`-COLUMN`: the other way round); no value is last."""
    reverse, key = (sort or "").startswith("-"), (sort or "").removeprefix("-")
    key = known_key(key, columns, rows[0].run.recipe if rows else {}) if key else ""
    down = next((column.better == "high" for column in columns if column.key == key), False) != reverse

    def place(row: Row) -> int:
        return letters.index(row.protocol) if row.protocol else len(letters)

    def value(row: Row) -> Value:
        if not key:
            return row.values.get("miou" if row.protocol else "val_miou")
        return _searched(row).get(key)

    ordered = sorted(rows, key=lambda row: str(row.values["run"]))
    numbers = [row for row in ordered if isinstance(value(row), int | float)]
    texts = [row for row in ordered if isinstance(value(row), str)]
    others = [row for row in ordered if value(row) is None]
    numbers.sort(key=_as_number(value), reverse=down or not key)
    texts.sort(key=lambda row: str(value(row)), reverse=reverse)
    return sorted([*numbers, *texts, *others], key=place)


def _as_number(value: Callable[[Row], Value]) -> Callable[[Row], float]:
    def found(row: Row) -> float:
        got = value(row)
        return float(got) if isinstance(got, int | float) else 0.0

    return found


def _best(rows: Sequence[Row], columns: Sequence[Column]) -> frozenset[tuple[int, str]]:
    """The best value of each column in each protocol, where two rows or more may be ranked and do not all tie."""
    found = set()
    for column in columns:
        if column.better is None:
            continue
        for letter in {row.protocol for row in rows}:
            listed = [(n, row) for n, row in enumerate(rows) if row.protocol == letter]
            values = {n: v for n, row in listed if isinstance(v := row.values.get(column.key), int | float)}
            alike = {rows[n].likes[column.like] for n in values}
            if len(set(values.values())) < 2 or len(alike) > 1:
                continue
            top = max(values.values()) if column.better == "high" else min(values.values())
            found |= {(n, column.key) for n, value in values.items() if value == top}
    return frozenset(found)


def unlike(comparison: Comparison) -> list[str]:
    """Columns whose values are not of the same kind within a protocol, and so have no best one, as sentences."""
    words: dict[Like, str] = {
        "validation": "validation images or the look at them differ",
        "loss": "validation images or losses differ",
        "machine": "devices, threads or machines differ",
        "input": "input sizes differ",
        "timing": "input sizes, devices or machines differ",
    }
    sentences = []
    for like, why in words.items():
        titles = [c.title for c in comparison.columns if c.like == like and _differ(comparison.rows, c)]
        if titles:
            sentences.append(f"no best {' and '.join(titles)} is marked where {why}")
    return sentences


def _differ(rows: Sequence[Row], column: Column) -> bool:
    for letter in {row.protocol for row in rows}:
        found = [row for row in rows if row.protocol == letter and row.values.get(column.key) is not None]
        if len({row.likes[column.like] for row in found}) > 1:
            return True
    return False


def _shown(asked: Sequence[str], columns: Sequence[Column]) -> tuple[str, ...]:
    """Keys of the columns to show: `classes` and `all` stand for many."""
    keys: list[str] = []
    for name in asked:
        match name:
            case "all":
                keys += [column.key for column in columns]
            case "classes" | "costs" | "recipe":
                kind = {"classes": "class", "costs": "cost", "recipe": "recipe"}[name]
                keys += [column.key for column in columns if column.kind == kind]
            case _:
                keys.append(known_key(name, columns, {}))
    return tuple(dict.fromkeys(["run", *keys])) if keys else ()
