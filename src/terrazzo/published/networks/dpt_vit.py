"""DPT (Ranftl et al. 2021): a ViT whose tokens are put together as maps of four sizes and fused from the coarsest up.

As MMSegmentation publishes it, over ViT-B/16.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, resize, size_of
from terrazzo.published.networks.heads import Head
from terrazzo.published.networks.necks import PlainConv
from terrazzo.published.networks.vit import Taps, VisionTransformer, VitSizes, to_map
from terrazzo.published.networks.vit import renamed as renamed


@dataclass(frozen=True)
class DptSizes:
    """Sizes of one published DPT."""

    encoder: VitSizes
    """The transformer."""
    dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    """Channels of the maps at strides 4, 8, 16 and 32."""
    head_width: int = 256
    """Channels while they are fused."""
    dropout: float = 0.1
    """Share of channels dropped before the classifier while training."""


VARIANTS: Mapping[str, DptSizes] = {
    # Its table of positions is the classifier's, for images of 224x224.
    "dpt_vit-b16": DptSizes(VitSizes(positions=(14, 14), eps=1e-5, drop_path=0.0))
}


class Dpt(nn.Module):
    """Images [B, 3, H, W] of any size to logits [B, K, 16 * h, 16 * w], with h = H/32 rounded up.

    The published code lays the logits over the image alone: so do we.
    """

    def __init__(self, sizes: DptSizes, classes: int):
        super().__init__()
        self.backbone = VisionTransformer(sizes.encoder)
        self.decode_head = DptHead(sizes, classes)

    def forward(self, images: Tensor) -> Output:
        return Output(logits=self.decode_head(self.backbone(images)))


class DptHead(Head):
    """Tokens to logits at twice the finest map's size."""

    def __init__(self, sizes: DptSizes, classes: int):
        super().__init__(sizes.head_width, classes, dropout=sizes.dropout)
        width = sizes.head_width
        self.reassemble_blocks = Reassemble(sizes.encoder.width, sizes.dims)
        self.convs = nn.ModuleList(PlainConv(dim, width, 3, bias=False) for dim in sizes.dims)
        self.fusion_blocks = nn.ModuleList(Fusion(width, first=level == 0) for level in range(len(sizes.dims)))
        self.project = ConvBNAct(width, width, 3)

    def forward(self, taps: Taps) -> Tensor:
        maps = self.reassemble_blocks(taps)
        *finer, coarsest = (conv(current) for conv, current in zip(self.convs, maps, strict=True))
        fused = self.fusion_blocks[0](coarsest, None)
        for fuse, beside in zip(self.fusion_blocks[1:], reversed(finer), strict=True):
            fused = fuse(fused, beside)
        return self.classify(self.project(fused))


class Reassemble(nn.Module):
    """Tokens to maps: each patch joined with the class token, projected, and resized to its level's stride."""

    def __init__(self, fan_in: int, dims: Sequence[int]):
        super().__init__()
        first, second, _, last = dims
        self.projects = nn.ModuleList(PlainConv(fan_in, dim) for dim in dims)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, 4),
                nn.ConvTranspose2d(second, second, 2, 2),
                nn.Identity(),
                nn.Conv2d(last, last, 3, 2, 1),
            ]
        )
        self.readout_projects = nn.ModuleList(nn.Sequential(nn.Linear(2 * fan_in, fan_in), nn.GELU()) for _ in dims)

    def forward(self, taps: Taps) -> list[Tensor]:
        maps = []
        for tokens, join, project, resized in zip(
            taps.tokens, self.readout_projects, self.projects, self.resize_layers, strict=True
        ):
            patches = tokens[:, 1:]
            joined = join(torch.cat([patches, tokens[:, :1].expand_as(patches)], dim=-1))
            maps.append(resized(project(to_map(joined, taps.size))))
        return maps


class Fusion(nn.Module):
    """Adds the finer map, refined, to what came from below; refines the sum, doubles its size and projects it."""

    def __init__(self, channels: int, *, first: bool):
        super().__init__()
        self.project = PlainConv(channels, channels)
        self.res_conv_unit1 = None if first else Refine(channels)
        self.res_conv_unit2 = Refine(channels)

    def forward(self, below: Tensor, beside: Tensor | None) -> Tensor:
        if self.res_conv_unit1 is not None and beside is not None:
            below = below + self.res_conv_unit1(resize(beside, size_of(below)))
        refined = self.res_conv_unit2(below)
        height, width = size_of(refined)
        fused: Tensor = self.project(resize(refined, (2 * height, 2 * width), align_corners=True))
        return fused


class Refine(nn.Module):
    """Two convolutions, each after ReLU and normalised behind, added to what they were given."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = ConvBNAct(channels, channels, 3, act=False)
        self.conv2 = ConvBNAct(channels, channels, 3, act=False)

    def forward(self, current: Tensor) -> Tensor:
        refined: Tensor = self.conv2(functional.relu(self.conv1(functional.relu(current))))
        return current + refined


def build(name_or_sizes: str | DptSizes, classes: int) -> Dpt:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, DptSizes):
        return Dpt(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no DPT is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return Dpt(VARIANTS[name_or_sizes], classes)
