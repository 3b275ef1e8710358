"""What a check of labels leaves for people: one HTML page that opens offline: verdicts, pictures and statistics."""

import base64
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from terrazzo.base import IGNORE, Classes, Image, InputError, Mask
from terrazzo.check.record import Record
from terrazzo.check.statistics import Statistics
from terrazzo.check.verdict import SEVERITIES, Verdict
from terrazzo.data.colors import hex_of
from terrazzo.data.folder import FolderData, aligned
from terrazzo.data.inventory import Inventory
from terrazzo.data.labels import Decoder
from terrazzo.data.pixels import UNKNOWN, read_image
from terrazzo.files import write_text
from terrazzo.infer import draw
from terrazzo.report.html import data_uri, render
from terrazzo.report.label_charts import classes_svg, sizes_svg

SHOWN = 6
"""Images of a verdict that are shown."""
LISTED = 500
"""Files of a verdict that are named."""
SIDE = 520
"""Longest side of a picture in pixels. A label is drawn at this size, so that its outlines stay one pixel wide."""
TINT = 0.4
"""How much of a region's colour lies over the image."""
UNKNOWN_COLOR = draw.WRONG_COLOR
"""Pixels that the recipe's decoding does not know."""


@dataclass(frozen=True, eq=False)
class LabelReport:
    """All that the page is made of."""

    title: str
    when: str
    recipe: str
    """What stands after `terrazzo train`, quoted as a shell needs it."""
    data: FolderData
    """How the files of the pictures are read."""
    found: Inventory
    records: Sequence[Record]
    verdicts: Sequence[Verdict]
    """The worst first."""
    statistics: Statistics

    @cached_property
    def decoder(self) -> Decoder:
        return Decoder(self.data.classes, self.data.decode, self.data.remap)

    @property
    def classes(self) -> Classes:
        return self.decoder.classes

    @cached_property
    def pairs(self) -> dict[str, tuple[str | None, str | None]]:
        """Every file -> the image and the label that it stands for; None where one is missing."""
        pairs: dict[str, tuple[str | None, str | None]] = {file: (file, None) for file in self.found.unlabelled}
        pairs |= {file: (None, file) for file in self.found.orphans}
        for record in self.records:
            pairs[record.image] = pairs[record.label] = record.image, record.label
        return pairs


def write_label_report(path: Path, report: LabelReport) -> None:
    """Write the report as one HTML file that asks for nothing else, atomically."""
    found = report.statistics
    values = {
        "report": report,
        "severities": [(each, sum(v.severity == each for v in report.verdicts)) for each in SEVERITIES],
        "verdicts": [_verdict(verdict, report) for verdict in report.verdicts],
        "hexes": [hex_of(color) for color in report.classes.colors],
        "unknown": hex_of(UNKNOWN_COLOR),
        "ignored": hex_of(draw.IGNORE_COLOR),
        "classes_chart": classes_svg(found),
        "sizes_chart": sizes_svg(found) if len(found.sizes) > 1 else None,
        "most": {split.split: max(each.shares[split.split] for each in found.classes) for split in found.splits},
        "tables": {name: _text_uri(text) for name, text in found.tables().items()},
    }
    write_text(path, render("labels.html.jinja", values))


def _verdict(verdict: Verdict, report: LabelReport) -> dict[str, Any]:
    """What the template needs of a verdict."""
    pictures = [_card(report, image, label) for image, label in _first_pairs(verdict, report)]
    ids = {k for card in pictures for k in card["ids"]}
    return {
        "verdict": verdict,
        "command": f"terrazzo train {report.recipe} {shlex.join(verdict.fix)}" if verdict.fix else "",
        "pictures": pictures,
        "legend": sorted(ids - {IGNORE, UNKNOWN}),
        "ignored": IGNORE in ids,
        "unknown": UNKNOWN in ids,
        "files": verdict.files[:LISTED],
        "more": max(0, len(verdict.files) - LISTED),
    }


def _first_pairs(verdict: Verdict, report: LabelReport) -> Iterator[tuple[str | None, str | None]]:
    """The first images and labels that a verdict's files belong to; list files and folders show nothing."""
    pairs = dict.fromkeys(report.pairs[file] for file in verdict.files if file in report.pairs)
    yield from list(pairs)[:SHOWN]


def _card(report: LabelReport, image_file: str | None, label_file: str | None) -> dict[str, Any]:
    """Two tiles, the image and its label over it, or in words why there is none; and the ids that the label shows."""
    data, classes = report.data, report.classes
    image: Image | None = None
    mask: Mask | None = None
    words = ["no image" if image_file is None else "", "no label" if label_file is None else ""]
    try:
        image = None if image_file is None else read_image(data.root / image_file, data.exif)
    except InputError:
        words[0] = "the image cannot be read"
    try:
        mask = None if label_file is None else aligned(report.decoder.look(data.root / label_file).mask, data.align)
    except InputError:
        words[1] = "the label cannot be read"
    sizes = ""
    if image is not None and mask is not None and image.shape[:2] != mask.shape:
        (height, width), (rows, columns) = image.shape[:2], mask.shape
        sizes = f"image {width} × {height}, label {columns} × {rows}"
    return {
        "name": image_file or label_file,
        "sizes": sizes,
        "tiles": [
            ("image", words[0] if image is None else data_uri(_smaller(image), "jpeg", SIDE)),
            ("label", words[1] if mask is None else data_uri(_seen(image, mask, classes), "jpeg", SIDE)),
        ],
        "ids": [] if mask is None else np.flatnonzero(np.bincount(mask.reshape(-1), minlength=256)).tolist(),
    }


def _seen(image: Image | None, mask: Mask, classes: Classes) -> Image:
    """The label over its image, at most SIDE pixels long: regions tinted and outlined, ignored pixels pale.

    Alone where there is no image of its size.
    """
    small = _smaller(mask)
    colors = draw.colorize(small, classes)
    colors[small == UNKNOWN] = UNKNOWN_COLOR
    if image is None or image.shape[:2] != mask.shape:
        return colors
    below = _smaller(image)
    grey = cv2.cvtColor(below, cv2.COLOR_RGB2GRAY)[..., None]
    below = np.where((small == IGNORE)[..., None], grey, below)
    seen = np.asarray(cv2.addWeighted(below, 1 - TINT, colors, TINT, 0), np.uint8)
    outline = (small != cv2.erode(small, np.ones((3, 3), np.uint8))) | (small == UNKNOWN)
    seen[outline] = colors[outline]
    return seen


def _smaller(picture: Image | Mask) -> Image:
    """At most SIDE pixels long: an image [H, W, C] by averaging areas, a mask [H, W] by its nearest pixels."""
    height, width = picture.shape[:2]
    factor = SIDE / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    method = cv2.INTER_NEAREST_EXACT if picture.ndim == 2 else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)


def _text_uri(text: str) -> str:
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"
