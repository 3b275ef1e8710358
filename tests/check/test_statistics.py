"""Statistics are those of the pixels; weights are the losses' own; a distance says what chance would do."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from terrazzo.base import IGNORE, Classes, Image, Mask, Split
from terrazzo.check.record import Record
from terrazzo.check.scan import scan
from terrazzo.check.statistics import class_weights, jensen_shannon, statistics, suggested_crop
from terrazzo.data.facts import Components, components, counted_ids, moments
from terrazzo.data.folder import FolderData
from terrazzo.data.inventory import inventory
from terrazzo.data.labels import Values
from terrazzo.data.pixels import UNKNOWN
from terrazzo.data.split import RatioSplits
from terrazzo.losses.weights import class_frequencies, median_frequency_weights

CLASSES = Classes.of(["road", "sky", "pole"])
AMOUNTS = arrays(np.float64, 6, elements=st.integers(0, 50).map(float)).filter(lambda amounts: amounts.sum() > 0)


def record(split: Split, name: str, image: Image, mask: Mask) -> Record:
    mean, square = moments(image)
    return Record(
        split, name, f"{name}.jpg", f"{name}.png", (1, 1, 1, 1), size=mask.shape, label_size=mask.shape,
        counts=counted_ids(mask), components=components(mask, range(3)), mean=mean, square=square,
    )  # fmt: skip


def counted(split: Split, counts: Mapping[int, int], color: float = 100) -> Record:
    return Record(
        split, "", "", "", (1, 1, 1, 1), size=(10, 10), counts=dict(counts), mean=(color,) * 3, square=(color**2,) * 3
    )


@pytest.fixture(scope="module")
def pictures() -> list[tuple[Split, Image, Mask]]:
    rng = np.random.default_rng(0)
    made: list[tuple[Split, Image, Mask]] = []
    for n, split in enumerate(["train", "train", "train", "val"]):
        size = (20 + n, 30)
        mask = rng.choice(np.array([0, 1, IGNORE, UNKNOWN], np.uint8), size, p=[0.6, 0.3, 0.05, 0.05])
        if n == 1:
            mask[:2] = 2
        made.append((split, rng.integers(0, 256, (*size, 3), dtype=np.uint8), mask))
    return made


def test_everything_counted_is_what_the_pixels_say(pictures: list[tuple[Split, Image, Mask]]) -> None:
    found = statistics(CLASSES, [record(split, str(n), *each) for n, (split, *each) in enumerate(pictures)])
    assert [each.split for each in found.splits] == ["train", "val"]
    for split in found.splits:
        masks = [mask for each, _, mask in pictures if each == split.split]
        pixels = np.concatenate([mask.reshape(-1) for mask in masks])
        assert split.images == len(masks)
        assert split.labelled == (pixels < 3).sum()
        assert (split.ignored, split.unknown) == ((pixels == IGNORE).sum(), (pixels == UNKNOWN).sum())
        for k, each in enumerate(found.classes):
            assert each.pixels[split.split] == (pixels == k).sum()
            assert each.shares[split.split] == pytest.approx((pixels == k).sum() / (pixels < 3).sum())
            assert each.images[split.split] == sum(bool((mask == k).any()) for mask in masks)
    train = np.concatenate([image.reshape(-1, 3) for split, image, _ in pictures if split == "train"]) / 255
    assert found.mean == pytest.approx(train.mean(0), rel=1e-9)
    assert found.std == pytest.approx(train.std(0), rel=1e-9)
    assert [(size.height, size.width, size.images) for size in found.sizes] == [(20 + n, 30, 1) for n in range(4)]


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_those_of_class_weights_auto(seed: int) -> None:
    rng = np.random.default_rng(seed)
    there = rng.choice(7, 5, replace=False)  # two classes that no image shows
    masks = [rng.choice(np.append(there[: n % 5 + 1], IGNORE), (8, 9)).astype(np.uint8) for n in range(6)]
    counts = np.array([[(mask == k).sum() for k in range(7)] for mask in masks], np.int64)
    expected = median_frequency_weights(class_frequencies(masks, 7))
    torch.testing.assert_close(torch.from_numpy(class_weights(counts)), expected, rtol=1e-12, atol=0)


def test_weights_look_at_the_training_split_alone() -> None:
    train = [counted("train", {0: 90, 1: 10}), counted("train", {0: 100})]
    alone = statistics(CLASSES, train)
    beside = statistics(CLASSES, [*train, counted("val", {1: 1000, 2: 5})])
    assert [each.weight for each in alone.classes] == [each.weight for each in beside.classes]
    assert alone.classes[2].weight == 1
    assert alone.classes[1].weight > 1 > alone.classes[0].weight


@given(AMOUNTS, AMOUNTS, AMOUNTS)
def test_jensen_shannon_is_a_distance(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    def apart(p: np.ndarray, q: np.ndarray) -> float:
        return float(jensen_shannon(p, q))

    assert apart(a, 3 * a) == pytest.approx(0, abs=1e-7)
    assert apart(a, b) == pytest.approx(apart(b, a))
    assert 0 <= apart(a, b) <= 1
    assert apart(a, c) <= apart(a, b) + apart(b, c) + 1e-7
    p, q = a / a.sum(), b / b.sum()
    divergence = sum(  # the definition, as Kullback-Leibler divergences from the middle
        x * np.log2(x / ((y + z) / 2)) / 2
        for pair in ((p, q), (q, p))
        for y, z in zip(*pair, strict=True)
        for x in [y]
        if x
    )
    assert apart(a, b) ** 2 == pytest.approx(divergence, abs=1e-9)


def test_nothing_in_common_is_one() -> None:
    assert jensen_shannon(np.array([1.0, 2, 0]), np.array([0.0, 0, 5])) == 1


def drawn(rng: np.random.Generator, split: Split, images: int, shares: Sequence[float], color: float) -> list[Record]:
    return [
        counted(split, dict(enumerate(rng.multinomial(1000, rng.dirichlet(10 * np.array(shares))).tolist())), each)
        for each in rng.normal(color, 20, images).clip(0, 255)
    ]


def test_a_split_of_its_own_kind_is_notable() -> None:
    rng = np.random.default_rng(0)
    train = drawn(rng, "train", 60, (0.6, 0.3, 0.1), 90)
    (other,) = statistics(CLASSES, [*train, *drawn(rng, "val", 20, (0.3, 0.3, 0.4), 150)]).drift
    assert other.classes is not None
    assert other.colors is not None
    assert other.classes.notable
    assert other.colors.notable


def test_chance_is_exceeded_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(1)
    notable = 0
    for _ in range(100):
        images = drawn(rng, "train", 45, (0.6, 0.3, 0.1), 90) + drawn(rng, "val", 15, (0.6, 0.3, 0.1), 90)
        (alike,) = statistics(CLASSES, images).drift
        assert alike.classes is not None
        notable += alike.classes.notable
    assert 0 < notable <= 12, "about 5 of 100"


def test_nothing_to_compare_is_none() -> None:
    (drift,) = statistics(CLASSES, [counted("train", {0: 5}), counted("val", {IGNORE: 5})]).drift
    assert drift.classes is None
    assert drift.colors is not None
    assert statistics(CLASSES, [counted("val", {0: 5})]).drift == ()


def test_regions_of_a_class() -> None:
    images = [
        Record("train", "", "", "", (1,) * 4, counts={0: 1}, components={0: Components(number, largest, median)})
        for number, largest, median in ((1, 100, 100.0), (3, 50, 10.0), (2, 900, 20.0))
    ]
    road, sky, _ = statistics(CLASSES, images).classes
    assert sky.regions is None
    assert road.regions is not None
    assert (road.regions.number, road.regions.median, road.regions.largest) == (6, 20, 900)
    assert 10 <= road.regions.small < road.regions.median < road.regions.large <= 100


@pytest.mark.parametrize(
    ("sizes", "crop"),
    [
        ([(360, 480)] * 5, (352, 480)),
        ([(1024, 2048)], (512, 512)),
        ([(120, 120), (104, 118), (120, 120)], (128, 128)),
        ([(9, 9)], (32, 32)),
        ([], None),
    ],
)
def test_the_crop_is_the_median_image_within_bounds(sizes: list[tuple[int, int]], crop: tuple[int, int] | None) -> None:
    assert suggested_crop(sizes) == crop


def test_unreadable_files_count_as_images_and_nothing_else() -> None:
    broken = Record("train", "b", "b.jpg", "b.png", (1,) * 4, image_fault="b.jpg: broken", label_fault="b.png: broken")
    found = statistics(CLASSES, [broken])
    assert found.splits[0].images == 1
    assert found.splits[0].labelled == 0
    assert (found.mean, found.std, found.crop, found.sizes, found.drift) == (None, None, None, (), ())
    assert {each.weight for each in found.classes} == {1}
    assert statistics(CLASSES, []).splits == ()


def test_tables_and_json_hold_the_same_numbers(pictures: list[tuple[Split, Image, Mask]]) -> None:
    found = statistics(CLASSES, [record(split, str(n), *each) for n, (split, *each) in enumerate(pictures)])
    plain = json.loads(json.dumps(found.as_dict()))
    tables = {name: list(csv.DictReader(io.StringIO(text))) for name, text in found.tables().items()}
    assert tables.keys() == {"classes.csv", "splits.csv", "sizes.csv"}
    for row, each in zip(tables["classes.csv"], plain["classes"], strict=True):
        assert (int(row["id"]), row["class"], float(row["weight"])) == (each["id"], each["name"], each["weight"])
        for split in ("train", "val"):
            assert int(row[f"pixels_{split}"]) == each["pixels"][split]
            assert float(row[f"share_{split}"]) == each["shares"][split]
            assert int(row[f"images_{split}"]) == each["images"][split]
        for column, key in (("regions", "number"), ("region_median", "median"), ("region_largest", "largest")):
            assert float(row[column]) == each["regions"][key]
    train, val = tables["splits.csv"]
    assert train["drift_classes"] == ""
    assert float(val["drift_classes"]) == plain["drift"][0]["classes"]["value"]
    assert [int(row["images"]) for row in tables["sizes.csv"]] == [1] * 4


def test_white_blood_cells_are_counted_as_their_readme_says(shared_data: Path) -> None:
    names = ["background", "cytoplasm", "nucleus"]
    cfg = FolderData(
        root=shared_data / "wbc", images="images", labels="masks", classes=names,
        decode=Values(map=dict(zip((0, 128, 255), names, strict=True))), splits=RatioSplits(train=1, val=0),
    )  # fmt: skip
    found = statistics(Classes.of(names), scan(cfg, inventory(cfg), cache=None, workers=2))
    assert [each.pixels["train"] for each in found.classes] == [2_884_994, 790_389, 517_177]
    assert found.crop == (128, 128)
    assert found.sizes[0].images > 200
