"""One rank's failure is everybody's: the others end within seconds, and say where they were."""

import atexit
import os
import sys
import threading
import time
import traceback
from itertools import count
from types import TracebackType
from typing import Self

from terrazzo.base import InputError
from terrazzo.engine.world import World

_turns = count()
"""Numbers the watches of this process; all ranks enter the same ones."""

POLL = 1.0
"""Seconds between two looks for such a note."""

GRACE = 3.0
"""Seconds that a rank has to end by itself once another has failed: most do, when their connection breaks."""

FAREWELL = 20.0
"""The same where rank 0's process is no more: it may have ended well, and this one be about to."""

LEAVE = 10.0
"""Seconds that torch has at exit to take leave of ranks that may not answer any more."""


class Watch:
    """While entered on every rank, no rank goes on, or waits, without the others.

    A rank that fails leaves a note and keeps its own traceback for torchrun's summary. A rank that does nothing any
    more (it hangs while the others wait for it, until their timeout) is ended from a thread, which prints where it was.
    """

    def __init__(self, world: World):
        self.world = world
        self._note = f"failed-{next(_turns)}"  # key of what the first rank to fail leaves
        self._over = threading.Event()
        self._main = threading.current_thread()
        self._thread = threading.Thread(target=self._look, name="terrazzo-watch", daemon=True)

    def __enter__(self) -> Self:
        if self.world.size > 1:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self.world.size == 1:
            return
        self._thread.join(LEAVE)  # torch's C++ aborts a process that ends while a thread is in it
        if error is None:
            return
        _leave_in_time()
        me = f"rank {self.world.rank} of {self.world.size}"
        first = self._leave_note(f"{me} failed: {type(error).__name__}: {error}")
        if first is not None and isinstance(error, RuntimeError):
            print(f"{me} ends: {first}", file=sys.stderr, flush=True)
            raise SystemExit(1) from error
        _record(error)
        if isinstance(error, InputError):
            raise InputError(f"{me}: {error}") from error

    def _leave_note(self, note: str) -> str | None:
        """Tell the others; the note of a rank that did so before, if there is one."""
        assert self.world.store is not None
        try:
            there = self.world.store.compare_set(self._note, "", note).decode()
        except RuntimeError as error:  # rank 0 kept the store, and is gone
            there = f"rank 0 is gone ({str(error).splitlines()[0]})"
        return None if there == note else there

    def _look(self) -> None:
        assert self.world.store is not None
        try:
            store = self.world.store.clone()  # a connection of its own: others may wait on theirs
            while not self._over.wait(POLL):
                if store.check([self._note]):
                    self._end(store.get(self._note).decode())
        except RuntimeError as error:
            self._end(f"rank 0 is gone ({str(error).splitlines()[0]})", FAREWELL)

    def _end(self, reason: str, grace: float = GRACE) -> None:
        if self._over.wait(grace):
            return
        me = f"[rank{self.world.rank}]"
        lines = [f"this process ends: {reason}"]
        if f"{InputError.__name__}:" not in reason and self._main.ident is not None:
            frame = sys._current_frames().get(self._main.ident)
            lines += ["it was here:", *"".join(traceback.format_stack(frame)).splitlines()]
        print("\n".join(f"{me}: {line}" for line in lines), file=sys.stderr, flush=True)
        os._exit(1)  # its main thread may wait within torch, where no exception reaches it


def _leave_in_time() -> None:
    """See to it that this process ends, once it is about to."""
    leaving = threading.Event()

    def end() -> None:
        leaving.wait()
        time.sleep(LEAVE)
        os._exit(1)

    threading.Thread(target=end, name="terrazzo-leave", daemon=True).start()  # at exit none can be started any more
    atexit.register(leaving.set)  # before what was registered earlier, such as torch's leave of the group


def _record(error: BaseException) -> None:
    """Keep the traceback where torchrun looks for it."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ and isinstance(error, Exception):
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler  # torchrun's, and only its

        get_error_handler().record_exception(error)
