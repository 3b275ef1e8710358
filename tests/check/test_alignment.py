"""Labels that do not lie on their images stand out; labels that do, of whatever kind, do not."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from terrazzo.base import IGNORE
from terrazzo.check.alignment import Misfit, Misfits, alignment, misfits
from terrazzo.data.folder import Align, Folder, FolderData, aligned

Pictures = list[tuple[np.ndarray, np.ndarray]]
"""Images with their masks."""


def scene(seed: int, size: tuple[int, int] = (96, 128)) -> tuple[np.ndarray, np.ndarray]:
    """Discs and bars of three classes on a background; each class has its own colour and texture."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    for _ in range(12):
        y, x, k = int(rng.integers(size[0])), int(rng.integers(size[1])), int(rng.integers(1, 4))
        if rng.random() < 0.5:
            cv2.circle(mask, (x, y), int(rng.integers(5, 16)), k, -1)
        else:
            cv2.rectangle(mask, (x, y), (x + int(rng.integers(5, 40)), y + int(rng.integers(5, 20))), k, -1)
    colors = rng.integers(40, 216, (4, 3))
    noise = rng.normal(0, 12, (*size, 1)) * np.array([1, 2, 0.5, 1])[mask][..., None]
    return np.clip(colors[mask] + noise, 0, 255).astype(np.uint8), mask


def judged(pictures: Pictures) -> Misfits:
    return misfits([alignment(image, mask) for image, mask in pictures])


def changed(pictures: Pictures, change: Callable[[np.ndarray], np.ndarray], places: range | None = None) -> Pictures:
    """The pictures with some, or all, masks changed."""
    chosen = range(len(pictures)) if places is None else places
    return [(image, change(mask) if k in chosen else mask) for k, (image, mask) in enumerate(pictures)]


def foreign(pictures: Pictures) -> Pictures:
    """Every image with the mask of the next but one."""
    masks = [mask for _, mask in pictures]
    others = [cv2.resize(masks[(k + 2) % len(masks)], mask.shape[::-1], None, 0, 0, 0) for k, mask in enumerate(masks)]
    return [(image, other) for (image, _), other in zip(pictures, others, strict=True)]


def moved(right: int, down: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda mask: aligned(mask, Align(shift=(right, down)))


TURNS = {
    "mirrored": np.fliplr,
    "upside down": np.flipud,
    "half turn": lambda mask: np.rot90(mask, 2),
    "left turn": lambda mask: np.rot90(mask, -1),
    "right turn": np.rot90,
}
"""What is done to a mask -> how it is seen: by what must be done to it."""


@pytest.fixture(scope="module")
def scenes() -> Pictures:
    return [scene(seed) for seed in range(10)]


def test_what_fits_is_left_alone(scenes):
    assert judged(scenes) == Misfits(None, {})


@pytest.mark.parametrize("pose", TURNS)
def test_labels_that_are_turned(pose):
    pictures = [scene(seed, (112, 112)) for seed in range(8)]
    whole = judged(changed(pictures, TURNS[pose])).whole
    assert (whole.kind, whole.pose, whole.shift) == ("turned", pose, (0, 0))
    assert whole.better > 3 * whole.score
    single = judged(changed(pictures, TURNS[pose], range(2, 4)))
    assert single.whole is None
    assert {place: misfit.pose for place, misfit in single.single.items()} == {2: pose, 3: pose}


@pytest.mark.parametrize("shift", [(4, 0), (0, -5), (-7, 6)])
def test_labels_that_are_shifted_and_back(scenes, shift):
    """The shift that is told is the one that undoes it."""
    shifted = changed(scenes, moved(*shift))
    whole = judged(shifted).whole
    assert (whole.kind, whole.pose) == ("shifted", "as it is")
    assert np.abs(np.add(whole.shift, shift)).max() <= 1
    assert judged(changed(shifted, moved(*whole.shift))) == Misfits(None, {})
    single = judged(changed(scenes, moved(-7, 6), range(5, 6)))
    assert (single.whole, {place: misfit.kind for place, misfit in single.single.items()}) == (None, {5: "shifted"})


def test_labels_of_other_images(scenes):
    assert judged(foreign(scenes)).whole.kind == "unrelated"
    swapped = [*scenes[:8], (scenes[8][0], scenes[9][1]), (scenes[9][0], scenes[8][1])]
    found = judged(swapped)
    assert (found.whole, {place: misfit.kind for place, misfit in found.single.items()}) == (
        None,
        {8: "unrelated", 9: "unrelated"},
    )
    assert all(misfit.better > misfit.score + 0.2 for misfit in found.single.values())


def test_shifts_are_told_in_pixels_of_the_file():
    """Large pictures are compared at a reduced size."""
    pictures = [
        (cv2.resize(image, None, fx=6, fy=6), cv2.resize(mask, None, None, 6, 6, cv2.INTER_NEAREST))
        for image, mask in (scene(seed) for seed in range(6))
    ]
    assert judged(pictures) == Misfits(None, {})
    right, down = judged(changed(pictures, moved(20, -12))).whole.shift
    assert abs(right + 20) <= 2
    assert abs(down - 12) <= 2


@pytest.mark.parametrize("outline", [IGNORE, 9])
def test_outlines_that_are_left_out_or_a_class_of_their_own(scenes, outline):
    """No border of such a mask lies on an edge, the edges lie in the middle of the outlines."""

    def outlined(mask: np.ndarray) -> np.ndarray:
        border = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        return np.where(border, np.uint8(outline), mask)

    with_outlines = changed(scenes, outlined)
    assert judged(with_outlines) == Misfits(None, {})
    assert judged(changed(with_outlines, np.fliplr)).whole.pose == "mirrored"


def test_what_became_free_by_a_shift_is_no_border(scenes):
    (image, mask), far = scenes[0], 12
    clean, cut = alignment(image, mask), alignment(image, np.where(np.arange(128) < far, np.uint8(IGNORE), mask))
    assert cut.poses["as it is"] > 0.8 * clean.poses["as it is"]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (8, 8), (5, 300)])
def test_pictures_too_small_to_be_moved_tell_nothing(size):
    assert alignment(*scene(0, size)) is None


@pytest.mark.parametrize("size", [(16, 16), (17, 90), (1100, 70)])
def test_pictures_of_other_sizes_are_compared(size):
    assert alignment(*scene(0, size)).poses["as it is"] > 0


def test_nothing_to_compare():
    image, mask = scene(0)
    assert alignment(image, np.full_like(mask, IGNORE)) is None
    assert alignment(image, np.zeros_like(mask)) is None
    assert alignment(np.full_like(image, 90), mask) is None
    assert misfits([None, None]) == misfits([]) == Misfits(None, {})


def test_few_labels_say_nothing_about_a_data_set(scenes):
    assert judged(foreign(scenes)[:3]) == Misfits(None, {})


# --- real pictures ----------------------------------------------------------------------------------------------------

ALL = {"kind": "ratio", "train": 1, "val": 0}
DUBAI = ("#8429f6", "#e2a929", "#3c1098", "#fedd3a", "#6ec1e4", "#9b9b9b")
SETS: dict[str, dict[str, object]] = {
    "camvid": {"images": "test", "labels": "testannot", "classes": [*map(str, range(12))]},
    "voc-person": {"images": "JPEGImages", "labels": "SegmentationClass", "classes": [*map(str, range(21))]},
    "wbc": {
        "images": "images",
        "labels": "masks",
        "classes": ["a", "b", "c"],
        "decode": {"kind": "values", "map": {0: "a", 128: "b", 255: "c"}},
    },
    "chase-db1": {
        "images": "{id}.jpg",
        "labels": "{id}_1stHO.png",
        "classes": ["background", "vessel"],
        "decode": {"kind": "bits"},
    },
    "pets-mini": {"images": "images", "labels": "labels", "classes": ["background", "cat", "dog"]},
    "pets-mini, outlines a class": {
        "images": "images",
        "labels": "trimaps",
        "classes": ["pet", "background", "outline"],
        "decode": {"kind": "values", "map": {1: "pet", 2: "background", 3: "outline"}},
    },
    "dubai-aerial": {
        "images": "{tile}/images/{id}.jpg",
        "labels": "{tile}/masks/{id}.png",
        "classes": {color: color for color in DUBAI},
        "decode": {"kind": "palette", "ignore_colors": ["#000000"]},
    },
}


@pytest.fixture(scope="module", params=SETS)
def real(request: pytest.FixtureRequest, shared_data: Path) -> Pictures:
    """A few real pictures of every set, spread over all."""
    name = request.param
    root = shared_data / name.split(",")[0]
    dataset = Folder(FolderData.model_validate({"root": root, "splits": ALL, **SETS[name]}), "train")
    samples = [dataset[k] for k in range(0, len(dataset), len(dataset) // 8)]
    return [(sample.image, sample.mask) for sample in samples]


def test_real_labels_fit(real):
    assert judged(real) == Misfits(None, {})


def test_faults_that_are_planted_in_real_labels_are_found(real):
    assert judged(changed(real, np.fliplr)).whole.pose == "mirrored"
    assert judged(changed(real, np.flipud)).whole.pose == "upside down"
    assert judged(foreign(real)).whole.kind == "unrelated"
    far = max(3, round(0.03 * min(max(mask.shape) for _, mask in real)))
    whole: Misfit = judged(changed(real, moved(far, -far // 2))).whole
    assert whole.kind == "shifted"
    assert np.abs(np.add(whole.shift, (far, -far // 2))).max() <= max(2, far / 4)
