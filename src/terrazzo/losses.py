"""Losses of an Output and its masks. A new loss: one class, one function, one case.

A pixel loss is a sum over counted pixels divided by their number in the *global* batch, a region loss a sum over images
divided by the number of those that show a counted pixel; the caller gives both numbers, so the parts that ranks or
accumulation steps take add up to the loss of the whole batch. A crop without a counted pixel gives exactly 0 and no
gradient.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Literal, assert_never

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from terrazzo import kernels
from terrazzo.base import IGNORE, Classes, Config, InputError, Mask
from terrazzo.output import Output

Term = Callable[[Tensor, Tensor, tuple[float, float], bool], Tensor]
"""(logits [B, K, h, w], masks [B, H, W], covers, align_corners) -> scalar, summed over pixels or over images."""


class CrossEntropy(Config):
    """Cross entropy of every counted pixel, divided by their number (not by the sum of their class weights)."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    weight: PositiveFloat = 1.0
    """Factor of this loss in the sum of losses."""
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each pixel's target that is spread evenly over all classes (label smoothing)."""
    class_weights: Literal["none", "auto"] | dict[str, NonNegativeFloat] = "none"
    """Weight of each class's pixels: "none" all 1; "auto" by median frequency in the training labels, mean 1; or class
    names with weights, where a class not named weighs 1."""


class Tversky(Config):
    """1 - overlap / (overlap + alpha * false positives + beta * false negatives), per image, mean over the classes that
    the image shows (Salehi et al. 2017); then the mean over images."""

    kind: Literal["tversky"] = "tversky"
    weight: PositiveFloat = 1.0
    """Factor of this loss in the sum of losses."""
    setting: Literal["dice", "jaccard"] | None = None
    """A named pair instead of alpha and beta: "dice" is 0.5 and 0.5, "jaccard" 1 and 1. Nothing given is "dice"."""
    alpha: NonNegativeFloat | None = None
    """Weight of false positives; goes together with beta."""
    beta: NonNegativeFloat | None = None
    """Weight of false negatives; goes together with alpha."""
    eps: PositiveFloat = 1.0
    """Pixels added above and below the fraction; keeps tiny classes from jumping."""

    @model_validator(mode="after")
    def _one_way(self) -> "Tversky":
        given = [name for name in ("alpha", "beta") if getattr(self, name) is not None]
        if self.setting is not None and given:
            raise InputError(
                f"tversky has setting={self.setting!r} and {' and '.join(given)}; "
                "give either the setting or both numbers"
            )
        if len(given) == 1:
            raise InputError(f"tversky has {given[0]} alone; give both alpha and beta, or a setting")
        return self

    @property
    def rates(self) -> tuple[float, float]:
        """alpha and beta, whichever way they were given."""
        if self.alpha is not None and self.beta is not None:
            return self.alpha, self.beta
        return (1.0, 1.0) if self.setting == "jaccard" else (0.5, 0.5)


LossConfig = Annotated[CrossEntropy | Tversky, Field(discriminator="kind")]


@dataclass(frozen=True)
class Loss:
    """The weighted sum of losses of the logits, plus `auxiliary` times the same of each auxiliary head."""

    pixel_terms: tuple[tuple[float, Term], ...]
    """(weight, sum over counted pixels)"""
    image_terms: tuple[tuple[float, Term], ...]
    """(weight, sum over images)"""
    auxiliary: float

    def sums(self, output: Output, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel losses summed over the counted pixels and region losses summed over the images, each a scalar.

        `masks` uint8 [B, H, W] are what `output.covers` is measured in.
        """
        heads = [(1.0, output.logits), *((self.auxiliary, logits) for logits in output.aux if self.auxiliary)]

        def total(terms: tuple[tuple[float, Term], ...]) -> Tensor:
            parts = [
                share * weight * term(logits, masks, output.covers, output.align_corners)
                for share, logits in heads
                for weight, term in terms
            ]
            return torch.stack(parts).sum() if parts else output.logits.new_zeros((), dtype=torch.float32)

        return total(self.pixel_terms), total(self.image_terms)

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
    for cfg in cfgs:
        match cfg:
            case CrossEntropy():
                weights = _class_weights(cfg, classes, frequencies, torch.device(device))
                pixel_terms.append((cfg.weight, cross_entropy(cfg, weights)))
            case Tversky():
                image_terms.append((cfg.weight, tversky(cfg)))
            case _:
                assert_never(cfg)
    return Loss(tuple(pixel_terms), tuple(image_terms), auxiliary)


def cross_entropy(cfg: CrossEntropy, weights: Tensor | None) -> Term:
    """Summed over pixels; `weights` [K] on the logits' device."""

    def term(logits: Tensor, masks: Tensor, covers: tuple[float, float], align_corners: bool) -> Tensor:
        return kernels.cross_entropy_sum(
            logits, masks, weights=weights, smoothing=cfg.smoothing, covers=covers, align_corners=align_corners
        )

    return term


def tversky(cfg: Tversky) -> Term:
    """Dice, Jaccard and everything between, summed over images; an image without a counted pixel adds 0."""
    alpha, beta = cfg.rates

    def term(logits: Tensor, masks: Tensor, covers: tuple[float, float], align_corners: bool) -> Tensor:
        overlap, predicted, truth = kernels.region_sums(logits, masks, covers=covers, align_corners=align_corners)
        wrong = alpha * (predicted - overlap) + beta * (truth - overlap)
        score = (overlap + cfg.eps) / (overlap + wrong + cfg.eps)
        shown = truth > 0
        loss = ((1 - score) * shown).sum(1) / shown.sum(1).clamp(min=1)  # no boolean index: static shapes, no wait
        return loss.sum()

    return term


def count(masks: Tensor) -> Tensor:
    """Counted pixels of masks [B, H, W] and images that show one, int64 [2], on their device. Parts add up."""
    pixels = (masks != IGNORE).flatten(1).sum(1)
    return torch.stack([pixels.sum(), (pixels > 0).sum()])


def needs_frequencies(cfgs: tuple[LossConfig, ...]) -> bool:
    """Whether the training labels must be read once before training."""
    return any(isinstance(cfg, CrossEntropy) and cfg.class_weights == "auto" for cfg in cfgs)


def class_frequencies(masks: Iterable[Mask], classes: int) -> Tensor:
    """Frequency of each class as in Eigen & Fergus 2015, 6.3.2: its pixels divided by the counted pixels of the images
    that show it, float64 [K]; 0 for a class that no image shows."""
    pixels, beside = np.zeros(classes), np.zeros(classes)
    for mask in masks:
        counts = np.bincount(mask.reshape(-1), minlength=256)[:classes]
        pixels += counts
        beside += counts.sum() * (counts > 0)
    return torch.from_numpy(pixels / np.maximum(beside, 1))


def median_frequency_weights(frequencies: Tensor) -> Tensor:
    """Median frequency divided by frequency, scaled to mean 1 over the classes that occur; 1 for one that does not."""
    occurs = frequencies > 0
    weights = torch.where(occurs, 1 / frequencies.clamp(min=torch.finfo(frequencies.dtype).tiny), 0)
    return torch.where(occurs, weights * occurs.sum() / weights.sum(), 1)


def _class_weights(
    cfg: CrossEntropy, classes: Classes, frequencies: Tensor | None, device: torch.device
) -> Tensor | None:
    match cfg.class_weights:
        case "none":
            return None
        case "auto":
            if frequencies is None:
                raise InputError("class_weights: auto needs the frequency of each class in the training labels")
            return median_frequency_weights(frequencies.double()).to(device, torch.float32)
        case dict(named):
            for name in named:
                if name not in classes.names:
                    close = get_close_matches(name, classes.names, n=1)
                    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(classes.names)}"
                    raise InputError(f"class_weights names {name!r}, which is no class of this data set; {hint}")
            return torch.tensor([named.get(name, 1.0) for name in classes.names], device=device)
        case _:
            assert_never(cfg.class_weights)
