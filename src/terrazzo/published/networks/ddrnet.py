"""DDRNet (Hong et al. 2021, "Deep Dual-resolution Networks"): a branch at stride 8 and one down to stride 64.

Maps: `spatial` [B, 2w, H/8, W/8] keeps its size, `context` [B, 4w to 16w, ...] shrinks; they exchange what they know
twice, and the pooled context is added at the end.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, draw_conv, resize, size_of
from terrazzo.published.networks.dual_resolution import Dappm, HeadStem, basic_layer, bottleneck_layer, stem


@dataclass(frozen=True)
class DDRNetSizes:
    """What tells one published DDRNet from another."""

    width: int
    """Channels of the first convolution; all others are multiples."""
    head_width: int
    """Channels before the classifiers."""
    pooling_width: int = 128
    """Channels of each scale of the pooled context."""
    dropout: float = 0.0
    """Share of channels dropped before the main classifier while training."""


VARIANTS = {
    "ddrnet_23-slim": DDRNetSizes(width=32, head_width=64),
    "ddrnet_23": DDRNetSizes(width=64, head_width=128),
}
"""The published sizes."""


class DDRNet(nn.Module):
    """Images [B, 3, H, W] to logits [B, K, H/8, W/8], and auxiliary ones from the branch at stride 8, as large."""

    def __init__(self, sizes: DDRNetSizes, classes: int):
        super().__init__()
        self.backbone = Backbone(sizes.width, sizes.pooling_width)
        self.decode_head = Head(4 * sizes.width, sizes.head_width, classes, sizes.dropout)

    def forward(self, images: Tensor) -> Output:
        spatial, fused = self.backbone(images)
        logits, auxiliary = self.decode_head(spatial, fused)
        return Output(logits=logits, aux=(auxiliary,), queries=None)


class Backbone(nn.Module):
    """Images to two maps at stride 8: [B, 2w, h, w] after the first exchange, [B, 4w, h, w] at the end."""

    def __init__(self, width: int, pooling_width: int):
        super().__init__()
        high = 2 * width
        self.stem = stem(width, 2, shortcut)
        self.context_branch_layers = nn.ModuleList(
            [
                basic_layer(high, 4 * width, 2, shortcut, stride=2),
                basic_layer(4 * width, 8 * width, 2, shortcut, stride=2),
                bottleneck_layer(8 * width, 8 * width, 1, shortcut, stride=2),
            ]
        )
        self.compression_1 = ConvBNAct(4 * width, high, act=False)
        self.down_1 = ConvBNAct(high, 4 * width, 3, stride=2, act=False)
        self.compression_2 = ConvBNAct(8 * width, high, act=False)
        self.down_2 = nn.Sequential(
            ConvBNAct(high, 4 * width, 3, stride=2), ConvBNAct(4 * width, 8 * width, 3, stride=2, act=False)
        )
        self.spatial_branch_layers = nn.ModuleList(
            [
                basic_layer(high, high, 2, shortcut),
                basic_layer(high, high, 2, shortcut),
                bottleneck_layer(high, high, 1, shortcut),
            ]
        )
        self.spp = Dappm(16 * width, pooling_width, 4 * width)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        spatial = context = self.stem(images)
        exchanges = ((self.compression_1, self.down_1), (self.compression_2, self.down_2))
        after = []
        # The spatial map's own size, not the image's divided by 8, which the published network takes: the same where
        # 8 divides the sides, and it makes no other sizes fail.
        for stage, (compression, down) in enumerate(exchanges):
            context = self.context_branch_layers[stage](context)
            spatial = self.spatial_branch_layers[stage](spatial)
            lifted = resize(compression(functional.relu(context)), size_of(spatial))
            context = functional.relu(context + down(functional.relu(spatial)))
            after.append(spatial + lifted)
            spatial = functional.relu(after[-1])
        spatial = self.spatial_branch_layers[2](spatial)
        pooled = self.spp(self.context_branch_layers[2](context))
        return after[0], spatial + resize(pooled, size_of(spatial))


class Head(nn.Module):
    """The main classifier, and the auxiliary one."""

    def __init__(self, fan_in: int, width: int, classes: int, dropout: float):
        super().__init__()
        self.conv_seg = nn.Conv2d(width, classes, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.head = HeadStem(fan_in, width)
        self.aux_head = HeadStem(fan_in // 2, width)
        self.aux_cls_seg = nn.Conv2d(width, classes, 1)
        for classifier in (self.conv_seg, self.aux_cls_seg):
            draw_conv(classifier)

    def forward(self, spatial: Tensor, fused: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv_seg(self.dropout(self.head(fused))), self.aux_cls_seg(self.aux_head(spatial))


def shortcut(fan_in: int, fan_out: int, stride: int) -> nn.Module:
    """`0` convolution, `1` normalisation."""
    conv = nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False)
    draw_conv(conv)
    return nn.Sequential(conv, nn.BatchNorm2d(fan_out))


def build(name_or_sizes: str | DDRNetSizes, classes: int) -> DDRNet:
    """A DDRNet with fresh weights, by the name of a published size or by its sizes.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, DDRNetSizes):
        return DDRNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no DDRNet is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return DDRNet(VARIANTS[name_or_sizes], classes)
