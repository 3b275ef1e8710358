"""How far each run of a sweep is, as one small file a run: any number of processes and machines may look or write."""

import time
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, ValidationError

from terrazzo.base import Config, InputError
from terrazzo.files import write_text

Status = Literal["waiting", "queued", "running", "stopped", "finished", "failed", "pruned", "refused"]
"""`stopped`: by a signal, saved, goes on when started again. `failed`: with an error; tried again as the sweep says.
`refused`: its recipe cannot work (with the reason), and is not tried. `pruned`: ended early by a search."""

OVER: tuple[Status, ...] = ("finished", "pruned", "refused")
"""Not started again."""


class RunState(Config):
    """One run of a sweep; written by whoever works on it, beside and renamed."""

    name: str
    hash: str
    """Of the resolved recipe."""
    status: Status = "waiting"
    attempts: NonNegativeInt = 0
    """Times that it was started."""
    deaths: NonNegativeInt = 0
    """Starts in a row that ended without a word and without one more step in a checkpoint."""
    failures: NonNegativeInt = 0
    """Times that it ended with an error, since it was last told to try again."""
    began: NonNegativeInt = 0
    """Steps in the last checkpoint when it was last started."""
    step: NonNegativeInt = 0
    """Optimizer steps done, as the last checkpoint says."""
    reason: str | None = None
    """Why it failed or was refused."""
    where: str | None = None
    """Machine and process, or the cluster's job, that works or worked on it."""
    version: str | None = None
    """Of terrazzo, with the commit where there is one."""
    seconds: float = 0.0
    """By the clock, over all attempts."""
    changed: float = 0.0
    """Time of the last change, seconds since 1970 by the clock of the machine that made it."""

    def write(self, folder: Path) -> None:
        """Publish in `folder` (the sweep's `states`)."""
        stamped = self.model_copy(update={"changed": time.time()})
        write_text(folder / f"{self.name}.json", stamped.model_dump_json(indent=2) + "\n")


def read_states(folder: Path) -> dict[str, RunState]:
    """All runs of a sweep by name.

    Raises:
        InputError: a file is damaged; it says which, and how to go on.
    """
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))  # those are being written
    return {path.stem: read_state(path) for path in paths}


def read_state(path: Path) -> RunState:
    """One run's.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return RunState.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.reason
        raise InputError(
            f"{path} is damaged ({first}). Delete it and type the same command: the run goes on from its last "
            "checkpoint, only its count of attempts begins anew"
        ) from None
