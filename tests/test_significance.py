"""The paired bootstrap against scipy's, against all resamples there are, and the promises of its docstring."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from terrazzo.base import InputError
from terrazzo.metrics.significance import paired, paired_bootstrap

Scores = NDArray[np.float64]


def two_models(images: int, better: float, seed: int = 0) -> tuple[Scores, Scores]:
    rng = np.random.default_rng(seed)
    hardness = rng.uniform(0.2, 0.9, images)
    return hardness + better + rng.normal(0, 0.03, images), hardness + rng.normal(0, 0.03, images)


@pytest.mark.parametrize(("images", "level"), [(12, 0.9), (233, 0.95)])
def test_the_interval_is_scipys(images: int, level: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = two_models(images, 0.01)
    ours = paired_bootstrap(first, second, level=level, resamples=40_000)
    theirs = stats.bootstrap(
        (first, second),
        lambda a, b, axis: (a - b).mean(axis),
        paired=True,
        method="percentile",
        confidence_level=level,
        n_resamples=40_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = ours.high - ours.low
    assert ours.low == pytest.approx(theirs.low, abs=0.02 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.02 * width)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=5), st.sampled_from([0.5, 0.8, 0.9]))
def test_few_images_give_what_all_resamples_give(parts: list[int], level: float) -> None:
    differences = np.array(parts) / 16  # whose sums are exact: a mean of 0 is 0
    every = np.sort([np.mean(drawn) for drawn in product(differences, repeat=len(differences))])
    found = paired_bootstrap(differences, np.zeros(len(differences)), level=level, resamples=20_000)
    for end, share in ((found.low, (1 - level) / 2), (found.high, (1 + level) / 2)):
        assert (every < end - 1e-9).mean() <= share + 0.015  # of 20 000 draws the share is known to about 0.0035
        assert (every <= end + 1e-9).mean() >= share - 0.015 or _between_atoms(every, end, share)
    rarer = min((every <= 1e-12).mean(), (every >= -1e-12).mean())
    assert found.p == pytest.approx(min(1.0, 2 * rarer), abs=0.03)


def _between_atoms(every: Scores, end: float, share: float) -> bool:
    """A quantile that falls on the step between two atoms may be anything between them."""
    return bool(abs((every < end - 1e-9).mean() - share) < 0.015)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000))
def test_swapping_the_models_turns_the_interval_round(images: int, seed: int) -> None:
    first, second = two_models(images, 0.02, seed)
    there, back = paired_bootstrap(first, second, resamples=500), paired_bootstrap(second, first, resamples=500)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-12)
    assert back.difference == pytest.approx(-there.difference)
    assert there.low <= there.high
    assert there.p == back.p


def test_how_hard_an_image_is_cancels_out() -> None:
    first, second = two_models(100, 0.01)
    spread = first.std() / np.sqrt(len(first))
    found = paired_bootstrap(first, second)
    assert found.high - found.low < 0.3 * 2 * 1.96 * spread, "as if the two were scored on other images"
    assert found.low < found.difference < found.high


def test_a_coverage_of_95_percent_is_one() -> None:
    true, trials = 0.01, 200
    inside = sum(
        found.low <= true <= found.high
        for found in (paired_bootstrap(*two_models(60, true, seed), resamples=1000) for seed in range(trials))
    )
    assert 0.88 <= inside / trials <= 0.99


def test_a_model_is_not_better_than_itself_and_a_better_one_is() -> None:
    first, _ = two_models(50, 0)
    same = paired_bootstrap(first, first)
    assert (same.difference, same.low, same.high, same.p, same.significant) == (0, 0, 0, 1, False)
    better = paired_bootstrap(first + 0.02, first)
    assert better.significant
    assert better.p < 0.001


def test_repetitions_are_averaged_and_images_without_a_score_left_out() -> None:
    first, second = two_models(20, 0.02)
    seeds = np.stack([first - 0.1, first, first + 0.1])
    assert paired_bootstrap(seeds, second).difference == pytest.approx(paired_bootstrap(first, second).difference)
    with_gap = first.copy()
    with_gap[3] = np.nan
    found = paired_bootstrap(with_gap, second)
    assert found.images == 19
    assert found == paired_bootstrap(np.delete(first, 3), np.delete(second, 3))


def test_many_images_take_little_memory_at_a_time() -> None:
    first, second = two_models(500_000, 0.001)
    found = paired_bootstrap(first, second, resamples=20)
    assert found.images == 500_000
    assert found.low < found.difference < found.high


def test_scores_of_other_images_are_refused() -> None:
    with pytest.raises(InputError, match="not of the same images"):
        paired_bootstrap(np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match="1 of 2 images"):
        paired_bootstrap(np.array([0.5, np.nan]), np.array([0.5, 0.5]))
    with pytest.raises(InputError, match=r"2 and 1 images .* \(b\); score both on the same split"):
        paired({"a": 0.1, "b": 0.2}, {"a": 0.3})
    first, second = paired({"a": 0.1, "b": 0.2}, {"b": 0.4, "a": 0.3})
    assert (first.tolist(), second.tolist()) == ([0.1, 0.2], [0.3, 0.4])
