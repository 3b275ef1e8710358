"""Segmenter: the published names and answers, and maps of other sizes than the table of positions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parity import fill_module

from terrazzo.base import InputError
from terrazzo.published.networks.segmenter_vit import VARIANTS, SegmenterSizes, build

SMALL = SegmenterSizes(width=12, heads=3, depth=2, positions=(3, 4))

# Every seventh part of the logits that MMSegmentation 1.2.2 answers (torch 2.15, CPU).
PUBLISHED_ANSWERS = {
    "even": [-0.5005, -0.3031, -0.6302, -0.5593, -0.2439, 1.2251, 0.4437],
    "odd": [-0.3675, 0.0475, -0.4397, -0.2241, -0.2562, 0.7585, 0.1117],
}


@pytest.mark.parametrize("name", ["even", "odd"])
def test_published_weights_answer_as_published(shared_parity: Path, name: str) -> None:
    fill = fill_module(shared_parity)
    net = build("segmenter_vit-t_mask", 150).eval()
    state = fill.state_dict(shared_parity / "segmenter_vit-t_mask.keys.json")
    net.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()}, strict=True)
    images = torch.from_numpy(fill.image(name))
    with torch.inference_mode():
        output = net(images)
    assert output.logits.shape == (1, 150, *(-(-side // 16) for side in images.shape[-2:]))
    assert output.aux == ()
    sample = output.logits.flatten()[:: output.logits.numel() // 7][:7]
    torch.testing.assert_close(sample, torch.tensor(PUBLISHED_ANSWERS[name]), rtol=0, atol=1.5e-4)  # 4 digits printed


def test_manifest_is_the_state_dict(shared_parity: Path) -> None:
    keys = json.loads((shared_parity / "segmenter_vit-t_mask.keys.json").read_text())["keys"]
    with torch.device("meta"):
        net = build("segmenter_vit-t_mask", 150)
    assert {key: [*value.shape] for key, value in net.state_dict().items()} == {k: v[0] for k, v in keys.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_published_sizes_are_built(name: str) -> None:
    with torch.device("meta"):
        net = build(name, 19).eval()
        assert net(torch.zeros(1, 3, 32, 48)).logits.shape == (1, 19, 2, 3)


def test_the_first_layer_may_have_a_bias() -> None:
    names = {name for name, _ in build(replace(SMALL, patch_bias=True), 5).named_parameters()}
    assert names - {name for name, _ in build(SMALL, 5).named_parameters()} == {"backbone.patch_embed.projection.bias"}


def test_attention_is_torchs_own() -> None:
    ours = build(SMALL, 5).backbone.layers[0].attn.attn
    torch.nn.init.normal_(ours.in_proj_bias)
    wanted = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    wanted.load_state_dict(ours.state_dict(), strict=True)
    tokens = torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(tokens), wanted(tokens, tokens, tokens)[0])


def test_positions_of_another_map() -> None:
    backbone = build(SMALL, 5).backbone
    with torch.no_grad():
        backbone.pos_embed[:, 1:] = torch.arange(12.0).view(1, 12, 1)
    assert torch.equal(backbone.positions((3, 4)), backbone.pos_embed[:, 1:])
    turned = backbone.positions((4, 3))  # as many positions, and yet not the same
    assert turned.shape == (1, 12, 12)
    assert not torch.equal(turned, backbone.pos_embed[:, 1:])


@pytest.mark.parametrize("decoder", ["mask", "linear"])
@pytest.mark.parametrize("size", [(1, 1), (33, 50), (48, 64)])
def test_any_size(size: tuple[int, int], decoder: str) -> None:
    output = build(replace(SMALL, decoder=decoder), 5).eval()(torch.randn(2, 3, *size))
    assert output.logits.shape == (2, 5, *(-(-side // 16) for side in size))
    assert output.covers == (0, 0)


def test_images_of_a_batch_do_not_meet() -> None:
    net, images = build(SMALL, 5).eval(), torch.randn(3, 3, 41, 50)
    torch.testing.assert_close(net(images).logits[1:2], net(images[1:2]).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder", ["mask", "linear"])
def test_every_parameter_learns(decoder: str) -> None:
    torch.manual_seed(0)
    net = build(replace(SMALL, decoder=decoder), 5).train()
    (net(torch.randn(8, 3, 41, 50)).logits * torch.randn(8, 5, 3, 4)).sum().backward()
    assert [name for name, value in net.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_compiles() -> None:
    net, images = build(SMALL, 5).eval(), torch.randn(1, 3, 33, 50)
    compiled = torch.compile(net, fullgraph=True, backend="eager")(images)
    torch.testing.assert_close(compiled.logits, net(images).logits)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="choose one of segmenter_vit-t_mask"):
        build("resnet", 5)
