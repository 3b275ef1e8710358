"""SegFormer (Xie et al. 2021) as its authors published it: the MiT encoder, and a head of linear layers.

Their encoder is the one of `segformer_mit` under other names and with another eps in places; `renamed` translates.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.blocks import ConvBNAct, joined, size_of
from terrazzo.published.networks.segformer_mit import WIDE, MitSizes, MixTransformer

VARIANTS = {
    "segformer.b0": MitSizes((32, 64, 160, 256), (2, 2, 2, 2), inner_eps=1e-5),
    "segformer.b1": MitSizes(WIDE, (2, 2, 2, 2), inner_eps=1e-5),
    "segformer.b2": MitSizes(WIDE, (3, 4, 6, 3), head_channels=768, inner_eps=1e-5),
    "segformer.b3": MitSizes(WIDE, (3, 4, 18, 3), head_channels=768, inner_eps=1e-5),
    "segformer.b4": MitSizes(WIDE, (3, 8, 27, 3), head_channels=768, inner_eps=1e-5),
    "segformer.b5": MitSizes(WIDE, (3, 6, 40, 3), head_channels=768, inner_eps=1e-5),
}
"""By the beginning of their weights' file names."""

HEAD = "decode_head.linear_c1.proj.weight"
"""A tensor that tells this head from MMSegmentation's."""

NAMES = (
    (r"patch_embed(\d)\.proj\.", "0.projection."),
    (r"patch_embed(\d)\.norm\.", "0.norm."),
    (r"block(\d)\.(\d+)\.attn\.proj\.", "1.{}.attn.attn.out_proj."),
    (r"block(\d)\.(\d+)\.attn\.(?:q|kv)\.", "1.{}.attn.attn.in_proj_"),
    (r"block(\d)\.(\d+)\.mlp\.fc1\.", "1.{}.ffn.layers.0."),
    (r"block(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.", "1.{}.ffn.layers.1."),
    (r"block(\d)\.(\d+)\.mlp\.fc2\.", "1.{}.ffn.layers.4."),
    (r"block(\d)\.(\d+)\.", "1.{}."),
    (r"norm(\d)\.", "2."),
)
"""How a name of the authors' encoder begins, with its stage and block, and what stands there in ours."""


def build(name_or_sizes: str | MitSizes, classes: int) -> nn.Module:
    """The network, with its first numbers."""
    if isinstance(name_or_sizes, MitSizes):
        return SegFormerPaper(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no SegFormer is called {name_or_sizes}; there are {', '.join(VARIANTS)}")
    return SegFormerPaper(VARIANTS[name_or_sizes], classes)


class SegFormerPaper(nn.Module):
    """Normalised images [B, 3, H, W] to logits [B, K, H/4, W/4]."""

    def __init__(self, sizes: MitSizes, classes: int):
        super().__init__()
        self.backbone = MixTransformer(sizes)
        self.decode_head = PaperHead(sizes, classes)

    def forward(self, images: Tensor) -> Output:
        return Output(logits=self.decode_head(self.backbone(images)))


class PaperHead(nn.Module):
    """A linear layer for every map, all enlarged to the first one's size and fused, the coarsest first."""

    def __init__(self, sizes: MitSizes, classes: int):
        super().__init__()
        width = sizes.head_channels
        for number, dim in enumerate(sizes.dims, 1):
            self.add_module(f"linear_c{number}", nn.ModuleDict({"proj": nn.Linear(dim, width)}))
        self.linear_fuse = ConvBNAct(len(sizes.dims) * width, width)
        self.dropout = nn.Dropout2d(sizes.dropout)
        self.linear_pred = nn.Conv2d(width, classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        projected = [
            self.get_submodule(f"linear_c{number}.proj")(current.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for number, current in enumerate(maps, 1)
        ]
        fused = joined(self.linear_fuse.conv, projected[::-1], size_of(maps[0]))
        logits: Tensor = self.linear_pred(self.dropout(functional.relu(self.linear_fuse.bn(fused))))
        return logits


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' weights by our names, in our shapes; also of their encoder alone, without "backbone.".

    The encoder's tensors are named for `MixTransformer` in either case, the head's keep their names. `conv_seg`, which
    their network holds and never uses, is left out.
    """
    answer: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.startswith("decode_head.conv_seg."):
            continue
        prefix = "backbone." if key.startswith("backbone.") else ""
        name = prefix + _encoder_name(key.removeprefix(prefix))
        if name.endswith(("in_proj_weight", "in_proj_bias")):
            # Query comes before key and value, in whatever order the two tensors stand in the file.
            parts = [answer[name], tensor] if name in answer else [tensor]
            answer[name] = torch.cat(sorted(parts, key=len))
        elif re.search(r"ffn\.layers\.[04]\.weight$", name) and tensor.ndim == 2:
            answer[name] = tensor[:, :, None, None]
        else:
            answer[name] = tensor
    return answer


def _encoder_name(key: str) -> str:
    """Our name of an encoder's tensor, and any other name as it is."""
    for pattern, ours in NAMES:
        if found := re.match(pattern, key):
            stage, *block = found.groups()
            return f"layers.{int(stage) - 1}.{ours.format(*block)}{key[found.end() :]}"
    return key
