"""From files to arrays: pictures as RGB, label files as they are stored."""

import re
import struct
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from terrazzo.base import Image, InputError

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""Files that count as images (lower case)."""

UNKNOWN = 254
"""Marks a pixel without a class while a label file is decoded; base.MAX_CLASSES keeps the number free."""

SHOWN = 8
"""How many unknown values, or colours, an error names."""


def read_image(path: Path) -> Image:
    """A picture as RGB, uint8 [H, W, 3]: upright by its EXIF orientation, grey repeated, 16 bits cut to 8.

    Raises:
        InputError: it is missing, truncated or no image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot open this image ({error.strerror})") from error
    if not data:
        raise InputError(f"{path}: an empty file; copy it again")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":  # OpenCV before 4.13 does not see the orientation of these
        return np.asarray(open_upright(path).convert("RGB"), np.uint8)
    # OpenCV 4.10 fills the missing part of a JPEG with grey and says nothing; every scan is followed by an end marker.
    whole = not data.startswith(b"\xff\xd8") or data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if whole else None
    except cv2.error as error:
        raise InputError(f"{path}: unreadable image ({error.err})") from error
    if decoded is None:
        raise InputError(f"{path}: unreadable or truncated image ({len(data)} bytes); copy or convert it again")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def open_upright(path: Path) -> PIL.Image.Image:
    """A file decoded by Pillow and upright; pixels are as stored (palettes are not applied).

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        with PIL.Image.open(path) as file:
            args = file.tile[0].args if file.tile else ""
            packing = args[0] if isinstance(args, tuple) and args else args
            image = PIL.ImageOps.exif_transpose(file)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, struct.error, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"{path}: unreadable or truncated image ({error}); copy or convert it again") from error
    # Pillow spreads grey of 2 and 4 bits over 0..255, which is right for looking at and wrong for ids.
    factor = {"L;2": 85, "L;4": 17}.get(str(packing), 1)
    return image if factor == 1 else image.point([value // factor for value in range(256)])


def read_values(path: Path) -> NDArray[np.integer]:
    """What a label file holds per pixel, [H, W]: grey values, palette indices or bits; integers as wide as the file's.

    A file `*.txt` holds whole numbers separated by blanks, one image row a line (int64).

    Raises:
        InputError: the file is missing or damaged, or its pixels are colours or fractions.
    """
    if path.suffix.lower() == ".txt":
        return _read_matrix(path)
    image = open_upright(path)
    array = np.asarray(image)
    match image.mode:
        case "1":
            return array.astype(np.uint8)
        case "L" | "P" | "I":
            return array
        case "LA" | "PA":
            return array[..., 0]
        case "RGB" | "RGBA" if (array[..., :1] == array[..., 1:3]).all():
            return array[..., 0]
        case "RGB" | "RGBA":
            raise InputError(
                f"{path} is a colour image; its brightness is no class id. Say data.decode={{kind: palette}} and give "
                "every class its colour in data.classes"
            )
        case mode if mode.startswith("I;16"):
            return array.astype(np.uint16, copy=False)
        case mode:
            raise InputError(f"{path}: a label file needs whole numbers or colours; its pixels are of type {mode}")


def _read_matrix(path: Path) -> NDArray[np.int64]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot open this label file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this label file is not UTF-8 text ({error.reason})") from error
    odd = re.search(r"[^\d\s+-]", text)
    if odd or not text.strip():
        found = repr(odd[0]) if odd else "nothing"
        raise InputError(f"{path}: a label file as text needs whole numbers separated by blanks, this one has {found}")
    try:
        return np.loadtxt(text.splitlines(), np.int64, comments=None, ndmin=2)
    except ValueError as error:
        raise InputError(
            f"{path}: a label file as text has one image row a line, all equally long ({error}); copy it again"
        ) from error


def counted(found: list[tuple[str, int]]) -> str:
    """'value 7 (120 pixels), value 9 (3 pixels)' for errors: the most frequent first, at most SHOWN of them."""
    found = sorted(found, key=lambda item: -item[1])
    shown = ", ".join(f"{what} ({count} pixel{'s' if count > 1 else ''})" for what, count in found[:SHOWN])
    rest = sum(count for _, count in found[SHOWN:])
    return shown + (f" and {len(found) - SHOWN} more ({rest} pixels)" if rest else "")
