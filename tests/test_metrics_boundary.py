"""Boundary IoU against its definition, pixel by pixel, and against repeated erosion as its authors do it."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from terrazzo.base import IGNORE, InputError, Mask
from terrazzo.metrics import band_width, boundary, boundary_counts, boundary_iou

CLASSES = 3
label_maps = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1)),
        arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 2, 2, IGNORE])),
    )
)


def band(region: set[tuple[int, int]], width: int) -> set[tuple[int, int]]:
    """The pixels of a region that have a pixel outside of it, in or out of the image, no farther than `width`."""
    steps = range(-width, width + 1)
    return {(y, x) for y, x in region if any((y + dy, x + dx) not in region for dy in steps for dx in steps)}


def brute_force(prediction: Mask, target: Mask, width: int) -> list[tuple[int, int]]:
    counts = []
    for k in range(CLASSES):
        truth = {(y, x) for y, x in np.argwhere(target == k).tolist()}
        found = {(y, x) for y, x in np.argwhere((prediction == k) & (target != IGNORE)).tolist()}
        inner_truth, inner_found = band(truth, width), band(found, width)
        counts.append((len(inner_truth & inner_found), len(inner_truth | inner_found)))
    return counts


@settings(max_examples=150, deadline=None)
@given(label_maps, st.floats(0.01, 0.6))
def test_counts_equal_the_definition(maps: tuple[Mask, Mask], share: float) -> None:
    prediction, target = maps
    ours = boundary_counts(prediction, target, CLASSES, share)
    assert ours.dtype == np.int64
    assert list(map(tuple, ours.T.tolist())) == brute_force(prediction, target, band_width(target.shape, share))


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint8, (12, 17), elements=st.integers(0, 1)), st.integers(1, 6))
def test_the_band_equals_repeated_erosion_in_a_frame_of_zeros(mask: Mask, width: int) -> None:
    """The construction of the authors' code, for one class at a time."""
    framed = np.pad(mask, 1)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    assert ((mask == 1) & boundary(mask, width) == (mask - eroded).astype(bool)).all()


def test_the_width_is_a_share_of_the_diagonal_and_at_least_one_pixel() -> None:
    assert band_width((300, 400), 0.02) == 10
    assert band_width((1024, 2048), 0.005) == 11
    assert band_width((8, 8), 0.02) == 1


def test_a_prediction_without_a_fault_scores_one_whatever_is_ignored() -> None:
    generator = np.random.default_rng(0)
    target = np.kron(generator.integers(0, CLASSES, (6, 8), dtype=np.uint8), np.ones((5, 5), np.uint8))
    prediction = target.copy()
    target[10:20, 3:30] = IGNORE
    scores = boundary_iou(boundary_counts(prediction, target, CLASSES, 0.05))
    assert scores.tolist() == [1.0, 1.0, 1.0]


def test_the_border_weighs_more_than_in_plain_iou() -> None:
    """A large square found two pixels too small: nearly perfect by area, bad at the contour."""
    target = np.zeros((100, 100), np.uint8)
    target[20:80, 20:80] = 1
    prediction = np.zeros_like(target)
    prediction[22:78, 22:78] = 1
    both, either = boundary_counts(prediction, target, 2, 0.02)[:, 1].tolist()
    ring = [60**2 - 54**2, 56**2 - 50**2, 56**2 - 54**2]  # bands of 3 pixels, and where they overlap
    assert (both, either) == (ring[2], ring[0] + ring[1] - ring[2])
    assert both / either == 0.2 < 0.87 < 56**2 / 60**2


def test_counts_add_over_images_and_absent_classes_are_left_out_or_zero() -> None:
    target = np.zeros((10, 10), np.uint8)
    once = boundary_counts(target, target, 2, 0.1)
    assert (boundary_iou(once + once)[:1] == 1).all()
    assert np.isnan(boundary_iou(once)[1])
    assert boundary_iou(once, "zero")[1] == 0


def test_views_are_seen_as_they_look() -> None:
    generator = np.random.default_rng(1)
    prediction, target = (generator.integers(0, CLASSES, (20, 30), dtype=np.uint8)[::2, 1::3] for _ in range(2))
    assert list(map(tuple, boundary_counts(prediction, target, CLASSES, 0.1).T.tolist())) == brute_force(
        prediction, target, band_width(target.shape, 0.1)
    )


def test_maps_of_different_size_are_an_error() -> None:
    with pytest.raises(InputError, match=r"\(2, 3\).*\(3, 2\)"):
        boundary_counts(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2, 0.02)
