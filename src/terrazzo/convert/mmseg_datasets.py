"""MMSegmentation's data set classes: how files end, whether 0 is no class, what the classes are called."""

from typing import NamedTuple

from terrazzo.data.labels import IGNORED
from terrazzo.data.layouts import ADE20K, VOC
from terrazzo.data.layouts_driving import CITYSCAPES

CONTEXT = (
    *("aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building", "bus"),
    *("cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door"),
    *("fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain"),
    *("mouse", "person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign"),
    *(
        "sky",
        "snow",
        "sofa",
        "table",
        "track",
        "train",
        "tree",
        "truck",
        "tvmonitor",
        "wall",
        "water",
        "window",
        "wood",
    ),
)
"""The 59 classes of PASCAL-Context (Mottaghi et al., 2014)."""
AERIAL = ("impervious_surface", "building", "low_vegetation", "tree", "car", "clutter")
"""Classes of the ISPRS benchmarks (Potsdam, Vaihingen)."""
ISAID = (
    *("background", "ship", "store_tank", "baseball_diamond", "tennis_court", "basketball_court"),
    *("Ground_Track_Field", "Bridge", "Large_Vehicle", "Small_Vehicle", "Helicopter", "Swimming_pool", "Roundabout"),
    *("Soccer_ball_field", "plane", "Harbor"),
)
"""Classes of iSAID (Zamir et al., 2019)."""
STREET = tuple(name for name, (category, _) in CITYSCAPES.items() if category != IGNORED)
"""The 19 classes of Cityscapes, in the order of train ids."""
VESSELS = ("background", "vessel")
ORGANS = (
    *("background", "aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach"),
)


class KnownSet(NamedTuple):
    """One class of data sets."""

    image_suffix: str = ".jpg"
    label_suffix: str = ".png"
    reduce_zero: bool = False
    """Value 0 is no class, and 1 is the first."""
    classes: tuple[str, ...] = ()
    """Empty where they are too many to be repeated here, or the config gives them."""


KNOWN: dict[str, KnownSet] = {
    "ADE20KDataset": KnownSet(reduce_zero=True, classes=ADE20K),
    "BDD100KDataset": KnownSet(classes=STREET),
    "BaseSegDataset": KnownSet(),
    "COCOStuffDataset": KnownSet(label_suffix="_labelTrainIds.png"),
    "ChaseDB1Dataset": KnownSet(".png", "_1stHO.png", classes=VESSELS),
    "CityscapesDataset": KnownSet("_leftImg8bit.png", "_gtFine_labelTrainIds.png", classes=STREET),
    "CustomDataset": KnownSet(),
    "DRIVEDataset": KnownSet(".png", "_manual1.png", classes=VESSELS),
    "DarkZurichDataset": KnownSet("_rgb_anon.png", "_gt_labelTrainIds.png", classes=STREET),
    "HRFDataset": KnownSet(".png", classes=VESSELS),
    "ISPRSDataset": KnownSet(".png", reduce_zero=True, classes=AERIAL),
    "LoveDADataset": KnownSet(
        ".png",
        reduce_zero=True,
        classes=("background", "building", "road", "water", "barren", "forest", "agricultural"),
    ),
    "MapillaryDataset_v1": KnownSet(),
    "MapillaryDataset_v2": KnownSet(),
    "NYUDataset": KnownSet(),
    "NightDrivingDataset": KnownSet("_leftImg8bit.png", "_gtCoarse_labelTrainIds.png", classes=STREET),
    "PascalContextDataset": KnownSet(classes=("background", *CONTEXT)),
    "PascalContextDataset59": KnownSet(reduce_zero=True, classes=CONTEXT),
    "PascalVOCDataset": KnownSet(classes=VOC),
    "PotsdamDataset": KnownSet(".png", reduce_zero=True, classes=AERIAL),
    "REFUGEDataset": KnownSet(classes=("background", "Optic Cup", "Optic Disc")),
    "STAREDataset": KnownSet(".png", ".ah.png", classes=VESSELS),
    "SynapseDataset": KnownSet(classes=ORGANS),
    "iSAIDDataset": KnownSet(".png", "_instance_color_RGB.png", classes=ISAID),
}
"""By name of the class; CustomDataset is BaseSegDataset before 1.0."""
