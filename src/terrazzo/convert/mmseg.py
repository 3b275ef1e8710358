"""An MMSegmentation configuration as a recipe; it is read as data, and nothing in it is executed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from terrazzo.base import InputError
from terrazzo.config import RunConfig, config_of
from terrazzo.convert.ledger import Ledger
from terrazzo.convert.mmseg_data import convert_data
from terrazzo.convert.mmseg_losses import convert_losses
from terrazzo.convert.mmseg_model import convert_model
from terrazzo.convert.mmseg_old import is_old, modern
from terrazzo.convert.mmseg_pipeline import convert_augment, convert_evaluation
from terrazzo.convert.mmseg_schedule import convert_schedule
from terrazzo.convert.text import recipe_text
from terrazzo.published.mmseg_config import read_config

READ = (
    *("model", "train_dataloader", "val_dataloader", "test_dataloader", "optim_wrapper", "param_scheduler"),
    *("train_cfg", "default_hooks", "custom_hooks", "randomness", "load_from", "resume", "tta_pipeline", "tta_model"),
    *("val_evaluator", "test_evaluator", "auto_scale_lr", "custom_imports", "work_dir"),
)
"""Top-level keys that MMSegmentation itself reads and that say something about the run; others only name parts."""
INNER = (
    *("default_scope", "env_cfg", "visualizer", "log_processor", "log_level", "launcher", "val_cfg", "test_cfg"),
    *("find_unused_parameters", "dist_params", "workflow", "cudnn_benchmark", "vis_backends"),
)
"""Top-level keys about how MMSegmentation runs: nothing that is trained depends on them."""
HELPERS = (
    *("img_ratios", "optimizer", "norm_cfg", "img_norm_cfg", "num_classes", "crop_size", "data_preprocessor"),
    *("train_pipeline", "val_pipeline", "test_pipeline", "gpu_ids", "auto_resume"),
)
"""Usual names of parts that a config, or one that it builds on, may have replaced."""


@dataclass(frozen=True)
class Converted:
    """A recipe, and what became of the rest of the configuration."""

    config: RunConfig
    tree: dict[str, Any]
    """What the recipe says, as far as it says more than the defaults."""
    remarks: tuple[str, ...]
    """Where the recipe is not the same, in sentences."""
    left: tuple[tuple[str, str], ...]
    """(key, value) that have no counterpart."""
    inner: tuple[str, ...]
    """Keys about how MMSegmentation runs."""
    skipped: tuple[str, ...]
    """Statements that were not read, with the reason."""
    source: str

    @property
    def yaml(self) -> str:
        """The recipe's text, with all remarks as comments."""
        head = [f"From {self.source}. What is not the same:", *(f"- {each}" for each in self.remarks)]
        if self.left:
            head += ["Without a counterpart:", *(f"- {key} = {value}" for key, value in self.left)]
        if self.inner:
            head.append(f"About how MMSegmentation runs, and left out: {', '.join(self.inner)}")
        if self.skipped:
            head += ["Not read, since it is no plain data:", *(f"- {each}" for each in self.skipped)]
        return recipe_text(head, self.tree)


def convert_mmseg(path: Path) -> Converted:
    """The recipe of a config file of MMSegmentation 0.x or 1.x, with the files that it builds on.

    Raises:
        InputError: it is no such config, or there is nothing here like its network or data.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give an MMSegmentation config (.py)")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no Python config (not UTF-8 text: {error.reason})") from None
    read = read_config(text, folder=path.parent, source=str(path))
    ledger = Ledger(read.values)
    if is_old(read.values):
        ledger = Ledger(modern(read.values))
        ledger.remark("it was written for MMSegmentation 0.x; keys are listed here by their names in 1.x")
    try:
        tree = _tree(ledger, path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return Converted(
        config=_checked(tree, path),
        tree=tree,
        remarks=tuple(ledger.remarks),
        left=(*ledger.left(READ), *ledger.unread((*READ, *INNER, *HELPERS))),
        inner=tuple(key for key in INNER if key in ledger.config),
        skipped=tuple(
            f"{Path(file).name}, line {each.line}: {each.code} ({each.reason})" for file, each in read.skipped
        ),
        source=path.name,
    )


def _tree(ledger: Ledger, path: Path) -> dict[str, Any]:
    model, classes = convert_model(ledger)
    data, names = convert_data(ledger, classes)
    losses = convert_losses(ledger, names)
    if "auxiliary_weight" in losses and model["kind"] != "zoo":
        losses.pop("auxiliary_weight")
        ledger.remark("auxiliary heads are left out: this kind of model has none")
    for key in ("val_evaluator", "test_evaluator"):
        if ledger.look(key, "type") == "IoUMetric":
            ledger.take(key)
    for key in ("timer", "param_scheduler", "sampler_seed", "visualization"):
        ledger.take("default_hooks", key)  # how MMSegmentation runs, as what INNER names
    ledger.take("default_hooks", "logger", "log_metric_by_epoch")
    ledger.take("resume")
    if ledger.take("tta_pipeline") is not None or ledger.take("tta_model") is not None:
        ledger.take("tta_model")
        ledger.remark("tta_pipeline is left out; `evaluation.tta: {flip: horizontal, scales: [...]}` averages alike")
    out = ledger.text("work_dir")
    tree: dict[str, Any] = {} if out is None else {"out": out}
    augment, evaluation = convert_augment(ledger), convert_evaluation(ledger)
    tree |= {"data": data, "model": model, "augment": augment}
    if evaluation:
        tree["evaluation"] = evaluation
    if ledger.take("model", "backbone", "norm_eval") is True:
        tree["adapt"] = {"kind": "full", "batchnorm": "frozen"}
    return {**tree, **losses, **convert_schedule(ledger, path)}


def _checked(tree: dict[str, Any], path: Path) -> RunConfig:
    """The recipe, if it is one.

    Raises:
        InputError: values of the config that no recipe can have.
    """
    try:
        return config_of(yaml.safe_load(yaml.safe_dump(tree)), source=str(path))
    except InputError as error:
        raise InputError(f"{path}: what it says makes no recipe:\n{error}") from None
