"""Who goes where: images that belong together, shared out among train, val and test."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import PurePosixPath

import numpy as np

from terrazzo.base import SPLITS, InputError, Split
from terrazzo.check.record import Record
from terrazzo.check.similarity import near, same
from terrazzo.data.templates import Pair
from terrazzo.prepare.stratify import Counts, share_out


@dataclass(frozen=True)
class ClassRow:
    """One class in each split."""

    name: str
    images: dict[Split, int]
    """That show it."""
    share: dict[Split, float]
    """Of the split's labelled pixels."""


@dataclass(frozen=True)
class Assigned:
    """The images of each split, and what is in them."""

    pairs: dict[Split, tuple[Pair, ...]]
    """Sorted by name."""
    groups: dict[Split, int]
    """How many groups of images that stay together."""
    table: tuple[ClassRow, ...]
    copies: tuple[tuple[str, ...], ...]
    """Names of images that show the same picture, or nearly; all of them are in one split."""
    left_out: tuple[str, ...]
    """Names of images in no split: they belong to a group of which a kept split has images."""
    notes: tuple[str, ...]
    """Remarks: classes missing from a split, unlabelled images, ..."""

    def rows(self) -> list[list[str]]:
        """The table, heads first: per class and split the images that show it and the share of pixels."""
        heads = [f"{split}_{what}" for what in ("images", "share") for split in self.pairs]
        return [["class", *heads]] + [
            [row.name, *(str(n) for n in row.images.values()), *(f"{share:.6f}" for share in row.share.values())]
            for row in self.table
        ]

    def __str__(self) -> str:
        lines = [f"{split}: {len(pairs)} images in {self.groups[split]} groups" for split, pairs in self.pairs.items()]
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        if self.copies:
            lines.append(f"{len(self.copies)} sets of equal or nearly equal images were kept together")
        return "\n".join([*lines, *self.notes])


def assign(
    records: Sequence[Record],
    classes: Sequence[str],
    shares: Mapping[Split, float],
    *,
    by: str = "image",
    stratify: bool = True,
    seed: int = 0,
    keep: Sequence[Split] = (),
) -> Assigned:
    """Divide the images of a data set; neither groups nor copies of a picture are torn apart.

    Args:
        records: all images; the splits they are in now count only for `keep`.
        classes: names in the order of the ids in the records.
        shares: of the images that are shared out; together 1.
        by: what stays together: `image` (each for itself), `folder`, or a pattern searched in the image's path without
            extension: images for which the text in its parentheses is the same.
        stratify: every split gets its share of the images that show a class, of every class.
        seed: of the order in which equals are given away; the order of the records does not count.
        keep: splits that stay as they are. What belongs to their groups is left out of the others.

    Raises:
        InputError: the shares are none, the pattern fits not all images, or there are fewer groups than splits.
    """
    shares = checked_shares(shares, keep)
    # A file that two lists name counts once, for a kept split if one of them is.
    ordered = sorted(records, key=lambda record: (record.split not in keep, SPLITS.index(record.split)), reverse=True)
    pool = sorted({record.image: record for record in ordered}.values(), key=lambda record: record.name)
    copies = _copies(pool)
    groups = joined(group_names([record.name for record in pool], by), copies)
    kept: dict[int, Split] = {g: r.split for g, r in zip(groups, pool, strict=True) if r.split in keep}
    free = sorted(set(groups) - kept.keys())
    if len(free) < len(shares):
        raise InputError(
            f"{len(pool)} images form {len(free)} groups that can be shared out (by={by}); {', '.join(shares)} need at "
            "least one each: choose another `by`, or fewer splits"
        )
    present, pixels = (counted[free] for counted in _counted(pool, groups, len(classes) if stratify else 0))
    chosen = share_out(np.bincount(groups)[free], present, pixels, np.array([*shares.values()]), seed)
    home: dict[int, Split] = {g: [*shares][k] for g, k in zip(free, chosen.tolist(), strict=True)}
    placed = [r.split if r.split in keep else home.get(group) for r, group in zip(pool, groups, strict=True)]
    return _assigned(pool, placed, groups, copies, classes, by)


def _assigned(
    pool: Sequence[Record],
    placed: Sequence[Split | None],
    groups: Sequence[int],
    copies: Sequence[Sequence[int]],
    classes: Sequence[str],
    by: str,
) -> Assigned:
    """The result, from the split and the group of each image."""
    parts = {split: [k for k, where in enumerate(placed) if where == split] for split in SPLITS if split in placed}
    table = _table(classes, {split: [pool[k] for k in part] for split, part in parts.items()})
    left_out = tuple(record.name for record, where in zip(pool, placed, strict=True) if where is None)
    return Assigned(
        pairs={split: tuple(Pair(pool[k].image, pool[k].label) for k in part) for split, part in parts.items()},
        groups={split: len({groups[k] for k in part}) for split, part in parts.items()},
        table=table,
        copies=tuple(tuple(pool[k].name for k in group) for group in copies),
        left_out=left_out,
        notes=tuple(_notes(table, left_out, [record.name for record in pool], by)),
    )


def checked_shares(shares: Mapping[Split, float], keep: Sequence[Split] = ()) -> dict[Split, float]:
    """The splits that get something.

    Raises:
        InputError: the shares do not add up to 1, or a kept split is among them.
    """
    given = {split: share for split in SPLITS if (share := shares.get(split, 0.0)) != 0}
    listed = ", ".join(f"{split} {share:g}" for split, share in given.items()) or "nothing"
    if any(not 0 < share <= 1 for share in given.values()) or not isclose(sum(given.values()), 1, abs_tol=1e-6):
        raise InputError(f"the shares are {listed}; they must be above 0 and add up to 1, as 0.8,0.2 or 0.7,0.15,0.15")
    if both := [split for split in given if split in keep]:
        raise InputError(f"{both[0]} is kept as it is and cannot get a share ({listed}); share out among the others")
    if "train" not in (*given, *keep):
        raise InputError(f"the shares are {listed}: nothing is left to train on")
    return given


def group_names(names: Sequence[str], by: str) -> list[str]:
    """What each image belongs to, from its name (the path without extension).

    Raises:
        InputError: `by` is a pattern that cannot be read, has no parentheses, or is not found in every name.
    """
    match by:
        case "image":
            return list(names)
        case "folder":
            return [PurePosixPath(name).parent.as_posix() for name in names]
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise InputError(f"by={by!r} is neither image nor folder, and no pattern ({error})") from None
    if not pattern.groups:
        raise InputError(
            f"by={by!r} has no parentheses around what names the group, as in '(drive\\d+)' or '/([^/]+)_'"
        )
    found = [pattern.search(name) for name in names]
    if missed := [name for name, match in zip(names, found, strict=True) if match is None]:
        raise InputError(f"by={by!r} is not found in {len(missed)} of {len(names)} names, for example {missed[0]!r}")
    return ["\n".join(part or "" for part in match.groups()) for match in found if match is not None]


def joined(groups: Sequence[str], copies: Sequence[Sequence[int]]) -> list[int]:
    """The number of each image's group, where groups that share a picture have become one; counted in order."""
    parent = list(range(len(groups)))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = k = parent[parent[k]]
        return k

    first: dict[str, int] = {}
    for k, group in enumerate(groups):
        parent[root(k)] = root(first.setdefault(group, k))
    for k, *others in copies:
        for other in others:
            parent[root(other)] = root(k)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(k), len(numbers)) for k in range(len(groups))]


def _copies(pool: Sequence[Record]) -> list[list[int]]:
    """Places of images that show the same picture, or nearly: of equal pixels, or alike."""
    digests = [record.digest for record in pool]
    alike = [(pair.first, pair.second) for pair in near([record.likeness for record in pool], digests)]
    numbers = joined([record.image for record in pool], [*same(digests), *alike])
    groups: dict[int, list[int]] = {}
    for place, number in enumerate(numbers):
        groups.setdefault(number, []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def _counted(pool: Sequence[Record], groups: Sequence[int], classes: int) -> tuple[Counts, Counts]:
    """Images that show each class, and its pixels, of each group, [G, K] both."""
    present, pixels = (np.zeros((max(groups) + 1, classes), np.int64) for _ in range(2))
    for record, group in zip(pool, groups, strict=True):
        for k, count in (record.counts or {}).items():
            if k < classes:  # the others are ignored pixels
                present[group, k] += 1
                pixels[group, k] += count
    return present, pixels


def _table(classes: Sequence[str], parts: Mapping[Split, Sequence[Record]]) -> tuple[ClassRow, ...]:
    counted = {split: _counted(records, [0] * len(records), len(classes)) for split, records in parts.items()}
    return tuple(
        ClassRow(
            name,
            {split: int(present[0, k]) for split, (present, _) in counted.items()},
            {split: float(pixels[0, k] / max(1, pixels.sum())) for split, (_, pixels) in counted.items()},
        )
        for k, name in enumerate(classes)
    )


def _notes(table: Sequence[ClassRow], left_out: Sequence[str], names: Sequence[str], by: str) -> list[str]:
    notes = []
    for row in table:
        absent = [split for split, images in row.images.items() if not images]
        if absent and len(absent) < len(row.images):
            where = ", ".join(f"{images} in {split}" for split, images in row.images.items() if images)
            notes.append(f"no image of {' and '.join(absent)} shows {row.name!r} ({where})")
    if left_out:
        notes.append(
            f"{len(left_out)} images are in no list, for they belong together with images of a kept split, for example "
            f"{left_out[0]}"
        )
    folders = Counter(group_names(names, "folder"))
    if by == "image" and 1 < len(folders) <= len(names) / 3:
        notes.append(
            f"the images lie in {len(folders)} folders; if those of one folder are neighbours (a drive, a tile, a "
            "patient), keep them together with --by folder"
        )
    return notes
