"""Charts of a run, by Matplotlib without its global state: curves, IoU bars, the confusion matrix."""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.base import Classes
from terrazzo.files import replacing
from terrazzo.infer.draw import font_file, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

COLORS = {
    "ink": "#1a2027",
    "muted": "#566270",
    "grid": "#dde3ea",
    "line1": "#1f66c1",
    "line2": "#c2500a",
    "line3": "#0b7f6f",
    "line4": "#8a3fb0",
}
"""In PNG files; in the report its style sheet has the same names and decides."""
LOG_RATIO = 30
"""A loss that falls by more than this factor is drawn on a logarithmic axis."""
NAMED_CELLS = 24
"""Up to so many classes the confusion matrix has its numbers written in."""

BINS = 250
"""A curve of more than twice as many points is drawn as the mean and the range of so many parts."""

Points = NDArray[np.float64]
Line = tuple[str, Points, Points]
"""Label, steps, values."""


def curves_svg(curves: Sequence[Mapping[str, Any]]) -> str:
    """Loss, mean IoU and learning rate over the steps as inline SVG in the page's own colours."""
    with chart_style():
        return inline_svg(_curves_figure(curves, 1216, 220), "Loss, mean IoU and learning rate over the steps")


def write_curves(path: Path, curves: Sequence[Mapping[str, Any]]) -> None:
    """The curves as a PNG file."""
    with chart_style():
        _save(_curves_figure(curves, 1216, 320), path)


def write_rate_test(
    path: Path, rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float], chosen: float
) -> None:
    """Losses over the learning rates of a range test as a PNG file; `chosen` is marked."""
    with chart_style():
        figure = new_figure(760, 380)
        axes = figure.subplots()
        axes.plot(rates, losses, color=COLORS["grid"], label="loss of the step")
        axes.plot(rates, smooth, color=COLORS["line1"], label="running mean")
        axes.axvline(chosen, color=COLORS["line2"], linestyle="--", label=f"steepest fall: {chosen:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        narrow = rates[-1] < 10 * rates[0]
        axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")  # the usual one writes TeX
        axes.xaxis.set_minor_formatter(lambda rate, _: f"{rate:g}" if narrow else "")
        top = max(smooth) + 0.2 * (max(smooth) - min(smooth))
        axes.set_ylim(min(*losses, *smooth), max(top, min(smooth) + 1e-9))
        axes.legend(frameon=False)
        _save(figure, path)


def write_bars(path: Path, iou: Sequence[float | None], classes: Classes) -> None:
    """The IoU of each class as a bar in a PNG file; None (no such class in the split) has no bar."""
    with chart_style():
        figure = new_figure(760, 80 + 24 * len(classes))
        axes = figure.subplots()
        values = [0.0 if value is None else value for value in iou]
        axes.barh(range(len(classes)), values, height=0.7, color=COLORS["line1"])
        for k, value in enumerate(iou):
            axes.text(values[k] + 0.01, k, "not in this split" if value is None else f"{value:.3f}", va="center")
        axes.set_yticks(range(len(classes)), [short(name) for name in classes.names])
        set_fonts(axes.get_yticklabels())
        axes.set(xlim=(0, 1.12), ylim=(len(classes) - 0.4, -0.6), xlabel="IoU")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.tick_params(left=False)
        _save(figure, path)


def write_confusion(path: Path, shares: NDArray[np.float64], classes: Classes) -> None:
    """The row-normalised confusion matrix [K, K] as a PNG file; a class without truth (nan) has an empty row."""
    count = len(classes)
    side = max(12, min(46, 2200 // count))
    with chart_style():
        figure = new_figure(300 + side * count, 240 + side * count)
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        names = [short(name) for name in classes.names]
        size = min(10, side * 0.7)
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
        set_fonts([*axes.get_xticklabels(), *axes.get_yticklabels()])
        axes.set(xlabel="prediction", ylabel="truth")
        axes.set_title("Share of the truth's pixels", loc="left")
        if count <= NAMED_CELLS:
            for row, column in np.argwhere(shares >= 0.005).tolist():
                share = shares[row, column]
                color = "white" if share > 0.65 else COLORS["ink"]
                axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=color, fontsize=8)
        _save(figure, path)


def _curves_figure(curves: Sequence[Mapping[str, Any]], width: int, height: int) -> "Figure":
    loss = [_line(curves, "train", "train/loss"), _line(curves, "val", "val/loss")]
    miou = [_line(curves, "train", "train/miou"), _line(curves, "val", "val/miou")]
    if (best := miou[1])[2].size:
        miou[1] = (f"val (best {best[2].max():.3f})", best[1], best[2])
    figure = new_figure(width, height)
    figure.set_layout_engine(
        "constrained", wspace=0.04
    )  # the last step's number and the next chart's first would touch
    left, middle, right = figure.subplots(1, 3)
    _draw_lines(left, "Loss", loss)
    _draw_lines(middle, "Mean IoU", miou)
    _draw_lines(right, "Learning rate", _rates(curves))
    right.yaxis.set_major_formatter(
        lambda rate, _: f"{rate:.1e}".replace(".0e", "e").replace("e-0", "e-") if rate else "0"
    )
    for axes in (middle, right):
        axes.set_ylim(bottom=0)
    losses = np.concatenate([values for _, _, values in loss])
    if losses.size and losses.min() > 0 and losses.max() > LOG_RATIO * losses.min():
        left.set_yscale("log")
        left.yaxis.set_major_formatter(lambda loss, _: f"{loss:g}")  # the usual one writes TeX
    if best[2].size:
        peak = int(best[2].argmax())
        middle.plot(best[1][peak], best[2][peak], "o", markersize=8, fillstyle="none", color=COLORS["line2"])
    return figure


def _line(curves: Sequence[Mapping[str, Any]], label: str, key: str) -> Line:
    """One key's finite values; lines of metrics.jsonl need not have it."""
    points = [(line["step"], line[key]) for line in curves if line.get(key) is not None and math.isfinite(line[key])]
    table = np.array(points, np.float64).reshape(-1, 2)
    return label, table[:, 0], table[:, 1]


def _rates(curves: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The learning rates; groups that share one all along share a line."""
    keys = dict.fromkeys(key for line in curves for key in line if key.startswith("lr/"))
    shared: dict[bytes, tuple[list[str], Line]] = {}
    for key in keys:
        line = _line(curves, key.removeprefix("lr/").removesuffix("/no_decay"), key)
        names, _ = shared.setdefault(line[2].tobytes(), ([], line))
        if line[0] not in names:
            names.append(line[0])
    return [(short(", ".join(names)), steps, values) for names, (_, steps, values) in shared.values()]


def _draw_lines(axes: "Axes", title: str, lines: Sequence[Line]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    colors = [COLORS[name] for name in ("line1", "line2", "line3", "line4")]
    shown = [line for line in lines if line[1].size]
    for n, (label, steps, values) in enumerate(shown):
        color = colors[[label for label, *_ in lines].index(label) % len(colors)]
        if len(steps) > 2 * BINS:
            steps, values, low, high = _binned(steps, values)
            axes.fill_between(steps, low, high, color=color, alpha=0.22, linewidth=0)
        marker = "o" if len(steps) <= 25 else ""
        axes.plot(steps, values, marker=marker, markersize=3.5, linewidth=1.6, color=color, label=label, zorder=3 + n)
    if not shown:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "nothing logged yet", ha="center", transform=axes.transAxes, color=COLORS["muted"])
        return
    axes.set_xlim(0, max(1.0, 1.02 * max(steps.max() for _, steps, _ in shown)))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step >= 10_000 else f"{step:g}")
    axes.set_xlabel("step")
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=len(shown), frameon=False, borderaxespad=0, handlelength=1.2
    )


def _binned(steps: Points, values: Points) -> tuple[Points, Points, Points, Points]:
    """Mean step, mean, least and greatest value of BINS equal parts of a long curve."""
    parts = np.array_split(values, BINS)
    means, lows, highs = ([float(of(part)) for part in parts] for of in (np.mean, np.min, np.max))
    middles = [float(part.mean()) for part in np.array_split(steps, BINS)]
    return np.array(middles), np.array(means), np.array(lows), np.array(highs)


def new_figure(width: int, height: int) -> "Figure":
    """A figure of `width` x `height` CSS pixels (an SVG has 72 to the inch); as PNG twice as fine where it is small."""
    from matplotlib.figure import Figure

    dpi = 144 if max(width, height) <= 1600 else 72
    return Figure(figsize=(width / 72, height / 72), dpi=dpi, layout="constrained")


def inline_svg(figure: "Figure", label: str) -> str:
    """A figure as an SVG element in the page's own colours; drawn within `chart_style`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    body = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    body = body[body.index(">", body.index("<svg")) + 1 :].replace("'DejaVu Sans', ", "")
    body = re.sub(r' id="(?:[a-zA-Z.]|2d)+_\d+"', "", body)  # of groups: every figure has the same
    for name, color in COLORS.items():
        body = body.replace(color, f"var(--{name})")
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{body}'


def _save(figure: "Figure", path: Path) -> None:
    with replacing(path) as draft:
        figure.savefig(draft)


def set_fonts(labels: Sequence["Text"]) -> None:
    """Give each label a font that has its letters."""
    from matplotlib.font_manager import FontProperties

    for label in labels:
        label.set_fontproperties(FontProperties(fname=font_file(label.get_text()), size=label.get_fontsize()))


@contextmanager
def chart_style() -> Iterator[None]:
    """Matplotlib's settings for our charts, and only while they are drawn."""
    import matplotlib

    settings: dict[Any, Any] = {
        "font.size": 10,
        "text.color": COLORS["ink"],
        "text.parse_math": False,  # a class may be called "$x"
        "axes.edgecolor": COLORS["grid"],
        "axes.labelcolor": COLORS["muted"],
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "grid.color": COLORS["grid"],
        "grid.linewidth": 0.8,
        "xtick.color": COLORS["muted"],
        "ytick.color": COLORS["muted"],
        "svg.fonttype": "none",  # text stays text: small, selectable
        "svg.hashsalt": "terrazzo",  # the same curves give the same bytes
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # boxes for letters that no font has: draw.font_file
        yield
