"""What lies below data.root: walked without going round in circles, without what is excluded."""

import difflib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from terrazzo.base import InputError

NEAR = 20_000
"""Among so many names the nearest is looked for when a pattern finds nothing."""


def check_root(root: Path) -> None:
    """Refuse a data.root that is no folder."""
    if not is_folder(root):
        raise InputError(f"data.root={root} is no folder; say where the data is with data.root=PATH")


def files_below(root: Path, folder: str = "", faults: list[str] | None = None) -> list[str]:
    """All files below a folder of data.root, relative to data.root. Hidden files and folders are not seen; a link back
    to a folder that it lies in is not followed.

    Args:
        faults: gets a sentence for every link that is not followed, and every folder or name that cannot be read;
            without it such links are passed over, and the others are errors.

    Raises:
        InputError: a folder cannot be read, or a name.
    """
    found: list[str] = []
    around = {root / folder: _around(root / folder)}

    def refuse(sentence: str) -> None:
        if faults is None:
            raise InputError(sentence)
        faults.append(sentence)

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            refuse(f"{error.filename}: cannot look into this folder ({error.strerror}); make it readable")

    for here, folders, files in os.walk(root / folder, onerror=unreadable, followlinks=True):
        place = Path(here)
        outer, names = around.pop(place), sorted(name for name in folders if not name.startswith("."))
        folders.clear()
        for name in names:
            identity = _identity(place / name)
            if identity not in outer:
                around[place / name] = outer | {identity}
                folders.append(name)
            elif faults is not None:
                faults.append(f"{place / name}: a link to a folder that it lies in; it is not followed. Remove it")
        inside = place.relative_to(root)
        prefix = "" if inside == Path() else f"{inside.as_posix()}/"
        for name in files:
            if not (prefix + name).isprintable() and _is_no_text(prefix + name):
                refuse(f"{prefix + name!a}: its name is no UTF-8; rename it")
            elif not name.startswith("."):
                found.append(prefix + name)
    return found


def excluded_files(root: Path, patterns: Sequence[str]) -> frozenset[str]:
    """The files below data.root that `data.exclude` means.

    Raises:
        InputError: a pattern means none.
    """
    if not patterns:
        return frozenset()
    files = files_below(root, faults=[])
    by_name: dict[str, list[str]] = {}
    for path in files:
        for name in {path, PurePosixPath(path).with_suffix("").as_posix()}:
            by_name.setdefault(name, []).append(path)
    excluded: set[str] = set()
    for pattern in patterns:
        meant = by_name.get(PurePosixPath(pattern).as_posix())
        if meant is None and set(pattern) & set("*?"):
            glob = _glob(pattern)
            meant = [path for name, paths in by_name.items() if glob.fullmatch(name) for path in paths]
        if not meant:
            near = difflib.get_close_matches(pattern, files[:NEAR], 1, 0.5)
            advice = f"did you mean {near[0]!r}?" if near else "write paths relative to data.root, like images/a.jpg"
            raise InputError(f"data.exclude: {pattern!r} is no file in data.root={root}; {advice}")
        excluded.update(meant)
    return frozenset(excluded)


def alike(path: str) -> str:
    """The same for paths that differ only in capitals, or in how their accents are stored: one file on some systems."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def is_folder(path: Path) -> bool:
    """Whether there is a folder, as far as one may see."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether there is a file, as far as one may see."""
    try:
        return path.is_file()
    except OSError:
        return False


def what_is_there(root: Path, folder: str) -> str:
    """'there is no folder data/train; in data there is: a, b' for messages."""
    wanted = root / folder
    place = next((p for p in (wanted, *wanted.parents) if is_folder(p)), Path())
    missing = "" if place == wanted else f"there is no folder {wanted}; "
    try:
        names = sorted(p.name + "/" * is_folder(p) for p in place.iterdir() if not p.name.startswith("."))
    except OSError as error:
        return f"{missing}{place} cannot be looked into ({error.strerror})"
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{missing}in {place} there is: {listed or 'nothing'}"


Identity = tuple[int, int] | str
"""Of a folder, by whichever path it is reached; its path if the system says nothing."""


def _is_no_text(name: str) -> bool:
    """Whether a name has bytes that are no UTF-8: it could be neither printed nor written."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def _identity(path: Path) -> Identity:
    try:
        status = path.stat()
    except OSError:
        return str(path)
    return (status.st_dev, status.st_ino) if status.st_ino else str(path)


def _around(start: Path) -> frozenset[Identity]:
    """A folder and all that it lies in."""
    try:
        whole = start.resolve()
    except (OSError, RuntimeError):  # a link to itself
        return frozenset()
    return frozenset(_identity(folder) for folder in (whole, *whole.parents))


def _glob(pattern: str) -> re.Pattern[str]:
    """`*` within one name, `**` any folders, `?` one letter; brackets are what they are."""
    meanings = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", PurePosixPath(pattern).as_posix())
    return re.compile("".join(meanings.get(part, re.escape(part)) for part in parts), re.DOTALL)
