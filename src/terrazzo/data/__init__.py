"""Where samples come from. A new public data set goes to layouts*.py, another kind of source gets a file of its own."""

from typing import Annotated, Literal, Self, assert_never

from pydantic import Field, model_validator

from terrazzo.base import Dataset, InputError, Split
from terrazzo.data.folder import DataOptions, Folder, FolderData
from terrazzo.data.layouts import Ade20kData, PetsData, StanfordData, VocData, ade20k, pets, stanford, voc
from terrazzo.data.layouts_driving import (
    CamvidData,
    CityscapesData,
    IddData,
    IddLiteData,
    camvid,
    cityscapes,
    idd,
    idd_lite,
)
from terrazzo.data.packed import Pack, PackedData, packed_splits
from terrazzo.data.split import splits_of


class OwnData(DataOptions):
    """Dataset objects passed from Python: `terrazzo.train(config, train_set=..., val_set=...)`."""

    kind: Literal["own"] = "own"

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        if self.limit is not None or self.root != DataOptions.model_fields["root"].default:
            raise InputError(
                "data.kind=own takes the dataset objects as they are: data.root and data.limit change nothing"
            )
        return self


DataConfig = Annotated[
    FolderData
    | CamvidData
    | CityscapesData
    | IddData
    | IddLiteData
    | Ade20kData
    | StanfordData
    | VocData
    | PetsData
    | PackedData
    | OwnData,
    Field(discriminator="kind"),
]


def build_dataset(cfg: DataConfig, split: Split) -> Dataset:
    """One split of the data.

    Raises:
        InputError: there is no such split, its files do not fit together, or `kind` is own.
    """
    if isinstance(cfg, PackedData):
        return Pack(cfg, split)
    folder = as_folder(cfg)
    if folder is None:
        raise InputError(
            "data.kind is own: pass the dataset objects from Python, terrazzo.train(config, train_set=..., val_set=...)"
        )
    return Folder(folder, split)


def available_splits(cfg: DataConfig) -> tuple[Split, ...]:
    """The splits that `build_dataset` can build and that have labels to be scored with; none for `kind: own`."""
    if isinstance(cfg, PackedData):
        return packed_splits(cfg)
    folder = as_folder(cfg)
    if folder is None:
        return ()
    dummies = isinstance(cfg, CityscapesData) and cfg.val_fraction is None
    return tuple(split for split in splits_of(folder.splits) if not (dummies and split == "test"))


def as_folder(cfg: DataConfig) -> FolderData | None:
    """Every source of image and label files as the one general layout; None for objects from Python and for packs."""
    match cfg:
        case FolderData():
            return cfg
        case CamvidData():
            return camvid(cfg)
        case CityscapesData():
            return cityscapes(cfg)
        case IddData():
            return idd(cfg)
        case IddLiteData():
            return idd_lite(cfg)
        case Ade20kData():
            return ade20k(cfg)
        case StanfordData():
            return stanford(cfg)
        case VocData():
            return voc(cfg)
        case PetsData():
            return pets(cfg)
        case PackedData() | OwnData():
            return None
        case _:
            assert_never(cfg)
