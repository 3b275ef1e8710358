"""Run folders made up of numbers: the files that a comparison reads, in the form in which a run writes them."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CLASSES = ("sky", "building", "road", "tree_&_bush", "car", "person")

RECIPE: dict[str, Any] = {
    "out": "somewhere",
    "data": {"root": "data", "workers": 2, "worker_kind": "thread", "kind": "camvid", "limit": None},
    "model": {"kind": "smp", "arch": "unet", "encoder": "resnet18"},
    "augment": {"crop": 64, "flip": 0.5},
    "evaluation": {"resize": {"kind": "keep"}, "score_at": "label", "absent": "exclude"},
    "losses": [{"kind": "cross_entropy", "weight": 1.0}],
    "auxiliary_weight": 0.4,
    "optim": {"kind": "adamw", "lr": 0.001, "weight_decay": 0.01},
    "length": {"steps": 100},
    "batch": 8,
    "seed": 0,
    "threads": 1,
    "device": "cpu",
}
PROTOCOL: dict[str, Any] = {
    **{"name": "default", "classes": len(CLASSES), "mean": "over classes of one confusion matrix"},
    **{"split": "test", "images": 12, "limit": None, "size": "scored at the label's own size"},
    **{"resize": {"kind": "keep"}, "window": None, "tta": None, "precision": "float32", "terrazzo": "0.1.0"},
}
COST: dict[str, Any] = {
    **{"shape": [1, 3, 64, 96], "parameters": 14_328_354, "executed": 14_000_000, "bytes": 57_371_136},
    **{"macs": 1_234_000_000, "latency": {"median": 0.0213, "low": 0.0201, "high": 0.0240, "runs": 20}},
    **{"device": "cpu", "threads": 1, "peak_bytes": 12_582_912, "kept_bytes": 99, "file_bytes": 57_400_000},
    **{"train_seconds": 93.4, "train_steps": 100, "train_threads": 1, "train_device": "cpu", "images_per_second": 8.57},
}


def recipe(**changes: Any) -> dict[str, Any]:
    """RECIPE with dotted keys changed: recipe(**{"optim.lr": 0.1})."""
    tree: dict[str, Any] = json.loads(json.dumps(RECIPE))
    for dotted, value in changes.items():
        node = tree
        *parents, last = dotted.split(".")
        for key in parents:
            node = node[key]
        node[last] = value
    return tree


def confusion(miou: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """[K, K] with about this mean IoU: a share of each class's pixels goes astray evenly."""
    right = 2 * miou / (1 + miou)  # a/(a + 2b) = miou where a + b = 1 and strays come back evenly
    shares = np.clip(right + rng.normal(0, 0.05, count), 0.02, 0.98)
    matrix = np.zeros((count, count))
    for k in range(count):
        stray = rng.random(count)
        stray[k] = 0
        matrix[k] = (1 - shares[k]) * stray / stray.sum()
        matrix[k, k] = shares[k]
    return (matrix * 10_000).astype(np.int64)


def write_scores(
    run: Path, *, miou: float, checkpoint: str = "best_miou", step: int = 100, seed: int = 0, **changes: Any
) -> dict[str, Any]:
    """evaluation/SPLIT-CHECKPOINT/ with scores.json, images.csv and cost.json; `changes` are of the protocol."""
    rng = np.random.default_rng(seed)
    matrix = confusion(miou, len(CLASSES), rng)
    truth, found = matrix.sum(1), matrix.sum(0)
    iou = matrix.diagonal() / (truth + found - matrix.diagonal())
    dice = 2 * matrix.diagonal() / (truth + found)
    per_class = {
        name: {"iou": float(iou[k]), "acc": float(matrix[k, k] / truth[k]), "dice": float(dice[k]), "pixels": 10_000}
        for k, name in enumerate(CLASSES)
    }
    protocol = PROTOCOL | changes
    scores = {
        **{"miou": float(iou.mean()), "mdice": float(dice.mean()), "macc": float(matrix.diagonal().mean() / 10_000)},
        **{"accuracy": float(matrix.trace() / matrix.sum()), "fwiou": float(iou.mean()), "absent": "exclude"},
        **{"per_class": per_class, "confusion": matrix.tolist(), "protocol": protocol},
        **{"checkpoint": checkpoint, "step": step, "loss": 1.5 - miou},
    }
    folder = run / "evaluation" / f"{protocol['split']}-{checkpoint}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(scores, indent=2))
    hard = np.random.default_rng(1).normal(0, 0.08, protocol["images"])  # of an image, for all runs
    with (folder / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "name", "miou", "accuracy", "pixels"])
        for n in range(protocol["images"]):
            own = float(np.clip(iou.mean() + hard[n] + rng.normal(0, 0.02), 0, 1))
            writer.writerow([n, f"test/image {n}", own, own, 6144])
    return scores


def write_run(
    run: Path,
    *,
    miou: float = 0.5,
    tree: dict[str, Any] | None = None,
    cost: dict[str, Any] | None = COST,
    steps: int = 100,
    points: int = 20,
    seed: int = 0,
    finished: bool = True,
    **protocol: Any,
) -> Path:
    """A run that trained `steps` steps and reached a mIoU; scored once unless it is not finished."""
    rng = np.random.default_rng(seed)
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(tree or recipe(), sort_keys=False))
    (run / "environment.yaml").write_text(yaml.safe_dump({"system": "Linux", "cpu cores": "2", "terrazzo": "0.1.0"}))
    (run / "log.txt").write_text("2026-01-01 00:00:00 starts\n")
    (run / "parameters.txt").write_text("group tensors params lr decay\ntotal  10  1,234,567\n")
    lines = []
    for n in range(1, points + 1):
        part = n / points
        lines.append(
            {
                "step": round(steps * part),
                "epoch": round(steps * part) / 10,
                "train/loss": 2.2 * np.exp(-3 * part * miou) + rng.normal(0, 0.03),
                "train/miou": (miou + 0.05) * (1 - np.exp(-4 * part)) + rng.normal(0, 0.01),
                "val/loss": 2.3 * np.exp(-2.5 * part * miou) + rng.normal(0, 0.03),
                "val/miou": miou * (1 - np.exp(-4 * part)) + rng.normal(0, 0.012),
                "lr/encoder": 0.001,
            }
        )
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("best_miou", "last"):
        folder = run / "checkpoints" / name
        folder.mkdir(parents=True)
        saved = {"step": steps, "scores": {"val/loss": lines[-1]["val/loss"], "val/miou": lines[-1]["val/miou"]}}
        (folder / "config.json").write_text(json.dumps(saved))
    if finished:
        write_scores(run, miou=miou, step=steps, seed=seed, **protocol)
        (run / "report.html").write_text("a report")
        if cost is not None:
            split = protocol.get("split", "test")
            (run / "evaluation" / f"{split}-best_miou" / "cost.json").write_text(json.dumps(cost))
    return run


def write_state(sweep: Path, name: str, **fields: Any) -> None:
    """states/NAME.json of a sweep."""
    (sweep / "states").mkdir(parents=True, exist_ok=True)
    (sweep / "sweep.yaml").touch()
    state = {"name": name, "hash": "0" * 64, **fields}
    (sweep / "states" / f"{name}.json").write_text(json.dumps(state))


def write_grid(sweep: Path, count: int, *, points: int = 20) -> Path:
    """A sweep's folder with so many runs over encoder, learning rate, weight decay and seed."""
    encoders = {"resnet18": 14.3, "resnet50": 32.5, "mit_b0": 3.7, "mobilenet_v2": 6.6, "efficientnet-b0": 6.3}
    rng = np.random.default_rng(3)
    for n in range(count):
        encoder = [*encoders][n % 5]
        rate = [1e-2, 1e-3, 1e-4, 1e-5][n // 5 % 4]
        decay, seed = [1e-2, 1e-4][n // 20 % 2], n // 40 % 3
        quality = 0.5 + 0.06 * (n % 5) - 0.05 * abs(np.log10(rate) + 3) + rng.normal(0, 0.015)
        millions = encoders[encoder]
        cost = COST | {
            "parameters": round(millions * 1e6),
            "executed": round(millions * 0.97e6),
            "bytes": round(millions * 4e6),
            "macs": round(millions * 0.4e9 * (1 + 0.2 * (n % 5))),
            "latency": {k: v * millions / 14 * (1 + 0.01 * rng.random()) for k, v in COST["latency"].items()},
            "train_seconds": 60 + 3 * millions + rng.random(),
        }
        changes = {"model.encoder": encoder, "optim.lr": rate, "optim.weight_decay": decay, "seed": seed}
        name = f"{encoder}-lr{rate:g}-wd{decay:g}-seed{seed}-{n:08x}"
        tree = recipe(**changes)
        write_run(sweep / "runs" / name, miou=float(quality), tree=tree, cost=cost, seed=n, points=points)
        write_state(sweep, name, status="finished", attempts=1, step=100, seconds=100.0 + n)
    return sweep
