"""Public data sets in their original layouts, each one a FolderData. A new one: config, function, `__init__`.

Road scenes are in layouts_driving.py.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from terrazzo.base import Color, InputError
from terrazzo.data.folder import FileOptions, FolderData, laid_out
from terrazzo.data.labels import IGNORED, Decoder, Index, Values
from terrazzo.data.split import FolderSplits, ListSplits, RatioSplits
from terrazzo.data.templates import Template

VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Classes of PASCAL VOC 2012 (Everingham et al., 2010); 255 is the boundary."""

STANFORD: dict[str, Color] = {
    "sky": (128, 128, 128),
    "tree": (129, 127, 38),
    "road": (120, 69, 125),
    "grass": (53, 125, 34),
    "water": (0, 11, 123),
    "building": (118, 20, 12),
    "mountain": (122, 81, 25),
    "foreground object": (241, 134, 51),
}
"""Classes of the Stanford Background Dataset (Gould et al., 2009) in the order of their values."""

STANFORD_SHORT = {"bldg": "building", "mntn": "mountain", "fg obj": "foreground object"}
"""Names under which these classes are known too."""

ADE20K = (
    *("wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet"),
    *("sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water"),
    *("painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk"),
    *("rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column", "signboard"),
    *("chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand"),
    *("path", "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge"),
    *("bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove"),
    *("palm", "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus"),
    *("towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth", "television receiver"),
    *("airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle"),
    *("buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything"),
    *("swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven"),
    *("ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake"),
    *("dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray"),
    *("ashcan", "fan", "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator"),
    *("glass", "clock", "flag"),
)
"""First names of the classes of SceneParse150 (Zhou et al., 2017; objectInfo150.txt), in the order of values 1..150."""

STANFORD_VALUES = Index(ignore_negative=True)
ADE20K_VALUES = Values(map={0: IGNORED, **dict(enumerate(ADE20K, start=1))})


class VocData(FileOptions):
    """PASCAL VOC: JPEGImages/NAME.jpg, SegmentationClass/NAME.png, lists in ImageSets/Segmentation; 21 classes."""

    kind: Literal["voc"] = "voc"
    train_list: str = "ImageSets/Segmentation/train.txt"
    """List file of the training split."""
    val_list: str = "ImageSets/Segmentation/val.txt"
    """List file of the validation split. The labels of the test split were never published."""

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        Decoder(VOC, Index(), self.remap)
        return self


class PetsData(FileOptions):
    """Oxford-IIIT Pet: images/NAME.jpg, annotations/trimaps/NAME.png, annotations/trainval.txt and test.txt."""

    kind: Literal["pets"] = "pets"
    border: Literal["ignore", "class"] = "ignore"
    """What the trimaps' third value is: the unclear border of the animal is left out, or a third class."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Null: the test list is the validation split, and there is no test split. Else this share of trainval is."""
    split_seed: NonNegativeInt = 0
    """Of the shuffle before `val_fraction` is taken."""

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        Decoder(_pet_classes(self), _pet_values(self), self.remap)
        if self.val_fraction is None and self.split_seed:
            raise InputError(f"split_seed={self.split_seed} changes nothing: without val_fraction nothing is shuffled")
        return self


class StanfordData(FileOptions):
    """Stanford Background: images/NAME.jpg, labels/NAME.regions.txt (numbers, one image row a line); 8 classes.

    Negative values and 255 are no class. `remap` also takes the short names bldg, mntn and fg obj.
    """

    kind: Literal["stanford"] = "stanford"
    labels: str = "labels"
    """Folder of NAME.regions.txt, for example seg_maps; or a template of the label files, seg_maps/{id}.png if they
    were converted to images."""
    splits: Annotated[ListSplits | RatioSplits, Field(discriminator="kind")] = RatioSplits()
    """Lists of names without extension, or shares: the data set has no split of its own."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if isinstance(self.splits, ListSplits) and self.splits.lines == "pairs":
            raise InputError(
                "data.splits.lines=pairs: the lists of data.kind=stanford hold names; say lines=ids or first"
            )
        template = Template.of(self.labels)
        if template.names != ("id",) or "{split}" in template.text:
            raise InputError(
                f"data.labels={self.labels!r}: data.kind=stanford wants a folder, or a template with {{id}} alone, for "
                "example seg_maps/{id}.png"
            )
        Decoder(STANFORD, STANFORD_VALUES, _full_names(self.remap))
        return self


class Ade20kData(FileOptions):
    """ADEChallengeData2016: images/{training,validation}/NAME.jpg with annotations/.../NAME.png; 150 classes.

    Value 0 is no class; predictions are written as 1 to 150.
    """

    kind: Literal["ade20k"] = "ade20k"

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        Decoder(ADE20K, ADE20K_VALUES, self.remap)
        return self


def voc(cfg: VocData) -> FolderData:
    return laid_out(
        cfg,
        images="JPEGImages/{id}.jpg",
        labels="SegmentationClass/{id}.png",
        classes=VOC,
        decode=Index(),
        splits=ListSplits(train=cfg.train_list, val=cfg.val_list),
    )


def pets(cfg: PetsData) -> FolderData:
    trainval, test = "annotations/trainval.txt", "annotations/test.txt"
    if cfg.val_fraction is None:
        splits = ListSplits(train=trainval, val=test, lines="first")
    else:
        splits = ListSplits(
            train=trainval, test=test, val_fraction=cfg.val_fraction, seed=cfg.split_seed, lines="first"
        )
    return laid_out(
        cfg,
        images="images/{id}.jpg",
        labels="annotations/trimaps/{id}.png",
        classes=_pet_classes(cfg),
        decode=_pet_values(cfg),
        splits=splits,
    )


def _pet_classes(cfg: PetsData) -> dict[str, Color]:
    classes: dict[str, Color] = {"pet": (128, 0, 0), "background": (0, 0, 0)}
    return classes | {"border": (224, 224, 192)} if cfg.border == "class" else classes


def _pet_values(cfg: PetsData) -> Values:
    return Values(map={1: "pet", 2: "background", 3: "border" if cfg.border == "class" else "ignore"})


def stanford(cfg: StanfordData) -> FolderData:
    return laid_out(
        cfg.model_copy(update={"remap": _full_names(cfg.remap)}),
        images="images/{id}.jpg",
        labels=cfg.labels if "{" in cfg.labels else f"{cfg.labels}/{{id}}.regions.txt",
        classes=STANFORD,
        decode=STANFORD_VALUES,
        splits=cfg.splits,
    )


def _full_names(remap: dict[str, str]) -> dict[str, str]:
    """`remap` of Stanford Background with short names spelled out, except where one is meant as the new name."""
    full = {STANFORD_SHORT.get(name, name): target for name, target in remap.items()}
    if len(full) < len(remap):
        raise InputError(f"data.remap names a class twice, by its long and its short name: {', '.join(remap)}")
    new = {target for name, target in full.items() if STANFORD_SHORT.get(target) == name}
    return {name: target if target in new else STANFORD_SHORT.get(target, target) for name, target in full.items()}


def ade20k(cfg: Ade20kData) -> FolderData:
    return laid_out(
        cfg,
        images="images/{split}/{id}.jpg",
        labels="annotations/{split}/{id}.png",
        classes=ADE20K,
        decode=ADE20K_VALUES,
        splits=FolderSplits(train="training", val="validation"),
    )
