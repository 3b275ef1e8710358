"""The splits that a run reads, and whether they go together."""

from dataclasses import dataclass

from terrazzo.base import Dataset, InputError, Split
from terrazzo.commands.evaluate import default_split
from terrazzo.config import RunConfig
from terrazzo.data import build_dataset


@dataclass(frozen=True)
class Sets:
    """The splits a run reads."""

    train: Dataset
    val: Dataset
    score: Dataset
    """What the report is about: test if there is one, else val."""
    score_split: Split


def own_sets(cfg: RunConfig, train: Dataset | None, val: Dataset | None, test: Dataset | None) -> Sets | None:
    """The user's dataset objects, or None if the recipe says where the data is.

    Raises:
        InputError: objects and recipe contradict each other.
    """
    if cfg.data.kind != "own":
        if train is not None or val is not None or test is not None:
            raise InputError(f"data.kind is {cfg.data.kind!r}, yet datasets were passed; say data: {{kind: own}}")
        return None
    if train is None or val is None:
        raise InputError("data.kind is 'own': pass train_set=... and val_set=... to terrazzo.train from Python")
    sets = Sets(train, val, val if test is None else test, "val" if test is None else "test")
    _check(sets)
    return sets


def build_sets(cfg: RunConfig) -> Sets:
    """The recipe's splits."""
    train, val = build_dataset(cfg.data, "train"), build_dataset(cfg.data, "val")
    split = default_split(cfg)
    sets = Sets(train, val, val if split == "val" else build_dataset(cfg.data, split), split)
    _check(sets)
    return sets


def _check(sets: Sets) -> None:
    """Refuse splits that are empty or of two label spaces.

    Raises:
        InputError: it names what only one of the two has, or the first place where the order differs.
    """
    if not len(sets.train):
        raise InputError("train has no images")
    for split, other in {"val": sets.val, sets.score_split: sets.score}.items():
        if not len(other):
            raise InputError(f"{split} has no images: there is nothing to score")
        ours, names = sets.train.classes.names, other.classes.names
        if ours == names:
            continue
        mine, its = [name for name in ours if name not in names], [name for name in names if name not in ours]
        if mine or its:
            detail = f"only train has {mine or 'none'}, only {split} has {its or 'none'}"
        else:
            at = next(k for k, (a, b) in enumerate(zip(ours, names, strict=True)) if a != b)
            detail = f"they are in another order, first at id {at}: {ours[at]!r} and {names[at]!r}"
        raise InputError(f"train has {len(ours)} classes and {split} has {len(names)}; {detail}")
