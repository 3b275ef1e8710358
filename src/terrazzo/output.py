"""What a network answers: low-resolution logits and how they lie over the image."""

from typing import NamedTuple

import torch
from torch import Tensor


class Queries(NamedTuple):
    """What a mask-classification network says: Q masks, and for each the class it is of, or that it is no object."""

    classes: Tensor
    """[B, Q, K + 1] logits; the last one says "no object"."""
    masks: Tensor
    """[B, Q, h, w] logits, each pixel's by itself: above 0 it belongs to the mask."""
    aux: tuple["Queries", ...] = ()
    """The answers of earlier decoder layers, for their losses; in training and in eval mode."""

    def scores(self) -> Tensor:
        """How strongly each pixel is of each class, [B, K, h, w] in 0..Q: the sum over the queries of P(class) P(mask).

        As in MaskFormer's semantic inference (Cheng et al. 2021, section 3.3). The largest is the prediction.
        """
        kinds = self.classes.softmax(2)[..., :-1]
        return torch.einsum("bqk,bqhw->bkhw", kinds, self.masks.sigmoid())


class Output(NamedTuple):
    """Logits at the network's own stride. Nothing full-size is ever made from them as a tensor: see `kernels`."""

    logits: Tensor
    """[B, K, h, w]"""
    aux: tuple[Tensor, ...] = ()
    """Logits of auxiliary heads, each [B, K, h', w'] over the same area; in training and in eval mode. Heads that tell
    edges instead of classes (`edges`) stand among them in the published order, with 1 or 2 channels of their own."""
    queries: Queries | None = None
    """Of a mask-classification network: what its loss reads. `logits` are then its scores, `queries.scores()`."""
    covers: tuple[float, float] = (0, 0)
    """Height and width, in pixels of the image given, of the area under the logits: the image and its padding at the
    bottom and right. (0, 0) means the image alone."""
    align_corners: bool = False
    """How the logits are to be enlarged: True if corner samples sit on corner pixels (as some published heads do)."""
    edges: tuple[int, ...] = ()
    """Positions in `aux` of the heads that tell edges and no classes: no loss of classes reads them."""

    are_scores: bool = False
    """True if `logits` are scores from 0 up, as of queries: a class's probability is its share of their sum, where that
    of logits is their softmax. Enlarged and blended alike; the largest is the prediction of both."""

    @property
    def class_aux(self) -> tuple[Tensor, ...]:
        """The auxiliary logits of classes, [B, K, h', w'] each: `aux` without the heads that tell edges."""
        return tuple(logits for position, logits in enumerate(self.aux) if position not in self.edges)

    def log_probabilities(self) -> Tensor:
        """Logarithms of the classes' probabilities, [B, K, h, w]; finite for scores that are 0."""
        if not self.are_scores:
            return self.logits.log_softmax(1)
        smallest = torch.finfo(self.logits.dtype).tiny
        scores = self.logits.clamp(min=smallest)
        return scores.log() - scores.sum(1, keepdim=True).log()

    def rescaled(self, size: tuple[int, int], target: tuple[int, int]) -> "Output":
        """The same answer over `target` = (height, width) pixels instead of `size`, the image given to the network.

        Needed where the label has another size than the network's input, as in evaluation at the label's own size.
        """
        height, width = self.covers if self.covers != (0, 0) else size
        return self._replace(covers=(height * target[0] / size[0], width * target[1] / size[1]))
