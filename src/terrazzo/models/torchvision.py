"""torchvision's segmentation networks, with their own tensors' names and without the enlargement at their end."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator
from torch import Tensor, nn

from terrazzo.base import IMAGENET
from terrazzo.models.backbone import BackboneInput, load_start, take_channels
from terrazzo.models.segmenter import Role, Segmenter
from terrazzo.models.weights import LoadReport

TorchvisionArch = Literal[
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
]

ROLES: dict[str, Role] = {"classifier": "decoder", "classifier.4": "head"}
LRASPP_ROLES: dict[str, Role] = {
    "classifier": "decoder",
    "classifier.low_classifier": "head",
    "classifier.high_classifier": "head",
}
"""torchvision calls all behind the backbone the classifier; its last layers alone know the classes."""


class TorchvisionModel(BackboneInput):
    """A network of torchvision."""

    kind: Literal["torchvision"] = "torchvision"
    arch: TorchvisionArch = "deeplabv3_resnet50"
    """Architecture and backbone."""
    aux: bool = False
    """Add the auxiliary head on an earlier stage of the backbone."""
    weights: Literal["none", "pretrained"] | Path = "none"
    """What the whole network starts from: none, pretrained (COCO with VOC's 21 classes, downloaded), or a file."""
    weights_backbone: Literal["none", "pretrained"] | Path | None = None
    """What the encoder alone starts from: none (random), pretrained (ImageNet, downloaded), or a file; null is
    pretrained, unless `weights` brings the whole."""

    @model_validator(mode="after")
    def _has_an_auxiliary_head(self) -> Self:
        if self.aux and self.arch.startswith("lraspp"):
            raise ValueError(f"{self.arch} has no auxiliary head: write aux: false")
        return self


class NativeStride(nn.Module):
    """Images [B, C, H, W] to logits [B, K, h, w], or (logits, auxiliary logits) in eval mode too."""

    def __init__(self, net: Any, *, aux: bool, two_levels: bool):
        super().__init__()
        self.backbone = net.backbone
        self.classifier = net.classifier
        self.aux_classifier = net.aux_classifier if aux else None
        self.two_levels = two_levels

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.backbone(images)
        logits: Tensor = self.classifier(features if self.two_levels else features["out"])
        if self.aux_classifier is None:
            return logits
        return logits, self.aux_classifier(features["aux"])


def torchvision_model(
    cfg: TorchvisionModel, classes: int, channels: int, *, pretrained: bool
) -> tuple[Segmenter, LoadReport | None]:
    """The network, and what became of the weights that the config names (none if not `pretrained`)."""
    from torchvision.models import get_model  # heavy, and needed by this model only

    resnet, lraspp = "resnet" in cfg.arch, cfg.arch.startswith("lraspp")
    whole = get_model(cfg.arch, weights=None, weights_backbone=None, num_classes=classes, aux_loss=cfg.aux)
    net = NativeStride(whole, aux=cfg.aux, two_levels=lraspp)
    take_channels(net, "backbone.conv1" if resnet else "backbone.0.0", channels)
    segmenter = Segmenter(
        net,
        normalization=cfg.normalization(IMAGENET, channels),
        stride=8 if resnet else 16,
        roles=LRASPP_ROLES if lraspp else ROLES,
    )
    name = cfg.arch.partition("_")[2] if cfg.start.encoder_only else cfg.arch
    return segmenter, load_start(segmenter, cfg.start, name=name) if pretrained else None
