"""The end of a run: its best checkpoint is scored, and drawn for people in report.html."""

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from torch import Tensor, nn

from terrazzo.base import Dataset, Split
from terrazzo.bundle import find_bundle, load_bundle
from terrazzo.commands.evaluate import Evaluated, ImageScore, as_result, save_evaluation, score_dataset
from terrazzo.config import EvaluationConfig, RunConfig, dump_yaml
from terrazzo.cost import Cost, measure
from terrazzo.engine.state import read_state
from terrazzo.engine.world import World
from terrazzo.files import write_text
from terrazzo.infer.predictor import Predictor, network_input
from terrazzo.infer.tiles import window_sides
from terrazzo.models import Segmenter
from terrazzo.report.charts import write_curves
from terrazzo.report.page import Number, Panel, Panels, Report, write_report
from terrazzo.track.jsonl import read_lines

LATENCY_SECONDS = 5.0
"""No further latency run begins after so many seconds of them."""

COST_FILE = "cost.json"

SHOWN = 4
"""Images of each group (best, worst, samples)."""

NOTES = (
    "train mIoU is of the step's own predictions on augmented crops, in train mode, over the epoch so far; "
    "val mIoU is of whole images in eval mode.",
)


def report_run(
    folder: Path,
    config: RunConfig,
    dataset: Dataset,
    split: Split,
    world: World,
    *,
    network: nn.Module | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Score best_miou (else last) on a split; write evaluation/SPLIT-CHECKPOINT/ and report.html into the run."""
    found = find_bundle(folder)
    model, bundle = load_bundle(found.folder, network=network)
    model = model.to(world.device)
    evaluated = score_dataset(
        model, dataset, config.evaluation, world=world, workers=config.data.workers, progress=progress
    )
    result = as_result(evaluated, config, split, dataset) | {"checkpoint": found.checkpoint, "step": bundle.step}
    evaluation = save_evaluation(folder, evaluated, result, dataset.classes)
    curves = read_lines(folder / "metrics.jsonl")
    write_curves(evaluation.parent / "curves.png", curves)
    predictor = Predictor(model, dataset.classes, config.evaluation)
    panels, seconds = _panels(predictor, dataset, evaluated.images)
    bill = measure(model, _example(model, dataset, config.evaluation), seconds=LATENCY_SECONDS)
    facts = cost_facts(bill, found.folder, folder, config) | {"prediction_seconds": median(seconds)}
    write_cost(evaluation, facts)
    cost = [*_cost(facts, config, bundle.step, len(seconds)), *_adaptation(folder, config)]
    write_text(evaluation / "cost.csv", _cost_table(cost))
    write_report(
        folder / "report.html",
        Report(
            title=folder.name,
            when=time.strftime("%Y-%m-%d %H:%M"),
            classes=dataset.classes,
            headline=_headline(result, evaluated, split),
            curves=curves,
            scores=result,
            confusion=evaluated.matrix,
            panels=panels,
            cost=cost,
            protocol=result["protocol"] | {"checkpoint": f"{found.checkpoint}, step {bundle.step}"},
            config_yaml=dump_yaml(config),
            environment=yaml.safe_load((folder / "environment.yaml").read_text(encoding="utf-8")),
            notes=NOTES,
        ),
    )
    return folder / "report.html"


def _headline(result: dict[str, object], evaluated: Evaluated, split: Split) -> list[Number]:
    return [
        Number(f"{split} mIoU", result["miou"], "mean IoU over classes"),  # type: ignore[arg-type]  # as_dict's floats
        Number("pixel accuracy", result["accuracy"], "share of labelled pixels that are right"),  # type: ignore[arg-type]  # the same
        Number("mean Dice", result["mdice"]),  # type: ignore[arg-type]  # the same
        Number("images", str(len(evaluated.images)), f"of the {split} split"),
    ]


def _panels(predictor: Predictor, dataset: Dataset, images: Sequence[ImageScore]) -> tuple[Panels, list[float]]:
    """The best, the worst and evenly chosen images, and how long each prediction took in seconds."""
    ranked = sorted((row for row in images if row.pixels), key=lambda row: (row.miou, row.index))
    every = max(1, len(images) // SHOWN)
    groups = {
        "best": ranked[::-1][:SHOWN],
        "worst": ranked[:SHOWN],
        "samples": [images[n] for n in range(every // 2, len(images), every)][:SHOWN],
    }
    made: dict[int, Panel] = {}
    seconds = []
    for row in {row.index: row for group in groups.values() for row in group}.values():
        sample = dataset[row.index]
        began = time.perf_counter()
        prediction = predictor(sample.image)
        seconds.append(time.perf_counter() - began)
        made[row.index] = Panel(row.name, sample.image, sample.mask, prediction.mask, row.miou)
    return Panels(**{name: [made[row.index] for row in group] for name, group in groups.items()}), seconds


def _example(model: Segmenter, dataset: Dataset, evaluation: EvaluationConfig) -> Tensor:
    """The first image as the network gets it, or its first window; uint8 [1, C, h, w] on the network's device."""
    images = network_input(dataset[0].image, evaluation.resize)
    if evaluation.window is not None:
        size = images.shape[2], images.shape[3]
        height, width = window_sides(size, model.padded, evaluation.window)
        images = images[:, :, :height, :width]
    return images.to(model.mean.device)


def cost_facts(bill: Cost, bundle: Path, run: Path, config: RunConfig) -> dict[str, Any]:
    """cost.json of a run: what a network costs, and what training it did, as plain numbers; bytes and seconds."""
    last = read_state(find_bundle(run, "last").folder)
    latency = bill.latency
    assert latency is not None, "measure times unless told not to"
    return {
        "shape": list(bill.shape),
        "parameters": bill.parameters,
        "executed": bill.executed,
        "bytes": bill.size,
        "macs": bill.macs,
        "latency": {"median": latency.median, "low": latency.low, "high": latency.high, "runs": latency.runs},
        "device": latency.device,
        "threads": latency.threads,
        "peak_bytes": bill.peak,
        "kept_bytes": bill.kept,
        "file_bytes": (bundle / "model.safetensors").stat().st_size,
        "train_seconds": last["seconds"],
        "train_steps": last["step"],
        "train_threads": last["threads"],
        "train_device": latency.device if config.device == "auto" else config.device,
        "images_per_second": last["step"] * config.batch / max(1e-9, last["seconds"]),
    }


def measured_cost(model: Segmenter, dataset: Dataset, bundle: Path, run: Path, config: RunConfig) -> dict[str, Any]:
    """The facts of a run that has been trained before, measured now."""
    bill = measure(model, _example(model, dataset, config.evaluation), seconds=LATENCY_SECONDS)
    known = config.device != "auto"  # else it may have been trained on another device than this one
    return cost_facts(bill, bundle, run, config) | ({} if known else {"train_device": None})


def write_cost(evaluation: Path, facts: Mapping[str, Any]) -> None:
    """Keep the facts beside the scores of the checkpoint that they are of."""
    write_text(evaluation / COST_FILE, json.dumps(facts, indent=2) + "\n")


def _cost(facts: Mapping[str, Any], config: RunConfig, step: int, shown: int) -> list[Number]:
    latency, device = facts["latency"], facts["device"]
    shape = "x".join(str(side) for side in facts["shape"])
    spread = f"{1e3 * latency['low']:.1f} to {1e3 * latency['high']:.1f} ms are 10 to 90 % of {latency['runs']} runs"
    threads = f"{facts['threads']} threads, {device}" if device == "cpu" else device
    trained = f"batch {config.batch}, {facts['train_threads']} threads, {device}"
    seconds = facts["train_seconds"]
    prediction = f"{1e3 * facts['prediction_seconds']:.0f} ms an image"
    return [
        Number("parameters", f"{facts['parameters'] / 1e6:.3f} M", f"{facts['executed'] / 1e6:.3f} M of them run"),
        Number("size", f"{facts['bytes'] / 2**20:.3f} MiB", "parameters and buffers"),
        Number("work", f"{facts['macs'] / 1e9:.3f} GMACs", f"convolutions and matrix products at {shape}"),
        Number("latency", f"{1e3 * latency['median']:.1f} ms", f"median; {spread}; {shape}, {threads}"),
        Number("memory", f"{facts['peak_bytes'] / 2**20:.0f} MiB", f"peak beside it, {shape}"),
        Number("model file", f"{facts['file_bytes'] / 1e6:.2f} MB"),
        Number("training time", _clock(seconds), f"{facts['train_steps']} steps; validation and reports left out"),
        Number("training speed", f"{facts['images_per_second']:.1f} images/s", trained),
        Number("prediction", prediction, f"median of {shown}, array to mask"),
        Number("shown checkpoint", f"step {step}"),
    ]


def _adaptation(run: Path, config: RunConfig) -> list[Number]:
    """What learned, where that was not everything."""
    told = run / "adaptation.txt"
    return [Number("adaptation", config.adapt.kind, told.read_text("utf-8").splitlines()[0])] if told.exists() else []


def _cost_table(rows: Sequence[Number]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["what", "value", "of"])
    writer.writerows([row.label, row.value, row.hint] for row in rows)
    return text.getvalue()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
