"""Published weights from the net: kept in a cache folder, resumed where they broke off, checked before they count.

Environment: TERRAZZO_CACHE, the folder; TERRAZZO_MIRROR, other addresses with commas between, tried in their order
instead of the published one; TERRAZZO_OFFLINE=1 (or HF_HUB_OFFLINE=1), nothing is asked for over the net.
"""

import errno
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock

from terrazzo import __version__
from terrazzo.base import InputError
from terrazzo.files import sync
from terrazzo.published.catalog import Entry, address

TRIES = 4
"""Of one address, as long as nothing new arrives between two of them."""
PAUSE = 0.5
"""Seconds before the second try; doubled before every other one."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as cut."""
CHUNK = 1 << 18

Progress = Callable[[int, int], None]
"""Told bytes here and bytes in all."""


class Unreachable(Exception):
    """One address did not give the file; the message says why. Another one may."""


def cache_folder() -> Path:
    """Where downloads are kept: TERRAZZO_CACHE, else the system's place for caches."""
    if given := os.environ.get("TERRAZZO_CACHE"):
        return Path(given).expanduser()
    home = Path.home()
    match sys.platform:
        case "win32":
            return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "terrazzo"
        case "darwin":
            return home / "Library" / "Caches" / "terrazzo"
        case _:
            return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "terrazzo"


def offline() -> bool:
    """Whether the net must be left alone."""
    said = (os.environ.get(name, "") for name in ("TERRAZZO_OFFLINE", "HF_HUB_OFFLINE"))
    return any(word.strip().lower() in ("1", "true", "yes", "on") for word in said)


def mirrors() -> list[str]:
    """Addresses to try, in order.

    Raises:
        InputError: one of TERRAZZO_MIRROR is no http address.
    """
    given = [one.strip().rstrip("/") for one in os.environ.get("TERRAZZO_MIRROR", "").split(",") if one.strip()]
    for one in given:
        if not one.startswith(("http://", "https://")):
            raise InputError(f"TERRAZZO_MIRROR: {one!r} is no address; expected http://... or https://...")
    return given or [address()]


def cached(entry: Entry) -> Path | None:
    """The file, if it is here already."""
    path = _place(entry)
    return path if path.is_file() else None


def fetch(entry: Entry, progress: Progress | None = None) -> Path:
    """The weights file of a published network, downloaded if it is not in the cache.

    A download that was stopped, killed or cut goes on where it broke off. Several processes may ask at once: one
    downloads, the others wait for it.

    Args:
        entry: of the catalog.
        progress: told bytes here and bytes in all; if left out, a bar on the terminal.

    Raises:
        InputError: no address gives the file, it is not the one that was published, there is no space or no right to
            write, or the net must be left alone.
    """
    path = _place(entry)
    if path.is_file():
        return path
    if offline():
        raise InputError(
            f"{entry.weights_file} is not in the cache, and TERRAZZO_OFFLINE or HF_HUB_OFFLINE forbids the net; unset "
            f"it, or put the file of {address()}/{entry.path} at {path}"
        )
    sources = mirrors()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.is_file():  # else another process was faster
                if progress is not None:
                    _from_any(entry, sources, path, progress)
                else:
                    with _bar() as shown:
                        _from_any(entry, sources, path, shown)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(
                f"no space left in {path.parent}; make some, or set TERRAZZO_CACHE to another folder"
            ) from None
        raise InputError(f"cannot write to {path.parent}: {error}; set TERRAZZO_CACHE to another folder") from None
    return path


def _place(entry: Entry) -> Path:
    return cache_folder() / "mmsegmentation" / entry.weights_file


def _from_any(entry: Entry, sources: list[str], path: Path, progress: Progress) -> None:
    """Try every address; the file is at `path` then."""
    part = path.with_name(f"{path.name}.part")
    failures = []
    for source in sources:
        try:
            _from_one(f"{source}/{entry.path}", entry.digest, part, progress)
        except Unreachable as failure:
            failures.append(str(failure))
        else:
            sync(part)
            part.replace(path)
            sync(path.parent)
            return
    raise InputError(
        f"{entry.name}: its weights cannot be downloaded. {'. '.join(failures)}. TERRAZZO_MIRROR names another "
        f"address; a file from elsewhere belongs at {path}"
    )


def _from_one(url: str, digest: str, part: Path, progress: Progress) -> None:
    """Complete `part` from `url`, and check it.

    Raises:
        Unreachable: the address does not give the file, or gives another one.
    """
    resumed = part.is_file() and part.stat().st_size > 0
    _complete(url, part, progress)
    if _begins_with(part, digest):
        return
    if resumed:  # the beginning may be of another address, or damaged: once from its start
        part.unlink()
        _complete(url, part, progress)
        if _begins_with(part, digest):
            return
    found = _sha256(part)[: len(digest)]
    part.unlink()
    raise Unreachable(
        f"{url} is not the published file: its SHA-256 begins with {found}, the published one's with {digest}"
    )


def _complete(url: str, part: Path, progress: Progress) -> None:
    """Ask for the rest of `part` until all of it is here."""
    failed = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _append(url, part, progress):
                return
            reason = "the connection was cut"
        except HTTPError as error:
            error.close()
            if error.code < 500 and error.code != 429:
                raise Unreachable(f"{url} answers {error.code} {error.reason}") from None
            reason = f"the server answers {error.code} {error.reason}"
        except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        after = part.stat().st_size if part.is_file() else 0
        failed = 1 if after > before else failed + 1
        if failed >= TRIES:
            kept = f"; {after / 1e6:.1f} MB are here, and the next try goes on from them" if after else ""
            raise Unreachable(f"{url}: {reason}{kept}")
        time.sleep(PAUSE * 2 ** (failed - 1))


def _append(url: str, part: Path, progress: Progress) -> bool:
    """One request for what is missing; whether the file is complete after it."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": f"terrazzo/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return True  # all of it was here
        part.unlink()  # longer than the file
        return False
    with response:
        if response.status != 206:
            have = 0  # this server gives whole files only
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()  # another range than the one that was asked for
            return False
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        _check_space(part.parent, 0 if total is None else total - have)
        with part.open("ab" if have else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                have += len(chunk)
                progress(have, total or have)
    return total is None or have >= total


def _read(response: HTTPResponse) -> bytes:
    """The next bytes; whatever goes wrong with the connection is a URLError, which no error of the disk is."""
    try:
        return response.read(CHUNK)
    except OSError as error:
        raise URLError(error) from None


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder} has {free / 1e6:.0f} MB left, and {needed / 1e6:.0f} MB are to come; make space, or set "
            "TERRAZZO_CACHE to another folder"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _begins_with(path: Path, digest: str) -> bool:
    return _sha256(path).startswith(digest)


@contextmanager
def _bar() -> Iterator[Progress]:
    """A bar with bytes and time left, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("download"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("download", total=None)
        yield lambda here, total: bar.update(task, completed=here, total=total)
