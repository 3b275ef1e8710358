"""Which runs a sweep has, what they are called, and the sentences that answer one that cannot be."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_sweeps import BASE, sweep_of, write_recipe

from terrazzo.base import InputError
from terrazzo.config import config_of, load_config
from terrazzo.sweep.naming import file_text, recipe_hash, short_keys, value_text
from terrazzo.sweep.overlay import laid_over
from terrazzo.sweep.plan import count_runs, load_sweep, plan, planned

COLUMNS = ["length.epochs", "batch", "model", "optim.lr"]


def test_a_grid_is_every_combination_once_and_each_value_reaches_its_recipe(tmp_path: Path) -> None:
    models = {"small": {"model.width": 4}, "plain": {"model": {"kind": "fcn_resnet", "encoder": "resnet18"}}}
    sweep = sweep_of(tmp_path, {"grid": {"optim.lr": ["1e-2", 1e-3], "model": models, "batch": [2, 4]}})
    runs = plan(sweep)
    assert [run.varied for run in runs] == [
        {"lr": lr, "model": model, "batch": batch}
        for lr, model, batch in product(("0.01", "0.001"), ("small", "plain"), ("2", "4"))
    ]
    assert len({run.name for run in runs}) == len({run.hash for run in runs}) == 8
    last = config_of(runs[-1].tree)
    assert (last.optim.lr, last.model.kind, last.batch) == (1e-3, "fcn_resnet", 4)
    assert last.out == tmp_path / "sweep/runs" / runs[-1].name
    assert runs[-1].name == f"lr=0.001-model=plain-batch=4-{runs[-1].hash[:8]}"


def test_seeds_repeat_every_run_and_alone_they_repeat_the_base(tmp_path: Path) -> None:
    runs = plan(sweep_of(tmp_path, {"grid": {"batch": [2, 4]}, "seeds": [3, 7]}))
    assert [(run.varied["batch"], run.seed, run.tree["seed"]) for run in runs] == [
        ("2", 3, 3),
        ("4", 3, 3),
        ("2", 7, 7),
        ("4", 7, 7),
    ]
    assert [run.varied for run in plan(sweep_of(tmp_path, {"seeds": [1]}))] == [{"seed": "1"}]


def test_runs_come_behind_those_they_start_from(tmp_path: Path) -> None:
    block = {
        "runs": {
            "tuned": {"after": "pretrain", "init": {"parts": ["encoder"]}},
            "last": {"after": ["tuned", "scratch"]},
            "pretrain": {"length": {"epochs": 1}},
            "scratch": None,
        },
        "seeds": [0, 1],
    }
    runs = {run.name[:-9]: run for run in plan(sweep_of(tmp_path, block))}
    assert list(runs) == [f"{name}-seed={seed}" for seed in (0, 1) for name in ("pretrain", "scratch", "tuned", "last")]
    for seed in (0, 1):
        first, tuned = runs[f"pretrain-seed={seed}"], runs[f"tuned-seed={seed}"]
        assert tuned.after == (first.name,)
        assert tuned.tree["init"] == {"from": str(tmp_path / "sweep/runs" / first.name), "parts": ["encoder"]}
        assert first.tree["length"] == {"epochs": 1.0}
        assert set(runs[f"last-seed={seed}"].after) == {tuned.name, runs[f"scratch-seed={seed}"].name}


def test_a_hash_is_of_what_the_results_depend_on(tmp_path: Path) -> None:
    block = {"runs": {"first": {}, "second": {"after": "first", "init": {"parts": ["encoder"]}}}}
    names = [run.name for run in plan(sweep_of(tmp_path, block))]
    (tmp_path / "elsewhere").mkdir()
    same = {"device": "auto", "log_every": {"steps": 1}, "data": {**BASE["data"], "workers": 3, "root": "moved"}}
    assert [run.name for run in plan(sweep_of(tmp_path / "elsewhere", block, **same))] == names
    for change in ({"seed": 1}, {"length": {"steps": 5}}, {"threads": 2}, {"validate_every": {"steps": 1}}):
        other = [run.name for run in plan(sweep_of(tmp_path, block, **change))]
        assert not {*other} & {*names}, f"{change} changes both: the second starts from the first"


def test_the_folder_of_a_sweep_reads_back_to_the_same_sweep(tmp_path: Path) -> None:
    block = {"grid": {"aug": {False: {}, True: {"augment": {"flip": 0.25}}}}, "seeds": [1], "launch": "local"}
    sweep = sweep_of(tmp_path, block)
    assert [run.varied["aug"] for run in plan(sweep)] == ["False", "True"]
    sweep.folder.mkdir()
    (sweep.folder / "sweep.yaml").write_text(sweep.text())
    assert load_sweep(sweep.folder) == sweep
    moved = sweep.folder.rename(tmp_path / "moved")
    assert [run.name for run in plan(load_sweep(moved))] == [run.name for run in plan(sweep)]
    assert load_sweep(moved, ["sweep.seeds=[1, 2]"]).block.seeds == (1, 2)


def test_the_command_line_reaches_axes_with_dots_in_their_names(tmp_path: Path) -> None:
    block = {"grid": {"optim.lr": [1, 2, 3], "schedule.gamma.per_epoch": [0.5]}}
    path = write_recipe(tmp_path / "r.yaml", block, schedule={"kind": "exponential", "gamma": {"per_epoch": 0.9}})
    typed = ["sweep.grid.optim.lr=[4]", "sweep.grid.schedule.gamma.per_epoch=[0.25]", "sweep.grid.batch=[2]"]
    (run,) = plan(load_sweep(path, typed))
    assert run.varied == {"lr": "4", "gamma": "0.25", "batch": "2"}


def test_w4_is_576_runs_of_distinct_names() -> None:
    runs = plan(load_sweep("cityscapes_sweep"))
    assert len(runs) == len({run.name for run in runs}) == len({run.hash for run in runs}) == 576
    counts = {key: len({run.varied[key] for run in runs}) for key in runs[0].varied}
    assert counts == {"model": 6, "aug": 2, "lr": 4, "weight_decay": 4, "gamma": 3}
    assert len({str(run.tree["model"]) for run in runs}) == 6
    assert {run.tree["augment"]["flip"] for run in runs if run.varied["aug"] == "True"} == {0.5}
    assert not [run for run in runs if run.refused]


def test_w4_lists_take_their_seven_columns(tmp_path: Path) -> None:
    folder = tmp_path / "hyperparameter_sets/all"
    folder.mkdir(parents=True)
    (folder / "hyperparameters_10.txt").write_text("5 8 unet_large True 1e-3 0.0001 0.99\n")
    (folder / "hyperparameters_2.txt").write_text("# comment\n\n90 32 resnet_18 False 0.01 0.01 0.95\n")
    (folder / "hyperparameters_3.txt").write_text("90 32 resnet_18 False 0.01 0.01 0.95\n")
    first, second = plan(load_sweep("cityscapes_sweep", [f"sweep.lists.files={tmp_path}/hyper*/*/*.txt"]))
    named = "length=90-batch=32-model=resnet_18-aug=False-lr=0.01-weight_decay=0.01-gamma=0.95"
    assert first.name == f"{named}-{first.hash[:8]}", "in the order of the numbers; a line in two files is one run"
    cfg = config_of(second.tree)
    assert (cfg.model.kind, cfg.model.depth, cfg.augment.flip, cfg.optim.lr) == ("unet", 6, 0.5, 1e-3)
    assert (cfg.length.epochs, cfg.batch, cfg.schedule.gamma.per_epoch) == (5, 8, 0.99)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("90 32 small", r"list\.txt, line 2: 3 values \(90 32 small\), and sweep\.lists\.columns names 4"),
        ("90 32 smal 0.1", r"list\.txt, line 2: 'smal' is no named value of model \(did you mean 'small'\?\)"),
        ("90 few small 0.1", r"list\.txt, line 2: batch: .*found 'few'"),
        ("90 2 small -1", r"list\.txt, line 2: optim\.lr: "),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "list.txt").write_text(f"90 2 small 0.1\n{line}\n")
    lists = {"files": str(tmp_path / "list.txt"), "columns": COLUMNS}
    with pytest.raises(InputError, match=words):
        plan(sweep_of(tmp_path, {"grid": {"model": {"small": {"model.width": 4}}}, "lists": lists}))


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({}, r"the sweep has no run: give sweep\.grid, sweep\.runs"),
        ({"grid": {"optim.lrr": [1, 2]}}, r"optim\.lrr: there is no such key \(did you mean 'lr'\?\)"),
        ({"grid": {"bach": [1, 2]}}, r"sweep\.grid\.bach: there is no such key \(did you mean 'batch'\?\)"),
        ({"grid": {"optim.lr": []}}, r"grid\.optim\.lr has no values"),
        ({"grid": {"optim.lr": 3}}, r"sweep\.grid\.optim\.lr: 3 is one value; an axis is a list of values"),
        ({"grid": {"size": {"small": 4}}}, r"small is 4; a named value is a mapping of keys"),
        ({"grid": {"model.kind": ["unett"]}}, r"'unett' is not one of .* \(did you mean 'unet'\?\)"),
        ({"gird": {"batch": [1]}}, r"sweep\.gird: there is no such key \(did you mean 'grid'\?\)"),
        ({"launch": "slrum"}, r"sweep\.launch\.kind: 'slrum' is not one of local, slurm \(did you mean 'slurm'\?\)"),
        ({"seeds": [1, 1]}, r"\[1, 1\] holds a seed twice"),
        ({"runs": {"a": {"after": "bb"}, "b": {}}}, r"there is no run 'bb' \(did you mean 'b'\?\); runs: a, b"),
        ({"runs": {"a": {"after": "b"}, "b": {"after": "a"}}}, "a after b, b after a; one of them must come first"),
        ({"runs": {"a": {"init": {"parts": ["encoder"]}}}}, r"init has no `from`, which is the run named in `after`"),
        ({"runs": {"a/b": {}}}, "a run's name is part of file names; call it a_b"),
        ({"lists": {"files": "none/*.txt", "columns": ["batch"]}}, r"none/\*\.txt fits no file"),
        ({"grid": {"step.accumulate": [3]}}, r"every run of this sweep is refused; .*does not divide batch=2"),
        (
            {"grid": {"batch": [1]}, "search": {"kind": "random", "trials": 2, "space": {"batch": [1, 2]}}},
            "leave out grid, runs and lists",
        ),
    ],
)
def test_what_cannot_be_is_a_sentence_before_anything_starts(tmp_path: Path, block: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        plan(sweep_of(tmp_path, block))


def test_a_recipe_without_a_block_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"camvid_unet has no `sweep:` block, so there is one run: `terrazzo train"):
        load_sweep("camvid_unet")


def test_a_run_whose_settings_contradict_each_other_is_refused_with_the_reason(tmp_path: Path) -> None:
    whole, third = plan(sweep_of(tmp_path, {"grid": {"step.accumulate": [1, 3]}}))
    assert whole.refused is None
    assert third.refused is not None
    assert third.refused.startswith("step.accumulate=3 does not divide batch=2")
    assert count_runs(sweep_of(tmp_path, {"grid": {"step.accumulate": [1, 3]}})) == "2 runs, 1 of them refused"


def test_the_base_of_a_sweep_is_a_whole_run(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml", {"grid": {"batch": [2, 4]}})
    assert load_config(path).batch == 2
    assert load_config("pets_transfer").init is None


def test_a_point_of_a_search_is_named_by_its_values(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, {"seeds": [0]})
    run = planned(sweep, {"optim.lr": 3e-4, "size": "big"}, [{"optim.lr": 3e-4}, {"model": {"width": 8}}], seed=5)
    assert run.name == f"lr=0.0003-size=big-seed=5-{run.hash[:8]}"
    assert (run.tree["optim"]["lr"], run.tree["model"]["width"], run.tree["seed"]) == (3e-4, 8, 5)


# --- laying over, names, hashes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "result"),
    [
        ({"a.b": 2}, {"a": {"b": 2, "c": 1}, "length": {"steps": 1}, "m": {"kind": "x", "p": 1}}),
        ({"a": {"b": 2}}, {"a": {"b": 2, "c": 1}, "length": {"steps": 1}, "m": {"kind": "x", "p": 1}}),
        ({"length": {"epochs": 2}}, {"a": {"b": 1, "c": 1}, "length": {"epochs": 2}, "m": {"kind": "x", "p": 1}}),
        ({"length.epochs": 2}, {"a": {"b": 1, "c": 1}, "length": {"epochs": 2}, "m": {"kind": "x", "p": 1}}),
        ({"m": {"kind": "y"}}, {"a": {"b": 1, "c": 1}, "length": {"steps": 1}, "m": {"kind": "y"}}),
        (
            {"m": {"kind": "x", "q": 2}},
            {"a": {"b": 1, "c": 1}, "length": {"steps": 1}, "m": {"kind": "x", "p": 1, "q": 2}},
        ),
        ({"m": None}, {"a": {"b": 1, "c": 1}, "length": {"steps": 1}, "m": None}),
    ],
)
def test_keys_are_laid_over_a_recipe(keys: dict[str, Any], result: dict[str, Any]) -> None:
    tree = {"a": {"b": 1, "c": 1}, "length": {"steps": 1}, "m": {"kind": "x", "p": 1}}
    before = str(tree)
    assert laid_over(tree, keys, "here") == result
    assert str(tree) == before


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "0.00001"),
        ("1e-4", "0.0001"),
        (0.95, "0.95"),
        (3e-9, "3e-09"),
        (32, "32"),
        (True, "True"),
        (None, "null"),
        ("timm/resnet 50", "timm_resnet_50"),
        ([512, 1024], "512x1024"),
        ([{"kind": "dice"}], "v3"),
    ],
)
def test_values_in_names(value: Any, text: str) -> None:
    assert value_text(value, 2) == text


def test_keys_in_names_keep_what_tells_them_apart() -> None:
    keys = ["optim.lr", "adapt.lr", "length.epochs", "schedule.gamma.per_epoch", "model"]
    assert list(short_keys(keys).values()) == ["optim.lr", "adapt.lr", "length", "gamma", "model"]


@given(st.text(max_size=80))
def test_any_text_is_fit_for_a_file_name(text: str) -> None:
    found = file_text(text)
    assert found
    assert not {*found} & {*'/\\:*?"<>| \0\n'}
    assert file_text(found) == found


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "seed"]), st.integers() | st.floats(allow_nan=False), min_size=1)
)
def test_a_hash_knows_values_and_not_their_order(tree: dict[str, float]) -> None:
    assert recipe_hash(dict(reversed(tree.items()))) == recipe_hash(tree)
    assert recipe_hash({**tree, "out": "elsewhere", "device": "cuda"}) == recipe_hash(tree)
    key = next(iter(tree))
    assert recipe_hash({**tree, key: "other"}) != recipe_hash(tree)


@given(st.lists(st.text("ab=-.", min_size=1, max_size=200), min_size=2, max_size=2, unique=True))
def test_long_names_stay_short_and_distinct(words: list[str]) -> None:
    from terrazzo.sweep.naming import run_name

    names = [run_name(word, recipe_hash({"word": word})) for word in words]
    assert len({*names}) == 2
    assert all(len(name) <= 150 for name in names)
