"""One confusion matrix over the whole data set; every score is a function of it, in float64."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

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
    missed: NDArray[np.int64] | None = None
    """Pixels of each class that were predicted as no class at all, [K]; None: that cannot happen here."""

    @classmethod
    def of(cls, matrix: NDArray[np.int64] | Tensor, absent: Absent = "exclude") -> "Scores":
        """From a matrix wherever it is; a tensor is fetched from its device."""
        return cls(matrix.cpu().numpy() if isinstance(matrix, Tensor) else matrix, absent)

    def __post_init__(self) -> None:
        if self.confusion.dtype != np.int64 or self.confusion.ndim != 2 or len(set(self.confusion.shape)) != 1:
            raise ValueError(f"confusion matrix is {self.confusion.dtype} {self.confusion.shape}, not int64 [K, K]")
        if self.missed is not None and (self.missed.dtype != np.int64 or self.missed.shape != self.confusion.shape[:1]):
            raise ValueError(f"missed is {self.missed.dtype} {self.missed.shape}, not int64 [{len(self.confusion)}]")

    @property
    def hits(self) -> NDArray[np.int64]:
        """Pixels of each class that were found, [K]."""
        return np.diagonal(self.confusion)

    @property
    def pixels(self) -> NDArray[np.int64]:
        """Pixels of each class in the truth, [K]."""
        counts: NDArray[np.int64] = self.confusion.sum(axis=1)
        return counts if self.missed is None else counts + self.missed

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
        total = int(self.pixels.sum())
        return int(self.hits.sum()) / total if total else float("nan")

    @property
    def miou(self) -> float:
        return mean(self.iou)

    @property
    def miou_present(self) -> float:
        """Mean IoU of the classes that the truth shows: a class that is only predicted costs the others', no more."""
        return mean(self.iou[self.pixels > 0])

    @property
    def fwiou(self) -> float:
        """IoU of the classes weighted by their share of the truth's pixels (Long et al., 2015); nan without any."""
        total = int(self.pixels.sum())
        return float((self.pixels * np.nan_to_num(self.iou)).cumsum()[-1]) / total if total else float("nan")

    @property
    def mdice(self) -> float:
        return mean(self.dice)

    @property
    def macc(self) -> float:
        """Mean of the classes' recalls."""
        return mean(self.recall)

    def merged(self, groups: Sequence[int]) -> "Scores":
        """Scores of coarser classes: class k becomes groups[k], and a confusion within a group becomes a hit."""
        to = np.zeros((len(groups), max(groups) + 1), np.int64)
        to[np.arange(len(groups)), groups] = 1
        missed = None if self.missed is None else self.missed @ to
        return Scores(to.T @ self.confusion @ to, self.absent, missed)

    def as_dict(self, classes: Classes) -> dict[str, Any]:
        """Everything, for JSON: full precision, None for nan."""
        columns = {"iou": self.iou, "acc": self.recall, "precision": self.precision, "dice": self.dice}
        means = {
            "miou": self.miou,
            "macc": self.macc,
            "accuracy": self.accuracy,
            "mdice": self.mdice,
            "fwiou": self.fwiou,
            "miou_present": self.miou_present,
        }
        return {
            **{key: or_none(value) for key, value in means.items()},
            "absent": self.absent,
            **({} if self.missed is None else {"predicted_void": int(self.missed.sum())}),
            "per_class": {
                name: {key: or_none(values[k]) for key, values in columns.items()} | {"pixels": int(self.pixels[k])}
                for k, name in enumerate(classes.names)
            },
            "confusion": self.confusion.tolist(),
        }

    def _ratio(self, part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
        return ratio(part, whole, self.absent)


def ratio(part: NDArray[np.int64], whole: NDArray[np.int64], absent: Absent) -> NDArray[np.float64]:
    """part / whole; where whole is 0, what `absent` says."""
    quotient = np.full(len(part), np.nan if absent == "exclude" else 0.0)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient


def mean(values: NDArray[np.float64]) -> float:
    """Mean without the nans; nan of nothing.

    Added one after the other, as the Cityscapes evaluator does: numpy's own sum groups them and ends in another digit.
    """
    there = values[~np.isnan(values)]
    return float(there.cumsum()[-1]) / len(there) if there.size else float("nan")


def or_none(value: float) -> float | None:
    """A number for JSON, which has no nan."""
    return None if np.isnan(value) else float(value)
