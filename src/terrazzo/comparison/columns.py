"""The columns of a comparison: what each is, where its value comes from, and which values may be ranked together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from terrazzo.comparison.reading import number
from terrazzo.comparison.recipes import Value, section_text
from terrazzo.comparison.runs import Run, Scored

Kind = Literal["what", "recipe", "score", "training", "cost", "class"]
Like = Literal["", "protocol", "validation", "loss", "machine", "input", "timing"]
"""What two values must have in common, beside the protocol of their rows, to be ranked: see `likes`."""


@dataclass(frozen=True)
class Column:
    """One column; values are in `unit`, as the table shows them."""

    key: str
    title: str
    kind: Kind
    unit: str = ""
    digits: int = 3
    """After the point."""
    better: Literal["high", "low"] | None = None
    like: Like = ""
    source: str = ""
    """Where its values come from, for people."""

    @property
    def head(self) -> str:
        """Title and unit."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title

    def text(self, value: Value) -> str:
        """A value as a table shows it; a dash where there is none."""
        if value is None or value == "":
            return "-"
        if not isinstance(value, float | int) or isinstance(value, bool):
            return str(value)
        if self.kind == "recipe":
            return f"{value:g}"
        return f"{value:.{self.digits}f}" if abs(value) < LARGE else f"{value:.3g}"  # a loss that exploded


LARGE = 1e6

SCORES = "evaluation/SPLIT-CHECKPOINT/scores.json"
COST = "evaluation/SPLIT-CHECKPOINT/cost.json"
CURVES = "metrics.jsonl, at the checkpoint's step"

FIXED: tuple[Column, ...] = (
    Column("run", "run", "what", source="the folder's name"),
    Column("checkpoint", "checkpoint", "what", source="checkpoints/"),
    Column("status", "status", "what", source="the run folder and, of a sweep, states/NAME.json"),
    Column("protocol", "protocol", "what", source=f"the protocol in {SCORES} and a hash of images.csv"),
    Column("miou", "mIoU", "score", digits=4, better="high", like="protocol", source=f"miou in {SCORES}"),
    Column("mdice", "Dice", "score", digits=4, better="high", like="protocol", source=f"mdice in {SCORES}"),
    Column("accuracy", "accuracy", "score", digits=4, better="high", like="protocol", source=f"accuracy in {SCORES}"),
    Column("macc", "mean accuracy", "score", digits=4, better="high", like="protocol", source=f"macc in {SCORES}"),
    Column("loss", "loss", "score", digits=4, better="low", like="loss", source=f"loss in {SCORES}, of a sweep's runs"),
    Column("train_loss", "train loss", "training", digits=4, better="low", like="loss", source=CURVES),
    Column("val_loss", "val loss", "training", digits=4, better="low", like="loss", source=CURVES),
    Column("train_miou", "train mIoU", "training", digits=4, source=CURVES),
    Column("val_miou", "val mIoU", "training", digits=4, better="high", like="validation", source=CURVES),
    Column("steps", "steps", "training", digits=0, source="the checkpoint's step"),
    Column("trained_steps", "trained", "training", "steps", 0, source=f"{COST}, else the last line of metrics.jsonl"),
    Column("runtime", "runtime", "training", "s", 1, "low", "machine", f"train_seconds in {COST}: time in steps"),
    Column("images_per_second", "speed", "training", "images/s", 1, "high", "machine", COST),
    Column("megabytes", "size", "cost", "MiB", 3, "low", "protocol", f"bytes in {COST}: parameters and buffers"),
    Column("parameters", "parameters", "cost", "M", 3, "low", "protocol", COST),
    Column("executed", "executed", "cost", "M", 3, "low", "protocol", f"{COST}: parameters that a forward pass reads"),
    Column("learned", "learned", "cost", "M", 3, source="parameters.txt: what the optimizer held"),
    Column("gmacs", "work", "cost", "GMACs", 3, "low", "input", f"macs in {COST}; FLOPs are twice as many"),
    Column("input", "input", "cost", source=f"shape in {COST}: of work, latency and memory"),
    Column("latency", "latency", "cost", "ms", 1, "low", "timing", f"the median in {COST}"),
    Column("latency_low", "latency 10 %", "cost", "ms", 1, source=COST),
    Column("latency_high", "latency 90 %", "cost", "ms", 1, source=COST),
    Column("memory", "peak memory", "cost", "MiB", 1, "low", "timing", f"peak_bytes in {COST}: beside the network"),
    Column("device", "device", "cost", source=f"device and threads in {COST}"),
    Column("reason", "reason", "what", source="why a run has no score, or what of it could not be read"),
)


def fixed_values(run: Run, checkpoint: str, scored: Scored | None) -> dict[str, Value]:
    """Every FIXED column but `protocol`, and the IoU of each class as `iou/NAME`."""
    saved = run.checkpoints.get(checkpoint, {})
    step = scored.step if scored is not None and scored.step is not None else saved.get("step")
    line = _line_at(run, step)
    kept = saved.get("scores") if isinstance(saved.get("scores"), Mapping) else {}
    scores = {} if scored is None else scored.scores
    return {
        "run": run.name,
        "checkpoint": checkpoint,
        "status": run.status,
        "reason": run.reason or None,
        **{key: number(scores.get(key)) for key in ("miou", "mdice", "accuracy", "macc", "loss")},
        "train_loss": number(line.get("train/loss")),
        "train_miou": number(line.get("train/miou")),
        "val_loss": _first(line.get("val/loss"), (kept or {}).get("val/loss")),
        "val_miou": _first(line.get("val/miou"), (kept or {}).get("val/miou")),
        "steps": number(step),
        **_cost_values(run),
        **{f"iou/{name}": number(row.get("iou")) for name, row in _classes(scores)},
    }


def _line_at(run: Run, step: object) -> Mapping[str, Any]:
    """The numbers logged at a step, for a run without checkpoints the last ones."""
    if not isinstance(step, int):
        merged: dict[str, Any] = {}
        for line in run.curves:
            merged |= line
        return merged
    return next((line for line in reversed(run.curves) if line["step"] == step), {})


def _first(*values: object) -> float | None:
    return next((found for value in values if (found := number(value)) is not None), None)


def _classes(scores: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, row) for name, row in scores.get("per_class", {}).items() if isinstance(row, Mapping)]


def _cost_values(run: Run) -> dict[str, Value]:
    cost, latency = run.cost, run.cost.get("latency")
    times = latency if isinstance(latency, Mapping) else {}
    shape, device = cost.get("shape"), cost.get("device")
    threads = f", {cost.get('threads')} threads" if device == "cpu" else ""
    runtime = number(cost.get("train_seconds"))
    if runtime is None and run.state is not None and run.status == "finished":
        runtime = run.state.seconds or None
    return {
        "trained_steps": _first(cost.get("train_steps"), run.step),
        "runtime": runtime,
        "images_per_second": number(cost.get("images_per_second")),
        "megabytes": _scaled(cost.get("bytes"), 2**20),
        "parameters": _scaled(cost.get("parameters"), 1e6),
        "executed": _scaled(cost.get("executed"), 1e6),
        "learned": _scaled(run.learned, 1e6),
        "gmacs": _scaled(cost.get("macs"), 1e9),
        "input": "x".join(map(str, shape)) if isinstance(shape, list) else None,
        "latency": _scaled(times.get("median"), 1e-3),
        "latency_low": _scaled(times.get("low"), 1e-3),
        "latency_high": _scaled(times.get("high"), 1e-3),
        "memory": _scaled(cost.get("peak_bytes"), 2**20),
        "device": f"{device}{threads}" if device else None,
    }


def _scaled(value: object, by: float) -> float | None:
    found = number(value)
    return None if found is None else found / by


def likes(run: Run) -> dict[Like, str]:
    """What a run's values share with those that they may be ranked with; "" where it is not known.

    Losses want the same validation images seen the same way, and the same loss; time wants the same machine.
    """
    cost = run.cost
    images = section_text(run.recipe, "data", "evaluation", but=("data.root", "data.workers"))
    machine = ", ".join(str(run.environment.get(key, "")) for key in ("system", "gpu", "cpu cores"))
    timing = f"{cost.get('device')} {cost.get('threads')} {machine}" if cost else ""
    trained = f"{cost.get('train_device')} {cost.get('train_threads')} {machine}" if cost else ""
    shape = str(cost.get("shape", "")) if cost else ""
    return {
        "": "",
        "protocol": "",
        "validation": images,
        "loss": images + section_text(run.recipe, "losses", "auxiliary_weight"),
        "machine": trained,
        "input": shape,
        "timing": f"{shape} {timing}" if cost else "",
    }


def columns_of(classes: list[str], varied: list[str], split: str | None) -> tuple[Column, ...]:
    """All columns of a comparison: the fixed ones, the recipes' keys that vary, the classes' IoU."""
    recipe = tuple(Column(key, key, "recipe", source=f"{key} in config.yaml") for key in varied)
    iou = tuple(
        Column(f"iou/{name}", name, "class", digits=4, better="high", like="protocol", source=f"iou of it in {SCORES}")
        for name in classes
    )
    named = tuple(_with_split(column, split) if column.key in ("miou", "mdice", "loss") else column for column in FIXED)
    head = 1 + [column.key for column in FIXED].index("miou")  # a narrow screen shows the score beside the name
    return (*named[:head], *recipe, *named[head:-1], *iou, named[-1])


def _with_split(column: Column, split: str | None) -> Column:
    if split != "test":  # "val mIoU" is the one of training's own validation
        return column
    return Column(**{**column.__dict__, "title": f"{split} {column.title}"})
