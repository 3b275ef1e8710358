"""Data sets that loader processes can import (without torch, so that they start quickly)."""

import os
import time

import numpy as np

from terrazzo.base import Classes, InputError, Sample
from terrazzo.data.augment import AugmentConfig, augment
from terrazzo.data.facts import Position


class Noise:
    """Item i is noise of seed i, and takes its time."""

    def __init__(self, count: int = 40, size: tuple[int, int] = (20, 24)):
        self.count, self.size = count, size
        self.classes = Classes.of(("a", "b", "c"))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Sample:
        time.sleep(0.001 * (index % 3))
        rng = np.random.default_rng(index)
        mask = rng.integers(0, 3, self.size, np.uint8)
        return Sample(rng.integers(0, 256, (*self.size, 3), np.uint8), mask, f"noise{index}")


class Broken(Noise):
    """One item raises."""

    def __init__(self, bad: int, error: Exception):
        super().__init__()
        self.bad, self.error = bad, error

    def __getitem__(self, index: int, /) -> Sample:
        if index == self.bad:
            raise self.error
        return super().__getitem__(index)


class Deadly(Noise):
    """Reading an item in another process ends that process at once, as the kernel does when memory runs out."""

    def __init__(self) -> None:
        super().__init__()
        self.home = os.getpid()

    def __getitem__(self, index: int, /) -> Sample:
        if os.getpid() != self.home:
            os.kill(os.getpid(), 9)
        return super().__getitem__(index)


class Hanging(Noise):
    """Reading one item never ends, as on a network disk that is gone."""

    def __init__(self, bad: int) -> None:
        super().__init__()
        self.bad = bad

    def __getitem__(self, index: int, /) -> Sample:
        while index == self.bad:
            time.sleep(1)
        return super().__getitem__(index)


class Odd(Exception):
    """Cannot be unpickled: it asks for two arguments and keeps one."""

    def __init__(self, what: str, more: str):
        super().__init__(f"{what}, {more}")


class Foreign(Noise):
    """Raises in another process what does not survive the journey back."""

    def __init__(self) -> None:
        super().__init__()
        self.home = os.getpid()

    def __getitem__(self, index: int, /) -> Sample:
        if os.getpid() != self.home:
            raise Odd("bad", "worse")
        return super().__getitem__(index)


class Homesick(Noise):
    """Cannot be built anew in another process."""

    def __setstate__(self, state: dict) -> None:
        raise InputError("this data set stays where it was made")


def crop(sample: Sample, rng: np.random.Generator, focus: Position | None = None) -> Sample:
    return augment(sample, rng, AugmentConfig(crop=(12, 16)), focus)
