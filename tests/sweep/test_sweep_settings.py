"""No setting of a sweep is decoration, as in test_settings.py; those of a search have their own file."""

from itertools import combinations
from typing import Any

import pytest

from settings_cases_sweep import CASES, ELSEWHERE
from terrazzo.base import Config
from terrazzo.sweep.block import SweepConfig
from test_settings import leaves, merged


class Holder(Config):
    """A place for the block."""

    sweep: SweepConfig


LEAVES = {
    leaf.name.removeprefix("sweep."): leaf for leaf in leaves(Holder) if not leaf.name.startswith("sweep.search.")
}


def block_with(name: str, value: Any, given: dict[str, Any]) -> SweepConfig:
    put = LEAVES[name].put(value)
    return Holder.model_validate(merged(merged({"sweep": {}}, {"sweep": given}), put)).sweep


def test_every_setting_is_accounted_for_once() -> None:
    assert sorted(LEAVES.keys() ^ (CASES.keys() | ELSEWHERE.keys())) == []
    assert not CASES.keys() & ELSEWHERE.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_setting_changes_what_a_sweep_does(name: str) -> None:
    see, values, given = CASES[name]
    seen = [see(block_with(name, value, given)) for value in values]
    for first, second in combinations(range(len(values)), 2):
        assert seen[first] != seen[second], f"{name}: {values[first]} and {values[second]} give the same"
    assert not LEAVES[name].kinds - {value["kind"] for value in values if LEAVES[name].kinds}
