"""From files to arrays: pictures as RGB, label files as they are stored."""

import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps
from numpy.typing import NDArray

from terrazzo.base import Image, InputError

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""Files that count as images (lower case)."""

UNKNOWN = 254
"""Marks a pixel without a class while a label file is decoded; base.MAX_CLASSES keeps the number free."""

MOST_PIXELS = 2 * 89_478_485
"""Of one file, for Pillow: larger ones may be small files that unpack to fill the memory."""

SHOWN = 8
"""How many unknown values, or colours, an error names."""

ORIENTATION = 0x0112
"""The EXIF tag that says how an image is to be turned."""

Exif = Literal["obey", "ignore"]
"""What is done with it."""

# Pillow warns of files half as large as those that it refuses, and of odd entries among a photo's notes. Nobody who
# wants the pixels can act on that; what makes a file unreadable is an error.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Header(NamedTuple):
    """What an image file says about itself before its pixels."""

    stored: tuple[int, int]
    """Height and width in the file, before any turning."""
    orientation: int
    """By EXIF, 1 (upright) to 8; from 5 on height and width change places."""
    mode: str
    """Pillow's: "RGB", "L", "P", "CMYK", "I;16", ..."""
    format: str
    """Pillow's: "PNG", "JPEG", ..."""

    def size(self, exif: Exif = "obey") -> tuple[int, int]:
        """Height and width as `read_image` gives them."""
        height, width = self.stored
        return (width, height) if exif == "obey" and self.orientation > 4 else (height, width)


class Raw(NamedTuple):
    """A label file as it is stored."""

    array: NDArray[np.integer]
    """Upright: [H, W] grey values, palette indices or numbers; [H, W, 3] RGB, uint8, of colour modes."""
    mode: str
    """Pillow's ("1", "L", "P", "RGB", "I;16", ...), or "text"."""
    format: str
    """Pillow's ("PNG", "JPEG", ...), or "TEXT"."""
    palette: NDArray[np.uint8] | None = None
    """RGB [N, 3] of the indices, of modes "P" and "PA" alone."""

    @property
    def values(self) -> NDArray[np.integer] | None:
        """The number of each pixel, [H, W]; None if they are colours. Grey that is saved as RGB is grey."""
        if self.array.ndim == 2:
            return self.array
        grey = self.mode in ("RGB", "RGBA") and (self.array[..., :1] == self.array[..., 1:]).all()
        return self.array[..., 0] if grey else None


def read_header(path: Path) -> Header:
    """Size, mode and orientation of an image; its pixels are neither read nor checked.

    Raises:
        InputError: it is missing, no image, or too large.
    """
    with _opened(path) as file:
        width, height = file.size
        if file.format == "TIFF":  # Pillow gives the size after turning, but only of these
            tags = getattr(file, "tag_v2", {})
            width, height = tags.get(256, width), tags.get(257, height)
        return Header((height, width), _orientation(file), file.mode, file.format or "")


def read_image(path: Path, exif: Exif = "obey") -> Image:
    """A picture as RGB, uint8 [H, W, 3]: upright by its EXIF orientation, grey repeated, 16 bits cut to 8.

    Args:
        exif: `ignore` leaves the pixels as they are stored.

    Raises:
        InputError: it is missing, truncated, too large or no image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot open this image ({error.strerror})") from error
    if not data:
        raise InputError(f"{path}: an empty file; copy it again")
    with _opened(path, data) as file:  # OpenCV would also unpack what is too large
        if file.mode == "F" or (file.mode == "I" and file.format == "TIFF"):
            raise InputError(f"{path}: its pixels are numbers of 32 bits (type {file.mode}); convert them to 8 bits")
        # OpenCV before 4.13 does not see the orientation of WebP, and always turns TIFF.
        if file.format == "WEBP" or (file.format == "TIFF" and exif == "ignore"):
            return np.asarray(_loaded(file, exif).convert("RGB"), np.uint8)
    # OpenCV 4.10 fills the missing part of a JPEG with grey and says nothing; every scan is followed by an end marker.
    whole = not data.startswith(b"\xff\xd8") or data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if exif == "ignore" else 0)
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if whole else None
    except cv2.error as error:
        raise InputError(f"{path}: unreadable image ({error.err})") from error
    if decoded is None:
        raise InputError(f"{path}: unreadable or truncated image ({len(data)} bytes); copy or convert it again")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def read_raw(path: Path) -> Raw:
    """A label file as it is stored, whatever it means.

    A file `*.txt` holds whole numbers separated by blanks, one image row a line (int64).

    Raises:
        InputError: it is missing, damaged or too large, or its pixels are fractions.
    """
    if path.suffix.lower() == ".txt":
        return Raw(_read_matrix(path), "text", "TEXT")
    with _opened(path) as file:
        args = file.tile[0].args if file.tile else ""
        packing = str(args[0] if isinstance(args, tuple) and args else args)
        image, format = _loaded(file, "obey"), file.format or ""
        array = np.asarray(image)
        match image.mode:
            case "1":
                return Raw(array.astype(np.uint8), image.mode, format)
            case "L":
                # Pillow spreads grey of 2 and 4 bits over 0..255, which is right for looking at and wrong for ids.
                return Raw(array // np.uint8({"L;2": 85, "L;4": 17}.get(packing, 1)), image.mode, format)
            case "I":
                return Raw(array, image.mode, format)
            case "LA":
                return Raw(array[..., 0], image.mode, format)
            case "P" | "PA":
                palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
                return Raw(array if array.ndim == 2 else array[..., 0], image.mode, format, palette)
            case "RGB" | "RGBA":
                return Raw(array[..., :3], image.mode, format)
            case mode if mode.startswith("I;16"):
                return Raw(array.astype(np.uint16, copy=False), mode, format)
            case "F":
                raise InputError(f"{path}: a label file needs whole numbers or colours; its pixels are of type F")
            case mode:
                return Raw(np.asarray(image.convert("RGB")), mode, format)


def read_values(path: Path) -> NDArray[np.integer]:
    """What a label file holds per pixel, [H, W]: grey values, palette indices or bits; integers as wide as the file's.

    Raises:
        InputError: as `read_raw`, or the pixels are colours.
    """
    raw = read_raw(path)
    values = raw.values
    if values is None:
        raise InputError(no_values(path, raw))
    return values


def no_values(path: Path, raw: Raw) -> str:
    """What to say about a label file that holds colours where numbers are wanted."""
    if raw.mode not in ("RGB", "RGBA"):
        return f"{path}: a label file needs whole numbers or colours; its pixels are of type {raw.mode}"
    return (
        f"{path} is a colour image; its brightness is no class id. Say data.decode={{kind: palette}} and give every "
        "class its colour in data.classes"
    )


@contextmanager
def _opened(path: Path, data: bytes | None = None) -> Iterator[PIL.ImageFile.ImageFile]:
    """A file whose header Pillow understands; what goes wrong with it, now or later, becomes an InputError."""
    try:
        with PIL.Image.open(path if data is None else io.BytesIO(data)) as file:
            yield file
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except PIL.UnidentifiedImageError as error:
        found = _beginning(path)
        raise InputError(f"{path}: unreadable or truncated image ({found}); copy or convert it again") from error
    except PIL.Image.DecompressionBombError as error:
        raise InputError(
            f"{path}: too large, or a small file that would fill the memory ({error}); cut it into tiles"
        ) from error
    except MemoryError as error:
        raise InputError(f"{path}: this machine has not enough memory to read this image; cut it into tiles") from error
    except OSError as error:
        if error.strerror:
            raise InputError(f"{path}: cannot open this file ({error.strerror})") from error
        raise InputError(f"{path}: unreadable or truncated image ({error}); copy or convert it again") from error
    except (Warning, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, struct.error) as error:
        raise InputError(f"{path}: unreadable or truncated image ({error}); copy or convert it again") from error


def _beginning(path: Path) -> str:
    """What a file that is no image seems to be."""
    with path.open("rb") as file:
        first = file.read(40)
    if not first:
        return "an empty file"
    return f"it begins with {first[:16]!r}" + ", text" * (first.isascii() and b"\0" not in first)


def _orientation(file: PIL.ImageFile.ImageFile) -> int:
    """What `read_image` obeys; 1 where there is no tag, or none that makes sense."""
    orientation: object = 1
    with suppress(Warning, OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        match file.format:
            case "TIFF" | "WEBP":
                orientation = file.getexif().get(ORIENTATION)
            case "JPEG" | "MPO" | "PNG":  # for these Pillow would also look elsewhere, which OpenCV does not
                exif = PIL.Image.Exif()
                exif.load(file.info.get("exif", b""))
                orientation = exif.get(ORIENTATION)
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _loaded(file: PIL.ImageFile.ImageFile, exif: Exif) -> PIL.Image.Image:
    """A file's pixels as Pillow has them; palettes are not applied."""
    if exif == "obey":
        return PIL.ImageOps.exif_transpose(file)
    if file.format == "TIFF":  # Pillow turns these while it loads them, by the tag that it has read before
        file.getexif().pop(ORIENTATION, None)
    file.load()
    return file


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
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: a label file as text has one image row a line, all equally long ({error}); copy it again"
        ) from error


def counted(found: list[tuple[str, int]]) -> str:
    """'value 7 (120 pixels), value 9 (3 pixels)' for errors: the most frequent first, at most SHOWN of them."""
    found = sorted(found, key=lambda item: -item[1])
    shown = ", ".join(f"{what} ({count} pixel{'s' if count > 1 else ''})" for what, count in found[:SHOWN])
    rest = sum(count for _, count in found[SHOWN:])
    return shown + (f" and {len(found) - SHOWN} more ({rest} pixels)" if rest else "")


@contextmanager
def one_thread_per_image() -> Iterator[None]:
    """OpenCV's own threads would only take the cores from ours."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
