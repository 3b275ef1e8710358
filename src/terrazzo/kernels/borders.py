"""How far a pixel is from the next border between two classes."""

import torch
from torch import Tensor

from terrazzo.base import IGNORE


def border_distance(masks: Tensor, reach: int) -> Tensor:
    """Euclidean distance in pixels to the nearest border pixel, float32 [B, H, W], of masks uint8 [B, H, W].

    A border pixel has a counted pixel of another class above, below, left or right of it; next to an ignored pixel is
    no border, for nobody knows what is there. Exact up to `reach`; beyond, something greater than `reach`, or inf.
    """
    squared = torch.full(masks.shape, torch.inf, device=masks.device).masked_fill_(_borders(masks), 0)
    for axis in (1, 2):  # the nearest in a column, then the nearest of those in a row: distance is a sum of squares
        length = masks.shape[axis]
        nearest = squared.clone()
        for shift in range(1, min(reach + 1, length)):
            kept = length - shift
            for here, there in ((0, shift), (shift, 0)):
                nearest.narrow(axis, here, kept).clamp_(max=squared.narrow(axis, there, kept) + shift**2)
        squared = nearest
    return squared.sqrt_()


def _borders(masks: Tensor) -> Tensor:
    """Border pixels, bool [B, H, W]."""
    found = torch.zeros_like(masks, dtype=torch.bool)
    for axis in (1, 2):
        kept = masks.shape[axis] - 1
        a, b = masks.narrow(axis, 0, kept), masks.narrow(axis, 1, kept)
        differ = (a != b) & (a != IGNORE) & (b != IGNORE)
        found.narrow(axis, 0, kept).logical_or_(differ)
        found.narrow(axis, 1, kept).logical_or_(differ)
    return found
