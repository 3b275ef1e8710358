"""The one general layout: image files and label files that find each other by templates or by lists."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self, assert_never

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from terrazzo.base import IGNORE, Classes, Config, InputError, Mask, Sample, Split
from terrazzo.data.labels import ClassList, DecodeConfig, Decoder, Index
from terrazzo.data.paths import check_root, excluded_files, is_file
from terrazzo.data.pixels import IMAGE_SUFFIXES, Exif, read_image
from terrazzo.data.split import (
    FolderSplits,
    Line,
    ListSplits,
    RatioSplits,
    SplitConfig,
    chosen,
    origin_of,
    read_list,
    source_of,
    splits_of,
)
from terrazzo.data.templates import Key, Pair, Template, Trees


class DataOptions(Config):
    """What every data set on disk has."""

    root: Path = Path("data")
    """Folder of the data set; all other paths are relative to it."""
    workers: NonNegativeInt = 4
    """Threads that read and augment; 0 does it between the steps. The samples are the same with any number."""
    worker_kind: Literal["thread", "process"] = "thread"
    """`process`: training samples are made by that many processes, for data sets whose Python code holds up threads."""
    limit: PositiveInt | None = None
    """Use only the first so many images of each split, for trial runs."""
    remap: dict[str, str] = Field(default_factory=dict)
    """Class name -> the class it is merged into, a new name, or `ignore`."""

    @model_validator(mode="after")
    def _has_workers(self) -> Self:
        if self.worker_kind == "process" and not self.workers:
            raise InputError("data.worker_kind=process with data.workers=0 starts none; give data.workers a number")
        return self


class Align(Config):
    """How labels must be moved to lie on their images: first mirrored, then shifted."""

    mirror: bool = False
    """Swap left and right."""
    shift: tuple[int, int] = (0, 0)
    """Pixels to the right and downwards, negative to the left and upwards; what becomes free has no class."""


def aligned(mask: Mask, align: Align | None) -> Mask:
    """A mask [H, W] moved onto its image; pixels that come from outside are IGNORE."""
    if align is None:
        return mask
    if align.mirror:
        mask = mask[:, ::-1]
    (height, width), (right, down) = mask.shape, align.shift
    moved = np.full((height, width), IGNORE, np.uint8)
    rows, columns = max(0, height - abs(down)), max(0, width - abs(right))
    seen = mask[max(0, -down) :, max(0, -right) :][:rows, :columns]
    moved[max(0, down) :, max(0, right) :][:rows, :columns] = seen
    return moved


class FileOptions(DataOptions):
    """What every data set has that is read from image and label files."""

    exclude: tuple[str, ...] = ()
    """Files that are as if they were not there, before anything is paired: paths of images or labels below `data.root`,
    with or without extension. `*` stands for anything in one name, `**` for any folders. An image whose label is
    excluded is left out with it."""
    exif: Exif = "obey"
    """`obey`: images are turned upright by their orientation tag. `ignore`: their pixels are taken as they are stored,
    for labels that were drawn on those."""
    align: Align | None = None
    """Moves every label onto its image, if all of them are off in the same way."""


class FolderData(FileOptions):
    """Images and label maps as files."""

    kind: Literal["folder"] = "folder"
    images: str | None = None
    """Folder or template of the images: `images`, `{split}/{id}.jpg`, `{city}/{id}_photo.*`."""
    labels: str | None = None
    """Folder or template of the label maps, with the same placeholders."""
    classes: Annotated[ClassList, Field(min_length=1)]
    """Names in the order of their ids, or names with colours: `{sky: '#8080ff', road: [128, 64, 128]}`."""
    decode: DecodeConfig = Index()
    """How class ids are written in the label files."""
    splits: SplitConfig = FolderSplits()
    """How images are divided into train, val and test."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _check_templates(self)
        Decoder(self.classes, self.decode, self.remap)
        return self


def _check_templates(cfg: FolderData) -> None:
    pairs = isinstance(cfg.splits, ListSplits) and cfg.splits.lines == "pairs"
    if cfg.images is None or cfg.labels is None:
        if not pairs or cfg.images or cfg.labels:
            raise InputError("data.images and data.labels are needed (only lists of pairs go without both)")
        return
    if pairs:
        raise InputError("data.splits.lines=pairs names the files itself: leave out data.images and data.labels")
    image, label = Template.of(cfg.images), Template.of(cfg.labels)
    if image.text == label.text:
        raise InputError(f"data.images and data.labels are both {cfg.images!r}: how do the label files' names differ?")
    if image.names != label.names or not image.names:
        raise InputError(
            f"data.images {cfg.images!r} and data.labels {cfg.labels!r} must have the same placeholders; write * "
            "for what they need not share"
        )
    with_split = ["{split}" in cfg.images, "{split}" in cfg.labels]
    match cfg.splits:
        case FolderSplits() if not all(with_split):
            raise InputError(
                "data.splits.kind=folders needs {split} in data.images and data.labels, or all splits were the same "
                "files; for images without split folders choose data.splits.kind=ratio or lists"
            )
        case RatioSplits() if any(with_split):
            raise InputError(
                "data.splits.kind=ratio shares out all images: {split} has no meaning in data.images, data.labels"
            )
        case ListSplits() if len(image.names) != 1:
            raise InputError(
                f"data.splits.kind=lists needs one placeholder, {{id}}; there are {', '.join(image.names)}"
            )


class Folder:
    """The images of one split with their masks. Item `i` is read from disk when asked for, from any thread.

    Raises:
        InputError: no such split, no images, a label or a list is missing, two files for one image, or an empty split.
    """

    classes: Classes
    files: tuple[tuple[Path, Path], ...]
    """Image and label of each item."""
    names: tuple[str, ...]
    """Of each item: the image's path below data.root without extension."""
    unpaired_labels: int
    """Label files without an image."""

    def __init__(self, cfg: FolderData, split: Split) -> None:
        if split not in (there := splits_of(cfg.splits)):
            raise InputError(
                f"this data has no {split} split, only {', '.join(there)}; name one under data.splits.{split}"
            )
        check_root(cfg.root)
        pairs, self.unpaired_labels = _pairs_of(cfg, split, excluded_files(cfg.root, cfg.exclude))
        names = chosen(cfg.splits, split, [pair.name for pair in pairs])
        kept = [pair for pair in pairs if pair.name in names][: cfg.limit]
        if not kept:
            raise InputError(
                f"the {split} split is empty: data.splits gives it none of {len(pairs)} images in {cfg.root}"
            )
        decoder = Decoder(cfg.classes, cfg.decode, cfg.remap)
        self.classes, self._decode = decoder.classes, decoder.read
        self._exif, self._align = cfg.exif, cfg.align
        self.names = tuple(pair.name for pair in kept)
        self.files = tuple((cfg.root / pair.image, cfg.root / pair.label) for pair in kept)
        decoder.probe([label for _, label in self.files])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image_file, label_file = self.files[index]
        image, mask = read_image(image_file, self._exif), self._decode(label_file)
        (height, width), (label_height, label_width) = image.shape[:2], mask.shape
        if (height, width) != (label_height, label_width):
            advice = "the label belongs to another image"
            if (height, width) == (label_width, label_height):
                done, other = ("obeyed", "ignore") if self._exif == "obey" else ("ignored", "obey")
                advice = f"one of them is turned: EXIF orientation is {done}; try data.exif={other}"
            raise InputError(
                f"{image_file} is {width}x{height}, its label {label_file} is {label_width}x{label_height}; {advice}"
            )
        return Sample(image, aligned(mask, self._align), self.names[index])

    def read_mask(self, index: int) -> Mask:
        """The mask of an item without its image."""
        return aligned(self._decode(self.files[index][1]), self._align)


def laid_out(
    cfg: FileOptions, *, images: str, labels: str, classes: ClassList, decode: DecodeConfig, splits: SplitConfig
) -> FolderData:
    """A public data set as the general layout, with the options that its user gave."""
    return FolderData(
        root=cfg.root,
        workers=cfg.workers,
        worker_kind=cfg.worker_kind,
        limit=cfg.limit,
        remap=cfg.remap,
        exclude=cfg.exclude,
        exif=cfg.exif,
        align=cfg.align,
        images=images,
        labels=labels,
        classes=classes,
        decode=decode,
        splits=splits,
    )


def _pairs_of(cfg: FolderData, split: Split, excluded: frozenset[str]) -> tuple[list[Pair], int]:
    """All pairs that the split is taken from, in order, and the number of labels without an image."""
    match cfg.splits:
        case FolderSplits():
            trees = trees_of(cfg, source_of(cfg.splits, split), excluded)
            return trees.pairs(), len(trees.orphans)
        case RatioSplits():
            trees = trees_of(cfg, "", excluded)
            return trees.pairs(), len(trees.orphans)
        case ListSplits(lines=kind):
            path = cfg.root / source_of(cfg.splits, split)
            lines = read_list(path, kind)
            if kind == "pairs":
                return unique(path, [(line.number, listed_pair(cfg.root, path, line, excluded)) for line in lines]), 0
            trees = trees_of(cfg, origin_of(cfg.splits, split), excluded)
            return unique(path, [(line.number, listed_id(trees, path, line)) for line in lines]), len(trees.orphans)
        case _:
            assert_never(cfg.splits)


def trees_of(cfg: FolderData, split_folder: str, excluded: frozenset[str], faults: list[str] | None = None) -> Trees:
    """The files that the templates find; arguments as of Trees."""
    assert cfg.images is not None, "FolderData lets only lists of pairs go without templates"
    assert cfg.labels is not None, "the same"
    images, labels = Template.of(cfg.images, split_folder), Template.of(cfg.labels, split_folder)
    return Trees(cfg.root, images, labels, excluded, faults)


def listed_id(trees: Trees, path: Path, line: Line) -> Pair | None:
    """The pair of an entry that stands for {id}; an extension is forgiven. None if it is excluded."""
    key = key_of(trees, line)
    if key in trees.left_out:
        return None
    for what, files, template in (
        ("image", trees.images, trees.image_template),
        ("label", trees.labels, trees.label_template),
    ):
        if key not in files:
            raise InputError(
                f"{path}, line {line.number}: no {what} for {key[0]!r}, expected {trees.root / template.fill(key)}; "
                f"correct the list or data.{what}s, or choose another data.splits.lines"
            )
    return trees.pair(key)


def key_of(trees: Trees, line: Line) -> Key:
    """What an entry of a list says about {id}."""
    entry = PurePosixPath(line.columns[0])
    if line.columns not in trees.images and entry.suffix.lower() in IMAGE_SUFFIXES:
        return (entry.with_suffix("").as_posix(),)
    return line.columns


def listed_pair(root: Path, path: Path, line: Line, excluded: frozenset[str]) -> Pair | None:
    """The pair of an entry that names both files. None if one of them is excluded."""
    image, label = (PurePosixPath(file).as_posix() for file in line.columns)
    if {image, label} & excluded:
        return None
    for file in map(PurePosixPath, line.columns):
        if file.is_absolute() or ".." in file.parts:
            raise InputError(f"{path}, line {line.number}: {file} must be relative to data.root={root}, without '..'")
        if not is_file(root / file):
            raise InputError(f"{path}, line {line.number}: there is no file {root / file}")
    return Pair(image, label)


def unique(path: Path, numbered: list[tuple[int, Pair | None]]) -> list[Pair]:
    """The pairs in the order of the list, if no image stands there twice."""
    seen: dict[str, int] = {}
    for number, pair in numbered:
        if pair is not None and (first := seen.setdefault(pair.name, number)) != number:
            raise InputError(same_image(path, first, number, pair.name))
    return [pair for _, pair in numbered if pair is not None]


def same_image(path: Path, first: int, second: int, name: str) -> str:
    """What to say about two lines of a list."""
    return f"{path}: lines {first} and {second} name the same image {name!r}; remove one"
