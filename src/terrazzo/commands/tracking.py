"""The trackers of a run, as `train` sees them: fed on the main process, absent on the others."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml

from terrazzo.base import Dataset, Image, Mask
from terrazzo.commands.evaluate import Evaluated
from terrazzo.commands.start import Job
from terrazzo.config import EvaluationConfig, dump_yaml
from terrazzo.engine.state import TrainState
from terrazzo.files import remove_tree
from terrazzo.infer.draw import as_rgb, panel
from terrazzo.infer.predictor import Predictor
from terrazzo.models import Segmenter
from terrazzo.track import build_tracker
from terrazzo.track.guarded import END_SECONDS, STOP_SECONDS, Guarded
from terrazzo.track.jsonl import read_lines
from terrazzo.track.kept import FOLDER
from terrazzo.track.tensorboard import FOLDER as EVENTS
from terrazzo.track.tracker import About, ClassTable, End, Final, Shown, Validation

LONGEST = 640
"""Pixels of the longer side of a sample image: whole frames of a camera would be gigabytes in the end."""


class Samples:
    """The same few images of a data set, evenly chosen, with what a network says of them now."""

    def __init__(self, dataset: Dataset, count: int):
        size, some = len(dataset), min(count, len(dataset))
        self.dataset = dataset
        self.indexes = [(2 * n + 1) * size // (2 * some) for n in range(some)]

    @torch.inference_mode()
    def shown(self, model: Segmenter, evaluation: EvaluationConfig) -> tuple[Shown, ...]:
        """Predicted in eval mode; the network is left as it was, and no random number is drawn."""
        training = model.training
        predictor = Predictor(model, self.dataset.classes, evaluation)
        found = tuple(self._one(predictor, index) for index in self.indexes)
        model.train(training)
        return found

    def _one(self, predictor: Predictor, index: int) -> Shown:
        sample = self.dataset[index]
        prediction = predictor(sample.image).mask
        image = small(as_rgb(sample.image), cv2.INTER_AREA)
        truth, answer = (small(mask, cv2.INTER_NEAREST) for mask in (sample.mask, prediction))
        return Shown(sample.name, image, truth, answer, panel(image, truth, answer, self.dataset.classes))


class Tracking:
    """Hands what a run finds on to its trackers."""

    def __init__(self, job: Job, trackers: list[Guarded]):
        self.trackers = trackers
        self.evaluation = job.cfg.evaluation
        count = max((cfg.images for cfg in job.cfg.trackers), default=0)  # known to every rank
        self.samples = Samples(job.sets.val, count) if count else None

    def validation(self, model: Segmenter, found: Evaluated) -> Validation | None:
        """What trackers are told of a validation. All ranks come here: a network shared out among them needs all."""
        samples = self.samples.shown(model, self.evaluation) if self.samples is not None else ()
        if not self.trackers:
            return None
        classes = found.tally.classes
        return Validation(class_table(found.tally.scores().as_dict(classes)["per_class"]), samples)

    def log(self, step: int, values: Mapping[str, float], validation: Validation | None) -> None:
        for tracker in self.trackers:
            tracker.log(step, values, validation)

    def close(self, end: End, final: Final | None = None) -> None:
        """The last word; waits until it is said, but not for long."""
        trackers, self.trackers = self.trackers, []
        for tracker in trackers:
            tracker.close(end, final)
        until = time.monotonic() + (END_SECONDS if end == "finished" else STOP_SECONDS)
        for tracker in trackers:
            tracker.wait(until)


@contextmanager
def tracking(job: Job, state: TrainState) -> Iterator[Tracking]:
    """Open the recipe's trackers; what leaves here by an exception, or without a word, has failed.

    Raises:
        InputError: a tracker's library is missing, or its settings do not fit.
    """
    trackers = _open(job, state) if job.world.main and not _is_over(job, state) else []
    session = Tracking(job, trackers)
    try:
        yield session
    finally:
        session.close("failed")


def _open(job: Job, state: TrainState) -> list[Guarded]:
    if not job.cfg.trackers:
        return []
    folder = job.run.path
    if not state.step:  # what a life left that was killed before its first checkpoint
        for left in (folder / FOLDER, folder / EVENTS):
            if left.is_dir():
                remove_tree(left)
    about = About(
        folder=folder.resolve(),
        recipe=yaml.safe_load(dump_yaml(job.cfg)),
        environment=yaml.safe_load((folder / "environment.yaml").read_text(encoding="utf-8")),
        classes=job.sets.train.classes,
        step=state.step,
        history=tuple(read_lines(folder / "metrics.jsonl")),
    )

    def say(message: str) -> None:
        job.say(message)
        job.run.log(message)

    return [build_tracker(cfg, about, say) for cfg in job.cfg.trackers]


def _is_over(job: Job, state: TrainState) -> bool:
    """Whether this run has told its trackers all there is."""
    ended = state.step >= job.lengths.total or state.stopped_early
    return ended and (job.run.path / "report.html").exists()


def final_scores(run: Path, split: str, step: int) -> Final | None:
    """What the report of a finished run found; None if it scored nothing."""
    for name in ("best_miou", "last"):  # as the report chooses
        path = run / "evaluation" / f"{split}-{name}" / "scores.json"
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            means = {key: value for key, value in result.items() if isinstance(value, float)}
            return Final(split, step, means, class_table(result["per_class"]))
    return None


def class_table(rows: Mapping[str, Mapping[str, float | None]]) -> ClassTable:
    """From the `per_class` of a result; pixel counts are left out."""
    columns = [key for key in next(iter(rows.values())) if key != "pixels"]
    scores = {key: tuple(row[key] for row in rows.values()) for key in columns}
    return ClassTable(
        tuple(rows),
        {key: tuple(math.nan if value is None else value for value in values) for key, values in scores.items()},
    )


def small(array: Image | Mask, how: int) -> Any:
    """No longer than LONGEST on its longer side; [H, W] or [H, W, 3]."""
    height, width = array.shape[:2]
    scale = LONGEST / max(height, width)
    if scale >= 1:
        return array
    return cv2.resize(array, (max(1, round(scale * width)), max(1, round(scale * height))), interpolation=how)
