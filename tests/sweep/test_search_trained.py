"""Searches that train real networks, on pictures of two squares; and what is told of them afterwards."""

import csv
import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import optuna
import pytest
import yaml
from search_folders import make_search, pretended, records, work
from typer.testing import CliRunner

from terrazzo.base import InputError
from terrazzo.cli import app
from terrazzo.commands.sweep_search import check_search, search_worker
from terrazzo.launch.state import read_states
from terrazzo.sweep.folder import Folder
from terrazzo.sweep.plan import load_sweep
from terrazzo.sweep.storage import TrialRecord
from terrazzo.sweep.tables import intervals, read_trials

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def pictures(root: Path) -> dict[str, Any]:
    """Six pictures of two classes, 32 x 32; the `data` of a recipe."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for number in range(2):
            mask = np.zeros((32, 32), np.uint8)
            top, left = rng.integers(0, 16, 2)
            mask[top : top + 16, left : left + 16] = 1
            image = np.where(mask[..., None] == 1, 200, 40).astype(np.uint8) + rng.integers(
                0, 20, (32, 32, 3), np.uint8
            )
            for kind, array in (("images", image), ("labels", mask)):
                path = root / split / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), array)
    return {
        "kind": "folder",
        "root": str(root),
        "images": "{split}/images/{id}.png",
        "labels": "{split}/labels/{id}.png",
        "classes": ["ground", "square"],
        "workers": 0,
    }


def with_data(folder: Path, **changes: Any) -> Path:
    """A search's folder with real data and the base changed."""
    tree = yaml.safe_load((folder / "sweep.yaml").read_text())
    tree |= {"data": pictures(folder.parent / "pictures"), "augment": {"crop": 32}, "batch": 2, **changes}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    (folder / "sweep.yaml").write_text(load_sweep(folder).text())
    return folder


def test_a_bad_run_is_stopped_by_a_signal_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    space = {"optim.lr": [1e-3, 1e-9]}
    search = {"kind": "halving", "trials": 2, "factor": 2, "first_rung": {"steps": 6}, "space": space}
    folder = with_data(
        make_search(tmp_path / "halved", search),
        length={"steps": 5000},
        **{key: {"steps": 3} for key in ("validate_every", "log_every")},
        save_every={"steps": 5000},
        threads=1,
    )
    perfect = TrialRecord(number=0, values={"optim.lr": 1e-9}, status="complete", value=1.0, reports={6: 1.0})
    (folder / "trials").mkdir()
    perfect.model_copy(update={"attributes": {"completed_rung_0": 1.0}}).write(folder / "trials")
    said: list[str] = []
    assert search_worker(folder, say=said.append) == 0
    bad = records(folder)[1]
    assert (bad.status, bad.value) == ("pruned", None), said
    assert said[-1].endswith(str(bad.reason))
    state = read_states(folder / "states")[bad.runs[0]]
    assert (state.status, state.reason, state.attempts) == ("pruned", bad.reason, 1)
    assert 6 <= state.step < 5000
    assert (folder / "runs" / bad.runs[0] / "checkpoints" / "last" / "model.safetensors").exists()


def test_a_trial_that_breaks_a_bound_is_not_trained_and_the_sampler_knows(tmp_path: Path) -> None:
    bounds = {"gmacs": 0.002, "parameters_m": 0.02, "latency_ms": 60_000, "peak_memory_mib": 1000}
    space = {"net": {"small": {"model.width": 4}, "large": {"model.width": 64}}, "optim.lr": [0.1, 0.01]}
    search = {"kind": "tpe", "trials": 4, "seed": 3, "space": space, "constraints": bounds}
    folder = with_data(make_search(tmp_path / "bounded", search))
    work(folder)
    found = {record.number: record for record in records(folder)}
    assert {record.values["net"] for record in found.values()} == {"small", "large"}
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "search.journal"))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    states = read_states(folder / "states")
    for trial in study.trials:
        record, large = found[trial.number], trial.params["net"] == "large"
        assert record.status == ("infeasible" if large else "complete")
        if not record.costs:
            assert "the same point" in str(record.reason)
            continue
        assert {*record.costs} == {*bounds}
        assert (max(trial.constraints.values()) > 0) == large
        assert trial.user_attrs["gmacs"] == record.costs["gmacs"]
        if large:
            assert record.reason is not None
            assert record.reason.startswith("parameters_m 1.") or "gmacs" in record.reason
            state = states[record.runs[0]]
            assert (state.status, state.attempts) == ("refused", 0)
            assert not (folder / "runs" / state.name).exists()
    assert study.best_trial.params["net"] == "small"


def test_the_command_searches_and_shows_what_it_found(tmp_path: Path) -> None:
    folder = tmp_path / "typed"
    recipe = with_data(make_search(folder, {"trials": 1}), length={"steps": 2}, threads=1) / "sweep.yaml"
    recipe.rename(tmp_path / "typed.yaml")
    (tmp_path / "typed").rmdir()
    runner = CliRunner()
    planned = runner.invoke(app, ["sweep", str(tmp_path / "typed.yaml"), "--dry-run"])
    assert "optim.lr: 1e-05 to 1 (log)" in planned.output
    assert not folder.exists()
    found = runner.invoke(app, ["sweep", str(tmp_path / "typed.yaml")])
    assert found.exit_code == 0, found.output
    assert "1 trial: 1 complete" in found.output
    (record,) = records(folder)
    assert record.value is not None
    assert (folder / "runs" / record.runs[0] / "report.html").exists()
    assert (folder / "results.csv").exists()


def test_an_objective_of_the_ended_run_is_read_off_its_scores(tmp_path: Path) -> None:
    folder = with_data(make_search(tmp_path / "scored", {"trials": 2, "objective": "test/iou/square"}))
    check_search(load_sweep(folder))
    scored = {}

    def train(folder: Path, name: str) -> tuple[str, ...]:
        scored[name] = 0.25 + len(scored) / 4
        place = folder / "runs" / name / "evaluation" / "test-best_miou"
        place.mkdir(parents=True)
        (place / "scores.json").write_text(json.dumps({"per_class": {"square": {"iou": scored[name]}}}))
        return pretended(folder, name)

    assert search_worker(folder, train=train) == 0
    assert [record.value for record in records(folder)] == [0.25, 0.5]
    assert read_trials(folder)["ranking"] == [1, 0]  # type: ignore[index]
    for objective, words in {
        "test/iou/circle": "'circle' is no class: ground, square",
        "val/mIoU_of_all": "is none of val/miou",
        "test/fiou": "there is no fiou; there are miou",
        "val/miou/square": "there is no miou; there are iou",
    }.items():
        with pytest.raises(InputError, match=words):
            check_search(load_sweep(with_data(make_search(tmp_path / "no_score", {"objective": objective}))))
    for objective in ("test/fwiou", "val/dice/square", "test/macc"):
        check_search(load_sweep(with_data(make_search(tmp_path / "a_score", {"objective": objective}))))


def test_the_best_trial_is_compared_with_the_others_image_by_image(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "compared", {"trials": 3}, seeds=[0, 1])
    work(folder)
    ranked = sorted(records(folder), key=lambda record: -(record.value or 0))
    rng = np.random.default_rng(1)
    hard = rng.uniform(0.2, 0.8, 40)
    for place, record in enumerate(ranked):
        for name in record.runs:
            path = folder / "runs" / name / "evaluation" / "test-best_miou" / "images.csv"
            path.parent.mkdir(parents=True)
            scores = hard - 0.02 * place + rng.normal(0, 0.005, 40)
            rows = [f"{n},image {n},{score},0.5,100" for n, score in enumerate(scores)]
            path.write_text("\n".join(["index,name,miou,accuracy,pixels", *rows, ""]))
    search = load_sweep(folder).block.search
    assert search is not None
    found = intervals(Folder(folder), search, ranked)
    assert [*found] == [record.number for record in ranked[1:]]
    for place, record in enumerate(ranked[1:], start=1):
        interval = found[record.number]
        assert interval.low < 0.02 * place < interval.high
        assert interval.significant
        assert interval.images == 40
    assert work(folder) == []
    with (folder / "trials.csv").open(newline="") as file:
        rows_of = {int(row["trial"]): row for row in csv.DictReader(file)}
    assert rows_of[ranked[0].number]["behind"] == ""
    assert float(rows_of[ranked[1].number]["behind_low"]) == pytest.approx(found[ranked[1].number].low, abs=1e-6)


def test_what_matters_among_the_axes_is_told_at_the_end(tmp_path: Path) -> None:
    space = {"optim.lr": {"low": 1e-5, "high": 1, "log": True}, "optim.weight_decay": {"low": 0, "high": 1}}
    folder = make_search(tmp_path / "shares", {"trials": 8, "space": space})
    work(folder)
    tree = read_trials(folder)
    assert tree is not None
    assert tree["over"]
    assert {*tree["importances"]} == {*space}
    assert sum(tree["importances"].values()) == pytest.approx(1, abs=1e-3)
    best = max(records(folder), key=lambda record: record.value or 0)
    assert tree["ranking"][0] == best.number


def test_a_record_lost_in_the_middle_keeps_the_others_their_numbers(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "gap", {"trials": 3})
    work(folder)
    (folder / "trials" / "00001.json").unlink()
    (folder / "search.journal").unlink()
    make_search(tmp_path / "gap", {"trials": 4})
    work(folder)
    assert [(r.number, r.status) for r in records(folder)] == [(0, "complete"), (2, "complete"), (3, "complete")]


def test_the_dashboard_shows_a_search(tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    folder = make_search(tmp_path / "shown", {"trials": 2})
    work(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if not (script := Path(sys.executable).with_name("optuna-dashboard")).exists():
        pytest.skip("optuna-dashboard has no command beside this Python")
    command = [str(script), str(folder / "search.journal"), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            page = _get(f"http://127.0.0.1:{port}/", server)
            assert b"<html" in page.lower()
            studies = json.loads(_get(f"http://127.0.0.1:{port}/api/studies", server))
        finally:
            server.terminate()
    (study,) = studies["study_summaries"]
    assert study["study_name"] == "shown"
    assert {"key": "objective", "value": "val/miou"} in study["user_attrs"]


def _get(url: str, server: subprocess.Popen[bytes]) -> bytes:
    for _ in range(600):
        assert server.poll() is None, "the dashboard has ended"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                body: bytes = answer.read()
                return body
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the dashboard never answered")
