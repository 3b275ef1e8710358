"""PointRend (Kirillov et al. 2020) over semantic FPN: the logits are enlarged, and the least certain ones made anew."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.resnet_v1c import D32, ResNet, ResnetSizes
from terrazzo.published.networks.semantic_fpn import FpnHead, Pyramid


@dataclass(frozen=True)
class PointRendSizes:
    """What tells one of these networks from another."""

    backbone: ResnetSizes = D32
    pyramid: int = 256
    """Channels of the feature pyramid."""
    channels: int = 128
    """Inside the first head."""
    point_channels: int = 256
    """Inside the head that answers for points."""
    layers: int = 3
    """Of that head, before its last."""
    steps: int = 2
    """Times that the logits are enlarged by 2 and made better."""
    points: int = 8196
    """Logits of an image that are made anew at each step."""


VARIANTS: Mapping[str, PointRendSizes] = {
    "pointrend_r50": PointRendSizes(),
    "pointrend_r101": PointRendSizes(replace(D32, depth=101)),
}
"""By published name."""


class PointRend(nn.Module):
    """Normalised images [B, 3, H, W] of any size to logits [B, K, 4 * ceil(H/4), 4 * ceil(W/4)] over them.

    `aux` holds the logits of the first head, at stride 4. In training the points are those of least certainty too,
    where published training draws some of them; the loss then reaches the second head through them.
    """

    def __init__(self, sizes: PointRendSizes, classes: int):
        super().__init__()
        self.steps, self.points = sizes.steps, sizes.points
        self.backbone = ResNet(sizes.backbone)
        first = FpnHead([sizes.pyramid] * 4, sizes.channels, classes, dropout=0.0)
        second = PointHead(sizes.pyramid, sizes.point_channels, classes, layers=sizes.layers)
        self.decode_head = nn.ModuleList([first, second])
        self.neck = Pyramid(sizes.backbone.dims, sizes.pyramid)

    def forward(self, images: Tensor) -> Output:
        maps = self.neck(self.backbone(images))
        first, second = self.decode_head
        coarse = first(maps)
        logits = coarse
        for _ in range(self.steps):
            logits = functional.interpolate(logits, scale_factor=2, mode="bilinear")
            numbers = least_certain(logits, self.points)
            anew = second(at_points(maps[0], logits, numbers), at_points(coarse, logits, numbers))
            everywhere = numbers.unsqueeze(1).expand(-1, logits.shape[1], -1)
            logits = logits.flatten(2).scatter(2, everywhere, anew).view_as(logits)
        return Output(logits=logits, aux=(coarse,))


class PointHead(nn.Module):
    """Fine features [B, C, P] and coarse logits [B, K, P] of points to their logits [B, K, P].

    The coarse logits are joined to what every layer answers.
    """

    def __init__(self, fine: int, channels: int, classes: int, *, layers: int):
        super().__init__()
        self.fcs = nn.ModuleList(
            named_layer(fan_in + classes, channels) for fan_in in (fine, *[channels] * (layers - 1))
        )
        self.fc_seg = nn.Conv1d(channels + classes, classes, 1)
        nn.init.normal_(self.fc_seg.weight, std=0.01)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        current = fine
        for layer in self.fcs:
            current = functional.relu(layer(torch.cat([current, coarse], dim=1)))
        logits: Tensor = self.fc_seg(torch.cat([current, coarse], dim=1))
        return logits


def least_certain(logits: Tensor, count: int) -> Tensor:
    """Positions in a row of the pixels whose two best classes are closest: [B, K, h, w] to [B, count], or fewer."""
    best = logits.detach().flatten(2).topk(min(2, logits.shape[1]), dim=1).values
    return (best[:, -1] - best[:, 0]).topk(min(count, best.shape[2]), dim=1).indices


def at_points(current: Tensor, grid: Tensor, numbers: Tensor) -> Tensor:
    """A map [B, C, h, w], bilinear, at the pixels `numbers` [B, P] of a finer `grid` [B, K, H, W]: [B, C, P]."""
    height, width = grid.shape[2:]
    across = (2 * (numbers % width) + 1) / width - 1  # from -1 to 1
    down = (2 * (numbers // width) + 1) / height - 1
    where = torch.stack([across, down], dim=2).unsqueeze(2).to(current.dtype)
    return functional.grid_sample(current, where, align_corners=False).squeeze(3)


def named_layer(fan_in: int, fan_out: int) -> nn.Sequential:
    """A layer over points: `conv.weight`, `conv.bias`."""
    named = nn.Sequential()
    named.add_module("conv", nn.Conv1d(fan_in, fan_out, 1))
    return named


def build(name_or_sizes: str | PointRendSizes, classes: int) -> PointRend:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, PointRendSizes):
        return PointRend(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no PointRend is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return PointRend(VARIANTS[name_or_sizes], classes)
