"""`terrazzo replay`: run the step again whose loss was no number, and name the layer where it began."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import PIL.Image
import torch
from rich.console import Console
from torch import Tensor, nn

from terrazzo.base import Dataset, InputError
from terrazzo.commands.lengths import Lengths
from terrazzo.commands.sets import build_sets, own_sets
from terrazzo.commands.start import Job, build_loss_of, build_state, feed_from
from terrazzo.commands.train import NONFINITE, step_of
from terrazzo.config import load_config
from terrazzo.data.loader import Batch, seed_of
from terrazzo.engine.rundir import RunDir
from terrazzo.engine.state import TrainState
from terrazzo.engine.step import autocast
from terrazzo.engine.world import World
from terrazzo.files import replacing
from terrazzo.infer import draw
from terrazzo.losses import count


@dataclass
class Replayed:
    """What the step showed when it was run again."""

    step: int
    images: tuple[str, ...]
    loss: float
    weights_finite: bool
    """Before the step."""
    first_layer: str | None = None
    """The first module whose output was not finite."""
    bad_gradients: list[str] = field(default_factory=list)
    """Parameters whose gradient was not finite."""
    folder: Path = Path()
    """Where the batch's images and masks were written as the network saw them."""


def replay(
    run: str | Path,
    *,
    step: int | None = None,
    network: nn.Module | None = None,
    train_set: Dataset | None = None,
    val_set: Dataset | None = None,
) -> Replayed:
    """Go from the last checkpoint to a step without writing a checkpoint, then look at that step closely.

    Args:
        run: a run folder.
        step: number of the step, counted from 1; default: the one that stopped the run.
        network: the module of a run whose network was passed from Python.
        train_set: the dataset of a run whose data was passed from Python, with `val_set`.

    Raises:
        InputError: there is no such run or step, or it was not stopped by a loss.
    """
    folder = Path(run)
    config = folder / "config.yaml"
    if not config.is_file():
        raise InputError(f"{folder} is no run folder: it has no config.yaml")
    cfg = load_config(config).model_copy(update={"out": folder})
    step = step or _stopped_at(folder)
    sets = own_sets(cfg, train_set, val_set, None) or build_sets(cfg)
    job = Job(cfg, World.join(cfg.device), RunDir(folder), Console(stderr=True), sets, Lengths.of(cfg, len(sets.train)))
    state, _ = build_state(job, job.run.resumable(), network)
    if state.step >= step:
        raise InputError(f"{folder}: the last checkpoint is of step {state.step}; only later steps can be replayed")
    loss_fn = build_loss_of(job)
    step_fn = step_of(job, state, loss_fn)
    state.model.train()
    with closing(feed_from(job, state.step)) as feed:
        while True:
            batch = next(feed)
            torch.manual_seed(seed_of(cfg.seed, 2, state.step, job.world.rank))
            if job.lengths.frozen is not None and state.step == job.lengths.frozen.total:
                step_fn = step_of(job, state, loss_fn)
            job.lengths.set_rates(state.optimizer, state.step)
            if state.step + 1 == step:
                break
            result = step_fn(batch.images.to(job.world.device), batch.masks.to(job.world.device))
            state.count(result.loss, result.confusion)
        found = _look(job, state, batch)
        found.folder = _write_batch(job, batch, step)
    return found


def _stopped_at(folder: Path) -> int:
    try:
        return int(json.loads((folder / NONFINITE).read_text(encoding="utf-8"))["step"])
    except FileNotFoundError:
        raise InputError(f"{folder} was not stopped by its loss (no {NONFINITE}); name a step with --step N") from None


def _look(job: Job, state: TrainState, batch: Batch) -> Replayed:
    """One forward and backward in the run's precision, with an eye on every module."""
    images, masks = batch.images.to(job.world.device), batch.masks.to(job.world.device)
    model, loss_fn = state.model, build_loss_of(job)
    finite = all(bool(p.isfinite().all()) for p in model.parameters())
    state.optimizer.zero_grad(set_to_none=True)
    with _watched(model) as first:
        with autocast(job.cfg.step.precision, job.world.device):
            output = model(images)
        loss = loss_fn(output, masks, count(masks))
        torch.autograd.backward(loss)
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
    return Replayed(state.step + 1, batch.names, loss.item(), finite, first[0] if first else None, bad)


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Names of the modules whose output was not finite, in the order they ran."""
    seen: list[str] = []

    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not bool(output.isfinite().all()):
                seen.append(name)

        return look

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if not list(m.children())]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _write_batch(job: Job, batch: Batch, step: int) -> Path:
    folder = job.run.path / "replay" / f"step_{step:08d}"
    for place, name in enumerate(batch.names):
        stem = f"{place:02d}-{name.replace('/', '_')}"
        image = PIL.Image.fromarray(batch.images[place].permute(1, 2, 0).numpy())
        mask = draw.palette_image(batch.masks[place].numpy(), job.sets.train.classes)
        for end, picture in (("image", image), ("mask", mask)):
            with replacing(folder / f"{stem}-{end}.png") as draft:
                picture.save(draft)
    return folder
