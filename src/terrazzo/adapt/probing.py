"""How the blocks of an encoder pass images on: seen, not guessed, by running images of two sizes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.models import Segmenter
from terrazzo.models.blocks import encoder_blocks, evaluating


def block_axes(segmenter: Segmenter, method: str) -> dict[str, tuple[nn.Module, int, int]]:
    """Of every block of the encoder by name: the block, the axis of its output that holds channels, and their number.

    That axis is the one whose length does not follow the image's size; no shape of a single image can tell it.

    Raises:
        InputError: the encoder has no blocks, or one that answers no single tensor, or an unclear one.
    """
    blocks = encoder_blocks(segmenter)
    if not blocks:
        raise InputError(f"adapt: kind {method} works on the encoder's blocks, and this network has no sequence of any")
    unit = segmenter.stride * -(-32 // segmenter.stride)
    small, large = (_shapes(segmenter, blocks, size) for size in ((2 * unit, 3 * unit), (5 * unit, 4 * unit)))
    found = {}
    for name, block in blocks.items():
        if name not in small:
            raise InputError(f"adapt: {name} answers no single tensor, so kind {method} cannot follow it")
        same = [axis for axis, (a, b) in enumerate(zip(small[name], large[name], strict=True)) if axis and a == b]
        if len(same) != 1:
            raise InputError(f"adapt: {name} answers {small[name]} and {large[name]}: no axis of channels is clear")
        found[name] = (block, same[0], small[name][same[0]])
    return found


@torch.no_grad()
def _shapes(segmenter: Segmenter, blocks: dict[str, nn.Module], size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(block: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape)

        return look

    hooks = [block.register_forward_hook(watch(name)) for name, block in blocks.items()]
    try:
        with evaluating(segmenter):
            segmenter(torch.zeros(1, segmenter.channels, *size, dtype=torch.uint8, device=segmenter.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes
