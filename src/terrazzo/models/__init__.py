"""Networks. A new architecture: one file here with its config, one member in the union, one case below."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, assert_never, get_args

from pydantic import Field
from torch import nn

from terrazzo.base import InputError, Normalization
from terrazzo.models.fcn import FcnResnetModel, fcn_resnet_model
from terrazzo.models.huggingface import (
    HuggingFaceModel,
    answers_queries,
    has_auxiliary_head,
    huggingface_model,
    written_out,
)
from terrazzo.models.own import OwnModel, own_model
from terrazzo.models.segformer import SegFormerModel, segformer_model
from terrazzo.models.segmenter import Segmenter
from terrazzo.models.smp import ModelEntry, SmpModel, smp_entries, smp_model
from terrazzo.models.timm import TimmModel, timm_model
from terrazzo.models.torchvision import TorchvisionArch, TorchvisionModel, torchvision_model
from terrazzo.models.unet import UNetModel, unet_model
from terrazzo.models.weights import LoadReport, load_weights
from terrazzo.models.zoo import ZooModel, has_class_aux, zoo_model
from terrazzo.published.loading import find_architecture

__all__ = [
    "FcnResnetModel",
    "HuggingFaceModel",
    "LoadReport",
    "ModelConfig",
    "ModelEntry",
    "OwnModel",
    "SegFormerModel",
    "Segmenter",
    "SmpModel",
    "TimmModel",
    "TorchvisionModel",
    "UNetModel",
    "ZooModel",
    "build_model",
    "has_auxiliary_heads",
    "has_queries",
    "list_models",
    "load_weights",
    "self_contained",
    "with_normalization",
]

ModelConfig = Annotated[
    SmpModel
    | TimmModel
    | TorchvisionModel
    | UNetModel
    | FcnResnetModel
    | SegFormerModel
    | HuggingFaceModel
    | OwnModel
    | ZooModel,
    Field(discriminator="kind"),
]


def build_model(
    cfg: ModelConfig,
    classes: int,
    channels: int = 3,
    *,
    names: tuple[str, ...] = (),
    own: nn.Module | None = None,
    pretrained: bool = True,
) -> tuple[Segmenter, LoadReport | None]:
    """The network for `classes` classes and images of `channels` channels, and what became of its weights.

    `names` are those of the classes, for heads that are taken over by name; `own` is the user's module for kind own.
    `pretrained=False` builds the bare architecture, whatever `cfg.weights` says: for a bundle that brings all tensors
    itself. The report is None if no weights were asked for.
    """
    if own is not None and not isinstance(cfg, OwnModel):
        raise InputError(f"a network was passed, but model.kind is {cfg.kind}; type model.kind=own")
    report = None
    match cfg:
        case SmpModel():
            download = pretrained and cfg.weights == "pretrained"
            segmenter, report = smp_model(cfg, classes, channels, download=download)
        case TimmModel():
            return timm_model(cfg, classes, channels, pretrained=pretrained)
        case TorchvisionModel():
            return torchvision_model(cfg, classes, channels, pretrained=pretrained)
        case FcnResnetModel():
            return fcn_resnet_model(cfg, classes, channels, pretrained=pretrained)
        case SegFormerModel():
            return segformer_model(cfg, classes, channels, pretrained=pretrained)
        case HuggingFaceModel():
            return huggingface_model(cfg, classes, channels, names=names, pretrained=pretrained)
        case ZooModel():
            return zoo_model(cfg, classes, channels, names=names, pretrained=pretrained)
        case UNetModel():
            segmenter = unet_model(cfg, classes, channels)
        case OwnModel():
            segmenter = own_model(cfg, own, classes, channels)
        case _:
            assert_never(cfg)
    if pretrained and isinstance(cfg.weights, Path):
        report = load_weights(segmenter, cfg.weights)
    return segmenter, report


def has_auxiliary_heads(cfg: ModelConfig) -> bool:
    """Whether the network answers auxiliary logits; of a user's own network that is not known, and said to be true."""
    match cfg:
        case SmpModel() | FcnResnetModel() | SegFormerModel():
            return False
        case TimmModel() | TorchvisionModel():
            return cfg.aux
        case UNetModel():
            return cfg.deep_supervision
        case HuggingFaceModel():
            return has_auxiliary_head(cfg)
        case ZooModel():
            return has_class_aux(find_architecture(cfg.name))
        case OwnModel():
            return True
        case _:
            assert_never(cfg)


def has_queries(cfg: ModelConfig) -> bool | None:
    """Whether the network answers queries, which one loss alone reads; None if the config does not tell."""
    match cfg:
        case HuggingFaceModel():
            return answers_queries(cfg)
        case TimmModel():
            return cfg.decoder.kind == "eomt"
        case OwnModel():
            return None
        case _:
            return False


def self_contained(cfg: ModelConfig, segmenter: Segmenter) -> ModelConfig:
    """The config of a network that is kept with its weights: it names no file and, where a library knows the network
    by a name alone, says what the library said."""
    if isinstance(cfg, HuggingFaceModel):
        return written_out(cfg, segmenter)
    if isinstance(cfg, ZooModel):
        return cfg.model_copy(update={"weights": "none", "head": "by_name"})  # nothing is loaded by name, or new
    return cfg.model_copy(update={"weights": "none"})


def with_normalization(cfg: ModelConfig, normalization: Normalization) -> ModelConfig:
    """The config with a trained network's numbers written out, so that a bundle depends on no library's defaults."""
    return cfg.model_copy(update=dict(normalization))


def list_models(pattern: str = "") -> list[ModelEntry]:
    """Architectures and encoders whose name or family contains `pattern`, or fits it if it has * or ?; in any case."""
    wanted = pattern.lower()
    fits = wanted if any(sign in wanted for sign in "*?[") else f"*{wanted}*"
    kinds = ("unet", "fcn_resnet", "segformer", "timm", "huggingface", "own")
    own = [ModelEntry(kind, "architecture", kind, "") for kind in kinds]
    torchvision = [
        ModelEntry("torchvision", "architecture", arch, arch.partition("_")[0], ("COCO_WITH_VOC_LABELS_V1",))
        for arch in get_args(TorchvisionArch)
    ]
    return [
        entry
        for entry in [*own, *torchvision, *smp_entries()]
        if fnmatch(entry.name.lower(), fits) or fnmatch(entry.family.lower(), fits)
    ]
