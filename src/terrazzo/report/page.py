"""What a run leaves for people: report.html, one file that opens offline, and its numbers as tables and pictures."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.base import IGNORE, Classes, Image, Mask
from terrazzo.data.colors import hex_of
from terrazzo.files import write_text
from terrazzo.infer import draw
from terrazzo.report import charts
from terrazzo.report.html import data_uri, fraction, render

if TYPE_CHECKING:
    from terrazzo.metrics import Scores

FRONT = 2
"""Best and worst images on the first screen, each."""
TOP_CONFUSIONS = 10
NUMBERED = 30
"""With more classes than this, the columns of the confusion matrix carry ids instead of names."""


@dataclass(frozen=True)
class Number:
    """One figure of the report; a float is shown with three decimals, None and nan as a dash."""

    label: str
    value: str | float | None
    hint: str = ""


@dataclass(frozen=True, eq=False)
class Panel:
    """One scored image."""

    name: str
    image: Image
    truth: Mask
    prediction: Mask
    score: float | None
    """mIoU of this image alone."""


@dataclass(frozen=True, eq=False)
class Panels:
    """The images a report shows: the best first, the worst first, and a fair choice."""

    best: Sequence[Panel] = ()
    worst: Sequence[Panel] = ()
    samples: Sequence[Panel] = ()


@dataclass(frozen=True, eq=False)
class Report:
    """All a report shows, as plain things; what is not there yet is left out."""

    title: str
    when: str
    classes: Classes
    headline: Sequence[Number] = ()
    """The score first."""
    curves: Sequence[Mapping[str, Any]] = ()
    """The lines of metrics.jsonl."""
    scores: Mapping[str, Any] | None = None
    """`metrics.Scores.as_dict`; None before the first validation."""
    confusion: NDArray[np.int64] | None = None
    """[K, K], rows are the truth."""
    panels: Panels = Panels()
    cost: Sequence[Number] = ()
    protocol: Mapping[str, object] | None = None
    config_yaml: str = ""
    environment: Mapping[str, object] | None = None
    notes: Sequence[str] = ()


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML file that asks for nothing else, atomically."""
    front = [*report.panels.best[:FRONT], *report.panels.worst[:FRONT]]
    values = {
        "report": report,
        "rows": [] if report.scores is None else _class_rows(report.scores, report.classes),
        "hexes": [hex_of(color) for color in report.classes.colors],
        "curves": charts.curves_svg(report.curves),
        "best": [_card(panel, report.classes) for panel in report.panels.best],
        "worst": [_card(panel, report.classes) for panel in report.panels.worst],
        "samples": [_card(panel, report.classes) for panel in report.panels.samples],
        "front": FRONT,
        "front_legend": draw.shares([m for panel in front for m in (panel.truth, panel.prediction)], report.classes),
        "front_ignored": any((panel.truth == IGNORE).any() for panel in front),
        "matrix": None if report.confusion is None else _matrix(report.confusion, report.classes),
        "confusions": [] if report.confusion is None else top_confusions(report.confusion),
        "wrong": hex_of(draw.WRONG_COLOR),
        "ignored": hex_of(draw.IGNORE_COLOR),
    }
    write_text(path, render("page.html.jinja", values))


def write_tables(folder: Path, scores: "Scores", classes: Classes, curves: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write scores as tables and pictures into a folder: classes.{csv,json,png}, confusion.{csv,png}, curves.png.

    curves.png is left out where no curves are given. Each file is atomic.
    """
    table: Mapping[str, Any] = scores.as_dict(classes)
    columns = ["iou", "acc", "precision", "dice", "pixels"]
    rows = [[name, *(table["per_class"][name][column] for column in columns)] for name in classes.names]
    write_text(folder / "classes.csv", _csv([["class", *columns], *rows]))
    write_text(folder / "classes.json", json.dumps(table, indent=2, ensure_ascii=False) + "\n")
    counts = np.asarray(scores.confusion)
    lines = [[name, *row] for name, row in zip(classes.names, counts.tolist(), strict=True)]
    write_text(folder / "confusion.csv", _csv([["truth \\ prediction", *classes.names], *lines]))
    charts.write_bars(folder / "classes.png", [table["per_class"][name]["iou"] for name in classes.names], classes)
    charts.write_confusion(folder / "confusion.png", row_shares(counts), classes)
    if curves:
        charts.write_curves(folder / "curves.png", curves)


def top_confusions(confusion: NDArray[np.int64]) -> list[tuple[int, int, float, int]]:
    """What is mistaken for what, the most pixels first: (truth, prediction, share of the truth's pixels, pixels)."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:TOP_CONFUSIONS]
    pairs = [(int(cell) // len(wrong), int(cell) % len(wrong)) for cell in order]
    return [(t, p, int(wrong[t, p]) / int(confusion[t].sum()), int(wrong[t, p])) for t, p in pairs if wrong[t, p]]


def row_shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each row divided by its sum, [K, K]; nan for a class without pixels in the truth."""
    totals = confusion.sum(axis=1, keepdims=True).astype(np.float64)
    shares: NDArray[np.float64] = np.divide(confusion, totals, out=np.full(confusion.shape, np.nan), where=totals > 0)
    return shares


def _class_rows(scores: Mapping[str, Any], classes: Classes) -> list[dict[str, Any]]:
    """The per-class table: the scores of each class, its id and its share of the truth's pixels."""
    table = scores["per_class"]
    pixels = max(1, sum(table[name]["pixels"] for name in classes.names))
    return [
        {"id": k, "name": name, "share": table[name]["pixels"] / pixels, **table[name]}
        for k, name in enumerate(classes.names)
    ]


def _matrix(confusion: NDArray[np.int64], classes: Classes) -> dict[str, Any]:
    """Sizes in pixels and the visible cells (row, column, share) of the confusion matrix's drawing."""
    count = len(classes)
    cell = min(56, max(7, 1040 // count))
    least = 0.005 if count <= 60 else 0.01  # keeps the page small where thousands of cells are almost empty
    values = np.nan_to_num(row_shares(confusion))
    places = np.argwhere(values >= least).tolist()
    labels = [name if len(name) <= 24 else name[:23] + "…" for name in map(draw.short, classes.names)]
    letters = min(12, cell)
    names = count <= NUMBERED
    longest = round(max(map(len, labels)) * letters * 0.62) + 12  # 0.62: a wide letter's width in heights
    return {
        "cell": cell,
        "side": cell * count + 1,
        "left": longest + (0 if names else 4 * letters),
        "top": longest if names else 2 * letters + 12,
        "labels": labels,
        "least": least,
        "letters": letters,
        "names": names,
        "cells": [(row, column, values[row, column]) for row, column in places],
    }


def _card(panel: Panel, classes: Classes) -> dict[str, Any]:
    """What the template needs of a scored image; pictures are data URIs."""
    errors = draw.error_map(panel.image, panel.truth, panel.prediction)
    return {
        "name": panel.name,
        "score": fraction(panel.score),
        "image": data_uri(draw.as_rgb(panel.image), "jpeg"),
        "truth": data_uri(draw.colorize(panel.truth, classes), "png"),
        "prediction": data_uri(draw.colorize(panel.prediction, classes), "png"),
        "errors": data_uri(errors, "jpeg"),
        "ignored": bool((panel.truth == IGNORE).any()),
        "legend": draw.shares([panel.truth, panel.prediction], classes),
    }


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
