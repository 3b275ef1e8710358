"""The folder of a sweep: where the recipe, state, log and folder of each run are."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from terrazzo.base import InputError

REFUSALS = (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC))
"""What a disk may answer that is no fault of ours."""


@dataclass(frozen=True)
class Folder:
    """Paths below a sweep's folder."""

    path: Path

    @property
    def whole_lock(self) -> Path:
        """Held by the `terrazzo sweep` that works on the sweep."""
        return self.path / ".sweep.lock"

    @property
    def states(self) -> Path:
        """Of the states, NAME.json each."""
        return self.path / "states"

    @property
    def runs(self) -> Path:
        """Of the run folders."""
        return self.path / "runs"

    def state(self, name: str) -> Path:
        """How far a run is."""
        return self.states / f"{name}.json"

    def recipe(self, name: str) -> Path:
        """The resolved recipe of a run."""
        return self.path / "recipes" / f"{name}.yaml"

    def run(self, name: str) -> Path:
        """The run folder itself."""
        return self.runs / name

    def log(self, name: str) -> Path:
        """What a run's process printed, over all its attempts."""
        return self.path / "logs" / f"{name}.log"

    def lock(self, name: str) -> Path:
        """Held by the process that works on a run."""
        return self.states / f".{name}.lock"


@contextmanager
def alone(folder: Folder) -> Iterator[None]:
    """Work on a sweep's folder by nobody else; what the disk refuses becomes a sentence.

    Raises:
        InputError: another `terrazzo sweep` is at work there, or the disk is full or refuses to be written.
    """
    try:
        folder.states.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.whole_lock)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{folder.path}: another `terrazzo sweep` works in this folder; `terrazzo sweep {folder.path} "
                "--status` shows it. For a sweep beside it give another out=..."
            ) from None
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        why = "no space is left on its disk" if error.errno == errno.ENOSPC else f"{error.strerror}: {error.filename}"
        raise InputError(
            f"{folder.path}: {why}. Nothing is lost: every run goes on from its last checkpoint when you type the same "
            "command again"
        ) from None
