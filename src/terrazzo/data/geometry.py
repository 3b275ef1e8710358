"""Rotation, shear, perspective and zoom: one warp from the source to the crop, the same one for image and mask."""

from collections.abc import Callable
from math import ceil, cos, floor, radians, sin, tan
from typing import Annotated, Literal, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, model_validator

from terrazzo.base import IGNORE, Config, InputError
from terrazzo.data.facts import Position

Size = tuple[int, int]
"""Height and width in pixels."""

Matrix = NDArray[np.float64]
"""3x3, from pixel centres (x, y, 1) of what comes out to those of what is read."""

PAD_COLOR = (124, 116, 104)
"""RGB of padding: the mean of ImageNet, so that it is about zero after normalisation."""

LEAN_NUMBERS = 11
"""Evenly drawn numbers in [0, 1) that `drawn_lean` asks for."""

Chance = Annotated[float, Field(ge=0, le=1)]


class Warp(Config):
    """Rotation, shear, perspective and zoom of the crop, each by chance; together one warp."""

    rotate: Annotated[float, Field(ge=0, le=180)] = 0
    """Greatest turn in degrees, to either side."""
    shear: Annotated[float, Field(ge=0, le=60)] = 0
    """Greatest lean of upright lines in degrees, to either side."""
    perspective: Annotated[float, Field(ge=0, le=0.4)] = 0
    """Greatest tilt: one edge sees so much more of the image, as a share of its length, and the opposite one less."""
    zoom: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    """Least and greatest enlargement, drawn evenly, at a random place of the crop."""
    chance: Chance = 1.0
    """Of each of the four, drawn one by one."""
    outside: Literal["ignore", "mirror"] = "ignore"
    """What lies beyond the image: padding that no loss counts, or image and labels mirrored."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.zoom[0] > self.zoom[1]:
            raise InputError(f"warp.zoom: {list(self.zoom)} must be [least, greatest]")
        if not (self.rotate or self.shear or self.perspective) and self.zoom == (1, 1):
            raise InputError("warp: rotate, shear, perspective and zoom are all off; set one, or leave warp out")
        return self


class Lean(NamedTuple):
    """One draw of a `Warp`."""

    angle: float
    """Radians."""
    shear: float
    """Tangent."""
    tilt: tuple[float, float]
    """In x and y."""
    zoom: float
    place: tuple[float, float]
    """Where in the room that the zoom leaves, -1..1 in x and y."""


STRAIGHT = Lean(0, 0, (0, 0), 1, (0, 0))


class Window(NamedTuple):
    """A rectangle of the source image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


def drawn_lean(cfg: Warp | None, numbers: NDArray[np.float64]) -> Lean | None:
    """The warp of one sample, from LEAN_NUMBERS numbers; None if it is straight."""
    if cfg is None:
        return None
    turns, leans, tilts, zooms = (numbers[:4] < cfg.chance).tolist()
    angle, lean, tilt_x, tilt_y, x, y = (2 * numbers[4:10] - 1).tolist()
    drawn = Lean(
        radians(cfg.rotate * angle) if turns else 0,
        tan(radians(cfg.shear * lean)) if leans else 0,
        (cfg.perspective * tilt_x, cfg.perspective * tilt_y) if tilts else (0, 0),
        cfg.zoom[0] + (cfg.zoom[1] - cfg.zoom[0]) * float(numbers[10]) if zooms else 1,
        (x, y),
    )
    return None if drawn._replace(place=(0, 0)) == STRAIGHT else drawn


def to_source(window: Window, size: Size, lean: Lean, *, flip: bool) -> Matrix:
    """From the pixels of a crop of `size` to those of the image that it is seen in, through `window`."""
    height, width = size
    step_x, step_y = window.width / width, window.height / height
    x, y = (width - 1) / 2, (height - 1) / 2  # the centre
    place = np.array(
        [
            [step_x, 0, window.left + (x + 0.5) * step_x - 0.5],
            [0, step_y, window.top + (y + 0.5) * step_y - 0.5],
            [0, 0, 1],
        ]
    )
    to_centre = np.array([[-1, 0, x] if flip else [1, 0, -x], [0, 1, -y], [0, 0, 1]])
    matrix: Matrix = place @ _leaning(lean, size) @ to_centre
    return matrix


def at_source(position: Position, matrix: Matrix) -> Position:
    """The pixel of the source that a pixel of the crop is read from, as nearest neighbours go."""
    x, y, depth = (matrix @ (position[1], position[0], 1)).tolist()
    return floor(y / depth + 0.5), floor(x / depth + 0.5)


def shows(position: Position, matrix: Matrix, size: Size) -> bool:
    """Whether a crop of `size` that is seen through `matrix` shows a pixel of the source."""
    y, x = at_source(position, np.asarray(np.linalg.inv(matrix), np.float64))
    return 0 <= y < size[0] and 0 <= x < size[1]


def _leaning(lean: Lean, size: Size) -> Matrix:
    """Around the centre, in pixels of the crop. The tilt comes first: its denominator then has no zero in the crop."""
    half = np.array([size[1], size[0]]) / 2
    tilt: Matrix = np.eye(3)
    if any(lean.tilt):
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        moved = corners - np.outer(corners.prod(1), lean.tilt)
        here, there = ((points * half).astype(np.float32) for points in (corners, moved))
        tilt = np.asarray(cv2.getPerspectiveTransform(here, there), np.float64)
    turn = np.array([[cos(lean.angle), -sin(lean.angle)], [sin(lean.angle), cos(lean.angle)]])
    affine = np.eye(3)
    affine[:2, :2] = turn @ np.array([[1, lean.shear], [0, 1]]) / lean.zoom
    affine[:2, 2] = half * lean.place * (1 - 1 / lean.zoom)
    matrix: Matrix = affine @ tilt
    return matrix


def warped_image(image: NDArray[np.uint8], matrix: Matrix, size: Size, *, mirror: bool) -> NDArray[np.uint8]:
    """[H, W, C] seen through `matrix`, bilinear; averaged before where more than 2 pixels would fall on one."""
    part, matrix = _seen_part(image, matrix, size, mirror=mirror)
    down, across = _shrinkage(matrix, size)
    if max(down, across) > 2:
        height, width = part.shape[:2]
        smaller = ceil(height / max(1, floor(down))), ceil(width / max(1, floor(across)))
        x, y = smaller[1] / width, smaller[0] / height
        matrix = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]]) @ matrix
        part = in_fours(part, lambda four: cv2.resize(four, smaller[::-1], interpolation=cv2.INTER_AREA))
    filling = PAD_COLOR if image.shape[2] == 3 else (PAD_COLOR[1],) * 4
    return in_fours(part, lambda four: _warped(four, matrix, size, cv2.INTER_LINEAR, filling, mirror=mirror))


def warped_mask(mask: NDArray[np.uint8], matrix: Matrix, size: Size, *, mirror: bool) -> NDArray[np.uint8]:
    """[H, W] seen through `matrix`: every pixel is a label that was there, or IGNORE outside."""
    part, matrix = _seen_part(mask, matrix, size, mirror=mirror)
    return _warped(part, matrix, size, cv2.INTER_NEAREST, (IGNORE,), mirror=mirror)


def _warped(
    array: NDArray[np.uint8], matrix: Matrix, size: Size, method: int, filling: tuple[int, ...], *, mirror: bool
) -> NDArray[np.uint8]:
    # At the outer edges of pixels, not at their centres (REFLECT_101): those stay in place when areas are averaged.
    border = cv2.BORDER_REFLECT if mirror else cv2.BORDER_CONSTANT
    flags = method | cv2.WARP_INVERSE_MAP
    if not matrix[2, :2].any():  # half the time of a perspective
        warped = cv2.warpAffine(array, matrix[:2], size[::-1], flags=flags, borderMode=border, borderValue=filling)
    else:
        warped = cv2.warpPerspective(array, matrix, size[::-1], flags=flags, borderMode=border, borderValue=filling)
    return np.asarray(warped, np.uint8)


def _seen_part(
    array: NDArray[np.uint8], matrix: Matrix, size: Size, *, mirror: bool
) -> tuple[NDArray[np.uint8], Matrix]:
    """The rectangle that the crop reads, and the matrix into it: OpenCV warps no sides beyond 32767 pixels."""
    corners = _corners(matrix, size)
    least, most = np.floor(corners.min(0)).astype(int) - 2, np.ceil(corners.max(0)).astype(int) + 3
    sides = np.array([array.shape[1], array.shape[0]])
    if mirror:  # what is seen beyond an edge lies as far on this side of it
        least, most = np.minimum(least, 2 * sides - most), np.maximum(most, -least)
    left, top = least.clip(0, sides - 1).tolist()
    right, bottom = most.clip((left + 1, top + 1), sides).tolist()
    shift = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]])
    return array[top:bottom, left:right], shift @ matrix


def _corners(matrix: Matrix, size: Size) -> NDArray[np.float64]:
    """Where the crop's corners are read, (x, y), [4, 2] in order around it."""
    height, width = size
    at = np.array([[0, 0, 1], [width - 1, 0, 1], [width - 1, height - 1, 1], [0, height - 1, 1]]) @ matrix.T
    corners: NDArray[np.float64] = at[:, :2] / at[:, 2:]
    return corners


def _shrinkage(matrix: Matrix, size: Size) -> tuple[float, float]:
    """Source pixels in y and in x for one of the crop, along the edges where they are most."""
    height, width = size
    corners = _corners(matrix, (height + 1, width + 1))
    steps = np.abs(np.roll(corners, -1, axis=0) - corners) / np.array([[width], [height]] * 2)
    x, y = np.hypot(steps[::2].max(0), steps[1::2].max(0))  # of a pixel's own two sides
    return float(y), float(x)


def in_fours(image: NDArray[np.uint8], change: Callable[[NDArray[np.uint8]], object]) -> NDArray[np.uint8]:
    """`change` applied to at most 4 channels at a time, for OpenCV takes no more; one channel keeps its axis."""
    parts = [np.asarray(change(image[..., k : k + 4]), np.uint8) for k in range(0, image.shape[2], 4)]
    parts = [part.reshape(*part.shape[:2], -1) for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def flipped(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Left and right exchanged."""
    return np.asarray(cv2.flip(array, 1), np.uint8).reshape(array.shape)


def padded(array: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Filled up at the bottom and right: images with PAD_COLOR, masks with IGNORE."""
    height, width = array.shape[:2]
    out = np.empty((*size, *array.shape[2:]), np.uint8)
    out[:height, :width] = array
    filling = IGNORE if array.ndim == 2 else PAD_COLOR if array.shape[2] == 3 else PAD_COLOR[1]
    out[height:] = filling
    out[:height, width:] = filling
    return out
