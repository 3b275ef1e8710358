"""On a real SLURM of two nodes: whatever happens to jobs, every count ends exactly, and none is submitted twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from terrazzo.base import InputError
from terrazzo.commands.sweep_slurm import cancel_all, seen, submit_runs
from terrazzo.launch.slurm import Slurm
from terrazzo.launch.slurm_jobs import Jobs, Ledger, look, read_ledger
from terrazzo.launch.state import RunState
from terrazzo.launch.task import Task

COUNTING = Path(__file__).with_name("counting.py")
LAUNCH = Slurm(time_minutes=5, signal_seconds=60)

pytestmark = pytest.mark.usefixtures("cluster")


class Counts:
    """A sweep whose runs count."""

    def __init__(self, folder: Path):
        self.folder = folder

    def task(self, name: str, end: int, *after: str) -> Task:
        command = (sys.executable, str(COUNTING), str(self.folder / f"{name}.count"), str(end), "--work", name)
        return Task(name, command, self.folder / "logs" / f"{name}.log", after)

    def submit(self, *tasks: Task, cfg: Slurm = LAUNCH) -> tuple[set[str], set[str]]:
        """Names of the tasks submitted, and of the runs in the queue already."""
        by_name = {task.name: task for task in tasks}

        def tasks_of(runs: Sequence[str]) -> list[Task]:
            return [by_name[name] for name in runs]

        done = submit_runs(self.folder, cfg, list(by_name), tasks_of)
        return set(done.new), set(done.busy)

    def count(self, name: str) -> int:
        path = self.folder / f"{name}.count"
        return int(path.read_text() or 0) if path.exists() else 0

    def starts(self, name: str) -> list[list[str]]:
        """Of every process started for it: process id, the count it began with, ENVIRONMENT of counting.py."""
        path = self.folder / f"{name}.starts"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def log(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text()

    def wait(self, over: Callable[[Jobs], bool], *, seconds: float = 60) -> Jobs:
        """Until the jobs are as they should be. A job that is queued again is let start 2 s later: SLURM waits for what
        an earlier start was given to expire, and earlier than in the next second it would refuse the start."""
        end = time.monotonic() + seconds
        queued_again: dict[str, float] = {}
        while not over(jobs := look(self.folder)):
            assert time.monotonic() < end, (jobs, [path.read_text() for path in self.folder.glob("logs/*")])
            for job in jobs.by_run.values():
                since = queued_again.setdefault(job.id, time.monotonic()) if job.reason == "BeginTime" else None
                if since is None:
                    queued_again.pop(job.id, None)
                elif time.monotonic() > since + 2:
                    subprocess.run(["scontrol", "update", f"JobId={job.id}", "StartTime=now"], check=False)
            time.sleep(0.3)
        return jobs

    def wait_for_start(self, name: str, number: int = 1) -> Jobs:
        return self.wait(lambda jobs: len(self.starts(name)) >= number)

    def wait_for_end(self) -> Jobs:
        return self.wait(lambda jobs: not jobs.busy)


@pytest.fixture
def counts(tmp_path: Path) -> Counts:
    return Counts(tmp_path / "a sweep")  # SLURM reads folders with a space in #SBATCH lines, if told well


def test_jobs_run_in_order_and_a_signal_makes_one_go_on_later(counts: Counts) -> None:
    tasks = [
        *(counts.task("a", 60), counts.task("b", 10), counts.task("of_a", 4, "a"), counts.task("of_b", 4, "b")),
        counts.task("last", 2, "of_a", "of_b"),
    ]
    assert counts.submit(*tasks) == ({task.name for task in tasks}, set())
    assert counts.submit(*tasks) == (set(), {task.name for task in tasks}), "submitted twice"
    jobs = counts.wait_for_start("a")
    subprocess.run(["scancel", "--signal=USR1", jobs.by_run["a"].id], check=True)
    counts.wait_for_end()
    assert [counts.count(name) for name in ("a", "b", "of_a", "of_b", "last")] == [60, 10, 4, 4, 2]
    assert [len(counts.starts(task.name)) for task in tasks] == [2, 1, 1, 1, 1]
    assert 0 < int(counts.starts("a")[1][1]) < 60, "it did not go on from what it had saved"
    assert "told to stop (status 75)" in counts.log("a")
    assert all(end.state == "COMPLETED" for end in look(counts.folder).by_run.values())


def test_a_job_that_makes_room_for_a_more_important_one_goes_on_later(counts: Counts) -> None:
    counts.submit(counts.task("a", 60), counts.task("b", 60))
    counts.wait(lambda jobs: bool(counts.starts("a") and counts.starts("b")))
    subprocess.run(["srun", "--partition=high", "--nodes=2", "true"], check=True, capture_output=True)
    counts.wait_for_end()
    assert [counts.count("a"), counts.count("b")] == [60, 60]
    assert [len(counts.starts("a")), len(counts.starts("b"))] == [2, 2]


def test_a_killed_job_goes_on_later_but_not_for_ever(counts: Counts) -> None:
    counts.submit(counts.task("a", 200))
    for number in (1, 2, 3):
        counts.wait_for_start("a", number)
        os.kill(int(counts.starts("a")[-1][0]), signal.SIGKILL)
    (job,) = counts.wait_for_end().by_run.values()
    assert job.state == "FAILED"
    assert len(counts.starts("a")) == 3
    assert counts.log("a").count("ended by a signal (status 137)") == 2
    assert "ended by a signal 3 times soon after its start (status 137); not queued again" in counts.log("a")
    said = seen(counts.folder, {"a": RunState(name="a", hash="0", status="running", attempts=3)})["a"]
    assert (said.status, said.reason) == (
        "failed",
        f"job {job.id} ended (FAILED) before the run could say why: see its log",
    )


def test_cancelled_in_the_queue_or_on_a_node_it_is_submitted_again_when_asked(counts: Counts) -> None:
    waiting = [counts.task(name, 10) for name in ("c", "d")]
    assert counts.submit(counts.task("a", 2000), counts.task("b", 2000), *waiting, counts.task("of_b", 2, "b"))[0]
    jobs = counts.wait(lambda jobs: bool(counts.starts("a") and counts.starts("b"))).by_run
    states = {name: RunState(name=name, hash="0", attempts=int(name in "ab")) for name in ("a", "b", "c", "d", "of_b")}
    assert seen(counts.folder, states)["c"].status == "queued"
    subprocess.run(["scancel", jobs["b"].id, jobs["c"].id], check=True)
    counts.wait(lambda jobs: not {"b", "c", "of_b"} & jobs.busy)
    said = seen(counts.folder, states)
    assert said["b"].reason == f"job {jobs['b'].id} was cancelled; `terrazzo sweep` submits it again"
    assert said["c"].reason == f"job {jobs['c'].id} was cancelled before it began; `terrazzo sweep` submits it again"
    assert "what it comes after did not end well" in str(said["of_b"].reason)
    assert {said[name].status for name in ("b", "c", "of_b")} == {"stopped"}
    counts.wait(lambda jobs: 0 < counts.count("b") < 2000)  # it saved before it left

    assert counts.submit(*waiting, counts.task("of_b", 2, "b"))[0] >= {"c", "of_b"}
    assert "a" in cancel_all(counts.folder)
    counts.wait_for_end()
    assert cancel_all(counts.folder) == []


def test_one_run_on_two_nodes(counts: Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "7")  # as inside another job: not the new one's
    counts.submit(counts.task("a", 5), cfg=Slurm(nodes=2, cpus_per_task=1, master_address="127.0.0.1"))
    counts.wait_for_end()
    assert sorted(start[2:] for start in counts.starts("a")) == [[rank, "2", "127.0.0.1", "1"] for rank in ("0", "1")]


def test_a_crash_around_sbatch_submits_nothing_twice(counts: Counts) -> None:
    task = counts.task("a", 30)
    counts.submit(task)
    ledger = read_ledger(counts.folder)
    (known,) = ledger.submissions
    lost = known.model_copy(update={"number": None})  # died before it could write the number down
    never = lost.model_copy(update={"name": "never-submitted"})  # died before it called sbatch
    Ledger(submissions=(lost, never)).write(counts.folder)
    assert counts.submit(task) == (set(), {"a"})
    assert read_ledger(counts.folder) == ledger
    cancel_all(counts.folder)


def test_the_cluster_refuses_in_its_own_words(counts: Counts) -> None:
    task = counts.task("a", 5)
    with pytest.raises(
        InputError,
        match=r"sbatch says: .*invalid partition.* \(launch.partition=gpu; partitions of this cluster: "
        r"main, high; the script: .*\.sh\)",
    ):
        counts.submit(task, cfg=Slurm(partition="gpu"))
    with pytest.raises(InputError, match=r"sbatch says: .*Invalid feature specification \(launch.constraint=a100;"):
        counts.submit(task, cfg=Slurm(constraint="a100"))
    assert read_ledger(counts.folder) == Ledger(), "a refused job was written down"
    setup = ("export FROM_SETUP=1", "module load no-such-module")
    counts.submit(task, cfg=Slurm(setup=setup))
    assert counts.wait_for_end().by_run["a"].state == "FAILED"
    assert "this line of launch.setup failed: module load no-such-module" in counts.log("a")
    assert not counts.starts("a")
