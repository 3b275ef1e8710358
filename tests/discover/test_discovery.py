"""Strangers' folders: which files are images and labels, who goes where, and which public data set it is."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strange_trees import SIZE, areas, label, outlines, palette_label, public, scene, simple
from terrazzo.base import InputError, distinct_colors
from terrazzo.data.folder import FolderData
from terrazzo.data.labels import Bits, Index, Palette, Polygons, Values
from terrazzo.data.split import FolderSplits, ListSplits, RatioSplits
from terrazzo.discover.discovery import Discovery, discover
from terrazzo.discover.pairing import rules_of, templates_of

LISTED = {"train": "mine_train.txt", "val": "mine_val.txt", "test": "mine_test.txt"}


def look(root: Path) -> Discovery:
    return discover(root, LISTED)


def templates(found: Discovery) -> tuple[str | None, str | None]:
    assert isinstance(found.data, FolderData)
    return found.data.images, found.data.labels


@pytest.mark.parametrize("kind", ["ade20k", "camvid", "cityscapes", "idd", "idd_lite", "pets", "stanford", "voc"])
def test_public_layouts_are_known_by_their_files_whatever_the_folder_is_called(kind, tmp_path):
    root = public(tmp_path / "download" / "x", kind)
    found = look(root.parent)
    assert (found.data.model_dump()["kind"], found.data.root) == (kind, root)
    assert [each.confidence for each in found.findings] == ["certain"] * 3
    if kind == "idd":
        assert found.data.model_dump()["masks"] == "pngs"
        for path in root.rglob("*Ids.png"):
            path.unlink()
        assert look(root).data.model_dump()["masks"] == "polygons"


def test_of_several_public_data_sets_one_is_taken_and_the_others_are_named(tmp_path):
    for kind in ("camvid", "voc"):
        public(tmp_path / kind, kind)
    found = look(tmp_path)
    assert found.data.root == tmp_path / "camvid"
    assert found.remarks == (f"there is also voc, below {tmp_path / 'voc'}: give that folder for it",)


def test_labels_of_the_images_size_are_preferred(tmp_path):
    for k in range(4):
        scene(tmp_path / f"images/{k}.jpg", k)
        label(tmp_path / f"other/{k}.png", [0, 1], k)
        small = areas([0, 1], k, (30, 30)).astype(np.uint8)
        (tmp_path / "icons").mkdir(exist_ok=True)
        Image.fromarray(small).save(tmp_path / f"icons/{k}.png")
    assert templates(look(tmp_path)) == ("images/{id}.jpg", "other/{id}.png")


def test_other_labels_in_the_folders_of_a_public_layout_are_not_taken_for_it(tmp_path):
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for k in range(count):
            scene(tmp_path / split / f"{k}.png", k)
            label(tmp_path / f"{split}annot" / f"{k}.png", [0, 1, 2], k)
    found = look(tmp_path)
    assert templates(found) == ("{split}/{id}.png", "{split}annot/{id}.png")
    assert found.data.splits == FolderSplits(test="test")
    assert len(found.data.classes) == 3
    assert "the paths are those of data.kind=camvid, but 8 of their labels show 3 of its 11 classes" in found.remarks[0]


def test_zero_of_other_trees_is_a_class(tmp_path):
    for split in ("train2017", "val2017"):
        for k in range(4):
            scene(tmp_path / f"images/{split}/{k:03}.jpg", k)
            label(tmp_path / f"annotations/{split}/{k:03}.png", [0, 1, 2, 3], k)
    found = look(tmp_path)
    assert templates(found) == ("images/{split}2017/{id}.jpg", "annotations/{split}2017/{id}.png")
    assert found.data.decode == Index()


@pytest.mark.parametrize("count", [5, 12])
def test_an_ade_like_tree_with_fewer_classes_keeps_zero_as_no_class(tmp_path, count):
    for split, images in (("training", 6), ("validation", 2)):
        for k in range(images):
            scene(tmp_path / f"images/{split}/{k:03}.jpg", k)
            label(tmp_path / f"annotations/{split}/{k:03}.png", [*range(count + 1)], k)
    found = look(tmp_path)
    assert templates(found) == ("images/{split}/{id}.jpg", "annotations/{split}/{id}.png")
    assert found.data.splits == FolderSplits(train="training", val="validation")
    assert found.data.decode == Values(map={0: "ignore"} | {k: f"class_{k}" for k in range(1, count + 1)})


@pytest.mark.parametrize(
    ("image", "mask", "images", "labels"),
    [
        ("images/{}.jpg", "masks/{}.png", "images/{id}.jpg", "masks/{id}.png"),
        ("{}.jpg", "{}.png", "{id}.jpg", "{id}.png"),
        ("{}.png", "{}_mask.png", "{id}.png", "{id}_mask.png"),
        ("img_{}.png", "mask_{}.png", "img_{id}.png", "mask_{id}.png"),
        ("img{}.png", "gt{}.png", "img{id}.png", "gt{id}.png"),
        ("x/img_{}.png", "x/labels/png/img_{}_gt.png", "x/{id}.png", "x/labels/png/{id}_gt.png"),
        ("a/{}.png", "b/{}.png", "a/{id}.png", "b/{id}.png"),
        ("ISIC_{}.jpg", "ISIC_{}_segmentation.png", "{id}.jpg", "{id}_segmentation.png"),
        ("Bilder ä/{} x.JPG", "Masken ö/{} x.PNG", "Bilder ä/{id}.JPG", "Masken ö/{id}.PNG"),
    ],
)
def test_images_find_their_labels(tmp_path, image, mask, images, labels):
    for k in range(6):
        scene(tmp_path / image.format(f"{k:04}"), k)
        label(tmp_path / mask.format(f"{k:04}"), [0, 1, 2], k)
    found = look(tmp_path)
    assert templates(found) == (images, labels)
    assert found.images == 6
    assert (found.data.decode, found.data.splits) == (Index(), RatioSplits())


def test_folders_of_tiles_stay_whole(tmp_path):
    for tile in range(5):
        for k in range(3):
            scene(tmp_path / f"Tile {tile}/images/part_{k}.jpg", 9 * tile + k)
            label(tmp_path / f"Tile {tile}/masks/part_{k}.png", [0, 1, 2], k)
    found = look(tmp_path)
    assert found.templates == ("{folder}/images/part_{id}.jpg", "{folder}/masks/part_{id}.png") or found.templates == (
        "{folder}/images/{id}.jpg",
        "{folder}/masks/{id}.png",
    )
    assert found.data.splits == ListSplits(train="mine_train.txt", val="mine_val.txt", lines="pairs")
    tiles = {split: {match.image.partition("/")[0] for match in found.lists[split]} for split in ("train", "val")}
    assert (len(tiles["train"]), len(tiles["val"])) == (4, 1)
    assert not tiles["train"] & tiles["val"]


def test_cities_below_splits(tmp_path):
    for split, cities in (("train", ("ulm", "bonn")), ("val", ("jena",)), ("test", ("kiel",))):
        for city in cities:
            for k in range(3):
                scene(tmp_path / f"rgb/{split}/{city}/{k}.png", k)
                label(tmp_path / f"gt/{split}/{city}/{k}_ids.png", [0, 1, 2], k)
                label(tmp_path / f"gt/{split}/{city}/{k}_color.png", [(9, 0, 0), (0, 9, 0), (0, 0, 9)], k)
    found = look(tmp_path)
    assert templates(found) == ("rgb/{split}/{folder}/{id}.png", "gt/{split}/{folder}/{id}_ids.png")
    assert found.data.splits == FolderSplits(test="test")
    assert "gt/{split}/{folder}/{id}_color.png' (12 files)" in found.findings[0].alternative


def test_training_and_test_folders_alone_leave_validation_to_the_seed(tmp_path):
    for split, count in (("Train", 5), ("Test", 2)):
        for k in range(count):
            scene(tmp_path / f"{split}/images/{k}.png", k)
            label(tmp_path / f"{split}/labels/{k}.png", [0, 1], k)
    assert look(tmp_path).data.splits == FolderSplits(train="Train", val=None, test="Test", val_fraction=0.2)


def test_the_split_in_names_and_the_field_of_view_beside_the_labels(tmp_path):
    for split, first in (("training", 21), ("test", 1)):
        for k in range(first, first + 4):
            scene(tmp_path / f"{split}/images/{k}_{split}.tif", k)
            label(tmp_path / f"{split}/1st_manual/{k}_manual1.gif", [0, 255], k)
            label(tmp_path / f"{split}/mask/{k}_{split}_mask.gif", [0, 255])
    found = look(tmp_path)
    assert templates(found) == ("{split}/images/{id}_{split}.tif", "{split}/1st_manual/{id}_manual1.gif")
    assert found.data.splits == FolderSplits(train="training", val=None, test="test", val_fraction=0.2)


def test_one_split_folder_is_no_split(tmp_path):
    for k in range(5):
        scene(tmp_path / f"train/images/{k}.png", k)
        label(tmp_path / f"train/labels/{k}.png", [0, 1], k)
    found = look(tmp_path)
    assert templates(found) == ("train/images/{id}.png", "train/labels/{id}.png")
    assert found.data.splits == RatioSplits()


@pytest.mark.parametrize(
    ("form", "splits"),
    [
        ("{id}", ListSplits(train="splits/train.txt", val="splits/val.txt")),
        ("{id} 1 2", ListSplits(train="splits/train.txt", val="splits/val.txt", lines="first")),
        ("images/{id}.png\tmasks/{id}.png", ListSplits(train="splits/train.txt", val="splits/val.txt", lines="pairs")),
        ("/home/me/images/{id}.png", ListSplits(train="mine_train.txt", val="mine_val.txt", lines="pairs")),
    ],
)
def test_list_files_of_every_form(tmp_path, form, splits):
    simple(tmp_path, [0, 1, 2], 6)
    (tmp_path / "splits").mkdir()
    for name, ids in (("train", "024"), ("val", "13"), ("other", "5")):
        (tmp_path / f"splits/{name}.txt").write_text("".join(form.format(id=f"00{k}") + "\n" for k in ids))
    found = look(tmp_path)
    assert found.data.splits == splits
    assert found.findings[2].answer == "train 3, val 2"
    if splits.lines == "pairs":
        assert templates(found) == (None, None)
    if splits.train == "mine_train.txt":
        assert [match.image for match in found.lists["val"]] == ["images/001.png", "images/003.png"]


def test_folders_for_validation_and_test_alone_are_shared_out(tmp_path):
    for split in ("val", "test"):
        for k in range(4):
            scene(tmp_path / f"{split}/images/{k}.png", k)
            label(tmp_path / f"{split}/labels/{k}.png", [0, 1], k)
    found = look(tmp_path)
    assert found.data.splits == ListSplits(train="mine_train.txt", val="mine_val.txt", lines="pairs")
    assert [len(matches) for matches in found.lists.values()] == [6, 2]


def test_a_list_of_files_that_are_not_there_is_not_used(tmp_path):
    simple(tmp_path, [0, 1, 2])
    for name in ("train", "val"):
        (tmp_path / f"{name}.txt").write_text("somewhere\nelse\n")
    assert look(tmp_path).data.splits == RatioSplits()


def test_both_eyes_of_a_subject_stay_together(tmp_path):
    for k in range(5):
        for side in "LR":
            scene(tmp_path / f"Image_{k:02}{side}.jpg", k)
            for observer in ("1stHO", "2ndHO"):
                label(tmp_path / f"Image_{k:02}{side}_{observer}.png", [0, 255], k)
    found = look(tmp_path)
    assert templates(found) == ("{id}.jpg", "{id}_1stHO.png")
    assert found.findings[0].alternative.endswith("labels: '{id}_2ndHO.png' (10 files)")
    assert found.data.decode == Bits()
    subjects = {split: {m.key[:-1] for m in matches} for split, matches in found.lists.items()}
    assert not subjects["train"] & subjects["val"]
    assert len(found.lists["train"]) + len(found.lists["val"]) == 10


def test_images_without_a_label_are_left_out(tmp_path):
    simple(tmp_path, [0, 1, 2], 6)
    scene(tmp_path / "images/new one.png", 9)
    found = look(tmp_path)
    assert found.data.exclude == ("images/new one.png",)
    assert "1 images without a label are left out (exclude)" in found.remarks


def test_other_label_files_beside_the_images_are_no_images(tmp_path):
    for k in range(30):
        scene(tmp_path / f"{k:03}.png", k)
        label(tmp_path / f"{k:03}_mask.png", [0, 1, 2], k)
        label(tmp_path / f"{k:03}_colors.png", [(9, 0, 0), (0, 9, 0), (0, 0, 9)], k)
    found = look(tmp_path)
    assert templates(found) == ("{id}.png", "{id}_mask.png")
    assert found.data.exclude == ("**/*_colors",)


def test_photographs_in_grey_and_of_one_colour(tmp_path):
    for k in range(4):
        scene(tmp_path / f"scans/{k}.png", k, mode="L")
        label(tmp_path / f"scans_done/{k}.png", [0, 1, 2], k)
    Image.new("L", SIZE[::-1], 7).save(tmp_path / "scans/0.png")
    found = look(tmp_path)
    assert templates(found) == ("scans/{id}.png", "scans_done/{id}.png")


def test_polygon_files(tmp_path):
    for k in range(3):
        scene(tmp_path / f"images/{k}.png", k)
        outlines(tmp_path / f"outlines/{k}.json", ["road", "cargroup", "unlabeled"])
    found = look(tmp_path)
    assert found.data.classes == ("car", "road")
    assert found.data.decode == Polygons(map={"unlabeled": "ignore"})
    (tmp_path / "outlines/1.json").write_text("[]")
    assert look(tmp_path).remarks == (f"{tmp_path / 'outlines/1.json'}: no polygon file",)


def test_names_come_from_a_class_list_beside_the_data(tmp_path):
    simple(tmp_path, [0, 1, 2])
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    found = look(tmp_path)
    assert found.data.classes == ("sky", "road", "car")
    assert found.remarks == ("class names are those of classes.txt, in its order",)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\nbus\n")
    found = look(tmp_path)
    assert found.data.classes == ("class_0", "class_1", "class_2")
    assert "classes.txt lists 4 classes; the label files have 3: its names are not used" in found.remarks


def test_voc_folders_with_own_colours_and_their_list(tmp_path):
    colors = [(0, 0, 0), (250, 50, 83), (51, 221, 255)]
    for k in range(6):
        scene(tmp_path / f"JPEGImages/{k}.jpg", k)
        label(tmp_path / f"SegmentationClass/{k}.png", colors, k)
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n1\n2\n3\n")
    (lists / "val.txt").write_text("4\n5\n")
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\ndog:51,221,255::\n"
    )
    found = look(tmp_path)
    assert found.data.classes == dict(zip(("background", "cat", "dog"), colors, strict=True))
    assert found.data.decode == Palette()
    assert found.data.splits == ListSplits(
        train="ImageSets/Segmentation/train.txt", val="ImageSets/Segmentation/val.txt"
    )


def test_voc_folders_and_palette_with_own_names(tmp_path):
    root = public(tmp_path, "voc")
    for path in (root / "SegmentationClass").iterdir():
        palette_label(path, distinct_colors(256), [0, 1, 2])
    assert look(root).data.model_dump()["kind"] == "voc"
    (root / "class_names.txt").write_text("_background_\nscrew\nnut\n")
    found = look(root)
    assert list(found.data.classes) == ["_background_", "screw", "nut"]
    assert "the paths are those of data.kind=voc" in found.remarks[0]


def test_labels_drawn_on_images_as_they_are_stored(tmp_path):
    for k in range(4):
        scene(tmp_path / f"images/{k}.jpg", k)
        photo = Image.open(tmp_path / f"images/{k}.jpg")
        exif = photo.getexif()
        exif[0x0112] = 6
        photo.save(tmp_path / f"images/{k}.jpg", exif=exif)
        label(tmp_path / f"masks/{k}.png", [0, 1, 2], k)
    found = look(tmp_path)
    assert found.data.exif == "ignore"
    label(tmp_path / "masks/1.png", [0, 1, 2])
    Image.fromarray(areas([0, 1], 0, (30, 30)).astype(np.uint8)).save(tmp_path / "masks/1.png")
    found = look(tmp_path)
    assert found.data.exif == "obey"
    assert "images/0.jpg is 96x128, masks/0.png is 128x96" in found.remarks[-1]


def test_palettes_that_differ_from_file_to_file(tmp_path):
    colors = [(132, 41, 246), (226, 169, 41), (60, 16, 152)]
    for k in range(6):
        scene(tmp_path / f"images/{k}.jpg", k)
        palette_label(tmp_path / f"masks/{k}.png", colors, np.roll([0, 1, 2], k).tolist(), k)
    assert look(tmp_path).data.decode == Palette()


def test_what_nothing_can_be_made_of(tmp_path):
    with pytest.raises(InputError, match=r"is no folder; say where the data is"):
        look(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"has no images: in .* there is: notes\.txt"):
        look(tmp_path)
    scene(tmp_path / "a.jpg", 0)
    scene(tmp_path / "b.jpg", 1)
    with pytest.raises(
        InputError, match=r"has 2 images \(a\.jpg, \.\.\.\), but no files that pair up with them as label maps"
    ):
        look(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InputError, match=r"a\.json may hold boxes or outlines of another tool"):
        look(tmp_path)
    label(tmp_path / "labels/a.png", [0, 1])
    with pytest.raises(InputError, match=r"only one image with a label, a\.jpg"):
        look(tmp_path)


def test_broken_files_do_not_stop_the_look(tmp_path):
    simple(tmp_path, [0, 1, 2], 8)
    (tmp_path / "images/000.png").write_bytes(b"")
    (tmp_path / "masks/000.png").write_text("no image")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = look(tmp_path)
    assert templates(found) == ("images/{id}.png", "masks/{id}.png")
    assert any("masks/000.png" in remark for remark in found.remarks)


def test_names_that_templates_cannot_say_go_to_lists_or_are_refused(tmp_path):
    for k in range(4):
        scene(tmp_path / f"{{a}}/images/{k}.png", k)
        label(tmp_path / f"{{a}}/masks/{k}.png", [0, 1], k)
    with pytest.raises(InputError, match=r"names with braces or stars \(\{a\}/images/0\.png\)"):
        look(tmp_path)


def test_many_folders_are_compared_only_where_they_differ_in_one_place():
    paths = [
        f"{part}/{city:03}/{k}{end}"
        for city in range(90)
        for k in range(3)
        for part, end in (("in", ".jpg"), ("out", ".png"))
    ]
    rules = rules_of(paths)
    rule, matches = next(iter(rules.items()))
    assert len(matches) == 270
    assert templates_of(rule, matches) in [
        ("in/{folder}/{id}.jpg", "out/{folder}/{id}.png"),
        ("out/{folder}/{id}.png", "in/{folder}/{id}.jpg"),
    ]


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["camvid", "voc-person"])
def test_real_known_layouts(shared_data, name):
    found = look(shared_data / name)
    assert found.data.model_dump()["kind"] == {"camvid": "camvid", "voc-person": "voc"}[name]
    assert [each.confidence for each in found.findings] == ["certain"] * 3


def test_real_wbc_has_three_classes(shared_data):
    found = look(shared_data / "wbc")
    assert found.data.decode == Values(map={0: "value_0", 128: "value_128", 255: "value_255"})
    assert templates(found) == ("images/{id}.png", "masks/{id}.png")


def test_real_pets_takes_the_labels_and_names_the_trimaps(shared_data):
    found = look(shared_data / "pets-mini")
    assert templates(found) == ("images/{id}.jpg", "labels/{id}.png")
    assert (found.data.decode, len(found.data.classes)) == (Index(), 3)
    assert "labels: 'trimaps/{id}.png' (26 files)" in found.findings[0].alternative


def test_real_chase_takes_the_first_observer_and_names_the_second(shared_data, tmp_path):
    for path in (shared_data / "chase-db1").glob("Image_0[1-3]*"):
        (tmp_path / path.name).symlink_to(path)
    found = look(tmp_path)
    assert templates(found) == ("{id}.jpg", "{id}_1stHO.png")
    assert "labels: '{id}_2ndHO.png' (6 files)" in found.findings[0].alternative
    assert found.data.decode == Bits()


def test_real_dubai_is_decoded_by_its_colours_and_not_by_its_class_file(shared_data, tmp_path):
    root = tmp_path / "dubai"
    shutil.copytree(shared_data / "dubai-aerial", root, ignore=shutil.ignore_patterns("*part_00[3-9].*", "Tile 7"))
    found = look(root)
    assert found.data.classes == {
        f"color_{code.lower()}": tuple(bytes.fromhex(code))
        for code in ("8429F6", "3C1098", "6EC1E4", "FEDD3A", "E2A929", "9B9B9B")
    }
    assert found.data.decode == Palette(ignore_colors=((0, 0, 0),))
    assert "the palettes contradict each other" in found.findings[1].evidence
    (told,) = [remark for remark in found.remarks if remark.startswith("classes.json")]
    assert "of its 6 colours only #9b9b9b Unlabeled occurs" in told
    assert len({m.image.partition("/")[0] for m in found.lists["val"]}) == 1
