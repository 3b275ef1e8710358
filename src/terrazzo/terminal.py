"""What the commands write on the terminal: progress, tables of scores, remarks. Rich is imported when it is needed."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from terrazzo.commands.check import Checked
    from terrazzo.commands.find_batch import Tried
    from terrazzo.commands.find_lr import RateTest
    from terrazzo.comparison.table import Comparison


@contextmanager
def progress_bar(what: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal with rate and time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(what),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield show


def print_scores(result: dict[str, Any]) -> None:
    about = result["protocol"]
    limit = f", first {about['limit']} only" if about["limit"] else ""
    step = f" (step {result['step']})" if result["step"] else ""  # others' files need not say it
    title = f"{result['checkpoint']}{step} on {about['split']}: {about['images']} images{limit}"
    print_table(title, result)


def print_match(match: dict[str, Any]) -> None:
    """Which output of a network stands for which class of the data."""
    from rich.console import Console
    from rich.table import Table

    table = Table("class of the data", "output of the network", box=None, title_justify="left")
    table.title = f"matched by {match['by']}"
    for name, output in match["classes"].items():
        table.add_row(name, output)
    if match["others"]:
        table.add_row("none: a miss", ", ".join(match["others"]))
    Console().print(table)


def print_table(title: str, result: dict[str, Any]) -> None:
    """Scores of classes and, where the protocol has them, of categories and levels; then the means."""
    from rich.console import Console
    from rich.table import Table

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    columns = {"iou": "IoU", "acc": "accuracy", "dice": "Dice", "boundary_iou": "boundary IoU", "iiou": "iIoU"}
    console = Console()
    for name in ("per_class", "per_category"):
        rows = result.get(name, {})
        shown = [key for key in columns if any(key in row for row in rows.values())]
        if rows:
            head = name.removeprefix("per_")
            table = Table(head, *(columns[key] for key in shown), box=None, title_justify="left")
            table.title = title if name == "per_class" else None
            for row_name, row in rows.items():
                table.add_row(row_name, *(cell(row[key]) for key in shown))
            console.print(table)
    means = {
        "miou": "mIoU",
        "macc": "mean accuracy",
        "accuracy": "pixel accuracy",
        "mdice": "mean Dice",
        "fwiou": "frequency-weighted IoU",
        "boundary_miou": "mean boundary IoU",
        "miiou": "mean iIoU",
        "category_miou": "category IoU",
        "category_miiou": "category iIoU",
    }
    parts = [f"{text} {cell(result[key])}" for key, text in means.items() if key in result]
    if result["miou_present"] != result["miou"]:
        parts.insert(1, f"over the classes that the labels show {cell(result['miou_present'])}")
    levels = {key: f"level {key[-1]} mIoU" for key in ("level2", "level1") if key in result}
    parts += [f"{text} {cell(result[key]['miou'])}" for key, text in levels.items()]
    console.print("  ".join(parts), highlight=False)


def print_costs(rows: Sequence[dict[str, Any]]) -> None:
    """What networks cost, one a line; below it what has no number, and what the numbers count."""
    from rich.console import Console
    from rich.table import Table

    plain = Console()
    console = plain if plain.is_terminal else Console(width=240)  # a file or a pipe has no right edge
    heads = ("model", "input", "classes", "params M", "trainable M", "executed M", "MiB", "GMACs", "GFLOPs")
    table = Table(*heads, "predict MiB", "train MiB", "latency ms", "10-90 %", "images/s", box=None)
    measured = [row for row in rows if "macs" in row]
    for row in measured:
        times = ["-", "-", "-"]
        if "latency" in row:
            low, middle, high = (f"{1e3 * row[key]:.1f}" for key in ("latency_low", "latency", "latency_high"))
            times = [middle, f"{low}-{high}", f"{row['images_per_second']:.1f}"]
        table.add_row(
            *(row["model"], row["input"], str(row["classes"])),
            *(f"{row[key] / 1e6:.3f}" for key in ("parameters", "trainable", "executed")),
            f"{row['bytes'] / 2**20:.3f}",
            *(f"{row[key] / 1e9:.3f}" for key in ("macs", "flops")),
            *(f"{row[key] / 2**20:.1f}" for key in ("memory_prediction", "memory_training")),
            *times,
        )
    console.print(table)
    for row in rows:
        if row["reason"]:
            console.print(f"{row['model']}: {row['reason']}", highlight=False, markup=False, soft_wrap=True)
    devices = sorted({(row["device"], row["threads"]) for row in measured if "latency" in row})
    where = ", ".join(f"{device} ({threads} threads)" if device == "cpu" else device for device, threads in devices)
    time = f" Time: median, on {where}." if where else ""
    console.print(
        "MACs: convolutions and matrix products; FLOPs: twice as many. Memory beside network and image: most at a time "
        f"in prediction, and what training keeps for the backward pass.{time}",
        highlight=False,
    )


def print_rates(found: "RateTest") -> None:
    """A dozen of the learning rates that were tried, and what to make of them."""
    from rich.console import Console
    from rich.table import Table

    table = Table("learning rate", "loss", "running mean", box=None)
    count = len(found.rates)
    for at in sorted({round(part * (count - 1) / 11) for part in range(12)}):
        table.add_row(f"{found.rates[at]:.3g}", f"{found.losses[at]:.4f}", f"{found.smooth[at]:.4f}")
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    console.print(f"steepest fall: {found.setting}={found.steepest:.2g}", markup=False)
    console.print(f"a tenth of where the loss is least: {found.setting}={found.least / 10:.2g}", markup=False)


def print_batches(found: "Sequence[Tried]") -> None:
    """Batch sizes that were tried, and the greatest that fits."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    table = Table("batch", "fits", "images/s", "peak MiB", "why not", box=None)
    for tried in found:
        peak = "-" if tried.peak is None else f"{tried.peak / 2**20:.0f}"
        speed = f"{tried.images_per_second:.2f}" if tried.fits else "-"
        table.add_row(str(tried.batch), "yes" if tried.fits else "no", speed, peak, tried.reason)
    console.print(table)
    fitting = [tried for tried in found if tried.fits]
    fastest = max(fitting, key=lambda tried: tried.images_per_second)
    console.print(f"greatest that fits: batch={fitting[-1].batch}; most images a second: batch={fastest.batch}")


def print_verdicts(checked: "Checked", recipe: str) -> None:
    """The verdicts of a check, worst first, each with what to type; then a line that sums them up."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    colors = {"error": "bold red", "warning": "bold yellow", "note": "bold blue"}
    for verdict in checked.verdicts:
        head = (verdict.severity, colors[verdict.severity])
        console.print(Text.assemble(head, f"  {verdict.title}", (f"  [{verdict.code}]", "dim")))
        for line in filter(None, (verdict.evidence, _listed(verdict.files), verdict.advice)):
            console.print(Text(f"    {line}"))
        for line in verdict.yaml.splitlines():
            console.print(Text(f"      {line}", style="green"))
        console.print()
    counts = {name: sum(verdict.severity == name for verdict in checked.verdicts) for name in colors}
    parts = [f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items()]
    console.print(Text(f"{len(checked.records)} image and label pairs read: {', '.join(parts)}"))
    if checked.fix:
        words = shlex.join(checked.fix)
        console.print(Text(f"what answers all errors at once: terrazzo train {recipe} {words}"))


def print_comparison(comparison: "Comparison") -> None:
    """Runs in one table, cut to the terminal's width; a pipe or a file gets all of it."""
    from rich.console import Console

    from terrazzo.comparison.console import print_table

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 10_000
    print_table(comparison, console)


def _listed(files: Sequence[str]) -> str:
    shown = ", ".join(files[:5])
    return f"{shown} and {len(files) - 5} more" if len(files) > 5 else shown


def say(message: str) -> None:
    print(message, file=sys.stderr)
