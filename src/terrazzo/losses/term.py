"""What a loss is to the sum of losses."""

from collections.abc import Callable

from torch import Tensor

Term = Callable[[Tensor, Tensor, tuple[float, float], bool], Tensor]
"""(logits [B, K, h, w], masks [B, H, W], covers, align_corners) -> scalar, summed over pixels or over images."""
