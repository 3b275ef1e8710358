"""Cases of everything else than data and networks."""

from typing import Any

import huggingface_configs as huggingface
from settings_base import BASE, OWN, RESIZES, SEGFORMER, STEP, Case, With, case
from settings_cases_data import PUBLIC
from settings_seen import (
    bundle_resize,
    captured,
    compilers,
    crops,
    device,
    exact_on_cuda,
    fed,
    forwards,
    fused,
    kept_checkpoints,
    last_step,
    lines_with,
    loss,
    or_refusal,
    rates,
    run_folders,
    scored,
    shown,
    slowed,
    state_types,
    told,
    torch_threads,
    training_convolutions,
    updated,
    validation,
    weights,
)

RISING: dict[str, Any] = {
    "data": {"splits": {"val": "train"}},
    "model": BASE["model"] | {"norm": "group"},
    "augment": {"crop": [24, 40], "scale": [1, 1], "flip": 0, "brightness": 0, "contrast": 0, "saturation": 0},
    "batch": 4,
    "length": {"steps": 6},
    "validate_every": STEP,
    "losses": [{"kind": "cross_entropy", "weight": 1000}],
}
"""Every step sees the very images that are scored: the loss falls, by more than 1 each time."""

RUN = {
    "out": case(run_folders, "runs/one", "runs/two"),
    "init.from": case(weights, "init_1.safetensors", "init_2.safetensors", model=SEGFORMER),
    "init.parts": case(
        weights, ["encoder"], ["encoder", "head"], ["head"], init={"from": "init_1.safetensors"}, model=SEGFORMER
    ),
    "auxiliary_weight": case(weights, 0, 0.4, model={"deep_supervision": True}),
    "length.steps": case(lines_with("train/loss"), 1, 2, log_every=STEP),
    "length.epochs": case(lines_with("train/loss"), 0.5, 1, log_every=STEP),
    "batch": case(training_convolutions(lambda conv, images, out: len(images)), 1, 2),
    "log_every.steps": case(lines_with("train/loss"), 1, 2, length={"steps": 4}),
    "log_every.epochs": case(lines_with("train/loss"), 0.5, 1, length={"steps": 4}),
    "validate_every.steps": case(lines_with("val/loss"), 1, 2, length={"steps": 4}),
    "validate_every.epochs": case(lines_with("val/loss"), 0.5, 1, length={"steps": 4}),
    "save_every.steps": case(kept_checkpoints, 1, 2, length={"steps": 4}, keep=9),
    "save_every.epochs": case(kept_checkpoints, 0.5, 1, length={"steps": 4}, keep=9),
    "keep": case(kept_checkpoints, 0, 1, 2, length={"steps": 3}, save_every=STEP),
    "seed": case(weights, 0, 1),
    "threads": case(torch_threads, 1, 2),
    "device": case(or_refusal(device), "cpu", "cuda", "mps"),
    "deterministic": case(exact_on_cuda, False, True),
    "step.mode": case(captured, "eager", With("compile", {"step": {"backend": "eager"}}), model=OWN),
    "step.backend": case(compilers, "eager", "inductor", model=OWN, step={"mode": "compile"}),
    "step.precision": case(
        training_convolutions(lambda conv, images, out: out.dtype), "float32", "bfloat16", "float16"
    ),
    "step.accumulate": case(training_convolutions(lambda conv, images, out: len(images)), 1, 2),
    "step.recompute": case(forwards, False, True, model=SEGFORMER | {"depths": [2, 1, 1, 1]}),
    "step.clip": case(weights, None, 0.1, 0.001, optim={"kind": "sgd"}),
    "step.channels_last": case(training_convolutions(lambda conv, images, out: conv.weight.stride()), True, False),
    "ema.decay": case(weights, 0.5, 0.9, ema={"warmup": False}),
    "ema.warmup": case(weights, False, True, ema={"decay": 0.9}),
    "early_stop.metric": case(last_step, "val/loss", "val/miou", **RISING, early_stop={"patience": 1, "min_change": 1}),
    "early_stop.mode": case(last_step, None, "max", **RISING, early_stop={"patience": 1}),
    "early_stop.patience": case(last_step, 1, 3, **RISING, early_stop={"metric": "train/loss", "mode": "max"}),
    "early_stop.min_change": case(last_step, 0, 1e4, **RISING, early_stop={"patience": 1}),
}

AUGMENT = {
    "augment.crop": case(crops, 16, 24, [16, 24], None, augment={"base": RESIZES[3], "scale": [1, 1]}),
    "augment.base.kind": case(weights, *RESIZES),
    "augment.base.short_side.pixels": case(crops, 16, 24),
    "augment.base.fit.short": case(crops, 8, 16, augment={"base": {"kind": "fit", "long": 40}}),
    "augment.base.fit.long": case(crops, 20, 30, augment={"base": {"kind": "fit", "short": 20}}),
    "augment.base.exact.height": case(crops, 20, 30, augment={"base": {"kind": "exact", "width": 30}}),
    "augment.base.exact.width": case(crops, 20, 30, augment={"base": {"kind": "exact", "height": 30}}),
    "augment.scale": case(crops, [1, 1], [0.5, 1], [0.5, 2]),
    "augment.cat_max_ratio": case(crops, 1.0, 0.3, augment={"crop": 16}),
    "augment.flip": case(crops, 0, 1),
    "augment.brightness": case(crops, 0, 0.5),
    "augment.contrast": case(crops, 0, 0.5),
    "augment.saturation": case(crops, 0, 0.5),
    "augment.hue": case(crops, 0, 0.2),
    "augment.warp.rotate": case(crops, 10, 45),
    "augment.warp.shear": case(crops, 10, 30),
    "augment.warp.perspective": case(crops, 0.1, 0.3),
    "augment.warp.zoom": case(crops, [1, 1.5], [0.5, 1]),
    "augment.warp.chance": case(crops, 0, 0.5, 1, augment={"warp": {"rotate": 45}}),
    "augment.warp.outside": case(crops, "ignore", "mirror", augment={"warp": {"rotate": 45}}),
    **{
        f"augment.{change}.{leaf}": case(crops, *values, augment={change: {"chance": 1}})
        for change, leaf, values in (
            ("sharpness", "factor", (0, 1, 2)),
            ("sharpness", "chance", (0, 1)),
            ("lighting", "amount", (0.2, 0.5)),
            ("lighting", "chance", (0, 1)),
            ("photometric", "brightness", (0, 32)),
            ("photometric", "contrast", ([1, 1], [0.5, 1.5])),
            ("photometric", "saturation", ([1, 1], [0.5, 1.5])),
            ("photometric", "hue", (0, 18)),
            ("photometric", "chance", (0, 1)),
            ("blur", "kernel", (3, 5)),
            ("blur", "sigma", ([0.5, 0.5], [2, 2])),
            ("blur", "chance", (0, 1)),
        )
    },
}

SAMPLING = {
    "sampling.kind": case(fed, *({"kind": kind} for kind in ("uniform", "rare_classes", "foreground"))),
    "sampling.rare_classes.share": case(fed, 0.2, 1),
    "sampling.rare_classes.temperature": case(fed, 0.001, 10, sampling={"share": 1}),
    "sampling.foreground.share": case(fed, 0.2, 1),
    "sampling.foreground.background": case(fed, [], ["a"], ["a", "b"], sampling={"share": 1}),
}

WINDOW = {"window": {"size": 16}}

EVALUATION = {
    "evaluation.resize.kind": case(bundle_resize, *RESIZES),
    "evaluation.resize.short_side.pixels": case(scored, 16, 32),
    "evaluation.resize.fit.short": case(scored, 8, 16, evaluation={"resize": {"kind": "fit", "long": 40}}),
    "evaluation.resize.fit.long": case(scored, 20, 30, evaluation={"resize": {"kind": "fit", "short": 20}}),
    "evaluation.resize.exact.height": case(scored, 20, 30, evaluation={"resize": {"kind": "exact", "width": 30}}),
    "evaluation.resize.exact.width": case(scored, 20, 30, evaluation={"resize": {"kind": "exact", "height": 30}}),
    "evaluation.score_at": case(validation, "label", "network", evaluation={"resize": RESIZES[3]}),
    "evaluation.absent": case(
        validation, "exclude", "zero", data={"classes": ["a", "b", "c", "never said"]}, model=OWN
    ),
    "evaluation.window.size": case(scored, 12, 16, [12, 16]),
    "evaluation.window.overlap": case(scored, 0, 0.5, evaluation=WINDOW),
    "evaluation.window.blend": case(scored, "mean", "gauss", evaluation=WINDOW),
    "evaluation.window.accumulate": case(scored, "stride", "pixel", evaluation=WINDOW, model=SEGFORMER),
    "evaluation.window.batch": case(shown, 1, 2, evaluation=WINDOW),
    "evaluation.tta.flip": case(scored, "none", "horizontal", "vertical", "both"),
    "evaluation.tta.scales": case(scored, [1], [0.5, 1], [0.5, 1, 2]),
    "evaluation.protocol": case(or_refusal(told), "default", "course", "cityscapes", "idd", data=PUBLIC["cityscapes"]),
    "evaluation.boundary": case(told, None, 0.02, 0.2),
}

PIXEL_LOSSES = ("cross_entropy", "focal", "ohem", "boundary")

MASKS = {"kind": "mask_classification", "points": 48}

LOSSES = {
    "losses.kind": case(
        weights,
        *({"kind": kind} for kind in ("cross_entropy", "focal", "boundary", "tversky", "lovasz")),
        {"kind": "ohem", "min_kept": 10},
        With({"kind": "mask_classification", "points": 64}, {"model": huggingface.section("eomt")}),
    ),
    **{
        f"losses.mask_classification.{leaf}": case(loss, *values, model=huggingface.section("eomt"), losses=[MASKS])
        for leaf, values in (
            ("weight", (1, 2)),
            ("class_weight", (0, 1, 2)),
            ("mask_weight", (0, 1, 5)),
            ("dice_weight", (0, 1, 5)),
            ("no_object", (0.1, 1)),
            ("points", (32, 64)),
            ("oversample", (1, 3)),
            ("importance", (0, 0.75, 1)),
            ("layers", (0, 1)),
        )
    },
    **{f"losses.{kind}.weight": case(loss, 1, 2) for kind in (*PIXEL_LOSSES, "tversky", "lovasz")},
    **{f"losses.{kind}.class_weights": case(loss, "none", "auto", {"b": 3}) for kind in PIXEL_LOSSES},
    "losses.cross_entropy.smoothing": case(loss, 0, 0.1),
    "losses.focal.gamma": case(loss, 1, 2),
    "losses.focal.alpha": case(loss, 0.5, 1),
    "losses.ohem.threshold": case(loss, 0.2, 0.7, losses=[{"kind": "ohem", "min_kept": 10}]),
    "losses.ohem.min_kept": case(loss, 10, 100_000, losses=[{"kind": "ohem", "threshold": 0.1}]),
    "losses.boundary.border_weight": case(loss, 3, 10),
    "losses.boundary.sigma": case(loss, 1, 5),
    "losses.tversky.setting": case(loss, "dice", "jaccard"),
    "losses.tversky.alpha": case(loss, 0.3, 0.7, losses=[{"kind": "tversky", "beta": 0.5}]),
    "losses.tversky.beta": case(loss, 0.3, 0.7, losses=[{"kind": "tversky", "alpha": 0.5}]),
    "losses.tversky.eps": case(loss, 1, 100),
    "losses.lovasz.over": case(loss, "image", "batch"),
    "losses.lovasz.classes": case(loss, "present", "all"),
}

OPTIMIZERS = ("adamw", "adamw_8bit", "adam", "sgd", "rmsprop")

OPTIM = {
    "optim.kind": case(weights, *({"kind": kind} for kind in OPTIMIZERS)),
    **{
        f"optim.{kind}.{leaf}": case(updated, *values)
        for kind in OPTIMIZERS
        for leaf, values in (
            ("lr_factors", ({}, {"encoder": 0.1}, {"decoder": 0.1}, {"head": 0.1})),
            ("lr", (0.001, 0.01)),
            ("weight_decay", (0, 0.01)),
        )
    },
    **{f"optim.{kind}.layer_decay": case(slowed, None, 0.5, 0.8, model=SEGFORMER) for kind in OPTIMIZERS},
    **{f"optim.{kind}.decay_norms": case(updated, False, True, optim={"weight_decay": 0.01}) for kind in OPTIMIZERS},
    **{
        f"optim.{kind}.{leaf}": case(fused if leaf == "fused" else updated, *values)
        for kind in ("adamw", "adam")
        for leaf, values in (
            ("betas", ([0.9, 0.999], [0.8, 0.999], [0.9, 0.99])),
            ("eps", (1e-8, 1e-2)),
            ("amsgrad", (False, True)),
            ("fused", (False, True)),
        )
    },
    "optim.adamw_8bit.betas": case(updated, [0.9, 0.999], [0.8, 0.999], [0.9, 0.99]),
    "optim.adamw_8bit.eps": case(updated, 1e-8, 1e-2),
    "optim.adamw_8bit.min_values": case(state_types, 16, 100_000),
    "optim.sgd.momentum": case(updated, 0, 0.5, 0.9),
    "optim.sgd.nesterov": case(updated, False, True),
    "optim.rmsprop.alpha": case(updated, 0.5, 0.99),
    "optim.rmsprop.eps": case(updated, 1e-8, 1e-2),
    "optim.rmsprop.momentum": case(updated, 0, 0.9),
    "optim.rmsprop.centered": case(updated, False, True),
}

CURVES: dict[str, dict[str, Any]] = {
    "constant": {},
    "linear": {},
    "cosine": {},
    "poly": {},
    "exponential": {"gamma": {"per_step": 0.9}},
    "multi_step": {"milestones": {"steps": [2]}},
    "one_cycle": {},
    "flat_cos": {"pct_start": 0.3},
}
MOMENTA = (None, [0.95, 0.85, 0.95], [0.9, 0.85, 0.95])
TIMES = {
    **{f"{kind}.end_factor": (0, 0.1) for kind in ("linear", "cosine", "poly")},
    "poly.power": (0.9, 2),
    "exponential.gamma.per_epoch": (0.9, 0.5),
    "exponential.gamma.per_step": (0.9, 0.5),
    "multi_step.milestones.epochs": ([1], [1, 3]),
    "multi_step.milestones.steps": ([2], [2, 6]),
    "one_cycle.pct_start": (0.25, 0.5),
    "one_cycle.div": (25, 2),
    "one_cycle.final_div": (1e5, 2),
    "flat_cos.pct_start": (0.75, 0.5),
    "flat_cos.final_div": (1e5, 2),
    "flat_cos.momenta": MOMENTA,
}

SCHEDULE = {
    "schedule.kind": case(weights, *({"kind": kind} | curve for kind, curve in CURVES.items()), length={"steps": 4}),
    **{
        f"schedule.{kind}.{leaf}": case(
            rates,
            *values,
            length={"steps": 8},
            schedule={"kind": kind} | CURVES[kind] | ({"warmup": {"steps": 3}} if ramp else {}),
        )
        for kind in ("constant", "linear", "cosine", "poly", "exponential", "multi_step")
        for leaf, values, ramp in (
            ("warmup.steps", (2, 4), False),
            ("warmup.epochs", (1, 2), False),
            ("warmup_factor", (0.1, 0.5), True),
            ("warmups", ({}, {"encoder": {"steps": 2}}, {"encoder": {"steps": 5}}), False),
        )
    },
    **{f"schedule.{leaf}": case(rates, *values, length={"steps": 8}) for leaf, values in TIMES.items()},
    "schedule.one_cycle.momenta": case(weights, *MOMENTA, length={"steps": 4}),
    "schedule.multi_step.gamma": case(
        rates, 0.1, 0.5, length={"steps": 8}, schedule={"kind": "multi_step"} | CURVES["multi_step"]
    ),
}

TRAINING: dict[str, Case] = RUN | AUGMENT | SAMPLING | EVALUATION | LOSSES | OPTIM | SCHEDULE
