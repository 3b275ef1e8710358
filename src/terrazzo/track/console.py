"""The numbers on the terminal: a progress bar with rate and time left, or plain lines where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ConsoleTracker:
    """Shows the progress of a run while it is entered."""

    def __init__(self, console: Console, *, total: int, done: int):
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("train", total=total, completed=done, rate="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def advance(self, step: int) -> None:
        """Move the bar to a step."""
        speed = self.progress.tasks[0].speed
        self.progress.update(self.task, completed=step, rate=f"{speed:.2f} steps/s" if speed else "")

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Name what the run is busy with."""
        self.progress.update(self.task, description=what)
        yield
        self.progress.update(self.task, description="train")

    def log(self, step: int, values: dict[str, float]) -> None:
        shown = " ".join(f"{key} {value:.4g}" for key, value in values.items() if not key.startswith("lr/"))
        self.console.print(f"step {step:>6}  {shown}", highlight=False, soft_wrap=True)
