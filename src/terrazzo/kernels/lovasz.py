"""Lovasz-Softmax (Berman et al. 2018) of low-resolution logits: sorts whole planes [B, H, W], one class at a time."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from terrazzo.base import IGNORE
from terrazzo.kernels.layout import Placement, tiles, working_dtype
from terrazzo.kernels.tiled import no_autocast


def lovasz_sum(
    logits: Tensor,
    masks: Tensor,
    *,
    over: Literal["image", "batch"] = "image",
    classes: Literal["present", "all"] = "present",
    covers: tuple[float, float] | None = None,
    align_corners: bool = False,
) -> Tensor:
    """The loss of logits [B, K, h, w] enlarged over masks uint8 [B, H, W], summed over images.

    `over` "image" ranks the pixels of each image; "batch" ranks those of all images together and counts the one loss
    once for every image that shows a counted pixel. The mean over classes is over those in the truth, or over all.
    Ignored pixels, and logits that only they read, change nothing.
    """
    placement = Placement.of((masks.shape[1], masks.shape[2]), covers, align_corners)
    wants_gradient = torch.is_grad_enabled() and logits.requires_grad
    with no_autocast(logits):
        share = _class_shares(masks, logits.shape[1], over, classes, working_dtype(logits))
        loss: Tensor = _Lovasz.apply(logits, masks, share, placement, wants_gradient)
    return loss


class _Lovasz(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, masks: Tensor, share: Tensor, placement: Placement, wants_gradient: bool
    ) -> Tensor:
        """With a = d loss / d probability, d loss / d logit k is p_k * a_k minus p_k * sum over classes of p * a: the
        first part is gathered class by class, the second once the sum is known."""
        dtype = working_dtype(logits)
        loss = torch.zeros((), dtype=dtype, device=logits.device)
        gradient = torch.zeros(logits.shape if wants_gradient else 0, dtype=dtype, device=logits.device)
        counted, normaliser = masks != IGNORE, _normaliser(logits, masks, placement)
        pulls = torch.zeros_like(normaliser)
        for k in range(logits.shape[1]):
            if share.device.type == "cpu" and not share[:, k].any():  # elsewhere the question would be a wait
                continue
            own, truth = logits[:, k : k + 1], masks == k
            probability = _probability(own, masks, normaliser, placement)
            error = torch.where(truth, 1 - probability, probability).masked_fill_(~counted, -1)
            rows = (share.shape[0], -1)
            slope = _jaccard_slopes(error.reshape(rows), truth.reshape(rows)) * share[:, k, None]
            loss += (slope * error.reshape(rows)).sum()
            if wants_gradient:
                slope = slope.view(masks.shape)
                pull = torch.where(truth, -slope, slope) * probability
                pulls += pull
                for tile in tiles(own, placement):
                    tile.add_gradient(gradient[:, k : k + 1], tile.of_masks(pull))
        if wants_gradient:
            for tile in tiles(logits, placement):
                values = tile.of_logits(logits, tile.of_masks(counted)).sub_(tile.of_masks(normaliser)).exp_()
                tile.add_gradient(gradient, values.mul_(-tile.of_masks(pulls)))
        ctx.save_for_backward(gradient.to(logits.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None, None, None


def _class_shares(
    masks: Tensor,
    classes: int,
    over: Literal["image", "batch"],
    averaged: Literal["present", "all"],
    dtype: torch.dtype,
) -> Tensor:
    """Weight of each class's loss, [rows, K]: a row is an image, or the whole batch."""
    pixels = torch.stack([(masks == k).flatten(1).sum(1) for k in range(classes)], 1)
    images = (pixels.sum(1, keepdim=True) > 0).sum(0, keepdim=True) if over == "batch" else 1
    rows = pixels.sum(0, keepdim=True) if over == "batch" else pixels
    shown = (rows > 0 if averaged == "present" else torch.ones_like(rows)).to(dtype)
    return shown * images / shown.sum(1, keepdim=True).clamp(min=1)


def _normaliser(logits: Tensor, masks: Tensor, placement: Placement) -> Tensor:
    """The logarithm of softmax's denominator, [B, H, W]."""
    plane = torch.empty(masks.shape, dtype=working_dtype(logits), device=logits.device)
    for tile in tiles(logits, placement):
        values = tile.of_logits(logits, tile.of_masks(masks) != IGNORE)
        tile.put(plane, values.logsumexp(2, keepdim=True))
    return plane


def _probability(own: Tensor, masks: Tensor, normaliser: Tensor, placement: Placement) -> Tensor:
    """The softmax probability [B, H, W] of the class whose logits [B, 1, h, w] are given; 0 at ignored pixels."""
    plane = torch.empty_like(normaliser)
    for tile in tiles(own, placement):
        counted = tile.of_masks(masks) != IGNORE
        values = tile.of_logits(own, counted).sub_(tile.of_masks(normaliser)).exp_()
        tile.put(plane, values.masked_fill_(~counted, 0))
    return plane


def _jaccard_slopes(error: Tensor, truth: Tensor) -> Tensor:
    """Derivative of the Lovasz extension of the Jaccard loss by each error, [rows, pixels] as `error` is; a negative
    error is an ignored pixel.

    What an error adds to the Jaccard loss when it joins those greater than itself: 1 / union for a missed pixel,
    overlap / (union * (union - 1)) for a false one, where union already holds it. The differences of Jaccard losses
    that the paper's algorithm 1 takes are the same numbers, but lose half the digits of float32.
    """
    ranked, order = error.sort(dim=1, descending=True, stable=True)
    missed = truth.gather(1, order)
    so_far = missed.cumsum(1, dtype=torch.int32)  # not float32, which stops counting at 2^24
    overlap = truth.sum(1, keepdim=True) - so_far
    union = overlap + torch.arange(1, error.shape[1] + 1, device=error.device)
    false = overlap.to(error.dtype) / union / (union - 1).clamp(min=1)
    false.masked_fill_(union == 1, 1)  # the class is nowhere: one false pixel and its loss is whole
    slope = torch.where(missed, 1 / union.to(error.dtype), false).masked_fill_(ranked < 0, 0)
    return torch.empty_like(slope).scatter_(1, order, slope)
