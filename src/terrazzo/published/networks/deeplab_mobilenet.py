"""DeepLabV3 on MobileNetV2 (Sandler et al. 2018, section 6.3; Chen et al. 2017) with image pooling and one 1x1 branch.

The TensorFlow DeepLab zoo's `deeplabv3_mnv2_pascal`, under torchvision's names of MobileNetV2's parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.facts import PublishedInput


@dataclass(frozen=True)
class DeepLabMobileNetSizes:
    """What tells one of these networks from another."""

    output_stride: Literal[8, 16, 32] = 8
    """Stride of features and logits: the strides after it become dilation."""
    width_multiplier: float = 1.0
    """Of the encoder's channels."""
    channels: int = 256
    """Of each branch of the head."""
    dropout: float = 0.1
    """Share of numbers dropped before the last convolution while training."""


VARIANTS: Mapping[str, DeepLabMobileNetSizes] = MappingProxyType(
    {"deeplabv3_mobilenetv2_os8_voc21": DeepLabMobileNetSizes()}
)
"""By file name."""

WINDOW = 513
"""Side, in pixels, that smaller images are padded to for the published scores. With sides 8n + 1, as this, the corner
logits sit on corner pixels exactly, and TensorFlow's way of padding a convolution is torch's."""


INPUT = PublishedInput(
    smallest=WINDOW,
    classes=(
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    ),
)
"""PASCAL VOC's classes."""


def build(name_or_sizes: str | DeepLabMobileNetSizes, classes: int) -> "DeepLabMobileNet":
    """The network of that name or of these sizes, with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, DeepLabMobileNetSizes):
        return DeepLabMobileNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no DeepLab on MobileNetV2 is called {name_or_sizes}; there are: {', '.join(VARIANTS)}")
    return DeepLabMobileNet(VARIANTS[name_or_sizes], classes)


class DeepLabMobileNet(nn.Module):
    """Images [B, 3, H, W] of any size to logits [B, K, ceil(H/s), ceil(W/s)] at the output stride s.

    In train mode a batch has two images at least, as BatchNorm follows the global mean.
    """

    def __init__(self, sizes: DeepLabMobileNetSizes, classes: int):
        super().__init__()
        self.backbone = MobileNetV2(sizes)
        self.head = PooledHead(self.backbone.channels, classes, sizes)

    def forward(self, images: Tensor) -> Output:
        return Output(logits=self.head(self.backbone(images)), align_corners=True)


class MobileNetV2(nn.Module):
    """torchvision's MobileNetV2 without its last 1x1 convolution, dilated: [B, 3, H, W] to [B, channels, H/s, W/s]."""

    def __init__(self, sizes: DeepLabMobileNetSizes):
        super().__init__()
        from torchvision.models import mobilenet_v2  # heavy, and needed by this model only

        blocks = list(mobilenet_v2(weights=None, width_mult=sizes.width_multiplier).features)[:-1]
        self.features = nn.Sequential(*blocks)
        self.channels: int = blocks[-1].out_channels
        _dilate(self.features, sizes.output_stride)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        return features


class PooledHead(nn.Module):
    """The image's mean beside each pixel's features: [B, inputs, h, w] to logits [B, K, h, w]."""

    def __init__(self, inputs: int, classes: int, sizes: DeepLabMobileNetSizes):
        super().__init__()
        self.image_pooling = _conv_norm(inputs, sizes.channels)
        self.aspp0 = _conv_norm(inputs, sizes.channels)
        self.concat_projection = _conv_norm(2 * sizes.channels, sizes.channels)
        self.dropout = nn.Dropout(sizes.dropout)
        self.logits = nn.Conv2d(sizes.channels, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        local = self.aspp0(features)
        whole = self.image_pooling(features.mean((2, 3), keepdim=True)).expand_as(local)
        logits: Tensor = self.logits(self.dropout(self.concat_projection(torch.cat((whole, local), 1))))
        return logits


def _dilate(features: nn.Sequential, output_stride: int) -> None:
    """Turn every stride after `output_stride` into dilation of the convolutions behind it, in place."""
    stride = dilation = 1
    for conv in features.modules():
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size == (1, 1):
            continue
        behind = dilation
        if conv.stride == (2, 2) and stride == output_stride:
            # This convolution still sees the grid of before, so that its own dilation stays.
            conv.stride = (1, 1)
            dilation *= 2
        stride *= conv.stride[0]
        conv.dilation = conv.padding = (behind, behind)


def _conv_norm(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
