"""Verdicts about pictures and labels that are there twice."""

from collections.abc import Iterator

from terrazzo.base import SPLITS
from terrazzo.check.scan import Record
from terrazzo.check.similarity import Near, near, same
from terrazzo.check.verdict import Severity, Verdict
from terrazzo.check.verdicts_case import Case, count, some


def copy_verdicts(case: Case) -> Iterator[Verdict]:
    yield from _exact(case)
    yield from _nearly(case)
    yield from _same_labels(case)


def _exact(case: Case) -> Iterator[Verdict]:
    """Images with the same pixels, across splits and within one."""
    groups = [[case.records[place] for place in group] for group in same([r.digest for r in case.records])]
    across = [group for group in groups if len({record.split for record in group}) > 1]
    within = [group for group in groups if len({record.split for record in group}) == 1]
    if across:
        yield _copies(
            case,
            "duplicate-across-splits",
            "error",
            across,
            f"{count(len(across), 'image')} in more than one split",
            f"the same pixels: {some(map(_equal, across), 3)}",
            "Scores on images that were trained on say nothing. The setting keeps the copy that is used for scoring.",
        )
    if within:
        yield _copies(
            case,
            "duplicate-images",
            "note",
            within,
            f"{count(len(within), 'image')} more than once in a split",
            f"the same pixels: {some(map(_equal, within), 3)}",
            "Each copy counts as an image of its own. The setting keeps one of each for training.",
        )


def _nearly(case: Case) -> Iterator[Verdict]:
    """Images that were saved again, resized or retouched, across splits and within one."""
    pairs = near([record.likeness for record in case.records], [record.digest for record in case.records])
    found = [([case.records[pair.first], case.records[pair.second]], pair) for pair in pairs]
    across = [one for one in found if one[0][0].split != one[0][1].split]
    within = [one for one in found if one[0][0].split == one[0][1].split]
    if across:
        yield _copies(
            case,
            "near-duplicate-across-splits",
            "warning",
            [group for group, _ in across],
            f"{count(len(across), 'pair')} of images nearly the same in two splits",
            f"correlation of details: {some((_alike(*one) for one in across), 3)}",
            "They are one picture saved again, resized or retouched, or neighbours of a video: scores on them are too "
            "good. The setting keeps the copy that is used for scoring.",
        )
    if within:
        yield _copies(
            case,
            "near-duplicate-images",
            "note",
            [group for group, _ in within],
            f"{count(len(within), 'pair')} of images nearly the same in one split",
            f"correlation of details: {some((_alike(*one) for one in within), 3)}",
            "They add less than their number. The setting keeps one of each for training.",
        )


def _copies(
    case: Case, code: str, severity: Severity, groups: list[list[Record]], title: str, evidence: str, advice: str
) -> Verdict:
    """A verdict on groups of copies; one of each is kept, for scoring if it can be."""
    files: dict[str, None] = {}
    spare: dict[str, None] = {}
    for group in groups:
        files.update((record.image, None) for record in group)
        left = [record for record in group if record.image not in spare]
        if left:
            keep = max(left, key=lambda record: SPLITS.index(record.split)).image
            listed_twice = len({record.split for record in group if record.image == keep}) > 1
            # Within val or test they stay: leaving them out would make scores that nobody can compare.
            extra = [r for r in left if r.split == "train" or len({each.split for each in group}) > 1]
            spare.update((record.image, None) for record in extra if record.image != keep or listed_twice)
    return Verdict(code, severity, title, evidence, tuple(files), case.leave_out(spare), advice)


def _same_labels(case: Case) -> Iterator[Verdict]:
    """One label for different images; labels of a single class are equal by nature."""
    rich = [r.label_digest if sum(k < len(case.classes) for k in r.counts or {}) > 1 else None for r in case.records]
    groups = [[case.records[place] for place in group] for group in same(rich)]
    groups = [group for group in groups if len({r.digest for r in group}) > 1]
    if groups:
        files = tuple(record.label for group in groups for record in group)
        yield Verdict(
            "identical-labels",
            "note",
            f"{count(len(groups), 'label')} for more than one image",
            some((" = ".join(r.label for r in group) for group in groups), 3),
            files,
            (),
            "Equal to the last pixel, under different images: one of them was copied.",
        )


def _equal(group: list[Record]) -> str:
    texts = " = ".join(map(_where, group))
    return texts if len({record.label_digest for record in group}) == 1 else f"{texts}, with different labels"


def _alike(group: list[Record], pair: Near) -> str:
    return f"{_where(group[0])} ~ {_where(group[1])} ({pair.correlation:.3f}{', mirrored' * pair.mirrored})"


def _where(record: Record) -> str:
    return f"{record.image} ({record.split})"
