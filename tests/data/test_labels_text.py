"""Label files as text: a matrix of whole numbers."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from terrazzo.base import IGNORE, InputError
from terrazzo.data.labels import Bits, Decoder, Index, Values

many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def matrix(path, rows):
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    return path


@many
@given(
    raw=arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.integers(-3, 4)),
    blank=st.sampled_from([" ", "   ", "\t"]),
    newline=st.sampled_from(["\n", "\r\n", " \n\n"]),
    first=st.sampled_from(["", "\ufeff"]),
)
def test_rows_are_lines_and_negatives_are_ignored(tmp_path, raw, blank, newline, first):
    path = tmp_path / "a.regions.txt"
    path.write_bytes((first + newline.join(blank.join(map(str, row)) for row in raw.tolist())).encode())
    mask = Decoder(tuple("abcde"), Index(ignore_negative=True), {}).read(path)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[v if v >= 0 else IGNORE for v in row] for row in raw.tolist()]


def test_values_and_bits_are_read_from_text_too(tmp_path):
    path = matrix(tmp_path / "a.txt", [[70000, -7], [0, 70000]])
    values = Values(map={0: "a", 70000: "b", -7: "ignore"})
    assert Decoder(("a", "b"), values, {}).read(path).tolist() == [[1, IGNORE], [0, 1]]
    assert Decoder(("a", "b"), Bits(), {}).read(matrix(path, [[0, 9], [9, 0]])).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "needs whole numbers separated by blanks, this one has nothing"),
        (b"\n \n", "needs whole numbers separated by blanks, this one has nothing"),
        (b"0 1 1\n0 1\n", r"has one image row a line, all equally long \(.*columns changed from 3 to 2"),
        (b"0 x\n", "needs whole numbers separated by blanks, this one has 'x'"),
        (b"0 1.5\n", r"needs whole numbers separated by blanks, this one has '\.'"),
        (b"0 # 1\n", "needs whole numbers separated by blanks, this one has '#'"),
        (b"0 1-1\n", r"could not convert string '1-1' to int64"),
        (b"0 99999999999999999999\n", "could not convert string '99999999999999999999' to int64"),
        (b"\xff\xfe0\n", "is not UTF-8 text"),
        (None, r"cannot open this label file \(No such file"),
    ],
)
def test_a_damaged_text_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.txt: .*{message}"):
        Decoder(("a", "b"), Index(), {}).read(tmp_path / "a.txt")


def test_pitfall_negative_label_cast_to_unsigned_in_text(tmp_path):
    """Without being told, -1 is an error; it never becomes 255, although 255 is ignored, nor 2**64 - 1."""
    path = matrix(tmp_path / "a.txt", [[0, -1], [-1, 1]])
    with pytest.raises(InputError, match=r"value -1 \(2 pixels\).*say data\.decode\.ignore_negative=true"):
        Decoder(("a", "b"), Index(), {}).read(path)
    decoder = Decoder(("a", "b"), Index(ignore_negative=True), {})
    assert decoder.read(path).tolist() == [[0, IGNORE], [IGNORE, 1]]
    with pytest.raises(InputError, match=r"value 2 \(1 pixel\)"):
        decoder.read(matrix(path, [[2, -1]]))
