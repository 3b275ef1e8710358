"""The worker: how a run's state says what became of it, and that being killed changes no bit."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from toy_sweeps import sweep_of, write_data

import terrazzo.commands.sweep_work as worker
from terrazzo.base import InputError
from terrazzo.commands.machine import set_threads
from terrazzo.commands.sweep_work import REQUEUE, code_version, work, work_through
from terrazzo.commands.train import train
from terrazzo.config import load_config
from terrazzo.files import write_text
from terrazzo.launch.state import RunState, read_state, read_states
from terrazzo.sweep.folder import Folder
from terrazzo.sweep.plan import plan

FEW = {"checkpoints": ["last"], "seeds": [0]}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quicker; but the run's folder says that it is over, as with one."""
    monkeypatch.setattr(
        "terrazzo.commands.train.report_run", lambda folder, *args, **options: write_text(folder / "report.html", "")
    )


def published(block: dict[str, Any], **changes: Any) -> tuple[Folder, list[str]]:
    """The folder of a sweep with its recipes, as `terrazzo sweep` writes it."""
    import yaml

    sweep = sweep_of(Path(), block, **changes)
    folder = Folder(sweep.folder)
    runs = plan(sweep)
    write_text(folder.path / "sweep.yaml", sweep.text())
    for run in runs:
        write_text(folder.recipe(run.name), yaml.safe_dump(run.tree))
        RunState(name=run.name, hash=run.hash).write(folder.states)
    return folder, [run.name for run in runs]


def test_a_run_is_trained_once_and_its_checkpoints_are_scored_with_the_loss() -> None:
    folder, (name,) = published({"seeds": [0]})
    state = work(folder.path, name)
    assert (state.status, state.step, state.attempts, state.failures, state.began) == ("finished", 4, 1, 0, 0)
    assert state.seconds > 0
    assert state.version == code_version()
    assert state.hash.startswith(name[-8:])
    for checkpoint in ("best_miou", "last", "best_loss"):
        scores = json.loads((folder.run(name) / f"evaluation/val-{checkpoint}/scores.json").read_text())
        assert (scores["checkpoint"], scores["protocol"]["images"]) == (checkpoint, 2)
        assert 0 < scores["loss"] < 5
        assert 0 <= scores["miou"] <= 1
        assert (folder.run(name) / f"evaluation/val-{checkpoint}/images.csv").is_file()
    stamp = folder.state(name).stat().st_mtime_ns
    assert work(folder.path, name) == read_state(folder.state(name))
    assert work_through(folder.path, [name]) == 0
    assert folder.state(name).stat().st_mtime_ns == stamp, "a finished run is left as it is"


KILLED = """
import os, signal, sys
from pathlib import Path
from terrazzo.commands import sweep_work
from terrazzo.engine import state
import terrazzo.commands.train as training
training.report_run = lambda folder, *args, **options: (folder / "report.html").write_text("")
count, steps = state.TrainState.count, {steps}
def dies(self, *args):
    count(self, *args)
    if self.step == steps:
        os.kill(os.getpid(), signal.{signal})
state.TrainState.count = dies
sys.exit(sweep_work.work_through(Path("sweep"), sys.argv[1:]))
"""


def worker_that_gets(signal: str, name: str, *, at: int) -> int:
    program = KILLED.format(signal=signal, steps=at)
    done = subprocess.run([sys.executable, "-c", program, name], capture_output=True, text=True, check=False)
    print(done.stderr)
    return done.returncode


def weights(run: Path) -> str:
    return hashlib.sha256((run / "checkpoints/last/model.safetensors").read_bytes()).hexdigest()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
@pytest.mark.usefixtures("no_report")
def test_a_killed_and_a_stopped_run_go_on_to_the_same_bits() -> None:
    folder, (name,) = published(FEW, length={"steps": 6})
    assert worker_that_gets("SIGKILL", name, at=3) == -signal.SIGKILL
    state = read_state(folder.state(name))
    assert (state.status, state.attempts, state.began) == ("running", 1, 0), "nobody could say how it ended"
    assert worker_that_gets("SIGTERM", name, at=5) == REQUEUE
    state = read_state(folder.state(name))
    assert (state.status, state.attempts, state.deaths, state.began, state.step) == ("stopped", 2, 0, 2, 5)
    assert work_through(folder.path, [name]) == 0
    state = read_state(folder.state(name))
    assert (state.status, state.attempts, state.began, state.step) == ("finished", 3, 5, 6)
    whole = load_config(folder.recipe(name)).model_copy(update={"out": Path("whole")})
    train(whole)
    assert weights(folder.run(name)) == weights(Path("whole"))
    lines = (folder.run(name) / "metrics.jsonl").read_text().splitlines()
    assert len({json.loads(line)["step"] for line in lines}) == len(lines)


@pytest.mark.usefixtures("no_report")
def test_the_third_death_without_a_step_is_the_last() -> None:
    folder, (name,) = published(FEW)
    for deaths in (0, 1, 2):
        running = RunState(name=name, hash="", status="running", attempts=deaths + 1, deaths=deaths)
        running.write(folder.states)
        if deaths < 2:
            assert worker._started(running, load_config(folder.recipe(name)), 1).deaths == deaths + 1
    assert work_through(folder.path, [name]) == 1
    state = read_state(folder.state(name))
    assert (state.status, state.deaths, state.attempts) == ("failed", 3, 3)
    assert str(state.reason).startswith("died 3 times without a step")
    assert work_through(folder.path, [name]) == 1, "and it stays so"
    assert not folder.run(name).exists()


@pytest.mark.usefixtures("no_report")
def test_a_death_after_a_step_does_not_count() -> None:
    folder, (name,) = published(FEW)
    work(folder.path, name)
    (folder.run(name) / "report.html").unlink()
    RunState(name=name, hash="", status="running", attempts=9, deaths=2, began=2).write(folder.states)
    assert work(folder.path, name).status == "finished"


def test_missing_data_is_a_failure_that_is_tried_again_so_often() -> None:
    folder, names = published({"seeds": [0, 1], "retries": 1})
    Path("data").rename("away")
    assert work_through(folder.path, names) == REQUEUE, "after a failure the next run gets a fresh process"
    state = read_state(folder.state(names[0]))
    assert (state.status, state.failures, state.attempts) == ("failed", 1, 1)
    assert "data.root=data is no folder" in str(state.reason)
    assert work_through(folder.path, names[:1]) == 1
    assert work_through(folder.path, names[:1]) == 1
    assert read_state(folder.state(names[0])).attempts == 2, "one retry"


def test_a_network_that_can_never_be_built_is_refused() -> None:
    model = {"kind": "smp", "arch": "unetplusplus", "encoder": "mit_b0", "weights": "none"}
    folder, (name,) = published(FEW, model=model)
    assert work_through(folder.path, [name]) == 1
    state = read_state(folder.state(name))
    assert (state.status, state.failures) == ("refused", 0)
    assert "unetplusplus cannot use the encoder mit_b0" in str(state.reason)
    assert work(folder.path, name).attempts == 1, "it is not tried again"


def test_weights_that_are_missing_are_a_failure() -> None:
    folder, (name,) = published(FEW, init={"from": "nowhere.pth"})
    assert work(folder.path, name).status == "failed"


def test_any_other_error_ends_in_the_state_with_its_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(config: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(worker, "train", breaks)
    folder, (name,) = published(FEW)
    state = work(folder.path, name)
    assert state.status == "failed"
    assert state.reason == "RuntimeError: CUDA error: an illegal memory access was encountered"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.usefixtures("no_report")
def test_a_full_disk_is_a_sentence_and_loses_nothing() -> None:
    folder, (name,) = published(FEW, length={"steps": 8}, model={"kind": "unet", "width": 32, "depth": 2})
    runs = folder.runs
    runs.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", str(runs)], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        assert work_through(folder.path, [name]) == 1
        state = read_state(folder.state(name))
        assert state.status == "stopped"
        assert "no space is left on the disk" in str(state.reason)
        subprocess.run(["mount", "-o", "remount,size=64m", str(runs)], check=True)
        assert work_through(folder.path, [name]) == 0
    finally:
        subprocess.run(["umount", str(runs)], check=True)


def test_nobody_else_works_on_a_run_and_unknown_runs_are_named() -> None:
    folder, (name,) = published(FEW)
    with FileLock(folder.lock(name)), pytest.raises(InputError, match="another process works on seed=0"):
        work(folder.path, name)
    assert read_state(folder.state(name)).attempts == 0
    with pytest.raises(InputError, match="has no run nobody"):
        work(folder.path, "nobody")


def test_a_damaged_state_is_a_sentence_that_says_how_to_go_on() -> None:
    folder, (name,) = published(FEW)
    (folder.states / ".1234.half.json").write_text("{")  # one that is being written
    assert list(read_states(folder.states)) == [name]
    folder.state(name).write_text('{"name": "a"')
    with pytest.raises(InputError, match=rf"{name}\.json is damaged .*Delete it and type the same command"):
        read_states(folder.states)


def test_a_run_has_as_many_threads_as_it_was_given_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, (name,) = published(FEW, threads=None)
    before = torch.get_num_threads()
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {4, 5}, raising=False)
    assert set_threads(load_config(folder.recipe(name)), None) == 2
    torch.set_num_threads(before)


@pytest.mark.usefixtures("no_report")
def test_a_run_that_is_at_work_says_so_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.02)
    seen: list[RunState] = []
    folder, (name,) = published(FEW)

    def slow(cfg: object) -> object:
        time.sleep(0.5)
        seen.append(read_state(folder.state(name)))
        return train(cfg)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "train", slow)
    assert work(folder.path, name).status == "finished"
    assert seen[0].status == "running"
    assert seen[0].seconds > 0.1
    assert f"process {os.getpid()}" in str(seen[0].where)
