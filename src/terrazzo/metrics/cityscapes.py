"""The Cityscapes scores (Cordts et al., CVPR 2016): IoU of classes and categories, and the instance-weighted iIoU.

Everything is counted in raw ids 0..33, void included, because the official evaluator's iIoU of a category also looks
at predicted void classes. The order of additions is its too, so that the last digit agrees.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from terrazzo.base import Classes, Mask, distinct_colors
from terrazzo.metrics.scores import Scores, mean, or_none


class Label(NamedTuple):
    """What a raw id means to the score."""

    name: str
    category: str
    scored: bool
    """Not scored: its pixels in the truth are counted nowhere."""
    size: float = 0.0
    """Mean pixels of an instance in the training set, the iIoU's unit of weight; 0 for what has no scored instances."""


LABELS = (
    Label("unlabeled", "void", False),
    Label("ego vehicle", "void", False),
    Label("rectification border", "void", False),
    Label("out of roi", "void", False),
    Label("static", "void", False),
    Label("dynamic", "void", False),
    Label("ground", "void", False),
    Label("road", "flat", True),
    Label("sidewalk", "flat", True),
    Label("parking", "flat", False),
    Label("rail track", "flat", False),
    Label("building", "construction", True),
    Label("wall", "construction", True),
    Label("fence", "construction", True),
    Label("guard rail", "construction", False),
    Label("bridge", "construction", False),
    Label("tunnel", "construction", False),
    Label("pole", "object", True),
    Label("polegroup", "object", False),
    Label("traffic light", "object", True),
    Label("traffic sign", "object", True),
    Label("vegetation", "nature", True),
    Label("terrain", "nature", True),
    Label("sky", "sky", True),
    Label("person", "human", True, 3462.4756337644),
    Label("rider", "human", True, 3930.4788056518),
    Label("car", "vehicle", True, 12794.0202738185),
    Label("truck", "vehicle", True, 27855.1264367816),
    Label("bus", "vehicle", True, 35732.1511111111),
    Label("caravan", "vehicle", False),
    Label("trailer", "vehicle", False),
    Label("train", "vehicle", True, 67583.7075812274),
    Label("motorcycle", "vehicle", True, 6298.7200839748),
    Label("bicycle", "vehicle", True, 4672.3249222261),
)
"""By raw id. Names, categories and sizes as the Cityscapes evaluator has them."""

CATEGORIES = tuple(dict.fromkeys(label.category for label in LABELS if label.scored))
SCORED = tuple(raw for raw, label in enumerate(LABELS) if label.scored)
THINGS = tuple(raw for raw, label in enumerate(LABELS) if label.size)
THING_CATEGORIES = ("human", "vehicle")
CLASSES = Classes(tuple(LABELS[raw].name for raw in SCORED), distinct_colors(len(SCORED)), SCORED, ignore_id=0)
"""The 19 scored classes in the order of their train ids."""

GROUP = np.array([THING_CATEGORIES.index(c) if c in THING_CATEGORIES else -1 for _, c, _, _ in LABELS])
"""Of each raw id, its place in THING_CATEGORIES, or -1."""


def weigh_instances(prediction: Mask, instances: NDArray[np.integer], totals: NDArray[np.float64]) -> None:
    """Add an image's instances to `totals`: weighted hits and misses of each thing, then of each of its categories.

    Every instance counts as much as one of its class's mean size: weight = mean size / its pixels.

    Args:
        prediction: raw ids, uint8 [H, W].
        instances: an instanceIds file, [H, W]: raw id * 1000 + number; smaller values are no single instances.
        totals: [8 + 2, 2], changed in place; instance by instance, because sums of sums end in other digits.
    """
    single = (instances > 1000) & (instances < 1000 * len(LABELS))
    found, owner = prediction[single], instances[single]
    ids, place, pixels = np.unique(owner, return_inverse=True, return_counts=True)
    raw = ids // 1000
    hits = np.bincount(place[found == raw[place]], minlength=len(ids))
    near = np.bincount(place[GROUP[found] == GROUP[raw[place]]], minlength=len(ids))
    for k, size, hit, close in zip(raw.tolist(), pixels.tolist(), hits.tolist(), near.tolist(), strict=True):
        if not LABELS[k].size:
            continue
        weight = LABELS[k].size / float(size)
        totals[THINGS.index(k)] += (hit * weight, (size - hit) * weight)
        totals[len(THINGS) + GROUP[k]] += (close * weight, (size - close) * weight)


def no_totals() -> NDArray[np.float64]:
    """What `weigh_instances` starts from."""
    return np.zeros((len(THINGS) + len(THING_CATEGORIES), 2))


def iiou(confusion: NDArray[np.int64], totals: NDArray[np.float64]) -> dict[str, float]:
    """Instance-weighted IoU of things and of their categories by name; nan for one that does not occur.

    False positives carry no weight: a predicted pixel belongs to no instance of the truth.

    Args:
        confusion: [34, 34] in raw ids, rows = truth.
        totals: of `weigh_instances`.
    """
    others = {LABELS[k].name: ([raw for raw in SCORED if raw != k], [k]) for k in THINGS}
    for group, category in enumerate(THING_CATEGORIES):
        outside = [raw for raw in SCORED if LABELS[raw].category != category]
        others[category] = (outside, np.flatnonzero(group == GROUP).tolist())
    scores = {}
    for (name, (rows, columns)), (hits, misses) in zip(others.items(), totals.tolist(), strict=True):
        whole = hits + int(confusion[np.ix_(rows, columns)].sum()) + misses
        scores[name] = hits / whole if whole else float("nan")
    return scores


def official(confusion: NDArray[np.int64], totals: NDArray[np.float64] | None) -> dict[str, Any]:
    """The keys of the official evaluator's resultPixelLevelSemanticLabeling.json, nan as None; no `totals`, no iIoU."""
    names = [label.name for label in LABELS]
    classes, categories = scores_of(confusion, CLASSES), category_scores(confusion)
    weighted = {} if totals is None else iiou(confusion, totals)
    class_iou = dict(zip(CLASSES.names, classes.iou.tolist(), strict=True))
    category_iou = dict(zip(CATEGORIES, categories.iou.tolist(), strict=True))
    things, groups = ([weighted[n] for n in order if n in weighted] for order in (names, CATEGORIES))
    total = int(confusion.sum())
    return {
        "averageScoreClasses": or_none(classes.miou),
        "averageScoreCategories": or_none(categories.miou),
        "averageScoreInstClasses": or_none(mean(np.array(things))),
        "averageScoreInstCategories": or_none(mean(np.array(groups))),
        "classScores": _by_name(names, class_iou),
        "classInstScores": _by_name(names, weighted),
        "categoryScores": _by_name(["void", *CATEGORIES], category_iou),
        "categoryInstScores": _by_name(["void", *CATEGORIES], weighted),
        "labels": {name: raw for raw, name in enumerate(names)},
        "priors": {name: int(confusion[raw].sum()) / total if total else None for raw, name in enumerate(names)},
        "confMatrix": confusion.tolist(),
    }


def scores_of(confusion: NDArray[np.int64], classes: Classes) -> Scores:
    """Scores of the classes whose ids are rows of a matrix in file ids; what was predicted as another id is missed."""
    ids = list(classes.ids)
    rows = confusion[ids]
    block = rows[:, ids]
    return Scores(block, "exclude", missed=rows.sum(axis=1) - block.sum(axis=1))


def category_scores(confusion: NDArray[np.int64]) -> Scores:
    """Scores of the seven categories, in the order of CATEGORIES."""
    return scores_of(confusion, CLASSES).merged([CATEGORIES.index(LABELS[raw].category) for raw in SCORED])


def _by_name(names: list[str], values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: or_none(values.get(name, float("nan"))) for name in names}
