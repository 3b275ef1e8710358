"""What a launcher starts: one command with its log. It knows nothing of recipes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """One command, which may work through several runs in order."""

    name: str
    """Unique in its sweep and fit for a file name."""
    command: tuple[str, ...]
    """Program and arguments."""
    log: Path
    """stdout and stderr are appended to it."""
    after: tuple[str, ...] = ()
    """Names of tasks that must have ended well before this one starts."""


REQUEUE = 75
"""Exit status of a command that wants to be started again: told to stop, and saved (EX_TEMPFAIL of sysexits.h)."""
