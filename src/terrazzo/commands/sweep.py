"""`terrazzo sweep`: plan the runs of a recipe, compare them with what is in the folder, start what is left."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from terrazzo.base import InputError
from terrazzo.commands.compare import compare
from terrazzo.commands.sweep_estimate import Estimate, estimate
from terrazzo.commands.sweep_search import check_search, search_tasks
from terrazzo.commands.sweep_slurm import cancel_all, seen, submit_runs
from terrazzo.commands.sweep_tasks import Restarts, search_again, tasks_of
from terrazzo.commands.sweep_work import code_version, is_over
from terrazzo.files import write_text
from terrazzo.launch.local import Local, run_local, seats, visible_gpus
from terrazzo.launch.slurm import Slurm
from terrazzo.launch.state import RunState, read_states
from terrazzo.sweep.folder import Folder, alone
from terrazzo.sweep.plan import SWEEP_FILE, PlannedRun, Sweep, count_points, plan

MANY = 1000
"""More runs than this want to be meant: --yes."""

LOOK_SECONDS = 2.0
"""Between two looks at the states of all runs."""

STOP_FILE = ".stop"
"""File of a sweep's folder that asks whoever works on the sweep to stop."""

Show = Callable[[Mapping[str, RunState]], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A sweep beside what its folder holds of it."""

    sweep: Sweep
    folder: Folder
    runs: tuple[PlannedRun, ...]
    kept: dict[str, RunState]
    """As the folder had them."""
    states: dict[str, RunState]
    """Of the planned runs, in the plan's order; those never started before wait."""
    blocked: dict[str, str]
    """Why a run cannot be started: what it comes after has not ended well."""
    remarks: tuple[str, ...]
    """What changed since the folder was last worked on."""

    @property
    def todo(self) -> list[str]:
        """Runs that are to be started."""
        retries = self.sweep.block.retries
        return [n for n, state in self.states.items() if not is_over(state, retries) and n not in self.blocked]


@dataclass(frozen=True)
class Ended:
    """How a call of `terrazzo sweep` ended."""

    states: dict[str, RunState]
    stopped_by: int | None = None
    """Number of the signal that asked to stop; 0 for --cancel; None if nobody did."""
    submitted: int | None = None
    """Jobs that a cluster has been given; None if nothing was left to give, or on this machine."""
    results: Path | None = None
    """The table of all runs, if there is one to make it of."""

    @property
    def well(self) -> bool:
        """Whether every run is over and none failed; one that can never work is no failure."""
        return all(state.status in ("finished", "pruned", "refused") for state in self.states.values())


def prepare(sweep: Sweep, *, retry: bool = False, yes: bool = False) -> Prepared:
    """Plan a sweep and compare it with its folder; nothing is written.

    Raises:
        InputError: the sweep cannot be, has very many runs, or its folder is damaged.
    """
    folder = Folder(sweep.folder)
    if sweep.block.search is not None:
        check_search(sweep)
    if (count := count_points(sweep.block)) > MANY and not yes:  # asked first: resolving so many takes minutes
        raise InputError(
            f"this sweep has {count} runs; add --yes if so many are meant, or look at them with --dry-run --yes"
        )
    runs = plan(sweep)
    kept = read_states(folder.states)
    states: dict[str, RunState] = {}
    remarks: list[str] = []
    for run in runs:
        state = kept.get(run.name) or RunState(name=run.name, hash=run.hash)
        if run.refused is not None:
            state = state.model_copy(update={"status": "refused", "reason": run.refused})
        elif retry and state.status in ("failed", "refused"):
            again = {"status": "waiting", "failures": 0, "deaths": 0, "reason": None}
            state = state.model_copy(update=again)
        elif state.status in ("finished", "pruned") and not folder.run(run.name).is_dir():
            remarks.append(f"{run.name} has finished, but its folder is gone: it is trained again")
            state = RunState(name=run.name, hash=run.hash)
        states[run.name] = state
    if sweep.block.search is None:
        remarks += _changes(runs, kept)
    retries = sweep.block.retries
    return Prepared(sweep, folder, runs, kept, states, _blocked(runs, states, retries), tuple(remarks))


def _blocked(runs: Sequence[PlannedRun], states: Mapping[str, RunState], retries: int) -> dict[str, str]:
    """Runs after one that has failed for good or can never work, and runs after those."""
    blocked: dict[str, str] = {}
    for run in runs:  # a run stands behind all that it comes after
        for name in run.after:
            state = states[name]
            lost = is_over(state, retries) and state.status != "finished"
            if name in blocked or lost:
                how = "is not started either" if name in blocked else f"is {state.status}"
                blocked[run.name] = f"comes after {name}, which {how}"
    return blocked


def _changes(runs: Sequence[PlannedRun], kept: Mapping[str, RunState]) -> list[str]:
    """What is otherwise than when the folder was last worked on."""
    remarks = []
    now, planned = code_version(), {run.name for run in runs}
    others = Counter(kept[name].version for name in planned & kept.keys() if kept[name].version not in (None, now))
    for version, count in others.items():
        remarks.append(f"code: {count} of these runs were last worked on by terrazzo {version}; this is {now}")
    stems = {run.name[:-9]: run.name for run in runs}
    for name, state in kept.items():
        if name in planned or not state.attempts:
            continue
        if (new := stems.get(name[:-9])) is not None:
            remarks.append(f"recipe: {name} has become {new}, a new run; the old one stays in runs/ as it is")
        else:
            remarks.append(
                f"plan: {name} ({state.status}) is in the folder, and no longer in the plan; it stays as it is"
            )
    return remarks


def run_sweep(prepared: Prepared, *, show: Show, say: Say) -> Ended:
    """Write the folder and bring its runs to their end, or hand them to a cluster.

    Raises:
        InputError: the folder is in use or cannot be written, or the launcher cannot do what the recipe asks.
    """
    folder, launch = prepared.folder, prepared.sweep.block.launch
    with alone(folder):
        (folder.path / STOP_FILE).unlink(missing_ok=True)
        write_folder(prepared)
        names = prepared.todo
        match launch:
            case Slurm():
                return _submit(prepared, launch)
            case Local():
                stopped_by = _train_here(prepared, launch, names, show)
        states = _closing(prepared, say)
        return Ended(states, stopped_by, results=write_results(folder, states))


def write_results(folder: Folder, states: Mapping[str, RunState]) -> Path | None:
    """Write results.csv, the table of all runs with every checkpoint that was scored; None before one has ended."""
    if not any(state.status == "finished" for state in states.values()):
        return None
    path = folder.path / "results.csv"
    compare([folder.path], out=path, checkpoint="all")
    return path


def costs(prepared: Prepared) -> dict[str, Estimate]:
    """What each run that is left will take, from a few steps on this machine if it is this machine that trains."""
    here = isinstance(prepared.sweep.block.launch, Local)
    wanted = {*prepared.todo, *(name for name, state in prepared.states.items() if state.status == "finished")}
    return estimate([run for run in prepared.runs if run.name in wanted], prepared.states, measure=here)


def at_once(prepared: Prepared) -> int:
    """Runs that train at a time."""
    launch = prepared.sweep.block.launch
    if isinstance(launch, Slurm):
        return launch.at_once or max(1, len(prepared.todo))
    gpus = visible_gpus() if prepared.sweep.base["device"] in ("auto", "cuda") else []
    return len(seats(launch, gpus))


def write_folder(prepared: Prepared) -> None:
    """The recipe of the sweep and of each run, and the states that the plan changes; but what a worker, on a cluster
    perhaps, has said in between stays."""
    folder = prepared.folder
    write_text(folder.path / SWEEP_FILE, prepared.sweep.text())
    now = read_states(folder.states)
    for run in prepared.runs:
        text = yaml.safe_dump(run.tree, sort_keys=False, allow_unicode=True, width=110)
        path = folder.recipe(run.name)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        state = prepared.states[run.name]
        if run.name in prepared.blocked:
            state = state.model_copy(update={"reason": prepared.blocked[run.name]})
        before = prepared.kept.get(run.name)
        if state != before and now.get(run.name) == before:
            state.write(folder.states)


def _train_here(prepared: Prepared, launch: Local, names: Sequence[str], show: Show) -> int | None:
    """Run everything that is left on this machine; the signal that stopped it, if one did."""
    folder, sweep = prepared.folder, prepared.sweep
    on_gpu = sweep.base["device"] in ("auto", "cuda")
    gpus = visible_gpus() if on_gpu and (names or sweep.block.search) else []
    tasks = tasks_of(prepared.sweep, prepared.runs, prepared.states, names)
    again: Callable[..., bool] = Restarts(folder, tasks, sweep.block.retries).again
    if sweep.block.search is not None:
        tasks, again = search_tasks(folder.path, launch.at_once or max(1, len(gpus))), search_again()
    looked = 0.0

    def tick() -> bool:
        nonlocal looked
        if time.monotonic() - looked > LOOK_SECONDS:
            looked = time.monotonic()
            show(read_states(folder.states))
        return (folder.path / STOP_FILE).exists()

    _, stopped_by = run_local(tasks, launch, gpus, again=again, tick=tick)
    show(read_states(folder.states))
    (folder.path / STOP_FILE).unlink(missing_ok=True)
    return stopped_by


def _submit(prepared: Prepared, launch: Slurm) -> Ended:
    sweep, names, folder = prepared.sweep, prepared.todo, prepared.folder
    if not names and sweep.block.search is None:
        return Ended(prepared.states, results=write_results(folder, prepared.states))
    if sweep.block.search is not None:
        tasks = search_tasks(folder.path, launch.at_once or sweep.block.search.trials)
        names = [task.name for task in tasks]
        done = submit_runs(
            prepared.folder.path, launch, names, lambda left: [task for task in tasks if task.name in left]
        )
    else:
        done = submit_runs(
            folder.path,
            launch,
            names,
            lambda left: tasks_of(sweep, prepared.runs, prepared.states, left),
        )
    return Ended(status(folder.path, launch), submitted=len(done.new))


def _closing(prepared: Prepared, say: Say) -> dict[str, RunState]:
    """The states after a launch; a run that waits for one that failed says so."""
    folder = prepared.folder
    states = read_states(folder.states)
    if prepared.sweep.block.search is not None:
        return states
    planned = {run.name: states[run.name] for run in prepared.runs}
    for name, reason in _blocked(prepared.runs, planned, prepared.sweep.block.retries).items():
        if planned[name].reason != reason:
            planned[name] = planned[name].model_copy(update={"reason": reason})
            planned[name].write(folder.states)
            say(f"{name} {reason}")
    return planned


def status(path: Path, launch: Local | Slurm) -> dict[str, RunState]:
    """How far each run is; on a cluster, with what it says of their jobs.

    Raises:
        InputError: no sweep is there, a state is damaged, or the cluster does not answer.
    """
    states = read_states(Folder(path).states)
    return seen(path, states) if isinstance(launch, Slurm) else states


def cancel(path: Path, launch: Local | Slurm) -> str:
    """Ask a sweep to stop: its runs save, and go on when it is started again. What was done, in a sentence.

    Raises:
        InputError: the cluster does not answer.
    """
    if isinstance(launch, Slurm):
        jobs = cancel_all(path)
        return f"cancelled: {len(jobs)} jobs. Runs save where they can; `terrazzo sweep {path}` goes on with them"
    lock = FileLock(Folder(path).whole_lock)
    try:
        with lock.acquire(timeout=0):
            return f"nobody works on {path} right now"
    except Timeout:
        write_text(path / STOP_FILE, "")
        return f"told: the runs of {path} save and end; `terrazzo sweep {path}` goes on with them"
