"""`terrazzo evaluate`: score a trained model on labelled images, at the labels' own size by default."""

import csv
import json as jsonlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from terrazzo import __version__, kernels
from terrazzo.base import Classes, Dataset, InputError, Sample, Split
from terrazzo.bundle import CHECKPOINTS, OpenModel, open_model
from terrazzo.commands.score import instance_files
from terrazzo.config import EvaluationConfig, RunConfig, inference_with, load_config
from terrazzo.data import OwnData, available_splits, build_dataset
from terrazzo.data.augment import resize_mask
from terrazzo.data.folder import Folder
from terrazzo.data.loader import checked_sample
from terrazzo.data.pixels import read_values
from terrazzo.engine.watch import Watch
from terrazzo.engine.world import World
from terrazzo.files import write_text
from terrazzo.infer.answer import answer, label_map
from terrazzo.infer.predictor import network_input
from terrazzo.losses import Loss, count
from terrazzo.metrics import ClassMatch, MatchBy, Scores, Tally, csv_tables, match_classes
from terrazzo.models import Segmenter
from terrazzo.report.page import write_tables


@dataclass(frozen=True)
class ImageScore:
    """Scores of one image by itself: the classes that it shows or is said to show."""

    index: int
    name: str
    miou: float
    accuracy: float
    pixels: int
    """Labelled pixels, ignored ones left out."""


@dataclass(frozen=True)
class Evaluated:
    """What one pass over a split found."""

    tally: Tally
    """The counts of all images of all ranks, and the protocol they were counted under."""
    loss: float
    """nan if no loss was asked for."""
    images: list[ImageScore]
    """In the data's order, those of all ranks."""

    @property
    def matrix(self) -> NDArray[np.int64]:
        """[K, K], rows are the truth."""
        return self.tally.scores().confusion


def samples_ahead(dataset: Dataset, indexes: list[int], workers: int) -> Iterator[Sample]:
    """The samples in order, read a few ahead by threads (none for workers=0)."""
    if workers == 0:
        yield from (checked_sample(dataset, index) for index in indexes)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="evaluate") as pool:
        todo = iter(indexes)
        waiting = [pool.submit(checked_sample, dataset, index) for index in islice(todo, 2 * workers)]
        while waiting:
            sample = waiting.pop(0).result()
            waiting += [pool.submit(checked_sample, dataset, index) for index in islice(todo, 1)]
            yield sample


@torch.inference_mode()
def score_dataset(
    model: Segmenter,
    dataset: Dataset,
    evaluation: EvaluationConfig,
    *,
    world: World,
    workers: int = 0,
    loss: Loss | None = None,
    match: ClassMatch | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluated:
    """One pass in eval mode and float32. Ranks share the images, each is counted once, and all get the same answer.

    `match` is for a network with other classes than the data; a loss cannot be had of such a one.
    """
    assert match is None or loss is None
    was_training = model.training
    model.eval()
    tally, instances = _tally(dataset, evaluation, void=match is not None and bool(match.others))
    rows: list[tuple[ImageScore, list[float]]] = []
    mine = list(range(world.rank, len(dataset), world.size))
    for done, (index, sample) in enumerate(zip(mine, samples_ahead(dataset, mine, workers), strict=True), start=1):
        pixels, mask = network_input(sample.image, evaluation.resize), sample.mask
        if evaluation.score_at == "network":
            mask = resize_mask(mask, (pixels.shape[2], pixels.shape[3]))
        size = mask.shape[0], mask.shape[1]
        masks = torch.from_numpy(mask)[None].to(world.device)
        sums = torch.zeros(4)  # pixel losses, region losses, counted pixels, images that show one
        if loss is None:
            found = label_map(model, pixels, evaluation, size).to(world.device)
            found = found if match is None else match.in_classes(found)
        else:
            output = answer(model, pixels, evaluation).rescaled((pixels.shape[2], pixels.shape[3]), size)
            found = kernels.argmax(output.logits, size, covers=output.covers, align_corners=output.align_corners)
            sums = torch.cat([torch.stack(loss.sums(output, masks)), count(masks)]).cpu()
        score = _image_score(index, sample.name, _counted(tally, found, masks, instances.get(index)))
        rows.append((score, sums.tolist()))
        if progress is not None:
            progress(done, len(mine))
    model.train(was_training)
    rows = sorted(world.collect(rows), key=lambda row: row[0].index)
    tally.reduce(lambda counts: world.sum(torch.from_numpy(counts)).numpy())
    mean = _mean_loss([sums for _, sums in rows]) if loss is not None else float("nan")
    return Evaluated(tally, mean, [score for score, _ in rows])


def _mean_loss(rows: list[list[float]]) -> float:
    """Of all images, summed in their order: the number of ranks changes no bit."""
    per_pixel, per_image, pixels, shown = (float(sum(column)) for column in zip(*rows, strict=True))
    return per_pixel / max(1.0, pixels) + per_image / max(1.0, shown)


def _tally(dataset: Dataset, evaluation: EvaluationConfig, *, void: bool) -> tuple[Tally, dict[int, Path]]:
    """Where a pass is counted, and the instance file of each image that has one and needs it."""
    instances: dict[int, Path] = {}
    if evaluation.protocol == "cityscapes" and isinstance(dataset, Folder):
        labels = [label for _, label in dataset.files]
        files = instance_files(labels)
        instances = {index: files[label] for index, label in enumerate(labels) if files}
    tally = Tally(
        dataset.classes,
        evaluation.protocol,
        absent=evaluation.absent,
        boundary=evaluation.boundary,
        instances=bool(instances),
        void=void,
    )
    return tally, instances


def _counted(tally: Tally, found: Tensor, masks: Tensor, instances: Path | None) -> Scores:
    """Count one image, label maps uint8 [1, H, W]; on their device where the matrix is all that is asked for."""
    if tally.plain:
        return tally.add_counts(kernels.confusion_matrix(found, masks, len(tally.confusion)).cpu().numpy())
    prediction, target = (tally.file_ids(maps[0].cpu().numpy()) for maps in (found, masks))
    return tally.add(prediction, target, None if instances is None else read_values(instances))


def _image_score(index: int, name: str, scores: Scores) -> ImageScore:
    return ImageScore(index, name, scores.miou, scores.accuracy, int(scores.pixels.sum()))


def default_split(config: RunConfig) -> Split:
    """The test split if there is one, else val."""
    return "test" if "test" in available_splits(config.data) else "val"


def protocol(config: RunConfig, split: Split, dataset: Dataset) -> dict[str, Any]:
    """How a score was computed, besides what the tally says: enough to compute it again."""
    evaluation = config.evaluation
    at = "the label's own size" if evaluation.score_at == "label" else "the network's input size"
    return {
        "split": split,
        "images": len(dataset),
        "limit": config.data.limit,
        "size": f"scored at {at}",
        "resize": evaluation.resize.model_dump(mode="json"),
        "window": None if evaluation.window is None else evaluation.window.model_dump(mode="json"),
        "tta": None if evaluation.tta.is_off else evaluation.tta.model_dump(mode="json"),
        "precision": "float32",
        "terrazzo": __version__,
    }


def evaluate(
    source: str | Path,
    *,
    data: str | Path | RunConfig | None = None,
    split: Split | None = None,
    checkpoint: str | None = None,
    model: str | None = None,
    match: MatchBy | None = None,
    json: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    network: nn.Module | None = None,
    dataset: Dataset | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any] | list[dict[str, Any]]:
    """Score a model; a result on the run's own data is also kept in its folder, and any, if asked, in a JSON file.

    Args:
        source: run folder, bundle, checkpoint file, zoo name or hf:OWNER/NAME, as for `terrazzo.bundle.open_model`.
        data: recipe whose `data` and `evaluation` are used; default: the run's own.
        split: default: test if there is one, else val.
        checkpoint: last, best_miou, best_loss, or `all` for a list of all three.
        model: which published network a checkpoint file holds, where the file does not say.
        match: how the network's outputs stand for the data's classes: by name, or in their order; by default by name
            where the outputs have names.
        json: file to write the result to.
        overrides: changes of how the model looks at images, as those of `terrazzo.load`.
        device: auto, cpu, cuda or mps.
        network: the module of a model that was passed from Python (model.kind: own).
        dataset: a dataset object to score on, instead of `data` and `split`.
        progress: called with (images done, images in all).

    Raises:
        InputError: there is no such model or data, or a class of the data has no output.
    """
    names = list(CHECKPOINTS) if checkpoint == "all" else [checkpoint]
    results = []
    world = World.join(device)  # type: ignore[arg-type]  # World.join checks it
    with Watch(world):
        for name in names:
            opened = open_model(source, model=model, checkpoint=name, network=network)
            config = _data_config(opened, data)
            # else the run's folder would tell of another data set, another look, or another reading of the outputs
            own = data is None and match is None and not overrides
            results.append(_evaluate_one(opened, config, own, overrides, split, world, dataset, match, progress))
    result = results if checkpoint == "all" else results[0]
    if json is not None and world.main:
        write_text(Path(json), jsonlib.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def _data_config(opened: OpenModel, data: str | Path | RunConfig | None) -> RunConfig:
    if isinstance(data, RunConfig):
        return data
    if data is not None:
        return load_config(data)
    if opened.found is None:
        raise InputError(f"{opened.name} belongs to no run: say what to score it on with --data RECIPE")
    if opened.found.run is None:
        folder = opened.found.folder
        raise InputError(f"{folder} is a bundle outside a run folder: say what to score it on with --data RECIPE")
    return load_config(opened.found.run / "config.yaml")


def _evaluate_one(
    opened: OpenModel,
    config: RunConfig,
    own: bool,
    overrides: Sequence[str],
    split: Split | None,
    world: World,
    dataset: Dataset | None,
    match_by: MatchBy | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    if dataset is None:
        if isinstance(config.data, OwnData):
            raise InputError(f"{opened.name} was trained on a dataset object: pass dataset=... from Python")
        split = split or default_split(config)
        dataset = build_dataset(config.data, split)
    split = split or "test"
    outputs = opened.config.classes.classes()
    match = match_classes(outputs, dataset.classes, opened.name, named=opened.named, by=match_by)
    evaluation = config.evaluation.model_copy(update=dict(inference_with(opened.config.inference, overrides)))
    config = config.model_copy(update={"evaluation": evaluation})
    evaluated = score_dataset(
        opened.segmenter.to(world.device),
        dataset,
        evaluation,
        world=world,
        workers=config.data.workers,
        match=match,
        progress=progress if world.main else None,
    )
    result = as_result(evaluated, config, split, dataset)
    result |= {"checkpoint": opened.checkpoint, "step": opened.config.step}
    if not match.is_identity:
        result["match"] = match.as_dict()
    if opened.found is not None and opened.found.run is not None and own and world.main:
        save_evaluation(opened.found.run, evaluated, result, dataset.classes)
    return result


def as_result(evaluated: Evaluated, config: RunConfig, split: Split, dataset: Dataset) -> dict[str, Any]:
    """The `--json` of a pass."""
    result = evaluated.tally.result()
    result["protocol"] |= protocol(config, split, dataset)
    return result


def save_evaluation(run: Path, evaluated: Evaluated, result: dict[str, Any], classes: Classes) -> Path:
    """Write evaluation/SPLIT-CHECKPOINT/ of a run: scores.json, per-image and per-class tables, pictures."""
    folder = run / "evaluation" / f"{result['protocol']['split']}-{result['checkpoint']}"
    write_text(folder / "scores.json", jsonlib.dumps(result, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "images.csv", _image_table(evaluated.images))
    write_tables(folder, evaluated.tally.scores(), classes)
    for name, text in csv_tables(result).items():  # classes.csv again: with the protocol's own columns
        write_text(folder / name, text)
    return folder


def _image_table(images: list[ImageScore]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", "name", "miou", "accuracy", "pixels"])
    for row in images:
        writer.writerow([row.index, row.name, row.miou, row.accuracy, row.pixels])
    return text.getvalue()
