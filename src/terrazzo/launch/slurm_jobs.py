"""The jobs of a sweep on a cluster: submitted once, found again after a crash, one file beside the runs."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from terrazzo.base import Config, InputError
from terrazzo.files import write_text
from terrazzo.launch.slurm import Job, Slurm, cancel, find, largest_array, poll, submit_script
from terrazzo.launch.slurm_script import Array, Files, arrays, dependency, levels, script_text, tasks_text
from terrazzo.launch.task import Task

FILE = "jobs.json"


class Element(Config):
    """One element of a job array."""

    task: str
    """What it was submitted for."""
    runs: tuple[str, ...]
    """Names of the runs that it works through."""


class Submission(Config):
    """One call of sbatch."""

    name: str
    """Of the job, like no other: a submission whose number was not written down is found by it."""
    number: str | None = None
    """Of the job array; null: about to be submitted."""
    elements: dict[int, Element]

    def ids(self) -> dict[str, Element]:
        """{`12_3`: element}."""
        return {f"{self.number}_{index}": element for index, element in self.elements.items()}


class Ledger(Config):
    """All submissions of a sweep, oldest first."""

    submissions: tuple[Submission, ...] = ()

    def write(self, sweep: Path) -> None:
        write_text(sweep / FILE, self.model_dump_json(indent=1) + "\n")


def read_ledger(sweep: Path) -> Ledger:
    """As written; empty where nothing was submitted yet.

    Raises:
        InputError: the file cannot be read.
    """
    path = sweep / FILE
    try:
        return Ledger.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Ledger()
    except (ValidationError, UnicodeDecodeError) as error:
        fault = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.reason
        raise InputError(
            f"{path} is not what terrazzo wrote ({fault}); if none of the sweep's jobs is in the queue "
            "(squeue --me), delete it"
        ) from None


@contextmanager
def submitting(sweep: Path) -> Iterator[None]:
    """One process at a time submits or cancels the jobs of a sweep.

    Raises:
        InputError: another one does.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    lock = FileLock(sweep / ".jobs.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{sweep}: another terrazzo is submitting these jobs; wait for it") from None
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Jobs:
    """What is known of a sweep's jobs."""

    by_run: Mapping[str, Job]
    """{run: its latest job}."""
    by_task: Mapping[str, Job]
    """{task: its latest job}."""

    @property
    def busy(self) -> frozenset[str]:
        """Runs in the cluster's queue: not to be submitted again."""
        return frozenset(name for name, job in self.by_run.items() if job.in_queue)


def look(sweep: Path) -> Jobs:
    """Ask the cluster for all jobs of a sweep.

    Raises:
        InputError: the cluster does not answer.
    """
    elements = {
        id: element
        for submission in read_ledger(sweep).submissions
        if submission.number is not None
        for id, element in submission.ids().items()
    }
    answered = poll(elements.keys())
    by_run: dict[str, Job] = {}
    by_task: dict[str, Job] = {}
    for id, element in elements.items():
        by_task[element.task] = answered[id]
        for run in element.runs:
            if run not in by_run or not by_run[run].in_queue:
                by_run[run] = answered[id]
    return Jobs(by_run, by_task)


def recover(sweep: Path) -> None:
    """Complete the ledger where a process died between asking for a job and writing down its number."""
    ledger = read_ledger(sweep)
    if all(submission.number is not None for submission in ledger.submissions):
        return
    found = (
        submission.model_copy(update={"number": submission.number or find(submission.name)})
        for submission in ledger.submissions
    )
    Ledger(submissions=tuple(submission for submission in found if submission.number is not None)).write(sweep)


def submit(sweep: Path, cfg: Slurm, tasks: Sequence[Task], runs: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Submit tasks as job arrays; {task: element}. Inside `submitting`, after `recover`.

    Args:
        sweep: folder of the sweep: jobs.json and slurm/ are written there.
        cfg: what each job asks for.
        tasks: none of them with a run that is in the queue. `after` names tasks, or runs of earlier submissions; what
            is neither here nor in the queue is over, and nothing waits for it.
        runs: {task: the runs that it works through}.

    Raises:
        InputError: the cluster refuses, in its own words. What was submitted before stays, and is written down.
    """
    known = look(sweep)
    jobs = {name: job.id for name, job in (*known.by_run.items(), *known.by_task.items()) if job.in_queue}
    largest = largest_array() if len(tasks) > 1 else 1
    placed: dict[str, str] = {}
    for level in levels(tasks):
        number: str | None = None
        for array in arrays(level, jobs, largest):
            before = number if array.goes_on and cfg.at_once else None
            elements = {
                index: Element(task=task.name, runs=tuple(runs[task.name])) for index, task in array.tasks.items()
            }
            number = _submit(sweep, cfg, array, elements, dependency(array, before))
            placed |= {task.name: f"{number}_{index}" for index, task in array.tasks.items()}
            jobs |= placed
    return placed


def _submit(sweep: Path, cfg: Slurm, array: Array, elements: dict[int, Element], waits_for: str | None) -> str:
    """Write the files, say in the ledger what is about to happen, do it, write down what came of it."""
    name = f"{_safe(sweep.absolute().name)}-{uuid.uuid4().hex[:8]}"
    files = Files.of(sweep, name)
    write_text(files.tasks, tasks_text(array))
    write_text(files.script, script_text(cfg, name, array, files, waits_for))
    for task in array.tasks.values():
        task.log.parent.mkdir(parents=True, exist_ok=True)
    before = read_ledger(sweep).submissions
    planned = Submission(name=name, elements=elements)
    Ledger(submissions=(*before, planned)).write(sweep)
    try:
        number = submit_script(str(files.script), cfg)
    except InputError:
        recover(sweep)  # a refusal leaves no job; a controller that did not answer in time may have taken it
        raise
    Ledger(submissions=(*before, planned.model_copy(update={"number": number}))).write(sweep)
    return number


def cancel_all(sweep: Path) -> list[str]:
    """Take all jobs of a sweep out of the queue; the runs that they were for."""
    with submitting(sweep):
        recover(sweep)
        jobs = look(sweep)
        cancel(sorted({job.id for job in jobs.by_run.values() if job.in_queue}))
    return sorted(jobs.busy)


def _safe(name: str) -> str:
    """Fit for a job's name and a file's."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)[:40] or "sweep"
