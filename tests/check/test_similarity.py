"""Pictures that are there twice are found, and pictures that only look alike are not."""

import cv2
import numpy as np
import pytest

from terrazzo.check.similarity import likeness, near, same
from terrazzo.data.facts import digest
from terrazzo.data.pixels import read_image


def scene(seed: int, size: tuple[int, int] = (90, 120)) -> np.ndarray:
    """A made-up picture: discs of all sizes and colours."""
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(60):
        center = int(rng.integers(0, size[1])), int(rng.integers(0, size[0]))
        cv2.circle(image, center, int(rng.integers(3, 20)), rng.integers(0, 256, 3).tolist(), -1)
    return image


def saved_again(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


CHANGES = {
    "saved as JPEG": lambda image: saved_again(image, 40),
    "half the size": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "stretched": lambda image: cv2.resize(image, (100, 100)),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=0.9, beta=25),
    "noisy": lambda image: np.clip(image + np.random.default_rng(0).normal(0, 6, image.shape), 0, 255).astype(np.uint8),
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 1.0),
}


def pairs(images: list[np.ndarray]) -> list[tuple[int, int, bool]]:
    found = near([likeness(image) for image in images], [digest(image) for image in images])
    return [(pair.first, pair.second, pair.mirrored) for pair in found]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(change):
    images = [scene(seed) for seed in range(6)]
    assert pairs([*images, CHANGES[change](images[2])]) == [(2, 6, False)]
    assert pairs(images) == []


def test_a_mirrored_copy_is_found():
    images = [scene(seed) for seed in range(6)]
    assert pairs([*images, saved_again(images[4][:, ::-1], 80)]) == [(4, 6, True)]


def test_equal_pixels_are_no_near_pair_but_one_group():
    images = [scene(0), scene(1), scene(0), saved_again(scene(0), 60), scene(1), scene(0)]
    digests = [digest(image) for image in images]
    assert same(digests) == [(0, 2, 5), (1, 4)]
    assert pairs(images) == [(0, 3, False)]
    assert same([None, None]) == []


def test_pictures_of_nothing_are_not_alike():
    images = [np.full((40, 40, 3), grey, np.uint8) for grey in (0, 90, 91, 255)]
    assert pairs(images) == []
    assert near([None, likeness(scene(0)), None], [None, "a", None]) == []
    assert near([], []) == []


def test_all_pictures_are_compared_however_many_there_are(monkeypatch):
    """The comparison goes by blocks of rows; a pair may lie in any two of them."""
    images = [scene(seed) for seed in range(9)]
    images += [saved_again(images[k], 70) for k in (0, 4, 8)]
    monkeypatch.setattr("terrazzo.check.similarity.BLOCK", 2 * len(images))
    assert sorted(pairs(images)) == [(0, 9, False), (4, 10, False), (8, 11, False)]


@pytest.mark.parametrize("folder", ["wbc/images", "voc-person/JPEGImages", "chase-db1"])
def test_no_false_alarm_and_no_miss_on_real_pictures(shared_data, folder):
    """Cells on one background and retinas look alike; each saved again is still found, and only that."""
    paths = sorted(path for path in (shared_data / folder).glob("*.[jp][pn]g") if "HO" not in path.name)
    images = [read_image(path) for path in paths[:60]]
    copies = {len(images) + k: 3 * k for k in range(8)}
    found = pairs([*images, *(saved_again(images[first], 60) for first in copies.values())])
    assert {(second, first) for first, second, _ in found} == set(copies.items())


def test_frames_of_a_drive_are_one_picture_only_while_it_stands_still(shared_data):
    """The splits of CamVid are parts of the same drives, and no picture is in two of them."""
    paths = [path for split in ("train", "val", "test") for path in sorted((shared_data / "camvid" / split).iterdir())]
    found = near([likeness(read_image(path)) for path in paths], [str(path) for path in paths])
    together = [(paths[pair.first], paths[pair.second]) for pair in found]
    assert all(one.parent == other.parent for one, other in together)
    assert ("0001TP_009360.jpg", "0001TP_009390.jpg") in [(one.name, other.name) for one, other in together]
