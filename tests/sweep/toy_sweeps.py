"""A data set of a few small images, and sweep recipes over it whose runs take a fraction of a second."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data.fake_files import label
from terrazzo.sweep.plan import Sweep, load_sweep

BASE: dict[str, Any] = {
    "data": {
        "kind": "folder",
        "root": "data",
        "images": "{split}/images/{id}.png",
        "labels": "{split}/labels/{id}.png",
        "classes": ["a", "b", "c"],
        "workers": 0,
    },
    "model": {"kind": "unet", "width": 4, "depth": 2},
    "augment": {"crop": 24},
    "length": {"steps": 4},
    "save_every": {"steps": 2},
    "batch": 2,
    "threads": 1,
    "device": "cpu",
}


def write_data(root: Path) -> None:
    """train, val and test images of 24x32 pixels below `root`/data."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for k in range(count):
            label(root / f"data/{split}/images/{k}.png", rng.integers(0, 256, (24, 32, 3)))
            label(root / f"data/{split}/labels/{k}.png", rng.integers(0, 3, (6, 8)).repeat(4, 0).repeat(4, 1))


def write_recipe(path: Path, block: dict[str, Any], **changes: Any) -> Path:
    """A sweep recipe: the base with these sections in place of its own, and the block."""
    path.write_text(yaml.safe_dump({**BASE, **changes, "sweep": block}, sort_keys=False))
    return path


def sweep_of(folder: Path, block: dict[str, Any], **changes: Any) -> Sweep:
    """The sweep of such a recipe, in the folder FOLDER/sweep."""
    return load_sweep(write_recipe(folder / "recipe.yaml", block, out=str(folder / "sweep"), **changes))
