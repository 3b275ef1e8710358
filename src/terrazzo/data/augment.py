"""What images go through on their way to the network: sizes for evaluation, (sample, rng) -> sample for training."""

from typing import Annotated, Literal, NamedTuple, Self, assert_never

import cv2
import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from terrazzo.base import IGNORE, Config, Image, InputError, Mask, Sample
from terrazzo.data.facts import Position
from terrazzo.data.geometry import (
    LEAN_NUMBERS,
    STRAIGHT,
    Chance,
    Lean,
    Matrix,
    Size,
    Warp,
    Window,
    at_source,
    drawn_lean,
    flipped,
    in_fours,
    padded,
    shows,
    to_source,
    warped_image,
    warped_mask,
)
from terrazzo.data.photometry import (
    BLUR_NUMBERS,
    LIGHTING_NUMBERS,
    PHOTOMETRIC_NUMBERS,
    Blur,
    Lighting,
    Numbers,
    Photometric,
    Sharpness,
    blurred,
    distorted,
    jittered,
    lit,
    sharpened,
)

TRIES = 10
"""Crops drawn at most while one class fills more than `cat_max_ratio`."""


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
    """Training samples: resized at random, cropped, warped, flipped, coloured. All are exactly as large as `crop`."""

    crop: PositiveInt | tuple[PositiveInt, PositiveInt] | None = 512
    """Height and width of every sample in pixels, or one number for both; smaller images are padded. Null: samples are
    whole images, all of the one size that `base` {kind: exact} gives them."""
    base: ResizeConfig = Keep()
    """The size that `scale` refers to."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Least and greatest enlargement, drawn evenly."""
    cat_max_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Another crop is drawn, up to 10 times, while one class has more than this share of the crop's valid pixels."""
    warp: Warp | None = None
    """Rotation, shear, perspective and zoom of the crop."""
    flip: Chance = 0.5
    """Chance of left and right being exchanged."""
    sharpness: Sharpness | None = None
    """Sharpening or softening."""
    brightness: Chance = 0.2
    """Greatest relative change; 0 switches it off."""
    contrast: Chance = 0.2
    """Greatest relative change around mid-grey; 0 switches it off."""
    saturation: Chance = 0.2
    """Greatest relative change of RGB images; 0 switches it off."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0
    """Greatest turn of the hue of RGB images, in circles (0.5: any hue); 0 switches it off."""
    lighting: Lighting | None = None
    """Brightness and contrast in log-odds."""
    photometric: Photometric | None = None
    """MMSegmentation's photometric distortion."""
    blur: Blur | None = None
    """Gaussian blur."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise InputError(f"augment.scale: {list(self.scale)} must be [least, greatest]")
        if self.crop is None:
            if not isinstance(self.base, Exact):
                raise InputError(
                    f"augment.crop is null, so every sample is a whole image, and augment.base {self.base.kind} gives "
                    "images of different sizes; write base: {kind: exact, height: ..., width: ...}, or a crop"
                )
            for name, value, nothing in (("scale", list(self.scale), [1, 1]), ("cat_max_ratio", self.cat_max_ratio, 1)):
                if value != nothing:
                    raise InputError(
                        f"augment.crop is null, so nothing is cut out and augment.{name}={value} would change nothing; "
                        f"write {name}: {nothing}, or a crop"
                    )
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


def augment(sample: Sample, rng: np.random.Generator, cfg: AugmentConfig, focus: Position | None = None) -> Sample:
    """A training sample of exactly cfg.crop, uint8; drawn from `rng` alone.

    Only the part of the image that ends up in the crop is read. Image and mask are seen through one `View`. Every
    change takes its share of the drawn numbers whether it is on or off, so that switching one moves no other.
    With a `focus`, a pixel of the image, the crop is cut out around it; a warp can turn what lies at the image's edge
    out of sight.
    """
    image, mask, name = sample
    crop = _crop_size(cfg)
    size = _scaled(resized((mask.shape[0], mask.shape[1]), cfg.base), rng.uniform(*cfg.scale))
    flip = bool(rng.random() < cfg.flip)
    lean = drawn_lean(cfg.warp, rng.random(LEAN_NUMBERS))
    colors = _drawn_colors(rng)
    view, mask = _draw_view(mask, size, crop, rng, cfg, flip=flip, lean=lean, focus=focus)
    image = _recolored(view.image(image), cfg, colors)
    if mask.shape != crop:
        image, mask = padded(image, crop), padded(mask, crop)
    return Sample(image, mask, name)


class View(NamedTuple):
    """How a sample is seen in its image: through which window, at which size, turned or warped."""

    window: Window
    size: Size
    flip: bool
    warp: Matrix | None = None
    """Replaces window and flip, which are composed in it."""
    mirror: bool = False
    """Beyond the image a warp sees its mirror image, not padding."""

    def image(self, image: Image) -> Image:
        if self.warp is not None:
            return warped_image(image, self.warp, self.size, mirror=self.mirror)
        seen = _resize(self.window.of(image), self.size)
        return flipped(seen) if self.flip else seen

    def mask(self, mask: Mask) -> Mask:
        if self.warp is not None:
            return warped_mask(mask, self.warp, self.size, mirror=self.mirror)
        seen = resize_mask(self.window.of(mask), self.size)
        return flipped(seen) if self.flip else seen


def _crop_size(cfg: AugmentConfig) -> Size:
    if cfg.crop is None:
        assert isinstance(cfg.base, Exact), "AugmentConfig lets only these go without a crop"
        return cfg.base.height, cfg.base.width
    return (cfg.crop, cfg.crop) if isinstance(cfg.crop, int) else cfg.crop


def _draw_view(
    mask: Mask,
    size: Size,
    crop: Size,
    rng: np.random.Generator,
    cfg: AugmentConfig,
    *,
    flip: bool,
    lean: Lean | None,
    focus: Position | None,
) -> tuple[View, Mask]:
    """A crop out of the image resized to `size`, and its mask."""
    height, width = mask.shape
    target = (min(crop[0], size[0]), min(crop[1], size[1]))
    rows = max(1, round(target[0] * height / size[0]))
    columns = max(1, round(target[1] * width / size[1]))
    mirror = cfg.warp is not None and cfg.warp.outside == "mirror"
    for _ in range(TRIES):
        if focus is None:
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        else:  # any pixel of the crop shows it, or would if the window could leave the image
            in_corner = to_source(Window(0, 0, rows, columns), target, lean or STRAIGHT, flip=flip)
            row, column = at_source((int(rng.integers(target[0])), int(rng.integers(target[1]))), in_corner)
            top, left = min(max(0, focus[0] - row), height - rows), min(max(0, focus[1] - column), width - columns)
        window = Window(top, left, rows, columns)
        warp = to_source(window, target, lean, flip=flip) if lean else None
        view = View(window, target, flip, warp, mirror)
        seen = view.mask(mask)
        if (rows, columns) == (height, width):
            break
        if focus is not None and warp is not None and not shows(focus, warp, target):
            continue
        if cfg.cat_max_ratio == 1 or _is_mixed(seen, cfg.cat_max_ratio):
            break
    return view, seen


def _is_mixed(mask: Mask, ratio: float) -> bool:
    """Whether something is counted, and no class has more than its share of it."""
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256])[:IGNORE]
    return bool(0 < counts.max() <= ratio * counts.sum())


class Colors(NamedTuple):
    """What chance says about the colours of a sample."""

    jitter: Numbers
    """In -1..1: brightness, contrast, saturation, hue."""
    sharpness: float
    lighting: Numbers
    photometric: Numbers
    blur: Numbers


def _drawn_colors(rng: np.random.Generator) -> Colors:
    return Colors(
        rng.uniform(-1, 1, 4),
        rng.random(),
        rng.random(LIGHTING_NUMBERS),
        rng.random(PHOTOMETRIC_NUMBERS),
        rng.random(BLUR_NUMBERS),
    )


def _recolored(image: Image, cfg: AugmentConfig, drawn: Colors) -> Image:
    brightness, contrast, saturation, hue = drawn.jitter.tolist()
    image = sharpened(image, cfg.sharpness, drawn.sharpness)
    image = jittered(
        image,
        1 + brightness * cfg.brightness,
        1 + contrast * cfg.contrast,
        1 + saturation * cfg.saturation,
        hue * cfg.hue,
    )
    image = lit(image, cfg.lighting, drawn.lighting)
    image = distorted(image, cfg.photometric, drawn.photometric)
    return blurred(image, cfg.blur, drawn.blur)


def _scaled(size: Size, factor: float) -> Size:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _resize(image: Image, size: Size) -> Image:
    """Bilinear; averaging areas where more than 2 source pixels would fall on one, for then bilinear skips some.

    Below that, averaging costs 7 times as much and bilinear still reads every pixel (at exactly 2 they are the same).
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    method = cv2.INTER_AREA if height > 2 * size[0] or width > 2 * size[1] else cv2.INTER_LINEAR
    return in_fours(image, lambda four: cv2.resize(four, size[::-1], interpolation=method))


def resize_mask(mask: Mask, size: Size) -> Mask:
    """A mask at `size` = (height, width), nearest by pixel centres as images are resized; cv2.INTER_NEAREST is half a
    pixel beside them."""
    if mask.shape == size:
        return np.ascontiguousarray(mask)
    return np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
