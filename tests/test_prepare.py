"""`terrazzo data prepare` on files: the same samples as before, in plain pairs, whatever interrupts it."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from terrazzo.base import IGNORE, InputError
from terrazzo.commands.prepare import prepare
from terrazzo.config import RunConfig, config_of
from terrazzo.data import available_splits, build_dataset
from terrazzo.data.augment import Exact, Fit, ShortSide, resize_image, resize_mask
from terrazzo.prepare.pairs import windows

ALL_IN_TRAIN = {"kind": "ratio", "train": 1, "val": 0}
FLAT = {"images": "images", "labels": "labels", "classes": ["a", "b"], "splits": ALL_IN_TRAIN}


def recipe(root: Path, **data: object) -> RunConfig:
    return config_of({"data": {"kind": "folder", "root": str(root), **data}, "model": {"kind": "unet"}})


def pasted(out: Path) -> RunConfig:
    """A recipe with the section that was written."""
    return config_of({**yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8")), "model": {"kind": "unet"}})


def photo(path: Path, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path.name).encode()))
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)


def label(path: Path, high: int = 3, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path.name).encode()))
    Image.fromarray(rng.integers(0, high, size, np.uint8)).save(path)


def contents(folder: Path) -> dict[str, str]:
    """Every file with the digest of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def drives(tmp_path: Path) -> RunConfig:
    """Two splits of two drives each, whose frames have the same names; class 2 is the last."""
    root = tmp_path / "data"
    for split in ("train", "val"):
        for drive in ("drive 1", "dríve2"):
            for k in range(3):
                photo(root / f"photo/{split}/{drive}/frame_{k}.v1.jpg")
                label(root / f"ids/{split}/{drive}/frame_{k}.v1.png")
    return recipe(root, images="photo/{split}", labels="ids/{split}", classes=["a", "b", "c"])


def assert_same_samples(before: RunConfig, out: Path, *, pixels: bool = True) -> None:
    after = pasted(out)
    assert available_splits(after.data) == available_splits(before.data)
    for split in available_splits(before.data):
        ours, theirs = build_dataset(after.data, split), build_dataset(before.data, split)
        assert len(ours) == len(theirs)
        assert ours.classes.names == theirs.classes.names
        assert ours.classes.colors == theirs.classes.colors
        for k in range(len(theirs)):
            assert (ours[k].mask == theirs[k].mask).all(), ours[k].name
            assert not pixels or (ours[k].image == theirs[k].image).all(), ours[k].name


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_equal_names_of_different_drives_stay_apart(drives, tmp_path):
    before = contents(tmp_path / "data")
    prepared = prepare(drives, tmp_path / "out")
    assert prepared.images == prepared.written == {"train": 6, "val": 6}
    assert sorted(path for path in contents(tmp_path / "out") if path.startswith("train")) == sorted(
        f"train_{kind}/{drive}/frame_{k}.v1.{suffix}"
        for kind, suffix in (("img", "jpg"), ("label", "png"))
        for drive in ("drive 1", "dríve2")
        for k in range(3)
    )
    listed = (tmp_path / "out/splits/val.txt").read_text(encoding="utf-8").splitlines()
    assert listed == [f"{drive}/frame_{k}.v1" for drive in ("drive 1", "dríve2") for k in range(3)]
    assert_same_samples(drives, tmp_path / "out")
    assert contents(tmp_path / "data") == before
    assert contents(tmp_path / "out/val_img") == contents(tmp_path / "data/photo/val")


def test_masks_are_plain_grey_ids(drives, tmp_path):
    config = drives.model_copy(update={"data": drives.data.model_copy(update={"remap": {"a": "ignore"}})})
    prepare(config, tmp_path / "out")
    mask = Image.open(tmp_path / "out/train_label/drive 1/frame_0.v1.png")
    raw = np.asarray(Image.open(tmp_path / "data/ids/train/drive 1/frame_0.v1.png"))
    assert mask.mode == "L"
    assert (np.asarray(mask) == np.array([IGNORE, 0, 1], np.uint8)[raw]).all()
    assert_same_samples(config, tmp_path / "out")


def test_text_polygons_and_colours_become_ids(tmp_path):
    """The same picture labelled in three ways gives the same mask, the one that the decoders read."""
    mask = np.full((20, 30), 1, np.uint8)
    mask[5:10, 8:20] = 0
    photo(tmp_path / "data/images/x.png")
    labels = tmp_path / "data"
    for name in ("text", "polygons", "colors"):
        (labels / name).mkdir()
    (labels / "text/x.txt").write_text("\n".join(" ".join(map(str, row)) for row in mask))
    square = [[8, 5], [19, 5], [19, 9], [8, 9]]
    everything = [[0, 0], [29, 0], [29, 19], [0, 19]]
    objects = [{"label": "b", "polygon": everything}, {"label": "a", "polygon": square}]
    (labels / "polygons/x.json").write_text(json.dumps({"imgHeight": 20, "imgWidth": 30, "objects": objects}))
    Image.fromarray(np.array([[9, 8, 7], [200, 100, 50]], np.uint8)[mask]).save(labels / "colors/x.png")
    classes = {"a": [9, 8, 7], "b": [200, 100, 50]}
    for kind, suffix, decode in (
        ("text", "txt", {"kind": "index"}),
        ("polygons", "json", {"kind": "polygons"}),
        ("colors", "png", {"kind": "palette"}),
    ):
        config = recipe(
            tmp_path / "data",
            images="images/{id}.png",
            labels=f"{kind}/{{id}}.{suffix}",
            classes=classes,
            decode=decode,
            splits=ALL_IN_TRAIN,
        )
        prepare(config, tmp_path / kind)
        assert (np.asarray(Image.open(tmp_path / kind / "train_label/x.png")) == mask).all(), kind
        assert_same_samples(config, tmp_path / kind)


@pytest.mark.parametrize("name", ["wbc", "pets-mini", "chase-db1"])
def test_real_data(shared_data, tmp_path, name):
    """Three values of which 255 is a class, a palette with 255 for no class, and bits."""
    options = {
        "wbc": {
            **{"images": "images/{id}.png", "labels": "masks/{id}.png", "classes": ["rest", "cytoplasm", "nucleus"]},
            "decode": {"kind": "values", "map": {0: "rest", 128: "cytoplasm", 255: "nucleus"}},
        },
        "pets-mini": {"images": "images", "labels": "labels", "classes": ["background", "cat", "dog"]},
        "chase-db1": {
            **{"images": "{id}.jpg", "labels": "{id}_1stHO.png", "classes": ["background", "vessel"]},
            "decode": {"kind": "bits"},
        },
    }
    config = recipe(shared_data / name, **options[name], splits={"kind": "ratio"}, limit=4)
    prepare(config, tmp_path / "out")
    assert_same_samples(config, tmp_path / "out")


def test_how_the_recipe_reads_is_what_is_written(tmp_path):
    """Photographs whose tag is not obeyed and labels that are moved need neither setting afterwards."""
    exif = Image.Exif()
    exif[0x0112] = 3
    photo(tmp_path / "data/images/x.jpg")
    Image.open(tmp_path / "data/images/x.jpg").save(tmp_path / "data/images/x.jpg", exif=exif, quality="keep")
    label(tmp_path / "data/labels/x.png", 2)
    config = recipe(tmp_path / "data", **FLAT, exif="ignore", align={"mirror": True, "shift": [3, -2]})
    prepare(config, tmp_path / "out")
    assert_same_samples(config, tmp_path / "out")
    written = pasted(tmp_path / "out").data
    assert (written.exif, written.align) == ("obey", None)
    assert (build_dataset(written, "train")[0].mask[-2:] == IGNORE).all()


def test_png_and_jpeg(drives, tmp_path):
    prepare(drives, tmp_path / "png", image_format="png")
    assert_same_samples(drives, tmp_path / "png")
    assert {path.suffix for path in (tmp_path / "png").rglob("frame*")} == {".png"}
    prepare(pasted(tmp_path / "png"), tmp_path / "jpg", image_format="jpg")
    assert_same_samples(drives, tmp_path / "jpg", pixels=False)
    ours, theirs = build_dataset(pasted(tmp_path / "jpg").data, "val"), build_dataset(drives.data, "val")
    assert np.abs(ours[0].image.astype(int) - theirs[0].image).mean() < 8, "noise, saved as JPEG of good quality"
    prepare(drives, tmp_path / "same", image_format="jpg")
    assert_same_samples(drives, tmp_path / "same")


@pytest.mark.parametrize("resize", [ShortSide(pixels=10), Fit(short=40, long=45), Exact(height=7, width=50)])
def test_resized_as_in_training(drives, tmp_path, resize):
    prepare(drives, tmp_path / "out", resize=resize)
    ours, theirs = build_dataset(pasted(tmp_path / "out").data, "val"), build_dataset(drives.data, "val")
    for k in range(len(theirs)):
        image = resize_image(theirs[k].image, resize)
        assert (ours[k].image == image).all()
        assert (ours[k].mask == resize_mask(theirs[k].mask, image.shape[:2])).all()


@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 40), st.data())
def test_windows_cover_everything_with_squares(height, width, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))
    found = windows((height, width), tile, overlap)
    covered = np.zeros((height, width), int)
    for top, left, rows, columns in found:
        assert (rows, columns) == (min(tile, height), min(tile, width))
        covered[top : top + rows, left : left + columns] += 1
        assert top + rows <= height
        assert left + columns <= width
    assert covered.min() >= 1
    assert len(set(found)) == len(found)
    for side, starts in ((height, {w.top for w in found}), (width, {w.left for w in found})):
        ordered = sorted(starts)
        assert all(b - a <= tile - overlap for a, b in pairwise(ordered))
        assert len(ordered) == max(1, ceil((side - overlap) / (tile - overlap))), "no more than needed"


def test_tiles_are_the_parts_that_their_names_say(drives, tmp_path):
    prepared = prepare(drives, tmp_path / "out", tile=16, overlap=4)
    assert prepared.written == {"train": 36, "val": 36}
    after, before = build_dataset(pasted(tmp_path / "out").data, "train"), build_dataset(drives.data, "train")
    whole = {sample.name.removeprefix("photo/train/"): sample for sample in before}
    assert {name.split("_", 3)[-1] for name in after.names} == {f"{y}_{x}" for y in (0, 4) for x in (0, 12, 14)}
    for sample in after:
        name, top, left = sample.name.removeprefix("train_img/").rsplit("_", 2)
        part = np.s_[int(top) : int(top) + 16, int(left) : int(left) + 16]
        assert (sample.image == whole[name].image[part]).all()
        assert (sample.mask == whole[name].mask[part]).all()


def test_images_smaller_than_a_tile_are_copied(drives, tmp_path):
    prepare(drives, tmp_path / "out", tile=64)
    copied = tmp_path / "out/val_img/drive 1/frame_0.v1_0_0.jpg"
    assert copied.read_bytes() == (tmp_path / "data/photo/val/drive 1/frame_0.v1.jpg").read_bytes()
    assert_same_samples(drives, tmp_path / "out")


def test_turned_photographs_come_out_upright(tmp_path):
    """Tag 6: the file lies on its side. What is written needs no tag to be right."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    (tmp_path / "data/images").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "data/images/x.png", exif=exif)
    label(tmp_path / "data/labels/x.png", 2, (30, 20))
    config = recipe(tmp_path / "data", **FLAT)
    prepare(config, tmp_path / "out")
    written = Image.open(tmp_path / "out/train_img/x.png")
    assert written.size == (20, 30)
    assert 0x0112 not in written.getexif()
    assert_same_samples(config, tmp_path / "out")


# --- going on ---------------------------------------------------------------------------------------------------------


def test_settings_with_numbers_as_keys_are_the_same_again(tmp_path):
    photo(tmp_path / "data/images/x.png")
    label(tmp_path / "data/labels/x.png", 2)
    decode = {"kind": "values", "map": {0: "a", 1: "b", 255: "ignore"}}
    config = recipe(tmp_path / "data", **FLAT, decode=decode)
    prepare(config, tmp_path / "out")
    assert prepare(config, tmp_path / "out").reused == 1


def test_the_same_call_again_does_nothing(drives, tmp_path):
    assert prepare(drives, tmp_path / "out").reused == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.v1.*")}
    assert prepare(drives, tmp_path / "out").reused == 12
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.v1.*")} == before


def test_stopped_is_as_not_stopped(drives, tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(drives, tmp_path / "out", tile=16, workers=2, progress=stop)
    assert not (tmp_path / "out/data.yaml").exists()
    seen = []
    prepared = prepare(drives, tmp_path / "out", tile=16, progress=lambda done, total: seen.append((done, total)))
    assert prepared.reused == 5
    assert seen == [(k, 12) for k in range(6, 13)]
    prepare(drives, tmp_path / "whole", tile=16)
    ours, theirs = contents(tmp_path / "out"), contents(tmp_path / "whole")
    for each in (ours, theirs):
        del each["prepared.jsonl"], each["data.yaml"]  # the order of threads, and the folder's name
    assert ours == theirs


KILLED = """
import os, signal, sys
from pathlib import Path
from terrazzo.commands.prepare import prepare
from terrazzo.config import load_config
def kill(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
prepare(load_config(sys.argv[1]), Path(sys.argv[2]), workers=3, progress=kill)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_is_as_not_killed(drives, tmp_path):
    section = drives.data.model_dump(mode="json")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"data": section, "model": {"kind": "unet"}}))
    command = [sys.executable, "-c", KILLED, tmp_path / "recipe.yaml", tmp_path / "out"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (tmp_path / "out/val_img").mkdir(exist_ok=True)
    (tmp_path / "out/val_img/.0a1b2c3d.x.png").touch()  # as a kill leaves it
    journal = tmp_path / "out/prepared.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])  # the kill may cut a line
    assert prepare(drives, tmp_path / "out").reused == 2
    assert_same_samples(drives, tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".*"))


def test_what_changed_is_made_again_and_what_went_is_removed(drives, tmp_path):
    prepare(drives, tmp_path / "out")
    photo(tmp_path / "data/photo/train/drive 1/frame_0.v1.png")  # another suffix and other pixels
    for gone in (
        "photo/train/drive 1/frame_0.v1.jpg",
        "photo/val/drive 1/frame_1.v1.jpg",
        "ids/val/drive 1/frame_1.v1.png",
    ):
        (tmp_path / "data" / gone).unlink()
    (tmp_path / "out/val_label/drive 1/frame_2.v1.png").unlink()
    prepared = prepare(drives, tmp_path / "out")
    assert prepared.reused == 9
    assert prepared.images == {"train": 6, "val": 5}
    assert not (tmp_path / "out/train_img/drive 1/frame_0.v1.jpg").exists()
    assert not (tmp_path / "out/val_label/drive 1/frame_1.v1.png").exists()
    assert_same_samples(drives, tmp_path / "out")


def test_a_bad_file_is_named_the_others_are_done_and_the_set_is_not_complete(drives, tmp_path):
    bad = tmp_path / "data/photo/train/drive 1/frame_1.v1.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    Image.new("L", (30, 20), 7).save(tmp_path / "data/ids/val/drive 1/frame_0.v1.png")
    with pytest.raises(InputError, match=r"2 of 12 images failed; the others are in .*out") as caught:
        prepare(drives, tmp_path / "out")
    assert str(bad) in str(caught.value)
    assert "value 7" in str(caught.value)
    assert not (tmp_path / "out/data.yaml").exists()
    assert not list((tmp_path / "out").rglob(".*"))
    exclude = ("photo/train/drive 1/frame_1.v1", "photo/val/drive 1/frame_0.v1")
    config = drives.model_copy(update={"data": drives.data.model_copy(update={"exclude": exclude})})
    prepared = prepare(config, tmp_path / "out")
    assert prepared.reused == 10
    assert_same_samples(config, tmp_path / "out")


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_the_original_is_never_written_to(drives, tmp_path):
    before = contents(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data/photo")
    for out in (tmp_path / "data", tmp_path / "data/out", tmp_path, tmp_path / "link/out", tmp_path / "x/../data/ids"):
        with pytest.raises(InputError, match="lie in each other"):
            prepare(drives, out)
    assert contents(tmp_path / "data") == before


def test_images_that_are_links_lead_to_the_original(tmp_path):
    photo(tmp_path / "store/images/x.png")
    label(tmp_path / "data/labels/x.png", 2)
    (tmp_path / "data/images").symlink_to(tmp_path / "store/images")
    with pytest.raises(InputError, match=r"original files in .*store/images lie in each other"):
        prepare(recipe(tmp_path / "data", **FLAT), tmp_path / "store/images/out")
    prepare(recipe(tmp_path / "data", **FLAT), tmp_path / "store/out")


def test_a_folder_of_something_else_stays_as_it_is(drives, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    for out in (tmp_path / "mine", tmp_path / "mine/notes.txt"):
        with pytest.raises(InputError, match="there already and was not made by"):
            prepare(drives, out)
    with pytest.raises(InputError, match="cannot write here"):
        prepare(drives, tmp_path / "mine/notes.txt/below")
    assert contents(tmp_path / "mine").keys() == {"notes.txt"}


@pytest.mark.parametrize("text", ["", "no json\n", '{"tile": null}\n{"key": 1}\n'])
def test_a_damaged_journal(drives, tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/prepared.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"prepared.jsonl is damaged .* name a new folder, or delete this one"):
        prepare(drives, tmp_path / "out")


def test_other_settings_need_another_folder(drives, tmp_path):
    prepare(drives, tmp_path / "out")
    with pytest.raises(InputError, match=r"prepared with other settings \(overlap, tile\)"):
        prepare(drives, tmp_path / "out", tile=16, overlap=2)
    merged = drives.model_copy(update={"data": drives.data.model_copy(update={"remap": {"a": "b"}})})
    with pytest.raises(InputError, match=r"other settings \(remap\)"):
        prepare(merged, tmp_path / "out")
    fewer = drives.model_copy(update={"data": drives.data.model_copy(update={"limit": 2, "workers": 0})})
    assert prepare(fewer, tmp_path / "out").images == {"train": 2, "val": 2}


def test_a_name_that_no_list_can_hold(tmp_path):
    photo(tmp_path / "data/images/#x.png")
    label(tmp_path / "data/labels/#x.png", 2)
    with pytest.raises(InputError, match="'#x' would be a comment in a list file; rename it"):
        prepare(recipe(tmp_path / "data", **FLAT), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_of_unusual_suffix_becomes_a_png(tmp_path):
    photo(tmp_path / "data/images/x.png")
    (tmp_path / "data/images/x.png").rename(tmp_path / "data/images/x.picture")
    label(tmp_path / "data/labels/x.png", 2)
    config = recipe(tmp_path / "data", **FLAT | {"images": "images/{id}.picture", "labels": "labels/{id}.png"})
    prepare(config, tmp_path / "out")
    assert (tmp_path / "out/train_img/x.png").is_file()
    assert_same_samples(config, tmp_path / "out")


def test_names_that_differ_in_case_only(drives, tmp_path):
    for kind, suffix in (("photo", "jpg"), ("ids", "png")):
        folder = tmp_path / f"data/{kind}/train/drive 1"
        shutil.copy(folder / f"frame_0.v1.{suffix}", folder / f"Frame_0.v1.{suffix}")
    with pytest.raises(InputError, match="differ in upper and lower case only"):
        prepare(drives, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile=0 must be at least 1"),
        ({"overlap": 4}, "overlap=4 must be between 0 and tile=None"),
        ({"tile": 16, "overlap": 16}, "overlap=16 must be between 0 and tile=16"),
        ({"tile": 16, "overlap": -1}, "overlap=-1"),
    ],
)
def test_changes_that_make_no_sense(drives, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        prepare(drives, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_objects_from_python_are_no_files(tmp_path):
    own = config_of({"data": {"kind": "own"}, "model": {"kind": "unet"}})
    with pytest.raises(InputError, match="kind=own has no image and label files"):
        prepare(own, tmp_path / "out")
