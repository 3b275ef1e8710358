"""Changes of a layer's weight that are computed anew in every step and can be folded into it for good.

They are parametrizations (torch.nn.utils.parametrize): the layer itself stays in its place and runs its own operation,
so stride, dilation, groups, padding mode and eps are what they were, and code that reads `layer.weight` (as
nn.MultiheadAttention does) sees the changed weight.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from terrazzo.base import InputError
from terrazzo.models import Segmenter


class Change(nn.Module):
    """Base of the changes, weight -> changed weight of the same shape."""

    def forward(self, weight: Tensor) -> Tensor:
        raise NotImplementedError


class Place(NamedTuple):
    """The parameters of a layer that a change is about, by name."""

    weight: str
    bias: str


def place_of(layer: nn.Module) -> Place:
    """Attention keeps the weights of query, key and value in one tensor of its own."""
    fused = isinstance(layer, nn.MultiheadAttention)
    return Place("in_proj_weight", "in_proj_bias") if fused else Place("weight", "bias")


STANDARDIZED = {"StdConv2d", "StdConv2dSame", "WeightStandardizedConv2d"}
"""Convolutions of timm and transformers that bring their weights to mean 0 and variance 1: no factor survives that."""


def is_matrix(layer: nn.Module) -> bool:
    """Linear layers, convolutions of any dilation and groups, and attention whose query, key and value are one; none
    whose weight is made from others already (weight norm)."""
    known = isinstance(layer, nn.Linear | nn.Conv2d | nn.MultiheadAttention)
    return known and layer._parameters.get(place_of(layer).weight) is not None


def is_norm(layer: nn.Module) -> bool:
    """Norms with a weight of their own."""
    batch, instance = nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm
    known = (batch, instance, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return isinstance(layer, known) and layer._parameters.get("weight") is not None


def factor_of(layer: nn.Module) -> str | None:
    """The parameter of a matrix or norm whose rows are factors of the answer's channels; None if it has none."""
    if isinstance(layer, nn.Conv2d) and isinstance(getattr(layer, "gain", None), nn.Parameter):
        return "gain"  # of NFNet, beside a weight that is standardized
    return None if type(layer).__name__ in STANDARDIZED else place_of(layer).weight


def change(layer: nn.Module, name: str, by: Change) -> None:
    """From now on the parameter `name` of the layer is `by(parameter)`; the parameter itself is frozen."""
    parameter = getattr(layer, name)
    by.to(parameter)  # its device, and its precision
    parametrize.register_parametrization(layer, name, by)
    kept_in(layer)[name].original.requires_grad_(False)


def kept_in(layer: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    """A layer's parametrizations, by the name of the parameter that each is of."""
    lists = layer.parametrizations if parametrize.is_parametrized(layer) else nn.ModuleDict()
    return {name: kept for name, kept in lists.items() if isinstance(kept, parametrize.ParametrizationList)}  # type: ignore[union-attr,operator]  # torch's ModuleDict


def changed_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layers that hold a change, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if any(isinstance(part, Change) for kept in kept_in(layer).values() for part in kept)
    }


def fold(segmenter: Segmenter) -> list[str]:
    """Write every change into the weight it is of; the network has its first shape and names again.

    Returns the names of the layers.

    Raises:
        InputError: a layer has another parametrization (weight norm) beside ours.
    """
    layers = changed_layers(segmenter)
    for name, layer in layers.items():
        for kept in kept_in(layer).values():
            if not all(isinstance(part, Change) for part in kept):
                raise InputError(f"{name} has a parametrization of its own, into which nothing can be folded")
    for layer in layers.values():
        values = {parameter: getattr(layer, parameter).detach() for parameter in kept_in(layer)}
        # Not remove_parametrizations: that takes the parameter off a class which copies of the network (EMA's) share.
        layer.__class__ = parametrize.type_before_parametrizations(layer)
        del layer.parametrizations
        for parameter, value in values.items():
            layer.register_parameter(parameter, nn.Parameter(value))
    return list(layers)
