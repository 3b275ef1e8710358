"""No setting is decoration: every leaf of RunConfig, of every member of every union, visibly changes what comes out."""

from collections.abc import Callable, Iterator
from itertools import combinations
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import cv2
import pytest
import torch

from settings_base import BASE, Tree, With
from settings_cases import CASES, EXEMPT, REFUSED
from settings_seen import fed
from settings_trees import write_trees
from terrazzo.base import Config, InputError
from terrazzo.config import RunConfig, config_of


class Leaf(NamedTuple):
    """One setting: data.folder.splits.ratio.seed, or the choice among the members of a union: optim.kind."""

    name: str
    put: Callable[[Any], Tree]
    """A recipe that gives the setting a value and says no more."""
    kinds: frozenset[str] = frozenset()


def leaves(model: type[Config], put: Callable[[Tree], Tree] = dict, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """All settings below a section; `put` makes a whole recipe of the section alone."""
    tag = {"kind": kind} if (kind := kind_of(model)) else {}
    for attribute, field in model.model_fields.items():
        key = field.alias or attribute
        if key == "kind":
            continue
        at, place = (*path, key), Placed(put, tag, key)
        inside = members(field.annotation)
        sections = [part for part in inside if is_section(part)]
        if get_origin(inside[0]) is tuple and (listed := [*filter(is_section, members(get_args(inside[0])[0]))]):
            inside, sections, place = listed, listed, Placed(put, tag, key, listed=True)
        if {*inside} - {*sections, NoneType}:
            yield Leaf(".".join(at), place)
        if len(kinds := frozenset(filter(None, map(kind_of, sections)))) > 1:
            yield Leaf(".".join((*at, "kind")), place, kinds)
        for section in sections:
            yield from leaves(section, place, (*at, *filter(None, [kind_of(section)])))


class Placed(NamedTuple):
    """Puts a value at a key of a section of one kind."""

    put: Callable[[Tree], Tree]
    tag: Tree
    key: str
    listed: bool = False

    def __call__(self, value: Any) -> Tree:
        return self.put({**self.tag, self.key: [value] if self.listed else value})


def members(annotation: Any) -> list[Any]:
    """The types of a field, unions and Annotated taken apart."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation]


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Config)


def kind_of(section: type[Config]) -> str | None:
    return section.model_fields["kind"].default if "kind" in section.model_fields else None


def merged(tree: Tree, update: Tree) -> Tree:
    """`update` laid over `tree`; a section of another kind and a length in another unit replace what was there."""
    out = dict(tree)
    for key, new in update.items():
        match out.get(key), new:
            case [{**old}], [{**added}] if fit(old, added):
                out[key] = [merged(old, added)]
            case {**old}, {**added} if fit(old, added):
                out[key] = merged(old, added)
            case _:
                out[key] = new
    return out


def fit(old: Tree, added: Tree) -> bool:
    """Whether two parts of a section may stand together: not two kinds, not steps and epochs."""
    one_kind = len({section["kind"] for section in (old, added) if "kind" in section}) < 2
    return one_kind and not {"steps", "epochs"} <= old.keys() | added.keys()


LEAVES = {leaf.name: leaf for leaf in leaves(RunConfig)}


def config_with(name: str, value: Any, given: Tree) -> RunConfig:
    beside: Tree = {}
    if isinstance(value, With):
        value, beside = value
    tree = BASE
    for update in (given, beside, LEAVES[name].put(value)):
        tree = merged(tree, update)
    return config_of(tree)


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty working folder with the trees that the cases read; runs write no report and wait for no disk."""
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    exact = torch.are_deterministic_algorithms_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("settings"))
        patch.setattr("os.fsync", lambda file: None)
        patch.setattr("terrazzo.commands.train.report_run", lambda *args, **options: None)
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as set_determinism would, but put back
        write_trees()
        yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv2_threads)
    torch.use_deterministic_algorithms(exact)


def test_the_walk_sees_unions_lists_lengths_and_plain_values() -> None:
    some = {"out", "length.steps", "length.epochs", "losses.tversky.alpha", "data.folder.splits.lists.lines"}
    some |= {"augment.base.fit.long", "schedule.poly.warmup.epochs", "optim.adamw.betas", "model.smp.weights"}
    assert some <= LEAVES.keys()
    assert len([*leaves(RunConfig)]) == len(LEAVES), "two settings have one name"
    assert LEAVES["losses.kind"].kinds > {"cross_entropy", "tversky"}
    assert LEAVES["losses.tversky.eps"].put(2) == {"losses": [{"kind": "tversky", "eps": 2}]}


def test_every_setting_is_accounted_for_once() -> None:
    names = [*CASES, *REFUSED, *EXEMPT]
    assert sorted(LEAVES.keys() - {*names}) == [], "settings without a case in tests/settings_cases.py"
    assert sorted({*names} - LEAVES.keys()) == [], "cases of settings that do not exist"
    assert sorted(name for name in {*names} if names.count(name) > 1) == [], "settings that stand in two tables"
    assert [name for name, reason in EXEMPT.items() if len(reason.split()) < 4] == [], "a reason takes a sentence"


@pytest.mark.parametrize("name", CASES)
def test_a_setting_changes_what_comes_out(name: str) -> None:
    see, values, given = CASES[name]
    tried = [value.value if isinstance(value, With) else value for value in values]
    configs = [config_with(name, value, given) for value in values]
    seen = [see(config) for config in configs]
    assert see(configs[0]) == seen[0], f"{name}={tried[0]}: looked at twice it differs, so a difference says nothing"
    assert len(values) > 1
    for first, second in combinations(range(len(values)), 2):
        assert seen[first] != seen[second], f"{name}: {tried[first]} and {tried[second]} give the same"
    untried = LEAVES[name].kinds - {value["kind"] for value in tried if LEAVES[name].kinds}
    assert not untried, f"{name}: no value of {sorted(untried)}"


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_can_change_nothing_is_refused(name: str) -> None:
    value, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        config_with(name, value, {})


@pytest.mark.parametrize("name", [name for name in LEAVES if name.endswith(".workers")])
def test_workers_change_no_bit(name: str) -> None:
    given = CASES[name].given
    assert fed(config_with(name, 0, given)) == fed(config_with(name, 3, given))


@pytest.mark.parametrize("kind", ["folder", "own"])
def test_worker_processes_change_no_bit(kind: str) -> None:
    name = f"data.{kind}.worker_kind"
    assert fed(config_with(name, "thread", {})) == fed(
        config_with(name, "process", {"data": {"kind": kind, "workers": 2}})
    )
