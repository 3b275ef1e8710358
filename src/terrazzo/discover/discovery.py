"""A stranger's folder understood: a data section that trains, how sure each part is, and what else it could be."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from terrazzo.base import InputError, Split
from terrazzo.data.class_files import VOID, class_files
from terrazzo.data.folder import FileOptions, FolderData
from terrazzo.data.inventory import inventory
from terrazzo.data.labels import IGNORED, Polygons
from terrazzo.data.paths import check_root, files_below
from terrazzo.data.pixels import Exif, read_header
from terrazzo.data.split import ListSplits
from terrazzo.discover.findings import Finding, Guess
from terrazzo.discover.guess import guess
from terrazzo.discover.guess_splits import Plan, plan_splits
from terrazzo.discover.known import MOST_EXCLUDED, Known, recognised, spread
from terrazzo.discover.label_facts import label_facts
from terrazzo.discover.pairing import Match, templates_of
from terrazzo.discover.roles import Roles, outline_labels, roles_of

MOST_READ = 1000
"""Label files that are read at most, spread over all of them."""
MOST_PIXELS = 600_000_000
"""Pixels of label files that are read at most, in about a minute."""
LEAST_READ = 50
"""Label files that are read however large they are."""
SIZED = 200
"""Images whose size is looked up."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Discovery:
    """What a folder is taken for."""

    data: FileOptions
    """The data section."""
    findings: tuple[Finding, ...]
    """Layout, encoding, splits."""
    remarks: tuple[str, ...]
    """What else should be known."""
    notes: dict[str, str]
    """Of a class: its share of the pixels, and the like."""
    lists: dict[Split, tuple[Match, ...]]
    """List files that `data` names and that are still to be written."""
    sizes: tuple[tuple[int, int], ...]
    """Height and width of some of the images."""
    images: int
    """How many there are."""
    templates: tuple[str, str] | None = None
    """Of images and labels, where lists of pairs stand for them in `data`."""


def discover(root: Path, listed: dict[Split, str], *, progress: Progress | None = None) -> Discovery:
    """Look at a folder.

    Args:
        root: the folder.
        listed: list files that may be named for each split, if the data set has nothing that says them.
        progress: called with the label files that were read, and all that will be.

    Raises:
        InputError: there are no images with labels in it, or the labels are of no kind that can be read.
    """
    check_root(root)
    known, doubts = recognised(root)
    if known:
        return _as_known(*known)
    faults: list[str] = []
    files = files_below(root, faults=faults)
    roles = roles_of(root, files)
    sizes, exif, odd = _sizes(root, roles.matches)
    area = median(height * width for height, width in sizes) if sizes else 1
    most = min(MOST_READ, max(LEAST_READ, MOST_PIXELS // int(area)))
    guessed = _encoding(root, roles, files, most, progress)
    templates = templates_of(roles.rule, roles.matches)
    plan = plan_splits(root, roles.matches, files, plain=_plain(templates), listed=listed)
    if templates is None and not plan.lists:
        raise InputError(
            f"{root}: names with braces or stars ({roles.matches[0].image}) cannot stand in a recipe; rename them"
        )
    data = _section(root, templates, plan, guessed, exif)
    data, more = (data, ()) if plan.lists else _without_unlabelled(data, roles)
    return Discovery(
        data,
        (roles.finding, guessed.finding, plan.finding),
        (*doubts, *faults, *guessed.remarks, *odd, *more),
        guessed.notes,
        plan.lists,
        sizes,
        len(roles.matches),
        templates if data.images is None else None,
    )


def _as_known(known: Known, *others: Known) -> Discovery:
    pairs = [pair for part in known.found.pairs.values() for pair in part]
    counts = ", ".join(f"{split} {len(part)}" for split, part in known.found.pairs.items() if part)
    splits = Finding("splits", counts, "certain", "as the layout says")
    sizes = tuple(size for pair in spread(pairs, SIZED) if (size := _size(known.folder.root / pair.image)) is not None)
    more = tuple(f"there is also {each.layout.answer}: give that folder for it" for each in others)
    return Discovery(
        known.data, (known.layout, known.encoding, splits), known.remarks + more, {}, {}, sizes, len(pairs)
    )


def _plain(templates: tuple[str, str] | None) -> bool:
    """Whether a list of ids can be used: it wants templates with {id} alone."""
    return templates is not None and all(each.count("{") == 1 for each in templates)


def _encoding(root: Path, roles: Roles, files: Sequence[str], most: int, progress: Progress | None) -> Guess:
    labels = [root / pair.label for pair in spread([match.pair for match in roles.matches], most)]
    if roles.rule.kind == ".json":
        return _outlines(labels)
    facts = label_facts(labels, progress=progress)
    guessed = guess(facts, class_files(root, files), void_zero=roles.void_zero)
    remarks = [*guessed.remarks, *[*facts.faults.values()][:3]]
    if len(labels) < len(roles.matches):
        remarks.append(f"{len(labels)} of {len(roles.matches)} label files were read; `terrazzo data check` reads all")
    return replace(guessed, remarks=tuple(remarks))


def _outlines(paths: Sequence[Path]) -> Guess:
    """Polygon files: every label is a class."""
    counts: Counter[str] = Counter()
    broken = []
    for path in paths:
        labels = outline_labels(path)
        counts.update(labels or ())
        broken += [path] if labels is None else []
    names = tuple(sorted(name for name in counts if name.lower() not in VOID))
    if not names:
        raise InputError(f"{paths[0]} and {len(paths) - 1} more polygon files name no class")
    void = {name: IGNORED for name in sorted(counts) if name not in names}
    evidence = f"{len(paths)} polygon files name {len(names)} labels"
    finding = Finding("encoding", "outlines in JSON, each label a class", "likely", evidence)
    remarks = tuple(f"{path}: no polygon file" for path in broken[:3])
    return Guess(names, Polygons(map=void), finding, remarks)


def _section(root: Path, templates: tuple[str, str] | None, plan: Plan, guessed: Guess, exif: Exif) -> FolderData:
    """The data section; lists of pairs name the files themselves."""
    pairs = isinstance(plan.splits, ListSplits) and plan.splits.lines == "pairs"
    images, labels = (None, None) if pairs or templates is None else templates
    return FolderData(
        root=root,
        images=images,
        labels=labels,
        classes=guessed.classes,
        decode=guessed.decode,
        splits=plan.splits,
        exif=exif,
    )


def _without_unlabelled(data: FolderData, roles: Roles) -> tuple[FolderData, tuple[str, ...]]:
    """Leave out images that the templates find and that have no label."""
    unlabelled = inventory(data).unlabelled
    if not unlabelled:
        return data, ()
    if roles.patterns:
        trial = data.model_copy(update={"exclude": roles.patterns})
        if not inventory(trial).unlabelled:
            return trial, (f"{', '.join(roles.patterns)} are left out (exclude): other label files, and no images",)
    if len(unlabelled) > MOST_EXCLUDED:
        return data, (f"{len(unlabelled)} images have no label ({unlabelled[0]}, ...): list them under data.exclude",)
    told = f"{len(unlabelled)} images without a label are left out (exclude)"
    return data.model_copy(update={"exclude": unlabelled}), (told,)


def _size(path: Path, exif: Exif = "obey") -> tuple[int, int] | None:
    try:
        return read_header(path).size(exif)
    except InputError:
        return None


def _sizes(root: Path, matches: Sequence[Match]) -> tuple[tuple[tuple[int, int], ...], Exif, tuple[str, ...]]:
    """Sizes of some images; whether their EXIF orientation is to be ignored; and labels of another size."""
    upright, stored, odd, turned = [], [], [], 0
    for pair in spread([match.pair for match in matches], SIZED):
        size, raw, label = _size(root / pair.image), _size(root / pair.image, "ignore"), _size(root / pair.label)
        if size is None or raw is None:
            continue
        upright.append(size)
        stored.append(raw)
        if label is not None and size != label:
            odd.append(f"{pair.image} is {size[1]}x{size[0]}, {pair.label} is {label[1]}x{label[0]}")
            turned += raw == label
    if odd and turned == len(odd):
        told = f"labels lie on the images as they are stored, not as EXIF turns them ({odd[0]}): exif is ignore"
        return tuple(stored), "ignore", (told,)
    more = f"; {len(odd)} of {len(upright)} looked at are like that" if len(odd) > 1 else ""
    return tuple(upright), "obey", (f"{odd[0]}{more}: a run stops there",) if odd else ()
