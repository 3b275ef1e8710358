"""The `sweep:` block of a recipe: which runs are made of it, and where they run."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from terrazzo.base import Config
from terrazzo.launch import LaunchConfig
from terrazzo.launch.local import Local
from terrazzo.sweep.search import SearchConfig

Scored = Literal["best_miou", "last", "best_loss"]


def _texts(value: object) -> object:
    """YAML reads the names False and 1 as other things than text."""
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _kind(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


Keys = dict[str, Any]
"""Keys of a recipe, dotted (`optim.lr`) or nested, that are laid over the base. A nested section of another `kind`
replaces the base's; one of the same kind is laid over it key by key."""


def _values(axis: object) -> object:
    """Raises a sentence where pydantic would speak of tuples and dictionaries."""
    if isinstance(axis, dict):
        for name, keys in axis.items():
            if not isinstance(keys, dict):
                raise ValueError(
                    f"{name} is {keys!r}; a named value is a mapping of keys laid over the base ({{optim.lr: 0.1}}, or "
                    "{} for the base itself), and plain values are a list"
                )
        return {str(name): keys for name, keys in axis.items()}
    if isinstance(axis, list | tuple):
        return tuple(axis)
    raise ValueError(f"{axis!r} is one value; an axis is a list of values, or named values")


def _axes(grid: object) -> object:
    """Keys that were typed with dots on the command line (sweep.grid.optim.lr=[...]) arrive as sections."""
    if not isinstance(grid, dict):
        return grid
    axes: dict[str, Any] = {}
    for name, axis in grid.items():
        if isinstance(axis, dict) and (typed := dict(_dotted(str(name), axis, {str(key) for key in grid}))):
            axes |= typed
        else:
            axes[str(name)] = axis
    return axes


def _dotted(key: str, section: dict[Any, Any], known: set[str]) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        dotted = f"{key}.{name}"
        if dotted in known or (isinstance(value, list) and "." not in str(name)):
            yield dotted, value
        elif isinstance(value, dict):
            yield from ((found, axis) for found, axis in _dotted(dotted, value, known) if found in known)


Axis = Annotated[tuple[Any, ...] | dict[str, Keys], BeforeValidator(_values)]
"""A list of values of a dotted key, or named values, each of them keys that are laid over the base."""


class ListsConfig(Config):
    """Text files with one run a line."""

    files: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Paths or patterns (`sets/*/*.txt`); every line that is not empty and does not begin with # is one run."""
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    """What the values of a line are, in order: dotted keys, or names of `grid`'s axes (whose named values they are)."""
    names: dict[str, Annotated[dict[str, Keys], BeforeValidator(_texts)]] = Field(default={})
    """More named values by column, beside those of `grid`."""


class SweepConfig(Config):
    """Runs that are made from one recipe, which is the base of all."""

    grid: Annotated[dict[str, Axis], BeforeValidator(_axes)] = Field(default={})
    """Axes, of which every combination is a run: a dotted key with a list of values, or any name with named values."""
    runs: Annotated[dict[str, Keys | None], BeforeValidator(_texts)] = Field(default={})
    """Single runs by name: keys laid over the base, and `after: NAME` (or a list) for runs that must have ended well
    before; an `init` without `from` then starts from that run's weights."""
    lists: ListsConfig | None = None
    """Runs from text files. Where it names files, `grid` is not multiplied out: its axes only name values."""
    seeds: tuple[NonNegativeInt, ...] = ()
    """Every run once with each of these seeds; none: once, with the recipe's own."""
    search: SearchConfig | None = None
    """Points chosen by a search, instead of all of a grid."""
    launch: Annotated[LaunchConfig, BeforeValidator(_kind)] = Local()
    """Where the runs run; `local` and `slurm` alone stand for that kind with its defaults."""
    runs_per_job: PositiveInt = 1
    """Runs that one job works through, one after the other."""
    retries: NonNegativeInt = 1
    """Times that a run which ended with an error is started again."""
    checkpoints: tuple[Scored, ...] = ("best_miou", "last", "best_loss")
    """Which checkpoints are scored on the test split (else val) when a run ends."""

    @field_validator("grid", mode="after")
    @classmethod
    def _axes_have_values(cls, grid: dict[str, Any]) -> dict[str, Any]:
        if empty := [name for name, axis in grid.items() if not axis]:
            raise ValueError(f"grid.{empty[0]} has no values; give it a list of values, or leave it out")
        return grid

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.search is not None and (self.grid or self.runs or self.lists):
            raise ValueError(
                "sweep.search chooses its points itself: leave out grid, runs and lists (axes stand in search.space)"
            )
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"sweep.seeds: {list(self.seeds)} holds a seed twice")
        return self
