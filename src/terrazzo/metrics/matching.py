"""Which output of a network answers which class of a data set: by their names, or one after the other."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrazzo.base import IGNORE, Classes, InputError

MatchBy = Literal["name", "order"]


@dataclass(frozen=True)
class ClassMatch:
    """The outputs of a network that are scored, for the classes of a data set."""

    by: MatchBy
    outputs: tuple[str, ...]
    """All the network's own classes."""
    classes: tuple[str, ...]
    """The data set's."""
    answers: tuple[int, ...]
    """Of each class of the data set, the output that stands for it."""

    @property
    def is_identity(self) -> bool:
        """Whether outputs and classes are the same, in the same order."""
        return self.outputs == self.classes and self.answers == tuple(range(len(self.classes)))

    @property
    def others(self) -> tuple[str, ...]:
        """Outputs that are no class of the data set: said of a labelled pixel, they are a miss."""
        return tuple(name for k, name in enumerate(self.outputs) if k not in self.answers)

    @property
    def table(self) -> NDArray[np.uint8]:
        """Class of the data set for every output, uint8 [256]; the number of classes for what is none of them."""
        table = np.full(256, len(self.classes), np.uint8)
        table[IGNORE] = IGNORE
        table[list(self.answers)] = np.arange(len(self.classes))
        return table

    def in_classes(self, found: Tensor) -> Tensor:
        """A map of outputs, uint8 [...], as a map of the data set's classes; `len(classes)` where it is none."""
        if self.is_identity:
            return found
        return torch.from_numpy(self.table).to(found.device)[found.long()]

    def as_dict(self) -> dict[str, object]:
        """For JSON: {"by", "classes": {class: output}, "others"}."""
        named = {name: self.outputs[k] for name, k in zip(self.classes, self.answers, strict=True)}
        return {"by": self.by, "classes": named, "others": list(self.others)}


def match_classes(
    network: Classes, data: Classes, where: str, *, named: bool = True, by: MatchBy | None = None
) -> ClassMatch:
    """Find the output of every class of the data set.

    By name, in any case and without regard to spaces and punctuation; one after the other if the network's outputs
    have no names, or if `by` says so. Outputs may be left over.

    Args:
        where: names the network in an error.
        named: whether `network.names` are names; False if they only stand for missing ones.

    Raises:
        InputError: a class of the data set has no output.
    """
    counts = f"the model has {len(network)} classes and the data {len(data)}"
    if by is None:
        by = "name" if named else "order"
    if by == "order":
        if len(network) < len(data):
            raise InputError(f"{where}: {counts}; in their order, the last {len(data) - len(network)} have no output")
        return ClassMatch(by, network.names, data.names, tuple(range(len(data))))
    if not named:
        raise InputError(f"{where}: its outputs have no names to match by; type --match order")
    places = _places(network, data)
    if without := [name for name, place in zip(data.names, places, strict=True) if place is None]:
        only_model = [name for k, name in enumerate(network.names) if k not in places]
        hint = "; if the outputs are these classes in this order, type --match order"
        raise InputError(
            f"{where}: {counts}; only the model has {only_model or 'none'}, only the data has {without}"
            + (hint if len(network) >= len(data) else "")
        )
    return ClassMatch(by, network.names, data.names, tuple(place for place in places if place is not None))


def _places(network: Classes, data: Classes) -> list[int | None]:
    """Of each class of the data, the output with its name: exactly, else the one that alone reads the same."""
    exact = {name: k for k, name in enumerate(network.names)}
    plain = [_plain(name) for name in network.names]
    wanted = [_plain(name) for name in data.names]
    places: list[int | None] = []
    for name, word in zip(data.names, wanted, strict=True):
        alone = plain.count(word) == 1 and wanted.count(word) == 1
        places.append(exact.get(name, plain.index(word) if alone else None))
    return places


def _plain(name: str) -> str:
    """`Traffic_Light` and `traffic light` are one name; one without letters and digits is itself."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name
