"""What a sweep will take: seconds from a short run of each distinct shape, bytes from the size of its checkpoints."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from terrazzo.base import Classes, Dataset, InputError, Sample
from terrazzo.commands.evaluate import score_dataset
from terrazzo.commands.lengths import Lengths
from terrazzo.commands.sets import build_sets
from terrazzo.commands.start import Job, build_loss_of, build_state, feed_from
from terrazzo.commands.train import step_of
from terrazzo.config import RunConfig, config_of
from terrazzo.engine.rundir import RunDir
from terrazzo.engine.world import World
from terrazzo.launch.state import RunState
from terrazzo.sweep.naming import recipe_hash
from terrazzo.sweep.plan import PlannedRun

STEPS = 3
"""Steps that are timed, after one that is not."""

IMAGES = 2
"""Images of the validation split that are timed, after one that is not."""

SHAPE = ("data", "model", "augment", "evaluation", "losses", "adapt", "step", "ema", "batch", "threads", "device")
"""Sections that decide how long a step or a validation takes; runs that share them take as long."""


@dataclass(frozen=True)
class Estimate:
    """Of one run, if it goes to its end."""

    steps: int | None = None
    seconds: float | None = None
    """None if it could not be found out."""
    bytes: int | None = None
    """Of its checkpoints."""
    why_not: str = ""
    """Why there are no figures."""


@dataclass(frozen=True)
class _Measured:
    """One shape, on this machine."""

    step: float
    """Seconds."""
    image: float
    """Seconds of a validation image."""
    samples: int
    validated: int
    model: int
    """Bytes of the weights."""
    state: int
    """Bytes of what goes on beside them: the optimizer, and raw weights where their mean is kept."""


def estimate(
    runs: Sequence[PlannedRun], states: Mapping[str, RunState], *, measure: bool = True
) -> dict[str, Estimate]:
    """The cost of each run that is not over: as long as a finished one of its shape took, else as a measurement says.

    Args:
        runs: of the plan.
        states: of these runs.
        measure: train a few steps of each shape here; False where this machine is not the one that trains.
    """
    shapes = {run.name: recipe_hash({key: run.tree.get(key) for key in SHAPE}) for run in runs}
    known: dict[str, _Measured | str] = {}
    for run in runs:
        if states[run.name].status == "finished" and shapes[run.name] not in known:
            known[shapes[run.name]] = _seen(config_of(run.tree), states[run.name])
    found: dict[str, Estimate] = {}
    for run in runs:
        state, shape = states[run.name], shapes[run.name]
        if state.status in ("finished", "pruned", "refused"):
            continue
        if measure and shape not in known:
            known[shape] = _measure(config_of(run.tree))
        measured = known.get(shape, "they train on other machines; the first one that has finished is the measure")
        if isinstance(measured, str):
            found[run.name] = Estimate(why_not=measured)
        else:
            found[run.name] = _of(config_of(run.tree), measured, state.step)
    return found


def _of(cfg: RunConfig, measured: _Measured, done: int) -> Estimate:
    lengths = Lengths.of(cfg, measured.samples)
    left = max(0, lengths.total - done)
    validations = -(-left // lengths.validate)
    seconds = left * measured.step + validations * measured.validated * measured.image
    kept = min(cfg.keep, lengths.total // lengths.save)
    return Estimate(lengths.total, seconds, measured.model * (3 + kept) + measured.state)


def _seen(cfg: RunConfig, state: RunState) -> _Measured | str:
    """What a finished run took, by step; its validations are in it."""
    try:
        samples = len(build_sets(cfg).train)
    except InputError as error:
        return str(error)
    files = [path for path in (cfg.out / "checkpoints").rglob("*") if path.is_file() and not path.is_symlink()]
    return _Measured(
        step=state.seconds / max(1, state.step),
        image=0.0,
        samples=samples,
        validated=0,
        model=0,
        state=sum(path.stat().st_size for path in files),
    )


def _measure(cfg: RunConfig) -> _Measured | str:
    """A few steps and validation images; or why there are none."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return _timed(_untrained(cfg).model_copy(update={"out": Path(scratch)}))
    except InputError as error:
        return str(error)


def _untrained(cfg: RunConfig) -> RunConfig:
    """The same with random weights: none are downloaded for a measurement, and none of another run are waited for."""
    none: dict[str, Any] = {
        key: "none" for key in ("weights", "weights_backbone") if key in type(cfg.model).model_fields
    }
    return cfg.model_copy(update={"model": cfg.model.model_copy(update=none), "init": None})


def _timed(cfg: RunConfig) -> _Measured:
    sets, world = build_sets(cfg), World.join(cfg.device)
    job = Job(cfg, world, RunDir(cfg.out), Console(quiet=True), sets, Lengths.of(cfg, len(sets.train)))
    state, _ = build_state(job, None, None)
    loss = build_loss_of(job)
    step_fn = step_of(job, state, loss)
    state.model.train()
    began = 0.0
    with closing(feed_from(job, 0)) as feed:
        for step in range(STEPS + 1):
            batch = next(feed)
            step_fn(batch.images.to(world.device), batch.masks.to(world.device)).loss.item()
            if step == 0:
                began = time.perf_counter()
    seconds = (time.perf_counter() - began) / STEPS
    few = First(sets.val, IMAGES + 1)
    score_dataset(state.shown, First(sets.val, 1), cfg.evaluation, world=world, loss=loss)
    began = time.perf_counter()
    score_dataset(state.shown, few, cfg.evaluation, world=world, workers=cfg.data.workers, loss=loss)
    image = (time.perf_counter() - began) / len(few)
    weights = _bytes(state.model.state_dict().values())
    moments = _bytes(v for group in state.optimizer.state.values() for v in group.values())
    return _Measured(
        step=seconds,
        image=image,
        samples=len(sets.train),
        validated=len(sets.val),
        model=weights,
        state=moments + (weights if state.ema is not None else 0),
    )


def _bytes(values: Any) -> int:
    return sum(value.nbytes for value in chain(values) if isinstance(value, Tensor))


class First:
    """The first items of a data set."""

    def __init__(self, dataset: Dataset, count: int):
        self.dataset, self.count = dataset, min(count, len(dataset))

    @property
    def classes(self) -> Classes:
        return self.dataset.classes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Sample:
        return self.dataset[index]
