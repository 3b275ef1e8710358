"""Augmentation: image and mask stay together, sizes and colours are as promised, the generator is the only chance."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from terrazzo.base import IGNORE, Sample
from terrazzo.data.augment import (
    AugmentConfig,
    Exact,
    Fit,
    Keep,
    ResizeConfig,
    ShortSide,
    augment,
    resize_image,
    resize_mask,
    resized,
)
from terrazzo.data.geometry import LEAN_NUMBERS, PAD_COLOR

PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0}
EXACT = {"kind": "exact", "height": 64, "width": 64}
sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


def noise(size: tuple[int, int], channels: int = 3, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 4, size, np.uint8)
    mask[mask == 3] = IGNORE
    return Sample(rng.integers(0, 256, (*size, channels), np.uint8), mask, "noise")


def where_from(size: tuple[int, int]) -> Sample:
    """Every pixel tells its place: image = (row, column, 0), mask = row * 8 + column of 8 x 8 fields."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = np.dstack([rows, columns, np.zeros(size, int)]).astype(np.uint8)
    return Sample(image, (rows * 8 // size[0] * 8 + columns * 8 // size[1]).astype(np.uint8), "places")


def at(seed: int) -> np.random.Generator:
    return np.random.default_rng([0, 1, seed])


# --- image and mask ---------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(size=sizes, crop=sizes, scale=st.floats(0.2, 4), flip=st.sampled_from([0, 1]), seed=st.integers(0, 99))
def test_every_sample_comes_out_as_large_as_the_crop(size, crop, scale, flip, seed):
    cfg = AugmentConfig(crop=crop, scale=(scale, scale), flip=flip, cat_max_ratio=0.5)
    image, mask, name = augment(noise(size), at(seed), cfg)
    assert (image.shape, mask.shape, image.dtype, mask.dtype, name) == ((*crop, 3), crop, "u1", "u1", "noise")
    inside = (min(crop[0], max(1, round(size[0] * scale))), min(crop[1], max(1, round(size[1] * scale))))
    padding = np.ones(crop, bool)
    padding[: inside[0], : inside[1]] = False
    assert (mask[padding] == IGNORE).all()
    assert (image[padding] == PAD_COLOR).all(), "padding has a constant colour whatever the colour changes"


@settings(max_examples=60, deadline=None)
@given(size=sizes, crop=sizes, seed=st.integers(0, 99))
def test_at_scale_1_a_sample_is_an_exact_part_of_the_image(size, crop, seed):
    """Brute force: among all windows, flipped or not, one holds exactly these pixels, of the image and of the mask."""
    sample = noise(size)
    image, mask, _ = augment(sample, at(seed), AugmentConfig(crop=crop, scale=(1, 1), **PLAIN))
    height, width = min(size[0], crop[0]), min(size[1], crop[1])
    image, mask = image[:height, :width], mask[:height, :width]
    windows = (
        (slice(top, top + height), slice(left, left + width))
        for top in range(size[0] - height + 1)
        for left in range(size[1] - width + 1)
    )
    assert any(
        (sample.image[window][:, ::turn] == image).all() and (sample.mask[window][:, ::turn] == mask).all()
        for window in windows
        for turn in (1, -1)
    )


@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(100, 250), st.integers(100, 250)),
    scale=st.floats(0.4, 2.5),
    seed=st.integers(0, 9999),
)
def test_pitfall_image_and_mask_flipped_independently(size, scale, seed):
    """The image tells where each pixel came from, and the mask there is the mask here, but for a pixel at borders."""
    sample = where_from(size)
    image, mask, _ = augment(sample, at(seed), AugmentConfig(crop=(64, 80), scale=(scale, scale), **PLAIN))
    inside = (mask != IGNORE) & ~(image == PAD_COLOR).all(2)
    expected = sample.mask[np.minimum(image[..., 0], size[0] - 1), np.minimum(image[..., 1], size[1] - 1)]
    wrong = (expected != mask) & inside
    radius = 3
    same = cv2.erode(mask, np.ones((radius, radius), np.uint8)) == cv2.dilate(mask, np.ones((radius, radius), np.uint8))
    assert not (wrong & same).any(), "a pixel inside a field has another field's label"
    assert wrong.sum() <= 0.12 * inside.sum()


def test_both_flips_occur_and_as_often_as_asked():
    sample = where_from((40, 40))

    def flipped(seed: int, chance: float) -> bool:
        image = augment(sample, at(seed), AugmentConfig(crop=40, scale=(1, 1), flip=chance, **PLAIN)).image
        return bool(image[0, 0, 1] > image[0, 1, 1])

    assert [sum(flipped(seed, chance) for seed in range(200)) for chance in (0, 1)] == [0, 200]
    assert 60 < sum(flipped(seed, 0.3) for seed in range(300)) < 120


@pytest.mark.parametrize("factor", [0.25, 0.5, 2, 4])
def test_edges_of_image_and_mask_stay_at_one_place(factor):
    """Nearest neighbour by pixel corners would move labels by up to half a source pixel against the image."""
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 1
    image = np.repeat(mask[..., None] * np.uint8(200), 3, 2)
    cfg = AugmentConfig(crop=round(64 * factor), scale=(factor, factor), flip=0, **PLAIN)
    image, mask, _ = augment(Sample(image, mask, "edge"), at(0), cfg)
    assert ((image[..., 0] > 100) == (mask == 1)).all()


def test_pitfall_mask_resized_bilinearly_image_resized_nearest():
    mask = np.zeros((60, 60), np.uint8)
    mask[20:40] = 9
    mask[40:] = IGNORE
    image = np.repeat(mask[..., None], 3, 2)
    for scale in (0.37, 0.8, 1.7, 3.1):
        image_out, mask_out, _ = augment(
            Sample(image, mask, "bands"), at(1), AugmentConfig(crop=200, scale=(scale, scale), **PLAIN)
        )
        assert set(np.unique(mask_out)) <= {0, 9, IGNORE}, "only labels that were there"
    assert len(np.unique(image_out)) > 4, "the image has values in between"


def test_shrinking_averages_instead_of_skipping():
    """A chequerboard becomes grey; a bilinear look at every 4th pixel would give black or white."""
    board = np.repeat(((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)[..., None], 3, 2)
    for pixels in (32, 25, 16, 11):
        assert np.abs(resize_image(board, ShortSide(pixels=pixels)).astype(int) - 127).max() <= 60, pixels
    assert np.abs(resize_image(board, ShortSide(pixels=16)).astype(int) - 127).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 57), (57, 1), (2, 3), (37, 53)])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_pitfall_odd_sizes_crash(size, channels):
    for seed, crop in enumerate([1, 7, (33, 65)]):
        image, mask, _ = augment(noise(size, channels), at(seed), AugmentConfig(crop=crop, cat_max_ratio=0.75))
        height, width = (crop, crop) if isinstance(crop, int) else crop
        assert (image.shape, mask.shape) == ((height, width, channels), (height, width))
    assert resize_image(noise(size, channels).image, ShortSide(pixels=5)).shape[2] == channels


def test_arrays_of_any_memory_layout_are_taken():
    plain = noise((40, 50))
    turned = Sample(plain.image[:, ::-1, ::-1], plain.mask[:, ::-1], "views")
    copied = Sample(turned.image.copy(), turned.mask.copy(), "copies")
    for seed in range(6):
        for cfg in (AugmentConfig(crop=24), AugmentConfig(crop=24, scale=(1, 1), flip=0, **PLAIN)):
            one, other = augment(turned, at(seed), cfg), augment(copied, at(seed), cfg)
            assert (one.image == other.image).all()
            assert (one.mask == other.mask).all()


def test_the_source_is_never_written_to():
    sample = noise((40, 50))
    image, mask = sample.image.copy(), sample.mask.copy()
    sample.image.flags.writeable = sample.mask.flags.writeable = False
    for seed in range(8):
        augment(sample, at(seed), AugmentConfig(crop=32, scale=(1, 1) if seed % 2 else (0.5, 2)))
    assert (sample.image == image).all()
    assert (sample.mask == mask).all()


def test_the_generator_is_the_only_chance():
    one, again, other = (augment(noise((90, 80)), at(seed), AugmentConfig(crop=50)) for seed in (3, 3, 4))
    assert (one.image == again.image).all()
    assert (one.mask == again.mask).all()
    assert (one.image != other.image).any()


def test_colour_settings_do_not_change_which_part_is_cut():
    sample = noise((90, 80))
    for seed in range(5):
        plain, coloured = (augment(sample, at(seed), AugmentConfig(crop=50, **more)) for more in (PLAIN, {}))
        assert (plain.mask == coloured.mask).all()


@pytest.mark.parametrize("size", [(64, 64), (128, 256), (256, 256)])
def test_squashed_without_a_crop(size):
    """W5, W2 and W4: the whole image at one size, and the mask with it."""
    sample = where_from((90, 120))
    base = Exact(height=size[0], width=size[1])
    image, mask, _ = augment(sample, at(0), AugmentConfig(crop=None, base=base, scale=(1, 1), flip=0, **PLAIN))
    assert (image == resize_image(sample.image, base)).all()
    assert (mask == resize_mask(sample.mask, size)).all()


def test_keep_ratio_of_short_and_long_edge_with_a_ratio_range():
    """W3: (short, long) = (1080, 1920) x 0.5-2, here a 20th: the whole is as large as the ratio says, unsquashed."""
    sample = where_from((90, 150))
    for ratio in (0.5, 1, 2):
        cfg = AugmentConfig(crop=300, base=Fit(short=54, long=96), scale=(ratio, ratio), flip=0, **PLAIN)
        mask = augment(sample, at(0), cfg).mask
        shown = (mask != IGNORE).any(1).sum(), (mask != IGNORE).any(0).sum()
        assert shown == (round(54 * ratio), round(90 * ratio))


# --- one class in a crop ----------------------------------------------------------------------------------------------


def test_cat_max_ratio_draws_again_while_one_class_fills_the_crop():
    mask = np.zeros((100, 100), np.uint8)
    mask[:, 70:] = 1
    mask[:30] = IGNORE
    sample = Sample(np.zeros((100, 100, 3), np.uint8), mask, "mostly 0")

    def too_much(ratio: float) -> int:
        cfg = AugmentConfig(crop=40, scale=(1, 1), cat_max_ratio=ratio)
        crops = [augment(sample, at(seed), cfg).mask for seed in range(150)]
        counts = np.array([np.bincount(crop.ravel(), minlength=256)[:IGNORE] for crop in crops])
        return int((counts.max(1) > 0.75 * counts.sum(1)).sum())

    assert too_much(1.0) > 75
    assert too_much(0.75) < 0.15 * too_much(1.0)


def test_a_crop_of_ignored_pixels_only_is_drawn_again_and_then_taken():
    mask = np.full((50, 50), IGNORE, np.uint8)
    out = augment(
        Sample(np.zeros((50, 50, 3), np.uint8), mask, "void"), at(0), AugmentConfig(crop=20, cat_max_ratio=0.5)
    )
    assert (out.mask == IGNORE).all()


# --- sizes ------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(20, 3000), st.integers(20, 3000)), short=st.integers(30, 800), extra=st.integers(0, 2000)
)
def test_pitfall_squashed_aspect(size, short, extra):
    fitted = resized(size, Fit(short=short, long=short + extra))
    assert min(fitted) <= short
    assert max(fitted) <= short + extra
    assert min(fitted) == short or max(fitted) == short + extra, "as large as fits"
    shortened = resized(size, ShortSide(pixels=short))
    assert min(shortened) == short
    for out in (fitted, shortened):  # one factor explains both sides, but for rounding
        least = max((side - 0.5) / of if side > 1 else 0 for side, of in zip(out, size, strict=True))
        assert least <= min((side + 0.5) / of for side, of in zip(out, size, strict=True)) * (1 + 1e-9)


def test_resize_policies():
    assert resized((375, 500), Keep()) == (375, 500)
    assert resized((375, 500), ShortSide(pixels=750)) == (750, 1000)
    assert resized((1024, 2048), Fit(short=512, long=2048)) == (512, 1024)
    assert resized((2048, 1024), Fit(short=512, long=2048)) == (1024, 512)
    assert resized((100, 1000), Fit(short=512, long=2048)) == (205, 2048)
    assert resized((100, 1000), Exact(height=7, width=9)) == (7, 9)
    image = noise((30, 40)).image
    assert resize_image(image, Keep()) is image
    assert resize_image(image, Exact(height=7, width=90)).shape == (7, 90, 3)


def test_scale_is_counted_from_the_base_size():
    sample = where_from((100, 200))
    for base, seen in ((Keep(), 50), (ShortSide(pixels=50), 100)):
        image = augment(sample, at(0), AugmentConfig(crop=50, base=base, scale=(1, 1), flip=0, **PLAIN)).image
        assert abs(int(image[-1, 0, 0]) - int(image[0, 0, 0]) - seen) <= 2
    halves = [augment(sample, at(seed), AugmentConfig(crop=300, scale=(0.5, 2))).mask for seed in range(60)]
    shown = [int((mask != IGNORE).any(1).sum()) for mask in halves]
    assert (min(shown), max(shown)) >= (50, 190)
    assert max(shown) <= 200
    assert min(shown) < 60


# --- colours ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["brightness", "contrast", "saturation"])
def test_each_colour_change_against_plain_arithmetic(what):
    sample = noise((40, 40))
    cfg = AugmentConfig(crop=40, scale=(1, 1), flip=0, **PLAIN | {what: 0.5})
    source = sample.image.astype(float)
    luma = (source @ [0.299, 0.587, 0.114])[..., None]
    rules = {
        "brightness": lambda gain: source * gain,
        "contrast": lambda gain: (source - 127.5) * gain + 127.5,
        "saturation": lambda gain: luma + (source - luma) * gain,
    }
    for seed in range(6):
        rng = at(seed)
        rng.random(2 + LEAN_NUMBERS)  # scale, flip, warp
        gain = 1 + 0.5 * rng.uniform(-1, 1, 4)[["brightness", "contrast", "saturation"].index(what)]
        expected = rules[what](gain).clip(0, 255)
        assert np.abs(augment(sample, at(seed), cfg).image - expected).max() <= 1


def test_zero_switches_colours_off():
    sample = noise((40, 40))
    assert (augment(sample, at(0), AugmentConfig(crop=40, scale=(1, 1), flip=0, **PLAIN)).image == sample.image).all()


# --- configs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (2, 0.5)}, r"augment\.scale: \[2\.0, 0\.5\] must be \[least, greatest\]"),
        ({"scale": (0, 1)}, "greater than 0"),
        ({"crop": 0}, "greater than 0"),
        ({"flip": 1.5}, "less than or equal to 1"),
        ({"cat_max_ratio": 0}, "greater than 0"),
        ({"gamma": 0.1}, "Extra inputs"),
        ({"crop": None}, r"augment\.crop is null, so every sample is a whole image, and augment\.base keep gives"),
        ({"crop": None, "base": EXACT}, r"augment\.scale=\[0\.5, 2\.0\] would change nothing; write scale: \[1, 1\]"),
        ({"crop": None, "base": EXACT, "scale": (1, 1), "cat_max_ratio": 0.5}, r"cat_max_ratio=0\.5 would change noth"),
        ({"warp": {}}, "rotate, shear, perspective and zoom are all off; set one, or leave warp out"),
        ({"warp": {"zoom": (1.1, 0.9)}}, r"warp\.zoom: \[1\.1, 0\.9\] must be \[least, greatest\]"),
        ({"warp": {"perspective": 0.5}}, "less than or equal to 0.4"),
        ({"blur": {"kernel": 4}}, r"blur\.kernel=4 must be odd and at least 3"),
        ({"blur": {"sigma": (2, 1)}}, r"blur\.sigma: \[2\.0, 1\.0\] must be \[least, greatest\]"),
        ({"photometric": {"contrast": (2, 1)}}, r"photometric\.contrast: \[2\.0, 1\.0\] must be"),
        ({"lighting": {"amount": 1}}, "less than 1"),
        ({"hue": 0.6}, "less than or equal to 0.5"),
        ({"base": {"kind": "fit", "short": 9, "long": 8}}, r"short=9 is longer than long=8; exchange them"),
        ({"base": {"kind": "crop"}}, "'keep', 'short_side', 'fit', 'exact'"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        AugmentConfig.model_validate(options)


def test_configs_come_back_from_their_own_dump():
    for cfg in (Keep(), ShortSide(pixels=3), Fit(short=1, long=2), Exact(height=1, width=2)):
        assert TypeAdapter(ResizeConfig).validate_python(cfg.model_dump(mode="json")) == cfg
        assert AugmentConfig.model_validate(AugmentConfig(base=cfg, crop=(3, 4)).model_dump(mode="json")).base == cfg
