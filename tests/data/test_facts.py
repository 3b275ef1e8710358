"""What is counted in a picture or a mask, against the slow and obvious way to count it."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from terrazzo.base import IGNORE
from terrazzo.data.facts import (
    KINDS,
    components,
    counted_classes,
    counted_ids,
    counted_raw,
    digest,
    moments,
    sampled_positions,
)
from terrazzo.data.pixels import UNKNOWN

masks = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 2, 254, 255])
)


def pixels_of(array: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(array, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


@given(masks)
def test_ids_are_counted(mask):
    assert counted_ids(mask) == pixels_of(mask)
    assert counted_classes(mask, 2) == {k: n for k, n in pixels_of(mask).items() if k < 2}
    assert list(counted_ids(mask)) == sorted(counted_ids(mask))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_values_are_counted_whatever_their_width(dtype):
    array = np.random.default_rng(0).integers(0, 120, (40, 50)).astype(dtype)
    array[3] = -7 if np.issubdtype(dtype, np.signedinteger) else 7
    counted = counted_raw(array)
    assert counted.values == pixels_of(array)
    assert list(counted.values.values()) == sorted(counted.values.values(), reverse=True)
    assert (counted.colors, counted.more) == (None, 0)


def test_colours_are_counted_by_name():
    array = np.zeros((4, 5, 3), np.uint8)
    array[0, :2] = 0x84, 0x29, 0xF6
    array[1, 0] = 0, 0, 1
    assert counted_raw(array) == (None, {"#000000": 17, "#8429f6": 2, "#000001": 1}, 0)


def test_greys_saved_as_colours_are_values_too():
    array = np.repeat(np.array([[0, 0, 128], [0, 255, 128]], np.uint8)[..., None], 3, axis=2)
    values, colors, _ = counted_raw(array)
    assert values == {0: 3, 128: 2, 255: 1}
    assert colors == {"#000000": 3, "#808080": 2, "#ffffff": 1}


def test_indices_of_a_palette_are_colours_too():
    palette = np.array([[0, 0, 0], [255, 0, 0], [255, 0, 0]], np.uint8)
    values, colors, _ = counted_raw(np.array([[0, 1, 2, 2, 9]], np.uint8), palette)
    assert values == {2: 2, 0: 1, 1: 1, 9: 1}
    assert colors == {"#ff0000": 3, "#000000": 1}, "index 9 has no colour in this file"


def test_a_photograph_taken_for_a_label_stays_short():
    array = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    values, colors, more = counted_raw(array)
    assert values is None
    assert len(colors) == KINDS
    assert more == len(np.unique(array.reshape(-1, 3), axis=0)) - KINDS


@given(masks, st.integers(1, 5))
def test_positions_lie_in_their_class_and_differ(mask, most):
    found = sampled_positions(mask, (0, 1, 2), most)
    assert found == sampled_positions(mask, (0, 1, 2), most)
    assert found.keys() == counted_classes(mask, 3).keys()
    for k, positions in found.items():
        assert all(mask[y, x] == k for y, x in positions)
        assert len(set(positions)) == len(positions) == min(most, int((mask == k).sum()))


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (320, 480)])
def test_positions_are_spread_over_rows_and_columns(size):
    """Steps of a whole number of rows would all land in one column."""
    (positions,) = sampled_positions(np.zeros(size, np.uint8), (0,)).values()
    for places, side in zip(np.array(positions).T, size, strict=True):
        assert np.bincount(places * 4 // side, minlength=4).min() >= 4, "a quarter of the picture is hardly sampled"


def flooded(mask: np.ndarray, k: int) -> list[int]:
    """Sizes of the regions of one id, by flooding them one after the other."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask == k)}
    sizes = []
    while left:
        todo, size = [left.pop()], 0
        while todo:
            y, x = todo.pop()
            size += 1
            around = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            todo += around
        sizes.append(size)
    return sizes


@given(masks)
def test_components_are_those_of_flooding(mask):
    found = components(mask, (0, 1, 2))
    for k in (0, 1, 2):
        sizes = flooded(mask, k)
        assert found.get(k) == ((len(sizes), max(sizes), float(np.median(sizes))) if sizes else None)


def test_ignored_and_unknown_pixels_are_no_class():
    mask = np.array([[IGNORE, UNKNOWN, 0]], np.uint8)
    assert counted_classes(mask, 3) == {0: 1}
    assert counted_ids(mask) == {0: 1, UNKNOWN: 1, IGNORE: 1}


def test_moments_add_up_over_images():
    """The mean over a data set is that of its images, weighed by their pixels; the deviation follows from both."""
    images = [np.random.default_rng(k).integers(0, 256, (9 + k, 11, 3)).astype(np.uint8) for k in range(3)]
    weights = [image.shape[0] for image in images]
    mean, square = (np.average(each, axis=0, weights=weights) for each in zip(*map(moments, images), strict=True))
    together = np.concatenate(images).reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(mean, together.mean(0))
    np.testing.assert_allclose(np.sqrt(square - mean**2), together.std(0))


def test_a_digest_knows_pixels_and_shape_and_nothing_else():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    assert digest(image) == digest(np.asfortranarray(image)) == digest(cv2.flip(cv2.flip(image, 1), 1))
    other = image.copy()
    other[5, 7, 2] ^= 1
    assert len({digest(image), digest(other), digest(image.reshape(8, 6, 3)), digest(image.astype(np.uint16))}) == 4
