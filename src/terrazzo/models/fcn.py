"""A fully convolutional network (Long et al. 2015) in its plainest form: a ResNet at stride 32 and two convolutions."""

from collections import OrderedDict
from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from terrazzo.base import IMAGENET
from terrazzo.models.backbone import BackboneInput, load_start, take_channels
from terrazzo.models.segmenter import Segmenter
from terrazzo.models.weights import LoadReport


class FcnResnetModel(BackboneInput):
    """A ResNet without dilation and a small head: the cheapest network of its depth."""

    kind: Literal["fcn_resnet"] = "fcn_resnet"
    encoder: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    """torchvision's ResNet of so many layers."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of numbers dropped before the last convolution while training."""
    weights: Literal["none"] | Path = "none"
    """What the whole network starts from: none or a file. Nobody publishes weights for it."""
    weights_backbone: Literal["none", "pretrained"] | Path | None = None
    """What the encoder alone starts from: none (random), pretrained (ImageNet, downloaded), or a file; null is
    pretrained, unless `weights` brings the whole."""


class FcnResnet(nn.Module):
    """Images [B, C, H, W], sides multiples of 32, to logits [B, K, H/32, W/32]."""

    def __init__(self, encoder: nn.Module, width: int, classes: int, dropout: float):
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.Sequential(
            nn.Conv2d(width, width // 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(width // 4),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.head = nn.Conv2d(width // 4, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.decoder(self.encoder(images)))
        return logits


def fcn_resnet_model(
    cfg: FcnResnetModel, classes: int, channels: int, *, pretrained: bool
) -> tuple[Segmenter, LoadReport | None]:
    """The network, and what became of the weights that the config names (none if not `pretrained`)."""
    from torchvision.models import get_model  # heavy, and needed by this model only

    resnet = get_model(cfg.encoder, weights=None)
    # A Sequential of the parts in use keeps torchvision's names of the tensors.
    parts = [(name, part) for name, part in resnet.named_children() if name not in ("avgpool", "fc")]
    net = FcnResnet(nn.Sequential(OrderedDict(parts)), resnet.fc.in_features, classes, cfg.dropout)
    take_channels(net, "encoder.conv1", channels)
    segmenter = Segmenter(net, normalization=cfg.normalization(IMAGENET, channels), stride=32)
    return segmenter, load_start(segmenter, cfg.start, name=cfg.encoder) if pretrained else None
