"""Whole parts of the network that learn or do not."""

from typing import Literal

from pydantic import PositiveFloat

from terrazzo.base import Config, Duration, Epochs
from terrazzo.optim import Constant, ScheduleConfig


class Full(Config):
    """Everything learns."""

    kind: Literal["full"] = "full"
    batchnorm: Literal["frozen", "running"] = "running"
    """BatchNorm's statistics in the encoder: moved on by the new images, or kept and used as they are, steadier
    with small batches (MMSegmentation's norm_eval); its factors and shifts learn either way."""


class Frozen(Config):
    """The encoder does not learn, or all but the classifier does not."""

    kind: Literal["frozen"] = "frozen"
    train: Literal["decoder", "classifier"] = "decoder"
    """What learns: the decoder with the classifier, or the classifier alone."""
    batchnorm: Literal["frozen", "running"] = "frozen"
    """BatchNorm's statistics in the frozen part: kept, or moved on by the new images."""


class Staged(Config):
    """The encoder is frozen for a while, then everything learns under the recipe's own optimiser and schedule.

    The recipe's schedule begins with the second stage; the optimizer keeps what it knows of the decoder.
    """

    kind: Literal["staged"] = "staged"
    frozen: Duration = Epochs(epochs=1)
    """Length of the first stage, a part of the run's."""
    lr: PositiveFloat | None = None
    """Learning rate of the first stage, for all that learns in it; null: optim's, with its factors."""
    schedule: ScheduleConfig = Constant()
    """Learning rate over the first stage."""
    batchnorm: Literal["frozen", "running"] = "frozen"
    """BatchNorm's statistics in the encoder while it is frozen: kept, or moved on by the new images."""
