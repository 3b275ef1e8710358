"""Every tracker with its real library, read back: a run that was killed and stopped on the way stands there whole."""

import csv
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import terrazzo
from terrazzo.engine.state import file_hash
from terrazzo.track.jsonl import read_lines
from terrazzo.track.wandb import has_ended, last_offline_step
from track.fake_wandb import fake_wandb
from track.tracked_runs import (
    CLASSES,
    KEY,
    Killed,
    accumulated,
    config,
    history,
    kill_in,
    stop_in,
    wandb_lives,
    write_data,
)

# MLflow 3.17 maps its tables in a way that SQLAlchemy 2.1 is going to drop.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

TRACKERS: tuple[dict[str, Any], ...] = (
    {"kind": "tensorboard"},
    {
        "kind": "wandb",
        "project": "255_final_project",
        "name": "{model.kind}_{model.width}",
        "group": "{model.kind}",
        "tags": ["lr {optim.lr}", "tiny"],
        "mode": "offline",
        "images": 2,
        "system": False,
    },
    {"kind": "mlflow", "experiment": "tiny {model.kind}", "tags": {"width": "{model.width}"}, "images": 1},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Holds runs/plain, not tracked and not stopped, and runs/run: killed in step 9, stopped in step 13, tracked."""
    place = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("terrazzo.commands.report.LATENCY_SECONDS", 0.0)
        patch.setattr("terrazzo.commands.tracking.STOP_SECONDS", 60.0)  # a new database of MLflow takes 8
        patch.setenv("WANDB_API_KEY", KEY)
        write_data(place)
        assert terrazzo.train(config(out="runs/plain")).finished
        with patch.context() as lives:
            kill_in(lives, 9)
            with pytest.raises(Killed):
                terrazzo.train(config(*TRACKERS))
        with patch.context() as lives:
            stop_in(lives, 7)  # from step 6
            assert terrazzo.train(config(*TRACKERS)).step == 13
        assert terrazzo.train(config(*TRACKERS)).finished
        yield place


@pytest.fixture
def run(folder: Path) -> Path:
    return folder / "runs" / "run"


@pytest.fixture
def lines(run: Path) -> list[dict[str, Any]]:
    return read_lines(run / "metrics.jsonl")


def test_trackers_change_no_bit(folder: Path, run: Path) -> None:
    for name in ("metrics.jsonl", "metrics.csv", "checkpoints/last/model.safetensors"):
        assert file_hash(run / name) == file_hash(folder / "runs/plain" / name), name
    log = (run / "log.txt").read_text()
    assert "given up" not in log, log


def test_no_key_reaches_the_run_folder(run: Path) -> None:
    assert [path for path in run.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


def test_tensorboard_has_each_line_once(run: Path, lines: list[dict[str, Any]]) -> None:
    assert len([*(run / "tensorboard").iterdir()]) == 3, "one file a life"
    events = accumulated(run)
    for key in {key for line in lines for key in line} - {"step"}:
        seen = [(event.step, event.value) for event in events.Scalars(key)]
        assert seen == [(line["step"], np.float32(line[key])) for line in lines if line.get(key) is not None], key


def test_tensorboard_shows_samples_tables_and_what_the_run_is(run: Path) -> None:
    events = accumulated(run)
    assert events.Tags()["images"] == [f"val/samples/images/val/{n}" for n in range(3)]
    pictures = events.Images("val/samples/images/val/1")
    assert [picture.step for picture in pictures] == [5, 10, 14]
    panel = cv2.imdecode(np.frombuffer(pictures[-1].encoded_image_string, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert panel.shape[1] >= 3 * 48
    assert (panel[10:30, 56:100] == 0).all(-1).any(), "class 0 is black in the truth"
    tables = events.Tensors("val/classes/text_summary")
    assert [table.step for table in tables] == [5, 10, 14]
    text = tables[-1].tensor_proto.string_val[0].decode()
    assert text.startswith("| class | iou | acc | precision | dice |")
    assert "yes \\| maybe?" in text
    assert b"kind: unet" in events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]
    scores = json.loads((run / "evaluation/val-best_miou/scores.json").read_text())
    (final,) = events.Scalars("final/val/miou")
    assert (final.step, final.value) == (14, np.float32(scores["miou"]))


def test_wandb_goes_on_with_its_run_and_has_each_line_once(run: Path, lines: list[dict[str, Any]]) -> None:
    lives = wandb_lives(run)
    started = [record.run for life in lives for record in life if record.WhichOneof("record_type") == "run"]
    assert len(lives) == 3
    assert len({each.run_id for each in started}) == 1
    named = {(each.project, each.display_name, each.run_group, *each.tags) for each in started}
    assert named == {("255_final_project", "unet_4", "unet", "lr 0.001", "tiny")}
    assert {each.host for each in started} == {""}, "system: false"
    steps = [[row["_step"] for row in history(life)] for life in lives]
    assert steps == [[2, 4, 5, 6, 8], [10, 12], [14]], "8 was done before the kill, and is not told twice"
    rows = [row for life in lives for row in history(life)]
    wanted = [{key: value for key, value in line.items() if key != "step" and value is not None} for line in lines]
    for row, line in zip(rows, wanted, strict=True):
        assert {key: row.get(key) for key in line} == line


def test_wandb_shows_masks_with_labels_and_the_table(run: Path) -> None:
    rows = [row for life in wandb_lives(run) for row in history(life) if "val/miou" in row]
    assert [row["_step"] for row in rows] == [5, 10, 14]
    last = rows[-1]
    assert last["val/samples.captions"] == ["images/val/0", "images/val/1"], "two of three"
    for row in rows:
        for shown in row["val/samples.all_masks"]:
            assert sorted(shown) == ["prediction", "truth"]
    found = [*(run / "wandb").glob(f"offline-run-*/files/{last['val/samples.all_masks'][0]['truth']['path']}")]
    mask = cv2.imread(str(found[0]), cv2.IMREAD_UNCHANGED)
    assert mask.shape[:2] == (40, 48)
    assert sorted(np.unique(mask)) == [0, 1, 255]
    updates = [u for life in wandb_lives(run) for r in life for u in r.config.update]
    labels = [
        json.loads(u.value_json)["mask/class_labels"] for u in updates if u.key == "_wandb" and "mask/" in u.value_json
    ]
    assert {key.removeprefix("val/samples_wandb_delimeter_") for key in labels[-1]} == {"truth", "prediction"}
    for each in labels[-1].values():
        assert each["value"] == {"0": "no", "1": "yes | maybe?", "255": "not labelled"}
    (table,) = (run / "wandb").glob(f"offline-run-*/files/{last['val/classes.path']}")
    tree = json.loads(table.read_text())
    assert tree["columns"] == ["class", "iou", "acc", "precision", "dice"]
    assert [row[0] for row in tree["data"]] == list(CLASSES)
    assert tree["data"][1][1] == pytest.approx(last["val/iou/yes | maybe?"])


def test_wandb_knows_the_recipe_and_the_final_scores(run: Path) -> None:
    first, *_, last = wandb_lives(run)
    config = {u.key: u.value_json for r in first if r.WhichOneof("record_type") == "run" for u in r.run.config.update}
    assert json.loads(config["model"])["width"] == 4
    assert "torch" in json.loads(config["environment"])
    assert json.loads(config["class_colors"])["yes | maybe?"] == "#800000"
    summary = {"/".join(u.nested_key) or u.key: u.value_json for r in last for u in r.summary.update}
    scores = json.loads((run / "evaluation/val-best_miou/scores.json").read_text())
    assert json.loads(summary["final/val/miou"]) == scores["miou"]
    assert json.loads(summary["final/val/iou/no"]) == scores["per_class"]["no"]["iou"]
    codes = [r.exit.exit_code for life in wandb_lives(run) for r in life if r.WhichOneof("record_type") == "exit"]
    assert codes == [1, 1, 0]


def test_wandb_sync_makes_one_run_of_all_lives(run: Path, lines: list[dict[str, Any]]) -> None:
    with fake_wandb() as server:
        own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        own |= {"WANDB_BASE_URL": server.url, "WANDB_ERROR_REPORTING": "false"}
        lives = sorted(map(str, (run / "wandb").glob("offline-run-*")))
        subprocess.run([sys.executable, "-m", "wandb", "sync", *lives], env=own, check=True, capture_output=True)
        (history,) = server.history.values()
        assert [line["_step"] for line in history] == [line["step"] for line in lines]
        assert [line["train/loss"] for line in history] == [line["train/loss"] for line in lines]
        assert server.exits == [1, 1, 0]


def test_a_torn_log_of_wandb_is_read_as_far_as_it_goes(run: Path, tmp_path: Path) -> None:
    """As a kill leaves it."""
    path = min((run / "wandb").glob("offline-run-*/*.wandb"))
    run_id, whole = path.stem.removeprefix("run-"), path.read_bytes()
    torn = tmp_path / f"offline-run-20260101_000000-{run_id}" / path.name
    torn.parent.mkdir()
    found = []
    for length in (0, 3, 7, 10, len(whole) // 2, len(whole)):
        torn.write_bytes(whole[:length])
        found.append(last_offline_step(tmp_path, run_id))
    assert found[:4] == [0, 0, 0, 0]
    assert 0 <= found[4] < found[5] == 8
    assert last_offline_step(tmp_path, "another") == 0
    torn.write_bytes(whole)
    assert has_ended(torn)
    torn.write_bytes(whole[:-40])
    assert not has_ended(torn)


def test_mlflow_has_one_run_with_each_line_once(run: Path, lines: list[dict[str, Any]]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny unet")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status, found.data.tags["width"]) == ("run", "FINISHED", "4")
    params = found.data.params
    assert (params["model.width"], params["optim.lr"], params["losses.0.kind"]) == ("4", "0.001", "cross_entropy")
    for key in {key for line in lines for key in line} - {"step"}:
        points = client.get_metric_history(found.info.run_id, key)
        seen = sorted((point.step, point.value) for point in points)
        assert seen == [(line["step"], line[key]) for line in lines if line.get(key) is not None], key
    scores = json.loads((run / "evaluation/val-best_miou/scores.json").read_text())
    assert found.data.metrics["final/val/miou"] == scores["miou"]
    assert found.data.metrics["final/val/iou/yes _ maybe_"] == scores["per_class"]["yes | maybe?"]["iou"]


def test_mlflow_keeps_tables_pictures_and_the_recipe(run: Path) -> None:
    (artifacts,) = (run / "mlflow").glob("*/artifacts")
    names = sorted(path.name for path in (artifacts / "classes").iterdir())
    assert names == ["final_val.csv", *(f"val_{step:08d}.csv" for step in (5, 10, 14))]
    rows = [*csv.reader(io.StringIO((artifacts / "classes/val_00000014.csv").read_text()))]
    assert rows[0] == ["class", "iou", "acc", "precision", "dice"]
    assert rows[2][0] == "yes | maybe?"
    assert not math.isnan(float(rows[2][1]))
    steps = sorted(int(path.name.split("+step+")[1].split("+")[0]) for path in (artifacts / "images").glob("*.png"))
    assert steps == [5, 10, 14], "one image a validation"
    assert "kind: unet" in (artifacts / "config.yaml").read_text()
