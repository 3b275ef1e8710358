"""Test-time augmentation: the network is asked about turned and resized copies of a picture too."""

from collections.abc import Callable
from math import log
from typing import Annotated, Literal, assert_never

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional

from terrazzo.base import Config
from terrazzo.infer.grid import on_grid
from terrazzo.output import Output


class TtaConfig(Config):
    """Test-time augmentation: probabilities are averaged over copies of the picture; the default is the picture alone.

    Probabilities, not logits: each copy has one vote, however sure the network is of one of them.
    """

    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    """Adds copies: `horizontal` left and right exchanged, `vertical` upside down, `both` these two and both at once."""
    scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0,)
    """Sizes of the copies, as factors of the picture's sides; each is also flipped. 1.0 is the picture itself."""

    @property
    def flips(self) -> tuple[tuple[bool, bool], ...]:
        """(upside down, mirrored) of each copy of one size."""
        match self.flip:
            case "none":
                return ((False, False),)
            case "horizontal":
                return (False, False), (False, True)
            case "vertical":
                return (False, False), (True, False)
            case "both":
                return (False, False), (False, True), (True, False), (True, True)
            case _:
                assert_never(self.flip)

    @property
    def is_off(self) -> bool:
        """True if the picture itself is all that is shown."""
        return self.flip == "none" and self.scales == (1.0,)


def averaged(
    network: Callable[[Tensor], Output], padded: Callable[[int], int], images: Tensor, cfg: TtaConfig
) -> Output:
    """The answer to images [B, C, H, W] on the network's own grid: softmax of its logits is the mean probability, and
    of a network that answers scores, its scores are.

    Copies of other sizes are read at the cells of that grid, which is the network's for scale 1. Auxiliary logits are
    left out. `padded` is the side that the network makes of one, as `Segmenter.padded`.
    """
    size = images.shape[2], images.shape[3]
    covers = padded(size[0]), padded(size[1])
    cells: tuple[int, int] | None = None
    total: Tensor | None = None
    for scale in cfg.scales:
        scaled = resized(images, scale)
        shown = scaled.shape[2], scaled.shape[3]
        for upside_down, mirrored in cfg.flips:
            dims = [dim for dim, turned in ((2, upside_down), (3, mirrored)) if turned]
            output = network(scaled.flip(dims) if dims else scaled)
            cells = cells or cells_over(output, covers)
            placed = on_grid(
                output.rescaled(shown, size),
                cells,
                covers,
                turned=(size[0] if upside_down else None, size[1] if mirrored else None),
            )
            vote = output._replace(logits=placed).log_probabilities()
            total = vote if total is None else torch.logaddexp(total, vote)  # probabilities that are 0 stay finite
    assert total is not None, "a config without scales passed its validation"
    mean = total - log(len(cfg.scales) * len(cfg.flips))
    return Output(mean.exp() if output.are_scores else mean, covers=covers, are_scores=output.are_scores)


def cells_over(output: Output, covers: tuple[int, int]) -> tuple[int, int]:
    """Cells of the size that an answer has, over an area of `covers` pixels."""
    height, width = output.logits.shape[2:]
    return max(1, round(covers[0] * height / output.covers[0])), max(1, round(covers[1] * width / output.covers[1]))


def resized(images: Tensor, scale: float) -> Tensor:
    """Images with sides `scale` times as long, float32 in 0..255, smoothed if they shrink; 1 leaves them alone."""
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return functional.interpolate(images.float(), size, mode="bilinear", antialias=scale < 1)
