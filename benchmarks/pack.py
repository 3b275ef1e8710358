"""Random 512x512 crops of 2048x1024 pictures: PNG files against packs, CPU time of one thread.

python benchmarks/pack.py CAMVID      the folder of CamVid (train/*.png, trainannot/*.png)
Target: PNG, as Pillow writes it, takes at least 15 times as long as a pack in zstd.

The pictures are put together from CamVid's own, pixel for pixel. OpenCV's PNGs are larger and faster to read than
Pillow's, and rare among published data sets. All give the same crops. "Cut out" is reading alone; "augmented" is a
training draw with its checks: scale 0.5-2, crop, flip, brightness, contrast, saturation.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import measure
from terrazzo.data.augment import AugmentConfig, augment
from terrazzo.data.draws import Draws
from terrazzo.data.folder import Folder, FolderData
from terrazzo.data.layouts_driving import CamvidData, camvid
from terrazzo.data.packed import Pack, PackedData
from terrazzo.data.packed_tiles import FORMATS
from terrazzo.data.split import RatioSplits
from terrazzo.prepare.packing import write_pack

WIDTH, HEIGHT, CROP, PICTURES, DRAWS = 2048, 1024, 512, 8, 16
ACROSS, DOWN = 5, 3
"""Pictures of 480x360 that cover one of ours."""


Write = Callable[[Path, np.ndarray], object]


def by_pillow(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def by_opencv(path: Path, pixels: np.ndarray) -> None:
    cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)


def write_pictures(source: Folder, root: Path, write: Write) -> FolderData:
    """Mosaics of neighbouring frames, as PNG."""
    for number in range(PICTURES):
        parts = [source[number * 40 + k] for k in range(ACROSS * DOWN)]
        for kind, arrays in (("images", [p.image for p in parts]), ("labels", [p.mask for p in parts])):
            rows = [np.concatenate(arrays[k : k + ACROSS], 1) for k in range(0, len(arrays), ACROSS)]
            path = root / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, np.concatenate(rows)[:HEIGHT, :WIDTH])
    return FolderData(
        root=root,
        images="images",
        labels="labels",
        classes=source.classes.names,
        splits=RatioSplits(train=1, val=0),
    )


def bytes_of(dataset: Folder) -> int:
    return sum(path.stat().st_size for pair in dataset.files for path in pair)


def cut_out(dataset: Folder | Pack) -> Callable[[], object]:
    """Crops at random places."""

    def crops() -> int:
        rng, total = np.random.default_rng(0), 0
        for draw in range(DRAWS):
            read = dataset.lazy if isinstance(dataset, Pack) else dataset.__getitem__
            image, mask, _ = read(draw % PICTURES)
            top, left = int(rng.integers(HEIGHT - CROP + 1)), int(rng.integers(WIDTH - CROP + 1))
            window = slice(top, top + CROP), slice(left, left + CROP)
            total += int(image[window][0, 0, 0]) + int(mask[window][0, 0])
        return total

    return crops


def augmented(dataset: Folder | Pack) -> Callable[[], object]:
    draws = Draws(dataset, partial(augment, cfg=AugmentConfig(crop=CROP)), 0)
    return lambda: sum(int(draws(draw).image[0, 0, 0]) for draw in range(DRAWS))


def main(source: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        frames = Folder(camvid(CamvidData(root=source)), "train")
        cfg = write_pictures(frames, root / "pillow", by_pillow)
        files = Folder(cfg, "train")
        sets: dict[str, Folder | Pack] = {}
        size = bytes_of(files)
        print(f"PNG, Pillow: {size / PICTURES / 1e6:.2f} MB a picture with its labels")
        for format in FORMATS:
            start = time.process_time()
            index = write_pack({"train": files}, cfg, root / format, format=format, tile=128, workers=1)
            spent = time.process_time() - start
            share = index.shard_bytes.sum() / size
            print(f"pack, {format}: {share:.2f} x its size, {spent / PICTURES * 1e3:.0f} ms to make and compare one")
            sets[f"pack, {format}"] = Pack(PackedData(root=root / format), "train")
        sets["PNG, Pillow"] = files
        sets["PNG, OpenCV"] = Folder(write_pictures(frames, root / "opencv", by_opencv), "train")
        print(f"PNG, OpenCV: {bytes_of(sets['PNG, OpenCV']) / size:.2f} x its size")
        for title, make in (("cut out", cut_out), ("augmented", augmented)):
            calls = {name: make(dataset) for name, dataset in sets.items()}
            if len({call() for call in calls.values()}) > 1:
                raise AssertionError("they give different crops")
            times = {name: spent / DRAWS for name, spent in measure.seconds(calls, rounds=7).items()}
            rates = ", ".join(f"{name} {1 / spent:.0f}" for name, spent in times.items())
            measure.report(f"{title}; crops per second: {rates}", times, "pack, zstd")


if __name__ == "__main__":
    measure.one_thread()
    main(Path(sys.argv[1]))
