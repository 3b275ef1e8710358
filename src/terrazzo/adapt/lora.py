"""Low-rank adaptation (Hu et al. 2022) and its weight-decomposed form (DoRA, Liu et al. 2024), of convolutions too."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from terrazzo.adapt.folded import change, is_matrix, place_of
from terrazzo.adapt.low_rank import LowRank, learn_narrowly
from terrazzo.adapt.targets import AlsoTrain, Targets, find_targets
from terrazzo.base import Config
from terrazzo.models import Segmenter


class Lora(Config):
    """Add a product of two narrow matrices to the weights of layers (Hu et al. 2022).

    A convolution's weight [F, C / groups, h, w] is the matrix [F, C / groups * h * w], whatever its dilation or groups.
    """

    kind: Literal["lora"] = "lora"
    rank: PositiveInt = 16
    """Columns of the narrow matrices; no more than the layer's own matrix has rows or columns."""
    alpha: PositiveFloat = 16
    """The product counts alpha / rank times."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of input channels that the product does not see in a step (the same for all images of the step)."""
    dora: bool = False
    """Learn the length of each output channel's weights apart from their direction (Liu et al. 2024)."""
    targets: Targets = "auto"
    """Layers: auto (the encoder's linear layers and convolutions), names, or {regex: ...}."""
    also_train: AlsoTrain = "decoder"
    """What trains beside: the classifier, the decoder with it, or none."""


def lora(segmenter: Segmenter, cfg: Lora) -> list[str]:
    """Add the products; names of the layers."""
    layers = find_targets(segmenter, cfg.targets, is_matrix)
    for layer in layers.values():
        name = place_of(layer).weight
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        product = LowRank(getattr(layer, name), cfg.rank, cfg.alpha, cfg.dropout, dora=cfg.dora, groups=groups)
        change(layer, name, product)
        learn_narrowly(layer)
    return list(layers)
