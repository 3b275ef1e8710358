"""What images go through on their way to the network: sizes for evaluation, (sample, rng) -> sample for training."""

from typing import Annotated, Literal, NamedTuple, Self, assert_never

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from terrazzo.base import IGNORE, Config, Image, InputError, Mask, Sample

Size = tuple[int, int]
"""Height and width in pixels."""

PAD_COLOR = (124, 116, 104)
"""RGB of padding: the mean of ImageNet, so that it is about zero after normalisation."""

TRIES = 10
"""Crops drawn at most while one class fills more than `cat_max_ratio`."""

Chance = Annotated[float, Field(ge=0, le=1)]


class Keep(Config):
    """The image's own size."""

    kind: Literal["keep"] = "keep"


class ShortSide(Config):
    """The short side gets so many pixels, the aspect stays."""

    kind: Literal["short_side"] = "short_side"
    pixels: PositiveInt
    """Of the short side."""


class Fit(Config):
    """As large as fits into `short` x `long`, the aspect stays."""

    kind: Literal["fit"] = "fit"
    short: PositiveInt
    """Most pixels of the short side."""
    long: PositiveInt
    """Most pixels of the long side."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.short > self.long:
            raise InputError(f"resize: short={self.short} is longer than long={self.long}; exchange them")
        return self


class Exact(Config):
    """This size whatever the image's was: the aspect is squashed."""

    kind: Literal["exact"] = "exact"
    height: PositiveInt
    """Pixels."""
    width: PositiveInt
    """Pixels."""


ResizeConfig = Annotated[Keep | ShortSide | Fit | Exact, Field(discriminator="kind")]


class AugmentConfig(Config):
    """Training samples: resized at random, cropped, flipped, coloured. All are exactly as large as `crop`."""

    crop: PositiveInt | tuple[PositiveInt, PositiveInt] = 512
    """Height and width of every sample in pixels, or one number for both; smaller images are padded."""
    base: ResizeConfig = Keep()
    """The size that `scale` refers to."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Least and greatest enlargement, drawn evenly."""
    cat_max_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Another crop is drawn, up to 10 times, while one class has more than this share of the crop's valid pixels."""
    flip: Chance = 0.5
    """Chance of left and right being exchanged."""
    brightness: Chance = 0.2
    """Greatest relative change; 0 switches it off."""
    contrast: Chance = 0.2
    """Greatest relative change around mid-grey; 0 switches it off."""
    saturation: Chance = 0.2
    """Greatest relative change of RGB images; 0 switches it off."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise InputError(f"augment.scale: {list(self.scale)} must be [least, greatest]")
        return self


def resized(size: Size, cfg: ResizeConfig) -> Size:
    """Height and width that an image of `size` gets; at least one pixel each."""
    height, width = size
    match cfg:
        case Keep():
            return size
        case ShortSide(pixels=pixels):
            return _scaled(size, pixels / min(size))
        case Fit(short=short, long=long):
            return _scaled(size, min(long / max(size), short / min(size)))
        case Exact(height=height, width=width):
            return height, width
        case _:
            assert_never(cfg)


def resize_image(image: Image, cfg: ResizeConfig) -> Image:
    """The image [H, W, C] at its size for evaluation; the same array if nothing changes."""
    return _resize(image, resized((image.shape[0], image.shape[1]), cfg))


def augment(sample: Sample, rng: np.random.Generator, cfg: AugmentConfig) -> Sample:
    """A training sample of exactly cfg.crop, uint8; drawn from `rng` alone.

    Only the part of the image that ends up in the crop is resized. Image and mask are cut by one rectangle.
    """
    image, mask, name = sample
    crop = (cfg.crop, cfg.crop) if isinstance(cfg.crop, int) else cfg.crop
    size = _scaled(resized((mask.shape[0], mask.shape[1]), cfg.base), rng.uniform(*cfg.scale))
    flip = rng.random() < cfg.flip
    gains = 1 + rng.uniform(-1, 1, 3) * (cfg.brightness, cfg.contrast, cfg.saturation)
    window, mask = _draw_crop(mask, size, crop, rng, cfg.cat_max_ratio)
    image = _recolored(_resize(window.of(image), (mask.shape[0], mask.shape[1])), gains)
    if flip:
        image, mask = _flipped(image), _flipped(mask)
    if mask.shape != crop:
        image, mask = _padded(image, crop), _padded(mask, crop)
    return Sample(image, mask, name)


class Window(NamedTuple):
    """A rectangle of the source image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


def _draw_crop(
    mask: Mask, size: Size, crop: Size, rng: np.random.Generator, cat_max_ratio: float
) -> tuple[Window, Mask]:
    """The source rectangle of a crop out of the image resized to `size`, and its mask at the crop's scale."""
    height, width = mask.shape
    target = (min(crop[0], size[0]), min(crop[1], size[1]))
    rows = max(1, round(target[0] * height / size[0]))
    columns = max(1, round(target[1] * width / size[1]))
    for _ in range(TRIES):
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        window = Window(top, left, rows, columns)
        cut = resize_mask(window.of(mask), target)
        if cat_max_ratio == 1 or (rows, columns) == (height, width):
            break
        counts = cv2.calcHist([cut], [0], None, [256], [0, 256])[:IGNORE]
        if 0 < counts.max() <= cat_max_ratio * counts.sum():
            break
    return window, cut


def _scaled(size: Size, factor: float) -> Size:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _resize(image: Image, size: Size) -> Image:
    """Bilinear; averaging areas where more than 2 source pixels would fall on one, for then bilinear skips some.

    Below that, averaging costs 7 times as much and bilinear still reads every pixel (at exactly 2 they are the same).
    """
    height, width, channels = image.shape
    if (height, width) == size:
        return image
    method = cv2.INTER_AREA if height > 2 * size[0] or width > 2 * size[1] else cv2.INTER_LINEAR
    parts = [  # of 4 channels: OpenCV averages no more at once
        np.asarray(cv2.resize(image[..., k : k + 4], size[::-1], interpolation=method), np.uint8).reshape(*size, -1)
        for k in range(0, channels, 4)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def resize_mask(mask: Mask, size: Size) -> Mask:
    """A mask at `size` = (height, width), nearest by pixel centres as images are resized; cv2.INTER_NEAREST is half a
    pixel beside them."""
    if mask.shape == size:
        return np.ascontiguousarray(mask)
    return np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _recolored(image: Image, gains: NDArray[np.float64]) -> Image:
    """Brightness and contrast by one table, saturation by one matrix that keeps the luma (ITU-R BT.601)."""
    brightness, contrast, saturation = gains.tolist()
    if brightness != 1 or contrast != 1:
        table = (np.arange(256) * brightness - 127.5) * contrast + 127.5
        image = np.asarray(cv2.LUT(image, np.rint(table.clip(0, 255)).astype(np.uint8)), np.uint8).reshape(image.shape)
    if saturation != 1 and image.shape[2] == 3:
        matrix = np.diag([saturation] * 3) + (1 - saturation) * np.array([0.299, 0.587, 0.114])
        image = np.asarray(cv2.transform(image, matrix), np.uint8)
    return image


def _flipped(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.flip(array, 1), np.uint8).reshape(array.shape)


def _padded(array: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Filled up at the bottom and right: images with PAD_COLOR, masks with IGNORE."""
    height, width = array.shape[:2]
    out = np.empty((*size, *array.shape[2:]), np.uint8)
    out[:height, :width] = array
    filling = IGNORE if array.ndim == 2 else PAD_COLOR if array.shape[2] == 3 else PAD_COLOR[1]
    out[height:] = filling
    out[:height, width:] = filling
    return out
