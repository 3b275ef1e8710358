"""Which files of an unknown tree are the images and which their labels: of all ways to pair them, the likeliest."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from terrazzo.base import InputError
from terrazzo.data.paths import what_is_there
from terrazzo.data.pixels import IMAGE_SUFFIXES, Raw, read_header, read_image, read_raw
from terrazzo.data.polygons import GROUP
from terrazzo.discover.findings import Confidence, Finding
from terrazzo.discover.label_facts import looks_like_labels
from terrazzo.discover.pairing import Match, Rule, rules_of, templates_of

LABEL_WORD = re.compile(r"(?i)annot|label|mask|(?<![a-z])gt|ground.?truth|segment|(?<![a-z])seg|target|manual")
MASK_WORD = re.compile(r"(?i)mask")
"""Of all words for labels the one that may also mean the field of view."""
IMAGE_WORD = re.compile(r"(?i)image|img|photo|picture|jpeg|rgb|input|frame|leftImg8bit")
OTHER_WORD = re.compile(r"(?i)instance|colou?r|vis|overlay|preview|depth|edge|contour|panoptic|thumb|pred|box|weight")
"""Words of pictures that are neither."""

LOOKED_AT = 3
"""Pairs whose pixels are looked at, of each rule."""
RULES = 40
"""Rules that are looked at, those with the most pairs first."""


@dataclass(frozen=True)
class Roles:
    """How images and labels find each other."""

    rule: Rule
    matches: list[Match]
    finding: Finding
    void_zero: bool
    """The folders are called as in ADE20K, where 0 is no class."""
    patterns: tuple[str, ...]
    """Of other label files beside the images, for `exclude`."""


@dataclass(frozen=True)
class _Judged:
    rule: Rule
    matches: list[Match]
    fits: float
    """How much the images look like photographs and the labels like labels, 0 to 2."""
    words: int
    """How much the names say so."""

    def rank(self, most: int) -> tuple[float, ...]:
        covered = len(self.matches) / most
        tier = 2 if self.fits >= 1.5 else 1
        cuts = [len(text) for place in (self.rule.image, self.rule.label) for text in (place.prefix, place.suffix)]
        return (tier, round(4 * covered), self.words, round(self.fits, 1), -sum(map(bool, cuts)), -sum(cuts))


def roles_of(root: Path, files: Sequence[str]) -> Roles:
    """The likeliest way to pair the files of a data set.

    Raises:
        InputError: nothing pairs up.
    """
    eye = _Eye(root)
    rules = [*rules_of(files).items()][:RULES]
    judged = [_Judged(rule, found, eye.fits(rule, found), _words(rule)) for rule, found in rules]
    judged = [each for each in judged if each.fits >= 0.9]
    if not judged:
        raise InputError(_nothing(root, files))
    most = max(len(each.matches) for each in judged)
    ordered = sorted(judged, key=lambda each: ([-x for x in each.rank(most)], each.rule))
    best = ordered[0]
    others = _others(best, ordered)
    ours, theirs = templates_of(best.rule, best.matches) or (best.matches[0].image, best.matches[0].label)
    sure: Confidence = "unsure" if best.fits < 1.5 else "certain" if best.words > 0 else "likely"
    looks = "look like photographs and label maps" if best.fits >= 1.5 else "could be photographs and label maps"
    evidence = f"{len(best.matches)} pairs of files; by their pixels they {looks}"
    finding = Finding("layout", f"images {ours}, labels {theirs}", sure, evidence, _said(others))
    return Roles(best.rule, best.matches, finding, _ade_like(best.rule, best.matches), _patterns(best, others))


class _Eye:
    """Looks at pixels, once at each file."""

    def __init__(self, root: Path):
        self.root = root
        self.seen: dict[tuple[str, bool], float] = {}

    def fits(self, rule: Rule, matches: Sequence[Match]) -> float:
        """How much images look like photographs plus how much labels look like labels, 0 to 2."""
        looked = [matches[k * len(matches) // LOOKED_AT] for k in range(min(LOOKED_AT, len(matches)))]
        if not all(self._labelled(match.label) for match in looked[:1]):
            return 0
        images = sum(1 - self._look(match.image, photo=True) for match in looked)
        labels = sum(self._look(match.label, photo=False) for match in looked)
        same = any(self._one_size(match) for match in looked)
        return (images + labels) / len(looked) - (0 if same else 0.6)

    def _one_size(self, match: Match) -> bool:
        """Whether image and label are equally large, turned or not, as far as their headers say."""
        try:
            image, label = (read_header(self.root / path).stored for path in (match.image, match.label))
        except InputError:
            return True
        return sorted(image) == sorted(label)

    def _labelled(self, path: str) -> bool:
        return self._look(path, photo=False) > 0

    def _look(self, path: str, *, photo: bool) -> float:
        """1 for a label map, 0 for a photograph or a file of another kind, 0.5 if its pixels do not say."""
        key = path, photo
        if key not in self.seen:
            try:
                self.seen[key] = self._judge(self.root / path, photo=photo)
            except InputError:
                self.seen[key] = 0.5 if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES else 0
        return self.seen[key]

    def _judge(self, path: Path, *, photo: bool) -> float:
        if path.suffix.lower() == ".json":
            return float(outline_labels(path) is not None)
        raw = Raw(read_image(path), "RGB", "") if photo else read_raw(path)
        verdict = looks_like_labels(raw)
        if verdict and not photo and raw.values is None:
            return 0.9  # of an index and a colour version of the same labels, the index is the one to read
        return 0.5 if verdict is None else float(verdict)


def outline_labels(path: Path) -> set[str] | None:
    """The labels of a polygon file as Cityscapes writes them; None if it is none."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not {"imgHeight", "imgWidth"} <= tree.keys():
            return None
        return {str(each["label"]).removesuffix(GROUP) for each in tree["objects"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # JSON of another kind
        return None


def _words(rule: Rule) -> int:
    """How much the names of folders and files say that one is the image and the other the label."""
    image, label = rule.image.text, rule.label.text
    score = 3 * bool(LABEL_WORD.search(label)) - bool(MASK_WORD.search(label)) + bool(IMAGE_WORD.search(image))
    score -= 2 * bool(LABEL_WORD.search(image)) + bool(IMAGE_WORD.search(label) and not LABEL_WORD.search(label))
    return score - 3 * bool(OTHER_WORD.search(label)) - 3 * bool(OTHER_WORD.search(image))


def _others(best: _Judged, ordered: Sequence[_Judged]) -> list[_Judged]:
    """Other labels of the same images: every set of files once."""
    images = {match.image for match in best.matches}
    taken = {match.label for match in best.matches} | images
    found = []
    for each in ordered[1:]:
        labels = {match.label for match in each.matches}
        same = len(images & {match.image for match in each.matches})
        if each.fits >= 1 and 2 * same > len(images) and not labels & taken:
            found.append(each)
            taken |= labels
    return found


def _said(others: Sequence[_Judged]) -> str:
    """The other labels, and how a recipe names them."""
    texts = []
    for each in others[:3]:
        templates = templates_of(each.rule, each.matches)
        told = f"labels: '{templates[1]}'" if templates else f"files such as {each.matches[0].label}"
        texts.append(f"{told} ({len(each.matches)} files)")
    return "other labels of the same images: " + "; ".join(texts) if texts else ""


def _patterns(best: _Judged, others: Sequence[_Judged]) -> tuple[str, ...]:
    """Patterns of other label files that lie among the images."""
    folder = PurePosixPath(best.matches[0].image).parent
    beside = [e for e in others if PurePosixPath(e.matches[0].label).parent == folder]
    return tuple(f"**/{each.rule.label.prefix}*{each.rule.label.suffix}" for each in beside)


def _ade_like(rule: Rule, matches: Sequence[Match]) -> bool:
    places = rule.image.folders, rule.label.folders
    return places == (("images",), ("annotations",)) and {m.word for m in matches} == {"training", "validation"}


def _nothing(root: Path, files: Sequence[str]) -> str:
    """Why there is nothing to train on."""
    images = [path for path in sorted(files) if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        return f"{root} has no images: {what_is_there(root, '')}; name the folder that holds images and label maps"
    annotations = [path for path in sorted(files) if path.lower().endswith((".json", ".xml"))]
    kinds = (
        f"; {annotations[0]} may hold boxes or outlines of another tool (COCO, LabelMe): export masks from it"
        if annotations
        else ""
    )
    return (
        f"{root} has {len(images)} images ({images[0]}, ...), but no files that pair up with them as label maps: each "
        "image needs a label of the same name in another folder, or beside it with an ending such as _mask.png. Give a "
        f"folder that holds both{kinds}"
    )
