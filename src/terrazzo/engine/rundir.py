"""The run folder: who may write to it, whether it can be resumed, and the plain facts kept in it."""

import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from filelock import FileLock, Timeout

from terrazzo.base import InputError
from terrazzo.engine.state import Checkpoints
from terrazzo.files import write_text

MAY_DIFFER = (
    "out",
    "data.root",
    "data.workers",
    "data.worker_kind",
    "device",
    "save_every",
    "validate_every",
    "log_every",
    "keep",
    "length",
    "trackers",
    "parallel.kind",
    "parallel.reshard",
    "parallel.timeout_minutes",
)
"""Keys that a resume may change without being another run (a length may only grow)."""

LIBRARIES = (
    "terrazzo",
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "numpy",
    "opencv-python-headless",
)


class RunDir:
    """A run folder held by this process alone while it is entered."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
        self._lock = FileLock(path / ".lock")

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"out={self.path}: the run folder cannot be made ({error.strerror}); choose another out"
            ) from None
        self._hold()
        return self

    def _hold(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{self.path} is being written by another terrazzo process; choose another out") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def move_aside(self) -> Path | None:
        """Rename an existing run folder to NAME.old-1, -2, ...; called before it is entered.

        Raises:
            InputError: another process writes into it.
        """
        if not self.path.exists() or not any(self.path.iterdir()):
            return None
        self._hold()
        self._lock.release()  # Windows renames no folder that holds an open file
        aside = next(
            p for n in range(1, 10_000) if not (p := self.path.with_name(f"{self.path.name}.old-{n}")).exists()
        )
        self.path.rename(aside)
        return aside

    def resumable(self) -> Path | None:
        """The folder of the last checkpoint, or None if this run has not saved one."""
        return self.checkpoints.find("last")

    def saved_config(self) -> dict[str, Any] | None:
        """The resolved recipe of the run in this folder."""
        try:
            tree = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return dict(tree)

    def check_same_run(self, saved: dict[str, Any] | None, resolved: dict[str, Any]) -> None:
        """Refuse to go on as another run than the one saved here; both recipes with every default filled in.

        Raises:
            InputError: it names every key that differs.
        """
        if saved is None:
            raise InputError(f"{self.path} holds a checkpoint but no config.yaml; choose another out, or --fresh")
        before, now = _leaves(saved), _leaves(resolved)
        differs = [
            f"{key}: {before.get(key, '(absent)')} -> {now.get(key, '(absent)')}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{may}.") for may in MAY_DIFFER)
        ]
        if differs:
            raise InputError(
                f"{self.path} holds another run; these keys differ:\n  " + "\n  ".join(differs) + "\n"
                "Type the same recipe to go on with it, another `out=...` for a new run beside it, "
                "or --fresh to move the old folder aside"
            )

    def log(self, message: str) -> None:
        """Append one line with the time to log.txt."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")

    def write(self, name: str, text: str) -> None:
        """Write a text file of the run atomically."""
        write_text(self.path / name, text)


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value}; a sequence is a leaf, however deep, unless it holds sections."""
    if isinstance(tree, dict) and tree:
        return {k: v for key, value in tree.items() for k, v in _leaves(value, f"{prefix}{key}.").items()}
    if isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        return {k: v for n, value in enumerate(tree) for k, v in _leaves(value, f"{prefix}{n}.").items()}
    return {prefix.removesuffix("."): tree}


def environment() -> dict[str, str]:
    """Versions, machine and git state: what a reader of an old run asks first. No names of users, hosts or folders."""
    import torch

    facts = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for library in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            facts[library] = metadata.version(library)
    facts["cpu cores"] = str(os.cpu_count())
    if torch.cuda.is_available():
        facts["gpu"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    facts["git"] = git_state()
    facts["command"] = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return facts


def git_state() -> str:
    """Commit of the working folder and whether it holds uncommitted changes; `none` outside a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "none"
    changed = len(status.stdout.splitlines())
    return head.stdout.strip() + (f" with {changed} uncommitted changes" if changed else "")
