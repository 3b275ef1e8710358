"""Networks. A new architecture: one file here with its config, one member in the union, one case below."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, assert_never

from pydantic import Field
from torch import nn

from terrazzo.base import InputError
from terrazzo.models.own import OwnModel, own_model
from terrazzo.models.segmenter import Normalization, Segmenter
from terrazzo.models.smp import ModelEntry, SmpModel, smp_entries, smp_model
from terrazzo.models.unet import UNetModel, unet_model
from terrazzo.models.weights import LoadReport, load_weights

__all__ = [
    "LoadReport",
    "ModelConfig",
    "ModelEntry",
    "Normalization",
    "OwnModel",
    "Segmenter",
    "SmpModel",
    "UNetModel",
    "build_model",
    "list_models",
    "load_weights",
    "with_normalization",
]

ModelConfig = Annotated[SmpModel | UNetModel | OwnModel, Field(discriminator="kind")]


def build_model(
    cfg: ModelConfig, classes: int, channels: int = 3, *, own: nn.Module | None = None, pretrained: bool = True
) -> tuple[Segmenter, LoadReport | None]:
    """The network for `classes` classes and images of `channels` channels, and what became of its weights.

    `own` is the user's module for kind own. `pretrained=False` builds the bare architecture, whatever `cfg.weights`
    says: for a bundle that brings all tensors itself. The report is None if no weights were asked for.
    """
    if own is not None and not isinstance(cfg, OwnModel):
        raise InputError(f"a network was passed, but model.kind is {cfg.kind}; type model.kind=own")
    report = None
    match cfg:
        case SmpModel():
            download = pretrained and cfg.weights == "pretrained"
            segmenter, report = smp_model(cfg, classes, channels, download=download)
        case UNetModel():
            segmenter = unet_model(cfg, classes, channels)
        case OwnModel():
            segmenter = own_model(cfg, own, classes, channels)
        case _:
            assert_never(cfg)
    if pretrained and isinstance(cfg.weights, Path):
        report = load_weights(segmenter, cfg.weights)
    return segmenter, report


def with_normalization(cfg: ModelConfig, normalization: Normalization) -> ModelConfig:
    """The config with a trained network's numbers written out, so that a bundle depends on no library's defaults."""
    return cfg.model_copy(update=dict(normalization))


def list_models(pattern: str = "") -> list[ModelEntry]:
    """Architectures and encoders whose name or family contains `pattern`, or fits it if it has * or ?; in any case."""
    wanted = pattern.lower()
    fits = wanted if any(sign in wanted for sign in "*?[") else f"*{wanted}*"
    own = [ModelEntry(kind, "architecture", kind, "") for kind in ("unet", "own")]
    return [
        entry
        for entry in [*own, *smp_entries()]
        if fnmatch(entry.name.lower(), fits) or fnmatch(entry.family.lower(), fits)
    ]
