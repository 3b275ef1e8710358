"""Where a tile of the target reads low-resolution logits, and the small matrices that enlarge it.

Bilinear enlargement is linear in rows and in columns apart: tile = R @ window @ C^T, with the window of low-resolution
logits that the tile reads. Its transpose, R^T @ tile @ C, brings a gradient back; unlike the backward of F.interpolate
and of advanced indexing it adds in a fixed order, and is deterministic on every device. Products are float32 (float64
for float64 logits); on CUDA they follow torch's TF32 switch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import floor
from typing import NamedTuple

import torch
from torch import Tensor


class TileShape(NamedTuple):
    """How the target is cut: the products cost in proportion to a tile's sides, the calls to their number."""

    values: int
    """Values in a tile, all classes counted."""
    rows: int
    """At most so many."""
    columns: int
    """At least so many."""


CPU_TILE = TileShape(2**18, 64, 64)
"""1 MiB, so that a tile stays in the second-level cache. The best of 2^17..2^20, 8..128 and 64..512 for 2, 19 and 150
classes, give or take what the machine's other load hides."""
DEVICE_TILE = TileShape(2**25, 4096, 1024)
"""128 MiB: on an accelerator few launches count more than the cache. Not tuned on one yet."""


@dataclass(frozen=True)
class Placement:
    """How logits lie over a target; resolved from what the callers of `kernels` give."""

    size: tuple[int, int]
    covers: tuple[float, float]
    align_corners: bool

    @classmethod
    def of(cls, size: tuple[int, int], covers: tuple[float, float] | None, align_corners: bool) -> "Placement":
        """`covers` None or (0, 0) means exactly the target."""
        return cls(size, covers if covers is not None and covers != (0, 0) else size, align_corners)


@dataclass(frozen=True)
class Strip:
    """A run of target rows (or columns) and the logit rows (or columns) they read."""

    target: slice
    source: slice
    weights: Tensor | None
    """[target, source], non-negative, each row sums to 1; None where a target row is a logit row."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of the target in some images. Tile tensors are [rows, images, K, columns]: both products are plain
    matrix products then, and everything per pixel runs along contiguous columns."""

    images: slice
    rows: Strip
    columns: Strip

    def of_masks(self, masks: Tensor) -> Tensor:
        """This tile of masks [B, H, W], as [rows, images, 1, columns]."""
        return masks[self.images, self.rows.target, self.columns.target].transpose(0, 1).unsqueeze(2)

    def of_logits(self, logits: Tensor, counted: Tensor | None = None) -> Tensor:
        """This tile of the enlarged logits [B, K, h, w].

        With `counted` (bool, as `of_masks`) logits that no counted pixel reads are taken as 0, so that even a NaN there
        reaches nothing; the answer is a fresh tensor then, free to be written over.
        """
        window = logits[self.images, :, self.rows.source, self.columns.source].permute(2, 0, 1, 3)
        window = window.to(working_dtype(logits))
        if counted is not None:
            window = window.masked_fill(self.transposed(counted.to(window.dtype)) == 0, 0)
        if self.columns.weights is not None:
            window = window @ self.columns.weights.T
        if self.rows.weights is not None:
            window = (self.rows.weights @ window.flatten(1)).view(-1, *window.shape[1:])
        return window

    def transposed(self, values: Tensor) -> Tensor:
        """The transpose of the enlargement: a tile [rows, images, any, columns] gathered to its window."""
        if self.rows.weights is not None:
            values = (self.rows.weights.T @ values.flatten(1)).view(-1, *values.shape[1:])
        return values if self.columns.weights is None else values @ self.columns.weights

    def put(self, plane: Tensor, values: Tensor) -> None:
        """Write a tile of one value a pixel, [rows, images, 1, columns], into a plane [B, H, W]."""
        plane[self.images, self.rows.target, self.columns.target] = values.squeeze(2).transpose(0, 1)

    def add_gradient(self, gradient: Tensor, values: Tensor) -> None:
        """Add a tile's gradient to that of the logits, [B, K, h, w], in place."""
        window = gradient[self.images, :, self.rows.source, self.columns.source]
        window += self.transposed(values).permute(1, 2, 0, 3)


def working_dtype(logits: Tensor) -> torch.dtype:
    """float32 for everything shorter: a softmax over 150 classes in bfloat16 is off by per cents."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def position(target: Tensor, source: int, covers: float, align_corners: bool) -> Tensor:
    """Where target rows sample `source` logit rows that lie over `covers` target rows."""
    if align_corners:
        place = target * ((source - 1) / (covers - 1) if covers > 1 else 0.0)
    else:
        place = (target + 0.5) * (source / covers) - 0.5
    return place.clamp(0, source - 1)


def strips(target: range, source: int, covers: float, align_corners: bool, step: int, like: Tensor) -> list[Strip]:
    """Cut one axis of the target into runs of `step`, each with its bilinear weights on `like`'s device."""
    found = []
    for start in range(target.start, target.stop, step):
        stop = min(start + step, target.stop)
        if covers == source and stop <= source:
            found.append(Strip(slice(start, stop), slice(start, stop), None))
            continue
        ends = position(torch.tensor([start, stop - 1], dtype=torch.float64), source, covers, align_corners).tolist()
        low, high = floor(ends[0]), min(source, floor(ends[1]) + 2)
        # made on the device: a copy from the host would be a wait, and wrong in a captured graph
        exact = torch.float32 if like.device.type == "mps" else torch.float64  # MPS has no float64
        places = position(torch.arange(start, stop, dtype=exact, device=like.device), source, covers, align_corners)
        reach = (places[:, None] - torch.arange(low, high, dtype=exact, device=like.device)).abs()
        # a hat function: right without a floor(), which host and device could round apart
        found.append(Strip(slice(start, stop), slice(low, high), (1 - reach).clamp(min=0).to(working_dtype(like))))
    return found


def tiles(logits: Tensor, placement: Placement) -> Iterator[Tile]:
    """Tiles that cover the target once; sizes depend on shapes and the device's type alone."""
    (batch, classes, height, width), (rows, columns) = logits.shape, placement.size
    shape = CPU_TILE if logits.device.type == "cpu" else DEVICE_TILE
    lines = max(1, min(rows, shape.rows, shape.values // (classes * shape.columns)))
    across = max(shape.columns, min(columns, shape.values // (classes * lines)))
    align = placement.align_corners
    row_strips = strips(range(rows), height, placement.covers[0], align, lines, logits)
    column_strips = strips(range(columns), width, placement.covers[1], align, across, logits)
    together = max(1, shape.values // (classes * rows * across))
    for first in range(0, batch, together):
        for row in row_strips:
            for column in column_strips:
                yield Tile(slice(first, min(first + together, batch)), row, column)
