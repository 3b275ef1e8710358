"""Boundary IoU (Cheng et al., CVPR 2021): IoU of the bands along the inner side of the classes' contours."""

from math import hypot

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.base import IGNORE, InputError, Mask
from terrazzo.metrics.scores import Absent, ratio


def band_width(shape: tuple[int, ...], share: float) -> int:
    """Width of the band in pixels: a share of the diagonal of an image [H, W], at least 1 (the paper: 0.02)."""
    return max(1, round(share * hypot(shape[0], shape[1])))


def boundary(mask: Mask, width: int) -> NDArray[np.bool_]:
    """Pixels that have another value, or the outside of the image, no farther than `width` away; bool [H, W].

    Farther is along the longer axis, as in the authors' code, which erodes with a square. One look at the smallest and
    greatest value around each pixel does this for all classes at once.
    """
    mask, square = np.ascontiguousarray(mask), np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    near = np.asarray(cv2.erode(mask, square) != cv2.dilate(mask, square), np.bool_)
    near[:width] = near[-width:] = True
    near[:, :width] = near[:, -width:] = True
    return near


def boundary_counts(prediction: Mask, target: Mask, classes: int, share: float) -> NDArray[np.int64]:
    """Of each class, pixels in the bands of truth and prediction, and in either, int64 [2, K], to be added over images.

    Pixels whose truth is IGNORE are of no class on both sides: their edge is a contour of both, so that a prediction
    without a fault scores 1, and they count nowhere.
    """
    if prediction.shape != target.shape or prediction.ndim != 2:
        raise InputError(f"prediction {prediction.shape} and truth {target.shape} are not both [H, W] of one size")
    prediction = np.where(target == IGNORE, np.uint8(IGNORE), prediction)
    width = band_width(target.shape, share)
    in_truth, in_prediction = boundary(target, width), boundary(prediction, width)
    both = _count(target[in_truth & in_prediction & (target == prediction)], classes)
    return np.stack([both, _count(target[in_truth], classes) + _count(prediction[in_prediction], classes) - both])


def boundary_iou(counts: NDArray[np.int64], absent: Absent = "exclude") -> NDArray[np.float64]:
    """Boundary IoU of each class from summed counts [2, K]."""
    return ratio(counts[0], counts[1], absent)


def _count(values: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = np.bincount(values, minlength=256)[:classes].astype(np.int64)
    return counts
