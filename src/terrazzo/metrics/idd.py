"""The scores of the India Driving Dataset (Varma et al., WACV 2019): three levels of classes from one prediction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from terrazzo.base import IGNORE, Classes, Mask, distinct_colors
from terrazzo.metrics.scores import Scores

SIZE = (720, 1280)
"""Height and width at which everything is compared."""

NAMES = (
    *("road", "parking, drivable fallback", "sidewalk", "rail track, non-drivable fallback", "person, animal"),
    *("rider", "motorcycle", "bicycle", "autorickshaw", "car", "truck", "bus"),
    *("caravan, trailer, train, vehicle fallback", "curb", "wall", "fence", "guard rail", "billboard"),
    *("traffic sign", "traffic light", "pole, polegroup", "obs-str-bar fallback", "building", "bridge, tunnel"),
    *("vegetation", "sky, fallback background"),
)
"""Level 3, by id."""
LEVEL2 = (0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 8, 9, 9, 10, 10, 11, 11, 11, 12, 12, 13, 13, 14, 15)
"""Level-2 id of each level-3 id."""
LEVEL1 = (0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 6)
"""Level-1 id of each level-3 id."""
LEVEL2_NAMES = (
    *("road", "drivable fallback", "sidewalk", "non-drivable fallback", "person or animal", "rider"),
    *("motorcycle or bicycle", "autorickshaw or car", "large vehicle", "curb or wall", "fence or guard rail"),
    *("billboard, sign or light", "pole or obstacle", "building or bridge", "vegetation", "sky"),
)
LEVEL1_NAMES = ("drivable", "non-drivable", "living things", "vehicles", "road-side objects", "far objects", "sky")
VOID = len(NAMES)
"""Where predictions that are no class are counted."""
CLASSES = Classes(NAMES, distinct_colors(len(NAMES)), tuple(range(len(NAMES))))


def compared(prediction: Mask, target: Mask) -> tuple[Mask, Mask]:
    """Both maps of level-3 ids at SIZE, nearest by pixel centres; void is VOID in the one, IGNORE in the other."""
    found, truth = (_resized(mask) for mask in (prediction, target))
    return np.minimum(found, np.uint8(VOID)), np.where(truth >= VOID, np.uint8(IGNORE), truth)


def levels(scores: Scores, ids: Sequence[int]) -> dict[str, Any]:
    """The scores of levels 1 and 2 from those of level 3; `ids` are the level-3 ids of the classes in `scores`."""
    groups = {"level1": (LEVEL1, LEVEL1_NAMES), "level2": (LEVEL2, LEVEL2_NAMES)}
    return {
        level: scores.merged([of[k] for k in ids]).as_dict(Classes.of(names)) for level, (of, names) in groups.items()
    }


def _resized(mask: Mask) -> Mask:
    if mask.shape == SIZE:
        return mask
    # Pillow, as the official evaluator: OpenCV's INTER_NEAREST_EXACT takes other pixels at sizes such as 964x1280
    return np.asarray(PIL.Image.fromarray(mask).resize(SIZE[::-1], PIL.Image.Resampling.NEAREST))
