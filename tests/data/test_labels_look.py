"""Near values, swapped channels, and looking at label files that training would refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from terrazzo.base import IGNORE, InputError
from terrazzo.data.labels import Bits, DecodeConfig, Decoder, Index, Palette, Polygons, Values
from terrazzo.data.pixels import UNKNOWN

RGB = {"ground": (0, 0, 0), "lake": (0, 0, 255), "roof": (255, 0, 0), "leaf": (10, 200, 30)}
many = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def save(path: Path, pixels: object) -> Path:
    array = np.asarray(pixels)
    if path.suffix == ".txt":
        np.savetxt(path, array, fmt="%d")
    else:
        Image.fromarray(array).save(path)
    return path


# --- nearest values ---------------------------------------------------------------------------------------------------


@many
@given(
    marks=st.dictionaries(st.integers(-9, 300), st.sampled_from(["a", "b", "ignore"]), min_size=2, max_size=6),
    tolerance=st.integers(0, 9),
    kind=st.sampled_from(["u1", "u2", "i4", "text", "wide text"]),
    seed=st.integers(0, 99),
)
def test_a_value_goes_to_the_one_nearest_mark_within_the_tolerance(tmp_path, marks, tolerance, kind, seed):
    marks |= {0: "a", 100: "b"}
    low, high = {"u1": (0, 255), "u2": (0, 400), "i4": (-20, 400), "text": (-20, 400), "wide text": (-(10**14), 400)}[
        kind
    ]
    raw = np.random.default_rng(seed).integers(max(low, -20), high, (6, 40))
    raw[0, 0], raw[0, 1] = low, high
    expected = np.full(raw.shape, UNKNOWN)
    for place, value in np.ndenumerate(raw):
        distances = {mark: abs(int(value) - mark) for mark in marks}
        nearest = min(distances.values())
        names = {marks[mark] for mark, away in distances.items() if away == nearest}
        if nearest <= tolerance and len(names) == 1:
            expected[place] = {"a": 0, "b": 1, "ignore": IGNORE}[names.pop()]
    path = tmp_path / ("a.txt" if "text" in kind else "a.tif" if kind == "i4" else "a.png")
    save(path, raw if "text" in kind else raw.astype(kind))
    strict, lenient = (
        Decoder(("a", "b"), Values(map=marks, tolerance=tolerance, unknown=unknown), {})
        for unknown in ("error", "ignore")
    )
    assert (strict.look(path).mask == expected).all()
    assert (lenient.read(path) == np.where(expected == UNKNOWN, IGNORE, expected)).all()
    if (expected == UNKNOWN).any():
        with pytest.raises(InputError, match=r"not in the label space .*data\.decode\.unknown=ignore"):
            strict.read(path)


def test_a_mask_saved_as_jpeg_is_read_by_its_nearest_values(tmp_path):
    ids = np.zeros((64, 64), np.uint8)
    ids[8:40, 8:56], ids[24:56, 32:48] = 128, 255
    Image.fromarray(ids).save(tmp_path / "a.jpg", quality=75)
    decode = Values(map={0: "a", 128: "b", 255: "c"}, tolerance=63, unknown="ignore")
    mask = Decoder(("a", "b", "c"), decode, {}).read(tmp_path / "a.jpg")
    wrong = (mask != np.select([ids == 128, ids == 255], [1, 2], 0)) & (mask != IGNORE)
    assert wrong.mean() < 0.01


# --- colours ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paletted", [False, True])
def test_swapped_channels_are_swapped_back(tmp_path, paletted):
    image = Image.fromarray(np.array([[color[::-1] for color in RGB.values()]], np.uint8))
    if paletted:
        image = Image.fromarray(np.arange(4, dtype=np.uint8)[None])
        image.putpalette([channel for color in RGB.values() for channel in color[::-1]])
    image.save(tmp_path / "a.png")
    assert Decoder(RGB, Palette(channels="bgr"), {}).read(tmp_path / "a.png").tolist() == [[0, 1, 2, 3]]
    with pytest.raises(InputError, match=r"#1ec80a .*swapped they are class colours: say data\.decode\.channels=bgr"):
        Decoder({"leaf": RGB["leaf"], **RGB}, Palette(), {}).read(tmp_path / "a.png")


def test_errors_name_colours_as_the_classes_are_written(tmp_path):
    save(tmp_path / "a.png", np.uint8([[(1, 2, 3), (30, 200, 10)]]))
    with pytest.raises(InputError, match=r"#030201 \(1 pixel\) not among.*ignore_colors=\['#030201'\]"):
        Decoder(RGB, Palette(channels="bgr"), {}).read(tmp_path / "a.png")
    ignoring = Palette(channels="bgr", ignore_colors=((3, 2, 1),))
    assert Decoder(RGB, ignoring, {}).read(tmp_path / "a.png").tolist() == [[IGNORE, 3]]


def test_unknown_and_ambiguous_colours_can_be_left_out(tmp_path):
    path = save(tmp_path / "a.png", np.uint8([[(0, 0, 0), (0, 0, 128), (90, 90, 90), (0, 0, 250)]]))
    two = {"dark": (0, 0, 0), "blue": (0, 0, 255)}
    near = Palette(tolerance=127, unknown="ignore")
    assert Decoder(two, Palette(unknown="ignore"), {}).read(path).tolist() == [[0, IGNORE, IGNORE, IGNORE]]
    assert Decoder(two, near, {}).read(path).tolist() == [[0, 1, 0, 1]]
    tied = {"dark": (0, 0, 0), "blue": (0, 0, 254)}
    path = save(tmp_path / "b.png", np.uint8([[(0, 0, 127), (0, 0, 128)]]))
    assert Decoder(tied, near, {}).read(path).tolist() == [[IGNORE, 1]]
    assert Decoder(tied, Palette(tolerance=127), {}).look(path).mask.tolist() == [[UNKNOWN, 1]]


def test_an_index_without_a_colour_is_named(tmp_path):
    image = Image.fromarray(np.uint8([[0, 1, 2, 3]]))
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])  # 2 bits a pixel have room for a fourth index
    image.save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: the file's palette has 3 colours, but its pixels ask for index 3"):
        Decoder(RGB, Palette(), {}).read(tmp_path / "a.png")


# --- looking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "decode", "suffix", "pixels", "mask"),
    [
        (("a", "b"), Index(), "png", np.uint8([[0, 1, 7, 255]]), [0, 1, UNKNOWN, IGNORE]),
        (("a", "b"), Index(), "tif", np.int32([[0, 1, -7, 70000]]), [0, 1, UNKNOWN, UNKNOWN]),
        (("a", "b"), Index(ignore_negative=True), "tif", np.int32([[0, -7]]), [0, IGNORE]),
        (("a", "b"), Values(map={3: "b", 5: "a"}), "txt", np.array([[3, 5, 4]]), [1, 0, UNKNOWN]),
        (("a", "b"), Bits(), "png", np.uint8([[0, 128, 255]]), [0, UNKNOWN, 1]),
        (("a", "b"), Bits(), "png", np.uint8([[0, 0]]), [0, 0]),
        (RGB, Palette(), "png", np.uint8([[(0, 0, 255), (1, 1, 1)]]), [1, UNKNOWN]),
        (RGB, Palette(), "png", np.uint8([[0, 255]]), [0, UNKNOWN]),
        (RGB, Palette(), "png", np.uint16([[0, 255]]), [UNKNOWN, UNKNOWN]),
        (RGB, Palette(), "txt", np.array([[0, 255]]), [UNKNOWN, UNKNOWN]),
        (("a", "b"), Index(), "png", np.uint8([[(0, 0, 255), (1, 1, 1)]]), [UNKNOWN, UNKNOWN]),
        (("a", "b"), Index(), "png", np.uint8([[(0, 0, 0), (1, 1, 1)]]), [0, 1]),
    ],
)
def test_a_look_marks_what_reading_refuses(tmp_path, names, decode, suffix, pixels, mask):
    decoder, path = Decoder(names, decode, {}), save(tmp_path / f"a.{suffix}", pixels)
    raw, found = decoder.look(path)
    assert found.tolist() == [mask]
    assert found.dtype == np.uint8
    assert raw is not None
    assert (raw.array == pixels).all()
    if UNKNOWN in mask:
        with pytest.raises(InputError, match=rf"a\.{suffix}"):
            decoder.read(path)
    else:
        assert decoder.read(path).tolist() == [mask]


@pytest.mark.parametrize("unknown", ["error", "skip"])
def test_a_look_at_polygons(tmp_path, unknown):
    box = [[0, 0], [1, 0], [1, 1], [0, 1]]
    objects = [{"label": label, "polygon": [[x + at, y] for x, y in box]} for label, at in (("car", 0), ("tank", 2))]
    (tmp_path / "a.json").write_text(json.dumps({"imgHeight": 2, "imgWidth": 6, "objects": objects}))
    raw, mask = Decoder(("car", "tree"), Polygons(unknown=unknown), {}).look(tmp_path / "a.json")
    other = UNKNOWN if unknown == "error" else IGNORE
    assert raw is None
    assert mask.tolist() == [[0, 0, other, other, IGNORE, IGNORE]] * 2


@pytest.mark.parametrize("decode", [Index(), Bits(), Polygons()])
def test_a_look_at_a_file_that_cannot_be_read_is_an_error(tmp_path, decode: DecodeConfig):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(InputError, match=r"a\.png: "):
        Decoder(("a", "b"), decode, {}).look(tmp_path / "a.png")
