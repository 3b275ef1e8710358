"""What is written for a recipe is what a recipe reads."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from terrazzo.base import InputError
from terrazzo.data.folder import FolderData
from terrazzo.data.split import read_list
from terrazzo.data.templates import Pair
from terrazzo.prepare.section import data_section, write_ids, write_pairs

NAMES = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=12)


@given(st.lists(st.tuples(NAMES, NAMES), max_size=5))
def test_lists_carry_every_name_or_say_which_not(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("lists") / "train.txt"
    for lines, write, rows in (
        ("pairs", write_pairs, [Pair(*pair) for pair in pairs]),
        ("ids", write_ids, [image for image, _ in pairs]),
    ):
        try:
            write(path, rows)
        except InputError:
            assert not path.exists()
            continue
        columns = [line.columns for line in read_list(path, lines)]
        path.unlink()
        assert columns == [row if isinstance(row, tuple) else (row,) for row in rows]


@pytest.mark.parametrize("name", ["a\nb.png", " a.png", "a.png ", "a\u2028b.png", "\udcff.png"])
def test_names_that_no_line_can_hold(tmp_path, name):
    with pytest.raises(InputError, match="rename it"):
        write_pairs(tmp_path / "train.txt", [Pair(name, "b.png")])
    assert not any(tmp_path.iterdir())


def test_common_names_are_carried_as_they_are(tmp_path):
    pairs = [Pair("Tile 1/a.jpg", "Tile 1/a.png"), Pair("#1.jpg", "#1.png"), Pair('größe, "2".jpg', "x.png")]
    write_pairs(tmp_path / "train.txt", pairs)
    assert (tmp_path / "train.txt").read_text(encoding="utf-8").splitlines()[0] == "Tile 1/a.jpg\tTile 1/a.png"
    assert [line.columns for line in read_list(tmp_path / "train.txt", "pairs")] == pairs


@pytest.mark.parametrize(
    "options",
    [
        {"classes": ["a", "b"]},
        {"classes": {"a": "#010203", "b": [4, 5, 6]}, "decode": {"kind": "palette", "ignore_colors": ["#000000"]}},
        {"classes": ["a", "b"], "decode": {"kind": "values", "map": {0: "a", 128: "b", 255: "ignore"}}},
        {"classes": ["a", "b"], "splits": {"kind": "ratio", "seed": 3}, "images": "images", "labels": "masks"},
        {"classes": ["yes", "1"], "remap": {"1": "ignore"}, "workers": 0, "align": {"shift": [1, -2]}},
    ],
)
def test_the_section_reads_back_equal(tmp_path, options):
    given_options = {
        "root": tmp_path / "größe 1",
        "images": "{split}/{id}.jpg",
        "labels": "{split}/{id}.png",
        **options,
    }
    cfg = FolderData.model_validate(given_options)
    text = data_section(cfg, "Made here.")
    assert text.startswith("# Made here.\ndata:\n  kind: folder\n  root: ")
    assert FolderData.model_validate(yaml.safe_load(text)["data"]) == cfg
