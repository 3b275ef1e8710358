"""CPU time of bringing a batch of 8 samples of 512x512 from workers to the trainer, all processes added up (Linux).

python benchmarks/transport.py
Target: ours takes at most 1/15 of torch's DataLoader with worker processes, float32 images and int64 masks.

Making a sample costs nothing here: every data set hands out arrays that it already has, in the type it ships.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import measure
from terrazzo.base import Classes, Sample
from terrazzo.data.loader import WorkerKind, batches

SIDE, BATCH, WORKERS, WARM, STEPS, ROUNDS = 512, 8, 2, 20, 60, 5


class Ours:
    """uint8, as everywhere in terrazzo."""

    def __init__(self) -> None:
        self.classes = Classes.of(("a", "b"))
        self.sample = Sample(np.ones((SIDE, SIDE, 3), np.uint8), np.ones((SIDE, SIDE), np.uint8), "ones")

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int, /) -> Sample:
        return self.sample


class Theirs(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, image: torch.dtype, mask: torch.dtype):
        self.pair = torch.ones((3, SIDE, SIDE), dtype=image), torch.ones((SIDE, SIDE), dtype=mask)

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pair


def unchanged(sample: Sample, rng: np.random.Generator) -> Sample:
    return sample


def our_batches(kind: WorkerKind) -> Iterator[object]:
    with closing(
        batches(Ours(), unchanged, seed=0, batch=BATCH, first_step=0, workers=WORKERS, worker_kind=kind)
    ) as feed:
        yield from feed


def their_batches(image: torch.dtype, mask: torch.dtype) -> Iterator[object]:
    yield from DataLoader(Theirs(image, mask), batch_size=BATCH, num_workers=WORKERS)


def spent() -> float:
    """CPU seconds of this process and those it started."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def seconds_per_batch(feed: Iterator[object]) -> float:
    for _ in islice(feed, WARM):
        pass
    before = spent()
    for _ in islice(feed, STEPS):
        pass
    return (spent() - before) / STEPS


FEEDS: dict[str, Callable[[], Iterator[object]]] = {
    "terrazzo, threads": lambda: our_batches("thread"),
    "terrazzo, processes": lambda: our_batches("process"),
    "DataLoader, float32 + int64": lambda: their_batches(torch.float32, torch.int64),
    "DataLoader, uint8": lambda: their_batches(torch.uint8, torch.uint8),
}


def main() -> None:
    found: dict[str, list[float]] = {name: [] for name in FEEDS}
    for _ in range(ROUNDS):
        for name, make in FEEDS.items():
            feed = make()
            found[name].append(seconds_per_batch(feed))
            del feed  # its workers end
    title = f"a batch of {BATCH} samples of {SIDE}x{SIDE}, {WORKERS} workers, CPU of all processes"
    measure.report(title, {name: statistics.median(times) for name, times in found.items()}, "terrazzo, threads")


if __name__ == "__main__":
    measure.one_thread()
    main()
