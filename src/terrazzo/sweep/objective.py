"""What a run of a search is worth: a number of its curves, or a score of its end."""

import json
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

from terrazzo.base import InputError, Split
from terrazzo.sweep.search import FOLLOWED, SCORED, SearchConfig, how_far
from terrazzo.track.jsonl import read_lines

Score = Callable[[Path, Split, str], object]
"""Writes evaluation/SPLIT-CHECKPOINT/ of a run folder, for (folder, split, checkpoint)."""


def reports(run: Path, search: SearchConfig) -> dict[int, float]:
    """The objective on the way: {how far, as Optuna counts: value}; empty if it is known at the end only."""
    if search.objective not in FOLLOWED:
        return {}
    lines = read_lines(run / "metrics.jsonl")
    shown = [line for line in lines if line.get(search.objective) is not None and "val/miou" in line]
    return {how_far(search, line): line[search.objective] for line in shown}


def value_of_run(run: Path, search: SearchConfig, score: Score) -> float:
    """The objective of a run that has ended; `score` is asked where a score is not there yet.

    Raises:
        InputError: the run has no such number.
    """
    if search.objective in FOLLOWED:
        values = [*reports(run, search).values()]
        if not values:
            raise InputError(f"{run}: {search.objective} is a number at no validation")
        if search.take == "last":
            return values[-1]
        return max(values) if search.maximize else min(values)
    found = SCORED.fullmatch(search.objective)
    assert found is not None, "SearchOptions lets no other objective through"
    split: Split = "test" if found["split"] == "test" else "val"
    folder = run / "evaluation" / f"{split}-{search.checkpoint}"
    if not (folder / "scores.json").exists():
        score(run, split, search.checkpoint)
    result = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    value = score_of(result, search.objective)
    if value is None or not isfinite(value):
        raise InputError(f"{folder}: {search.objective} does not exist: no pixel to take it of")
    return value


def score_of(result: dict[str, Any], objective: str) -> float | None:
    """A score of a scores.json: test/miou, or of a class or category, test/iou/NAME.

    Raises:
        InputError: there is no such score; the sentence lists those that there are.
    """
    found = SCORED.fullmatch(objective)
    assert found is not None, "the objective is a score"
    tables = {name: row for key in ("per_category", "per_class") for name, row in result.get(key, {}).items()}
    if found["name"] is None:
        scores = {key: value for key, value in result.items() if value is None or isinstance(value, float)}
    elif found["name"] in tables:
        scores = tables[found["name"]]
    else:
        raise InputError(f"objective {objective}: {found['name']!r} is no class: {', '.join(tables)}")
    if found["score"] not in scores:
        raise InputError(f"objective {objective}: there is no {found['score']}; there are {', '.join(scores)}")
    value: float | None = scores[found["score"]]
    return value


def image_scores(run: Path, checkpoint: str) -> dict[str, float] | None:
    """Mean IoU of each image, by name, of the split that was scored when the run ended; None if none was."""
    import csv

    for split in ("test", "val"):
        path = run / "evaluation" / f"{split}-{checkpoint}" / "images.csv"
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                return {row["name"]: float(row["miou"]) for row in csv.DictReader(file)}
    return None
