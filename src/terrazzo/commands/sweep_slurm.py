"""A sweep on a cluster: what `terrazzo sweep` asks of SLURM, and what it says of each run's job."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from terrazzo.launch.slurm import GONE, Job, Slurm
from terrazzo.launch.slurm_jobs import cancel_all, look, recover, submit, submitting
from terrazzo.launch.state import OVER, RunState, Status
from terrazzo.launch.task import Task

__all__ = ["Submitted", "cancel_all", "seen", "submit_runs"]

AGAIN = "`terrazzo sweep` submits it again"

ENDS: dict[str, tuple[Status, str]] = {
    "CANCELLED": ("stopped", f"was cancelled{{when}}; {AGAIN}"),
    "TIMEOUT": (
        "stopped",
        f"reached its time limit before it had saved; give launch.signal_seconds or launch.time_minutes more; {AGAIN}",
    ),
    "OUT_OF_MEMORY": ("failed", f"had too little memory; give launch.memory_gb more; {AGAIN}"),
    "NODE_FAIL": ("stopped", f"lost its node, and the cluster did not queue it again; {AGAIN}"),
    "BOOT_FAIL": ("stopped", f"got a node that did not start; {AGAIN}"),
    "PREEMPTED": ("stopped", f"had to make room, and the cluster did not queue it again; {AGAIN}"),
    "DEADLINE": ("stopped", f"reached its deadline; {AGAIN}"),
    "COMPLETED": ("stopped", f"ended before the run was over; {AGAIN}"),
    GONE: ("stopped", f"is over, and the cluster has forgotten how it ended; {AGAIN}"),
}
"""{how a job ended: what that makes of a run which did not say itself how it ended}."""


@dataclass(frozen=True)
class Submitted:
    """What became of the runs that were to be started."""

    new: dict[str, str]
    """{task: element of a job array} submitted now."""
    busy: frozenset[str]
    """Runs that were in the queue already."""


def submit_runs(
    sweep: Path, cfg: Slurm, runs: Sequence[str], tasks_of: Callable[[Sequence[str]], Sequence[Task]]
) -> Submitted:
    """Submit the runs that are not in the cluster's queue.

    Args:
        sweep: folder of the sweep.
        cfg: what each job asks for.
        runs: names of those that are not over, in order.
        tasks_of: the tasks that work through some of them.

    Raises:
        InputError: the cluster refuses or does not answer, or another process submits right now.
    """
    with submitting(sweep):
        recover(sweep)
        busy = look(sweep).busy
        tasks = [_on_node(task, cfg) for task in tasks_of([name for name in runs if name not in busy])]
        return Submitted(submit(sweep, cfg, tasks, {task.name: _runs(task) for task in tasks}), busy & {*runs})


def _on_node(task: Task, cfg: Slurm) -> Task:
    """With the Python that the node has."""
    command = (cfg.python, *task.command[1:]) if cfg.python else task.command
    return Task(task.name, command, task.log, task.after)


def _runs(task: Task) -> tuple[str, ...]:
    """The runs that a task's command works through: `--work NAME --work NAME`."""
    words = task.command
    return tuple(words[n + 1] for n, word in enumerate(words[:-1]) if word == "--work") or (task.name,)


def seen(sweep: Path, states: Mapping[str, RunState]) -> dict[str, RunState]:
    """What the runs say of themselves, and of those that cannot say it, what the cluster says of their jobs.

    Raises:
        InputError: the cluster does not answer.
    """
    jobs = look(sweep).by_run
    return {name: _seen(state, jobs[name]) if name in jobs else state for name, state in states.items()}


def _seen(state: RunState, job: Job) -> RunState:
    if state.status in OVER or (state.status == "failed" and job.state != "PENDING"):
        return state
    where = f"job {job.id}" + (f" on {job.nodes}" if job.nodes else "")
    if job.in_queue:
        if state.status == "running" and job.state != "PENDING":
            return state.model_copy(update={"where": where})
        why = f"waits in the queue: {job.reason or 'its turn'}" if job.state == "PENDING" else "has it on its list"
        return state.model_copy(update={"status": "queued", "reason": f"job {job.id} {why}", "where": where})
    if job.state == GONE and not state.attempts:
        job = Job(job.id, "CANCELLED")  # the cluster keeps nothing of an element that never began
    status, words = ENDS.get(job.state, ("failed", f"ended ({job.state}) before the run could say why: see its log"))
    when = "" if state.attempts else " before it began"
    if job.reason == "DependencyNeverSatisfied":
        status, words = "stopped", f"was cancelled: what it comes after did not end well; {AGAIN}"
    reason = f"job {job.id} {words.format(when=when)}"
    return state.model_copy(update={"status": status, "reason": reason, "where": where})
