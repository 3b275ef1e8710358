"""Semantic FPN (Kirillov et al. 2019): a feature pyramid over a ResNet, its levels enlarged step by step and added."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, resize, size_of
from terrazzo.published.networks.heads import Head
from terrazzo.published.networks.resnet_v1c import D32, ResNet, ResnetSizes


@dataclass(frozen=True)
class SemanticFpnSizes:
    """What tells one of these networks from another."""

    backbone: ResnetSizes = D32
    pyramid: int = 256
    """Channels of the feature pyramid."""
    channels: int = 128
    """Inside the head."""
    dropout: float = 0.1
    """Share of the head's channels dropped before its classifier while training."""


VARIANTS: Mapping[str, SemanticFpnSizes] = {
    "fpn_r50": SemanticFpnSizes(),
    "fpn_r101": SemanticFpnSizes(replace(D32, depth=101)),
}
"""By published name."""


class SemanticFpn(nn.Module):
    """Normalised images [B, 3, H, W] of any size to logits [B, K, H/4, W/4], sides rounded up."""

    def __init__(self, sizes: SemanticFpnSizes, classes: int):
        super().__init__()
        self.backbone = ResNet(sizes.backbone)
        self.decode_head = FpnHead([sizes.pyramid] * 4, sizes.channels, classes, dropout=sizes.dropout)
        self.neck = Pyramid(sizes.backbone.dims, sizes.pyramid)

    def forward(self, images: Tensor) -> Output:
        return Output(logits=self.decode_head(self.neck(self.backbone(images))))


class Pyramid(nn.Module):
    """Maps of `dims` channels, finest first, to as many of `width` (Lin et al. 2017): each with what is above it."""

    def __init__(self, dims: Sequence[int], width: int):
        super().__init__()
        self.lateral_convs = nn.ModuleList(named_conv(dim, width, 1) for dim in dims)
        self.fpn_convs = nn.ModuleList(named_conv(width, width, 3) for _ in dims)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels: list[Tensor] = [lateral(current) for lateral, current in zip(self.lateral_convs, maps, strict=True)]
        for number in range(len(levels) - 1, 0, -1):
            above = functional.interpolate(levels[number], size_of(levels[number - 1]), mode="nearest")
            levels[number - 1] = levels[number - 1] + above
        return [smooth(level) for smooth, level in zip(self.fpn_convs, levels, strict=True)]


class FpnHead(Head):
    """Maps at strides 4, 8, 16 and 32: convolved and enlarged by 2 until all have the first one's stride, and added."""

    def __init__(self, dims: Sequence[int], channels: int, classes: int, *, dropout: float = 0.1):
        super().__init__(channels, classes, dropout=dropout)
        self.scale_heads = nn.ModuleList(
            nn.Sequential(*climb(dim, channels, doublings)) for doublings, dim in enumerate(dims)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        first, *others = (climbing(current) for climbing, current in zip(self.scale_heads, maps, strict=True))
        return self.classify(sum((resize(other, size_of(first)) for other in others), first))


def climb(fan_in: int, channels: int, doublings: int) -> list[nn.Module]:
    """3x3 convolutions, each followed by an enlargement; one without, for a map that is large enough."""
    parts: list[nn.Module] = [ConvBNAct(fan_in, channels, 3)]
    for number in range(doublings):
        parts += [ConvBNAct(channels, channels, 3)] if number else []
        parts += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)]
    return parts


def named_conv(fan_in: int, fan_out: int, kernel: int) -> nn.Sequential:
    """A convolution with bias and nothing behind it: `conv.weight`, `conv.bias`."""
    conv = nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one
    named = nn.Sequential()
    named.add_module("conv", conv)
    return named


def build(name_or_sizes: str | SemanticFpnSizes, classes: int) -> SemanticFpn:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, SemanticFpnSizes):
        return SemanticFpn(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no semantic FPN is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return SemanticFpn(VARIANTS[name_or_sizes], classes)
