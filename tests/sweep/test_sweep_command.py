"""`terrazzo sweep`: what it starts and what it leaves alone, what it says, and that stopping it loses nothing."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console
from toy_sweeps import sweep_of, write_data, write_recipe
from typer.testing import CliRunner

import terrazzo
from terrazzo.base import InputError
from terrazzo.cli import app
from terrazzo.commands.sweep import Prepared, cancel, costs, prepare, run_sweep, status
from terrazzo.commands.sweep_tasks import STUCK, Restarts, runs_of, tasks_of, worker_command
from terrazzo.commands.sweep_work import code_version
from terrazzo.config import load_config
from terrazzo.engine.state import file_hash
from terrazzo.launch.state import RunState, read_states
from terrazzo.launch.task import REQUEUE
from terrazzo.sweep.folder import Folder
from terrazzo.sweep.plan import Sweep, plan
from terrazzo.terminal_sweep import SweepScreen, counted, states_table


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)


def kept(sweep: Sweep, **changes: dict[str, Any]) -> Folder:
    """The folder of a sweep whose runs, by the start of their names, are in these states."""
    folder = Folder(sweep.folder)
    for run in plan(sweep):
        state = RunState(name=run.name, hash=run.hash, version=code_version(), attempts=1)
        for start, change in changes.items():
            if run.name.startswith(start):
                state = state.model_copy(update=change)
        state.write(folder.states)
        if state.status == "finished":
            folder.run(run.name).mkdir(parents=True)
    return folder


def statuses(prepared: Prepared) -> dict[str, str]:
    return {name[:-9]: state.status for name, state in prepared.states.items()}


def todo(prepared: Prepared) -> list[str]:
    return [name[:-9] for name in prepared.todo]


def quiet(states: Mapping[str, RunState]) -> None:
    pass


ABC = {"runs": {"a": {}, "b": {"seed": 1}, "c": {"seed": 2}}}
CHAIN = {"runs": {"a": {}, "b": {"after": "a", "seed": 1}, "c": {"after": "b", "seed": 2}, "d": {"seed": 3}}}


# --- one whole sweep, with real workers -------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows tells its processes in another way")
def test_a_sweep_that_is_stopped_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process works through two runs; Ctrl-C when the first one has a checkpoint; then the same again."""
    monkeypatch.setattr("terrazzo.commands.sweep.LOOK_SECONDS", 0.0)  # a quick machine is through in two seconds
    lengths = {"length": {"steps": 60}, "save_every": {"steps": 4}, "validate_every": {"steps": 60}}
    block = {"grid": {"optim.lr": [1e-3, 1e-4]}, "runs_per_job": 2, "checkpoints": ["last"]}
    sweep = sweep_of(tmp_path, block, **lengths)
    folder = Folder(sweep.folder)

    sent: list[int] = []

    def interrupt(states: Mapping[str, RunState]) -> None:
        if not sent and any((folder.run(name) / "checkpoints/last").exists() for name in states):
            sent.append(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    ended = run_sweep(prepare(sweep), show=interrupt, say=print)
    log = next((folder.path / "logs").glob("*.log"))
    assert ended.stopped_by == signal.SIGINT
    first, second = ended.states.values()
    assert (first.status, second.status) == ("stopped", "waiting"), log.read_text()
    assert 4 <= first.step < 60
    ended = run_sweep(prepare(sweep), show=quiet, say=print)
    assert ended.stopped_by is None
    assert ended.well, log.read_text()
    assert [state.attempts for state in ended.states.values()] == [2, 1]
    assert log.read_text().count("going on with") == 1
    whole = load_config(folder.recipe(first.name)).model_copy(update={"out": tmp_path / "whole"})
    terrazzo.train(whole)
    weights = "checkpoints/last/model.safetensors"
    assert file_hash(tmp_path / "whole" / weights) == file_hash(folder.run(first.name) / weights)
    assert ended.results is not None
    rows = list(csv.DictReader(StringIO(ended.results.read_text())))
    assert {(row["run"], row["checkpoint"], row["status"]) for row in rows} == {
        (name, checkpoint, "finished") for name in ended.states for checkpoint in ("best_miou", "last", "best_loss")
    }
    assert {row["optim.lr"] for row in rows} == {"0.001", "0.0001"}
    nothing = run_sweep(prepare(sweep), show=quiet, say=print)
    assert [state.attempts for state in nothing.states.values()] == [2, 1], "what is finished was started"


def test_a_worker_that_cannot_begin_is_a_failure_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of(tmp_path, CHAIN)
    program = (sys.executable, "-S", "-c", "import sys; print('no module named torch'); sys.exit(1)")
    monkeypatch.setattr(
        "terrazzo.commands.sweep_tasks.worker_command", lambda sweep, names: (*program, "--work", names[0])
    )
    said: list[str] = []
    ended = run_sweep(prepare(sweep), show=quiet, say=said.append)
    assert {name[:-9]: state.status for name, state in ended.states.items()} == {
        "a": "failed",
        "d": "failed",
        "b": "waiting",
        "c": "waiting",
    }
    (reason,) = {state.reason for state in ended.states.values() if state.status == "failed"}
    assert "ended with status 1 before the run began; last line of its log: no module named torch" in str(reason)
    assert not ended.well
    assert all(state.failures == 2 for state in ended.states.values() if state.status == "failed"), "one retry"
    assert (todo(prepare(sweep)), todo(prepare(sweep, retry=True))) == ([], ["a", "d", "b", "c"])


# --- what is started, and what is not ---------------------------------------------------------------------------------


def test_only_what_is_not_over_is_started(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ABC)
    assert todo(prepare(sweep)) == ["a", "b", "c"]
    kept(sweep, a={"status": "finished"}, b={"status": "stopped"}, c={"status": "failed", "failures": 2, "reason": "x"})
    prepared = prepare(sweep)
    assert (todo(prepared), statuses(prepared)["c"], prepared.remarks) == (["b"], "failed", ())
    again = prepare(sweep, retry=True)
    assert todo(again) == ["b", "c"]
    assert next(state.failures for name, state in again.states.items() if name.startswith("c")) == 0
    kept_failed_once = sweep_of(tmp_path, {**ABC, "retries": 2})
    assert todo(prepare(kept_failed_once)) == ["b", "c"], "a third try is asked for"


def test_what_comes_after_a_failure_waits_and_says_for_whom(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, CHAIN)
    kept(sweep, a={"status": "failed", "failures": 2}, b={"status": "waiting"}, c={"status": "waiting"})
    prepared = prepare(sweep)
    assert todo(prepared) == ["d"]
    reasons = {name[:-9]: reason for name, reason in prepared.blocked.items()}
    assert reasons["b"].startswith("comes after a-")
    assert reasons["b"].endswith("which is failed")
    assert reasons["c"].endswith("which is not started either")


def test_changed_recipes_and_changed_code_are_noticed(tmp_path: Path) -> None:
    folder = kept(sweep_of(tmp_path, ABC), a={"status": "finished"}, c={"version": "0.0.1 abc"})
    assert prepare(sweep_of(tmp_path, ABC)).remarks == (
        f"code: 1 of these runs were last worked on by terrazzo 0.0.1 abc; this is {code_version()}",
    )
    prepared = prepare(sweep_of(tmp_path, {"runs": {"a": {"optim.lr": 0.5}, "b": {"seed": 1}}}))
    assert todo(prepared) == ["a", "b"]
    changed, gone = prepared.remarks
    assert changed.startswith("recipe: a-")
    assert "has become a-" in changed
    assert gone.startswith("plan: c-")
    assert "no longer in the plan" in gone
    (folder.run(next(name for name in read_states(folder.states) if name.startswith("a")))).rmdir()
    (remark,) = (text for text in prepare(sweep_of(tmp_path, ABC)).remarks if text.startswith("a-"))
    assert remark.endswith("has finished, but its folder is gone: it is trained again")


def test_a_thousand_runs_want_to_be_meant(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, {"grid": {"batch": [2, 4]}, "seeds": [*range(501)]})
    with pytest.raises(InputError, match="this sweep has 1002 runs; add --yes"):
        prepare(sweep)
    assert len(prepare(sweep, yes=True).runs) == 1002
    axes = {f"data.{key}": [*range(100)] for key in ("limit", "workers", "split_seed", "val_fraction")}
    with pytest.raises(InputError, match="this sweep has 100000000 runs"):
        prepare(sweep_of(tmp_path, {"grid": axes}))


def test_two_sweeps_in_one_folder(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ABC)
    sweep.folder.mkdir()
    with (
        FileLock(sweep.folder / ".sweep.lock"),
        pytest.raises(InputError, match=r"another `terrazzo sweep` works in this folder; .* give another out="),
    ):
        run_sweep(prepare(sweep), show=quiet, say=print)
    assert not (sweep.folder / "sweep.yaml").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, {"seeds": [*range(30)]})
    sweep.folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(sweep.folder)], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        with pytest.raises(InputError, match=r"no space is left on its disk\. Nothing is lost"):
            run_sweep(prepare(sweep), show=quiet, say=print)
        assert all(state.status == "waiting" for state in read_states(Folder(sweep.folder).states).values())
    finally:
        subprocess.run(["umount", str(sweep.folder)], check=True)


# --- tasks ------------------------------------------------------------------------------------------------------------


def chunks(sweep: Sweep, names: list[str] | None = None) -> list[tuple[list[str], list[str]]]:
    prepared = prepare(sweep)
    tasks = tasks_of(sweep, prepared.runs, prepared.states, prepared.todo)
    assert all(task.log.parent == sweep.folder / "logs" for task in tasks)
    return [([n[:-9] for n in runs_of(task)], [n[:-9] for n in task.after]) for task in tasks]


def test_runs_share_processes_but_never_with_what_they_wait_for(tmp_path: Path) -> None:
    assert chunks(sweep_of(tmp_path, CHAIN)) == [(["a"], []), (["d"], []), (["b"], ["a"]), (["c"], ["b"])]
    after = {"runs": {"first": {}, **{name: {"after": "first", "seed": k} for k, name in enumerate("vwxyz")}, "q": {}}}
    grouped = sweep_of(tmp_path, {**after, "runs_per_job": 3})
    assert chunks(grouped) == [(["first"], []), (["q"], []), (["v", "w", "x"], ["first"]), (["y", "z"], ["first"])]
    kept(grouped, first={"status": "finished"}, q={"status": "finished"})
    assert chunks(grouped) == [(["v", "w", "x"], []), (["y", "z"], [])]


def test_several_processes_of_a_run_are_started_by_torchrun(tmp_path: Path) -> None:
    alone = worker_command(sweep_of(tmp_path, ABC), ["a", "b"])
    assert alone == (sys.executable, "-m", "terrazzo", "sweep", str(tmp_path / "sweep"), "--work", "a", "--work", "b")
    together = worker_command(sweep_of(tmp_path, {**ABC, "launch": {"kind": "local", "processes": 2}}), ["a"])
    words = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "terrazzo", "sweep")
    assert together[1:8] == words


def test_a_task_is_started_again_while_its_runs_get_on(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, {"runs": {"a": {}}})
    folder = kept(sweep, a={"attempts": 0})
    prepared = prepare(sweep)
    (task,) = tasks_of(sweep, prepared.runs, prepared.states, prepared.todo)
    (state,) = prepared.states.values()
    restarts = Restarts(folder, [task], retries=1)

    def after(**changes: Any) -> bool:
        nonlocal state
        state = state.model_copy(update={"attempts": state.attempts + 1, **changes})
        state.write(folder.states)
        return restarts.again(task, REQUEUE)

    assert restarts.again(task, -signal.SIGTERM), "killed while it started"
    assert after(status="stopped", step=2)
    assert after(status="failed", failures=1), "one retry"
    assert not after(status="failed", failures=2)
    assert not after(status="stopped", reason="no space is left on the disk"), "a full disk stays full"
    for _ in range(STUCK + 1):
        steady = after(status="stopped", reason=None)
    assert not steady, "stopped again and again without one more step"
    assert after(status="stopped", step=9)
    assert not after(status="finished")


# --- what is said -----------------------------------------------------------------------------------------------------


def test_the_dry_run_tells_time_and_disk_and_starts_nothing(tmp_path: Path) -> None:
    block = {"grid": {"model.width": [4, 8], "optim.lr": [1e-3, 1e-4], "step.accumulate": [1, 3]}}
    path = write_recipe(tmp_path / "r.yaml", block, out=str(tmp_path / "sweep"))
    shown = CliRunner().invoke(app, ["sweep", str(path), "--dry-run"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "8 runs: 4 refused, 4 waiting" in shown.stdout
    assert "step.accumulate=3 does not divide batch=2" in shown.stdout
    assert "to train: at most" in shown.stdout
    assert not (tmp_path / "sweep").exists()


def test_estimates_are_of_a_short_run_scaled_to_the_length(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, {"grid": {"length.steps": [10, 1000], "model.width": [4, 16]}})
    found = list(costs(prepare(sweep)).values())
    assert [cost.steps for cost in found] == [10, 10, 1000, 1000]
    assert all(cost.seconds is not None and cost.bytes is not None for cost in found)
    assert 90 < found[2].seconds / found[0].seconds < 110
    assert found[1].bytes > 4 * found[0].bytes
    narrow = next(run.name for run in plan(sweep) if run.varied == {"length": "1000", "width": "4"})
    kept(sweep, **{narrow: {"status": "finished", "step": 1000, "seconds": 5000.0}})
    (short, *_) = costs(prepare(sweep)).values()
    assert short.seconds == pytest.approx(50), "a finished run of the same shape says more"
    Path("data").rename("away")
    (missing,) = {cost.why_not for cost in costs(prepare(sweep)).values()}
    assert "data.root=data is no folder" in missing


def test_states_are_shown_whatever_the_clocks_say() -> None:
    states = {
        "a": RunState(name="a", hash="", status="running", attempts=1, changed=4e9, where="node-7"),
        "b": RunState(name="b", hash="", status="failed", reason="the reason", attempts=2, seconds=4000),
        "c": RunState(name="c", hash=""),
    }
    console = Console(width=120, record=True, file=StringIO())
    console.print(states_table(states, limit=2))
    text = console.export_text()
    assert "0 s ago" in text
    assert "the reason" in text
    assert "3 runs: 1 waiting, 1 failed, 1 running (1 not shown)" in text
    assert text.index("node-7") < text.index("the reason"), "who works comes first"
    assert counted({}) == "0 runs: none"


def test_without_a_terminal_every_change_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    before = {"a": RunState(name="a", hash="", status="finished"), "b": RunState(name="b", hash="")}
    with SweepScreen(before) as screen:
        screen(before)
        screen({**before, "b": RunState(name="b", hash="", status="failed", step=3, reason="why")})
    assert capsys.readouterr().err == "[2/2] b failed, step 3: why\n"


def test_status_and_cancel_of_what_does_not_run(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, ABC)
    kept(sweep, a={"status": "finished"})
    assert len(status(sweep.folder, sweep.block.launch)) == 3
    assert "nobody works on" in cancel(sweep.folder, sweep.block.launch)
    with FileLock(sweep.folder / ".sweep.lock"):
        assert cancel(sweep.folder, sweep.block.launch).startswith("told: the runs of")
    assert (sweep.folder / ".stop").exists()
    (sweep.folder / "sweep.yaml").write_text(sweep.text())
    shown = CliRunner().invoke(app, ["sweep", str(sweep.folder), "--status"], catch_exceptions=False)
    assert "3 runs: 1 finished, 2 waiting" in shown.stdout


def test_train_and_config_say_that_a_recipe_is_a_sweep(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml", ABC)
    shown = CliRunner().invoke(app, ["config", str(path)], catch_exceptions=False)
    assert "sweep" not in shown.stdout
    assert "the base of a sweep of 3 runs" in shown.stderr


def test_wrong_input_ends_with_a_sentence_and_status_2(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml", ABC)
    done = subprocess.run(
        [sys.executable, "-m", "terrazzo", "sweep", str(path), "sweep.grid.optim.lrr=[1]"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: sweep.grid, lrr=1: optim.lrr: there is no such key (did you mean 'lr'?)")
    assert done.stderr.count("\n") == 1
