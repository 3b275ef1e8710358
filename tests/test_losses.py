"""What every loss must do, read off the union, and what each option changes."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.nn import functional as F

from terrazzo import kernels
from terrazzo.base import IGNORE, Classes, InputError
from terrazzo.losses import (
    CrossEntropy,
    LossConfig,
    MaskClassification,
    Ohem,
    Tversky,
    build_loss,
    class_frequencies,
    count,
    median_frequency_weights,
    needs_frequencies,
)
from terrazzo.output import Output

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = Classes.of(["road", "tree", "sky", "car"])
KINDS: list[type[LossConfig]] = [kind for kind in get_args(get_args(LossConfig)[0]) if kind is not MaskClassification]
"""Losses of logits; the one of queries keeps the same promises in test_losses_queries.py."""


def kind(config: type) -> str:
    return config.model_fields["kind"].default  # type: ignore[attr-defined, no-any-return]


each_loss = pytest.mark.parametrize("config", KINDS, ids=kind)


def example(seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 4, 4, 6, dtype=torch.float64, generator=generator).requires_grad_()
    masks = torch.randint(0, 4, (batch, 16, 24), dtype=torch.uint8, generator=generator)
    return logits, masks


def loss_of(cfg: LossConfig, logits: Tensor, masks: Tensor, counted: Tensor | None = None, **options: Any) -> Tensor:
    loss_fn = build_loss((cfg,), CLASSES, **{"auxiliary": 0.0} | options)
    return loss_fn(Output(logits), masks, count(masks) if counted is None else counted)


def perfect(masks: Tensor) -> Tensor:
    """Logits at full resolution that are sure and right."""
    known = masks.long().masked_fill(masks == IGNORE, 0)
    return F.one_hot(known, 4).permute(0, 3, 1, 2).double() * 60 - 30


@each_loss
def test_perfect_is_near_zero_and_wrong_is_not(config: type) -> None:
    _, masks = example()
    assert loss_of(config(), perfect(masks), masks) < 1e-6
    assert loss_of(config(), perfect((masks + 1) % 4), masks) > 0.9


@each_loss
def test_an_all_ignored_crop_gives_zero_not_nan(config: type) -> None:
    logits, masks = example()
    loss = loss_of(config(), logits, torch.full_like(masks, IGNORE))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0
    assert (gradient == 0).all()


@each_loss
def test_ignored_pixels_have_no_gradient(config: type) -> None:
    logits, masks = example()
    masks[:, :, :10] = IGNORE  # columns 0..9 of 24: logit column 0 is read by none of the others
    (gradient,) = torch.autograd.grad(loss_of(config(), logits, masks), logits)
    assert (gradient[..., 0] == 0).all()
    assert gradient[..., 4].abs().min() > 0


@each_loss
def test_the_mean_is_not_over_ignored_pixels(config: type) -> None:
    """Ignoring one of two equal images leaves the loss as it is."""
    logits, masks = example(batch=1)
    twice, masks_twice = torch.cat([logits, logits]), torch.cat([masks, masks.new_full(masks.shape, IGNORE)])
    torch.testing.assert_close(loss_of(config(), twice, masks_twice), loss_of(config(), logits, masks))


@each_loss
def test_parts_of_a_batch_add_up_with_the_global_count(config: type) -> None:
    """Ranks and accumulation steps: unequal numbers of ignored pixels make no difference."""
    logits, masks = example(batch=3)
    masks[0, :11], masks[1, :, :3] = IGNORE, IGNORE
    counted = count(masks)
    parts = sum(loss_of(config(), logits[i : i + 1], masks[i : i + 1], counted) for i in range(3))
    torch.testing.assert_close(parts, loss_of(config(), logits, masks))


@each_loss
def test_the_loss_is_finite_and_every_shown_class_learns(config: type) -> None:
    logits, masks = example()
    loss = loss_of(config(), logits, masks)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert (gradient.abs().sum((0, 2, 3)) > 0).all()


@each_loss
def test_the_gradient_is_that_of_the_loss(config: type) -> None:
    logits = torch.randn(2, 4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    masks = example()[1][:, ::3, ::4].contiguous()
    masks[0, :3] = IGNORE
    cfg = Ohem(threshold=0.3, min_kept=5) if config is Ohem else config()  # so that it leaves some out
    assert torch.autograd.gradcheck(lambda z: loss_of(cfg, z, masks), logits)


@each_loss
def test_deterministic_mode_is_accepted_and_repeats_bit_by_bit(config: type) -> None:
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    try:
        answers = []
        for _ in range(3):
            logits, masks = example(batch=4)
            loss = loss_of(config(), logits, masks)
            answers.append((loss, torch.autograd.grad(loss, logits)[0]))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for other in answers[1:] for a, b in zip(other, answers[0], strict=True))


@each_loss
def test_weight_is_a_factor(config: type) -> None:
    logits, masks = example()
    torch.testing.assert_close(loss_of(config(weight=2.5), logits, masks), 2.5 * loss_of(config(), logits, masks))


@each_loss
def test_a_dumped_config_loads_to_the_same(config: type) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(LossConfig)
    assert adapter.validate_python(config().model_dump()) == config()


@each_loss
def test_covers_and_align_corners_are_obeyed(config: type) -> None:
    logits, masks = example()
    loss_fn, counted = build_loss((config(),), CLASSES, auxiliary=0.0), count(masks)
    for align_corners in (False, True):
        output = Output(logits, covers=(20, 32), align_corners=align_corners)
        enlarged = kernels.upsample(logits, (16, 24), (20, 32), align_corners)
        torch.testing.assert_close(loss_fn(output, masks, counted), loss_fn(Output(enlarged), masks, counted))


def test_several_losses_and_auxiliary_heads_are_summed() -> None:
    logits, masks = example()
    other, counted = logits.detach().flip(1), count(masks)
    cfgs = (CrossEntropy(), Tversky(weight=0.5))
    main, aux = (sum(loss_of(cfg, z, masks) for cfg in cfgs) for z in (logits, other))
    output = Output(logits, aux=(other, other))
    loss_fn = build_loss(cfgs, CLASSES, auxiliary=0.4)
    torch.testing.assert_close(loss_fn(output, masks, counted), main + 0.4 * (aux + aux))
    loss_fn = build_loss(cfgs, CLASSES, auxiliary=0.0)
    torch.testing.assert_close(loss_fn(output, masks, counted), main)


def test_no_losses_is_an_error() -> None:
    with pytest.raises(InputError, match="losses is empty"):
        build_loss((), CLASSES, auxiliary=0.0)


def test_cross_entropy_is_torchs() -> None:
    logits, masks = example()
    masks[:, 5] = IGNORE
    enlarged = F.interpolate(logits, (16, 24), mode="bilinear")
    for smoothing in (0.0, 0.2):
        expected = F.cross_entropy(enlarged, masks.long(), ignore_index=IGNORE, label_smoothing=smoothing)
        torch.testing.assert_close(loss_of(CrossEntropy(smoothing=smoothing), logits, masks), expected)


def test_named_class_weights() -> None:
    logits, masks = example()
    weights = torch.tensor([1.0, 3.0, 1.0, 0.0], dtype=torch.float64)
    enlarged = F.interpolate(logits, (16, 24), mode="bilinear")
    expected = F.cross_entropy(enlarged, masks.long(), weights, reduction="sum") / masks.numel()
    ours = loss_of(CrossEntropy(class_weights={"tree": 3.0, "car": 0.0}), logits, masks)
    torch.testing.assert_close(ours, expected)


def test_class_weights_name_a_class_or_say_which() -> None:
    with pytest.raises(InputError, match=r"'tre'.*did you mean 'tree'"):
        build_loss((CrossEntropy(class_weights={"tre": 1.0}),), CLASSES, auxiliary=0.0)
    with pytest.raises(InputError, match=r"'xyz'.*road, tree, sky, car"):
        build_loss((CrossEntropy(class_weights={"xyz": 1.0}),), CLASSES, auxiliary=0.0)


def test_auto_class_weights_are_median_frequency_with_mean_one() -> None:
    frequencies = torch.tensor([0.8, 0.2, 0.4, 0.0], dtype=torch.float64)
    # median / frequency is in proportion 1.25 : 5 : 2.5, mean 35 / 12
    expected = torch.tensor([3 / 7, 12 / 7, 6 / 7, 1.0], dtype=torch.float64)
    torch.testing.assert_close(median_frequency_weights(frequencies), expected)
    assert median_frequency_weights(torch.zeros(3)).tolist() == [1, 1, 1]
    logits, masks = example()
    auto = loss_of(CrossEntropy(class_weights="auto"), logits, masks, frequencies=frequencies)
    named = dict(zip(CLASSES.names, expected.tolist(), strict=True))
    torch.testing.assert_close(auto, loss_of(CrossEntropy(class_weights=named), logits, masks), rtol=1e-6, atol=0)
    assert auto != loss_of(CrossEntropy(), logits, masks)


def test_auto_class_weights_need_frequencies() -> None:
    assert needs_frequencies((Tversky(), CrossEntropy(class_weights="auto")))
    assert not needs_frequencies((Tversky(), CrossEntropy(class_weights={"road": 2.0}), CrossEntropy()))
    with pytest.raises(InputError, match="class_weights: auto needs"):
        build_loss((CrossEntropy(class_weights="auto"),), CLASSES, auxiliary=0.0)


def test_frequencies_count_only_the_images_that_show_the_class() -> None:
    masks = [np.array([[0, 0, 1, IGNORE]], np.uint8), np.array([[0, 0, 0, 2]], np.uint8)]
    expected = torch.tensor([5 / 7, 1 / 3, 1 / 4, 0.0], dtype=torch.float64)
    torch.testing.assert_close(class_frequencies(masks, 4), expected)


def test_dice_is_not_2i_over_u_so_perfect_is_one() -> None:
    """Computed as 2I / (truth + prediction): a perfect prediction loses 0, not -1, and a half one in between."""
    _, masks = example()
    assert loss_of(Tversky(), perfect(masks), masks).abs() < 1e-6
    logits, masks = example(batch=1)
    probabilities = F.interpolate(logits, (16, 24), mode="bilinear").softmax(1)
    truth = torch.stack([masks == k for k in range(4)], 1).double()
    dice = (2 * (probabilities * truth).sum((0, 2, 3)) + 2) / ((probabilities + truth).sum((0, 2, 3)) + 2)
    torch.testing.assert_close(loss_of(Tversky(eps=1.0), logits, masks), 1 - dice.mean())


def test_jaccard_is_intersection_over_union() -> None:
    logits, masks = example(batch=1)
    probabilities = F.interpolate(logits, (16, 24), mode="bilinear").softmax(1)
    truth = torch.stack([masks == k for k in range(4)], 1).double()
    overlap, total = (probabilities * truth).sum((0, 2, 3)), (probabilities + truth).sum((0, 2, 3))
    iou = (overlap + 1) / (total - overlap + 1)
    torch.testing.assert_close(loss_of(Tversky(setting="jaccard"), logits, masks), 1 - iou.mean())


def test_alpha_weighs_false_positives_and_beta_false_negatives() -> None:
    """One class predicted everywhere: class 0 has false positives only, class 1 false negatives only."""
    masks = torch.zeros(1, 8, 8, dtype=torch.uint8)
    masks[:, :, 4:] = 1
    logits = perfect(torch.zeros_like(masks))
    loss = loss_of(Tversky(alpha=0.25, beta=0.75, eps=1e-9), logits, masks)
    assert loss.item() == pytest.approx(1 - (32 / (32 + 0.25 * 32) + 0) / 2)
    loss = loss_of(Tversky(alpha=0.75, beta=0.25, eps=1e-9), logits, masks)
    assert loss.item() == pytest.approx(1 - (32 / (32 + 0.75 * 32) + 0) / 2)


def test_settings_are_names_of_numbers_and_exclude_them() -> None:
    logits, masks = example()
    for setting, rate in (("dice", 0.5), ("jaccard", 1.0)):
        named = loss_of(TypeAdapter(Tversky).validate_python({"setting": setting}), logits, masks)
        assert named == loss_of(Tversky(alpha=rate, beta=rate), logits, masks)
    assert loss_of(Tversky(), logits, masks) == loss_of(Tversky(setting="dice"), logits, masks)
    with pytest.raises(ValidationError, match="either the setting or both numbers"):
        Tversky(setting="dice", alpha=0.3, beta=0.7)
    with pytest.raises(ValidationError, match="alpha alone"):
        Tversky(alpha=0.3)


def test_eps_smooths_the_fraction() -> None:
    logits, masks = example()
    assert loss_of(Tversky(eps=100.0), logits, masks) < loss_of(Tversky(eps=1e-6), logits, masks)


def test_an_absent_class_does_not_dilute_the_region_loss() -> None:
    """Mean over the classes that the image shows: class 3 is nowhere, in truth or prediction."""
    masks = torch.zeros(1, 8, 8, dtype=torch.uint8)
    masks[:, :, 4:] = 1
    wrong = perfect(1 - masks)
    assert loss_of(Tversky(eps=1e-9), wrong, masks) == pytest.approx(1.0)
