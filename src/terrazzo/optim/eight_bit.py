"""Optimizers of bitsandbytes, an extra."""

import logging
from typing import Any

import torch

from terrazzo.base import InputError
from terrazzo.optim.optimizers import AdamW8bit


def adamw_8bit(groups: list[dict[str, Any]], cfg: AdamW8bit) -> torch.optim.Optimizer:
    """The optimizer of parameter groups; its state is blocks of 256 values in uint8 with a float32 scale each.

    Raises:
        InputError: bitsandbytes is not installed, or has no such optimizer for the device.
    """
    # It warns of a 4-bit product that it could not load; no optimizer uses it.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        from bitsandbytes.optim import AdamW8bit as Optimizer
    except ImportError as error:
        raise InputError(
            f"optim.kind=adamw_8bit needs bitsandbytes ({error}): pip install 'terrazzo[8bit]', or say adamw"
        ) from None
    device = groups[0]["params"][0].device.type
    if device not in ("cpu", "cuda"):
        raise InputError(f"optim.kind=adamw_8bit runs on cpu and cuda, not on {device}; say adamw")
    optimizer: torch.optim.Optimizer = Optimizer(
        groups, lr=cfg.lr, betas=cfg.betas, eps=cfg.eps, weight_decay=cfg.weight_decay, min_8bit_size=cfg.min_values
    )
    return optimizer
