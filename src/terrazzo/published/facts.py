"""What a published network wants to see: how pixels become its numbers, and which sides its images may have."""

from dataclasses import dataclass

from terrazzo.base import IMAGENET, Normalization


@dataclass(frozen=True)
class PublishedInput:
    """A family says its own as a constant `INPUT`, or sizes by a property `input`; the defaults are most networks'."""

    normalization: Normalization = IMAGENET
    """Pixels to numbers."""
    stride: int = 1
    """Sides are padded to a multiple of this; 1 where the network itself takes any: more padding changes scores."""
    smallest: int = 1
    """Shorter sides are padded to this many pixels."""
    classes: tuple[str, ...] | None = None
    """Names of the outputs, where every file of these sizes has the same ones and none says them itself."""
