"""What one pair of image and label file holds, in a form that can be kept."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from terrazzo.base import Image, InputError, Mask, Split
from terrazzo.check.alignment import Alignment, alignment
from terrazzo.check.similarity import likeness
from terrazzo.data.facts import (
    Components,
    Position,
    components,
    counted_ids,
    counted_raw,
    digest,
    moments,
    sampled_positions,
)
from terrazzo.data.folder import FolderData, aligned
from terrazzo.data.labels import Decoder
from terrazzo.data.pixels import UNKNOWN, read_header, read_image
from terrazzo.data.templates import Pair

Size = tuple[int, int]
"""(height, width)."""


@dataclass(frozen=True)
class Record:
    """What one pair of image and label file holds. Where a file cannot be read, what it would tell is None or empty."""

    split: Split
    name: str
    """As in `Sample`: the image's path without extension."""
    image: str
    label: str
    """Paths relative to `data.root`."""
    stamp: tuple[int, int, int, int]
    """Bytes and mtime in nanoseconds of the image, then of the label; -1 where there is no such file."""
    image_fault: str | None = None
    """Why the image cannot be read: one sentence, the file included."""
    label_fault: str | None = None
    """Why the label file cannot be read."""
    decode_fault: str | None = None
    """What `data.decode` does not know in the label: the error that training would stop with."""
    size: Size | None = None
    """Of the image as training sees it (`data.exif` obeyed or not)."""
    stored: Size | None = None
    """Of the image in the file, before any turning."""
    orientation: int = 1
    """EXIF orientation of the image, 1..8."""
    mode: str = ""
    """Pillow's mode of the image file: RGB, L, P, CMYK, I;16, ..."""
    label_size: Size | None = None
    """Of the label as training sees it."""
    label_mode: str = ""
    """Pillow's mode of the label file, or "text"; "" for polygons."""
    label_format: str = ""
    """Pillow's format of the label file, "TEXT", or "" for polygons."""
    values: dict[int, int] | None = None
    """Value -> pixels in the label file, the most frequent first; None for colours (but all grey ones) and polygons."""
    colors: dict[str, int] | None = None
    """'#rrggbb' -> pixels; for palette files too, beside their indices in `values`. None for plain grey, polygons."""
    more: int = 0
    """How many further values (colours) the file has beyond those listed."""
    counts: dict[int, int] | None = None
    """Class id | 255 ignore | 254 unknown -> pixels, as decoded, only those that occur."""
    components: dict[int, Components] | None = None
    """Class id -> its connected regions."""
    positions: dict[int, list[Position]] | None = None
    """Class id -> at most 32 of its pixels as (y, x)."""
    mean: tuple[float, ...] | None = None
    """Of each channel of the image as RGB, 0..255."""
    square: tuple[float, ...] | None = None
    """Mean of the squares."""
    digest: str | None = None
    """Equal for images with equal pixels."""
    label_digest: str | None = None
    """Equal for masks with equal class ids."""
    likeness: str | None = None
    """Thumbnail of the image, to compare with others."""
    alignment: Alignment | None = None
    """None where sizes differ, or there is nothing to compare."""

    def as_json(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain: dict[str, Any] = RECORD.dump_python(self, mode="json")
        return plain

    @classmethod
    def of_json(cls, plain: dict[str, Any]) -> "Record":
        """The record that `as_json` wrote."""
        return RECORD.validate_python(plain)


RECORD = TypeAdapter(Record)
"""Writes records as JSON, and reads them back."""


def record_of(cfg: FolderData, decoder: Decoder, split: Split, pair: Pair) -> Record:
    """The record of one pair, read now."""
    record = Record(split, pair.name, pair.image, pair.label, stamp_of(cfg.root, pair))
    record, image = _with_image(record, cfg)
    record, mask = _with_label(record, cfg, decoder)
    if image is not None and mask is not None and image.shape[:2] == mask.shape:
        record = replace(record, alignment=alignment(image, mask))
    return record


def _with_image(record: Record, cfg: FolderData) -> tuple[Record, Image | None]:
    path = cfg.root / record.image
    try:
        header = read_header(path)
        record = replace(record, stored=header.stored, orientation=header.orientation, mode=header.mode)
        image = read_image(path, cfg.exif)
    except InputError as error:
        return replace(record, image_fault=str(error)), None
    mean, square = moments(image)
    return replace(
        record,
        size=(image.shape[0], image.shape[1]),
        mean=mean,
        square=square,
        digest=digest(image),
        likeness=likeness(image),
    ), image


def _with_label(record: Record, cfg: FolderData, decoder: Decoder) -> tuple[Record, Mask | None]:
    path = cfg.root / record.label
    try:
        raw, mask = decoder.look(path)
    except InputError as error:
        return replace(record, label_fault=str(error)), None
    if raw is not None:
        values, colors, more = counted_raw(raw.array, raw.palette)
        record = replace(record, label_mode=raw.mode, label_format=raw.format, values=values, colors=colors, more=more)
    mask = aligned(mask, cfg.align)
    counts = counted_ids(mask)
    ids = [k for k in counts if k < len(decoder.classes)]
    return replace(
        record,
        decode_fault=_decode_fault(decoder, path) if UNKNOWN in counts else None,
        label_size=(mask.shape[0], mask.shape[1]),
        counts=counts,
        components=components(mask, ids),
        positions=sampled_positions(mask, ids),
        label_digest=digest(mask),
    ), mask


def _decode_fault(decoder: Decoder, path: Path) -> str | None:
    try:
        decoder.read(path)
    except InputError as error:
        return str(error)
    return None


def stamp_of(root: Path, pair: Pair) -> tuple[int, int, int, int]:
    """Bytes and mtime of both files: another stamp, another content."""
    stamps = []
    for name in pair:
        try:
            status = (root / name).stat()
            stamps += [status.st_size, status.st_mtime_ns]
        except OSError:
            stamps += [-1, -1]
    return stamps[0], stamps[1], stamps[2], stamps[3]
