"""A tiny run whose batches cross epochs, in an empty working folder; how to stop it, and how to read what it left."""

import json
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from terrazzo.config import RunConfig, config_of
from terrazzo.engine.step import make_step
from terrazzo.track.wandb import records

CLASSES = ("no", "yes | maybe?")
KEY = "0123456789abcdef0123456789abcdef01234567"
"""A key as W&B's are, of nobody."""


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in {"train": 10, "val": 3}.items():
        for n in range(count):
            mask = np.zeros((40, 48), np.uint8)
            mask[rng.integers(0, 20) :, rng.integers(0, 24) :] = 1
            mask[:3] = 255
            image = (mask[..., None] % 255 * 90 + rng.integers(0, 120, (40, 48, 3))).astype(np.uint8)
            for kind, array in (("images", image), ("masks", mask)):
                path = folder / "data" / kind / split / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), array)


def config(*trackers: dict[str, Any], out: str = "runs/run", **changes: Any) -> RunConfig:
    """Lines at steps 2, 4, 5, 6, 8, 10, 12, 14; validations at 5, 10, 14; checkpoints at 3, 6, 9, 12, 14."""
    return config_of(
        {
            "out": out,
            "data": {
                "kind": "folder",
                "root": "data",
                "images": "images/{split}",
                "labels": "masks/{split}",
                "classes": list(CLASSES),
                "workers": 0,
            },
            "model": {"kind": "unet", "width": 4, "depth": 2, "dropout": 0.1},
            "augment": {"crop": 32},
            "length": {"steps": 14},
            "batch": 4,
            "log_every": {"steps": 2},
            "validate_every": {"steps": 5},
            "save_every": {"steps": 3},
            "threads": 1,
            "device": "cpu",
            "trackers": list(trackers),
            **changes,
        }
    )


def stop_in(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGTERM in the middle of the step of this number in this life."""
    in_step(monkeypatch, step, lambda: signal.raise_signal(signal.SIGTERM))


class Killed(BaseException):
    """Stands for the end of a process: nothing of ours catches it."""


def kill_in(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    def kill() -> None:
        raise Killed

    in_step(monkeypatch, step, kill)


def in_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    def counted(*args: Any) -> object:
        inner, done = make_step(*args), []

        def wrapped(*inputs: torch.Tensor) -> object:
            done.append(1)
            if len(done) == step:
                act()
            return inner(*inputs)

        return wrapped

    monkeypatch.setattr("terrazzo.commands.train.make_step", counted)


def accumulated(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


def wandb_lives(run: Path, folders: str = "offline-run-*") -> list[list[Any]]:
    return [[*records(path)] for path in sorted((run / "wandb").glob(f"{folders}/*.wandb"))]


def history(life: list[Any]) -> list[dict[str, Any]]:
    """The records of one log with the keys of nested values joined by dots."""
    rows = [record.history.item for record in life if record.WhichOneof("record_type") == "history"]
    return [{".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row} for row in rows]
