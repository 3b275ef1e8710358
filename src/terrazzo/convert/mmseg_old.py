"""Configurations of MMSegmentation 0.x in the words of 1.x."""

from collections.abc import Mapping
from typing import Any

from terrazzo.published.mmseg_config import last_part, scale_of, section, steps_of

POLICIES = {
    "poly": "PolyLR",
    "step": "MultiStepLR",
    "exp": "ExponentialLR",
    "cosineannealing": "CosineAnnealingLR",
    "fixed": "ConstantLR",
}
"""lr_config.policy to a scheduler of 1.x."""


def is_old(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of 0.x."""
    return "data" in config and "train_dataloader" not in config


def modern(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same in the words of 1.x; what 1.x calls the same stays, what it lacks too."""
    data = section(config, "data")
    batch = {"batch_size": data.get("samples_per_gpu"), "num_workers": data.get("workers_per_gpu")}
    found = {key: value for key, value in config.items() if key not in _MOVED}
    for split in ("train", "val", "test"):
        if split in data:
            found[f"{split}_dataloader"] = {
                **{key: value for key, value in batch.items() if value is not None and split == "train"},
                "dataset": _dataset(data[split]),
            }
    found["model"] = _model(config)
    found["optim_wrapper"] = _optimizer(config)
    steps, epochs = _length(config)
    by_epoch = steps is None
    found["train_cfg"] = {
        "type": "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop",
        **({"max_epochs": epochs} if by_epoch else {"max_iters": steps}),
        **_renamed(section(config, "evaluation"), {"interval": "val_interval"}, only=True),
    }
    found["param_scheduler"] = _schedulers(section(config, "lr_config"), epochs if by_epoch else steps)
    found["default_hooks"] = {
        "logger": {
            "type": "LoggerHook",
            **_renamed(section(config, "log_config"), {"interval": "interval"}, only=True),
        },
        "checkpoint": {"type": "CheckpointHook", **section(config, "checkpoint_config")},
    }
    if isinstance(config.get("seed"), int):
        found["randomness"] = {"seed": config["seed"]}
    for key, known in _KNOWN.items():
        if rest := {name: value for name, value in section(config, key).items() if name not in known}:
            found[key] = rest  # what 1.x has no word for
    return found


_KNOWN = {
    "evaluation": ("interval", "metric", "pre_eval", "save_best", "by_epoch"),
    "log_config": ("interval", "hooks"),
    "optimizer_config": ("type", "grad_clip", "cumulative_iters", "loss_scale"),
    "lr_config": (
        *("policy", "by_epoch", "min_lr", "min_lr_ratio", "power", "gamma", "step"),
        *("warmup", "warmup_iters", "warmup_ratio", "warmup_by_epoch"),
    ),
    "runner": ("type", "max_iters", "max_epochs"),
}
"""Sections of 0.x, and what of them is taken over or of no weight."""
_MOVED = (
    *("data", "optimizer", "optimizer_config", "lr_config", "runner", "total_iters", "total_epochs", "evaluation"),
    *("checkpoint_config", "log_config", "fp16", "model", "seed"),
)


def _renamed(given: Mapping[str, Any], names: Mapping[str, str], *, only: bool = False) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in given.items() if key in names or not only}


def _dataset(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    if isinstance(given.get("dataset"), Mapping):
        return {**given, "dataset": _dataset(given["dataset"])}
    found = {key: value for key, value in given.items() if key not in ("img_dir", "ann_dir", "split")}
    prefix = {"img_path": given.get("img_dir"), "seg_map_path": given.get("ann_dir")}
    found["data_prefix"] = {key: value for key, value in prefix.items() if isinstance(value, str)}
    if isinstance(given.get("split"), str):
        found["ann_file"] = given["split"]
    about = {key: found.pop(key) for key in ("classes", "palette") if key in found}
    if about:
        found["metainfo"] = about
    found["pipeline"] = _pipeline(steps_of(given.get("pipeline")))
    return found


def _pipeline(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for step in steps:
        match last_part(step.get("type")):
            case "Normalize" | "DefaultFormatBundle" | "Collect" | "ImageToTensor":
                pass  # part of the model in 1.x, or none of a recipe's business
            case "Resize":
                kind = "RandomResize" if "ratio_range" in step else "Resize"
                found.append({"keep_ratio": True, **_renamed(step, {"img_scale": "scale"}), "type": kind})
            case "MultiScaleFlipAug":
                inner = _pipeline(steps_of(step.get("transforms")))
                scale = scale_of(step)
                found += [{**one, "scale": scale} if one.get("type") == "Resize" else one for one in inner]
            case _:
                found.append(step)
    return found


def _model(config: Mapping[str, Any]) -> dict[str, Any]:
    model = dict(section(config, "model"))
    train = steps_of(section(section(section(config, "data"), "train"), "dataset").get("pipeline")) or steps_of(
        section(section(config, "data"), "train").get("pipeline")
    )
    normalize = next((step for step in train if last_part(step.get("type")) == "Normalize"), None)
    if normalize is not None:
        numbers = _renamed(normalize, {"to_rgb": "bgr_to_rgb"})
        model["data_preprocessor"] = {**numbers, "type": "SegDataPreProcessor"}
    for key in ("train_cfg", "test_cfg"):  # beside the model before 0.8
        if isinstance(config.get(key), dict) and key not in model:
            model[key] = config[key]
    return model


def _optimizer(config: Mapping[str, Any]) -> dict[str, Any]:
    optimizer = dict(section(config, "optimizer"))
    wrapper: dict[str, Any] = {"type": "OptimWrapper"}
    for key in ("paramwise_cfg", "constructor"):
        if key in optimizer:
            wrapper[key] = optimizer.pop(key)
    hook = section(config, "optimizer_config")
    if "grad_clip" in hook:
        wrapper["clip_grad"] = hook["grad_clip"]
    if "cumulative_iters" in hook:
        wrapper["accumulative_counts"] = hook["cumulative_iters"]
    if "fp16" in config or "Fp16" in str(hook.get("type")):
        wrapper["type"] = "AmpOptimWrapper"
    return {**wrapper, "optimizer": optimizer}


def _length(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Steps or epochs, the other one None."""
    runner = section(config, "runner")
    return runner.get("max_iters", config.get("total_iters")), runner.get("max_epochs", config.get("total_epochs"))


def _schedulers(given: Mapping[str, Any], end: Any) -> list[dict[str, Any]]:
    policy = str(given.get("policy", "fixed")).lower()
    by_epoch = given.get("by_epoch", True)
    ready = given.get("warmup_iters", 0) if given.get("warmup") else 0
    curve = {
        "type": POLICIES.get(policy, policy),
        "by_epoch": by_epoch,
        "begin": 0 if by_epoch else ready,
        **({"end": end} if end is not None else {}),
        **_renamed(given, {"min_lr": "eta_min", "power": "power", "gamma": "gamma", "step": "milestones"}, only=True),
    }
    if "min_lr_ratio" in given:
        curve["eta_min_ratio"] = given["min_lr_ratio"]
    if policy == "poly":
        curve.setdefault("power", 1.0)
    if not ready:
        return [curve]
    rise = {"type": "LinearLR", "by_epoch": given.get("warmup_by_epoch", False), "begin": 0, "end": ready}
    if given.get("warmup") != "linear":
        rise["type"] = str(given["warmup"])
    return [{**rise, "start_factor": given.get("warmup_ratio", 0.1)}, curve]
