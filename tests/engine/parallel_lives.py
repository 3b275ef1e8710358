"""Runs that tests start on one, two and four processes; `python parallel_lives.py FOLDER NAME...` runs some of them."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import terrazzo
import terrazzo.commands.start as start
import terrazzo.commands.train as training
from terrazzo.base import Classes, InputError, Sample
from terrazzo.models import SegFormerModel, build_model

RANK = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


class Noise:
    """Images of noise with a bright square; deterministic by index."""

    classes = Classes.of(["a", "b", "c"])

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        image, mask = rng.integers(0, 120, (40, 40, 3), dtype=np.uint8), np.zeros((40, 40), np.uint8)
        top, left = rng.integers(0, 20, 2)
        mask[top : top + 15, left : left + 15] = 1 + index % 2
        image[mask > 0] += 100
        mask[: 3 + index] = 255
        return Sample(image, mask, f"noise-{index}")


UNET = {"kind": "unet", "width": 4, "depth": 2}
SEGFORMER = {
    "kind": "segformer",
    "dims": [8, 8, 8, 8],
    "heads": [1, 1, 1, 1],
    "depths": [2, 1, 1, 1],
    "decoder_width": 16,
    "dropout": 0,
}
RECIPE: dict[str, Any] = {
    "data": {"kind": "own", "workers": 0},
    "augment": {"crop": 32},
    "optim": {"kind": "adamw", "lr": 0.001},
    "length": {"steps": 4},
    "batch": 4,
    "log_every": {"steps": 2},
    "validate_every": {"steps": 2},
    "save_every": {"steps": 2},
    "device": "cpu",
    "threads": 1,
}
FSDP = {"kind": "fsdp", "sync_batchnorm": True}
LIVES: dict[str, dict[str, Any]] = {
    "batchnorm": {
        "model": UNET,
        "parallel": {"sync_batchnorm": True},
        "sampling": {"kind": "rare_classes", "share": 0.5},
    },
    "shards": {
        "model": SEGFORMER,
        "parallel": FSDP,
        "ema": {"decay": 0.5},
        "step": {"clip": 0.5, "recompute": True},
    },
    "parts": {
        "model": UNET | {"norm": "group"},
        "parallel": {"kind": "fsdp", "reshard": False},
        "step": {"accumulate": 2},
        "optim": {"kind": "sgd", "lr": 0.1},
        "batch": 8,
    },
    "lora": {"model": SEGFORMER, "parallel": FSDP, "adapt": {"kind": "lora"}},
}
"""Each trains to the same network on any number of processes, to rounding."""

VAL = 5
"""Images; no number of processes that is tested divides it."""


def live(out: Path, name: str, **changes: Any) -> Any:
    """One of LIVES, in float64 and without a report; an adapted one beside given weights."""
    if "adapt" in LIVES[name]:
        changes["model"] = LIVES[name]["model"] | {"weights": given(out.parent)}
    return terrazzo.train(
        {**RECIPE, "out": str(out), **LIVES[name], **changes}, train_set=Noise(12, 0), val_set=Noise(VAL, 1)
    )


def given(folder: Path) -> str:
    """Weights of `SEGFORMER`, the same in a file for each rank."""
    torch.manual_seed(7)
    network, _ = build_model(SegFormerModel.model_validate(SEGFORMER), len(Noise.classes.names))
    path = folder / f"given-{RANK}.safetensors"
    save_file(network.net.state_dict(), path)
    return str(path)


def in_float64(adapt: Any) -> Any:
    def double(model: nn.Module, cfg: Any) -> Any:
        adapted = adapt(model, cfg)
        model.double()
        return adapted

    return double


def prepare(patch: Any = setattr) -> None:
    patch(start, "adapt", in_float64(start.adapt))
    patch(training, "report_run", lambda *args, **options: None)


class Missing(Noise):
    """The validation images of one rank cannot be read."""

    def __getitem__(self, index: int) -> Sample:
        if RANK == 1:
            raise InputError(f"noise-{index}: the label is missing")
        return super().__getitem__(index)


def bad_label(out: Path) -> None:
    terrazzo.train({**RECIPE, "out": str(out), **LIVES["batchnorm"]}, train_set=Noise(12, 0), val_set=Missing(VAL, 1))


def stuck_here() -> None:
    time.sleep(600)


def hang(out: Path) -> None:
    """Rank 1 does nothing any more in its third step, and is not told by anybody from outside.

    Before, reading the training labels takes longer than the timeout, and that is no fault.
    """
    make, read = training.make_step, start.index_masks

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(8)
        return read(*args, **options)

    start.index_masks = slow

    def hanging(*args: Any) -> Any:
        step, done = make(*args), []

        def one(*inputs: Tensor) -> Any:
            done.append(1)
            if RANK == 1 and len(done) == 3:
                stuck_here()
            return step(*inputs)

        return one

    training.make_step = hanging
    live(out, "batchnorm", parallel={"timeout_minutes": 0.1})


def killed(out: Path) -> None:
    """Rank 1 is killed in its fourth step, in its first life."""
    make = training.make_step

    def dying(*args: Any) -> Any:
        step, done = make(*args), []

        def one(*inputs: Tensor) -> Any:
            done.append(1)
            if RANK == 1 and len(done) == 4 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*inputs)

        return one

    training.make_step = dying
    live(out, "shards")


def equal(out: Path) -> None:
    """All that is compared with one process, in one launch."""
    for name in LIVES:
        live(out / name, name)
    live(out / "grown", "shards")  # begun by one process
    terrazzo.evaluate(out / "batchnorm", checkpoint="last", dataset=Noise(VAL, 1), device="cpu")


def again(out: Path) -> None:
    """Stopped half-way and gone on with, by the same number of processes."""
    live(out / "cut", "shards", length={"steps": 2})
    live(out / "cut", "shards")


def refused(out: Path) -> None:
    """What several processes refuse."""
    for place, changes in enumerate(({"batch": 3}, {"batch": 1}, {"step": {"accumulate": 4}})):
        try:
            live(out / f"refused-{place}", "batchnorm", **changes)
        except InputError as error:
            (out / f"refused-{place}-{RANK}.txt").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    prepare()
    for task in sys.argv[2:]:
        globals()[task](Path(sys.argv[1]))
