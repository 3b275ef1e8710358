"""A comparison on the terminal, cut to its width."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from terrazzo.comparison.columns import Column
from terrazzo.comparison.figures import labels_of
from terrazzo.comparison.table import Comparison, Row
from terrazzo.comparison.writing import cells, footnotes, shown_columns

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FIRST = (
    *("run", "protocol", "checkpoint", "status", "miou", "val_miou", "val_loss", "latency", "gmacs", "parameters"),
    *(
        "runtime",
        "train_loss",
        "loss",
        "mdice",
        "images_per_second",
        "megabytes",
        "memory",
        "executed",
        "accuracy",
        "input",
    ),
)
"""What stays on a narrow terminal, the most wanted first; VARIED of the varied keys come after the score."""
VARIED = 6


def print_table(comparison: Comparison, console: "Console") -> None:
    """The table, best values bold; then why runs have no score, and what else a reader must know."""
    columns = [column for column in shown_columns(comparison) if column.key not in ("reason", "status")]
    fitting = _fitting(comparison, columns, console.width)
    console.print(_table(comparison, fitting))
    for line in dict.fromkeys(_reason(row) for row in comparison.rows if row.values.get("reason")):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if hidden := [column.title for column in columns if column not in fitting]:
        text = f"{len(hidden)} columns more do not fit here: {', '.join(hidden)}; --out FILE.csv holds all"
        console.print(text, style="dim", markup=False, highlight=False)
    for note in footnotes(comparison):
        console.print(note, style="dim", markup=False, highlight=False)


def _reason(row: Row) -> str:
    status = "" if row.run.status == "finished" else f"{row.run.status}: "
    return f"{row.run.name}: {status}{row.values['reason']}"


def _fitting(comparison: Comparison, columns: Sequence[Column], width: int) -> list[Column]:
    """The most wanted columns whose widths add up to the terminal's, in the table's order."""
    wide = {column.key: _width(comparison, column) for column in columns}
    keys = [*FIRST[:5], *comparison.varied[:VARIED], *FIRST[5:], *comparison.varied[VARIED:]]
    keys = [*comparison.shown] or keys
    order = sorted(columns, key=lambda column: keys.index(column.key) if column.key in keys else len(keys))
    kept, used = set(), 0
    for column in order:
        if column.key == "run" or used + wide[column.key] <= width:
            kept.add(column.key)
            used += wide[column.key]
    return [column for column in columns if column.key in kept]


def _width(comparison: Comparison, column: Column) -> int:
    texts = [column.text(row.values.get(column.key)) for row in comparison.rows]
    texts = _names(comparison) if column.key == "run" else texts
    return 2 + max(map(len, (*texts, column.title, column.unit)))


def _table(comparison: Comparison, columns: Sequence[Column]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for column in columns:
        words = column.kind in ("what", "recipe")
        head = f"{column.title}\n{column.unit}" if column.unit else column.title
        table.add_column(Text(head), justify="left" if words else "right", no_wrap=True)
    before = comparison.rows[0].protocol if comparison.rows else ""
    names = dict(zip((row.run.name for row in comparison.rows), _names(comparison), strict=True))
    for row, texts in cells(comparison, columns):
        if row.protocol != before:
            table.add_section()
            table.add_row()
            before = row.protocol
        styled = [Text(text, style="bold" if best else "") for text, best in texts]
        table.add_row(Text(names[row.run.name]), *styled[1:])
    return table


def _names(comparison: Comparison) -> list[str]:
    return labels_of([row.run.name for row in comparison.rows])
