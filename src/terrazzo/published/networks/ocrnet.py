"""OCRNet (Yuan et al. 2020, "Object-Contextual Representations") over an HRNet or a dilated ResNet.

A first head guesses the classes; the average of all pixels, weighted by each guess, describes each class in this image;
every pixel then asks these K descriptions, and a second head classifies it with the answer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks import hrnet
from terrazzo.published.networks.blocks import ConvBNAct, size_of
from terrazzo.published.networks.heads import FcnHead, Head
from terrazzo.published.networks.hrnet import HRNet, HRNetSizes, concatenated
from terrazzo.published.networks.resnet_v1c import ResNet, ResnetSizes


@dataclass(frozen=True)
class OcrNetSizes:
    """What tells one published OCRNet from another."""

    backbone: HRNetSizes | ResnetSizes
    width: int = 512
    """Channels of the pixels' features and of the descriptions."""
    key_width: int = 256
    """Channels in which pixels and descriptions are compared."""
    guess_width: int = 256
    """Channels inside the first head over a ResNet; over an HRNet it has as many as its map."""
    dropout: float = 0.1
    """The same, over a ResNet."""


VARIANTS = {name.replace("fcn", "ocrnet"): OcrNetSizes(sizes) for name, sizes in hrnet.VARIANTS.items()} | {
    "ocrnet_r101-d8": OcrNetSizes(ResnetSizes(101))
}
"""The published sizes."""


class OcrNet(nn.Module):
    """Images [B, 3, H, W] to logits [B, K, H/4, W/4], and the first head's guess as auxiliary ones, as large.

    Over a ResNet at stride 8 in place of 4; there the guess is made from the map before the last.
    """

    def __init__(self, sizes: OcrNetSizes, classes: int):
        super().__init__()
        dims, dropout = sizes.backbone.dims, sizes.dropout
        fan_in, first = dims[-1], FcnHead(dims[-2], sizes.guess_width, classes, dropout=dropout)
        if isinstance(sizes.backbone, HRNetSizes):
            fan_in, dropout = sum(dims), sizes.backbone.dropout
            first = FcnHead(fan_in, fan_in, classes, kernel=1, dropout=dropout)
        self.backbone = HRNet(sizes.backbone) if isinstance(sizes.backbone, HRNetSizes) else ResNet(sizes.backbone)
        self.decode_head = nn.ModuleList([first, OcrHead(fan_in, sizes.width, sizes.key_width, classes, dropout)])

    def forward(self, images: Tensor) -> Output:
        maps = self.backbone(images)
        if isinstance(self.backbone, HRNet):
            maps = [concatenated(maps)]
        first, second = self.decode_head
        guess = first(maps if len(maps) == 1 else maps[:-1])
        return Output(logits=second(maps[-1], guess), aux=(guess,), queries=None)


class OcrHead(Head):
    """A map [B, C, h, w] and a guess [B, K, h, w] to logits [B, K, h, w]."""

    def __init__(self, fan_in: int, width: int, key_width: int, classes: int, dropout: float):
        super().__init__(width, classes, dropout=dropout)
        self.object_context_block = ObjectContext(width, key_width)
        self.bottleneck = ConvBNAct(fan_in, width, 3)

    def forward(self, current: Tensor, guess: Tensor) -> Tensor:
        pixels = self.bottleneck(current)
        return self.classify(self.object_context_block(pixels, descriptions(pixels, guess)))


class ObjectContext(nn.Module):
    """Pixels [B, C, h, w] ask descriptions [B, C, K, 1]; the answer is joined to them and brought back to C."""

    def __init__(self, width: int, key_width: int):
        super().__init__()
        self.key_project = nn.Sequential(ConvBNAct(width, key_width), ConvBNAct(key_width, key_width))
        self.query_project = nn.Sequential(ConvBNAct(width, key_width), ConvBNAct(key_width, key_width))
        self.value_project = ConvBNAct(width, key_width)
        self.out_project = ConvBNAct(key_width, width)
        self.bottleneck = ConvBNAct(2 * width, width)

    def forward(self, pixels: Tensor, described: Tensor) -> Tensor:
        query = self.query_project(pixels).flatten(2).transpose(1, 2)  # [B, h * w, key_width]
        key = self.key_project(described).flatten(2)  # [B, key_width, K]
        value = self.value_project(described).flatten(2).transpose(1, 2)  # [B, K, key_width]
        attention = torch.softmax(query @ key * key.shape[1] ** -0.5, dim=-1)
        answer = (attention @ value).transpose(1, 2).unflatten(2, size_of(pixels))
        both = torch.cat([self.out_project(answer), pixels], dim=1)
        context: Tensor = self.bottleneck(both)
        return context


def descriptions(pixels: Tensor, guess: Tensor) -> Tensor:
    """Each class's average of the pixels [B, C, h, w], weighted by a softmax of its guess over them: [B, C, K, 1]."""
    weights = torch.softmax(guess.flatten(2), dim=2)
    return (weights @ pixels.flatten(2).transpose(1, 2)).transpose(1, 2).unsqueeze(3)


def build(name_or_sizes: str | OcrNetSizes, classes: int) -> OcrNet:
    """An OCRNet with fresh weights, by the name of a published size or by its sizes.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, OcrNetSizes):
        return OcrNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no OCRNet is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return OcrNet(VARIANTS[name_or_sizes], classes)
