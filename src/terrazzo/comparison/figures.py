"""Figures of many runs, as vectors: curves, per-class bars, confusion matrices, who is better than whom."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.comparison.runs import Run, confusion_of
from terrazzo.comparison.seeds import Pairs
from terrazzo.comparison.table import Comparison, Row
from terrazzo.files import replacing
from terrazzo.infer.draw import short
from terrazzo.report.charts import COLORS, LOG_RATIO, new_figure, set_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIGHLIGHTED = 6
"""Runs that have a colour and a place in the legend of a plot of more; the others are thin grey lines."""
PALETTE = (
    *(COLORS[name] for name in ("line1", "line2", "line3", "line4")),
    *("#b08900", "#d0487e", "#5f8f2f", "#7a6a5a"),
)
"""Colours of lines; the first four have another shade on a dark page, all are seen on both."""
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), "-", "--")
"""A line is told by its dashes too, for colour-blind eyes and grey prints."""
POINTS = 40_000
"""Of all curves of a figure together; denser ones are drawn as means of equal parts."""
MOST_CLASSES = 40
"""Bars are drawn of so many classes, those in which the runs differ most."""
NAMED_CELLS = 24
LONGEST = 44
"""Letters of a run's name in a figure."""

CURVES = (
    *(("train/loss", "Train loss"), ("val/loss", "Validation loss")),
    *(("train/miou", "Train mean IoU"), ("val/miou", "Validation mean IoU")),
)

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure with its words."""

    name: str
    """Of its files."""
    title: str
    caption: str
    figure: "Figure"

    @property
    def width(self) -> int:
        """In CSS pixels; drawn wider, its letters would be too large."""
        return round(72 * float(self.figure.get_size_inches()[0]))


def write_figure(folder: Path, drawn: Drawn) -> list[Path]:
    """Write NAME.svg and NAME.pdf; called within `chart_style`."""
    paths = []
    for suffix in ("svg", "pdf"):
        path = folder / f"{drawn.name}.{suffix}"
        with replacing(path) as draft:
            stamp = {"CreationDate": None} if suffix == "pdf" else {"Date": None}
            drawn.figure.savefig(draft, format=suffix, metadata=stamp)
        paths.append(path)
    return paths


def best_rows(comparison: Comparison, count: int) -> list[Row]:
    """The best rows of the first protocol, or by validation where nothing was scored; one of each run."""
    letter = comparison.protocols[0].letter if comparison.protocols else ""
    key = "miou" if letter else "val_miou"
    found: dict[str, Row] = {}
    valued = [row for row in comparison.rows if row.protocol == letter and isinstance(row.values.get(key), float)]
    for row in sorted(valued, key=lambda row: -float(row.values[key] or 0)):
        found.setdefault(row.run.name, row)
    return [*found.values()][:count]


def labels_of(names: Sequence[str]) -> list[str]:
    """Runs' names as a figure shows them, all different: without a sweep's hash, cut in the middle, else numbered."""
    bare = [re.sub(r"-[0-9a-f]{8}$", "", " ".join(name.split())) for name in names]
    whole = bare if len(set(bare)) == len(set(names)) else [" ".join(name.split()) for name in names]
    cut = [name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 1]}…{name[-LONGEST // 2 :]}" for name in whole]
    if len(set(cut)) == len(set(names)):
        return cut
    return [f"{name} ({names.index(full) + 1})" for name, full in zip(cut, names, strict=True)]


def curves_figure(comparison: Comparison) -> Drawn | None:
    """Train and validation loss and mean IoU of all runs; None where nothing was logged."""
    runs = list({row.run.name: row.run for row in comparison.rows if row.run.curves}.values())
    if not runs:
        return None
    best = [row.run.name for row in best_rows(comparison, HIGHLIGHTED if len(runs) > len(PALETTE) else len(PALETTE))]
    if len(runs) <= len(PALETTE):
        best += [run.name for run in runs if run.name not in best]
    axis = _axis(runs)
    figure = new_figure(1216, 640)
    budget = max(20, POINTS // (4 * len(runs)))
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, CURVES, strict=True):
        _draw_curves(axes, runs, best, key, axis, budget)
        axes.set_title(title, loc="left")
        axes.set_xlabel(axis)
    _legend(figure, best, len(runs) - len(best))
    rest = len(runs) - len(best)
    caption = f"{len(runs)} runs" + (f"; the best {len(best)} in colour, {rest} others in grey" if rest else "")
    return Drawn("curves", "Curves", caption, figure)


def _axis(runs: Sequence[Run]) -> str:
    """Epochs where batches differ, so that the same place means the same number of images."""
    same = len({run.tree.get("batch") for run in runs}) == 1
    return "step" if same or not all("epoch" in line for run in runs for line in run.curves) else "epoch"


def _draw_curves(axes: "Axes", runs: Sequence[Run], best: Sequence[str], key: str, axis: str, budget: int) -> None:
    values: list[Points] = []
    for run in sorted(runs, key=lambda run: run.name in best):
        places, heights = _curve(run.curves, key, axis, budget)
        if not heights.size:
            continue
        values.append(heights)
        if run.name in best:
            n = best.index(run.name)
            mark = "o" if len(places) <= 15 else ""
            style: dict[str, Any] = {"color": PALETTE[n], "linestyle": DASHES[n], "linewidth": 1.8, "zorder": 20 - n}
            axes.plot(places, heights, marker=mark, markersize=3, **style)
        else:
            mark = "." if len(places) == 1 else ""
            axes.plot(places, heights, color=COLORS["muted"], linewidth=0.6, alpha=0.45, marker=mark, zorder=1)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    if not values:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "nothing logged", ha="center", transform=axes.transAxes, color=COLORS["muted"])
        return
    axes.set_xlim(left=0)
    _scale(axes, np.concatenate(values), key)


def _scale(axes: "Axes", values: Points, key: str) -> None:
    if key.endswith("/miou"):
        axes.set_ylim(bottom=0)
    elif values.min() > 0 and values.max() > LOG_RATIO * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda loss, _: f"{loss:g}")  # the usual one writes TeX
    elif len(values) > 20 and values.max() > 4 * np.quantile(values, 0.97):
        axes.set_ylim(top=float(1.2 * np.quantile(values, 0.97)))  # one run that exploded hides all others


def _curve(lines: Sequence[Mapping[str, Any]], key: str, axis: str, budget: int) -> tuple[Points, Points]:
    """One key's finite values over the axis, as means of `budget` equal parts where there are more."""
    points = [
        (line[axis], line[key])
        for line in lines
        if isinstance(line.get(key), int | float) and isinstance(line.get(axis), int | float)
    ]
    table = np.array([point for point in points if all(map(math.isfinite, point))], np.float64).reshape(-1, 2)
    if len(table) > budget:
        table = np.array([part.mean(0) for part in np.array_split(table, budget)])
    return table[:, 0], table[:, 1]


def _legend(figure: "Figure", best: Sequence[str], others: int) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=PALETTE[n], linestyle=DASHES[n], linewidth=1.8) for n in range(len(best))]
    names = labels_of(best)
    if others > 0:
        handles.append(Line2D([], [], color=COLORS["muted"], linewidth=0.6, alpha=0.7))
        names.append(f"{others} others")
    columns = 3 if max(map(len, names)) > 24 else 4
    legend = figure.legend(handles, names, loc="outside upper center", ncols=columns, frameon=False)
    set_fonts(legend.get_texts())


def classes_figure(comparison: Comparison) -> Drawn | None:
    """IoU of each class of the best runs, side by side; None without scores."""
    rows = [row for row in best_rows(comparison, 5) if row.scored is not None]
    names = list(dict.fromkeys(key for row in rows for key in row.values if key.startswith("iou/")))
    if not rows or not names:
        return None
    table = np.array([[_float(row.values.get(name)) for name in names] for row in rows])
    caption = "the best runs, best first"
    if len(names) > MOST_CLASSES:
        spread = np.nan_to_num(np.nanmax(np.nan_to_num(table), 0) - np.nanmin(np.nan_to_num(table), 0))
        chosen = sorted(np.argsort(-spread, kind="stable")[:MOST_CLASSES].tolist())
        table, names = table[:, chosen], [names[k] for k in chosen]
        caption += f"; the {MOST_CLASSES} classes in which they differ most"
    thick = 0.82 / len(rows)
    figure = new_figure(900, 90 + len(names) * max(22, 9 * len(rows)))
    axes = figure.subplots()
    labels = labels_of([row.run.name for row in rows])
    for n, label in enumerate(labels):
        places = np.arange(len(names)) - 0.41 + (n + 0.5) * thick
        axes.barh(places, np.nan_to_num(table[n]), height=0.9 * thick, color=PALETTE[n], label=label)
    for k in np.flatnonzero(np.isnan(table).all(0)).tolist():
        axes.text(0.01, k, "not in this split", va="center", color=COLORS["muted"])
    axes.set_yticks(range(len(names)), [short(name.removeprefix("iou/")) for name in names])
    set_fonts(axes.get_yticklabels())
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6), xlabel="IoU")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    legend = figure.legend(loc="outside upper center", ncols=2 if len(rows) > 2 else len(rows), frameon=False)
    set_fonts(legend.get_texts())
    return Drawn("classes", "IoU of each class", caption, figure)


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def confusion_figure(row: Row, number: int) -> Drawn | None:
    """The row-normalised confusion matrix of a run; None where its file does not hold one."""
    listed = None if row.scored is None else confusion_of(row.scored)
    names = [] if row.scored is None else [short(str(name)) for name in row.scored.scores["per_class"]]
    counts = np.array(listed if listed else [], np.float64)
    if counts.shape != (len(names), len(names)) or not names:
        return None
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    (title,) = labels_of([row.run.name])
    figure = _cells_figure(shares, names, names)
    axes = figure.axes[0]
    axes.set(xlabel="prediction", ylabel="truth")
    if len(names) <= NAMED_CELLS:
        for i, j in np.argwhere(shares >= 0.005).tolist():
            axes.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=8)
    return Drawn(f"confusion_{number}", f"Confusion: {title}", "% of the truth's pixels", figure)


def _cells_figure(strength: Points, rows: Sequence[str], columns: Sequence[str], most: float = 0.7) -> "Figure":
    """A matrix of squares of one colour, as opaque as `strength` (0..1) says: text on top stays legible on any page."""
    from matplotlib.colors import to_rgb

    count = max(len(rows), len(columns))
    side = max(11, min(40, 900 // count))
    left, below = (60 + 7 * max(map(len, names)) for names in (rows, columns))
    figure = new_figure(left + side * len(columns), below + side * len(rows))
    axes = figure.subplots()
    red, green, blue = to_rgb(COLORS["line1"])
    places = np.argwhere(np.nan_to_num(strength) >= 0.005)
    for i, j in places.tolist():
        shade = (red, green, blue, most * float(strength[i, j]) ** 0.8)
        axes.add_patch(_square(i, j, shade))
    size = min(10, side * 0.75)
    axes.set_xticks(range(len(columns)), columns, rotation=90 if max(map(len, columns)) > 3 else 0, fontsize=size)
    axes.set_yticks(range(len(rows)), rows, fontsize=size)
    set_fonts([*axes.get_xticklabels(), *axes.get_yticklabels()])
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), aspect="equal")
    axes.spines[["top", "right"]].set_visible(True)
    axes.tick_params(length=0)
    return figure


def _square(row: int, column: int, shade: tuple[float, float, float, float]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=shade, edgecolor="none")


def significance_figure(pairs: Pairs) -> Drawn:
    """Differences of the top rows' mean per-image mIoU, row minus column; a star where it is no chance."""
    numbers = [str(n) for n in range(1, len(pairs.rows) + 1)]
    labels = labels_of([row.run.name for row in pairs.rows])
    names = [f"{label}  {n}" for n, label in zip(numbers, labels, strict=True)]
    table = np.full((len(names), len(names)), np.nan)
    for (i, j), one in pairs.intervals.items():
        table[i, j], table[j, i] = one.difference, -one.difference
    most = float(np.nanmax(np.abs(table))) or 1.0
    strength = np.where(table > 0, table / most, 0.0)
    figure = _cells_figure(np.nan_to_num(strength), names, numbers)
    axes = figure.axes[0]
    for (i, j), one in pairs.intervals.items():
        star = "**" if (i, j) in pairs.certain else "*" if one.significant else ""
        for row, column, sign in ((i, j, 1), (j, i, -1)):
            text = f"{100 * sign * one.difference:+.1f}\n{star}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8)
    images = max(one.images for one in pairs.intervals.values())
    caption = (
        f"row minus column, mean of per-image mIoU over {images} images, in points; * the 95 % interval of the paired "
        f"bootstrap ({pairs.resamples} resamples) leaves out 0, ** still at 5 % for all {len(pairs.intervals)} pairs "
        "together (Holm). Other seeds of one recipe may differ more than other images"
    )
    return Drawn("significance", "Which differences are no chance", caption, figure)
