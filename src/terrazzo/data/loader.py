"""Batches as a pure function of (seed, step): a resume has nothing to restore, ranks and threads change nothing."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import count
from math import ceil
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrazzo.base import IGNORE, Dataset, InputError, Sample

Augment = Callable[[Sample, np.random.Generator], Sample]


class Batch(NamedTuple):
    """One rank's part of a global batch. The tensors are lent: asking for the next batch overwrites them."""

    images: Tensor
    """uint8 [B, C, H, W], channels last in memory."""
    masks: Tensor
    """uint8 [B, H, W]"""
    names: tuple[str, ...]
    draws: range
    """Numbers of these samples in the whole run."""


def seed_of(*numbers: int) -> int:
    """One well-mixed seed from a few small numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


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


def batches(
    dataset: Dataset,
    augment: Augment,
    *,
    seed: int,
    batch: int,
    first_step: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """The batches of a run from `first_step` on, without end.

    Draw `d` of the run is item `epoch_order(seed, d // n)[d % n]`, augmented by a generator that is seeded with d.

    Args:
        dataset: n items.
        augment: must give all samples one size.
        seed: of order and augmentation.
        batch: size of the global batch; a rank takes its contiguous share.
        first_step: optimizer steps already done.
        rank: which of `world` processes this is.
        world: number of processes.
        workers: threads that work ahead; 0 works when asked.

    Raises:
        InputError: the data set is empty or the batch cannot be shared; while reading, what is wrong with a sample.
    """
    if len(dataset) == 0:
        raise InputError("the training set is empty")
    if batch % world:
        raise InputError(f"batch={batch} cannot be shared evenly by {world} processes; choose a multiple of {world}")
    draws = Draws(dataset, augment, seed)
    share = batch // world
    ranges = (range(first, first + share) for first in count(first_step * batch + rank * share, batch))
    return _working_ahead(draws, ranges, workers) if workers else _on_demand(draws, ranges)


class Draws:
    """All samples of a run by number. Calling it is safe from any thread."""

    def __init__(self, dataset: Dataset, augment: Augment, seed: int):
        self.dataset, self.augment, self.seed = dataset, augment, seed
        self.order = lru_cache(maxsize=2)(partial(epoch_order, seed, size=len(dataset)))

    def __call__(self, draw: int) -> Sample:
        epoch, place = divmod(draw, len(self.dataset))
        index = int(self.order(epoch)[place])
        try:
            sample = checked_sample(self.dataset, index)
            sample = self.augment(sample, np.random.default_rng([self.seed, 1, draw]))
            _check(sample, len(self.dataset.classes), f"sample {sample.name!r} (item {index}, augmented)")
        except Exception as error:
            files = getattr(self.dataset, "files", None)  # data sets passed from Python need not have files
            error.add_note(f"while reading item {index} for draw {draw}" + (f": {files[index][0]}" if files else ""))
            raise
        return sample


class Slot:
    """Memory of one batch, used again and again."""

    def __init__(self, share: int, like: Sample):
        self.images = torch.empty((share, *like.image.shape), dtype=torch.uint8)
        self.masks = torch.empty((share, *like.mask.shape), dtype=torch.uint8)

    def put(self, place: int, draws: Draws, draw: int) -> str:
        """Write one sample; its name is returned."""
        sample = draws(draw)
        if sample.image.shape != self.images.shape[1:]:
            raise InputError(
                f"sample {sample.name!r} is {_size(sample.image)}, the batch is {_size(self.images[0])}; all samples "
                "of a run must have one size: crop or resize in `augment`"
            )
        self.images.numpy()[place] = sample.image
        self.masks.numpy()[place] = sample.mask
        return sample.name

    def lend(self, names: list[str], draws: range) -> Batch:
        return Batch(self.images.permute(0, 3, 1, 2), self.masks, tuple(names), draws)


def _on_demand(draws: Draws, ranges: Iterator[range]) -> Generator[Batch, None, None]:
    slot = None
    for numbers in ranges:
        slot = slot or Slot(len(numbers), draws(numbers[0]))
        yield slot.lend([slot.put(place, draws, draw) for place, draw in enumerate(numbers)], numbers)


def _working_ahead(draws: Draws, ranges: Iterator[range], workers: int) -> Generator[Batch, None, None]:
    """Threads fill free slots; the one lent is free again when this generator is resumed, not before."""
    with _one_thread_per_image(), ThreadPoolExecutor(workers, thread_name_prefix="terrazzo-loader") as pool:
        waiting: deque[tuple[Slot, range, list[Future[str]]]] = deque()

        def fill(slot: Slot, numbers: range) -> None:
            tasks = [pool.submit(slot.put, place, draws, draw) for place, draw in enumerate(numbers)]
            waiting.append((slot, numbers, tasks))

        try:
            numbers = next(ranges)
            like = draws(numbers[0])  # tells the size
            fill(Slot(len(numbers), like), numbers)
            for _ in range(ceil(workers / len(numbers))):  # so that no thread is idle while one batch is lent
                fill(Slot(len(numbers), like), next(ranges))
            while True:
                slot, numbers, tasks = waiting.popleft()
                yield slot.lend([task.result() for task in tasks], numbers)
                fill(slot, next(ranges))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _one_thread_per_image() -> Iterator[None]:
    """OpenCV's own threads would only take the cores from ours."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


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


def _size(array: NDArray[np.uint8] | Tensor) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
