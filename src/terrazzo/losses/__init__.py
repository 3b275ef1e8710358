"""Losses of an Output and its masks. A new loss: one class and one function in a file here, one member, one case.

A pixel loss is a sum over counted pixels divided by their number in the *global* batch, a region loss a sum over images
divided by the number of those that show a counted pixel; the caller gives both numbers, so the parts that ranks or
accumulation steps take add up to the loss of the whole batch (a loss that must look at several images at once says how
far). A crop without a counted pixel gives exactly 0 and no gradient.
"""

from dataclasses import dataclass
from typing import Annotated, assert_never

import torch
from pydantic import Field
from torch import Tensor

from terrazzo.base import IGNORE, Classes, InputError
from terrazzo.losses.pixels import (
    Boundary,
    CrossEntropy,
    Focal,
    Ohem,
    PixelLoss,
    boundary,
    cross_entropy,
    focal,
    ohem,
)
from terrazzo.losses.queries import MaskClassification, QueryTerm, mask_classification
from terrazzo.losses.regions import Lovasz, Tversky, lovasz, tversky
from terrazzo.losses.term import Term
from terrazzo.losses.weights import class_frequencies, class_weights, median_frequency_weights
from terrazzo.output import Output

__all__ = [
    "Boundary",
    "CrossEntropy",
    "Focal",
    "Loss",
    "LossConfig",
    "Lovasz",
    "MaskClassification",
    "Ohem",
    "Tversky",
    "build_loss",
    "class_frequencies",
    "count",
    "median_frequency_weights",
    "needs_frequencies",
]

LossConfig = Annotated[
    CrossEntropy | Focal | Ohem | Boundary | Tversky | Lovasz | MaskClassification, Field(discriminator="kind")
]


@dataclass(frozen=True)
class Loss:
    """The weighted sum of losses of the logits, plus `auxiliary` times the same of each auxiliary head of classes."""

    pixel_terms: tuple[tuple[float, Term], ...]
    """(weight, sum over counted pixels)"""
    image_terms: tuple[tuple[float, Term], ...]
    """(weight, sum over images)"""
    auxiliary: float
    query_terms: tuple[tuple[float, QueryTerm], ...] = ()
    """(weight, sum over images), of the queries of a mask-classification network"""

    def sums(self, output: Output, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel losses summed over the counted pixels and region losses summed over the images, each a scalar.

        `masks` uint8 [B, H, W] are what `output.covers` is measured in. Scores without queries, as they come from
        windows and test-time augmentation, have no loss: both are nan.

        Raises:
            InputError: these losses read queries and the network answers none, or the other way round.
        """
        if output.are_scores or self.query_terms:
            return self._query_sums(output, masks)
        heads = [(1.0, output.logits), *((self.auxiliary, logits) for logits in output.class_aux if self.auxiliary)]

        def total(terms: tuple[tuple[float, Term], ...]) -> Tensor:
            parts = [
                share * weight * term(logits, masks, output.covers, output.align_corners)
                for share, logits in heads
                for weight, term in terms
            ]
            return torch.stack(parts).sum() if parts else output.logits.new_zeros((), dtype=torch.float32)

        return total(self.pixel_terms), total(self.image_terms)

    def _query_sums(self, output: Output, masks: Tensor) -> tuple[Tensor, Tensor]:
        nothing = output.logits.new_zeros((), dtype=torch.float32)
        if self.pixel_terms or self.image_terms:
            raise InputError(
                "losses: this network answers queries, which only mask_classification reads; type "
                "losses: [{kind: mask_classification}]"
            )
        if not output.are_scores:
            raise InputError(
                "losses: mask_classification needs a network that answers queries (Mask2Former, EoMT), and this one "
                "answers logits; type losses: [{kind: cross_entropy}]"
            )
        if output.queries is None:
            return nothing, nothing + torch.nan
        asked = output.queries, masks, output.covers, output.align_corners
        parts = [weight * term(*asked) for weight, term in self.query_terms]
        return nothing, torch.stack(parts).sum()

    def __call__(self, output: Output, masks: Tensor, counted: Tensor) -> Tensor:
        """The scalar to minimise; `counted` [2] is what `count` gives for the global batch."""
        per_pixel, per_image = self.sums(output, masks)
        return per_pixel / counted[0].clamp(min=1) + per_image / counted[1].clamp(min=1)


def build_loss(
    cfgs: tuple[LossConfig, ...],
    classes: Classes,
    *,
    auxiliary: float,
    frequencies: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Loss:
    """The configured losses as one.

    Args:
        frequencies: [K], as `class_frequencies` gives; needed where `needs_frequencies` says so.
        device: where the logits will be.

    Raises:
        InputError: no losses; class weights that name no class; frequencies needed but not given.
    """
    if not cfgs:
        raise InputError("losses is empty; give at least one, such as {kind: cross_entropy}")
    pixel_terms: list[tuple[float, Term]] = []
    image_terms: list[tuple[float, Term]] = []
    query_terms: list[tuple[float, QueryTerm]] = []
    for cfg in cfgs:
        match cfg:
            case PixelLoss():
                weights = class_weights(cfg.class_weights, classes, frequencies, torch.device(device))
                pixel_terms.append((cfg.weight, _pixel_term(cfg, weights)))
            case Tversky():
                image_terms.append((cfg.weight, tversky(cfg)))
            case Lovasz():
                image_terms.append((cfg.weight, lovasz(cfg)))
            case MaskClassification():
                query_terms.append((cfg.weight, mask_classification(cfg)))
            case _:
                assert_never(cfg)
    return Loss(tuple(pixel_terms), tuple(image_terms), auxiliary, tuple(query_terms))


def _pixel_term(cfg: CrossEntropy | Focal | Ohem | Boundary, weights: Tensor | None) -> Term:
    match cfg:
        case CrossEntropy():
            return cross_entropy(cfg, weights)
        case Focal():
            return focal(cfg, weights)
        case Ohem():
            return ohem(cfg, weights)
        case Boundary():
            return boundary(cfg, weights)
        case _:
            assert_never(cfg)


def count(masks: Tensor) -> Tensor:
    """Counted pixels of masks [B, H, W] and images that show one, int64 [2], on their device. Parts add up."""
    pixels = (masks != IGNORE).flatten(1).sum(1)
    return torch.stack([pixels.sum(), (pixels > 0).sum()])


def needs_frequencies(cfgs: tuple[LossConfig, ...]) -> bool:
    """Whether the training labels must be read once before training."""
    return any(isinstance(cfg, PixelLoss) and cfg.class_weights == "auto" for cfg in cfgs)
