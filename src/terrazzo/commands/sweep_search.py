"""`terrazzo sweep` of a search: processes ask for trials, train their runs, and tell what came of them."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from terrazzo.base import InputError, Split
from terrazzo.commands.search_cost import measure_costs
from terrazzo.commands.sweep_tasks import worker_command
from terrazzo.config import RunConfig, config_of
from terrazzo.data import OwnData, build_dataset
from terrazzo.engine.stop import StopFlag
from terrazzo.launch.slurm import Slurm
from terrazzo.launch.task import REQUEUE, Task
from terrazzo.metrics import Tally
from terrazzo.sweep.naming import recipe_hash
from terrazzo.sweep.objective import score_of
from terrazzo.sweep.plan import Sweep, load_sweep, planned
from terrazzo.sweep.search import FOLLOWED, SearchConfig, build_pruner, import_optuna
from terrazzo.sweep.space import Label, Range, labels, overlays
from terrazzo.sweep.storage import Trials
from terrazzo.sweep.trial import Command, Doing, Worker

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


def search_tasks(folder: Path, workers: int) -> list[Task]:
    """The processes of a search, for a launcher: `workers` at once, no more of them than trials."""
    command = (sys.executable, "-m", "terrazzo", "sweep", str(folder), "--search-work")
    logs = folder / "logs"
    return [Task(f"search-{k}", (*command, str(k)), logs / f"search-{k}.log") for k in range(1, workers + 1)]


def check_search(sweep: Sweep) -> None:
    """Look at every value of every axis before anything starts.

    Raises:
        InputError: Optuna is missing, a key or a value of the space is unknown, runs end before the first rung, or the
            objective is of a class that the data has not.
    """
    search, launch = search_of(sweep), sweep.block.launch
    import_optuna()
    if isinstance(launch, Slurm) and launch.nodes * (launch.tasks_per_node or max(1, launch.gpus_per_node)) > 1:
        raise InputError(
            f"sweep.launch asks for several processes a job (nodes={launch.nodes}, tasks_per_node="
            f"{launch.tasks_per_node}, gpus_per_node={launch.gpus_per_node}); a job of a search trains one run after "
            "the other in one process each: give nodes=1 and tasks_per_node=1"
        )
    first = {name: _ends(axis)[0] for name, axis in search.space.items()}
    for name, axis in search.space.items():
        for label in _ends(axis):
            point = {**first, name: label}
            try:
                planned(sweep, point, overlays(search.space, point))
            except InputError as error:
                raise InputError(f"sweep.search.space: {str(error).removeprefix('sweep: ')}") from None
    _pruner(sweep, search)
    if search.objective not in FOLLOWED:
        base = config_of(sweep.base)
        evaluation, classes = base.evaluation, build_dataset(base.data, "val").classes
        empty = Tally(classes, evaluation.protocol, absent=evaluation.absent, boundary=evaluation.boundary)
        score_of(empty.result(), search.objective)


def search_of(sweep: Sweep) -> SearchConfig:
    """The search of a sweep that is one."""
    if sweep.block.search is None:
        raise InputError(f"{sweep.folder} is a sweep without a search: its recipe has no sweep.search")
    return sweep.block.search


def search_worker(folder: Path, *, train: Command | None = None, say: Callable[[str], None] = print) -> int:
    """Work on the trials of a search until there is none left to begin; an exit status.

    Any number of these may run at once and be killed at any time: a trial whose worker is gone is taken over by the
    next one that asks, where it was. REQUEUE if a signal stopped this one: its trial is saved and goes on later.

    Raises:
        InputError: the search cannot go on; nothing is lost.
    """
    sweep = load_sweep(folder)
    search, optuna = search_of(sweep), import_optuna()
    trials = Trials(folder, search, recipe_hash({key: part for key, part in sweep.base.items() if key != "out"}))
    doing = Doing(train or (lambda _, name: worker_command(sweep, [name])), measure_costs, _score, say)
    try:
        with StopFlag() as stop:
            worker = Worker(sweep, search, trials, _pruner(sweep, search), doing, stop)
            while not stop.set and (claim := worker.claim()) is not None:
                try:
                    worker.work(claim.record)
                finally:
                    claim.lock.release()
    except optuna.exceptions.StorageInternalError as error:
        raise InputError(f"the search's database does not answer ({error.__cause__ or error}); {_LATER}") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"no space is left on the disk of {folder}; {_LATER}") from None
    return REQUEUE if stop.set else 0


_LATER = "nothing is lost: the same command goes on when that is mended"


def _score(run: Path, split: Split, checkpoint: str) -> object:
    from terrazzo.commands.evaluate import evaluate

    return evaluate(run, split=split, checkpoint=checkpoint)


def _pruner(sweep: Sweep, search: SearchConfig) -> "BasePruner":
    base: RunConfig = config_of(sweep.base)
    samples = 1 if isinstance(base.data, OwnData) else len(build_dataset(base.data, "train"))
    return build_pruner(search, base.length, samples, base.batch)


def _ends(axis: Any) -> tuple[Label, ...]:
    if not isinstance(axis, Range):
        return labels(axis)
    return (int(axis.low), int(axis.high)) if axis.whole else (axis.low, axis.high)
