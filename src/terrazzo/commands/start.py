"""What `train` does before the first step: resolve the recipe against the data, set the machine up, open the folder."""

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
import yaml
from rich.console import Console

from terrazzo import __version__
from terrazzo.base import Dataset, InputError, Split, to_steps
from terrazzo.commands.evaluate import check_same_classes, default_split
from terrazzo.config import RunConfig, config_of, dump_yaml
from terrazzo.data import build_dataset
from terrazzo.engine.rundir import RunDir, environment
from terrazzo.engine.state import TrainState, read_state
from terrazzo.engine.world import World
from terrazzo.models import LoadReport
from terrazzo.optim import GroupRow
from terrazzo.track.jsonl import Jsonl


@dataclass(frozen=True)
class Sets:
    """The splits a run reads."""

    train: Dataset
    val: Dataset
    score: Dataset
    """What the report is about: test if there is one, else val."""
    score_split: Split


@dataclass(frozen=True)
class Lengths:
    """The recipe's durations in optimizer steps."""

    total: int
    log: int
    validate: int
    save: int
    warmup: int

    @classmethod
    def of(cls, cfg: RunConfig, samples: int) -> "Lengths":
        durations = (cfg.length, cfg.log_every, cfg.validate_every, cfg.save_every)
        total, log, validate, save = (to_steps(duration, samples, cfg.batch) for duration in durations)
        warmup = to_steps(cfg.schedule.warmup, samples, cfg.batch) if cfg.schedule.warmup else 0
        return cls(total, log, validate, save, warmup)


@dataclass(frozen=True)
class Job:
    """Everything that stays the same while a run trains."""

    cfg: RunConfig
    world: World
    run: RunDir
    console: Console
    sets: Sets
    lengths: Lengths

    def say(self, message: str) -> None:
        """Print a line for people, whole (rich would wrap it), on the main process."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)


def own_sets(cfg: RunConfig, train: Dataset | None, val: Dataset | None, test: Dataset | None) -> Sets | None:
    """The user's dataset objects, or None if the recipe says where the data is.

    Raises:
        InputError: objects and recipe contradict each other.
    """
    if cfg.data.kind != "own":
        if train is not None or val is not None or test is not None:
            raise InputError(f"data.kind is {cfg.data.kind!r}, yet datasets were passed; say data: {{kind: own}}")
        return None
    if train is None or val is None:
        raise InputError("data.kind is 'own': pass train_set=... and val_set=... to terrazzo.train from Python")
    sets = Sets(train, val, val if test is None else test, "val" if test is None else "test")
    check_sets(sets)
    return sets


def build_sets(cfg: RunConfig) -> Sets:
    """The recipe's splits."""
    train, val = build_dataset(cfg.data, "train"), build_dataset(cfg.data, "val")
    split = default_split(cfg)
    sets = Sets(train, val, val if split == "val" else build_dataset(cfg.data, split), split)
    check_sets(sets)
    return sets


def check_sets(sets: Sets) -> None:
    """All splits have one label space, and something to train on."""
    if not len(sets.train):
        raise InputError("the training set is empty")
    for other in (sets.val, sets.score):
        check_same_classes(sets.train.classes, other.classes, "train and the other splits differ")


def set_threads(cfg: RunConfig, last: Path | None) -> int:
    """Threads of this run: as saved, else as asked, else all cores. Their number is part of the exact bits.

    Raises:
        InputError: a run that is resumed had more threads than this machine has cores.
    """
    cores = os.cpu_count() or 1
    threads = int(read_state(last)["threads"]) if last else cfg.threads or cores
    if last and threads > cores:
        raise InputError(
            f"{cfg.out} was started with threads={threads}, this machine has {cores} cores: the same bits cannot be "
            f"had. Go on where there are {threads} cores, or start a new run with out=... threads={cores}"
        )
    torch.set_num_threads(threads)
    cv2.setNumThreads(0)  # images are read and augmented by our own threads
    return threads


def set_determinism(cfg: RunConfig, world: World) -> None:
    """Exact bits: always on a CPU; on CUDA if asked, for it costs speed there."""
    exact = world.device.type == "cpu" or cfg.deterministic
    if exact and world.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch refuses exact matrix products without it
    torch.use_deterministic_algorithms(exact)
    # Filling every empty tensor costs time and only finds bugs in torch.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set through a module class


def group_lines(rows: list[GroupRow]) -> str:
    """The parameter groups as the table that is printed and kept as parameters.txt."""
    lines = [f"{'group':<22}{'tensors':>8}{'params':>12}{'lr':>10}{'decay':>8}"]
    lines += [f"{r.group:<22}{r.tensors:>8}{r.params:>12,}{r.lr:>10.3g}{r.decay:>8.3g}" for r in rows]
    return "\n".join([*lines, f"{'total':<22}{sum(r.tensors for r in rows):>8}{sum(r.params for r in rows):>12,}"])


def start_folder(job: Job, report: LoadReport | None, groups: str) -> None:
    """Write what is known before the first step of a new run."""
    run, sets = job.run, job.sets
    for name in ("metrics.jsonl", "metrics.csv", "report.html", "log.txt"):
        (run.path / name).unlink(missing_ok=True)  # of a life that was killed before its first checkpoint
    run.write("config.yaml", dump_yaml(job.cfg))
    run.write("environment.yaml", yaml.safe_dump(environment(), sort_keys=False))
    run.write("parameters.txt", groups + "\n")
    if report is not None:
        run.write("weights.txt", f"{report}\n")
    for name, split in {"train": sets.train, "val": sets.val, sets.score_split: sets.score}.items():
        run.write(f"splits/{name}.txt", "".join(f"{line}\n" for line in _split_lines(split)))
    run.log(f"terrazzo {__version__} starts: {len(sets.train)} training images, {len(sets.val)} for validation")
    if job.lengths.warmup >= job.lengths.total:
        job.say(f"the run ends at step {job.lengths.total}, inside its warm-up of {job.lengths.warmup} steps")


def _split_lines(dataset: Dataset) -> list[str]:
    files = getattr(dataset, "files", None)  # a dataset passed from Python need not have files
    if files is None:
        return [f"item {index}" for index in range(len(dataset))]
    return [f"{image}\t{label}" for image, label in files]


def go_on(job: Job, state: TrainState) -> None:
    """Bring the folder of a resumed run to the restored step, and say what a changed length means.

    Raises:
        InputError: the length shrank.
    """
    run, lengths = job.run, job.lengths
    saved = config_of(run.saved_config() or {}, source=str(run.path / "config.yaml"))
    total = to_steps(saved.length, len(job.sets.train), saved.batch)
    if lengths.total < total:
        raise InputError(
            f"{run.path} was started for {total} steps; {lengths.total} is shorter: a length may only grow"
        )
    Jsonl(run.path / "metrics.jsonl").cut(state.step)
    if lengths.total > total:
        job.say(
            f"length grows from {total} to {lengths.total} steps: the learning rates from step {state.step} on are not "
            "those of a run that was started so long, and neither are its bits"
        )
    if state.step < lengths.total:
        (run.path / "report.html").unlink(missing_ok=True)  # it tells of a shorter run
        job.say(f"going on with {run.path} at step {state.step} of {lengths.total}")
        run.log(f"goes on at step {state.step}")
    run.write("config.yaml", dump_yaml(job.cfg))
