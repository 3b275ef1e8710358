"""Weights of classes: named, or from how often each class is seen."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal, assert_never

import numpy as np
import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from terrazzo.base import Classes, InputError, Mask

ClassWeights = Literal["none", "auto"] | dict[str, NonNegativeFloat]
"""What a recipe says; its meaning stands at `PixelLoss.class_weights`."""


def class_weights(
    given: ClassWeights, classes: Classes, frequencies: Tensor | None, device: torch.device
) -> Tensor | None:
    """The weights [K] on a device; None where all are 1.

    Raises:
        InputError: a name that is no class; frequencies needed but not given.
    """
    match given:
        case "none":
            return None
        case "auto":
            if frequencies is None:
                raise InputError("class_weights: auto needs the frequency of each class in the training labels")
            return median_frequency_weights(frequencies.double()).to(device, torch.float32)
        case dict(named):
            for name in named:
                if name not in classes.names:
                    close = get_close_matches(name, classes.names, n=1)
                    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(classes.names)}"
                    raise InputError(f"class_weights names {name!r}, which is no class of this data set; {hint}")
            return torch.tensor([named.get(name, 1.0) for name in classes.names], device=device)
        case _:
            assert_never(given)


def class_frequencies(masks: Iterable[Mask], classes: int) -> Tensor:
    """Frequency of each class as in Eigen & Fergus 2015, 6.3.2: its pixels divided by the counted pixels of the images
    that show it, float64 [K]; 0 for a class that no image shows."""
    pixels, beside = np.zeros(classes), np.zeros(classes)
    for mask in masks:
        counts = np.bincount(mask.reshape(-1), minlength=256)[:classes]
        pixels += counts
        beside += counts.sum() * (counts > 0)
    return torch.from_numpy(pixels / np.maximum(beside, 1))


def median_frequency_weights(frequencies: Tensor) -> Tensor:
    """Median frequency divided by frequency, scaled to mean 1 over the classes that occur; 1 for one that does not."""
    occurs = frequencies > 0
    weights = torch.where(occurs, 1 / frequencies.clamp(min=torch.finfo(frequencies.dtype).tiny), 0)
    return torch.where(occurs, weights * occurs.sum() / weights.sum(), 1)
