"""The same images as the best runs see them: image | truth | prediction of each, as a grid for a paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import PIL.Image
from numpy.typing import NDArray

from terrazzo.base import Classes, Image, Mask
from terrazzo.comparison.figures import Drawn, labels_of
from terrazzo.data.colors import hex_of
from terrazzo.infer import draw
from terrazzo.report.charts import new_figure, set_fonts
from terrazzo.report.html import data_uri, fraction

LONGEST = 480
"""Pixels of a picture's longer side in a figure."""
LEGEND = 12


@dataclass(frozen=True, eq=False)
class SampleRow:
    """One image and what the runs say of it."""

    name: str
    image: Image
    truth: Mask
    predictions: Sequence[Mask]
    """In the order of the grid's runs."""
    scores: Sequence[float | None]
    """mIoU of this image alone."""


@dataclass(frozen=True, eq=False)
class SampleGrid:
    """Images by runs; or why there is none."""

    runs: Sequence[str]
    classes: Classes
    rows: Sequence[SampleRow]


def cards(grid: SampleGrid) -> list[dict[str, Any]]:
    """What the page's template needs: pictures as addresses, and the legend of what occurs."""
    listed = []
    for row in grid.rows:
        tiles = [{"source": data_uri(draw.as_rgb(row.image), "jpeg"), "label": "image"}]
        tiles.append({"source": data_uri(draw.colorize(row.truth, grid.classes), "png"), "label": "truth"})
        for run, mask, score in zip(labels_of(grid.runs), row.predictions, row.scores, strict=True):
            label = f"{run}: {fraction(score)}"
            tiles.append({"source": data_uri(draw.colorize(mask, grid.classes), "png"), "label": label})
        shares = draw.shares([row.truth, *row.predictions], grid.classes)[:LEGEND]
        legend = [(hex_of(grid.classes.colors[k]), grid.classes.names[k]) for k, _ in shares]
        listed.append({"name": row.name, "tiles": tiles, "legend": legend})
    return listed


def grid_figure(grid: SampleGrid) -> Drawn | None:
    """The grid as one figure; None without images."""
    if not grid.rows:
        return None
    heads = ["image", "truth", *labels_of(grid.runs)]
    height, width = grid.rows[0].image.shape[:2]
    side = 1180 / len(heads)
    figure = new_figure(1216, round(70 + len(grid.rows) * (side * height / width + 18)))
    for line, row in zip(figure.subplots(len(grid.rows), len(heads), squeeze=False), grid.rows, strict=True):
        masks = [draw.colorize(mask, grid.classes) for mask in (row.truth, *row.predictions)]
        for axes, picture in zip(line, [draw.as_rgb(row.image), *masks], strict=True):
            axes.imshow(_small(picture), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, score in zip(line[2:], row.scores, strict=True):
            axes.set_xlabel(f"mIoU {fraction(score)}", fontsize=8)
    for axes, head in zip(figure.axes[: len(heads)], heads, strict=True):
        axes.set_title(head, fontsize=8 if len(head) > 20 else 10)
    set_fonts([axes.title for axes in figure.axes[: len(heads)]])
    _legend(figure, grid)
    return Drawn("samples", "Samples", "image, truth, predictions", figure)


def _legend(figure: Any, grid: SampleGrid) -> None:
    from matplotlib.patches import Patch

    masks = [mask for row in grid.rows for mask in (row.truth, *row.predictions)]
    shares = draw.shares(masks, grid.classes)[: 2 * LEGEND]
    names = [draw.short(grid.classes.names[k]) for k, _ in shares]
    patches = [Patch(facecolor=hex_of(grid.classes.colors[k])) for k, _ in shares]
    legend = figure.legend(patches, names, loc="outside lower center", ncols=min(8, max(1, len(names))), frameon=False)
    set_fonts(legend.get_texts())


def _small(picture: Image) -> NDArray[Any] | PIL.Image.Image:
    found = PIL.Image.fromarray(picture)
    found.thumbnail((LONGEST, LONGEST), PIL.Image.Resampling.NEAREST)
    return found
