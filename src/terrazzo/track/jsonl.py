"""metrics.jsonl: one line per logged step, each step once however often the run was killed."""

import csv
import json
import math
import os
from io import StringIO
from pathlib import Path
from typing import Any

from terrazzo.files import write_text


class Jsonl:
    """Appends lines and syncs each: a line is on the disk before the checkpoint that includes its step.

    A score that does not exist (nan) is null: JSON has no nan.
    """

    def __init__(self, path: Path):
        self.path = path

    def log(self, step: int, values: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
            file.write(json.dumps({"step": step, **finite}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def cut(self, step: int) -> None:
        """Forget all after `step`, and half a line if a kill left one."""
        kept = [line for line in read_lines(self.path) if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").split("\n"):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def write_csv(lines: list[dict[str, Any]], path: Path) -> None:
    """The same numbers as a table; a step without a validation has empty cells there."""
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())
