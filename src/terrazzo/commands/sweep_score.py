"""The end of a sweep's run: each checkpoint that the sweep names is scored on the test split, loss included."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from terrazzo.bundle import find_bundle, load_bundle
from terrazzo.commands.evaluate import Evaluated, as_result, save_evaluation, score_dataset
from terrazzo.commands.lengths import Lengths
from terrazzo.commands.sets import Sets, build_sets
from terrazzo.commands.start import Job, build_loss_of
from terrazzo.config import RunConfig
from terrazzo.description import read_bundle_config
from terrazzo.engine.place import Place
from terrazzo.engine.rundir import RunDir
from terrazzo.engine.world import World, choose_device
from terrazzo.losses import Loss
from terrazzo.sweep.block import Scored


def score_checkpoints(cfg: RunConfig, names: Sequence[Scored]) -> list[Path]:
    """Score the checkpoints of a run that have not been; two of the same step are the same weights, scored once.

    Returns:
        The folders evaluation/SPLIT-CHECKPOINT/ that were written.

    Raises:
        InputError: the run has no such checkpoint, or its data is not there.
    """
    steps = {name: read_bundle_config(find_bundle(cfg.out, name).folder).step for name in names}
    sets: Sets | None = None
    loss: Loss | None = None
    done: dict[int, tuple[Evaluated, dict[str, Any]]] = {}
    written = []
    for name, step in steps.items():
        if _is_scored(cfg.out, name, step):
            continue
        if sets is None or loss is None:
            sets = build_sets(cfg)
            loss = build_loss_of(_job(cfg, sets))
        if step not in done:
            evaluated = _score(cfg, find_bundle(cfg.out, name).folder, sets, loss)
            done[step] = evaluated, as_result(evaluated, cfg, sets.score_split, sets.score)
        evaluated, result = done[step]
        result = {**result, "loss": evaluated.loss, "checkpoint": name, "step": step}
        written.append(save_evaluation(cfg.out, evaluated, result, sets.score.classes))
    return written


def _is_scored(run: Path, name: str, step: int) -> bool:
    """Whether there are scores of this very checkpoint, with a loss; the report's have none."""
    for path in (run / "evaluation").glob(f"*-{name}/scores.json"):
        scores = json.loads(path.read_text(encoding="utf-8"))
        if scores.get("step") == step and scores.get("loss") is not None:
            return True
    return False


def _job(cfg: RunConfig, sets: Sets) -> Job:
    """This process alone: by now the other ranks of the run may have left."""
    place = Place.of(os.environ)
    world = World(0, 1, choose_device(cfg.device, place))
    return Job(cfg, world, RunDir(cfg.out), Console(stderr=True), sets, Lengths.of(cfg, len(sets.train)))


def _score(cfg: RunConfig, folder: Path, sets: Sets, loss: Loss) -> Evaluated:
    model, _ = load_bundle(folder)
    world = _job(cfg, sets).world
    workers = cfg.data.workers
    return score_dataset(model.to(world.device), sets.score, cfg.evaluation, world=world, workers=workers, loss=loss)
