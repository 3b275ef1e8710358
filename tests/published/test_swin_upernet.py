"""Swin with UPerNet's head: the published names, sizes that no window fits, and attention worked out pixel by pixel."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parity import fill_module
from torch import Tensor

from terrazzo.base import InputError
from terrazzo.published.networks.swin_upernet import (
    APART,
    VARIANTS,
    ShiftedWindows,
    SwinSizes,
    build,
    relative_positions,
)

SMALL = SwinSizes(width=8, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), window=3, head_width=8, aux_width=8)


# Every seventh part of the logits and auxiliary logits that MMSegmentation 1.2.2 answers (torch 2.15, CPU).
PUBLISHED_ANSWERS = {
    "even": (
        [0.6674, -2.1828, -1.5506, -0.3587, -3.4654, 0.2633, 1.2544],
        [-0.4639, -0.3175, 1.2402, -0.7668, 1.3401, 1.6998, 2.1364],
    ),
    "odd": (
        [0.7185, -1.3821, -1.2822, 0.3267, -2.3819, -1.3238, 0.9564],
        [-0.3038, -0.1128, 0.3174, 0.5172, 0.1202, 0.4455, 0.9454],
    ),
}


@pytest.mark.parametrize("name", ["even", "odd"])
def test_published_weights_answer_as_published(shared_parity: Path, name: str) -> None:
    fill = fill_module(shared_parity)
    net = build("upernet_swin-t", 150).eval()
    state = fill.state_dict(shared_parity / "upernet_swin-t.keys.json")
    net.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()}, strict=True)
    images = torch.from_numpy(fill.image(name))
    with torch.inference_mode():
        output = net(images)
    height, width = (-(-side // 4) for side in images.shape[-2:])
    assert output.logits.shape == (1, 150, height, width)
    assert output.aux[0].shape == (1, 150, -(-height // 4), -(-width // 4))
    for found, wanted in zip((output.logits, *output.aux), PUBLISHED_ANSWERS[name], strict=True):
        sample = found.flatten()[:: found.numel() // 7][:7]
        torch.testing.assert_close(sample, torch.tensor(wanted), rtol=0, atol=1.5e-4)  # printed to 4 digits


def test_manifest_is_the_state_dict_and_the_derived_tables(shared_parity: Path) -> None:
    keys = json.loads((shared_parity / "upernet_swin-t.keys.json").read_text())["keys"]
    with torch.device("meta"):
        net = build("upernet_swin-t", 150)
    tables = {key: [*value.shape] for key, value in net.named_buffers() if key.endswith("relative_position_index")}
    state = {key: [*value.shape] for key, value in net.state_dict().items()}
    assert state | tables == {key: shape for key, (shape, _) in keys.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_published_sizes_are_built(name: str) -> None:
    with torch.device("meta"):
        net = build(name, 19)
    assert net.decode_head.conv_seg.out_channels == 19
    assert len(net.backbone.stages[2].blocks) == VARIANTS[name].depths[2]


def test_derived_tables_in_a_file_are_read_or_refused() -> None:
    net = build(SMALL, 5)
    state = net.state_dict()
    assert not any("index" in key for key in state)
    tables = {key: value for key, value in net.named_buffers() if key.endswith("index")}
    net.load_state_dict({**state, **tables}, strict=True)
    turned = {key: value.T for key, value in tables.items()}
    with pytest.raises(RuntimeError, match="not that of windows of 3"):
        net.load_state_dict({**state, **turned}, strict=True)


def test_positions_count_from_the_asked_one_row_by_row() -> None:
    table = relative_positions(3)
    assert table[0].tolist() == [12, 11, 10, 7, 6, 5, 2, 1, 0]
    assert table.diagonal().unique().tolist() == [12]
    assert table[8, 0] == 24


def by_hand(windows: ShiftedWindows, current: Tensor) -> Tensor:
    """The same attention position by position: [H, W, C] to the same, from the definition."""
    side, shift, heads = windows.window, windows.shift, windows.w_msa.heads
    height, width, dim = current.shape
    tall, wide = -(-height // side) * side, -(-width // side) * side
    whole = current.new_zeros(tall, wide, dim)
    whole[:height, :width] = current
    query, key, value = windows.w_msa.qkv(whole).view(tall, wide, 3, heads, -1).unbind(2)
    answer = torch.zeros(tall, wide, heads, dim // heads)

    def where(place: int, size: int) -> tuple[int, int, int]:
        """Of a row or column: its window, its place there, and the part of a wrapped window that it lies in."""
        rolled = (place - shift) % size
        return rolled // side, rolled % side, 0 if not shift else int(place < shift)

    for row in range(tall):
        for column in range(wide):
            (window, down, wrapped), (beside, across, around) = where(row, tall), where(column, wide)
            places, scores = [], []
            for other in range(tall):
                for next_to in range(wide):
                    its, low, folded = where(other, tall)
                    theirs, right, bent = where(next_to, wide)
                    if (its, theirs) != (window, beside):
                        continue
                    index = (down - low + side - 1) * (2 * side - 1) + across - right + side - 1
                    score = (query[row, column] * key[other, next_to]).sum(-1) / (dim // heads) ** 0.5
                    score = score + windows.w_msa.relative_position_bias_table[index]
                    if (wrapped, around) != (folded, bent):
                        score = score + APART
                    places.append(value[other, next_to])
                    scores.append(score)
            weights = torch.stack(scores).softmax(0)
            answer[row, column] = (weights[..., None] * torch.stack(places)).sum(0)
    projected: Tensor = windows.w_msa.proj(answer.flatten(2))
    return projected[:height, :width]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", [(2, 2), (3, 6), (4, 7)])
def test_windows_by_hand(shift: int, size: tuple[int, int]) -> None:
    windows = ShiftedWindows(8, 2, 3, shift=shift)
    torch.nn.init.normal_(windows.w_msa.relative_position_bias_table)
    torch.nn.init.normal_(windows.w_msa.qkv.bias)
    current = torch.randn(2, *size, 8)
    wanted = torch.stack([by_hand(windows, one) for one in current])
    torch.testing.assert_close(windows(current), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (33, 50), (48, 24)])
def test_any_size(size: tuple[int, int]) -> None:
    output = build(SMALL, 5).eval()(torch.randn(2, 3, *size))
    assert output.logits.shape == (2, 5, *(-(-side // 4) for side in size))
    assert output.covers == (0, 0)


def test_images_of_a_batch_do_not_meet() -> None:
    net, images = build(SMALL, 5).eval(), torch.randn(3, 3, 41, 50)
    torch.testing.assert_close(net(images).logits[1:2], net(images[1:2]).logits, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    net = build(SMALL, 5).train()
    # The deepest map is 3x3: smaller ones leave parts of the last stage's tables of positions without a pair.
    output = net(torch.randn(8, 3, 96, 96))
    (output.logits.square().mean() + output.aux[0].square().mean()).backward()
    assert [name for name, value in net.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_compiles() -> None:
    net, images = build(replace(SMALL, depths=(2, 1, 1, 1)), 5).eval(), torch.randn(1, 3, 33, 50)
    compiled = torch.compile(net, fullgraph=True, backend="eager")(images)
    torch.testing.assert_close(compiled.logits, net(images).logits)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="choose one of upernet_swin-t"):
        build("resnet", 5)
