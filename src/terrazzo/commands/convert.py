"""`terrazzo convert mmseg`: a configuration of MMSegmentation becomes a recipe."""

from pathlib import Path

from terrazzo.base import InputError
from terrazzo.convert.mmseg import Converted, convert_mmseg
from terrazzo.files import write_text


def convert(path: Path, out: Path | None = None) -> Converted:
    """The recipe of a config file, which is read as data; nothing in it is executed.

    Args:
        path: the config (.py), beside the files that it builds on.
        out: also write the recipe to this file, with comments on all that is not the same.

    Raises:
        InputError: it is no config, there is nothing here like its network or data, or `out` is there already.
    """
    if out is not None and out.exists():
        raise InputError(f"{out} is there already; remove it, or give another --out")
    converted = convert_mmseg(path)
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_text(out, converted.yaml)
        except OSError as error:
            raise InputError(f"{out}: cannot write here ({error.strerror})") from error
    return converted
