"""How the files of an unknown tree pair up: which parts of folders and names turn an image's path into its label's."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product
from pathlib import PurePosixPath
from typing import NamedTuple

from terrazzo.base import SPLITS, Split
from terrazzo.data.pixels import IMAGE_SUFFIXES
from terrazzo.data.templates import Pair

LABEL_SUFFIXES = IMAGE_SUFFIXES | {".txt", ".json"}

SPLIT_WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("training", "train"),
    "val": ("validation", "valid", "val"),
    "test": ("testing", "test"),
}

_WORDS = "|".join(word for words in SPLIT_WORDS.values() for word in words)
_ROLES = "annot|label|mask|image|img|gt|seg"
SPLIT_IN_NAME = re.compile(rf"(?i)(?<![a-z])({_WORDS})(?![a-z])|^({_WORDS})(?={_ROLES})")
"""`train2017`, `images_val`, `trainannot`, but not `valley`."""

BOUNDARY = re.compile(r"(?<=[A-Za-z0-9])(?=[_\-. ])|(?<=\d)(?=[A-Za-z])|(?<=[A-Za-z])(?=\d)")
"""Where a name can be cut into an id and what is added to it."""

FEW_FOLDERS = 60
"""Up to so many, every folder is compared with every other; of more, only those that differ in one place."""

AFFIXES = 16
"""Beginnings and endings of names that are tried, the most frequent of each."""

LEAST_SHARE = 0.2
"""Rules that pair less than this share of what the best one pairs are not looked at."""


class Place(NamedTuple):
    """Where the files of one role lie, among parts of the path that both roles share."""

    folders: tuple[str, ...]
    prefix: str
    suffix: str

    @property
    def text(self) -> str:
        """All that tells one role from the other, for judging its words."""
        return "/".join([*self.folders, f"{self.prefix}|{self.suffix}"])


class Rule(NamedTuple):
    """A way from an image to its label."""

    before: int
    """Folders above the differing ones."""
    after: int
    """Folders below the differing ones."""
    image: Place
    label: Place
    kind: str
    """Of label file: image, .txt or .json. Where images and labels differ in their extension only, the two."""


class Match(NamedTuple):
    """An image with its label, as one rule finds them."""

    image: str
    label: str
    key: str
    """What both names share, without folders."""
    shared: tuple[str, ...]
    """The folders that both paths share, {split} in place of the split's word."""
    word: str | None
    """The split's word in the path."""

    @property
    def pair(self) -> Pair:
        return Pair(self.image, self.label)


@dataclass(frozen=True)
class _Series:
    """The files of one folder and extension whose names begin and end alike, by what is between."""

    prefix: str
    suffix: str
    extension: str
    files: dict[str, str]


def rules_of(paths: Iterable[str]) -> dict[Rule, list[Match]]:
    """Every way in which files pair up, those with the most pairs first; both directions of each."""
    series = _series(paths)
    rules: dict[Rule, dict[str, Match]] = defaultdict(dict)
    for first, second in _folder_pairs(sorted(series)):
        for images, labels in product(series[first], series[second]):
            if images is not labels and images.extension in IMAGE_SUFFIXES:
                _collect(rules, (first, images), (second, labels))
    most = max((len(found) for found in rules.values()), default=0)
    kept = {rule: found for rule, found in rules.items() if len(found) >= LEAST_SHARE * most}
    ordered = sorted(kept.items(), key=lambda item: (-len(item[1]), item[0]))
    return {rule: sorted(found.values()) for rule, found in ordered}


def _collect(rules: dict[Rule, dict[str, Match]], images: tuple[str, _Series], labels: tuple[str, _Series]) -> None:
    """Add the pairs of two series to the rule that leads from one to the other."""
    (image_folder, image), (label_folder, label) = images, labels
    keys = image.files.keys() & label.files.keys()
    if not keys:
        return
    ours, theirs, word = with_split(image_folder, label_folder)
    before, after = _shared(ours, theirs)
    middle = [parts[before : len(parts) - after] for parts in (ours, theirs)]
    shared = (*ours[:before], *ours[len(ours) - after :])
    kind = label.extension if label.extension in (".txt", ".json") else "image"
    if image_folder == label_folder and (image.prefix, image.suffix) == (label.prefix, label.suffix):
        kind = f"{image.extension} {label.extension}"
    ours_at, theirs_at = (
        Place(part, _spoken(each.prefix, word), _spoken(each.suffix, word))
        for part, each in zip(middle, (image, label), strict=True)
    )
    found = rules[Rule(before, after, ours_at, theirs_at, kind)]
    for key in keys:
        match = Match(image.files[key], label.files[key], key, shared, word)
        if match.image not in found or _poorer(found[match.image].label, match.label):
            found[match.image] = match


def _spoken(affix: str, word: str | None) -> str:
    """What is added to an id, with {split} for the word of the split."""
    return SPLIT_IN_NAME.sub(lambda m: "{split}" if m[0] == word else m[0], affix)


def _poorer(label: str, other: str) -> bool:
    """Of two labels of one image, a JPEG is the worse one."""
    return label.lower().endswith((".jpg", ".jpeg")) and not other.lower().endswith((".jpg", ".jpeg"))


def with_split(first: str, second: str) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    """The parts of two folders, {split} for the word of the split that both name, and that word."""
    words = [
        {part[m.start() : m.end()] for part in f.split("/") for m in SPLIT_IN_NAME.finditer(part)}
        for f in (first, second)
    ]
    parts = [PurePosixPath(folder).parts for folder in (first, second)]
    if not (len(words[0]) == 1 and words[0] == words[1]):
        return parts[0], parts[1], None
    (word,) = words[0]
    ours, theirs = (tuple(SPLIT_IN_NAME.sub("{split}", part) for part in each) for each in parts)
    return ours, theirs, word


def split_of(word: str) -> Split:
    """The split that a word means."""
    return next(split for split in SPLITS if word.lower() in SPLIT_WORDS[split])


def _shared(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, int]:
    """Number of equal parts at the beginning, and of further ones at the end."""
    most = min(len(ours), len(theirs))
    before = next((k for k in range(most) if ours[k] != theirs[k]), most)
    after = next((k for k in range(most - before) if ours[-1 - k] != theirs[-1 - k]), most - before)
    return before, after


def _folder_pairs(folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Folders that may hold images and their labels, themselves included."""
    yield from ((folder, folder) for folder in folders)
    if len(folders) <= FEW_FOLDERS:
        yield from permutations(folders, 2)
        return
    families: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for folder in folders:
        parts = PurePosixPath(folder).parts
        for k in range(len(parts)):
            families[(*parts[:k], "*", *parts[k + 1 :])].append(folder)
    for family in families.values():
        if len(family) <= FEW_FOLDERS // 4:  # larger ones are cities, drives and tiles, not images and labels
            for first, second in combinations(family, 2):
                yield from ((first, second), (second, first))


def _series(paths: Iterable[str]) -> dict[str, list[_Series]]:
    """Every folder's files, grouped by extension and by how their names begin or end."""
    files = [PurePosixPath(path) for path in paths]
    files = [path for path in files if path.suffix.lower() in LABEL_SUFFIXES]
    stems = {path.stem for path in files}
    counts = [Counter(cut for stem in stems for cut in each(stem)) for each in (_beginnings, _endings)]
    prefixes, suffixes = (_frequent(count, len(stems)) for count in counts)
    grouped: dict[str, dict[tuple[str, str, str], dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for path in files:
        cuts = [("", ""), *((cut, "") for cut in _beginnings(path.stem) if cut in prefixes)]
        cuts += [("", cut) for cut in _endings(path.stem) if cut in suffixes]
        for prefix, suffix in cuts:
            key = path.stem[len(prefix) : len(path.stem) - len(suffix)]
            grouped[path.parent.as_posix()][prefix, suffix, path.suffix.lower()][key] = path.as_posix()
    return {
        folder: [_Series(prefix, suffix, extension, keyed) for (prefix, suffix, extension), keyed in groups.items()]
        for folder, groups in grouped.items()
    }


def _frequent(count: Counter[str], files: int) -> set[str]:
    """What begins, or ends, enough names to be no part of an id."""
    kept = [cut for cut, times in count.most_common() if times >= max(2, 0.05 * files)]
    return set(kept[:AFFIXES])


def _beginnings(stem: str) -> list[str]:
    """`img_` and `img_0001_` of img_0001_a: at most four, with a letter in them."""
    cuts = [m.start() for m in BOUNDARY.finditer(stem)][:4]
    ends = [cut + (stem[cut] in "_-. ") for cut in cuts]
    return [stem[:end] for end in ends if end < len(stem) and re.search("[A-Za-z]", stem[:end])]


def _endings(stem: str) -> list[str]:
    """`_labelIds` and `_gtFine_labelIds` of ulm_000_gtFine_labelIds: at most four, with a letter in them."""
    cuts = [m.start() for m in BOUNDARY.finditer(stem)][-4:]
    return [stem[cut:] for cut in cuts if re.search("[A-Za-z]", stem[cut:])]


def templates_of(rule: Rule, matches: Sequence[Match]) -> tuple[str, str] | None:
    """The templates of images and labels that say what a rule says; None where a name has characters of templates."""
    shared = []
    names = iter(("folder", *(f"folder{k}" for k in range(2, 99))))
    for values in zip(*(match.shared for match in matches), strict=True):
        shared.append(values[0] if len(set(values)) == 1 else f"{{{next(names)}}}")
    words = {match.word for match in matches}
    texts = []
    for place, files in ((rule.image, [m.image for m in matches]), (rule.label, [m.label for m in matches])):
        extensions = {PurePosixPath(file).suffix for file in files}
        extension = extensions.pop() if len(extensions) == 1 else ".*"
        fixed = (*place.folders, place.prefix, place.suffix, *shared)
        if any(set(part.replace("{split}", "")) & set("{}*") for part in fixed if not part.startswith("{folder")):
            return None
        folders = "/".join([*shared[: rule.before], *place.folders, *shared[rule.before :]])
        name = f"{place.prefix}{{id}}{place.suffix}{extension}"
        text = f"{folders}/{name}" if folders else name
        if len(words) == 1:  # one split alone is no split
            text = text.replace("{split}", words.copy().pop() or "")
        texts.append(text)
    return texts[0], texts[1]
