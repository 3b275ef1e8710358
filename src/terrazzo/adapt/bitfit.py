"""Training of the biases, the norms or both, and of nothing else (BitFit, Ben Zaken et al. 2022)."""

from typing import Literal

from torch import nn

from terrazzo.adapt.folded import is_norm
from terrazzo.adapt.targets import AlsoTrain
from terrazzo.base import Config, InputError
from terrazzo.models import Segmenter


class BitFit(Config):
    """Train biases, norms, or both, of the whole network (Ben Zaken et al. 2022)."""

    kind: Literal["bitfit"] = "bitfit"
    parts: Literal["bias", "norm", "both"] = "bias"
    """Biases (those of norms too), weights and biases of norms, or both."""
    also_train: AlsoTrain = "decoder"
    """What trains beside: the classifier, the decoder with it, or none."""


def bitfit(segmenter: Segmenter, cfg: BitFit, learnable: set[str]) -> list[str]:
    """Let those parameters learn that the method is about; their layers' names.

    Raises:
        InputError: the network has none.
    """
    found = []
    for name, layer in segmenter.net.named_modules():
        mine = [
            parameter
            for key, parameter in layer.named_parameters(recurse=False)
            if f"net.{name}.{key}".replace("..", ".") in learnable and _wanted(layer, key, cfg)
        ]
        for parameter in mine:
            parameter.requires_grad_(True)
        if mine:
            found.append(name)
    if not found:
        what = {"bias": "bias", "norm": "norm with weights", "both": "bias and no norm with weights"}[cfg.parts]
        raise InputError(f"adapt: this network has no {what}, so kind bitfit has nothing to train")
    return found


def _wanted(layer: nn.Module, key: str, cfg: BitFit) -> bool:
    return (cfg.parts != "norm" and key.endswith("bias")) or (cfg.parts != "bias" and is_norm(layer))
