"""Folders of searches for tests, and processes that work on them with the pretended trainer."""

import multiprocessing
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

from terrazzo.commands.sweep_search import search_worker
from terrazzo.sweep.naming import recipe_hash
from terrazzo.sweep.plan import load_sweep
from terrazzo.sweep.storage import TrialRecord, Trials, read_records

TRAINER = Path(__file__).parent / "search_trainer.py"

LR = {"low": 1e-5, "high": 1, "log": True}

PROCESSES = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
"""Real processes, that need not import torch anew each time."""
if sys.platform != "win32":
    PROCESSES.set_forkserver_preload(["terrazzo.commands.sweep_search", "optuna.storages", "sqlalchemy"])


def make_search(folder: Path, search: dict[str, Any], **block: Any) -> Path:
    """The folder of a sweep with a search over optim.lr, as `terrazzo sweep` leaves it before it starts anything."""
    base = {
        "out": str(folder),
        "data": {"kind": "own"},
        "model": {"kind": "unet", "width": 4, "depth": 2},
        "length": {"epochs": 8},
        "device": "cpu",
    }
    search = {"kind": "random", "trials": 6, "space": {"optim.lr": LR}, **search}
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump({**base, "sweep": {"search": search, **block}}, sort_keys=False))
    folder.mkdir(exist_ok=True)
    (folder / "sweep.yaml").write_text(load_sweep(recipe).text())
    return folder


def trials_of(folder: Path) -> Trials:
    sweep = load_sweep(folder)
    shared = recipe_hash({key: part for key, part in sweep.base.items() if key != "out"})
    assert sweep.block.search is not None
    return Trials(folder, sweep.block.search, shared)


def pretended(folder: Path, name: str) -> tuple[str, ...]:
    return (sys.executable, str(TRAINER), str(folder), name)


def work(folder: Path) -> list[str]:
    """Work on a search in this process to its end; what it said."""
    said: list[str] = []
    assert search_worker(folder, train=pretended, say=said.append) == 0
    return said


def work_apart(folder: Path, environment: dict[str, str] | None = None) -> None:
    """The same in a process of its own, whose exit status tells."""
    import os

    os.environ.update(environment or {})
    sys.exit(search_worker(folder, train=pretended))


def started(folder: Path, **environment: str) -> BaseProcess:
    process = PROCESSES.Process(target=work_apart, args=(folder, environment))
    process.start()
    return process


def records(folder: Path) -> list[TrialRecord]:
    return read_records(folder / "trials")
