"""What label files mean: every customary encoding, from real files, with how sure the guess is."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strange_trees import SIZE, areas, label, palette_label
from terrazzo.base import InputError
from terrazzo.data.class_files import ClassFile, Entry, class_files
from terrazzo.data.labels import Bits, Decoder, Index, Palette, Values
from terrazzo.discover.findings import Guess
from terrazzo.discover.guess import guess
from terrazzo.discover.label_facts import label_facts

LAND, WATER, ROAD = (132, 41, 246), (226, 169, 41), (60, 16, 152)


def guessed(folder: Path, lists: list[ClassFile] | None = None, *, void_zero: bool = False) -> Guess:
    return guess(label_facts(sorted(folder.iterdir())), lists or [], void_zero=void_zero)


def files(folder: Path, values: list, count: int = 4, suffix: str = ".png", **options: object) -> Path:
    for k in range(count):
        label(folder / f"{k}{suffix}", values, k, **options)
    return folder


@pytest.mark.parametrize(
    ("values", "decode", "classes", "confidence"),
    [
        ([0, 1], Index(), ("background", "foreground"), "certain"),
        ([0, 255], Bits(), ("background", "foreground"), "certain"),
        ([0, 7], Bits(), ("background", "foreground"), "likely"),
        ([0, 1, 2], Index(), ("class_0", "class_1", "class_2"), "likely"),
        ([0, 1, 2, 255], Index(), ("class_0", "class_1", "class_2"), "certain"),
        ([0, 2, 5], Index(), tuple(f"class_{k}" for k in range(6)), "likely"),
        (
            [0, 128, 255],
            Values(map={0: "value_0", 128: "value_128", 255: "value_255"}),
            ("value_0", "value_128", "value_255"),
            "likely",
        ),
        (
            [1, 2, 3],
            Values(map={1: "class_1", 2: "class_2", 3: "class_3"}),
            ("class_1", "class_2", "class_3"),
            "likely",
        ),
        (
            [1, 2, 3, 255],
            Values(map={1: "class_1", 2: "class_2", 3: "class_3", 255: "ignore"}),
            ("class_1", "class_2", "class_3"),
            "likely",
        ),
    ],
    ids=str,
)
def test_values(tmp_path, values, decode, classes, confidence):
    found = guessed(files(tmp_path, values))
    assert (found.decode, found.classes, found.finding.confidence) == (decode, classes, confidence)
    assert f"4 label files hold {values[0]} (" in found.finding.evidence
    decoder = Decoder(found.classes, found.decode, {})
    for path in tmp_path.iterdir():
        decoder.read(path)


def test_zero_is_no_class_by_custom_or_by_a_class_list(tmp_path):
    files(tmp_path, [0, 1, 2, 3])
    void = Values(map={0: "ignore", 1: "class_1", 2: "class_2", 3: "class_3"})
    assert guessed(tmp_path).decode == Index()
    assert guessed(tmp_path, void_zero=True).decode == void
    assert "0 is a class too: decode: {kind: index}" in guessed(tmp_path, void_zero=True).finding.alternative
    three = ClassFile("classes.txt", tuple(Entry(name) for name in ("sky", "road", "car")))
    four = ClassFile("classes.txt", tuple(Entry(name) for name in ("void", "sky", "road", "car")))
    assert guessed(tmp_path, [three]).decode == Values(map={0: "ignore", 1: "sky", 2: "road", 3: "car"})
    assert guessed(tmp_path, [four]).decode == Values(map={0: "ignore", 1: "sky", 2: "road", 3: "car"})
    named = ClassFile("classes.txt", (Entry("other"), *four.entries[1:]))
    assert guessed(tmp_path, [named], void_zero=True).classes == ("other", "sky", "road", "car")


def test_sixteen_bits(tmp_path):
    ids = files(tmp_path / "ids", [0, 1, 2], dtype=np.uint16)
    assert guessed(ids).decode == Index()
    times = guessed(files(tmp_path / "times", [0, 256, 512], dtype=np.uint16))
    assert times.decode == Values(map={0: "class_0", 256: "class_1", 512: "class_2"})
    assert times.finding.answer == "ids times 256 in 16 bits"
    void = guessed(files(tmp_path / "void", [0, 1, 2, 65535], dtype=np.uint16))
    assert void.decode == Index(ignore=(65535,))


def test_instance_ids_are_no_classes(tmp_path):
    files(tmp_path, [*range(26000, 26030)], count=8, dtype=np.uint16)
    many = [*range(1000, 1030)]
    for k in range(8):
        label(tmp_path / f"more{k}.png", [value + 30 * k for value in many], k, dtype=np.uint16)
    with pytest.raises(InputError, match=r"270 different values \(1000 to 26029\), more than 254: instance ids"):
        guessed(tmp_path)


def test_text_with_negative_numbers(tmp_path):
    for k in range(3):
        np.savetxt(tmp_path / f"{k}.regions.txt", areas([-1, 0, 1, 2, 3], k), fmt="%d")
    found = guessed(tmp_path)
    assert (found.decode, len(found.classes)) == (Index(ignore_negative=True), 4)


@pytest.mark.parametrize(("suffix", "smooth"), [(".jpg", False), (".png", True)], ids=["jpeg", "resized"])
def test_stained_borders_are_no_classes(tmp_path, suffix, smooth):
    found = guessed(files(tmp_path / "two", [0, 255], suffix=suffix, smooth=smooth))
    assert found.decode == Values(map={0: "background", 255: "foreground"}, tolerance=127, unknown="ignore")
    assert found.finding.confidence == "unsure"
    found = guessed(files(tmp_path / "three", [0, 128, 255], suffix=suffix, smooth=smooth))
    assert isinstance(found.decode, Values)
    assert sorted(found.decode.map) == pytest.approx([0, 128, 255], abs=1)
    assert found.decode.tolerance in (62, 63)


def test_bits_and_grey_saved_as_colours(tmp_path):
    (tmp_path / "bits").mkdir()
    for k in range(3):
        Image.fromarray(areas([0, 255], k).astype(np.uint8)).convert("1").save(tmp_path / f"bits/{k}.png")
        (tmp_path / "grey").mkdir(exist_ok=True)
        Image.fromarray(areas([0, 1, 2], k).astype(np.uint8)).convert("RGB").save(tmp_path / f"grey/{k}.png")
    assert guessed(tmp_path / "bits").decode == Bits()
    grey = guessed(tmp_path / "grey")
    assert (grey.decode, grey.classes) == (Index(), ("class_0", "class_1", "class_2"))


def test_palette_files_that_agree_are_read_by_index_with_their_colours(tmp_path):
    for k in range(3):
        palette_label(tmp_path / f"{k}.png", [LAND, WATER, ROAD], [0, 1, 2], k)
    found = guessed(tmp_path)
    assert (found.decode, found.finding.confidence) == (Index(), "certain")
    assert found.classes == {"class_0": LAND, "class_1": WATER, "class_2": ROAD}


def test_palette_files_that_contradict_each_other_are_read_by_colour(tmp_path):
    palette_label(tmp_path / "0.png", [LAND, WATER, ROAD], [0, 1, 2])
    palette_label(tmp_path / "1.png", [LAND, WATER, ROAD], [1, 2, 0])
    label(tmp_path / "2.png", [LAND, WATER, ROAD])
    found = guessed(tmp_path)
    assert found.decode == Palette()
    assert found.classes == {f"color_{bytes(c).hex()}": c for c in (LAND, WATER, ROAD)}
    assert "index 0 is #8429f6 in" in found.finding.evidence


def test_stray_colours_count_as_no_class(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(4):
        pixels = areas([LAND, WATER, ROAD], k, (400, 400)).astype(np.uint8)
        if k == 1:
            pixels[0, :60] = 0
            pixels[rng.integers(1, 399), rng.integers(1, 399)] = (9, 9, 9)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    found = guessed(tmp_path)
    assert isinstance(found.decode, Palette)
    assert set(found.decode.ignore_colors) == {(0, 0, 0), (9, 9, 9)}
    assert len(found.classes) == 3
    assert "stray colours that count as no class: #000000, #090909 (61 pixels" in found.remarks[-1]


@pytest.mark.parametrize(("suffix", "smooth"), [(".jpg", False), (".png", True)], ids=["jpeg", "resized"])
def test_stained_colours(tmp_path, suffix, smooth):
    found = guessed(files(tmp_path, [(255, 0, 0), (0, 255, 0), (0, 0, 255)], suffix=suffix, smooth=smooth))
    assert isinstance(found.decode, Palette)
    assert found.decode.unknown == "ignore"
    assert found.decode.tolerance > 60
    assert len(found.classes) == 3
    decoder = Decoder(found.classes, found.decode, {})
    truth = areas([0, 1, 2], 0)
    order = [int(np.argmax(color)) for color in decoder.classes.colors]
    mask = decoder.read(tmp_path / f"0{suffix}")
    assert (np.array(order)[np.minimum(mask, 2)] == truth).mean() > 0.6


def test_names_by_colour_in_either_order_of_channels(tmp_path):
    files(tmp_path, [LAND, WATER, ROAD])
    right = ClassFile("c.csv", (Entry("land", color=LAND), Entry("water", color=WATER), Entry("road", color=ROAD)))
    found = guessed(tmp_path, [right])
    assert (found.decode, found.finding.confidence) == (Palette(), "certain")
    assert found.classes == {name: color for color, name in sorted(right.by_color.items(), key=lambda e: e[1])} | {
        "land": LAND
    }
    turned = ClassFile("c.csv", tuple(Entry(e.name, color=e.color[::-1]) for e in right.entries if e.color))
    found = guessed(tmp_path, [turned])
    assert found.decode == Palette(channels="bgr")
    assert found.classes["water"] == WATER[::-1]
    mask = Decoder(found.classes, found.decode, {}).read(tmp_path / "0.png")
    names = [*found.classes]
    assert [names[k] for k in mask[::9, ::9].ravel()] == [
        {LAND: "land", WATER: "water", ROAD: "road"}[tuple(c)]
        for c in areas([LAND, WATER, ROAD], 0)[::9, ::9].reshape(-1, 3).tolist()
    ]


def test_classes_of_a_list_that_fits_are_there_although_no_file_shows_them(tmp_path):
    files(tmp_path / "colors", [LAND, WATER])
    entries = (Entry("road", color=ROAD), Entry("land", color=LAND), Entry("water", color=WATER))
    found = guessed(tmp_path / "colors", [ClassFile("c.csv", entries)])
    assert list(found.classes.items()) == [("road", ROAD), ("land", LAND), ("water", WATER)]
    assert found.notes["road"] == "0% of the pixels"
    ids = ClassFile("c.json", tuple(Entry(name, id=k) for k, name in enumerate(("sky", "road", "car", "bus"))))
    assert guessed(files(tmp_path / "ids", [0, 1, 2]), [ids]).classes == ("sky", "road", "car", "bus")
    steps = ClassFile("c.json", tuple(Entry(name, id=50 * k) for k, name in enumerate(("sky", "road", "car", "bus"))))
    found = guessed(files(tmp_path / "steps", [0, 50, 150]), [steps])
    assert found.decode == Values(map={0: "sky", 50: "road", 100: "car", 150: "bus"})


def test_a_class_list_of_other_colours_is_told_and_not_used(tmp_path):
    files(tmp_path, [LAND, WATER, ROAD])
    wrong = ClassFile(
        "classes.json", (Entry("water", color=(1, 2, 3)), Entry("road", color=ROAD), Entry("x", color=(4, 5, 6)))
    )
    found = guessed(tmp_path, [wrong])
    assert set(found.classes) == {f"color_{bytes(c).hex()}" for c in (LAND, WATER, ROAD)}
    assert "of its 3 colours only #3c1098 road occurs" in found.remarks[0]
    assert "#010203 water" in found.remarks[0]
    assert found.notes["color_3c1098"].endswith("; road in classes.json")


def test_files_that_cannot_be_read_are_named(tmp_path):
    files(tmp_path, [0, 1, 2])
    (tmp_path / "9.png").write_bytes(b"no image")
    facts = label_facts(sorted(tmp_path.iterdir()))
    assert [path.name for path in facts.faults] == ["9.png"]
    (tmp_path / "only").mkdir()
    (tmp_path / "only/1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"no label file can be read: .*1\.png"):
        guessed(tmp_path / "only")


@pytest.mark.parametrize(
    ("name", "text", "entries"),
    [
        ("classes.txt", "sky\nroad\ntraffic light\n", [("sky",), ("road",), ("traffic light",)]),
        ("labels.txt", "# id name\n0 sky\n1: road\n", [("sky", 0), ("road", 1)]),
        ("classes.csv", "name,r,g,b\nsky,1,2,3\nroad,4,5,6\n", [("sky", None, (1, 2, 3)), ("road", None, (4, 5, 6))]),
        (
            "labelmap.txt",
            "# label:color_rgb:parts\nsky:1,2,3::\nroad:4,5,6::\n",
            [("sky", None, (1, 2, 3)), ("road", None, (4, 5, 6))],
        ),
        (
            "label_colors.txt",
            "64 128 64\tAnimal\n192 0 128\tArchway\n",
            [("Animal", None, (64, 128, 64)), ("Archway", None, (192, 0, 128))],
        ),
        (
            "objectInfo150.txt",
            "Idx\tRatio\tTrain\tVal\tName\n1\t0.15\t11\t12\twall\n2\t0.1\t9\t8\tbuilding, edifice\n",
            [("wall", 1), ("building", 2)],
        ),
        (
            "classes.json",
            '{"classes": [{"title": "a b", "color": "#0102ff"}, {"title": "c", "color": "#000000"}]}',
            [("a b", None, (1, 2, 255)), ("c", None, (0, 0, 0))],
        ),
        ("class_ids.json", '{"sky": 0, "road": 1}', [("sky", 0), ("road", 1)]),
        ("id_to_label.json", '{"0": "sky", "1": "road"}', [("sky", 0), ("road", 1)]),
        (
            "obj_class_to_machine_color.json",
            '{"sky": [1, 2, 3], "road": [4, 5, 6]}',
            [("sky", None, (1, 2, 3)), ("road", None, (4, 5, 6))],
        ),
        ("data.yaml", "train: images\nnames: [sky, road]\n", [("sky",), ("road",)]),
        ("class_names.yaml", "names: {0: sky, 1: road}\n", [("sky", 0), ("road", 1)]),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 32 else "",
)
def test_class_lists(tmp_path, name, text, entries):
    (tmp_path / name).write_text(text)
    (found,) = class_files(tmp_path, [name])
    assert found.entries == tuple(Entry(*entry) for entry in entries)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "images/1.png\nimages/2.png\n"),
        ("classes.json", "{"),
        ("classes.json", "[1, 2]"),
        ("classes.txt", ""),
        ("classes.txt", "a\na\n"),
        ("train.txt", "a\nb\n"),
        ("classes.txt", "one\n"),
        ("config.yaml", "a: [b\n"),
    ],
    ids=str,
)
def test_what_is_no_class_list(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert class_files(tmp_path, [name]) == []


def test_the_size_of_made_up_labels():
    assert areas([0, 1], 0).shape == SIZE
