"""Low-rank adaptation (Hu et al. 2022) and its weight-decomposed form (DoRA, Liu et al. 2024), of convolutions too."""

import math
from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.adapt.folded import Change, change, is_matrix, place_of
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


class LowRank(Change):
    """weight + alpha / rank * up @ down, for DoRA scaled to a learned length of every row."""

    magnitude: nn.Parameter | None

    def __init__(self, weight: Tensor, cfg: Lora, *, groups: int):
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(cfg.rank, rows, columns)
        self.groups = groups
        self.share = cfg.alpha / cfg.rank
        self.dropout = cfg.dropout
        self.down = nn.Parameter(torch.empty(rank, columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        lengths = nn.Parameter(weight.detach().flatten(1).norm(dim=1).clone()) if cfg.dora else None
        self.register_parameter("magnitude", lengths)

    def forward(self, weight: Tensor) -> Tensor:
        product: Tensor = (self.up @ self.down).view(weight.shape)
        if self.training and self.dropout:
            # A row is of one group and has its channels only; a depth-wise one has a single channel.
            seen = functional.dropout(weight.new_ones(self.groups, weight.shape[1]), self.dropout)
            seen = seen.repeat_interleave(len(weight) // self.groups, 0)
            product = product * seen.view(*seen.shape, *(1 for _ in weight.shape[2:]))
        changed: Tensor = weight + self.share * product
        if self.magnitude is None:
            return changed
        # Detached, as in the paper's section 4.3: a constant in the backward pass.
        lengths: Tensor = changed.detach().flatten(1).norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        return changed * (self.magnitude / lengths).view(-1, *(1 for _ in weight.shape[1:]))


def lora(segmenter: Segmenter, cfg: Lora) -> list[str]:
    """Add the products; names of the layers."""
    layers = find_targets(segmenter, cfg.targets, is_matrix)
    for layer in layers.values():
        name = place_of(layer).weight
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        change(layer, name, LowRank(getattr(layer, name), cfg, groups=groups))
    return list(layers)
