"""All that a run needs to go on as if nothing had happened, and how it reaches the disk whole."""

import hashlib
import math
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from terrazzo.base import InputError
from terrazzo.engine.ema import Ema
from terrazzo.engine.stop import EarlyStop
from terrazzo.engine.world import World
from terrazzo.files import remove_tree, sync, sync_tree
from terrazzo.models import Segmenter

MODEL_FILE = "model.safetensors"
STATE_FILE = "train_state.pt"
COUNTERS = ("step", "loss_steps", "best", "waited", "stopped_early", "seconds")
"""Plain fields of the training state."""


@dataclass
class TrainState:
    """Tensors and counters. Data order, augmentation, dropout and learning rate all follow from `step`."""

    model: Segmenter
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    threads: int
    confusion: Tensor
    """int64 [K, K]: training predictions of this epoch so far."""
    loss_sum: Tensor
    """float64 [ranks]: training losses since the last line of the log; each rank adds to its own."""
    ema: Ema | None = None
    loss_steps: int = 0
    step: int = 0
    """Optimizer steps done."""
    best: dict[str, float] = field(default_factory=dict)
    """Best score so far by checkpoint name, higher is better (best_loss holds the negative loss)."""
    waited: int = 0
    """Validations since the last one that early stopping counts as better."""
    stopped_early: bool = False
    seconds: float = 0.0
    """Time spent in steps, over all lives of the run."""
    rank: int = 0
    """Of the process that counts here."""
    learnable: frozenset[str] = frozenset()
    """Parameters that the optimizer holds, by name, whether a stage of the run freezes them or not."""
    divided: bool = False
    """Whether each rank holds a share of weights and optimizer state only."""
    gathered: dict[str, Tensor] = field(default_factory=dict)
    """Counts of all ranks, as a checkpoint holds them."""
    whole: dict[str, Any] = field(default_factory=dict)
    """Of a divided state, weights and optimizer state put together for a checkpoint, on the rank that writes it."""

    @property
    def shown(self) -> Segmenter:
        """The network that is scored and shipped: the mean of the weights where there is one."""
        return self.model if self.ema is None else self.ema.model

    def count(self, loss: Tensor, confusion: Tensor) -> None:
        """Take in one step's result, on the device."""
        self.step += 1
        self.loss_sum[self.rank] += loss.to(self.loss_sum.device)
        self.loss_steps += 1
        self.confusion += confusion
        if self.ema is not None:
            self.ema.update(self.model, self.step)

    def gather(self, world: World) -> None:
        """Collect every rank's counts for a checkpoint that comes next; all ranks must be here."""
        self.gathered = {name: world.sum(getattr(self, name).clone()) for name in ("confusion", "loss_sum")}
        if self.divided:
            from terrazzo.engine.shards import whole

            self.whole = whole(self._trees(), keep=world.main)

    def tensors(self) -> dict[str, Tensor]:
        """The whole network that is shipped; of a divided one, as `gather` found it."""
        return dict(self.whole["shown"]) if self.divided else self.shown.state_dict()

    def _trees(self) -> dict[str, Any]:
        trees: dict[str, Any] = {"shown": self.shown.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.ema is not None:
            trees["raw"] = self.model.state_dict()  # the model file holds the mean
        return trees

    def improved(self, scores: dict[str, float]) -> list[str]:
        """Names of the scores that are the best so far; the first one always is, nan is worse than any number."""
        ranked = {name: -math.inf if math.isnan(score) else score for name, score in scores.items()}
        better = [name for name, score in ranked.items() if name not in self.best or score > self.best[name]]
        self.best |= {name: ranked[name] for name in better}
        return better

    def waits_too_long(self, values: dict[str, float], rule: EarlyStop) -> bool:
        """Take in a validation; True if the rule ends the run here."""
        better = rule.sign * values[rule.metric]
        if better > self.best.get("early_stop", -math.inf) + rule.min_change:
            self.best["early_stop"], self.waited = better, 0
        else:
            self.waited += 1
        return self.waited >= rule.patience

    def write(self, folder: Path) -> None:
        """Write the training state into a checkpoint folder that already holds the model file it belongs to."""
        saved = {name: getattr(self, name) for name in COUNTERS}
        trees = self.whole if self.divided else self._trees()
        saved |= {
            "model_sha256": file_hash(folder / MODEL_FILE),
            "scaler": self.scaler.state_dict(),
            "threads": self.threads,
            **self.gathered,
            **{name: tree for name, tree in trees.items() if name != "shown"},
        }
        torch.save(saved, folder / STATE_FILE)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint folder.

        Raises:
            InputError: the state and the model file beside it are not of the same moment.
        """
        saved = read_state(folder)
        if file_hash(folder / MODEL_FILE) != saved["model_sha256"]:
            raise InputError(
                f"{folder}: {MODEL_FILE} is not the file that {STATE_FILE} was saved with; "
                "put the original back, or start anew with --fresh"
            )
        _load(self.shown, load_file(folder / MODEL_FILE), divided=self.divided)
        if self.ema is not None:
            _load(self.model, saved["raw"], divided=self.divided)
        if self.divided:
            from terrazzo.engine.shards import divided_state

            saved["optimizer"] = divided_state(saved["optimizer"], self.optimizer)
        self.optimizer.load_state_dict(saved["optimizer"])
        if not self.divided:
            _lay_out(self.optimizer)
        self.scaler.load_state_dict(saved["scaler"])
        self._take_counts(saved["confusion"], saved["loss_sum"])
        for name in COUNTERS:
            setattr(self, name, saved[name])

    def _take_counts(self, confusion: Tensor, losses: Tensor) -> None:
        """This rank's part of what all ranks had counted, so that their sum is what it was."""
        self.confusion.copy_(confusion if self.rank == 0 else torch.zeros_like(confusion))
        if losses.numel() == self.loss_sum.numel():
            self.loss_sum[self.rank] = losses.reshape(-1)[self.rank]  # added to in the same order as without a stop
        elif self.rank == 0:
            self.loss_sum[0] = losses.sum()


def _load(model: Segmenter, tensors: dict[str, Tensor], *, divided: bool) -> None:
    if divided:
        from terrazzo.engine.shards import divided as shares

        tensors = shares(tensors, model.state_dict())
    model.load_state_dict(tensors)


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Running means get the memory layout of their weights, which a checkpoint written by shares has lost.

    torch's fused updates walk through both in the order of memory, and so would take them for each other's.
    """
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def read_state(folder: Path) -> dict[str, Any]:
    """The training state of a checkpoint folder, as plain tensors and numbers (nothing in it can run code)."""
    path = folder / STATE_FILE
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: this checkpoint cannot be resumed, only used; try --fresh") from None
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error}); try --fresh") from error
    return dict(saved)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Checkpoints:
    """The folder `checkpoints/` of a run: every name in it is a whole bundle or absent."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, name: str) -> Path | None:
        """The folder of a checkpoint, or None."""
        for path in (self.folder / name, self.folder / f"{name}.old"):  # .old: killed between a fallback's two renames
            if (path / "config.json").exists():
                return path
        return None

    def publish(self, name: str, fill: Callable[[Path], None]) -> None:
        """Let `fill` write a whole folder under a temporary name, sync it, then make it `name` in one rename.

        A symlink is what can be replaced in one rename; a folder cannot. Where the system refuses symlinks (Windows
        without developer mode) the old folder is moved to NAME.old first, and `find` knows that name.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".draft-{uuid.uuid4().hex[:8]}"
        draft.mkdir()
        fill(draft)
        sync_tree(draft)
        target = self.folder / f".{name}-{uuid.uuid4().hex[:8]}"
        draft.rename(target)
        link = self.folder / f".link-{uuid.uuid4().hex[:8]}"
        try:
            link.symlink_to(target.name, target_is_directory=True)
        except OSError:
            self._replace_folder(self.folder / name, target)
        else:
            link.replace(self.folder / name)
        sync(self.folder)
        self.clean()

    def _replace_folder(self, path: Path, target: Path) -> None:
        old = path.with_name(f"{path.name}.old")
        remove_tree(old)
        if path.exists():
            path.rename(old)
        target.rename(path)
        remove_tree(old)

    def publish_interval(self, name: str, fill: Callable[[Path], None], *, newest: int) -> None:
        """Write the interval checkpoint `name` and delete all but the `newest` ones."""
        if newest:
            self.folder.mkdir(parents=True, exist_ok=True)
            draft = self.folder / f".draft-{uuid.uuid4().hex[:8]}"
            draft.mkdir()
            fill(draft)
            sync_tree(draft)
            remove_tree(self.folder / name)  # there only if the run was killed before `last` reached this step
            draft.rename(self.folder / name)
            sync(self.folder)
        steps = sorted(path for path in self.folder.glob("step_*") if path.is_dir())
        for old in steps[: max(0, len(steps) - newest)]:
            remove_tree(old)

    def clean(self) -> None:
        """Delete what a kill left behind and what no name points to any more."""
        links = [path for path in self.folder.iterdir() if path.is_symlink()]
        current = {path.readlink().name for path in links if not path.name.startswith(".")}
        for path in self.folder.glob(".*"):
            if path.is_symlink():
                path.unlink()
            elif path.name not in current:
                shutil.rmtree(path, ignore_errors=True)
