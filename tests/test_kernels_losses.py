"""Focal, weighted and Lovasz losses and border distances against slow references at full size."""

from collections.abc import Iterator
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from terrazzo import kernels
from terrazzo.base import IGNORE
from terrazzo.kernels import layout

ALIGN = pytest.mark.parametrize("align_corners", [False, True], ids=["half-pixel", "align-corners"])
Over = Literal["image", "batch"]
Averaged = Literal["present", "all"]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So that every test crosses tile borders in rows, columns and between images; one thread, for tiny products."""
    monkeypatch.setattr(layout, "CPU_TILE", layout.TileShape(120, 5, 4))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def logits_of(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def masks_of(batch: int, height: int, width: int, classes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, classes, (batch, height, width), dtype=torch.uint8, generator=generator)
    return masks.masked_fill_(torch.rand(masks.shape, generator=generator) < 0.2, IGNORE)


def enlarged(logits: Tensor, masks: Tensor, align_corners: bool = False) -> Tensor:
    return F.interpolate(logits, masks.shape[1:], mode="bilinear", align_corners=align_corners)


def same(ours: Tensor, wanted: Tensor, logits: Tensor) -> None:
    """Equal losses with equal gradients."""
    torch.testing.assert_close(ours, wanted, rtol=1e-11, atol=1e-11)
    (gradient,), (expected,) = torch.autograd.grad(3 * ours, logits), torch.autograd.grad(3 * wanted, logits)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-11)


WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0], dtype=torch.float64)


@ALIGN
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_pixel_weights_are_factors(weights: Tensor | None, smoothing: float, align_corners: bool) -> None:
    logits, masks = logits_of(3, 5, 4, 8), masks_of(3, 13, 21, classes=5)
    pixel = torch.rand(masks.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain = F.cross_entropy(
        enlarged(logits, masks, align_corners),
        masks.long(),
        weights,
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=smoothing,
    )
    ours = kernels.cross_entropy_sum(
        logits, masks, weights=weights, pixel_weights=pixel, smoothing=smoothing, align_corners=align_corners
    )
    same(ours, (plain * pixel).sum(), logits)


def focal_reference(logits: Tensor, masks: Tensor, gamma: float, weights: Tensor | None, align_corners: bool) -> Tensor:
    counted = masks != IGNORE
    index = masks.long().masked_fill(~counted, 0)
    log_p = enlarged(logits, masks, align_corners).log_softmax(1).gather(1, index[:, None])[:, 0]
    alpha = 1.0 if weights is None else weights[index]
    return -(alpha * (1 - log_p.exp()) ** gamma * log_p * counted).sum()


@ALIGN
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_focal_equals_its_formula(weights: Tensor | None, gamma: float, align_corners: bool) -> None:
    logits, masks = logits_of(3, 5, 4, 8), masks_of(3, 13, 21, classes=5)
    ours = kernels.focal_sum(logits, masks, gamma=gamma, weights=weights, align_corners=align_corners)
    same(ours, focal_reference(logits, masks, gamma, weights, align_corners), logits)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_focal_of_pixels_sure_to_the_last_bit_is_finite(dtype: torch.dtype, gamma: float) -> None:
    """Below 1 the derivative has a negative power of 1 - p, which is 0 here; wrong pixels lose 1000 and pull by 1."""
    logits = torch.tensor([500.0, -500.0], dtype=dtype).view(1, 2, 1, 1).expand(1, 2, 2, 2).clone().requires_grad_()
    right = kernels.focal_sum(logits, torch.zeros(1, 4, 4, dtype=torch.uint8), gamma=gamma)
    (gradient,) = torch.autograd.grad(right, logits)
    assert right == 0
    assert (gradient == 0).all()
    wrong = kernels.focal_sum(logits, torch.ones(1, 4, 4, dtype=torch.uint8), gamma=gamma)
    (gradient,) = torch.autograd.grad(wrong, logits)
    assert wrong == 16 * 1000
    torch.testing.assert_close(gradient[0, 1], torch.full((2, 2), -4.0, dtype=dtype))


@ALIGN
def test_true_probability_is_softmax_at_the_truth(align_corners: bool) -> None:
    logits, masks = logits_of(3, 5, 4, 8), masks_of(3, 13, 21, classes=5)
    found = kernels.true_probability(logits, masks, align_corners=align_corners)
    index = masks.long().masked_fill(masks == IGNORE, 0)
    wanted = enlarged(logits, masks, align_corners).softmax(1).gather(1, index[:, None])[:, 0]
    assert not found.requires_grad
    counted = masks != IGNORE
    torch.testing.assert_close(found[counted], wanted.detach()[counted])


def lovasz_reference(logits: Tensor, masks: Tensor, over: Over, classes: Averaged) -> Tensor:
    """Berman et al. 2018, algorithm 1 by its definition: the Jaccard loss of the first n worst pixels, differenced."""
    probabilities = enlarged(logits, masks).softmax(1)
    groups = [[i] for i in range(len(masks))] if over == "image" else [list(range(len(masks)))]
    total = logits.new_zeros(())
    for images in groups:
        counted = masks[images] != IGNORE
        truth, found = masks[images][counted], probabilities[images].permute(0, 2, 3, 1)[counted]
        losses = []
        for k in range(logits.shape[1]):
            own = truth == k
            if classes == "present" and not own.any():
                continue
            errors = torch.where(own, 1 - found[:, k], found[:, k])
            order = errors.argsort(descending=True)
            jaccard = [0.0]
            for n in range(1, len(order) + 1):
                worst = torch.zeros_like(own)
                worst[order[:n]] = True
                jaccard.append(worst.sum().item() / (own | worst).sum().item())
            losses.append(errors[order] @ errors.new_tensor(np.diff(jaccard)))
        if losses and counted.any():
            total = total + torch.stack(losses).mean() * counted.flatten(1).any(1).sum()
    return total


@pytest.mark.parametrize("over", ["image", "batch"])
@pytest.mark.parametrize("classes", ["present", "all"])
def test_lovasz_equals_its_definition(classes: Averaged, over: Over) -> None:
    logits, masks = logits_of(3, 4, 2, 3), masks_of(3, 6, 7, classes=3)  # class 3 is nowhere
    masks[1] = IGNORE
    masks[2][masks[2] == 1] = 0
    ours = kernels.lovasz_sum(logits, masks, over=over, classes=classes)
    same(ours, lovasz_reference(logits, masks, over, classes), logits)


def test_lovasz_of_hard_predictions_is_the_jaccard_loss() -> None:
    """At the corners of the cube the extension is the set function itself: 1 - IoU of each class shown."""
    truth = torch.tensor([[0, 0, 0, 0, 1, 1, IGNORE, 1]], dtype=torch.uint8)[None]
    found = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0]])[None]
    logits = F.one_hot(found, 3).permute(0, 3, 1, 2).double() * 200
    wanted = ((1 - 2 / 5) + (1 - 2 / 5)) / 2
    assert kernels.lovasz_sum(logits, truth).item() == pytest.approx(wanted)
    assert kernels.lovasz_sum(logits, truth, classes="all").item() == pytest.approx(wanted * 2 / 3)


def test_lovasz_slopes_in_float32_do_not_cancel() -> None:
    """A difference of two Jaccard losses near 1 would be off by per cents with 100 000 pixels; a quotient is not."""
    masks = (torch.rand(1, 320, 320, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CPU_TILE", layout.TileShape(2**16, 64, 64))
        gradients = []
        for dtype in (torch.float32, torch.float64):
            logits = logits_of(1, 2, 320, 320, dtype=torch.float32).detach().to(dtype).requires_grad_()
            gradients.append(torch.autograd.grad(kernels.lovasz_sum(logits, masks), logits)[0].double())
    off = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert off < 1e-3


def test_region_sums_equal_their_definition() -> None:
    logits, masks = logits_of(2, 4, 3, 5), masks_of(2, 12, 17, classes=4)
    probabilities = F.interpolate(logits, (12, 17), mode="bilinear").softmax(1)
    truth = torch.stack([masks == k for k in range(4)], 1)
    counted = (masks != IGNORE)[:, None]
    overlap, predicted, shown = kernels.region_sums(logits, masks)
    torch.testing.assert_close(overlap, (probabilities * truth).sum((2, 3)))
    torch.testing.assert_close(predicted, (probabilities * counted).sum((2, 3)))
    torch.testing.assert_close(shown, truth.sum((2, 3)).double())


def kernel_of(name: str, z: Tensor, masks: Tensor, **where: Any) -> Tensor:
    match name:
        case "pixel weights":
            return kernels.cross_entropy_sum(z, masks, pixel_weights=masks % 3 + 0.5, smoothing=0.1, **where)
        case "lovasz, image":
            return kernels.lovasz_sum(z, masks, **where)
        case "lovasz, batch":
            return kernels.lovasz_sum(z, masks, over="batch", classes="all", **where)
        case _:
            return kernels.focal_sum(z, masks, gamma=float(name.split()[1]), weights=WEIGHTS[:3], **where)


@ALIGN
@pytest.mark.parametrize("covers", [None, (7.5, 14.3)])
@pytest.mark.parametrize("name", ["pixel weights", "lovasz, image", "lovasz, batch", "focal 0.5", "focal 2"])
def test_gradcheck_in_double_precision(name: str, covers: tuple[float, float] | None, align_corners: bool) -> None:
    logits, masks = logits_of(2, 3, 2, 3), masks_of(2, 7, 9, classes=3)
    assert torch.autograd.gradcheck(
        lambda z: kernel_of(name, z, masks, covers=covers, align_corners=align_corners), logits
    )


class Largest(TorchFunctionMode):
    """Notes the size of the largest tensor any call answers with."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **kwargs or {})
        for found in answer if isinstance(answer, tuple) else (answer,):
            if isinstance(found, Tensor):
                self.values = max(self.values, found.numel())
        return answer


@pytest.mark.parametrize("name", ["pixel weights", "lovasz, image", "lovasz, batch", "focal 2", "probability"])
def test_nothing_as_large_as_full_size_logits_is_made(name: str) -> None:
    logits, masks = logits_of(2, 3, 4, 4), masks_of(2, 64, 64, classes=3)
    with Largest() as largest:
        if name == "probability":
            kernels.true_probability(logits, masks)
        else:
            kernel_of(name, logits, masks).backward()
    assert largest.values <= masks.numel(), "more than one value a pixel at a time"
    with Largest() as largest:
        enlarged(logits, masks)
    assert largest.values == 3 * masks.numel(), "the guard sees what it must"


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    classes=st.integers(1, 3),
    reach=st.integers(1, 14),
    seed=st.integers(0, 99),
)
def test_border_distance_equals_opencvs_exact_transform(
    height: int, width: int, classes: int, reach: int, seed: int
) -> None:
    masks = masks_of(2, height, width, classes, seed)
    masks[:, : height // 2, : width // 2] = 0  # something to be far from
    found = kernels.border_distance(masks, reach)
    for mask, distance in zip(masks.numpy(), found.numpy(), strict=True):
        border = np.zeros(mask.shape, np.uint8)
        for y, x in np.ndindex(mask.shape):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            near = [mask[place] for place in around if 0 <= place[0] < height and 0 <= place[1] < width]
            border[y, x] = mask[y, x] != IGNORE and any(other not in (mask[y, x], IGNORE) for other in near)
        if not border.any():
            assert np.isinf(distance).all()
            continue
        wanted = cv2.distanceTransform(1 - border, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        close = wanted <= reach
        np.testing.assert_allclose(distance[close], wanted[close], rtol=1e-4)
        assert (distance[~close] > reach).all()
