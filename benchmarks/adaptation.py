"""Methods of adaptation side by side: equal steps, the same encoder weights, the same head, several seeds.

python benchmarks/adaptation.py --camvid CAMVID --voc VOC --weights mobilenet_v2.safetensors --out FOLDER
                                [--steps 100] [--seeds 0 1 2] [--methods full frozen ...] [--data camvid voc-person]
                                [--at-once 2]

Resumable: a run goes on where it was, a finished one is not repeated; results.jsonl has a line for each, with the
SHA-256 of its metrics.jsonl, and table.md, .csv and .json are written anew after each. Every run is a process of its
own, so that its peak memory and its CPU time are its own (POSIX only); CPU time, which other work on the machine
stretches far less than it does the clock's, is of the whole process: start, steps, validation and the scored split;
both are means over the runs that no sitting's end cut in two.
DeepLabV3+ over MobileNetV2, AdamW, poly, crops of 256, batch 8, no averaging of weights; the decoder and the classifier
are new and learn in every method but `head`.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

from terrazzo.adapters import write_adapter
from terrazzo.base import InputError
from terrazzo.engine.state import file_hash

RECIPE = "camvid_deeplabv3plus"
SLOW_ENCODER, EVEN = "optim.lr_factors={encoder: 0.2}", "optim.lr_factors={}"
METHODS: dict[str, list[str]] = {
    "full": ["adapt={kind: full}", SLOW_ENCODER],
    "head": ["adapt={kind: frozen, train: classifier}", EVEN],
    "frozen": ["adapt={kind: frozen}", EVEN],
    "staged": ["adapt={kind: staged, frozen: {steps: 30}, lr: 1e-3}", SLOW_ENCODER],
    "ssf": ["adapt={kind: ssf}", EVEN],
    "lora": ["adapt={kind: lora, rank: 8, alpha: 16}", EVEN],
    "dora": ["adapt={kind: lora, rank: 8, alpha: 16, dora: true}", EVEN],
    "bitfit": ["adapt={kind: bitfit, parts: both}", EVEN],
    "adapter": ["adapt={kind: adapter, width: 16}", EVEN],
    "full_even": ["adapt={kind: full}", EVEN],
    "full_still": ["adapt={kind: full, batchnorm: frozen}", EVEN],
}
"""What each lays over the recipe; all else is the same."""


def options_of(args: argparse.Namespace, data: str, method: str, seed: int, out: Path) -> list[str]:
    where = {
        "camvid": [f"data.root={args.camvid}"],
        "voc-person": [f"data={{kind: voc, root: {args.voc}}}"],
    }[data]
    return [
        *where,
        *METHODS[method],
        f"model.weights={args.weights}",
        "augment.crop=256",
        "ema=null",
        "batch=8",
        "schedule.warmup={steps: 10}",
        f"length={{steps: {args.steps}}}",
        f"validate_every={{steps: {args.steps}}}",
        f"save_every={{steps: {max(1, args.steps // 4)}}}",
        f"seed={seed}",
        f"threads={max(1, (os.cpu_count() or 1) // args.at_once)}",
        "device=cpu",
        f"out={out}",
    ]


def run(args: argparse.Namespace, data: str, method: str, seed: int) -> dict[str, Any]:
    """One row; the run is made, or gone on with, in a process of its own."""
    out = args.out / f"{data}-{method}-{seed}"
    begun = out.exists()
    command = [sys.executable, "-m", "terrazzo", "train", RECIPE, *options_of(args, data, method, seed, out)]
    with (args.out / f"{out.name}.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{out}: the run ended with status {os.waitstatus_to_exitcode(status)}; see {log.name}")
    split = "test" if data == "camvid" else "val"
    scored = json.loads((out / f"evaluation/{split}-best_miou/scores.json").read_text())
    assert scored["step"] == args.steps, "validated once, at the end: the best checkpoint is the last"
    return {
        "data": data,
        "method": method,
        "seed": seed,
        "steps": args.steps,
        "miou": scored["miou"],
        "learning": _learning(out),
        "adapter_mib": _adapter_size(out),
        "peak_mib": used.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024),
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "at_a_stretch": not begun,
        "metrics_sha256": file_hash(out / "metrics.jsonl"),
    }


def _learning(out: Path) -> float:
    """Share of the parameters that learned; 1 without an adaptation.txt."""
    path = out / "adaptation.txt"
    if not path.exists():
        return 1.0
    learning, _, whole = path.read_text().split(" parameters")[0].partition(" of ")
    return int(learning.replace(",", "")) / int(whole.replace(",", ""))


def _adapter_size(out: Path) -> float | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_adapter(out, Path(folder) / "adapter.safetensors", "last")
        except InputError:
            return None
        return (Path(folder) / "adapter.safetensors").stat().st_size / 2**20


COLUMNS = ("data", "method", "seeds", "mIoU", "sd", "learns %", "adapter MiB", "peak MiB", "CPU s", "metrics.jsonl")


def rows(done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds that are there."""
    found = []
    for data, method in product(("camvid", "voc-person"), METHODS):
        mine = sorted(
            (one for one in done if (one["data"], one["method"]) == (data, method)), key=lambda one: one["seed"]
        )
        if not mine:
            continue
        scores = [one["miou"] for one in mine]
        whole = [one for one in mine if one["at_a_stretch"]]
        spread = f"{statistics.stdev(scores):.4f}" if len(scores) > 1 else "-"
        size = mine[0]["adapter_mib"]
        cells = (
            *(data, method, len(mine), f"{statistics.mean(scores):.4f}", spread, f"{100 * mine[0]['learning']:.2f}"),
            "-" if size is None else f"{size:.1f}",
            *(
                f"{statistics.mean(one[key] for one in whole):.0f}" if whole else "-"
                for key in ("peak_mib", "cpu_seconds")
            ),
            " ".join(one["metrics_sha256"][:8] for one in mine),
        )
        found.append(dict(zip(COLUMNS, cells, strict=True)))
    return found


def write_tables(out: Path, done: list[dict[str, Any]]) -> str:
    table = rows(done)
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(str(row[column]) for column in COLUMNS)} |" for row in table]
    (out / "table.md").write_text("\n".join(lines) + "\n")
    (out / "table.json").write_text(json.dumps(table, indent=2) + "\n")
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--data", nargs="+", choices=["camvid", "voc-person"], default=["camvid", "voc-person"])
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side; they share the cores")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    ledger = args.out / "results.jsonl"
    done = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    there = {(one["data"], one["method"], one["seed"], one["steps"]) for one in done}
    wanted = [(data, method, seed) for seed, data, method in product(args.seeds, args.data, args.methods)]
    lock = Lock()

    def make(row: tuple[str, str, int]) -> None:
        result = run(args, *row)
        with lock:
            with ledger.open("a") as file:
                file.write(json.dumps(result) + "\n")
            done.append(result)
            write_tables(args.out, done)

    with ThreadPoolExecutor(args.at_once) as pool:
        list(pool.map(make, [row for row in wanted if (*row, args.steps) not in there]))
    print(write_tables(args.out, done))


if __name__ == "__main__":
    main()
