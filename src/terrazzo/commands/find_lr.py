"""`terrazzo find-lr`: the loss over a learning rate that rises from step to step (the range test of Smith 2017)."""

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from terrazzo.adapt import Staged
from terrazzo.base import Dataset, InputError
from terrazzo.commands.lengths import Lengths
from terrazzo.commands.sets import build_sets, own_sets
from terrazzo.commands.start import Job, build_loss_of, build_state, feed_from
from terrazzo.commands.train import step_of
from terrazzo.config import RunConfig
from terrazzo.data.loader import seed_of
from terrazzo.engine.rundir import RunDir
from terrazzo.engine.state import TrainState
from terrazzo.engine.world import World
from terrazzo.files import write_text
from terrazzo.report.charts import write_rate_test
from terrazzo.track.jsonl import write_csv

SMOOTHING = 0.9
"""Share of the running mean of losses that is kept in a step."""
DIVERGED = 4
"""The test ends when the running mean is this many times the least so far."""
WARM = 0.1
"""Share of the steps at the start in which no slope is believed."""


@dataclass(frozen=True)
class RateTest:
    """Learning rates that were tried, and the losses of their steps."""

    rates: list[float]
    losses: list[float]
    smooth: list[float]
    """Running mean of the losses, corrected for its start."""
    steepest: float
    """Where the running mean falls fastest over the logarithm of the rate: a usual choice for the learning rate."""
    least: float
    """Where the running mean is least; a tenth of it is the other usual choice."""
    setting: str
    """The key of the recipe that was tried: optim.lr, or adapt.lr of a first stage that has a rate of its own."""


def find_lr(
    config: RunConfig,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    out: Path | None = None,
    model: nn.Module | None = None,
    train_set: Dataset | None = None,
    val_set: Dataset | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RateTest:
    """Train `steps` steps of a recipe while `optim.lr` rises evenly in its logarithm; groups keep their factors.

    Nothing of the run is kept. `out` is a folder for rates.csv, rates.json and rates.png.

    Raises:
        InputError: the range is empty, or the loss diverged before anything could be seen.
    """
    if not 0 < low < high or steps < 10:
        raise InputError(
            f"find-lr: from {low:g} to {high:g} in {steps} steps; give 0 < low < high and 10 steps or more"
        )
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out is a folder for rates.png, rates.csv and rates.json")
    sets = own_sets(config, train_set, val_set, None) or build_sets(config)
    rates: list[float] = []
    losses: list[float] = []
    smooth: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        cfg = config.model_copy(update={"out": Path(scratch)})
        world = World.join(cfg.device)
        job = Job(cfg, world, RunDir(cfg.out), Console(stderr=True), sets, Lengths.of(cfg, len(sets.train)))
        state, _ = build_state(job, None, model)
        if isinstance(cfg.adapt, Staged):
            job.say(
                f"adapt.kind=staged: this tests the first stage, with the encoder frozen: {_setting(cfg)}. For the "
                "second, optim.lr, type 'adapt={kind: full}' behind the recipe"
            )
        mean = 0.0
        for step, (rate, loss) in enumerate(_rising(job, state, low, high, steps)):
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            corrected = mean / (1 - SMOOTHING ** (step + 1))
            if not math.isfinite(loss) or (smooth and corrected > DIVERGED * min(smooth)):
                break
            rates.append(rate)
            losses.append(loss)
            smooth.append(corrected)
            if progress is not None:
                progress(step + 1, steps)
    found = judge(rates, losses, smooth, steps, _setting(config))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(
            [{"lr": r, "loss": x, "smooth": s} for r, x, s in zip(rates, losses, smooth, strict=True)],
            out / "rates.csv",
        )
        write_text(out / "rates.json", json.dumps(asdict(found), indent=2) + "\n")
        write_rate_test(out / "rates.png", rates, losses, smooth, found.steepest)
    return found


def _setting(cfg: RunConfig) -> str:
    return "adapt.lr" if isinstance(cfg.adapt, Staged) and cfg.adapt.lr is not None else "optim.lr"


def _rising(job: Job, state: TrainState, low: float, high: float, steps: int) -> Iterator[tuple[float, float]]:
    """(learning rate, loss) of every step."""
    cfg, world = job.cfg, job.world
    same = _setting(cfg) == "adapt.lr"  # which is the same for all that learns in that stage
    step_fn = step_of(job, state, build_loss_of(job))
    state.model.train()
    with closing(feed_from(job, 0)) as feed:
        for step in range(steps):
            batch = next(feed)
            rate = low * (high / low) ** (step / (steps - 1))
            torch.manual_seed(seed_of(cfg.seed, 2, step, world.rank))
            for group in state.optimizer.param_groups:
                group["lr"] = rate if same else group["base_lr"] / cfg.optim.lr * rate
            yield rate, step_fn(batch.images.to(world.device), batch.masks.to(world.device)).loss.item()


def judge(
    rates: list[float], losses: list[float], smooth: list[float], steps: int, setting: str = "optim.lr"
) -> RateTest:
    """Where the running mean is steepest and where it is least.

    Raises:
        InputError: it never fell.
    """
    first = max(1, int(WARM * steps))
    if len(rates) < first + 3:
        raise InputError(
            f"find-lr: the loss diverged after {len(rates)} steps, at a learning rate of {max(rates, default=0):g}; "
            "begin lower (--low)"
        )
    place = min(range(first, len(smooth)), key=lambda at: smooth[at])
    slopes = {
        at: (smooth[at + 1] - smooth[at - 1]) / math.log(rates[at + 1] / rates[at - 1])
        for at in range(first, len(smooth) - 1)
        if at <= place
    }
    steepest = min(slopes, key=lambda at: slopes[at], default=None)
    if steepest is None or slopes[steepest] >= 0:
        raise InputError("find-lr: the loss did not fall at any learning rate; give more --steps, or another range")
    return RateTest(rates, losses, smooth, rates[steepest], rates[place], setting)
