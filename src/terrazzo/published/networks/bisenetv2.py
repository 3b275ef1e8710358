"""BiSeNetV2 (Yu et al. 2021): a wide shallow branch for details, a narrow deep one for meaning, and a guided fusion."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, SeparableConv, draw_conv, resize, size_of
from terrazzo.published.networks.heads import FcnHead


@dataclass(frozen=True)
class BiSeNetV2Sizes:
    """Sizes of one variant."""

    detail: tuple[int, int, int] = (64, 64, 128)
    """Channels of the detail branch at strides 2, 4 and 8."""
    detail_depths: tuple[int, int, int] = (2, 3, 3)
    """Its convolutions at each stride."""
    semantic: tuple[int, int, int, int] = (16, 32, 64, 128)
    """Channels of the semantic branch at strides 4, 8, 16 and 32; the last as many as the detail branch's last."""
    semantic_depths: tuple[int, int, int] = (2, 2, 4)
    """Its blocks at strides 8, 16 and 32."""
    expansion: int = 6
    """Channels inside a block, as a multiple of those it is given."""
    head: int = 1024
    """Channels of the main head."""
    aux: tuple[int, int, int, int] = (16, 64, 256, 1024)
    """Channels of the auxiliary heads on the semantic branch, at strides 4, 8, 16 and 32."""
    dropout: float = 0.1
    """Share of a head's channels dropped before its classifier while training."""


VARIANTS = {"bisenetv2_fcn": BiSeNetV2Sizes()}
"""By published name."""


class BiSeNetV2(nn.Module):
    """Normalised images [B, 3, H, W] to logits [B, K, H/8, W/8], sides rounded up; of any size.

    `aux` holds four heads on the semantic branch, at strides 4, 8, 16 and 32.
    """

    def __init__(self, sizes: BiSeNetV2Sizes, classes: int):
        super().__init__()
        self.backbone = TwoBranches(sizes)
        self.decode_head = FcnHead(sizes.detail[-1], sizes.head, classes, dropout=sizes.dropout)
        self.auxiliary_head = nn.ModuleList(
            FcnHead(width, channels, classes, convs=2, dropout=sizes.dropout)
            for width, channels in zip(sizes.semantic, sizes.aux, strict=True)
        )

    def forward(self, images: Tensor) -> Output:
        fused, semantic = self.backbone(images)
        aux = tuple(head([current]) for head, current in zip(self.auxiliary_head, semantic, strict=True))
        return Output(logits=self.decode_head([fused]), aux=aux)


class TwoBranches(nn.Module):
    """Images to the fused map at stride 8, and the semantic branch's maps at strides 4, 8, 16 and 32."""

    def __init__(self, sizes: BiSeNetV2Sizes):
        super().__init__()
        self.detail = Detail(sizes)
        self.semantic = Semantic(sizes)
        self.bga = GuidedAggregation(sizes.detail[-1])

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        *maps, context = self.semantic(images)
        return self.bga(self.detail(images), context), maps


class Detail(nn.Module):
    """Images to a map at stride 8, by plain convolutions."""

    def __init__(self, sizes: BiSeNetV2Sizes):
        super().__init__()
        inputs = (3, *sizes.detail[:-1])
        self.detail_branch = nn.Sequential(
            *(
                nn.Sequential(
                    ConvBNAct(fan_in, width, 3, stride=2), *(ConvBNAct(width, width, 3) for _ in range(depth - 1))
                )
                for fan_in, width, depth in zip(inputs, sizes.detail, sizes.detail_depths, strict=True)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        detail: Tensor = self.detail_branch(images)
        return detail


class Semantic(nn.Module):
    """Images to maps at strides 4, 8, 16 and 32, and the last one with the context of the whole image."""

    def __init__(self, sizes: BiSeNetV2Sizes):
        super().__init__()
        first, second, third, fourth = sizes.semantic
        self.stage1 = Stem(first)
        self.stage2 = stage(first, second, sizes.semantic_depths[0], sizes.expansion)
        self.stage3 = stage(second, third, sizes.semantic_depths[1], sizes.expansion)
        self.stage4 = stage(third, fourth, sizes.semantic_depths[2], sizes.expansion)
        self.stage4_CEBlock = ContextEmbedding(fourth)

    def forward(self, images: Tensor) -> list[Tensor]:
        current, maps = images, []
        for part in (self.stage1, self.stage2, self.stage3, self.stage4, self.stage4_CEBlock):
            current = part(current)
            maps.append(current)
        return maps


class Stem(nn.Module):
    """Images to a map at stride 4, made smaller by convolution and by maximum, which are joined."""

    def __init__(self, width: int):
        super().__init__()
        self.conv_first = ConvBNAct(3, width, 3, stride=2)
        self.convs = nn.Sequential(ConvBNAct(width, width // 2), ConvBNAct(width // 2, width, 3, stride=2))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.fuse_last = ConvBNAct(2 * width, width, 3)

    def forward(self, images: Tensor) -> Tensor:
        current = self.conv_first(images)
        joined: Tensor = self.fuse_last(torch.cat([self.convs(current), self.pool(current)], dim=1))
        return joined


def stage(fan_in: int, width: int, depth: int, expansion: int) -> nn.Sequential:
    """Blocks of one stage, of which the first halves the sides."""
    return nn.Sequential(
        GatherExpansion(fan_in, width, stride=2, expansion=expansion),
        *(GatherExpansion(width, width, expansion=expansion) for _ in range(depth - 1)),
    )


class GatherExpansion(nn.Module):
    """A convolution, a depthwise one to more channels, and back to `fan_out`; added to the input or its shortcut."""

    def __init__(self, fan_in: int, fan_out: int, *, stride: int = 1, expansion: int):
        super().__init__()
        hidden = fan_in * expansion
        self.conv1 = ConvBNAct(fan_in, fan_in, 3)
        self.shortcut: nn.Module
        if stride == 1:
            self.dwconv = nn.Sequential(ConvBNAct(fan_in, hidden, 3, groups=fan_in))
            self.shortcut = nn.Identity()
        else:
            self.dwconv = nn.Sequential(
                ConvBNAct(fan_in, hidden, 3, stride=stride, groups=fan_in, act=False),
                ConvBNAct(hidden, hidden, 3, groups=hidden),
            )
            self.shortcut = nn.Sequential(
                SeparableConv(fan_in, fan_out, stride=stride, depthwise_act=False, pointwise_act=False)
            )
        self.conv2 = nn.Sequential(ConvBNAct(hidden, fan_out, act=False))

    def forward(self, current: Tensor) -> Tensor:
        return functional.relu(self.shortcut(current) + self.conv2(self.dwconv(self.conv1(current))))


class ContextEmbedding(nn.Module):
    """The mean of the whole map, added to every pixel."""

    def __init__(self, width: int):
        super().__init__()
        self.gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(width))
        self.conv_gap = ConvBNAct(width, width)
        self.conv_last = ConvBNAct(width, width, 3)

    def forward(self, current: Tensor) -> Tensor:
        embedded: Tensor = self.conv_last(current + self.conv_gap(self.gap(current)))
        return embedded


class GuidedAggregation(nn.Module):
    """Each branch gates the other, at the detail branch's stride and at the semantic one's."""

    def __init__(self, width: int):
        super().__init__()
        self.detail_dwconv = nn.Sequential(separable(width))
        self.detail_down = nn.Sequential(ConvBNAct(width, width, 3, stride=2, act=False), nn.AvgPool2d(3, 2, 1))
        self.semantic_conv = nn.Sequential(ConvBNAct(width, width, 3, act=False))
        self.semantic_dwconv = nn.Sequential(separable(width))
        self.conv = ConvBNAct(width, width, 3)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        size = size_of(detail)
        fine = self.detail_dwconv(detail) * resize(self.semantic_conv(semantic), size).sigmoid()
        coarse = self.detail_down(detail) * self.semantic_dwconv(semantic).sigmoid()
        fused: Tensor = self.conv(fine + resize(coarse, size))
        return fused


def separable(width: int) -> nn.Sequential:
    """A normalised depthwise convolution and a 1x1 one with a bias instead: `depthwise_conv.*`, `pointwise_conv.*`."""
    pointwise = nn.Conv2d(width, width, 1)
    draw_conv(pointwise)
    return nn.Sequential(
        OrderedDict(
            depthwise_conv=ConvBNAct(width, width, 3, groups=width, act=False),
            pointwise_conv=nn.Sequential(OrderedDict(conv=pointwise)),
        )
    )


def build(name_or_sizes: str | BiSeNetV2Sizes, classes: int) -> BiSeNetV2:
    """A published network by its name, or one of other sizes; with random weights."""
    if isinstance(name_or_sizes, BiSeNetV2Sizes):
        return BiSeNetV2(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no BiSeNetV2 is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return BiSeNetV2(VARIANTS[name_or_sizes], classes)
