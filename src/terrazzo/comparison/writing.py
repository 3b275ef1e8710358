"""A comparison as text: CSV and JSON with full precision, Markdown and LaTeX as they are shown."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from terrazzo.comparison.columns import Column
from terrazzo.comparison.seeds import SeedGroup
from terrazzo.comparison.table import Comparison, Row, unlike

PAPER_COLUMNS = (
    *("miou", "mdice", "accuracy", "loss", "train_loss", "val_loss", "runtime", "images_per_second"),
    *("megabytes", "parameters", "executed", "gmacs", "input", "latency", "memory"),
)
"""Beside the run and what varies, what a table for people shows, where anybody has a value."""

Cells = list[tuple[str, bool]]
"""Text, and whether it is the best of its column."""


def shown_columns(comparison: Comparison) -> list[Column]:
    """What a table for people shows: what was asked for, else PAPER_COLUMNS without empty ones."""
    if comparison.shown:
        return [comparison.column(key) for key in comparison.shown]
    keys = {"run", *comparison.varied, *PAPER_COLUMNS}
    keys |= {"protocol"} if len(comparison.protocols) > 1 else set()
    keys |= {"checkpoint"} if len({row.checkpoint for row in comparison.rows} - {"-"}) > 1 else set()
    keys |= {"status", "reason"} if any(row.values.get("reason") for row in comparison.rows) else set()
    keys |= {"val_miou"} if any(row.scored is None for row in comparison.rows) else set()
    filled = {column.key for column in comparison.columns if _is_filled(comparison, column)}
    return [column for column in comparison.columns if column.key in keys & filled or column.key == "run"]


def _is_filled(comparison: Comparison, column: Column) -> bool:
    return any(row.values.get(column.key) is not None for row in comparison.rows)


def cells(comparison: Comparison, columns: Sequence[Column]) -> list[tuple[Row, Cells]]:
    """The texts of each row."""
    return [
        (row, [(column.text(row.values.get(column.key)), (n, column.key) in comparison.best) for column in columns])
        for n, row in enumerate(comparison.rows)
    ]


def footnotes(comparison: Comparison) -> list[str]:
    """What a reader of the table must know: how protocols differ, what is not ranked, what was passed over."""
    splits = {str(group.facts.get("split")) for group in comparison.protocols} - {"test"}
    lines = [f"scored on {split}, not on a test split" for split in sorted(splits)]
    for group in comparison.protocols[1:]:
        what = "; ".join(group.differs)
        lines.append(f"protocol {group.letter} ({group.rows} rows) is not ranked with A; it differs in {what}")
    return [*lines, *unlike(comparison), *comparison.remarks]


def csv_text(comparison: Comparison) -> str:
    """Every column of every row; numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.key for column in comparison.columns])
    for row in comparison.rows:
        writer.writerow(["" if (v := row.values.get(column.key)) is None else v for column in comparison.columns])
    return text.getvalue()


def json_text(comparison: Comparison) -> str:
    """The same with units, sources, protocols, best values and remarks."""
    tree = {
        "columns": [
            {"key": c.key, "title": c.title, "unit": c.unit, "better": c.better, "source": c.source}
            for c in comparison.columns
        ],
        "rows": comparison.as_dicts(),
        "best": [[n, key] for n, key in sorted(comparison.best)],
        "protocols": [
            {"letter": p.letter, "rows": p.rows, "facts": p.facts, "differs": p.differs} for p in comparison.protocols
        ],
        "remarks": footnotes(comparison),
    }
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def markdown_text(comparison: Comparison) -> str:
    """A table in Markdown, the best values bold; a table of its own for each protocol."""
    columns = shown_columns(comparison)
    blocks = []
    for letter, rows in by_protocol(comparison, columns):
        lines = [f"Protocol {letter}" if letter else "Without a score", ""] if len(comparison.protocols) > 1 else []
        lines.append("| " + " | ".join(_markdown(column.head) for column in columns) + " |")
        lines.append("|" + "|".join("---" if column.kind in ("what", "recipe") else "---:" for column in columns) + "|")
        for row in rows:
            texts = [f"**{_markdown(text)}**" if best else _markdown(text) for text, best in row]
            lines.append("| " + " | ".join(texts) + " |")
        blocks.append("\n".join(lines))
    blocks += [f"- {_markdown(line)}" for line in footnotes(comparison)]
    return "\n\n".join(blocks) + "\n"


def by_protocol(comparison: Comparison, columns: Sequence[Column]) -> list[tuple[str, list[Cells]]]:
    """The rows' cells for each protocol, in the table's order."""
    found: dict[str, list[Cells]] = {}
    for row, texts in cells(comparison, columns):
        found.setdefault(row.protocol, []).append(texts)
    return list(found.items())


def _markdown(text: str) -> str:
    for sign in "\\|*_`<[]":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")


def latex_text(comparison: Comparison) -> str:
    """A booktabs table for a paper (`\\usepackage{booktabs}`), the best values bold."""
    columns = shown_columns(comparison)
    groups = [(letter, rows) for letter, rows in by_protocol(comparison, columns)]
    align = "".join("l" if column.kind in ("what", "recipe") else "r" for column in columns)
    lines = [
        "% \\usepackage{booktabs}; wide tables: \\usepackage{graphicx} and \\resizebox{\\linewidth}{!}{...}",
        f"\\begin{{tabular}}{{{align}}}",
        "\\toprule",
        " & ".join(latex_escaped(column.head) for column in columns) + " \\\\",
    ]
    for letter, rows in groups:
        lines.append("\\midrule")
        if len(groups) > 1:
            what = f"protocol {letter}" if letter else "without a score"
            lines.append(f"\\multicolumn{{{len(columns)}}}{{l}}{{\\textit{{{what}}}}} \\\\")
        for row in rows:
            texts = [f"\\textbf{{{latex_escaped(text)}}}" if best else latex_escaped(text) for text, best in row]
            lines.append(" & ".join(texts) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"% {' '.join(line.split())}" for line in footnotes(comparison)]
    return "\n".join(lines) + "\n"


def latex_escaped(text: str) -> str:
    """Text whose letters all mean themselves in LaTeX."""
    signs = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    signs |= {
        "<": "\\textless{}",
        ">": "\\textgreater{}",
        "|": "\\textbar{}",
        '"': "\\textquotedbl{}",
        "…": "\\ldots{}",
    }
    return "".join(signs.get(sign, sign) for sign in text.replace("\n", " "))


def seeds_rows(groups: Sequence[SeedGroup]) -> list[dict[str, Any]]:
    """The groups as flat rows: mean, sd and n of the main columns, and the interval against the best."""
    listed = []
    for group in groups:
        row: dict[str, Any] = {"group": group.name, "protocol": group.protocol, "seeds": " ".join(group.seeds)}
        for key, spread in group.spreads.items():
            row |= {key: spread.mean, f"{key} sd": spread.sd, f"{key} n": spread.n}
        one = group.against_best
        row |= {
            "mean image difference to the best": None if one is None else one.difference,
            "low": None if one is None else one.low,
            "high": None if one is None else one.high,
            "p": None if one is None else one.p,
            "remark": group.remark,
        }
        listed.append(row)
    return listed


def seeds_csv(groups: Sequence[SeedGroup]) -> str:
    """The groups as a table."""
    rows = seeds_rows(groups)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def interval_text(group: SeedGroup) -> str:
    """`-0.0123 [-0.0200, -0.0051]`; what stands there for the best, and where nothing could be tested."""
    one = group.against_best
    if one is None:
        return group.remark or "best"
    return f"{one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
