"""What files a data set has, and what is wrong with how they lie: the same pairs as training reads, and no refusal."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar, assert_never

from terrazzo.base import InputError, Split
from terrazzo.data.folder import FolderData, key_of, listed_id, listed_pair, same_image, trees_of
from terrazzo.data.paths import alike, check_root, excluded_files, is_file
from terrazzo.data.split import (
    FolderSplits,
    Line,
    ListSplits,
    RatioSplits,
    chosen,
    origin_of,
    read_list,
    source_of,
    splits_of,
)
from terrazzo.data.templates import Key, Pair, Trees

T = TypeVar("T")


@dataclass(frozen=True)
class Inventory:
    """Paths are relative to data.root, with slashes."""

    pairs: dict[Split, tuple[Pair, ...]]
    """Of every split that the config names, in the order of training; what is faulty is left out."""
    unlabelled: tuple[str, ...]
    """Images without a label."""
    orphans: tuple[str, ...]
    """Labels without an image."""
    doubles: tuple[tuple[str, ...], ...]
    """Files that claim one place: two images or two labels of one key, or two images of one name."""
    faults: tuple[str, ...]
    """A sentence each: list lines that name nothing, splits without an image, folders that cannot be read, links that
    lead round in a circle, names that differ only in capitals."""


def inventory(cfg: FolderData) -> Inventory:
    """Everything that the splits of a config are made of. A fault of the data is told, and what is faulty left out.

    Raises:
        InputError: there is no data.root, no image in any split, or `exclude` names what is not there.
    """
    check_root(cfg.root)
    excluded = excluded_files(cfg.root, cfg.exclude)
    sources: dict[str, _Source] = {}
    pairs: dict[Split, tuple[Pair, ...]] = {}
    for split in splits_of(cfg.splits):
        name = "" if isinstance(cfg.splits, RatioSplits) else source_of(cfg.splits, split)
        if name not in sources:
            sources[name] = _source(cfg, split, excluded)
        source = sources[name]
        names = chosen(cfg.splits, split, [pair.name for pair in source.pairs])
        pairs[split] = tuple(pair for pair in source.pairs if pair.name in names)[: cfg.limit]
        if not pairs[split] and not source.missing:
            source.faults.append(f"the {split} split is empty: no image with a label in {cfg.root} is for it")
    found = Inventory(
        pairs,
        _once(path for source in sources.values() for path in source.unlabelled),
        _once(path for source in sources.values() for path in source.orphans),
        _once(group for source in sources.values() for group in source.doubles),
        _once(sentence for source in sources.values() for sentence in source.faults),
    )
    if not (any(pairs.values()) or found.unlabelled or found.doubles):
        raise InputError(found.faults[0])
    return Inventory(pairs, found.unlabelled, found.orphans, found.doubles, (*found.faults, *_collisions(found)))


@dataclass
class _Source:
    """What one folder or list has, from which one or more splits are taken."""

    pairs: list[Pair] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    doubles: list[tuple[str, ...]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    missing: bool = False
    """There is no such folder or list, or it has no image; a fault says so."""


def _source(cfg: FolderData, split: Split, excluded: frozenset[str]) -> _Source:
    found = _Source()
    match cfg.splits:
        case FolderSplits():
            _add_tree(found, trees_of(cfg, source_of(cfg.splits, split), excluded, found.faults))
        case RatioSplits():
            _add_tree(found, trees_of(cfg, "", excluded, found.faults))
        case ListSplits(lines=kind):
            path = cfg.root / source_of(cfg.splits, split)
            lines: list[Line] = []
            found.missing = True
            with _telling(found):
                lines = read_list(path, kind, found.faults)
                found.missing = False
            if kind == "pairs":
                _add_listed_pairs(found, cfg.root, path, lines, excluded)
            elif not found.missing:
                trees = trees_of(cfg, origin_of(cfg.splits, split), excluded, found.faults)
                _add_listed_ids(found, trees, path, lines)
        case _:
            assert_never(cfg.splits)
    _take_out_doubled_names(found)
    return found


def _add_tree(found: _Source, trees: Trees) -> None:
    pairs = [pair for key in trees.images if (pair := _paired(found, trees, key)) is not None]
    found.pairs += sorted(pairs, key=lambda pair: pair.name)
    found.orphans += trees.orphans
    found.missing = not trees.images


def _add_listed_ids(found: _Source, trees: Trees, path: Path, lines: Sequence[Line]) -> None:
    numbered: list[tuple[int, Pair]] = []
    for line in lines:
        key = key_of(trees, line)
        pair = None
        if key in trees.images:
            pair = _paired(found, trees, key)
        else:
            with _telling(found):
                pair = listed_id(trees, path, line)
        if pair is not None:
            numbered.append((line.number, pair))
    _add_once(found, path, numbered)
    found.orphans += trees.orphans
    found.missing = not trees.images


def _add_listed_pairs(found: _Source, root: Path, path: Path, lines: Sequence[Line], excluded: frozenset[str]) -> None:
    numbered: list[tuple[int, Pair]] = []
    for line in lines:
        try:
            pair = listed_pair(root, path, line, excluded)
        except InputError as error:
            image, label = (PurePosixPath(column) for column in line.columns)
            inside = not image.is_absolute() and ".." not in image.parts
            if inside and is_file(root / image) and not is_file(root / label):
                found.unlabelled.append(image.as_posix())
            else:
                found.faults.append(str(error))
        else:
            numbered += [(line.number, pair)] if pair is not None else []
    _add_once(found, path, numbered)


def _paired(found: _Source, trees: Trees, key: Key) -> Pair | None:
    """The pair of a key that has an image; None, and what is wrong, if there is not one image and one label."""
    images, labels = trees.images[key], trees.labels.get(key, [])
    found.doubles += [tuple(files) for files in (images, labels) if len(files) > 1]
    if not labels:
        found.unlabelled += images
        if (near := trees.nearly(key)) is not None:
            found.faults.append(f"{images[0]} has no label, but {near} is written differently, in capitals or accents")
    return Pair(images[0], labels[0]) if len(images) == len(labels) == 1 else None


def _add_once(found: _Source, path: Path, numbered: list[tuple[int, Pair]]) -> None:
    """The pairs of a list, in its order."""
    seen: dict[str, int] = {}
    for number, pair in numbered:
        if (first := seen.setdefault(pair.image, number)) == number:
            found.pairs.append(pair)
        else:
            found.faults.append(same_image(path, first, number, pair.name))


def _take_out_doubled_names(found: _Source) -> None:
    by_name: dict[str, list[str]] = {}
    for pair in found.pairs:
        by_name.setdefault(pair.name, []).append(pair.image)
    found.doubles += [tuple(images) for images in by_name.values() if len(images) > 1]
    found.pairs = [pair for pair in found.pairs if len(by_name[pair.name]) == 1]


def _collisions(found: Inventory) -> list[str]:
    """Of files that some systems cannot keep apart."""
    pairs = (path for listed in found.pairs.values() for pair in listed for path in pair)
    doubles = (path for group in found.doubles for path in group)
    groups: dict[str, set[str]] = {}
    for path in (*pairs, *doubles, *found.unlabelled, *found.orphans):
        groups.setdefault(alike(path), set()).add(path)
    return [
        f"{' and '.join(sorted(group))} differ in capitals or accents only: on Windows and macOS they are one file; "
        "rename all but one"
        for group in groups.values()
        if len(group) > 1
    ]


@contextmanager
def _telling(found: _Source) -> Iterator[None]:
    """A refusal becomes a fault that is told."""
    try:
        yield
    except InputError as error:
        found.faults.append(str(error))


def _once(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))
