"""A running mean of the weights, which is what is scored and shipped when it is on."""

import copy

import torch
from pydantic import Field

from terrazzo.base import Config
from terrazzo.models import Segmenter


class EmaConfig(Config):
    """Exponential moving average of the weights (Polyak & Juditsky 1992)."""

    decay: float = Field(0.999, gt=0, lt=1)
    """Share of the mean that is kept in a step; the mean reaches back about 1 / (1 - decay) steps."""
    warmup: bool = True
    """Use the smaller (1 + step) / (10 + step) while that is less than `decay`, so that the start is forgotten."""


class Ema:
    """The mean of a model's parameters; buffers (BatchNorm's statistics) are copies of the model's own."""

    def __init__(self, model: Segmenter, cfg: EmaConfig):
        self.cfg = cfg
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Segmenter, step: int) -> None:
        """Take in the weights after optimizer step number `step` (counted from 1)."""
        decay = min(self.cfg.decay, (1 + step) / (10 + step)) if self.cfg.warmup else self.cfg.decay
        for mean, parameter in zip(self.model.parameters(), model.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)
        for copied, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)
