"""A cluster under SLURM: what a job asks for, and asking the cluster itself. Neither torch nor a GPU is needed here."""

import os
import re
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from terrazzo.base import Config, InputError

ANSWER_SECONDS = 60
"""How long a command of SLURM may take: a controller that is down lets them wait, and nobody waits with them."""

IN_QUEUE = frozenset(
    (
        *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING"),
        *("RESIZING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "REVOKED"),
    )
)
"""States of a job that the cluster still works on or will (squeue(1), JOB STATE CODES)."""

GONE = "GONE"
"""Our state of a job that the cluster does not remember: it is over, and nobody knows how."""


class Slurm(Config):
    """A cluster under SLURM: every job is an element of a job array, its script can be read in the sweep's folder."""

    kind: Literal["slurm"] = "slurm"
    partition: str | None = None
    """Partition(s) of the cluster, comma separated; null: its default."""
    account: str | None = None
    """Account that is charged; null: yours."""
    qos: str | None = None
    """Quality of service; null: the cluster's default."""
    constraint: str | None = None
    """Features that a node must have, as the cluster names them (`a100|h100`)."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs of each node; each one gets a process of its own."""
    gres: str | None = None
    """The same in the cluster's own words (`gpu:a100:2`), where it does not know gpus-per-node."""
    nodes: PositiveInt = 1
    """Nodes of one run; on more than one its processes train together."""
    tasks_per_node: PositiveInt | None = None
    """Processes of one run on each node; null: one per GPU asked for, one without."""
    cpus_per_task: PositiveInt | None = None
    """CPU cores of each process; null: the cluster's default (often one)."""
    memory_gb: PositiveFloat | None = None
    """Memory of each node in GiB; null: the cluster's default."""
    time_minutes: PositiveInt | None = None
    """Time limit of a job; at its end a run saves and queues again. Null: the partition's."""
    signal_seconds: PositiveInt = 120
    """A run is told to save and to queue again so long before the time limit. SLURM is up to 60 s early."""
    at_once: PositiveInt | None = None
    """Jobs of one array that run at a time; null: as many as the cluster lets."""
    container: str | None = None
    """Image that `srun --container-image` runs a job in (the Pyxis plugin); null: none."""
    container_mounts: tuple[str, ...] = ()
    """Folders seen inside the container, `OUTSIDE:INSIDE`; the sweep's folder and the data must be among them."""
    setup: tuple[str, ...] = ()
    """Shell lines run on the node before a run: `module load cuda`, `source venv/bin/activate`. One that fails ends
    the job."""
    python: str | None = None
    """Python that has terrazzo on the node (`python` of a container or of an environment loaded in `setup`); null: the
    one that submits, by its path."""
    master_address: Annotated[str, Field(pattern=r"^[\w.:-]+$")] | None = None
    """Where the processes of one run meet; null: the first node's name. $MASTER_ADDR wins over both."""
    master_port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """Port there; null: one made from the job's number. $MASTER_PORT wins over both."""
    sbatch: tuple[str, ...] = ()
    """More options of sbatch, one each (`--reservation=course`, `--mail-type=END`)."""

    @field_validator("sbatch")
    @classmethod
    def _are_options(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if not re.match(r"-{1,2}[A-Za-z]", line) or "\n" in line:
                raise ValueError(f"{line!r} is no option of sbatch; write one as --name=value")
        return lines

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if self.gres is not None and self.gpus_per_node:
            raise ValueError("gres and gpus_per_node say the same in two ways; give one of them")
        if self.time_minutes is not None and self.signal_seconds >= 60 * self.time_minutes:
            raise ValueError(
                f"signal_seconds={self.signal_seconds} is not before the time limit of time_minutes="
                f"{self.time_minutes}; give less of the one or more of the other"
            )
        if self.container_mounts and self.container is None:
            raise ValueError("container_mounts without container mount nothing; give container=IMAGE")
        return self

    @property
    def tasks(self) -> int:
        """Processes of one run on each node."""
        named = re.search(r"\bgpu(?::[\w.-]*[A-Za-z][\w.-]*)?(?::(\d+))?", self.gres or "")
        gpus = int(named[1] or 1) if named else self.gpus_per_node
        return self.tasks_per_node or max(1, gpus)


@dataclass(frozen=True)
class Job:
    """What the cluster says of one element of a job array."""

    id: str
    """`12_3`: element 3 of array 12."""
    state: str
    """SLURM's word (RUNNING, CANCELLED, ...), or GONE."""
    reason: str = ""
    """Why it waits or ended, in SLURM's word."""
    nodes: str = ""

    @property
    def in_queue(self) -> bool:
        """True while the cluster works on it or will."""
        return self.state in IN_QUEUE


def poll(ids: Collection[str]) -> dict[str, Job]:
    """What the cluster says of jobs: its controller first, which forgets a job some minutes after its end, then its
    accounting, if it has one.

    Raises:
        InputError: the cluster does not answer.
    """
    if not ids:
        return {}
    listed = ask(["squeue", "--me", "--states=all", "--array", "--noheader", "--format=%i|%T|%r|%N"])
    jobs = {job.id: job for job in read_queue(listed) if job.id in ids}
    if forgotten := sorted(set(ids) - jobs.keys()):
        jobs |= {job.id: job for job in _accounted(forgotten) if job.id in ids and job.id not in jobs}
    return {id: jobs.get(id, Job(id, GONE)) for id in ids}


def read_queue(text: str) -> list[Job]:
    """Lines of `ID|STATE|REASON|NODES`; a reason or a node that is none is empty."""
    jobs = []
    for line in text.splitlines():
        id, state, reason, nodes = (part.strip() for part in line.split("|", 3))
        jobs.append(Job(id, state, "" if reason == "None" else reason, nodes))
    return jobs


def read_accounts(text: str) -> list[Job]:
    """Lines of `ID|STATE|NODES`; sacct says `CANCELLED by 1000` where squeue says CANCELLED."""
    rows = [line.split("|") for line in text.splitlines()]
    return [Job(id, state.split()[0], nodes="" if nodes == "None assigned" else nodes) for id, state, nodes in rows]


def _accounted(ids: Sequence[str]) -> list[Job]:
    """Of a cluster without accounting, or whose accounting is down, nothing: that is the case on many."""
    command = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State,NodeList"]
    arrays = ",".join(sorted({id.partition("_")[0] for id in ids}))
    try:
        answer = _run([*command, "-j", arrays], seconds=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return read_accounts(answer.stdout) if answer.returncode == 0 else []


def find(name: str) -> str | None:
    """The number of the job array of this name, if the cluster knows it."""
    command = ["squeue", "--me", "--states=all", "--noheader", "--format=%F", f"--name={name}"]
    numbers = ask(command).split()
    return numbers[0] if numbers else None


def cancel(ids: Sequence[str]) -> None:
    """Take jobs out of the queue and end those that run (they save first)."""
    for first in range(0, len(ids), 500):  # a command line has a limit
        ask(["scancel", *ids[first : first + 500]])


def largest_array() -> int:
    """Most elements that an array of ours may have here: indices begin at 1 and stay below MaxArraySize."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]), re.MULTILINE)
    return max(1, int(found[1]) - 1) if found else 1000


def submit_script(script: str, cfg: Slurm) -> str:
    """Hand a script to sbatch; the number of its job array.

    Raises:
        InputError: sbatch refuses it, in its own words, or does not answer.
    """
    try:
        printed = ask(["sbatch", "--parsable", script])
    except InputError as error:
        keys = (
            "partition",
            "account",
            "qos",
            "constraint",
            "gpus_per_node",
            "gres",
            "nodes",
            "memory_gb",
            "time_minutes",
        )
        given = cfg.model_dump(include={*keys}, exclude_defaults=True)
        named = [f"launch.{key}={given[key]}" for key in keys if key in given]
        if "partition" in str(error):
            known = ", ".join(ask(["sinfo", "--noheader", "--format=%R"]).split())
            named.append(f"partitions of this cluster: {known or 'none that you may use'}")
        hint = "; ".join([*named, f"the script: {script}"])
        raise InputError(f"{error} ({hint})") from None
    return printed.strip().partition(";")[0]


def ask(command: Sequence[str]) -> str:
    """Output of a command of SLURM.

    Raises:
        InputError: it is not on this machine, it failed (in its own words), or it does not answer in time.
    """
    name = command[0]
    try:
        answer = _run(command, seconds=ANSWER_SECONDS)
    except FileNotFoundError:
        raise InputError(
            f"launch.kind=slurm needs {name} of SLURM, which this machine does not have; type this on a login node of "
            "the cluster, or give launch.kind=local"
        ) from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{name} has not answered for {ANSWER_SECONDS} s; the cluster may be down") from None
    if answer.returncode:
        lines = [line.removeprefix(f"{name}: ").removeprefix("error: ") for line in answer.stderr.splitlines()]
        words = "; ".join(dict.fromkeys(filter(None, lines)))
        raise InputError(f"{name} says: {words or f'exit status {answer.returncode}'}")
    return answer.stdout


def _run(command: Sequence[str], *, seconds: float) -> subprocess.CompletedProcess[str]:
    """Outside of any job that this process may be part of: its SLURM_... would be laid over the new job's options."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_") or key == "SLURM_CONF"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, env=kept, stdin=subprocess.DEVNULL, check=False
    )
