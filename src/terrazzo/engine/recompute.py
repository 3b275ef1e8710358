"""Gradient checkpointing: the encoder's blocks are computed again in the backward pass instead of being remembered."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from terrazzo.base import InputError
from terrazzo.models import Segmenter
from terrazzo.models.blocks import encoder_blocks


def recompute_blocks(model: Segmenter) -> list[str]:
    """Make every block of the encoder remember its input only; the names of the blocks are returned.

    Numbers stay the same: random numbers are drawn again alike, and BatchNorm's statistics are not
    moved a second time.

    Raises:
        InputError: the encoder has no sequence of blocks.
    """
    found = encoder_blocks(model)
    if not found:
        raise InputError("step.recompute: the encoder of this network has no sequence of blocks to recompute")
    for block in found.values():
        block.forward = partial(_checkpointed, block, block.forward)  # in place: names in the state dict stay
    return list(found)


def _checkpointed(block: nn.Module, forward: Callable[..., Tensor], *inputs: Tensor, **named: Tensor | None) -> Tensor:
    # Transformers of timm are given their rotations and attention masks by name.
    run = partial(forward, **named) if named else forward
    if not block.training:
        return run(*inputs)
    return checkpoint(run, *inputs, use_reentrant=False, context_fn=partial(_contexts, block))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _still_statistics(block)


@contextmanager
def _still_statistics(block: nn.Module) -> Iterator[None]:
    """BatchNorm's running statistics stay as the first computation left them."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    tracked = [norm.num_batches_tracked for norm in norms]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, count, momentum in zip(norms, tracked, momenta, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
