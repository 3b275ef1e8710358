"""A program that is told to stop when the process that started it dies, so that nothing is left behind unseen."""

import os
import sys

_GUARD = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM: it holds beyond the exec
if os.getppid() != int(sys.argv[1]):
    sys.exit(75)  # killed in between
os.execv(sys.argv[2], sys.argv[2:])
"""


def ends_with_us() -> tuple[str, ...]:
    """What to put before a command (prctl(2)); empty where the system is not Linux."""
    return (sys.executable, "-c", _GUARD, str(os.getpid())) if sys.platform == "linux" else ()
