"""`terrazzo train`: the training loop, from a recipe to a run folder with checkpoints and a report."""

import copy
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import Tensor, nn

from terrazzo import __version__
from terrazzo.base import Dataset, InputError
from terrazzo.bundle import BundleClasses, BundleConfig, save_bundle
from terrazzo.commands.evaluate import score_dataset
from terrazzo.commands.report import report_run
from terrazzo.commands.start import (
    Job,
    Lengths,
    build_sets,
    go_on,
    group_lines,
    own_sets,
    set_determinism,
    set_threads,
    start_folder,
)
from terrazzo.config import RunConfig, config_of, dump_yaml, load_config
from terrazzo.data.augment import augment
from terrazzo.data.loader import Batch, batches, checked_sample, seed_of
from terrazzo.engine.rundir import RunDir
from terrazzo.engine.state import TrainState
from terrazzo.engine.step import make_step
from terrazzo.engine.stop import StopFlag
from terrazzo.engine.world import World
from terrazzo.losses import Loss, build_loss, class_frequencies, needs_frequencies
from terrazzo.metrics import Scores
from terrazzo.models import build_model
from terrazzo.optim import build_optimizer, group_table, lr_factor, set_lr
from terrazzo.track.console import ConsoleTracker
from terrazzo.track.jsonl import Jsonl, read_lines, write_csv

STOP_CHECK_STEPS = 10
"""Steps between asking all ranks whether one was told to stop; each question makes the hosts wait for each other."""


@dataclass(frozen=True)
class Run:
    """A training run as it was left."""

    folder: Path
    step: int
    finished: bool
    """False if a signal stopped it; the same call goes on with it."""
    stopped_by: int | None = None
    """Number of the signal that stopped it."""


def train(
    config: RunConfig | str | Path | dict[str, Any],
    *,
    model: nn.Module | None = None,
    train_set: Dataset | None = None,
    val_set: Dataset | None = None,
    test_set: Dataset | None = None,
    fresh: bool = False,
) -> Run:
    """Train as the recipe says; go on where a run in the same folder was stopped or killed.

    Args:
        config: a recipe: its name, path, nested dict, or a RunConfig.
        model: your own network (recipe: `model: {kind: own}`): float images [B, 3, H, W], normalised, in;
            logits [B, K, h, w], a tuple (logits, auxiliary logits, ...) or an Output out.
        train_set: your own dataset (recipe: `data: {kind: own}`): see `terrazzo.base.Dataset`.
        val_set: the same for validation.
        test_set: the same for the report; val_set if left out.
        fresh: move an existing run folder aside and start anew.

    Raises:
        InputError: something given cannot work; the last good checkpoint is kept.
    """
    match config:
        case RunConfig():
            cfg = config
        case dict():
            cfg = config_of(config)
        case _:
            cfg = load_config(config)
    passed = own_sets(cfg, train_set, val_set, test_set)
    world, run = World.join(cfg.device), RunDir(cfg.out)
    console = Console(stderr=True, quiet=not world.main)
    aside = run.move_aside() if fresh and world.main else None
    with run, StopFlag() as stop:
        last = run.resumable()
        if last is not None:
            run.check_same_run(yaml.safe_load(dump_yaml(cfg)))
        sets = passed or build_sets(cfg)
        job = Job(cfg, world, run, console, sets, Lengths.of(cfg, len(sets.train)))
        if aside is not None:
            job.say(f"moved the old run to {aside}")
        state = _build_state(job, last, model)
        if state.step < job.lengths.total and not _loop(job, state, stop):
            job.say(f"stopped at step {state.step}; the same command goes on from there")
            return Run(cfg.out, state.step, finished=False, stopped_by=stop.number)
        if world.main and not (cfg.out / "report.html").exists():
            report_run(cfg.out, cfg, sets.score, sets.score_split, world, network=copy.deepcopy(model))
        job.say(f"finished: {state.step} steps; report: {cfg.out / 'report.html'}")
        return Run(cfg.out, state.step, finished=True)


def _build_state(job: Job, last: Path | None, own: nn.Module | None) -> TrainState:
    """Model, optimizer and counters: new, or as the checkpoint `last` holds them."""
    cfg, device = job.cfg, job.world.device
    threads = set_threads(cfg, last)
    set_determinism(cfg, job.world)
    torch.manual_seed(cfg.seed)
    classes, channels = len(job.sets.train.classes), checked_sample(job.sets.train, 0).image.shape[2]
    model, report = build_model(cfg.model, classes, channels, own=own, pretrained=last is None)
    model = model.to(device)
    if cfg.step.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, model.role, cfg.optim)
    state = TrainState(
        model,
        optimizer,
        threads,
        torch.zeros(classes, classes, dtype=torch.int64, device=device),
        torch.zeros((), dtype=torch.float64, device="cpu" if device.type == "mps" else device),
    )
    groups = group_lines(group_table(optimizer.param_groups))
    job.say(groups)
    if report is not None:
        job.say(str(report))
    if last is not None:
        state.restore(last)
        go_on(job, state)
    elif job.world.main:
        start_folder(job, report, groups)
    return state


def _loop(job: Job, state: TrainState, stop: StopFlag) -> bool:
    """Train from state.step to the end; False if a signal stopped it before."""
    cfg, world, run, sets, lengths = job.cfg, job.world, job.run, job.sets, job.lengths
    model, tracker, samples = state.model, Jsonl(run.path / "metrics.jsonl"), len(sets.train)
    loss = _build_loss(job)
    step_fn = make_step(model, loss, state.optimizer, cfg.step, world)
    feed = batches(
        sets.train,
        partial(augment, cfg=cfg.augment),
        seed=cfg.seed,
        batch=cfg.batch,
        first_step=state.step,
        rank=world.rank,
        world=world.size,
        workers=cfg.data.workers,
    )
    model.train()
    with closing(feed), ConsoleTracker(job.console, total=lengths.total, done=state.step) as screen:
        while state.step < lengths.total:
            began = time.perf_counter()
            batch = next(feed)
            torch.manual_seed(seed_of(cfg.seed, 2, state.step, world.rank))  # dropout, too, follows from the step
            set_lr(state.optimizer, lr_factor(state.step, lengths.total, cfg.schedule, lengths.warmup))
            result = step_fn(batch.images.to(world.device), batch.masks.to(world.device))
            state.count(result.loss, result.confusion)
            state.seconds += time.perf_counter() - began
            last = state.step == lengths.total
            screen.advance(state.step)

            values: dict[str, float] = {}
            improved: list[str] = []
            if last or state.step % lengths.log == 0:
                values |= _training_values(job, state, batch)
            if last or state.step % lengths.validate == 0:
                with screen.doing("validate"):
                    val = score_dataset(
                        model, sets.val, cfg.evaluation, world=world, workers=cfg.data.workers, loss=loss
                    )
                values |= {"val/loss": val.loss, "val/miou": val.scores(cfg.evaluation).miou}
                improved = state.improved({"best_miou": values["val/miou"], "best_loss": -values["val/loss"]})
            if values and world.main:
                values = {"epoch": round(state.step * cfg.batch / samples, 4), **values}
                tracker.log(state.step, values)  # before any checkpoint: a resume cuts lines, it never misses one
                screen.log(state.step, values)
            if ends_epoch(state.step, cfg.batch, samples):
                state.confusion.zero_()

            asking = world.size == 1 or last or state.step % STOP_CHECK_STEPS == 0
            stopping = asking and world.any(stop.set)
            if world.main:
                _save(job, state, values, improved, ends=last or stopping)
            if stopping and not last:
                world.barrier()  # the checkpoint is on disk before anybody leaves
                run.log(f"stopped by signal {stop.number} at step {state.step}")
                return False
    return True


def _build_loss(job: Job) -> Loss:
    cfg, dataset = job.cfg, job.sets.train
    frequencies = None
    if needs_frequencies(cfg.losses):
        masks = (checked_sample(dataset, index).mask for index in range(len(dataset)))
        frequencies = class_frequencies(masks, len(dataset.classes))
    return build_loss(
        cfg.losses,
        dataset.classes,
        auxiliary=cfg.auxiliary_weight,
        frequencies=frequencies,
        device=job.world.device,
    )


def ends_epoch(step: int, batch: int, samples: int) -> bool:
    """True if an epoch's last sample is in the batch of this step (counted from 1)."""
    return step * batch // samples > (step - 1) * batch // samples


def _training_values(job: Job, state: TrainState, batch: Batch) -> dict[str, float]:
    """Loss since the last line, mIoU of this epoch so far, learning rates. The only wait for the device."""
    loss = (job.world.sum(state.loss_sum.clone()) / job.world.size / max(1, state.loss_steps)).item()
    groups = state.optimizer.param_groups
    if not math.isfinite(loss):
        raise InputError(
            f"the training loss is {loss} at step {state.step} (learning rate {groups[0]['lr']:.3g}; last batch: "
            f"{', '.join(batch.names)}). Try a lower optim.lr, a schedule.warmup, or step.clip=1. "
            f"The last good checkpoint in {job.cfg.out} is kept"
        )
    matrix: Tensor = job.world.sum(state.confusion.clone())
    state.loss_sum.zero_()
    state.loss_steps = 0
    return {
        "train/loss": loss,
        "train/miou": Scores.of(matrix, job.cfg.evaluation.absent).miou,
        **{f"lr/{group['name']}": group["lr"] for group in groups},
    }


def _save(job: Job, state: TrainState, values: dict[str, float], improved: list[str], *, ends: bool) -> None:
    """Publish what is due: best checkpoints, then the interval's, then `last` with the training state."""
    checkpoints, due = job.run.checkpoints, state.step % job.lengths.save == 0
    fill: Callable[[Path], None] = partial(_fill_bundle, job=job, state=state, values=values)

    def fill_with_state(folder: Path) -> None:
        fill(folder)
        state.write(folder)

    for name in improved:
        checkpoints.publish(name, fill)
    if due:
        checkpoints.publish_interval(f"step_{state.step:08d}", fill, newest=job.cfg.keep)
    if due or ends:
        checkpoints.publish("last", fill_with_state)
        write_csv(read_lines(job.run.path / "metrics.jsonl"), job.run.path / "metrics.csv")


def _fill_bundle(folder: Path, *, job: Job, state: TrainState, values: dict[str, float]) -> None:
    scores = {key: value if math.isfinite(value) else None for key, value in values.items() if key.startswith("val/")}
    config = BundleConfig(
        model=job.cfg.model.model_copy(update={"weights": "none"}),  # a user's path means nothing elsewhere
        channels=state.model.channels,
        classes=BundleClasses.of(job.sets.train.classes),
        normalization=state.model.normalization,
        resize=job.cfg.evaluation.resize,
        step=state.step,
        scores=scores,
        version=__version__,
    )
    save_bundle(folder, state.model, config)
