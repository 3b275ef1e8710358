"""A tracker that fails, hangs or is not there: one sentence, and the training is the one without it."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import pytest

import terrazzo
from terrazzo.base import InputError
from terrazzo.engine.state import file_hash
from terrazzo.track.guarded import Guarded, first_line
from terrazzo.track.jsonl import read_lines
from terrazzo.track.tracker import End, Final, Validation
from track.tracked_runs import KEY, accumulated, config, history, stop_in, wandb_lives, write_data

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the weights of the tiny run are without trackers."""
    place = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("terrazzo.commands.train.report_run", lambda *args, **options: None)
        write_data(place)
        terrazzo.train(config())
    return file_hash(place / "runs/run/checkpoints/last/model.safetensors")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("terrazzo.commands.train.report_run", lambda *args, **options: None)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    write_data(tmp_path)
    yield
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.teardown()  # it knows one server a process


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    held: list[socket.socket] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)

        def accept() -> None:
            with contextlib.suppress(OSError):  # shut down
                while True:
                    held.append(server.accept()[0])

        thread = Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for each in held:
        each.close()


def sentences(capsys: pytest.CaptureFixture[str], kind: str) -> list[str]:
    """What was said of a tracker: the same on the terminal and in log.txt."""
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"tracker {kind}")]
    logged = [line[20:] for line in Path("runs/run/log.txt").read_text().splitlines() if " tracker " in line]
    assert [line for line in logged if line.startswith(f"tracker {kind}")] == said
    return said


def weights() -> str:
    return file_hash(Path("runs/run/checkpoints/last/model.safetensors"))


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_store_that_cannot_be_written_is_said_once(kind: str, plain: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/run").mkdir(parents=True)
    Path("runs/run", kind).write_text("not a folder")
    tracker = {"kind": kind} | ({"mode": "offline"} if kind == "wandb" else {})
    assert terrazzo.train(config(tracker)).finished
    (said,) = sentences(capsys, kind)
    assert re.match(rf"tracker {kind} is given up, training goes on without it: \w+: .+", said)
    assert weights() == plain


def in_own_process(act: str, *trackers: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Train the tiny run in a process of its own, and `act` in its step 9."""
    code = f"""
import os, pathlib, signal, sys, time
import psutil, pytest
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import terrazzo
from track.tracked_runs import config, in_step
def act():
    until = time.monotonic() + 60
    while not [*pathlib.Path("runs/run/wandb").glob("offline-run-*/files/*")]:
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(1)  # now W&B has been told of the first steps
    {act}
with pytest.MonkeyPatch.context() as patch:
    patch.setattr("terrazzo.commands.train.report_run", lambda *args, **options: None)
    in_step(patch, 9, act)
    terrazzo.train(config(*{trackers!r}))
"""
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # of this process's W&B
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=own, timeout=300)


def test_wandb_that_dies_in_the_middle_is_said_once(plain: str) -> None:
    kill = "[child.kill() for child in psutil.Process().children(recursive=True) if 'wandb' in child.name()]"
    done = in_own_process(kill, {"kind": "wandb", "mode": "offline"})
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("tracker wandb")]
    assert said.startswith("tracker wandb is given up, training goes on without it: ")
    assert said in Path("runs/run/log.txt").read_text()
    assert weights() == plain


def test_a_wandb_server_that_hangs_makes_the_run_an_offline_one(
    silent_server: int, plain: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent_server}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    assert terrazzo.train(config({"kind": "wandb", "mode": "online"})).finished
    (said,) = sentences(capsys, "wandb")
    assert said.startswith("tracker wandb: the server cannot be used (")
    assert re.search(r"and `wandb sync \S+/runs/run/wandb/offline-run-\S+` sends it$", said)
    run = Path("runs/run")
    (life,) = wandb_lives(run)
    assert [row["_step"] for row in history(life)] == [line["step"] for line in read_lines(run / "metrics.jsonl")]
    assert weights() == plain
    assert [path for path in run.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


def test_an_mlflow_server_that_hangs_stalls_nothing(
    silent_server: int, plain: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("terrazzo.commands.tracking.END_SECONDS", 2.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # its thread ends with the server
    assert terrazzo.train(config({"kind": "mlflow", "uri": f"http://127.0.0.1:{silent_server}"})).finished
    (said,) = sentences(capsys, "mlflow")
    assert said.endswith("it has not taken everything in time")
    assert weights() == plain


def test_a_tracker_that_comes_later_gets_the_lines_that_it_missed(
    plain: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_in(patch, 7)
        assert terrazzo.train(config()).step == 7
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        assert terrazzo.train(config({"kind": "tensorboard", "images": 0})).step == 11
    assert terrazzo.train(config({"kind": "tensorboard", "images": 1})).finished
    events = accumulated(Path("runs/run"))
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 5, 6, 8, 10, 12, 14]
    assert events.Tags()["images"] == ["val/samples/images/val/1"]
    assert sentences(capsys, "tensorboard") == []
    assert weights() == plain


def test_wandb_gets_what_a_real_kill_took_from_it(plain: str) -> None:
    """W&B writes its log in the background: a process that is killed takes the last seconds with it."""
    trackers = {"kind": "wandb", "mode": "offline"}, {"kind": "tensorboard"}
    done = in_own_process("os.kill(os.getpid(), signal.SIGKILL)", *trackers)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert terrazzo.train(config(*trackers)).finished
    run = Path("runs/run")
    steps = [line["step"] for line in read_lines(run / "metrics.jsonl")]
    lives = [[row["_step"] for row in history(life)] for life in wandb_lives(run)]
    assert len(lives) == 2
    assert [step for life in lives for step in life] == steps
    assert [event.step for event in accumulated(run).Scalars("train/loss")] == steps
    assert weights() == plain


class Stub:
    """A tracker that does as it is told."""

    def __init__(self, logging: Any = None):
        self.logging, self.seen = logging, list[int]()

    def open(self) -> None: ...

    def log(self, step: int, values: Mapping[str, float], validation: Validation | None) -> None:
        if self.logging is not None:
            self.logging()
        self.seen.append(step)

    def close(self, end: End, final: Final | None) -> None:
        self.seen.append(-1)


def guarded(tracker: Stub) -> tuple[Guarded, list[str]]:
    said: list[str] = []
    return Guarded("stub", tracker, said.append, SimpleQueue()), said


def ended(guard: Guarded, seconds: float = 10.0) -> None:
    guard.close("finished", None)
    guard.wait(time.monotonic() + seconds)


def test_calls_arrive_in_order_and_the_end_is_waited_for() -> None:
    stub = Stub(lambda: time.sleep(0.01))
    guard, said = guarded(stub)
    for step in range(5):
        guard.log(step, {}, None)
    ended(guard)
    assert (stub.seen, said) == ([0, 1, 2, 3, 4, -1], [])


@pytest.mark.parametrize("error", [OSError("disk full"), SystemExit(3), KeyError("x")])
def test_whatever_is_raised_is_said_once(error: BaseException) -> None:
    def fail() -> None:
        raise error

    guard, said = guarded(Stub(fail))
    for step in range(50):
        guard.log(step, {}, None)
        time.sleep(0.002)
    ended(guard)
    assert said == [
        f"tracker stub is given up, training goes on without it: {type(error).__name__}: {first_line(error)}"
    ]


def test_one_that_hangs_is_given_up_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrazzo.track.guarded.CALL_SECONDS", 0.2)
    going_on, stub = Event(), Stub()
    stub.logging = lambda: going_on.wait(20)
    guard, said = guarded(stub)
    guard.log(1, {}, None)
    time.sleep(0.5)
    began = time.monotonic()
    guard.log(2, {}, None)
    ended(guard, 0.0)
    going_on.set()
    assert time.monotonic() - began < 5
    assert said == ["tracker stub is given up, training goes on without it: it has not answered for 0 s"]


def test_one_that_cannot_keep_up_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrazzo.track.guarded.WAITING", 3)
    going_on, stub = Event(), Stub()
    stub.logging = lambda: going_on.wait(20)
    guard, said = guarded(stub)
    for step in range(20):
        guard.log(step, {}, None)
    going_on.set()
    ended(guard, 0.0)
    assert said == ["tracker stub is given up, training goes on without it: it is 3 lines behind"]


def test_an_address_is_told_without_its_password() -> None:
    error = OSError("cannot reach  postgresql://me:secret@host/db\nmore")
    assert first_line(error) == "cannot reach postgresql://***@host/db"


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_library_is_a_sentence_before_anything_begins(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(InputError, match=rf"{kind} is not installed; type `pip install 'terrazzo\[{kind}\]'`"):
        terrazzo.train(config({"kind": kind}))
    assert not Path("runs/run/config.yaml").exists()


def test_a_library_that_cannot_be_imported_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"tensorboard cannot be imported .*terrazzo.tensorboard"):
        terrazzo.train(config({"kind": "tensorboard"}))


def test_online_without_a_key_is_a_sentence_before_anything_begins() -> None:
    with pytest.raises(InputError, match=r"mode=online needs a key.*wandb login.*mode=offline"):
        terrazzo.train(config({"kind": "wandb", "mode": "online"}))
    assert not Path("runs/run/config.yaml").exists()


def test_an_address_of_mlflow_that_cannot_be_used_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:./mlruns")
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI is 'file:./mlruns'.*sqlite:///"):
        terrazzo.train(config({"kind": "mlflow"}))
