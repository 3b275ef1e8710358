"""What files there are and what is wrong with how they lie, against brute force and against what training reads."""

import os
from pathlib import Path

import pytest
from fake_files import label, lines, photo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from terrazzo.base import InputError
from terrazzo.data.folder import Folder, FolderData
from terrazzo.data.inventory import Inventory, inventory
from terrazzo.data.layouts_driving import CamvidData, camvid
from terrazzo.data.split import FolderSplits, ListSplits, RatioSplits

ALL = RatioSplits(train=1, val=0)


def draw(root: Path, *paths: str) -> None:
    for path in paths:
        (label if "label" in path else photo)(root / path, *([[[0, 1]]] if "label" in path else []))


def data(root: Path, **options: object) -> FolderData:
    given_options = {"images": "images", "labels": "labels", "splits": ALL, **options}
    return FolderData.model_validate({"root": root, "classes": ["a", "b"], **given_options})


def as_training_reads(cfg: FolderData, found: Inventory) -> bool:
    return all(
        Folder(cfg, split).files == tuple((cfg.root / pair.image, cfg.root / pair.label) for pair in pairs)
        for split, pairs in found.pairs.items()
    )


def told(cfg: FolderData) -> str:
    return " | ".join(inventory(cfg).faults)


# --- faults of single files -------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    images=st.sets(st.tuples(st.sampled_from("abcde"), st.sampled_from(["jpg", "png"])), min_size=1),
    labels=st.sets(st.tuples(st.sampled_from("abcde"), st.sampled_from(["png", "bmp"]))),
)
def test_every_fault_is_told_and_without_it_training_reads_the_rest(tmp_path_factory, images, labels):
    root = tmp_path_factory.mktemp("tree")
    draw(root, *(f"images/{k}.{end}" for k, end in images), *(f"labels/{k}.{end}" for k, end in labels))
    of_image, of_label = (
        {k: sorted(f"{what}/{k}.{end}" for other, end in files if other == k) for k, _ in files}
        for what, files in (("images", images), ("labels", labels))
    )
    found = inventory(data(root))
    both = of_image.keys() & of_label.keys()
    good = [k for k in sorted(both) if len(of_image[k]) == len(of_label[k]) == 1]
    assert [tuple(pair) for pair in found.pairs["train"]] == [(*of_image[k], *of_label[k]) for k in good]
    assert sorted(found.unlabelled) == sorted(path for k in of_image.keys() - both for path in of_image[k])
    assert sorted(found.orphans) == sorted(path for k in of_label.keys() - both for path in of_label[k])
    groups = [*of_image.values(), *(of_label[k] for k in both)]
    assert sorted(found.doubles) == sorted(tuple(group) for group in groups if len(group) > 1)
    if not good:
        return
    exclude = (*found.unlabelled, *(path for group in found.doubles for path in group))
    cfg = data(root, exclude=exclude)
    mended = inventory(cfg)
    assert mended.pairs == found.pairs
    assert (mended.unlabelled, mended.doubles, mended.faults) == ((), (), ())
    assert as_training_reads(cfg, mended)
    if exclude:
        with pytest.raises(InputError):
            Folder(data(root), "train")


def test_one_name_for_two_images(tmp_path):
    draw(tmp_path, "images/a.jpg", "images/a.png", "images/b.png", "labels/a_jpg.png", "labels/a_png.png")
    draw(tmp_path, "labels/b_png.png")
    found = inventory(data(tmp_path, images="images/{id}.{end}", labels="labels/{id}_{end}.png"))
    assert found.doubles == (("images/a.jpg", "images/a.png"),)
    assert [pair.name for pair in found.pairs["train"]] == ["images/b"]


def test_names_that_some_systems_cannot_keep_apart(tmp_path):
    draw(tmp_path, *(f"{what}/{name}.png" for what in ("images", "labels") for name in ("a", "A", "é", "e\u0301")))
    cfg = data(tmp_path)
    found = inventory(cfg)
    assert as_training_reads(cfg, found)
    assert len(found.pairs["train"]) == 4
    assert "images/A.png and images/a.png differ in capitals or accents only" in found.faults[0]
    assert len(found.faults) == 4


def test_a_label_that_is_written_differently(tmp_path):
    draw(tmp_path, "images/Straße 1.png", "images/b.png", "labels/STRASSE 1.png", "labels/b.png")
    found = inventory(data(tmp_path))
    assert (found.unlabelled, found.orphans) == (("images/Straße 1.png",), ("labels/STRASSE 1.png",))
    assert "images/Straße 1.png has no label, but labels/STRASSE 1.png is written differently" in found.faults[0]
    with pytest.raises(InputError, match=r"1 of 2 images .*; labels/STRASSE 1\.png is written differently"):
        Folder(data(tmp_path), "train")


def test_a_name_that_is_no_text(tmp_path):
    draw(tmp_path, "images/a.png", "labels/a.png")
    try:
        (tmp_path / "images/a.png").rename(tmp_path / os.fsdecode(b"images/\xff.png"))
    except OSError:
        pytest.skip("this system has no such names")
    draw(tmp_path, "images/a.png")
    found = inventory(data(tmp_path))
    assert [pair.name for pair in found.pairs["train"]] == ["images/a"]
    assert found.faults == (r"'images/\udcff.png': its name is no UTF-8; rename it",)
    with pytest.raises(InputError, match="its name is no UTF-8; rename it"):
        Folder(data(tmp_path), "train")


# --- lists ------------------------------------------------------------------------------------------------------------


def test_lists_with_every_fault(tmp_path):
    draw(tmp_path, *(f"images/{name}.jpg" for name in "abcd"), "labels/a.png", "labels/c.png", "labels/c.bmp")
    draw(tmp_path, "labels/z.png")
    lines(tmp_path / "train.txt", "a.jpg", "b", "c", "gone", "a")
    cfg = data(tmp_path, splits=ListSplits(train="train.txt", val="val.txt"))
    found = inventory(cfg)
    assert [pair.name for pair in found.pairs["train"]] == ["images/a"]
    assert found.pairs["val"] == ()
    assert found.unlabelled == ("images/b.jpg",), "d is in no list"
    assert found.orphans == ("labels/z.png",)
    assert found.doubles == (("labels/c.bmp", "labels/c.png"),)
    assert [sentence.replace(f"{tmp_path}{os.sep}", "") for sentence in found.faults] == [
        f"train.txt, line 4: no image for 'gone', expected {Path('images/gone.*')}; correct the list or "
        "data.images, or choose another data.splits.lines",
        "train.txt: lines 1 and 5 name the same image 'images/a'; remove one",
        "val.txt: cannot read this list of images (No such file or directory); name an existing one under data.splits, "
        "or choose data.splits.kind=folders or ratio",
    ]


def test_lists_of_pairs_with_every_fault(tmp_path):
    draw(tmp_path, *(f"images/{name}.jpg" for name in "abc"), "labels/a.png", "labels/c.png")
    texts = ("images/a.jpg labels/a.png", "images/b.jpg labels/b.png", "images/x.jpg labels/a.png", "images/a.jpg")
    lines(tmp_path / "list.txt", *texts, "images/c.jpg /labels/a.png", "images/c.jpg labels/c.png")
    cfg = data(tmp_path, images=None, labels=None, splits=ListSplits(train="list.txt", lines="pairs"))
    found = inventory(cfg)
    assert [pair.image for pair in found.pairs["train"]] == ["images/a.jpg", "images/c.jpg"]
    assert found.unlabelled == ("images/b.jpg", "images/c.jpg")
    faults = "|".join(found.faults)
    assert "line 4: 1 columns ('images/a.jpg')" in faults
    assert f"line 3: there is no file {tmp_path / 'images' / 'x.jpg'}" in faults
    lines(tmp_path / "list.txt", *texts[:2])
    mended = cfg.model_copy(update={"exclude": ("images/b",)})
    assert as_training_reads(mended, inventory(mended))


# --- splits and folders -----------------------------------------------------------------------------------------------


def test_a_missing_and_an_empty_split(tmp_path):
    draw(tmp_path, "train/images/a.png", "train/labels/a.png", "test/labels/a.png")
    (tmp_path / "test/images").mkdir()
    options = {"images": "{split}/images", "labels": "{split}/labels"}
    found = inventory(data(tmp_path, splits=FolderSplits(test="test"), **options))
    assert {split: len(pairs) for split, pairs in found.pairs.items()} == {"train": 1, "val": 0, "test": 0}
    assert found.orphans == ("test/labels/a.png",)
    assert len(found.faults) == 2
    assert "'val/images/{id}.*' finds no image" in found.faults[0]
    few = data(tmp_path / "train", splits=RatioSplits())
    assert "the val split is empty" in told(few)


def test_nothing_at_all_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"data\.root=.*nowhere is no folder"):
        inventory(data(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"data\.images .* finds no image"):
        inventory(data(tmp_path))
    with pytest.raises(InputError, match=r"cannot read this list"):
        inventory(data(tmp_path, splits=ListSplits(train="train.txt")))


def test_a_link_back_is_not_followed(tmp_path):
    draw(tmp_path, "set/images/a.png", "set/labels/a.png", "set/images/deep/b.png", "set/labels/deep/b.png")
    images = tmp_path / "set/images"
    (images / "deep/back").symlink_to(images, target_is_directory=True)
    (images / "up").symlink_to(tmp_path.parent, target_is_directory=True)
    (images / "self.png").symlink_to(images / "self.png")
    (tmp_path / "set/labels/self.png").symlink_to(tmp_path / "set/labels/a.png")
    (images / "other").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    draw(tmp_path, "elsewhere/c.png", "set/labels/other/c.png")
    cfg = data(tmp_path / "set")
    found = inventory(cfg)
    names = ["images/a", "images/deep/b", "images/other/c", "images/self"]
    assert [pair.name for pair in found.pairs["train"]] == names
    assert as_training_reads(cfg, found)
    assert len(found.faults) == 2
    assert all("a link to a folder that it lies in; it is not followed" in sentence for sentence in found.faults)
    with pytest.raises(InputError, match=r"self\.png: cannot open this image \(Too many levels"):
        Folder(cfg, "train")[3]


def test_a_folder_without_the_right_to_read_it(tmp_path, monkeypatch):
    draw(tmp_path, "images/a.png", "labels/a.png", "images/closed/b.png", "labels/closed/b.png")
    scandir = os.scandir

    def guarded(path: str) -> object:  # the tests may run as a user who may read everything
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = inventory(data(tmp_path))
    assert [pair.name for pair in found.pairs["train"]] == ["images/a"]
    assert len(found.faults) == 2
    assert "closed: cannot look into this folder (Permission denied)" in found.faults[0]
    with pytest.raises(InputError, match=r"closed: cannot look into this folder \(Permission denied\)"):
        Folder(data(tmp_path), "train")


# --- exclude ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("images/a.png", "b[1] in/a in/c"),
        ("images/a", "b[1] in/a in/c"),
        ("labels/a", "b[1] in/a in/c"),
        ("images/b[1].png", "a in/a in/c"),
        ("images/*", "in/a in/c"),
        ("images/in/*", "a b[1]"),
        ("images/**/a", "b[1] in/c"),
        ("**/in/?", "a b[1]"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_excluded_files_are_not_there(tmp_path, pattern, left, listed):
    keys = ("a", "b[1]", "in/a", "in/c")
    draw(tmp_path, *(f"{what}/{key}.png" for what in ("images", "labels") for key in keys))
    lines(tmp_path / "list.txt", *keys)
    cfg = data(tmp_path, exclude=(pattern,), splits=ListSplits(train="list.txt") if listed else ALL)
    found = inventory(cfg)
    assert [pair.name for pair in found.pairs["train"]] == [f"images/{key}" for key in left.split()]
    assert (found.unlabelled, found.orphans, found.faults) == ((), (), ())
    assert as_training_reads(cfg, found)


def test_one_of_two_is_excluded_and_the_other_stays(tmp_path):
    draw(tmp_path, "images/a.png", "images/a.jpg", "images/b.png", "labels/a.png", "labels/b.png", "labels/b.bmp")
    cfg = data(tmp_path, exclude=("images/a.png", "labels/b.bmp"))
    found = inventory(cfg)
    assert found.pairs["train"] == (("images/a.jpg", "labels/a.png"), ("images/b.png", "labels/b.png"))
    assert as_training_reads(cfg, found)


def test_a_pattern_that_means_nothing_names_the_nearest(tmp_path):
    draw(tmp_path, "images/street_07.png", "labels/street_07.png")
    for cfg in (data(tmp_path, exclude=["images/street_70.png"]), data(tmp_path, exclude=["image/*.png"])):
        for read in (inventory, lambda cfg: Folder(cfg, "train")):
            with pytest.raises(InputError, match=r"data\.exclude: 'image\S*' is no file in data\.root"):
                read(cfg)
    with pytest.raises(InputError, match=r"did you mean 'images/street_07\.png'\?"):
        inventory(data(tmp_path, exclude=["images/street_70.png"]))
    with pytest.raises(InputError, match="finds no image but the 2 excluded files"):
        inventory(data(tmp_path, exclude=["**"]))


# --- real data --------------------------------------------------------------------------------------------------------


def test_real_sets_have_no_fault(shared_data):
    cfg = camvid(CamvidData(root=shared_data / "camvid"))
    found = inventory(cfg)
    assert {split: len(pairs) for split, pairs in found.pairs.items()} == {"train": 367, "val": 101, "test": 233}
    assert (found.unlabelled, found.orphans, found.doubles, found.faults) == ((), (), (), ())
    assert as_training_reads(cfg, found)
