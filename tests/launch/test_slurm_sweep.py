"""`terrazzo sweep` on a real SLURM: the same bits as without one, whatever happens to the job; one run on two nodes."""

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import terrazzo
from sweep.toy_sweeps import sweep_of, write_data
from terrazzo.commands.sweep import prepare, run_sweep, status
from terrazzo.config import load_config
from terrazzo.engine.state import file_hash
from terrazzo.launch.slurm_jobs import look
from terrazzo.launch.state import RunState
from terrazzo.sweep.plan import Sweep

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

LAUNCH = {"kind": "slurm", "time_minutes": 10}


def submit(sweep: Sweep) -> int | None:
    return run_sweep(prepare(sweep), show=lambda states: None, say=lambda words: None).submitted


def states_of(sweep: Sweep) -> Mapping[str, RunState]:
    return status(sweep.folder, sweep.block.launch)


def wait_for_end(sweep: Sweep) -> Mapping[str, RunState]:
    end = time.monotonic() + 300
    while look(sweep.folder).busy:
        logs = [path.read_text() for path in (sweep.folder / "logs").glob("*.log")]
        assert time.monotonic() < end, (states_of(sweep), logs)
        time.sleep(0.5)
    return states_of(sweep)


def bits(run: Path) -> dict[str, Any]:
    weights = {name: file_hash(run / "checkpoints" / name / "model.safetensors") for name in ("last", "best_miou")}
    return {**weights, "metrics": (run / "metrics.jsonl").read_text()}


def test_a_run_told_to_stop_goes_on_by_itself_and_the_one_after_it_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    lengths = {"length": {"steps": 200}, "save_every": {"steps": 10}, "validate_every": {"steps": 50}}
    runs = {"first": {}, "then": {"after": "first", "init": {"parts": ["encoder"]}, "length.steps": 20}}
    sweep = sweep_of(tmp_path, {"runs": runs, "launch": LAUNCH}, **lengths)
    assert submit(sweep) == 2
    assert {state.status for state in states_of(sweep).values()} == {"queued"}
    assert submit(sweep) == 0, "submitted twice"
    (first,) = (name for name in states_of(sweep) if name.startswith("first"))
    while not (sweep.folder / "runs" / first / "checkpoints" / "last").exists():
        assert look(sweep.folder).by_run[first].in_queue, (sweep.folder / "logs" / f"{first}.log").read_text()
        time.sleep(0.1)
    subprocess.run(["scancel", "--signal=USR1", look(sweep.folder).by_run[first].id], check=True)
    states = wait_for_end(sweep)
    logs = {name: (sweep.folder / "logs" / f"{name}.log").read_text() for name in states}
    assert {state.status for state in states.values()} == {"finished"}, logs
    assert states[first].attempts >= 2, logs[first]
    assert "queues again" in logs[first]
    whole = load_config(sweep.folder / "recipes" / f"{first}.yaml").model_copy(update={"out": tmp_path / "whole"})
    assert bits(terrazzo.train(whole).folder) == bits(sweep.folder / "runs" / first)
    assert not submit(sweep), "a run that is over was submitted"


def test_one_run_on_two_nodes_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    launch = {**LAUNCH, "nodes": 2, "master_address": "127.0.0.1"}
    sweep = sweep_of(tmp_path, {"seeds": [3], "launch": launch})
    assert submit(sweep) == 1
    (state,) = wait_for_end(sweep).values()
    log = (sweep.folder / "logs" / f"{state.name}.log").read_text()
    assert (state.status, state.step, state.attempts) == ("finished", 4, 1), log
