"""When to stop: politely on a signal (it sets a flag, the loop saves and leaves between two steps), or early."""

import signal
import threading
from types import FrameType
from typing import Literal, Self

from pydantic import NonNegativeFloat, PositiveInt

from terrazzo.base import Config

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGBREAK") if hasattr(signal, name))
"""Those of this system: Windows alone has SIGBREAK, and no SIGUSR1."""


class EarlyStop(Config):
    """End the run when a score has not become better for a while."""

    metric: Literal["val/loss", "val/miou", "train/loss", "train/miou"] = "val/loss"
    """Key of metrics.jsonl that is watched, at validations."""
    mode: Literal["min", "max"] | None = None
    """Whether less or more is better; null: less of a loss, more of a score."""
    patience: PositiveInt = 20
    """Validations without a better value before the run ends."""
    min_change: NonNegativeFloat = 0.0
    """A value is better only if it is so by more than this."""

    @property
    def sign(self) -> int:
        """1 where more is better."""
        mode = self.mode or ("min" if self.metric.endswith("loss") else "max")
        return 1 if mode == "max" else -1


class StopFlag:
    """While entered, a first signal asks the loop to stop; a second one does what it always did.

    A flag around this one is set too: a signal may come when a run has done its last step and looks no more.
    """

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
            signal.signal(number, self._before[number] or signal.SIG_DFL)  # type: ignore[arg-type]  # what signal.signal itself returned
            signal.raise_signal(number)
            return
        self.set, self.number = True, number  # nothing else: a handler may run in the middle of a step
        around = getattr(self._before.get(number), "__self__", None)
        if isinstance(around, StopFlag):
            around.set, around.number = True, number
