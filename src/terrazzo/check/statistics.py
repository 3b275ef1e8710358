"""What a data set amounts to: arithmetic over the records of a scan, and the settings that follow from it."""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.base import IGNORE, SPLITS, Classes, Split
from terrazzo.check.record import Record
from terrazzo.data.facts import Components
from terrazzo.data.pixels import UNKNOWN

DIVISIONS = 200
"""Random divisions of the same images that a drift is compared with."""
CHANCE = 0.95
"""Share of them that stay below `Distance.chance`."""
BINS = 16
"""Of the histogram over the images' mean red, green and blue each."""
LARGEST_CROP = 512
CROP_UNIT = 32
"""Sides of the suggested crop are multiples of this, the stride of most encoders."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class SplitStatistics:
    """How much there is of one split."""

    split: Split
    images: int
    labelled: int
    """Pixels that belong to a class."""
    ignored: int
    """Pixels that no loss and no score counts."""
    unknown: int
    """Pixels whose value, colour or name in the label file `data.decode` does not know."""


@dataclass(frozen=True)
class Regions:
    """The connected regions of one class, in pixels; an image stands for itself with its median region."""

    number: int
    """In all images together."""
    small: float
    """In one of ten images that show the class the median region is at most so large."""
    median: float
    """In half of them."""
    large: float
    """In nine of ten."""
    largest: int
    """Of all regions."""


@dataclass(frozen=True)
class ClassStatistics:
    """One class over all images."""

    id: int
    name: str
    pixels: dict[Split, int]
    shares: dict[Split, float]
    """Of the split's labelled pixels."""
    images: dict[Split, int]
    """That show the class."""
    regions: Regions | None
    """None for a class that no image shows."""
    weight: float
    """What `class_weights: auto` gives: median frequency over frequency in the training split, scaled to mean 1."""


@dataclass(frozen=True)
class Distance:
    """How far two splits lie apart, 0 (alike) to 1 (nothing in common): a Jensen-Shannon distance to base 2."""

    value: float
    chance: float
    """What 95 of 100 random divisions of the same images stay below."""

    @property
    def notable(self) -> bool:
        """Whether chance alone would hardly do this."""
        return self.value > self.chance


@dataclass(frozen=True)
class Drift:
    """How far a split lies from the training split; None where one of the two has nothing to compare."""

    split: Split
    classes: Distance | None
    """Of the classes' shares of the labelled pixels."""
    colors: Distance | None
    """Of the histograms of the images' mean red, green and blue."""


@dataclass(frozen=True)
class SizeCount:
    """How many images have one size."""

    height: int
    width: int
    images: int


@dataclass(frozen=True)
class Statistics:
    """All that is known of a data set in numbers."""

    splits: tuple[SplitStatistics, ...]
    """Those that have images, in the order train, val, test."""
    classes: tuple[ClassStatistics, ...]
    sizes: tuple[SizeCount, ...]
    """The most frequent first."""
    mean: tuple[float, ...] | None
    """Of red, green and blue over all pixels of the training split, 0..1."""
    std: tuple[float, ...] | None
    drift: tuple[Drift, ...]
    """Of every other split from the training split."""
    crop: tuple[int, int] | None
    """Height and width for `augment.crop`; see `suggested_crop`."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def tables(self) -> dict[str, str]:
        """Name and text of CSV files: splits, classes and image sizes."""
        splits = [split.split for split in self.splits]
        by_split = [f"{what}_{split}" for what in ("pixels", "share", "images") for split in splits]
        regions = ["regions", "region_small", "region_median", "region_large", "region_largest"]
        classes: list[list[object]] = [["id", "class", *by_split, *regions, "weight"]]
        for each in self.classes:
            columns: tuple[Mapping[Split, object], ...] = (each.pixels, each.shares, each.images)
            found = each.regions
            sizes = [""] * 5 if found is None else [found.number, found.small, found.median, found.large, found.largest]
            row = [column[split] for column in columns for split in splits]
            classes.append([each.id, each.name, *row, *sizes, each.weight])
        drift = {each.split: each for each in self.drift}
        measures = ("drift_classes", "drift_classes_chance", "drift_colors", "drift_colors_chance")
        rows: list[list[object]] = [["split", "images", "labelled", "ignored", "unknown", *measures]]
        for split in self.splits:
            apart = drift.get(split.split)
            distances = (None, None) if apart is None else (apart.classes, apart.colors)
            cells = [cell for each in distances for cell in (("", "") if each is None else (each.value, each.chance))]
            rows.append([split.split, split.images, split.labelled, split.ignored, split.unknown, *cells])
        images: list[list[object]] = [["height", "width", "images"]]
        images += ([size.height, size.width, size.images] for size in self.sizes)
        return {"classes.csv": _csv(classes), "splits.csv": _csv(rows), "sizes.csv": _csv(images)}


def statistics(classes: Classes, records: Sequence[Record]) -> Statistics:
    """What the records amount to. Files that could not be read count as images and add nothing else."""
    counts = {split: _counts(records, split, len(classes)) for split in SPLITS}
    there = [split for split in SPLITS if any(record.split == split for record in records)]
    weights, regions = class_weights(counts["train"]), _regions(records)
    sizes = Counter(record.size for record in records if record.size is not None)
    train = [record for record in records if record.split == "train"]
    mean, std = _moments(train)
    return Statistics(
        splits=tuple(_split_statistics(split, records) for split in there),
        classes=tuple(
            ClassStatistics(
                id=k,
                name=name,
                pixels={split: int(counts[split][:, k].sum()) for split in there},
                shares={split: float(counts[split][:, k].sum() / max(1, counts[split].sum())) for split in there},
                images={split: int((counts[split][:, k] > 0).sum()) for split in there},
                regions=regions.get(k),
                weight=float(weights[k]),
            )
            for k, name in enumerate(classes.names)
        ),
        sizes=tuple(SizeCount(*size, images) for size, images in sorted(sizes.items(), key=lambda s: (-s[1], s[0]))),
        mean=mean,
        std=std,
        drift=tuple(
            Drift(split, _distance(counts["train"], counts[split]), _distance(_colors(train), _colors(others)))
            for split in there
            if split != "train" and train
            for others in [[record for record in records if record.split == split]]
        ),
        crop=suggested_crop([record.size for record in train or records if record.size is not None]),
    )


def class_weights(counts: NDArray[np.int64]) -> Numbers:
    """Weights [K] of the classes from the pixels of each in each image, [N, K]: median frequency over frequency, as in
    Eigen & Fergus 2015, 6.3.2, scaled to mean 1 over the classes that occur; 1 for one that does not.

    A class's frequency is its pixels divided by the counted pixels of the images that show it.
    """
    pixels, beside = counts.sum(0), counts.sum(1) @ (counts > 0)
    occurs = pixels > 0
    rarity = np.divide(beside, pixels, out=np.zeros(len(pixels)), where=occurs)
    return np.where(occurs, rarity * occurs.sum() / max(1.0, rarity.sum()), 1.0)


def suggested_crop(sizes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Height and width for crops of images of these sizes (height, width): the median height and width, each at most
    512 and rounded to a multiple of 32. None without images.

    So a typical image fills the crop, and a batch of large ones stays affordable.
    """
    if not sizes:
        return None
    sides = np.minimum(np.median(np.array(sizes), axis=0), LARGEST_CROP)
    height, width = (max(1, round(side / CROP_UNIT)) * CROP_UNIT for side in sides.tolist())
    return height, width


def jensen_shannon(first: Numbers, second: Numbers) -> Numbers:
    """Distance [...] of two distributions [..., K] given as amounts: the root of the Jensen-Shannon divergence to base
    2 (Endres & Schindelin 2003), 0 for equal shares and 1 where nothing is common."""
    p, q = (amounts / amounts.sum(-1, keepdims=True) for amounts in (first, second))
    middle = (p + q) / 2
    entropies = [-(x * np.log2(np.where(x > 0, x, 1))).sum(-1) for x in (middle, p, q)]
    divergence: Numbers = entropies[0] - (entropies[1] + entropies[2]) / 2
    return np.asarray(np.sqrt(divergence.clip(0, 1)))


def _distance(first: Numbers | NDArray[np.int64], second: Numbers | NDArray[np.int64]) -> Distance | None:
    """How far two sets of images lie apart, each image an amount per class or bin: [N, K] and [M, K]."""
    if not first.sum() or not second.sum():
        return None
    rows = np.concatenate((first, second)).astype(np.float64)
    total = rows.sum(0)
    rng = np.random.default_rng(0)
    drawn = np.zeros((DIVISIONS, len(rows)))
    for division in drawn:
        division[rng.permutation(len(rows))[: len(second)]] = 1
    parts = drawn @ rows
    whole = (parts.sum(1) > 0) & (parts.sum(1) < total.sum())  # the others have a side without any labelled pixel
    apart = jensen_shannon(total - parts[whole], parts[whole])
    chance = float(np.quantile(apart, CHANCE)) if len(apart) else 1.0
    return Distance(float(jensen_shannon(first.sum(0).astype(np.float64), second.sum(0).astype(np.float64))), chance)


def _counts(records: Sequence[Record], split: Split, classes: int) -> NDArray[np.int64]:
    """Pixels of each class in each readable label of a split, [N, K]."""
    found = [record.counts for record in records if record.split == split and record.counts is not None]
    table = np.zeros((len(found), classes), np.int64)
    for row, counts in zip(table, found, strict=True):
        for k, pixels in counts.items():
            if k < classes:
                row[k] = pixels
    return table


def _colors(records: Sequence[Record]) -> Numbers:
    """The bins that each image's mean red, green and blue fall into, [N, 3 * BINS]."""
    means = np.array([record.mean for record in records if record.mean is not None], np.float64).reshape(-1, 3)
    bins = np.minimum(means * BINS / 256, BINS - 1).astype(np.int64)
    table: Numbers = np.eye(BINS)[bins].reshape(len(means), 3 * BINS)
    return table


def _split_statistics(split: Split, records: Sequence[Record]) -> SplitStatistics:
    mine = [record for record in records if record.split == split]
    pixels: Counter[int] = Counter()
    for record in mine:
        pixels.update(record.counts or {})
    beside = pixels[IGNORE] + pixels[UNKNOWN]
    return SplitStatistics(split, len(mine), pixels.total() - beside, pixels[IGNORE], pixels[UNKNOWN])


def _regions(records: Sequence[Record]) -> dict[int, Regions]:
    """The regions of every class that some image shows."""
    found: defaultdict[int, list[Components]] = defaultdict(list)
    for record in records:
        for k, each in (record.components or {}).items():
            found[k].append(each)
    regions = {}
    for k, images in found.items():
        small, median, large = np.quantile([each.median for each in images], (0.1, 0.5, 0.9)).tolist()
        number, largest = sum(each.number for each in images), max(each.largest for each in images)
        regions[k] = Regions(number, small, median, large, largest)
    return regions


def _moments(records: Sequence[Record]) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation of each channel over all pixels, 0..1."""
    known = [(r.mean, r.square, r.size) for r in records if r.mean and r.square and r.size]
    if not known:
        return None, None
    pixels = np.array([height * width for _, _, (height, width) in known], np.float64)
    mean, square = (np.average([each[n] for each in known], axis=0, weights=pixels) for n in range(2))
    std = np.sqrt((square - mean**2).clip(0))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
