"""The tiled kernels against F.interpolate and F.cross_entropy, and their promises about ignored pixels and order."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from terrazzo import kernels
from terrazzo.base import IGNORE
from terrazzo.kernels import layout
from terrazzo.output import Output

pytestmark = pytest.mark.usefixtures("one_thread")

ALIGN = pytest.mark.parametrize("align_corners", [False, True], ids=["half-pixel", "align-corners"])


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every test crosses tile borders in rows, in columns and between images."""
    monkeypatch.setattr(layout, "CPU_TILE", layout.TileShape(120, 5, 4))


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def logits_of(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def masks_of(batch: int, height: int, width: int, classes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, classes, (batch, height, width), dtype=torch.uint8, generator=generator)
    return masks.masked_fill_(torch.rand(masks.shape, generator=generator) < 0.2, IGNORE)


def whole(logits: Tensor, size: tuple[int, int], covers: tuple[float, float], align_corners: bool) -> Tensor:
    """Bilinear sampling pixel by pixel, as the rule in `kernels` says it; slow."""
    axes = []
    for target, source, extent in zip(size, logits.shape[2:], covers, strict=True):
        found = []
        for t in range(target):
            at = t * (source - 1) / (extent - 1) if align_corners else (t + 0.5) * source / extent - 0.5
            at = min(max(at, 0.0), source - 1.0)
            low = int(at)
            found.append((low, min(low + 1, source - 1), at - low))
        axes.append(found)
    rows = [logits[:, :, a] * (1 - f) + logits[:, :, b] * f for a, b, f in axes[0]]
    plane = torch.stack(rows, 2)
    return torch.stack([plane[..., a] * (1 - f) + plane[..., b] * f for a, b, f in axes[1]], 3)


@ALIGN
@settings(max_examples=40, deadline=None)
@given(h=st.integers(1, 6), w=st.integers(1, 6), height=st.integers(1, 23), width=st.integers(1, 23))
def test_upsample_equals_interpolate_where_covers_is_the_size(
    align_corners: bool, h: int, w: int, height: int, width: int
) -> None:
    logits = logits_of(2, 3, h, w)
    expected = F.interpolate(logits, (height, width), mode="bilinear", align_corners=align_corners)
    for covers in (None, (0, 0), (height, width)):
        ours = kernels.upsample(logits, (height, width), covers, align_corners)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@ALIGN
@pytest.mark.parametrize("covers", [(16, 24), (17.5, 20.25), (32, 96), (13, 19), (4, 6)])
def test_upsample_over_a_padded_image(covers: tuple[float, float], align_corners: bool) -> None:
    """Padding at the bottom and right, odd and fractional extents, logits at full resolution (4, 6)."""
    logits, size = logits_of(2, 3, 4, 6), (min(13, int(covers[0])), min(19, int(covers[1])))
    ours = kernels.upsample(logits, size, covers, align_corners)
    torch.testing.assert_close(ours, whole(logits, size, covers, align_corners), rtol=0, atol=1e-12)


def test_padding_is_cut_off_as_pad_interpolate_crop_does() -> None:
    logits = logits_of(1, 3, 4, 8)
    expected = F.interpolate(logits, (32, 64), mode="bilinear")[:, :, :27, :50]
    torch.testing.assert_close(kernels.upsample(logits, (27, 50), (32, 64)), expected, rtol=0, atol=1e-12)


def test_upsample_band_is_a_part_of_the_whole() -> None:
    logits = logits_of(2, 3, 4, 8)
    band = kernels.upsample_band(logits, range(5, 11), (16, 30), (20, 32))
    torch.testing.assert_close(band, kernels.upsample(logits, (16, 30), (20, 32))[:, :, 5:11])


def test_upsample_has_the_gradient_of_interpolate() -> None:
    logits = logits_of(1, 2, 3, 4)
    assert torch.autograd.gradcheck(lambda z: kernels.upsample(z, (9, 7), (12, 9)), logits)


def reference(logits: Tensor, masks: Tensor, smoothing: float, weights: Tensor | None, align_corners: bool) -> Tensor:
    enlarged = F.interpolate(logits, masks.shape[1:], mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(
        enlarged, masks.long(), weights, ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing
    )


@ALIGN
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [(16, 32), (13, 21), (4, 8), (1, 1)])
def test_cross_entropy_equals_torch(
    size: tuple[int, int], weighted: bool, smoothing: float, align_corners: bool
) -> None:
    logits, masks = logits_of(3, 5, 4, 8), masks_of(3, *size, classes=5)
    weights = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0], dtype=torch.float64) if weighted else None
    expected = reference(logits, masks, smoothing, weights, align_corners)
    ours = kernels.cross_entropy_sum(logits, masks, weights=weights, smoothing=smoothing, align_corners=align_corners)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    (gradient,), (wanted,) = torch.autograd.grad(3 * ours, logits), torch.autograd.grad(3 * expected, logits)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-12)


@ALIGN
@pytest.mark.parametrize("covers", [None, (8.0, 12.0), (7.5, 14.3)])
def test_gradcheck_in_double_precision(covers: tuple[float, float] | None, align_corners: bool) -> None:
    logits, masks = logits_of(2, 3, 2, 3), masks_of(2, 7, 9, classes=3)
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)

    def loss(z: Tensor) -> Tensor:
        return kernels.cross_entropy_sum(
            z, masks, weights=weights, smoothing=0.2, covers=covers, align_corners=align_corners
        )

    def regions(z: Tensor) -> tuple[Tensor, ...]:
        return kernels.region_sums(z, masks, covers=covers, align_corners=align_corners)[:2]

    assert torch.autograd.gradcheck(loss, logits)
    assert torch.autograd.gradcheck(regions, logits)


NAMES = ["cross entropy", "focal", "lovasz", "lovasz, batch, all", "regions"]


def losses(logits: Tensor, masks: Tensor, **where: Any) -> dict[str, Tensor]:
    overlap, predicted, _ = kernels.region_sums(logits, masks, **where)
    return {
        "cross entropy": kernels.cross_entropy_sum(logits, masks, smoothing=0.1, **where),
        "focal": kernels.focal_sum(logits, masks, gamma=1.5, **where),
        "lovasz": kernels.lovasz_sum(logits, masks, **where),
        "lovasz, batch, all": kernels.lovasz_sum(logits, masks, over="batch", classes="all", **where),
        "regions": (overlap * 2 - predicted).sum(),
    }


@pytest.mark.parametrize("name", NAMES)
def test_all_ignored_is_exactly_zero_with_zero_gradient(name: str) -> None:
    logits = logits_of(2, 3, 4, 4, dtype=torch.float32)
    loss = losses(logits, torch.full((2, 16, 16), IGNORE, dtype=torch.uint8))[name]
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("name", NAMES)
def test_logits_that_only_ignored_pixels_read_reach_nothing(name: str, bad: float) -> None:
    """Rows 0..9 of 16 are ignored; the first counted row reads logit rows 1.. or 2..: row 0 is read by none."""
    masks = masks_of(1, 16, 16, classes=3)
    masks[:, :10] = IGNORE
    clean, dirty = logits_of(1, 3, 4, 4), logits_of(1, 3, 4, 4)
    with torch.no_grad():
        dirty[:, :, 0] = bad
    ours, expected = losses(dirty, masks)[name], losses(clean, masks)[name]
    (gradient,), (wanted,) = torch.autograd.grad(ours, dirty), torch.autograd.grad(expected, clean)
    assert ours == expected
    assert torch.equal(gradient, wanted)
    assert (gradient[:, :, 0] == 0).all()
    assert gradient[:, :, 3].abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_that_a_counted_pixel_reads_is_not_hidden(name: str) -> None:
    logits, masks = logits_of(1, 3, 4, 4), torch.zeros(1, 16, 16, dtype=torch.uint8)
    with torch.no_grad():
        logits[0, 1, 2, 2] = float("nan")
    assert losses(logits, masks)[name].isnan()


def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    logits = torch.tensor([500.0, -500.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2).clone().requires_grad_()
    masks = torch.ones(1, 4, 4, dtype=torch.uint8)
    loss = kernels.cross_entropy_sum(logits, masks)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 16 * 1000
    torch.testing.assert_close(gradient[0, 1], torch.full((2, 2), -4.0))


def test_full_resolution_logits_are_not_written_over() -> None:
    logits, masks = logits_of(1, 3, 8, 8), masks_of(1, 8, 8, classes=3)
    before = logits.detach().clone()
    kernels.cross_entropy_sum(logits, masks).backward()
    assert torch.equal(logits, before)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_logits_are_worked_on_in_float32(name: str) -> None:
    logits, masks = logits_of(2, 5, 4, 8).detach().bfloat16().requires_grad_(), masks_of(2, 16, 32, classes=5)
    exact = logits.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        ours = losses(logits, masks)[name]
        ours.backward()
    expected = losses(exact, masks)[name]
    expected.backward()
    assert ours.dtype == torch.float32
    assert logits.grad is not None
    assert exact.grad is not None
    assert logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["channels_last", "cut", "transposed"])
def test_any_memory_layout(kind: str, name: str) -> None:
    plain, masks = logits_of(2, 3, 4, 6), masks_of(2, 16, 24, classes=3)
    match kind:
        case "channels_last":
            other, cut = plain.detach().contiguous(memory_format=torch.channels_last), masks
        case "cut":
            other, cut = torch.zeros(2, 3, 8, 9, dtype=torch.float64), torch.zeros(2, 20, 30, dtype=torch.uint8)
            other, cut = other[:, :, 2:6, 1:7], cut[:, 3:19, 2:26]
            other.copy_(plain.detach())
            cut.copy_(masks)
        case _:
            other, cut = plain.detach().mT.contiguous().mT, masks.mT.contiguous().mT
    other.requires_grad_()
    ours, expected = losses(other, cut)[name], losses(plain, masks)[name]
    assert ours == expected
    assert torch.equal(torch.autograd.grad(ours, other)[0], torch.autograd.grad(expected, plain)[0])


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", NAMES)
def test_deterministic_mode_is_accepted_and_repeats_bit_by_bit(name: str) -> None:
    masks, answers = masks_of(2, 16, 28, classes=5), []
    for _ in range(2):
        logits = logits_of(2, 5, 4, 7, dtype=torch.float32)
        loss = losses(logits, masks)[name]
        answers.append((loss, torch.autograd.grad(loss, logits)[0]))
    assert all(torch.equal(loss, answers[0][0]) and torch.equal(grad, answers[0][1]) for loss, grad in answers)


def test_no_gradient_is_made_under_no_grad() -> None:
    logits, masks = logits_of(1, 3, 4, 4), masks_of(1, 16, 16, classes=3)
    with torch.no_grad():
        loss = kernels.cross_entropy_sum(logits, masks)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, kernels.cross_entropy_sum(logits, masks).detach())


def test_a_second_derivative_is_refused_not_wrong() -> None:
    logits, masks = logits_of(1, 3, 4, 4), masks_of(1, 16, 16, classes=3)
    (gradient,) = torch.autograd.grad(kernels.cross_entropy_sum(logits, masks) ** 2, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@ALIGN
@pytest.mark.parametrize("covers", [None, (25.0, 40.5)])
def test_argmax_and_confusion_equal_the_whole_path(covers: tuple[float, float] | None, align_corners: bool) -> None:
    logits, masks = logits_of(3, 6, 5, 8), masks_of(3, 21, 33, classes=6)
    expected = kernels.upsample(logits, (21, 33), covers, align_corners).argmax(1)
    found = kernels.argmax(logits, (21, 33), covers, align_corners)
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), expected)
    counted = masks != IGNORE
    pairs = torch.bincount(masks[counted].long() * 6 + expected[counted], minlength=36).view(6, 6)
    assert torch.equal(kernels.confusion(logits, masks, covers, align_corners), pairs)


def test_of_equal_logits_the_lowest_class_wins_and_nan_is_a_class() -> None:
    logits = torch.zeros(1, 254, 2, 2)
    assert (kernels.argmax(logits, (4, 4)) == 0).all()
    logits[:, 200:] = 1
    assert (kernels.argmax(logits, (4, 4)) == 200).all()
    assert (kernels.argmax(torch.full((1, 3, 2, 2), float("nan")), (4, 4)) < 3).all()


@ALIGN
def test_a_rescaled_output_lies_over_the_label(align_corners: bool) -> None:
    """Labels of another size than the network's input: without padding, plain interpolation to the label's size."""
    output = Output(logits_of(1, 3, 8, 12), align_corners=align_corners).rescaled((32, 48), (50, 71))
    ours = kernels.upsample(output.logits, (50, 71), output.covers, output.align_corners)
    expected = F.interpolate(output.logits, (50, 71), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    padded = Output(output.logits, covers=(40, 64)).rescaled((32, 48), (64, 144))
    assert padded.covers == (80, 192)
    assert Output(output.logits, covers=(37, 41)).rescaled((35, 39), (35, 39)).covers == (37, 41)


@pytest.mark.gpu
def test_no_kernel_waits_for_the_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    logits = logits_of(2, 5, 8, 8, dtype=torch.float32).detach().cuda().requires_grad_()
    masks = masks_of(2, 32, 32, classes=5).cuda()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(losses(logits, masks).values()).backward()  # type: ignore[union-attr]
        kernels.confusion(logits, masks)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
