"""Rotation, shear, perspective and zoom: one warp, the same for image and mask, and nothing at all when it is off."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terrazzo.base import IGNORE, Sample
from terrazzo.data.augment import AugmentConfig, Exact, Fit, Keep, ShortSide, View, augment
from terrazzo.data.geometry import (
    LEAN_NUMBERS,
    PAD_COLOR,
    STRAIGHT,
    Warp,
    Window,
    drawn_lean,
    to_source,
    warped_image,
    warped_mask,
)

PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0}
NUMBERS = np.full(LEAN_NUMBERS, 0.9)


def at(seed: int) -> np.random.Generator:
    return np.random.default_rng([0, 1, seed])


def label_colored(size: tuple[int, int], seed: int) -> Sample:
    """8 classes in fields of at least 24 pixels; the three bits of a class are its red, green and blue."""
    fields = np.random.default_rng(seed).integers(0, 8, (size[0] // 24, size[1] // 24), np.uint8)
    mask = np.asarray(cv2.resize(fields, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    return Sample(np.stack([(mask >> bit & 1) * np.uint8(255) for bit in range(3)], 2), mask, "fields")


def inside_fields(mask: np.ndarray) -> np.ndarray:
    """Pixels that are more than one pixel away from another class."""
    around = np.ones((3, 3), np.uint8)
    return cv2.erode(mask, around, borderValue=0) == cv2.dilate(mask, around, borderValue=255)


bases = st.sampled_from([Keep(), ShortSide(pixels=70), Fit(short=80, long=100), Exact(height=90, width=140)])
warps = st.builds(
    Warp,
    rotate=st.sampled_from([1, 10, 45, 180]),
    shear=st.sampled_from([0, 5, 20]),
    perspective=st.sampled_from([0, 0.1, 0.2]),
    zoom=st.sampled_from([(1, 1), (1, 1.1), (0.7, 0.9), (0.8, 2)]),
    chance=st.sampled_from([0.5, 1]),
    outside=st.sampled_from(["ignore", "mirror"]),
)


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(60, 200), st.integers(60, 200)),
    crop=st.tuples(st.integers(40, 160), st.integers(40, 160)),
    base=bases,
    scale=st.floats(0.7, 2.5),
    warp=warps,
    flip=st.sampled_from([0, 1]),
    seed=st.integers(0, 9999),
)
def test_pitfall_image_and_mask_flipped_independently_in_a_warp(size, crop, base, scale, warp, flip, seed):
    """A label-coloured image tells its labels: they are the mask's, but for the one pixel beside a border.

    Fields stay larger than a few pixels here; in smaller ones every pixel is beside a border.
    """
    cfg = AugmentConfig(crop=crop, base=base, scale=(scale, scale), warp=warp, flip=flip, **PLAIN)
    image, mask, _ = augment(label_colored(size, seed), at(seed), cfg)
    assert (image.shape, mask.shape) == ((*crop, 3), crop)
    told = sum((image[..., bit] > 127).astype(np.uint8) << bit for bit in range(3))
    sure = inside_fields(mask)
    seen = sure & (mask != IGNORE)
    assert (told == mask)[seen].all()
    far_outside = cv2.erode((mask == IGNORE).astype(np.uint8), np.ones((25, 25), np.uint8), borderValue=1) > 0
    assert (image[far_outside] == PAD_COLOR).all()  # beside the edge it is blended, over one pixel of the source


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(0.1, 0.5), seed=st.integers(0, 999))
def test_image_and_mask_stay_together_when_areas_are_averaged(scale, seed):
    """In two steps, whose pixels reach 1.5 of the crop's."""
    size = (400, 500)
    mask = cv2.resize(label_colored((96, 96), seed).mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    sample = Sample(np.stack([(mask >> bit & 1) * np.uint8(255) for bit in range(3)], 2), mask, "fields")
    cfg = AugmentConfig(crop=200, scale=(scale, scale), warp=Warp(rotate=30, perspective=0.1), flip=0.5, **PLAIN)
    image, mask, _ = augment(sample, at(seed), cfg)
    told = sum((image[..., bit] > 127).astype(np.uint8) << bit for bit in range(3))
    wrong = (told != mask) & inside_fields(mask) & (mask != IGNORE)
    assert wrong.sum() <= 0.002 * (mask != IGNORE).sum() + 4


def test_labels_are_never_mixed():
    mask = np.zeros((60, 60), np.uint8)
    mask[20:40] = 9
    mask[40:] = IGNORE
    for seed in range(20):
        cfg = AugmentConfig(crop=50, warp=Warp(rotate=40, shear=20, perspective=0.3, zoom=(0.6, 1.5)))
        out = augment(Sample(np.zeros((60, 60, 3), np.uint8), mask, "bands"), at(seed), cfg)
        assert set(np.unique(out.mask)) <= {0, 9, IGNORE}


def test_beyond_the_image_is_padding_or_its_mirror_image():
    sample = label_colored((80, 90), 3)
    for seed in range(10):
        cut, whole = (
            augment(sample, at(seed), AugmentConfig(crop=70, scale=(1, 1), warp=Warp(rotate=60, outside=outside)))
            for outside in ("ignore", "mirror")
        )
        assert IGNORE not in whole.mask
        inside = cut.mask != IGNORE
        assert (cut.mask[inside] == whole.mask[inside]).all()
    assert not inside.all()


# --- each of the four against its definition --------------------------------------------------------------------------

WHOLE = Window(0, 0, 64, 64)


def seen(sample: Sample, flip: bool = False, size: tuple[int, int] = (64, 64), **lean) -> tuple[np.ndarray, np.ndarray]:
    matrix = to_source(WHOLE, size, STRAIGHT._replace(**lean), flip=flip)
    return tuple(warp(array, matrix, size, mirror=False) for warp, array in zip(WARPS, sample[:2], strict=True))


WARPS = (warped_image, warped_mask)


def noise() -> Sample:
    rng = np.random.default_rng(0)
    return Sample(rng.integers(0, 256, (64, 64, 3), np.uint8), rng.integers(0, 9, (64, 64), np.uint8), "noise")


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_quarter_turn_is_exact(quarters):
    sample = noise()
    for array, turned in zip(sample[:2], seen(sample, angle=quarters * np.pi / 2), strict=True):
        assert (turned == np.rot90(array, quarters)).all()


def test_a_flip_is_composed_in_the_warp():
    for turned, flipped in zip(seen(noise(), angle=np.pi / 2), seen(noise(), angle=np.pi / 2, flip=True), strict=True):
        assert (turned[:, ::-1] == flipped).all()


@pytest.mark.parametrize(("place", "start"), [((0, 0), 16), ((-1, -1), 0), ((1, 1), 32)])
def test_zoom_2_shows_half_the_sides_somewhere(place, start):
    sample = noise()
    image, mask = seen(sample, zoom=2, place=place)
    part = np.s_[start : start + 32, start : start + 32]
    expected = cv2.resize(sample.image, (128, 128), interpolation=cv2.INTER_LINEAR)[2 * start :, 2 * start :][:64, :64]
    inner = np.s_[1:-1, 1:-1]  # at its edge the image is continued differently
    assert np.abs(image[inner].astype(int) - expected[inner]).max() <= 1
    assert (mask == sample.mask[part].repeat(2, 0).repeat(2, 1)).all()


def test_shear_moves_rows_sideways():
    _, mask = seen(noise(), shear=1.0)
    middle = 31.5
    for row in range(64):
        shift = row - middle  # 45 degrees: as far sideways as down
        columns = np.arange(64)
        there = (columns + shift >= 0) & (columns + shift <= 63)
        read = noise().mask[row, np.floor(columns[there] + shift + 0.5).astype(int).clip(0, 63)]
        off = noise().mask[row, np.ceil(columns[there] + shift - 0.5).astype(int).clip(0, 63)]
        assert ((mask[row, there] == read) | (mask[row, there] == off)).all()


def test_a_tilt_moves_the_corners_by_its_share():
    matrix = to_source(WHOLE, (64, 64), STRAIGHT._replace(tilt=(0.2, -0.1)), flip=False)
    for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        point = matrix @ (32 * x + 31.5, 32 * y + 31.5, 1)
        expected = 32 * (x - 0.2 * x * y) + 31.5, 32 * (y + 0.1 * x * y) + 31.5
        assert point[:2] / point[2] == pytest.approx(expected, abs=1e-3)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(0.3, 3))
def test_a_straight_warp_is_the_crop_first_path(seed, scale):
    """Smooth images, for a warp rounds places to 1/32 pixel."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    image = cv2.resize(small, (200, 180), interpolation=cv2.INTER_CUBIC)
    mask = label_colored((180, 200), seed).mask
    window, size = Window(20, 30, 120, 150), (round(120 * scale), round(150 * scale))
    for flip in (False, True):
        resized = View(window, size, flip)
        warped = View(window, size, flip, to_source(window, size, STRAIGHT, flip=flip))
        inner = np.s_[4:-4, 4:-4]  # a window's edge is continued by the resize, and looked beyond by the warp
        gap = np.abs(resized.image(image)[inner].astype(int) - warped.image(image)[inner]).max()
        assert gap <= (6 if scale > 0.51 else 16)  # below, areas are averaged in two steps, which is smoother
        one, other = resized.mask(mask), warped.mask(mask)
        assert not ((one != other) & inside_fields(one)).any()  # between two pixels either may be taken
        assert (one != other).mean() <= 0.1


def test_shrinking_averages_in_a_warp_too():
    board = np.repeat(((np.indices((256, 256)).sum(0) % 2) * 255).astype(np.uint8)[..., None], 3, 2)
    sample = Sample(board, np.zeros((256, 256), np.uint8), "board")
    cfg = AugmentConfig(crop=64, scale=(0.25, 0.25), warp=Warp(rotate=20, outside="mirror"), **PLAIN)
    for seed in range(5):
        assert np.abs(augment(sample, at(seed), cfg).image.astype(int) - 127).max() <= 40


def test_averaging_in_a_warp_leaves_the_axis_that_is_not_shrunk():
    """Stripes of 2 pixels across an image that is squashed to a quarter along them."""
    stripes = np.zeros((64, 256, 3), np.uint8)
    stripes[np.arange(64) % 4 < 2] = 200
    cfg = AugmentConfig(
        crop=None, base=Exact(height=64, width=64), scale=(1, 1), warp=Warp(zoom=(0.99, 0.99)), flip=0, **PLAIN
    )
    image = augment(Sample(stripes, np.zeros((64, 256), np.uint8), "stripes"), at(0), cfg).image[24:40, 8:-8]
    assert image.max() > 180
    assert image.min() < 40


def test_sides_beyond_what_opencv_warps():
    """It refuses 32768 pixels; only the part that the crop reads is given to it."""
    sample = Sample(np.zeros((30, 40000, 3), np.uint8), np.ones((30, 40000), np.uint8), "strip")
    for outside in ("ignore", "mirror"):
        cfg = AugmentConfig(crop=20, scale=(1, 1), warp=Warp(rotate=10, perspective=0.1, outside=outside))
        assert (augment(sample, at(0), cfg).mask == 1).mean() > 0.6


@pytest.mark.parametrize("size", [(1, 1), (1, 57), (57, 1), (2, 3), (37, 53)])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_pitfall_odd_sizes_crash_in_a_warp(size, channels):
    rng = np.random.default_rng(0)
    sample = Sample(rng.integers(0, 256, (*size, channels), np.uint8), np.zeros(size, np.uint8), "odd")
    for seed, outside in enumerate(("ignore", "mirror")):
        warp = Warp(rotate=90, shear=30, perspective=0.4, zoom=(0.3, 3), outside=outside)
        image, mask, _ = augment(sample, at(seed), AugmentConfig(crop=(33, 65), warp=warp, cat_max_ratio=0.75))
        assert (image.shape, mask.shape) == ((33, 65, channels), (33, 65))


# --- chance -----------------------------------------------------------------------------------------------------------


def test_each_of_the_four_has_its_own_chance():
    cfg = Warp(rotate=10, shear=5, perspective=0.2, zoom=(1.05, 1.1), chance=0.75)
    drawn = [drawn_lean(cfg, np.random.default_rng(seed).random(LEAN_NUMBERS)) or STRAIGHT for seed in range(800)]
    for found in (
        [lean.angle != 0 for lean in drawn],
        [lean.shear != 0 for lean in drawn],
        [lean.tilt != (0, 0) for lean in drawn],
        [lean.zoom != 1 for lean in drawn],
    ):
        assert 0.7 < np.mean(found) < 0.8
    assert 0 < sum(lean == STRAIGHT for lean in drawn) < 20, "together with chance 1/256"
    assert max(abs(lean.angle) for lean in drawn) == pytest.approx(np.radians(10), rel=0.02)
    assert max(lean.zoom for lean in drawn) == pytest.approx(1.1, rel=0.002)


def test_a_warp_that_is_off_costs_no_bit():
    assert drawn_lean(None, NUMBERS) is None
    assert drawn_lean(Warp(rotate=10, zoom=(2, 3), chance=0), NUMBERS) is None
    sample = noise()
    for seed in range(6):
        plain, off = (
            augment(sample, at(seed), AugmentConfig(crop=50, cat_max_ratio=0.75, warp=warp))
            for warp in (None, Warp(rotate=30, shear=10, perspective=0.2, zoom=(0.5, 2), chance=0))
        )
        assert (plain.image == off.image).all()
        assert (plain.mask == off.mask).all()


def test_cat_max_ratio_looks_at_the_warped_crop():
    mask = np.zeros((100, 100), np.uint8)
    mask[:, 70:] = 1

    def too_much(ratio: float) -> int:
        cfg = AugmentConfig(crop=40, scale=(1, 1), cat_max_ratio=ratio, warp=Warp(rotate=45, outside="mirror"))
        sample = Sample(np.zeros((100, 100, 3), np.uint8), mask, "mostly 0")
        shares = [(augment(sample, at(seed), cfg).mask == 0).mean() for seed in range(100)]
        return sum(share > 0.75 for share in shares)

    assert too_much(0.75) < 0.15 * too_much(1.0)
