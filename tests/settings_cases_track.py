"""Cases of `trackers`: what the libraries of the trackers are told. Their own files are read back in tests/track."""

from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from settings_base import Case, case
from settings_seen import run_folders
from terrazzo.base import Classes
from terrazzo.config import RunConfig
from terrazzo.track.mlflow import Mlflow, MlflowTracker
from terrazzo.track.tensorboard import TensorBoard, TensorBoardTracker
from terrazzo.track.tracker import About, ClassTable, Shown, Validation
from terrazzo.track.wandb import Wandb, WandbTracker

PICTURE, MASK = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
FOUND = Validation(
    ClassTable(("a",), {"iou": (0.5,)}), tuple(Shown(f"image {n}", PICTURE, MASK, MASK, PICTURE) for n in range(5))
)


def about(cfg: RunConfig) -> About:
    return About(Path.cwd() / "tracked", cfg.model_dump(mode="json", by_alias=True), {}, Classes.of(["a"]), 0, ())


def kinds(cfg: RunConfig) -> list[str]:
    """Which trackers a run opens."""
    made: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for tracker in (TensorBoardTracker, WandbTracker, MlflowTracker):
            patch.setattr(tracker, "open", lambda self: made.append(type(self).__name__))
            patch.setattr(tracker, "log", lambda self, step, values, validation: None)
            patch.setattr(tracker, "close", lambda self, end, final: None)
        run_folders(cfg)
    return made


def tensorboard_told(cfg: RunConfig) -> list[str]:
    (tracker,) = cfg.trackers
    assert isinstance(tracker, TensorBoard)
    built = TensorBoardTracker(tracker, about(cfg))
    built.writer = MagicMock()
    built.log(1, {}, FOUND)
    return [call.args[0] for call in built.writer.add_image.call_args_list]


def wandb_told(cfg: RunConfig) -> Any:
    """What W&B is asked to begin, and how many pictures it gets."""
    import wandb

    (tracker,) = cfg.trackers
    assert isinstance(tracker, Wandb)
    run, remarks = MagicMock(resumed=False), SimpleQueue[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", "k" * 40)
        patch.setenv("WANDB_MODE", "disabled")
        begun: dict[str, Any] = {}
        patch.setattr(wandb, "setup", lambda settings: None)
        patch.setattr(wandb, "init", lambda **given: begun.update(given) or run)
        built = WandbTracker(tracker, about(cfg), remarks.put)
        built.open()
        built.log(1, {}, FOUND)
    settings = begun["settings"]
    keys = ("project", "entity", "name", "group", "tags", "mode")
    pictures = sum(len(call.args[0].get("val/samples", [])) for call in run.log.call_args_list)
    return [begun[key] for key in keys], settings.x_disable_stats, settings.x_disable_meta, pictures


def mlflow_told(cfg: RunConfig) -> Any:
    """Where MLflow's client goes, what run it makes there, and how many pictures it gets."""
    (tracker,) = cfg.trackers
    assert isinstance(tracker, Mlflow)
    client = MagicMock()
    client.get_experiment_by_name.side_effect = lambda name: SimpleNamespace(experiment_id=f"of {name}")
    client.create_run.return_value.info.run_id = "1"
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr("mlflow.MlflowClient", lambda tracking_uri: asked.append(tracking_uri) or client)
        built = MlflowTracker(tracker, about(cfg))
        built.open()
        built.log(1, {}, FOUND)
    tags = [call.args[1:] for call in client.set_tag.call_args_list]
    return asked, client.create_run.call_args, tags, client.log_image.call_count


TRACK: dict[str, Case] = {
    "trackers.kind": case(kinds, {"kind": "tensorboard"}, {"kind": "wandb", "mode": "offline"}, {"kind": "mlflow"}),
    "trackers.tensorboard.images": case(tensorboard_told, 0, 1, 4),
    "trackers.wandb.project": case(wandb_told, "one", "{model.kind}"),
    "trackers.wandb.entity": case(wandb_told, None, "team"),
    "trackers.wandb.name": case(wandb_told, None, "mine", "{model.kind}_{model.width}"),
    "trackers.wandb.group": case(wandb_told, None, "{model.kind}"),
    "trackers.wandb.tags": case(wandb_told, [], ["a"], ["a", "{model.kind}"]),
    "trackers.wandb.mode": case(wandb_told, "auto", "offline", "online"),
    "trackers.wandb.images": case(wandb_told, 0, 1, 4),
    "trackers.wandb.system": case(wandb_told, True, False),
    "trackers.mlflow.uri": case(mlflow_told, None, "http://127.0.0.1:5000", "sqlite:///x.db"),
    "trackers.mlflow.experiment": case(mlflow_told, "one", "{model.kind}"),
    "trackers.mlflow.name": case(mlflow_told, None, "mine", "{model.kind}"),
    "trackers.mlflow.tags": case(mlflow_told, {}, {"a": "b"}, {"a": "{model.kind}"}),
    "trackers.mlflow.images": case(mlflow_told, 0, 1, 4),
}
