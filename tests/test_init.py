"""`terrazzo data init`: a recipe that loads, reads, trains, and says how sure it is."""

import shutil
from pathlib import Path

import pytest
import yaml

import terrazzo
from strange_trees import label, public, scene, simple
from terrazzo.base import InputError, Sample
from terrazzo.commands.init import init, view_of
from terrazzo.config import RunConfig, load_config
from terrazzo.data import available_splits, build_dataset
from terrazzo.data.augment import Fit, Keep


def first_samples(cfg: RunConfig) -> dict[str, Sample]:
    return {split: build_dataset(cfg.data, split)[0] for split in available_splits(cfg.data)}


def tiles(root: Path) -> Path:
    for tile in range(4):
        for k in range(3):
            scene(root / f"Tile {tile}/images/{k}.jpg", 9 * tile + k)
            label(root / f"Tile {tile}/masks/{k}.png", [(132, 41, 246), (226, 169, 41), (60, 16, 152)], k)
    return root


def test_the_recipe_trains_as_written(tmp_path, monkeypatch):
    """From the folder in which the command was typed, data and recipe given relative to it."""
    simple(tmp_path / "data/cells", [0, 128, 255], 12)
    monkeypatch.chdir(tmp_path)
    found = init(Path("data/cells"), Path("recipes/cells.yaml"))
    assert found.lists == ()
    cfg = load_config("recipes/cells.yaml", ["length={steps: 2}", "data.limit=8", "threads=1"])
    assert (cfg.data.root, cfg.out) == (Path("data/cells"), Path("runs/cells"))
    assert cfg.model.model_dump()["weights"] == "none"
    assert terrazzo.train(cfg).finished
    assert (tmp_path / "runs/cells/report.html").exists()


def test_comments_stand_beside_what_they_are_about(tmp_path):
    simple(tmp_path / "cells", [0, 128, 255], 12)
    found = init(tmp_path / "cells", tmp_path / "cells.yaml")
    text = (tmp_path / "cells.yaml").read_text()
    lines = [line.strip() for line in text.splitlines()]
    at = lines.index("# encoding: 3 values, each of them a class (likely)")
    assert lines[at + 1].startswith("#   why: 12 label files hold 0 (")
    assert lines[at + 2] == "#   else: 255 is no class: `255: ignore` in map, and value_255 taken off classes"
    assert lines[at + 3] == "classes:"
    assert lines[at + 4].startswith("- value_0  # ")
    assert "# weights: pretrained" in text
    assert str(found).splitlines()[0] == "layout    images images/{id}.png, labels masks/{id}.png (certain)"


def test_the_alternatives_work_when_written(tmp_path):
    """What a comment says to write instead is a recipe too."""
    simple(tmp_path / "a", [0, 1, 2, 3], 6)
    found = init(tmp_path / "a", tmp_path / "a.yaml")
    said = found.findings[1].alternative
    assert said.startswith("0 is no class: take class_0 off classes and write decode: ")
    decode = said.partition("decode: ")[2].replace(", ...", ", 3: class_3")
    tree = yaml.safe_load((tmp_path / "a.yaml").read_text())
    tree["data"]["classes"].remove("class_0")
    tree["data"]["decode"] = yaml.safe_load(decode)
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(tree))
    assert set(first_samples(load_config(tmp_path / "b.yaml"))["train"].mask.ravel().tolist()) == {0, 1, 2, 255}


def test_lists_are_written_beside_the_recipe(tmp_path):
    tiles(tmp_path / "my data")
    found = init(tmp_path / "my data", tmp_path / "out/tiles.yaml")
    assert found.lists == (tmp_path / "out/tiles_train.txt", tmp_path / "out/tiles_val.txt")
    cfg = load_config(tmp_path / "out/tiles.yaml")
    train_set, val_set = (build_dataset(cfg.data, split) for split in ("train", "val"))
    assert (len(train_set), len(val_set)) == (9, 3)
    assert {train_set[k].name[:6] for k in range(9)} & {val_set[k].name[:6] for k in range(3)} == set()
    text = (tmp_path / "out/tiles.yaml").read_text()
    assert "# images: '{folder}/images/{id}.jpg'" in text
    tree = yaml.safe_load(text)
    tree["data"] |= {
        "images": "{folder}/images/{id}.jpg",
        "labels": "{folder}/masks/{id}.png",
        "splits": {"kind": "ratio"},
    }
    (tmp_path / "ratio.yaml").write_text(yaml.safe_dump(tree))
    assert len(build_dataset(load_config(tmp_path / "ratio.yaml").data, "train")) == 10


def test_names_that_templates_cannot_say_stand_in_lists(tmp_path):
    for k in range(4):
        scene(tmp_path / f"data/{{a}}/images/{k}.png", k)
        label(tmp_path / f"data/{{a}}/masks/{k}.png", [0, 1], k)
    for split, ids in (("train", "012"), ("val", "3")):
        (tmp_path / f"data/{split}.txt").write_text("".join(f"{k}\n" for k in ids))
    init(tmp_path / "data", tmp_path / "a b.yaml")
    cfg = load_config(tmp_path / "a b.yaml")
    assert build_dataset(cfg.data, "val")[0].name == "{a}/images/3"
    assert f"`terrazzo train '{tmp_path}/a b.yaml'`" in (tmp_path / "a b.yaml").read_text()


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path, monkeypatch):
    data = tiles(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text("kept")
    with pytest.raises(InputError, match=r"mine\.yaml is there already and is not overwritten"):
        init(data, tmp_path / "mine.yaml")
    with pytest.raises(InputError, match=r"is a folder; give the recipe a name with --out, for example .*mine\.yaml"):
        init(data, data)
    (tmp_path / "other_val.txt").write_text("kept")
    with pytest.raises(InputError, match=r"other_val\.txt is there already"):
        init(data, tmp_path / "other.yaml")
    with pytest.raises(InputError, match=r"cannot be written"):
        init(data, tmp_path / "mine.yaml/below.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mine.yaml", "other_val.txt"]
    assert (tmp_path / "mine.yaml").read_text() == "kept"


def test_a_folder_is_asked_for(tmp_path):
    with pytest.raises(InputError, match=r"nowhere is no folder; give one that holds images and label maps"):
        init(tmp_path / "nowhere", tmp_path / "a.yaml")


def test_the_data_is_not_touched(tmp_path):
    data = tiles(tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    init(data, tmp_path / "a.yaml")
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_what_would_stop_a_run_is_said(tmp_path):
    simple(tmp_path / "data", [0, 1, 2], 5)
    (tmp_path / "data/images/000.png").write_bytes(b"")
    found = init(tmp_path / "data", tmp_path / "a.yaml")
    assert any(r.startswith("as it stands a run stops: ") and "000.png" in r for r in found.remarks)
    assert "as it stands a run stops" in (tmp_path / "a.yaml").read_text()


def test_odd_names_stand_in_the_recipe_as_they_are(tmp_path):
    root = tmp_path / "Ä: #1 'x'"
    for k in range(4):
        scene(root / f"Bilder: a/{k} #.png", k)
        label(root / f"Masken '/{k} #.png", [0, 1], k)
    (root / "classes.txt").write_text("no\nyes, sir: #1\n")
    init(root, tmp_path / "a.yaml")
    cfg = load_config(tmp_path / "a.yaml")
    assert cfg.data.root == root
    assert build_dataset(cfg.data, "train").classes.names == ("no", "yes")


@pytest.mark.parametrize(
    ("sizes", "resize", "crop"),
    [
        ([(120, 120)] * 3, Keep(), 128),
        ([(20, 30)], Keep(), 64),
        ([(360, 480)], Keep(), 320),
        ([(1024, 2048)], Fit(short=512, long=1024), 320),
        ([(300, 400)] * 9 + [(3000, 4000)], Fit(short=300, long=600), 320),
        ([(2061, 1817), (544, 509)], Fit(short=512, long=1024), 320),
        ([], Keep(), 320),
    ],
)
def test_sizes_are_chosen_for_two_cores(sizes, resize, crop):
    assert view_of(sizes) == (resize, crop)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("camvid", (367, 101, 233)),
        ("voc-person", (130, 60)),
        ("wbc", (240, 60)),
        ("pets-mini", (21, 5)),
    ],
)
def test_real_data_from_a_folder_to_samples(shared_data, tmp_path, name, counts):
    found = init(shared_data / name, tmp_path / "mine.yaml")
    cfg = load_config(tmp_path / "mine.yaml")
    assert tuple(len(build_dataset(cfg.data, split)) for split in available_splits(cfg.data)) == counts
    for sample in first_samples(cfg).values():
        assert sample.image.shape[:2] == sample.mask.shape
    assert not [remark for remark in found.remarks if "stops" in remark]


def test_real_observers_can_be_exchanged_in_one_line(shared_data, tmp_path):
    for path in (shared_data / "chase-db1").glob("Image_0[1-4]*"):
        (tmp_path / "data").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "data")
    found = init(tmp_path / "data", tmp_path / "eyes.yaml")
    other = found.findings[0].alternative.partition("labels: ")[2].removesuffix(" (8 files)")
    first, second = load_config(tmp_path / "eyes.yaml"), load_config(tmp_path / "eyes.yaml", [f"data.labels={other}"])
    masks = [build_dataset(each.data, "train")[0].mask for each in (first, second)]
    assert masks[0].shape == masks[1].shape
    assert 0 < (masks[0] != masks[1]).mean() < 0.05


REAL = ("camvid", "voc-person", "chase-db1", "wbc", "pets-mini", "dubai-aerial")
TREES = ("cityscapes", "idd", "idd_lite", "stanford", "ade20k", "ade-like")


def made_up(root: Path, name: str) -> Path:
    if name != "ade-like":
        return public(root, name)
    for split, count in (("training", 6), ("validation", 2)):
        for k in range(count):
            scene(root / f"images/{split}/{k:03}.jpg", k)
            label(root / f"annotations/{split}/{k:03}.png", range(6), k)  # 0 is no class
    return root


@pytest.mark.parametrize("name", [*REAL, *TREES])
def test_every_folder_goes_from_init_to_a_report_without_an_edit(request, tmp_path, monkeypatch, name):
    root = request.getfixturevalue("shared_data") / name if name in REAL else made_up(tmp_path / "data", name)
    monkeypatch.chdir(tmp_path)
    init(root, Path("mine.yaml"))
    assert terrazzo.train(load_config("mine.yaml", ["length={steps: 1}", "data.limit=2", "threads=1"])).finished
    assert (tmp_path / "runs/mine/report.html").exists()
