"""Charts of a data set: what each class amounts to in every split, and how large the images are."""

from collections import Counter
from collections.abc import Sequence
from math import ceil, floor, log10
from typing import TYPE_CHECKING

import numpy as np

from terrazzo.base import Split
from terrazzo.check.statistics import ClassStatistics, Statistics
from terrazzo.infer.draw import short
from terrazzo.report.charts import COLORS, chart_style, inline_svg, new_figure, set_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPLIT_COLORS: dict[Split, str] = {"train": COLORS["line1"], "val": COLORS["line2"], "test": COLORS["line3"]}
CELLS = 200
"""Sizes that fall into one of so many cells of a side share a dot."""
CROWDED = 40
"""With more classes than this, their rows are drawn closer together, and the axes named below them too."""


def classes_svg(found: Statistics) -> str:
    """One row a class: its share of the pixels and of the images in every split, and how large its regions are."""
    row = 22 if len(found.classes) <= CROWDED else 15
    with chart_style():
        figure = new_figure(1216, 72 + row * len(found.classes))
        shares, images, regions = figure.subplots(1, 3, sharey=True, width_ratios=(4, 3, 4))
        _draw_shares(shares, found)
        _draw_images(images, found)
        _draw_regions(regions, found.classes)
        for axes in (shares, images, regions):
            axes.grid(axis="both")
            axes.set_axisbelow(True)
            axes.xaxis.tick_top()
            axes.tick_params(length=0, labelbottom=len(found.classes) > CROWDED)
            axes.spines["bottom"].set_visible(False)
            axes.spines["left"].set_visible(False)
        shares.set_yticks(range(len(found.classes)), [short(each.name) for each in found.classes])
        shares.set_ylim(len(found.classes) - 0.4, -0.6)
        set_fonts(shares.get_yticklabels())
        _draw_legend(figure, shares, found)
        return inline_svg(figure, "Shares of pixels and images, and sizes of regions, for each class")


def sizes_svg(found: Statistics) -> str:
    """Width and height of the images, a larger dot for more of them, and the suggested crop. There must be some."""
    with chart_style():
        figure = new_figure(590, 270)
        axes = figure.subplots()
        side = 1.15 * max(max(size.width, size.height) for size in found.sizes)
        cell = side / CELLS
        dots: Counter[tuple[float, float]] = Counter()
        for size in found.sizes:
            dots[round(size.width / cell) * cell, round(size.height / cell) * cell] += size.images
        (widths, heights), images = zip(*dots, strict=True), np.array(list(dots.values()))
        areas = 16 + 240 * images / images.max()
        axes.scatter(widths, heights, areas, COLORS["line1"], alpha=0.65, linewidths=0)
        if found.crop is not None:
            height, width = found.crop
            axes.plot([0, width, width], [height, height, 0], "--", color=COLORS["line2"], linewidth=1.2)
            axes.text(side / 80, height - side / 60, f"crop {width} × {height}", color=COLORS["line2"], va="top")
        axes.set(xlim=(0, side), ylim=(0, side), aspect="equal", xlabel="width", ylabel="height")
        axes.grid()
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        return inline_svg(figure, "Sizes of the images")


def _draw_shares(axes: "Axes", found: Statistics) -> None:
    """On a logarithmic axis, for a class of 0.1 % matters as much as one of 30 %."""
    shares = [share for each in found.classes for share in each.shares.values() if share]
    least = 10.0 ** floor(log10(min(shares, default=0.1)))
    axes.set_title("Share of the labelled pixels", loc="left")
    axes.set_xscale("log")
    absent = least / 5
    axes.set_xlim(absent / 1.4, 1.2)
    decades = [10.0**power for power in range(round(log10(least)), 1)]
    axes.set_xticks([absent, *decades], ["none", *(f"{100 * share:g} %" for share in decades)])
    axes.minorticks_off()
    splits = [split.split for split in found.splits]
    _draw_dots(axes, found, {s: [each.shares[s] or absent for each in found.classes] for s in splits})


def _draw_images(axes: "Axes", found: Statistics) -> None:
    axes.set_title("Share of the images that show it", loc="left")
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    images = {split.split: split.images for split in found.splits}
    _draw_dots(axes, found, {s: [each.images[s] / number for each in found.classes] for s, number in images.items()})


def _draw_dots(axes: "Axes", found: Statistics, values: dict[Split, list[float]]) -> None:
    """A dot for every class and split; hollow where the split does not show the class."""
    rows = range(len(found.classes))
    if values:
        ends = np.array(list(values.values()))
        axes.hlines(rows, ends.min(0), ends.max(0), color=COLORS["muted"], linewidth=1.2)
    for split, places in values.items():
        faces = [SPLIT_COLORS[split] if each.images[split] else "none" for each in found.classes]
        axes.scatter(places, rows, 36, faces, edgecolors=SPLIT_COLORS[split], clip_on=False, zorder=3)


def _draw_regions(axes: "Axes", classes: Sequence[ClassStatistics]) -> None:
    axes.set_title("Size of a region in pixels", loc="left")
    rows = [k for k, each in enumerate(classes) if each.regions is not None]
    found = [each.regions for each in classes if each.regions is not None]
    largest = [regions.largest for regions in found]
    axes.set_xscale("log")
    decades = [10**power for power in range(ceil(log10(max(largest, default=10) + 1)) + 1)]
    axes.set_xlim(0.7, decades[-1])
    axes.set_xticks(decades, [f"{pixels:,}".replace(",000", "k").replace("kk", "M") for pixels in decades])
    axes.minorticks_off()
    color = COLORS["line4"]
    axes.hlines(rows, [r.small for r in found], [r.large for r in found], color=color, linewidth=5, alpha=0.45)
    axes.scatter([r.median for r in found], rows, 36, color, zorder=3)
    axes.scatter(largest, rows, 81, color, marker="|", linewidths=1.6)


def _draw_legend(figure: "Figure", axes: "Axes", found: Statistics) -> None:
    from matplotlib.lines import Line2D

    def entry(label: str, marker: str, color: str, face: str) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, color=color, markerfacecolor=face, label=label)

    dots = [entry(split.split, "o", SPLIT_COLORS[split.split], SPLIT_COLORS[split.split]) for split in found.splits]
    absent = entry("not in this split", "o", COLORS["muted"], "none")
    median = entry("median region (the bar: 10 to 90 % of the images)", "o", COLORS["line4"], COLORS["line4"])
    largest = entry("largest", "|", COLORS["line4"], COLORS["line4"])
    figure.legend(
        handles=[*dots, absent, median, largest],
        loc="outside lower left",
        ncols=len(dots) + 3,
        frameon=False,
        handletextpad=0.3,
        columnspacing=1.6,
    )
