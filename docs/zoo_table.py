"""Write src/terrazzo/published/mmseg_zoo.json: `python docs/zoo_table.py TABLE.json`.

TABLE.json is what MMSegmentation 1.2.2 says in its metafiles, read into one list of models (name, config,
weights_file, weights_dir, results, mem). Kept of it: what `terrazzo models` shows, one line per entry.
"""

import json
import sys
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "src" / "terrazzo" / "published" / "mmseg_zoo.json"
COLUMNS = ("name", "family", "weights", "dataset", "miou", "miou_tta", "dice", "memory_gb")
ADDRESS = "https://download.openmmlab.com/mmsegmentation"


def row(model: dict[str, Any]) -> list[Any]:
    """One entry; `weights` is the path below ADDRESS."""
    (result,) = model["results"]
    scores = result["metrics"]
    folder = "/".join(model["weights_dir"])
    return [
        model["name"],
        model["config"].split("/")[1],
        f"{folder if folder.startswith('v0.5/') else f'v0.5/{folder}'}/{model['weights_file']}",
        # twelve entries of OCRNet have a comment here; their names say Cityscapes
        "Cityscapes" if result["dataset"].startswith("#") else result["dataset"],
        scores.get("mIoU"),
        scores.get("mIoU(ms+flip)"),
        scores.get("mDice"),
        model["mem"],
    ]


def main(table: Path) -> None:
    models = json.loads(table.read_text(encoding="utf-8"))["models"]
    head = {"source": "MMSegmentation 1.2.2, metafiles (Apache-2.0)", "address": ADDRESS, "columns": COLUMNS}
    lines = [json.dumps(row(model), separators=(",", ":")) for model in models]
    text = json.dumps(head)[:-1] + ', "rows": [\n' + ",\n".join(lines) + "\n]}\n"
    json.loads(text)
    OUT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
