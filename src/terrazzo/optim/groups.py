"""Which parameters learn, how fast, and whether they decay."""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

from torch import nn

from terrazzo.base import InputError
from terrazzo.optim.optimizers import OptimOptions, Role


def param_groups(model: nn.Module, role: Callable[[str], Role], cfg: OptimOptions) -> list[dict[str, Any]]:
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
