"""What a recipe needs to find a data set that was written here: list files, and the `data` section to paste."""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import yaml

from terrazzo.base import InputError
from terrazzo.data.colors import hex_of
from terrazzo.data.folder import FolderData
from terrazzo.data.templates import Pair
from terrazzo.files import write_text


def write_ids(path: Path, ids: Sequence[str]) -> None:
    """A list file for `data.splits.lines: ids`.

    Raises:
        InputError: a name cannot stand in a list file.
    """
    for name in ids:
        check_id(name)
    write_text(path, "".join(f"{name}\n" for name in ids))


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """A list file for `data.splits.lines: pairs`, separated by tabs.

    Raises:
        InputError: a name cannot stand in a list file.
    """
    text = StringIO()
    plain = csv.writer(text, delimiter="\t", lineterminator="\n")
    quoted = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
    for pair in pairs:
        for name in pair:
            _check_carried(name)
        (quoted if pair.image.startswith("#") else plain).writerow(pair)  # as it stands, that would be a comment
    write_text(path, text.getvalue())


def check_id(name: str) -> None:
    """Refuse a name that `write_ids` could not write."""
    _check_carried(name)
    if name.startswith("#"):
        raise InputError(f"{name!r} would be a comment in a list file; rename it")


def _check_carried(name: str) -> None:
    """List files are read line by line as UTF-8, and blanks around an entry do not count."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name!r} is no UTF-8 and cannot stand in a list file; rename it") from None
    if name != name.strip() or len(name.splitlines()) != 1:
        raise InputError(
            f"{name!r} has a line break, or blanks at its ends, and cannot stand in a list file; rename it"
        )


def data_section(cfg: FolderData, about: str) -> str:
    """A data set as the `data` section of a recipe, under a comment; what is at its default is left out."""
    tree = cfg.model_dump(exclude_defaults=True)
    for key, part in (("decode", cfg.decode), ("splits", cfg.splits)):
        tree[key] = {"kind": part.kind, **part.model_dump(exclude_defaults=True)}
    if isinstance(cfg.classes, dict):
        tree["classes"] = {name: hex_of(color) for name, color in cfg.classes.items()}
    tree = {"kind": cfg.kind, **tree, "root": str(cfg.root)}
    # Flow style for the innermost level keeps maps and lists on one line, as the recipes write them.
    text = yaml.safe_dump({"data": tree}, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
    return f"# {about}\n{text}"
