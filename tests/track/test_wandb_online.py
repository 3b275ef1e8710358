"""W&B online, against a small server of its own kind: what the server has is the truth that a resume goes by."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import terrazzo
from terrazzo.track.jsonl import read_lines
from track.fake_wandb import FakeWandb, fake_wandb
from track.tracked_runs import KEY, Killed, config, history, kill_in, stop_in, wandb_lives, write_data

TRACKER = {"kind": "wandb", "project": "p", "name": "{model.kind}", "mode": "online", "images": 0, "system": False}
RUN = Path("runs/run")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("terrazzo.commands.train.report_run", lambda *args, **options: None)
    monkeypatch.setattr("terrazzo.commands.tracking.STOP_SECONDS", 60.0)
    write_data(tmp_path)
    import wandb

    wandb.teardown()  # it knows one server a process, and a test before may have made it known another
    with fake_wandb() as made:
        monkeypatch.setenv("WANDB_BASE_URL", made.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield made
        wandb.teardown()


def numbers(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "step" and value is not None} for line in lines]


def test_a_resumed_run_goes_on_on_the_server_and_has_each_line_once(
    server: FakeWandb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        kill_in(patch, 9)
        with pytest.raises(Killed):
            terrazzo.train(config(TRACKER))
    (run_id,) = server.history
    assert [line["_step"] for line in server.history[run_id]] == [2, 4, 5, 6, 8]
    del server.history[run_id][2:]  # as if the kill had come before W&B had sent them
    with monkeypatch.context() as patch:
        stop_in(patch, 6)
        assert terrazzo.train(config(TRACKER)).step == 12
    assert terrazzo.train(config(TRACKER)).finished
    lines = read_lines(RUN / "metrics.jsonl")
    assert [*server.history] == [run_id]
    assert [line["_step"] for line in server.history[run_id]] == [line["step"] for line in lines]
    for there, here in zip(server.history[run_id], numbers(lines), strict=True):
        assert {key: there.get(key) for key in here} == here
    assert server.exits == [1, 1, 0]
    said = [line for line in capsys.readouterr().err.splitlines() if "tracker" in line]
    assert said == [f"tracker wandb: {server.url}/me/p/runs/{run_id}"] * 3
    assert [path for path in RUN.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


def test_a_table_that_the_server_does_not_take_costs_nothing_else(
    server: FakeWandb, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B asks the server who it is before it makes a table's artifact, and raises if there is no answer."""
    server.knows_me = False
    assert terrazzo.train(config(TRACKER)).finished
    (lines,) = server.history.values()
    assert [line["_step"] for line in lines] == [line["step"] for line in read_lines(RUN / "metrics.jsonl")]
    assert "val/iou/no" in lines[-1]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tracker wandb")]
    assert len(said) == 2, said
    assert "the server does not answer (Failed to verify credentials" in said[1]
    assert server.exits == [0]


def test_a_server_that_hangs_in_the_middle_delays_neither_training_nor_exit(server: FakeWandb) -> None:
    """In a process of its own, whose end is measured too: W&B would wait for its server there for ever."""
    code = f"""
import sys, time
import pytest
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import terrazzo
from track.tracked_runs import config, in_step
with pytest.MonkeyPatch.context() as patch:
    patch.setattr("terrazzo.commands.train.report_run", lambda *args, **options: None)
    patch.setattr("terrazzo.track.wandb.FINISH_SECONDS", 2.0)
    in_step(patch, 6, lambda: print("now", flush=True) or input())
    terrazzo.train(config({TRACKER!r}))
print("trained", flush=True)
"""
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], env=own, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "now\n"
        until = time.monotonic() + 60
        while not server.others:  # about the first validation's table: nothing else is asked
            assert time.monotonic() < until
            time.sleep(0.05)
        server.hanging = True
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "trained\n"
        began = time.monotonic()
        _, errors = process.communicate(timeout=120)
        assert time.monotonic() - began < 30
    assert process.returncode == 0
    said = [line for line in errors.splitlines() if line.startswith("tracker wandb")]
    assert len(said) == 2, errors
    assert said[0].startswith(f"tracker wandb: {server.url}")
    assert "the server does not answer (not everything was taken in 2 s); `wandb sync " in said[1]
    (life,) = wandb_lives(RUN, "run-*")
    assert [row["_step"] for row in history(life)] == [line["step"] for line in read_lines(RUN / "metrics.jsonl")]
