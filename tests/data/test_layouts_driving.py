"""Layouts of road scenes: made-up files in exactly the real layout, checked against the published tables."""

import json

import numpy as np
import pytest
from fake_files import label, photo
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from terrazzo.base import IGNORE, Classes, InputError
from terrazzo.data import CityscapesData, DataConfig, IddData, IddLiteData, available_splits, build_dataset

TRAIN_IDS = dict(
    zip([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33], range(19), strict=True)
)
"""Raw id -> train id, from the table of the Cityscapes benchmark."""

CATEGORIES = {
    **dict.fromkeys([7, 8], 0),
    **dict.fromkeys([11, 12, 13], 1),
    **dict.fromkeys([17, 19, 20], 2),
    **dict.fromkeys([21, 22], 3),
    23: 4,
    **dict.fromkeys([24, 25], 5),
    **dict.fromkeys([26, 27, 28, 31, 32, 33], 6),
}
"""Raw id -> category: flat, construction, object, nature, sky, human, vehicle."""

IDD_LEVELS = {
    "road": (0, 0, 0),
    "parking": (1, 1, 0),
    "drivable fallback": (1, 1, 0),
    "sidewalk": (2, 2, 1),
    "rail track": (3, 3, 1),
    "non-drivable fallback": (3, 3, 1),
    "person": (4, 4, 2),
    "animal": (4, 4, 2),
    "rider": (5, 5, 2),
    "motorcycle": (6, 6, 3),
    "bicycle": (7, 6, 3),
    "autorickshaw": (8, 7, 3),
    "car": (9, 7, 3),
    "truck": (10, 8, 3),
    "bus": (11, 8, 3),
    "caravan": (12, 8, 3),
    "trailer": (12, 8, 3),
    "train": (12, 8, 3),
    "vehicle fallback": (12, 8, 3),
    "curb": (13, 9, 4),
    "wall": (14, 9, 4),
    "fence": (15, 10, 4),
    "guard rail": (16, 10, 4),
    "billboard": (17, 11, 4),
    "traffic sign": (18, 11, 4),
    "traffic light": (19, 11, 4),
    "pole": (20, 12, 4),
    "polegroup": (20, 12, 4),
    "obs-str-bar-fallback": (21, 12, 4),
    "building": (22, 13, 5),
    "bridge": (23, 13, 5),
    "tunnel": (23, 13, 5),
    "vegetation": (24, 14, 5),
    "sky": (25, 15, 6),
    "fallback background": (25, 15, 6),
    **dict.fromkeys(
        ["unlabeled", "ego vehicle", "rectification border", "out of roi", "license plate"], (IGNORE, IGNORE, IGNORE)
    ),
}
"""Label of the polygon files -> its ids of levels 3, 2 and 1, from the data set's published label table."""

CITIES = {"train": {"aachen": 6, "zurich": 4}, "val": {"frankfurt": 2, "munster": 1}, "test": {"berlin": 2}}


@pytest.fixture
def cityscapes_tree(tmp_path):
    for split, cities in CITIES.items():
        for city, count in cities.items():
            for frame in range(count):
                stem = f"{city}_000000_{frame:06}"
                photo(tmp_path / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png", (1, 34))
                beside = tmp_path / f"gtFine/{split}/{city}/{stem}_gtFine"
                ids = np.arange(34) if split != "test" else np.arange(34) % 4
                label(beside.with_name(f"{beside.name}_labelIds.png"), [ids])
                label(beside.with_name(f"{beside.name}_instanceIds.png"), [ids])
                label(beside.with_name(f"{beside.name}_color.png"), np.zeros((1, 34, 4)))
                beside.with_name(f"{beside.name}_polygons.json").write_text("{}")
    return tmp_path


@pytest.fixture
def idd_tree(tmp_path):
    """Two drives, each with a frame0000, one of them in JPEG; every label is a strip of three columns."""
    for split, drive, suffix in (("train", "0", "png"), ("train", "201", "jpg"), ("val", "119", "png")):
        name = f"{split}/{drive}/frame0000"
        labels = [*IDD_LEVELS] if drive != "201" else [*reversed(IDD_LEVELS)]
        photo(tmp_path / f"leftImg8bit/{name}_leftImg8bit.{suffix}", (4, 3 * len(labels)))
        objects = [
            {"id": k, "label": each, "polygon": [[3 * k, 0], [3 * k + 2, 0], [3 * k + 2, 3], [3 * k, 3]], "draw": True}
            for k, each in enumerate(labels)
        ]
        objects += [objects[0] | {"label": "ground"}, objects[-1] | {"label": "car", "deleted": 1}]
        outlines = {"imgHeight": 4, "imgWidth": 3 * len(labels), "objects": objects}
        path = tmp_path / f"gtFine/{name}_gtFine_polygons.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(outlines))
        for level in (1, 2, 3):
            ids = np.repeat([IDD_LEVELS[each][3 - level] for each in labels], 3)
            label(tmp_path / f"gtFine/{name}_gtFine_labellevel{level}Ids.png", np.tile(ids, (4, 1)))
    photo(tmp_path / "leftImg8bit/test/5/frame0000_leftImg8bit.png")
    return tmp_path


@pytest.fixture
def idd_lite_tree(tmp_path):
    for split, drive, frame in (("train", "0", "024541"), ("train", "1", "024541"), ("val", "7", "006132")):
        photo(tmp_path / f"leftImg8bit/{split}/{drive}/{frame}_image.jpg", (1, 8))
        label(tmp_path / f"gtFine/{split}/{drive}/{frame}_label.png", [[*range(7), 255]])
        label(tmp_path / f"gtFine/{split}/{drive}/{frame}_inst_label.png", [[*range(7), 255]])
    photo(tmp_path / "leftImg8bit/test/3/000001_image.jpg", (1, 8))
    return tmp_path


def names(dataset) -> set[str]:
    return {dataset[k].name for k in range(len(dataset))}


@pytest.mark.parametrize("ids", ["train", "categories"])
def test_cityscapes_decodes_raw_ids(cityscapes_tree, ids):
    cfg = CityscapesData(root=cityscapes_tree, ids=ids)
    assert available_splits(cfg) == ("train", "val")
    assert [len(build_dataset(cfg, split)) for split in ("train", "val", "test")] == [10, 3, 2]
    table = {"train": TRAIN_IDS, "categories": CATEGORIES}[ids]
    train = build_dataset(cfg, "train")
    assert train[0].mask.tolist() == [[table.get(raw, IGNORE) for raw in range(34)]]
    assert train[0].name == "leftImg8bit/train/aachen/aachen_000000_000000_leftImg8bit"
    assert train.classes.ignore_id == 0


def test_cityscapes_names_colours_and_ids_are_the_published_ones(cityscapes_tree):
    def classes(ids: str) -> Classes:
        return build_dataset(CityscapesData(root=cityscapes_tree, ids=ids), "train").classes

    train = classes("train")
    assert train.names[:6] == ("road", "sidewalk", "building", "wall", "fence", "pole")
    assert train.names[16:] == ("train", "motorcycle", "bicycle")
    assert train.ids == tuple(TRAIN_IDS), "the test server takes raw ids"
    assert [train.colors[k] for k in (0, 7, 18)] == [(128, 64, 128), (220, 220, 0), (119, 11, 32)]
    categories = classes("categories")
    assert categories.names == ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
    assert categories.ids == (7, 11, 17, 21, 23, 24, 26)
    raw = classes("raw")
    assert (len(raw), raw.names[7], raw.names[34]) == (35, "road", "license plate")
    assert raw.ids == (*range(34), 255)


def test_cityscapes_raw_ids_keep_void_as_classes(cityscapes_tree):
    cfg = CityscapesData(root=cityscapes_tree, ids="raw")
    train = build_dataset(cfg, "train")
    assert train[0].mask.tolist() == [[*range(34)]]
    label(train.files[0][1], [[255, *range(1, 34)]])
    assert train[0].mask.tolist() == [[34, *range(1, 34)]], "the license plate's -1 in 8 bits"
    Image.fromarray(np.array([[-1, *range(1, 34)]], np.int32)).save(train.files[0][1].with_suffix(".tif"))
    train.files[0][1].with_suffix(".tif").rename(train.files[0][1])
    assert train[0].mask.tolist() == [[34, *range(1, 34)]], "and in 32"


def test_cityscapes_test_labels_are_dummies_that_never_count(cityscapes_tree):
    for ids in ("train", "categories"):
        test = build_dataset(CityscapesData(root=cityscapes_tree, ids=ids), "test")
        assert all((test[k].mask == IGNORE).all() for k in range(len(test)))
    with pytest.raises(InputError, match="this data has no test split, only train, val"):
        build_dataset(CityscapesData(root=cityscapes_tree, ids="raw"), "test")


@pytest.mark.parametrize("ids", ["train", "raw"])
def test_cityscapes_with_a_share_of_train_for_validation(cityscapes_tree, ids):
    """The published val is the test split then."""
    found = {}
    for seed in (42, 43):
        cfg = CityscapesData(root=cityscapes_tree, ids=ids, val_fraction=0.2, split_seed=seed)
        assert available_splits(cfg) == ("train", "val", "test")
        train, val, test = found[seed] = [names(build_dataset(cfg, split)) for split in available_splits(cfg)]
        assert [len(train), len(val), len(test)] == [8, 2, 3]
        assert train | val == names(build_dataset(CityscapesData(root=cityscapes_tree), "train"))
        assert test == names(build_dataset(CityscapesData(root=cityscapes_tree), "val"))
    assert found[42][1] != found[43][1]


@pytest.mark.parametrize("level", [1, 2, 3])
def test_idd_draws_polygons_at_every_level(idd_tree, level):
    cfg = IddData(root=idd_tree, level=level)
    assert available_splits(cfg) == ("train", "val")
    train = build_dataset(cfg, "train")
    first = np.repeat([ids[3 - level] for ids in IDD_LEVELS.values()], 3)
    assert train[0].mask.tolist() == np.tile(first, (4, 1)).tolist(), "'ground' and what is deleted are not drawn"
    assert train[1].mask.tolist() == np.tile(first[::-1], (4, 1)).tolist()
    made = build_dataset(IddData(root=idd_tree, level=level, masks="pngs"), "train")
    assert all((made[k].mask == train[k].mask).all() for k in range(2))
    assert made.classes == train.classes
    assert len(train.classes) == {1: 7, 2: 16, 3: 26}[level]
    assert (train.classes.ids, train.classes.ignore_id) == (tuple(range(len(train.classes))), 255)


def test_idd_names_and_colours(idd_tree):
    level3, level2, level1 = (build_dataset(IddData(root=idd_tree, level=k), "val").classes for k in (3, 2, 1))
    assert level3.names[1] == "parking, drivable fallback"
    assert level3.names[21:] == (
        *("obs-str-bar fallback", "building", "bridge, tunnel", "vegetation", "sky, fallback background"),
    )
    assert [level3.colors[k] for k in (8, 12, 25)] == [(255, 204, 54), (136, 143, 153), (70, 130, 180)]
    assert (level2.names[7], level2.colors[7]) == ("autorickshaw or car", (255, 204, 54))
    assert level1.names == (
        *("drivable", "non-drivable", "living things", "vehicles", "road-side objects", "far objects", "sky"),
    )


def test_idd_lite(idd_lite_tree):
    cfg = IddLiteData(root=idd_lite_tree)
    train = build_dataset(cfg, "train")
    assert names(train) == {f"leftImg8bit/train/{drive}/024541_image" for drive in (0, 1)}
    assert train[0].mask.tolist() == [[*range(7), IGNORE]]
    assert train.classes == build_dataset(cfg, "val").classes
    assert train.classes.names[3] == "vehicles"
    assert available_splits(cfg) == ("train", "val")


@pytest.mark.parametrize(
    "section",
    [
        {"kind": "cityscapes"},
        {"kind": "cityscapes", "ids": "categories"},
        {"kind": "cityscapes", "ids": "raw"},
        {"kind": "idd", "masks": "pngs"},
        {"kind": "idd", "masks": "pngs", "level": 2},
        {"kind": "idd_lite"},
        {"kind": "cityscapes", "remap": {"car": "vehicle", "bus": "vehicle", "sky": "ignore"}},
    ],
    ids=str,
)
def test_predictions_in_the_layouts_own_ids_read_back(section, request):
    root = request.getfixturevalue(f"{section['kind']}_tree")
    train = build_dataset(TypeAdapter(DataConfig).validate_python({"root": root} | section), "train")
    count = len(train.classes)
    photo(train.files[0][0], (1, count + 1))
    label(train.files[0][1], [[*train.classes.ids, train.classes.ignore_id]])
    if section.get("ids") == "raw":
        assert train.classes.ignore_id not in train.classes.ids, "nothing is ignored there"
        label(train.files[0][1], [[*train.classes.ids, 0]])
        assert train[0].mask.tolist() == [[*range(count), 0]]
    else:
        assert train[0].mask.tolist() == [[*range(count), IGNORE]]


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [("cityscapes", "road", "street"), ("idd", "person, animal", "living"), ("idd_lite", "sky", "above")],
)
def test_every_layout_has_limit_and_remap_and_checks_names(kind, old, new, request):
    root = request.getfixturevalue(f"{kind}_tree")
    read = TypeAdapter(DataConfig).validate_python
    assert len(build_dataset(read({"kind": kind, "root": root, "limit": 1}), "train")) == 1
    classes = build_dataset(read({"kind": kind, "root": root, "remap": {old: new}}), "train").classes
    assert old not in classes.names
    assert new in classes.names
    with pytest.raises(ValidationError, match=rf"data\.remap: no class is called '{old}x'; did you mean '{old}'"):
        read({"kind": kind, "remap": {old + "x": "ignore"}})


@pytest.mark.parametrize("kind", ["cityscapes", "idd", "idd_lite"])
def test_an_empty_folder_is_no_layout(tmp_path, kind):
    cfg = TypeAdapter(DataConfig).validate_python({"kind": kind, "root": tmp_path})
    with pytest.raises(InputError, match=r"data\.images 'leftImg8bit/train/\{\w+\}/.*' finds no image"):
        build_dataset(cfg, "train")
    assert TypeAdapter(DataConfig).validate_python(cfg.model_dump(mode="json")) == cfg


# --- pitfalls of spec/pitfalls.md -------------------------------------------------------------------------------------


def test_pitfall_raw_ids_trained_as_train_ids_in_cityscapes(cityscapes_tree):
    """Road is 7 in the files, 0 in training, and 7 again in what is written."""
    train = build_dataset(CityscapesData(root=cityscapes_tree), "train")
    raw = np.asarray(Image.open(train.files[0][1]))
    mask = train[0].mask
    assert mask[raw == 7].tolist() == [0]
    assert (np.array(train.classes.ids)[mask[mask != IGNORE]] == raw[mask != IGNORE]).all()


def test_pitfall_flattening_by_file_name_overwrites_frames_of_idd_drives(idd_tree):
    train = build_dataset(IddData(root=idd_tree), "train")
    assert names(train) == {f"leftImg8bit/train/{drive}/frame0000_leftImg8bit" for drive in (0, 201)}
    assert (train[0].mask != train[1].mask).any()


@pytest.mark.parametrize("kind", ["cityscapes", "idd", "idd_lite"])
def test_pitfall_void_trained_as_a_class_in_road_scenes(kind, request):
    root = request.getfixturevalue(f"{kind}_tree")
    train = build_dataset(TypeAdapter(DataConfig).validate_python({"kind": kind, "root": root}), "train")
    assert not {"unlabeled", "ego vehicle", "out of roi", "void"} & set(train.classes.names)
    assert (train[0].mask == IGNORE).sum() == {"cityscapes": 15, "idd": 5 * 3 * 4, "idd_lite": 1}[kind]
    assert train[0].mask[train[0].mask != IGNORE].max() == len(train.classes) - 1
