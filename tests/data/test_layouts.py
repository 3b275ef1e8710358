"""Public layouts: made-up files in exactly the real layout, and the real ones where they are."""

import numpy as np
import pytest
from fake_files import label, lines, photo
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from terrazzo.base import IGNORE, Dataset, InputError
from terrazzo.data import (
    Ade20kData,
    CamvidData,
    DataConfig,
    OwnData,
    PetsData,
    StanfordData,
    VocData,
    available_splits,
    build_dataset,
)


@pytest.fixture
def camvid_tree(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for k in range(count):
            photo(tmp_path / split / f"0001TP_00{k}.png", (1, 13))
            label(tmp_path / f"{split}annot" / f"0001TP_00{k}.png", [[*range(12), 0]])
    return tmp_path


@pytest.fixture
def voc_tree(tmp_path):
    for k in range(4):
        photo(tmp_path / f"JPEGImages/2007_00{k}.jpg", (1, 22))
        photo(tmp_path / f"JPEGImages/2007_00{k}_detection_only.jpg")
        label(tmp_path / f"SegmentationClass/2007_00{k}.png", [[*range(21), 255]], voc_palette=True)
    lines(tmp_path / "ImageSets/Segmentation/train.txt", "2007_002", "2007_000", "2007_001")
    lines(tmp_path / "ImageSets/Segmentation/val.txt", "2007_003")
    return tmp_path


@pytest.fixture
def pets_tree(tmp_path):
    animals = [f"Abyssinian_{k}" for k in range(12)] + ["yorkshire_terrier_1"]
    for animal in animals:
        photo(tmp_path / f"images/{animal}.jpg", (1, 4))
        label(tmp_path / f"annotations/trimaps/{animal}.png", [[1, 2, 3, 1]])
        (tmp_path / f"annotations/trimaps/._{animal}.png").write_bytes(b"resource fork of the real archive")
    (tmp_path / "images/Abyssinian_100.mat").write_bytes(b"lies in the real archive too")
    lines(tmp_path / "annotations/trainval.txt", *(f"{animal} 1 1 1" for animal in animals[:10]))
    lines(tmp_path / "annotations/test.txt", *(f"{animal} 1 1 1" for animal in animals[10:]))
    return tmp_path


@pytest.fixture
def stanford_tree(tmp_path):
    for k in range(10):
        name = f"{k:07}"
        photo(tmp_path / f"images/{name}.jpg", (2, 8))
        lines(tmp_path / f"labels/{name}.regions.txt", "0 1 2 3 4 5 6 7", "-1 -1 7 7 7 7 7 0")
        lines(tmp_path / f"labels/{name}.surfaces.txt", "0 1 1 1 1 1 2 2", "0 1 1 1 1 1 2 2")
        lines(tmp_path / f"labels/{name}.layers.txt", "9 9 9 9 9 9 9 9", "9 9 9 9 9 9 9 9")
    lines(tmp_path / "horizons.txt", *(f"{k:07} 100" for k in range(10)))
    return tmp_path


@pytest.fixture
def ade20k_tree(tmp_path):
    for split, name in (
        ("training", "ADE_train_00000001"),
        ("training", "ADE_train_00000002"),
        ("validation", "ADE_val_1"),
    ):
        photo(tmp_path / f"images/{split}/{name}.jpg", (1, 151))
        label(tmp_path / f"annotations/{split}/{name}.png", [[*range(151)]])
    lines(tmp_path / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName", "1\t0.1576\t11664\t1172\twall")
    lines(tmp_path / "sceneCategories.txt", "ADE_train_00000001 airport_terminal")
    return tmp_path


def test_camvid(camvid_tree):
    cfg = CamvidData(root=camvid_tree)
    assert available_splits(cfg) == ("train", "val", "test")
    assert [len(build_dataset(cfg, split)) for split in available_splits(cfg)] == [3, 2, 1]
    dataset = build_dataset(cfg, "val")
    assert isinstance(dataset, Dataset)
    assert dataset[0].name == "val/0001TP_000"
    assert dataset[0].mask.tolist() == [[*range(11), IGNORE, 0]]
    assert (len(dataset.classes), dataset.classes.ids, dataset.classes.ignore_id) == (11, tuple(range(11)), 11)
    assert (dataset.classes.names[3], dataset.classes.colors[3]) == ("Road", (128, 64, 128))


def test_voc(voc_tree):
    cfg = VocData(root=voc_tree)
    assert available_splits(cfg) == ("train", "val")
    train = build_dataset(cfg, "train")
    assert [train[k].name for k in range(3)] == [f"JPEGImages/2007_00{k}" for k in (2, 0, 1)]
    assert build_dataset(cfg, "val")[0].mask.tolist() == [[*range(21), IGNORE]]
    assert (train.classes.names[15], train.classes.ignore_id) == ("person", 255)
    assert train.classes.colors[15] == (192, 128, 128), "the palette of the files"
    lines(voc_tree / "mine.txt", "2007_001")
    assert len(build_dataset(VocData(root=voc_tree, train_list="mine.txt"), "train")) == 1
    assert build_dataset(VocData(root=voc_tree, val_list="mine.txt"), "val")[0].name == "JPEGImages/2007_001"


def test_pets(pets_tree):
    cfg = PetsData(root=pets_tree)
    assert available_splits(cfg) == ("train", "val")
    assert [len(build_dataset(cfg, split)) for split in ("train", "val")] == [10, 3]
    two = build_dataset(cfg, "train")
    assert two[0].mask.tolist() == [[0, 1, IGNORE, 0]]
    assert (two.classes.names, two.classes.ids, two.classes.ignore_id) == (("pet", "background"), (1, 2), 3)
    three = build_dataset(PetsData(root=pets_tree, border="class"), "train")
    assert three[0].mask.tolist() == [[0, 1, 2, 0]]
    assert (three.classes.names, three.classes.ids) == (("pet", "background", "border"), (1, 2, 3))


def test_pets_with_a_share_of_trainval_for_validation(pets_tree):
    found = {}
    for seed in (0, 1):
        cfg = PetsData(root=pets_tree, val_fraction=0.3, split_seed=seed)
        assert available_splits(cfg) == ("train", "val", "test")
        sets = [build_dataset(cfg, split) for split in available_splits(cfg)]
        found[seed] = [{each[k].name for k in range(len(each))} for each in sets]
        train, val, test = found[seed]
        assert (len(train), len(val), len(test)) == (7, 3, 3)
        assert not train & val
        assert not (train | val) & test
    assert found[0][1] != found[1][1]
    assert found[0][2] == found[1][2]


def test_stanford(stanford_tree):
    cfg = StanfordData(root=stanford_tree)
    assert available_splits(cfg) == ("train", "val")
    assert [len(build_dataset(cfg, split)) for split in ("train", "val")] == [8, 2]
    train = build_dataset(cfg, "train")
    assert train[0].mask.tolist() == [[*range(8)], [IGNORE, IGNORE, 7, 7, 7, 7, 7, 0]]
    assert train[0].name.startswith("images/00000")
    assert (train.classes.ids, train.classes.ignore_id) == (tuple(range(8)), 255)
    assert (train.classes.names[6], train.classes.colors[6]) == ("mountain", (122, 81, 25))


def test_stanford_splits_by_lists_of_names_or_by_shares(stanford_tree):
    lines(stanford_tree / "splits/train.txt", "0000003", "0000001")
    lines(stanford_tree / "splits/val.txt", "0000002")
    lists = {"kind": "lists", "train": "splits/train.txt", "val": "splits/val.txt"}
    cfg = StanfordData.model_validate({"root": stanford_tree, "splits": lists})
    train = build_dataset(cfg, "train")
    assert [train[k].name for k in range(2)] == ["images/0000003", "images/0000001"]
    assert build_dataset(cfg, "val")[0].name == "images/0000002"
    shares = {"kind": "ratio", "train": 0.5, "val": 0.3, "test": 0.2}
    sets = {}
    for seed in (1, 2):
        cfg = StanfordData.model_validate({"root": stanford_tree, "splits": shares | {"seed": seed}})
        sets[seed] = [{*build_dataset(cfg, split).names} for split in available_splits(cfg)]
        assert [len(each) for each in sets[seed]] == [5, 3, 2]
        assert len(set.union(*sets[seed])) == 10
    assert sets[1] != sets[2]


@pytest.mark.parametrize(("folder", "setting"), [("seg_maps", "seg_maps"), ("masks/flat", "masks/flat/")])
def test_stanford_copies_name_the_label_folder_otherwise(stanford_tree, folder, setting):
    (stanford_tree / folder).parent.mkdir(exist_ok=True)
    (stanford_tree / "labels").rename(stanford_tree / folder)
    train = build_dataset(StanfordData(root=stanford_tree, labels=setting), "train")
    assert train[0].mask[1].tolist() == [IGNORE, IGNORE, 7, 7, 7, 7, 7, 0]
    with pytest.raises(InputError, match=r"10 of 10 images .* have no label: .*expected labels/0000000\.regions\.txt"):
        build_dataset(StanfordData(root=stanford_tree), "train")


def test_stanford_converted_to_images(stanford_tree):
    for k in range(10):
        label(stanford_tree / f"seg_maps/{k:07}.png", [[*range(8)], [255, 255, 7, 7, 7, 7, 7, 0]])
    converted = build_dataset(StanfordData(root=stanford_tree, labels="seg_maps/{id}.png"), "train")
    original = build_dataset(StanfordData(root=stanford_tree), "train")
    assert converted.files[0][1].suffix == ".png"
    assert (converted[0].mask == original[0].mask).all()


def test_stanford_takes_short_names_for_its_classes(stanford_tree):
    def classes(**remap):
        return build_dataset(StanfordData(root=stanford_tree, remap=remap), "train").classes.names

    short = {"bldg": "ignore", "mntn": "ignore", "fg obj": "ignore"}
    assert classes(**short) == ("sky", "tree", "road", "grass", "water")
    assert classes(mntn="bldg", tree="fg obj") == (
        *("sky", "road", "grass", "water", "building", "foreground object"),
    ), "merged into what the short name stands for"
    assert classes(building="bldg", mntn="bldg")[-2:] == ("bldg", "foreground object"), (
        "a new name, and a merge into it"
    )
    with pytest.raises(ValidationError, match=r"data\.remap names a class twice"):
        StanfordData(remap={"bldg": "ignore", "building": "sky"})
    with pytest.raises(ValidationError, match="no class is called 'bldgs'"):
        StanfordData(remap={"bldgs": "ignore"})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"labels": "seg_maps/{name}.png"}, r"a template with \{id\} alone"),
        ({"labels": "{split}/{id}.png"}, r"a template with \{id\} alone"),
        ({"labels": "seg*"}, r"a template with \{id\} alone"),
        ({"labels": "../seg_maps"}, "is no template"),
        (
            {"splits": {"kind": "lists", "train": "a.txt", "lines": "pairs"}},
            "the lists of data.kind=stanford hold names",
        ),
        ({"splits": {"kind": "folders"}}, "does not match any of the expected tags: 'lists', 'ratio'"),
    ],
)
def test_stanford_refuses_what_does_not_fit(section, message):
    with pytest.raises(ValidationError, match=message):
        StanfordData.model_validate(section)


def test_ade20k(ade20k_tree):
    cfg = Ade20kData(root=ade20k_tree)
    assert available_splits(cfg) == ("train", "val")
    assert [len(build_dataset(cfg, split)) for split in ("train", "val")] == [2, 1]
    train = build_dataset(cfg, "train")
    assert train[0].name == "images/training/ADE_train_00000001"
    assert train[0].mask.tolist() == [[IGNORE, *range(150)]]
    assert (train.classes.ids, train.classes.ignore_id) == (tuple(range(1, 151)), 0)
    names = dict(zip(train.classes.ids, train.classes.names, strict=True))
    known = {1: "wall", 7: "road", 13: "person", 21: "car", 59: "screen door", 84: "truck", 121: "food", 150: "flag"}
    assert {value: names[value] for value in known} == known
    assert len(set(train.classes.colors)) == 150


@pytest.mark.parametrize("kind", ["camvid", "voc", "pets", "stanford", "ade20k"])
def test_predictions_in_the_layouts_own_ids_read_back(kind, request):
    root = request.getfixturevalue(f"{kind}_tree")
    extra = {"labels": "seg_maps/{id}.png"} if kind == "stanford" else {}
    if kind == "stanford":
        for k in range(10):
            label(root / f"seg_maps/{k:07}.png", [[0]])
    train = build_dataset(TypeAdapter(DataConfig).validate_python({"kind": kind, "root": root} | extra), "train")
    photo(train.files[0][0], (1, len(train.classes) + 1))
    label(train.files[0][1], [[*train.classes.ids, train.classes.ignore_id]])
    assert train[0].mask.tolist() == [[*range(len(train.classes)), IGNORE]]


@pytest.mark.parametrize("kind", ["camvid", "voc", "pets", "stanford", "ade20k"])
def test_every_layout_has_limit_and_remap_and_checks_names(kind, request):
    root = request.getfixturevalue(f"{kind}_tree")
    old, new = {
        "camvid": ("Sky", "Road"),
        "voc": ("cow", "horse"),
        "pets": ("pet", "animal"),
        "stanford": ("grass", "tree"),
        "ade20k": ("escalator", "stairway"),
    }[kind]
    read = TypeAdapter(DataConfig).validate_python
    assert len(build_dataset(read({"kind": kind, "root": root, "limit": 1}), "train")) == 1
    classes = build_dataset(read({"kind": kind, "root": root, "remap": {old: new}}), "train").classes
    assert old not in classes.names
    assert new in classes.names
    with pytest.raises(ValidationError, match=rf"data\.remap: no class is called '{old}x'; did you mean '{old}'"):
        read({"kind": kind, "remap": {old + "x": "ignore"}})
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        read({"kind": kind, "rooot": root})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("camvid", r"data\.images 'train/\{id\}\.\*' finds no image"),
        ("voc", r"ImageSets.Segmentation.train\.txt: cannot read this list"),
        ("pets", r"annotations.trainval\.txt: cannot read this list"),
        ("stanford", r"data\.images 'images/\{id\}\.jpg' finds no image"),
        ("ade20k", r"data\.images 'images/training/\{id\}\.jpg' finds no image"),
    ],
)
def test_an_empty_folder_is_no_layout(tmp_path, kind, message):
    with pytest.raises(InputError, match=message):
        build_dataset(TypeAdapter(DataConfig).validate_python({"kind": kind, "root": tmp_path}), "train")


def test_datasets_from_python_cannot_be_built_from_a_config():
    assert available_splits(OwnData()) == ()
    with pytest.raises(InputError, match=r"data\.kind is own: pass the dataset objects from Python"):
        build_dataset(OwnData(), "train")
    for idle in ({"limit": 3}, {"root": "elsewhere"}):
        with pytest.raises(ValidationError, match=r"data\.root and data\.limit change nothing"):
            OwnData.model_validate(idle)


def test_configs_come_back_from_their_own_dump(camvid_tree):
    read = TypeAdapter(DataConfig)
    for cfg in (
        CamvidData(root=camvid_tree, limit=2),
        PetsData(val_fraction=0.5),
        StanfordData(labels="seg_maps/{id}.png", remap={"bldg": "ignore"}),
        OwnData(),
        read.validate_python(
            {
                "kind": "folder",
                "images": "i",
                "labels": "l",
                "classes": {"a": "#0102ff", "b": [1, 2, 3]},
                "decode": {"kind": "palette", "ignore_colors": ["#ffffff"]},
                "splits": {"kind": "ratio"},
            }
        ),
    ):
        assert read.validate_python(cfg.model_dump(mode="json")) == cfg
    assert read.json_schema()["discriminator"]["propertyName"] == "kind"


@pytest.mark.parametrize(("kind", "void"), [("camvid", 11), ("voc", 255), ("pets", 3), ("ade20k", 0)])
def test_pitfall_void_trained_as_a_class_in_layouts(kind, void, request):
    cfg = TypeAdapter(DataConfig).validate_python({"kind": kind, "root": request.getfixturevalue(f"{kind}_tree")})
    for split in available_splits(cfg):
        dataset = build_dataset(cfg, split)
        assert void not in dataset.classes.ids
        for index in range(len(dataset)):
            with Image.open(dataset.files[index][1]) as file:
                assert ((dataset[index].mask == IGNORE) == (np.asarray(file) == void)).all()


# --- real data --------------------------------------------------------------------------------------------------------


def test_real_camvid(shared_data):
    cfg = CamvidData(root=shared_data / "camvid")
    sets = {split: build_dataset(cfg, split) for split in available_splits(cfg)}
    assert {split: len(dataset) for split, dataset in sets.items()} == {"train": 367, "val": 101, "test": 233}
    counts = sum(np.bincount(sets["val"][k].mask.ravel(), minlength=256) for k in range(101))
    share = counts / counts.sum() * 100  # as in the data set's README
    expected = [9.18, 25.96, 0.56, 28.95, 8.72, 16.34, 0.89, 3.08, 1.75, 0.65, 2.22]
    assert np.abs(share[:11] - expected).max() < 0.006
    assert abs(share[IGNORE] - 1.70) < 0.01
    assert counts[11:255].sum() == 0


def test_real_voc(shared_data):
    cfg = VocData(root=shared_data / "voc-person")
    train, val = build_dataset(cfg, "train"), build_dataset(cfg, "val")
    assert (len(train), len(val)) == (130, 60)
    listed = (shared_data / "voc-person/ImageSets/Segmentation/val.txt").read_text().split()
    assert [val[k].name for k in range(60)] == [f"JPEGImages/{name}" for name in listed]
    seen = set(np.unique(np.concatenate([np.unique(val[k].mask) for k in range(60)])).tolist())
    assert seen <= {*range(21), IGNORE}
    assert {15, IGNORE} <= seen
    assert not seen & {13, 17}, "the README says that these do not occur in val"
