"""How a search chooses its trials and gives up on bad ones: Optuna's samplers and pruners as settings."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, assert_never

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic.functional_validators import BeforeValidator

from terrazzo.base import Config, Duration, Epochs, InputError, Steps, to_steps
from terrazzo.sweep.space import Axis

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

FOLLOWED = ("val/miou", "val/loss", "train/miou", "train/loss")
"""Objectives that are known while a run trains: keys of metrics.jsonl."""

SCORED = re.compile(r"(?P<split>val|test)/(?P<score>[a-z0-9_]+)(/(?P<name>.+))?")
"""Objectives that are known when a run has ended: a score of a split, of all classes or of one of them."""

EPOCH_PARTS = 100
"""Optuna counts in whole numbers; where rungs are given in epochs it counts hundredths of one."""


class Constraints(Config):
    """Upper bounds that a trial's network must keep; measured before it is trained, on one image of its data."""

    latency_ms: PositiveFloat | None = None
    """Milliseconds for one image, the median of some passes on the trial's own device."""
    parameters_m: PositiveFloat | None = None
    """Million parameters."""
    gmacs: PositiveFloat | None = None
    """Thousand million multiplications with additions, of convolutions and matrix products."""
    peak_memory_mib: PositiveFloat | None = None
    """MiB that a forward pass holds beside network and image."""

    @property
    def any(self) -> bool:
        """Whether there is a bound at all."""
        return self != Constraints()

    def broken_by(self, costs: Mapping[str, float]) -> dict[str, float]:
        """By which share of itself each bound is broken, {name: measured / bound - 1}: above 0 where it is."""
        return {name: value / getattr(self, name) - 1 for name, value in costs.items()}


class SearchOptions(Config):
    """What all kinds of search share."""

    trials: PositiveInt
    """Points that are tried in the end, however many processes work on it; it may be raised later."""
    space: Annotated[dict[str, Axis], Field(min_length=1)]
    """Axes, by dotted key (or, for named values, by any name): a list of values, or {low, high, log, step, int}."""
    objective: str = "val/miou"
    """What is made best: val/miou, val/loss, train/miou, train/loss; or a score of the ended run such as test/miou or
    val/iou/CLASS."""
    direction: Literal["min", "max"] | None = None
    """Whether less or more is better; null: less of a loss, more of a score."""
    take: Literal["best", "last"] = "best"
    """Which validation of a run counts as its value."""
    checkpoint: Literal["best_miou", "last", "best_loss"] = "best_miou"
    """Whose scores count, for an objective that is a score of the ended run."""
    constraints: Constraints = Constraints()
    """Bounds of the network; a trial that breaks one is not trained."""
    storage: str | None = None
    """URL of a database for Optuna ($NAME in it is taken from the environment); null: search.journal in the folder."""
    seed: NonNegativeInt = 0
    """Of the sampler; trial k's random choices depend on this and k alone."""

    @model_validator(mode="after")
    def _objective_is_one(self) -> Self:
        followed, scored = self.objective in FOLLOWED, SCORED.fullmatch(self.objective)
        if not followed and scored is None:
            raise ValueError(
                f"objective {self.objective!r} is none of {', '.join(FOLLOWED)} or, of the ended run, test/miou, "
                "test/accuracy, test/iou/CLASS, val/dice/CLASS and the like"
            )
        if not followed and self.take != "best":
            raise ValueError(
                f"take={self.take} changes nothing: {self.objective} is known once, when the run has ended"
            )
        if followed and self.checkpoint != "best_miou":
            raise ValueError(f"checkpoint={self.checkpoint} changes nothing: {self.objective} is read off the curves")
        if self.storage is not None and "://" not in self.storage:
            raise ValueError(
                f"storage {self.storage!r} is no URL such as sqlite:///search.db or "
                "postgresql://USER:$PASSWORD@HOST/NAME; leave it out for a journal in the sweep's folder"
            )
        return self

    @property
    def maximize(self) -> bool:
        """Whether more is better."""
        return self.direction == "max" or (self.direction is None and not self.objective.endswith("loss"))

    def said(self, at: int) -> str:
        """A place on the way of a run, as Optuna counts, in words."""
        return f"step {at}"


class RandomSampler(Config):
    """Every point of the space is equally likely."""

    kind: Literal["random"] = "random"


class TpeSampler(Config):
    """Points near good ones (tree-structured Parzen estimator; Bergstra et al., 2011)."""

    kind: Literal["tpe"] = "tpe"
    startup_trials: NonNegativeInt = 10
    """So many trials are random before it learns from them."""
    candidates: PositiveInt = 24
    """Random points of which the most promising one is tried."""
    liar: bool = True
    """Points that are being tried count as bad, so that several processes do not try the same one."""


class RandomSearch(SearchOptions):
    """Every point of the space is equally likely; every run is trained to its end."""

    kind: Literal["random"] = "random"


class TpeSearch(TpeSampler, SearchOptions):
    """Points near good ones (tree-structured Parzen estimator; Bergstra et al., 2011); every run goes to its end."""

    kind: Literal["tpe"] = "tpe"


class Rungs(SearchOptions):
    """Runs are compared when they reach a rung, and most end there."""

    sampler: Annotated[RandomSampler | TpeSampler, Field(discriminator="kind")] = TpeSampler()
    """How points are chosen."""
    first_rung: Duration = Epochs(epochs=1)
    """Training after which runs are first compared; the next rungs are `factor`, `factor`**2, ... times as far."""
    least: NonNegativeInt = 0
    """As many runs as this end at a rung before any goes on from there (Optuna's bootstrap_count)."""

    def said(self, at: int) -> str:
        return f"epoch {at / EPOCH_PARTS:g}" if isinstance(self.first_rung, Epochs) else f"step {at}"

    @model_validator(mode="after")
    def _compared_on_the_way(self) -> Self:
        if self.objective not in FOLLOWED:
            raise ValueError(
                f"objective {self.objective!r} is known only when a run has ended, and rungs compare runs on the way: "
                f"give one of {', '.join(FOLLOWED)}, or kind: tpe"
            )
        if isinstance(self.first_rung, Epochs) and self.first_rung.epochs * EPOCH_PARTS < 1:
            raise ValueError(f"first_rung is {self.first_rung.epochs:g} epochs; the shortest is {1 / EPOCH_PARTS:g}")
        return self


class HalvingSearch(Rungs):
    """Asynchronous successive halving (Li et al., 2020): of the runs at a rung, the best 1 / `factor` go on."""

    kind: Literal["halving"] = "halving"
    factor: Annotated[int, Field(ge=2)] = 4
    """One run in so many goes on from a rung, and the next rung is so many times as far."""
    skipped_rungs: NonNegativeInt = 0
    """Rungs at which nobody is stopped yet."""


class HyperbandSearch(Rungs):
    """Hyperband (Li et al., 2018): several successive halvings side by side, of which each skips one rung more."""

    kind: Literal["hyperband"] = "hyperband"
    factor: Annotated[int, Field(ge=2)] = 3
    """One run in so many goes on from a rung, and the next rung is so many times as far."""


def _no_grid(tree: Any) -> Any:
    if isinstance(tree, dict) and tree.get("kind") == "grid":
        raise ValueError(
            "kind: grid is no search: every combination of some values is `sweep: {grid: {KEY: [VALUES]}}`, in which "
            "none is left out or run twice"
        )
    return tree


SearchConfig = Annotated[
    RandomSearch | TpeSearch | HalvingSearch | HyperbandSearch, Field(discriminator="kind"), BeforeValidator(_no_grid)
]


def import_optuna() -> Any:
    """Optuna, which the searches stand on; it says no more than warnings from then on.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise InputError("sweep.search needs Optuna: pip install 'terrazzo[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def build_sampler(search: SearchConfig, number: int) -> "BaseSampler":
    """What chooses the point of one trial: its chance depends on the search's seed and the trial's number only."""
    import numpy as np

    samplers = import_optuna().samplers
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    chosen = search.sampler if isinstance(search, HalvingSearch | HyperbandSearch) else search
    if isinstance(chosen, TpeSampler):
        sampler: BaseSampler = samplers.TPESampler(
            n_startup_trials=chosen.startup_trials,
            n_ei_candidates=chosen.candidates,
            constant_liar=chosen.liar,
            seed=seed,
        )
        return sampler
    uniform: BaseSampler = samplers.RandomSampler(seed=seed)
    return uniform


def build_pruner(search: SearchConfig, length: Duration, samples: int, batch: int) -> "BasePruner":
    """What says that a trial ends early; `length` is that of a run over so many training images.

    Raises:
        InputError: runs end before they reach the first rung.
    """
    pruners = import_optuna().pruners
    pruner: BasePruner
    match search:
        case RandomSearch() | TpeSearch():
            pruner = pruners.NopPruner()
        case HalvingSearch() | HyperbandSearch():
            first, whole = rung(search), whole_length(search, length, samples, batch)
            if first > whole:
                raise InputError(
                    f"sweep.search.first_rung is {_said(search.first_rung)}, and runs end after {_said(length)}: "
                    "nobody would be compared; give an earlier rung or longer runs"
                )
            if isinstance(search, HalvingSearch):
                pruner = pruners.SuccessiveHalvingPruner(first, search.factor, search.skipped_rungs, search.least)
            else:
                pruner = pruners.HyperbandPruner(first, whole, search.factor, search.least)
        case _:
            assert_never(search)
    return pruner


def rung(search: HalvingSearch | HyperbandSearch) -> int:
    """The first rung as Optuna counts."""
    match search.first_rung:
        case Steps(steps=steps):
            return steps
        case Epochs(epochs=epochs):
            return round(epochs * EPOCH_PARTS)


def whole_length(search: HalvingSearch | HyperbandSearch, length: Duration, samples: int, batch: int) -> int:
    """The length of a run as Optuna counts."""
    if isinstance(search.first_rung, Steps):
        return to_steps(length, samples, batch)
    epochs = length.epochs if isinstance(length, Epochs) else length.steps * batch / samples
    return int(epochs * EPOCH_PARTS + 1e-6)


def how_far(search: SearchConfig, line: dict[str, Any]) -> int:
    """Where a line of metrics.jsonl stands, as Optuna counts: steps, or hundredths of an epoch if rungs are epochs."""
    if isinstance(search, HalvingSearch | HyperbandSearch) and isinstance(search.first_rung, Epochs):
        return int(line["epoch"] * EPOCH_PARTS + 1e-6)
    return int(line["step"])


def _said(duration: Duration) -> str:
    return f"{duration.steps} steps" if isinstance(duration, Steps) else f"{duration.epochs:g} epochs"
