"""One run of a search as a process of its own, that can be followed and asked to stop."""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from terrazzo.launch.guard import ends_with_us

POLL_SECONDS = 0.25
"""Between two looks at a run that trains."""


def train_followed(
    command: Sequence[str], log: Path, metrics: Path, *, look: Callable[[], bool], told: Callable[[], bool]
) -> int:
    """Run a command to its end; its exit status.

    Args:
        command: program and arguments.
        log: what it prints is appended to it.
        metrics: whenever this file has changed, `look` is called; True asks the command to stop.
        look: see `metrics`.
        told: True asks the command to stop: this process was told so itself.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    seen, asked = _stamp(metrics), False
    with (
        log.open("ab") as out,
        subprocess.Popen(
            [*ends_with_us(), *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at the terminal is ours to hand on, once: a second signal kills
        ) as process,
    ):
        try:
            while not _ended(process):
                stop = told()
                if (stamp := _stamp(metrics)) != seen:
                    seen = stamp
                    stop = look() or stop
                if stop and not asked:
                    asked = True
                    process.terminate()  # SIGTERM, upon which a run saves; Windows knows killing only
        except BaseException:
            process.terminate()
            raise
    return process.returncode


def wait_until_free(path: Path, told: Callable[[], bool]) -> bool:
    """Wait for the lock of a run that another process still trains, as one whose search worker was killed; False if
    this process was told to stop meanwhile."""
    while True:
        try:
            with FileLock(path).acquire(timeout=0):
                return True
        except Timeout:
            if told():
                return False
            time.sleep(POLL_SECONDS)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has, after a while."""
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
