"""The kernels in plain torch: a tile of the target at a time, small enough to stay in the cache.

Nothing here waits for the device, and every sum is taken in a fixed order.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from terrazzo.base import IGNORE
from terrazzo.kernels.layout import CPU_TILE, Placement, Tile, strips, tiles, working_dtype


def no_autocast(logits: Tensor) -> torch.autocast:
    """Autocast would turn the matrix products into bfloat16 ones."""
    return torch.autocast(logits.device.type, enabled=False)


def upsample_band(
    logits: Tensor,
    rows: range,
    size: tuple[int, int],
    covers: tuple[float, float] | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Target rows `rows` of the enlarged logits, [B, K, len(rows), W]; differentiable."""
    placement, width = Placement.of(size, covers, align_corners), logits.shape[3]
    (band,) = strips(rows, logits.shape[2], placement.covers[0], align_corners, len(rows), logits)
    columns = strips(range(size[1]), width, placement.covers[1], align_corners, CPU_TILE.columns, logits)
    images = slice(0, logits.shape[0])
    with no_autocast(logits):
        return torch.cat([Tile(images, band, c).of_logits(logits).permute(1, 2, 0, 3) for c in columns], dim=3)


def upsample(
    logits: Tensor, size: tuple[int, int], covers: tuple[float, float] | None = None, align_corners: bool = False
) -> Tensor:
    """The enlarged logits whole, [B, K, H, W]: for probabilities and pictures, never for losses or scores."""
    bands = [range(start, min(start + 64, size[0])) for start in range(0, size[0], 64)]
    return torch.cat([upsample_band(logits, rows, size, covers, align_corners) for rows in bands], dim=2)


def argmax(
    logits: Tensor, size: tuple[int, int], covers: tuple[float, float] | None = None, align_corners: bool = False
) -> Tensor:
    """The class of every target pixel, uint8 [B, H, W]; of equal logits the lowest class, as torch.argmax answers."""
    classes = logits.shape[1]
    found = torch.empty((logits.shape[0], *size), dtype=torch.uint8, device=logits.device)
    # torch.argmax takes 2-10 times as long on a CPU, and so would numpy's: neither is vectorised across classes
    rank = torch.arange(classes, 0, -1, dtype=torch.uint8, device=logits.device)[:, None]
    with torch.no_grad(), no_autocast(logits):
        for tile in tiles(logits, Placement.of(size, covers, align_corners)):
            values = tile.of_logits(logits)
            best = (values == values.amax(2, keepdim=True)).view(torch.uint8).mul_(rank).amax(2)
            chosen = (classes - best).clamp_(max=classes - 1)  # a pixel of NaN has no best: the last class
            found[tile.images, tile.rows.target, tile.columns.target] = chosen.transpose(0, 1)
    return found


def cross_entropy_sum(
    logits: Tensor,
    masks: Tensor,
    *,
    weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    smoothing: float = 0.0,
    covers: tuple[float, float] | None = None,
    align_corners: bool = False,
) -> Tensor:
    """F.cross_entropy(reduction="sum") of logits [B, K, h, w] enlarged over masks uint8 [B, H, W].

    One pass gives loss and gradient: the derivative is known, up to one scalar, as soon as the pixel's softmax is.
    Logits that no counted pixel reads change nothing and get exactly no gradient, whatever they are. A NaN or infinite
    logit that a counted pixel reads makes the loss NaN.

    Args:
        weights: [K] weight of each class, as in F.cross_entropy; None weighs all alike.
        pixel_weights: [B, H, W] factor of each pixel's loss; None is 1.
        smoothing: share of the target that is spread over all classes, as in F.cross_entropy.
    """
    weights = None if weights is None else weights.to(working_dtype(logits))

    def in_place(tile: Tile, values: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        share = counted.to(values.dtype)
        if pixel_weights is not None:
            share = (tile.of_masks(pixel_weights) * share).to(values.dtype)
        return _cross_entropy_in_place(values, target, share, weights, smoothing)

    return _pixel_sum(logits, masks, in_place, covers, align_corners)


def focal_sum(
    logits: Tensor,
    masks: Tensor,
    *,
    gamma: float,
    weights: Tensor | None = None,
    covers: tuple[float, float] | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Cross entropy of every pixel times (1 - p) ** gamma, with p the softmax probability of the pixel's own class.

    Everything else is as in `cross_entropy_sum`, which it equals at gamma 0.
    """
    weights = None if weights is None else weights.to(working_dtype(logits))

    def in_place(tile: Tile, values: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        return _focal_in_place(values, target, counted.to(values.dtype), weights, gamma)

    return _pixel_sum(logits, masks, in_place, covers, align_corners)


TileLoss = Callable[[Tile, Tensor, Tensor, Tensor], Tensor]
"""(tile, its logits [rows, images, K, columns], target, counted) -> the tile's loss; the logits are written over by the
gradient of the loss with respect to them."""


def _pixel_sum(
    logits: Tensor, masks: Tensor, in_place: TileLoss, covers: tuple[float, float] | None, align_corners: bool
) -> Tensor:
    placement = Placement.of((masks.shape[1], masks.shape[2]), covers, align_corners)
    wants_gradient = torch.is_grad_enabled() and logits.requires_grad
    with no_autocast(logits):
        loss: Tensor = _PixelSum.apply(logits, masks, in_place, placement, wants_gradient)
    return loss


class _PixelSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, masks: Tensor, in_place: TileLoss, placement: Placement, wants_gradient: bool
    ) -> Tensor:
        dtype = working_dtype(logits)
        loss = torch.zeros((), dtype=dtype, device=logits.device)
        gradient = torch.zeros(logits.shape if wants_gradient else 0, dtype=dtype, device=logits.device)
        for tile in tiles(logits, placement):
            target = tile.of_masks(masks)
            counted = target != IGNORE
            values = tile.of_logits(logits, counted)
            loss += in_place(tile, values, target, counted)
            if wants_gradient:
                tile.add_gradient(gradient, values)
        ctx.save_for_backward(gradient.to(logits.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None, None, None


def _index(target: Tensor) -> Tensor:
    """int64 class ids with a stand-in where there is none."""
    return target.masked_fill(target == IGNORE, 0).long()


def _cross_entropy_in_place(
    values: Tensor, target: Tensor, share: Tensor, weights: Tensor | None, smoothing: float
) -> Tensor:
    """Loss of a tile; `share` [rows, images, 1, columns] is each pixel's factor, 0 where it is not counted."""
    index = _index(target)
    hard = share if weights is None else weights.take(index) * share
    mass = hard = hard * (1 - smoothing)

    values -= values.amax(2, keepdim=True)
    loss = -hard * values.gather(2, index)
    if smoothing:  # a part of the target is spread over all classes
        spread = values.new_ones(values.shape[2], 1) if weights is None else weights[:, None]
        soft = share * spread.mul(smoothing / values.shape[2])
        loss -= (values * soft).sum(2, keepdim=True)
        mass = hard + soft.sum(2, keepdim=True)
    total = values.exp_().sum(2, keepdim=True)
    loss += mass * total.log()

    values *= mass / total
    values.scatter_add_(2, index, -hard)
    if smoothing:
        values -= soft
    return loss.sum()


def _focal_in_place(values: Tensor, target: Tensor, share: Tensor, weights: Tensor | None, gamma: float) -> Tensor:
    """With u = 1 - p the loss is -u ** gamma * log p, its derivative by log p is gamma * p * u ** (gamma - 1) * log p -
    u ** gamma, and that of log p by the logits is one-hot minus softmax."""
    index = _index(target)
    hard = share if weights is None else weights.take(index) * share

    values -= values.amax(2, keepdim=True)
    own = values.gather(2, index)
    total = values.exp_().sum(2, keepdim=True)
    log_p = own - total.log()
    # a pixel that is sure to the last bit has u = 0, which no power below 0 may meet
    u = (-torch.expm1(log_p)).clamp(min=torch.finfo(values.dtype).tiny)
    fade = u.pow(gamma)
    slope = hard * (fade - gamma * log_p.exp() * u.pow(gamma - 1) * log_p)

    values *= slope / total
    values.scatter_add_(2, index, -slope)
    return -(hard * fade * log_p).sum()


def true_probability(
    logits: Tensor, masks: Tensor, *, covers: tuple[float, float] | None = None, align_corners: bool = False
) -> Tensor:
    """Softmax probability of every pixel's own class, [B, H, W], without gradient; means nothing at ignored pixels."""
    placement = Placement.of((masks.shape[1], masks.shape[2]), covers, align_corners)
    found = torch.empty(masks.shape, dtype=working_dtype(logits), device=logits.device)
    with torch.no_grad(), no_autocast(logits):
        for tile in tiles(logits, placement):
            target = tile.of_masks(masks)
            values = tile.of_logits(logits, target != IGNORE)
            own = values.gather(2, _index(target)) - values.logsumexp(2, keepdim=True)
            tile.put(found, own.exp_())
    return found


def region_sums(
    logits: Tensor, masks: Tensor, *, covers: tuple[float, float] | None = None, align_corners: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """What region losses are made of: per image and class, over the counted pixels, each [B, K]:

    overlap (probability on the pixels of the class), predicted (probability everywhere), truth (number of pixels of the
    class). The backward enlarges every tile again, for its gradient is known only when the sums are.
    """
    placement = Placement.of((masks.shape[1], masks.shape[2]), covers, align_corners)
    with no_autocast(logits):
        overlap, predicted, truth = _RegionSums.apply(logits, masks, placement)
    return overlap, predicted, truth


class _RegionSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, masks: Tensor, placement: Placement) -> tuple[Tensor, Tensor, Tensor]:
        overlap, predicted, truth = torch.zeros(
            (3, *logits.shape[:2]), dtype=working_dtype(logits), device=logits.device
        )
        for tile in tiles(logits, placement):
            probabilities, hit, counted = _tile_probabilities(tile, logits, masks)
            overlap[tile.images] += (probabilities * hit).sum((0, 3))
            predicted[tile.images] += (probabilities * counted).sum((0, 3))
            truth[tile.images] += hit.sum((0, 3))
        ctx.save_for_backward(logits, masks)
        ctx.placement = placement
        ctx.mark_non_differentiable(truth)
        return overlap, predicted, truth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, overlap: Tensor, predicted: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        logits, masks = ctx.saved_tensors
        gradient = torch.zeros(logits.shape, dtype=overlap.dtype, device=logits.device)
        with no_autocast(logits):
            for tile in tiles(logits, ctx.placement):
                probabilities, hit, counted = _tile_probabilities(tile, logits, masks)
                slope = predicted[tile.images, :, None] + hit * overlap[tile.images, :, None]
                slope -= (probabilities * slope).sum(2, keepdim=True)  # the derivative of softmax
                tile.add_gradient(gradient, slope.mul_(probabilities).mul_(counted))
        return gradient.to(logits.dtype), None, None


def _tile_probabilities(tile: Tile, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax, one-hot truth [rows, images, K, columns] and counted pixels [rows, images, 1, columns] of a tile."""
    target = tile.of_masks(masks)
    counted = target != IGNORE
    hit = target == torch.arange(logits.shape[1], device=logits.device)[:, None]
    return tile.of_logits(logits, counted).softmax(2), hit, counted
