"""How the images of an unknown tree are divided: by its folders, by its list files, else by groups or shares."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from terrazzo.base import SPLITS, InputError, Split
from terrazzo.data.split import FolderSplits, ListSplits, RatioSplits, SplitConfig, divide, read_list
from terrazzo.discover.findings import Confidence, Finding
from terrazzo.discover.pairing import SPLIT_WORDS, Match, split_of

VAL = 0.2
"""Share of images for validation where the data set does not say."""
SEED = 0
LIST_SUFFIXES = frozenset((".txt", ".csv", ".lst"))
SIDES = re.compile(r"^(.+?)[-_ ]?(L|R|left|right|OD|OS)$")
"""Names of two pictures of one subject: its left and right eye, hand, breast, ..."""


@dataclass(frozen=True)
class Plan:
    """Who goes where."""

    splits: SplitConfig
    finding: Finding
    lists: dict[Split, tuple[Match, ...]] = field(default_factory=dict)
    """What is to be written as list files, of ids or of pairs, where neither folders nor existing lists say it."""


def plan_splits(
    root: Path, matches: Sequence[Match], files: Iterable[str], *, plain: bool, listed: dict[Split, str]
) -> Plan:
    """The splits of a data set.

    Args:
        root: its folder.
        matches: all images with their labels.
        files: all its files.
        plain: whether templates with {id} alone say where the files are.
        listed: where list files may be written.

    Raises:
        InputError: one image cannot be divided.
    """
    if len(matches) < 2:
        raise InputError(f"only one image with a label, {matches[0].image}: training and validation need one each")
    return (
        _by_folders(matches, listed)
        or _by_lists(root, matches, files, plain=plain, listed=listed)
        or _by_groups(matches, listed, plain=plain)
        or _by_shares(matches, listed)
    )


def _by_folders(matches: Sequence[Match], listed: dict[Split, str]) -> Plan | None:
    words: dict[Split, set[str]] = defaultdict(set)
    for match in matches:
        if match.word:
            words[split_of(match.word)].add(match.word)
    if "train" not in words or len(words) < 2:
        return None
    counts = Counter(split_of(match.word) for match in matches if match.word)
    answer = ", ".join(f"{split} {counts[split]}" for split in SPLITS if counts[split])
    if any(len(each) > 1 for each in words.values()) or not all(match.word for match in matches):
        lists = {s: tuple(m for m in matches if m.word and split_of(m.word) == s) for s in SPLITS if s in words}
        evidence = "folders are named after them, in more than one way, so that lists say it"
        return Plan(_written(lists, listed), Finding("splits", answer, "likely", evidence), lists)
    named = {split: next(iter(each)) for split, each in words.items()}
    fraction = None if "val" in named else VAL
    splits = FolderSplits(train=named["train"], val=named.get("val"), test=named.get("test"), val_fraction=fraction)
    evidence = f"the folders {', '.join(named[split] for split in SPLITS if split in named)}"
    if fraction is None:
        return Plan(splits, Finding("splits", answer, "certain", evidence))
    answer = f"validation is {VAL:.0%} of {named['train']}, and {named['test']} is the test split"
    return Plan(splits, Finding("splits", answer, "likely", f"{evidence}; there is none for validation", _PLACES))


def _by_lists(
    root: Path, matches: Sequence[Match], files: Iterable[str], *, plain: bool, listed: dict[Split, str]
) -> Plan | None:
    """List files named after splits, of which nearly every line names an image that has a label."""
    index = _index(matches)
    best: dict[Split, tuple[str, list[Match]]] = {}
    for path in sorted(files, key=lambda path: (path.count("/"), len(path), path)):
        split = _list_of(PurePosixPath(path))
        found = _resolved(root / path, index) if split and split not in best else []
        if split and found:
            best[split] = (path, found)
    if "train" not in best or len(best) < 2:
        return None
    sizes = ", ".join(f"{split} {len(best[split][1])}" for split in SPLITS if split in best)
    evidence = "the lists " + ", ".join(best[split][0] for split in SPLITS if split in best)
    named = {split: path for split, (path, _) in best.items()}
    fraction = None if "val" in named else VAL
    finding = Finding("splits", sizes, "certain", evidence)
    if fraction is not None:
        answer = f"validation is {VAL:.0%} of the training list, and {named['test']} the test split"
        finding = Finding("splits", answer, "likely", f"{evidence}; there is none for validation", _PLACES)
    for lines in ("ids", "first", "pairs"):
        if lines != "pairs" and not plain:
            continue
        if all(_reads_as(root / path, found, lines) for path, found in best.values()):
            train, val, test = (named.get(split) for split in SPLITS)
            return Plan(ListSplits(train=train, val=val, test=test, lines=lines, val_fraction=fraction), finding)
    lists = {split: tuple(dict.fromkeys(found)) for split, (_, found) in best.items()}
    return Plan(_written(lists, listed), finding, lists)


_PLACES = "`terrazzo data split` draws other splits and writes them as lists"


def _list_of(path: PurePosixPath) -> Split | None:
    """The split that a file may list."""
    if path.suffix.lower() not in LIST_SUFFIXES:
        return None
    tokens = re.split(r"[^a-z]+", path.stem.lower())
    found = [split for split, words in SPLIT_WORDS.items() if set(words) & set(tokens)]
    if "trainval" in tokens:
        found.append("train")
    return found[0] if len(found) == 1 else None


def _index(matches: Sequence[Match]) -> dict[str, Match]:
    """What a line may call an image: its id, its path or its name, with or without extension."""
    index: dict[str, Match] = {}
    for match in matches:
        path = PurePosixPath(match.image)
        for text in (match.key, match.image, path.with_suffix("").as_posix(), path.name, path.stem):
            index.setdefault(text, match)
    return index


def _resolved(path: Path, index: dict[str, Match]) -> list[Match]:
    """The images of a list file; none if it is no such list."""
    try:
        lines = read_list(path, "ids")
    except InputError:
        return []
    found = []
    for line in lines:
        first = re.split(r"[\t,]| (?=\S+\.\w+$)|\s+", line.columns[0])[0].lstrip("./")
        match = index.get(line.columns[0]) or index.get(first) or index.get(PurePosixPath(first).name)
        if match is not None:
            found.append(match)
    return found if lines and len(found) >= 0.95 * len(lines) else []


def _reads_as(path: Path, found: Sequence[Match], lines: str) -> bool:
    """Whether a list file can be used as it is."""
    try:
        match lines:
            case "ids":
                return [line.columns[0] for line in read_list(path, "ids")] == [match.key for match in found]
            case "first":
                return [line.columns[0] for line in read_list(path, "first")] == [match.key for match in found]
            case _:
                return [line.columns for line in read_list(path, "pairs")] == [(m.image, m.label) for m in found]
    except InputError:
        return False


def _by_groups(matches: Sequence[Match], listed: dict[Split, str], *, plain: bool) -> Plan | None:
    """Whole folders, or both sides of a subject, so that what belongs together is not on both sides of a split."""
    groups, what = _groups(matches)
    if len(set(groups)) < 3:
        return None
    chosen = divide(sorted(set(groups)), (1 - VAL, VAL), SEED)
    lists: dict[Split, tuple[Match, ...]] = {}
    for split, names in zip(SPLITS, chosen, strict=False):
        lists[split] = tuple(match for match, group in zip(matches, groups, strict=True) if group in names)
    shown = ", ".join(sorted(chosen[1])[:4]) + (", ..." if len(chosen[1]) > 4 else "")
    answer = f"train {len(lists['train'])}, val {len(lists['val'])}: {shown} for validation"
    evidence = f"no folders or lists name splits; {what} stay together (seed {SEED})"
    sure: Confidence = "likely"
    other = f"any image anywhere: splits: {{kind: ratio}}; {_PLACES}"
    return Plan(_written(lists, listed, ids=plain), Finding("splits", answer, sure, evidence, other), lists)


def _groups(matches: Sequence[Match]) -> tuple[list[str], str]:
    """The group of each image, and what the groups are."""
    parts = list(zip(*(match.shared for match in matches), strict=True))
    varying = [each for each in parts if len(set(each)) > 1]
    folders = ["/".join(each) for each in zip(*varying, strict=True)] if varying else []
    if folders and 2 * len(set(folders)) <= len(matches):
        return folders, f"the images of each of {len(set(folders))} folders"
    sides = [SIDES.match(match.key) for match in matches]
    if all(sides):
        subjects = Counter(m[1] for m in sides if m)
        if max(subjects.values()) == 2 and 1.5 * len(subjects) <= len(matches):
            return [m[1] for m in sides if m], f"the left and right pictures of each of {len(subjects)} subjects"
    return [], ""


def _by_shares(matches: Sequence[Match], listed: dict[Split, str]) -> Plan:
    count = len(matches)
    val = VAL if count > 2 else 0.5
    answer = f"{1 - val:.0%} for training, {val:.0%} for validation, drawn with seed {SEED}"
    evidence = "neither folders nor list files name splits"
    other = f"pictures of one place or patient must not be on both sides: {_PLACES}, by group"
    finding = Finding("splits", answer, "likely", evidence, other)
    if len({match.word for match in matches}) == 1:
        return Plan(RatioSplits(train=1 - val, val=val, seed=SEED), finding)
    chosen = divide([match.image for match in matches], (1 - val, val), SEED)  # several folders, none for training
    parts = (tuple(match for match in matches if match.image in names) for names in chosen)
    lists: dict[Split, tuple[Match, ...]] = dict(zip(SPLITS, parts, strict=False))
    return Plan(_written(lists, listed), finding, lists)


def _written(lists: dict[Split, tuple[Match, ...]], listed: dict[Split, str], *, ids: bool = False) -> ListSplits:
    """The lists that are to be written beside the recipe."""
    train, val, test = (listed[split] if split in lists else None for split in SPLITS)
    fraction = None if val else VAL
    return ListSplits(train=train, val=val, test=test, lines="ids" if ids else "pairs", val_fraction=fraction)
