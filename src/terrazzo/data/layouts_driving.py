"""Public data sets of road scenes in their original layouts, each one a FolderData. A new one: as in layouts.py."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from terrazzo.base import Color, InputError
from terrazzo.data.folder import FileOptions, FolderData, laid_out
from terrazzo.data.labels import IGNORED, Decoder, Index, Polygons, Values
from terrazzo.data.split import FolderSplits

CAMVID: dict[str, Color] = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
"""Classes and colours of the SegNet version (Badrinarayanan et al., 2017); value 11 is Unlabelled."""

CITYSCAPES: dict[str, tuple[str, Color]] = {
    "unlabeled": (IGNORED, (0, 0, 0)),
    "ego vehicle": (IGNORED, (0, 0, 0)),
    "rectification border": (IGNORED, (0, 0, 0)),
    "out of roi": (IGNORED, (0, 0, 0)),
    "static": (IGNORED, (0, 0, 0)),
    "dynamic": (IGNORED, (111, 74, 0)),
    "ground": (IGNORED, (81, 0, 81)),
    "road": ("flat", (128, 64, 128)),
    "sidewalk": ("flat", (244, 35, 232)),
    "parking": (IGNORED, (250, 170, 160)),
    "rail track": (IGNORED, (230, 150, 140)),
    "building": ("construction", (70, 70, 70)),
    "wall": ("construction", (102, 102, 156)),
    "fence": ("construction", (190, 153, 153)),
    "guard rail": (IGNORED, (180, 165, 180)),
    "bridge": (IGNORED, (150, 100, 100)),
    "tunnel": (IGNORED, (150, 120, 90)),
    "pole": ("object", (153, 153, 153)),
    "polegroup": (IGNORED, (153, 153, 153)),
    "traffic light": ("object", (250, 170, 30)),
    "traffic sign": ("object", (220, 220, 0)),
    "vegetation": ("nature", (107, 142, 35)),
    "terrain": ("nature", (152, 251, 152)),
    "sky": ("sky", (70, 130, 180)),
    "person": ("human", (220, 20, 60)),
    "rider": ("human", (255, 0, 0)),
    "car": ("vehicle", (0, 0, 142)),
    "truck": ("vehicle", (0, 0, 70)),
    "bus": ("vehicle", (0, 60, 100)),
    "caravan": (IGNORED, (0, 0, 90)),
    "trailer": (IGNORED, (0, 0, 110)),
    "train": ("vehicle", (0, 80, 100)),
    "motorcycle": ("vehicle", (0, 0, 230)),
    "bicycle": ("vehicle", (119, 11, 32)),
    "license plate": (IGNORED, (0, 0, 142)),
}
"""Name -> category and colour, in the order of the raw ids 0 to 33; the last one is -1 (Cordts et al., 2016;
cityscapesScripts labels.py). Those with a category are the classes of the benchmark, in the order of train ids."""

IDD: dict[str, tuple[int, int, Color]] = {
    "road": (0, 0, (128, 64, 128)),
    "parking, drivable fallback": (1, 0, (81, 0, 81)),
    "sidewalk": (2, 1, (244, 35, 232)),
    "rail track, non-drivable fallback": (3, 1, (152, 251, 152)),
    "person, animal": (4, 2, (220, 20, 60)),
    "rider": (5, 2, (255, 0, 0)),
    "motorcycle": (6, 3, (0, 0, 230)),
    "bicycle": (6, 3, (119, 11, 32)),
    "autorickshaw": (7, 3, (255, 204, 54)),
    "car": (7, 3, (0, 0, 142)),
    "truck": (8, 3, (0, 0, 70)),
    "bus": (8, 3, (0, 60, 100)),
    "caravan, trailer, train, vehicle fallback": (8, 3, (136, 143, 153)),
    "curb": (9, 4, (220, 190, 40)),
    "wall": (9, 4, (102, 102, 156)),
    "fence": (10, 4, (190, 153, 153)),
    "guard rail": (10, 4, (180, 165, 180)),
    "billboard": (11, 4, (174, 64, 67)),
    "traffic sign": (11, 4, (220, 220, 0)),
    "traffic light": (11, 4, (250, 170, 30)),
    "pole, polegroup": (12, 4, (153, 153, 153)),
    "obs-str-bar fallback": (12, 4, (169, 187, 214)),
    "building": (13, 5, (70, 70, 70)),
    "bridge, tunnel": (13, 5, (150, 100, 100)),
    "vegetation": (14, 5, (107, 142, 35)),
    "sky, fallback background": (15, 6, (70, 130, 180)),
}
"""Level-3 name -> its level-2 id, level-1 id and colour (Varma et al., 2019; AutoNUE public-code anue_labels.py). A
name lists the labels of the polygon files that are merged into the class."""

IDD_VOID = ("unlabeled", "ego vehicle", "rectification border", "out of roi", "license plate")
"""Labels of the polygon files that are drawn, and mean no class."""

IDD_GROUPS = {
    1: ("drivable", "non-drivable", "living things", "vehicles", "road-side objects", "far objects", "sky"),
    2: (
        *("road", "drivable fallback", "sidewalk", "non-drivable fallback", "person or animal", "rider"),
        *("motorcycle or bicycle", "autorickshaw or car", "large vehicle", "curb or wall", "fence or guard rail"),
        *("billboard, sign or light", "pole or obstacle", "building or bridge", "vegetation", "sky"),
    ),
}
"""Class names of the levels above; the data set only numbers those of level 2."""


class CamvidData(FileOptions):
    """CamVid as SegNet ships it: train/NAME.png or .jpg, trainannot/NAME.png, likewise val and test; 11 classes."""

    kind: Literal["camvid"] = "camvid"

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        Decoder(CAMVID, Index(ignore=(11,)), self.remap)
        return self


class CityscapesData(FileOptions):
    """Cityscapes as downloaded: leftImg8bit/{train,val,test}/CITY/NAME_leftImg8bit.png with
    gtFine/.../NAME_gtFine_labelIds.png, whose raw ids are decoded on reading. Predictions are written in raw ids."""

    kind: Literal["cityscapes"] = "cityscapes"
    ids: Literal["train", "categories", "raw"] = "train"
    """`train`: the 19 classes of the benchmark. `categories`: their 7 categories. `raw`: all 35 labels, also void."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Null: train and val as published; the labels of test are dummies that nothing can be scored with. Else this share
    of train is the validation split, and the published val is the test split."""
    split_seed: NonNegativeInt = 0
    """Of the shuffle before `val_fraction` is taken."""

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        classes, decode = _cityscapes_labels(self.ids)
        Decoder(classes, decode, self.remap)
        if self.val_fraction is None and self.split_seed != type(self).model_fields["split_seed"].default:
            raise InputError(f"split_seed={self.split_seed} changes nothing: without val_fraction nothing is shuffled")
        return self


class IddData(FileOptions):
    """India Driving Dataset: leftImg8bit/{train,val}/DRIVE/NAME_leftImg8bit.png or .jpg with
    gtFine/.../NAME_gtFine_polygons.json, drawn on reading, or with the label images made of them."""

    kind: Literal["idd"] = "idd"
    level: Literal[1, 2, 3] = 3
    """Of the label hierarchy: 7, 16 or 26 classes."""
    masks: Literal["polygons", "pngs"] = "polygons"
    """`polygons`: the JSON files of the download. `pngs`: NAME_gtFine_labellevelLIds.png, L being `level`."""

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        Decoder(_idd_classes(self.level), Index(), self.remap)
        return self


class IddLiteData(FileOptions):
    """IDD-Lite (320x227): leftImg8bit/{train,val}/DRIVE/NAME_image.jpg, gtFine/.../NAME_label.png; 7 classes."""

    kind: Literal["idd_lite"] = "idd_lite"

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        Decoder(_idd_classes(1), Index(), self.remap)
        return self


def camvid(cfg: CamvidData) -> FolderData:
    return laid_out(
        cfg,
        images="{split}/{id}.*",
        labels="{split}annot/{id}.png",
        classes=CAMVID,
        decode=Index(ignore=(11,)),
        splits=FolderSplits(train="train", val="val", test="test"),
    )


def cityscapes(cfg: CityscapesData) -> FolderData:
    if cfg.val_fraction is None:
        # Void is a class in raw ids, and the dummies of test are void: there they would count.
        splits = FolderSplits(train="train", val="val", test=None if cfg.ids == "raw" else "test")
    else:
        splits = FolderSplits(train="train", val=None, test="val", val_fraction=cfg.val_fraction, seed=cfg.split_seed)
    classes, decode = _cityscapes_labels(cfg.ids)
    return laid_out(
        cfg,
        images="leftImg8bit/{split}/{city}/{id}_leftImg8bit.png",
        labels="gtFine/{split}/{city}/{id}_gtFine_labelIds.png",
        classes=classes,
        decode=decode,
        splits=splits,
    )


def idd(cfg: IddData) -> FolderData:
    pngs = cfg.masks == "pngs"
    ending = f"labellevel{cfg.level}Ids.png" if pngs else "polygons.json"
    return laid_out(
        cfg,
        images="leftImg8bit/{split}/{drive}/{id}_leftImg8bit.*",
        labels="gtFine/{split}/{drive}/{id}_gtFine_" + ending,
        classes=_idd_classes(cfg.level),
        decode=Index() if pngs else _idd_outlines(cfg.level),
        splits=FolderSplits(train="train", val="val"),
    )


def idd_lite(cfg: IddLiteData) -> FolderData:
    return laid_out(
        cfg,
        images="leftImg8bit/{split}/{drive}/{id}_image.jpg",
        labels="gtFine/{split}/{drive}/{id}_label.png",
        classes=_idd_classes(1),
        decode=Index(),
        splits=FolderSplits(train="train", val="val"),
    )


def _cityscapes_labels(ids: Literal["train", "categories", "raw"]) -> tuple[dict[str, Color], Values]:
    """Classes with their colours, and the class of every raw id.

    A class that is several raw ids is written as the first of them: a prediction reads back as what it was, and the
    official scripts score it. -1 stands as 255 in 8 bits.
    """
    names = {
        name: {"train": name if category != IGNORED else IGNORED, "categories": category, "raw": name}[ids]
        for name, (category, _) in CITYSCAPES.items()
    }
    colors: dict[str, Color] = {}
    for name, (_, color) in CITYSCAPES.items():
        if names[name] != IGNORED:
            colors.setdefault(names[name], color)
    *others, plate = names.values()
    return colors, Values(map={**dict(enumerate(others)), 255: plate, -1: plate})


def _idd_classes(level: Literal[1, 2, 3]) -> dict[str, Color]:
    """Class names of a level in the order of their ids; a class has the colour of its first level-3 class."""
    colors: dict[str, Color] = {}
    for name, (_, _, color) in IDD.items():
        colors.setdefault(_idd_name(name, level), color)
    return colors


def _idd_name(name: str, level: Literal[1, 2, 3]) -> str:
    """The class of a level that a level-3 class is in."""
    level2, level1, _ = IDD[name]
    match level:
        case 1:
            return IDD_GROUPS[1][level1]
        case 2:
            return IDD_GROUPS[2][level2]
        case 3:
            return name


def _idd_outlines(level: Literal[1, 2, 3]) -> Polygons:
    """Other labels are not drawn, as by the data set's own tool: a few files have some ("ground")."""
    classes = {label: _idd_name(name, level) for name in IDD for label in name.split(", ")}
    classes["obs-str-bar-fallback"] = classes.pop("obs-str-bar fallback")
    return Polygons(map=classes | dict.fromkeys(IDD_VOID, IGNORED), unknown="skip")
