"""Searches with real processes, a real journal and a trainer that only pretends to train."""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from search_folders import LR, make_search, pretended, records, started, trials_of, work

from terrazzo.base import InputError
from terrazzo.commands.sweep_search import check_search, search_tasks, search_worker
from terrazzo.launch.state import read_states
from terrazzo.launch.task import REQUEUE
from terrazzo.sweep.plan import load_sweep

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def study_of(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "search.journal"))
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))


def wait_for(what: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.05)


def processes_of(folder: Path, name: str) -> list[int]:
    """Who wrote a run's lines, in order."""
    lines = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return list(dict.fromkeys(json.loads(line)["process"] for line in lines))


@pytest.mark.parametrize("storage", [None, "sqlite:///{folder}/study.db"])
def test_several_processes_make_exactly_the_trials_there_should_be(tmp_path: Path, storage: str | None) -> None:
    folder = tmp_path / "found"
    make_search(folder, {"kind": "tpe", "trials": 7, "storage": storage and storage.format(folder=folder)})
    workers = [started(folder) for _ in range(3)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    found = records(folder)
    assert [record.number for record in found] == list(range(7))
    assert {record.status for record in found} == {"complete"}
    assert len({record.values["optim.lr"] for record in found}) == 7
    assert len({*(folder / "runs").iterdir()}) == 7
    study = trials_of(folder).do(lambda study: study)
    if study:
        assert [trial.value for trial in study.trials] == [record.value for record in found]
        assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
        assert study.user_attrs["objective"] == "val/miou"
        assert study.trials[3].user_attrs["runs"] == list(found[3].runs)
        assert [*study.trials[3].intermediate_values] == list(range(1, 9))
    assert {state.status for state in read_states(folder / "states").values()} == {"finished"}
    assert work(folder) == [], "a search that is over has nothing to do"


def test_the_trial_of_a_killed_process_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "killed", {"trials": 2})
    worker = started(folder, PRETEND_SECONDS="0.3")
    wait_for(lambda: any(record.runs for record in records(folder)))
    (name,) = records(folder)[0].runs
    metrics = folder / "runs" / name / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 2)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    said = work(folder)
    assert said[0] == "trial 0: nobody works on it any more; it goes on here"
    assert [(record.number, record.status) for record in records(folder)] == [(0, "complete"), (1, "complete")]
    assert len(processes_of(folder, name)) == 2, "the second process wrote the rest"
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == list(range(1, 9))
    assert [trial.state for trial in study_of(folder).trials] == [TrialState.COMPLETE] * 2


def test_a_process_that_is_told_to_stop_saves_and_the_next_one_goes_on(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "stopped", {"trials": 1})
    worker = started(folder, PRETEND_SECONDS="0.3")
    wait_for(lambda: any(path.read_text().count("\n") > 1 for path in folder.glob("runs/*/metrics.jsonl")))
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGTERM)
    worker.join()
    assert worker.exitcode == REQUEUE
    (state,) = read_states(folder / "states").values()
    assert (state.status, study_of(folder).trials[0].state) == ("stopped", TrialState.RUNNING)
    work(folder)
    assert records(folder)[0].status == "complete"
    assert len(processes_of(folder, state.name)) == 2


def test_a_process_killed_between_asking_and_writing_loses_no_trial(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "lost", {"trials": 3})
    work(make_search(tmp_path / "lost", {"trials": 1}))
    make_search(tmp_path / "lost", {"trials": 3})
    study_of(folder).ask()
    work(folder)
    assert [(record.number, record.status) for record in records(folder)] == [(n, "complete") for n in range(3)]
    whole = work(make_search(tmp_path / "whole", {"trials": 3}))
    assert len(whole) == 6
    assert [r.values for r in records(folder)] == [r.values for r in records(tmp_path / "whole")], "the same points"


def test_a_finished_run_whose_value_was_never_told_is_told_and_not_trained_again(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "untold", {"trials": 2})
    work(folder)
    lines = (folder / "search.journal").read_text().splitlines()
    told = next(n for n, line in enumerate(lines) if '"trial_id":1' in line and '"values":[' in line)
    (folder / "search.journal").write_text("".join(f"{line}\n" for line in lines[:told]))
    record = folder / "trials" / "00001.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "running", "value": None}))
    before = processes_of(folder, records(folder)[1].runs[0])
    assert work(folder)[0].startswith("trial 1: nobody works on it")
    assert records(folder)[1].status == "complete"
    assert study_of(folder).trials[1].state == TrialState.COMPLETE
    assert processes_of(folder, records(folder)[1].runs[0]) == before


def test_bad_trials_end_early_and_the_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETEND_SECONDS", "0.15")
    rungs = {"kind": "halving", "trials": 5, "factor": 2, "first_rung": {"epochs": 2}, "sampler": {"kind": "random"}}
    folder = make_search(tmp_path / "halved", {**rungs, "space": {"optim.lr": [1e-2, 1e-5, 1e-4, 1e-3, 1]}})
    for lr in (1e-2, 1e-5, 1e-4, 1e-3, 1):  # the best one first: the others are worse at every rung
        trials_of(folder).do(lambda study, lr=lr: study.enqueue_trial({"optim.lr": lr}))
    work(folder)
    found = records(folder)
    assert [record.status for record in found] == ["complete", "pruned", "pruned", "pruned", "pruned"]
    states = read_states(folder / "states")
    for record in found[1:]:
        assert record.reason is not None
        assert "was not among the best at epoch" in record.reason
        state = states[record.runs[0]]
        assert (state.status, state.reason) == ("pruned", record.reason)
        assert 2 <= state.step < 8
    assert [trial.state.name for trial in study_of(folder).trials] == ["COMPLETE"] + 4 * ["PRUNED"]
    assert work(folder) == []


def test_hyperband_prunes_by_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETEND_SECONDS", "0.1")
    folder = make_search(
        tmp_path / "band", {"kind": "hyperband", "trials": 6, "factor": 2, "first_rung": {"epochs": 1}}
    )
    work(folder)
    states = [record.status for record in records(folder)]
    assert len(states) == 6
    assert "pruned" in states
    assert "complete" in states


def test_a_failed_trial_says_why_and_is_tried_as_often_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETEND_FAIL", "1")
    folder = make_search(tmp_path / "failing", {"trials": 2}, retries=2)
    said = work(folder)
    assert said[1] == f"trial 0: failed: {records(folder)[0].runs[0]}: lr is odd"
    first = study_of(folder).trials[0]
    assert (first.state, first.user_attrs["reason"]) == (TrialState.FAIL, said[1].removeprefix("trial 0: failed: "))
    assert {state.attempts for state in read_states(folder / "states").values()} == {3}


def test_a_process_that_never_begins_does_not_begin_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETEND_SILENT", "1")
    folder = make_search(tmp_path / "silent", {"trials": 1})
    assert "its process ended 3 times with status 1 before it began" in work(folder)[1]
    (log,) = (folder / "logs").iterdir()
    assert log.read_text() == "no such library\n" * 3


def test_seeds_repeat_a_point_and_its_value_is_their_mean(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "seeds", {"trials": 2}, seeds=[0, 1, 5])
    work(folder)
    for record in records(folder):
        assert len(record.runs) == 3
        of_first = record.reports[8]
        assert record.value == pytest.approx(of_first + 0.001 * (0 + 1 + 5) / 3)
        assert record.sd == pytest.approx(0.001 * 7**0.5)
    assert study_of(folder).trials[0].user_attrs["sd"] == records(folder)[0].sd


def test_a_point_that_comes_again_is_not_trained_again(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "twins", {"trials": 4, "space": {"optim.lr": [0.01, 0.1]}})
    said = work(folder)
    assert sum("the same point as trial" in line for line in said) == 2
    assert len({*(folder / "runs").iterdir()}) == 2
    values = {record.values["optim.lr"]: record.value for record in records(folder)}
    assert all(record.value == values[record.values["optim.lr"]] for record in records(folder))
    states = read_states(folder / "states").values()
    assert sorted(state.status for state in states) == ["finished", "finished", "pruned", "pruned"]


@pytest.mark.parametrize("damage", ["torn", "glued", "noise", "gone"])
def test_a_damaged_journal_is_built_anew_and_nothing_is_lost(tmp_path: Path, damage: str) -> None:
    folder = make_search(tmp_path / "damaged", {"kind": "tpe", "trials": 4, "startup_trials": 2})
    work(folder)
    before = [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in study_of(folder).trials]
    journal = folder / "search.journal"
    text = journal.read_bytes()
    middle = text.index(b"\n", len(text) // 2)
    journal.write_bytes(
        {
            "torn": text + b'{"op_code":4,"wor',
            "glued": text[:middle] + text[middle + 1 :],
            "noise": text[:middle] + b"\n\x00\xff\x00\n" + text[middle + 1 :],
            "gone": b"",
        }[damage]
    )
    make_search(tmp_path / "damaged", {"kind": "tpe", "trials": 5, "startup_trials": 2})
    said = work(folder)
    if damage == "torn":
        assert "17 bytes of a last line that was never finished were cut off" in said[0]
    elif damage == "gone":
        assert said[0] == f"the study was built anew from 4 trials in {folder / 'trials'}"
    else:
        assert "cannot be read" in said[0]
        assert (folder / "search.journal.damaged-1").exists()
        assert said[1] == f"the study was built anew from 4 trials in {folder / 'trials'}"
    after = [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in study_of(folder).trials]
    assert after[:4] == before
    assert after[4][1] == TrialState.COMPLETE


def test_a_journal_that_breaks_while_processes_work_stops_none_of_them(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "breaking", {"trials": 6})
    workers = [started(folder, PRETEND_SECONDS="0.1") for _ in range(2)]
    wait_for(lambda: any(record.status == "complete" for record in records(folder)))
    with (folder / "search.journal").open("ab") as file:
        file.write(b"\x00 not a line \n")
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert [(r.number, r.status) for r in records(folder)] == [(n, "complete") for n in range(6)]
    assert [t.value for t in study_of(folder).trials] == [r.value for r in records(folder)]


def test_another_search_does_not_go_on_in_the_folder_and_a_longer_one_does(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "other", {"trials": 1})
    work(folder)
    for other in ({"space": {"optim.lr": {**LR, "high": 2}}}, {"direction": "min"}):
        make_search(folder, {"trials": 2, **other})
        with pytest.raises(InputError, match=r"holds another search; these differ: (space|maximize)"):
            search_worker(folder, train=pretended)
    make_search(folder, {"trials": 2, "kind": "tpe"})
    work(folder)
    assert len(records(folder)) == 2


def test_two_folders_of_one_name_share_a_database_without_sharing_trials(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    folders = [tmp_path / place / "same" for place in "ab"]
    for folder in folders:
        folder.parent.mkdir()
        make_search(folder, {"trials": 2, "storage": url})
        work(folder)
    names = [summary.study_name for summary in optuna.get_all_study_summaries(url)]
    assert sorted(names) == ["same", "same-2"]
    assert [len(records(folder)) for folder in folders] == [2, 2]


def test_a_database_that_cannot_be_had_is_a_sentence_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_PASSWORD", "hunter2")
    cases = {
        f"sqlite:///{tmp_path}/no/such/folder/x.db": "cannot be opened",
        "nosuch://host/db": "cannot be opened",
        "postgresql://me:$SEARCH_PASSWORD@127.0.0.1:1/db": "cannot be opened",
    }
    for url, words in cases.items():
        folder = make_search(tmp_path / "database", {"storage": url})
        with pytest.raises(InputError, match=words) as caught:
            search_worker(folder, train=pretended)
        assert "hunter2" not in str(caught.value)


def test_what_cannot_work_is_said_before_anything_starts(tmp_path: Path) -> None:
    for space, words in {
        "optim.lrr": "there is no such key",
        "optim.lr.deep": "has no keys",
        "nonsense": "there is no such key",
    }.items():
        folder = make_search(tmp_path / "never", {"space": {space: [1, 2]}})
        with pytest.raises(InputError, match=words):
            check_search(load_sweep(folder))
    folder = make_search(tmp_path / "never", {"kind": "halving", "first_rung": {"epochs": 9}})
    with pytest.raises(InputError, match="runs end after 8 epochs"):
        check_search(load_sweep(folder))
    folder = make_search(tmp_path / "never", {"space": {"optim.lr": [0.1, -1]}})
    with pytest.raises(InputError, match=r"optim\.lr"):
        check_search(load_sweep(folder))


def test_the_tasks_of_a_search_are_its_processes(tmp_path: Path) -> None:
    tasks = search_tasks(tmp_path, 2)
    assert [task.name for task in tasks] == ["search-1", "search-2"]
    assert tasks[0].command[-4:] == ("sweep", str(tmp_path), "--search-work", "1")


def test_several_processes_for_one_run_of_a_search_are_refused_on_a_cluster(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "cluster", {}, launch={"kind": "slurm", "gpus_per_node": 4})
    with pytest.raises(InputError, match="give nodes=1 and tasks_per_node=1"):
        check_search(load_sweep(folder))


def test_without_optuna_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_search(tmp_path / "without", {})
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'terrazzo\[search\]'"):
        search_worker(folder, train=pretended)


def test_a_full_disk_is_a_sentence_and_the_trial_goes_on_when_there_is_room(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "full", {"trials": 1})

    def no_room(folder: Path, name: str) -> tuple[str, ...]:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with pytest.raises(InputError, match="no space is left on the disk"):
        search_worker(folder, train=no_room)
    work(folder)
    assert [record.status for record in records(folder)] == ["complete"]


def test_a_run_that_stops_for_want_of_room_stops_the_process_and_not_the_trial(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "room", {"trials": 1})

    def stops(folder: Path, name: str) -> tuple[str, ...]:
        path = folder / "states" / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "stopped", "reason": "no room"}))
        return (sys.executable, "-c", "raise SystemExit(75)")

    with pytest.raises(InputError, match="no room"):
        search_worker(folder, train=stops)
    assert [record.status for record in records(folder)] == ["running"]
    path = folder / "states" / f"{records(folder)[0].runs[0]}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "stopped", "reason": None}))
    work(folder)
    assert [record.status for record in records(folder)] == ["complete"]
