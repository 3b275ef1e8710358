"""Every sample of a run by its number, and the memory of a batch. No torch in here: loader processes start without."""

from collections.abc import Callable
from functools import lru_cache, partial
from math import prod
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from terrazzo.base import IGNORE, Dataset, InputError, Lazy, Mask, Masked, Sample
from terrazzo.data.facts import Position


class Augment(Protocol):
    """What makes a training sample of an item."""

    def __call__(self, sample: Sample, rng: np.random.Generator, /, *, focus: Position | None = None) -> Sample:
        """`focus` is given only where there is one, so that what cuts out nothing need not know of it."""


class Chosen(NamedTuple):
    """What a draw is made of."""

    item: int
    focus: Position | None = None
    """A pixel of the item that the crop contains."""


Sampler = Callable[[int, int], Chosen]
"""From the number of a draw and the item whose turn it is to what is drawn instead; a pure function, picklable."""


def epoch_order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The order of a data set's items in one epoch, [size]."""
    return np.random.default_rng([seed, 0, epoch]).permutation(size)


def checked_sample(dataset: Dataset, index: int) -> Sample:
    """An item of a data set that keeps the contract of `Sample`.

    Raises:
        InputError: it does not; the message names the sample.
    """
    sample = Sample(*dataset[index])
    _check(sample, len(dataset.classes), f"sample {sample.name!r} (item {index})")
    return sample


def opened(dataset: Dataset, index: int) -> Sample:
    """An item to cut a crop out of: not yet read if the data set is lazy (it has checked its pixels), else checked."""
    if isinstance(dataset, Lazy) and callable(dataset.lazy):  # a user's `lazy` may be a flag
        return dataset.lazy(index)
    return checked_sample(dataset, index)


def mask_of(dataset: Dataset, index: int) -> Mask:
    """The mask of an item, without its image where the data set can do that."""
    if isinstance(dataset, Masked):
        return dataset.read_mask(index)
    return np.asarray(opened(dataset, index).mask)


class Draws:
    """All samples of a run by number. Calling it is safe from any thread."""

    def __init__(self, dataset: Dataset, augment: Augment, seed: int, sampler: Sampler | None = None):
        self.dataset, self.augment, self.seed, self.sampler = dataset, augment, seed, sampler
        self.order = lru_cache(maxsize=2)(partial(epoch_order, seed, size=len(dataset)))

    def __call__(self, draw: int) -> Sample:
        epoch, place = divmod(draw, len(self.dataset))
        index, focus = int(self.order(epoch)[place]), None
        if self.sampler is not None:
            index, focus = self.sampler(draw, index)
        try:
            sample, rng = opened(self.dataset, index), np.random.default_rng([self.seed, 1, draw])
            sample = self.augment(sample, rng) if focus is None else self.augment(sample, rng, focus=focus)
            _check(sample, len(self.dataset.classes), f"sample {sample.name!r} (item {index}, augmented)")
        except Exception as error:
            files = getattr(self.dataset, "files", None)  # data sets passed from Python need not have files
            error.add_note(f"while reading item {index} for draw {draw}" + (f": {files[index][0]}" if files else ""))
            raise
        return sample


class Shape(NamedTuple):
    """Of one rank's part of a batch, and with it of the memory that holds it."""

    share: int
    height: int
    width: int
    channels: int

    @classmethod
    def of(cls, share: int, like: Sample) -> "Shape":
        return cls(share, *like.image.shape)

    @property
    def bytes(self) -> int:
        """Of images and masks."""
        return prod(self) + prod(self[:3])


class Slot:
    """Memory of one batch, used again and again."""

    images: NDArray[np.uint8]
    """[B, H, W, C]"""
    masks: NDArray[np.uint8]
    """[B, H, W]"""

    def __init__(self, memory: NDArray[np.uint8], shape: Shape):
        images = prod(shape)
        self.images = memory[:images].reshape(shape)
        self.masks = memory[images : shape.bytes].reshape(shape[:3])

    def put(self, place: int, draws: Draws, draw: int) -> str:
        """Write one sample; its name is returned."""
        sample = draws(draw)
        if sample.image.shape != self.images.shape[1:]:
            raise InputError(
                f"sample {sample.name!r} is {_size(sample.image)}, the batch is {_size(self.images[0])}; all samples "
                "of a run must have one size: crop or resize in `augment`"
            )
        self.images[place] = sample.image
        self.masks[place] = sample.mask
        return sample.name


def slots_in(memory: NDArray[np.uint8], shape: Shape) -> list[Slot]:
    """As many slots as `memory` [bytes] has room for."""
    return [Slot(part, shape) for part in memory.reshape(-1, shape.bytes)]


def _check(sample: Sample, classes: int, what: str) -> None:
    image, mask, _ = sample
    for kind, array, axes in (("image", image, "[H, W, C]"), ("mask", mask, "[H, W]")):
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != len(axes.split(",")):
            found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f"{what}: its {kind} is {found}; expected a numpy array uint8 {axes}")
    if image.shape[:2] != mask.shape:
        raise InputError(f"{what}: its image is {_size(image)} and its mask {_size(mask)}; they must have one size")
    wrong = (mask >= classes) & (mask != IGNORE)
    if wrong.any():
        raise InputError(
            f"{what}: {wrong.sum()} pixels of its mask have values {np.unique(mask[wrong])[:8].tolist()}; there are "
            f"{classes} classes, 0..{classes - 1}, and {IGNORE} for none"
        )


def _size(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
