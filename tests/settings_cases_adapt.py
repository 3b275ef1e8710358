"""Cases of `adapt`."""

from typing import Any

from settings_base import SEGFORMER, TIMM, Case, With, case
from settings_cases_training import CURVES, SCHEDULE
from settings_seen import boundary, first_rates, weights

VIT = TIMM | {"encoder": "test_vit"}
ALSO = ("classifier", "decoder", "none")

STAGED = {"length": {"steps": 4}, "adapt": {"kind": "staged", "frozen": {"steps": 2}}}
"""Two steps of each stage."""

LEAVES: dict[str, tuple[Any, ...]] = {
    "full.batchnorm": ("frozen", "running"),
    "frozen.train": ("decoder", "classifier"),
    "frozen.batchnorm": ("frozen", "running"),
    "ssf.targets": ("auto", ["encoder.stages.0.0"], ["encoder.stages.1.0"], {"regex": r"encoder\.stages\.1\..*"}),
    "ssf.targets.regex": (r"encoder\.stages\.0\..*", r"encoder\.stages\.1\..*"),
    "lora.rank": (1, 2),
    "lora.alpha": (1, 16),
    "lora.dropout": (0, 0.2, 0.5),
    "lora.dora": (False, True),
    "lora.targets": ("auto", ["encoder.stages.0.0"], ["encoder.stages.1.0"], {"regex": r"encoder\.stages\.1\..*"}),
    "lora.targets.regex": (r"encoder\.stages\.0\..*", r"encoder\.stages\.1\..*"),
    **{f"{kind}.also_train": ALSO for kind in ("ssf", "lora", "bitfit")},
}

ADAPT: dict[str, Case] = {
    "adapt.kind": case(
        weights,
        *({"kind": kind} for kind in ("full", "frozen", "ssf", "lora", "adapter", "bitfit", "vpt")),
        With({"kind": "staged", "frozen": {"steps": 1}}, {"length": {"steps": 2}}),
        model=VIT,
    ),
    **{f"adapt.{name}": case(weights, *values) for name, values in LEAVES.items()},
    "adapt.bitfit.parts": case(weights, "bias", "norm", "both", model=SEGFORMER),
    "adapt.adapter.width": case(weights, 2, 4, model=SEGFORMER | {"depths": [2, 1, 1, 1]}),
    "adapt.adapter.also_train": case(weights, *ALSO, model=SEGFORMER | {"depths": [2, 1, 1, 1]}),
    "adapt.vpt.tokens": case(weights, 1, 3, model=VIT),
    "adapt.vpt.also_train": case(weights, *ALSO, model=VIT | {"decoder": {"kind": "fpn", "width": 16}}),
    "adapt.staged.frozen.steps": case(boundary, 1, 2, length={"steps": 4}),
    "adapt.staged.frozen.epochs": case(boundary, 0.5, 1, length={"steps": 4}),
    "adapt.staged.lr": case(weights, None, 1e-2, 1e-4, **STAGED),
    "adapt.staged.batchnorm": case(weights, "frozen", "running", **STAGED),
    "adapt.staged.schedule.kind": case(
        weights,
        *({"kind": kind} | curve for kind, curve in CURVES.items()),
        length={"steps": 5},
        adapt={"kind": "staged", "frozen": {"steps": 4}},
    ),
    **{
        f"adapt.staged.{name}": case(
            first_rates,
            *values,
            length={"steps": 9},
            adapt={"kind": "staged", "frozen": {"steps": 8}} | {key: given[key] for key in given if key == "schedule"},
        )
        for name, (_, values, given) in ((name, of) for name, of in SCHEDULE.items() if name != "schedule.kind")
    },
}
