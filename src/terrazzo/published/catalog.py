"""What MMSegmentation published: 617 trained networks, their files, scores and licences. Data only, no torch."""

import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath

from terrazzo.published.licences import DatasetTerms, Licence, dataset_terms, licence_of


@dataclass(frozen=True)
class Entry:
    """One published network."""

    name: str
    """The config's name in MMSegmentation 1.x; unique."""
    family: str
    """The folder of its config: `segformer`, `hrnet`, ..."""
    weights_file: str
    """As published; ends with `-` and the first 8 hex digits of the file's SHA-256."""
    weights_dir: tuple[str, ...]
    """Folders above the file, below `address()`."""
    dataset: str
    """What it was trained on and scored with."""
    miou: float | None
    """Published mIoU in percent; None where another score is published (`dice`), or none."""
    miou_tta: float | None
    """The same with several scales and flips."""
    dice: float | None
    """Published mean Dice in percent, of the vessel data sets."""
    memory_gb: float | None
    """Of one device in training, as published."""

    @property
    def config(self) -> str:
        """Path of the config in MMSegmentation."""
        return f"configs/{self.family}/{self.name}.py"

    @property
    def path(self) -> str:
        """Path of the file below `address()`."""
        return "/".join((*self.weights_dir, self.weights_file))

    @property
    def digest(self) -> str:
        """First 8 hex digits of the file's SHA-256, which end its name."""
        return PurePosixPath(self.weights_file).stem.rpartition("-")[2]

    @property
    def licence(self) -> str:
        """Of the weights: `Apache-2.0`, ... See `licences.py` for what it rests on."""
        return self.terms.name

    @property
    def commercial(self) -> bool:
        """Whether that licence allows commercial use; what the training images allow stands in `dataset_terms`."""
        return self.terms.commercial

    @property
    def terms(self) -> Licence:
        """The licence, and why it counts."""
        return licence_of(self.family)

    @property
    def dataset_terms(self) -> DatasetTerms:
        """What the makers of the training images allow."""
        return dataset_terms(self.dataset)


@cache
def _table() -> tuple[str, tuple[Entry, ...]]:
    text = files("terrazzo.published").joinpath("mmseg_zoo.json").read_text(encoding="utf-8")
    table = json.loads(text)
    found = []
    for cells in table["rows"]:
        row = dict(zip(table["columns"], cells, strict=True))
        *folders, file = row.pop("weights").split("/")
        found.append(Entry(**row, weights_file=file, weights_dir=tuple(folders)))
    return table["address"], tuple(found)


def address() -> str:
    """Where the files are published."""
    return _table()[0]


def entries() -> tuple[Entry, ...]:
    """All of them, families together."""
    return _table()[1]


@cache
def _by_name() -> dict[str, Entry]:
    """Every way to name an entry, in small letters: old config names first, so that nothing takes a newer name."""
    names: dict[str, Entry] = {}
    for entry in entries():
        old = entry.weights_dir[-1]
        if entry.weights_file.startswith(f"{old}_20"):
            names[old.lower()] = entry
    for entry in entries():
        names[PurePosixPath(entry.weights_file).stem.lower()] = entry
    for entry in entries():
        names[entry.name.lower()] = entry
    return names


def find_entry(given: str) -> Entry | None:
    """The entry of a config's name (1.x; 0.x as far as the files' folders tell), or of a weights file's name.

    Capitals do not matter, nor the endings .py and .pth.
    """
    return _by_name().get(given.lower().removesuffix(".py").removesuffix(".pth"))


def close_names(given: str, count: int = 3) -> list[str]:
    """Names of entries that look like `given`, for an error's "did you mean"."""
    wanted = given.lower()
    inside = [entry.name for entry in entries() if wanted and wanted in entry.name.lower()]
    return inside[:count] or [
        _by_name()[name].name for name in get_close_matches(wanted, list(_by_name()), n=count, cutoff=0.6)
    ]
