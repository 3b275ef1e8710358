"""The end of a run: its best checkpoint is scored, and drawn for people in report.html."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import yaml
from torch import nn

from terrazzo.base import Dataset, Split
from terrazzo.bundle import find_bundle, load_bundle
from terrazzo.commands.evaluate import Evaluated, ImageScore, as_result, save_evaluation, score_dataset
from terrazzo.config import RunConfig, dump_yaml
from terrazzo.engine.state import read_state
from terrazzo.engine.world import World
from terrazzo.infer.predictor import Predictor
from terrazzo.models import Segmenter
from terrazzo.report.charts import write_curves
from terrazzo.report.page import Number, Panel, Panels, Report, write_report
from terrazzo.track.jsonl import read_lines

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
    evaluation = save_evaluation(folder, evaluated, result, config.evaluation, dataset.classes)
    curves = read_lines(folder / "metrics.jsonl")
    write_curves(evaluation.parent / "curves.png", curves)
    predictor = Predictor(model, dataset.classes, config.evaluation.resize)
    panels, seconds = _panels(predictor, dataset, evaluated.images)
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
            cost=_cost(model, found.folder, folder, config, bundle.step, seconds),
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
        Number("pixel accuracy", result["accuracy"], "share of labelled pixels that are right"),  # type: ignore[arg-type]
        Number("mean Dice", result["mdice"]),  # type: ignore[arg-type]
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


def _cost(
    model: Segmenter, bundle: Path, run: Path, config: RunConfig, step: int, seconds: Sequence[float]
) -> list[Number]:
    last = read_state(find_bundle(run, "last").folder)
    rate = last["step"] * config.batch / max(1e-9, last["seconds"])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    device = next(model.parameters()).device.type
    return [
        Number("parameters", f"{parameters / 1e6:.3f} M"),
        Number("model file", f"{(bundle / 'model.safetensors').stat().st_size / 1e6:.2f} MB"),
        Number("training time", _clock(last["seconds"]), f"{last['step']} steps; validation and reports left out"),
        Number("training speed", f"{rate:.1f} images/s", f"batch {config.batch}, {last['threads']} threads, {device}"),
        Number("prediction", f"{1e3 * median(seconds):.0f} ms an image", f"median of {len(seconds)}, array to mask"),
        Number("shown checkpoint", f"step {step}"),
    ]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
