"""EoMT (Kerssies et al. 2025, "Your ViT is Secretly an Image Segmentation Model"): queries inside a plain ViT.

The queries are tokens beside the patches in the encoder's last blocks; no further decoder compares them. A query's mask
is its product with the enlarged patches. The encoder is one of timm's `VisionTransformer` or `Eva` (EVA, DINOv3).
"""

from math import log2
from typing import Any, Literal, cast

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import Config, InputError
from terrazzo.output import Output, Queries
from terrazzo.published.networks.blocks import MapNorm

POWER = 0.9
"""Of the polynomial by which masked attention fades out in a block (section 3.3 of the paper)."""


class EomtDecoder(Config):
    """Queries that enter a plain ViT's last blocks and answer masks with classes (Kerssies et al. 2025)."""

    kind: Literal["eomt"] = "eomt"
    queries: PositiveInt = 100
    """Masks in an answer."""
    blocks: PositiveInt = 4
    """The encoder's last blocks that the queries go through (the paper: 3 of ViT-B's 12, 4 of ViT-L's 24)."""
    masked_steps: NonNegativeInt = 0
    """Training forward passes over which masked attention fades out, block by block from the first: until then a query
    sees only the patches of its own mask. 0 never masks; the paper masks during about the whole run."""
    deep_supervision: bool = True
    """Answer before each of these blocks too, so that the loss teaches them all. Masked attention needs the same
    answers; without either, prediction costs less."""


class Eomt(nn.Module):
    """Images [B, C, H, W], sides multiples of the encoder's patch, to `Output` with `queries`.

    Masks and scores have the stride `patch` / 2 ** enlargements: 4 for patches of 16 pixels, 7 for patches of 14.
    """

    def __init__(self, cfg: EomtDecoder, encoder: nn.Module, *, name: str, patch: int, classes: int):
        super().__init__()
        from timm.models.eva import Eva  # heavy, and needed by this model only
        from timm.models.vision_transformer import VisionTransformer

        if not isinstance(encoder, VisionTransformer | Eva):
            raise InputError(
                f"model.decoder.kind=eomt puts queries beside the patches of a plain ViT, and {name} is a "
                f"{type(encoder).__name__}; give model.encoder a vit_, deit_ or eva_ model, or another decoder"
            )
        encoder_parts = cast(Any, encoder)
        depth, dim = len(encoder_parts.blocks), int(encoder_parts.embed_dim)
        if cfg.blocks > depth:
            raise InputError(f"model.decoder.blocks={cfg.blocks}, but {name} has {depth} blocks")
        self.encoder = encoder
        self.first = depth - cfg.blocks
        self.deep_supervision = cfg.deep_supervision
        self.decoder = QueryDecoder(cfg, dim, max(1, int(log2(patch)) - 2))
        self.head = nn.Linear(dim, classes + 1)
        for block in encoder_parts.blocks[self.first :]:
            if hasattr(block.attn, "num_prefix_tokens"):  # these have no place, as the class token: no rotation
                block.attn.num_prefix_tokens += cfg.queries

    def forward(self, images: Tensor) -> Output:
        encoder = cast(Any, self.encoder)
        tokens, rotations = self._tokens(images)
        grid = encoder.patch_embed.dynamic_feat_size((images.shape[-2], images.shape[-1]))
        masked = self.training and self.decoder.masked_steps > 0
        earlier: list[Queries] = []
        for place, block in enumerate(encoder.blocks):
            seen = None
            if place == self.first:
                tokens = torch.cat([self.decoder.queries.expand(len(tokens), -1, -1), tokens], dim=1)
            if place >= self.first and (self.deep_supervision or masked):
                earlier.append(self._answer(tokens, grid))
            if place >= self.first and masked:
                seen = self.decoder.attention_mask(earlier[-1].masks, grid, tokens.shape[1], place - self.first)
            tokens = self._through(block, tokens, rotations, place, seen)
        last = self._answer(tokens, grid)
        if masked:
            self.decoder.passes.add_(1)
        queries = last._replace(aux=tuple(earlier) if self.deep_supervision else ())
        return Output(logits=last.scores(), queries=queries, are_scores=True)

    def _tokens(self, images: Tensor) -> tuple[Tensor, Any]:
        """Patches with their places, [B, N, C], and EVA's rotations, None for other encoders."""
        encoder = cast(Any, self.encoder)
        placed = encoder._pos_embed(encoder.patch_embed(images))
        tokens, rotations = placed if isinstance(placed, tuple) else (encoder.patch_drop(placed), None)
        return encoder.norm_pre(tokens), rotations

    def _through(self, block: nn.Module, tokens: Tensor, rotations: Any, place: int, seen: Tensor | None) -> Tensor:
        if rotations is None:
            answer: Tensor = block(tokens, attn_mask=seen)
            return answer
        own = rotations[place] if getattr(self.encoder, "rope_mixed", False) else rotations
        rotated: Tensor = block(tokens, rope=own, attn_mask=seen)
        return rotated

    def _answer(self, tokens: Tensor, grid: tuple[int, int]) -> Queries:
        encoder, count = cast(Any, self.encoder), self.decoder.count
        normed = encoder.norm(tokens)
        patches = normed[:, count + encoder.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)
        queries = normed[:, :count]
        return Queries(classes=self.head(queries), masks=self.decoder(queries, patches))


class QueryDecoder(nn.Module):
    """The queries, and what makes masks of them: a perceptron for the queries, an enlargement for the patches."""

    queries: Tensor
    passes: Tensor

    def __init__(self, cfg: EomtDecoder, dim: int, enlargements: int):
        super().__init__()
        self.count = cfg.queries
        self.blocks = cfg.blocks
        self.masked_steps = cfg.masked_steps
        self.queries = nn.Parameter(torch.randn(1, cfg.queries, dim))
        self.mask_head = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        self.upscale = nn.Sequential(*(_doubled(dim) for _ in range(enlargements)))
        # Training passes so far: masked attention fades by it, and a resumed run goes on where it stopped.
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64), persistent=cfg.masked_steps > 0)

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        """Queries [B, Q, C] and patches [B, C, h, w] to masks [B, Q, H, W]."""
        return torch.einsum("bqc,bchw->bqhw", self.mask_head(queries), self.upscale(patches))

    def attention_mask(self, masks: Tensor, grid: tuple[int, int], tokens: int, block: int) -> Tensor:
        """Which token may look at which, [B, 1, N, N] of 0 and minus infinity: a query at its own mask's patches.

        Of `masks` [B, Q, H, W]; queries and prefix tokens are always seen. As the block's masking fades out, it is
        taken off a growing share of the queries, drawn anew in every pass.
        """
        cells = functional.interpolate(masks.detach(), grid, mode="bilinear", align_corners=False).flatten(2)
        whole = torch.rand(*cells.shape[:2], 1, device=cells.device) >= self._share(block)
        hidden = torch.zeros_like(cells).masked_fill_((cells <= 0) & ~whole, float("-inf"))
        beside = functional.pad(hidden, (tokens - cells.shape[2], 0, 0, tokens - cells.shape[1]))
        return beside.unsqueeze(1)

    def _share(self, block: int) -> Tensor:
        """Of the queries that are masked in the block: 1 until its turn comes, then falling to 0."""
        turn = self.masked_steps / (self.blocks + 1)
        fading = ((self.passes - (block + 1) * turn) / turn).clamp(0, 1)
        return (1 - fading).pow(POWER)


def _doubled(dim: int) -> nn.Sequential:
    """[B, C, h, w] to [B, C, 2h, 2w]."""
    return nn.Sequential(
        nn.ConvTranspose2d(dim, dim, 2, 2),
        nn.GELU(),
        nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False),
        MapNorm(dim, eps=1e-6),
    )
