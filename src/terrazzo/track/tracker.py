"""What a tracker is, and what it is told."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from terrazzo.base import Classes, Image, Mask

End = Literal["finished", "stopped", "failed"]
"""How a life of a run ended; a stopped run is gone on with later."""


class Shown(NamedTuple):
    """A validation image and what the network says of it, made small enough to be sent away."""

    name: str
    image: Image
    """RGB, uint8 [H, W, 3]."""
    truth: Mask
    prediction: Mask
    panel: Image
    """Image | truth | prediction over a legend, for trackers that know no masks; RGB uint8."""


@dataclass(frozen=True)
class ClassTable:
    """Scores of every class; one that does not exist is nan."""

    names: tuple[str, ...]
    columns: Mapping[str, tuple[float, ...]]
    """By the score's name, one number a class: iou, acc, precision, dice."""

    def rows(self) -> list[list[str | float]]:
        """Name and scores, class by class."""
        return [[name, *scores] for name, *scores in zip(self.names, *self.columns.values(), strict=True)]

    def ious(self, where: str) -> dict[str, float]:
        """{"val/iou/road": 0.9}, of the classes that have one; `where` is the first part."""
        return finite({f"{where}/iou/{name}": iou for name, iou in zip(self.names, self.columns["iou"], strict=True)})


@dataclass(frozen=True)
class Validation:
    """What a validation found beside its means."""

    classes: ClassTable
    samples: tuple[Shown, ...]
    """The same images in every validation of a run."""


@dataclass(frozen=True)
class Final:
    """The scores of a finished run: of its best checkpoint, as its report has them."""

    split: str
    step: int
    """Of the run's last step, whichever checkpoint was scored."""
    scores: Mapping[str, float]
    """Means: miou, accuracy, ..."""
    classes: ClassTable

    def values(self) -> dict[str, float]:
        """{"final/test/miou": 0.7, "final/test/iou/road": 0.9}: of another network than val/miou of the last step."""
        return finite(
            {f"{self.where}/{key}": value for key, value in self.scores.items()} | self.classes.ious(self.where)
        )

    @property
    def where(self) -> str:
        return f"final/{self.split}"


@dataclass(frozen=True)
class About:
    """What a tracker knows of its run before the first step of this life."""

    folder: Path
    """Of the run, absolute."""
    recipe: Mapping[str, Any]
    """Resolved: with every default."""
    environment: Mapping[str, Any]
    """Versions, machine and git state."""
    classes: Classes
    step: int
    """Steps that the restored checkpoint had done; 0: the run is new."""
    history: tuple[Mapping[str, Any], ...]
    """The lines of metrics.jsonl up to that step: what a tracker has missed of them it takes from here."""

    def missed(self, known: int) -> Iterator[tuple[int, dict[str, float]]]:
        """Step and numbers of the lines after step `known`."""
        for line in self.history:
            if line["step"] > known:
                yield line["step"], {k: v for k, v in line.items() if k != "step" and v is not None}


class Tracker(Protocol):
    """Takes the numbers of a run, each step once. A call may raise: `Guarded` sees to it that training goes on."""

    def open(self) -> None:
        """Begin, or go on with what is there, and take over the lines of `About.history` that are missing there."""

    def log(self, step: int, values: Mapping[str, float], validation: Validation | None) -> None: ...

    def close(self, end: End, final: Final | None) -> None: ...


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Without the scores that do not exist: no tracker draws nan."""
    return {key: value for key, value in values.items() if math.isfinite(value)}
