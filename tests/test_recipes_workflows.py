"""The recipes of the workflows W3, W4 and W5: they train on trees of the real layouts, with the workflows' settings."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import terrazzo
from data.fake_files import label, lines
from terrazzo.base import IGNORE, Epochs, Steps, to_steps
from terrazzo.commands.lengths import Lengths
from terrazzo.config import RunConfig, load_config
from terrazzo.cost import parameters
from terrazzo.data import available_splits, build_dataset
from terrazzo.data.augment import AugmentConfig, Exact, Fit
from terrazzo.data.photometry import Blur, Sharpness
from terrazzo.engine.stop import EarlyStop
from terrazzo.models import build_model
from terrazzo.optim import build_optimizer, set_rates

W4 = ("cityscapes_fcn_resnet", "cityscapes_segformer", "cityscapes_unet")
W5 = ("pets_fcn", "pets_segformer")
SQUASHED = [
    "augment.base={kind: exact, height: 64, width: 64}",
    "evaluation.resize={kind: exact, height: 64, width: 64}",
]
"""W4's 256x256, smaller."""
FITTED = ["augment.base={kind: fit, short: 48, long: 85}", "evaluation.resize={kind: fit, short: 48, long: 85}"]
"""W3's 1080x1920, smaller."""


class Case(NamedTuple):
    """A network of a workflow."""

    recipe: str
    overrides: tuple[str, ...]
    millions: float
    """Parameters."""


CASES = {
    "idd_deeplabv3plus": Case("idd_deeplabv3plus", ("augment.crop=64", *FITTED), 45.7),
    "resnet_18": Case("cityscapes_fcn_resnet", ("model.encoder=resnet18", *SQUASHED), 11.8),
    "resnet_50": Case("cityscapes_fcn_resnet", tuple(SQUASHED), 33.0),
    "segformer_small": Case("cityscapes_segformer", tuple(SQUASHED), 3.72),
    "segformer_base": Case("cityscapes_segformer", ("model.size=base", *SQUASHED), 7.76),
    "unet_small": Case("cityscapes_unet", tuple(SQUASHED), 31.0),
    "unet_base": Case("cityscapes_unet", ("model.depth=5", *SQUASHED), 124.4),
    "pets_fcn": Case("pets_fcn", (), 32.95),
    "pets_segformer": Case("pets_segformer", (), 3.71),
    "pets_segformer_7x7": Case("pets_segformer", ("model.stem=7x7",), 3.72),
}
"""Every recipe with every network that its workflow names (W4's grid: the six of Cityscapes)."""

VARIANTS = ("resnet_18", "segformer_base", "unet_base", "pets_segformer_7x7")
"""Other networks than the recipe's own; one has 124 M parameters."""


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny tree for each `data.kind`, in exactly the real layout."""
    root = tmp_path_factory.mktemp("trees")
    rng = np.random.default_rng(0)
    for split, city, count in (("train", "aachen", 6), ("train", "zurich", 4), ("val", "munster", 2)):
        for frame in range(count):
            stem = f"{split}/{city}/{city}_000000_{frame:06}"
            label(root / f"cityscapes/leftImg8bit/{stem}_leftImg8bit.png", rng.integers(0, 256, (64, 128, 3)))
            ids = rng.choice([0, 7, 8, 11, 23, 26], (8, 16)).repeat(8, 0).repeat(8, 1)
            label(root / f"cityscapes/gtFine/{stem}_gtFine_labelIds.png", ids)
    for split, drive, suffix in (("train", "0", "png"), ("train", "201", "jpg"), ("val", "119", "png")):
        stem = f"{split}/{drive}/frame0000"
        label(root / f"idd/leftImg8bit/{stem}_leftImg8bit.{suffix}", rng.integers(0, 256, (54, 96, 3)))
        square = [[8, 8], [60, 8], [60, 40], [8, 40]]
        objects = [
            {"label": "road", "polygon": [[0, 0], [95, 0], [95, 53], [0, 53]]},
            {"label": "car", "polygon": square},
        ]
        outlines = root / f"idd/gtFine/{stem}_gtFine_polygons.json"
        outlines.parent.mkdir(parents=True)
        outlines.write_text(json.dumps({"imgHeight": 54, "imgWidth": 96, "objects": objects}))
    listed = {"trainval": [f"Abyssinian_{k}" for k in range(4)], "test": ["Bengal_1", "beagle_2"]}
    for name, stems in listed.items():
        lines(root / f"pets/annotations/{name}.txt", *(f"{stem} 1 1 1" for stem in stems))
        for stem in stems:
            label(root / f"pets/images/{stem}.jpg", rng.integers(0, 256, (40, 50, 3)))
            label(root / f"pets/annotations/trimaps/{stem}.png", rng.integers(1, 4, (10, 10)).repeat(4, 0).repeat(5, 1))
    return {path.name: path for path in root.iterdir()}


def case_config(case: Case, trees: dict[str, Path], *more: str) -> RunConfig:
    root = f"data.root={trees[load_config(case.recipe).data.kind]}"
    return load_config(case.recipe, [root, "device=cpu", "threads=1", *case.overrides, *more])


def test_every_recipe_of_these_workflows_is_a_case() -> None:
    assert {case.recipe for case in CASES.values()} == {"idd_deeplabv3plus", *W4, *W5}


@pytest.mark.parametrize("name", CASES)
def test_networks_have_the_workflows_sizes(name: str, trees: dict[str, Path]) -> None:
    cfg = case_config(CASES[name], trees)
    classes = len(build_dataset(cfg.data, "train").classes)
    with torch.device("meta"):
        model, _ = build_model(cfg.model, classes, pretrained=False)
    assert parameters(model) / 1e6 == pytest.approx(CASES[name].millions, abs=0.05)
    assert classes == {"idd": 26, "cityscapes": 19, "pets": 3}[cfg.data.kind]


@pytest.mark.parametrize("name", [name for name in CASES if name not in VARIANTS])
def test_recipes_train(name: str, trees: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrazzo.commands.report.LATENCY_SECONDS", 0.0)  # no time is looked at here
    cfg = case_config(CASES[name], trees, f"out={tmp_path / 'run'}", "length={steps: 2}", "batch=2", "data.workers=0")
    run = terrazzo.train(cfg.model_copy(update={"log_every": Steps(steps=1)}))
    assert (run.step, run.finished) == (2, True)
    logged = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2]
    assert all(0 < line["train/loss"] < 20 for line in logged)
    assert logged[-1]["val/loss"] > 0
    assert logged[0]["lr/head"] == cfg.optim.lr
    assert (run.folder / "report.html").exists()


@pytest.mark.parametrize("name", VARIANTS)
def test_other_networks_of_a_recipe_take_a_step(name: str, trees: dict[str, Path]) -> None:
    """On the meta device: shapes, gradients and the optimizer's state, without the numbers."""
    cfg = case_config(CASES[name], trees, "optim.fused=false")
    classes = len(build_dataset(cfg.data, "train").classes)
    with torch.device("meta"):
        model, _ = build_model(cfg.model, classes, pretrained=False)
        images = torch.zeros(cfg.batch, 3, 64, 64, dtype=torch.uint8)
    optimizer = build_optimizer(model, model.role, cfg.optim)
    logits = model.train()(images).logits
    assert logits.shape[:2] == (cfg.batch, classes)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    assert len(optimizer.state) == len([*model.parameters()])
    assert {len(state) for state in optimizer.state.values()} == {4}, "step, two running means, and amsgrad's greatest"


# --- learning rates, to the step --------------------------------------------------------------------------------------


def rates(name: str, samples: int) -> list[float]:
    """The learning rate of every step of a recipe on so many training images; one for all parameters."""
    cfg = load_config(name)
    optimizer = build_optimizer(nn.Conv2d(1, 1, 1), lambda _: "head", cfg.optim)
    lengths, found = Lengths.of(cfg, samples), []
    for step in range(lengths.total):
        set_rates(optimizer, lengths.schedule, step)
        (lr,) = {group["lr"] for group in optimizer.param_groups}
        found.append(lr)
    return found


def torch_rates(
    lr: float, make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], total: int, samples: int, batch: int
) -> list[float]:
    """Those of torch's scheduler, stepped when the last sample of an epoch has been drawn."""
    optimizer, found, drawn = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr), [], 0
    peer = make(optimizer)
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        drawn += batch
        if drawn >= samples:
            drawn -= samples
            peer.step()
    return found


def test_w3_rates_fall_by_poly_to_eta_min() -> None:
    """MMEngine's PolyLR is recursive; 80000 roundings leave 1e-9 of the rate."""
    found, lr, total = rates("idd_deeplabv3plus", 6993), 0.01, 80_000
    assert len(found) == total
    for step in range(total):
        assert found[step] == pytest.approx(lr, rel=1e-9)
        lr = (lr - 1e-4) * (1 - 1 / (total - step)) ** 0.9 + 1e-4
    assert lr == 1e-4


@pytest.mark.parametrize("name", W4)
def test_w4_rates_fall_once_an_epoch(name: str) -> None:
    """2975 images, 80 %: 80 epochs of 148.75 batches."""
    found = rates(name, 2380)
    assert len(found) == 11_900
    assert found == pytest.approx(
        torch_rates(1e-4, lambda o: lr_scheduler.ExponentialLR(o, 0.99), len(found), 2380, 16), rel=1e-12
    )
    assert found[-1] == pytest.approx(1e-4 * 0.99**79)


@pytest.mark.parametrize(("name", "epochs", "steps"), [("pets_fcn", 30, 1725), ("pets_segformer", 31, 1783)])
def test_w5_rates_fall_once_an_epoch(name: str, epochs: int, steps: int) -> None:
    """3680 images: 57.5 batches an epoch."""
    found = rates(name, 3680)
    assert len(found) == steps
    assert found == pytest.approx(
        torch_rates(1e-3, lambda o: lr_scheduler.ExponentialLR(o, 0.98), steps, 3680, 64), rel=1e-12
    )
    assert found[-1] == pytest.approx(1e-3 * 0.98 ** (epochs - 1))


# --- the other settings -----------------------------------------------------------------------------------------------


def optimizer_options(name: str) -> dict[str, Any]:
    (group,) = build_optimizer(nn.Conv2d(1, 1, 1), lambda _: "head", load_config(name).optim).param_groups[:1]
    return {
        key: group[key] for key in ("momentum", "nesterov", "weight_decay", "amsgrad", "betas", "eps") if key in group
    }


def test_w3_settings() -> None:
    cfg = load_config("idd_deeplabv3plus")
    assert (
        cfg.model.model_dump() | {"arch": "deeplabv3plus", "encoder": "resnet101", "weights": "none"}
        == cfg.model.model_dump()
    )
    size = Fit(short=1080, long=1920)
    assert cfg.augment == AugmentConfig(
        crop=512, base=size, scale=(0.5, 2), cat_max_ratio=0.75, flip=0.5, brightness=0, contrast=0, saturation=0
    )
    assert (cfg.evaluation.resize, cfg.evaluation.score_at, cfg.evaluation.protocol) == (size, "label", "default")
    assert (cfg.data.level, cfg.batch, cfg.seed) == (3, 4, 0)
    assert optimizer_options("idd_deeplabv3plus") == {"momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
    wanted = [Steps(steps=80_000), Steps(steps=10_000), Steps(steps=10_000), Steps(steps=1000)]
    assert [cfg.length, cfg.validate_every, cfg.save_every, cfg.log_every] == wanted


@pytest.mark.parametrize("name", W4)
def test_w4_settings(name: str, trees: dict[str, Path]) -> None:
    cfg = load_config(name, [f"data.root={trees['cityscapes']}"])
    nothing = AugmentConfig(
        crop=None, base=Exact(height=256, width=256), scale=(1, 1), flip=0, brightness=0, contrast=0, saturation=0
    )
    assert cfg.augment == nothing
    assert (cfg.evaluation.resize, cfg.evaluation.score_at) == (nothing.base, "network")
    assert cfg.early_stop == EarlyStop(metric="val/loss", mode=None, patience=20, min_change=0)
    assert optimizer_options(name) == {"weight_decay": 1e-4, "amsgrad": True, "betas": (0.9, 0.999), "eps": 1e-8}
    assert (cfg.length, cfg.validate_every, cfg.batch) == (Epochs(epochs=80), Epochs(epochs=1), 16)
    assert (cfg.data.val_fraction, cfg.data.split_seed) == (0.2, 42)
    assert [len(build_dataset(cfg.data, split)) for split in available_splits(cfg.data)] == [8, 2, 2]


@pytest.mark.parametrize(
    ("name", "section"),
    {
        "cityscapes_fcn_resnet": {"encoder": "resnet50", "dropout": 0.1, "weights_backbone": "none"},
        "cityscapes_segformer": {"size": "small", "stem": "5x5", "decoder_width": 256, "weights_backbone": "none"},
        "cityscapes_unet": {"width": 64, "depth": 4, "norm": "none", "weights": "none"},
        "pets_fcn": {"arch": "fcn_resnet50", "weights_backbone": "none"},
        "pets_segformer": {"size": "small", "stem": "5x5", "weights_backbone": "none"},
    }.items(),
)
def test_networks_are_the_workflows_from_scratch(name: str, section: dict[str, Any]) -> None:
    found = load_config(name).model.model_dump()
    assert {key: found[key] for key in section} == section


@pytest.mark.parametrize("name", W4)
def test_w4_augmentation_is_one_override_away(name: str) -> None:
    """The one that stands in the recipe's first comment."""
    text = Path(terrazzo.__file__).with_name("recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    (override,) = re.findall(r"^#   '(augment=.*)'$", text, flags=re.MULTILINE)
    assert load_config(name, [override]).augment == AugmentConfig(
        crop=None,
        base=Exact(height=256, width=256),
        scale=(1, 1),
        flip=0.5,
        sharpness=Sharpness(factor=2, chance=0.5),
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
        hue=0.2,
        blur=Blur(kernel=3, sigma=(0.1, 2), chance=1),
    )


@pytest.mark.parametrize("name", W5)
def test_w5_settings(name: str, trees: dict[str, Path]) -> None:
    cfg = load_config(name, [f"data.root={trees['pets']}"])
    small = Exact(height=64, width=64)
    assert (cfg.augment.crop, cfg.augment.base, cfg.augment.flip, cfg.augment.brightness) == (None, small, 0, 0)
    assert (cfg.evaluation.resize, cfg.evaluation.score_at, cfg.evaluation.protocol) == (small, "network", "course")
    assert optimizer_options(name) == {"weight_decay": 0.01, "amsgrad": True, "betas": (0.9, 0.999), "eps": 1e-8}
    assert (cfg.batch, to_steps(cfg.validate_every, 3680, 64)) == (64, 115)
    assert {split: len(build_dataset(cfg.data, split)) for split in available_splits(cfg.data)} == {
        "train": 4,
        "val": 2,
    }
    train = build_dataset(cfg.data, "train")
    assert train.classes.names == ("pet", "background", "border")
    assert {int(k) for k in np.unique(train[0].mask)} == {0, 1, 2}, "nothing is ignored"
    assert IGNORE not in train[0].mask
    assert [type(loss).__name__ for loss in cfg.losses] == ["CrossEntropy"]
