"""`terrazzo train`: the training loop, from a recipe to a run folder with checkpoints and a report."""

import json
import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import Tensor, nn

from terrazzo import __version__
from terrazzo.adapt import Staged, added, open_stage
from terrazzo.base import Dataset, InputError
from terrazzo.bundle import BundleClasses, BundleConfig, save_bundle
from terrazzo.commands.check import check_labels
from terrazzo.commands.evaluate import score_dataset
from terrazzo.commands.lengths import Lengths
from terrazzo.commands.report import report_run
from terrazzo.commands.sets import build_sets, own_sets
from terrazzo.commands.start import Job, build_loss_of, build_state, feed_from, go_on, start_folder
from terrazzo.commands.tracking import Tracking, final_scores, tracking
from terrazzo.config import RunConfig, config_of, dump_yaml, load_config
from terrazzo.data.loader import seed_of
from terrazzo.engine.parallel import at_hand, check_shares
from terrazzo.engine.rundir import RunDir
from terrazzo.engine.state import TrainState
from terrazzo.engine.step import Step, make_step
from terrazzo.engine.stop import StopFlag
from terrazzo.engine.watch import Watch
from terrazzo.engine.world import World
from terrazzo.losses import Loss
from terrazzo.metrics import Scores, absent_under
from terrazzo.models import self_contained
from terrazzo.track import check_ready
from terrazzo.track.console import ConsoleTracker
from terrazzo.track.jsonl import Jsonl, read_lines, write_csv
from terrazzo.track.tracker import Validation

NONFINITE = "nonfinite.json"
"""File of a run folder: the step whose loss was no number, and the images it read."""

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
    world, run = World.join(cfg.device, cfg.parallel.timeout), RunDir(cfg.out)
    console = Console(stderr=True, quiet=not world.main)
    aside = run.move_aside() if fresh and world.main else None
    with Watch(world), run if world.main else nullcontext(), StopFlag() as stop:
        check_shares(cfg.batch, cfg.step.accumulate, world)
        world.barrier()  # nobody looks into the folder before the main process holds it
        world.main_does(partial(check_ready, cfg.trackers))
        last = run.resumable()
        if last is not None:
            saved = run.saved_config()  # of an older terrazzo perhaps, which had fewer keys
            filled = None if saved is None else plain(config_of(saved, source=str(run.path / "config.yaml")))
            run.check_same_run(filled, plain(cfg))
        remarks = check_labels(cfg) if last is None and passed is None else []
        sets = passed or build_sets(cfg)
        job = Job(cfg, world, run, console, sets, Lengths.of(cfg, len(sets.train)))
        for remark in remarks:
            job.say(remark)
        if aside is not None:
            job.say(f"moved the old run to {aside}")
        state, built = build_state(job, last, model)
        if last is not None:
            go_on(job, state)
        elif world.main:
            start_folder(job, state, built)
        world.barrier()
        over = state.step >= job.lengths.total or state.stopped_early
        with tracking(job, state) as trackers:
            stopped_by = None if over else _loop(job, state, stop, trackers)
            if stopped_by is None and world.main and not (cfg.out / "report.html").exists():
                report_run(cfg.out, cfg, sets.score, sets.score_split, world.alone(), network=model)
            ended = None if stopped_by is not None else final_scores(cfg.out, sets.score_split, state.step)
            trackers.close("finished" if stopped_by is None else "stopped", ended)
        if stopped_by is not None:
            job.say(f"stopped at step {state.step}; the same command goes on from there")
        elif world.main:
            early = ", stopped early" if state.stopped_early else ""
            job.say(f"finished: {state.step} steps{early}; report: {cfg.out / 'report.html'}")
        return Run(cfg.out, state.step, finished=stopped_by is None, stopped_by=stopped_by)


def _loop(job: Job, state: TrainState, stop: StopFlag, trackers: Tracking) -> int | None:
    """Train from state.step to the end; the number of the signal that stopped it before, on every rank the same."""
    cfg, world, run, sets, lengths = job.cfg, job.world, job.run, job.sets, job.lengths
    model, tracker, samples = state.model, Jsonl(run.path / "metrics.jsonl"), len(sets.train)
    loss = build_loss_of(job)
    step_fn = step_of(job, state, loss)
    feed = feed_from(job, state.step)
    recent: list[tuple[int, tuple[str, ...], Tensor]] = []
    model.train()
    with closing(feed), ConsoleTracker(job.console, total=lengths.total, done=state.step) as screen:
        while state.step < lengths.total and not state.stopped_early:
            began = time.perf_counter()
            batch = next(feed)
            torch.manual_seed(seed_of(cfg.seed, 2, state.step, world.rank))  # dropout, too, follows from the step
            if lengths.frozen is not None and state.step == lengths.frozen.total:
                step_fn = step_of(job, state, loss)
                job.say(f"step {state.step}: from here on the encoder learns too")
            lengths.set_rates(state.optimizer, state.step)
            result = step_fn(batch.images.to(world.device), batch.masks.to(world.device))
            state.count(result.loss, result.confusion)
            recent.append((state.step, batch.names, result.loss))
            state.seconds += time.perf_counter() - began
            last = state.step == lengths.total
            screen.advance(state.step)

            values: dict[str, float] = {}
            improved: list[str] = []
            found: Validation | None = None
            validating = last or state.step % lengths.validate == 0
            if validating or state.step % lengths.log == 0 or state.step % lengths.save == 0:
                check_finite(job, state, recent)  # before anything is written
            if validating or state.step % lengths.log == 0:
                values |= _training_values(job, state)
            if validating:
                world.share(state.shown.buffers())  # each rank has moved BatchNorm's statistics by its own part
                with screen.doing("validate"), at_hand(state.shown, cfg.parallel, world):
                    val = score_dataset(
                        state.shown, sets.val, cfg.evaluation, world=world, workers=cfg.data.workers, loss=loss
                    )
                    found = trackers.validation(state.shown, val)
                values |= {"val/loss": val.loss, "val/miou": val.tally.scores().miou}
                improved = state.improved({"best_miou": values["val/miou"], "best_loss": -values["val/loss"]})
                if cfg.early_stop is not None:
                    waited = state.waits_too_long(values, cfg.early_stop)
                    state.stopped_early = world.any(waited and world.main)  # decided once, for all ranks
                    last = last or state.stopped_early
            if values and world.main:
                values = {"epoch": round(state.step * cfg.batch / samples, 4), **values}
                tracker.log(state.step, values)  # before any checkpoint: a resume cuts lines, it never misses one
                trackers.log(state.step, values, found)
                screen.log(state.step, values)
            if ends_epoch(state.step, cfg.batch, samples):
                state.confusion.zero_()

            asking = world.size == 1 or last or state.step % STOP_CHECK_STEPS == 0
            told = world.most(stop.number or 0) if asking else 0
            if told and recent:
                check_finite(job, state, recent)
            if last or told or improved or state.step % lengths.save == 0:
                state.gather(world)
            if world.main:
                _save(job, state, values, improved, ends=last or told > 0)
            if told and not last:
                world.barrier()  # the checkpoint is on disk before anybody leaves
                if world.main:
                    run.log(f"stopped by signal {told} at step {state.step}")
                return told
    return None


def step_of(job: Job, state: TrainState, loss: Loss) -> Step:
    """The step function of the stage that the run is in; what learns in it is set before ranks compare notes."""
    if isinstance(job.cfg.adapt, Staged):
        first = job.lengths.in_first_stage(state.step)
        open_stage(state.model, job.cfg.adapt, state.learnable, first=first)
    return make_step(state.model, loss, state.optimizer, job.cfg.step, job.world, state.scaler)


def ends_epoch(step: int, batch: int, samples: int) -> bool:
    """True if an epoch's last sample is in the batch of this step (counted from 1)."""
    return step * batch // samples > (step - 1) * batch // samples


def plain(config: RunConfig) -> dict[str, Any]:
    """A recipe as the tree of its YAML file."""
    tree: dict[str, Any] = yaml.safe_load(dump_yaml(config))
    return tree


def check_finite(job: Job, state: TrainState, recent: list[tuple[int, tuple[str, ...], Tensor]]) -> None:
    """Stop at a loss that is no number, and keep what `terrazzo replay` needs to find out why. Waits for the device.

    Raises:
        InputError: it names the step, the images of its batch, and what to do.
    """
    losses = torch.stack([loss for _, _, loss in recent]).tolist()
    bad = [
        (step, names, loss) for (step, names, _), loss in zip(recent, losses, strict=True) if not math.isfinite(loss)
    ]
    recent.clear()
    if not bad:
        return
    step, names, loss = bad[0]
    dump = {"step": step, "loss": str(loss), "images": list(names), "rank": job.world.rank}
    job.run.write(NONFINITE, json.dumps(dump, indent=2, ensure_ascii=False) + "\n")
    rate = state.optimizer.param_groups[0]["lr"]
    raise InputError(
        f"the training loss is {loss} at step {step} (learning rate {rate:.3g}; images: {', '.join(names)}). "
        "Try a lower optim.lr, a schedule.warmup, or step.clip=1. The last good checkpoint is kept; "
        f"`terrazzo replay {job.cfg.out}` runs the step again and names the layer where it began"
    )


def _training_values(job: Job, state: TrainState) -> dict[str, float]:
    """Loss since the last line, mIoU of this epoch so far, learning rates."""
    loss = (job.world.sum(state.loss_sum.clone()).sum() / job.world.size / max(1, state.loss_steps)).item()
    groups = state.optimizer.param_groups
    matrix: Tensor = job.world.sum(state.confusion.clone())
    evaluation = job.cfg.evaluation
    state.loss_sum.zero_()
    state.loss_steps = 0
    return {
        "train/loss": loss,
        "train/miou": Scores.of(matrix, absent_under(evaluation.protocol, evaluation.absent)).miou,
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
        model=self_contained(job.cfg.model, state.model),  # a user's path means nothing elsewhere
        adapt=added(job.cfg.adapt),
        channels=state.model.channels,
        classes=BundleClasses.of(job.sets.train.classes),
        normalization=state.model.normalization,
        resize=job.cfg.evaluation.resize,
        window=job.cfg.evaluation.window,
        tta=job.cfg.evaluation.tta,
        step=state.step,
        scores=scores,
        version=__version__,
    )
    save_bundle(folder, state.shown, config, state=state.tensors())
