"""Optimizers and schedules. Learning rate and momentum are functions of the step, not objects with state.

A new optimizer or schedule: one class in a file here, one member, one case.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, assert_never

import torch
from pydantic import BeforeValidator, Field
from torch import nn

from terrazzo.base import Epochs, InputError, to_steps
from terrazzo.optim.eight_bit import adamw_8bit
from terrazzo.optim.groups import Depths, GroupRow, group_table, param_groups
from terrazzo.optim.optimizers import Adam, AdamW, AdamW8bit, RmsProp, Role, Sgd
from terrazzo.optim.schedules import (
    AtEpochs,
    AtSteps,
    Constant,
    Cosine,
    Exponential,
    FlatCos,
    Linear,
    MultiStep,
    OneCycle,
    PerEpoch,
    PerStep,
    Poly,
    cosine,
    falling,
    two_cosines,
)

__all__ = [
    "Adam",
    "AdamW",
    "AdamW8bit",
    "AtEpochs",
    "AtSteps",
    "Constant",
    "Cosine",
    "Depths",
    "Exponential",
    "FlatCos",
    "GroupRow",
    "Linear",
    "MultiStep",
    "OneCycle",
    "OptimConfig",
    "PerEpoch",
    "PerStep",
    "Poly",
    "RmsProp",
    "Role",
    "Schedule",
    "ScheduleConfig",
    "Sgd",
    "build_optimizer",
    "check_momentum",
    "check_warmups",
    "group_table",
    "param_groups",
    "set_rates",
]


def _adamw_when_left_out(value: object) -> object:
    return {"kind": "adamw", **value} if isinstance(value, dict) else value


OptimConfig = Annotated[
    AdamW | AdamW8bit | Adam | Sgd | RmsProp, Field(discriminator="kind"), BeforeValidator(_adamw_when_left_out)
]
ScheduleConfig = Annotated[
    Constant | Linear | Cosine | Poly | Exponential | MultiStep | OneCycle | FlatCos, Field(discriminator="kind")
]


def build_optimizer(
    model: nn.Module, role: Callable[[str], Role], cfg: OptimConfig, depths: Depths | None = None
) -> torch.optim.Optimizer:
    """The optimizer of all parameters that require a gradient *now*: freeze and adapt before, replace nothing after.

    `depths` are needed for `cfg.layer_decay`.
    """
    groups = param_groups(model, role, cfg, depths)
    match cfg:
        case AdamW():
            return torch.optim.AdamW(
                groups, lr=cfg.lr, betas=cfg.betas, eps=cfg.eps, amsgrad=cfg.amsgrad, fused=cfg.fused
            )
        case Adam():
            return torch.optim.Adam(
                groups, lr=cfg.lr, betas=cfg.betas, eps=cfg.eps, amsgrad=cfg.amsgrad, fused=cfg.fused
            )
        case AdamW8bit():
            return adamw_8bit(groups, cfg)
        case Sgd():
            return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, nesterov=cfg.nesterov)
        case RmsProp():
            return torch.optim.RMSprop(
                groups, lr=cfg.lr, alpha=cfg.alpha, eps=cfg.eps, momentum=cfg.momentum, centered=cfg.centered
            )
        case _:
            assert_never(cfg)


@dataclass(frozen=True)
class Schedule:
    """A schedule with the lengths of its run: learning rate and momentum are pure functions of the step, 0..total-1."""

    cfg: ScheduleConfig
    total: int
    """Optimizer steps of the run."""
    samples: int
    """Samples of an epoch."""
    batch: int
    """Samples of an optimizer step."""
    begins: int = 0
    """Step of the run that is this schedule's first; `total` counts from there."""

    @property
    def warmup(self) -> int:
        """Steps of the warm-up; a curve that rises by itself has none."""
        if isinstance(self.cfg, OneCycle | FlatCos) or self.cfg.warmup is None:
            return 0
        return to_steps(self.cfg.warmup, self.samples, self.batch)

    @property
    def milestones(self) -> tuple[int, ...]:
        """The first step of each lower rate of a multi-step schedule; empty for the others."""
        match self.cfg:
            case MultiStep(milestones=AtSteps(steps=steps)):
                return steps
            case MultiStep(milestones=AtEpochs(epochs=epochs)):
                return tuple(to_steps(Epochs(epochs=epoch), self.samples, self.batch) for epoch in epochs)
            case _:
                return ()

    def lr_factor(self, step: int, role: Role | None = None) -> float:
        """Factor of a learning rate: of the warm-up, from `warmup_factor` at step 0 in equal parts to 1 at step
        `warmup` (of this role, if it has a warm-up of its own), times that of the curve."""
        step -= self.begins
        curve = self._curve(step)
        if isinstance(self.cfg, OneCycle | FlatCos):
            return curve
        own = self.cfg.warmups.get(role) if role is not None else None
        warmup = self.warmup if own is None else to_steps(own, self.samples, self.batch)
        if step >= warmup:
            return curve
        return (self.cfg.warmup_factor + (1 - self.cfg.warmup_factor) * step / warmup) * curve

    def momentum(self, step: int) -> float | None:
        """Momentum of every group; None leaves the optimizer's own."""
        if isinstance(self.cfg, OneCycle | FlatCos) and self.cfg.momenta is not None:
            return two_cosines(self._progress(step - self.begins), self.cfg.pct_start, *self.cfg.momenta)
        return None

    def remarks(self) -> list[str]:
        """What of the schedule this run is too short to reach, in sentences."""
        found = []
        end, warmups = self.begins + self.total, {"its": self.warmup}
        if not isinstance(self.cfg, OneCycle | FlatCos):
            own = {role: to_steps(length, self.samples, self.batch) for role, length in self.cfg.warmups.items()}
            warmups |= {f"the {role}'s": steps for role, steps in own.items()}
        for whose, steps in warmups.items():
            if steps >= self.total:
                found.append(f"the run ends at step {end}, inside {whose} warm-up of {steps} steps")
        if late := [milestone for milestone in self.milestones if milestone >= self.total]:
            late = [self.begins + milestone for milestone in late]
            found.append(f"the run ends at step {end}, before the milestones at {', '.join(map(str, late))}")
        return found

    def _progress(self, step: int) -> float:
        """0 at the end of the warm-up; would be 1 at step `total`, one after the last."""
        return min(1.0, max(0, step - self.warmup) / max(1, self.total - self.warmup))

    def _curve(self, step: int) -> float:
        progress = self._progress(step)
        match self.cfg:
            case Constant():
                return 1.0
            case Linear(end_factor=end):
                return falling(1 - progress, end)
            case Cosine(end_factor=end):
                return falling(cosine(progress), end)
            case Poly(power=power, end_factor=end):
                return falling(math.pow(1 - progress, power), end)
            case Exponential(gamma=gamma):
                return self._exponential(gamma, max(step, self.warmup))
            case MultiStep(gamma=factor):
                return math.pow(factor, sum(step >= milestone for milestone in self.milestones))
            case OneCycle(pct_start=turn, div=div, final_div=final_div):
                return two_cosines(progress, turn, 1 / div, 1.0, 1 / final_div)
            case FlatCos(pct_start=turn, final_div=final_div):
                return two_cosines(progress, turn, 1.0, 1.0, 1 / final_div)
            case _:
                assert_never(self.cfg)

    def _exponential(self, gamma: PerEpoch | PerStep, step: int) -> float:
        match gamma:
            case PerStep(per_step=factor):
                return math.pow(factor, step - self.warmup)
            case PerEpoch(per_epoch=factor):
                return math.pow(factor, self._epoch(step) - self._epoch(self.warmup))

    def _epoch(self, step: int) -> int:
        """The epoch, from 0, that the first sample of a step is in."""
        return step * self.batch // self.samples


def set_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, lr: float | None = None) -> None:
    """Set every group's learning rate to its own base (or to `lr`, the same for all) times the schedule's factor, and
    its momentum: the schedule's, else the optimizer's own, which an earlier stage may have moved; beta1 for Adam and
    AdamW."""
    momentum = schedule.momentum(step)
    for group in optimizer.param_groups:
        factor = schedule.lr_factor(step, group.get("role"))
        group["lr"] = (group["base_lr"] if lr is None else lr) * factor
        if "betas" in group:
            first, second = optimizer.defaults["betas"]
            group["betas"] = (first if momentum is None else momentum, second)
        elif "momentum" in group:
            group["momentum"] = optimizer.defaults["momentum"] if momentum is None else momentum


def check_warmups(schedule: ScheduleConfig, learning: Collection[str], where: str) -> None:
    """Each role with a warm-up of its own is one of those that learn.

    Raises:
        InputError: it would change nothing.
    """
    if isinstance(schedule, OneCycle | FlatCos):
        return
    if unused := sorted(schedule.warmups.keys() - set(learning)):
        raise InputError(
            f"{where}.warmups names {', '.join(unused)}, but what learns is: {', '.join(sorted(learning))}"
        )


def check_momentum(optim: OptimConfig, schedule: ScheduleConfig, first: ScheduleConfig | None = None) -> None:
    """Scheduled momenta and a momentum of the optimizer's own cannot both be meant.

    `first` is the schedule of a stage before, if there is one.

    Raises:
        InputError: the optimizer's momentum is set, and would never be used; or RMSprop begins without any, and torch
            makes no room for it later.
    """
    if first is not None:
        check_momentum(optim, first)
    if not isinstance(schedule, OneCycle | FlatCos) or schedule.momenta is None:
        return
    match optim:
        case Adam() | AdamW() | AdamW8bit():
            key, given, default = "betas", optim.betas[0], type(optim)().betas[0]
        case Sgd() | RmsProp():
            key, given, default = "momentum", optim.momentum, type(optim)().momentum
        case _:
            assert_never(optim)
    if given != default:
        raise InputError(
            f"optim.{key} asks for a momentum of {given:g}, but schedule.momenta {list(schedule.momenta)} sets it "
            "anew in every step; leave one of them out"
        )
    begins = schedule if first is None else first
    momenta = begins.momenta if isinstance(begins, OneCycle | FlatCos) else None
    if isinstance(optim, RmsProp) and any(schedule.momenta) and (momenta is None or not momenta[0]):
        where = "schedule" if first is None else "adapt.schedule"
        raise InputError(
            f"optim.kind=rmsprop cannot take up the momenta {list(schedule.momenta)} after a first step without any: "
            f"give {where} momenta that begin above 0, or take another optimizer"
        )
