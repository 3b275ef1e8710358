"""Every setting of a sweep changes what it does: which runs there are, what they are called, how they are started."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from settings_base import BASE, Tree
from terrazzo.commands.sweep_tasks import tasks_of, worker_command
from terrazzo.commands.sweep_work import is_over
from terrazzo.launch.local import Local, seats
from terrazzo.launch.slurm import Slurm
from terrazzo.launch.slurm_script import Array, Files, script_text
from terrazzo.launch.state import RunState
from terrazzo.launch.task import Task
from terrazzo.sweep.block import SweepConfig
from terrazzo.sweep.plan import Sweep, plan


class SweepCase(NamedTuple):
    see: Callable[[SweepConfig], object]
    values: tuple[Any, ...]
    given: Tree


def case(see: Callable[[SweepConfig], object], *values: Any, **given: Any) -> SweepCase:
    return SweepCase(see, values, given)


def sweep(block: SweepConfig) -> Sweep:
    return Sweep(BASE, block, Path("somewhere"))


def runs(block: SweepConfig) -> object:
    return [(run.name, run.tree, run.after) for run in plan(sweep(block))]


def listed(block: SweepConfig) -> object:
    """The runs, where the files a.txt and b.txt have a line each."""
    with tempfile.TemporaryDirectory() as folder:
        for name, line in {"a": "2 small\n", "b": "4 large\n"}.items():
            (Path(folder) / f"{name}.txt").write_text(line)
        assert block.lists is not None
        files = tuple(f"{folder}/{name}" for name in block.lists.files)
        lists = block.lists.model_copy(update={"files": files})
        return runs(block.model_copy(update={"lists": lists}))


def commands(block: SweepConfig) -> object:
    planned = plan(sweep(block))
    states = {run.name: RunState(name=run.name, hash=run.hash) for run in planned}
    return [task.command for task in tasks_of(sweep(block), planned, states, list(states))]


def over(block: SweepConfig) -> object:
    """Whether a run is over after so many failures."""
    state = RunState(name="", hash="", status="failed")
    return [is_over(state.model_copy(update={"failures": count}), block.retries) for count in range(4)]


def scored(block: SweepConfig) -> object:
    """What `score_checkpoints` is asked for; tests/sweep/test_sweep_work.py looks at the files."""
    return block.checkpoints


def places(block: SweepConfig) -> object:
    assert isinstance(block.launch, Local)
    return seats(block.launch, [str(k) for k in range(6)]), worker_command(sweep(block), ["a"])


def script(block: SweepConfig) -> object:
    """The job script of one run."""
    assert isinstance(block.launch, Slurm)
    task = Task("a", ("python", "-m", "terrazzo"), Path("a.log"))
    return script_text(block.launch, "name", Array({1: task}), Files.of(Path("/sweep"), "name"), None)


SLURM: dict[str, tuple[Any, ...]] = {
    "partition": ("short", "long"),
    "account": ("a", "b"),
    "qos": ("low", "high"),
    "constraint": ("a100", "h100"),
    "gpus_per_node": (0, 1, 2),
    "gres": ("gpu:1", "gpu:a100:2"),
    "nodes": (1, 2),
    "tasks_per_node": (1, 2),
    "cpus_per_task": (None, 2, 4),
    "memory_gb": (None, 4, 8),
    "time_minutes": (None, 30, 60),
    "signal_seconds": (120, 300),
    "at_once": (None, 2),
    "container": (None, "image.sqsh"),
    "setup": ((), ("module load cuda",)),
    "master_address": (None, "10.0.0.1"),
    "master_port": (None, 2222),
    "sbatch": ((), ("--mail-type=END",)),
}

NAMES = {"model": {"small": {"model.width": 4}, "large": {"model.width": 8}}}
LINES = {"files": ["*.txt"], "columns": ["batch", "model"], "names": NAMES}
OTHER = {"model": {"small": {"model.width": 6}, "large": {"model.width": 8}}}

CASES: dict[str, SweepCase] = {
    "grid": case(runs, {"batch": [2, 4]}, {"batch": [2, 6]}, {"optim.lr": [1, 2]}),
    "runs": case(runs, {"a": {}}, {"b": {}}, {"a": {"batch": 4}}, {"a": {}, "b": {"after": "a"}}),
    "lists.files": case(listed, ["a.txt"], ["b.txt"], ["*.txt"], lists=LINES),
    "lists.columns": case(
        listed, ["batch", "model"], ["step.accumulate", "model"], lists={**LINES, "files": ["a.txt"]}
    ),
    "lists.names": case(listed, NAMES, OTHER, lists=LINES),
    "seeds": case(runs, [0], [1], [0, 1]),
    "launch.kind": case(lambda block: type(block.launch), {"kind": "local"}, {"kind": "slurm"}, seeds=[0]),
    "launch.local.at_once": case(places, 1, 2),
    "launch.local.processes": case(places, 1, 2, 3),
    "launch.slurm.container_mounts": case(script, (), ("/data:/data",), launch={"container": "image.sqsh"}),
    **{f"launch.slurm.{name}": case(script, *values) for name, values in SLURM.items()},
    "runs_per_job": case(commands, 1, 2, 3, seeds=[0, 1, 2]),
    "retries": case(over, 0, 1, 2),
    "checkpoints": case(scored, ["last"], ["last", "best_loss"]),
}

ELSEWHERE = {
    "launch.slurm.python": "tests/launch looks at the tasks file, whose lines begin with it",
}
