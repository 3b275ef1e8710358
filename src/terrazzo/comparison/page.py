"""A comparison as a folder: report.html that opens offline, figures/ as vectors, tables/ for a paper."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from terrazzo.comparison.columns import Column
from terrazzo.comparison.figures import (
    Drawn,
    best_rows,
    classes_figure,
    confusion_figure,
    curves_figure,
    significance_figure,
    write_figure,
)
from terrazzo.comparison.samples import SampleGrid, cards, grid_figure
from terrazzo.comparison.seeds import SeedGroup, pairs_of, seed_groups
from terrazzo.comparison.table import Comparison, Row
from terrazzo.comparison.trades import COSTS, effects_figure, pareto_figure
from terrazzo.comparison.writing import (
    csv_text,
    footnotes,
    interval_text,
    json_text,
    latex_text,
    markdown_text,
    seeds_csv,
    shown_columns,
)
from terrazzo.files import write_text
from terrazzo.report.charts import chart_style, inline_svg
from terrazzo.report.html import render
from terrazzo.report.page import Number

PAGE = "report.html"
CONFUSIONS = 3
"""Runs whose confusion matrices are drawn."""
COMPARED = 8
"""Runs that are tested against each other."""
WIDE = ("curves", "effects", "classes")
SEED_COLUMNS = ("miou", "mdice", "accuracy", "loss", "train_loss", "val_loss", "runtime", "latency")
KINDS = (
    ("recipe", "hyperparameters", True),
    ("score", "scores", True),
    ("training", "training", True),
    ("cost", "cost", True),
    ("class", "IoU of classes", False),
)
"""Kinds of columns that the page can show and hide."""


def write_folder(out: Path, comparison: Comparison, samples: SampleGrid | str) -> list[Path]:
    """Write all of it; `samples` may be a sentence that says why there are none. The files, the page first."""
    groups = seed_groups(comparison)
    tables = {"runs.csv": csv_text(comparison), "runs.json": json_text(comparison)}
    tables |= {"runs.md": markdown_text(comparison), "runs.tex": latex_text(comparison)}
    if groups:
        tables["seeds.csv"] = seeds_csv(groups)
    paths = [out / PAGE]
    for name, text in tables.items():
        write_text(out / "tables" / name, text)
        paths.append(out / "tables" / name)
    with chart_style():
        drawn = figures_of(comparison)
        if isinstance(samples, SampleGrid) and (grid := grid_figure(samples)):
            paths += write_figure(out / "figures", grid)
        for one in drawn:
            paths += write_figure(out / "figures", one)
        pictures = [(one, inline_svg(one.figure, one.title)) for one in drawn]
    write_text(out / PAGE, render("compare.html.jinja", _values(comparison, groups, pictures, samples, out.name)))
    return paths


def figures_of(comparison: Comparison) -> list[Drawn]:
    """All that can be drawn of these runs; called within `chart_style`."""
    pairs = pairs_of(best_rows(comparison, COMPARED))
    best = best_rows(comparison, CONFUSIONS)
    figures = [
        curves_figure(comparison),
        effects_figure(comparison),
        *(pareto_figure(comparison, cost) for cost in COSTS),
        classes_figure(comparison),
        None if pairs is None else significance_figure(pairs),
        *(confusion_figure(row, n) for n, row in enumerate(best, start=1)),
    ]
    drawn = [figure for figure in figures if figure is not None]
    for one in drawn:
        one.figure.draw_without_rendering()
        one.figure.set_layout_engine("none")  # its place is found once, not for each of its files
    return drawn


def _values(
    comparison: Comparison,
    groups: Sequence[SeedGroup],
    pictures: Sequence[tuple[Drawn, str]],
    samples: SampleGrid | str,
    title: str,
) -> dict[str, Any]:
    columns = _page_columns(comparison)
    heads = [comparison.column(key) for key in SEED_COLUMNS if any(key in group.spreads for group in groups)]
    kinds = [kind for kind in KINDS if any(column.kind == kind[0] for column in columns)]
    return {
        "title": title,
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "headline": _headline(comparison),
        "columns": columns,
        "every": comparison.columns,
        "kinds": kinds,
        "hidden": " ".join(f"hide-{kind}" for kind, _, on in kinds if not on),
        "groups": _groups(comparison, columns),
        "notes": footnotes(comparison),
        "seeds_heads": [column.head for column in heads],
        "seeds": [_seed_row(group, heads) for group in groups],
        "figures": pictures,
        "wide": WIDE,
        "samples": cards(samples) if isinstance(samples, SampleGrid) else [],
        "samples_missing": samples if isinstance(samples, str) else "",
        "protocols": comparison.protocols,
    }


def _headline(comparison: Comparison) -> list[Number]:
    runs = {row.run.name: row.run for row in comparison.rows}
    done = sum(run.status == "finished" for run in runs.values())
    top = best_rows(comparison, 1)
    numbers = []
    if top:
        key = "miou" if top[0].protocol else "val_miou"
        value = top[0].values[key]
        score = value if isinstance(value, float) else None
        numbers.append(Number(f"best {comparison.column(key).title}", score, str(top[0].values["run"])))
    numbers.append(Number("runs", str(len(runs)), f"{done} finished" if done < len(runs) else "all finished"))
    if comparison.varied:
        hint = ", ".join(comparison.varied[:4]) + (", ..." if len(comparison.varied) > 4 else "")
        numbers.append(Number("keys that vary", str(len(comparison.varied)), hint))
    if len(comparison.protocols) > 1:
        hint = "rows of different ones are not ranked together"
        numbers.append(Number("protocols", str(len(comparison.protocols)), hint))
    return numbers


def _page_columns(comparison: Comparison) -> list[Column]:
    """What a table for people shows, and what can be shown on request; the reason stands below the name."""
    if comparison.shown:
        return [column for column in shown_columns(comparison) if column.key != "reason"]
    listed = {column.key for column in shown_columns(comparison)}
    listed |= {column.key for column in comparison.columns if column.kind == "class"}
    listed |= {"val_miou", "train_miou", "steps", "learned", "macc"}
    filled = {key for key in listed if any(row.values.get(key) is not None for row in comparison.rows)}
    return [
        column
        for column in comparison.columns
        if column.key in filled and column.key not in ("reason", "protocol", "status")
    ]


def _groups(comparison: Comparison, columns: Sequence[Column]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    differs = {group.letter: "; ".join(group.differs) for group in comparison.protocols}
    for n, row in enumerate(comparison.rows):
        title = f"Protocol {row.protocol}" if row.protocol else "Without a score"
        group = found.setdefault(row.protocol, {"title": title, "differs": differs.get(row.protocol, ""), "rows": []})
        group["rows"].append(_row(comparison, n, row, columns))
    return list(found.values())


def _row(comparison: Comparison, number: int, row: Row, columns: Sequence[Column]) -> dict[str, Any]:
    cells = []
    for column in columns[1:]:
        value = row.values.get(column.key)
        cells.append(
            {
                "kind": column.kind,
                "text": column.text(value),
                "value": "" if value is None else value,
                "best": (number, column.key) in comparison.best,
            }
        )
    status = "" if row.run.status == "finished" else row.run.status
    reason = row.values.get("reason") or ""
    return {"name": row.values["run"], "status": status, "reason": reason or (status and " "), "cells": cells}


def _seed_row(group: SeedGroup, heads: Sequence[Column]) -> dict[str, Any]:
    texts = [group.spreads[column.key].text(column) if column.key in group.spreads else "-" for column in heads]
    name = f"{group.protocol}: {group.name}"
    return {"name": name, "n": len(group.rows), "texts": texts, "interval": interval_text(group)}
