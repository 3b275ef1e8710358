"""Segmenter (Strudel et al. 2021): a plain vision transformer and a decoder in which classes are tokens as patches are.

As MMSegmentation publishes it, with the mask decoder or with a linear one. Tokens are [B, N, C].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError, Normalization
from terrazzo.output import Output
from terrazzo.published.facts import PublishedInput
from terrazzo.published.networks.blocks import drop_rates, size_of
from terrazzo.published.networks.heads import FcnHead
from terrazzo.published.networks.transformer import draw_linear
from terrazzo.published.networks.vit import Block, VisionTransformer, VitSizes, to_map
from terrazzo.published.networks.vit import renamed as renamed


@dataclass(frozen=True)
class SegmenterSizes:
    """Sizes of one published Segmenter."""

    width: int = 192
    """Channels of encoder and decoder."""
    heads: int = 3
    """Attention heads in both."""
    depth: int = 12
    """Blocks of the encoder."""
    positions: tuple[int, int] = (32, 32)
    """Rows and columns of the table of learned positions; for other maps it is enlarged or shrunk."""
    decoder: Literal["mask", "linear"] = "mask"
    """Transformer blocks on patches and class tokens, or one 1x1 convolution."""
    decoder_depth: int = 2
    """Blocks of the mask decoder."""
    patch_bias: bool = False
    """Whether the first layer has a bias. MMSegmentation 1.2 builds it without; older versions had one."""
    drop_path: float = 0.1
    """Share of samples that skip the last block, of encoder and of decoder, while training; it rises from 0."""

    @property
    def encoder(self) -> VitSizes:
        """Those of the transformer, of which the head reads the last block's answer."""
        return VitSizes(
            self.width,
            self.heads,
            self.depth,
            self.positions,
            taps=(self.depth - 1,),
            final_norm=True,
            drop_path=self.drop_path,
            patch_bias=self.patch_bias,
        )


INPUT = PublishedInput(Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
"""As the JAX weights that the published training started from."""

VARIANTS: Mapping[str, SegmenterSizes] = {
    "segmenter_vit-t_mask": SegmenterSizes(),
    "segmenter_vit-s_mask": SegmenterSizes(384, 6),
    "segmenter_vit-s_fcn": SegmenterSizes(384, 6, decoder="linear"),
    "segmenter_vit-b_mask": SegmenterSizes(768, 12),
    "segmenter_vit-l_mask": SegmenterSizes(1024, 16, 24, positions=(40, 40)),
}


class SegmenterVit(nn.Module):
    """Images [B, 3, H, W] of any size to logits [B, K, H/16, W/16], rounded up.

    The encoder pads to whole patches, but the published code lays the logits over the image alone: so do we.
    """

    def __init__(self, sizes: SegmenterSizes, classes: int):
        super().__init__()
        self.backbone = VisionTransformer(sizes.encoder)
        self.decode_head = decoder(sizes, classes)

    def forward(self, images: Tensor) -> Output:
        return Output(logits=self.decode_head(self.backbone(images).maps()))


class MaskDecoder(nn.Module):
    """Patches and one token for each class attend to each other; the logits are the cosines between the two."""

    def __init__(self, sizes: SegmenterSizes, classes: int):
        super().__init__()
        dim = sizes.width
        self.classes = classes
        self.cls_emb = nn.Parameter(torch.empty(1, classes, dim))
        self.dec_proj = nn.Linear(dim, dim)
        (rates,) = drop_rates(sizes.drop_path, [sizes.decoder_depth])
        # The decoder's normalisations have torch's own eps, other than the encoder's.
        self.layers = nn.ModuleList(Block(dim, sizes.heads, eps=1e-5, rate=rate) for rate in rates)
        self.patch_proj = nn.Linear(dim, dim, bias=False)
        self.classes_proj = nn.Linear(dim, dim, bias=False)
        self.decoder_norm = nn.LayerNorm(dim)
        self.mask_norm = nn.LayerNorm(classes)
        self.apply(draw_linear)
        nn.init.trunc_normal_(self.cls_emb, std=0.02)

    def forward(self, maps: list[Tensor]) -> Tensor:
        current = maps[-1]
        patches = self.dec_proj(current.flatten(2).transpose(1, 2))
        tokens = torch.cat([patches, self.cls_emb.expand(len(patches), -1, -1)], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.decoder_norm(tokens)
        patches, classes = tokens[:, : -self.classes], tokens[:, -self.classes :]
        patches = functional.normalize(self.patch_proj(patches), dim=2)
        classes = functional.normalize(self.classes_proj(classes), dim=2)
        return to_map(self.mask_norm(patches @ classes.transpose(1, 2)), size_of(current))


def decoder(sizes: SegmenterSizes, classes: int) -> nn.Module:
    """What reads the encoder's map."""
    match sizes.decoder:
        case "mask":
            return MaskDecoder(sizes, classes)
        case "linear":
            return FcnHead(sizes.width, sizes.width, classes, convs=0, dropout=0.0)
        case _:
            assert_never(sizes.decoder)


def build(name_or_sizes: str | SegmenterSizes, classes: int) -> SegmenterVit:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, SegmenterSizes):
        return SegmenterVit(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no Segmenter is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return SegmenterVit(VARIANTS[name_or_sizes], classes)
