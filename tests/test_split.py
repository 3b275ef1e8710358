"""`terrazzo data split` on files: lists that train as they stand, without leaks, written whole or not at all."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from terrazzo.base import InputError
from terrazzo.commands.split import split
from terrazzo.config import RunConfig, config_of
from terrazzo.data import build_dataset


def recipe(root: Path, **data: object) -> RunConfig:
    section = {"kind": "folder", "images": "images", "labels": "labels", "splits": {"kind": "ratio"}, **data}
    return config_of({"data": {"root": str(root), **section}, "model": {"kind": "unet"}})


def pasted(out: Path) -> RunConfig:
    """A recipe with the section that was written."""
    return config_of({**yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8")), "model": {"kind": "unet"}})


def tree(root: Path, names: list[str], size: tuple[int, int] = (16, 24)) -> Path:
    """Images of noise; the label of image number k shows class 0, and class 1 if k is even."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        image, label = root / "images" / f"{name}.png", root / "labels" / f"{name}.png"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(image)
        mask = np.zeros(size, np.uint8)
        mask[:4] = 1 - k % 2
        Image.fromarray(mask).save(label)
    return root


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return tree(tmp_path / "data", [f"größe {k}/im {j}" for k in range(5) for j in range(4)])


def test_the_written_section_trains_on_every_image_once(plain, tmp_path):
    config = recipe(plain, classes=["a", "b"])
    assigned = split(config, tmp_path / "lists", shares=(0.6, 0.2, 0.2))
    assert {name: len(pairs) for name, pairs in assigned.pairs.items()} == {"train": 12, "val": 4, "test": 4}
    sets = [build_dataset(pasted(tmp_path / "lists").data, name) for name in ("train", "val", "test")]
    names = [name for dataset in sets for name in dataset.names]
    before = build_dataset(
        recipe(plain, classes=["a", "b"], splits={"kind": "ratio", "train": 1, "val": 0}).data, "train"
    )
    assert sorted(names) == sorted(before.names)
    again, first = sets[0][0], next(sample for sample in before if sample.name == sets[0].names[0])
    assert (again.image == first.image).all()
    assert (again.mask == first.mask).all()
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == [
        *("classes.csv", "data.yaml", "test.txt", "train.txt", "val.txt")
    ]
    rows = list(csv.DictReader((tmp_path / "lists/classes.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["class"], row["train_images"], row["val_images"]) for row in rows] == [
        ("a", "12", "4"),
        ("b", "6", "2"),
    ]


def test_lists_inside_the_data_are_named_relative_to_it(plain):
    split(recipe(plain, classes=["a", "b"]), plain / "splits", by="folder")
    assert yaml.safe_load((plain / "splits/data.yaml").read_text())["data"]["splits"] == {
        **{"kind": "lists", "train": "splits/train.txt", "val": "splits/val.txt", "lines": "pairs"}
    }
    shutil.move(plain, plain.parent / "moved")
    config = pasted(plain.parent / "moved/splits")
    moved = config.data.model_copy(update={"root": plain.parent / "moved"})
    assert len(build_dataset(moved, "train")) == 16
    assert len(build_dataset(moved, "val")) == 4


def test_the_same_seed_gives_the_same_files(plain, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        split(recipe(plain, classes=["a", "b"]), tmp_path / name / "lists", seed=seed)
    texts = [(tmp_path / name / "lists/train.txt").read_bytes() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]


def test_what_the_recipe_says_of_its_files_stays(plain, tmp_path):
    """Decoding, merging and leaving out work as before with the section that was written; limit does not count."""
    data = {
        "classes": ["a", "b"],
        "remap": {"b": "ignore"},
        "limit": 3,
        "exclude": ["images/größe 0/*"],
        "decode": {"kind": "values", "map": {0: "a", 1: "b"}},
    }
    split(recipe(plain, **data), tmp_path / "lists")
    config = pasted(tmp_path / "lists")
    dataset = build_dataset(config.data, "train")
    assert len(dataset) + len(build_dataset(config.data, "val")) == 16
    assert dataset.classes.names == ("a",)
    assert config.data.limit is None


def test_exact_copies_across_folders_end_in_one_split(plain, tmp_path):
    for k in (1, 2, 3):
        for kind in ("images", "labels"):
            shutil.copy(plain / kind / "größe 0/im 0.png", plain / kind / f"größe {k}/copy.png")
    for seed in range(4):
        assigned = split(recipe(plain, classes=["a", "b"]), tmp_path / f"{seed}", shares=(0.5, 0.5), seed=seed)
        homes = [name for name, pairs in assigned.pairs.items() for pair in pairs if "copy" in pair.name]
        assert len(homes) == 3
        assert len(set(homes)) == 1
        assert len(assigned.copies) == 1


def test_real_tiles_by_pattern(shared_data, tmp_path):
    """Satellite tiles, reduced: no two parts of one tile on both sides."""
    colors = {"land": "#8429f6", "water": "#e2a929", "building": "#3c1098", "vegetation": "#fedd3a", "road": "#6ec1e4"}
    for file in sorted((shared_data / "dubai-aerial").rglob("image_part_00[1-3].*")):
        small = Image.open(file).convert("RGB").resize((96, 80), Image.Resampling.NEAREST)
        target = (tmp_path / "dubai" / file.relative_to(shared_data / "dubai-aerial")).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        small.save(target)
    config = recipe(
        tmp_path / "dubai",
        images="{tile}/images/{id}.png",
        labels="{tile}/masks/{id}.png",
        classes=colors,
        decode={"kind": "palette", "ignore_colors": ["#9b9b9b", "#000000"]},
    )
    assigned = split(config, tmp_path / "lists", by=r"(Tile \d)", shares=(0.7, 0.3))
    tiles = [{pair.image[:6] for pair in pairs} for pairs in assigned.pairs.values()]
    assert not tiles[0] & tiles[1]
    assert [len(each) for each in tiles] == [5, 2]
    assert sum(map(len, assigned.pairs.values())) == 21
    assert len(build_dataset(pasted(tmp_path / "lists").data, "val")) == 6


def test_official_test_images_stay(shared_data, tmp_path):
    """VOC lists: val is kept as the test set would be, train is shared out."""
    voc = config_of({"data": {"kind": "voc", "root": str(shared_data / "voc-person")}, "model": {"kind": "unet"}})
    small = tmp_path / "voc"
    for name in ("train", "val"):
        ids = (shared_data / f"voc-person/ImageSets/Segmentation/{name}.txt").read_text().split()[:12]
        (small / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (small / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(ids))
        for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
            (small / folder).mkdir(exist_ok=True)
            for each in ids:
                shutil.copy(shared_data / f"voc-person/{folder}/{each}.{suffix}", small / folder)
    config = voc.model_copy(update={"data": voc.data.model_copy(update={"root": small})})
    assigned = split(config, tmp_path / "lists", shares=(0.75, 0, 0.25), keep=["val"])
    listed = (small / "ImageSets/Segmentation/val.txt").read_text().split()
    assert sorted(Path(pair.image).stem for pair in assigned.pairs["val"]) == sorted(listed)
    assert {name: len(pairs) for name, pairs in assigned.pairs.items()} == {"train": 9, "val": 12, "test": 3}
    assert build_dataset(pasted(tmp_path / "lists").data, "val").classes.names[15] == "person"


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_nothing_is_written_over(plain, tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.txt").write_text("mine")
    with pytest.raises(InputError, match=r"lists is there already; name a new folder"):
        split(recipe(plain, classes=["a", "b"]), tmp_path / "lists")
    with pytest.raises(InputError, match="there already"):
        split(recipe(plain, classes=["a", "b"]), tmp_path / "lists/train.txt")
    with pytest.raises(InputError, match="cannot write here"):
        split(recipe(plain, classes=["a", "b"]), tmp_path / "lists/train.txt/below")
    assert (tmp_path / "lists/train.txt").read_text() == "mine"


def test_bad_files_are_named_and_nothing_is_left_behind(plain, tmp_path):
    image = plain / "images/größe 1/im 1.png"
    image.write_bytes(image.read_bytes()[:200])
    Image.new("L", (5, 5)).save(plain / "labels/größe 2/im 2.png")
    with pytest.raises(InputError, match=r"2 of 20 pairs cannot be trained on") as caught:
        split(recipe(plain, classes=["a", "b"]), tmp_path / "lists")
    assert "größe 1/im 1.png" in str(caught.value)
    assert "größe 2/im 2.png" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_faults_of_the_question_come_before_the_files_are_read(plain, tmp_path):
    for options, message in (
        ({"shares": (0.8, 0.1)}, "add up to 1"),
        ({"shares": (0.7, 0.1, 0.1, 0.1)}, "4 shares for 3 splits: give those of train, val, test"),
        ({"by": "nothing"}, "no parentheses"),
        ({"keep": ["test"]}, "keep=test: the recipe has no such split, only train, val"),
        ({"by": "(seq)"}, "not found in 20 of 20"),
    ):
        with pytest.raises(InputError, match=message):
            split(
                recipe(plain, classes=["a", "b"]),
                tmp_path / "lists",
                progress=lambda done, total: pytest.fail("read a file"),
                **options,
            )
    own = config_of({"data": {"kind": "own"}, "model": {"kind": "unet"}})
    with pytest.raises(InputError, match="kind=own has no image and label files"):
        split(own, tmp_path / "lists")
