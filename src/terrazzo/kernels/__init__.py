"""Losses and scores of low-resolution logits at full resolution, without ever making full-resolution logits.

Every function takes logits [B, K, h, w] and how they lie over the target: `covers`, the height and width in target
pixels of the area under the logits (at least the target; None or (0, 0): exactly the target), and `align_corners`,
whether corner samples sit on corner pixels. All enlarge as F.interpolate(mode="bilinear") does, and work in float32
whatever the logits are (float64 for float64).
"""

import torch
from torch import Tensor

from terrazzo.kernels.borders import border_distance
from terrazzo.kernels.counts import confusion_matrix, count_pairs
from terrazzo.kernels.lovasz import lovasz_sum
from terrazzo.kernels.tiled import (
    argmax,
    cross_entropy_sum,
    focal_sum,
    region_sums,
    true_probability,
    upsample,
    upsample_band,
)

__all__ = [
    "argmax",
    "border_distance",
    "confusion",
    "confusion_matrix",
    "count_pairs",
    "cross_entropy_sum",
    "focal_sum",
    "lovasz_sum",
    "region_sums",
    "true_probability",
    "upsample",
    "upsample_band",
]


def confusion(
    logits: Tensor, masks: Tensor, covers: tuple[float, float] | None = None, align_corners: bool = False
) -> Tensor:
    """Confusion matrix int64 [K, K], rows = truth, of the enlarged logits' classes against masks uint8 [B, H, W]."""
    found = argmax(logits, (masks.shape[1], masks.shape[2]), covers, align_corners)
    with torch.no_grad():
        return confusion_matrix(found, masks, logits.shape[1])
