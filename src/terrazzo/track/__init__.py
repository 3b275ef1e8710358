"""Where numbers go. A tracker is anything with log(step, values)."""

from typing import Protocol


class Tracker(Protocol):
    """Takes the numbers of one step, once."""

    def log(self, step: int, values: dict[str, float]) -> None: ...
