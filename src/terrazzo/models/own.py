"""A network of the user's own: any `nn.Module` passed from Python."""

import copy
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt
from torch import nn

from terrazzo.base import IMAGENET, InputError
from terrazzo.models.segmenter import ModelInput, Segmenter, probe


class OwnModel(ModelInput):
    """Your own network, passed from Python: `terrazzo.train(config, model=net)`."""

    kind: Literal["own"] = "own"
    stride: PositiveInt = 1
    """Images are padded at the bottom and right to a multiple of this many pixels."""
    weights: Literal["none"] | Path = "none"
    """File to load into the network: none (keep what it has) or a path."""


def own_model(cfg: OwnModel, net: nn.Module | None, classes: int, channels: int) -> Segmenter:
    """Wrap a copy of `net`, which answers logits [B, K, h, w], a tuple (logits, auxiliary logits, ...) or an `Output`.

    Parts called encoder or backbone, and head, segmentation_head or classifier, get those roles; the rest is decoder.
    What is passed stays as it is, with its weights and what may learn of it: it can be given to the next run as well.
    Mean and std are ImageNet's unless the config says otherwise. The answer's shape is checked on one small image.
    """
    if net is None:
        raise InputError(
            "model.kind is own, but no network was passed: type terrazzo.train(config, model=net) to train it, "
            "terrazzo.load(MODEL, network=net) or evaluate(MODEL, network=net) to use what was trained"
        )
    normalization = cfg.normalization(IMAGENET, channels)
    segmenter = Segmenter(copy.deepcopy(net), normalization=normalization, stride=cfg.stride)
    probe(segmenter, classes)
    return segmenter
