"""Colours of training images: uint8 in, uint8 out, by tables and small matrices wherever the definition allows it."""

from math import cos, exp, log, pi, sin
from typing import Annotated, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from terrazzo.base import Config, Image, InputError
from terrazzo.data.geometry import Chance, in_fours

Numbers = NDArray[np.float64]
"""Evenly drawn in [0, 1)."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Brightness of red, green, blue (ITU-R BT.601)."""

TO_YUV = np.array([LUMA, 0.492 * (np.array([0, 0, 1]) - LUMA), 0.877 * (np.array([1, 0, 0]) - LUMA)])
"""RGB to brightness and two colour axes (ITU-R BT.470): hue is the angle in their plane, saturation the distance."""

FROM_YUV = np.linalg.inv(TO_YUV)


class Lighting(Config):
    """Brightness and contrast changed between black and white without clipping: in log-odds, as fastai does."""

    amount: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Brightness: mid-grey becomes at most so much lighter or darker, relatively. Contrast: from 1 - amount to its
    inverse."""
    chance: Chance = 0.75
    """Of each of the two."""


class Photometric(Config):
    """Photometric distortion as MMSegmentation describes it: brightness, contrast, saturation, hue, each by chance.

    Contrast comes before or after saturation and hue, by the toss of a coin; those two are of HSV.
    """

    brightness: Annotated[float, Field(ge=0, le=255)] = 32
    """Greatest value added or subtracted."""
    contrast: tuple[PositiveFloat, PositiveFloat] = (0.5, 1.5)
    """Least and greatest factor."""
    saturation: tuple[NonNegativeFloat, NonNegativeFloat] = (0.5, 1.5)
    """Least and greatest factor."""
    hue: Annotated[int, Field(ge=0, le=90)] = 18
    """Greatest turn in steps of 2 degrees, of which a circle has 180."""
    chance: Chance = 0.5
    """Of each of the four."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, span in (("contrast", self.contrast), ("saturation", self.saturation)):
            _check_span(f"photometric.{name}", span)
        return self


class Sharpness(Config):
    """Sharper, or softer: away from, or towards, the image under a small smoothing filter."""

    factor: NonNegativeFloat = 2.0
    """0 gives the smoothed image, 1 changes nothing, 2 goes as far beyond."""
    chance: Chance = 0.5
    """Of being changed."""


class Blur(Config):
    """Gaussian blur."""

    kernel: PositiveInt = 3
    """Width of the filter in pixels, odd."""
    sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    """Least and greatest standard deviation in pixels, drawn evenly."""
    chance: Chance = 1.0
    """Of being blurred."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kernel % 2 == 0 or self.kernel == 1:
            raise InputError(f"blur.kernel={self.kernel} must be odd and at least 3, so that it has a middle")
        _check_span("blur.sigma", self.sigma)
        return self


def _check_span(name: str, span: tuple[float, float]) -> None:
    if span[0] > span[1]:
        raise InputError(f"{name}: {list(span)} must be [least, greatest]")


def jittered(image: Image, brightness: float, contrast: float, saturation: float, hue: float) -> Image:
    """Factors, and a turn of the hue in circles: brightness, then contrast around mid-grey by one table; saturation
    and hue of RGB images by one matrix that keeps the luma."""
    if brightness != 1 or contrast != 1:
        image = _by_table(image, (np.arange(256) * brightness - 127.5) * contrast + 127.5)
    if (saturation != 1 or hue != 0) and image.shape[2] == 3:
        along, across = saturation * cos(2 * pi * hue), saturation * sin(2 * pi * hue)
        turn = np.array([[1, 0, 0], [0, along, -across], [0, across, along]])
        image = np.asarray(cv2.transform(image, FROM_YUV @ turn @ TO_YUV), np.uint8)
    return image


LIGHTING_NUMBERS = 4


def lit(image: Image, cfg: Lighting | None, numbers: Numbers) -> Image:
    """Lighting by one table: log-odds of the pixel, plus brightness, times contrast, and back."""
    if cfg is None:
        return image
    brightens, contrasts = (numbers[:2] < cfg.chance).tolist()
    light, depth = (2 * numbers[2:] - 1).tolist()
    if not (brightens or contrasts):
        return image
    middle = 0.5 * (1 + cfg.amount * light) if brightens else 0.5
    contrast = exp(-log(1 - cfg.amount) * depth) if contrasts else 1.0
    value = (np.arange(256) / 255).clip(1e-7, 1 - 1e-7)
    odds = (np.log(value / (1 - value)) + log(middle / (1 - middle))) * contrast
    return _by_table(image, 255 / (1 + np.exp(-odds)))


PHOTOMETRIC_NUMBERS = 9


def distorted(image: Image, cfg: Photometric | None, numbers: Numbers) -> Image:
    """Photometric distortion; of images that are not RGB, brightness and contrast only."""
    if cfg is None:
        return image
    brightens, contrasts, saturates, turns = (numbers[:4] < cfg.chance).tolist()
    contrast_first = bool(numbers[4] < 0.5)
    light, depth, color, turn = numbers[5:].tolist()
    delta = cfg.brightness * (2 * light - 1) if brightens else 0.0
    contrast = _between(cfg.contrast, depth) if contrasts else 1.0
    first = contrast if contrast_first else 1.0
    if delta or first != 1:
        image = _by_table(image, (np.arange(256) + delta).clip(0, 255) * first)
    saturation = _between(cfg.saturation, color) if saturates else 1.0
    steps = int(turn * (2 * cfg.hue + 1)) - cfg.hue if turns else 0
    if (saturation != 1 or steps) and image.shape[2] == 3:
        image = _hsv_changed(image, saturation=saturation, turn=steps)
    if contrast != 1 and not contrast_first:
        image = _by_table(image, np.arange(256) * contrast)
    return image


def _hsv_changed(image: Image, *, saturation: float, turn: int) -> Image:
    values = np.arange(256)
    tables = np.stack([(values + turn) % 180, np.rint((values * saturation).clip(0, 255)), values], 1)
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables.astype(np.uint8)[None])
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def sharpened(image: Image, cfg: Sharpness | None, number: float) -> Image:
    """One 3x3 filter; the outermost pixels stay as they are (as in Pillow's and torchvision's sharpness)."""
    if cfg is None or number >= cfg.chance or cfg.factor == 1 or min(image.shape[:2]) < 3:
        return image
    smooth = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = (1 - cfg.factor) * smooth
    kernel[1, 1] += cfg.factor
    out = in_fours(image, lambda four: cv2.filter2D(four, -1, kernel))
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        out[edge] = image[edge]
    return out


BLUR_NUMBERS = 2


def blurred(image: Image, cfg: Blur | None, numbers: Numbers) -> Image:
    """Gaussian blur; beyond its edges the image is mirrored."""
    if cfg is None or numbers[0] >= cfg.chance:
        return image
    sigma, side = _between(cfg.sigma, float(numbers[1])), (cfg.kernel, cfg.kernel)
    return in_fours(image, lambda four: cv2.GaussianBlur(four, side, sigma, borderType=cv2.BORDER_REFLECT_101))


def _between(span: tuple[float, float], number: float) -> float:
    return span[0] + (span[1] - span[0]) * number


def _by_table(image: Image, table: NDArray[np.floating]) -> Image:
    """Every value replaced by its entry, rounded and cut to 0..255."""
    whole = np.rint(table.clip(0, 255)).astype(np.uint8)
    return np.asarray(cv2.LUT(image, whole), np.uint8).reshape(image.shape)
