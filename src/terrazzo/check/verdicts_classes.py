"""Verdicts about classes: which are missing where, which labels say nothing, how splits differ."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import exp, lgamma

from terrazzo.base import IGNORE, Split
from terrazzo.check.scan import Record
from terrazzo.check.statistics import statistics
from terrazzo.check.verdict import Verdict, override
from terrazzo.check.verdicts_case import Case, count, share, some
from terrazzo.data.split import RatioSplits, chosen

CHANCE = 1e-3
"""An absence that a random division would produce less often than this is none of chance."""
SEEDS = 1000
"""So many divisions are tried for one in which every class is in every split."""
APART = 0.5
"""From this Jensen-Shannon distance of the class shares on, splits are hardly of one kind."""
MOSTLY = 0.5
"""More ignored pixels than this are worth a word."""

Shown = dict[Split, dict[int, list[Record]]]
"""Of each split: class -> the records that show it."""


def class_verdicts(case: Case) -> Iterator[Verdict]:
    classes = range(len(case.classes))
    shown: Shown = {
        split: {k: [record for record in records if (record.counts or {}).get(k)] for k in classes}
        for split, records in case.splits.items()
    }
    yield from _absent(case, shown)
    yield from _unused(case, shown)
    yield from _empty(case)
    yield from _mostly_ignored(case)
    yield from _drift(case)


def _absent(case: Case, shown: Shown) -> Iterator[Verdict]:
    """Classes that one split does not have and another does."""
    for split in case.splits:
        elsewhere = {
            k: [record for other in shown if other != split for record in shown[other][k]]
            for k, records in shown[split].items()
            if not records
        }
        missing = {k: records for k, records in elsewhere.items() if records}
        if split == "train":
            groups = [missing]
        else:
            odd = {k: found for k, found in missing.items() if _odds(case, split, shown, k) < CHANCE}
            groups = [odd, {k: found for k, found in missing.items() if k not in odd}]
        for improbable, group in zip((True, False), groups, strict=False):
            if group:
                yield _absence(case, split, group, improbable, shown)


def _odds(case: Case, split: Split, shown: Shown, k: int) -> float:
    """How many of all divisions of the same images into train and this split give none of a class to the split."""
    images, part = len(case.splits.get("train", ())) + len(case.splits[split]), len(case.splits[split])
    without = images - len(shown.get("train", {}).get(k, ()))
    if without < part:
        return 0.0
    return exp(lgamma(without + 1) + lgamma(images - part + 1) - lgamma(without - part + 1) - lgamma(images + 1))


def _absence(case: Case, split: Split, missing: Mapping[int, list[Record]], improbable: bool, shown: Shown) -> Verdict:
    names = [case.classes.names[k] for k in missing]
    advice = "`terrazzo data split` divides images by classes"
    if fix := _other_division(case, missing, shown):
        advice += "; the setting draws other images"
    elif split == "train" and (fix := case.drop_classes(names)):
        advice += "; the setting ignores the class everywhere"
    if split == "train":
        meaning = "What no training image shows is never predicted, and scores 0 where it occurs."
    else:
        meaning = f"Scores on {split} say nothing about it, and leave it out of their mean."
    elsewhere = (
        f"{name} (shown by {count(len(found), 'image')} of other splits)"
        for name, found in zip(names, missing.values(), strict=True)
    )
    examples = sorted((r for found in missing.values() for r in found), key=lambda record: -_most(record, missing))
    return Verdict(
        f"class-absent-{split}",
        "warning" if improbable and case.cfg.limit is None else "note",
        f"{count(len(names), 'class')} without a pixel in {split}: {some(names)}",
        f"none of {count(len(case.splits[split]), 'image')} of {split} shows {some(elsewhere)}",
        tuple(dict.fromkeys(record.label for record in examples)),
        fix,
        f"{meaning} {advice}.",
    )


def _most(record: Record, classes: Mapping[int, object]) -> int:
    return max((record.counts or {}).get(k, 0) for k in classes)


def _other_division(case: Case, missing: Mapping[int, object], shown: Shown) -> tuple[str, ...]:
    """The setting that draws other images, such that every class that can be is in every split."""
    cfg = case.cfg.splits
    train, val = case.splits.get("train", ()), case.splits.get("val", ())
    if not case.open or not train or not val:
        return ()
    if isinstance(cfg, RatioSplits):
        return _seed(case, cfg, tuple(case.splits), missing, shown)
    if cfg.val_fraction is not None:
        drawn = RatioSplits(train=1 - cfg.val_fraction, val=cfg.val_fraction)
        return _seed(case, drawn, ("train", "val"), missing, {"train": shown["train"], "val": shown["val"]})
    # The images of val are given up for some of the training images.
    fraction = min(0.5, max(0.05, round(len(val) / (len(train) + len(val)), 2)))
    drawn = RatioSplits(train=1 - fraction, val=fraction)
    seed = _seed(case, drawn, ("train", "val"), missing, {"train": shown["train"]})
    return (override("data.splits.val", None), override("data.splits.val_fraction", fraction), *seed) if seed else ()


def _seed(
    case: Case, cfg: RatioSplits, splits: Sequence[Split], missing: Iterable[int], source: Shown
) -> tuple[str, ...]:
    """The first seed that gives every class which enough images of the source show, the missing ones included, to every
    split."""
    names = [record.name for split in source for record in case.splits[split]]
    holders = {k: {r.name for shown in source.values() for r in shown[k]} for k in range(len(case.classes))}
    if any(len(holders[k]) < len(splits) for k in missing):
        return ()
    for seed in range(SEEDS):
        parts = [chosen(cfg.model_copy(update={"seed": seed}), split, names) for split in splits]
        if all(part & found for part in parts for found in holders.values() if len(found) >= len(splits)):
            return (override("data.splits.seed", seed),)
    return ()


def _unused(case: Case, shown: Shown) -> Iterator[Verdict]:
    names = [
        name for k, name in enumerate(case.classes.names) if shown and not any(found[k] for found in shown.values())
    ]
    if names:
        yield Verdict(
            "class-unused",
            "warning" if case.cfg.limit is None else "note",
            f"{count(len(names), 'class')} declared but never used: {some(names)}",
            f"no pixel of {count(len(case.records), 'label')} belongs to {some(names)}",
            (),
            case.drop_classes(names),
            "Is the value or colour right? The setting takes the class off.",
        )


def _empty(case: Case) -> Iterator[Verdict]:
    empty = [record for record in case.records if record.counts and set(record.counts) == {IGNORE}]
    if empty:
        files = tuple(record.label for record in empty)
        yield Verdict(
            "all-ignored",
            "warning",
            f"{count(len(files), 'label')} without a labelled pixel",
            f"every pixel is ignored in {some(files, 3)}",
            files,
            case.leave_out(files),
            "They cost time and teach nothing. Label them, or leave them out.",
        )


def _mostly_ignored(case: Case) -> Iterator[Verdict]:
    ignored = sum((record.counts or {}).get(IGNORE, 0) for record in case.records)
    total = sum(sum((record.counts or {}).values()) for record in case.records)
    if ignored > MOSTLY * total:
        yield Verdict(
            "mostly-ignored",
            "note",
            f"{share(ignored, total)} of all pixels are ignored",
            f"{ignored:,} of {total:,} pixels belong to no class",
            advice="Is a value, colour or class ignored that should not be? See data.decode and data.remap.",
        )


def _drift(case: Case) -> Iterator[Verdict]:
    for drift in statistics(case.classes, case.records).drift:
        apart = drift.classes
        if apart is not None and apart.notable and apart.value >= APART:
            yield Verdict(
                f"drift-{drift.split}",
                "warning" if case.cfg.limit is None else "note",
                f"{drift.split} shows other classes than train",
                f"Jensen-Shannon distance of the class shares {apart.value:.2f}; 95 of 100 random divisions of the "
                f"same images stay below {apart.chance:.2f}",
                advice=f"Scores on {drift.split} then say little about data like the training images. `terrazzo data "
                "split` divides by classes and groups.",
            )
