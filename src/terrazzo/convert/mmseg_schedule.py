"""Optimiser, schedule, lengths and intervals of an MMSegmentation configuration as those of a recipe."""

import re
from pathlib import PurePath
from typing import Any

from terrazzo.convert.ledger import Ledger, shown

Tree = dict[str, Any]

OPTIMIZERS = {"SGD": "sgd", "AdamW": "adamw", "Adam": "adam", "RMSprop": "rmsprop"}
OPTIONS = {
    "sgd": ("lr", "momentum", "weight_decay", "nesterov"),
    "adamw": ("lr", "betas", "eps", "weight_decay", "amsgrad"),
    "adam": ("lr", "betas", "eps", "weight_decay", "amsgrad"),
    "rmsprop": ("lr", "alpha", "eps", "momentum", "weight_decay", "centered"),
}
TORCH = {
    "sgd": {"lr": 0.001, "momentum": 0.0, "weight_decay": 0.0},
    "adamw": {"lr": 0.001, "weight_decay": 0.01},
    "adam": {"lr": 0.001, "weight_decay": 0.0},
    "rmsprop": {"lr": 0.01, "weight_decay": 0.0},
}
"""What torch, and so MMSegmentation, takes for what a config leaves out."""
ROLES = {"backbone": ("encoder",), "head": ("decoder", "head"), "decode_head": ("decoder", "head")}
"""custom_keys that mean whole parts of a network here."""
NORMS = ("norm", "bias", "bn", "ln")
"""Ends of custom_keys of parameters with one dimension, which `decay_norms: false` spares."""
NAMED_DEVICES = re.compile(r"_(\d+)xb(\d+)[-_]")


def convert_schedule(ledger: Ledger, source: PurePath) -> Tree:
    """The sections optim, schedule, step, length, batch and what belongs to them; `source` names the config."""
    accumulate = ledger.whole("optim_wrapper", "accumulative_counts") or 1
    optim, lr = _optim(ledger)
    length, by_epoch = _length(ledger, accumulate)
    tree: Tree = {"optim": optim, "schedule": _schedule(ledger, lr, length, accumulate), "step": _step(ledger)}
    if ledger.look("model", "backbone", "with_cp") is True:
        ledger.take("model", "backbone", "with_cp")
        tree["step"]["recompute"] = True
    tree |= {"length": length, "batch": _batch(ledger, source, accumulate)}
    if accumulate > 1:
        tree["step"]["accumulate"] = accumulate
        ledger.remark(
            f"optim_wrapper.accumulative_counts={accumulate}: a step here is one update of the weights, so that all "
            "lengths are divided by it"
        )
    tree |= _intervals(ledger, accumulate, by_epoch=by_epoch)
    tree |= _hooks(ledger)
    if (seed := ledger.look("randomness", "seed")) is not None and isinstance(seed, int) and seed >= 0:
        tree["seed"] = ledger.take("randomness", "seed")
    if ledger.look("randomness", "deterministic") is not None:
        tree["deterministic"] = ledger.take("randomness", "deterministic") is True
    return tree


def _optim(ledger: Ledger) -> tuple[Tree, float]:
    """The optimiser, and its learning rate."""
    kind = OPTIMIZERS.get(ledger.kind("optim_wrapper", "optimizer"))
    if kind is None:
        kind = "adamw"
        name = shown(ledger.look("optim_wrapper", "optimizer", "type", default="none"))
        ledger.remark(f"optim_wrapper.optimizer is {name}; the recipe has adamw in its place")
    tree: Tree = {"kind": kind, **TORCH[kind]}
    for key in OPTIONS[kind]:
        value = ledger.look("optim_wrapper", "optimizer", key)
        if value is not None:
            tree[key] = ledger.take("optim_wrapper", "optimizer", key)
            tree[key] = [*value] if isinstance(value, tuple) else value
    factors = _factors(ledger)
    tree["decay_norms"] = not _spares_norms(ledger)
    if factors:
        tree["lr_factors"] = factors
    rate = ledger.number("optim_wrapper", "optimizer", "lr")
    return tree, rate or TORCH[kind]["lr"]


def _factors(ledger: Ledger) -> dict[str, float]:
    where = ("optim_wrapper", "paramwise_cfg", "custom_keys")
    factors: dict[str, float] = {}
    for key in ledger.keys(*where):
        if key in ROLES and (factor := ledger.number(*where, key, "lr_mult")) is not None:
            factors |= dict.fromkeys(ROLES[key], factor)
    return factors


def _spares_norms(ledger: Ledger) -> bool:
    """Whether norms are not decayed; says where that is more than the config asks for."""
    where = ("optim_wrapper", "paramwise_cfg")
    spared = ledger.number(*where, "norm_decay_mult") == 0
    ledger.number(*where, "bias_decay_mult")
    ledger.number(*where, "flat_decay_mult")
    for key in ledger.keys(*where, "custom_keys"):
        place = (*where, "custom_keys", key)
        if key.endswith(NORMS) and ledger.look(*place, "decay_mult") == 0:
            spared = spared or "norm" in key
            ledger.take(*place, "decay_mult")
    if spared:
        ledger.remark(
            "weight decay: the recipe spares norms and, as always with that, all other one-dimensional tensors"
        )
    return spared


def _step(ledger: Ledger) -> Tree:
    tree: Tree = {"precision": "float32"}
    if ledger.kind("optim_wrapper") == "AmpOptimWrapper":
        wanted = str(ledger.take("optim_wrapper", "dtype", default="float16"))
        tree["precision"] = "bfloat16" if "bfloat16" in wanted else "float16"
        ledger.take("optim_wrapper", "loss_scale")
    clip = ledger.look("optim_wrapper", "clip_grad", "max_norm")
    if (
        isinstance(clip, int | float)
        and clip > 0
        and ledger.look("optim_wrapper", "clip_grad", "norm_type") in (None, 2)
    ):
        tree["clip"] = ledger.take("optim_wrapper", "clip_grad", "max_norm")
        ledger.take("optim_wrapper", "clip_grad", "norm_type")
    return tree


def _length(ledger: Ledger, accumulate: int) -> tuple[Tree, bool]:
    """Length of the run, and whether it is counted in epochs."""
    ledger.kind("train_cfg")
    steps = ledger.whole("train_cfg", "max_iters")
    if steps is not None:
        return {"steps": max(1, steps // accumulate)}, False
    epochs = ledger.whole("train_cfg", "max_epochs")
    if epochs is None:
        ledger.remark("train_cfg says no length; the recipe trains for 10 epochs")
    return {"epochs": epochs or 10}, True


def _batch(ledger: Ledger, source: PurePath, accumulate: int) -> int:
    """Images of an update over all devices."""
    each = ledger.whole("train_dataloader", "batch_size") or 1
    named = NAMED_DEVICES.search(f"{source.stem}_")
    devices = int(named[1]) if named is not None and int(named[2]) == each else 1
    total = each * max(1, devices) * accumulate
    said = f"the file's name says {devices} of them" if devices > 1 else "of which the recipe assumes one"
    ledger.remark(f"train_dataloader.batch_size={each} is per device, {said}; batch: {total} is what one update sees")
    return total


def _duration(value: int, accumulate: int, *, by_epoch: bool) -> Tree:
    return {"epochs": value} if by_epoch else {"steps": max(1, value // accumulate)}


def _intervals(ledger: Ledger, accumulate: int, *, by_epoch: bool) -> Tree:
    tree: Tree = {}
    if (every := ledger.whole("train_cfg", "val_interval")) is not None:
        tree["validate_every"] = _duration(every, accumulate, by_epoch=by_epoch)
    where = ("default_hooks", "checkpoint")
    ledger.kind(*where)
    if (every := ledger.whole(*where, "interval")) is not None:
        epochs = ledger.take(*where, "by_epoch", default=by_epoch) is True
        tree["save_every"] = _duration(every, accumulate, by_epoch=epochs)
    if (count := ledger.whole(*where, "max_keep_ckpts")) is not None:
        tree["keep"] = count
    if "mIoU" in str(ledger.look(*where, "save_best")):
        ledger.take(*where, "save_best")  # as every run does
    ledger.kind("default_hooks", "logger")
    if (every := ledger.whole("default_hooks", "logger", "interval")) is not None:
        tree["log_every"] = {"steps": max(1, every // accumulate)}
    return tree


def _hooks(ledger: Ledger) -> Tree:
    for hook in ledger.places("custom_hooks"):
        momentum = ledger.look(*hook, "momentum", default=0.0002)
        if ledger.look(*hook, "type") == "EMAHook" and isinstance(momentum, float) and 0 < momentum < 1:
            ledger.kind(*hook)
            ledger.take(*hook, "momentum")
            return {"ema": {"decay": 1 - momentum, "warmup": False}}
    return {}


def _schedule(ledger: Ledger, lr: float, length: Tree, accumulate: int) -> Tree:
    places = ledger.places("param_scheduler")
    rise: Tree = {}
    curves: list[Tree] = []
    for where in places:
        kind = str(ledger.look(*where, "type")).rpartition(".")[2]
        begins = ledger.look(*where, "begin", default=0)
        if kind in ("LinearLR", "linear") and begins == 0 and not rise and len(places) > 1:
            rise = _rise(ledger, where, accumulate)
        elif (curve := _curve(ledger, where, kind, lr, length, accumulate)) is not None:
            curves.append(curve)
    if len(curves) > 1:
        ledger.remark(f"param_scheduler has {len(curves)} curves; the recipe follows the first, {curves[0]['kind']}")
    chosen = curves[0] if curves else {"kind": "constant"}
    return {**chosen, **rise} if chosen["kind"] != "one_cycle" else chosen


def _wholes(value: object) -> list[int]:
    """A list of whole numbers; empty if it is none."""
    if isinstance(value, list | tuple) and all(isinstance(each, int) for each in value):
        return [*value]
    return []


def _rise(ledger: Ledger, where: tuple[str | int, ...], accumulate: int) -> Tree:
    """The warm-up that a LinearLR at the start of the run is."""
    ledger.take(*where, "type")
    ledger.take(*where, "begin")
    by_epoch = ledger.take(*where, "by_epoch", default=True) is True
    end = ledger.whole(*where, "end")
    if end is None:
        return {}
    factor = ledger.number(*where, "start_factor")
    return {
        "warmup": _duration(end, accumulate, by_epoch=by_epoch),
        "warmup_factor": min(1.0, 1 / 3 if factor is None else factor),
    }


def _curve(
    ledger: Ledger, where: tuple[str | int, ...], kind: str, lr: float, length: Tree, accumulate: int
) -> Tree | None:
    """A scheduler as a curve from the end of the warm-up to the end of the run; None if it changes nothing."""
    by_epoch = ledger.look(*where, "by_epoch", default=True) is True
    end = ledger.look(*where, "end", default=ledger.look(*where, "T_max"))
    lowest = ledger.look(*where, "eta_min", default=0.0)
    ratio = ledger.look(*where, "eta_min_ratio", default=lowest / lr if isinstance(lowest, int | float) else 0.0)
    share = min(1.0, max(0.0, float(ratio)))
    gamma = ledger.look(*where, "gamma", default=0.1)
    tree: Tree
    match kind:
        case "PolyLR" | "PolyLRRatio" | "PolyParamScheduler":
            tree = {"kind": "poly", "power": ledger.take(*where, "power", default=1), "end_factor": share}
        case "CosineAnnealingLR":
            tree = {"kind": "cosine", "end_factor": share}
        case "LinearLR":
            tree = {"kind": "linear", "end_factor": ledger.take(*where, "end_factor", default=1.0)}
        case "MultiStepLR" if milestones := _wholes(ledger.look(*where, "milestones")):
            unit = "epochs" if by_epoch else "steps"
            points = sorted({max(1, point // (1 if by_epoch else accumulate)) for point in milestones})
            ledger.take(*where, "milestones")
            tree = {"kind": "multi_step", "milestones": {unit: points}, "gamma": gamma}
        case "StepLR" if (size := ledger.whole(*where, "step_size")) is not None:
            last = next(iter(length.values())) * (1 if by_epoch else accumulate)
            points = [*range(size, int(last), size)] or [size]
            unit = "epochs" if by_epoch else "steps"
            points = [max(1, point // (1 if by_epoch else accumulate)) for point in points]
            tree = {"kind": "multi_step", "milestones": {unit: points}, "gamma": gamma}
        case "ExponentialLR":
            tree = {"kind": "exponential", "gamma": {"per_epoch" if by_epoch else "per_step": gamma}}
        case "ConstantLR" if ledger.look(*where, "factor", default=1 / 3) == 1 or ledger.look(*where, "factor") is None:
            ledger.take(*where)
            return None
        case _:
            ledger.remark(f"param_scheduler: {kind} has no counterpart")
            return None
    for key in ("type", "begin", "by_epoch", "end", "T_max", "eta_min", "eta_min_ratio", "gamma"):
        ledger.take(*where, key)
    whole = next(iter(length.values())) * (1 if by_epoch else accumulate)
    if isinstance(end, int) and end != whole and by_epoch == ("epochs" in length):
        ledger.remark(f"param_scheduler: {kind} ends at {end}; in the recipe it ends with the run, at {whole}")
    return tree
