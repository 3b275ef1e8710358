"""Axes: what Optuna is told of them, what it answers, and what is refused."""

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from terrazzo.base import Epochs, InputError, Steps
from terrazzo.sweep.search import HalvingSearch, SearchConfig, build_pruner, build_sampler, how_far
from terrazzo.sweep.space import Axis, Range, distribution, labels, suggest, value_of

AXIS: TypeAdapter[Any] = TypeAdapter(Axis)
SEARCH: TypeAdapter[Any] = TypeAdapter(SearchConfig)

numbers = st.floats(1e-8, 1e6)
scalars = st.one_of(st.none(), st.booleans(), st.integers(2, 99), st.text(max_size=5))
lists = st.lists(st.one_of(scalars, st.lists(st.integers(0, 9), min_size=1, max_size=3)), min_size=1, max_size=5)


@st.composite
def ranges(draw: st.DrawFn) -> dict[str, Any]:
    whole, log = draw(st.booleans()), draw(st.booleans())
    if whole:
        low, steps, step = draw(st.integers(1, 50)), draw(st.integers(1, 20)), draw(st.integers(1, 5))
        axis = {"low": low, "high": low + steps * step, "int": True}
        return {**axis, "log": True} if log else {**axis, "step": step}
    low, factor = draw(numbers), draw(st.floats(1.01, 1e4))
    return {"low": low, "high": low * factor, "log": log}


def points(space: dict[str, Any], count: int = 3) -> list[dict[str, Any]]:
    """What a random study answers."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask(), space) for _ in range(count)]


@given(ranges())
def test_numbers_lie_in_their_range_and_on_their_steps(given_axis: dict[str, Any]) -> None:
    axis = AXIS.validate_python(given_axis)
    assert isinstance(axis, Range)
    for point in points({"x": axis}):
        value = value_of(axis, point["x"])
        assert axis.low <= value <= axis.high
        assert not axis.whole or isinstance(value, int)
        if axis.step is not None:
            assert (value - axis.low) % axis.step == 0


@given(lists)
def test_a_label_leads_back_to_its_value(values: list[Any]) -> None:
    try:
        axis = AXIS.validate_python(values)
    except ValidationError as error:
        assert "twice" in str(error)  # noqa: PT017
        return
    assert [value_of(axis, label) for label in labels(axis)] == list(axis)
    for point in points({"x": axis}):
        assert value_of(axis, point["x"]) in values


def test_named_values_are_called_by_their_names() -> None:
    axis = AXIS.validate_python({"small": {"model.width": 4}, "large": {"model": {"kind": "unet", "width": 64}}})
    assert labels(axis) == ("small", "large")
    assert value_of(axis, "small") == {"model.width": 4}
    assert distribution(axis) == optuna.distributions.CategoricalDistribution(("small", "large"))


def test_a_log_range_is_one_of_factors() -> None:
    axis = AXIS.validate_python({"low": "1e-6", "high": 1, "log": True})  # as YAML reads 1e-6
    values = [point["x"] for point in points({"x": axis}, 400)]
    assert 0.4 < sum(value < 1e-3 for value in values) / 400 < 0.6


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ([], "without values"),
        ([1, 2, 1], "1 stands twice"),
        ({"low": 2, "high": 1}, "the smaller one as low"),
        ({"low": 0, "high": 1, "log": True}, "numbers above 0"),
        ({"low": 1, "high": 2, "log": True, "step": 0.1}, "contradict"),
        ({"low": 0, "high": 1, "step": 0.3}, "does not lead"),
        ({"low": 0.5, "high": 3, "int": True}, "whole numbers"),
        ({"low": 1}, "Field required"),
        ({"small": 4}, "a named value is a mapping"),
    ],
)
def test_an_axis_that_cannot_be_is_refused(axis: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AXIS.validate_python(axis)


@pytest.mark.parametrize(
    ("given_search", "words"),
    [
        ({"kind": "grid"}, r"sweep: \{grid: \{KEY"),
        ({"kind": "tpe", "objective": "val/mIoU"}, "is none of val/miou"),
        ({"kind": "halving", "objective": "test/miou"}, "known only when a run has ended"),
        ({"kind": "tpe", "objective": "test/iou/road", "take": "last"}, "changes nothing"),
        ({"kind": "tpe", "checkpoint": "last"}, "changes nothing"),
        ({"kind": "tpe", "storage": "search.db"}, "is no URL"),
        ({"kind": "halving", "first_rung": {"epochs": 0.001}}, "the shortest is 0.01"),
        ({"kind": "random", "space": {}}, "at least 1"),
    ],
)
def test_a_search_that_cannot_be_is_refused(given_search: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SEARCH.validate_python({"trials": 2, "space": {"optim.lr": [1, 2]}, **given_search})


def test_the_direction_follows_from_the_name_unless_it_is_given() -> None:
    base = {"kind": "random", "trials": 2, "space": {"optim.lr": [1, 2]}}
    found = {
        (objective, way): SEARCH.validate_python({**base, "objective": objective, "direction": way}).maximize
        for objective in ("val/loss", "test/iou/glossy")
        for way in (None, "min", "max")
    }
    assert [key for key, maximize in found.items() if maximize] == [
        ("val/loss", "max"),
        ("test/iou/glossy", None),
        ("test/iou/glossy", "max"),
    ]


def test_rungs_in_epochs_and_in_steps_mean_the_same_run() -> None:
    line = {"step": 30, "epoch": 1.2}
    epochs = HalvingSearch(trials=2, space={"x": (1, 2)}, first_rung=Epochs(epochs=1.5))
    steps = HalvingSearch(trials=2, space={"x": (1, 2)}, first_rung=Steps(steps=30))
    assert (how_far(epochs, line), how_far(steps, line)) == (120, 30)
    assert (epochs.said(120), steps.said(30)) == ("epoch 1.2", "step 30")
    build_pruner(epochs, Steps(steps=38), 100, 4)  # 1.52 epochs
    with pytest.raises(InputError, match=r"1\.5 epochs, and runs end after 37 steps"):
        build_pruner(epochs, Steps(steps=37), 100, 4)
    with pytest.raises(InputError, match="30 steps, and runs end after 1 epochs"):
        build_pruner(steps, Epochs(epochs=1), 100, 4)


@given(st.integers(0, 99), st.integers(0, 99))
def test_a_trials_chance_is_of_the_seed_and_its_number_alone(seed: int, number: int) -> None:
    search = SEARCH.validate_python(
        {"kind": "random", "trials": 2, "space": {"x": {"low": 0, "high": 1}}, "seed": seed}
    )

    def first(of_number: int) -> float:
        study = optuna.create_study(sampler=build_sampler(search, of_number))
        return study.ask().suggest_float("x", 0, 1)

    assert first(number) == first(number)
    assert first(number) != first(number + 1)
