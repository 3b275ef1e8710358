"""Files as they are: what each kind holds, and every damaged or dangerous file as one sentence."""

import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from terrazzo.base import InputError
from terrazzo.data.pixels import read_header, read_image, read_raw, read_values
from terrazzo.data.polygons import read_polygons

READERS = (read_header, read_image, read_raw)
rng = np.random.default_rng(0)
PHOTO = rng.integers(0, 256, (6, 9, 3), np.uint8)
IDS = rng.integers(0, 4, (6, 9), np.uint8)


def turned(path: Path, orientation: int, kind: str, pixels: np.ndarray = PHOTO) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    Image.fromarray(pixels).save(path, kind, exif=exif, **options)
    return path


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, packed: bytes) -> bytes:
    """Grey of 1 bit."""
    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


# --- right files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_obeyed_or_ignored_and_stands_in_the_header(tmp_path, kind, orientation):
    path = turned(tmp_path / "a", orientation, kind)
    stored, header = read_image(path, "ignore"), read_header(path)
    upright = [
        *(stored, stored[:, ::-1], stored[::-1, ::-1], stored[::-1]),
        *(stored.swapaxes(0, 1), np.rot90(stored, 3), stored[::-1, ::-1].swapaxes(0, 1), np.rot90(stored)),
    ][orientation - 1]
    assert stored.shape == PHOTO.shape
    if kind != "JPEG":
        assert (stored == PHOTO).all()
        assert (read_image(path) == upright).all()
    assert (header.stored, header.orientation, header.format) == ((6, 9), orientation, kind)
    assert header.size("obey") == read_image(path).shape[:2]
    assert header.size("ignore") == stored.shape[:2]


def test_only_the_tag_that_is_obeyed_counts(tmp_path):
    xmp = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="6"/>'
    jpeg = cv2.imencode(".jpg", PHOTO)[1].tobytes()
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + jpeg[2:])
    assert read_header(tmp_path / "a.jpg").size() == read_image(tmp_path / "a.jpg").shape[:2] == (6, 9)
    path = turned(tmp_path / "b.jpg", 0, "JPEG")
    assert read_header(path).orientation == 1


@pytest.mark.parametrize(
    ("mode", "suffix", "pixels"),
    [
        ("1", "png", IDS > 1),
        ("L", "png", IDS),
        ("L", "jpg", np.full((6, 9), 7, np.uint8)),
        ("P", "png", IDS),
        ("LA", "png", IDS),
        ("RGB", "png", PHOTO),
        ("RGBA", "png", PHOTO),
        ("I;16", "png", IDS.astype(np.uint16) * 300),
        ("I", "tif", IDS.astype(np.int32) - 1),
    ],
)
def test_raw_is_what_the_file_holds(tmp_path, mode, suffix, pixels):
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 8, 7, 1, 2, 3, 4, 5, 6])
    elif mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(np.full((6, 9), 50, np.uint8)))
    image.save(tmp_path / f"a.{suffix}")
    raw = read_raw(tmp_path / f"a.{suffix}")
    assert (raw.array == pixels).all()
    assert (raw.mode, raw.format) == (mode, {"png": "PNG", "jpg": "JPEG", "tif": "TIFF"}[suffix])
    if mode == "P":
        assert raw.palette is not None
        assert raw.palette[:4].tolist() == [[0, 0, 0], [9, 8, 7], [1, 2, 3], [4, 5, 6]]
    else:
        assert raw.palette is None


def test_raw_of_a_text_and_of_inks(tmp_path):
    (tmp_path / "a.txt").write_text("0 -1 7\n3 3 3\n")
    raw = read_raw(tmp_path / "a.txt")
    assert (raw.array.tolist(), raw.mode, raw.format) == ([[0, -1, 7], [3, 3, 3]], "text", "TEXT")
    Image.fromarray(PHOTO).convert("CMYK").save(tmp_path / "a.tif")
    raw = read_raw(tmp_path / "a.tif")
    assert (raw.array.shape, raw.mode) == (PHOTO.shape, "CMYK")
    with pytest.raises(InputError, match=r"a\.tif: a label file needs whole numbers or colours; .* type CMYK"):
        read_values(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_a_photo_of_inks_has_the_colours_that_it_shows(tmp_path, suffix):
    colors = np.zeros((16, 32, 3), np.uint8)
    colors[:, :16], colors[:, 16:] = (200, 40, 90), (10, 220, 130)
    Image.fromarray(colors).convert("CMYK").save(tmp_path / f"a.{suffix}")
    assert np.abs(read_image(tmp_path / f"a.{suffix}").astype(int) - colors).max() <= 6


def test_raw_is_upright(tmp_path):
    path = turned(tmp_path / "a.png", 6, "PNG", IDS)
    assert (read_raw(path).array == np.rot90(IDS, 3)).all()


def test_a_large_image_is_read_without_a_word(tmp_path):
    """30 000 wide, and larger than what Pillow warns of; with -W error any warning would end it."""
    rows = b"".join(b"\0" + bytes([k % 2 * 255] * 3750) for k in range(3100))
    (tmp_path / "a.png").write_bytes(png(30_000, 3_100, zlib.compress(rows)))
    script = (
        "from pathlib import Path; from terrazzo.data.pixels import *; p = Path('a.png'); image = read_image(p); "
        "print(read_header(p).stored, image.shape, image.mean(), read_raw(p).array.mean())"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(3100, 30000) (3100, 30000, 3) 127.5 0.5\n", "")


# --- wrong files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("text.png", b"this is no image at all", r"text\.png: unreadable.*begins with b'this is no image', text"),
        ("noise.jpg", bytes(range(128, 200)), r"noise\.jpg: unreadable.*begins with"),
        ("nothing.png", b"", r"nothing\.png: .*an empty file"),
        ("bomb.png", png(30_000, 30_000, zlib.compress(bytes(99))), r"bomb\.png: too large.*900000000 pixels"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, reader, name, body, message):
    (tmp_path / name).write_bytes(body)
    with pytest.raises(InputError, match=message):
        reader(tmp_path / name)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_a_photo_of_wide_numbers_is_refused(tmp_path, kind):
    Image.fromarray(IDS.astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: its pixels are numbers of 32 bits \(type [FI]\); convert them"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_named(tmp_path, reader):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name in ("folder", "loop", "missing"):
        with pytest.raises(InputError, match=rf"{name}\.png: "):
            reader(tmp_path / f"{name}.png")


def test_a_bomb_of_another_kind_is_refused(tmp_path):
    jpeg = cv2.imencode(".jpg", PHOTO)[1].tobytes()
    at = jpeg.index(b"\xff\xc0")
    (tmp_path / "a.jpg").write_bytes(jpeg[: at + 5] + struct.pack(">HH", 60_000, 60_000) + jpeg[at + 9 :])
    for reader in READERS:
        with pytest.raises(InputError, match=r"a\.jpg: too large.*3600000000 pixels"):
            reader(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text('{"imgHeight": 60000, "imgWidth": 60000, "objects": []}')
    with pytest.raises(InputError, match=r"a\.json: imgWidth 60000 by imgHeight 60000 is no image"):
        read_polygons(tmp_path / "a.json", {}, "skip")


def test_a_polygon_far_away_draws_nothing(tmp_path):
    outline = '{"label": "a", "polygon": [[%s, 0], [1e6, 0], [1e6, 9], [0, 9]]}'
    text = '{"imgHeight": 4, "imgWidth": 4, "objects": [%s]}'
    (tmp_path / "a.json").write_text(text % (outline % "1e6"))
    assert read_polygons(tmp_path / "a.json", {"a": 1}, "error").tolist()[0][3] == 255
    (tmp_path / "a.json").write_text(text % (outline % "1e300"))
    with pytest.raises(InputError, match=r"a\.json: no polygon file \(objects\.0\.polygon\.0\.0: "):
        read_polygons(tmp_path / "a.json", {"a": 1}, "error")


def encoded(folder: Path) -> dict[str, bytes]:
    """A file of every kind."""
    found = {}
    for suffix, kind in (("png", "PNG"), ("jpg", "JPEG"), ("tif", "TIFF"), ("webp", "WEBP")):
        found[suffix] = turned(folder / f"a.{suffix}", 6, kind).read_bytes()
    for suffix in ("bmp", "gif", "ppm", "jp2"):
        Image.fromarray(PHOTO).save(folder / f"a.{suffix}")
        found[suffix] = (folder / f"a.{suffix}").read_bytes()
    image = Image.fromarray(IDS)
    image.putpalette([0, 0, 0, 9, 8, 7])
    image.save(folder / "p.png", transparency=b"\0\xff")
    return found | {"palette.png": (folder / "p.png").read_bytes(), "txt": b"0 1 2\n2 1 0\n"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")  # as the module says it; pytest has its own list
def test_damage_of_any_kind_is_an_image_or_an_input_error(tmp_path, data):
    files = encoded(tmp_path)
    suffix = data.draw(st.sampled_from(sorted(files)))
    body = bytearray(files[suffix])
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=6)):
        body[at] = value
    del body[data.draw(st.integers(0, len(body))) :]
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(body)
    for reader in READERS:
        with suppress(InputError):
            reader(path)
