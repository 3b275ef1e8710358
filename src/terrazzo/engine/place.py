"""Where this process stands among those that train together, as torchrun or SLURM's srun tell it."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from terrazzo.base import InputError

PORTS = range(15000, 30000)
"""Of SLURM jobs that are not told one: below those that systems give to outgoing connections."""


class Place(NamedTuple):
    """One process of a group, and where the group meets."""

    rank: int = 0
    size: int = 1
    """Processes in all."""
    local_rank: int = 0
    """Of those on this machine."""
    local_size: int = 1
    address: str = ""
    """Host of rank 0; empty if there is nobody to meet."""
    port: int = 0
    life: str = ""
    """Tells this start of the group from others that meet at the same address."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Place":
        """From torchrun's variables, else from those of a step of srun with several tasks, else alone.

        A Python started by hand within a SLURM job, or by the job's script, is alone however many tasks the job has.

        Raises:
            InputError: the variables contradict each other.
        """
        if "RANK" in environment or "WORLD_SIZE" in environment:
            return _of_torchrun(environment)
        if "SLURM_PROCID" in environment and _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
            return _of_srun(environment)
        return cls()


def _of_torchrun(environment: Mapping[str, str]) -> Place:
    rank, size = _number(environment, "RANK", 0), _number(environment, "WORLD_SIZE", 1)
    if not 0 <= rank < size:
        raise InputError(f"RANK={rank} and WORLD_SIZE={size} in the environment: ranks count from 0 to {size - 1}")
    if size == 1:
        return Place()
    local_size = _number(environment, "LOCAL_WORLD_SIZE", size)
    local_rank = _number(environment, "LOCAL_RANK", rank % local_size)
    address, port = environment.get("MASTER_ADDR"), _number(environment, "MASTER_PORT", 0)
    if not address or not port:
        raise InputError(
            f"WORLD_SIZE={size} in the environment, but no MASTER_ADDR and MASTER_PORT where the processes meet; "
            "start them with torchrun, which sets all of these"
        )
    life = "-".join(environment.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT"))
    return Place(rank, size, local_rank, local_size, address, port, life)


def _of_srun(environment: Mapping[str, str]) -> Place:
    job, step = _number(environment, "SLURM_JOB_ID", 0), _number(environment, "SLURM_STEP_ID", 0)
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    return Place(
        rank=_number(environment, "SLURM_PROCID", 0),
        size=_number(environment, "SLURM_STEP_NUM_TASKS", 1),
        local_rank=_number(environment, "SLURM_LOCALID", 0),
        local_size=tasks_of_nodes(tasks)[_number(environment, "SLURM_NODEID", 0)],
        address=environment.get("MASTER_ADDR") or first_host(nodes),
        port=_number(environment, "MASTER_PORT", 0) or PORTS[(job + 101 * step) % len(PORTS)],
        life=f"{job}-{step}-{environment.get('SLURM_RESTART_COUNT', '0')}",
    )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise InputError(f"{name}={text!r} in the environment: expected a whole number") from None


def first_host(nodes: str) -> str:
    """The first host of SLURM's `gpu[003-016,20],login1`: gpu003. A list may have several pairs of brackets."""
    first = re.match(r"(?:[^,\[]|\[[^]]*\])*", nodes)
    assert first is not None, "the pattern matches the empty string too"
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", first.group())


def tasks_of_nodes(counts: str) -> list[int]:
    """SLURM's `2(x3),1` as [2, 2, 2, 1]."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return [int(tasks) for tasks, times in found for _ in range(int(times or 1))]
