"""SegMetrics as the course's sheet asks for it."""

import numpy as np
import pytest
import torch

from terrazzo.base import IGNORE
from terrazzo.metrics import Scores, SegMetrics

NAMES = ["pet", "background", "border"]


def logits(classes: torch.Tensor) -> torch.Tensor:
    """Logits [b, 3, h, w] whose greatest is the given class."""
    return torch.nn.functional.one_hot(classes, len(NAMES)).permute(0, 3, 1, 2).float() * 2 - 1


def test_nothing_counted_is_zero_and_reset_forgets() -> None:
    metrics = SegMetrics(NAMES)
    assert metrics.mIoU() == 0.0
    target = torch.tensor([[[0, 1], [2, 2]]])
    metrics.update(logits(target), target)
    assert metrics.mIoU() == 1.0
    assert isinstance(metrics.mIoU(), float)
    metrics.reset()
    assert metrics.mIoU() == 0.0


def test_an_absent_class_counts_zero() -> None:
    metrics = SegMetrics(NAMES)
    target = torch.tensor([[[0, 1]]])
    metrics.update(logits(target), target)
    assert metrics.mIoU() == 2 / 3


def test_it_is_printed_with_two_decimals() -> None:
    metrics = SegMetrics(["a", "b"])
    metrics._confusion = torch.tensor([[54, 23], [23, 54]])
    assert str(metrics) == f"mIou: {54 / 100:.2f}" == "mIou: 0.54"


def test_batches_are_counted_into_one_matrix_and_255_is_not_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(6, 3, 7, 5, generator=generator)
    target = torch.randint(0, 3, (6, 7, 5), generator=generator)
    target[:, :2] = IGNORE
    whole, parts = SegMetrics(NAMES), SegMetrics(NAMES)
    whole.update(prediction, target)
    for part in range(3):
        parts.update(prediction[2 * part : 2 * part + 2], target[2 * part : 2 * part + 2].to(torch.uint8))
    expected = np.zeros((3, 3), np.int64)
    for truth, found in zip(target.flatten().tolist(), prediction.argmax(1).flatten().tolist(), strict=True):
        if truth != IGNORE:
            expected[truth, found] += 1
    assert whole.mIoU() == parts.mIoU() == Scores(expected, "zero").miou


@pytest.mark.parametrize(
    ("prediction", "target", "fault"),
    [
        ((2, 3, 4), (2, 4, 4), r"\[b, 3, h, w\]"),
        ((2, 4, 4, 4), (2, 4, 4), r"\[b, 3, h, w\]"),
        ((2, 3, 4, 4), (2, 4, 5), r"\[b, h, w\]"),
        ((2, 3, 4, 4), (2, 1, 4, 4), r"\[b, h, w\]"),
        ((2, 3, 4, 4), (1, 4, 4), r"\[b, h, w\]"),
    ],
)
def test_wrong_shapes_are_value_errors(prediction: tuple[int, ...], target: tuple[int, ...], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        SegMetrics(NAMES).update(torch.zeros(prediction), torch.zeros(target, dtype=torch.int64))


@pytest.mark.parametrize("value", [3, -1, 254, 256, 511])
def test_a_target_that_is_no_class_is_a_value_error_and_counts_nothing(value: int) -> None:
    """-1 cast to unsigned would be 255, and 511 cut to 8 bits too: ignored in silence."""
    metrics = SegMetrics(NAMES)
    target = torch.zeros(1, 2, 2, dtype=torch.int64)
    target[0, 1, 1] = value
    with pytest.raises(ValueError, match=rf"\[{value}\]"):
        metrics.update(torch.zeros(1, 3, 2, 2), target)
    assert metrics.mIoU() == 0.0


def test_fractions_as_target_and_nan_as_prediction_are_value_errors() -> None:
    with pytest.raises(ValueError, match="float32"):
        SegMetrics(NAMES).update(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="nan"):
        SegMetrics(NAMES).update(torch.full((1, 3, 2, 2), torch.nan), torch.zeros(1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="0 classes"):
        SegMetrics([])
