"""No setting of a search is decoration, as in test_settings.py."""

from itertools import combinations
from typing import Any

import pytest
from pydantic import ValidationError

from settings_cases_search import CASES, REFUSED
from terrazzo.base import Config
from terrazzo.sweep.search import SearchConfig
from test_settings import leaves, merged

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class Holder(Config):
    """A place for the block."""

    search: SearchConfig


LEAVES = {leaf.name: leaf for leaf in leaves(Holder)}


def search_with(name: str, value: Any, given: dict[str, Any]) -> SearchConfig:
    put = LEAVES[name].put(value)
    base = {"search": {"trials": 4, "space": {"optim.lr": {"low": 0.1, "high": 0.9}}}}
    search: SearchConfig = Holder.model_validate(merged(merged(base, {"search": given}), put)).search
    return search


def test_every_setting_is_accounted_for_once() -> None:
    assert sorted(LEAVES.keys() ^ (CASES.keys() | REFUSED.keys())) == []
    assert not CASES.keys() & REFUSED.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_setting_changes_what_a_search_does(name: str) -> None:
    see, values, given = CASES[name]
    searches = [search_with(name, value, given) for value in values]
    seen = [see(search) for search in searches]
    assert see(searches[0]) == seen[0], "looked at twice it differs, so a difference says nothing"
    for first, second in combinations(range(len(values)), 2):
        assert seen[first] != seen[second], f"{name}: {values[first]} and {values[second]} give the same"
    assert not LEAVES[name].kinds - {value["kind"] for value in values if LEAVES[name].kinds}


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_can_change_nothing_is_refused(name: str) -> None:
    value, words = REFUSED[name]
    with pytest.raises(ValidationError, match=words):
        search_with(name, value, {})
