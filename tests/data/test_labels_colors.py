"""Masks by colour, nearest within a tolerance: against brute force, and the real aerial tiles."""

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from terrazzo.base import IGNORE, InputError
from terrazzo.data.labels import Decoder, Palette

AERIAL = {
    "land": (132, 41, 246),
    "water": (226, 169, 41),
    "building": (60, 16, 152),
    "vegetation": (254, 221, 58),
    "road": (110, 193, 228),
    "unlabeled": (155, 155, 155),
}
PIXELS = (38_896_713, 11_933_411, 7_350_670, 5_993_794, 5_942_925, 297_397)
"""Of each of these, in all 63 tiles; 5547 more are black. Both from the data set's README."""

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
channels = st.integers(0, 12)  # close together, so that the colours' neighbourhoods overlap
colors = st.tuples(channels, channels, channels)


def picture(path, pixels, paletted):
    image = Image.fromarray(np.array([pixels], np.uint8))
    if paletted:
        image = Image.fromarray(np.arange(len(pixels), dtype=np.uint8)[None])
        image.putpalette([channel for pixel in pixels for channel in pixel])
        assert image.mode == "P"
    image.save(path)
    return path


@few
@given(
    classes=st.lists(colors, min_size=2, max_size=6, unique=True),
    ignored=st.lists(colors, max_size=1),
    seed=st.integers(0, 999),
    tolerance=st.integers(0, 6),
    paletted=st.booleans(),
)
def test_a_pixel_goes_to_the_one_nearest_colour_within_the_tolerance(
    tmp_path, classes, ignored, seed, tolerance, paletted
):
    ignored = [color for color in ignored if color not in classes]
    named = {f"class {k}": color for k, color in enumerate(classes)}
    decoder = Decoder(named, Palette(ignore_colors=tuple(ignored), tolerance=tolerance), {})
    known = np.array([*classes, *ignored])
    ids = [*range(len(classes)), *[IGNORE] * len(ignored)]
    right, wrong = {}, []
    for pixel in [*classes, *np.random.default_rng(seed).integers(0, 20, (80, 3)).tolist()]:
        distance = np.abs(known - pixel).max(1)
        nearest = np.flatnonzero(distance == distance.min())
        if distance.min() <= tolerance and len(nearest) == 1:
            right[tuple(pixel)] = ids[nearest[0]]
        else:
            wrong.append(pixel)
    assert decoder.read(picture(tmp_path / "a.png", [*right], paletted)).tolist() == [[*right.values()]]
    for pixel in wrong[:3]:
        with pytest.raises(InputError, match=r"a\.png: .*(not among the colours|is as near to #\w+ as to #\w+)"):
            decoder.read(picture(tmp_path / "a.png", [pixel], paletted))


def test_an_ambiguous_colour_names_file_colour_and_both_classes(tmp_path):
    two = {"dark": (0, 0, 0), "light": (20, 20, 20)}
    Image.fromarray(np.uint8([[(10, 10, 10), (9, 9, 9), (10, 4, 10)]])).save(tmp_path / "a.png")
    with pytest.raises(
        InputError,
        match=r"a\.png: #0a0a0a \(1 pixel\) is as near to #000000 as to #141414; lower data\.decode\.tolerance=12",
    ):
        Decoder(two, Palette(tolerance=12), {}).read(tmp_path / "a.png")
    merged = Decoder(two, Palette(tolerance=12), {"light": "dark"})
    assert merged.read(tmp_path / "a.png").tolist() == [[0, 0, 0]], "both are one class: nothing is ambiguous"
    settled = Decoder(two, Palette(tolerance=12, ignore_colors=((10, 10, 10),)), {})
    assert settled.read(tmp_path / "a.png").tolist() == [[IGNORE, IGNORE, IGNORE]]


def test_colours_are_exact_unless_a_tolerance_is_given(tmp_path):
    two = {"dark": (0, 0, 0), "light": (200, 0, 0)}
    Image.fromarray(np.uint8([[(0, 0, 0), (200, 5, 3)]])).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"#c80503 \(1 pixel\) not among.*tolerance=5 would take the nearest"):
        Decoder(two, Palette(), {}).read(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"not among the colours of data\.classes within 4\."):
        Decoder(two, Palette(tolerance=4), {}).read(tmp_path / "a.png")
    assert Decoder(two, Palette(tolerance=5), {}).read(tmp_path / "a.png").tolist() == [[0, 1]]
    for wrong in (-1, 128):
        with pytest.raises(ValidationError, match="tolerance"):
            Palette(tolerance=wrong)


def test_colours_of_16_bits_go_by_their_upper_byte(tmp_path):
    red_green_blue = np.uint16([[[200, 0, 7], [0, 90, 255]]])
    cv2.imwrite(str(tmp_path / "a.png"), red_green_blue[..., ::-1] * np.uint16(257))
    classes = {"one": (0, 90, 255), "two": (200, 0, 7)}
    assert Decoder(classes, Palette(), {}).read(tmp_path / "a.png").tolist() == [[1, 0]]


# --- real data --------------------------------------------------------------------------------------------------------


def test_aerial_tiles_have_the_pixels_that_their_readme_counts(shared_data):
    """Six classes and black, with a tolerance that none of the seven colours needs; nine tiles are exact too."""
    tiles = sorted((shared_data / "dubai-aerial").glob("Tile */masks/*.png"))
    assert len(tiles) == 63
    exact, near = (
        Decoder(AERIAL, Palette(ignore_colors=((0, 0, 0),), tolerance=tolerance), {}) for tolerance in (0, 20)
    )
    counts = np.zeros(256, int)
    for number, tile in enumerate(tiles):
        mask = near.read(tile)
        counts += np.bincount(mask.ravel(), minlength=256)
        if number % 9 == number // 9:
            assert (exact.read(tile) == mask).all()
    assert tuple(counts[:6]) == PIXELS
    assert counts[IGNORE] == 5547
    assert counts.sum() == sum(PIXELS) + 5547


def test_aerial_colours_a_little_off_need_the_tolerance(shared_data):
    tiles = [shared_data / f"dubai-aerial/Tile {k}/masks/image_part_003.png" for k in (1, 2, 4)]  # RGB, P, P
    exact = Decoder(AERIAL, Palette(ignore_colors=((0, 0, 0),)), {})
    shifted = {name: (red - 6, min(green + 4, 255), blue - 5) for name, (red, green, blue) in AERIAL.items()}
    near = Decoder(shifted, Palette(ignore_colors=((0, 0, 0),), tolerance=6), {})
    for tile in tiles:
        assert (near.read(tile) == exact.read(tile)).all()
        with pytest.raises(InputError, match=r"not among the colours of data\.classes within 5\."):
            Decoder(shifted, Palette(ignore_colors=((0, 0, 0),), tolerance=5), {}).read(tile)


def test_the_wrong_class_file_of_the_aerial_tiles_is_noticed(shared_data):
    """classes.json beside the tiles lists the colours of another version of the masks."""
    shipped = {"water": (80, 227, 194), "land": (245, 166, 35), "road": (222, 89, 127), "building": (208, 2, 27)}
    with pytest.raises(InputError, match=r"#8429f6 \(\d+ pixels\).* not among the colours"):
        Decoder(shipped, Palette(tolerance=20), {}).read(shared_data / "dubai-aerial/Tile 1/masks/image_part_001.png")
