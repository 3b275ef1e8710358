"""`terrazzo data prepare`: image and index-mask pairs of any layout and encoding, cut and resized on request."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from terrazzo.base import InputError
from terrazzo.config import RunConfig
from terrazzo.data import as_folder, available_splits
from terrazzo.data.augment import Keep, ResizeConfig
from terrazzo.prepare.pairs import Changes, Prepared, prepare_files


def prepare(
    config: RunConfig,
    out: Path,
    *,
    resize: ResizeConfig | None = None,
    tile: int | None = None,
    overlap: int = 0,
    image_format: Literal["copy", "png", "jpg"] = "copy",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Write OUT/SPLIT_img/NAME, OUT/SPLIT_label/NAME.png (class ids, 255: ignore), OUT/splits/SPLIT.txt and
    OUT/data.yaml, the section for a recipe; the originals stay as they are.

    NAME keeps the folders, so that frames of two drives are never one file; tiles are called NAME_TOP_LEFT. Every file
    is read back before it gets its name. The same call again goes on where the last one was stopped, and brings up to
    date what has changed since.

    Args:
        config: the recipe, whose classes, decoder and `remap` are applied.
        out: a folder apart from the original.
        resize: as `augment.base`: short_side, fit or exact.
        tile: cut into squares of so many pixels; smaller images stay as they are.
        overlap: pixels that neighbouring tiles share at least.
        image_format: `copy`: the very bytes where no pixel changes, else PNG.
        workers: threads; default: one a core.
        progress: called with (images done, images in all).

    Raises:
        InputError: `out` holds something else, or files cannot be read (the others are done first).
    """
    changes = Changes(resize or Keep(), tile, overlap, image_format)
    cfg = as_folder(config.data)
    if cfg is None:
        raise InputError(f"data.kind={config.data.kind} has no image and label files to be prepared")
    splits = available_splits(config.data)
    try:
        return prepare_files(cfg, splits, out, changes, workers=workers or os.cpu_count() or 1, progress=progress)
    except OSError as error:
        raise InputError(f"{out}: cannot write here ({error.strerror})") from error
