"""Outlines as labels: JSON files of labelled polygons, drawn one over the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import PIL.Image
import PIL.ImageDraw
from pydantic import BaseModel, Field, PositiveInt, ValidationError

from terrazzo.base import IGNORE, InputError, Mask
from terrazzo.data.pixels import MOST_PIXELS, UNKNOWN

GROUP = "group"
"""Ending of a label for many instances that are outlined as one: `cargroup` is drawn as `car`."""

Coordinate = Annotated[float, Field(ge=-1e7, le=1e7, allow_inf_nan=False)]


class _Outline(BaseModel):
    """One object of the file; what else stands there is not read."""

    label: str
    polygon: list[tuple[Coordinate, Coordinate]]
    deleted: bool = False


class _Outlines(BaseModel):
    """The file as Cityscapes and IDD write it."""

    imgHeight: PositiveInt
    imgWidth: PositiveInt
    objects: list[_Outline]


def read_polygons(path: Path, ids: Mapping[str, int], unknown: Literal["error", "skip", "mark"]) -> Mask:
    """The mask of a polygon file, uint8 [H, W]; IGNORE where nothing is drawn.

    Later objects cover earlier ones, deleted ones and those of fewer than three points are left out; Pillow fills the
    outlines, border included. So do the data sets' own tools (json2labelImg of cityscapesScripts and of AutoNUE's
    public-code).

    Args:
        ids: class id (or IGNORE) of each label.
        unknown: whether an object with another label is an error, is not drawn, or is drawn as UNKNOWN.

    Raises:
        InputError: the file is missing, is no polygon file, is too large, or holds an unknown label.
    """
    outlines = _parsed(path)
    if outlines.imgHeight * outlines.imgWidth > MOST_PIXELS:
        raise InputError(
            f"{path}: imgWidth {outlines.imgWidth} by imgHeight {outlines.imgHeight} is no image that can be read"
        )
    image = PIL.Image.new("L", (outlines.imgWidth, outlines.imgHeight), IGNORE)
    drawing = PIL.ImageDraw.Draw(image)
    for number, outline in enumerate(outlines.objects):
        if outline.deleted or len(outline.polygon) < 3:
            continue
        k = ids.get(outline.label, ids.get(outline.label.removesuffix(GROUP)))
        if k is None and unknown == "mark":
            k = UNKNOWN
        if k is not None:
            drawing.polygon(outline.polygon, fill=k)
        elif unknown == "error":
            raise InputError(
                f"{path}: object {number} is labelled {outline.label!r}, which is neither a class nor in "
                f"data.decode.map; add it there ({{{outline.label}: ignore}}), or say data.decode.unknown=skip"
            )
    return np.array(image)


def _parsed(path: Path) -> _Outlines:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot open this label file ({error.strerror})") from error
    try:
        return _Outlines.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{path}: no polygon file ({place}: {first['msg']}); expected JSON with imgHeight, imgWidth and objects, "
            "each with label and polygon [[x, y], ...]"
        ) from error
