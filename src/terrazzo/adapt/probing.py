"""How the blocks of an encoder pass images on: seen, not guessed, by running images of two sizes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.models import Segmenter
from terrazzo.models.blocks import encoder_blocks, evaluating

COARSEST = 64
"""Pixels that two sides must differ by, so that features of any stride tell them apart."""


def block_axes(segmenter: Segmenter, method: str) -> dict[str, tuple[nn.Module, int, int]]:
    """Of the blocks of the encoder by name: the block, the axis of its output that holds channels, and their number.

    That axis is the one whose length does not follow the image's size; no shape of a single image can tell it. Blocks
    whose answer is no tensor (of a tuple, the first) or does not follow the image at all, as that of pooling, are none.

    Raises:
        InputError: the encoder has no such blocks, or one whose axis of channels is not clear.
    """
    blocks = encoder_blocks(segmenter)
    if not blocks:
        raise InputError(f"adapt: kind {method} works on the encoder's blocks, and this network has no sequence of any")
    small, large = (_shapes(segmenter, blocks, size) for size in _sizes(segmenter))
    found = {}
    for name in small:
        same = [axis for axis, (a, b) in enumerate(zip(small[name], large[name], strict=True)) if axis and a == b]
        if len(same) == 1:
            found[name] = (blocks[name], same[0], small[name][same[0]])
        elif len(same) < len(small[name]) - 1:
            raise InputError(f"adapt: {name} answers {small[name]} and {large[name]}: no axis of channels is clear")
    if not found:
        raise InputError(f"adapt: kind {method} works on features of the image, and no block of this encoder has any")
    return found


def first_changed(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A block's answer with its features changed: the answer itself, or the first of a tuple."""
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


def _sizes(segmenter: Segmenter) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two, of which no side is like another, small but not smaller than the network takes."""
    step = segmenter.stride * -(-COARSEST // segmenter.stride)
    least = max(0, segmenter.padded(segmenter.smallest) - step)
    return (least + step, least + 3 * step), (least + 4 * step, least + 2 * step)


@torch.no_grad()
def _shapes(segmenter: Segmenter, blocks: dict[str, nn.Module], size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(block: nn.Module, inputs: Any, output: Any) -> None:
            features = output[0] if isinstance(output, tuple) and output else output
            if isinstance(features, Tensor):
                shapes[name] = tuple(features.shape)

        return look

    hooks = [block.register_forward_hook(watch(name)) for name, block in blocks.items()]
    try:
        with evaluating(segmenter):
            segmenter(torch.zeros(1, segmenter.channels, *size, dtype=torch.uint8, device=segmenter.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: shapes[name] for name in blocks if name in shapes}
