"""Heads of published networks: the encoder's maps, finest first, to logits [B, K, h, w] at the head's own stride.

Every head is called with a sequence of maps; those that need one map only read the last.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terrazzo.published.networks.blocks import ConvBNAct, SeparableConv, resize, size_of


class Head(nn.Module):
    """What all heads end in: dropout of whole channels and a 1x1 convolution, `conv_seg`."""

    def __init__(self, channels: int, classes: int, *, dropout: float = 0.1):
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, classes, 1)
        self.dropout = nn.Dropout2d(dropout)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.zeros_(self.conv_seg.bias)  # type: ignore[arg-type]  # it has one

    def classify(self, features: Tensor) -> Tensor:
        """[B, channels, h, w] to [B, K, h, w]."""
        logits: Tensor = self.conv_seg(self.dropout(features))
        return logits


class FcnHead(Head):
    """Plain convolutions (Long et al. 2015), with the input joined to their answer if `concat_input`.

    The auxiliary head of most networks is one of these with one convolution. With `convs` 0 the map is classified as
    it is, and `channels` is its own.
    """

    def __init__(
        self,
        fan_in: int,
        channels: int,
        classes: int,
        *,
        convs: int = 1,
        kernel: int = 3,
        dilation: int = 1,
        concat_input: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__(channels, classes, dropout=dropout)
        inputs = [fan_in, *[channels] * (convs - 1)][:convs]
        self.convs = nn.Sequential(*(ConvBNAct(width, channels, kernel, dilation=dilation) for width in inputs))
        self.conv_cat = ConvBNAct(fan_in + channels, channels, kernel) if concat_input else None

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """What is classified, [B, channels, h, w]."""
        features: Tensor = self.convs(maps[-1])
        if self.conv_cat is not None:
            features = self.conv_cat(torch.cat([maps[-1], features], dim=1))
        return features

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classify(self.features(maps))


class Pyramid(nn.ModuleList):
    """Averages over grids of `scales` x `scales` cells (Zhao et al. 2017), each convolved and enlarged again."""

    def __init__(self, fan_in: int, channels: int, scales: Sequence[int], *, align_corners: bool):
        super().__init__(nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvBNAct(fan_in, channels)) for scale in scales)
        self.align_corners = align_corners

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] to [B, C + scales * channels, h, w]: the map itself, then its averages."""
        size = size_of(features)
        averages = (resize(level(features), size, align_corners=self.align_corners) for level in self)
        return torch.cat([features, *averages], dim=1)


class PspHead(Head):
    """Pyramid pooling (Zhao et al. 2017) of the last map."""

    def __init__(
        self,
        fan_in: int,
        channels: int,
        classes: int,
        *,
        scales: Sequence[int] = (1, 2, 3, 6),
        align_corners: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__(channels, classes, dropout=dropout)
        self.psp_modules = Pyramid(fan_in, channels, scales, align_corners=align_corners)
        self.bottleneck = ConvBNAct(fan_in + len(scales) * channels, channels, 3)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """What is classified, [B, channels, h, w]."""
        fused: Tensor = self.bottleneck(self.psp_modules(maps[-1]))
        return fused

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classify(self.features(maps))


class AsppHead(Head):
    """Atrous spatial pyramid pooling (Chen et al. 2017, DeepLabV3): the last map's mean beside dilated convolutions.

    A branch of dilation 1 is a 1x1 convolution; the others are 3x3, split into depthwise and 1x1 if `separable`.
    """

    def __init__(
        self,
        fan_in: int,
        channels: int,
        classes: int,
        *,
        dilations: Sequence[int] = (1, 12, 24, 36),
        separable: bool = False,
        align_corners: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__(channels, classes, dropout=dropout)
        self.align_corners = align_corners
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvBNAct(fan_in, channels))
        self.aspp_modules = nn.ModuleList(
            ConvBNAct(fan_in, channels)
            if dilation == 1
            else SeparableConv(fan_in, channels, dilation=dilation)
            if separable
            else ConvBNAct(fan_in, channels, 3, dilation=dilation)
            for dilation in dilations
        )
        self.bottleneck = ConvBNAct((len(dilations) + 1) * channels, channels, 3)

    def context(self, features: Tensor) -> Tensor:
        """[B, fan_in, h, w] to [B, channels, h, w]."""
        mean = resize(self.image_pool(features), size_of(features), align_corners=self.align_corners)
        fused: Tensor = self.bottleneck(torch.cat([mean, *(branch(features) for branch in self.aspp_modules)], dim=1))
        return fused

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """What is classified, [B, channels, h, w]."""
        return self.context(maps[-1])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classify(self.features(maps))


class DeepLabPlusHead(AsppHead):
    """DeepLabV3+ (Chen et al. 2018): separable pyramid pooling, refined beside the finest map at that map's stride.

    `fine_in` channels of the first map are reduced to `fine_channels`.
    """

    def __init__(
        self,
        fan_in: int,
        channels: int,
        classes: int,
        *,
        fine_in: int,
        fine_channels: int = 48,
        dilations: Sequence[int] = (1, 12, 24, 36),
        align_corners: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__(
            fan_in,
            channels,
            classes,
            dilations=dilations,
            separable=True,
            align_corners=align_corners,
            dropout=dropout,
        )
        self.c1_bottleneck = ConvBNAct(fine_in, fine_channels)
        self.sep_bottleneck = nn.Sequential(
            SeparableConv(channels + fine_channels, channels), SeparableConv(channels, channels)
        )

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """What is classified, [B, channels, h, w]."""
        fine = self.c1_bottleneck(maps[0])
        context = resize(self.context(maps[-1]), size_of(fine), align_corners=self.align_corners)
        fused: Tensor = self.sep_bottleneck(torch.cat([context, fine], dim=1))
        return fused


class UperHead(Head):
    """UPerNet's head (Xiao et al. 2018): pyramid pooling of the last map, a feature pyramid down from it.

    All its levels are joined. `dims` are the channels of the maps; the logits have the first map's size.
    """

    def __init__(
        self,
        dims: Sequence[int],
        channels: int,
        classes: int,
        *,
        scales: Sequence[int] = (1, 2, 3, 6),
        align_corners: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__(channels, classes, dropout=dropout)
        self.align_corners = align_corners
        *finer, last = dims
        self.psp_modules = Pyramid(last, channels, scales, align_corners=align_corners)
        self.bottleneck = ConvBNAct(last + len(scales) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvBNAct(dim, channels) for dim in finer)
        self.fpn_convs = nn.ModuleList(ConvBNAct(channels, channels, 3) for _ in finer)
        self.fpn_bottleneck = ConvBNAct(len(dims) * channels, channels, 3)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """What is classified, [B, channels, h, w]."""
        *finer, last = maps
        above: Tensor = self.bottleneck(self.psp_modules(last))
        levels = [above]
        for current, lateral, smooth in zip(
            reversed(finer), reversed(self.lateral_convs), reversed(self.fpn_convs), strict=True
        ):
            above = lateral(current) + resize(above, size_of(current), align_corners=self.align_corners)
            levels.insert(0, smooth(above))
        size = size_of(levels[0])
        joined = [resize(level, size, align_corners=self.align_corners) for level in levels]
        fused: Tensor = self.fpn_bottleneck(torch.cat(joined, dim=1))
        return fused

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classify(self.features(maps))
