"""Heads that describe the image by a few vectors: EncNet's code words and EMANet's bases.

Each is called with the encoder's maps, finest first, and answers logits [B, K, h, w] at the last one's size.
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.published.networks.blocks import ConvBNAct
from terrazzo.published.networks.heads import Head


class EncHead(Head):
    """EncNet (Zhang et al. 2018): how far pixels lie from learned code words says which channels count.

    Published training also asks `se_layer` which classes the image shows. No answer of the network needs it: its
    parameters ask for no gradient until somebody who has a loss for `presence` calls `train_presence()`.
    """

    def __init__(self, fan_in: int, channels: int, classes: int, *, codes: int = 32, dropout: float = 0.1):
        super().__init__(channels, classes, dropout=dropout)
        self.bottleneck = ConvBNAct(fan_in, channels, 3)
        self.enc_module = Encoding(channels, codes)
        self.se_layer = nn.Linear(channels, classes)
        self.train_presence(False)

    def train_presence(self, wanted: bool = True) -> None:
        """Whether the parameters of `se_layer` ask for gradients."""
        self.se_layer.requires_grad_(wanted)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        current = self.bottleneck(maps[-1])
        return self.classify(self.enc_module.weighed(current, self.enc_module(current)))

    def presence(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits that each class is somewhere in the image [B, K]."""
        logits: Tensor = self.se_layer(self.enc_module(self.bottleneck(maps[-1])))
        return logits


class Encoding(nn.Module):
    """A map [B, C, h, w] to its description [B, C]: the mean residual to each code word, summed over the pixels."""

    def __init__(self, channels: int, codes: int):
        super().__init__()
        self.encoding_project = ConvBNAct(channels, channels)
        self.encoding = nn.Sequential(CodeWords(channels, codes), nn.BatchNorm1d(codes), nn.ReLU(inplace=True))
        self.fc = nn.Sequential(nn.Linear(channels, channels), nn.Sigmoid())

    def forward(self, current: Tensor) -> Tensor:
        described: Tensor = self.encoding(self.encoding_project(current))
        return described.mean(1)

    def weighed(self, current: Tensor, description: Tensor) -> Tensor:
        """The map with channels that the description calls for counting up to twice."""
        weights: Tensor = self.fc(description)
        return functional.relu(current + current * weights[..., None, None])


class CodeWords(nn.Module):
    """A map [B, C, h, w] to what its pixels differ from `codes` vectors by, each pixel where it is near: [B, D, C]."""

    def __init__(self, channels: int, codes: int):
        super().__init__()
        bound = 1 / sqrt(codes * channels)
        self.codewords = nn.Parameter(torch.empty(codes, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(codes).uniform_(-1, 0))

    def forward(self, current: Tensor) -> Tensor:
        pixels = current.flatten(2).transpose(1, 2)  # [B, h * w, C]
        # Distances pair by pair, in the precision that torch keeps them in: squares of differences, not differences of
        # squares; and without the [B, h * w, D, C] of all differences, which is 0.5 GB for 512 x 1024 pixels.
        words = self.codewords.expand(len(pixels), -1, -1)
        apart = torch.cdist(pixels, words, compute_mode="donot_use_mm_for_euclid_dist").square()
        shares = (self.scale * apart).softmax(2).transpose(1, 2)  # [B, D, h * w]
        return shares @ pixels - shares.sum(2, keepdim=True) * words


class EmaHead(Head):
    """EMANet (Li et al. 2019): the map rebuilt from a few bases, fitted by rounds of expectation and maximisation.

    The bases every image starts from are a buffer: in training it follows the fitted ones slowly, on each rank by
    itself. `ema_mid_conv` keeps its first numbers, as published training has it.
    """

    def __init__(
        self,
        fan_in: int,
        channels: int,
        classes: int,
        *,
        inner: int = 512,
        bases: int = 64,
        rounds: int = 3,
        momentum: float = 0.1,
        dropout: float = 0.1,
    ):
        super().__init__(channels, classes, dropout=dropout)
        self.ema_module = Bases(inner, bases, rounds, momentum)
        self.ema_in_conv = ConvBNAct(fan_in, inner, 3)
        self.ema_mid_conv = nn.Sequential()
        self.ema_mid_conv.add_module("conv", nn.Conv2d(inner, inner, 1))
        self.ema_mid_conv.requires_grad_(False)
        self.ema_out_conv = ConvBNAct(inner, inner, act=False)
        self.bottleneck = ConvBNAct(inner, channels, 3)
        self.conv_cat = ConvBNAct(fan_in + channels, channels, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        entered = self.ema_in_conv(maps[-1])
        rebuilt = functional.relu(self.ema_module(self.ema_mid_conv(entered)))
        current = self.bottleneck(functional.relu(entered + self.ema_out_conv(rebuilt)))
        return self.classify(self.conv_cat(torch.cat([maps[-1], current], dim=1)))


class Bases(nn.Module):
    """[B, C, h, w] to the same, of rank `count`; no gradient passes."""

    bases: Tensor

    def __init__(self, channels: int, count: int, rounds: int, momentum: float):
        super().__init__()
        self.rounds, self.momentum = rounds, momentum
        drawn = torch.empty(1, channels, count).normal_(0, sqrt(2 / count))
        self.register_buffer("bases", functional.normalize(drawn, dim=1))

    @torch.no_grad()
    def forward(self, current: Tensor) -> Tensor:
        pixels = current.flatten(2)  # [B, C, n]
        bases = self.bases.to(pixels.dtype).expand(len(pixels), -1, -1)  # [B, C, count]
        shares = pixels.new_zeros(())
        for _ in range(self.rounds):
            shares = (pixels.transpose(1, 2) @ bases).softmax(2)  # [B, n, count]
            bases = functional.normalize(pixels @ functional.normalize(shares, p=1, dim=1), dim=1)
        if self.training:
            self.bases.lerp_(
                functional.normalize(bases.mean(0, keepdim=True), dim=1).to(self.bases.dtype), self.momentum
            )
        return (bases @ shares.transpose(1, 2)).view_as(current)
