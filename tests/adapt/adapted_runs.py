"""Real runs of a second, on made-up images and made-up given weights."""

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import terrazzo
from terrazzo.adapt.folded import changed_layers
from terrazzo.config import config_of
from terrazzo.models import SegFormerModel, Segmenter, build_model

CLASSES = ("no", "yes")
SEGFORMER: dict[str, Any] = {
    "kind": "segformer",
    "dims": [8, 8, 16, 16],
    "heads": [1, 1, 2, 2],
    "depths": [1, 1, 1, 1],
    "decoder_width": 16,
}
PICTURE = np.random.default_rng(5).integers(0, 256, (40, 56, 3), np.uint8)


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in {"train": 4, "val": 2}.items():
        for n in range(count):
            mask = np.zeros((40, 48), np.uint8)
            mask[rng.integers(0, 20) :, rng.integers(0, 24) :] = 1
            image = (mask[..., None] * 90 + rng.integers(0, 120, (40, 48, 3))).astype(np.uint8)
            for kind, array in (("images", image), ("masks", mask)):
                path = folder / "data" / kind / split / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), array)


def base_file(path: Path, *, seed: int, classes: int = 2) -> Path:
    torch.manual_seed(seed)
    segmenter, _ = build_model(SegFormerModel.model_validate(SEGFORMER), classes)
    save_file(segmenter.net.state_dict(), path)
    return path


def tree(home: Path, out: Path, **sections: Any) -> dict[str, Any]:
    """A recipe."""
    return {
        "out": str(out),
        "data": {
            "kind": "folder",
            "root": str(home / "data"),
            "images": "images/{split}",
            "labels": "masks/{split}",
            "classes": [*CLASSES],
            "workers": 0,
        },
        "model": SEGFORMER | {"weights": str(home / "base.safetensors")},
        "augment": {"crop": 32},
        "optim": {"kind": "adamw", "lr": 0.01},
        "length": {"steps": 2},
        "batch": 2,
        "threads": 1,
        "device": "cpu",
        **sections,
    }


def adapted_run(home: Path, out: Path, method: dict[str, Any], **sections: Any) -> Path:
    """The folder of a run; of the one that is there already, if it is."""
    return run_of(tree(home, out, adapt=method, **sections))


def run_of(recipe: dict[str, Any]) -> Path:
    """The same of a recipe; without a report, and without waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        patch.setattr("terrazzo.commands.train.report_run", lambda *args, **options: None)
        return terrazzo.train(config_of(recipe)).folder


def plain(segmenter: Segmenter) -> Segmenter:
    """A copy whose layers with LoRA compute the gradient of their whole weight, as torch's own do."""
    segmenter = copy.deepcopy(segmenter)
    for layer in changed_layers(segmenter).values():
        before = type(layer).__mro__[1]  # a parametrized layer's class is derived from the layer's own
        layer.__class__ = type("Plain", (type(layer),), {"forward": before.forward})
    return segmenter
