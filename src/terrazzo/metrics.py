"""One confusion matrix over the whole data set; every score is a function of it, in float64."""

from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from terrazzo import kernels
from terrazzo.base import Classes, Mask

Absent = Literal["exclude", "zero"]
"""What a class means for the averages if neither truth nor prediction shows it: "exclude" leaves it out (Cityscapes,
MMSegmentation), "zero" counts it as 0."""


@overload
def confusion_matrix(prediction: Mask, target: Mask, classes: int) -> NDArray[np.int64]: ...
@overload
def confusion_matrix(prediction: Tensor, target: Tensor, classes: int) -> Tensor: ...
def confusion_matrix(prediction: Mask | Tensor, target: Mask | Tensor, classes: int) -> NDArray[np.int64] | Tensor:
    """Pixel counts int64 [K, K], rows = truth, columns = prediction, of uint8 label maps of one shape.

    Pixels whose truth is IGNORE are not counted. Matrices of images are to be added, scores never averaged.

    Raises:
        InputError: shapes or types differ, or a counted value is not a class (arrays and CPU tensors; an accelerator
            would have to wait for the look).
    """
    if isinstance(prediction, Tensor) and isinstance(target, Tensor):
        return kernels.confusion_matrix(prediction, target, classes)
    return kernels.count_pairs(np.asarray(prediction), np.asarray(target), classes)


@dataclass(frozen=True, eq=False)
class Scores:
    """All scores of a confusion matrix. A score that has no pixels to be taken of is nan ("exclude") or 0 ("zero")."""

    confusion: NDArray[np.int64]
    """[K, K], rows = truth."""
    absent: Absent = "exclude"

    @classmethod
    def of(cls, matrix: NDArray[np.int64] | Tensor, absent: Absent = "exclude") -> "Scores":
        """From a matrix wherever it is; a tensor is fetched from its device."""
        return cls(matrix.cpu().numpy() if isinstance(matrix, Tensor) else matrix, absent)

    def __post_init__(self) -> None:
        if self.confusion.dtype != np.int64 or self.confusion.ndim != 2 or len(set(self.confusion.shape)) != 1:
            raise ValueError(f"confusion matrix is {self.confusion.dtype} {self.confusion.shape}, not int64 [K, K]")

    @property
    def hits(self) -> NDArray[np.int64]:
        """Pixels of each class that were found, [K]."""
        return np.diagonal(self.confusion)

    @property
    def pixels(self) -> NDArray[np.int64]:
        """Pixels of each class in the truth, [K]."""
        counts: NDArray[np.int64] = self.confusion.sum(axis=1)
        return counts

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Pixels predicted as each class, [K]."""
        counts: NDArray[np.int64] = self.confusion.sum(axis=0)
        return counts

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class, [K]."""
        return self._ratio(self.hits, self.pixels + self.predicted - self.hits)

    @property
    def dice(self) -> NDArray[np.float64]:
        """2 * intersection / (truth + prediction) of each class, [K]; 1 at best."""
        return self._ratio(2 * self.hits, self.pixels + self.predicted)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of each class's pixels that was found (its accuracy), [K]; without truth there is none."""
        return self._ratio(self.hits, self.pixels)

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of the pixels predicted as each class that are of it, [K]; without predictions there is none."""
        return self._ratio(self.hits, self.predicted)

    @property
    def accuracy(self) -> float:
        """Share of all counted pixels that is right; nan without any."""
        total = int(self.confusion.sum())
        return int(self.hits.sum()) / total if total else float("nan")

    @property
    def miou(self) -> float:
        return _mean(self.iou)

    @property
    def mdice(self) -> float:
        return _mean(self.dice)

    @property
    def macc(self) -> float:
        """Mean of the classes' recalls."""
        return _mean(self.recall)

    def as_dict(self, classes: Classes) -> dict[str, object]:
        """Everything, for JSON: full precision, None for nan."""
        columns = {"iou": self.iou, "acc": self.recall, "precision": self.precision, "dice": self.dice}
        return {
            "miou": _or_none(self.miou),
            "macc": _or_none(self.macc),
            "accuracy": _or_none(self.accuracy),
            "mdice": _or_none(self.mdice),
            "absent": self.absent,
            "per_class": {
                name: {key: _or_none(values[k]) for key, values in columns.items()} | {"pixels": int(self.pixels[k])}
                for k, name in enumerate(classes.names)
            },
            "confusion": self.confusion.tolist(),
        }

    def _ratio(self, part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
        empty = np.nan if self.absent == "exclude" else 0.0
        ratio = np.full(len(part), empty)
        np.divide(part, whole, out=ratio, where=whole > 0)
        return ratio


def _mean(values: NDArray[np.float64]) -> float:
    """Mean without the nans; nan of nothing."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
