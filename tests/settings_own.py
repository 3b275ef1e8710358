"""A user's dataset, in a module that a loader process can import without waiting for torch."""

import numpy as np

from terrazzo.base import Classes, Sample

SIZE = (24, 40)
"""Height and width of all images; not square, or the two sides of a resize could not be told apart."""


class OwnSet:
    """A user's dataset."""

    classes = Classes.of(["x", "y"])

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        image, mask = rng.integers(0, 256, (*SIZE, 3), np.uint8), rng.integers(0, 2, SIZE, np.uint8)
        return Sample(image, mask, str(index))
