"""The runs of a sweep as tasks of a launcher: which go into one process, in what order, and when one is tried again."""

import sys
from collections.abc import Callable, Mapping, Sequence

from filelock import FileLock, Timeout

from terrazzo.commands.sweep_work import is_over
from terrazzo.launch.local import Local
from terrazzo.launch.state import RunState, read_states
from terrazzo.launch.task import REQUEUE, Task
from terrazzo.sweep.folder import Folder
from terrazzo.sweep.plan import PlannedRun, Sweep

STUCK = 5
"""Starts in a row after which no run of a task has one more step in a checkpoint, and the task is given up."""


def tasks_of(
    sweep: Sweep, runs: Sequence[PlannedRun], states: Mapping[str, RunState], names: Sequence[str]
) -> list[Task]:
    """The tasks that work through the named runs.

    A run that others wait for is a task of its own, so that its end is the task's.
    """
    folder, planned = Folder(sweep.folder), [run for run in runs if run.name in {*names}]
    awaited = {name for run in planned for name in run.after}
    chunks: list[list[PlannedRun]] = []
    open_chunk: dict[tuple[str, ...], list[PlannedRun]] = {}
    for run in planned:
        unmet = tuple(name for name in run.after if states[name].status != "finished")
        chunk = open_chunk.get(unmet)
        if run.name in awaited or chunk is None or len(chunk) == sweep.block.runs_per_job:
            chunk = []
            chunks.append(chunk)
            if run.name not in awaited:
                open_chunk[unmet] = chunk
        chunk.append(run)
    tasks = []
    for chunk in chunks:
        after = tuple(dict.fromkeys(n for run in chunk for n in run.after if states[n].status != "finished"))
        command = worker_command(sweep, [run.name for run in chunk])
        tasks.append(Task(chunk[0].name, command, folder.log(chunk[0].name), after))
    return tasks


def worker_command(sweep: Sweep, names: Sequence[str]) -> tuple[str, ...]:
    """What works through some runs, with as many processes as the launcher has for one run."""
    launch = sweep.block.launch
    work = [word for name in names for word in ("--work", name)]
    ranks: tuple[str, ...] = ()
    if isinstance(launch, Local) and launch.processes > 1:
        ranks = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={launch.processes}")
    return (sys.executable, *ranks, "-m", "terrazzo", "sweep", str(sweep.folder), *work)


def runs_of(task: Task) -> list[str]:
    """The runs that a task's command works through."""
    return [name for word, name in zip(task.command, task.command[1:], strict=False) if word == "--work"]


class Restarts:
    """Whether a task that did not end well is started once more; a run whose process could not begin is marked."""

    def __init__(self, folder: Folder, tasks: Sequence[Task], retries: int):
        self.folder, self.retries = folder, retries
        states = read_states(folder.states)
        self.attempts = {task.name: self._sum(task, states, "attempts") for task in tasks}
        self.steps = {task.name: self._sum(task, states, "step") for task in tasks}
        self.stuck = dict.fromkeys(self.attempts, 0)

    def again(self, task: Task, status: int) -> bool:
        """Decide from what the runs say of themselves; torchrun hides a worker's status behind its own."""
        states = read_states(self.folder.states)
        left = [states[name] for name in runs_of(task) if not is_over(states[name], self.retries)]
        attempts, steps = self._sum(task, states, "attempts"), self._sum(task, states, "step")
        if not left:
            return False
        if attempts == self.attempts[task.name]:
            return self._did_not_begin(task, left[0], status)
        self.stuck[task.name] = 0 if steps > self.steps[task.name] else self.stuck[task.name] + 1
        self.attempts[task.name], self.steps[task.name] = attempts, steps
        full_disk = any(state.status == "stopped" and state.reason for state in left)
        return not full_disk and self.stuck[task.name] < STUCK + self.retries

    def _did_not_begin(self, task: Task, state: RunState, status: int) -> bool:
        """Of a process that ended before its first run could count it; killed while it started, it is tried again."""
        self.stuck[task.name] += 1
        if (status < 0 or status > 128 or status == REQUEUE) and self.stuck[task.name] < STUCK:
            return True
        if held(self.folder, state.name):
            return False  # by another process, which says how it ends
        lines = task.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        reason = f"its process ended with {how} before the run began; last line of its log: {(lines or ['-'])[-1]}"
        changes = {"status": "failed", "reason": reason, "failures": state.failures + 1}
        failed = state.model_copy(update=changes)
        failed.write(self.folder.states)
        return not is_over(failed, self.retries)

    @staticmethod
    def _sum(task: Task, states: Mapping[str, RunState], key: str) -> int:
        return sum(getattr(states[name], key) for name in runs_of(task) if name in states)


def held(folder: Folder, name: str) -> bool:
    """Whether a process works on a run right now."""
    try:
        with FileLock(folder.lock(name)).acquire(timeout=0):
            return False
    except Timeout:
        return True


def search_again() -> Callable[[Task, int], bool]:
    """The same for a search's processes: each trial counts its own tries; what is bounded here is dying at once."""
    deaths: dict[str, int] = {}

    def again(task: Task, status: int) -> bool:
        killed = status < 0 or status > 128
        deaths[task.name] = deaths.get(task.name, 0) + 1 if killed else 0
        return status == REQUEUE or (killed and deaths[task.name] < STUCK)

    return again
