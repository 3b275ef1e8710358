"""Files under the names of other times and authors become what is published today, number by number."""

import pytest
import torch
from torch import Tensor, nn

from terrazzo.published.checkpoints import read_checkpoint
from terrazzo.published.networks import segformer_mit, segformer_paper, segmenter_vit, swin_upernet, vit
from terrazzo.published.old_names import renamed

MIT = segformer_mit.MitSizes((8, 16, 16, 24), (1, 2, 1, 1), (1, 2, 2, 3), head_channels=16)


def random_state(network: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.rand(value.shape, generator=generator) for key, value in network.state_dict().items()}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def swapped(key: str, names: list[tuple[str, str]]) -> str:
    for today, old in names:
        key = key.replace(today, old)
    return key


def test_swin_as_its_authors_trained_it():
    network = swin_upernet.build(swin_upernet.SwinSizes(8, (2, 2, 1, 1), (1, 2, 2, 4), window=3, head_width=8), 3)
    wanted = random_state(network)
    names = [
        *(("backbone.stages.", "backbone.layers."), (".attn.w_msa.", ".attn."), (".ffn.layers.0.0.", ".mlp.fc1.")),
        *((".ffn.layers.1.", ".mlp.fc2."), ("patch_embed.projection.", "patch_embed.proj.")),
    ]
    theirs = {"backbone.layers.0.blocks.1.attn_mask": torch.zeros(4, 9, 9)}
    for key, tensor in wanted.items():
        if ".downsample." in key:  # ours [..., C, 2 rows, 2 columns], theirs [..., 2 columns, 2 rows, C]
            dim = tensor.shape[-1] // 4
            tensor = tensor.unflatten(-1, (dim, 2, 2)).transpose(-3, -1).flatten(-3)
        theirs[swapped(key, names)] = tensor
    assert same(renamed("upernet_swin-t", theirs), wanted)


def test_a_vision_transformer_with_timms_names():
    wanted = random_state(segmenter_vit.build(segmenter_vit.SegmenterSizes(16, 2, 2, (4, 5)), 3))
    names = [
        *(("backbone.ln1.", "backbone.norm."), (".ln1.", ".norm1."), (".ln2.", ".norm2.")),
        *((".attn.attn.in_proj_", ".attn.qkv."), (".attn.attn.out_proj.", ".attn.proj.")),
        *(
            (".ffn.layers.0.0.", ".mlp.fc1."),
            (".ffn.layers.1.", ".mlp.fc2."),
            ("patch_embed.projection", "patch_embed.proj"),
        ),
        ("backbone.layers.", "backbone.blocks."),
    ]
    theirs = {swapped(key, names) if key.startswith("backbone.") else key: value for key, value in wanted.items()}
    assert same(renamed("segmenter_vit-t_mask", theirs), wanted)


def authors_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """SegFormer's encoder as its authors name it."""
    theirs: dict[str, Tensor] = {}
    inner = [
        *(("ffn.layers.0.", "mlp.fc1."), ("ffn.layers.1.", "mlp.dwconv.dwconv."), ("ffn.layers.4.", "mlp.fc2.")),
        ("attn.attn.out_proj.", "attn.proj."),
    ]
    for key, tensor in state.items():
        if not key.startswith("backbone."):
            theirs[key] = tensor
            continue
        _, _, stage, part, rest = key.split(".", 4)
        number, dim = int(stage) + 1, tensor.shape[0] // 3
        rest = rest if part == "2" else rest.replace("projection.", "proj.")
        if "in_proj" in rest:
            block, kind = rest.partition(".")[0], rest.rpartition("_")[2]
            theirs[f"backbone.block{number}.{block}.attn.kv.{kind}"] = tensor[dim:]
            theirs[f"backbone.block{number}.{block}.attn.q.{kind}"] = tensor[:dim]
        elif part == "1":
            linear = tensor.flatten(1) if ".ffn.layers.0.w" in rest or ".ffn.layers.4.w" in rest else tensor
            theirs[f"backbone.block{number}.{swapped(rest, inner)}"] = linear
        else:
            theirs[f"backbone.{'norm' if part == '2' else 'patch_embed'}{number}.{rest}"] = tensor
    return theirs


def test_segformer_of_early_files_has_the_authors_encoder_under_todays_head():
    wanted = random_state(segformer_mit.build(MIT, 3))
    theirs = authors_encoder(wanted)
    assert "backbone.block2.1.attn.kv.weight" in theirs
    assert same(renamed("segformer_mit-b0", theirs), wanted)


def test_what_a_trainer_keeps_beside_the_network_is_left_out():
    wanted = random_state(segformer_mit.build(MIT, 3))
    beside = {"data_preprocessor.mean": torch.zeros(3), "ema_backbone_norm": torch.zeros(2)}
    assert same(renamed("segformer_mit-b0", {**wanted, **beside}), wanted)


def test_segformer_of_the_hub_answers_as_there(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        depths=[1, 2, 1, 1], hidden_sizes=[8, 16, 16, 24], num_attention_heads=[1, 2, 2, 3], decoder_hidden_size=16
    )
    config.num_labels = 3
    torch.manual_seed(0)
    theirs = transformers.SegformerForSemanticSegmentation(config).eval()
    state = {key: value + 0.05 * torch.rand_like(value.float()) for key, value in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    ours = segformer_paper.build(MIT, 3).eval()
    theirs.save_pretrained(tmp_path)
    saved = read_checkpoint(tmp_path).state
    ours.load_state_dict(segformer_paper.renamed(renamed("segformer.b0", saved)))
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        difference = (ours(images).logits - theirs(images).logits).abs().max()
    assert difference < 1e-3, "the hub's copy has another eps in places"


def test_segmenters_patch_bias_is_a_part_of_its_positions():
    sizes = segmenter_vit.SegmenterSizes(16, 2, 2, (4, 5), patch_bias=True)
    old = segmenter_vit.build(sizes, 3).eval()
    nn.init.normal_(old.get_parameter(vit.PATCH_BIAS))
    new = segmenter_vit.build(segmenter_vit.SegmenterSizes(16, 2, 2, (4, 5)), 3).eval()
    new.load_state_dict(vit.renamed(old.state_dict()))
    for side in (64, 100):
        images = torch.randn(1, 3, 64, side)
        with torch.inference_mode():
            torch.testing.assert_close(new(images).logits, old(images).logits, atol=1e-4, rtol=1e-4)
