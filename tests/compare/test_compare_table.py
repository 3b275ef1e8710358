"""The table of runs: where each value comes from, what is ranked with what, and that a damaged file ends nothing."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_runs import CLASSES, COST, recipe, write_grid, write_run, write_scores, write_state

from terrazzo.base import InputError
from terrazzo.comparison.recipes import described, leaves, value_of, varied
from terrazzo.comparison.runs import find_runs
from terrazzo.comparison.seeds import compared, holm, seed_groups
from terrazzo.comparison.table import Comparison, Row, build_table
from terrazzo.comparison.writing import csv_text, footnotes, json_text, latex_escaped, latex_text, markdown_text
from terrazzo.metrics.significance import paired_bootstrap


def row(table: Comparison, name: str, checkpoint: str | None = None) -> dict[str, Any]:
    (found,) = [
        dict(row.values)
        for row in table.rows
        if row.run.name == name and checkpoint in (None, row.values["checkpoint"])
    ]
    return found


def images(found: Row) -> tuple[list[str], list[float]]:
    assert found.scored is not None
    lines = (found.scored.folder / "images.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines))
    return [line["name"] for line in rows], [float(line["miou"]) for line in rows]


def test_each_value_is_the_one_of_its_source(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", miou=0.61, steps=100, seed=4)
    best = write_scores(run, miou=0.7, step=50, seed=5)
    last = write_scores(run, miou=0.6, step=100, seed=6, checkpoint="last")
    lines = {line["step"]: line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}
    table = build_table([run], checkpoint="all")
    assert [found.values["checkpoint"] for found in table.rows] == ["best_miou", "last"]
    for name, scores in (("best_miou", best), ("last", last)):
        values, line = row(table, "one", name), lines[scores["step"]]
        for key in ("miou", "mdice", "accuracy", "macc", "loss"):
            assert values[key] == scores[key]
        for label in CLASSES:
            assert values[f"iou/{label}"] == scores["per_class"][label]["iou"]
        assert [values["train_loss"], values["val_loss"]] == [line["train/loss"], line["val/loss"]]
        assert [values["train_miou"], values["val_miou"]] == [line["train/miou"], line["val/miou"]]
        assert values["steps"] == scores["step"]
        assert [values["runtime"], values["images_per_second"], values["trained_steps"]] == [93.4, 8.57, 100]
        assert [values["parameters"], values["executed"], values["learned"]] == [14.328354, 14.0, 1.234567]
        assert [values["megabytes"], values["gmacs"], values["input"]] == [57_371_136 / 2**20, 1.234, "1x3x64x96"]
        assert values["latency"] == pytest.approx(21.3)
        assert [values["latency_low"], values["latency_high"]] == pytest.approx([20.1, 24.0])
        assert [values["memory"], values["device"]] == [12.0, "cpu, 1 threads"]


def test_a_run_of_before_cost_json_has_dashes(tmp_path: Path) -> None:
    write_run(tmp_path / "old", cost=None)
    table = build_table([tmp_path])
    assert row(table, "old")["latency"] is None
    assert "GMACs" not in markdown_text(table), "a column that nobody has a value of is left out"
    assert "| - |" in markdown_text(build_table([tmp_path], columns=["latency"]))


def test_checkpoints(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one")
    assert row(build_table([run], checkpoint="last"), "one")["reason"] == "last has not been scored: --evaluate does it"
    assert row(build_table([run], checkpoint="best_loss"), "one")["checkpoint"] == "-"
    write_scores(run, miou=0.9, split="val")
    assert {found.scored.split for found in build_table([run]).rows if found.scored} == {"test"}, "test before val"


def test_what_was_scored_otherwise_is_flagged_and_not_ranked(tmp_path: Path) -> None:
    for n in range(3):
        write_run(tmp_path / f"alike{n}", miou=0.5 + 0.05 * n, seed=n)
    exact = {"kind": "exact", "height": 64, "width": 64}
    write_run(tmp_path / "resized", miou=0.9, resize=exact)
    other = write_run(tmp_path / "other-images", miou=0.95)
    images = other / "evaluation" / "test-best_miou" / "images.csv"
    images.write_text(images.read_text().replace("test/image 3", "test/image 33"))
    table = build_table([tmp_path])
    assert [found.run.name for found in table.rows] == ["alike2", "alike1", "alike0", "other-images", "resized"]
    assert [found.protocol for found in table.rows] == ["A", "A", "A", "B", "C"]
    assert {n for n, key in table.best if key == "miou"} == {0}, "the best of A; B and C have one row each"
    notes = footnotes(table)
    assert "protocol B (1 rows) is not ranked with A; it differs in images' hash" in notes[0]
    assert notes[1].endswith("it differs in resize: keep -> exact height=64 width=64")
    text = latex_text(table)
    assert text.count("\\textit{protocol") == 3


def test_best_values(tmp_path: Path) -> None:
    write_run(tmp_path / "a", miou=0.5, cost=COST | {"macs": 10**9})
    write_run(tmp_path / "b", miou=0.6, cost=COST | {"macs": 2 * 10**9}, seed=1)
    table = build_table([tmp_path])
    best = {(table.rows[n].run.name, key) for n, key in table.best}
    assert {("b", "miou"), ("a", "gmacs")} <= best
    assert not {key for _, key in best} & {"megabytes", "latency", "steps"}, "equal values have no best"


@pytest.mark.parametrize(
    ("changes", "cost", "unranked"),
    [
        ({}, {"shape": [1, 3, 99, 99], "macs": 5}, {"gmacs", "latency", "memory"}),
        ({}, {"threads": 9, "latency": {"median": 9.0}}, {"latency"}),
        ({"losses": [{"kind": "tversky"}]}, {}, {"train_loss", "val_loss"}),
        ({"data.limit": 5}, {}, {"train_loss", "val_loss", "val_miou"}),
    ],
)
def test_only_like_is_ranked_with_like(
    tmp_path: Path, changes: dict[str, Any], cost: dict[str, Any], unranked: set[str]
) -> None:
    write_run(tmp_path / "a", miou=0.5)
    write_run(tmp_path / "b", miou=0.6, tree=recipe(**changes), cost=COST | cost, seed=1)
    table = build_table([tmp_path])
    assert not {key for _, key in table.best} & unranked
    assert "miou" in {key for _, key in table.best}
    assert any("no best" in note for note in footnotes(table))


def test_varied_keys() -> None:
    trees = [
        recipe(),
        recipe(**{"optim.lr": "1e-4", "out": "elsewhere", "data.workers": 9}),
        recipe(**{"augment": None}),
        recipe(**{"losses": [{"kind": "cross_entropy", "weight": 1.0}, {"kind": "tversky"}]}),
        recipe(**{"model": {"kind": "unet", "width": 8}}),
    ]
    recipes = [leaves(tree) for tree in trees]
    assert varied(recipes) == ["model.kind", "augment", "losses", "optim.lr"]
    assert [value_of(found, "augment") for found in recipes[:3:2]] == ["crop=64 flip=0.5", "null"]
    assert value_of(recipes[3], "losses") == "cross_entropy + tversky"
    assert value_of(recipes[1], "optim.lr") == 1e-4, "PyYAML reads it as a string"
    assert value_of(recipes[4], "model.arch") is None
    assert varied([leaves(recipe(**{"losses": [{"kind": "cross_entropy", "weight": w}]})) for w in (1, 2)]) == [
        "losses.0.weight"
    ]
    assert described([0.75, 2.0]) == "0.75, 2.0"


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("miou>0.55", {"b", "c"}),
        ("test mIoU >= 0.55", {"b", "c"}),
        ("model.encoder=mit_b0", {"c"}),
        ("optim.lr!=0.001", {"b"}),
        ("run~A", {"a"}),
        ("batch=8", {"a", "b", "c"}),
        ("status=finished", {"a", "b", "c"}),
        ("iou/road>0", {"a", "b", "c"}),
    ],
)
def test_conditions(tmp_path: Path, where: str, left: set[str]) -> None:
    write_run(tmp_path / "a", miou=0.4)
    write_run(tmp_path / "b", miou=0.7, tree=recipe(**{"optim.lr": 0.1}))
    write_run(tmp_path / "c", miou=0.65, tree=recipe(**{"model.encoder": "mit_b0"}))
    assert {found.run.name for found in build_table([tmp_path], where=[where]).rows} == left


def test_sorting(tmp_path: Path) -> None:
    for name, miou, seconds in (("a", 0.4, 3.0), ("b", 0.7, 2.0), ("c", 0.6, 1.0)):
        write_run(tmp_path / name, miou=miou, cost=COST | {"train_seconds": seconds})

    def names(sort: str | None) -> str:
        return "".join(found.run.name for found in build_table([tmp_path], sort=sort).rows)

    assert [names(None), names("runtime"), names("-runtime"), names("run"), names("-run")] == (
        ["bca", "cba", "abc", "abc", "cba"]
    )
    assert names("-test mIoU") == "acb"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sort": "miuo"}, "there is no column 'miuo'; did you mean miou"),
        ({"columns": ["latencyy"]}, "did you mean latency"),
        ({"where": ["miou"]}, "give a key, one of = != > < >= <= ~, and a value"),
        ({"where": ["run>a"]}, "'a' is no number, and > compares numbers"),
        ({"where": ["modle=unet"]}, "there is no column 'modle'"),
        ({"where": ["miou>2"]}, "no run is left with miou>2; 1 were found"),
    ],
)
def test_what_is_asked_wrongly(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    write_run(tmp_path / "a")
    with pytest.raises(InputError, match=sentence.replace("*", r"\*")):
        build_table([tmp_path], **options)


def test_finding_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "first" / "same")
    write_run(tmp_path / "second" / "same")
    write_run(tmp_path / "second" / "deep" / "er" / "other")
    write_run(tmp_path / "second" / "same.old-1")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "second" / "zz-loop").symlink_to(tmp_path, target_is_directory=True)
    places, remarks = find_runs([tmp_path, tmp_path / "first", tmp_path / "nothing"])
    assert sorted(place.name for place in places) == ["first/same", "other", "second/same"]
    assert ["moved aside" in remark or "holds no run" in remark for remark in remarks] == [True, True]
    with pytest.raises(InputError, match="no run in there; a run folder holds config"):
        find_runs([tmp_path / "nothing"])
    with pytest.raises(InputError, match="no such folder"):
        find_runs([tmp_path / "missing"])


def test_a_sweeps_runs_that_never_ran_are_rows_with_their_reason(tmp_path: Path) -> None:
    sweep = write_grid(tmp_path / "sweep", 2)
    (sweep / "recipes").mkdir()
    (sweep / "recipes" / "unetplusplus.yaml").write_text("model: {kind: smp, arch: unetplusplus, encoder: mit_b2}")
    write_state(sweep, "unetplusplus", status="refused", reason="UnetPlusPlus does not go with mit_b2")
    write_state(sweep, "crashed", status="failed", reason="died 3 times without a step", attempts=3, deaths=3)
    write_state(sweep, "gone", status="finished")
    write_state(sweep, "next", status="waiting")
    write_run(sweep / "runs" / "half", finished=False, steps=40)
    write_state(sweep, "half", status="running", step=40)
    (sweep / "states" / "torn.json").write_text('{"name": "torn", "ha')
    table = build_table([sweep])
    told = {str(found.values["run"]): (found.values["status"], found.values["reason"]) for found in table.rows[2:]}
    assert told == {
        "unetplusplus": ("refused", "UnetPlusPlus does not go with mit_b2"),
        "crashed": ("failed", "died 3 times without a step"),
        "gone": ("missing", "its sweep says finished, but the run folder is not there"),
        "next": ("waiting", "not started"),
        "half": ("running", "best_miou has not been scored: --evaluate does it"),
        "torn": ("unknown", "states/torn.json is damaged"),
    }
    assert row(table, "unetplusplus")["model.encoder"] == "mit_b2"
    assert [found.protocol for found in table.rows] == ["A", "A", *[""] * 6]
    single = build_table([sweep / "runs" / "half"])
    assert row(single, "half")["status"] == "running", "a run given alone knows its sweep's state too"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("evaluation/test-best_miou/scores.json", b'{"miou": 0.5, "per_cl', "scores.json is damaged"),
        ("evaluation/test-best_miou/scores.json", b"[]", "holds no section of keys, but list"),
        ("evaluation/test-best_miou/scores.json", b'{"miou": 0.5}', "has no scores with a protocol"),
        ("evaluation/test-best_miou/cost.json", b"\xff\xfe", "cost.json cannot be read"),
        ("evaluation/test-best_miou/cost.json", b'{"latency": 5, "shape": 3, "macs": "x"}', ""),
        ("evaluation/test-best_miou/images.csv", b"index,name,miou,accuracy,pixels\n0,a,0.5", "1 rows for 12"),
        ("config.yaml", b"a: [", "config.yaml is damaged"),
        ("config.yaml", b"\x80\x81", "config.yaml cannot be read"),
        ("config.yaml", b"just words", "holds no section of keys, but str"),
        ("config.yaml", None, "config.yaml is missing"),
        ("metrics.jsonl", b'{"step": 1}\nnonsense\n{"step": 2, "train/l', "1 lines of metrics.jsonl are damaged"),
        ("metrics.jsonl", b'{"step": 1, "val/loss": null}\n{"step": 2, "tra', ""),
        ("metrics.jsonl", b"", ""),
        ("checkpoints/best_miou/config.json", b"{", "checkpoints/best_miou/config.json is damaged"),
        ("environment.yaml", b"- a", "environment.yaml holds no section"),
        ("parameters.txt", b"total x y", ""),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    write_run(tmp_path / "sound", miou=0.6)
    run = write_run(tmp_path / "hurt", seed=2)
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    table = build_table([tmp_path], checkpoint="all")
    assert row(table, "sound", "best_miou")["miou"] > 0.5
    (reason,) = {str(found.values["reason"] or "") for found in table.rows if found.run.name == "hurt"} - {
        "last has not been scored: --evaluate does it"
    } or {""}
    assert told in reason
    for text in (csv_text, json_text, markdown_text, latex_text):
        assert "hurt" in text(table)


def test_half_written_runs(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "config.yaml").write_text("batch: 2\nlength: {epochs: 3}")
    (fresh / "log.txt").write_text("starts")
    broken = write_run(tmp_path / "broken", finished=False, steps=10)
    (broken / "nonfinite.json").write_text('{"step": 10, "loss": "nan"}')
    going = write_run(tmp_path / "going", finished=False, steps=10, tree=recipe(**{"length": {"epochs": 3}}))
    (going / "splits").mkdir()
    (going / "splits" / "train.txt").write_text("a\n" * 21)
    table = build_table([tmp_path])
    assert row(table, "fresh")["reason"] == "nothing has been logged yet"
    assert row(table, "broken")["reason"] == "the training loss was nan at step 10"
    assert row(table, "going")["reason"] == "stopped or still running at step 10 of 8"
    assert row(table, "going")["val_miou"] is not None
    assert table.rows[0].run.name in ("going", "broken"), "what has not been scored is sorted by validation"


def test_seeds_are_grouped(tmp_path: Path) -> None:
    for rate, base in ((0.1, 0.5), (0.01, 0.7)):
        for seed in range(3):
            tree = recipe(**{"optim.lr": rate, "seed": seed})
            write_run(tmp_path / f"lr{rate}-seed{seed}", miou=base + 0.01 * seed, tree=tree, seed=seed)
    table = build_table([tmp_path])
    better, worse = seed_groups(table)
    assert [better.name, worse.name] == ["optim.lr=0.01", "optim.lr=0.1"]
    scores = [row(table, f"lr0.1-seed{seed}")["miou"] for seed in range(3)]
    spread = worse.spreads["miou"]
    assert (spread.mean, spread.sd, spread.n) == (
        pytest.approx(np.mean(scores)),
        pytest.approx(np.std(scores, ddof=1)),
        3,
    )
    assert spread.text(table.column("miou")) == f"{np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f}"
    arrays = [np.array([images(found)[1] for found in group.rows]) for group in (worse, better)]
    names = images(better.rows[0])[0]
    order = np.argsort(names)
    assert worse.against_best == paired_bootstrap(arrays[0][:, order], arrays[1][:, order])
    assert worse.against_best is not None
    assert worse.against_best.high < 0
    assert better.against_best is None


def test_numbers_as_they_are_shown(tmp_path: Path) -> None:
    table = build_table([write_run(tmp_path / "a")])
    loss, rows = table.column("val_loss"), table.column("steps")
    assert [loss.text(value) for value in (0.123456, 90.12, 126124799.8, None)] == [
        "0.1235",
        "90.1200",
        "1.26e+08",
        "-",
    ]
    assert rows.text(80_000.0) == "80000"


def test_without_repetitions_there_are_no_groups(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", tree=recipe(**{"optim.lr": 0.5}))
    assert seed_groups(build_table([tmp_path])) == []


def test_images_that_are_not_the_same_are_not_tested() -> None:
    assert str(compared([{"a": 0.5, "b": 0.6}], [{"a": 0.5}])).startswith("not tested")
    assert str(compared([{}], [{}])).startswith("not tested")
    assert "two images" in str(compared([{"a": 0.5}], [{"a": 0.5}]))


def test_holm() -> None:
    assert holm({(0, 1): 0.01, (0, 2): 0.02, (1, 2): 0.04}) == [(0, 1), (0, 2), (1, 2)]
    assert holm({(0, 1): 0.01, (0, 2): 0.03, (1, 2): 0.04}) == [(0, 1)]
    assert holm({(0, 1): 0.2}) == []


def test_texts(tmp_path: Path) -> None:
    write_run(tmp_path / "50%_of_{data}|&$#~^\\<x>", miou=0.7)
    write_run(tmp_path / "plain", miou=0.5)
    table = build_table([tmp_path])
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert [float(line["miou"]) for line in rows] == [found.values["miou"] for found in table.rows]
    assert rows[0]["run"] == "50%_of_{data}|&$#~^\\<x>"
    tree = json.loads(json_text(table))
    assert tree["rows"][0]["miou"] == table.rows[0].values["miou"]
    assert {column["key"] for column in tree["columns"]} >= {"run", "miou", "iou/road", "latency"}
    lines = latex_text(table).splitlines()
    body = next(line for line in lines if "50" in line)
    assert body.startswith(
        "50\\%\\_of\\_\\{data\\}\\textbar{}\\&\\$\\#\\textasciitilde{}\\textasciicircum{}\\textbackslash{}"
    )
    assert "\\textless{}x\\textgreater{} & \\textbf{0." in body
    aligned = lines[1].removeprefix("\\begin{tabular}{").removesuffix("}")
    assert body.count(" & ") == lines[3].count(" & ") == len(aligned) - 1
    table_lines = [line for line in markdown_text(table).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table_lines}) == 1
    assert latex_escaped("a_b ± 3…") == "a\\_b $\\pm$ 3\\ldots{}"
