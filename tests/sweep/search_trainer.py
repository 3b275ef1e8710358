"""Stands for `python -m terrazzo sweep FOLDER --work NAME`: the same files, locks, signals and statuses, no network.

val/miou of epoch e is 1 - (log10(lr) + 2)^2 / 10 - 0.2 / e: best at lr = 0.01, better with every epoch. One "step" is
an epoch. Environment: PRETEND_SECONDS an epoch, PRETEND_FAIL=1 to end with an error, PRETEND_SILENT=1 to end before
anything is written.
"""

import json
import os
import signal
import sys
import time
from math import log10
from pathlib import Path

import yaml
from filelock import FileLock

EPOCHS = 8


def value(lr: float, seed: int, epoch: int) -> float:
    return 1 - (log10(lr) + 2) ** 2 / 10 - 0.2 / epoch + 0.001 * seed


def main(folder: Path, name: str) -> int:
    if "PRETEND_SILENT" in os.environ:
        print("no such library")
        return 1
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    recipe = yaml.safe_load((folder / "recipes" / f"{name}.yaml").read_text())
    path, run = folder / "states" / f"{name}.json", folder / "runs" / name
    run.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "states" / f".{name}.lock").acquire(timeout=0):
        state = json.loads(path.read_text())
        if state["status"] in ("finished", "pruned", "refused"):
            return 0
        state |= {"status": "running", "attempts": state["attempts"] + 1}
        path.write_text(json.dumps(state))
        if "PRETEND_FAIL" in os.environ:
            path.write_text(
                json.dumps(state | {"status": "failed", "reason": "lr is odd", "failures": state["attempts"]})
            )
            return 1
        metrics = run / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        with metrics.open("a") as file:
            for epoch in range(len(lines) + 1, EPOCHS + 1):
                time.sleep(float(os.environ.get("PRETEND_SECONDS", "0")))
                if told:
                    path.write_text(json.dumps(state | {"status": "stopped", "step": epoch - 1}))
                    return 75
                score = value(float(recipe["optim"]["lr"]), recipe["seed"], epoch)
                file.write(
                    json.dumps({"step": epoch, "epoch": epoch, "val/miou": score, "process": os.getpid()}) + "\n"
                )
                file.flush()
        path.write_text(json.dumps(state | {"status": "finished", "step": EPOCHS}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
