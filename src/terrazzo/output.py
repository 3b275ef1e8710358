"""What a network answers: low-resolution logits and how they lie over the image."""

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Logits at the network's own stride. Nothing full-size is ever made from them as a tensor: see `kernels`."""

    logits: Tensor
    """[B, K, h, w]"""
    aux: tuple[Tensor, ...] = ()
    """Logits of auxiliary heads, each [B, K, h', w'] over the same area; in training and in eval mode."""
    queries: None = None
    """Reserved for mask-classification models."""
    covers: tuple[float, float] = (0, 0)
    """Height and width, in pixels of the image given, of the area under the logits: the image and its padding at the
    bottom and right. (0, 0) means the image alone."""
    align_corners: bool = False
    """How the logits are to be enlarged: True if corner samples sit on corner pixels (as some published heads do)."""

    def rescaled(self, size: tuple[int, int], target: tuple[int, int]) -> "Output":
        """The same answer over `target` = (height, width) pixels instead of `size`, the image given to the network.

        Needed where the label has another size than the network's input, as in evaluation at the label's own size.
        """
        height, width = self.covers if self.covers != (0, 0) else size
        return self._replace(covers=(height * target[0] / size[0], width * target[1] / size[1]))
