"""Loader processes: they write samples into memory shared with the trainer; through the pipes go numbers and names."""

import atexit
import mmap
import os
import pickle
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.base import InputError
from terrazzo.data.draws import Draws, Shape, slots_in

PATIENCE = 5.0
"""Seconds that a process gets to end by itself before it is killed."""

GONE = (EOFError, BrokenPipeError, ConnectionResetError)
"""What a pipe says when there is nobody at its other end."""


class Processes:
    """Started processes, and the memory that they write to: `slots` batches of `shape`.

    They are spawned, so neither threads nor an accelerator of the trainer can be in a half-way state in them. The
    memory has no name in any folder and a process ends when its pipe does: nothing stays, however the trainer dies.
    """

    def __init__(self, draws: Draws, workers: int, slots: int, shape: Shape):
        if not hasattr(os, "memfd_create"):
            raise InputError("loader processes need Linux; say data.worker_kind=thread")
        packed = _packed(draws)
        handle = os.memfd_create("terrazzo-loader")  # beyond the size limit of /dev/shm, which containers keep small
        self._processes: list[SpawnProcess] = []
        self._pipes: list[Connection] = []
        self._next = 0
        atexit.register(self.close)  # before multiprocessing's own, which would wait for processes that wait for us
        try:
            os.ftruncate(handle, slots * shape.bytes)
            self.memory = _mapped(handle)
            for _ in range(workers):
                self._start(f"/proc/{os.getpid()}/fd/{handle}", shape)
            for pipe in self._pipes:
                with suppress(*GONE):  # it has died already, which reading its answer tells better
                    pipe.send_bytes(packed)
            for worker in range(workers):
                self._answer(worker)  # it has opened the memory
        except BaseException:
            self.close()
            raise
        finally:
            os.close(handle)

    def _start(self, memory: str, shape: Shape) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work, args=(theirs, memory, shape), name=f"terrazzo-loader-{len(self._pipes)}", daemon=True
        )
        self._processes.append(process)
        self._pipes.append(ours)
        process.start()
        theirs.close()  # so that the process's end is seen at ours

    def submit(self, slot: int, place: int, draw: int) -> Callable[[], str]:
        """Have a sample written; calling the result waits for its name, and must be done in the order of submitting."""
        worker = self._next
        self._next = (worker + 1) % len(self._pipes)
        with suppress(*GONE):  # as above
            self._pipes[worker].send((slot, place, draw))
        return lambda: self._answer(worker)

    def _answer(self, worker: int) -> str:
        try:
            answer: str | Exception = self._pipes[worker].recv()
        except GONE:
            process = self._processes[worker]
            process.join(PATIENCE)
            raise InputError(
                f"loader process {worker} ended with exit code {process.exitcode}. -9 mostly means that memory ran "
                "out: try fewer data.workers, or data.worker_kind=thread. In a script, calls must stand under "
                "`if __name__ == '__main__':`"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End all processes and wait for them."""
        atexit.unregister(self.close)
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if process.pid is None:
                continue  # it could not be started
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()


def _packed(draws: Draws) -> bytes:
    try:
        return pickle.dumps((draws.dataset, draws.augment, draws.seed, draws.sampler))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(
            f"data.worker_kind=process sends the data set to other processes, and this one cannot be sent ({error}); "
            "make it a class of a module that holds no open files or lambdas, or say data.worker_kind=thread"
        ) from error


def _mapped(handle: int) -> NDArray[np.uint8]:
    """Shared memory as bytes; it is unmapped when the last array over it is gone."""
    return np.frombuffer(mmap.mmap(handle, 0), np.uint8)


def _work(pipe: Connection, memory: str, shape: Shape) -> None:
    """What a loader process does until the trainer closes the pipe or is no more."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):  # sent to all processes of a job; the trainer decides what they mean
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    cv2.setNumThreads(0)
    with suppress(*GONE):  # the trainer has left
        try:
            draws = Draws(*pickle.loads(pipe.recv_bytes()))
            with Path(memory).open("r+b") as file:
                slots = slots_in(_mapped(file.fileno()), shape)
        except Exception as error:
            pipe.send(_sendable(error))
            return
        pipe.send("ready")
        while True:
            slot, place, draw = pipe.recv()
            try:
                answer: str | Exception = slots[slot].put(place, draws, draw)
            except Exception as error:
                answer = _sendable(error)
            pipe.send(answer)


def _sendable(error: Exception) -> Exception:
    """The error itself, notes and all, or its text if it does not survive the journey."""
    if not isinstance(error, InputError):
        error.add_note("in a loader process:\n" + "".join(traceback.format_exception(error)))
    with suppress(Exception):  # a foreign class may break in any way here, and `error` is what is to be told
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    told = RuntimeError(f"{type(error).__name__}: {error}")
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    return told
