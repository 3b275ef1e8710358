"""Cases of training together. Here one process is rank 0 of two; the other is torch's own dummy.

That two real processes train as one does is in engine/test_distributed.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from settings_base import SEGFORMER, Case, case
from settings_seen import built, trained
from terrazzo.config import RunConfig
from terrazzo.engine.parallel import shared
from terrazzo.engine.world import World


@contextmanager
def first_of_two(cfg: RunConfig) -> Iterator[nn.Module]:
    """A run's network on rank 0 of two."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    world = World(0, 2, torch.device("cpu"))
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        model = built(cfg)
        shared(model, cfg.parallel, cfg.ema, world)
        yield model
    finally:
        torch.distributed.destroy_process_group()


def held(cfg: RunConfig) -> list[int]:
    """Numbers of each parameter that this rank has."""
    with first_of_two(cfg) as model:
        return [(p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters()]


def norms(cfg: RunConfig) -> set[str]:
    with first_of_two(cfg) as model:
        return {type(module).__name__ for module in model.modules() if isinstance(module, _BatchNorm)}


def whole_after_forward(cfg: RunConfig) -> list[str]:
    """Parameters that are not given back before the backward pass."""
    with first_of_two(cfg) as model:
        model(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
        return [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]


def patience(cfg: RunConfig) -> list[timedelta]:
    """How long a run lets its processes wait for each other."""
    join, found = World.join, []

    def recorded(device: Any, timeout: timedelta) -> World:
        found.append(timeout)
        return join(device, timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(World, "join", recorded)
        trained(cfg)
    return found


PARALLEL: dict[str, Case] = {
    "parallel.kind": case(held, {"kind": "ddp"}, {"kind": "fsdp"}, model=SEGFORMER),
    "parallel.ddp.sync_batchnorm": case(norms, False, True),
    "parallel.ddp.timeout_minutes": case(patience, 10, 0.5),
    "parallel.fsdp.sync_batchnorm": case(norms, False, True),
    "parallel.fsdp.timeout_minutes": case(patience, 10, 0.5),
    "parallel.fsdp.reshard": case(whole_after_forward, False, True, model=SEGFORMER | {"depths": [2, 1, 1, 1]}),
}
