"""ESPNet (Mehta et al. 2018): spatial pyramids of dilated convolutions, and a decoder of a few channels.

Names of parameters are those of the authors' files (`espnet_p_2_q_8.pth`), so that these load strictly.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError, Normalization
from terrazzo.output import Output
from terrazzo.published.facts import PublishedInput

EPS = 1e-3
"""Of every BatchNorm in the published networks."""
DILATIONS = (1, 2, 4, 8, 16)
"""Of the branches of an ESP block; the first keeps to itself, the others are summed up one after another."""


@dataclass(frozen=True)
class EspNetInput:
    """What the weights want to see: (pixel - mean) / std / 255, with pixels 0..255 in the order blue, green, red."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classes: tuple[str, ...]
    """Names of the outputs of the authors' files; the last is what their labels leave out."""


CITYSCAPES = EspNetInput(
    mean=(72.3923111, 82.90893555, 73.15840149),
    std=(45.3192215, 46.15289307, 44.91483307),
    classes=(
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
        *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle", "void"),
    ),
)
CAMVID = EspNetInput(
    mean=(108.06, 106.45, 103.11),
    std=(77.51, 78.63, 77.28),
    classes=(
        *("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian"),
        *("Bicyclist", "void"),
    ),
)
"""Measured on CamVid's training images, as the authors' training script does; they did not print theirs."""


@dataclass(frozen=True)
class EspNetSizes:
    """What tells one ESPNet from another."""

    level2: int = 2
    """ESP blocks at stride 4, the paper's p (alpha_2)."""
    level3: int = 8
    """ESP blocks at stride 8, the paper's q (alpha_3)."""
    width: int | None = None
    """Channels of the decoder. None, as published, is the number of classes (and 5 at least, one a branch); a trained
    decoder keeps its width here when it gets another number of classes."""
    image_in_decoder: bool = True
    """Whether the decoder's last convolution sees the encoder's stride 2 with the shrunk image or without it."""
    numbers: EspNetInput = CAMVID
    """Of the images and classes that it was trained on."""

    @property
    def input(self) -> PublishedInput:
        """The same as everybody says it. The authors' code takes multiples of 8 only."""
        std = tuple(255 * std for std in self.numbers.std)
        wanted = Normalization(mean=self.numbers.mean, std=std, max_value=255, channel_order="bgr")
        return PublishedInput(wanted, stride=8, classes=self.numbers.classes)


ON_CITYSCAPES = EspNetSizes(width=20, image_in_decoder=False, numbers=CITYSCAPES)

VARIANTS: Mapping[str, EspNetSizes] = MappingProxyType(
    {
        "espnet_p_2_q_3": replace(ON_CITYSCAPES, level3=3),
        "espnet_p_2_q_5": replace(ON_CITYSCAPES, level3=5),
        "espnet_p_2_q_8": ON_CITYSCAPES,
        "espnet_p_2_q_8_cityscapes": ON_CITYSCAPES,
        "espnet_p_2_q_8_camvid": EspNetSizes(width=12),
    }
)
"""By file name. Those without a data set in the name are Cityscapes too: 20 outputs, the last one the void.
The authors' Cityscapes and CamVid files differ in the decoder's last convolution."""


def as_wide_as(state: Mapping[str, Tensor], sizes: EspNetSizes) -> EspNetSizes:
    """The sizes with the decoder of a file, which is as wide as the classes that it was trained on."""
    fused = state.get("level3_C.conv.weight")
    return sizes if fused is None or not fused.ndim else replace(sizes, width=len(fused))


def build(name_or_sizes: str | EspNetSizes, classes: int) -> "EspNet":
    """The network of that name or of these sizes, with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, EspNetSizes):
        return EspNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no ESPNet is called {name_or_sizes}; there are: {', '.join(VARIANTS)}")
    return EspNet(VARIANTS[name_or_sizes], classes)


class EspNet(nn.Module):
    """Images [B, 3, H, W] to logits [B, K, H, W]; the original takes multiples of 8, and here any size goes."""

    def __init__(self, sizes: EspNetSizes, classes: int):
        super().__init__()
        width = max(classes, len(DILATIONS)) if sizes.width is None else sizes.width
        self.encoder = EspEncoder(sizes, width)
        self.up_l3 = nn.Sequential(_twice(width, width))
        self.level3_C = _conv(131, width, 1)
        self.br = nn.BatchNorm2d(width, eps=EPS)
        self.combine_l2_l3 = nn.Sequential(_norm(2 * width), EspBlock(2 * width, width, residual=False))
        self.up_l2 = nn.Sequential(_twice(width, width), _norm(width))
        self.image_in_decoder = sizes.image_in_decoder
        self.conv = _conv_norm((16 + 3 if sizes.image_in_decoder else 16) + width, width)
        self.classifier = _twice(width, classes)

    def forward(self, images: Tensor) -> Output:
        plain, half, quarter, eighth = self.encoder(images)
        deep = _cut(self.up_l3(self.br(eighth)), quarter)
        middle = self.combine_l2_l3(torch.cat((self.level3_C(quarter), deep), 1))
        beside = half if self.image_in_decoder else plain
        shallow = self.conv(torch.cat((_cut(self.up_l2(middle), beside), beside), 1))
        return Output(logits=_cut(self.classifier(shallow), images))


class EspEncoder(nn.Module):
    """Images [B, 3, H, W] to scores [B, width, H/8, W/8], and the features on the way there.

    These are [B, 16, H/2, W/2], the same with the shrunk image, [B, 19, H/2, W/2], and [B, 131, H/4, W/4].
    """

    def __init__(self, sizes: EspNetSizes, width: int):
        super().__init__()
        self.level1 = _conv_norm(3, 16, stride=2)
        self.b1 = _norm(16 + 3)
        self.level2_0 = EspBlock(16 + 3, 64, stride=2)
        self.level2 = nn.Sequential(*(EspBlock(64, 64) for _ in range(sizes.level2)))
        self.b2 = _norm(2 * 64 + 3)
        self.level3_0 = EspBlock(2 * 64 + 3, 128, stride=2)
        self.level3 = nn.Sequential(*(EspBlock(128, 128) for _ in range(sizes.level3)))
        self.b3 = _norm(2 * 128)
        self.classifier = _conv(2 * 128, width, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # The shrunk image itself goes along with the features of its stride.
        image_half = functional.avg_pool2d(images, 3, stride=2, padding=1)
        image_quarter = functional.avg_pool2d(image_half, 3, stride=2, padding=1)
        plain = self.level1(images)
        half = self.b1(torch.cat((plain, image_half), 1))
        first = self.level2_0(half)
        quarter = self.b2(torch.cat((self.level2(first), first, image_quarter), 1))
        first = self.level3_0(quarter)
        eighth = self.b3(torch.cat((first, self.level3(first)), 1))
        return plain, half, quarter, self.classifier(eighth)


class EspBlock(nn.Module):
    """Reduce, filter at five dilations, sum up, join: [B, inputs, H, W] to [B, outputs, H/stride, W/stride].

    Sums over the branches up to each dilation take away the grid that dilated convolutions leave.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, residual: bool = True):
        super().__init__()
        self.residual = residual and stride == 1
        part = outputs // len(DILATIONS)
        rest = outputs - part * (len(DILATIONS) - 1)  # what does not divide goes to the branch without dilation
        self.c1 = _conv(inputs, part, 1 if stride == 1 else 3, stride=stride)
        self.d1 = _conv(part, rest, 3)
        self.d2 = _conv(part, part, 3, dilation=2)
        self.d4 = _conv(part, part, 3, dilation=4)
        self.d8 = _conv(part, part, 3, dilation=8)
        self.d16 = _conv(part, part, 3, dilation=16)
        # The published files name the two one level deeper in blocks of stride 1.
        self.bn: nn.Module = _norm(outputs) if stride == 1 else nn.BatchNorm2d(outputs, eps=EPS)
        self.act: nn.Module = nn.Identity() if stride == 1 else nn.PReLU(outputs)

    def forward(self, features: Tensor) -> Tensor:
        reduced = self.c1(features)
        sum2 = self.d2(reduced)
        sum4 = sum2 + self.d4(reduced)
        sum8 = sum4 + self.d8(reduced)
        sum16 = sum8 + self.d16(reduced)
        joined = torch.cat((self.d1(reduced), sum2, sum4, sum8, sum16), 1)
        output: Tensor = self.act(self.bn(features + joined if self.residual else joined))
        return output


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution without bias, named `conv`, that keeps the size (rounded up) at stride 1 (2)."""
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(OrderedDict([("conv", conv)]))


def _norm(channels: int) -> nn.Sequential:
    """BatchNorm and PReLU, named `bn` and `act`."""
    return nn.Sequential(OrderedDict([("bn", nn.BatchNorm2d(channels, eps=EPS)), ("act", nn.PReLU(channels))]))


def _conv_norm(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, BatchNorm and PReLU, named `conv`, `bn` and `act`."""
    parts = [*_conv(inputs, outputs, 3, stride=stride).named_children(), *_norm(outputs).named_children()]
    return nn.Sequential(OrderedDict(parts))


def _twice(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """Double the sides: each number becomes a square of four that overlaps no other."""
    return nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)


def _cut(doubled: Tensor, like: Tensor) -> Tensor:
    """Without the last row and column where `like` had an odd side before it was halved."""
    return doubled[..., : like.shape[-2], : like.shape[-1]]
