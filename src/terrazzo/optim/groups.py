"""Which parameters learn, how fast, and whether they decay."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

from torch import nn

from terrazzo.base import InputError
from terrazzo.optim.optimizers import OptimOptions, Role


class Depths(NamedTuple):
    """Where in the encoder parameters are used."""

    of: Mapping[str, int]
    """Blocks that have begun when the parameter is first used, by its name."""
    blocks: int
    """In all."""


def param_groups(
    model: nn.Module, role: Callable[[str], Role], cfg: OptimOptions, depths: Depths | None = None
) -> list[dict[str, Any]]:
    """Which role, does it decay (matrices) or not (norms, biases), and how deep in the encoder: a group for each.

    Only parameters that require a gradient; each group has name, role, params, base_lr, lr and weight_decay. Depth
    counts if `cfg.layer_decay` is given, and then `depths` must be.

    Raises:
        InputError: nothing to train, or a factor for a role in which nothing learns.
    """
    groups: dict[tuple[Role, int, bool], list[nn.Parameter]] = {}
    factors: dict[tuple[Role, int, bool], float] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            of = role(name)
            factor, depth = cfg.lr_factors.get(of, 1.0), -1
            if cfg.layer_decay is not None and depths is not None and of == "encoder":
                depth = depths.of[name]
                factor *= cfg.layer_decay ** (depths.blocks - depth)
            key = (of, depth, cfg.decay_norms or parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
            factors[key] = factor
    if not groups:
        raise InputError("the model has no parameter to train: all are frozen")
    learning = {of for of, _, _ in groups}
    if unused := sorted(cfg.lr_factors.keys() - learning):
        raise InputError(
            f"optim.lr_factors names {', '.join(unused)}, but what learns is: {', '.join(sorted(learning))}"
        )
    if cfg.layer_decay is not None and not (depths is not None and depths.blocks and "encoder" in learning):
        raise InputError(
            f"optim.layer_decay={cfg.layer_decay}: no encoder that learns is a sequence of blocks; leave it out"
        )
    ordered = sorted(groups.items(), key=lambda item: (get_args(Role).index(item[0][0]), item[0][1], not item[0][2]))
    return [
        {
            "name": _name(*key),
            "role": key[0],
            "params": parameters,
            "base_lr": cfg.lr * factors[key],
            "lr": cfg.lr * factors[key],
            "weight_decay": cfg.weight_decay if key[2] else 0.0,
        }
        for key, parameters in ordered
    ]


def _name(of: Role, depth: int, decays: bool) -> str:
    return of + ("" if depth < 0 else f"/{depth:02d}") + ("" if decays else "/no_decay")


class GroupRow(NamedTuple):
    """A line of the table printed at the start of training."""

    group: str
    tensors: int
    params: int
    lr: float
    decay: float


def group_table(groups: list[dict[str, Any]]) -> list[GroupRow]:
    """A line for each group."""
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
