"""Optimizers and schedules. The learning rate is a function of the step, not an object with state.

A new optimizer or schedule: one class, one case.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, assert_never, get_args

import torch
from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import nn

from terrazzo.base import Config, Duration, InputError

Role = Literal["encoder", "decoder", "head"]
"""What a parameter belongs to."""

WARMUP_FACTOR = 0.1


class _OptimOptions(Config):
    lr_factors: dict[Role, NonNegativeFloat] = Field(default_factory=dict)
    """Learning rate of "encoder", "decoder" or "head" as a multiple of `lr`; 1 for a role not named."""
    decay_norms: bool = False
    """Decay norms, biases and other parameters of one dimension too."""


class AdamW(_OptimOptions):
    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    """Learning rate of a role whose factor is 1, before the schedule."""
    weight_decay: NonNegativeFloat = 0.01
    """Share of a weight taken off in every step, times the learning rate (decoupled)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the running square."""
    amsgrad: bool = False
    """Divide by the greatest running square so far (Reddi et al. 2018)."""
    fused: bool = True
    """One kernel for the whole update; 3 times as fast on a CPU."""


class Sgd(_OptimOptions):
    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 0.01
    """Learning rate of a role whose factor is 1, before the schedule."""
    weight_decay: NonNegativeFloat = 5e-4
    """Multiple of a weight that is added to its gradient."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the previous update that is kept."""
    nesterov: bool = False
    """Look ahead along the momentum."""

    @model_validator(mode="after")
    def _momentum_to_look_along(self) -> "Sgd":
        if self.nesterov and not self.momentum:
            raise InputError("sgd has nesterov=true and momentum=0; give a momentum such as 0.9, or nesterov=false")
        return self


def _adamw_when_left_out(value: object) -> object:
    return {"kind": "adamw", **value} if isinstance(value, dict) else value


OptimConfig = Annotated[AdamW | Sgd, Field(discriminator="kind"), BeforeValidator(_adamw_when_left_out)]


class _ScheduleOptions(Config):
    warmup: Duration | None = None
    """Raise the learning rate linearly over the first steps: {steps: 500} or {epochs: 1}; null for none."""
    warmup_factor: float = Field(WARMUP_FACTOR, ge=0, le=1)
    """Share of the learning rate at step 0 of the warm-up."""

    @model_validator(mode="after")
    def _warmup_is_on(self) -> "_ScheduleOptions":
        if self.warmup is None and self.warmup_factor != WARMUP_FACTOR:
            raise InputError(
                f"schedule: warmup_factor={self.warmup_factor} changes nothing without a warm-up; "
                "give warmup: {steps: 500} too"
            )
        return self


class Constant(_ScheduleOptions):
    """The learning rate stays."""

    kind: Literal["constant"] = "constant"


class Cosine(_ScheduleOptions):
    """Half a cosine from the end of the warm-up to the end of training."""

    kind: Literal["cosine"] = "cosine"
    end_factor: float = Field(0.0, ge=0, le=1)
    """Share of the learning rate left at the end."""


class Poly(_ScheduleOptions):
    """(1 - progress) ** power from the end of the warm-up to the end of training."""

    kind: Literal["poly"] = "poly"
    power: PositiveFloat = 0.9
    """1 is a straight line; 0.9 is usual in segmentation."""
    end_factor: float = Field(0.0, ge=0, le=1)
    """Share of the learning rate left at the end."""


ScheduleConfig = Annotated[Constant | Cosine | Poly, Field(discriminator="kind")]


def lr_factor(step: int, total_steps: int, cfg: ScheduleConfig, warmup_steps: int) -> float:
    """Factor of every learning rate at step 0..total_steps-1.

    The warm-up goes from `warmup_factor` at step 0 in equal parts to 1 at step `warmup_steps`; there the schedule
    begins, and would reach its end at step `total_steps`, one after the last.
    """
    if step < warmup_steps:
        return cfg.warmup_factor + (1 - cfg.warmup_factor) * step / warmup_steps
    left = 1 - min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    match cfg:
        case Constant():
            return 1.0
        case Cosine(end_factor=end):
            return end + (1 - end) * 0.5 * (1 - math.cos(math.pi * left))
        case Poly(power=power, end_factor=end):
            return end + (1 - end) * math.pow(left, power)
        case _:
            assert_never(cfg)


def param_groups(model: nn.Module, role: Callable[[str], Role], cfg: OptimConfig) -> list[dict[str, Any]]:
    """Two questions, up to six groups: which role, and does it decay (matrices) or not (norms, biases)?

    Only parameters that require a gradient; each group has name, params, base_lr, lr and weight_decay.

    Raises:
        InputError: nothing to train, or a factor for a role that the model does not have.
    """
    groups: dict[tuple[Role, bool], list[nn.Parameter]] = {}
    roles = {role(name) for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (role(name), cfg.decay_norms or parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    if not groups:
        raise InputError("the model has no parameter to train: all are frozen")
    if unused := sorted(cfg.lr_factors.keys() - roles):
        raise InputError(
            f"optim.lr_factors names {', '.join(unused)}, but the model's parameters are: {', '.join(sorted(roles))}"
        )
    ordered = sorted(groups.items(), key=lambda item: (get_args(Role).index(item[0][0]), not item[0][1]))
    return [
        {
            "name": of if decays else f"{of}/no_decay",
            "params": parameters,
            "base_lr": cfg.lr * cfg.lr_factors.get(of, 1.0),
            "lr": cfg.lr * cfg.lr_factors.get(of, 1.0),
            "weight_decay": cfg.weight_decay if decays else 0.0,
        }
        for (of, decays), parameters in ordered
    ]


class GroupRow(NamedTuple):
    """A line of the table printed at the start of training."""

    group: str
    tensors: int
    params: int
    lr: float
    decay: float


def group_table(groups: list[dict[str, Any]]) -> list[GroupRow]:
    return [
        GroupRow(
            group["name"],
            len(group["params"]),
            sum(parameter.numel() for parameter in group["params"]),
            group["base_lr"],
            group["weight_decay"],
        )
        for group in groups
    ]


def build_optimizer(model: nn.Module, role: Callable[[str], Role], cfg: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer of all parameters that require a gradient *now*: freeze and adapt before, replace nothing after."""
    groups = param_groups(model, role, cfg)
    match cfg:
        case AdamW():
            return torch.optim.AdamW(
                groups, lr=cfg.lr, betas=cfg.betas, eps=cfg.eps, amsgrad=cfg.amsgrad, fused=cfg.fused
            )
        case Sgd():
            return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, nesterov=cfg.nesterov)
        case _:
            assert_never(cfg)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to its own base times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
