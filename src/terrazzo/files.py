"""Files that are whole or not there: written beside under a temporary name, synced, renamed."""

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file or, where the system can (not on Windows), a folder's entries are on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; on success it becomes `path` in one rename.

    The temporary name keeps the suffix, because image and tensor writers choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield draft
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` to fill; on success it becomes `path`, which must not be there or be empty,
    in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    draft.mkdir()
    try:
        yield draft
        sync_tree(draft)
        if path.is_dir():
            path.rmdir()  # Windows renames onto no folder, not even an empty one
        draft.rename(path)
        sync(path.parent)
    finally:
        remove_tree(draft)


def usual_mode(path: Path) -> None:
    """Give a file the permissions that new files get in its folder; safetensors' own are for the owner alone."""
    like = path.with_name(f".{uuid.uuid4().hex[:8]}.mode")
    like.touch()
    path.chmod(stat.S_IMODE(like.stat().st_mode))
    like.unlink()


def sync_tree(folder: Path) -> None:
    """Sync every file of a folder, then the folder itself."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sync(path)
    sync(folder)


def remove_tree(folder: Path) -> None:
    """Delete a folder in two moves, so that nobody ever sees half of one under its name."""
    doomed = folder.with_name(f".{uuid.uuid4().hex[:8]}.doomed")
    with suppress(FileNotFoundError):
        folder.rename(doomed)
        shutil.rmtree(doomed)
