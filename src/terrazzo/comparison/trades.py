"""Figures of what a choice brings and what it costs: hyperparameter effects, and mIoU against latency or size."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from terrazzo.comparison.figures import PALETTE, Drawn, labels_of
from terrazzo.comparison.table import Comparison, Row
from terrazzo.infer.draw import short
from terrazzo.report.charts import COLORS, new_figure, set_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

MOST_PANELS = 12
DECADES = 20
"""Values that span more than this factor get a logarithmic axis."""
MOST_NAMED = 12
"""Points of a plot that all have their names; in a fuller one only those of the front have."""
COSTS = ("latency", "gmacs", "parameters")


Point = tuple[float, float]
"""Cost and score."""


def effects_figure(comparison: Comparison) -> Drawn | None:
    """The score against each varied key; None where nothing varied or nothing was scored."""
    rows, key, title = _scored_rows(comparison)
    keys = [name for name in comparison.varied if len({row.values.get(name) for row in rows} - {None}) > 1]
    keys = [name for name in keys if name != "seed"] or keys
    if not keys or len(rows) < 2:
        return None
    left_out = max(0, len(keys) - MOST_PANELS)
    keys = sorted(sorted(keys, key=lambda name: -_effect(rows, name, key))[:MOST_PANELS], key=keys.index)
    wide = min(3, len(keys))
    high = math.ceil(len(keys) / wide)
    figure = new_figure(1216 if wide == 3 else 460 * wide, 250 * high)
    panels = figure.subplots(high, wide, squeeze=False, sharey=True).flat
    for name, axes in zip(keys, panels, strict=False):  # the keys first: what is left of the panels has none
        _draw_effect(axes, rows, name, key)
    for axes in [*panels]:
        axes.set_axis_off()
    for axes in figure.axes[::wide][:high]:
        axes.set_ylabel(title)
    rest = f"; {left_out} keys with smaller effects are left out" if left_out else ""
    caption = f"a dot is a run, a line joins the means of equal values; the other keys vary too{rest}"
    return Drawn("effects", "What each hyperparameter does", caption, figure)


def _scored_rows(comparison: Comparison) -> tuple[list[Row], str, str]:
    """Rows of the first protocol with a score, and its column; by validation where nothing was scored."""
    letter = comparison.protocols[0].letter if comparison.protocols else ""
    key = "miou" if letter else "val_miou"
    rows = [row for row in comparison.rows if row.protocol == letter and isinstance(row.values.get(key), float)]
    return rows, key, comparison.column(key).title


def _effect(rows: Sequence[Row], name: str, key: str) -> float:
    """Variance of the means of equal values: how much this key moves the score."""
    means = [mean for _, mean in _means(rows, name, key)]
    return float(np.var(means))


def _means(rows: Sequence[Row], name: str, key: str) -> list[tuple[Any, float]]:
    found: dict[Any, list[float]] = {}
    for row in rows:
        if (value := row.values.get(name)) is not None:
            found.setdefault(value, []).append(float(row.values[key] or 0))
    return [(value, float(np.mean(scores))) for value, scores in found.items()]


def _draw_effect(axes: "Axes", rows: Sequence[Row], name: str, key: str) -> None:
    points = [(value, float(row.values[key] or 0)) for row in rows if (value := row.values.get(name)) is not None]
    numeric = [value for value, _ in points if isinstance(value, int | float)]
    means = _means(rows, name, key)
    style: dict[str, Any] = {"color": PALETTE[0], "alpha": 0.5, "s": 18, "linewidths": 0}
    if len(numeric) == len(points):
        axes.scatter(numeric, [score for _, score in points], **style)
        line = sorted(means)
        axes.plot(*zip(*line, strict=True), color=PALETTE[1], linewidth=1.8, marker="_", markersize=12)
        if min(numeric) > 0 and max(numeric) >= DECADES * min(numeric):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # the usual one writes TeX
        if len(line) <= 6:
            axes.set_xticks([value for value, _ in line], [f"{value:g}" for value, _ in line])
            axes.minorticks_off()
    else:
        names = sorted({str(value) for value, _ in points})
        seen: Counter[str] = Counter()
        places = []
        for value, _ in points:
            seen[str(value)] += 1
            shift = 0.3 * (0.6180339887 * seen[str(value)] % 1 - 0.5)  # spread evenly, the same every time
            places.append(names.index(str(value)) + shift)
        axes.scatter(places, [score for _, score in points], **style)
        for value, mean in means:
            at = names.index(str(value))
            axes.plot([at - 0.25, at + 0.25], [mean, mean], color=PALETTE[1], linewidth=2)
        crowded = max(map(len, names)) * len(names) > 36
        axes.set_xticks(range(len(names)), [short(text)[:22] for text in names], rotation=20 if crowded else 0)
        for tick in axes.get_xticklabels() if crowded else []:
            tick.set_horizontalalignment("right")
        axes.set_xlim(-0.6, len(names) - 0.4)
        set_fonts(axes.get_xticklabels())
    axes.set_title(name, loc="left")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelleft=True)


def pareto_figure(comparison: Comparison, cost: str) -> Drawn | None:
    """mIoU against a cost with the front drawn; None where fewer than two runs have both."""
    rows, key, title = _scored_rows(comparison)
    column = comparison.column(cost)
    rows = [row for row in rows if isinstance(row.values.get(cost), float)]
    kinds = Counter(row.likes[column.like] for row in rows)
    if not kinds or kinds.most_common(1)[0][1] < 2:
        return None
    common = kinds.most_common(1)[0][0]
    alike = [row for row in rows if row.likes[column.like] == common]
    points = [(float(row.values[cost] or 0), float(row.values[key] or 0)) for row in alike]
    front = pareto_front(points)
    figure = new_figure(600, 400)
    axes = figure.subplots()
    steps = sorted(points[n] for n in front)
    axes.plot(*zip(*steps, strict=True), color=PALETTE[1], linewidth=1.6, drawstyle="steps-post", zorder=2)
    colors = [PALETTE[1] if n in front else PALETTE[0] for n in range(len(points))]
    costs, scores = [x for x, _ in points], [y for _, y in points]
    axes.scatter(costs, scores, s=30, c=colors, linewidths=0, alpha=0.8, zorder=3)
    if min(costs) > 0 and max(costs) >= DECADES * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel=column.head, ylabel=title)
    axes.margins(0.12)
    axes.grid()
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    named = range(len(points)) if len(points) <= MOST_NAMED else sorted(front)
    labels = labels_of([row.run.name for row in alike])
    unnamed = _name_points(axes, points, {n: labels[n] for n in named}, steps)
    caption = "the front: no other run is better and cheaper"
    if dropped := len(rows) - len(alike):
        caption += f"; {dropped} runs measured under other conditions are left out"
    if unnamed:
        caption += f"; {unnamed} name{'s' * (unnamed > 1)} had no room"
    return Drawn(f"pareto_{cost}", f"{title} against {column.title}", caption, figure)


def pareto_front(points: Sequence[Point]) -> set[int]:
    """Points (cost, score) that no other one beats: none is as good and cheaper, or better and as cheap."""
    return {
        n
        for n, (cost, score) in enumerate(points)
        if not any((c <= cost and s > score) or (c < cost and s >= score) for c, s in points)
    }


def _name_points(axes: "Axes", points: Sequence[Point], names: Mapping[int, str], steps: Sequence[Point]) -> int:
    """Write names beside points where they cover no point, no other name and not the front; how many had no place."""
    figure = axes.figure
    figure.get_figure(root=True).draw_without_rendering()  # places and sizes are known after a first drawing
    places = axes.transData.transform(np.array(points))
    frame = axes.get_window_extent()
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places.tolist()]
    corners = axes.transData.transform(np.array(steps)).tolist()
    for (x, y), (right, top) in pairwise(corners):
        taken += [(x + 5, y - 1, right, y + 1), (right - 1, y, right + 1, top - 5)]
    missing = 0
    for n, name in sorted(names.items(), key=lambda item: -points[item[0]][1]):
        label = axes.annotate(
            name, points[n], xytext=(0, 0), textcoords="offset points", fontsize=8.5, annotation_clip=False
        )
        set_fonts([label])
        box = _free_box(label, taken, (frame.x0, frame.y0, frame.x1, frame.y1))
        if box is None:
            label.remove()
            missing += 1
        else:
            taken.append(box)
    return missing


_AROUND: tuple[tuple[float, float, Literal["left", "center", "right"]], ...] = (
    *((7, -3, "left"), (-7, -3, "right"), (0, 7, "center"), (0, -14, "center")),
    *((6, 7, "left"), (-6, 7, "right"), (6, -14, "left"), (-6, -14, "right")),
)
OFFSETS = [(dx * far, dy * far, side) for far in (1, 2, 3.5, 6, 9) for dx, dy, side in _AROUND]
"""Places of a name around its point, in points, nearest first, and how it is aligned there."""


def _free_box(
    label: "Annotation", taken: Sequence[tuple[float, ...]], frame: tuple[float, ...]
) -> tuple[float, float, float, float] | None:
    """Move a label to the first of OFFSETS where it is inside the frame and covers nothing; its box there."""
    for x, y, side in OFFSETS:
        label.set_position((x, y))
        label.set_horizontalalignment(side)
        found = label.get_window_extent()
        box = (found.x0 - 1, found.y0 - 1, found.x1 + 1, found.y1 + 1)
        inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
        if inside and not any(_overlap(box, other) for other in taken):
            if math.hypot(x, y) > 14:
                _add_leader(label)
            return box
    return None


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _add_leader(label: "Annotation") -> None:
    """A label that moved away is joined to its point."""
    arrow: dict[str, Any] = {"arrowstyle": "-", "color": COLORS["muted"], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
    axes = label.axes
    assert axes is not None
    axes.add_artist(
        type(label)("", label.xy, xytext=label.get_position(), textcoords="offset points", arrowprops=arrow)
    )
