"""One optimizer step as one callable: the loop cannot tell how it is computed."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from terrazzo import kernels
from terrazzo.base import Config
from terrazzo.engine.world import World
from terrazzo.losses import Loss, count
from terrazzo.output import Output


class StepConfig(Config):
    """How one optimizer step is computed."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the network's forward and backward; weights and losses stay float32. `auto`: bfloat16 on CUDA only."""
    clip: PositiveFloat | None = None
    """Greatest norm of the whole gradient; null clips nothing."""
    channels_last: bool = True
    """Memory layout of images and weights: faster convolutions on most hardware, the same numbers to rounding."""


class StepResult(NamedTuple):
    """What a step leaves on the device; reading it is the caller's wait."""

    loss: Tensor
    confusion: Tensor
    """int64 [K, K] of the step's own predictions, in train mode and before the update."""


Step = Callable[[Tensor, Tensor], StepResult]


def autocast(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.autocast:
    """The autocast context of a precision on a device."""
    wanted = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def make_step(model: nn.Module, loss_fn: Loss, optimizer: torch.optim.Optimizer, cfg: StepConfig, world: World) -> Step:
    """(uint8 images [B, C, H, W], masks [B, H, W]) -> StepResult; one optimizer update."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step(images: Tensor, masks: Tensor) -> StepResult:
        optimizer.zero_grad(set_to_none=True)
        with autocast(cfg.precision, world.device):
            output: Output = model(images)
        counted = world.sum(count(masks)) / world.size  # DDP averages gradients over ranks
        loss = loss_fn(output, masks, counted)
        torch.autograd.backward(loss)
        if cfg.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, cfg.clip)
        optimizer.step()
        confusion = kernels.confusion(
            output.logits.detach(), masks, covers=output.covers, align_corners=output.align_corners
        )
        return StepResult(loss.detach(), confusion)

    return step
