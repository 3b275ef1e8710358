"""Under which licences the published weights stand, and what the makers of their training images allow.

What the makers' own pages say, in short; no legal advice, and only they can tell what binds you.
"""

import re
from typing import NamedTuple


class Licence(NamedTuple):
    """Of weights."""

    name: str
    commercial: bool
    """Whether it allows commercial use."""
    why: str
    """Whose licence it is, and why it counts here."""


class DatasetTerms(NamedTuple):
    """Of images and labels; they may bind weights that were trained on them."""

    text: str
    commercial: bool | None
    """Whether the makers allow commercial use of the data; None where they do not say, or images differ."""


MMSEGMENTATION = Licence("Apache-2.0", True, "of MMSegmentation, which trained and published the weights")

NVIDIA = Licence(
    "NVIDIA Source Code License for SegFormer",
    False,
    "of SegFormer's authors, from whose MiT weights the training started: for research and evaluation only",
)

STARTED_FROM: dict[str, Licence] = {
    "segformer": NVIDIA,
    "mae": Licence(
        "CC-BY-NC-4.0", False, "of MAE's authors, from whose weights the training started: not for commercial use"
    ),
    "vpd": Licence(
        "CreativeML Open RAIL-M", True, "of Stable Diffusion, which the training started from: with limits on the use"
    ),
    "segnext": Licence(
        "Apache-2.0",
        True,
        "of SegNeXt's authors and MMSegmentation; the authors ask to be written to for commercial use",
    ),
    **dict.fromkeys(
        ("beit", "convnext", "swin"),
        Licence("MIT and Apache-2.0", True, "of the encoder's authors, whose weights the training started from"),
    ),
    **dict.fromkeys(
        ("hrnet", "stdc", "ddrnet", "pidnet", "san"),
        Licence("MIT and Apache-2.0", True, "of the authors, whose weights the training started from"),
    ),
}
"""Families whose training started from weights under another licence than MMSegmentation's own; by config folder."""

GATED = {
    "dinov3": Licence(
        "DINOv3 License",
        True,
        "of Meta: the files are given after one has agreed to it on the hub (then: `hf auth login`), and it goes on "
        "with every copy",
    )
}
"""Weights of the Hugging Face hub that ask for an agreement first, by a part of the name."""

FREE = frozenset({"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0"})
NON_COMMERCIAL = frozenset(
    {"cc-by-nc-4.0", "fair-noncommercial-research-license", "seer-license", "apple-amlr", NVIDIA.name}
)
"""What libraries call the licences of their weights, where that settles commercial use; others have to be read."""

FLICKR = "images of Flickr, each under the terms of its owner"
RESEARCH = "for research only"

TERMS: dict[str, DatasetTerms] = {
    "Cityscapes": DatasetTerms(
        "for non-commercial purposes; neither the data nor what derives from it may be used commercially", False
    ),
    "ADE20K": DatasetTerms("images for non-commercial research and education only", False),
    "Pascal VOC 2012 + Aug": DatasetTerms(FLICKR, None),
    "Pascal Context": DatasetTerms(FLICKR, None),
    "Pascal Context 59": DatasetTerms(FLICKR, None),
    "COCO-Stuff 10k": DatasetTerms(f"{FLICKR}; labels under CC BY 4.0", None),
    "COCO-Stuff 164k": DatasetTerms(f"{FLICKR}; labels under CC BY 4.0", None),
    "LoveDA": DatasetTerms("CC BY-NC-SA 4.0: not for commercial use", False),
    "iSAID": DatasetTerms("images of DOTA, for academic purposes only", False),
    "Potsdam": DatasetTerms(f"of the ISPRS, {RESEARCH}", False),
    "Vaihingen": DatasetTerms(f"of the ISPRS, {RESEARCH}", False),
    "Mapillary Vistas v1.2": DatasetTerms("research edition, CC BY-NC-SA 4.0: not for commercial use", False),
}
"""As far as the makers' pages say it plainly."""

UNKNOWN = DatasetTerms("ask the data set's makers", None)


def licence_of(family: str) -> Licence:
    """The licence of the weights of a config folder's networks."""
    return STARTED_FROM.get(family, MMSEGMENTATION)


def dataset_terms(dataset: str) -> DatasetTerms:
    """What the makers of the training images allow."""
    return TERMS.get(dataset, UNKNOWN)


def encoder_licence(name: str) -> Licence | None:
    """What a name alone tells about the weights of an encoder that libraries offer; None for nothing."""
    if re.search(r"(^|[^a-z])mit[_-]b\d|nvidia/segformer", name.lower()):
        return NVIDIA
    return gated(name)


def gated(name: str) -> Licence | None:
    """The agreement that the hub asks for before it gives weights of this name."""
    return next((licence for part, licence in GATED.items() if part in name.lower()), None)
