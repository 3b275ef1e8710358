"""A job array as files that a person can read and sbatch by hand: its script, and its tasks, one a line."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from terrazzo.base import InputError
from terrazzo.launch.slurm import Slurm
from terrazzo.launch.task import REQUEUE, Task

DEATHS = 3
"""So many ends by a signal, each within DEATH_SECONDS of a start, and a job does not queue itself again. The command
counts for itself, by what it got done; this is for one that dies before it can."""

DEATH_SECONDS = 30


@dataclass(frozen=True)
class Array:
    """Tasks that are one job array: element and line `n` is tasks[n]."""

    tasks: Mapping[int, Task]
    after: tuple[str, ...] = ()
    """Elements of other arrays, `12_3`, that must all have ended well before an element of this one starts."""
    after_same: str | None = None
    """Array whose element of the same number must have ended well before an element of this one starts."""
    goes_on: bool = False
    """The array before it was too long for the cluster, and this is its next part."""


def levels(tasks: Sequence[Task]) -> list[list[Task]]:
    """Tasks after nothing among them, then those that come after these only, and so on.

    Raises:
        InputError: they come after each other in a circle.
    """
    found: list[list[Task]] = []
    waiting = {task.name: task for task in tasks}
    while waiting:
        ready = [task for task in waiting.values() if not any(name in waiting for name in task.after)]
        if not ready:
            raise InputError(f"these runs come after each other in a circle: {', '.join(waiting)}; mend their `after`")
        found.append(ready)
        waiting = {name: task for name, task in waiting.items() if task not in ready}
    return found


def arrays(level: Sequence[Task], jobs: Mapping[str, str], largest: int) -> list[Array]:
    """The job arrays of one level of tasks.

    Args:
        level: tasks that do not come after each other.
        jobs: {task: element of an array, `12_3`} of those in the queue. A task that is not there is over.
        largest: most elements of an array.
    """
    alike: dict[tuple[str, ...], list[Task]] = {}
    for task in level:
        alike.setdefault(tuple(sorted(jobs[name] for name in task.after if name in jobs)), []).append(task)
    found: list[Array] = []
    pairs: dict[str, dict[int, Task]] = {}
    for after, tasks in alike.items():
        if len(after) == len(tasks) == 1:  # one of many that each wait for another element: one array for all of them
            number, _, index = after[0].partition("_")
            pairs.setdefault(number, {})[int(index)] = tasks[0]
            continue
        for first in range(0, len(tasks), largest):
            part = dict(enumerate(tasks[first : first + largest], 1))
            found.append(Array(part, after=after, goes_on=first > 0))
    return found + [Array(dict(sorted(tasks.items())), after_same=number) for number, tasks in pairs.items()]


def dependency(array: Array, before: str | None) -> str | None:
    """What an array waits for, in sbatch's words; `before` is an array that must be over."""
    parts = (
        f"afterok:{':'.join(array.after)}" if array.after else None,
        f"aftercorr:{array.after_same}" if array.after_same else None,
        f"afterany:{before}" if before else None,
    )
    return ",".join(filter(None, parts)) or None


def tasks_text(array: Array) -> str:
    """Line n: the log of element n and its command, as a shell reads them; empty where there is no element n."""
    lines = [""] * max(array.tasks)
    for index, task in array.tasks.items():
        lines[index - 1] = shlex.join([str(task.log.absolute()), *task.command])
    return "\n".join(lines) + "\n"


def script_text(cfg: Slurm, name: str, array: Array, files: "Files", waits_for: str | None) -> str:
    """The script of a job array called `name`."""
    head = "\n".join(f"#SBATCH {option}" for option in options(cfg, name, array.tasks, files, waits_for))
    setup = "".join(f"{line}\n[ $? -eq 0 ] || {{ echo {shlex.quote(_failed(line))}; exit 1; }}\n" for line in cfg.setup)
    meeting = {"MASTER_ADDR": cfg.master_address, "MASTER_PORT": cfg.master_port}
    meets = "".join(f"export {key}=${{{key}:-{value}}}\n" for key, value in meeting.items() if value is not None)
    return f"""#!/bin/bash
# Element N of this array is line N of {files.tasks}: a log, then the command that writes it.
# Written by `terrazzo sweep`, which knows its jobs by name; `terrazzo sweep --cancel` ends them.
{head}

job=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
eval "set -- $(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {shlex.quote(str(files.tasks))})"
exec >>"$1" 2>&1
log=$1
shift
echo "terrazzo: job $job on $SLURM_JOB_NODELIST, start $((${{SLURM_RESTART_COUNT:-0}} + 1)), $(date '+%F %T')"
{setup}export OMP_NUM_THREADS=${{SLURM_CPUS_PER_TASK:-1}}
{meets}
{shlex.join(step(cfg))} "$@"
status=$?

again() {{
    echo "terrazzo: $1 (status $status); job $job queues again"
    scontrol requeue "$job" || echo "terrazzo: it cannot; \\`terrazzo sweep\\` submits it again"
}}
deaths=$log.deaths
case $status in
{REQUEUE} | 138 | 143) # preempted, or near the time limit; 138 and 143: before it listened to signals
    again "told to stop" ;;
129 | 13? | 14? | 15? | 16?) # killed, as for want of memory; but {DEATHS} times in a row and soon is no accident
    [ $SECONDS -lt {DEATH_SECONDS} ] || rm -f "$deaths"
    echo $status >>"$deaths"
    if [ "$(wc -l <"$deaths")" -lt {DEATHS} ]; then
        again "ended by a signal"
    else
        echo "terrazzo: ended by a signal {DEATHS} times soon after its start (status $status); not queued again"
        rm -f "$deaths"
    fi ;;
*)
    rm -f "$deaths" ;;
esac
exit $status
"""


@dataclass(frozen=True)
class Files:
    """Where a job array's files are."""

    script: Path
    tasks: Path
    output: Path
    """What SLURM itself says of element %a, and whatever the script says before it knows its task."""

    @classmethod
    def of(cls, sweep: Path, name: str) -> "Files":
        """In the folder of a sweep."""
        folder = sweep.absolute() / "slurm"
        return cls(folder / f"{name}.sh", folder / f"{name}.tasks", folder / f"{name}-%a.out")


def options(cfg: Slurm, name: str, elements: Iterable[int], files: Files, waits_for: str | None) -> list[str]:
    """Of sbatch, one each; the user's own last, where they win."""
    given = {
        "job-name": name,
        "array": ranges(sorted(elements)) + (f"%{cfg.at_once}" if cfg.at_once else ""),
        "dependency": waits_for,
        "kill-on-invalid-dep": "yes" if waits_for else None,
        "partition": cfg.partition,
        "account": cfg.account,
        "qos": cfg.qos,
        "constraint": cfg.constraint,
        "nodes": str(cfg.nodes),
        "ntasks-per-node": str(cfg.tasks),
        "cpus-per-task": str(cfg.cpus_per_task) if cfg.cpus_per_task else None,
        "gpus-per-node": str(cfg.gpus_per_node) if cfg.gpus_per_node else None,
        "gres": cfg.gres,
        "mem": f"{round(cfg.memory_gb * 1024)}M" if cfg.memory_gb else None,
        "time": str(cfg.time_minutes) if cfg.time_minutes else None,
        "signal": f"USR1@{cfg.signal_seconds}",
        "chdir": str(Path.cwd()),
        "output": str(files.output),
        "open-mode": "append",
    }
    lines = [f"--{key}={_quoted(value)}" for key, value in given.items() if value is not None]
    return [*lines, "--requeue", *cfg.sbatch]


def step(cfg: Slurm) -> list[str]:
    """srun with its options: signals before the time limit reach what it starts, and not the script."""
    words = ["srun", "--kill-on-bad-exit=1"]
    if cfg.cpus_per_task:
        words.append(f"--cpus-per-task={cfg.cpus_per_task}")  # since SLURM 22.05 it does not follow from sbatch's
    if cfg.container is not None:
        words.append(f"--container-image={cfg.container}")
    if cfg.container_mounts:
        words.append(f"--container-mounts={','.join(cfg.container_mounts)}")
    return words


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as sbatch writes them: 1, 2, 3 and 7 are `1-3,7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def _quoted(value: str) -> str:
    """As the lines after #SBATCH are read."""
    return f'"{value}"' if any(letter in value for letter in " #'|&;()") else value


def _failed(line: str) -> str:
    return f"terrazzo: this line of launch.setup failed: {line}"
