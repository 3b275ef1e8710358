"""Where numbers go. The terminal and metrics.jsonl always; W&B, MLflow and TensorBoard where a recipe asks for them."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, assert_never

from pydantic import Field

from terrazzo.base import InputError
from terrazzo.track.guarded import Guarded
from terrazzo.track.mlflow import Mlflow, MlflowTracker
from terrazzo.track.tensorboard import TensorBoard, TensorBoardTracker
from terrazzo.track.tracker import About, Tracker
from terrazzo.track.wandb import Wandb, WandbTracker

TrackerConfig = Annotated[TensorBoard | Wandb | Mlflow, Field(discriminator="kind")]


def build_tracker(cfg: TrackerConfig, about: About, say: Callable[[str], None]) -> Guarded:
    """A tracker that is being opened on its own thread.

    Raises:
        InputError: its library cannot be imported, or its settings fit neither the recipe nor the machine.
    """
    remarks: SimpleQueue[str] = SimpleQueue()
    tracker: Tracker
    match cfg:
        case TensorBoard():
            _import("torch.utils.tensorboard", cfg.kind)
            tracker = TensorBoardTracker(cfg, about)
        case Wandb():
            _import("wandb", cfg.kind)
            tracker = WandbTracker(cfg, about, remarks.put)
        case Mlflow():
            _import("mlflow", cfg.kind)
            tracker = MlflowTracker(cfg, about)
        case _:
            assert_never(cfg)
    return Guarded(cfg.kind, tracker, say, remarks)


def check_trackers(trackers: Sequence[TrackerConfig], recipe: Mapping[str, Any]) -> None:
    """See that names can be filled from the resolved recipe, and that no kind stands twice.

    Raises:
        InputError: one of them does not hold.
    """
    kinds = [cfg.kind for cfg in trackers]
    if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        raise InputError(f"trackers: {twice[0]} stands more than once; a run has one of each kind")
    for cfg in trackers:
        if not isinstance(cfg, TensorBoard):
            cfg.filled(recipe)


def check_ready(trackers: Sequence[TrackerConfig]) -> None:
    """Look, before anything is read or built, for libraries (without importing them), keys and addresses.

    Raises:
        InputError: one is missing, or cannot be used.
    """
    for cfg in trackers:
        if find_spec(cfg.kind) is None:
            raise InputError(_missing(cfg.kind, "is not installed"))
        match cfg:
            case Wandb():
                cfg.chosen_mode()
            case Mlflow():
                cfg.chosen_uri(Path())


def _import(module: str, kind: str) -> None:
    """Import on the caller's thread what the tracker's thread needs, and find out now if it cannot be."""
    try:
        import_module(module)
    except ImportError as error:
        raise InputError(_missing(kind, f"cannot be imported ({error})")) from error


def _missing(kind: str, what: str) -> str:
    return f"trackers: {kind} {what}; type `pip install 'terrazzo[{kind}]'`, or take it out of the recipe"
