"""Logits brought onto a common grid, so that answers to shifted, turned and resized pictures can be added up."""

import torch
from torch import Tensor

from terrazzo.kernels.layout import position, working_dtype
from terrazzo.output import Output


def on_grid(
    output: Output,
    cells: tuple[int, int],
    covers: tuple[float, float],
    turned: tuple[int | None, int | None] = (None, None),
) -> Tensor:
    """Logits [B, K, *cells] at the centres of `cells` equal cells that lie over `covers` pixels; float32 or float64.

    What is read there is what the enlarged logits are at that place. `turned` says, for rows and columns, how many
    pixels long the picture was that was shown to the network the other way round; None if it was not turned. Logits
    that lie on this grid already are copied bit by bit, in reverse order if they are turned.
    """
    logits = output.logits.to(working_dtype(output.logits))
    for dim in (0, 1):
        count, over, length = cells[dim], covers[dim], turned[dim]
        source = logits.shape[2 + dim]
        if source == count and output.covers[dim] == over and not output.align_corners and length is None:
            continue
        centres = (torch.arange(count, dtype=torch.float64) + 0.5) * (over / count) - 0.5
        if length is not None:
            centres = length - 1 - centres
        places = position(centres, source, output.covers[dim], output.align_corners)
        lower = places.floor().long()
        upper = (lower + 1).clamp(max=source - 1)
        share = (places - lower).to(logits.dtype).to(logits.device)
        below, above = (logits.index_select(2 + dim, at.to(logits.device)) for at in (lower, upper))
        logits = torch.lerp(below, above, share[:, None] if dim == 0 else share)
    return logits
