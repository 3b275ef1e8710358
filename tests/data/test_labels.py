"""Decoders: every kind of label file against brute force, and every way in which a file cannot be right."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from terrazzo.base import IGNORE, InputError, distinct_colors
from terrazzo.data.labels import Bits, ClassList, Decoder, Index, Palette, Values
from terrazzo.data.pixels import read_values

RED_BLUE = {"ground": (0, 0, 0), "lake": (0, 0, 255), "roof": (255, 0, 0)}
many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def save(path: Path, pixels: object, mode: str | None = None, palette: list[int] | None = None) -> Path:
    image = Image.fromarray(np.asarray(pixels))
    if palette is not None:
        image = image.convert("L")
        image.putpalette(palette)
    elif mode is not None:
        image = image.convert(mode)
    image.save(path)
    return path


def grey_png(path: Path, rows: list[list[int]], bits: int) -> Path:
    """A PNG of grey with so many bits a pixel, which Pillow cannot write."""
    packed = b"".join(
        b"\0" + int("".join(f"{v:0{bits}b}" for v in row).ljust(8, "0"), 2).to_bytes(1, "big") for row in rows
    )
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(packed)),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


# --- right files ------------------------------------------------------------------------------------------------------


@many
@given(raw=arrays(np.uint8, (5, 7), elements=st.sampled_from([0, 1, 2, 9, 255])))
@pytest.mark.parametrize("paletted", [False, True])
def test_index_is_the_value_itself(tmp_path, raw, paletted):
    colors = [channel for color in distinct_colors(256) for channel in color]
    path = save(tmp_path / "a.png", raw, palette=colors if paletted else None)
    mask = Decoder(("a", "b", "c"), Index(ignore=(9, 255)), {}).read(path)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[v if v < 3 else IGNORE for v in row] for row in raw.tolist()]


@many
@given(raw=arrays(np.uint16, (4, 6), elements=st.sampled_from([0, 7, 300, 65535])))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_values_of_16_bits_merge_and_drop(tmp_path, raw, suffix):
    path = save(tmp_path / f"a.{suffix}", raw)
    decode = Values(map={7: "road", 0: "sky", 300: "road", 65535: "ignore"})
    decoder = Decoder(("sky", "road"), decode, {})
    expected = {0: 0, 7: 1, 300: 1, 65535: IGNORE}
    assert decoder.read(path).tolist() == [[expected[v] for v in row] for row in raw.tolist()]
    assert (decoder.classes.ids, decoder.classes.ignore_id) == ((0, 7), 65535)


@many
@given(chosen=arrays(np.uint8, (4, 6), elements=st.integers(0, 3)), seed=st.integers(0, 99))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_palette_goes_by_colour(tmp_path, chosen, seed, mode):
    """In palette files the indices are shuffled: only the colours count."""
    colors = [*RED_BLUE.values(), (9, 9, 9)]
    order = np.random.default_rng(seed).permutation(4)
    if mode == "P":
        flat = [channel for k in order for channel in colors[k]]
        path = save(tmp_path / "a.png", np.argsort(order).astype(np.uint8)[chosen], palette=flat)
    else:
        path = save(tmp_path / "a.png", np.array(colors, np.uint8)[chosen], mode)
    mask = Decoder(RED_BLUE, Palette(ignore_colors=((9, 9, 9),)), {}).read(path)
    assert (mask == np.where(chosen == 3, IGNORE, chosen)).all()


@many
@given(raw=arrays(np.bool_, (5, 9)))
@pytest.mark.parametrize("high", [None, 1, 77, 255])
def test_bits_are_zero_and_not_zero(tmp_path, raw, high):
    path = save(tmp_path / "a.png", raw if high is None else raw * np.uint8(high))
    assert (Decoder(("a", "b"), Bits(), {}).read(path) == raw).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_keeps_its_values(tmp_path, bits):
    """Pillow and OpenCV spread 2-bit grey over 0..255 for looking at; label values must stay 0..3."""
    rows = [[0, 1], [1, min(3, 2**bits - 1)]]
    assert read_values(grey_png(tmp_path / "a.png", rows, bits)).tolist() == rows


def test_grey_saved_as_rgb_is_read_as_grey(tmp_path):
    path = save(tmp_path / "a.png", np.uint8([[0, 1], [2, 255]]), "RGB")
    assert Decoder(("a", "b", "c"), Index(), {}).read(path).tolist() == [[0, 1], [2, IGNORE]]


def test_a_turned_label_is_set_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.uint8([[0, 1, 2]])).save(tmp_path / "a.png", exif=exif)
    assert Decoder(("a", "b", "c"), Index(), {}).read(tmp_path / "a.png").tolist() == [[0], [1], [2]]


def test_threads_read_what_one_thread_reads(tmp_path):
    rng = np.random.default_rng(0)
    raws = [rng.integers(0, 3, (40, 50), np.uint8) for _ in range(24)]
    colors = np.array([*RED_BLUE.values()], np.uint8)
    paths = [save(tmp_path / f"{k}.png", colors[raw]) for k, raw in enumerate(raws)]
    decoder = Decoder(RED_BLUE, Palette(), {})
    with ThreadPoolExecutor(8) as pool:
        masks = list(pool.map(decoder.read, paths * 3))
    assert all((mask == raw).all() for mask, raw in zip(masks, raws * 3, strict=True))


# --- names and remap --------------------------------------------------------------------------------------------------


@many
@given(st.dictionaries(st.sampled_from("abcde"), st.sampled_from(["a", "b", "c", "d", "e", "new", "ignore"])))
def test_remap_moves_every_pixel_to_the_name_it_says(tmp_path, remap):
    names = tuple("abcde")
    raw = np.arange(5, dtype=np.uint8)[None]
    path = save(tmp_path / "a.png", raw)
    wanted = [remap.get(name, name) for name in names]
    if set(wanted) == {"ignore"}:
        with pytest.raises(InputError, match=r"data\.remap drops every class"):
            Decoder(names, Index(), remap)
        return
    decoder = Decoder(names, Index(), remap)
    found = [("ignore" if k == IGNORE else decoder.classes.names[k]) for k in decoder.read(path)[0]]
    assert found == wanted
    assert set(decoder.classes.names) == set(wanted) - {"ignore"}


def test_remap_keeps_place_colour_and_file_value_of_the_class_that_stays():
    classes = Decoder(
        ("sky", "pole", "road", "tram"), Index(), {"pole": "road", "tram": "rail", "sky": "ignore"}
    ).classes
    assert classes.names == ("road", "rail")
    assert classes.ids == (2, 3)
    assert classes.colors == (distinct_colors(4)[2], distinct_colors(4)[3])


def test_ids_are_the_files_own_and_ignore_has_a_free_one():
    wbc = Decoder(("rest", "cytoplasm", "nucleus"), Values(map={0: "rest", 128: "cytoplasm", 255: "nucleus"}), {})
    assert (wbc.classes.ids, wbc.classes.ignore_id) == ((0, 128, 255), 254)
    assert Decoder(("a", "b"), Index(ignore=(11,)), {}).classes.ignore_id == 11
    assert Decoder(("a", "b"), Bits(), {}).classes.ids == (0, 255)
    assert Decoder(RED_BLUE, Palette(), {}).classes.ids == (0, 1, 2)


def test_colours_are_written_as_hex_or_as_numbers():
    read = TypeAdapter(ClassList).validate_python
    assert read({"a": "#8040FF", "b": [1, 2, 3]}) == {"a": (128, 64, 255), "b": (1, 2, 3)}
    for wrong in ("#12345", "red", [1, 2, 256], [1, 2]):
        with pytest.raises(ValidationError):
            read({"a": wrong})


@pytest.mark.parametrize(
    ("names", "decode", "remap", "message"),
    [
        (("sky", "road"), Index(), {"rod": "sky"}, r"data\.remap: no class is called 'rod'; did you mean 'road'\?"),
        (("sky", "road"), Index(), {"xyz": "sky"}, r"no class is called 'xyz'; there are: sky, road"),
        (
            ("sky", "road"),
            Index(ignore=(1,)),
            {},
            r"ignore: 1 is the id of class 'road'; drop a class with data\.remap",
        ),
        (("sky", "road"), Values(map={0: "sky", 1: "raod"}), {}, r"data\.decode\.map: .*'raod'; did you mean 'road'"),
        (("sky", "road"), Values(map={0: "sky"}), {}, r"gives no value to the classes \['road'\]"),
        (("sky", "road"), Palette(), {}, "needs colours"),
        ({"sky": (1, 1, 1), "road": (1, 1, 1)}, Palette(), {}, "'sky' and 'road' have the same colour #010101"),
        ({"sky": (1, 1, 1)}, Palette(ignore_colors=((1, 1, 1),)), {}, "'sky' and 'ignore' have the same colour"),
        (("a", "b", "c"), Bits(), {}, r"bits needs 2 classes \(zero, non-zero\), data\.classes has 3"),
        (("a", "ignore"), Index(), {}, "'ignore' cannot name a class"),
        (("a", "b", "a"), Index(), {}, r"data\.classes names \['a'\] more than once"),
    ],
)
def test_what_does_not_fit_together_is_said(names, decode, remap, message):
    with pytest.raises(InputError, match=message):
        Decoder(names, decode, remap)


# --- wrong files ------------------------------------------------------------------------------------------------------


def test_an_unknown_value_is_named_with_file_and_pixel_count(tmp_path):
    path = save(tmp_path / "town.png", np.uint8([[0, 7, 7], [9, 7, 1]]))
    with pytest.raises(
        InputError, match=r"town\.png: value 7 \(3 pixels\), value 9 \(1 pixel\) not in the label space of 2"
    ):
        Decoder(("a", "b"), Index(), {}).read(path)
    with pytest.raises(InputError, match=r"data\.decode\.ignore=\[255, 7, 9\]"):
        Decoder(("a", "b"), Index(), {}).read(path)
    with pytest.raises(InputError, match=r"value 7 \(3 pixels\).*data\.decode\.map, for example \{7: ignore\}"):
        Decoder(("a", "b"), Values(map={0: "a", 1: "b", 9: "ignore"}), {}).read(path)


def test_eight_unknown_values_are_shown_and_the_rest_counted(tmp_path):
    path = save(tmp_path / "a.png", np.arange(30, dtype=np.uint8)[None])
    with pytest.raises(InputError, match=r"value 9 \(1 pixel\) and 20 more \(20 pixels\).*JPEG or resized smoothly"):
        Decoder(("a", "b"), Index(), {}).read(path)


def test_an_unknown_colour_is_named_with_its_count(tmp_path):
    pixels = np.uint8([[[0, 0, 0], [1, 2, 3]], [[1, 2, 3], [255, 0, 0]]])
    expected = r"a\.\w+: #010203 \(2 pixels\) not among the colours.*ignore_colors=\['#010203'\]"
    for path in (save(tmp_path / "a.png", pixels), tmp_path / "a.bmp"):
        Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=3).save(tmp_path / "a.bmp")
        with pytest.raises(InputError, match=expected):
            Decoder(RED_BLUE, Palette(), {}).read(path)


def test_bits_with_three_values_are_refused(tmp_path):
    path = save(tmp_path / "a.png", np.uint8([[0, 255, 254]]))
    with pytest.raises(InputError, match=r"a\.png: .*value 254 \(1 pixel\).*masks of two values"):
        Decoder(("a", "b"), Bits(), {}).read(path)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated", "scrambled"])
def test_a_damaged_label_is_named(tmp_path, damage):
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 2, (60, 60), np.uint8))
    data = bytearray(path.read_bytes())
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("no image")
        case "truncated":
            path.write_bytes(data[: len(data) // 2])
        case "scrambled":
            data[60:80] = b"x" * 20
            path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.png: (no such file|unreadable or truncated image)"):
        Decoder(("a", "b"), Index(), {}).read(path)


def test_fractions_are_no_labels(tmp_path):
    path = save(tmp_path / "a.tif", np.float32([[0, 1]]))
    for decoder in (Decoder(("a", "b"), Index(), {}), Decoder(RED_BLUE, Palette(), {})):
        with pytest.raises(InputError, match=r"a\.tif: a label file needs whole numbers or colours; .* type F"):
            decoder.read(path)


# --- pitfalls of spec/pitfalls.md -------------------------------------------------------------------------------------


def test_pitfall_off_by_one(tmp_path):
    """Ids 1..K are not silently shifted, and not silently trained as 0..K-1: the error says what to type."""
    path = save(tmp_path / "a.png", np.uint8([[1, 2, 3, 3]]))
    expected = r"value 3 \(2 pixels\).*ids seem to start at 1.*kind: values, map: \{1: sky, 2: road, 3: tree\}"
    with pytest.raises(InputError, match=expected):
        Decoder(("sky", "road", "tree"), Index(), {}).read(path)
    shifted = Values(map={1: "sky", 2: "road", 3: "tree"})
    assert Decoder(("sky", "road", "tree"), shifted, {}).read(path).tolist() == [[0, 1, 2, 2]]


def test_pitfall_raw_ids_trained_as_train_ids(tmp_path):
    """Cityscapes' raw ids (road 7, sky 23, ...) under 19 train ids are an error; mapped, they are right."""
    path = save(tmp_path / "a.png", np.uint8([[7, 23, 33]]))
    names = tuple(f"class{k}" for k in range(19))
    with pytest.raises(InputError, match=r"value 23 \(1 pixel\), value 33 \(1 pixel\) not in the label space of 19"):
        Decoder(names, Index(), {}).read(path)
    mapped = Decoder(("road", "sky", "bicycle"), Values(map={7: "road", 23: "sky", 33: "bicycle"}), {})
    assert mapped.read(path).tolist() == [[0, 1, 2]]


def test_pitfall_void_trained_as_a_class(tmp_path):
    path = save(tmp_path / "a.png", np.uint8([[0, 1, 11, 255]]))
    assert Decoder(("a", "b"), Index(ignore=(11, 255)), {}).read(path).tolist() == [[0, 1, IGNORE, IGNORE]]
    with pytest.raises(InputError, match="value 11"):
        Decoder(("a", "b"), Index(), {}).read(path)


def test_pitfall_0_255_masks_whose_foreground_equals_ignore(tmp_path):
    """With 255 ignored no single file is wrong, so a few are looked at together."""
    decoder = Decoder(("background", "vessel"), Index(), {})
    paths = [save(tmp_path / f"{k}.png", np.uint8([[0, 255 * (k > 0)]])) for k in range(20)]
    with pytest.raises(InputError, match=r"only 0 and 255.*'vessel' would never be seen.*data\.decode=\{kind: bits\}"):
        decoder.probe(paths)
    with pytest.raises(
        InputError, match=r"value 255 \(1 pixel\).*looks like a 0/255 mask: say data\.decode=\{kind: bits\}"
    ):
        Decoder(("background", "vessel"), Index(ignore=()), {}).read(paths[1])
    assert Decoder(("background", "vessel"), Bits(), {}).read(paths[1]).tolist() == [[0, 1]]
    as_class = Values(map={0: "background", 255: "vessel"})
    assert Decoder(("background", "vessel"), as_class, {}).read(paths[1]).tolist() == [[0, 1]]
    save(paths[0], np.uint8([[0, 1]]))
    decoder.probe(paths)  # one pixel of class 1 among the files looked at: these are ids


def test_pitfall_rgb_masks_read_as_luminance(tmp_path):
    path = save(tmp_path / "a.png", np.uint8([[[255, 0, 0], [0, 0, 255]]]))
    for decode in (Index(), Values(map={0: "a", 1: "b"}), Bits()):
        with pytest.raises(InputError, match=r"a\.png is a colour image.*data\.decode=\{kind: palette\}"):
            Decoder(("a", "b"), decode, {}).read(path)


def test_pitfall_negative_label_cast_to_unsigned(tmp_path):
    path = save(tmp_path / "a.tif", np.int32([[0, -1, 1]]))
    with pytest.raises(InputError, match=r"value -1 \(1 pixel\)"):
        Decoder(("a", "b"), Index(), {}).read(path)
    decoder = Decoder(("a", "b"), Index(ignore=(-1,)), {})
    assert decoder.read(path).tolist() == [[0, IGNORE, 1]]
    assert decoder.classes.ignore_id == 255  # what predictions are saved in cannot be negative


def test_pitfall_bgr_rgb_palettes(tmp_path):
    path = save(tmp_path / "a.png", np.uint8([[[255, 0, 0], [0, 0, 255]]]))
    assert Decoder(RED_BLUE, Palette(), {}).read(path).tolist() == [[2, 1]]
    swapped = save(tmp_path / "b.png", np.uint8([[[3, 2, 1], [0, 0, 0]]]))
    with pytest.raises(InputError, match=r"#030201 \(1 pixel\).*With red and blue swapped they are class colours"):
        Decoder({"a": (0, 0, 0), "b": (1, 2, 3)}, Palette(), {}).read(swapped)
