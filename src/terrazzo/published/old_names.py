"""Tensors under names of other times and places, brought to those that MMSegmentation publishes today.

What differs is known from the names alone. Families whose authors publish files of their own translate those
themselves (`renamed` of `segformer_paper`, `segnext`).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from terrazzo.published.networks.segformer_paper import renamed as paper_renamed

INERT = ("data_preprocessor.", "ema_", "steps")
"""How entries begin that a trainer keeps beside the network's own."""

HUB_ENCODER = (
    (r"patch_embeddings\.(\d+)\.proj\.", "patch_embed{}.proj."),
    (r"patch_embeddings\.(\d+)\.layer_norm\.", "patch_embed{}.norm."),
    (r"block\.(\d+)\.(\d+)\.layer_norm_(\d)\.", "block{}.{}.norm{}."),
    (r"block\.(\d+)\.(\d+)\.attention\.self\.sr\.", "block{}.{}.attn.sr."),
    (r"block\.(\d+)\.(\d+)\.attention\.self\.layer_norm\.", "block{}.{}.attn.norm."),
    (r"block\.(\d+)\.(\d+)\.attention\.self\.query\.", "block{}.{}.attn.q."),
    (r"block\.(\d+)\.(\d+)\.attention\.output\.dense\.", "block{}.{}.attn.proj."),
    (r"block\.(\d+)\.(\d+)\.mlp\.dense1\.", "block{}.{}.mlp.fc1."),
    (r"block\.(\d+)\.(\d+)\.mlp\.dwconv\.dwconv\.", "block{}.{}.mlp.dwconv.dwconv."),
    (r"block\.(\d+)\.(\d+)\.mlp\.dense2\.", "block{}.{}.mlp.fc2."),
    (r"layer_norm\.(\d+)\.", "norm{}."),
)
"""How the Hugging Face hub's SegFormer names its encoder, stages from 0, and SegFormer's authors, stages from 1."""

HUB_HEAD = (
    (r"decode_head\.linear_c\.(\d+)\.proj\.", "decode_head.linear_c{}.proj."),
    (r"decode_head\.linear_fuse\.", "decode_head.linear_fuse.conv."),
    (r"decode_head\.batch_norm\.", "decode_head.linear_fuse.bn."),
    (r"decode_head\.classifier\.", "decode_head.linear_pred."),
)


def renamed(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file for the architecture `name`, without what is none of the network's."""
    tensors = {key: tensor for key, tensor in state.items() if not key.startswith(INERT)}
    if any(key.startswith("segformer.encoder.") for key in tensors):
        return paper_renamed(_of_the_hub(tensors))
    if name.startswith("segformer_mit") and "backbone.patch_embed1.proj.weight" in tensors:
        encoder = {key: tensor for key, tensor in tensors.items() if key.startswith("backbone.")}
        rest = {key: tensor for key, tensor in tensors.items() if key not in encoder}
        return {**paper_renamed(encoder), **rest}
    if any(key.startswith("backbone.layers.0.blocks.0.attn.qkv.") for key in tensors):
        return _of_swins_authors(tensors)
    if any(key.startswith("backbone.blocks.0.attn.qkv.") for key in tensors) and "vit" in name:
        return {_vit_name(key): tensor for key, tensor in tensors.items()}
    return tensors


def _of_the_hub(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SegFormer as transformers saves it, by the names of SegFormer's authors."""
    answer: dict[str, Tensor] = {}
    keys_and_values: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        inside = key.removeprefix("segformer.encoder.")
        if found := re.fullmatch(r"block\.(\d+)\.(\d+)\.attention\.self\.(key|value)\.(\w+)", inside):
            stage, block, part, kind = found.groups()
            place = f"backbone.block{int(stage) + 1}.{block}.attn.kv.{kind}"
            keys_and_values.setdefault(place, {})[part] = tensor
        elif inside != key:
            answer[f"backbone.{_replaced(inside, HUB_ENCODER)}"] = tensor
        else:
            answer[_replaced(key, HUB_HEAD)] = tensor
    for place, parts in keys_and_values.items():
        answer[place] = torch.cat([parts[part] for part in ("key", "value") if part in parts])
    return answer


def _replaced(key: str, names: tuple[tuple[str, str], ...]) -> str:
    """The authors' name of a tensor: the first number is a stage, or a map, and counts from 1."""
    for pattern, theirs in names:
        if found := re.match(pattern, key):
            first, *others = found.groups() or ("0",)
            return theirs.format(int(first) + 1, *others) + key[found.end() :]
    return key


SWIN = (
    (".attn.", ".attn.w_msa."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
    ("backbone.patch_embed.proj.", "backbone.patch_embed.projection."),
    ("backbone.layers.", "backbone.stages."),
)


def _of_swins_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Swin with UPerNet as its authors trained it, on an early MMSegmentation."""
    answer = {}
    for key, tensor in state.items():
        if key.endswith(".attn_mask"):
            continue  # follows from the image's size
        if ".downsample." in key:
            # The four positions of a merged patch lie in blocks, by columns; ours lie under each channel, by rows.
            blocks = tensor.view(*tensor.shape[:-1], 4, -1)[..., [0, 2, 1, 3], :]
            tensor = blocks.transpose(-1, -2).flatten(-2)
        name = key
        for old, new in SWIN if key.startswith("backbone.") else ():
            name = name.replace(old, new)
        answer[name] = tensor
    return answer


VIT = (
    (".norm1.", ".ln1."),
    (".norm2.", ".ln2."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
    (".attn.qkv.", ".attn.attn.in_proj_"),
    (".attn.proj.", ".attn.attn.out_proj."),
    ("backbone.patch_embed.proj.", "backbone.patch_embed.projection."),
    ("backbone.norm.", "backbone.ln1."),
    ("backbone.blocks.", "backbone.layers."),
)


def _vit_name(key: str) -> str:
    """Today's name of a tensor of a ViT with timm's names."""
    for old, new in VIT if key.startswith("backbone.") else ():
        key = key.replace(old, new)
    return key
