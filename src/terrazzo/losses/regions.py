"""Losses of whole regions: a mean over classes, summed over images."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from terrazzo import kernels
from terrazzo.base import Config, InputError
from terrazzo.losses.term import Term


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


class Lovasz(Config):
    """Lovasz-Softmax (Berman et al. 2018): the Jaccard loss of each class, made continuous by ranking the pixels by
    their error; mean over classes, then over images.

    Over an image it is the mean over images, whatever the number of ranks. Over a batch the pixels are ranked among the
    images that one device sees at a time, and the loss is the mean of these parts, weighted by their images: another
    number of ranks or accumulation steps is another loss.
    """

    kind: Literal["lovasz"] = "lovasz"
    weight: PositiveFloat = 1.0
    """Factor of this loss in the sum of losses."""
    over: Literal["image", "batch"] = "image"
    """Which pixels are ranked together: each image's own, or those of all images in the batch."""
    classes: Literal["present", "all"] = "present"
    """The mean is over the classes that the truth shows there, or over all: then a class that is nowhere pays for its
    greatest false probability."""


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


def lovasz(cfg: Lovasz) -> Term:
    """Summed over images; an image without a counted pixel adds 0."""

    def term(logits: Tensor, masks: Tensor, covers: tuple[float, float], align_corners: bool) -> Tensor:
        return kernels.lovasz_sum(
            logits, masks, over=cfg.over, classes=cfg.classes, covers=covers, align_corners=align_corners
        )

    return term
