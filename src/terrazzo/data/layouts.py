"""Public data sets in their original layouts, each one a FolderData. A new one: config, function, `__init__`."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from terrazzo.base import Color, InputError
from terrazzo.data.folder import DataOptions, FolderData
from terrazzo.data.labels import Decoder, Index, Values
from terrazzo.data.split import FolderSplits, ListSplits

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

VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Classes of PASCAL VOC 2012 (Everingham et al., 2010); 255 is the boundary."""


class CamvidData(DataOptions):
    """CamVid as SegNet ships it: train/NAME.png or .jpg, trainannot/NAME.png, likewise val and test; 11 classes."""

    kind: Literal["camvid"] = "camvid"

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        Decoder(CAMVID, Index(ignore=(11,)), self.remap)
        return self


class VocData(DataOptions):
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


class PetsData(DataOptions):
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


def camvid(cfg: CamvidData) -> FolderData:
    return FolderData(
        root=cfg.root,
        workers=cfg.workers,
        limit=cfg.limit,
        remap=cfg.remap,
        images="{split}/{id}.*",
        labels="{split}annot/{id}.png",
        classes=CAMVID,
        decode=Index(ignore=(11,)),
        splits=FolderSplits(train="train", val="val", test="test"),
    )


def voc(cfg: VocData) -> FolderData:
    return FolderData(
        root=cfg.root,
        workers=cfg.workers,
        limit=cfg.limit,
        remap=cfg.remap,
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
    return FolderData(
        root=cfg.root,
        workers=cfg.workers,
        limit=cfg.limit,
        remap=cfg.remap,
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
