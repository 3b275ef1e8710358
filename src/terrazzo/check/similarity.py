"""Pictures that are there twice: the same pixels, or the same picture saved again, resized or a little changed."""

from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.base import Image

SIDE = 32
"""Of the thumbnails."""

FREQUENCIES = 8
"""Lowest cosine frequencies, in each direction, by which all pictures are compared with all."""

ALIKE = 0.9
"""From this correlation of the low frequencies on, two pictures are compared in detail."""

SAME = 0.97
"""From this correlation of the details on, two pictures count as one. Copies saved as JPEG of quality 30, halved,
blurred, brighter or noisy reach 0.98; other pictures of one kind, taken alike (retinas, cells), stay below 0.96."""

FLAT = 1.0
"""Thumbnails whose details deviate by less than this many grey levels show nothing to compare."""

BLOCK = 1 << 24
"""Pairs that are compared at a time; bounds the memory."""


class Near(NamedTuple):
    """Two pictures that are nearly the same, by their places in the sequence."""

    first: int
    second: int
    correlation: float
    """Of their details: 1 for the same picture."""
    mirrored: bool
    """The second looks like the first in a mirror."""


def likeness(image: Image) -> str:
    """A picture as 32x32 grey values in base64: enough to tell it from others, small enough to keep."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return b64encode(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).tobytes()).decode()


def same(digests: Sequence[str | None]) -> list[tuple[int, ...]]:
    """Groups (two or more places in the sequence) of equal digests, in order."""
    groups: dict[str, list[int]] = {}
    for place, each in enumerate(digests):
        if each is not None:
            groups.setdefault(each, []).append(place)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def near(pictures: Sequence[str | None], digests: Sequence[str | None]) -> list[Near]:
    """Pairs of pictures (made by `likeness`) that are nearly, but by their digests not exactly, the same.

    The most alike first. Of pictures with one digest only the first is compared.
    """
    firsts = {each: place for place, each in reversed([*enumerate(digests)]) if each is not None}
    places = np.array(sorted(place for place in firsts.values() if pictures[place] is not None), np.int64)
    if not len(places):
        return []
    thumbnails = np.stack([_thumbnail(pictures[place] or "") for place in places])
    thumbnails, places = thumbnails[shows := thumbnails.std((1, 2)) >= FLAT], places[shows]
    if not len(places):
        return []
    codes, details = _codes(thumbnails), np.stack([_details(each) for each in thumbnails])
    flipped = codes * (-1.0) ** np.arange(FREQUENCIES, dtype=np.float32)
    plain, mirror = _unit(details), _unit(details[:, :, ::-1])
    found = []
    for others, theirs, mirrored in ((codes, plain, False), (flipped, mirror, True)):
        for one, two in _pairs(_unit(codes), _unit(others)):
            correlations = np.einsum("nd,nd->n", plain[one], theirs[two])
            kept = correlations >= SAME
            rows = zip(places[one[kept]], places[two[kept]], correlations[kept], strict=True)
            found += [Near(int(i), int(j), float(value), mirrored) for i, j, value in rows]
    return sorted(found, key=lambda pair: (-pair.correlation, pair.first, pair.second))


def _thumbnail(text: str) -> NDArray[np.float32]:
    return np.frombuffer(b64decode(text), np.uint8).reshape(SIDE, SIDE).astype(np.float32)


def _details(thumbnail: NDArray[np.float32]) -> NDArray[np.float32]:
    """What differs from the surroundings, everywhere equally strong: the frame of a retina outweighs no vessel."""
    details = thumbnail - cv2.GaussianBlur(thumbnail, (0, 0), 2.0)
    contrast = np.sqrt(cv2.GaussianBlur(details * details, (0, 0), 3.0))
    return np.asarray(details / (contrast + 2 * FLAT), np.float32)


def _codes(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
    """The lowest cosine frequencies [n, F, F] of thumbnails [n, 32, 32], without the mean brightness."""
    cosines = cv2.dct(np.eye(SIDE, dtype=np.float32), flags=cv2.DCT_ROWS).T[:FREQUENCIES]
    codes = np.asarray(cosines @ thumbnails @ cosines.T, np.float32)
    codes[:, 0, 0] = 0
    return codes


def _unit(arrays: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each of n arrays as a vector [n, d] of mean 0 and length 1."""
    rows = arrays.reshape(len(arrays), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)


def _pairs(codes: NDArray[np.float32], others: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """Places (i, j), i < j, at which codes[i] is much like others[j], a block of rows at a time."""
    block = max(1, BLOCK // len(codes))
    for start in range(0, len(codes), block):
        one, two = np.nonzero(codes[start : start + block] @ others[start:].T > ALIKE)
        after = one < two
        yield one[after] + start, two[after] + start
