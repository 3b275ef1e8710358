"""SegFormer (Xie et al. 2021): a transformer in four stages and a decoder of 1x1 convolutions.

Two stems: the paper's 7x7 convolution with stride 4, and a 5x5 convolution with stride 2, which keeps twice the
resolution at every stage. Positions are [B, N, C], the maps that they come from [B, C, H, W].
"""

from itertools import islice
from math import lcm, prod, sqrt
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import IMAGENET
from terrazzo.models.backbone import BackboneInput, load_start
from terrazzo.models.segmenter import Segmenter
from terrazzo.models.weights import LoadReport

Stages = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]


class Size(NamedTuple):
    """Channels and attention heads of the four stages."""

    dims: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]


SIZES = {
    "small": Size((32, 64, 160, 256), (1, 2, 5, 8)),
    "base": Size((64, 128, 256, 320), (2, 2, 8, 8)),
    "large": Size((128, 256, 320, 384), (2, 8, 8, 8)),
}
"""small is the paper's B0; the two others are as deep, and wider."""

STEMS = {"7x7": (7, 4), "5x5": (5, 2)}
"""Side and stride of the first convolution."""


class SegFormerModel(BackboneInput):
    """terrazzo's own SegFormer."""

    kind: Literal["segformer"] = "segformer"
    size: Literal["small", "base", "large"] = "small"
    """Channels and attention heads: 3.7, 7.8 or 15.8 million parameters. small is the paper's B0."""
    stem: Literal["7x7", "5x5"] = "7x7"
    """First convolution: 7x7 with stride 4 (the paper's; stages at strides 4 to 32), or 5x5 with stride 2 (2 to 16)."""
    dims: Stages | None = None
    """Channels of the four stages; null for those of `size`."""
    heads: Stages | None = None
    """Attention heads of the four stages, each a divisor of its channels; null for those of `size`."""
    depths: Stages = (2, 2, 2, 2)
    """Transformer blocks of the four stages."""
    reductions: Stages = (8, 4, 2, 1)
    """Attention looks at a map that is so many times smaller in each direction, by stage."""
    mlp_ratio: PositiveInt = 4
    """Channels inside a block's feed-forward part, as a multiple of the stage's."""
    decoder_width: PositiveInt = 256
    """Channels of the decoder."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the decoder's channels dropped while training."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Share of samples that skip the last block while training; it rises evenly from 0 at the first."""
    weights: Literal["none"] | Path = "none"
    """What the whole network starts from: none or a file."""
    weights_backbone: Literal["none"] | Path = "none"
    """What the encoder alone starts from: none or a file, of whatever network had the same encoder."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.dims is not None and self.heads is not None and self.size != "small":
            raise ValueError(f"size={self.size} changes nothing beside dims and heads; leave it out, or one of them")
        for dim, heads in zip(*self.layout, strict=True):
            if dim % heads:
                raise ValueError(
                    f"{heads} attention heads do not divide {dim} channels (dims and heads, stage by stage)"
                )
        return self

    @property
    def layout(self) -> Size:
        """Channels and heads in use."""
        size = SIZES[self.size]
        return Size(self.dims or size.dims, self.heads or size.heads)

    @property
    def stride(self) -> int:
        """Sides of the image must be multiples of this many pixels for every stage and its reduced map to fit."""
        _, first = STEMS[self.stem]
        return lcm(*(first * 2**stage * reduction for stage, reduction in enumerate(self.reductions)))


class SegFormer(nn.Module):
    """Images [B, C, H, W] to logits [B, K, H/4, W/4] (H/2 and W/2 with the stem 5x5)."""

    def __init__(self, cfg: SegFormerModel, classes: int, channels: int):
        super().__init__()
        self.encoder = Encoder(cfg, channels)
        self.decoder = Decoder(cfg)
        self.head = nn.Conv2d(cfg.decoder_width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.decoder(self.encoder(images)))
        return logits


class Encoder(nn.Module):
    """Images to the maps of the four stages."""

    def __init__(self, cfg: SegFormerModel, channels: int):
        super().__init__()
        inputs, blocks = (channels, *cfg.layout.dims[:-1]), sum(cfg.depths)
        drops = iter([cfg.drop_path * block / max(1, blocks - 1) for block in range(blocks)])
        self.stages = nn.ModuleList(
            Stage(cfg, stage, fan_in, [*islice(drops, depth)])
            for stage, (fan_in, depth) in enumerate(zip(inputs, cfg.depths, strict=True))
        )
        self.apply(draw)

    def forward(self, images: Tensor) -> list[Tensor]:
        current, maps = images, []
        for stage in self.stages:
            current = stage(current)
            maps.append(current)
        return maps


class Stage(nn.Module):
    """A convolution that makes the map smaller, and transformer blocks on its positions."""

    def __init__(self, cfg: SegFormerModel, stage: int, fan_in: int, drops: list[float]):
        super().__init__()
        dim = cfg.layout.dims[stage]
        side, stride = STEMS[cfg.stem] if stage == 0 else (3, 2)
        self.embed = nn.Conv2d(fan_in, dim, side, stride, side // 2)
        self.embed_norm = layer_norm(dim)
        self.blocks = nn.ModuleList(Block(cfg, stage, drop) for drop in drops)
        self.norm = layer_norm(dim)

    def forward(self, current: Tensor) -> Tensor:
        current = self.embed(current)
        height, width = current.shape[-2:]
        tokens = self.embed_norm(to_tokens(current))
        for block in self.blocks:
            tokens = block(tokens, (height, width))
        return to_map(self.norm(tokens), (height, width))


class Block(nn.Module):
    """Attention, then a feed-forward part, each added to what it was given."""

    def __init__(self, cfg: SegFormerModel, stage: int, drop_path: float):
        super().__init__()
        dim, heads = cfg.layout.dims[stage], cfg.layout.heads[stage]
        self.attention_norm = layer_norm(dim)
        self.attention = Attention(dim, heads, cfg.reductions[stage])
        self.mlp_norm = layer_norm(dim)
        self.mlp = Mlp(dim, cfg.mlp_ratio * dim)
        self.drop_path = drop_path

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        tokens = tokens + self._dropped(self.attention(self.attention_norm(tokens), size))
        return tokens + self._dropped(self.mlp(self.mlp_norm(tokens), size))

    def _dropped(self, residual: Tensor) -> Tensor:
        """Whole samples set to 0 while training, the others enlarged to keep the mean (Huang et al. 2016)."""
        if not self.training or not self.drop_path:
            return residual
        kept = residual.new_empty(len(residual), 1, 1).bernoulli_(1 - self.drop_path)
        return residual * kept / (1 - self.drop_path)


class Attention(nn.Module):
    """Every position asks all positions of a map that is `reduction` times smaller in each direction."""

    def __init__(self, dim: int, heads: int, reduction: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.reduce = nn.Conv2d(dim, dim, reduction, reduction) if reduction > 1 else None
        self.reduce_norm = layer_norm(dim) if reduction > 1 else None
        self.key_value = nn.Linear(dim, 2 * dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        asked = tokens
        if self.reduce is not None and self.reduce_norm is not None:
            asked = self.reduce_norm(to_tokens(self.reduce(to_map(tokens, size))))
        key, value = self.key_value(asked).chunk(2, dim=-1)
        query, key, value = (self._split(part) for part in (self.query(tokens), key, value))
        answer = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.project(answer.transpose(1, 2).flatten(2))
        return projected

    def _split(self, tokens: Tensor) -> Tensor:
        """[B, N, C] to [B, heads, N, C / heads]."""
        batch, count, dim = tokens.shape
        return tokens.view(batch, count, self.heads, dim // self.heads).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with a depthwise 3x3 convolution between them, which tells positions apart."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.project = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        mixed = to_tokens(self.depthwise(to_map(self.expand(tokens), size)))
        projected: Tensor = self.project(functional.gelu(mixed))
        return projected


class Decoder(nn.Module):
    """Every map to the same number of channels, all enlarged to the first one's size and fused by a 1x1 convolution.

    A 1x1 convolution commutes with the enlargement. So each map meets its own share of the fusing weights while it is
    small, and the enlarged answers are added: the numbers of joining the maps first, for 0.4 of the work.
    """

    def __init__(self, cfg: SegFormerModel):
        super().__init__()
        width, dims = cfg.decoder_width, cfg.layout.dims
        self.project = nn.ModuleList(nn.Conv2d(dim, width, 1) for dim in dims)
        self.fuse = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in dims)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(cfg.dropout)

    def forward(self, maps: list[Tensor]) -> Tensor:
        joined, *coarser = (
            fuse(project(current)) for project, fuse, current in zip(self.project, self.fuse, maps, strict=True)
        )
        for answer in coarser:
            joined = joined + functional.interpolate(answer, joined.shape[-2:], mode="bilinear", align_corners=False)
        fused: Tensor = self.dropout(functional.relu(self.norm(joined)))
        return fused


def layer_norm(dim: int) -> nn.LayerNorm:
    """With the paper's eps."""
    return nn.LayerNorm(dim, eps=1e-6)


def to_tokens(current: Tensor) -> Tensor:
    """[B, C, H, W] to [B, H * W, C]; of a channels-last map, a view."""
    return current.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, H * W, C] to a channels-last [B, C, H, W], a view."""
    batch, _, dim = tokens.shape
    return tokens.transpose(1, 2).view(batch, dim, *size)


def draw(module: nn.Module) -> None:
    """First numbers of the encoder: linear layers normal with 0.02, convolutions by their outgoing connections."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        outgoing = prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=sqrt(2 / outgoing))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def segformer_model(
    cfg: SegFormerModel, classes: int, channels: int, *, pretrained: bool
) -> tuple[Segmenter, LoadReport | None]:
    """The network, and what became of the weights that the config names (none if not `pretrained`)."""
    normalization = cfg.normalization(IMAGENET, channels)
    segmenter = Segmenter(SegFormer(cfg, classes, channels), normalization=normalization, stride=cfg.stride)
    return segmenter, load_start(segmenter, cfg.start) if pretrained else None
