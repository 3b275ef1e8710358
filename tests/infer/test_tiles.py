"""Windows over a picture: what a network without context says is not changed by them, whatever size anything has."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import Context, Local, Ramp, clear, picture, wrap
from torch import Tensor, nn
from torch.nn import functional

from terrazzo import kernels
from terrazzo.base import InputError
from terrazzo.infer.answer import InferenceConfig, answer, label_map
from terrazzo.infer.tiles import SIGMA, WindowConfig
from terrazzo.models import Segmenter
from terrazzo.output import Output

SIDES = st.integers(1, 56)
WINDOWS = st.builds(
    WindowConfig,
    size=st.one_of(st.integers(8, 48), st.tuples(st.integers(8, 48), st.integers(8, 48))),
    overlap=st.sampled_from([0, 0.25, 0.334, 0.6]),
    blend=st.sampled_from(["mean", "gauss"]),
    accumulate=st.sampled_from(["stride", "pixel"]),
    batch=st.integers(1, 5),
)


def through(window: WindowConfig) -> InferenceConfig:
    return InferenceConfig(window=window)


def enlarged(output: Output, size: tuple[int, int]) -> Tensor:
    return kernels.upsample(output.logits, size, output.covers, output.align_corners)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, WINDOWS, st.sampled_from([(1, 1), (2, 2), (4, 4), (3, 3), (4, 8), (1, 8)]))
def test_windows_change_nothing_for_a_network_without_context(
    height: int, width: int, window: WindowConfig, cell_and_stride: tuple[int, int]
) -> None:
    cell, stride = cell_and_stride
    model, image = wrap(Local(cell), stride), picture(height, width)
    window = window.model_copy(update={"accumulate": "stride"})
    whole = model(image).logits.detach()
    output = answer(model, image, through(window))
    rows, columns = output.logits.shape[2:]
    assert output.covers == (rows * cell, columns * cell)
    assert rows * cell >= height
    assert columns * cell >= width
    torch.testing.assert_close(output.logits, whole[:, :, :rows, :columns], rtol=1e-4, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, WINDOWS, st.sampled_from([1, 2, 3, 4, 8]))
@example(7, 5, WindowConfig(size=1), 1)
@example(9, 4, WindowConfig(size=(3, 1), overlap=0.9), 2)
def test_a_mask_made_in_bands_is_the_mask_of_all_logits(
    height: int, width: int, window: WindowConfig, cell: int
) -> None:
    model, image = wrap(Context(cell), cell), picture(height, width)
    whole = enlarged(answer(model, image, through(window)), (height, width))
    mask = label_map(model, image, through(window), (height, width))
    assert mask.shape == (1, height, width)
    assert mask.dtype == torch.uint8
    different = mask != whole.argmax(1)
    assert not (different & clear(whole)).any(), "bands add in another order: only ties may differ"


def brute_force(model: Segmenter, image: Tensor, window: WindowConfig) -> Tensor:
    """Full-size logits of each window, weighted, added and divided, as the definition says."""
    sizes = window.size if isinstance(window.size, tuple) else (window.size, window.size)
    height, width = image.shape[2:]
    total, weight = torch.zeros(1, 3, height, width, dtype=torch.float64), torch.zeros(height, width).double()
    spans = []
    for length, size in ((height, sizes[0]), (width, sizes[1])):
        side = min(size, length)
        step = max(1, math.floor(side * (1 - window.overlap) + 1e-9))
        tops = [*range(0, length - side, step), length - side]
        spans.append([(top, top + side) for top in tops])
    for top, bottom in spans[0]:
        for left, right in spans[1]:
            output = model(image[:, :, top:bottom, left:right])
            covers = [int(side) for side in output.covers]
            logits = functional.interpolate(output.logits.double(), covers, mode="bilinear")
            share = torch.ones(bottom - top, right - left).double()
            if window.blend == "gauss":
                for axis, side in enumerate(share.shape):
                    off = (torch.arange(side).double() + 0.5) / side - 0.5
                    bell = torch.exp(-(off**2) / (2 * SIGMA**2))
                    share = share * (bell[:, None] if axis == 0 else bell)
            total[:, :, top:bottom, left:right] += logits[:, :, : bottom - top, : right - left] * share
            weight[top:bottom, left:right] += share
    return total / weight


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, WINDOWS, st.sampled_from([1, 2, 4, 8]))
def test_the_exact_mode_is_the_brute_force_sum_of_full_size_logits(
    height: int, width: int, window: WindowConfig, cell: int
) -> None:
    window = window.model_copy(update={"accumulate": "pixel"})
    model, image = wrap(Context(cell), cell), picture(height, width)
    with torch.no_grad():
        expected = brute_force(model, image, window)
    found = enlarged(answer(model, image, through(window)), (height, width))
    scale = expected.abs().max().item() + 1  # float32 sums of values up to some thousands
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5 * scale)
    mask = label_map(model, image, through(window), (height, width))
    assert not ((mask != expected.argmax(1)) & clear(expected)).any()


def test_both_modes_nearly_agree_for_a_network_with_context() -> None:
    model = wrap(Context(4), 4)
    image = functional.interpolate(picture(12, 16).float(), scale_factor=16, mode="bicubic").clamp(0, 255).byte()
    masks = [
        label_map(model, image, through(WindowConfig(size=64, accumulate=mode)), (192, 256))
        for mode in ("stride", "pixel")
    ]
    assert (masks[0] == masks[1]).float().mean() > 0.98


@pytest.mark.parametrize("size", [64, (64, 96), (48, 80)])
def test_a_picture_that_fits_into_one_window_is_answered_as_without_windows(size: int | tuple[int, int]) -> None:
    model, image = wrap(Context(4), 8), picture(45, 77)
    plain, found = answer(model, image, InferenceConfig()), answer(model, image, through(WindowConfig(size=size)))
    if size == 64:
        assert found.covers == (48, 80)
        assert not torch.equal(found.logits, plain.logits), "77 columns do not fit into 64"
    else:
        assert torch.equal(found.logits, plain.logits)
        assert found.covers == plain.covers


def test_without_a_window_predictions_are_the_networks_own_bits() -> None:
    model, image = wrap(Context(4), 8), picture(45, 77)
    with torch.inference_mode():
        own = model(image)
    found = answer(model, image, InferenceConfig())
    assert torch.equal(found.logits, own.logits)
    assert (found.covers, found.align_corners) == (own.covers, own.align_corners)
    mask = label_map(model, image, InferenceConfig(), (45, 77))
    assert torch.equal(mask, kernels.argmax(own.logits, (45, 77), own.covers))


class Counting(nn.Module):
    """Notes the shape of every batch."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return self.net(images)


def shapes(window: WindowConfig, height: int, width: int) -> list[tuple[int, ...]]:
    net = Counting(Local(4))
    label_map(wrap(net, 4), picture(height, width), through(window), (height, width))
    return net.seen


def test_windows_come_in_batches_and_the_last_ones_too() -> None:
    # 4 rows of 7 windows, 24 pixels apart; the very first tells the stride, the others of its row follow
    seen = shapes(WindowConfig(size=32, batch=4), 32 + 3 * 24, 32 + 6 * 24)
    assert [shape[0] for shape in seen] == [1, 4, 2, *[4, 3] * 3]
    assert {shape[2:] for shape in seen} == {(32, 32)}
    assert sum(shape[0] for shape in seen) == 28, "no window is asked about twice"
    # a width that cells do not divide: the last window of a row is narrower before it is padded, and goes alone
    assert [shape[0] for shape in shapes(WindowConfig(size=32, batch=4), 32, 32 + 3 * 24 + 1)] == [1, 3, 1]


@pytest.mark.parametrize(("overlap", "windows"), [(0, 4), (0.25, 5), (0.5, 7), (0.75, 13)])
def test_overlap_sets_how_many_windows_there_are(overlap: float, windows: int) -> None:
    assert sum(shape[0] for shape in shapes(WindowConfig(size=32, overlap=overlap), 32, 128)) == windows


def test_a_window_is_rounded_up_to_what_the_network_takes() -> None:
    net = Counting(Local(4))
    label_map(wrap(net, 16), picture(64, 100), through(WindowConfig(size=(30, 40))), (64, 100))
    assert {shape[2:] for shape in net.seen} == {(32, 48)}


def test_gauss_listens_less_to_the_border_of_a_window() -> None:
    def seam(blend: str) -> float:
        """Greatest step between neighbouring columns, for windows that contradict each other."""

        class Position(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                ramp = torch.linspace(0, 1, images.shape[3])
                return ramp.expand(images.shape[0], 1, *images.shape[2:]).contiguous()

        window = WindowConfig(size=32, overlap=0.5, blend=blend)  # type: ignore[arg-type]
        row = answer(wrap(Position(), 1), picture(32, 96), through(window)).logits[0, 0, 0]
        return float(row.diff().abs().max())

    assert seam("gauss") < 0.75 * seam("mean")


def test_one_class_is_everywhere() -> None:
    model, image = wrap(Local(4, classes=1), 4), picture(50, 70)
    assert not label_map(model, image, through(WindowConfig(size=32)), (50, 70)).any()
    assert answer(model, image, through(WindowConfig(size=32))).logits.shape[1] == 1


@pytest.mark.parametrize("align_corners", [True, False])
def test_windows_of_a_head_with_aligned_corners_stay_in_place(align_corners: bool) -> None:
    ramp = torch.arange(200, dtype=torch.uint8).expand(1, 1, 40, 200)
    model = wrap(Ramp(4, align_corners), 4, align_corners=align_corners, channels=1)
    row = answer(model, ramp, through(WindowConfig(size=40, blend="mean"))).logits[0, 0, 0]
    # the middle of cell i is at 4 i + 1.5; aligned corners taken for cells would be off by up to 1.5 pixels
    torch.testing.assert_close(row, 4 * torch.arange(50.0) + 1.5, rtol=0, atol=1e-3)


def test_a_resized_picture_is_enlarged_to_its_own_size() -> None:
    model, image = wrap(Context(4), 4), picture(48, 80)
    window = through(WindowConfig(size=32))
    found = label_map(model, image, window, (96, 120))
    output = answer(model, image, window).rescaled((48, 80), (96, 120))
    assert output.covers == (96, 120)
    assert torch.equal(found, kernels.argmax(output.logits, (96, 120), output.covers))


def test_a_network_whose_cells_do_not_fit_says_what_to_type() -> None:
    model = wrap(Counting(nn.Conv2d(3, 2, 4, stride=4)), 1)  # its stride is 4, but nobody said so
    assert answer(model, picture(64, 96), through(WindowConfig(size=32))).logits.shape == (1, 2, 16, 24)
    with pytest.raises(InputError, match=r"7 x 8 logits .* model\.stride .* window\.accumulate=pixel"):
        answer(model, picture(62, 96), through(WindowConfig(size=(30, 32))))
    found = label_map(model, picture(62, 96), through(WindowConfig(size=32, accumulate="pixel")), (62, 96))
    assert found.shape == (1, 62, 96)
