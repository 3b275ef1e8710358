"""One optimizer step as one callable: the loop cannot tell how it is computed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from terrazzo import kernels
from terrazzo.base import Config, InputError
from terrazzo.engine.memory import explained
from terrazzo.engine.world import World
from terrazzo.losses import Loss, count
from terrazzo.models import Segmenter
from terrazzo.output import Output

Precision = Literal["auto", "float32", "bfloat16", "float16"]


class OneImageError(InputError):
    """The parts of a batch are too small for a network that normalises averages over whole images."""


ONE_VALUE = "Expected more than 1 value per channel when training"
"""How torch's BatchNorm begins to say that it was given one number."""


class StepConfig(Config):
    """How one optimizer step is computed."""

    mode: Literal["eager", "compile"] = "eager"
    """`compile`: the network through torch.compile, whole; an error where that is impossible."""
    backend: Literal["inductor", "eager"] = "inductor"
    """Of mode `compile`: `inductor` makes kernels (a CPU needs a C++ compiler), `eager` only captures the graph."""
    precision: Precision = "auto"
    """Of the network's forward and backward; weights and losses stay float32. `auto`: bfloat16 on CUDA only.
    float16 scales the loss so that small gradients survive."""
    accumulate: PositiveInt = 1
    """Compute a batch in so many parts: less memory, the same gradient (but BatchNorm sees the parts)."""
    recompute: bool = False
    """Gradient checkpointing of the encoder's blocks: less memory, about a third more time, the same numbers."""
    clip: PositiveFloat | None = None
    """Greatest norm of the whole gradient; null clips nothing."""
    channels_last: bool = True
    """Memory layout of images and weights: faster convolutions on most hardware, the same numbers to rounding."""

    @model_validator(mode="after")
    def _backend_is_used(self) -> Self:
        if self.mode == "eager" and self.backend != "inductor":
            raise ValueError(f"backend={self.backend} changes nothing in mode eager; say mode: compile")
        return self


class StepResult(NamedTuple):
    """What a step leaves on the device; reading it is the caller's wait."""

    loss: Tensor
    confusion: Tensor
    """int64 [K, K] of the step's own predictions, in train mode and before the update."""


Step = Callable[[Tensor, Tensor], StepResult]


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The autocast context of a precision on a device."""
    wanted = "bfloat16" if precision == "auto" and device.type == "cuda" else precision
    half = torch.float16 if wanted == "float16" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=wanted in ("bfloat16", "float16"))


def make_scaler(cfg: StepConfig, device: torch.device) -> torch.amp.GradScaler:
    """The loss scaler of float16; switched off, and then without any effect, for every other precision."""
    return torch.amp.GradScaler(device.type, enabled=cfg.precision == "float16")


def wrapped(model: Segmenter, cfg: StepConfig, world: World) -> nn.Module:
    """The network as the step calls it: shared with other ranks, captured, or itself."""
    network: nn.Module = model
    if world.size > 1 and not is_divided(model):
        devices = [world.device.index] if world.device.type == "cuda" else None
        network = DistributedDataParallel(network, device_ids=devices)
    if cfg.mode == "compile":
        network.compile(fullgraph=True, backend=cfg.backend)  # in place: names in the state dict stay
    return network


def make_step(
    model: Segmenter,
    loss_fn: Loss,
    optimizer: torch.optim.Optimizer,
    cfg: StepConfig,
    world: World,
    scaler: torch.amp.GradScaler,
) -> Step:
    """(uint8 images [B, C, H, W], masks [B, H, W]) -> StepResult; one optimizer update."""
    network, parameters = wrapped(model, cfg, world), [p for group in optimizer.param_groups for p in group["params"]]

    def part(images: Tensor, masks: Tensor, counted: Tensor, sync: AbstractContextManager[None]) -> StepResult:
        with sync:
            with autocast(cfg.precision, world.device):
                output = _forward(network, images, cfg)
            loss = loss_fn(output, masks, counted)
            torch.autograd.backward(scaler.scale(loss))
        found = kernels.confusion(output.logits.detach(), masks, output.covers, output.align_corners)
        return StepResult(loss.detach(), found)

    def attempt(images: Tensor, masks: Tensor) -> None:
        part(images, masks, count(masks), _no_sync(network))
        optimizer.zero_grad(set_to_none=True)

    def step(images: Tensor, masks: Tensor) -> StepResult:
        optimizer.zero_grad(set_to_none=True)
        counted = world.sum(count(masks)) / world.size  # DDP averages gradients over ranks
        pairs = list(zip(images.chunk(cfg.accumulate), masks.chunk(cfg.accumulate), strict=True))
        # Nothing is tried where ranks would wait for this one: it alone may be out of memory.
        with explained(images, masks, cfg.accumulate, attempt if world.size == 1 else None):
            parts = [
                part(*pair, counted, _no_sync(network) if place + 1 < len(pairs) else nullcontext())
                for place, pair in enumerate(pairs)
            ]
        if cfg.clip is not None:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, cfg.clip)
        scaler.step(optimizer)
        scaler.update()
        loss, confusion = (torch.stack(values).sum(0) for values in zip(*parts, strict=True))
        return StepResult(loss, confusion)

    return step


def _forward(network: nn.Module, images: Tensor, cfg: StepConfig) -> Output:
    try:
        output: Output = network(images)
    except torch._dynamo.exc.TorchDynamoException as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"step.mode=compile: torch cannot compile this network: {first}. Say mode: eager") from error
    except ValueError as error:
        if not str(error).startswith(ONE_VALUE):
            raise
        raise OneImageError(
            "this network normalises the average over a whole image by its batch, and a part of the batch holds "
            f"{images.shape[0]} image ({error}): give batch and step.accumulate so that every part holds two at least"
        ) from error
    return output


def is_divided(network: nn.Module) -> bool:
    """Whether ranks hold shares of it; asked without importing torch's FSDP, which takes a second."""
    return hasattr(network, "set_requires_gradient_sync")


def _no_sync(network: nn.Module) -> AbstractContextManager[None]:
    """Gradients of all parts but the last are only added up; ranks exchange them once."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    if is_divided(network):
        from terrazzo.engine.shards import without_sync

        return without_sync(network)
    return nullcontext()
