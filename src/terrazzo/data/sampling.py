"""Which items are drawn and what their crops must contain: all in turn, or classes that are rare or in front first."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self, assert_never

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from terrazzo.base import Config, Dataset, InputError
from terrazzo.data.draws import Chosen, Sampler, mask_of
from terrazzo.data.facts import Position, counted_classes, sampled_positions
from terrazzo.files import replacing

STREAM = 3
"""Of the seeds [seed, STREAM, draw]; 0 is the order's, 1 the augmentation's, 2 the dropout's."""

Share = Annotated[float, Field(gt=0, le=1)]


class Uniform(Config):
    """Every image once an epoch, crops anywhere."""

    kind: Literal["uniform"] = "uniform"


class RareClasses(Config):
    """Draws that begin with a class, the rarer the more often (rare class sampling: Hoyer et al., 2022, DAFormer).

    Class c comes with probability P(c) ∝ exp((1 - f(c)) / temperature), f(c) being its share of the counted pixels of
    the training split. Then an image that shows c is drawn, and a pixel of c that the crop contains.
    """

    kind: Literal["rare_classes"] = "rare_classes"
    share: Share = 0.5
    """Of the draws; the others show the images in turn. 1 is what was published."""
    temperature: PositiveFloat = 0.01
    """Low: the rarest classes only. High: all classes equally often."""


class Foreground(Config):
    """Crops that show an object (foreground oversampling: Isensee et al., 2021, nnU-Net).

    Every image still comes once an epoch. One of the classes that it shows is drawn, all alike, and a pixel of it that
    the crop contains; an image that shows background alone is cropped anywhere.
    """

    kind: Literal["foreground"] = "foreground"
    share: Share = 0.33
    """Of the draws; the others are cropped anywhere."""
    background: tuple[str, ...] = ()
    """Names of the classes that no crop is aimed at."""


SamplingConfig = Annotated[Uniform | RareClasses | Foreground, Field(discriminator="kind")]


@dataclass(frozen=True, eq=False)
class ClassIndex:
    """What each item of a data set shows: its classes, how many pixels of each, and where some of them are.

    An entry is one class of one item. Entries stand in the order of items.
    """

    names: tuple[str, ...]
    """Of all items."""
    classes: tuple[str, ...]
    items: NDArray[np.int32]
    """Of each entry: its item."""
    ids: NDArray[np.uint8]
    """Of each entry: its class."""
    pixels: NDArray[np.int64]
    """Of each entry: how many pixels of the item are of the class."""
    ends: NDArray[np.int64]
    """Of each entry: where its positions end, and the next one's begin."""
    positions: NDArray[np.int32]
    """Rows and columns, [P, 2]."""

    def fits(self, dataset: Dataset) -> bool:
        """Whether it is of these items and classes."""
        return (self.names, self.classes) == (_names(dataset), dataset.classes.names)

    def entries_of(self, item: int) -> NDArray[np.intp]:
        return np.arange(*np.searchsorted(self.items, (item, item + 1)))

    def position(self, entry: int, rng: np.random.Generator) -> Position:
        """One of the positions of an entry."""
        first = int(self.ends[entry - 1]) if entry else 0
        row, column = self.positions[rng.integers(first, self.ends[entry])].tolist()
        return row, column

    def frequencies(self) -> NDArray[np.float64]:
        """Share of the counted pixels that each class has, [K]."""
        pixels = np.bincount(self.ids, self.pixels, minlength=len(self.classes))
        return np.asarray(pixels / max(1, pixels.sum()), np.float64)

    def write(self, path: Path) -> None:
        """Atomically, as a file of numpy arrays (.npz)."""
        with replacing(path) as draft:
            np.savez_compressed(
                draft,
                names=self.names,
                classes=self.classes,
                items=self.items,
                ids=self.ids,
                pixels=self.pixels,
                ends=self.ends,
                positions=self.positions,
            )

    @classmethod
    def read(cls, path: Path) -> Self:
        with np.load(path) as file:
            arrays = (file[key] for key in ("items", "ids", "pixels", "ends", "positions"))
            return cls(tuple(file["names"].tolist()), tuple(file["classes"].tolist()), *arrays)


def index_masks(
    dataset: Dataset, *, workers: int = 4, progress: Callable[[int, int], None] | None = None
) -> ClassIndex:
    """Read all masks once, in `workers` threads; 0 reads in the caller's.

    Raises:
        InputError: a mask cannot be read, or has values that are no classes.
    """
    ids = tuple(range(len(dataset.classes)))

    def facts(item: int) -> tuple[list[int], list[int], list[list[Position]]]:
        mask = mask_of(dataset, item)
        counts, positions = counted_classes(mask, len(ids)), sampled_positions(mask, ids)
        return [*counts], [*counts.values()], [positions[k] for k in counts]

    items: list[int] = []
    classes: list[int] = []
    pixels: list[int] = []
    positions: list[NDArray[np.int32]] = []
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="terrazzo-index") as pool:
        found = pool.map(facts, range(len(dataset))) if workers else map(facts, range(len(dataset)))
        for item, (shown, counts, places) in enumerate(found):
            items += [item] * len(shown)
            classes += shown
            pixels += counts
            positions += [np.array(each, np.int32) for each in places]
            if progress is not None:
                progress(item + 1, len(dataset))
    return ClassIndex(
        _names(dataset),
        dataset.classes.names,
        np.array(items, np.int32),
        np.array(classes, np.uint8),
        np.array(pixels, np.int64),
        np.cumsum([len(each) for each in positions], dtype=np.int64),
        np.concatenate([np.empty((0, 2), np.int32), *positions]),
    )


def _names(dataset: Dataset) -> tuple[str, ...]:
    names = getattr(dataset, "names", None)  # data sets passed from Python need not have names
    return tuple(names) if names is not None else tuple(f"item {item}" for item in range(len(dataset)))


def check_names(cfg: RareClasses | Foreground, classes: tuple[str, ...]) -> None:
    """Before labels are read, which can take minutes.

    Raises:
        InputError: a name of the background is no class.
    """
    for name in cfg.background if isinstance(cfg, Foreground) else ():
        if name not in classes:
            near = get_close_matches(name, classes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(classes)}"
            raise InputError(f"sampling.background names {name!r}, which is no class of this data set; {hint}")


def build_sampler(cfg: RareClasses | Foreground, index: ClassIndex, seed: int) -> Sampler:
    """The rule of a recipe over a data set.

    Raises:
        InputError: there is no class, or no image, that it could choose.
    """
    if not len(index.ids):
        raise InputError(f"sampling.kind={cfg.kind}: no training label shows any class; `terrazzo data check` says why")
    match cfg:
        case RareClasses():
            return RareClassSampler(cfg, index, seed)
        case Foreground():
            return ForegroundSampler(cfg, index, seed)
        case _:
            assert_never(cfg)


def class_chances(frequencies: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """P(c) ∝ exp((1 - f(c)) / temperature), [K]; 0 for a class that is nowhere."""
    least = frequencies[frequencies > 0].min()
    chances = np.where(frequencies > 0, np.exp((least - np.maximum(frequencies, least)) / temperature), 0)
    return np.asarray(chances / chances.sum())


class RareClassSampler:
    """First a class, then an image that shows it, then one of its pixels."""

    def __init__(self, cfg: RareClasses, index: ClassIndex, seed: int):
        self.cfg, self.index, self.seed = cfg, index, seed
        self.chances = class_chances(index.frequencies(), cfg.temperature)
        self.showing = [np.flatnonzero(index.ids == k) for k in range(len(index.classes))]

    def __call__(self, draw: int, item: int) -> Chosen:
        rng = np.random.default_rng([self.seed, STREAM, draw])
        if rng.random() >= self.cfg.share:
            return Chosen(item)
        entry = int(rng.choice(self.showing[rng.choice(len(self.chances), p=self.chances)]))
        return Chosen(int(self.index.items[entry]), self.index.position(entry, rng))


class ForegroundSampler:
    """The image whose turn it is, then one of its classes, then one of its pixels."""

    def __init__(self, cfg: Foreground, index: ClassIndex, seed: int):
        self.cfg, self.index, self.seed = cfg, index, seed
        self.front = np.array([name not in cfg.background for name in index.classes])
        if not self.front[index.ids].any():
            raise InputError(
                f"sampling.background={list(cfg.background)}: the training labels show no other class, so no crop "
                "would be aimed at anything; name fewer, or leave sampling out"
            )

    def __call__(self, draw: int, item: int) -> Chosen:
        rng = np.random.default_rng([self.seed, STREAM, draw])
        entries = self.index.entries_of(item)
        entries = entries[self.front[self.index.ids[entries]]]
        if rng.random() >= self.cfg.share or not len(entries):
            return Chosen(item)
        return Chosen(item, self.index.position(int(rng.choice(entries)), rng))
