"""Small networks of known behaviour, and what they are shown."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import Normalization
from terrazzo.models import Segmenter

PLAIN = Normalization(mean=(0.0,), std=(1.0,), max_value=255.0)
"""The network sees the pixels' own values."""


class Local(nn.Module):
    """A cell's logits depend on the pixels of that cell alone: whatever window shows them, they are the same."""

    def __init__(self, cell: int, classes: int = 3, channels: int = 3):
        super().__init__()
        generator = torch.Generator().manual_seed(cell)
        self.weight = nn.Parameter(torch.randn(classes, channels, cell, cell, generator=generator) / cell)

    def forward(self, images: Tensor) -> Tensor:
        return functional.conv2d(images, self.weight, stride=self.weight.shape[2])


class Context(nn.Module):
    """A cell's logits depend on its neighbours too, on zeros beyond the border, and on left and right."""

    def __init__(self, cell: int, classes: int = 3):
        super().__init__()
        self.local = Local(cell, classes)
        self.mix = nn.Parameter(torch.randn(classes, classes, 5, 5, generator=torch.Generator().manual_seed(9)) / 5)

    def forward(self, images: Tensor) -> Tensor:
        return functional.conv2d(self.local(images), self.mix, padding=2)


class Ramp(nn.Module):
    """One class: the image's own values at every `cell`-th pixel, laid out as the enlargement will read them."""

    def __init__(self, cell: int, align_corners: bool):
        super().__init__()
        self.cell, self.align_corners = cell, align_corners

    def forward(self, images: Tensor) -> Tensor:
        size = [side // self.cell for side in images.shape[2:]]
        return functional.interpolate(images, size, mode="bilinear", align_corners=self.align_corners)


def wrap(net: nn.Module, stride: int, *, align_corners: bool = False, channels: int = 3) -> Segmenter:
    numbers = PLAIN.for_channels(channels)
    return Segmenter(net, normalization=numbers, stride=stride, align_corners=align_corners).eval()


def picture(height: int, width: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (1, channels, height, width), dtype=torch.uint8, generator=generator)


def clear(logits: Tensor) -> Tensor:
    """Where the best class leads by more than float32's noise, [B, H, W]."""
    if logits.shape[1] == 1:
        return torch.ones_like(logits[:, 0], dtype=torch.bool)
    best = logits.topk(2, dim=1).values
    return best[:, 0] - best[:, 1] > 1e-4 * logits.abs().max()
