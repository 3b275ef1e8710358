"""How several processes train one network together: the settings, and what of a recipe they cannot share."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from terrazzo.base import Config, InputError
from terrazzo.engine.batchnorm import sync_batchnorm
from terrazzo.engine.ema import Ema, EmaConfig
from terrazzo.engine.world import World
from terrazzo.models import Segmenter


class ParallelOptions(Config):
    """What both ways of training together can be told."""

    sync_batchnorm: bool = False
    """BatchNorm takes its mean and variance over the images of all processes, so that their number changes nothing."""
    timeout_minutes: PositiveFloat = 10.0
    """How long a process waits for the others before all give up."""

    @property
    def timeout(self) -> timedelta:
        return timedelta(minutes=self.timeout_minutes)


class Ddp(ParallelOptions):
    """Every process holds the whole network (torch's DistributedDataParallel)."""

    kind: Literal["ddp"] = "ddp"


class Fsdp(ParallelOptions):
    """Every process holds a share of the weights, gradients and running means, and borrows the rest block by block
    (torch's fully_shard): for networks that are too large for one device."""

    kind: Literal["fsdp"] = "fsdp"
    reshard: bool = True
    """Give a block's borrowed weights back after its forward pass and borrow them again for the backward pass: less
    memory, more traffic."""


ParallelConfig = Annotated[Ddp | Fsdp, Field(discriminator="kind")]


def is_shared_out(cfg: Ddp | Fsdp, world: World) -> bool:
    """Whether no process holds the whole network."""
    return isinstance(cfg, Fsdp) and world.size > 1


def shared(model: Segmenter, cfg: Ddp | Fsdp, ema: EmaConfig | None, world: World) -> tuple[Ema | None, list[str]]:
    """Make the network one of several processes': the running mean of its weights, and names of blocks shared out.

    Raises:
        InputError: a setting does not fit the network.
    """
    if cfg.sync_batchnorm and world.size > 1 and not sync_batchnorm(model, world):
        raise InputError("parallel.sync_batchnorm: this network has no BatchNorm; leave it out")
    mean = Ema(model, ema) if ema else None  # a copy, which a network that is shared out does not allow
    if not isinstance(cfg, Fsdp) or world.size == 1:
        return mean, []
    from terrazzo.engine.shards import share_out  # a second of imports, needed for this alone

    if mean is not None:
        share_out(mean.model, cfg, world)
    return mean, share_out(model, cfg, world)


def check_shares(batch: PositiveInt, accumulate: PositiveInt, world: World) -> None:
    """Every process takes an equal share of each batch, in equal parts.

    Raises:
        InputError: that does not come out even.
    """
    if batch % world.size:
        nearest = max(1, round(batch / world.size)) * world.size
        raise InputError(
            f"batch={batch} (images per optimizer step, over all processes) cannot be shared evenly by {world.size} "
            f"processes; say batch={nearest}, or start another number of processes"
        )
    share = batch // world.size
    if share % accumulate:
        raise InputError(
            f"step.accumulate={accumulate} does not divide the {share} of {batch} images that each of {world.size} "
            f"processes takes of a batch; say step.accumulate={next(n for n in range(share, 0, -1) if share % n == 0)}"
        )


@contextmanager
def at_hand(network: nn.Module, cfg: Ddp | Fsdp, world: World) -> Iterator[None]:
    """While entered, every process holds the whole network, and may look at another number of images than others."""
    if not isinstance(cfg, Fsdp) or world.size == 1:
        yield
        return
    from terrazzo.engine.shards import borrowed  # a second of imports, needed for this alone

    with borrowed(network, reshard=cfg.reshard):
        yield
