"""Colours against slow float arithmetic that follows the definitions word by word, and against torchvision."""

import colorsys
from math import cos, exp, log, pi, sin

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from terrazzo.base import Sample
from terrazzo.data.augment import AugmentConfig, augment
from terrazzo.data.geometry import Warp
from terrazzo.data.photometry import (
    BLUR_NUMBERS,
    LIGHTING_NUMBERS,
    PHOTOMETRIC_NUMBERS,
    Blur,
    Lighting,
    Photometric,
    Sharpness,
    blurred,
    distorted,
    jittered,
    lit,
    sharpened,
)

PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0}
EVERYTHING = {
    "warp": Warp(rotate=20, shear=5, perspective=0.2, zoom=(0.9, 1.2)),
    "sharpness": Sharpness(),
    "hue": 0.1,
    "lighting": Lighting(),
    "photometric": Photometric(),
    "blur": Blur(),
}


def noise(size: tuple[int, int] = (40, 50), channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8)


def gap(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.astype(float) - expected).max())


@pytest.mark.parametrize(("saturation", "hue"), [(1, 0.05), (1, -0.3), (0.4, 0.2), (1.6, 0.5)])
def test_hue_and_saturation_turn_and_stretch_the_colour_plane(saturation, hue):
    """Pixel by pixel: luma stays, the two colour differences turn by the angle and grow by the factor."""
    image = noise((12, 15))
    found = jittered(image, 1, 1, saturation, hue)
    for place in np.ndindex(image.shape[:2]):
        r, g, b = image[place].astype(float)
        y = 0.299 * r + 0.587 * g + 0.114 * b
        u, v = 0.492 * (b - y), 0.877 * (r - y)
        angle = 2 * pi * hue
        u, v = saturation * (u * cos(angle) - v * sin(angle)), saturation * (u * sin(angle) + v * cos(angle))
        r, b = y + v / 0.877, y + u / 0.492
        expected = np.clip([r, (y - 0.299 * r - 0.114 * b) / 0.587, b], 0, 255)
        assert gap(found[place], expected) <= 1


def test_a_whole_turn_of_the_hue_changes_nothing_and_grey_has_none():
    image = noise()
    assert gap(jittered(image, 1, 1, 1, 1), image) <= 1
    grey = image[..., :1].repeat(3, 2)
    assert gap(jittered(grey, 1, 1, 1.5, 0.3), grey) <= 1


@pytest.mark.parametrize("numbers", [(0, 0, 0.9, 0.8), (0, 1, 0.1, 0.5), (1, 0, 0.5, 0.05), (0, 0, 0, 0)])
def test_lighting_is_arithmetic_on_log_odds(numbers):
    image = noise()
    brightens, contrasts = numbers[0] < 0.75, numbers[1] < 0.75
    middle = 0.5 * (1 + 0.4 * (2 * numbers[2] - 1)) if brightens else 0.5
    scale = exp(-log(0.6) * (2 * numbers[3] - 1)) if contrasts else 1
    expected = np.empty(256)
    for value in range(256):
        share = min(max(value / 255, 1e-7), 1 - 1e-7)
        expected[value] = 255 / (1 + exp(-(log(share / (1 - share)) + log(middle / (1 - middle))) * scale))
    assert gap(lit(image, Lighting(amount=0.4), np.array(numbers, float)), expected[image]) <= 0.5001
    assert expected[0] < 0.5
    assert expected[255] > 254.5, "black stays black, white stays white"


def slow_photometric(image: np.ndarray, delta: float, contrast: float, first: bool, saturation: float, turn: int):
    out = (image.astype(float) + delta).clip(0, 255)
    if first:
        out = (out * contrast).clip(0, 255)
    for place in np.ndindex(out.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(out[place] / 255))
        out[place] = np.multiply(colorsys.hsv_to_rgb((h + turn / 180) % 1, min(1, s * saturation), v), 255)
    return out if first else (out * contrast).clip(0, 255)


ON = (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("numbers", "means", "most", "mean"),
    [
        ((0, 1, 1, 1, 0, 0.9, 0, 0, 0), (25.6, 1, True, 1, 0), 0.5001, 0.5),
        ((1, 0, 1, 1, 0, 0, 0.9, 0, 0), (0, 1.4, True, 1, 0), 0.5001, 0.5),
        ((0, 0, 1, 1, 0, 0.1, 0.2, 0, 0), (-25.6, 0.7, True, 1, 0), 0.5001, 0.5),
        ((0, 0, 1, 1, 0.7, 0.1, 0.2, 0, 0), (-25.6, 0.7, False, 1, 0), 1.5, 0.6),
        # uint8 HSV holds hue in steps of 2 degrees, half of one is 255 / 60 of a colour at most
        ((1, 1, 0, 1, 0, 0, 0, 0.1, 0), (0, 1, True, 0.6, 0), 5.5, 1.5),
        ((1, 1, 1, 0, 0, 0, 0, 0, 0.999), (0, 1, True, 1, 18), 5.5, 1.5),
        ((1, 1, 1, 0, 0, 0, 0, 0, 0), (0, 1, True, 1, -18), 5.5, 1.5),
        ((*ON, 0, 0.8, 0.4, 0.9, 0.7), (19.2, 0.9, True, 1.4, 7), 6.5, 1.5),
        ((*ON, 0.5, 0.8, 0.8, 0.2, 0.7), (19.2, 1.3, False, 0.7, 7), 8, 2),
    ],
)
def test_photometric_distortion_is_what_its_description_says(numbers, means, most, mean):
    image = noise((20, 25))
    expected = slow_photometric(image, *means)
    found = distorted(image, Photometric(), np.array(numbers, float))
    assert found.dtype == np.uint8
    assert gap(found, expected) <= most
    assert np.abs(found - expected).mean() <= mean


def test_every_step_of_photometric_distortion_comes_half_of_the_time():
    grey, color = np.full((1, 1, 3), 100, np.uint8), np.array([[[200, 90, 40]]], np.uint8)
    only = {"brightness": 0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0}
    for what, value, image in (
        ("brightness", 32, grey),
        ("contrast", (0.5, 0.8), grey),
        ("saturation", (0.3, 0.6), color),
        ("hue", 18, color),
    ):
        cfg = Photometric.model_validate(only | {what: value})
        numbers = np.random.default_rng(1).random((600, PHOTOMETRIC_NUMBERS))
        changed = np.mean([(distorted(image, cfg, row) != image).any() for row in numbers])
        assert 0.4 < changed < 0.56, what


@pytest.mark.parametrize("factor", [0, 0.5, 2, 3.7])
def test_sharpness_goes_away_from_a_smoothed_image(factor):
    image = noise()
    smooth = image.astype(float)
    padded = np.pad(smooth, ((1, 1), (1, 1), (0, 0)))
    rows, columns = image.shape[:2]
    around = sum(padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)) + 4 * smooth
    smooth[1:-1, 1:-1] = around[1:-1, 1:-1] / 13
    expected = (smooth + factor * (image - smooth)).clip(0, 255)
    found = sharpened(image, Sharpness(factor=factor), 0)
    assert gap(found, expected) <= 0.5001
    theirs = tv.adjust_sharpness(torch.from_numpy(image).permute(2, 0, 1), factor).permute(1, 2, 0).numpy()
    assert gap(found, theirs) <= 2 + factor  # they round the smoothed image first, and cut fractions off


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.1), (3, 2), (5, 1.1), (9, 2)])
def test_blur_is_gaussian(kernel, sigma):
    image = noise()
    places = np.arange(kernel) - kernel // 2
    weights = np.exp(-(places**2) / (2 * sigma**2))
    weights /= weights.sum()
    blurry = image.astype(float)
    for axis in (0, 1):
        sides = [(kernel // 2,) * 2 if k == axis else (0, 0) for k in range(3)]
        padded = np.pad(blurry, sides, mode="reflect")
        length = image.shape[axis]
        blurry = sum(w * padded.take(range(k, k + length), axis) for k, w in enumerate(weights))
    found = blurred(image, Blur(kernel=kernel, sigma=(sigma, sigma)), np.zeros(BLUR_NUMBERS))
    assert gap(found, blurry) <= 1.5  # OpenCV's weights for bytes are whole 256ths
    theirs = tv.gaussian_blur(torch.from_numpy(image).permute(2, 0, 1), [kernel] * 2, [sigma] * 2)
    assert gap(found, theirs.permute(1, 2, 0).numpy()) <= 2


def test_the_blur_is_drawn_between_its_bounds():
    image = noise()
    weak, strong = (
        blurred(image, Blur(kernel=7, sigma=(0.5, 2)), np.array([0, number])).astype(float).std() for number in (0, 1)
    )
    assert image.std() > weak > 1.5 * strong


# --- off, and alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "off",
    [
        {"sharpness": Sharpness(chance=0)},
        {"sharpness": Sharpness(factor=1, chance=1)},
        {"lighting": Lighting(chance=0)},
        {"photometric": Photometric(chance=0)},
        {"blur": Blur(chance=0)},
        {"hue": 0},
    ],
    ids=str,
)
def test_a_change_that_is_off_costs_no_bit(off):
    sample = Sample(noise(), np.zeros((40, 50), np.uint8), "noise")
    for options in (PLAIN | {"flip": 0, "scale": (1, 1), "crop": (40, 50)}, {"crop": 30}):
        for seed in range(5):
            without, with_it = (
                augment(sample, np.random.default_rng(seed), AugmentConfig(**options, **more)) for more in ({}, off)
            )
            assert (without.image == with_it.image).all()
    untouched = augment(sample, np.random.default_rng(0), AugmentConfig(**PLAIN, flip=0, scale=(1, 1), crop=(40, 50)))
    assert (untouched.image == sample.image).all()


@pytest.mark.parametrize("what", EVERYTHING)
def test_switching_one_change_moves_no_other(what):
    """All else stays as drawn: only the change itself makes the difference, and the masks of colours are the same."""
    sample = Sample(noise((90, 80)), noise((90, 80), 1)[..., 0] // 90, "noise")
    all_on = EVERYTHING | {"sharpness": Sharpness(chance=1), "lighting": Lighting(chance=1)}
    cfg, less = (
        AugmentConfig(crop=50, **all_on),
        AugmentConfig(crop=50, **{k: v for k, v in all_on.items() if k != what}),
    )
    same, again, other = (augment(sample, np.random.default_rng(5), each) for each in (cfg, cfg, less))
    assert (same.image == again.image).all()
    assert (same.image != other.image).any()
    assert (same.mask == again.mask).all()
    if what != "warp":
        assert (same.mask == other.mask).all()


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (33, 20)])
def test_any_channels_and_sizes(channels, size):
    sample = Sample(noise(size, channels), np.zeros(size, np.uint8), "noise")
    everything = EVERYTHING | {"sharpness": Sharpness(chance=1), "photometric": Photometric(chance=1)}
    image = augment(sample, np.random.default_rng(0), AugmentConfig(crop=24, **everything)).image
    assert (image.shape, image.dtype) == ((24, 24, channels), np.uint8)


def test_saturation_hue_and_hsv_are_for_rgb_only():
    image = noise(channels=4)
    assert (jittered(image, 1, 1, 2, 0.3) == image).all()
    assert (distorted(image, Photometric(), np.array([1, 1, 0, 0, *[0.9] * 5])) == image).all()


def test_the_arrays_given_are_never_written_to():
    image = noise()
    image.flags.writeable = False
    for changed in (
        jittered(image, 1.1, 0.9, 1.2, 0.1),
        lit(image, Lighting(), np.zeros(LIGHTING_NUMBERS)),
        distorted(image, Photometric(), np.zeros(PHOTOMETRIC_NUMBERS)),
        sharpened(image, Sharpness(), 0),
        blurred(image, Blur(), np.full(BLUR_NUMBERS, 0.9)),
    ):
        assert (changed != image).any()
    assert (image == noise()).all()


# --- the workflows ----------------------------------------------------------------------------------------------------


def test_the_augmentations_of_the_workflows_are_recipes():
    w2 = {
        "crop": None,
        "base": {"kind": "exact", "height": 128, "width": 256},
        "scale": [1, 1],
        "flip": 0.5,
        "warp": {"rotate": 10, "perspective": 0.2, "zoom": [1, 1.1], "chance": 0.75, "outside": "mirror"},
        "lighting": {"amount": 0.2, "chance": 0.75},
        **PLAIN,
    }
    w4 = {
        "crop": None,
        "base": {"kind": "exact", "height": 256, "width": 256},
        "scale": [1, 1],
        "flip": 0.5,
        "sharpness": {"factor": 2, "chance": 0.5},
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "hue": 0.2,
        "blur": {"kernel": 3, "sigma": [0.1, 2]},
    }
    w1 = {
        "crop": 512,
        "base": {"kind": "fit", "short": 512, "long": 2048},
        "scale": [0.5, 2],
        "cat_max_ratio": 0.75,
        "flip": 0.5,
        "photometric": {},
        **PLAIN,
    }
    sample = Sample(noise((96, 130)), np.zeros((96, 130), np.uint8), "noise")
    for options, size in ((w2, (128, 256)), (w4, (256, 256)), (w1, (512, 512))):
        made = [augment(sample, np.random.default_rng(k), AugmentConfig.model_validate(options)) for k in range(3)]
        assert all(mask.shape == size for _, mask, _ in made)
        assert (made[0].image != made[1].image).any()
    assert Photometric() == Photometric(brightness=32, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=18, chance=0.5)
