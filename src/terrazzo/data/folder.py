"""The one general layout: image files and label files that find each other by templates or by lists."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self, assert_never

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from terrazzo.base import Classes, Config, InputError, Sample, Split
from terrazzo.data.labels import ClassList, DecodeConfig, Decoder, Index
from terrazzo.data.pixels import IMAGE_SUFFIXES, read_image
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
from terrazzo.data.templates import Pair, Template, Trees


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


class FolderData(DataOptions):
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
        if not cfg.root.is_dir():
            raise InputError(f"data.root={cfg.root} is no folder; say where the data is with data.root=PATH")
        pairs, self.unpaired_labels = _pairs_of(cfg, split)
        names = chosen(cfg.splits, split, [pair.name for pair in pairs])
        kept = [pair for pair in pairs if pair.name in names][: cfg.limit]
        if not kept:
            raise InputError(
                f"the {split} split is empty: data.splits gives it none of {len(pairs)} images in {cfg.root}"
            )
        decoder = Decoder(cfg.classes, cfg.decode, cfg.remap)
        self.classes, self._decode = decoder.classes, decoder.read
        self.names = tuple(pair.name for pair in kept)
        self.files = tuple((cfg.root / pair.image, cfg.root / pair.label) for pair in kept)
        decoder.probe([label for _, label in self.files])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image_file, label_file = self.files[index]
        image, mask = read_image(image_file), self._decode(label_file)
        (height, width), (label_height, label_width) = image.shape[:2], mask.shape
        if (height, width) != (label_height, label_width):
            turned = (height, width) == (label_width, label_height)
            advice = (
                "one of them is turned: EXIF orientation is obeyed" if turned else "the label belongs to another image"
            )
            raise InputError(
                f"{image_file} is {width}x{height}, its label {label_file} is {label_width}x{label_height}; {advice}"
            )
        return Sample(image, mask, self.names[index])


def _pairs_of(cfg: FolderData, split: Split) -> tuple[list[Pair], int]:
    """All pairs that the split is taken from, in order, and the number of labels without an image."""
    match cfg.splits:
        case FolderSplits():
            trees = _trees(cfg, source_of(cfg.splits, split))
            return trees.pairs(), trees.unpaired
        case RatioSplits():
            trees = _trees(cfg, "")
            return trees.pairs(), trees.unpaired
        case ListSplits(lines=kind):
            path = cfg.root / source_of(cfg.splits, split)
            lines = read_list(path, kind)
            if kind == "pairs":
                return _unique(path, [(line.number, _listed_pair(cfg.root, path, line)) for line in lines]), 0
            trees = _trees(cfg, origin_of(cfg.splits, split))
            return _unique(path, [(line.number, _listed_id(trees, path, line)) for line in lines]), trees.unpaired
        case _:
            assert_never(cfg.splits)


def _trees(cfg: FolderData, split_folder: str) -> Trees:
    assert cfg.images is not None, "FolderData lets only lists of pairs go without templates"
    assert cfg.labels is not None, "the same"
    return Trees(cfg.root, Template.of(cfg.images, split_folder), Template.of(cfg.labels, split_folder))


def _listed_id(trees: Trees, path: Path, line: Line) -> Pair:
    """The pair of an entry that stands for {id}; an extension is forgiven."""
    key = line.columns
    entry = PurePosixPath(key[0])
    if key not in trees.images and entry.suffix.lower() in IMAGE_SUFFIXES:
        key = (entry.with_suffix("").as_posix(),)
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


def _listed_pair(root: Path, path: Path, line: Line) -> Pair:
    """The pair of an entry that names both files."""
    for file in map(PurePosixPath, line.columns):
        if file.is_absolute() or ".." in file.parts:
            raise InputError(f"{path}, line {line.number}: {file} must be relative to data.root={root}, without '..'")
        if not (root / file).is_file():
            raise InputError(f"{path}, line {line.number}: there is no file {root / file}")
    image, label = (PurePosixPath(file).as_posix() for file in line.columns)
    return Pair(image, label)


def _unique(path: Path, numbered: list[tuple[int, Pair]]) -> list[Pair]:
    """The pairs in the order of the list, if no image stands there twice."""
    seen: dict[str, int] = {}
    for number, pair in numbered:
        if (first := seen.setdefault(pair.name, number)) != number:
            raise InputError(f"{path}: lines {first} and {number} name the same image {pair.name!r}; remove one")
    return [pair for _, pair in numbered]
