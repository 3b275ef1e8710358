"""How well the borders of a mask lie on the edges of its image: as it is, turned over, and moved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.base import IGNORE, Image, Mask, distinct_colors

Pose = Literal["as it is", "mirrored", "upside down", "half turn", "left turn", "right turn"]
"""What must be done to a label before it fits; the quarter turns are tried on square pictures only."""

SIDE = 256
"""Image and mask are compared at this many pixels of the longer side."""

REACH = 0.1
"""Moves of up to this share of the longer side are tried."""

LEAST = 4
"""Pictures too small to be moved by so many pixels are not compared."""

LARGE = 4 * SIDE
"""Masks are first reduced to this side by leaving out rows and columns."""

BAND = 0.025
"""Outlines are often left unlabelled. Ignored pixels count as the nearest class up to this share of the longer side."""

SURROUNDINGS = 6.0
"""What is compared is how much an edge exceeds its surroundings: deviation in pixels of the blur that they are."""

SURE = 6.0
"""Correlations of so many spreads are no chance: the best of all moves of a foreign label reaches 5."""

CHANCE = 2.5
"""Correlations of fewer spreads than this may be chance: pictures of one kind have borders in the same places."""

LACK = 8.0
"""A label with a correlation that may be chance, so many spreads below what is usual in its data set, is foreign."""

GAIN = 0.2
"""A data set counts as shifted if its labels would fit by this share better elsewhere."""

FEW = 4
"""Fewer labels than this say nothing about a data set."""

COLORS = np.array(distinct_colors(256), np.uint8)
"""Masks are painted in them: a border is then an edge like any other."""


@dataclass(frozen=True)
class Alignment:
    """Correlations (-1..1) of label borders with image edges; about 0 for a label of another picture."""

    poses: dict[Pose, float]
    """Of the label in each pose, unmoved."""
    shift: tuple[int, int]
    """(right, down) in pixels of the full size by which the label, as it is, must be moved to fit best."""
    shifted: float
    """The correlation there."""
    spread: float
    """Standard deviation of the correlation over all moves: what chance is worth."""
    unit: float
    """Pixels of the full size per compared pixel; shifts of less than one are no news."""


@dataclass(frozen=True)
class Misfit:
    """A label, or a whole data set, that does not lie on its image."""

    kind: Literal["turned", "shifted", "unrelated"]
    pose: Pose
    """The pose that fits ("as it is" unless turned)."""
    shift: tuple[int, int]
    """(right, down) in pixels that the label must be moved; (0, 0) unless shifted."""
    score: float
    """How well it lies now."""
    better: float
    """How well it would lie in that pose or place; of "unrelated": how well the others of the data set lie."""


@dataclass(frozen=True)
class Misfits:
    """What does not lie on its image in a data set."""

    whole: Misfit | None
    """What is wrong with all, or most, labels alike."""
    single: dict[int, Misfit]
    """What is wrong with one label, by its place in the sequence; empty if `whole` says it all."""


def alignment(image: Image, mask: Mask) -> Alignment | None:
    """How well a mask lies on its image of the same size; None where there are no edges to compare."""
    found = _compared(image, mask)
    if found is None or _clear(found.poses["as it is"], found):
        return found
    # The borders of an outline class lie beside the edges of the image; without it they lie on them.
    outlines = _thin_classes(mask)
    other = _compared(image, np.where(outlines[mask], np.uint8(IGNORE), mask)) if outlines.any() else None
    return found if other is None or _best(other) < _best(found) else other


def _compared(image: Image, mask: Mask) -> Alignment | None:
    height, width = mask.shape
    unit = max(1.0, max(height, width) / SIDE)
    size = max(1, round(width / unit)), max(1, round(height / unit))
    reach = min(round(SIDE * REACH), min(size) // 4)
    painted = _painted(mask, size)
    if painted is None or reach < LEAST:
        return None
    edges = _edges(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8))
    borders = _edges(*painted)
    if edges is None or borders is None:
        return None
    padded = cv2.copyMakeBorder(edges, reach, reach, reach, reach, cv2.BORDER_CONSTANT)
    # [down, right], unmoved in the middle
    surface = np.asarray(cv2.matchTemplate(padded, borders, cv2.TM_CCORR), np.float32)
    best = np.unravel_index(int(surface.argmax()), surface.shape)
    down, right = (_peak(surface, (int(best[0]), int(best[1])), axis) - reach for axis in (0, 1))
    return Alignment(
        {pose: float(np.vdot(edges, turned)) for pose, turned in _turned(borders).items()},
        (round(right * width / size[0]), round(down * height / size[1])),
        float(surface[best]),
        float(np.median(np.abs(surface - np.median(surface)))) * 1.4826 + 1e-6,  # that of a normal distribution
        unit,
    )


def misfits(measured: Sequence[Alignment | None]) -> Misfits:
    """The labels that clearly do not fit, and what would make them fit. If most are off in one way, that is told."""
    there = {place: each for place, each in enumerate(measured) if each is not None}
    whole = _whole(list(there.values())) if len(there) >= FEW else None
    if whole is not None:
        return Misfits(whole, {})
    fitting = [each.poses["as it is"] for each in there.values() if _clear(each.poses["as it is"], each)]
    usual = float(np.median(fitting)) if len(fitting) >= FEW else None
    judged = {place: _single(each, usual) for place, each in there.items()}
    return Misfits(None, {place: each for place, each in judged.items() if each is not None})


def _whole(measured: list[Alignment]) -> Misfit | None:
    """What is wrong with most labels alike."""
    score = float(np.median([each.poses["as it is"] for each in measured]))
    for pose in measured[0].poses:
        turned = [each.poses.get(pose, 0.0) for each in measured]
        better = [_turned_over(each) == pose for each in measured]
        if pose != "as it is" and np.mean(better) > 0.5:
            return Misfit("turned", pose, (0, 0), score, float(np.median(turned)))
    moved = [each for each in measured if _clear(each.shifted, each)]
    if len(moved) > len(measured) / 2:
        shifts = np.array([each.shift for each in moved], np.float64)
        shift = np.median(shifts, axis=0)
        together = np.abs(shifts - shift).max(1) <= [2 * each.unit for each in moved]
        gain = [1 - each.poses["as it is"] / each.shifted for each in moved]
        if together.mean() > 0.5 and np.median(gain) >= GAIN:
            right, down = (int(each) for each in np.rint(shift))
            return Misfit("shifted", "as it is", (right, down), score, float(np.median([e.shifted for e in moved])))
    elif np.median([each.poses["as it is"] / each.spread for each in measured]) < CHANCE:
        return Misfit("unrelated", "as it is", (0, 0), score, float(np.median([_best(e) * e.spread for e in measured])))
    return None


def _single(each: Alignment, usual: float | None) -> Misfit | None:
    """What is wrong with one label of a data set in which a fitting one has the `usual` correlation."""
    score = each.poses["as it is"]
    pose = _turned_over(each)
    if pose is not None:
        return Misfit("turned", pose, (0, 0), score, each.poses[pose])
    far = max(map(abs, each.shift)) >= 2 * each.unit
    if far and _clear(each.shifted, each) and score < each.shifted / 2:
        return Misfit("shifted", "as it is", each.shift, score, each.shifted)
    if usual is not None and score < CHANCE * each.spread and usual - score > LACK * each.spread:
        return Misfit("unrelated", "as it is", (0, 0), score, usual)
    return None


def _turned_over(each: Alignment) -> Pose | None:
    """The pose that fits clearly, where the label as it is does not fit nearly as well."""
    pose = max(each.poses, key=lambda name: each.poses[name])
    score = each.poses["as it is"]
    return pose if _clear(each.poses[pose], each) and each.poses[pose] > max(1.5 * score, each.shifted) else None


def _clear(score: float, each: Alignment) -> bool:
    return score >= SURE * each.spread


def _best(each: Alignment) -> float:
    """The best correlation in any pose or place, in spreads."""
    return max(each.shifted, *each.poses.values()) / each.spread


def _thin_classes(mask: Mask) -> NDArray[np.bool_]:
    """For each of 256 ids whether it is hardly anywhere wider than an outline."""
    step = max(1, max(mask.shape) // LARGE)
    mask = mask[::step, ::step]
    thin = np.zeros(256, bool)
    for k in np.unique(mask[mask != IGNORE]).tolist():
        away = cv2.distanceTransform((mask == k).view(np.uint8), cv2.DIST_L2, 3)[mask == k]
        thin[k] = np.median(away) <= BAND * max(mask.shape)
    return thin


def _turned(borders: NDArray[np.float32]) -> dict[Pose, NDArray[np.float32]]:
    """Borders in all poses. Strength, horizontal and diagonal share: turning changes the signs of the latter two."""
    mirror, turn = np.array([1, 1, -1], np.float32), np.array([1, -1, -1], np.float32)
    poses: dict[Pose, NDArray[np.float32]] = {
        "as it is": borders,
        "mirrored": borders[:, ::-1] * mirror,
        "upside down": borders[::-1] * mirror,
        "half turn": borders[::-1, ::-1],
    }
    if borders.shape[0] == borders.shape[1]:
        poses |= {"left turn": np.rot90(borders) * turn, "right turn": np.rot90(borders, -1) * turn}
    return poses


def _painted(mask: Mask, size: tuple[int, int]) -> tuple[Image, NDArray[np.float32]] | None:
    """A mask in colours and the share of each pixel that counts, both reduced to `size`; None if all is ignored."""
    step = max(1, max(mask.shape) // LARGE)
    mask = np.ascontiguousarray(mask[::step, ::step])
    ignored = (mask == IGNORE).view(np.uint8)
    counts = np.ones(mask.shape, np.float32)
    if ignored.all():
        return None
    if ignored.any():
        away, nearest = cv2.distanceTransformWithLabels(ignored, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
        by_label = np.zeros(int(nearest.max()) + 1, np.uint8)
        by_label[nearest[ignored == 0]] = mask[ignored == 0]
        mask, counts = by_label[nearest], (away <= BAND * max(mask.shape)).astype(np.float32)
    painted = cv2.LUT(cv2.merge([mask, mask, mask]), COLORS[None])
    picture, share = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (painted, counts))
    return np.asarray(picture, np.uint8), np.asarray(share, np.float32)


def _edges(picture: Image, counts: NDArray[np.float32] | None = None) -> NDArray[np.float32] | None:
    """Edges of a picture [H, W, 3]: strength, and how much of it is horizontal (or vertical: negative) and diagonal.

    Directions tell a border from the texture beside it: they add up along the one and cancel out in the other. Each
    of the three exceeds its surroundings, or a busy region alone would make two pictures alike; together they have
    mean 0 and length 1.

    Args:
        counts: the picture is a painted mask: all edges are equally strong, but for this share of each pixel.
    """
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.8)
    across, along = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    pairs = ((across, across), (along, along), (across, along))
    xx, yy, xy = (np.einsum("hwc,hwc->hw", one, two) for one, two in pairs)
    squared = xx + yy
    squared[squared < 1] = 0
    # The root of the gradient, or a few hard edges would outweigh all others.
    strength = np.sqrt(np.sqrt(squared)) if counts is None else (squared > 0) * counts
    by_direction = strength / (squared + 1e-3 * squared.max() + 1e-6)
    edges = np.dstack([strength, (xx - yy) * by_direction, 2 * xy * by_direction])
    edges = np.asarray(cv2.GaussianBlur(edges, (0, 0), 1.0), np.float32)
    edges = edges - np.asarray(cv2.GaussianBlur(edges, (0, 0), SURROUNDINGS), np.float32)
    edges -= edges.mean((0, 1))
    length = float(np.linalg.norm(edges))
    return np.asarray(edges / length, np.float32) if length > 1e-3 else None


def _peak(surface: NDArray[np.float32], best: tuple[int, int], axis: int) -> float:
    """Where along an axis the maximum lies between the pixels: the top of the parabola through three of them."""
    place = best[axis]
    line = surface[:, best[1]] if axis == 0 else surface[best[0]]
    if not 0 < place < len(line) - 1:
        return float(place)
    before, here, after = (float(each) for each in line[place - 1 : place + 2])
    curve = before - 2 * here + after
    return place + (0.5 * (before - after) / curve if curve < 0 else 0.0)
