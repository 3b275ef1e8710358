"""The words everyone shares: what a config, a sample, a class list and an input error are. No torch in here."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple, Protocol, Self, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, model_validator

IGNORE = 255
"""Mask value of a pixel that no loss and no metric counts."""

MAX_CLASSES = 254
"""Masks are uint8 and 255 is IGNORE; 254 is kept free as the decoders' mark of an unknown value."""

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

Image = NDArray[np.uint8]
"""RGB, uint8 [H, W, C]."""
Mask = NDArray[np.uint8]
"""Class ids 0..K-1 or IGNORE, uint8 [H, W]."""
Color = tuple[int, int, int]
"""RGB, 0..255."""


class InputError(ValueError):
    """What the user gave cannot work: the message says what was found, what was expected and what to type.

    The command line prints it as one sentence; any other exception is a fault of ours and keeps its traceback.
    """


class Config(BaseModel):
    """Base of every config: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Normalization(Config):
    """What a network's weights want to see: (image / 255 * max_value - mean) / std, in this order of channels."""

    mean: tuple[float, ...]
    """One number per channel, in the order of `channel_order`, in the scale of `max_value`."""
    std: tuple[PositiveFloat, ...]
    """One number per channel, as `mean`."""
    max_value: PositiveFloat = 1.0
    """Value of a white pixel: 1 for most weights, 255 for some (Caffe's)."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Order in which the network wants the channels; images are RGB everywhere in terrazzo."""

    @model_validator(mode="after")
    def _one_number_per_channel(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}; give one per image channel")
        if self.channel_order == "bgr" and len(self.mean) != 3:
            raise ValueError(f"channel_order bgr is for 3 channels, not {len(self.mean)}")
        return self

    def for_channels(self, channels: int) -> "Normalization":
        """The same for images of another number of channels, as the libraries adapt the first convolution.

        One channel gets the average, more than three repeat the first three.
        """
        known = len(self.mean)
        if channels == known:
            return self
        if channels == 1:
            return Normalization(mean=(sum(self.mean) / known,), std=(sum(self.std) / known,), max_value=self.max_value)
        return Normalization(
            mean=tuple(self.mean[i % known] for i in range(channels)),
            std=tuple(self.std[i % known] for i in range(channels)),
            max_value=self.max_value,
        )


IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""torchvision's, and so of most published weights."""


class Steps(Config):
    """A length or an interval in optimizer steps: `{steps: 500}`."""

    steps: PositiveInt
    """Optimizer steps."""


class Epochs(Config):
    """A length or an interval in passes over the training set: `{epochs: 2}`. Fractions are allowed."""

    epochs: PositiveFloat
    """Passes over the training set."""


Duration = Steps | Epochs


def to_steps(duration: Duration, samples: int, batch: int) -> int:
    """Optimizer steps of a duration: E epochs of n samples are ceil(E * n / batch) steps; nothing is dropped."""
    match duration:
        case Steps(steps=steps):
            return steps
        case Epochs(epochs=epochs):
            return max(1, ceil(epochs * samples / batch))


class Sample(NamedTuple):
    """One image with its label map."""

    image: Image
    mask: Mask
    name: str
    """Unique in its split; a path without extension, folders kept ("tile1/part3")."""


@dataclass(frozen=True)
class Classes:
    """The label space: class `k` is called names[k], drawn in colors[k] and written to id files as ids[k]."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ids: tuple[int, ...]
    """Value of each class in the data set's own label files; predictions are saved in these."""
    ignore_id: int = IGNORE
    """Value of an ignored pixel in the data set's own label files."""

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.colors) == len(self.ids):
            raise InputError(
                f"{len(self.names)} class names, {len(self.colors)} colours and {len(self.ids)} ids do not match"
            )
        if not 1 <= len(self.names) <= MAX_CLASSES:
            raise InputError(f"{len(self.names)} classes; terrazzo trains 1 to {MAX_CLASSES}")
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise InputError(f"class names {twice} stand more than once in the class list")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, names: "tuple[str, ...] | list[str] | Mapping[str, Color]") -> "Classes":
        """From names alone (colours from a fixed colour wheel) or from names with colours; ids are 0..K-1."""
        listed = tuple(names)
        colors = tuple(names.values()) if isinstance(names, Mapping) else distinct_colors(len(listed))
        return cls(listed, colors, tuple(range(len(listed))))


def distinct_colors(count: int) -> tuple[Color, ...]:
    """The PASCAL VOC colour map: bit-reversed ids spread over RGB, so that neighbouring ids differ strongly.

    Formula: VOC development kit, VOClabelcolormap.m. Class 0 is black there and here.
    """
    colors = []
    for k in range(count):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= (k >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append((color[0], color[1], color[2]))
    return tuple(colors)


@runtime_checkable
class Dataset(Protocol):
    """What training and evaluation read. Item `i` is a pure function of `i` and may be asked for from any thread."""

    @property
    def classes(self) -> Classes: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@runtime_checkable
class Lazy(Protocol):
    """A data set that can open an item without decoding it: of a large picture, a crop reads its own part only."""

    def lazy(self, index: int, /) -> Sample:
        """Item `index`; its image and mask have `shape`, `dtype` and `ndim`, are sliced by rows and columns
        (`image[4:8, 0:16]`, an array) and become arrays with `np.asarray`. They are taken to keep the contract."""


@runtime_checkable
class Masked(Protocol):
    """A data set that can read an item's mask without its image."""

    def read_mask(self, index: int, /) -> Mask: ...
