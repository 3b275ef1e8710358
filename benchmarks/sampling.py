"""What the rules of sampling change in 1000 draws of CamVid: pixels and crops of each class, and the time of a draw.

python benchmarks/sampling.py FOLDER        CamVid in the layout of data.kind=camvid (train/, trainannot/, ...)
Crops at scales 0.5 to 2, as by default. All columns but the first three are ratios to uniform sampling.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import measure
from terrazzo.base import Dataset
from terrazzo.data import CamvidData, build_dataset
from terrazzo.data.augment import AugmentConfig, augment
from terrazzo.data.draws import Draws
from terrazzo.data.sampling import ClassIndex, Foreground, RareClasses, build_sampler, index_masks

DRAWS, TIMED, SEED = 1000, 40, 0
CROPS = (256, 128)
"""Of images of 480x360: the larger one sees most of an image at scale 0.5, the smaller is what 512 is to 2048x1024."""
STUFF = ("Sky", "Building", "Road", "Pavement", "Tree")
RULES = {
    "rare_classes": RareClasses(),
    "rare_classes, share 1": RareClasses(share=1),
    "rare_classes, temperature 0.1": RareClasses(temperature=0.1),
    "foreground": Foreground(background=STUFF),
    "foreground, share 1": Foreground(background=STUFF, share=1),
}


class Seen(NamedTuple):
    """In DRAWS crops, [K] each."""

    pixels: NDArray[np.float64]
    """Share of the counted pixels."""
    crops: NDArray[np.int64]
    """Crops that show the class."""


def draws_of(dataset: Dataset, index: ClassIndex, rule: RareClasses | Foreground | None, crop: int) -> Draws:
    sampler = None if rule is None else build_sampler(rule, index, SEED)
    return Draws(dataset, partial(augment, cfg=AugmentConfig(crop=crop)), SEED, sampler)


def seen(draws: Draws) -> Seen:
    classes = len(draws.dataset.classes)
    counts = np.array([np.bincount(draws(k).mask.reshape(-1), minlength=256)[:classes] for k in range(DRAWS)])
    return Seen(counts.sum(0) / counts.sum(), (counts > 0).sum(0))


def first(draws: Draws) -> None:
    for draw in range(TIMED):
        draws(draw)


def table(dataset: Dataset, index: ClassIndex, uniform: Seen, found: dict[str, Seen]) -> None:
    heads = "".join(f"  {f'rule {number}':>6s} {'crops':>6s}" for number in range(1, 1 + len(found)))
    print(f"{'class':12s} {'data':>7s} {'uniform':>8s} {'crops':>6s}{heads}")
    for k in np.argsort(index.frequencies()).tolist():
        by = ((each.pixels[k] / uniform.pixels[k], each.crops[k] / uniform.crops[k]) for each in found.values())
        ratios = (f"{pixels:6.2f} {crops:6.2f}" for pixels, crops in by)
        shares = f"{index.frequencies()[k]:7.2%} {uniform.pixels[k]:8.2%} {uniform.crops[k]:6d}"
        print(f"{dataset.classes.names[k]:12s} {shares}  {'  '.join(ratios)}")


def main(root: Path) -> None:
    dataset = build_dataset(CamvidData(root=root), "train")
    start = time.process_time()
    index = index_masks(dataset, workers=0)
    each = (time.process_time() - start) / len(dataset)
    print(f"index of {len(dataset)} labels: {each * 1e3:.2f} ms each, once in the life of a run")
    for number, name in enumerate(RULES, 1):
        print(f"rule {number}: {name}")
    for crop in CROPS:
        draws = {"uniform": draws_of(dataset, index, None, crop)}
        draws |= {name: draws_of(dataset, index, rule, crop) for name, rule in RULES.items()}
        found = {name: seen(each) for name, each in draws.items()}
        print(f"crops of {crop}x{crop}: share of pixels, and crops that show the class")
        table(dataset, index, found.pop("uniform"), found)
        calls = {name: partial(first, each) for name, each in draws.items()}
        measure.report(f"{TIMED} draws", measure.seconds(calls, rounds=5), "uniform")


if __name__ == "__main__":
    measure.one_thread()
    main(Path(sys.argv[1]))
