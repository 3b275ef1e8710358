"""The confusion matrix and its scores against brute force, torchmetrics and the mistakes others made."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from terrazzo.base import IGNORE, Classes, InputError
from terrazzo.kernels import counts
from terrazzo.metrics import Scores, confusion_matrix
from terrazzo.metrics.scores import mean

CLASSES = Classes.of(["road", "tree", "sky"])
label_maps = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape, elements=st.integers(0, 2)),
        arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, IGNORE])),
    )
)


def brute_force(prediction: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.int64]:
    pairs = Counter(zip(target.flat, prediction.flat, strict=True))
    return np.array([[pairs[t, p] for p in range(3)] for t in range(3)], np.int64)


@settings(max_examples=200, deadline=None)
@given(label_maps)
def test_counts_equal_a_loop_over_pixels(maps: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    prediction, target = maps
    expected = brute_force(prediction, target)
    assert (confusion_matrix(prediction, target, 3) == expected).all()
    ours = confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(target), 3)
    assert ours.dtype == torch.int64
    assert (ours.numpy() == expected).all()


@settings(max_examples=200, deadline=None)
@given(label_maps)
def test_scores_equal_sets_of_pixels(maps: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    prediction, target = maps
    scores = Scores.of(confusion_matrix(prediction, target, 3))
    counted = [i for i in range(target.size) if target.flat[i] != IGNORE]
    for k in range(3):
        truth = {i for i in counted if target.flat[i] == k}
        found = {i for i in counted if prediction.flat[i] == k}
        both, either = len(truth & found), len(truth | found)
        expected = {
            "iou": (both, either),
            "dice": (2 * both, len(truth) + len(found)),
            "recall": (both, len(truth)),
            "precision": (both, len(found)),
        }
        for name, (part, total) in expected.items():
            value = getattr(scores, name)[k]
            assert np.isnan(value) if not total else value == pytest.approx(part / total, abs=1e-15)
    right = sum(prediction.flat[i] == target.flat[i] for i in counted)
    assert scores.accuracy == pytest.approx(right / len(counted)) if counted else np.isnan(scores.accuracy)


def test_scores_equal_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 3, (4, 30, 40), dtype=torch.uint8, generator=generator)
    target = torch.randint(0, 3, (4, 30, 40), dtype=torch.uint8, generator=generator)
    target[:, :5] = IGNORE
    peer = torchmetrics.ConfusionMatrix("multiclass", num_classes=3, ignore_index=IGNORE)
    assert torch.equal(confusion_matrix(prediction, target, 3), peer(prediction, target))
    peer = torchmetrics.JaccardIndex("multiclass", num_classes=3, ignore_index=IGNORE)
    scores = Scores.of(confusion_matrix(prediction, target, 3))
    assert scores.miou == pytest.approx(peer(prediction, target).item())


def test_a_class_absent_from_a_batch_still_counts_there() -> None:
    """False positives in an image that does not show the class lower its IoU."""
    shows = confusion_matrix(np.array([[0, 1]], np.uint8), np.array([[0, 1]], np.uint8), 3)
    does_not = confusion_matrix(np.array([[0, 1]], np.uint8), np.array([[0, 0]], np.uint8), 3)
    assert Scores(shows).iou[1] == 1
    assert Scores(shows + does_not).iou[1] == 0.5


def test_miou_is_of_the_summed_matrix_not_the_mean_of_per_batch_ious() -> None:
    small = confusion_matrix(np.array([[0]], np.uint8), np.array([[1]], np.uint8), 2)
    large = confusion_matrix(np.ones((1, 99), np.uint8), np.ones((1, 99), np.uint8), 2)
    assert Scores(small + large).iou[1] == 0.99
    assert np.mean([Scores(small).iou[1], Scores(large).iou[1]]) == 0.5


def test_counts_go_beyond_float32() -> None:
    """A float32 counter stops at 2^24 = 16,777,216; one call and the sum of calls go on."""
    size = 2**24 + 3
    zeros = np.zeros(size, np.uint8)
    matrix = confusion_matrix(zeros, zeros, 2)
    assert matrix[0, 0] == size
    assert (matrix + matrix)[0, 0] == 2 * size
    assert Scores(np.array([[2**60, 1], [0, 1]], np.int64)).accuracy == 1.0


def test_long_and_odd_sizes_are_cut_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "CHUNK", 8)
    generator = np.random.default_rng(0)
    for size in (0, 1, 3, 7, 8, 9, 16, 29):
        prediction, target = (generator.integers(0, 3, size, dtype=np.uint8) for _ in range(2))
        assert (confusion_matrix(prediction, target, 3) == brute_force(prediction, target)).all()


def test_views_are_counted_as_they_look() -> None:
    generator = np.random.default_rng(0)
    prediction, target = (generator.integers(0, 3, (20, 30), dtype=np.uint8)[::2, 1::3] for _ in range(2))
    assert (confusion_matrix(prediction, target, 3) == brute_force(prediction, target)).all()


def test_a_value_that_is_no_class_is_an_error_with_its_pixels() -> None:
    zeros, stray = np.zeros((2, 3), np.uint8), np.array([[0, 7, 7], [0, 0, 9]], np.uint8)
    with pytest.raises(InputError, match=r"truth has values.*3 classes.*\{7: 2, 9: 1\}"):
        confusion_matrix(zeros, stray, 3)
    with pytest.raises(InputError, match=r"prediction has values.*\{7: 2, 9: 1\}"):
        confusion_matrix(stray, zeros, 3)
    assert confusion_matrix(stray, np.full((2, 3), IGNORE, np.uint8), 3).sum() == 0


def test_maps_of_different_size_or_type_are_an_error() -> None:
    maps = np.zeros((2, 3), np.uint8)
    with pytest.raises(InputError, match=r"\(2, 3\).*\(3, 2\)"):
        confusion_matrix(maps, maps.T, 3)
    with pytest.raises(InputError, match="int64"):
        confusion_matrix(maps.astype(np.int64), maps, 3)  # type: ignore[call-overload]


MATRIX = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]], np.int64)


def test_absent_classes_are_left_out_or_zero_as_asked() -> None:
    excluded, zero = Scores.of(MATRIX), Scores.of(torch.from_numpy(MATRIX), absent="zero")
    assert np.isnan(excluded.iou[2])
    assert zero.iou[2] == 0
    assert excluded.miou == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert zero.miou == pytest.approx((6 / 9 + 3 / 6) / 3)
    assert excluded.macc == pytest.approx((6 / 8 + 3 / 4) / 2)
    assert zero.macc == pytest.approx((6 / 8 + 3 / 4) / 3)
    assert excluded.mdice == pytest.approx((12 / 15 + 6 / 9) / 2)
    assert excluded.accuracy == zero.accuracy == 9 / 12


def test_dice_of_a_perfect_prediction_is_one_not_two() -> None:
    scores = Scores(np.diag([5, 7, 1]).astype(np.int64))
    assert scores.dice.tolist() == scores.iou.tolist() == [1, 1, 1]


def test_as_dict_is_unrounded_json_with_null_for_nothing() -> None:
    values = Scores(MATRIX).as_dict(CLASSES)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["miou"] == (6 / 9 + 3 / 6) / 2, "rounded"
    assert values["absent"] == "exclude"
    assert values["confusion"] == MATRIX.tolist()
    assert values["per_class"] == {
        "road": {"iou": 6 / 9, "acc": 6 / 8, "precision": 6 / 7, "dice": 12 / 15, "pixels": 8},
        "tree": {"iou": 3 / 6, "acc": 3 / 4, "precision": 3 / 5, "dice": 6 / 9, "pixels": 4},
        "sky": {"iou": None, "acc": None, "precision": None, "dice": None, "pixels": 0},
    }


def test_a_class_predicted_but_never_true_has_no_recall_and_no_iou() -> None:
    scores = Scores(np.array([[3, 1], [0, 0]], np.int64))
    assert scores.iou[1] == scores.precision[1] == 0
    assert np.isnan(scores.recall[1])


def test_nothing_counted_is_nan_everywhere() -> None:
    scores = Scores(np.zeros((3, 3), np.int64))
    assert all(np.isnan(value) for value in (scores.miou, scores.macc, scores.mdice, scores.accuracy))
    assert scores.as_dict(CLASSES)["miou"] is None


def test_only_a_square_matrix_of_whole_numbers_is_scored() -> None:
    with pytest.raises(ValueError, match="float32"):
        Scores.of(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        Scores(np.zeros((2, 3), np.int64))


@settings(max_examples=100, deadline=None)
@given(label_maps)
def test_frequency_weighted_iou_is_weighted_by_the_truth(maps: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    prediction, target = maps
    scores = Scores.of(confusion_matrix(prediction, target, 3))
    counted = (target != IGNORE).sum()
    expected = sum(
        (target == k).sum()
        / counted
        * ((target == k) & (prediction == k)).sum()
        / ((target == k) | ((prediction == k) & (target != IGNORE))).sum()
        for k in range(3)
        if counted and (target == k).any()
    )
    assert np.isnan(scores.fwiou) if not counted else scores.fwiou == pytest.approx(expected, abs=1e-14)


def test_a_missed_pixel_counts_as_truth_and_as_no_prediction() -> None:
    scores = Scores(np.array([[6, 2], [1, 3]], np.int64), missed=np.array([0, 4], np.int64))
    assert scores.iou.tolist() == [6 / 9, 3 / 10]
    assert scores.recall.tolist() == [6 / 8, 3 / 8]
    assert scores.precision.tolist() == [6 / 7, 3 / 5]
    assert scores.accuracy == 9 / 16
    assert scores.as_dict(Classes.of(["a", "b"]))["predicted_void"] == 4
    with pytest.raises(ValueError, match="missed"):
        Scores(np.zeros((2, 2), np.int64), missed=np.zeros(3, np.int64))


@settings(max_examples=100, deadline=None)
@given(label_maps)
def test_merged_scores_equal_those_of_merged_maps(maps: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    prediction, target = maps
    groups = np.array([1, 0, 1], np.uint8)
    merged_target = np.where(target == IGNORE, target, groups[target % 3])
    ours = Scores.of(confusion_matrix(prediction, target, 3)).merged([1, 0, 1])
    assert (ours.confusion == confusion_matrix(groups[prediction], merged_target, 2)).all()


def test_means_are_added_one_after_the_other() -> None:
    """Other orders end in another last digit, and published scores are compared to the last one."""
    values = np.random.default_rng(0).random(19)
    total = 0.0
    for value in values.tolist():
        total += value
    assert mean(values) == total / 19
    assert mean(np.append(values, np.nan)) == total / 19
