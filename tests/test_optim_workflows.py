"""The learning rates and momenta of the five workflows, from what a recipe says to what the optimizer holds in every
step, against torch's own schedulers and against the formulas of the tools that the workflows used."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.optim import lr_scheduler

from terrazzo.base import Epochs, to_steps
from terrazzo.optim import OptimConfig, Role, Schedule, ScheduleConfig, build_optimizer, set_rates

optim: TypeAdapter[Any] = TypeAdapter(OptimConfig)
schedule: TypeAdapter[Any] = TypeAdapter(ScheduleConfig)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)


def role(name: str) -> Role:
    found: Any = name.split(".")[0]
    return found


class Trace:
    """Rates and momenta by group and step, of a recipe's `optim` and `schedule`."""

    def __init__(self, recipe: dict[str, Any], total: int, samples: int, batch: int, frozen: tuple[str, ...] = ()):
        net = Net()
        for part in frozen:
            net.get_submodule(part).requires_grad_(False)
        optimizer = build_optimizer(net, role, optim.validate_python(recipe["optim"]))
        resolved = Schedule(schedule.validate_python(recipe["schedule"]), total, samples, batch)
        self.lr: dict[str, list[float]] = {group["name"]: [] for group in optimizer.param_groups}
        self.momentum: list[float] = []
        self.options = {
            key: optimizer.defaults[key] for key in ("amsgrad", "betas", "eps") if key in optimizer.defaults
        }
        for step in range(total):
            set_rates(optimizer, resolved, step)
            for group in optimizer.param_groups:
                self.lr[group["name"]].append(group["lr"])
            group = optimizer.param_groups[-1]
            self.momentum.append(group["betas"][0] if "betas" in group else group["momentum"])


def epoch_trace(
    make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], total: int, samples: int, batch: int
) -> list[float]:
    """Rates of torch's scheduler, stepped each time the last sample of an epoch has been drawn."""
    optimizer, found, drawn = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), [], 0
    peer = make(optimizer)
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        drawn += batch
        if drawn >= samples:
            drawn -= samples
            peer.step()
    return found


def test_w1_multi_step_at_epochs_5_and_10() -> None:
    """572 images, batches of 1 accumulated 3 times: one optimizer step takes 3 samples."""
    recipe = {
        "optim": {"kind": "adamw", "lr": 5e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0},
        "schedule": {"kind": "multi_step", "milestones": {"epochs": [5, 10]}, "gamma": 0.1},
    }
    total = to_steps(Epochs(epochs=12), 572, 3)
    found = Trace(recipe, total, 572, 3)
    wanted = epoch_trace(lambda o: lr_scheduler.MultiStepLR(o, [5, 10], 0.1), total, 572, 3)
    assert found.lr["head"] == pytest.approx([5e-4 * factor for factor in wanted])
    assert set(found.momentum) == {0.9}
    assert found.lr["head"][953] == 5e-4  # the 954th step draws sample 2860, the last of epoch 5
    assert found.lr["head"][954] == pytest.approx(5e-5)
    once = Trace(recipe, to_steps(Epochs(epochs=1), 572, 3), 572, 3)
    assert set(once.lr["head"]) == {5e-4}, "the recipe's one epoch reaches no milestone"


def fastai_cycle(step: int, total: int, pct: float, start: float, middle: float, end: float) -> float:
    """fastai's combined_cos at a step; its SchedCos(a, b)(p) is a + (1 + cos(pi * (1 - p))) * (b - a) / 2."""
    place, (a, b), (low, high) = step / total, (start, middle), (0.0, pct)
    if place >= pct:
        (a, b), (low, high) = (middle, end), (pct, 1.0)
    return a + (1 + math.cos(math.pi * (1 - (place - low) / (high - low)))) * (b - a) / 2


def torch_cycle(total: int, pct: float, div: float, maxima: list[float]) -> tuple[list[list[float]], list[float]]:
    """The same curve from torch's OneCycleLR, whose phases end at pct * total - 1 and total - 1: one step is added."""
    optimizer = torch.optim.Adam([{"params": [nn.Parameter(torch.zeros(1))]} for _ in maxima])
    peer = lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=maxima,
        total_steps=total + 1,
        pct_start=(pct * total + 1) / (total + 1),
        div_factor=div,
        final_div_factor=1e5 / div,
        base_momentum=0.85,
        max_momentum=0.95,
    )
    lrs, momenta = [], []
    for _ in range(total):
        lrs.append([group["lr"] for group in optimizer.param_groups])
        momenta.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        peer.step()
    return lrs, momenta


def test_w2_first_stage_one_cycle_with_a_frozen_encoder() -> None:
    """2 epochs of 371 batches (2975 images in eights, drop_last)."""
    recipe = {
        "optim": {"kind": "adam", "lr": 2e-3},
        "schedule": {"kind": "one_cycle", "pct_start": 0.99, "momenta": [0.95, 0.85, 0.95]},
    }
    found = Trace(recipe, 742, 371 * 8, 8, frozen=("encoder",))
    lrs, momenta = torch_cycle(742, 0.99, 25, [2e-3])
    assert found.lr.keys() == {"decoder", "decoder/no_decay", "head", "head/no_decay"}
    assert found.lr["head"] == found.lr["decoder"] == pytest.approx([lr for (lr,) in lrs], rel=1e-9)
    assert found.momentum == pytest.approx(momenta)
    assert found.lr["head"] == pytest.approx([fastai_cycle(s, 742, 0.99, 8e-5, 2e-3, 2e-8) for s in range(742)])
    assert found.lr["head"][0] == pytest.approx(8e-5)


def test_w2_second_stage_one_cycle_with_discriminative_maxima() -> None:
    recipe = {
        "optim": {"kind": "adam", "lr": 1e-3, "lr_factors": {"encoder": 0.01, "decoder": 0.1}},
        "schedule": {"kind": "one_cycle", "pct_start": 0.3, "div": 5, "momenta": [0.95, 0.85, 0.95]},
    }
    found = Trace(recipe, 1855, 371 * 8, 8)
    lrs, momenta = torch_cycle(1855, 0.3, 5, [1e-5, 1e-4, 1e-3])
    for index, (name, top) in enumerate({"encoder": 1e-5, "decoder": 1e-4, "head": 1e-3}.items()):
        assert found.lr[name] == pytest.approx([lr[index] for lr in lrs], rel=1e-9)
        wanted = [fastai_cycle(step, 1855, 0.3, top / 5, top, top / 1e5) for step in range(1855)]
        assert found.lr[name] == pytest.approx(wanted)
    assert found.momentum == pytest.approx(momenta)
    wanted = [fastai_cycle(step, 1855, 0.3, 0.95, 0.85, 0.95) for step in range(1855)]
    assert found.momentum == pytest.approx(wanted)


def test_w3_poly_to_eta_min() -> None:
    """The peer's rule is recursive; 80000 roundings leave 1e-9 of the rate."""
    recipe = {
        "optim": {"kind": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"kind": "poly", "power": 0.9, "end_factor": 0.01},
    }
    found, lr, total = Trace(recipe, 80_000, 6993, 4), 0.01, 80_000
    for step in range(total):
        assert found.lr["head"][step] == pytest.approx(lr, rel=1e-9)
        lr = (lr - 1e-4) * (1 - 1 / (total - step)) ** 0.9 + 1e-4
    assert set(found.momentum) == {0.9}


@pytest.mark.parametrize("gamma", [0.95, 0.97, 0.99])
def test_w4_exponential_per_epoch_is_taken_once(gamma: float) -> None:
    """2380 images are 148.75 batches of 16: the rate falls with the first batch of a new epoch."""
    recipe = {
        "optim": {"kind": "adamw", "lr": 1e-4, "weight_decay": 1e-4, "amsgrad": True},
        "schedule": {"kind": "exponential", "gamma": {"per_epoch": gamma}},
    }
    total = to_steps(Epochs(epochs=80), 2380, 16)
    found = Trace(recipe, total, 2380, 16)
    wanted = epoch_trace(lambda o: lr_scheduler.ExponentialLR(o, gamma), total, 2380, 16)
    assert found.lr["head"] == pytest.approx([1e-4 * factor for factor in wanted])
    assert found.lr["head"][-1] == pytest.approx(1e-4 * gamma**79)
    assert found.options["amsgrad"] is True


@pytest.mark.parametrize(
    ("epochs", "samples", "batch", "lr"), [(30, 3680, 64, 1e-3), (31, 3680, 64, 5e-4), (40, 2975, 16, 1e-3)]
)
def test_w5_exponential_per_epoch(epochs: int, samples: int, batch: int, lr: float) -> None:
    """FCN and SegFormer on pets, at the same and half the rate, and the pretraining on Cityscapes."""
    recipe = {
        "optim": {"kind": "adamw", "lr": lr, "amsgrad": True},
        "schedule": {"kind": "exponential", "gamma": {"per_epoch": 0.98}},
    }
    total = to_steps(Epochs(epochs=epochs), samples, batch)
    found = Trace(recipe, total, samples, batch)
    wanted, seen = [], 0
    for _ in range(total):  # sample by sample: the epoch that the batch's first sample is in
        wanted.append(lr * 0.98 ** (seen // samples))
        seen += batch
    assert found.lr["head"] == pytest.approx(wanted)
    assert len(set(found.lr["head"])) == epochs
