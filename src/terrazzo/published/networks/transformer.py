"""Parts that the published vision transformers share, with the names that their weights carry."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class FeedForward(nn.Module):
    """Two linear layers with GELU between them: `layers.0.0.*`, `layers.1.*`; [..., C] to the same."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(dim, hidden), nn.GELU()), nn.Linear(hidden, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.layers(tokens)
        return mixed


class SelfAttention(nn.Module):
    """Every position [B, N, C] asks all; torch's names inside one more module: `attn.in_proj_weight`."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attn = PackedAttention(dim, heads)

    def forward(self, tokens: Tensor) -> Tensor:
        answer: Tensor = self.attn(tokens)
        return answer


class PackedAttention(nn.Module):
    """The matrices of query, key and value lie in one: `in_proj_weight` [3 * C, C]."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.in_proj_weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, _ = tokens.shape
        packed = functional.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        # [B, N, 3 * C] to three of [B, heads, N, C / heads]
        query, key, value = packed.view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        answer = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.out_proj(answer.transpose(1, 2).flatten(2))
        return projected


def draw_linear(module: nn.Module) -> None:
    """First numbers of linear layers: normal with 0.02, cut at two sides, and no bias (Dosovitskiy et al. 2021)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
