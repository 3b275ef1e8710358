"""Numbers as labels: from grey values, palette indices or numbers of a text to class ids."""

from collections.abc import Mapping
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.base import Mask
from terrazzo.data.pixels import UNKNOWN

FAR = 1 << 40
"""Numbers this far from zero are no labels; a text file could hold them."""


class ValueMap:
    """The class of every number. Made once, used from any thread.

    Args:
        ids: class id (or IGNORE) of each number.
        tolerance: another number has the id of the nearest of these, up to this distance.
        unknown: id of a number that is near to no class, or equally near to two.
        negative: the same for numbers below zero.
    """

    def __init__(self, ids: Mapping[int, int], tolerance: int = 0, unknown: int = UNKNOWN, negative: int = UNKNOWN):
        self.ids = dict(sorted((number, k) for number, k in ids.items() if abs(number) < FAR))
        self.tolerance, self.unknown, self.negative = tolerance, unknown, negative

    def mask(self, values: NDArray[np.integer]) -> Mask:
        """The ids of an array of integers, uint8 of its shape."""
        if values.dtype == np.uint8:
            return np.asarray(cv2.LUT(np.ascontiguousarray(values), self._table[:256]), np.uint8)
        if values.dtype == np.uint16:
            return np.take(self._table, values)
        low, high = int(values.min()), int(values.max())  # signed: a cast would turn -1 into 255 or 65535
        if high - low < 1024:
            return np.take(self._nearest(np.arange(low, high + 1)), values - low)
        different, inverse = np.unique(values, return_inverse=True)
        return self._nearest(different)[inverse].reshape(values.shape)

    @cached_property
    def _table(self) -> Mask:
        """Of every number of 16 bits."""
        return self._nearest(np.arange(1 << 16))

    def _nearest(self, values: NDArray[np.integer]) -> Mask:
        """Of the numbers themselves, [N]."""
        known = np.array([-4 * FAR, *self.ids, 4 * FAR])
        ids = np.array([self.unknown, *self.ids.values(), self.unknown], np.uint8)
        values = np.clip(values.astype(np.int64), -2 * FAR, 2 * FAR)
        above = np.searchsorted(known, values)
        up, down = known[above] - values, values - known[above - 1]
        found = np.where(up < down, ids[above], ids[above - 1])
        none = (np.minimum(up, down) > self.tolerance) | ((up == down) & (ids[above] != ids[above - 1]))
        found[none] = np.where(values < 0, np.uint8(self.negative), np.uint8(self.unknown))[none]
        return found
