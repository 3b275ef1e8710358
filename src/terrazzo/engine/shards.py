"""Weights, gradients and optimizer states shared out over all ranks: FSDP2, torch's `fully_shard`.

The encoder's blocks are borrowed one at a time, everything else at once. Weights stay float32 and are cast where they
are used, by the step's own autocast, so `step.precision` means the same as without shards. Checkpoints are whole:
nobody who reads one can tell how many ranks wrote it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from terrazzo.base import InputError
from terrazzo.engine.parallel import Fsdp
from terrazzo.engine.world import World
from terrazzo.models import Segmenter
from terrazzo.models.blocks import encoder_blocks


def share_out(model: Segmenter, cfg: Fsdp, world: World) -> list[str]:
    """Leave each rank its share of the parameters, in place; the names of the blocks that are borrowed one by one.

    Raises:
        InputError: a parameter cannot be divided.
    """
    scalars = [name for name, parameter in model.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise InputError(f"parallel.kind=fsdp cannot share out {', '.join(scalars)}: single numbers; say kind: ddp")
    types = {parameter.dtype for parameter in model.parameters()}
    if len(types) > 1:
        raise InputError(f"parallel.kind=fsdp: the network's parameters are of several types ({types}); say kind: ddp")
    mesh, blocks = init_device_mesh(world.device.type, (world.size,)), encoder_blocks(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.contiguous()  # fully_shard takes no other layout
    for block in blocks.values():
        fully_shard(block, mesh=mesh, reshard_after_forward=cfg.reshard)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    return list(blocks)


def _parts(network: nn.Module) -> list[FSDPModule]:
    """From the whole network inwards."""
    return [module for module in network.modules() if isinstance(module, FSDPModule)]


@contextmanager
def borrowed(network: nn.Module, *, reshard: bool) -> Iterator[None]:
    """Hold all weights while entered: the forward pass asks no other rank for anything."""
    root, *blocks = _parts(network)
    root.set_reshard_after_forward(False)
    for part in (root, *blocks):
        part.unshard()
    try:
        yield
    finally:
        for part in (root, *blocks):
            part.reshard()
        for block in blocks:
            block.set_reshard_after_forward(reshard)


@contextmanager
def without_sync(network: nn.Module) -> Iterator[None]:
    """Gradients are only added up, on each rank its own."""
    assert isinstance(network, FSDPModule)
    network.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        network.set_requires_gradient_sync(True)


def whole(tree: Any, *, keep: bool) -> Any:
    """The same tree of dicts and lists with every divided tensor put together, on the CPU.

    All ranks must ask; those that do not `keep` it get empty tensors.
    """
    match tree:
        case DTensor():
            full = tree.full_tensor()
            return full.cpu() if keep else full.new_empty(0)
        case dict():
            return {key: whole(value, keep=keep) for key, value in tree.items()}
        case list() | tuple():
            return type(tree)(whole(value, keep=keep) for value in tree)
        case _:
            return tree


def divided(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors as this rank holds those of the same name in `like`."""
    return {name: _share(tensor, like[name]) if name in like else tensor for name, tensor in tensors.items()}


def divided_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's whole state dict as this rank holds it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def share(value: Any, parameter: Tensor) -> Any:
        return _share(value, parameter) if isinstance(value, Tensor) and value.shape == parameter.shape else value

    state = {
        place: {key: share(value, parameters[place]) for key, value in values.items()}
        for place, values in saved["state"].items()
    }
    return {**saved, "state": state}


def _share(tensor: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return tensor
    plain = tensor.to(like.device).contiguous()  # shares are, whatever the layout of a process that held the whole
    return distribute_tensor(plain, like.device_mesh, like.placements, src_data_rank=None)
