"""What a search may choose from: axes with their values, and how Optuna names them."""

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic.functional_validators import AfterValidator

from terrazzo.base import Config

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Label = None | bool | int | float | str
"""How a value is called in a study: itself if it is one of these, else the name or the text of it."""


class Range(Config):
    """Any number between two."""

    low: float
    """Least value, itself included."""
    high: float
    """Greatest value, itself included."""
    log: bool = False
    """Every factor is equally likely, not every difference: for learning rates and the like."""
    step: float | None = None
    """Only low, low + step, low + 2 step, ...; null: any."""
    whole: bool = Field(default=False, alias="int")
    """Whole numbers only."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low={self.low:g}, high={self.high:g}: give two numbers, the smaller one as low")
        if self.log and self.low <= 0:
            raise ValueError(f"log=true and low={self.low:g}: a factor needs numbers above 0")
        if self.log and self.step is not None:
            raise ValueError(f"log=true and step={self.step:g} contradict each other; leave one of the two out")
        if self.step is not None:
            parts = (self.high - self.low) / self.step if self.step > 0 else 0.0
            if parts < 0.5 or abs(parts - round(parts)) > 1e-6:
                raise ValueError(f"step={self.step:g} does not lead from low={self.low:g} to high={self.high:g}")
        if self.whole and any(number % 1 for number in (self.low, self.high, self.step or 1)):
            raise ValueError("int=true takes whole numbers as low, high and step")
        return self


def _choices(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("an axis without values leaves nothing to run; list at least one")
    labels = [_label(value) for value in values]
    if twice := [label for n, label in enumerate(labels) if label in labels[:n]]:
        raise ValueError(f"{twice[0]!r} stands twice among the values")
    return values


def _named(values: dict[str, Any]) -> dict[str, Any]:
    if not values:
        raise ValueError("an axis without values leaves nothing to run; list at least one")
    if wrong := [name for name, keys in values.items() if not isinstance(keys, dict)]:
        raise ValueError(
            f"{wrong[0]} is {values[wrong[0]]!r}; a named value is a mapping of keys laid over the recipe "
            "({optim.lr: 0.1}), and a range has low and high"
        )
    return values


def _which(value: object) -> str:
    if isinstance(value, Range) or (isinstance(value, Mapping) and ("low" in value or "high" in value)):
        return "Range"
    return "named" if isinstance(value, Mapping) else "choices"


Choices = Annotated[tuple[Any, ...], AfterValidator(_choices)]
Named = Annotated[dict[str, Any], AfterValidator(_named)]
Axis = Annotated[
    Annotated[Range, Tag("Range")] | Annotated[Choices, Tag("choices")] | Annotated[Named, Tag("named")],
    Discriminator(_which),
]
"""A list of values, a range of numbers, or named values, each a mapping of keys laid over the recipe."""


def labels(axis: Any) -> tuple[Label, ...]:
    """The values of an axis as a study names them; of a range there are none."""
    if isinstance(axis, Range):
        return ()
    return tuple(axis) if isinstance(axis, dict) else tuple(_label(value) for value in axis)


def value_of(axis: Any, label: Label) -> Any:
    """What a label of an axis stands for: a number, a value of the list, or the mapping of that name."""
    if isinstance(axis, Range):
        return label
    values = [*axis.values()] if isinstance(axis, dict) else axis
    return values[labels(axis).index(label)]


def overlays(space: Mapping[str, Any], values: Mapping[str, Label]) -> list[dict[str, Any]]:
    """The keys that a point lays over the base, an axis after the other."""
    laid = []
    for name, label in values.items():
        axis, value = space[name], value_of(space[name], label)
        laid.append(value if isinstance(axis, dict) else {name: value})
    return laid


def said(axis: Any) -> str:
    """An axis in a few words, for people."""
    if not isinstance(axis, Range):
        return ", ".join(str(label) for label in labels(axis))
    how = [word for word, is_so in (("log", axis.log), ("whole", axis.whole)) if is_so]
    how += [] if axis.step is None else [f"step {axis.step:g}"]
    return f"{axis.low:g} to {axis.high:g}" + (f" ({', '.join(how)})" if how else "")


def distribution(axis: Any) -> "BaseDistribution":
    """An axis in Optuna's terms."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(axis, Range):
        return CategoricalDistribution(labels(axis))
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def suggest(trial: "Trial", space: Mapping[str, Any]) -> dict[str, Label]:
    """One point of a space: {axis: label}. An axis that the trial has a value of keeps it."""
    return {name: _suggest(trial, name, axis) for name, axis in space.items()}


def _suggest(trial: "Trial", name: str, axis: Any) -> Label:
    if not isinstance(axis, Range):
        chosen: Label = trial.suggest_categorical(name, labels(axis))
        return chosen
    if axis.whole:
        return trial.suggest_int(name, int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
    return trial.suggest_float(name, axis.low, axis.high, log=axis.log, step=axis.step)


def _label(value: Any) -> Label:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.strip()
