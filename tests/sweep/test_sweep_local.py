"""The launcher of this machine, with real processes that are no trainings: it knows nothing of recipes."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from terrazzo.base import InputError
from terrazzo.launch.local import Local, Seat, held_gpus, run_local, seats
from terrazzo.launch.task import REQUEUE, Task

NOTE = """
import json, os, sys, time
began = time.time()
time.sleep({seconds})
with open({path!r}, "a") as file:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    note = [{name!r}, began, time.time(), os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("OMP_NUM_THREADS"), cores]
    file.write(json.dumps(note) + chr(10))
print("said by", {name!r})
sys.exit({status})
"""

OBEDIENT = """
import pathlib, signal, sys, time
def told(number, frame):
    pathlib.Path({path!r}).open("a").write("told ")
    sys.exit(75)
signal.signal(signal.SIGTERM, told)
pathlib.Path({path!r}).open("a").write("began ")
time.sleep(60)
"""

DEAF = OBEDIENT.replace("sys.exit(75)", "pass").replace("time.sleep(60)", "[time.sleep(1) for _ in range(60)]")


def task(folder: Path, name: str, *after: str, status: int = 0, seconds: float = 0.0, code: str = NOTE) -> Task:
    program = code.format(path=str(folder / "notes"), name=name, status=status, seconds=seconds)
    return Task(name, (sys.executable, "-S", "-c", program), folder / "logs" / f"{name}.log", after)


def notes(folder: Path) -> list[list[object]]:
    return [json.loads(line) for line in (folder / "notes").read_text().splitlines()]


def never(task: Task, status: int) -> bool:
    return False


def quiet() -> bool:
    return False


def test_tasks_run_in_order_of_what_they_come_after(tmp_path: Path) -> None:
    tasks = [task(tmp_path, "c", "b", "a"), task(tmp_path, "b", "a"), task(tmp_path, "a"), task(tmp_path, "d", "gone")]
    outcomes, stopped = run_local(tasks, Local(at_once=1), [], again=never, tick=quiet)
    assert (outcomes, stopped) == (dict.fromkeys("cbad", "well"), None)
    names = [note[0] for note in notes(tmp_path)]
    assert names.index("a") < names.index("b") < names.index("c")
    assert (tmp_path / "logs/a.log").read_text() == "said by a\n"


def test_what_comes_after_a_failure_is_not_started(tmp_path: Path) -> None:
    tasks = [task(tmp_path, "a", status=1), task(tmp_path, "b", "a"), task(tmp_path, "c", "b"), task(tmp_path, "d")]
    outcomes, _ = run_local(tasks, Local(at_once=2), [], again=never, tick=quiet)
    assert outcomes == {"a": "badly", "b": "blocked", "c": "blocked", "d": "well"}
    assert {note[0] for note in notes(tmp_path)} == {"a", "d"}


def test_at_most_so_many_run_at_once_each_with_gpus_and_cores_of_its_own(tmp_path: Path) -> None:
    tasks = [task(tmp_path, name, seconds=0.3) for name in "abcd"]
    gpus = [f"made-up-{os.getpid()}-{k}" for k in range(4)]
    outcomes, _ = run_local(tasks, Local(at_once=2, processes=2), gpus, again=never, tick=quiet)
    assert set(outcomes.values()) == {"well"}
    found = sorted(notes(tmp_path), key=lambda note: note[1])
    for at in (0.5 * (note[1] + note[2]) for note in found):
        together = [note for note in found if note[1] <= at <= note[2]]
        assert 1 <= len(together) <= 2
        assert len({note[3] for note in together}) == len(together), "a GPU is shared"
        assert len({*",".join(note[3] for note in together).split(",")}) == 2 * len(together)
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1:
        assert not {*found[0][5]} & {*found[1][5]}, "cores are shared"


def test_an_unwell_task_is_started_again_as_often_as_it_is_asked_for(tmp_path: Path) -> None:
    asked: list[int] = []

    def again(task: Task, status: int) -> bool:
        asked.append(status)
        return len(asked) < 3

    outcomes, _ = run_local([task(tmp_path, "a", status=REQUEUE)], Local(), [], again=again, tick=quiet)
    assert (outcomes, asked, len(notes(tmp_path))) == ({"a": "badly"}, [REQUEUE] * 3, 3)


@pytest.mark.parametrize(("code", "signals"), [(OBEDIENT, 1), (DEAF, 2)], ids=["obedient", "deaf"])
def test_a_signal_is_passed_on_once_and_a_second_one_kills(tmp_path: Path, code: str, signals: int) -> None:
    tasks = [task(tmp_path, "a", code=code), task(tmp_path, "b", "a")]
    sent = threading.Event()

    def tick() -> bool:
        path = tmp_path / "notes"
        text = path.read_text() if path.exists() else ""
        if "began" in text and not sent.is_set():
            sent.set()
            signal.raise_signal(signal.SIGINT)
        elif signals == 2 and "told" in text:
            signal.raise_signal(signal.SIGINT)
        return False

    began, before = time.monotonic(), signal.getsignal(signal.SIGINT)
    outcomes, stopped = run_local(tasks, Local(), [], again=never, tick=tick)
    assert (outcomes, stopped) == ({"a": "left", "b": "left"}, signal.SIGINT)
    assert (tmp_path / "notes").read_text() == "began told ", "told once, not twice"
    assert time.monotonic() - began < 30
    assert signal.getsignal(signal.SIGINT) is before, "put back"


def test_the_caller_can_ask_to_stop(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    outcomes, stopped = run_local(
        [task(tmp_path, "a", code=OBEDIENT)],
        Local(),
        [],
        again=never,
        tick=lambda: path.exists() and bool(path.read_text()),
    )
    assert (outcomes, stopped, path.read_text()) == ({"a": "left"}, 0, "began told ")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_tasks_are_told_when_the_launcher_is_killed(tmp_path: Path) -> None:
    child = task(tmp_path, "a", code=OBEDIENT)
    if (launcher := os.fork()) == 0:  # a launcher that is killed without a word
        run_local([child], Local(), [], again=never, tick=quiet)
        os._exit(0)
    path = tmp_path / "notes"
    wait_for(lambda: path.exists() and path.read_text() == "began ")
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    wait_for(lambda: path.read_text() == "began told ")


def wait_for(holds: object) -> None:
    until = time.monotonic() + 60
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.05)


def test_seats_never_share_a_gpu() -> None:
    assert [seat.gpus for seat in seats(Local(), ["0", "1", "2"])] == [("0",), ("1",), ("2",)]
    assert [seat.gpus for seat in seats(Local(processes=2), ["0", "1", "2"])] == [("0", "1")]
    assert [seat.gpus for seat in seats(Local(at_once=3), [])] == [(), (), ()]
    assert len(seats(Local(), [])) == 1
    with pytest.raises(InputError, match=r"at_once=4 runs of processes=1 need 4 GPUs, and 3 can be had; .*at_once=3"):
        seats(Local(at_once=4), ["0", "1", "2"])
    assert Seat((0, 1, 2, 3), ()).environment(2)["CUDA_VISIBLE_DEVICES"] == ""


def test_two_sweeps_never_share_a_gpu() -> None:
    ours = [f"made-up-{os.getpid()}-{k}" for k in "xy"]
    with held_gpus(ours[:1]) as held:
        assert held == ours[:1]
        with held_gpus(ours) as rest:
            assert rest == ours[1:]
        with pytest.raises(InputError, match="are used by other sweeps"), held_gpus(ours[:1]):
            pass
    with held_gpus(ours) as held:
        assert held == ours
