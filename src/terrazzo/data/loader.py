"""Batches as a pure function of (seed, step): a resume has nothing to restore, ranks and workers change nothing."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from itertools import count
from math import ceil
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrazzo.base import Dataset, InputError
from terrazzo.data.draws import Augment, Draws, Sampler, Shape, Slot, checked_sample, epoch_order, slots_in
from terrazzo.data.pixels import one_thread_per_image
from terrazzo.data.processes import Processes

__all__ = ["Augment", "Batch", "WorkerKind", "batches", "checked_sample", "epoch_order", "seed_of"]

WorkerKind = Literal["thread", "process"]


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


def batches(
    dataset: Dataset,
    augment: Augment,
    *,
    seed: int,
    batch: int,
    first_step: int,
    sampler: Sampler | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    worker_kind: WorkerKind = "thread",
    device: torch.device | None = None,
) -> Generator[Batch, None, None]:
    """The batches of a run from `first_step` on, without end.

    Draw `d` of the run is item `epoch_order(seed, d // n)[d % n]`, augmented by a generator that is seeded with d.

    Args:
        dataset: n items.
        augment: must give all samples one size.
        seed: of order and augmentation.
        batch: size of the global batch; a rank takes its contiguous share.
        first_step: optimizer steps already done.
        sampler: draws other items than that, or crops that contain a certain pixel.
        rank: which of `world` processes this is.
        world: number of processes.
        workers: threads or processes that work ahead; 0 works when asked.
        worker_kind: processes get `dataset`, `augment` and `sampler` pickled.
        device: a CUDA device gets its batches copied from pinned memory, beside what it computes; else they stay here.

    Raises:
        InputError: the data set is empty or the batch cannot be shared; while reading, what is wrong with a sample.
    """
    if len(dataset) == 0:
        raise InputError("the training set is empty")
    if batch % world:
        raise InputError(f"batch={batch} cannot be shared evenly by {world} processes; choose a multiple of {world}")
    draws = Draws(dataset, augment, seed, sampler)
    share = batch // world
    ranges = (range(first, first + share) for first in count(first_step * batch + rank * share, batch))
    if device is None or device.type != "cuda":
        return _batches(draws, ranges, workers, worker_kind, None)
    return _sent(_batches(draws, ranges, workers, worker_kind, device), device)


def _batches(
    draws: Draws, ranges: Iterator[range], workers: int, worker_kind: WorkerKind, pin_for: torch.device | None
) -> Generator[Batch, None, None]:
    """Batches in memory pinned for a device, or not. Nothing is read or started before the first is asked for."""
    numbers = next(ranges)
    shape = Shape.of(len(numbers), draws(numbers[0]))  # the first sample tells the size
    slots = 1 + ceil(workers / len(numbers))  # no worker is idle while one batch is lent
    crew: Crew
    if not workers:
        crew = Nobody(draws, shape, pin_for)
    elif worker_kind == "thread":
        crew = Threads(draws, workers, slots, shape, pin_for)
    else:
        crew = Processes(draws, workers, slots, shape)
    with one_thread_per_image(), closing(crew), _pinned(crew, pin_for):
        yield from _working_ahead(crew, shape, numbers, ranges)


class Crew(Protocol):
    """Who fills slots."""

    memory: NDArray[np.uint8]
    """Of all slots."""

    def submit(self, slot: int, place: int, draw: int) -> Callable[[], str]:
        """Begin to write a sample; calling the result waits for it and tells its name."""

    def close(self) -> None: ...


def _working_ahead(crew: Crew, shape: Shape, numbers: range, ranges: Iterator[range]) -> Generator[Batch, None, None]:
    """Free slots are filled; the one lent is free again when this generator is resumed, not before."""
    slots = slots_in(crew.memory, shape)
    waiting: deque[tuple[int, range, list[Callable[[], str]]]] = deque()

    def fill(slot: int, numbers: range) -> None:
        waiting.append((slot, numbers, [crew.submit(slot, place, draw) for place, draw in enumerate(numbers)]))

    fill(0, numbers)
    for slot in range(1, len(slots)):
        fill(slot, next(ranges))
    while True:
        slot, numbers, tasks = waiting.popleft()
        yield _lent(slots[slot], [task() for task in tasks], numbers)
        fill(slot, next(ranges))


def _lent(slot: Slot, names: list[str], draws: range) -> Batch:
    images, masks = torch.from_numpy(slot.images), torch.from_numpy(slot.masks)
    return Batch(images.permute(0, 3, 1, 2), masks, tuple(names), draws)


class Nobody:
    """Samples are written by who asks for them."""

    def __init__(self, draws: Draws, shape: Shape, pin_for: torch.device | None):
        self.memory = _memory(shape.bytes, pin_for)
        self._draws, (self._slot,) = draws, slots_in(self.memory, shape)

    def submit(self, slot: int, place: int, draw: int) -> Callable[[], str]:
        return lambda: self._slot.put(place, self._draws, draw)

    def close(self) -> None:
        pass


class Threads:
    """OpenCV lets go of Python's lock, so threads read and augment at once, and nothing has to be moved."""

    def __init__(self, draws: Draws, workers: int, slots: int, shape: Shape, pin_for: torch.device | None):
        self.memory = _memory(slots * shape.bytes, pin_for)
        self._draws, self._slots = draws, slots_in(self.memory, shape)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="terrazzo-loader")

    def submit(self, slot: int, place: int, draw: int) -> Callable[[], str]:
        return self._pool.submit(self._slots[slot].put, place, self._draws, draw).result

    def close(self) -> None:
        """Wait for what is being read; what has not begun does not."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _memory(size: int, pin_for: torch.device | None) -> NDArray[np.uint8]:
    with torch.cuda.device(pin_for) if pin_for else nullcontext():
        memory: NDArray[np.uint8] = torch.empty(size, dtype=torch.uint8, pin_memory=pin_for is not None).numpy()
    return memory


@contextmanager
def _pinned(crew: Crew, pin_for: torch.device | None) -> Iterator[None]:
    """Memory that was not made by torch is pinned in place: the device can then read it without the processor."""
    if pin_for is None or not isinstance(crew, Processes):
        yield
        return
    runtime, start = torch.cuda.cudart(), crew.memory.ctypes.data  # type: ignore[no-untyped-call]  # torch gives no types
    with torch.cuda.device(pin_for):
        torch.cuda.check_error(int(runtime.cudaHostRegister(start, crew.memory.nbytes, 0)))
    try:
        yield
    finally:
        torch.cuda.check_error(int(runtime.cudaHostUnregister(start)))


def _sent(feed: Generator[Batch, None, None], device: torch.device) -> Generator[Batch, None, None]:
    """The batches on a CUDA device. Its own stream copies each while the device is still busy with the step before.

    A slot is filled again, or given back, only after the event that ends its copy.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch gives it no types
    with closing(feed):
        for batch in feed:
            with torch.cuda.stream(stream):
                images = batch.images.permute(0, 2, 3, 1).to(device, non_blocking=True)  # in the order of the memory
                masks = batch.masks.to(device, non_blocking=True)
                copied = stream.record_event()
            try:
                computing = torch.cuda.current_stream(device)
                computing.wait_event(copied)
                for tensor in (images, masks):
                    tensor.record_stream(computing)  # or its memory could be taken for a later copy too early
                yield batch._replace(images=images.permute(0, 3, 1, 2), masks=masks)
            finally:
                copied.synchronize()
