"""What a schedule can be told, and its curves. A curve is a function of progress, from 0 to 1 over the run."""

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from terrazzo.base import Config, Duration, InputError
from terrazzo.optim.optimizers import Role, Share

WARMUP_FACTOR = 0.1

Factor = Annotated[float, Field(gt=0, le=1)]
Momenta = tuple[Share, Share, Share]


class ScheduleOptions(Config):
    """What all schedules without a rise of their own can be told."""

    warmup: Duration | None = None
    """Raise the learning rate linearly over the first steps: {steps: 500} or {epochs: 1}; null for none."""
    warmup_factor: float = Field(WARMUP_FACTOR, ge=0, le=1)
    """Share of the learning rate at step 0 of the warm-up."""
    warmups: dict[Role, Duration] = Field(default_factory=dict)
    """Length of the warm-up of "encoder", "decoder" or "head", where it is another than `warmup`."""

    @model_validator(mode="after")
    def _warmup_is_on(self) -> "ScheduleOptions":
        if self.warmup is None and not self.warmups and self.warmup_factor != WARMUP_FACTOR:
            raise InputError(
                f"schedule: warmup_factor={self.warmup_factor} changes nothing without a warm-up; "
                "give warmup: {steps: 500} too"
            )
        return self


class Constant(ScheduleOptions):
    """The learning rate stays."""

    kind: Literal["constant"] = "constant"


class Linear(ScheduleOptions):
    """A straight line from the end of the warm-up to the end of training."""

    kind: Literal["linear"] = "linear"
    end_factor: float = Field(0.0, ge=0, le=1)
    """Share of the learning rate left at the end."""


class Cosine(ScheduleOptions):
    """Half a cosine from the end of the warm-up to the end of training."""

    kind: Literal["cosine"] = "cosine"
    end_factor: float = Field(0.0, ge=0, le=1)
    """Share of the learning rate left at the end."""


class Poly(ScheduleOptions):
    """(1 - progress) ** power from the end of the warm-up to the end of training."""

    kind: Literal["poly"] = "poly"
    power: PositiveFloat = 0.9
    """1 is a straight line; 0.9 is usual in segmentation."""
    end_factor: float = Field(0.0, ge=0, le=1)
    """Share of the learning rate left at the end."""


class PerEpoch(Config):
    """A factor taken once after every pass over the training set: `{per_epoch: 0.99}`."""

    per_epoch: Factor
    """Factor after each epoch."""


class PerStep(Config):
    """A factor taken after every optimizer step: `{per_step: 0.9999}`."""

    per_step: Factor
    """Factor after each step."""


def _per_what(value: object) -> object:
    if isinstance(value, int | float | str):
        raise InputError(f"{value} per what? Give {{per_epoch: {value}}} or {{per_step: {value}}}")
    return value


class Exponential(ScheduleOptions):
    """The learning rate times `gamma` again and again, from the end of the warm-up on."""

    kind: Literal["exponential"] = "exponential"
    gamma: Annotated[PerEpoch | PerStep, BeforeValidator(_per_what)]
    """{per_epoch: 0.99} or {per_step: 0.9999}. Per epoch the rate is a stair: it falls with the first batch that begins
    in a new epoch, and stays for that epoch."""


class AtEpochs(Config):
    """Points of the run in passes over the training set: `{epochs: [5, 10]}`."""

    epochs: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    """Passes over the training set, counted from the start; rising."""


class AtSteps(Config):
    """Points of the run in optimizer steps: `{steps: [60000, 80000]}`."""

    steps: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Optimizer steps, counted from the start; rising."""


def _of_what(value: object) -> object:
    if isinstance(value, list | tuple | int | float):
        raise InputError(f"{value} in what unit? Give {{epochs: {value}}} or {{steps: {value}}}")
    return value


class MultiStep(ScheduleOptions):
    """The learning rate times `gamma` at each milestone."""

    kind: Literal["multi_step"] = "multi_step"
    milestones: Annotated[AtEpochs | AtSteps, BeforeValidator(_of_what)]
    """{epochs: [5, 10]} or {steps: [60000, 80000]}, counted from the start of the run, warm-up included."""
    gamma: Factor = 0.1
    """Factor at each milestone."""

    @model_validator(mode="after")
    def _milestones_rise(self) -> "MultiStep":
        points = self.milestones.steps if isinstance(self.milestones, AtSteps) else self.milestones.epochs
        if any(a >= b for a, b in pairwise(points)):
            raise InputError(f"schedule.milestones {list(points)} must rise, each greater than the one before")
        return self


class OneCycle(Config):
    """Half a cosine up to the full learning rate and half a cosine down (Smith 2018; the curve of fastai's
    fit_one_cycle). `optim.lr` and `lr_factors` are the maxima."""

    kind: Literal["one_cycle"] = "one_cycle"
    pct_start: float = Field(0.25, gt=0, lt=1)
    """Share of the run in which the learning rate rises."""
    div: float = Field(25.0, ge=1)
    """It starts at the maximum divided by this."""
    final_div: float = Field(1e5, ge=1)
    """It would end at the maximum divided by this, one step after the last."""
    momenta: Momenta | None = None
    """Momentum (beta1 for Adam and AdamW) at the start, at the peak and at the end, along the same cosines:
    [0.95, 0.85, 0.95]; null leaves the optimizer's own."""


class FlatCos(Config):
    """The full learning rate, then half a cosine down (the curve of fastai's fit_flat_cos)."""

    kind: Literal["flat_cos"] = "flat_cos"
    pct_start: float = Field(0.75, gt=0, lt=1)
    """Share of the run that is flat."""
    final_div: float = Field(1e5, ge=1)
    """It would end at the learning rate divided by this, one step after the last."""
    momenta: Momenta | None = None
    """Momentum (beta1 for Adam and AdamW) at the start, where the fall begins and at the end, along cosines; null
    leaves the optimizer's own."""


def falling(left: float, end: float) -> float:
    """From 1 to `end` as `left` goes from 1 to 0."""
    return end + (1 - end) * left


def cosine(progress: float) -> float:
    """Half a cosine from 1 at progress 0 to 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def two_cosines(progress: float, turn: float, start: float, middle: float, end: float) -> float:
    """Half a cosine from `start` to `middle`, reached at progress `turn`, and half a cosine to `end` at progress 1."""
    if progress < turn:
        return middle + (start - middle) * cosine(progress / turn)
    return end + (middle - end) * cosine((progress - turn) / (1 - turn))
