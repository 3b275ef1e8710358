"""The encoder's blocks, in the order in which an image passes them: what is recomputed, adapted and slowed by depth."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from terrazzo.models.segmenter import Segmenter

SEQUENCES = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""torchvision keeps the layers of backbones in a dict, in their order."""
CHANGES = "parametrizations"
"""torch's name for what computes a layer's weight, as some methods of `adapt` do: part of the layer, and no block."""


def encoder_blocks(model: Segmenter) -> dict[str, nn.Module]:
    """Blocks of the encoder by name: members of its sequences (ResNet's layers, a transformer's blocks) that have parts
    and no such sequence of their own, as a stage has. A stem's convolutions and norms are no blocks, nor are the rows
    of convolution, norm and activation inside of a block, nor parts that no answer depends on.

    Where that finds none, the members of every outermost sequence of at least two. Empty if there is no sequence.
    """
    sequences = {
        name: {f"{name}.{key}": part for key, part in module.named_children() if _is_used(model, f"{name}.{key}", part)}
        for name, module in model.named_modules()
        if name.startswith("net.") and f".{CHANGES}" not in name
        if isinstance(module, SEQUENCES) and model.role(name) == "encoder"
    }
    blocks: dict[str, nn.Module] = {}
    stages: set[str] = set()
    for name, members in sequences.items():
        around = {block for block in blocks if f"{name}.".startswith(f"{block}.")}
        rows = any(map(_is_row, members.values()))
        if members and all(map(_has_parts, members.values())) and not (around and rows):
            blocks |= members
            stages |= around
    if blocks:
        return {name: block for name, block in blocks.items() if name not in stages}
    outermost = [name for name in sequences if not any(name.startswith(f"{other}.") for other in sequences)]
    return {key: part for name in outermost if len(sequences[name]) > 1 for key, part in sequences[name].items()}


def _is_row(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and not any(map(_has_parts, module))


def _has_parts(module: nn.Module) -> bool:
    return any(_has_parameters(part) for name, part in module.named_children() if name != CHANGES)


def _is_used(model: Segmenter, name: str, part: nn.Module) -> bool:
    return any(f"{name}.{parameter}" not in model.unused for parameter, _ in part.named_parameters())


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


@torch.no_grad()
def parameter_depths(model: Segmenter) -> tuple[dict[str, int], int]:
    """How many blocks of the encoder have begun when a parameter of it is first used, by name; and the blocks in all.

    Seen by running an image, since neither names nor the order of modules tell it: 0 is the stem, a norm behind the
    last block counts as that block. Parameters of decoder and head are not in it.
    """
    blocks = encoder_blocks(model)
    order = {id(block): place for place, block in enumerate(blocks.values(), start=1)}
    seen: dict[str, int] = {}
    begun = 0

    def begin(name: str) -> Callable[[nn.Module, Any], None]:
        def look(module: nn.Module, inputs: Any) -> None:
            nonlocal begun
            begun = max(begun, order.get(id(module), 0))
            seen.setdefault(name, begun)

        return look

    hooks = [module.register_forward_pre_hook(begin(name)) for name, module in model.named_modules()]
    unit = model.stride * -(-32 // model.stride)
    try:
        with evaluating(model):
            model(torch.zeros(1, model.channels, 2 * unit, 2 * unit, dtype=torch.uint8, device=model.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
    depths = {}
    for name, _ in model.named_parameters():
        if model.role(name) == "encoder":
            # What is added behind a block, or to its tokens, is called by that block's name, with slashes.
            parts = name.removeprefix("adapters.").replace("/", ".").split(".")
            owners = (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
            depths[name] = next((seen[owner] for owner in owners if owner in seen), 0)
    return depths, len(blocks)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode; every module's own mode is put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
