"""The zoo's convolutional networks: the published keys, the numbers they answer, and what every network promises."""

import json
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.loading import find_architecture
from terrazzo.published.networks import (
    bisenetv1,
    cgnet,
    dilated,
    erfnet,
    fastfcn,
    icnet,
    mobilenet_v3,
    ocrnet,
    pointrend,
    semantic_fpn,
)
from terrazzo.published.networks.attention import attend
from terrazzo.published.networks.code_heads import CodeWords
from terrazzo.published.networks.context_heads import ContextKind
from terrazzo.published.networks.dilated import DilatedSizes
from terrazzo.published.networks.mobilenet_v2 import MobileNetV2Sizes
from terrazzo.published.networks.psanet import placed
from terrazzo.published.networks.resnest import ResNeStSizes
from terrazzo.published.networks.resnet_v1c import D8, D32, ResnetSizes

MODULES = (bisenetv1, cgnet, dilated, erfnet, fastfcn, icnet, mobilenet_v3, ocrnet, pointrend, semantic_fpn)
BUILD = {name: module.build for module in MODULES for name in module.VARIANTS}

ANSWERS = json.loads((Path(__file__).parent / "more_convnets.json").read_text())
"""What MMSegmentation 1.2.2 itself answered (torch 2.11, CPU) for fill.py's images and weights, in the sizes of SMALL.

By network and image a line for each head, ours first: shape; the numbers at 0, a third, the half and before the last;
mean and standard deviation.
"""

KEYS = json.loads((Path(__file__).parent / "more_convnets_keys.json").read_text())
"""Of MMSegmentation's own networks, by published name: classes, tensors, and the CRC-32 of names, shapes and types."""

ROWS = """
3  16  16  SE RE 2
3  24  16  -  RE 2
5  32  16  SE HS 2
5  32  16  SE HS 1
"""
"""Of a MobileNetV3, as in the paper's tables."""

R18, R18_D32 = replace(D8, depth=18), replace(D32, depth=18)
HEADS: tuple[dilated.HeadKind, ...] = ("encnet", "emanet", "psanet", *get_args(ContextKind))
SMALL = {
    **{
        head: lambda classes, head=head: dilated.build(
            DilatedSizes(head, R18, channels=32, aux_channels=16, window=(9, 6)), classes
        )
        for head in HEADS
    },
    **{
        f"mobilenet-v2 {head}": lambda classes, head=head: dilated.build(
            DilatedSizes(head, MobileNetV2Sizes(), channels=32, aux_channels=16, fine_channels=8), classes
        )
        for head in ("fcn", "deeplabv3plus")
    },
    "resnest pspnet": lambda classes: dilated.build(
        DilatedSizes("pspnet", ResNeStSizes(50, stem=16, width=16), channels=32, aux_channels=16), classes
    ),
    "ocrnet": lambda classes: ocrnet.build(ocrnet.OcrNetSizes(R18, width=32, key_width=16, guess_width=16), classes),
    "semantic_fpn": lambda classes: semantic_fpn.build(
        semantic_fpn.SemanticFpnSizes(R18_D32, pyramid=32, channels=16), classes
    ),
    "pointrend": lambda classes: pointrend.build(
        pointrend.PointRendSizes(R18_D32, pyramid=32, channels=16, point_channels=16), classes
    ),
    "bisenetv1": lambda classes: bisenetv1.build("bisenetv1_r18-d32", classes),
    "icnet": lambda classes: icnet.build(
        icnet.IcNetSizes(R18, light=8, pooled=32, branches=(8, 12, 16), fused=16), classes
    ),
    **{
        f"fastfcn {head}": lambda classes, head=head: fastfcn.build(
            fastfcn.FastFcnSizes(head, ResnetSizes(18, strides=(1, 2, 2, 2)), joint=16, channels=32, aux_channels=16),
            classes,
        )
        for head in ("psp", "aspp", "enc")
    },
    "erfnet": lambda classes: erfnet.build("erfnet_fcn", classes),
    "cgnet": lambda classes: cgnet.build("cgnet_fcn", classes),
    "mobilenet-v3 large": lambda classes: mobilenet_v3.build("mobilenet-v3-d8_lraspp", classes),
    "mobilenet-v3 small": lambda classes: mobilenet_v3.build("mobilenet-v3-d8-s_lraspp", classes),
}
"""Each kind of network, in the sizes that MMSegmentation was run with."""

TINY_V2 = MobileNetV2Sizes(stem=4, widths=(4, 4, 8, 8, 8, 16, 16), blocks=(1, 1, 1, 2, 1, 2, 1))
TINY = SMALL | {
    **{
        head: lambda classes, head=head: dilated.build(
            DilatedSizes(head, TINY_V2, channels=16, aux_channels=8, window=(5, 4)), classes
        )
        for head in HEADS
    },
    "mobilenet-v2 fcn": lambda classes: dilated.build(
        DilatedSizes("fcn", TINY_V2, channels=8, aux_channels=8), classes
    ),
    "mobilenet-v2 deeplabv3plus": lambda classes: dilated.build(
        DilatedSizes("deeplabv3plus", TINY_V2, channels=8, aux_channels=8, fine_channels=4), classes
    ),
    "mobilenet-v3 small": lambda classes: mobilenet_v3.build(
        mobilenet_v3.LrasppSizes(mobilenet_v3.dilated_blocks(ROWS), 24, (0, 1), channels=8, branches=(4, 4)), classes
    ),
    "erfnet": lambda classes: erfnet.build(erfnet.ErfNetSizes((4, 8, 16), 1, (2, 4), 1, channels=8), classes),
    "cgnet": lambda classes: cgnet.build(cgnet.CgNetSizes((4, 8, 16), (2, 2), shares=(2, 4)), classes),
}
del TINY["mobilenet-v3 large"], TINY["fastfcn aspp"]
"""The same, and most of them narrower: what every network promises needs no width."""


SMALLEST = {"icnet": 32}
"""Side of the smallest image."""
FROZEN = {
    "encnet": {"decode_head.se_layer"},
    "fastfcn enc": {"decode_head.se_layer"},
    "emanet": {"decode_head.ema_mid_conv.conv"},
}
"""What does not learn: the one has no loss of ours, the other never learnt."""


@cache
def ready(kind: str) -> nn.Module:
    """Such a network for 3 classes, in eval mode."""
    torch.manual_seed(0)
    return TINY[kind](3).eval()


def all_of(output: Output) -> tuple[Tensor, ...]:
    return output.logits, *output.aux


@pytest.mark.parametrize("name", KEYS)
def test_keys_are_the_published_ones(name: str) -> None:
    classes, tensors, check = KEYS[name]
    with torch.device("meta"):
        state = BUILD[name](name, classes).state_dict()
    lines = sorted(f"{key} {[*tensor.shape]} {tensor.dtype}" for key, tensor in state.items())
    assert len(lines) == tensors
    assert zlib.crc32("\n".join(lines).encode()) == check


@pytest.mark.parametrize("kind", SMALL)
def test_every_head_answers_what_is_published(kind: str, fill: ModuleType) -> None:
    net = SMALL[kind](19).eval()
    state = {key: tensor for key, tensor in net.state_dict().items() if tensor.is_floating_point()}
    numbers = {key: torch.from_numpy(fill.tensor(key, [*tensor.shape])) for key, tensor in state.items()}
    net.load_state_dict(numbers, strict=False)
    for side, wanted in ANSWERS[kind].items():
        with torch.inference_mode():
            answers = all_of(net(image(fill, kind, side)))
        assert [[*answer.shape] for answer in answers] == [shape for shape, *_ in wanted]
        for answer, (_, *facts) in zip(answers, wanted, strict=True):
            flat = answer.double().flatten()
            places = (0, len(flat) // 3, len(flat) // 2, -2)
            found = [*(flat[place] for place in places), flat.mean(), flat.std(correction=0)]
            np.testing.assert_allclose(found, facts, rtol=0, atol=1e-4 * max(1.0, facts[-1]))


def image(fill: ModuleType, kind: str, side: str) -> Tensor:
    """MMSegmentation's LRASPP takes no image below 392 pixels a side."""
    if not kind.startswith("mobilenet-v3"):
        return torch.from_numpy(fill.image(side))
    height, width = {"even": (400, 416), "odd": (397, 421)}[side]
    return torch.from_numpy(fill._generator(f"image {side}").randn(1, 3, height, width).astype(np.float32))


@pytest.mark.parametrize("kind", TINY)
def test_images_of_any_size_on_their_own_and_the_same_again(kind: str) -> None:
    net, least = ready(kind), SMALLEST.get(kind, 1)
    for height, width in ((least, least), (max(7, least), 45), (40, 33)):
        images = torch.randn(2, 3, height, width)
        with torch.inference_mode():
            together, again, alone = (all_of(net(given)) for given in (images, images, images[1:]))
        for first, second, one in zip(together, again, alone, strict=True):
            assert first.shape[:2] == (2, 3)
            assert first.isfinite().all()
            assert torch.equal(first, second)
            torch.testing.assert_close(first[1:], one, atol=1e-4 * max(1.0, first.std().item()), rtol=1e-4)


@pytest.mark.parametrize("kind", TINY)
def test_every_parameter_learns(kind: str) -> None:
    torch.manual_seed(0)
    net = TINY[kind](3).train()
    for part in net.modules():
        if isinstance(part, nn.Dropout | nn.Dropout2d):
            part.p = 0.0
    output = net(torch.randn(3, 3, 65, 79))
    assert output.edges == ()
    loss: Tensor = sum(logits.square().mean() for logits in all_of(output))
    loss.backward()
    grads = {key: value.grad for key, value in net.named_parameters() if value.requires_grad}
    for key in [key for key in grads if key.endswith("conv_mask.bias")]:
        del grads[key]  # a softmax over the image does not see what is added to all of it
    assert [key for key, grad in grads.items() if grad is None or not grad.isfinite().all() or not grad.any()] == []
    frozen = {key.rpartition(".")[0] for key, value in net.named_parameters() if not value.requires_grad}
    assert frozen == FROZEN.get(kind, set())


@pytest.mark.parametrize("kind", TINY)
def test_a_file_brings_everything_back(kind: str, tmp_path: Path) -> None:
    net, other = ready(kind), TINY[kind](3).eval()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    images = torch.randn(1, 3, 40, 48)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(all_of(net(images)), all_of(other(images)), strict=True))


@pytest.mark.parametrize("kind", HEADS)
def test_heads_are_one_graph(kind: str) -> None:
    head = ready(kind).decode_head
    maps = [torch.randn(2, width, 9, 7) for width in TINY_V2.dims]
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(head, fullgraph=True, backend="eager")(maps), head(maps))


@pytest.mark.parametrize("kind", ["pointrend", "icnet", "mobilenet-v3 small", "ocrnet"])
def test_networks_are_one_graph(kind: str) -> None:
    net, images = ready(kind), torch.randn(1, 3, 40, 47)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(
            all_of(torch.compile(net, fullgraph=True, backend="eager")(images)), all_of(net(images))
        )


def test_attention_is_a_softmax_of_scaled_products() -> None:
    queries, keys, values = torch.randn(2, 6, 3, 4), torch.randn(2, 6, 5), torch.randn(2, 7, 5)
    shares = torch.einsum("bchw,bcn->bhwn", queries, keys).mul(0.3).softmax(3)
    torch.testing.assert_close(attend(queries, keys, values, scale=0.3), torch.einsum("bhwn,bdn->bdhw", shares, values))


def test_windows_of_isanet_do_not_see_each_other_twice() -> None:
    """The far relation mixes the windows, so one pixel reaches all of them; the near one only its own."""
    torch.manual_seed(0)
    head = ready("isanet").decode_head
    near = head.local_relation
    cut = torch.randn(4, 16, 8, 8)
    moved = cut.clone()
    moved[0, :, 3, 3] += 1
    with torch.inference_mode():
        changed = (near(cut) - near(moved)).abs().amax((1, 2, 3)) > 0
    assert changed.tolist() == [True, False, False, False]
    assert head.side == 8


def test_shared_projection_of_ann_is_one_and_named_twice() -> None:
    own = TINY["ann"](3).decode_head.context.stages[0]
    state = own.state_dict()
    assert own.query_project is own.key_project
    assert torch.equal(state["query_project.conv.weight"], state["key_project.conv.weight"])
    assert state["query_project.conv.weight"].data_ptr() != state["key_project.conv.weight"].data_ptr()
    assert not [key for key, _ in own.named_parameters() if key.startswith("query_project")]


def test_places_of_psanet_by_hand() -> None:
    window, (height, width) = (3, 4), (4, 5)
    weights = torch.randn(1, 12, height, width)
    wanted = torch.zeros(1, height * width, height, width)
    for row in range(height):
        for column in range(width):
            for down in range(3):
                for across in range(4):
                    there = row + down - 1, column + across - 1
                    if 0 <= there[0] < height and 0 <= there[1] < width:
                        number = there[0] * width + there[1]
                        wanted[0, number, row, column] = weights[0, down * 4 + across, row, column]
    assert torch.equal(placed(weights, window), wanted)


def test_code_words_need_no_table_of_all_differences() -> None:
    torch.manual_seed(0)
    words, current = CodeWords(4, 3), torch.randn(2, 4, 2, 5)
    apart = current.flatten(2).transpose(1, 2)[:, :, None] - words.codewords  # [B, pixels, codes, C]
    shares = (apart.square().sum(3) * words.scale).softmax(2)
    torch.testing.assert_close(words(current), (shares[..., None] * apart).sum(1))


def test_bases_of_emanet_follow_in_training_only() -> None:
    head = TINY["emanet"](3).decode_head
    before = head.ema_module.bases.clone()
    maps = [torch.randn(2, 16, 6, 5)]
    head.eval()(maps)
    assert torch.equal(head.ema_module.bases, before)
    head.train()(maps)
    moved = head.ema_module.bases - before
    assert 0 < moved.abs().max() < 0.2


def test_presence_learns_if_asked_to() -> None:
    net = TINY["encnet"](3)
    net.decode_head.train_presence()
    logits = net.decode_head.presence(net.backbone(torch.randn(2, 3, 32, 40)))
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert all(value.grad is not None for value in net.decode_head.se_layer.parameters())


def test_strides_of_mobilenet_v3_become_dilations() -> None:
    large = mobilenet_v3.VARIANTS["mobilenet-v3-d8_lraspp"].blocks
    assert [(block.stride, block.dilation) for block in large[5:]] == [(1, 1)] + [(1, 2)] * 6 + [(1, 4)] * 3
    assert [block.stride for block in large[:5]] == [1, 2, 1, 2, 1]


def test_zoo_names_of_these_networks(shared_parity: Path) -> None:
    zoo = json.loads((shared_parity / "mmseg_zoo.json").read_text())["models"]
    families = {
        "ann",
        "apcnet",
        "bisenetv1",
        "ccnet",
        "cgnet",
        "danet",
        "dmnet",
        "dnlnet",
        "emanet",
        "encnet",
        "erfnet",
    }
    families |= {"fastfcn", "gcnet", "icnet", "isanet", "mobilenet_v2", "mobilenet_v3", "nonlocal_net", "ocrnet"}
    families |= {"point_rend", "psanet", "resnest", "sem_fpn", "deeplabv3plus", "unet"}
    names = [entry["name"] for entry in zoo if entry["weights_dir"] and entry["config"].split("/")[1] in families]
    assert len(names) > 250
    assert [name for name in names if find_architecture(name) is None] == []


@pytest.mark.parametrize("module", MODULES)
def test_unknown_name(module: ModuleType) -> None:
    with pytest.raises(InputError, match=next(iter(module.VARIANTS))):
        module.build("unheard-of", 3)
