"""Which runs a sweep has: each one a whole recipe with a name, resolved before anything starts."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from terrazzo.base import InputError
from terrazzo.config import ContradictionError, RunConfig, config_of
from terrazzo.faults import did_you_mean, sentences, with_kinds
from terrazzo.files import write_text
from terrazzo.launch.state import RunState
from terrazzo.recipe import read_tree
from terrazzo.sweep.block import SweepConfig
from terrazzo.sweep.folder import Folder
from terrazzo.sweep.lists import read_lists
from terrazzo.sweep.naming import file_text, recipe_hash, run_name, short_keys, stem_of, value_text
from terrazzo.sweep.overlay import Tree, laid_over

SWEEP_FILE = "sweep.yaml"
"""File of a sweep's folder: the base with every default filled in, and the block."""


@dataclass(frozen=True)
class Sweep:
    """A sweep recipe as it was read."""

    base: Tree
    """A whole run, as its YAML: what every run is laid over."""
    block: SweepConfig
    folder: Path
    """The base's `out`."""

    def text(self) -> str:
        """As a recipe that reads back to the same sweep."""
        tree = {**self.base, "sweep": self.block.model_dump(mode="json", by_alias=True)}
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)


@dataclass(frozen=True)
class Point:
    """A run before it is resolved."""

    stem: str
    """Its name without seed and hash."""
    overlays: tuple[Mapping[str, Any], ...]
    """Keys laid over the base, one after the other."""
    varied: dict[str, str] = field(default_factory=dict)
    """Text of every value that varies, by the short name of its axis."""
    after: tuple[str, ...] = ()
    """Stems of the runs that must have ended well before."""
    where: str = "sweep"
    """What is at fault if it cannot be resolved."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    name: str
    hash: str
    """SHA-256 of the resolved recipe."""
    tree: Tree
    """The resolved recipe, `out` included; of a refused run, what was to be resolved."""
    varied: dict[str, str]
    """Text of every value that varies, by the short name of its axis; of a single run `run`."""
    after: tuple[str, ...] = ()
    """Names of the runs that must have ended well before."""
    seed: int | None = None
    """Of a repeated run."""
    refused: str | None = None
    """Why this recipe can never work."""


def load_sweep(recipe: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep recipe, or the folder of a sweep, which holds its own.

    Raises:
        InputError: the recipe has no `sweep:` block, or one of the two cannot be.
    """
    kept = Path(recipe) / SWEEP_FILE
    name, tree = read_tree(kept if kept.is_file() else recipe, overrides)
    block = tree.pop("sweep", None)
    if kept.is_file():
        tree["out"] = str(recipe)  # wherever it was moved to
    tree.setdefault("out", f"runs/{name}")
    if not isinstance(block, dict):
        raise InputError(
            f"{recipe} has no `sweep:` block, so there is one run: `terrazzo train {recipe}`. A block names runs: "
            "sweep: {grid: {optim.lr: [1e-3, 1e-4]}}"
        )
    try:
        parsed = SweepConfig.model_validate(with_kinds(SweepConfig, block))
    except ValidationError as error:
        said = sentences(error, SweepRecipe, within=("sweep",))
        raise InputError(f"{recipe}: {said}") from None
    base = config_of(tree, source=str(recipe))
    return Sweep(plain(base), parsed, base.out)


def plain(config: RunConfig) -> Tree:
    """A recipe as the tree of its YAML file, with every default filled in."""
    return config.model_dump(mode="json", by_alias=True)


class SweepRecipe(RunConfig):
    """A recipe with all that may stand in it: for the paths in sentences, and for editors."""

    sweep: SweepConfig | None = None
    """Many runs made of this one, for `terrazzo sweep`."""


def plan(sweep: Sweep) -> tuple[PlannedRun, ...]:
    """Every run, in the order in which they may run one after the other; of a search, none: it chooses on the way.

    Raises:
        InputError: a key or value is unknown, there is no run, all are refused, or `after` leads nowhere.
    """
    block = sweep.block
    if block.search is not None:
        return ()
    points = in_order([*_grid(block), *_singles(block)])
    if not points and block.seeds:
        points = [Point("", ())]
    runs: dict[str, PlannedRun] = {}
    named: dict[tuple[str, int | None], str] = {}
    for seed in block.seeds or (None,):
        for point in points:
            after = tuple(named[stem, seed] for stem in point.after)
            run = resolve(sweep, point, after=after, seed=seed)
            named[point.stem, seed] = run.name
            runs.setdefault(run.name, run)  # a line that stands in two files is one run
    found = tuple(runs.values())
    if not found:
        raise InputError(
            "the sweep has no run: give sweep.grid, sweep.runs, sweep.lists.files, sweep.seeds or a search"
        )
    if all(run.refused for run in found):
        raise InputError(f"every run of this sweep is refused; the first one, {found[0].name}: {found[0].refused}")
    return found


def count_points(block: SweepConfig) -> int:
    """How many runs a block asks for, lines that stand in two lists counted twice; none of them is resolved."""
    if block.lists is not None and block.lists.files:
        points = sum(1 for _ in read_lists(block.lists))
    else:
        points = prod(len(axis) for axis in block.grid.values()) if block.grid else 0
    return (points + len(block.runs)) * max(1, len(block.seeds))


def count_runs(sweep: Sweep) -> str:
    """ "20 runs", or "up to 30 trials"."""
    if (search := sweep.block.search) is not None:
        seeds = len(sweep.block.seeds)
        return f"{search.trials} trials" + (f" with {seeds} seeds each" if seeds > 1 else "")
    runs = plan(sweep)
    refused = sum(run.refused is not None for run in runs)
    return f"{len(runs)} run{'s' * (len(runs) != 1)}" + (f", {refused} of them refused" if refused else "")


def planned(
    sweep: Sweep, varied: Mapping[str, Any], overlays: Sequence[Mapping[str, Any]], *, seed: int | None = None
) -> PlannedRun:
    """A run at one point of a search.

    Args:
        sweep: whose base it is laid over.
        varied: what it is called: the value (or its label) by the axis's name.
        overlays: keys laid over the base, dotted or nested, one after the other.
        seed: of a repeated run.

    Raises:
        InputError: a key or value is unknown.
    """
    short = short_keys([*varied])
    texts = {short[key]: value_text(value, 0) for key, value in varied.items()}
    return resolve(sweep, Point(stem_of(texts), tuple(overlays), texts), seed=seed)


def resolve(sweep: Sweep, point: Point, *, after: tuple[str, ...] = (), seed: int | None = None) -> PlannedRun:
    """The run of a point with a seed, after the runs of these names."""
    tree = copy.deepcopy(sweep.base)
    for overlay in point.overlays:
        tree = laid_over(tree, overlay, point.where)
    if seed is not None:
        tree["seed"] = seed
    runs = sweep.folder / "runs"
    init = tree.get("init")
    if isinstance(init, dict) and init.get("from") is None:
        if len(after) != 1:
            raise InputError(
                f"{point.where}: init has no `from`, which is the run named in `after`; name one run there"
            )
        init["from"] = str(runs / after[0])
    varied = point.varied | ({} if seed is None else {"seed": str(seed)})
    stem = "-".join(filter(None, [point.stem, "" if seed is None else f"seed={seed}"]))
    refused = None
    try:
        resolved: Tree = plain(config_of(tree, source=point.where))
    except ContradictionError as error:
        resolved, refused = tree, str(error).removeprefix(f"{point.where}: ")
    digest = recipe_hash(_placeless(resolved, runs))
    name = run_name(stem, digest)
    return PlannedRun(name, digest, {**resolved, "out": str(runs / name)}, varied, after, seed, refused)


def recipe_digest(config: RunConfig, runs: Path) -> str:
    """The hash of a run that was resolved before; `runs` is where the runs of its sweep are."""
    return recipe_hash(_placeless(plain(config), runs))


def _placeless(tree: Tree, runs: Path) -> Tree:
    """The same wherever the sweep's folder is."""
    init = tree.get("init")
    if isinstance(init, dict) and Path(init["from"]).parent == runs:
        return {**tree, "init": {**init, "from": Path(init["from"]).name}}
    return tree


def _grid(block: SweepConfig) -> Iterator[Point]:
    """The lines of the lists where there are any, else every combination of the grid's axes."""
    if block.lists is not None and block.lists.files:
        yield from _lines(block)
        return
    if not block.grid:
        return
    short = short_keys([*block.grid])
    for values in product(*(_entries(name, axis) for name, axis in block.grid.items())):
        varied = {short[name]: text for name, (text, _) in zip(block.grid, values, strict=True)}
        stem = stem_of(varied)
        yield Point(stem, tuple(keys for _, keys in values), varied, where=f"sweep.grid, {stem}")


def _entries(name: str, axis: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Text and keys of each value of an axis."""
    if isinstance(axis, dict):
        return [(file_text(label), keys) for label, keys in axis.items()]
    if "." not in name and name not in RunConfig.model_fields:
        near = did_you_mean(name, [*RunConfig.model_fields])
        raise InputError(
            f"sweep.grid.{name}: there is no such key{near}. An axis with a list of values is a dotted key such as "
            "optim.lr; one of any other name has named values: {small: {model.width: 16}, large: {model.width: 64}}"
        )
    return [(value_text(value, position), {name: value}) for position, value in enumerate(axis)]


def _lines(block: SweepConfig) -> Iterator[Point]:
    assert block.lists is not None
    short = short_keys(block.lists.columns)
    for line in read_lists(block.lists):
        varied, overlays = {}, []
        for column, word in line.values.items():
            axis = block.grid.get(column)
            names = {**(axis if isinstance(axis, dict) else {}), **block.lists.names.get(column, {})}
            label, keys = _named(column, names, word, line.where) if names else (word, None)
            value = yaml.safe_load(word) if keys is None else None
            varied[short[column]] = file_text(label) if keys is not None else value_text(value, 0)
            overlays.append({column: value} if keys is None else keys)
        yield Point(stem_of(varied), tuple(overlays), varied, where=line.where)


def _named(column: str, axis: Mapping[str, Any], word: str, where: str) -> tuple[str, Mapping[str, Any]]:
    for label, keys in axis.items():
        if label.lower() == word.lower():
            return label, keys
    near = did_you_mean(word, [*axis])
    raise InputError(f"{where}: {word!r} is no named value of {column}{near}: {', '.join(axis)}")


def _singles(block: SweepConfig) -> Iterator[Point]:
    for name, given in block.runs.items():
        keys = dict(given or {})
        after = keys.pop("after", None) or ()
        names = (after,) if isinstance(after, str) else tuple(after)
        if name != file_text(name):
            raise InputError(f"sweep.runs.{name}: a run's name is part of file names; call it {file_text(name)}")
        yield Point(name, (keys,), {"run": name}, after=names, where=f"sweep.runs.{name}")


def in_order(points: Sequence[Point]) -> list[Point]:
    """Points behind all that they come after, else in the order given.

    Raises:
        InputError: a name in `after` is that of no run, or runs come after each other in a circle.
    """
    known = [point.stem for point in points]
    for point in points:
        for name in point.after:
            if name not in known:
                near = did_you_mean(name, known)
                raise InputError(f"{point.where}.after: there is no run {name!r}{near}; runs: {', '.join(known)}")
    done: dict[str, Point] = {}
    waiting = list(points)
    while waiting:
        ready = [point for point in waiting if all(name in done for name in point.after)]
        if not ready:
            circle = ", ".join(f"{point.stem} after {' and '.join(point.after)}" for point in waiting)
            raise InputError(f"sweep.runs: these runs wait for each other: {circle}; one of them must come first")
        done |= {point.stem: point for point in ready}
        waiting = [point for point in waiting if point.stem not in done]
    return list(done.values())


def publish(folder: Folder, run: PlannedRun) -> None:
    """Write the recipe and the state of a run that is to be trained."""
    text = yaml.safe_dump(run.tree, sort_keys=False, allow_unicode=True, width=110)
    write_text(folder.recipe(run.name), text)
    if not folder.state(run.name).exists():
        status = "waiting" if run.refused is None else "refused"
        RunState(name=run.name, hash=run.hash, status=status, reason=run.refused).write(folder.states)
