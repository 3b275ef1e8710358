"""A flat recipe of Nyuntam's "adapt" (YAML or JSON) as one of ours, with a line on what became of every key.

The recipe does what a key says. What the old tool really did with it, where that is something else, is in `REALLY`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrazzo.base import InputError
from terrazzo.config import RunConfig, config_of
from terrazzo.convert.flat import Flat
from terrazzo.convert.nyuntam_parts import (
    AUGMENT,
    SIZE,
    Tree,
    convert_adapt,
    convert_data,
    convert_model,
    convert_optim,
    convert_schedule,
)
from terrazzo.convert.text import recipe_text

REALLY = {
    **dict.fromkeys(
        (
            *("FULL_FINE_TUNING", "SEED", "FP16", "DO_TRAIN", "NUM_WORKERS", "STEPS", "INTERVAL", "NO_OF_CHECKPOINTS"),
            *("auto_select_modules", "lora_alpha", "alpha", "lora_dropout", "dropout"),
        ),
        "ignored it",
    ),
    "MERGE_ADAPTER": "ignored it and always merged",
    "INTERVAL_STEPS": "read it as epochs",
    "checkpoint_interval": "read it as iterations",
    "LAST_LAYER_TUNING": "opened the whole decode head",
}
"""What the old tool did with a key, whatever its name says."""

EXPORT = "`terrazzo export RUN --names nyuntam --out FOLDER` writes the old files, merged, when it is typed"

RESUME = "the same command goes on with a run that was stopped; `init` begins a new one from another's weights"

NO_COUNTERPART = {
    "JOB_SERVICE": "it chose one of the old tool's services",
    "TASK": "it chose one of the old tool's tasks",
    "Library": "the network's code is terrazzo's own",
    "MODEL": "MODEL_PATH says more",
    "CACHE_BOOL": "downloads are always kept, where TERRAZZO_CACHE says",
    "dest_root": "downloads are kept where TERRAZZO_CACHE says",
    "DO_TRAIN": "`terrazzo train` trains",
    "DO_EVAL": "every run validates; `terrazzo evaluate RUN` scores again",
    "BEGIN": "schedules begin with the run",
    "END": "schedules end with the run",
    "auto_scale_lr": "the learning rate is what the recipe says",
    "cfg_options": "overrides are typed behind the recipe: key=value",
    "launcher": "`torchrun -m terrazzo train` starts several processes",
    "resume": RESUME,
    "RESUME_FROM_CHECKPOINT": RESUME,
    "LOGGING_PATH": "logs lie in the run's folder",
    "OVERWRITE_OUTPUT_DIR": "`terrazzo train --fresh` moves an old run aside",
    "cuda_id": "CUDA_VISIBLE_DEVICES, before the command, chooses the device",
    "MERGE_ADAPTER": EXPORT,
    "SAVE_METHOD": EXPORT,
}
"""Keys that need none, and why."""

BASE = (
    "The old tool's base configuration also said, and the recipe writes out: images are resized to fit (2048, 512), "
    "times 0.5 to 2, cropped to 512 with at most 0.75 of one class, flipped, and distorted in colour (augment, "
    "evaluation); the decode head learns 10 times faster (optim.lr_factors); norms do not decay (optim.decay_norms: "
    "false, the default)"
)


@dataclass(frozen=True)
class Imported:
    """A recipe, and what became of every key."""

    config: RunConfig
    tree: Tree
    """What the recipe says, as far as it says more than the defaults."""
    rows: tuple[tuple[str, Any, str], ...]
    """(key, value, what became of it), in the order of the file."""
    remarks: tuple[str, ...]
    """What else is to be known of the recipe, in sentences."""
    source: str

    @property
    def report(self) -> tuple[str, ...]:
        """The keys and the remarks, a line each."""
        return (*(f"{key} = {value!r}: {what}" for key, value, what in self.rows), *self.remarks)

    @property
    def yaml(self) -> str:
        """The recipe's text, with the report as comments."""
        return recipe_text([f"From {self.source}, key by key:", *(f"- {line}" for line in self.report)], self.tree)


def convert_nyuntam(path: Path) -> Imported:
    """The recipe of a flat file.

    Raises:
        InputError: it names no data or no network, or a value is impossible.
    """
    flat = Flat.read(path)
    remarks = [BASE]
    tree = _tree(flat, remarks)
    for key in flat.left():
        flat.say(key, f"nothing: {NO_COUNTERPART.get(key, 'no such key is known')}")
    try:
        config = config_of(tree, source=str(path))
    except InputError as error:
        raise InputError(f"{path}: what it says makes no recipe:\n{error}") from None
    rows = tuple((key, value, flat.became[key] + _really(key)) for key, value in flat.values.items())
    return Imported(config, tree, rows, tuple(remarks), path.name)


def _really(key: str) -> str:
    return f" (the old tool {REALLY[key]})" if key in REALLY else ""


def _tree(flat: Flat, remarks: list[str]) -> Tree:
    for key, wanted in (("Library", "mmseg"), ("TASK", "image_segmentation"), ("JOB_SERVICE", "adapt")):
        if flat.given(key) and str(flat.values[key]).lower() != wanted:
            raise flat.fault([key], f"{wanted}: other recipes of the old tool are not about semantic segmentation here")
    tree: Tree = {"out": flat.word("OUTPUT_DIR", "work_dir", what="out") or f"runs/{flat.path.stem}"}
    tree["data"] = convert_data(flat, remarks)
    tree["model"] = convert_model(flat)
    tree["augment"] = AUGMENT
    tree["evaluation"] = {"resize": SIZE}
    tree["adapt"] = convert_adapt(flat)
    accumulate = flat.whole("GRADIENT_ACCUMULATION_STEPS", what="step.accumulate", default=1)
    tree["optim"] = convert_optim(flat, tree["adapt"])
    tree["schedule"] = convert_schedule(flat, accumulate)
    half = flat.flag("FP16", what="step.precision") | flat.flag("amp", what="step.precision")
    recompute = flat.flag("GRADIENT_CHECKPOINTING", what="step.recompute")
    tree["step"] = (
        ({"accumulate": accumulate} if accumulate > 1 else {})
        | ({"precision": "float16"} if half else {})
        | ({"recompute": True} if recompute else {})
    )
    batch = flat.whole("BATCH_SIZE", what="batch", default=1)
    if accumulate > 1:
        flat.say("BATCH_SIZE", f"batch: {batch * accumulate}, the images of all {accumulate} parts of a step")
    return {key: value for key, value in tree.items() if value != {}} | {
        **_durations(flat, accumulate),
        "batch": batch * accumulate,
        "keep": flat.whole("NO_OF_CHECKPOINTS", what="keep", default=1, least=0),
        "seed": flat.whole("SEED", what="seed", default=0, least=0),
    }


def _durations(flat: Flat, accumulate: int) -> Tree:
    """Length and intervals. The old tool's iterations are batches, of which a step takes `accumulate`."""
    steps = flat.whole("STEPS", what="length", default=0, least=0)
    epochs = flat.number("EPOCHS", what="nothing: STEPS says it" if steps else "length", default=1.0)
    tree: Tree = {"length": {"steps": steps} if steps else {"epochs": epochs}}
    unit = (flat.word("INTERVAL", what="validate_every: the unit of INTERVAL_STEPS") or "steps").lower().rstrip("s")
    if unit not in ("step", "epoch"):
        raise flat.fault(["INTERVAL"], "steps or epochs")
    if flat.given("INTERVAL_STEPS"):
        every = flat.whole("INTERVAL_STEPS", what=f"validate_every, in {unit}s", default=1)
        tree["validate_every"] = {f"{unit}s": every}
    if flat.given("checkpoint_interval"):
        batches = flat.whole("checkpoint_interval", what="save_every, in optimizer steps", default=1)
        tree["save_every"] = {"steps": max(1, batches // accumulate)}
        if accumulate > 1:
            what = f"save_every: {tree['save_every']['steps']} optimizer steps of {accumulate} batches"
            flat.say("checkpoint_interval", what)
    return tree
