"""Out of memory, said so that a user knows what to type."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from terrazzo.base import InputError

HOST_SIGNS = ("can't allocate memory", "not enough memory")
"""What torch's CPU allocator says; it has no exception of its own."""


@contextmanager
def explained(
    images: Tensor, masks: Tensor, accumulate: int, attempt: Callable[[Tensor, Tensor], None] | None
) -> Iterator[None]:
    """Turn running out of memory into a sentence with a setting that was tried and fits.

    `attempt` computes a part of the batch forward and backward and changes nothing; None: nothing is to be tried.
    """
    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        cause: Exception = error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in HOST_SIGNS):
            raise
        cause = error
    # outside the except blocks: an exception keeps the frames, and so the tensors, that filled the memory
    shape = f"{images.shape[0]} images of {images.shape[3]}x{images.shape[2]}"
    reason = str(cause).splitlines()[0]
    cause = cause.with_traceback(None)
    fits = None if attempt is None else _parts_that_fit(images, masks, accumulate, attempt)
    if attempt is None:
        advice = "give a greater step.accumulate, a smaller augment.crop or network, or step.recompute=true"
    elif fits is None:
        advice = "not even one image at a time fits: give a smaller augment.crop or network, or step.recompute=true"
    else:
        advice = f"step.accumulate={fits} was tried and fits, with the same gradient; or give a smaller augment.crop"
    raise InputError(f"out of memory with {shape} and step.accumulate={accumulate} ({reason}): {advice}") from cause


def _parts_that_fit(
    images: Tensor, masks: Tensor, accumulate: int, attempt: Callable[[Tensor, Tensor], None]
) -> int | None:
    for parts in range(accumulate + 1, images.shape[0] + 1):
        if images.shape[0] % parts:
            continue
        if images.device.type == "cuda":
            torch.cuda.empty_cache()
        size = images.shape[0] // parts
        try:
            attempt(images[:size], masks[:size])
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in HOST_SIGNS):
                continue
            raise
        return parts
    return None
