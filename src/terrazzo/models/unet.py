"""A UNet (Ronneberger et al. 2015) with padded convolutions, for training from nothing.

Encoder stage i has width * 2^i channels at stride 2^i; every decoder level enlarges by a transposed convolution, which
is deterministic on every device, and joins the encoder's features of that stride. The paper's own widths (64 to 512,
then 1024 at the bottom, no normalisation) are width 64, depth 4, norm none; depth 5 and 6 double them further.
"""

from math import gcd
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, cat, nn

from terrazzo.base import IMAGENET
from terrazzo.models.segmenter import ModelInput, Segmenter


class UNetModel(ModelInput):
    """terrazzo's own UNet."""

    kind: Literal["unet"] = "unet"
    width: PositiveInt = 16
    """Channels of the first stage; each further stage has twice as many."""
    depth: int = Field(default=4, ge=1, le=8)
    """How often the image is halved."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Batch normalisation; group normalisation, which does not depend on the batch; or none."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of channels dropped after each block while training."""
    deep_supervision: bool = False
    """Every coarser decoder level answers auxiliary logits too."""
    weights: Literal["none"] | Path = "none"
    """File to start from: none (random) or a path. Nobody publishes weights for this network."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.deep_supervision and self.depth == 1:
            raise ValueError("deep_supervision needs a coarser decoder level: give depth 2 or more")
        if str(self.weights) == "pretrained":
            raise ValueError("nobody publishes weights for kind unet: write weights none or a path")
        return self


class UNet(nn.Module):
    """Images [B, C, H, W], sides multiples of 2^depth, to logits [B, K, H, W], or (logits, aux from fine to coarse)."""

    def __init__(self, cfg: UNetModel, classes: int, channels: int):
        super().__init__()
        widths = [cfg.width * 2**stage for stage in range(cfg.depth + 1)]
        self.encoder = Encoder(cfg, channels, widths)
        self.decoder = Decoder(cfg, widths)
        self.head = nn.Conv2d(widths[0], classes, 1)
        coarser = widths[1:-1] if cfg.deep_supervision else []
        self.aux_heads = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in coarser)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        finest, *coarser = self.decoder(self.encoder(images))
        logits: Tensor = self.head(finest)
        if not self.aux_heads:
            return logits
        return logits, *(head(features) for head, features in zip(self.aux_heads, coarser, strict=True))


class Encoder(nn.Module):
    """Images to the features of every stage, from stride 1 to 2^depth."""

    def __init__(self, cfg: UNetModel, channels: int, widths: list[int]):
        super().__init__()
        inputs = [channels, *widths[:-1]]
        self.stages = nn.ModuleList(block(cfg, fan_in, width) for fan_in, width in zip(inputs, widths, strict=True))
        self.halve = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.stages[0](images)]
        for stage in self.stages[1:]:
            features.append(stage(self.halve(features[-1])))
        return features


class Decoder(nn.Module):
    """Features of every encoder stage to those of every decoder level, from stride 1 to 2^(depth-1)."""

    def __init__(self, cfg: UNetModel, widths: list[int]):
        super().__init__()
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in widths[:-1])
        self.levels = nn.ModuleList(block(cfg, 2 * width, width) for width in widths[:-1])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        current, answers = features[-1], []
        for enlarge, level, skip in reversed([*zip(self.enlarge, self.levels, features[:-1], strict=True)]):
            current = level(cat([skip, enlarge(current)], dim=1))
            answers.append(current)
        return answers[::-1]


def block(cfg: UNetModel, fan_in: int, width: int) -> nn.Sequential:
    """Twice convolution, normalisation, ReLU; then dropout of whole channels if asked for."""
    layers: list[nn.Module] = []
    for channels in (fan_in, width):
        # A normalisation would take the bias away again.
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=cfg.norm == "none"))
        if cfg.norm == "batch":
            layers.append(nn.BatchNorm2d(width))
        if cfg.norm == "group":
            layers.append(nn.GroupNorm(gcd(8, width), width))
        layers.append(nn.ReLU(inplace=True))
    if cfg.dropout:
        layers.append(nn.Dropout2d(cfg.dropout))
    return nn.Sequential(*layers)


def unet_model(cfg: UNetModel, classes: int, channels: int) -> Segmenter:
    """The UNet in its wrapper; mean and std are ImageNet's unless the config says otherwise."""
    normalization = cfg.normalization(IMAGENET, channels)
    return Segmenter(UNet(cfg, classes, channels), normalization=normalization, stride=2**cfg.depth)
