"""Every setting of a search changes what it does: the points it asks for, the trials it ends, what it calls best."""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from terrazzo.base import Epochs
from terrazzo.commands.sweep_search import search_worker
from terrazzo.sweep.objective import reports, value_of_run
from terrazzo.sweep.search import SearchConfig, build_pruner, build_sampler
from terrazzo.sweep.space import suggest
from terrazzo.sweep.storage import Trials

Tree = dict[str, Any]

KINDS = ("random", "tpe", "halving", "hyperband")


class SearchCase(NamedTuple):
    see: Callable[[SearchConfig], object]
    values: tuple[Any, ...]
    given: Tree


def case(see: Callable[[SearchConfig], object], *values: Any, **given: Any) -> SearchCase:
    return SearchCase(see, values, given)


def points(search: SearchConfig) -> list[Tree]:
    """What is asked for when small learning rates turn out well, some trials still running."""
    study = optuna.create_study(direction="maximize" if search.maximize else "minimize")
    asked = []
    for number in range(16):
        study.sampler = build_sampler(search, number)
        trial = study.ask()
        asked.append(suggest(trial, search.space))
        if number % 3:
            study.tell(trial, 1 - float(asked[-1]["optim.lr"]))
    return asked


def ended(search: SearchConfig) -> list[int]:
    """How far each of some trials comes of 16 epochs of 4 steps, the better ones in between."""
    study = optuna.create_study(direction="maximize", study_name="s")
    study.pruner = build_pruner(search, Epochs(epochs=16), 16, 4)
    reached = []
    for number in range(12):
        trial, epoch = study.ask(), 0
        for epoch in range(1, 17):
            line = {"step": 4 * epoch, "epoch": epoch, "val/miou": (7 * number % 12) / 12 + epoch / 100}
            for at, value in _reported(search, line).items():
                trial.report(value, at)
            if trial.should_prune():
                break
        study.tell(trial, state=optuna.trial.TrialState.PRUNED) if epoch < 16 else study.tell(trial, number)
        reached.append(epoch)
    return reached


def _reported(search: SearchConfig, line: Tree) -> dict[int, float]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return reports(Path(folder), search)


def worth(search: SearchConfig) -> tuple[bool, float]:
    """Whether more is better, and what a run is worth whose numbers all differ."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = {"train/loss": 0.9, "train/miou": 0.2, "val/loss": 0.8, "val/miou": 0.4}
        lines = [{"step": k, "epoch": k, **{key: v + d for key, v in values.items()}} for k, d in ((1, 0.05), (2, 0.0))]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for n, checkpoint in enumerate(("best_miou", "last", "best_loss")):
            for m, split in enumerate(("val", "test")):
                place = folder / "evaluation" / f"{split}-{checkpoint}"
                place.mkdir(parents=True)
                scores = {"miou": 0.1 + 0.01 * n + 0.1 * m, "per_class": {"road": {"iou": 0.5 + 0.01 * n}}}
                (place / "scores.json").write_text(json.dumps(scores))
        return search.maximize, value_of_run(folder, search, lambda *_: None)


def broken(search: SearchConfig) -> dict[str, float]:
    """Which of its bounds a network breaks."""
    costs = {"latency_ms": 10.0, "parameters_m": 10.0, "gmacs": 10.0, "peak_memory_mib": 10.0}
    return search.constraints.broken_by({k: v for k, v in costs.items() if getattr(search.constraints, k) is not None})


def kept_in(search: SearchConfig) -> set[str]:
    """The files that a study makes in its folder, and that of the database."""
    with tempfile.TemporaryDirectory() as name:
        filled = search.model_copy(update={"storage": search.storage and search.storage.replace("FOLDER", name)})
        Trials(Path(name), filled, "hash").do(lambda study: study.set_user_attr("x", 1))
        return {path.name for path in Path(name).iterdir()}


def counted(search: SearchConfig) -> int:
    """Trials until a worker is told that there is nothing more to begin."""
    from search_folders import make_search, records

    def over(folder: Path, name: str) -> tuple[str, ...]:
        path = folder / "states" / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "finished"}))
        return (sys.executable, "-S", "-c", "")

    with tempfile.TemporaryDirectory() as name:
        folder = make_search(Path(name) / "s", search.model_dump(mode="json", by_alias=True))
        assert search_worker(folder, train=over, say=lambda said: None) == 0
        return len(records(folder))


SPACES = (
    {"optim.lr": [0.1, 0.2, 0.3]},
    {"optim.lr": {"low": 0.1, "high": 0.9}},
    {"optim.lr": {"low": 0.1, "high": 0.8}},
    {"optim.lr": {"low": 0.2, "high": 0.9}},
    {"optim.lr": {"low": 0.1, "high": 0.9, "log": True}},
    {"optim.lr": {"low": 0.1, "high": 0.9, "step": 0.1}},
    {"optim.lr": {"low": 1, "high": 9}},
    {"optim.lr": {"low": 1, "high": 9, "int": True}},
    {"optim.lr": [0.1, 0.2, 0.3], "net": {"a": {"batch": 2}, "b": {"batch": 4}}},
)

RUNGS = {"first_rung": {"epochs": 2}, "factor": 2, "sampler": {"kind": "random"}}

CASES: dict[str, SearchCase] = {
    "search.kind": case(
        lambda search: (points(search), ended(search)),
        {"kind": "random"},
        {"kind": "tpe", "startup_trials": 2},
        {"kind": "halving", **RUNGS},
        {"kind": "hyperband", **RUNGS},
    ),
}

for kind in KINDS:
    on_the_way = kind in ("halving", "hyperband")
    scored = [] if on_the_way else ["test/miou", "test/iou/road"]
    CASES |= {
        f"search.{kind}.trials": case(counted, 1, 2),
        f"search.{kind}.space": case(points, *SPACES),
        f"search.{kind}.objective": case(worth, "val/miou", "val/loss", "train/miou", "train/loss", *scored),
        f"search.{kind}.direction": case(worth, "min", "max"),
        f"search.{kind}.take": case(worth, "best", "last"),
        **{
            f"search.{kind}.constraints.{bound}": case(broken, 5, 20)
            for bound in ("latency_ms", "parameters_m", "gmacs", "peak_memory_mib")
        },
        f"search.{kind}.storage": case(kept_in, None, "sqlite:///FOLDER/other.db"),
        f"search.{kind}.seed": case(points, 0, 1),
    }
    if not on_the_way:
        CASES[f"search.{kind}.checkpoint"] = case(worth, "best_miou", "last", "best_loss", objective="test/miou")
    sampler = {"tpe": f"search.{kind}"} if kind == "tpe" else {"tpe": f"search.{kind}.sampler.tpe"}
    if kind != "random":
        at = sampler["tpe"]
        few = {"startup_trials": 3}
        beside = few if kind == "tpe" else {"sampler": {"kind": "tpe", **few}}
        CASES |= {
            f"{at}.startup_trials": case(points, 2, 5),
            f"{at}.candidates": case(points, 1, 24, **beside),
            f"{at}.liar": case(points, False, True, **beside),
        }
    if on_the_way:
        CASES |= {
            f"search.{kind}.sampler.kind": case(points, {"kind": "random"}, {"kind": "tpe", "startup_trials": 2}),
            f"search.{kind}.first_rung.epochs": case(ended, 1, 4, factor=2),
            f"search.{kind}.first_rung.steps": case(ended, 4, 16, factor=2),
            f"search.{kind}.factor": case(ended, 2, 4),
            f"search.{kind}.least": case(ended, 0, 4, factor=2),
        }

CASES["search.halving.skipped_rungs"] = case(ended, 0, 2, factor=2)

REFUSED: dict[str, tuple[Any, str]] = {
    f"search.{kind}.checkpoint": ("last", "changes nothing") for kind in ("halving", "hyperband")
}
"""Rungs need an objective of the curves, for which no checkpoint is scored."""
