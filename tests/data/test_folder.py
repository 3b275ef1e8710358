"""Folders, templates, lists and shares: which files belong together, and every way in which they cannot."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from terrazzo.base import IGNORE, Dataset, InputError, Sample
from terrazzo.data.folder import Folder, FolderData
from terrazzo.data.labels import Bits, Index, Palette, Values
from terrazzo.data.pixels import IMAGE_SUFFIXES, read_image
from terrazzo.data.split import FolderSplits, ListSplits, RatioSplits, divide, read_list, splits_of


def draw(root: Path, *paths: str, size: tuple[int, int] = (6, 8)) -> None:
    """Images of noise at these paths; a file below a folder with "mask" or "label" in its name holds ids 0 and 1."""
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(list(path.encode()))
        label = "mask" in path or "label" in path
        pixels = rng.integers(0, 2, size) if label else rng.integers(0, 256, (*size, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(target)


def data(root: Path, **options: object) -> FolderData:
    given_options = {"images": "images", "labels": "labels", "splits": RatioSplits(train=1, val=0), **options}
    return FolderData.model_validate({"root": root, "classes": ["a", "b"], **given_options})


def names(root: Path, split: str = "train", **options: object) -> list[str]:
    return list(Folder(data(root, **options), split).names)


# --- right trees ------------------------------------------------------------------------------------------------------


def test_two_folders(tmp_path):
    draw(
        tmp_path, "images/b.jpg", "images/a.png", "images/deep/er/c.bmp", "labels/a.tif", "labels/b.png", "labels/z.png"
    )
    draw(tmp_path, "labels/deep/er/c.png", "images/.hidden.png", "images/._b.jpg", "images/.checkpoints/b.jpg")
    (tmp_path / "images/notes.txt").write_text("no image")
    dataset = Folder(data(tmp_path), "train")
    assert isinstance(dataset, Dataset)
    assert dataset.names == ("images/a", "images/b", "images/deep/er/c")
    assert dataset.files[2] == (tmp_path / "images/deep/er/c.bmp", tmp_path / "labels/deep/er/c.png")
    assert dataset.unpaired_labels == 1
    sample = dataset[0]
    assert isinstance(sample, Sample)
    assert (sample.image.shape, sample.image.dtype, sample.mask.shape, sample.mask.dtype) == (
        (6, 8, 3),
        "u1",
        (6, 8),
        "u1",
    )
    assert (sample.image == np.asarray(Image.open(tmp_path / "images/a.png"))).all(), "RGB, not BGR"
    assert (sample.mask == np.asarray(Image.open(tmp_path / "labels/a.tif"))).all()


def test_split_folders_and_templates(tmp_path):
    draw(tmp_path, "photo/train/x_photo.jpg", "photo/val/city/y_photo.jpg", "label/train/x_ids.png")
    draw(tmp_path, "label/val/city/y_ids.png", "label/val/city/y_color.png")
    options = {"images": "photo/{split}/{id}_photo.*", "labels": "label/{split}/{id}_ids.png", "splits": FolderSplits()}
    assert names(tmp_path, **options) == ["photo/train/x_photo"]
    assert names(tmp_path, "val", **options) == ["photo/val/city/y_photo"]
    assert names(tmp_path, "val", **options | {"splits": FolderSplits(val="train")}) == ["photo/train/x_photo"]
    with pytest.raises(InputError, match=r"'photo/\.\./other/\{id\}_photo\.\*' is no template"):
        names(tmp_path, **options | {"splits": FolderSplits(train="../other")})


def test_placeholders_match_one_part_of_a_path_and_stars_anything_there(tmp_path):
    draw(tmp_path, "Tile 1/images/p_1.jpg", "Tile 2/images/p_1.jpg", "Tile 1/masks/p_1.png", "Tile 2/masks/p_1.png")
    found = names(tmp_path, images="{tile}/images/{id}.jpg", labels="{tile}/masks/{id}.png")
    assert found == ["Tile 1/images/p_1", "Tile 2/images/p_1"]
    draw(tmp_path, "x/aachen/1_a_photo.jpg", "y/aachen/aachen_1_b_label.png")
    assert names(tmp_path, images="x/{city}/{id}_*_photo.jpg", labels="y/{city}/{city}_{id}_*_label.png") == [
        "x/aachen/1_a_photo"
    ]


def test_image_and_label_in_one_folder(tmp_path):
    draw(tmp_path, "7.jpg", "7_mask.png", "8.png", "8_mask.png")
    assert names(tmp_path, images="{id}.*", labels="{id}_mask.png") == ["7", "8"]
    draw(tmp_path, "masks/7.png", "masks/8.png")
    (tmp_path / "7_mask.png").unlink()
    (tmp_path / "8_mask.png").unlink()
    assert names(tmp_path, images=".", labels="masks") == ["7", "8"]


def test_list_of_ids(tmp_path):
    draw(tmp_path, "images/a b.jpg", "images/in/c.jpg", "images/unlisted.jpg", "labels/a b.png", "labels/in/c.png")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf# comment\r\nin/c\r\n\r\na b.jpg\r\n")
    splits = ListSplits(train="list.txt")
    assert names(tmp_path, splits=splits) == ["images/in/c", "images/a b"], "in the order of the list"
    assert names(tmp_path, splits=splits, limit=1) == ["images/in/c"]


def test_list_of_pairs(tmp_path):
    draw(tmp_path, "p/a.jpg", "q/a_label.png", "p/b c.jpg", "q/b c_label.png", "p/it's.jpg", "q/it's label.png")
    (tmp_path / "list.txt").write_text(
        'p/a.jpg   q/a_label.png\n"p/b c.jpg" "q/b c_label.png"\np/it\'s.jpg\tq/it\'s label.png\n'
    )
    options = {"images": None, "labels": None, "splits": ListSplits(train="list.txt", lines="pairs")}
    assert names(tmp_path, **options) == ["p/a", "p/b c", "p/it's"]
    assert Folder(data(tmp_path, **options), "train")[1].mask.max() == 1
    (tmp_path / "list.txt").write_text("p/a.jpg, q/a_label.png")
    assert names(tmp_path, **options) == ["p/a"]


def test_first_column(tmp_path):
    draw(tmp_path, "images/a.jpg", "labels/a.png")
    (tmp_path / "list.txt").write_text("#Image CLASS-ID SPECIES\na 1 2 1\n")
    assert names(tmp_path, splits=ListSplits(train="list.txt", lines="first")) == ["images/a"]


def test_a_share_of_train_is_validation(tmp_path):
    files = [f"{split}/{what}/{k}.png" for split in ("tr", "te") for what in ("images", "masks") for k in range(10)]
    draw(tmp_path, *files)
    options = {"images": "{split}/images", "labels": "{split}/masks"}
    splits = FolderSplits(train="tr", val=None, test="te", val_fraction=0.3, seed=1)
    assert splits_of(splits) == ("train", "val", "test")
    train, val, test = (set(names(tmp_path, split, splits=splits, **options)) for split in splits_of(splits))
    assert (len(train), len(val), len(test)) == (7, 3, 10)
    assert not train & val
    assert all(name.startswith("te/") for name in test)
    (tmp_path / "all.txt").write_text("".join(f"{k}\n" for k in range(10)))
    lists = ListSplits(train="all.txt", val_fraction=0.3, seed=1)
    listed = {
        split: names(tmp_path, split, splits=lists, images="tr/images", labels="tr/masks") for split in ("train", "val")
    }
    assert {split: set(found) for split, found in listed.items()} == {"train": train, "val": val}
    with pytest.raises(ValidationError, match=r"val_fraction=0.3 takes validation images from train.*val='val'"):
        FolderSplits(val_fraction=0.3)


@settings(max_examples=50, deadline=None)
@given(
    found=st.sets(st.text("abcXYZ/_", min_size=1, max_size=4), max_size=30),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    seed=st.integers(0, 2**40),
    shuffle=st.randoms(),
)
def test_shares_are_a_partition_that_does_not_depend_on_the_listing(found, cuts, seed, shuffle):
    shares = (cuts[0], cuts[1] - cuts[0], 1 - cuts[1])
    listing = sorted(found)
    parts = divide(listing, shares, seed)
    assert sorted(name for part in parts for name in part) == listing
    assert all(abs(len(part) - share * len(listing)) <= 1 for part, share in zip(parts, shares, strict=True))
    shuffle.shuffle(listing)
    assert divide(listing, shares, seed) == parts


def test_limit_takes_the_first_of_a_split(tmp_path):
    draw(tmp_path, *(f"{what}/{k}.png" for what in ("images", "labels") for k in range(10)))
    splits = RatioSplits(train=0.5, val=0.5, seed=3)
    for split in ("train", "val"):
        whole = names(tmp_path, split, splits=splits)
        assert names(tmp_path, split, splits=splits, limit=2) == whole[:2]
        assert whole == sorted(whole)


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_obeyed(tmp_path, kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.full((20, 40, 3), 90, np.uint8)).save(tmp_path / "a", kind, exif=exif)
    assert read_image(tmp_path / "a").shape == (40, 20, 3)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.uint8([[0, 9], [200, 255]]), [[0, 9], [200, 255]]),
        (np.uint16([[0, 9 * 256], [200 * 256, 65535]]), [[0, 9], [200, 255]]),
        (np.array([[False, True]]), [[0, 255]]),
    ],
)
def test_grey_16_bit_and_1_bit_images_become_rgb(tmp_path, pixels, expected):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image == np.uint8(expected)[..., None].repeat(3, 2)).all()
    assert image.dtype == np.uint8


def test_colours_are_rgb_in_every_format(tmp_path):
    orange = np.full((16, 16, 3), (250, 130, 10), np.uint8)
    for suffix in sorted(IMAGE_SUFFIXES - {".jp2", ".gif", ".pgm"}):
        Image.fromarray(orange).save(tmp_path / f"a{suffix}")
        assert np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - orange).max() <= 4, suffix
    Image.fromarray(np.dstack([orange, orange[..., 0]])).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == orange).all(), "alpha is left out"


@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (-3, 0), (0, 2), (0, -2), (4, -5), (8, 0), (-99, 99)])
@pytest.mark.parametrize("mirror", [False, True])
def test_labels_are_moved_onto_their_images(tmp_path, mirror, shift):
    """Against pixels moved one by one; and a mirrored and shifted label comes back to where it was."""
    draw(tmp_path, "images/a.png", "labels/a.png")
    mask = np.asarray(Image.open(tmp_path / "labels/a.png"))
    moved = Folder(data(tmp_path, align={"mirror": mirror, "shift": shift}), "train")[0].mask
    height, width = mask.shape
    expected = np.full(mask.shape, IGNORE)
    for y, x in np.ndindex(mask.shape):
        row, column = y + shift[1], (width - 1 - x if mirror else x) + shift[0]
        if 0 <= row < height and 0 <= column < width:
            expected[row, column] = mask[y, x]
    assert (moved == expected).all()
    assert moved.flags["C_CONTIGUOUS"]
    assert (Folder(data(tmp_path), "train")[0].mask == mask).all()


def test_a_label_drawn_on_the_stored_pixels_fits_when_the_tag_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(tmp_path / "images/a.jpg", exif=exif)
    draw(tmp_path, "labels/a.png", size=(20, 40))
    with pytest.raises(InputError, match=r"a\.jpg is 20x40, its label .* is 40x20; .* turned: .*data\.exif=ignore"):
        Folder(data(tmp_path), "train")[0]
    assert Folder(data(tmp_path, exif="ignore"), "train")[0].image.shape == (20, 40, 3)


def test_a_path_with_any_letters_is_read(tmp_path):
    draw(tmp_path, "images/straße 道.png", "labels/straße 道.png")
    assert Folder(data(tmp_path), "train")[0].name == "images/straße 道"


def test_threads_read_what_one_thread_reads(tmp_path):
    draw(tmp_path, *(f"{what}/{k}.png" for what in ("images", "labels") for k in range(12)))
    dataset = Folder(data(tmp_path), "train")
    alone = [dataset[k] for k in range(12)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(dataset.__getitem__, list(range(12)) * 3))
    for one, other in zip(alone * 3, together, strict=True):
        assert (one.image == other.image).all()
        assert (one.mask == other.mask).all()
        assert one.name == other.name


# --- wrong trees ------------------------------------------------------------------------------------------------------


def test_no_data_root(tmp_path):
    with pytest.raises(InputError, match=r"data\.root=.*nowhere is no folder; .* data\.root=PATH"):
        Folder(data(tmp_path / "nowhere"), "train")


def test_no_images_says_where_it_looked_and_what_is_there(tmp_path):
    draw(tmp_path, "pictures/a.jpg", "labels/a.png")
    expected = (
        r"data\.images 'images/\{id\}\.\*' finds no image .*no folder .*images; in .* there is: labels/, pictures/"
    )
    with pytest.raises(InputError, match=expected):
        Folder(data(tmp_path), "train")
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"in \S*images there is: nothing"):
        Folder(data(tmp_path), "train")


def test_missing_partners_are_named_and_counted(tmp_path):
    draw(tmp_path, *(f"images/{k}.jpg" for k in range(9)), "labels/0.png")
    expected = r"8 of 9 images .* have no label: images/1\.jpg \(expected labels/1\.\*\).*images/5\.jpg \S+ \S+, \.\.\."
    with pytest.raises(InputError, match=expected) as caught:
        Folder(data(tmp_path), "train")
    assert "images/6" not in str(caught.value)
    (tmp_path / "labels/0.png").unlink()
    with pytest.raises(
        InputError, match=r"9 of 9 images .*, \.\.\.; in \S*labels there is: nothing\. Add .*correct data\.labels"
    ):
        Folder(data(tmp_path), "train")


@pytest.mark.parametrize("what", ["images", "labels"])
def test_two_files_for_one_stem_are_both_named(tmp_path, what):
    draw(tmp_path, "images/a.jpg", "labels/a.png", f"{what}/a.bmp")
    with pytest.raises(InputError, match=rf"data\.{what} finds 2 {what} for one 'a': {what}/a\.bmp and {what}/a\.\w+g"):
        Folder(data(tmp_path), "train")


def test_a_star_that_hides_a_difference_is_found(tmp_path):
    draw(tmp_path, "1/images/p.jpg", "2/images/p.jpg", "1/masks/p.png", "2/masks/p.png")
    with pytest.raises(
        InputError, match=r"for one 'p': 1/images/p.jpg and 2/images/p.jpg; .* a placeholder instead of \*"
    ):
        Folder(data(tmp_path, images="*/images/{id}.jpg", labels="*/masks/{id}.png"), "train")


def test_names_stay_unique(tmp_path):
    draw(tmp_path, "images/a.jpg", "images/a.png", "labels/a_jpg.png", "labels/a_png.png")
    with pytest.raises(InputError, match=r"images/a\.jpg and images/a\.png would have the same name 'images/a'"):
        Folder(data(tmp_path, images="images/{id}.{end}", labels="labels/{id}_{end}.png"), "train")


def test_different_sizes_are_both_named(tmp_path):
    draw(tmp_path, "images/a.png")
    draw(tmp_path, "labels/a.png", size=(5, 8))
    expected = r"images.a\.png is 8x6, its label \S*labels.a\.png is 8x5; the label belongs to another image"
    with pytest.raises(InputError, match=expected):
        Folder(data(tmp_path), "train")[0]
    draw(tmp_path, "labels/a.png", size=(8, 6))
    with pytest.raises(InputError, match=r"8x6, its label .* is 6x8; one of them is turned: EXIF"):
        Folder(data(tmp_path), "train")[0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("part", [0, 0.5, 0.95])
def test_a_truncated_image_is_named(tmp_path, suffix, part):
    draw(tmp_path, f"images/a.{suffix}", "labels/a.png", size=(64, 64))
    path = tmp_path / f"images/a.{suffix}"
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(InputError, match=rf"a\.{suffix}: (an empty file|unreadable)"):
        Folder(data(tmp_path), "train")[0]


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_seen(tmp_path):
    """The thumbnail in the header has an end marker of its own."""
    exif = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))[1].tobytes()
    data_with = whole[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + whole[2:]
    (tmp_path / "a.jpg").write_bytes(data_with)
    assert read_image(tmp_path / "a.jpg").shape == (64, 64, 3)
    (tmp_path / "a.jpg").write_bytes(data_with[:-300])
    with pytest.raises(InputError, match=r"a\.jpg: unreadable or truncated image"):
        read_image(tmp_path / "a.jpg")


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.jpg: cannot open this image \(No such file"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize(
    ("lines", "text", "message"),
    [
        ("ids", "a\nb\n", r"list\.txt, line 2: no image for 'b', expected \S*images.b\.\*"),
        ("ids", "a\n\nc\n", r"list\.txt, line 3: no label for 'c', expected \S*labels.c\.\*"),
        ("ids", "a\na\n", r"lines 1 and 2 name the same image 'images/a'"),
        ("ids", "a.jpg 1\n", r"line 1: no image for 'a\.jpg 1'.*another data\.splits\.lines"),
        ("first", "# nothing\n", r"the train split is empty"),
        ("pairs", "images/a.jpg\n", r"line 1: 1 columns \('images/a\.jpg'\), expected image and label"),
        ("pairs", "images/a.jpg labels/b.png\n", r"line 1: there is no file \S*labels.b\.png"),
        ("pairs", "images/a.jpg ../b.png\n", r"line 1: \.\./b\.png must be relative to data\.root"),
        ("pairs", "/images/a.jpg labels/a.png\n", r"line 1: .images.a\.jpg must be relative to data\.root"),
    ],
)
def test_wrong_lists(tmp_path, lines, text, message):
    draw(tmp_path, "images/a.jpg", "labels/a.png", "images/c.jpg")
    (tmp_path / "list.txt").write_text(text)
    files = {"images": None, "labels": None} if lines == "pairs" else {}
    with pytest.raises(InputError, match=message):
        Folder(data(tmp_path, splits=ListSplits(train="list.txt", lines=lines), **files), "train")


def test_a_list_that_is_no_text(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"list\.txt: this list of images is not UTF-8 text"):
        read_list(tmp_path / "list.txt", "ids")


def test_a_split_that_is_not_there(tmp_path):
    draw(tmp_path, "images/a.png", "labels/a.png")
    with pytest.raises(InputError, match=r"no test split, only train; name one under data\.splits\.test"):
        Folder(data(tmp_path), "test")
    with pytest.raises(InputError, match=r"the val split is empty: data\.splits gives it none of 1 images"):
        Folder(data(tmp_path, splits=RatioSplits()), "val")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": None}, r"data\.images and data\.labels are needed"),
        ({"images": "x/{id}.png", "labels": "x/{id}.png"}, "how do the label files' names differ"),
        ({"labels": "{city}/{id}.png"}, r"must have the same placeholders; write \*"),
        ({"images": "x/*.png", "labels": "y/*.png"}, "must have the same placeholders"),
        ({"splits": FolderSplits()}, r"kind=folders needs \{split\} in data\.images and data\.labels"),
        ({"images": "{split}/x", "labels": "{split}/y"}, r"kind=ratio shares out all images: \{split\} has no meaning"),
        ({"splits": ListSplits(train="t", lines="pairs")}, r"leave out data\.images and data\.labels"),
        (
            {"images": "{a}/{b}.png", "labels": "l/{a}/{b}.png", "splits": ListSplits(train="t")},
            r"lists needs one placeholder, \{id\}; there are a, b",
        ),
        ({"images": "/images"}, "'/images' is no template"),
        ({"images": "../images"}, "'../images' is no template"),
        ({"images": "images/**/{id}.png"}, "is no template"),
        ({"images": "images/{id.png"}, "is no template"),
        ({"decode": Bits(), "classes": ["a"]}, "bits needs 2 classes"),
        ({"remap": {"c": "a"}}, r"data\.remap: no class is called 'c'"),
        ({"splits": {"kind": "ratio", "train": 0.5}}, "add up to 0.7; they must add up to 1"),
        ({"splits": {"kind": "lists"}}, "names no split"),
        ({"imges": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_combinations_are_refused_before_any_file_is_read(tmp_path, options, message):
    with pytest.raises(ValidationError, match=message):
        data(tmp_path, **options)


# --- pitfalls of spec/pitfalls.md -------------------------------------------------------------------------------------


def test_pitfall_flattening_by_file_name_overwrites_frames(tmp_path):
    draw(
        tmp_path, "images/drive1/0001.png", "images/drive2/0001.png", "labels/drive1/0001.png", "labels/drive2/0001.png"
    )
    assert names(tmp_path) == ["images/drive1/0001", "images/drive2/0001"]


def test_pitfall_a_random_split_that_is_a_directory_listing(tmp_path):
    draw(tmp_path, *(f"{what}/{k:02}.png" for what in ("images", "labels") for k in range(40)))
    found = {seed: names(tmp_path, splits=RatioSplits(train=0.5, val=0.5, seed=seed)) for seed in (0, 0, 1)}
    listing = [f"images/{k:02}" for k in range(40)]
    assert found[0] not in (listing[:20], listing[20:])
    assert found[0] != found[1]
    val = names(tmp_path, "val", splits=RatioSplits(train=0.5, val=0.5, seed=0))
    assert sorted(found[0] + val) == listing


@pytest.mark.parametrize("lines", ["ids", "first", "pairs"])
def test_pitfall_a_missing_split_file_that_silently_means_all_files(tmp_path, lines):
    draw(tmp_path, "images/a.png", "labels/a.png")
    files = {"images": None, "labels": None} if lines == "pairs" else {}
    with pytest.raises(InputError, match=r"train\.txt: cannot read this list of images \(No such file"):
        Folder(data(tmp_path, splits=ListSplits(train="train.txt", lines=lines), **files), "train")


def test_pitfall_0_255_masks_are_found_when_the_folder_is_opened(tmp_path):
    draw(tmp_path, "images/a.png", "images/b.png")
    for name in "ab":
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.fromarray(np.eye(6, 8, dtype=np.uint8) * 255).save(tmp_path / f"labels/{name}.png")
    with pytest.raises(InputError, match=r"only 0 and 255.*'b' would never be seen.*kind: bits"):
        Folder(data(tmp_path), "train")
    assert set(np.unique(Folder(data(tmp_path, decode=Bits()), "train")[0].mask)) == {0, 1}


def test_pitfall_augmentation_on_validation_and_test(tmp_path):
    """Items of every split are the files as they are, always."""
    draw(tmp_path, *(f"{split}/{what}/a.png" for split in ("train", "val", "test") for what in ("images", "masks")))
    splits = FolderSplits(test="test")
    for split in ("train", "val", "test"):
        dataset = Folder(data(tmp_path, images="{split}/images", labels="{split}/masks", splits=splits), split)
        for _ in range(3):
            sample = dataset[0]
            assert (sample.image == np.asarray(Image.open(tmp_path / split / "images/a.png"))).all()
            assert (sample.mask == np.asarray(Image.open(tmp_path / split / "masks/a.png"))).all()


# --- real data --------------------------------------------------------------------------------------------------------


def test_white_blood_cells_have_values_0_128_255(shared_data):
    values = Values(map={0: "rest", 128: "cytoplasm", 255: "nucleus"})
    cfg = data(shared_data / "wbc", labels="masks", classes=list(values.map.values()), decode=values)
    dataset = Folder(cfg, "train")
    assert len(dataset) == 300
    counts = sum(np.bincount(dataset[k].mask.ravel(), minlength=256) for k in range(300))
    assert counts[:3].tolist() == [2_884_994, 790_389, 517_177]
    assert counts.sum() == counts[:3].sum()
    with pytest.raises(InputError, match=r"\d+\.png: value 128 \(\d+ pixels\)"):
        Folder(cfg.model_copy(update={"decode": Index()}), "train")[0]


def test_retinas_have_two_observers_in_one_folder(shared_data):
    observers = {}
    for observer in ("1stHO", "2ndHO"):
        cfg = data(shared_data / "chase-db1", images="{id}.jpg", labels=f"{{id}}_{observer}.png", decode=Bits())
        dataset = Folder(cfg, "train")
        assert (len(dataset), dataset.names[0]) == (28, "Image_01L")
        observers[observer] = dataset[0]
        assert observers[observer].image.shape == (960, 999, 3)
        assert 0.04 < observers[observer].mask.mean() < 0.12
        assert observers[observer].mask.max() == 1
    assert (observers["1stHO"].mask != observers["2ndHO"].mask).any()
    with pytest.raises(InputError, match=r"28 of 56 images .* have no label: Image_01L_1stHO\.png"):
        Folder(cfg.model_copy(update={"images": "{id}.*"}), "train")  # the other observer's masks look like images


def test_pets_have_labels_and_trimaps(shared_data):
    trimaps = Values(map={1: "pet", 2: "background", 3: "ignore"})
    cfg = data(shared_data / "pets-mini", labels="trimaps", classes=["pet", "background"], decode=trimaps)
    dataset = Folder(cfg, "train")
    assert len(dataset) == 26
    for index in range(4):
        sample = dataset[index]
        label = np.asarray(Image.open(shared_data / "pets-mini/labels" / f"{Path(sample.name).name}.png"))
        assert (sample.mask == np.select([label == 255, label == 0], [IGNORE, 1], 0)).all()


def test_aerial_tiles_go_by_colour(shared_data):
    colors = {"land": "#8429F6", "water": "#E2A929", "building": "#3C1098", "vegetation": "#FEDD3A", "road": "#6EC1E4"}
    options = {"images": "{tile}/images/{id}.jpg", "labels": "{tile}/masks/{id}.png", "classes": colors}
    root = shared_data / "dubai-aerial"
    dataset = Folder(data(root, decode=Palette(ignore_colors=("#9B9B9B", "#000000")), **options), "train")
    assert len(dataset) == 63
    for index in (0, 9, 27):  # RGB, mode P, mode P with another palette
        sample, label = dataset[index], Image.open(dataset.files[index][1])
        drawn = np.array([*dataset.classes.colors, (0, 0, 0)], np.uint8)[
            np.where(sample.mask == IGNORE, 5, sample.mask)
        ]
        kept = sample.mask != IGNORE
        assert (drawn[kept] == np.asarray(label.convert("RGB"))[kept]).all()
    strict = Folder(data(root, decode=Palette(), **options), "train")
    unlabelled = next(index for index in range(63) if (dataset[index].mask == IGNORE).any())
    with pytest.raises(InputError, match=r"#(9b9b9b|000000) \(\d+ pixels?\) not among the colours"):
        strict[unlabelled]
