"""Scaling and shifting of features (Lian et al. 2022): y = gamma * op(x) + beta after operations that are frozen."""

from typing import Literal

import torch
from torch import Tensor, nn

from terrazzo.adapt.folded import Change, change, factor_of, is_matrix, is_norm, place_of
from terrazzo.adapt.targets import AlsoTrain, Targets, find_targets
from terrazzo.base import Config
from terrazzo.models import Segmenter


class Ssf(Config):
    """Scale and shift the output channels of layers (Lian et al. 2022).

    A layer without bias gets no shift: it would need a tensor that the network does not have, and the norm that
    usually follows has a shift of its own. So a folded network has just the tensors of the base.
    """

    kind: Literal["ssf"] = "ssf"
    targets: Targets = "auto"
    """Layers that are scaled: auto (the encoder's linear layers, convolutions and norms), names, or {regex: ...}."""
    also_train: AlsoTrain = "decoder"
    """What trains beside: the classifier, the decoder with it, or none."""


class Scale(Change):
    """weight * gamma, a factor for every output channel: a weight's first axis, or, of a transposed convolution,
    [inputs, outputs / groups, h, w], the second of each group."""

    def __init__(self, channels: int, transposed_groups: int | None):
        super().__init__()
        self.transposed_groups = transposed_groups
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, weight: Tensor) -> Tensor:
        factors: Tensor = self.gamma
        if self.transposed_groups is not None:
            factors = factors.view(self.transposed_groups, -1)
            factors = factors.repeat_interleave(len(weight) // self.transposed_groups, 0)
        return weight * factors.view(*factors.shape, *(1 for _ in weight.shape[factors.ndim :]))


class Shift(Change):
    """bias * gamma + beta."""

    def __init__(self, scale: Scale):
        super().__init__()
        self.beta = nn.Parameter(torch.zeros_like(scale.gamma))
        self.of = (scale,)  # in a tuple, so that gamma is not registered, and saved, a second time

    def forward(self, bias: Tensor) -> Tensor:
        return bias * self.of[0].gamma + self.beta


def _can_be_scaled(layer: nn.Module) -> bool:
    # Convolutions that standardize their weights (BiT's) are left as they are: no factor of a weight survives that.
    known = is_matrix(layer) or is_norm(layer) or isinstance(layer, nn.ConvTranspose2d)
    return known and factor_of(layer) is not None


def ssf(segmenter: Segmenter, cfg: Ssf) -> list[str]:
    """Add the scales and shifts; names of the layers."""
    layers = find_targets(segmenter, cfg.targets, _can_be_scaled)
    for layer in layers.values():
        weight, bias = factor_of(layer), place_of(layer).bias
        assert weight is not None, "these were left out"
        transposed = layer if isinstance(layer, nn.ConvTranspose2d) else None
        channels = getattr(layer, weight).shape[0] if transposed is None else transposed.out_channels
        scale = Scale(channels, None if transposed is None else transposed.groups)
        change(layer, weight, scale)
        if getattr(layer, bias, None) is not None:
            change(layer, bias, Shift(scale))
    return list(layers)
