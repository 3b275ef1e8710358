"""OHEM, focal, boundary and Lovasz: what each option changes, against slow references at full size."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from terrazzo.base import IGNORE, Classes, InputError
from terrazzo.losses import (
    Boundary,
    CrossEntropy,
    Focal,
    LossConfig,
    Lovasz,
    Ohem,
    build_loss,
    count,
    needs_frequencies,
)
from terrazzo.losses.pixels import border_weights, hard_pixels
from terrazzo.output import Output

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = Classes.of(["road", "tree", "sky", "car"])
PIXEL_LOSSES = [CrossEntropy, Focal, Ohem, Boundary]


def example(seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 4, 4, 6, dtype=torch.float64, generator=generator).requires_grad_()
    masks = torch.randint(0, 4, (batch, 16, 24), dtype=torch.uint8, generator=generator)
    masks[0, :5] = IGNORE
    return logits, masks


def loss_of(cfg: LossConfig, logits: Tensor, masks: Tensor, counted: Tensor | None = None, **options: Any) -> Tensor:
    loss_fn = build_loss((cfg,), CLASSES, **{"auxiliary": 0.0} | options)
    return loss_fn(Output(logits), masks, count(masks) if counted is None else counted)


def by_pixel(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross entropy of each pixel [B, H, W], 0 where ignored."""
    enlarged = F.interpolate(logits, masks.shape[1:], mode="bilinear")
    return F.cross_entropy(enlarged, masks.long(), ignore_index=IGNORE, reduction="none")


def same(ours: Tensor, wanted: Tensor, logits: Tensor) -> None:
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=0)  # border weights are float32
    (gradient,), (expected,) = torch.autograd.grad(ours, logits), torch.autograd.grad(wanted, logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("min_kept", [0, 10, 200, 100_000])
@pytest.mark.parametrize("threshold", [1e-6, 0.3, 0.7])
def test_ohem_keeps_the_improbable_and_at_least_so_many(threshold: float, min_kept: int) -> None:
    """The sum over kept pixels divided by the number of counted ones, as MMSegmentation's sampler leads to."""
    logits, masks = example()
    losses = by_pixel(logits, masks)
    counted = masks != IGNORE
    probability = (-losses.detach())[counted].exp()
    least = min(2 * min_kept, counted.sum().item())
    limit = max(threshold, probability.sort().values[least - 1].item() if least else 0.0)
    kept = counted & ((-losses).exp() < threshold) | counted & (least > 0) & ((-losses).exp() <= limit)
    if threshold == 0 and min_kept == 0:
        assert not kept.any()
    same(
        loss_of(Ohem(threshold=threshold, min_kept=min_kept), logits, masks), losses[kept].sum() / counted.sum(), logits
    )
    assert kept.sum() >= least


def test_ohem_without_min_kept_does_not_depend_on_the_parts() -> None:
    """Ranks and accumulation: the threshold alone asks every pixel for itself; min_kept asks them all."""
    logits, masks = example(batch=3)
    counted = count(masks)

    def in_parts(cfg: Ohem) -> Tensor:
        return torch.stack([loss_of(cfg, logits[i : i + 1], masks[i : i + 1], counted) for i in range(3)]).sum()

    alone, together = Ohem(min_kept=0), Ohem(threshold=0.0, min_kept=40)
    torch.testing.assert_close(in_parts(alone), loss_of(alone, logits, masks))
    assert in_parts(together) < loss_of(together, logits, masks), "the hardest of all are at least as hard"
    kept = [
        hard_pixels((-by_pixel(z, m)).exp(), m, together).sum() for z, m in ((logits, masks), (logits[:1], masks[:1]))
    ]
    assert kept == [120, 40], "as many in all, however the batch is cut"


def test_ohem_keeps_ties_and_nan() -> None:
    """All pixels alike, as with a head that begins at 0: MMSegmentation's rule would keep none of them."""
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, 0, 0] = IGNORE
    assert hard_pixels(torch.full((1, 4, 4), 0.9), masks, Ohem(min_kept=2)).sum() == 15
    probability = torch.full((1, 4, 4), 0.99)
    probability[0, 1, 1], probability[0, 2, 2] = float("nan"), 0.5
    kept = hard_pixels(probability, masks, Ohem(min_kept=1))
    assert kept.nonzero().tolist() == [[0, 1, 1], [0, 2, 2]]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_its_formula_with_alpha(gamma: float) -> None:
    logits, masks = example()
    losses = by_pixel(logits, masks)
    wanted = 0.25 * ((1 - (-losses).exp()).clamp(min=1e-300) ** gamma * losses).sum() / (masks != IGNORE).sum()
    same(loss_of(Focal(gamma=gamma, alpha=0.25), logits, masks), wanted, logits)


def test_focal_at_gamma_zero_is_cross_entropy_and_falls_with_gamma() -> None:
    logits, masks = example()
    torch.testing.assert_close(loss_of(Focal(gamma=0), logits, masks), loss_of(CrossEntropy(), logits, masks))
    assert loss_of(Focal(gamma=3), logits, masks) < loss_of(Focal(gamma=2), logits, masks)


def test_border_weights_follow_the_formula() -> None:
    """A border between columns 9 and 10; an ignored stripe makes none."""
    masks = torch.zeros(1, 3, 40, dtype=torch.uint8)
    masks[:, :, 10:], masks[:, :, 30:33] = 1, IGNORE
    weights = border_weights(masks, Boundary(border_weight=4.0, sigma=3.0))[0]
    distance = np.array([9 - x if x < 10 else x - 10 for x in range(40)])
    wanted = 1 + 4 * np.exp(-(distance**2) / 18) * (distance <= 12)
    np.testing.assert_allclose(weights[1], wanted, rtol=1e-6)
    assert (border_weights(torch.zeros_like(masks), Boundary()) == 1).all()


def test_boundary_is_weighted_cross_entropy() -> None:
    logits, masks = example()
    cfg = Boundary(border_weight=2.0, sigma=1.5)
    wanted = (by_pixel(logits, masks) * border_weights(masks, cfg)).sum() / (masks != IGNORE).sum()
    same(loss_of(cfg, logits, masks), wanted, logits)


def test_lovasz_over_a_batch_is_the_mean_of_the_parts_by_their_images() -> None:
    """What ranks and accumulation steps make of it; over images it is exact, as for every other loss."""
    logits, masks = example(batch=3)
    batch, counted = Lovasz(over="batch"), count(masks)
    first, rest = (slice(0, 1), slice(1, 3))
    parts = [loss_of(batch, logits[part], masks[part]) for part in (first, rest)]
    summed = sum(loss_of(batch, logits[part], masks[part], counted) for part in (first, rest))
    torch.testing.assert_close(summed, (parts[0] + 2 * parts[1]) / 3)
    assert summed != loss_of(batch, logits, masks)


@pytest.mark.parametrize(
    ("cfg", "option"),
    [
        (Focal(), {"gamma": 1.0}),
        (Focal(), {"alpha": 0.5}),
        (Focal(), {"weight": 0.5}),
        (Ohem(min_kept=10), {"threshold": 0.2}),
        (Ohem(threshold=0.1), {"min_kept": 10}),
        (Boundary(), {"border_weight": 3.0}),
        (Boundary(), {"sigma": 1.0}),
        (Lovasz(), {"over": "batch"}),
        (Lovasz(), {"classes": "all"}),
        *((config(), {"class_weights": {"tree": 3.0}}) for config in PIXEL_LOSSES),
        *((config(), {"class_weights": "auto"}) for config in PIXEL_LOSSES),
    ],
    ids=lambda value: getattr(value, "kind", "") or "-".join(map(str, value)),
)
def test_every_option_changes_the_loss(cfg: LossConfig, option: dict[str, Any]) -> None:
    logits, masks = example()
    masks[1][masks[1] == 3] = 0  # so that a class is absent from one image
    frequencies = torch.tensor([0.8, 0.2, 0.4, 0.1])
    other = type(cfg).model_validate(cfg.model_dump() | option)
    assert loss_of(cfg, logits, masks, frequencies=frequencies) != loss_of(
        other, logits, masks, frequencies=frequencies
    )


@pytest.mark.parametrize("config", PIXEL_LOSSES, ids=lambda config: config.__name__)
def test_class_weights_are_factors_of_the_pixels_of_the_class(config: Any) -> None:
    """A class of weight 3 counts as its pixels' losses three times."""
    logits, masks = example()
    plain = loss_of(config(), logits, masks)
    tree_only = loss_of(config(class_weights={"road": 0.0, "sky": 0.0, "car": 0.0}), logits, masks)
    torch.testing.assert_close(loss_of(config(class_weights={"tree": 3.0}), logits, masks), plain + 2 * tree_only)
    assert needs_frequencies((config(class_weights="auto"),))
    with pytest.raises(InputError, match="class_weights names 'bush'"):
        loss_of(config(class_weights={"bush": 1.0}), logits, masks)


@pytest.mark.parametrize("given", [{"threshold": 70}, {"min_kept": -1}, {"min_kept": 0.5}])
def test_ohems_options_have_a_range(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Ohem.model_validate(given)


def test_ohem_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps no pixel"):
        Ohem(threshold=0, min_kept=0)
