"""Runs on this machine: some tasks at a time, each with CPU cores and GPUs of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import PositiveInt

from terrazzo.base import Config, InputError
from terrazzo.launch.guard import ends_with_us
from terrazzo.launch.task import Task

POLL_SECONDS = 0.1
"""Between two looks at the processes."""

TOLD = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))
"""What asks a launcher to stop; Windows sends SIGBREAK, which others do not know."""

Outcome = Literal["well", "badly", "left", "blocked"]
"""`left`: told to stop, or not begun when that happened. `blocked`: a task that it comes after did not end well."""


class Local(Config):
    """Processes on this machine."""

    kind: Literal["local"] = "local"
    at_once: PositiveInt | None = None
    """Jobs at a time; null: as many as there are GPUs for, and one without a GPU."""
    processes: PositiveInt = 1
    """Processes that train one run together, each on a GPU of its own, or on its part of the cores."""


@dataclass(frozen=True)
class Seat:
    """What of the machine one task gets."""

    cores: tuple[int, ...]
    """Empty where the system does not let a process choose."""
    gpus: tuple[str, ...]
    """As CUDA_VISIBLE_DEVICES names them."""

    def environment(self, processes: int) -> dict[str, str]:
        """This process's variables, for a task that sees these GPUs only."""
        share = str(max(1, len(self.cores) // processes))
        threads = {} if not self.cores or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": share}
        return {**os.environ, **threads, "CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}


def seats(cfg: Local, gpus: Sequence[str]) -> list[Seat]:
    """Where tasks that run at a time are; `gpus` are those to be had, none for runs on the CPU.

    Raises:
        InputError: more tasks than there are GPUs for.
    """
    fitting = len(gpus) // cfg.processes
    at_once = cfg.at_once or max(1, fitting)
    if gpus and at_once > fitting:
        raise InputError(
            f"launch: at_once={at_once} runs of processes={cfg.processes} need {at_once * cfg.processes} GPUs, and "
            f"{len(gpus)} can be had; no GPU is shared. Give at_once={max(1, fitting)}, fewer processes, or device=cpu"
        )
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [
        Seat(_part(cores, k, at_once), tuple(gpus[k * cfg.processes : (k + 1) * cfg.processes] if gpus else ()))
        for k in range(at_once)
    ]


def _part(cores: Sequence[int], k: int, parts: int) -> tuple[int, ...]:
    """Share k of the cores; with more shares than cores, some have the same one."""
    if len(cores) < parts:
        return tuple(cores[k % len(cores) :][:1]) if cores else ()
    return tuple(cores[k * len(cores) // parts : (k + 1) * len(cores) // parts])


def visible_gpus() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # needed here only

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


@contextmanager
def held_gpus(gpus: Sequence[str]) -> Iterator[list[str]]:
    """Those GPUs that no other sweep of this user on this machine holds; held until left.

    Raises:
        InputError: there are some, and all are held.
    """
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    with ExitStack() as stack:
        free = []
        for gpu in gpus:
            lock = FileLock(Path(tempfile.gettempdir()) / f"terrazzo-{user}-gpu-{gpu.replace('/', '_')}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            stack.callback(lock.release)
            free.append(gpu)
        if gpus and not free:
            raise InputError(f"all GPUs ({', '.join(gpus)}) are used by other sweeps; wait for them, or say device=cpu")
        yield free


class Told:
    """While entered, signals are counted: the first asks to stop, the second not to wait for it."""

    def __init__(self) -> None:
        self.times = 0
        self.number = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Told":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._before = {number: signal.signal(number, self._on_signal) for number in TOLD}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal itself returned

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.times, self.number = self.times + 1, number  # nothing else: the loop looks


@dataclass
class _Process:
    task: Task
    seat: Seat
    popen: "subprocess.Popen[bytes]"
    told: int = 0

    def tell(self) -> None:
        """Ask it to save and end; the leader of its group passes it on."""
        if sys.platform == "win32":
            self.popen.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            self.popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started."""
        if sys.platform == "win32":
            self.popen.kill()
        else:
            os.killpg(self.popen.pid, signal.SIGKILL)


@dataclass
class _Board:
    """Who waits, runs and is over."""

    waiting: list[Task]
    free: list[Seat]
    running: list[_Process] = field(default_factory=list)
    over: dict[str, Outcome] = field(default_factory=dict)

    def drop_blocked(self) -> None:
        """Give up tasks that come after one that did not end well."""
        for task in self.waiting:
            if any(self.over.get(name) in ("badly", "blocked") for name in task.after):
                self.over[task.name] = "blocked"
        self.waiting = [task for task in self.waiting if task.name not in self.over]

    def next_ready(self) -> Task | None:
        """The first task whose predecessors are over; those that are no tasks here have been so before."""
        pending = {task.name for task in self.waiting} | {process.task.name for process in self.running}
        return next((task for task in self.waiting if not pending & {*task.after}), None)


def run_local(
    tasks: Sequence[Task],
    cfg: Local,
    gpus: Sequence[str],
    *,
    again: Callable[[Task, int], bool],
    tick: Callable[[], bool],
) -> tuple[dict[str, Outcome], int | None]:
    """Run tasks to their end, or until a signal or `tick` asks to stop; then all are told, and awaited.

    Args:
        tasks: in the order in which they start.
        cfg: how many at a time.
        gpus: that tasks may use; none for runs on the CPU.
        again: whether a task that ended with this status, other than 0, is to be started once more.
        tick: called several times a second; True asks to stop.

    Returns:
        What became of each task, and the number of the signal that asked to stop (0 if it was `tick`), if one did.

    Raises:
        InputError: more tasks at a time than GPUs.
    """
    with held_gpus(gpus) as free, Told() as told:
        board = _Board(list(tasks), seats(cfg, free))
        try:
            while board.running or (board.waiting and not told.times):
                if not told.times:
                    _start_ready(board, cfg)
                for process in board.running:
                    _pass_on(process, told.times)
                _reap(board, again, stopping=told.times > 0)
                board.drop_blocked()
                asked = tick()
                told.times = max(told.times, int(asked))  # tick comes before: a signal may arrive within it
                time.sleep(POLL_SECONDS)
        finally:
            for process in board.running:  # only if something broke above: nobody is left behind
                process.tell()
            for process in board.running:
                process.popen.wait()
    outcomes: dict[str, Outcome] = {task.name: board.over.get(task.name, "left") for task in tasks}
    return outcomes, told.number if told.times else None


def _start_ready(board: _Board, cfg: Local) -> None:
    while board.free and (task := board.next_ready()) is not None:
        seat = board.free.pop(0)
        board.waiting.remove(task)
        board.running.append(_Process(task, seat, _popen(task, seat, cfg)))


def _popen(task: Task, seat: Seat, cfg: Local) -> "subprocess.Popen[bytes]":
    task.log.parent.mkdir(parents=True, exist_ok=True)
    # A group of its own: Ctrl-C on the terminal reaches us, and we tell it once.
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP
    with task.log.open("ab") as log:
        popen = subprocess.Popen(
            [*ends_with_us(), *task.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=seat.environment(cfg.processes),
            start_new_session=sys.platform != "win32",
            creationflags=flags,
        )
    if seat.cores:
        with suppress(ProcessLookupError):  # it is over already: its status says why
            os.sched_setaffinity(popen.pid, seat.cores)  # its threads come later and inherit it
    return popen


def _pass_on(process: _Process, times: int) -> None:
    """Tell a process what we were told: once to stop, then to end at once."""
    if times and not process.told and process.popen.poll() is None:
        process.tell()
        process.told = 1
    if times > 1 and process.told < 2 and process.popen.poll() is None:
        process.kill()
        process.told = 2


def _reap(board: _Board, again: Callable[[Task, int], bool], *, stopping: bool) -> None:
    for process in [process for process in board.running if process.popen.poll() is not None]:
        board.running.remove(process)
        board.free.append(process.seat)
        status = process.popen.returncode
        if status == 0:
            board.over[process.task.name] = "well"
        elif stopping:
            board.over[process.task.name] = "left"
        elif again(process.task, status):
            board.waiting.insert(0, process.task)
        else:
            board.over[process.task.name] = "badly"
