"""Label files as outlines: drawn in order, against slices of an array."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from terrazzo.base import IGNORE, InputError
from terrazzo.data.labels import Decoder, Polygons

many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEIGHT, WIDTH = 12, 17


def box(label, left, top, right, bottom, **more):
    return {"label": label, "polygon": [[left, top], [right, top], [right, bottom], [left, bottom]]} | more


def outlines(path, *objects, **more):
    path.write_text(json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects} | more))
    return path


def edges(limit):
    return st.tuples(st.integers(-3, limit - 2), st.integers(1, limit + 3)).filter(lambda pair: pair[0] < pair[1])


boxes = st.tuples(
    st.sampled_from(["car", "road", "cargroup", "void"]), edges(WIDTH), edges(HEIGHT), st.sampled_from([None, 0, 1])
)


@many
@given(drawn=st.lists(boxes, max_size=7))
def test_later_objects_cover_earlier_ones_and_deleted_ones_are_not_drawn(tmp_path, drawn):
    ids = {"car": 1, "cargroup": 1, "road": 0, "void": IGNORE}
    expected = np.full((HEIGHT, WIDTH), IGNORE)
    objects = []
    for label, (left, right), (top, bottom), deleted in drawn:
        objects.append(box(label, left, top, right, bottom) | ({} if deleted is None else {"deleted": deleted}))
        if not deleted:
            expected[max(0, top) : max(0, bottom + 1), max(0, left) : max(0, right + 1)] = ids[label]
    path = outlines(tmp_path / "a.json", *objects, captureDate="beside")
    mask = Decoder(("road", "car"), Polygons(map={"void": "ignore"}), {}).read(path)
    assert mask.dtype == np.uint8
    assert mask.tolist() == expected.tolist()


def test_outlines_may_be_concave_have_fractions_and_too_few_points(tmp_path):
    path = outlines(
        tmp_path / "a.json",
        {"label": "road", "polygon": [[0.4, 0.4], [16.2, 0.4], [16.2, 10.8], [8.5, 4.5], [0.4, 10.8]]},
        {"label": "car", "polygon": [[2, 2], [9, 9]]},
        {"label": "car", "polygon": []},
    )
    mask = Decoder(("road", "car"), Polygons(), {}).read(path)
    assert [mask[2, 8], mask[7, 1], mask[7, 15]] == [0, 0, 0]
    assert mask[9, 8] == IGNORE, "the notch from below"
    assert set(np.unique(mask)) == {0, IGNORE}


def test_labels_merge_and_remap(tmp_path):
    path = outlines(tmp_path / "a.json", box("truck", 0, 0, 5, 11), box("car", 6, 0, 16, 11), box("bus", 6, 0, 9, 11))
    decode = Polygons(map={"truck": "car", "bus": "ignore", "car": "road"})
    mask = Decoder(("road", "car"), decode, {}).read(path)
    assert [mask[5, 2], mask[5, 8], mask[5, 12]] == [1, IGNORE, 0], "`map` comes before the names of the classes"
    decoder = Decoder(("road", "car", "bus"), Polygons(map={"truck": "car"}), {"bus": "car", "road": "street"})
    assert decoder.classes.names == ("street", "car")
    assert (decoder.classes.ids, decoder.classes.ignore_id) == ((0, 1), 255)
    assert (decoder.read(path) == 1).all()
    with pytest.raises(InputError, match=r"data\.decode\.map: no class is called 'cra'; did you mean 'car'"):
        Decoder(("road", "car"), Polygons(map={"bus": "cra"}), {})
    with pytest.raises(InputError, match=r"data\.decode\.map takes their only label from the classes \['car'\]"):
        Decoder(("road", "car"), Polygons(map={"car": "road"}), {})


def test_an_unknown_label_is_an_error_or_is_not_drawn(tmp_path):
    path = outlines(tmp_path / "a.json", box("road", 0, 0, 16, 11), box("zebra", 3, 3, 5, 5))
    with pytest.raises(
        InputError, match=r"a\.json: object 1 is labelled 'zebra'.*add it there \(\{zebra: ignore\}\).*unknown=skip"
    ):
        Decoder(("road",), Polygons(), {}).read(path)
    assert (Decoder(("road",), Polygons(unknown="skip"), {}).read(path) == 0).all()
    ignored = Decoder(("road",), Polygons(map={"zebra": "ignore"}), {}).read(path)
    assert (ignored == IGNORE).sum() == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"no polygon file \(the file: "),
        ("[]", r"no polygon file \(the file: "),
        ('{"imgHeight": 4, "imgWidth": 0, "objects": []}', r"no polygon file \(imgWidth: "),
        ('{"imgHeight": 4, "imgWidth": 4}', r"no polygon file \(objects: Field required\)"),
        ('{"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "a"}]}', r"\(objects\.0\.polygon: Field required\)"),
        (
            '{"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "a", "polygon": [[1, NaN]]}]}',
            r"no polygon file \(objects\.0\.polygon\.0\.1: ",
        ),
        (None, r"cannot open this label file \(No such file"),
    ],
)
def test_a_damaged_polygon_file_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=rf"a\.json: .*{message}"):
        Decoder(("a",), Polygons(), {}).read(tmp_path / "a.json")
