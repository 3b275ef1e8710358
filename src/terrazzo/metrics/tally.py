"""The protocols: what "mean IoU" means to whom. A tally counts image after image and names the definition it used."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import StringIO
from typing import Any, Literal, assert_never

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.base import IGNORE, MAX_CLASSES, Classes, InputError, Mask
from terrazzo.kernels import count_pairs
from terrazzo.metrics import cityscapes, idd
from terrazzo.metrics.boundary import boundary_counts, boundary_iou
from terrazzo.metrics.scores import Absent, Scores, mean, or_none

Protocol = Literal["default", "course", "cityscapes", "idd"]
"""`course` is `default` with absent="zero"."""

MEAN = "over classes of one confusion matrix of all images; a class in neither truth nor prediction"

NO_CLASS = MAX_CLASSES
"""Stands for predicted void where class ids are compared; never equal to a class or to IGNORE."""


def absent_under(protocol: Protocol, absent: Absent) -> Absent:
    """What an absent class counts: `default` lets the user say, the other protocols do."""
    match protocol:
        case "default":
            return absent
        case "course":
            return "zero"
        case "cityscapes" | "idd":
            return "exclude"
        case _:
            assert_never(protocol)


class Tally:
    """Counts of one pass under one protocol.

    Args:
        classes: whose scores are asked for. cityscapes and idd know theirs by `classes.ids`.
        absent: what an absent class counts under `default`; the other protocols say it themselves.
        boundary: share of the image diagonal for boundary IoU, or None.
        instances: whether every image comes with its instances (cityscapes only).
        void: whether predictions may hold `len(classes)`, which is none of the classes: a miss of the true one.

    Raises:
        InputError: the classes are not those of the protocol.
    """

    confusion: NDArray[np.int64]
    """Rows = truth: [K, K] of classes, or with void [K + 1, K + 1]; raw ids [34, 34] for cityscapes; level-3 ids and
    void [27, 27] for idd."""
    edges: NDArray[np.int64]
    """Boundary counts of the classes, [2, K]."""
    weighted: NDArray[np.float64]
    """Instance weights, as `cityscapes.weigh_instances` adds them."""

    def __init__(
        self,
        classes: Classes,
        protocol: Protocol = "default",
        *,
        absent: Absent = "exclude",
        boundary: float | None = None,
        instances: bool = False,
        void: bool = False,
    ) -> None:
        self.classes, self.protocol, self.boundary, self.instances = classes, protocol, boundary, instances
        self.absent, self.void = absent_under(protocol, absent), void
        size = len(classes) + int(void)
        match protocol:
            case "default" | "course":
                pass
            case "cityscapes":
                _check_ids(classes, cityscapes.CLASSES, protocol)
                size = len(cityscapes.LABELS)
            case "idd":
                _check_ids(classes, idd.CLASSES, protocol)
                size = idd.VOID + 1
            case _:
                assert_never(protocol)
        self.confusion = np.zeros((size, size), np.int64)
        self.edges = np.zeros((2, len(classes)), np.int64)
        self.weighted = cityscapes.no_totals()

    @property
    def plain(self) -> bool:
        """True if the confusion matrix of the classes is all there is to count."""
        return self.protocol in ("default", "course") and self.boundary is None

    def file_ids(self, mask: Mask) -> Mask:
        """A map of class ids and IGNORE as `add` wants it: in the ids of the protocol."""
        if self.protocol in ("default", "course"):
            return mask
        nothing = 0 if self.protocol == "cityscapes" else IGNORE
        table = np.full(256, nothing, np.uint8)
        table[: len(self.classes)] = self.classes.ids
        return np.asarray(cv2.LUT(np.ascontiguousarray(mask), table), np.uint8)

    def add(self, prediction: Mask, target: Mask, instances: NDArray[np.integer] | None = None) -> Scores:
        """Count an image, uint8 [H, W] in the protocol's ids (class ids, raw ids, level-3 ids).

        Returns:
            Scores of this image alone, over the classes that it shows or is said to show.

        Raises:
            InputError: sizes differ, or a value has no meaning.
        """
        if self.protocol == "idd":
            prediction, target = idd.compared(prediction, target)
        one = self.add_counts(count_pairs(prediction, target, len(self.confusion)))
        if self.boundary is not None:
            found, truth = self._class_ids(prediction, NO_CLASS), self._class_ids(target, IGNORE)
            self.edges += boundary_counts(found, truth, len(self.classes), self.boundary)
        if self.instances:
            assert instances is not None, "a tally of instances was given an image without them"
            cityscapes.weigh_instances(prediction, instances, self.weighted)
        return one

    def add_counts(self, matrix: NDArray[np.int64]) -> Scores:
        """Count an image whose pixels were counted already, as `confusion`; where `plain`, that is all there is."""
        self.confusion += matrix
        return replace(self._scores(matrix), absent="exclude")

    def reduce(self, total: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        """Replace the counts by their sums over all processes."""
        self.confusion, self.edges, self.weighted = (total(c) for c in (self.confusion, self.edges, self.weighted))

    def scores(self) -> Scores:
        """Scores of the classes over all that was counted."""
        return self._scores(self.confusion)

    def result(self) -> dict[str, Any]:
        """Everything for JSON: the scores, what the protocol has besides, and `protocol`, which says what was done."""
        scores = self.scores()
        found = scores.as_dict(self.classes)
        columns: dict[str, NDArray[np.float64]] = {}
        if self.boundary is not None:
            columns["boundary_iou"] = boundary_iou(self.edges, self.absent)
            found["boundary_miou"] = or_none(mean(columns["boundary_iou"]))
        match self.protocol:
            case "default" | "course":
                pass
            case "idd":
                found |= idd.levels(scores, self.classes.ids)
            case "cityscapes":
                totals = self.weighted if self.instances else None
                official = cityscapes.official(self.confusion, totals)
                weighted = official["classInstScores"]
                of_ids = [weighted[cityscapes.LABELS[raw].name] for raw in self.classes.ids]
                columns["iiou"] = np.array(of_ids, np.float64)
                found |= _categories(self.confusion, official) | official
            case _:
                assert_never(self.protocol)
        for k, row in enumerate(found["per_class"].values()):
            row |= {name: or_none(values[k]) for name, values in columns.items()}
        return found | {"protocol": self.describe()}

    def describe(self) -> dict[str, Any]:
        """Which definition of the scores this is."""
        absent = "left out of the mean" if self.absent == "exclude" else "counts 0"
        said = {
            "name": self.protocol,
            "classes": len(self.classes),
            "mean": f"{MEAN} {absent}",
            "ignored": "pixels labelled ignore are counted nowhere",
        }
        match self.protocol:
            case "default" | "course":
                pass
            case "idd":
                said["void"] = "a predicted void class is a miss of the true class, on every level"
                said["compared"] = f"at {idd.SIZE[1]}x{idd.SIZE[0]}, nearest; levels 1 and 2 merge counts of level 3"
            case "cityscapes":
                said["void"] = "a predicted void class is a miss of the true class"
                said["iiou"] = "by mean instance size" if self.instances else "none: no instance files were given"
            case _:
                assert_never(self.protocol)
        if self.void:
            said["void"] = "a prediction that is none of the classes is a miss of the true class"
        if self.boundary is not None:
            said["boundary"] = f"inner band of {self.boundary} of the image diagonal (Cheng et al., 2021)"
        return said

    def _scores(self, confusion: NDArray[np.int64]) -> Scores:
        if self.protocol in ("default", "course"):
            if not self.void:
                return Scores(confusion, self.absent)
            size = len(self.classes)
            return Scores(confusion[:size, :size], self.absent, missed=confusion[:size, size])
        return cityscapes.scores_of(confusion, self.classes)

    def _class_ids(self, mask: Mask, other: int) -> Mask:
        if self.protocol in ("default", "course"):
            return mask
        table = np.full(256, other, np.uint8)
        table[list(self.classes.ids)] = np.arange(len(self.classes))
        return np.asarray(cv2.LUT(np.ascontiguousarray(mask), table), np.uint8)


def csv_tables(result: Mapping[str, Any]) -> dict[str, str]:
    """Every table of a result as the text of a CSV file: {"classes.csv": ...}; what is missing is an empty cell."""
    tables = {"classes": result["per_class"]}
    if "per_category" in result:
        tables["categories"] = result["per_category"]
    tables |= {level: result[level]["per_class"] for level in ("level1", "level2") if level in result}
    files = {f"{name}.csv": _csv(name, rows) for name, rows in tables.items()}
    means = {key: value for key, value in result.items() if value is None or isinstance(value, int | float)}
    return files | {"scores.csv": "score,value\n" + "".join(f"{key},{_cell(means[key])}\n" for key in means)}


def _csv(name: str, rows: Mapping[str, Mapping[str, object]]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["category" if name == "categories" else "class", *next(iter(rows.values()))])
    writer.writerows([key, *row.values()] for key, row in rows.items())
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def _categories(confusion: NDArray[np.int64], official: Mapping[str, Any]) -> dict[str, Any]:
    rows = cityscapes.category_scores(confusion).as_dict(Classes.of(cityscapes.CATEGORIES))["per_class"]
    for name, row in rows.items():
        row["iiou"] = official["categoryInstScores"][name]
    return {
        "miiou": official["averageScoreInstClasses"],
        "category_miou": official["averageScoreCategories"],
        "category_miiou": official["averageScoreInstCategories"],
        "per_category": rows,
    }


def _check_ids(classes: Classes, wanted: Classes, protocol: str) -> None:
    if sorted(classes.ids) != sorted(wanted.ids):
        theirs, ours = (", ".join(map(str, some.ids)) for some in (wanted, classes))
        raise InputError(
            f"protocol {protocol} scores {len(wanted)} classes with the ids {theirs}; these are {len(classes)} classes "
            f"with the ids {ours}"
        )
