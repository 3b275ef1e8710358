"""`terrazzo convert ...`: a configuration of another program becomes a recipe."""

from pathlib import Path

from terrazzo.base import InputError
from terrazzo.convert.mmseg import Converted, convert_mmseg
from terrazzo.convert.nyuntam import Imported, convert_nyuntam
from terrazzo.files import write_text


def convert(path: Path, out: Path | None = None) -> Converted:
    """The recipe of a config file of MMSegmentation, which is read as data; nothing in it is executed.

    Args:
        path: the config (.py), beside the files that it builds on.
        out: also write the recipe to this file, with comments on all that is not the same.

    Raises:
        InputError: it is no config, there is nothing here like its network or data, or `out` is there already.
    """
    _check_free(out)
    converted = convert_mmseg(path)
    _write(converted.yaml, out)
    return converted


def convert_flat(path: Path, out: Path | None = None) -> Imported:
    """The recipe of a flat recipe (YAML or JSON) of Nyuntam's "adapt".

    Args:
        path: the flat recipe.
        out: also write the recipe to this file, with a comment on every key.

    Raises:
        InputError: it is no flat recipe, names no data or network, or `out` is there already.
    """
    _check_free(out)
    imported = convert_nyuntam(path)
    _write(imported.yaml, out)
    return imported


def _check_free(out: Path | None) -> None:
    if out is not None and out.exists():
        raise InputError(f"{out} is there already; remove it, or give another --out")


def _write(text: str, out: Path | None) -> None:
    if out is None:
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    except OSError as error:
        raise InputError(f"{out}: cannot write here ({error.strerror})") from error
