"""Stop politely: a signal sets a flag, the loop saves and leaves between two steps."""

import signal
import threading
from types import FrameType
from typing import Self

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Those of this system: Windows has no SIGUSR1."""


class StopFlag:
    """While entered, a first signal asks the loop to stop; a second one does what it always did."""

    def __init__(self) -> None:
        self.set = False
        self.number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal itself returned
        self._before = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.set:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.set, self.number = True, number  # nothing else: a handler may run in the middle of a step
