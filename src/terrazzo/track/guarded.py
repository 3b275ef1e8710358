"""A tracker that can neither stop nor stall the training: it works on a thread of its own, and is given up in time."""

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from queue import Full, Queue, SimpleQueue
from threading import Thread

from terrazzo.track.tracker import End, Final, Tracker, Validation

CALL_SECONDS = 120.0
"""A tracker that has not come back from a call for so long is given up."""

END_SECONDS = 60.0
"""How long a finished run waits for its trackers, all in all."""

STOP_SECONDS = 10.0
"""The same of a run that was told to stop, or failed: a cluster kills it soon, and other processes end with it."""

WAITING = 1000
"""Calls that may wait; a tracker that is further behind is given up."""


class Guarded:
    """Hands calls on and returns at once. What goes wrong is said once, and the rest of the calls are dropped."""

    def __init__(self, kind: str, tracker: Tracker, say: Callable[[str], None], remarks: SimpleQueue[str]):
        """`remarks`: what the tracker itself has to say; it is said from the thread that calls this object."""
        self.kind = kind
        self._tracker, self._say, self._remarks = tracker, say, remarks
        self._calls: Queue[Callable[[], None]] = Queue(WAITING)
        self._called_at: float | None = None
        self._fault: str | None = None
        self._closed = self._given_up = False
        self._thread = Thread(target=self._work, name=f"terrazzo-tracker-{kind}", daemon=True)
        self._put(tracker.open)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float], validation: Validation | None) -> None:
        self._put(partial(self._tracker.log, step, values, validation))

    def close(self, end: End, final: Final | None) -> None:
        """Ask for the end; `wait` waits for it."""
        self._put(partial(self._close, end, final))

    def wait(self, until: float) -> None:
        """Wait for the end that was asked for, until this time of `time.monotonic`, and say what went wrong."""
        while self._thread.is_alive() and time.monotonic() < until and not self._is_stuck():
            self._thread.join(min(1.0, max(0.0, until - time.monotonic())))
        if self._thread.is_alive():
            self._give_up("it has not taken everything in time")
        self._tell()

    def _put(self, call: Callable[[], None]) -> None:
        self._tell()
        if self._given_up:
            return
        if self._is_stuck():
            self._give_up(f"it has not answered for {CALL_SECONDS:.0f} s")
            return
        try:
            self._calls.put_nowait(call)
        except Full:
            self._give_up(f"it is {WAITING} lines behind")

    def _work(self) -> None:
        while not (self._closed or self._given_up):
            call = self._calls.get()
            self._called_at = time.monotonic()
            try:
                call()
            except BaseException as error:  # a library that calls sys.exit, too, ends its tracker and no more
                self._fault = f"{type(error).__name__}: {first_line(error)}"
                return
            finally:
                self._called_at = None

    def _close(self, end: End, final: Final | None) -> None:
        self._tracker.close(end, final)
        self._closed = True

    def _is_stuck(self) -> bool:
        since = self._called_at
        return since is not None and time.monotonic() - since > CALL_SECONDS

    def _tell(self) -> None:
        if self._given_up:
            return  # it may come back and say more, which would be a second sentence
        while not self._remarks.empty():
            self._say(self._remarks.get())
        if self._fault is not None:
            self._give_up(self._fault)

    def _give_up(self, why: str) -> None:
        if self._given_up:
            return
        self._given_up = True
        self._say(f"tracker {self.kind} is given up, training goes on without it: {why}")


def first_line(error: BaseException) -> str:
    """What an error says, on one line and without a password that an address may hold."""
    text = " ".join(str(error).strip().split("\n")[0].split())
    return re.sub(r"://[^/@\s]+@", "://***@", text)[:300]
