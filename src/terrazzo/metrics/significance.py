"""Whether one model is better than another on the same images, or only seems so: the paired bootstrap."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terrazzo.base import InputError

RESAMPLES = 10_000
"""Data sets that are drawn from the one there is: the ends of a 95 % interval then stand on 250 of them each."""

_BLOCK = 1 << 22
"""Image numbers drawn at a time, so that a large data set needs little memory."""


@dataclass(frozen=True)
class Interval:
    """How much better the first of two models is, and how sure that is."""

    difference: float
    """Mean over the images of (score of the first - score of the second); above 0, the first is better."""
    low: float
    high: float
    """Between these lie `level` of the bootstrap's differences."""
    p: float
    """Two-sided level at which the interval just touches 0; small where the difference is hardly chance."""
    level: float
    images: int
    """That both have a score of."""

    @property
    def significant(self) -> bool:
        """Whether 0, no difference at all, lies outside."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean difference of two models' per-image scores, over images drawn with replacement.

    `first` and `second` [N] are scores of the same N images, in one order; or [S, N] of S repetitions with other seeds,
    of which each image's mean is taken first (S may differ between the two). What is resampled is the image: both
    scores of one stay together, so how hard an image is cancels out. The statistic is the *mean over images of
    per-image scores*; that is not the difference of two mean IoUs of a whole data set, whose pixels are summed
    over all images before they are divided. Images without a score (nan, nothing labelled) in either are left out.

    Seeds are not resampled: the interval tells of other images, the standard deviation over seeds of other seeds.
    The same arguments give the same bits.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993): sections 13.3 (percentile interval) and
    15.4 (level of a test from it).

    Raises:
        InputError: the scores are not of the same images, or fewer than two images have both.
    """
    if first.shape[-1:] != second.shape[-1:] or not 1 <= first.ndim <= 2 or not 1 <= second.ndim <= 2:
        raise InputError(f"per-image scores {[*first.shape]} and {[*second.shape]} are not of the same images")
    if not 0 < level < 1 or resamples < 1:
        raise InputError(f"level={level}, resamples={resamples}: the level lies between 0 and 1, resamples are some")
    differences = _over_seeds(first) - _over_seeds(second)
    differences = differences[~np.isnan(differences)]
    if len(differences) < 2:
        raise InputError(
            f"{len(differences)} of {first.shape[-1]} images have scores of both models; an interval needs two images"
        )
    means = _resampled_means(differences, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    p = min(1.0, 2 * (rarer + 1) / (resamples + 1))
    return Interval(float(differences.mean()), float(low), float(high), p, level, len(differences))


def paired(first: Mapping[str, float], second: Mapping[str, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two models' scores by name of the image, as arrays [N] in one order.

    Raises:
        InputError: one has images that the other has not.
    """
    if alone := sorted(first.keys() ^ second.keys()):
        raise InputError(
            f"{len(first)} and {len(second)} images were scored, and {len(alone)} of them by one of the two only "
            f"({', '.join(alone[:3])}{', ...' if len(alone) > 3 else ''}); score both on the same split"
        )
    names = [*first]
    return np.array([first[name] for name in names]), np.array([second[name] for name in names])


def _over_seeds(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = np.asarray(scores, np.float64) if scores.ndim == 1 else scores.mean(0, np.float64)
    return means


def _resampled_means(values: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Mean of each of so many samples, of the same size, drawn with replacement: [resamples]."""
    rows = max(1, _BLOCK // len(values))
    means = [
        values[rng.integers(0, len(values), (min(rows, resamples - done), len(values)))].mean(1)
        for done in range(0, resamples, rows)
    ]
    return np.concatenate(means)
