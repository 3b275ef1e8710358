"""Losses that are sums over pixels: cross entropy, and cross entropy with some pixels heard more than others."""

from math import ceil
from typing import Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator
from torch import Tensor

from terrazzo import kernels
from terrazzo.base import IGNORE, Config, InputError
from terrazzo.losses.term import Term
from terrazzo.losses.weights import ClassWeights

BORDER_SIGMAS = 4
"""Beyond so many sigmas a border adds less than 1/2900 of its weight, and is not looked for."""


class PixelLoss(Config):
    """What all pixel losses can be told."""

    weight: PositiveFloat = 1.0
    """Factor of this loss in the sum of losses."""
    class_weights: ClassWeights = "none"
    """Weight of each class's pixels: "none" all 1; "auto" by median frequency in the training labels, mean 1; or class
    names with weights, where a class not named weighs 1."""


class CrossEntropy(PixelLoss):
    """Cross entropy of every counted pixel, divided by their number (not by the sum of their class weights)."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each pixel's target that is spread evenly over all classes (label smoothing)."""


class Focal(PixelLoss):
    """-alpha * (1 - p) ** gamma * log p of every counted pixel, with p the softmax probability of its own class,
    divided by the number of counted pixels (Lin et al. 2017, eq. 5, as softmax). `class_weights` are alphas too."""

    kind: Literal["focal"] = "focal"
    gamma: NonNegativeFloat = 2.0
    """How much less a pixel counts that is nearly right; 0 is cross entropy."""
    alpha: PositiveFloat = 1.0
    """Factor of every pixel's loss, beside its class's weight. Lin et al. give the object class .25, all others .75."""


class Ohem(PixelLoss):
    """Cross entropy of the hard pixels only: those whose own class has a probability below `threshold`, and at least
    `min_kept` per image, the least probable (online hard example mining as MMSegmentation's OHEMPixelSampler does it).

    The sum is divided by the number of all counted pixels, kept or not. The least probable are looked for among the
    images that one device sees at a time: where `min_kept` decides, another number of ranks or accumulation steps
    keeps as many pixels in all, but not the same ones.
    """

    kind: Literal["ohem"] = "ohem"
    threshold: float = Field(0.7, ge=0, le=1)
    """A pixel is hard if its own class has less probability than this; 0 leaves the choice to `min_kept`."""
    min_kept: NonNegativeInt = 100_000
    """At least so many pixels are kept, times the images looked at together."""

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if not self.threshold and not self.min_kept:
            raise InputError("losses: ohem with threshold=0 and min_kept=0 keeps no pixel; give one of them")
        return self


class Boundary(PixelLoss):
    """Cross entropy times 1 + border_weight * exp(-d^2 / (2 sigma^2)), d pixels from the nearest border between two
    classes of the label map, divided by the number of counted pixels.

    After Ronneberger et al. 2015 (U-Net), eq. 2, which sums the distances to two cells: classes have no second one. The
    border runs along the pixels that have another class above, below, left or right of them, where d = 0; beside
    ignored pixels is none. Distances are of the crop that is trained on, after resizing.
    """

    kind: Literal["boundary"] = "boundary"
    border_weight: PositiveFloat = 10.0
    """What a pixel on a border weighs more than one far from any (w0 of the paper, and its value)."""
    sigma: PositiveFloat = 5.0
    """Pixels from the border at which 61 % of that is left (the paper's value)."""


def cross_entropy(cfg: CrossEntropy, weights: Tensor | None) -> Term:
    """Summed over pixels; `weights` [K] on the logits' device."""

    def term(logits: Tensor, masks: Tensor, covers: tuple[float, float], align_corners: bool) -> Tensor:
        return kernels.cross_entropy_sum(
            logits, masks, weights=weights, smoothing=cfg.smoothing, covers=covers, align_corners=align_corners
        )

    return term


def focal(cfg: Focal, weights: Tensor | None) -> Term:
    """Summed over pixels; `weights` [K] on the logits' device."""

    def term(logits: Tensor, masks: Tensor, covers: tuple[float, float], align_corners: bool) -> Tensor:
        return cfg.alpha * kernels.focal_sum(
            logits, masks, gamma=cfg.gamma, weights=weights, covers=covers, align_corners=align_corners
        )

    return term


def ohem(cfg: Ohem, weights: Tensor | None) -> Term:
    """Summed over the kept pixels; `weights` [K] on the logits' device."""

    def term(logits: Tensor, masks: Tensor, covers: tuple[float, float], align_corners: bool) -> Tensor:
        probability = kernels.true_probability(logits.detach(), masks, covers=covers, align_corners=align_corners)
        kept = masks.masked_fill(~hard_pixels(probability, masks, cfg), IGNORE)
        return kernels.cross_entropy_sum(logits, kept, weights=weights, covers=covers, align_corners=align_corners)

    return term


def hard_pixels(probability: Tensor, masks: Tensor, cfg: Ohem) -> Tensor:
    """Which pixels count, bool [B, H, W], by the probability [B, H, W] of each one's own class.

    Pixels as improbable as the last one kept are kept too, and so is NaN: it must not vanish from the loss.
    """
    counted = masks != IGNORE
    easy = probability >= cfg.threshold
    least = min(cfg.min_kept * masks.shape[0], masks.numel())
    if least:  # a number below the shapes' product: no pixel has to be asked, and nobody waits for the device
        ranked = probability.masked_fill(~counted, 2).flatten()
        easy &= probability > ranked.topk(least, largest=False, sorted=False).values.amax()
    return counted & ~easy


def boundary(cfg: Boundary, weights: Tensor | None) -> Term:
    """Summed over pixels; `weights` [K] on the logits' device."""

    def term(logits: Tensor, masks: Tensor, covers: tuple[float, float], align_corners: bool) -> Tensor:
        return kernels.cross_entropy_sum(
            logits,
            masks,
            weights=weights,
            pixel_weights=border_weights(masks, cfg),
            covers=covers,
            align_corners=align_corners,
        )

    return term


def border_weights(masks: Tensor, cfg: Boundary) -> Tensor:
    """The weight of every pixel, float32 [B, H, W]; 1 far from all borders."""
    distance = kernels.border_distance(masks, ceil(BORDER_SIGMAS * cfg.sigma))
    return torch.exp(distance.square_().mul_(-0.5 / cfg.sigma**2)).mul_(cfg.border_weight).add_(1)
