"""What a search has found, as files for people and programs: trials.csv, trials.json."""

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.base import InputError
from terrazzo.files import write_text
from terrazzo.metrics.significance import Interval, paired, paired_bootstrap
from terrazzo.sweep.folder import Folder
from terrazzo.sweep.objective import image_scores
from terrazzo.sweep.search import SearchConfig, import_optuna
from terrazzo.sweep.storage import JOURNAL, TrialRecord

if TYPE_CHECKING:
    from optuna import Study

LEAST_TRIALS = 4
"""Complete trials before anything is said of what matters among the axes."""


def write_trials(
    folder: Path,
    search: SearchConfig,
    records: Sequence[TrialRecord],
    *,
    behind: Mapping[int, Interval] | None = None,
    importances: Mapping[str, float] | None = None,
) -> None:
    """Write all trials so far into the search's folder.

    Args:
        folder: of the search.
        search: what it looked for.
        records: all its trials.
        behind: how much better than each trial the best one is, by number; known when the search is over.
        importances: share of each axis in the differences of values; the same.
    """
    rows = [trial_row(record, search) | _columns((behind or {}).get(record.number)) for record in records]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "trials.csv", text.getvalue())
    ranked = ranking(search, records)
    tree = {
        "objective": search.objective,
        "direction": "max" if search.maximize else "min",
        "storage": search.storage or str(folder / JOURNAL),
        "over": len(records) >= search.trials and all(record.over for record in records),
        "ranking": [record.number for record in ranked],
        "importances": dict(importances or {}),
        "trials": [
            record.model_dump(mode="json", exclude={"attributes"}) | _columns((behind or {}).get(record.number))
            for record in records
        ],
    }
    write_text(folder / "trials.json", json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def read_trials(folder: Path) -> dict[str, Any] | None:
    """The trials.json of a search's folder; None before a trial has ended."""
    path = folder / "trials.json"
    tree: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return tree


def close_search(study: "Study", folder: Path, search: SearchConfig, records: Sequence[TrialRecord]) -> None:
    """Write the tables of a search that is over, with what only then can be told."""
    behind = intervals(Folder(folder), search, ranking(search, records))
    write_trials(folder, search, records, behind=behind, importances=importances(study, records))


def trial_row(record: TrialRecord, search: SearchConfig) -> dict[str, Any]:
    """A line of trials.csv."""
    return {
        "trial": record.number,
        "status": record.status,
        search.objective: record.value,
        "sd": record.sd,
        **{name: record.values.get(name) for name in search.space},
        **record.costs,
        "runs": " ".join(record.runs),
        "reason": record.reason,
    }


def ranking(search: SearchConfig, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Complete trials, the best first, the earlier one of two that are as good."""
    there = [record for record in records if record.status == "complete" and record.value is not None]
    sign = -1 if search.maximize else 1
    return sorted(there, key=lambda record: (sign * (record.value or 0.0), record.number))


def intervals(folder: Folder, search: SearchConfig, ranked: Sequence[TrialRecord]) -> dict[int, Interval]:
    """How much better than each other trial the best one is, by mean IoU of the images that were scored at the end,
    each the mean over seeds; trials without such scores are left out."""
    scores = {record.number: _scores(folder, search, record) for record in ranked if record.runs}
    best, found = (scores.get(ranked[0].number) if ranked else None), {}
    for record in ranked[1:]:
        others = scores.get(record.number)
        if best is None or others is None:
            continue
        try:
            pairs = [paired(first, second) for first, second in zip(best, others, strict=True)]
            found[record.number] = paired_bootstrap(_stacked(pairs, 0), _stacked(pairs, 1))
        except InputError:  # of data that varies over trials there are no pairs
            continue
    return found


def importances(study: "Study", records: Sequence[TrialRecord]) -> dict[str, float]:
    """Share of each axis in the differences of the trials' values, as Optuna estimates it; empty of few trials."""
    complete = [record for record in records if record.status == "complete"]
    if len(complete) < LEAST_TRIALS or len({record.value for record in complete}) < 2:
        return {}
    shares: dict[str, float] = import_optuna().importance.get_param_importances(study)
    return {name: round(float(share), 4) for name, share in shares.items()}


def _scores(folder: Folder, search: SearchConfig, record: TrialRecord) -> list[dict[str, float]] | None:
    found = [image_scores(folder.run(name), search.checkpoint) for name in record.runs]
    return None if any(scores is None for scores in found) else [scores for scores in found if scores is not None]


def _stacked(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], which: int) -> NDArray[np.float64]:
    return np.stack([pair[which] for pair in pairs])


def _columns(interval: Interval | None) -> dict[str, float]:
    if interval is None:
        return {}
    found = {"behind": interval.difference, "behind_low": interval.low, "behind_high": interval.high, "p": interval.p}
    return {name: round(value, 6) for name, value in found.items()}
