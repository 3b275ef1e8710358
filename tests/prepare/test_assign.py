"""Sharing out: nothing is lost or torn apart, shares and classes come out as asked, and chance has a seed."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from terrazzo.base import IGNORE, InputError, Split
from terrazzo.check.record import Record
from terrazzo.check.similarity import likeness
from terrazzo.prepare.assign import assign, checked_shares, group_names, joined
from terrazzo.prepare.stratify import deviation, share_out

BOTH: dict[Split, float] = {"train": 0.8, "val": 0.2}


def record(
    name: str, shown: dict[int, int] | None = None, *, digest: str | None = None, split: Split = "train"
) -> Record:
    """One image `name`.jpg of these pixels per class."""
    label = f"labels/{name}.png"
    return Record(split, name, f"{name}.jpg", label, (1, 1, 1, 1), counts=shown or {0: 9}, digest=digest or name)


def placed(assigned) -> dict[str, str]:
    return {pair.name: split for split, pairs in assigned.pairs.items() for pair in pairs}


# --- sharing out groups -----------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.booleans(), min_size=3, max_size=3)), min_size=3, max_size=30),
    st.sampled_from([(0.8, 0.2), (0.5, 0.5), (0.7, 0.15, 0.15), (0.98, 0.01, 0.01), (1.0,)]),
    st.integers(0, 5),
)
def test_every_group_has_one_split_and_every_split_a_group(groups, shares, seed):
    sizes = np.array([size for size, _ in groups])
    present = np.array([np.multiply(shown, size) for size, shown in groups])
    chosen = share_out(sizes, present, 9 * present, np.array(shares), seed)
    assert chosen.shape == sizes.shape
    assert set(chosen.tolist()) == set(range(len(shares)))
    assert (chosen == share_out(sizes, present, 9 * present, np.array(shares), seed)).all()


def test_without_classes_images_are_shared_out_to_the_very_number():
    ones, none = np.ones(101, np.int64), np.zeros((101, 0), np.int64)
    chosen = share_out(ones, none, none, np.array([0.7, 0.2, 0.1]), seed=0)
    assert np.bincount(chosen).tolist() == [71, 20, 10]
    assert (chosen != share_out(ones, none, none, np.array([0.7, 0.2, 0.1]), seed=1)).any()


def test_rare_classes_first():
    """Class 1 is in 4 of 20 images, class 2 in 2 others: halves must get 2 and 1 of them."""
    present = np.ones((20, 3), np.int64)
    present[4:, 1] = 0
    present[:4, 2] = present[6:, 2] = 0
    for seed in range(10):
        chosen = share_out(np.ones(20, np.int64), present, present, np.array([0.5, 0.5]), seed)
        assert [present[chosen == k].sum(0).tolist() for k in (0, 1)] == [[10, 2, 1]] * 2


def weights(*columns: np.ndarray) -> np.ndarray:
    together = np.concatenate(columns, axis=1)
    return together[:, together.any(0)] / together.sum(0)[together.any(0)]


def test_few_ways_of_sharing_out_are_better():
    """Of the 254 ways to give 8 groups to 2 splits, hardly any comes nearer to the shares."""
    shares = np.array([0.75, 0.25])
    ways = [np.array(way) for way in product(range(2), repeat=8) if len(set(way)) == 2]
    better = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 12, 8)
        present = rng.binomial(sizes[:, None], rng.random(4) ** 2, (8, 4))
        pixels = present * rng.integers(1, 999, (8, 4))
        table = weights(sizes[:, None], present, pixels)
        found = np.array([deviation(way, table, shares) for way in ways])
        chosen = deviation(share_out(sizes, present, pixels, shares, seed), table, shares)
        better.append((found < chosen - 1e-9).mean())
    assert np.mean(better) < 0.01


def test_more_attempts_come_nearer(monkeypatch):
    """Sixty drives of 1 to 59 images: too many for every exchange to be tried."""
    rng = np.random.default_rng(0)
    sizes, shares = rng.integers(1, 60, 60), np.array([0.8, 0.2])
    present = rng.binomial(sizes[:, None], rng.random(15) ** 2 * rng.random((60, 15)))
    table = weights(sizes[:, None], present, present)

    def mean() -> float:
        found = [share_out(sizes, present, present, shares, seed) for seed in range(5)]
        return float(np.mean([deviation(chosen, table, shares) for chosen in found]))

    ours = mean()
    monkeypatch.setattr("terrazzo.prepare.stratify.TRIES", 1)
    assert ours < 0.7 * mean()


def test_real_classes_get_their_share(shared_data: Path):
    """VOC: 21 classes, most of them rare. Stratified, they are nearer to their shares than by chance, the rare ones
    too: within two images."""
    files = sorted((shared_data / "voc-person/SegmentationClass").glob("*.png"))
    pixels = np.array([np.bincount(np.asarray(Image.open(file)).reshape(-1), minlength=256)[:21] for file in files])
    present, ones, shares = (pixels > 0).astype(int), np.ones(len(files), np.int64), np.array([0.8, 0.2])
    table, none = weights(ones[:, None], present), present[:, :0]
    ours = [deviation(share_out(ones, present, pixels, shares, seed), table, shares) for seed in range(5)]
    chance = [deviation(share_out(ones, none, none, shares, seed), table, shares) for seed in range(20)]
    assert max(ours) < min(chance) / 2
    in_val, everywhere = present[share_out(ones, present, pixels, shares, 0) == 1].sum(0), present.sum(0)
    assert (in_val[everywhere >= 5] > 0).all()
    assert (np.abs(in_val - everywhere * 0.2) < 2).all()


# --- what stays together ----------------------------------------------------------------------------------------------


def test_group_names():
    names = ["a/drive1_0001", "a/drive1_0002", "b/drive2_0001"]
    assert group_names(names, "image") == names
    assert group_names(names, "folder") == ["a", "a", "b"]
    assert group_names(names, r"(drive\d+)") == ["drive1", "drive1", "drive2"]
    assert group_names(names, r"^(\w)/.*_(\d+)") == ["a\n0001", "a\n0002", "b\n0001"]
    assert group_names(["1x", "y2"], r"(\d)x|y(\d)") == ["1\n", "\n2"]


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("folders(", r"neither image nor folder, and no pattern \(missing \)"),
        (r"drive\d+", "no parentheses"),
        (r"(tile\d)", r"not found in 1 of 2 names, for example 'other'"),
    ],
)
def test_patterns_that_cannot_group(by, message):
    with pytest.raises(InputError, match=message):
        group_names(["tile1/a", "other"], by)


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=12), st.data())
def test_joined_is_the_transitive_closure(groups, data):
    places = st.integers(0, len(groups) - 1)
    copies = data.draw(st.lists(st.tuples(places, places), max_size=4))
    linked = np.array([[a == b for b in groups] for a in groups])
    for a, b in copies:
        linked[a, b] = linked[b, a] = True
    reach = np.linalg.matrix_power(linked.astype(float), len(groups)) > 0
    numbers = np.array(joined(groups, copies))
    assert ((numbers[:, None] == numbers) == reach).all()


def test_groups_and_copies_are_never_torn_apart():
    """Ten drives of ten frames; frames of drives 0, 1 and 2 show one picture, so these drives are one group."""
    records = [record(f"drive{d}/{frame}", {0: 5, d % 3: 5}) for d in range(10) for frame in range(10)]
    records += [record(f"drive{d}/same", digest="one picture") for d in range(3)]
    for seed in range(6):
        assigned = assign(records, "abc", {"train": 0.6, "val": 0.2, "test": 0.2}, by="folder", seed=seed)
        found = placed(assigned)
        homes = [{split for name, split in found.items() if name.startswith(f"drive{d}/")} for d in range(10)]
        assert [len(home) for home in homes] == [1] * 10
        assert homes[0] == homes[1] == homes[2]
        assert assigned.copies == (("drive0/same", "drive1/same", "drive2/same"),)
        assert sum(assigned.groups.values()) == 8


def test_nearly_equal_pictures_stay_together(shared_data: Path):
    """A photograph and the same one saved again as a poor JPEG: other pixels, one picture."""
    files = sorted((shared_data / "pets-mini/images").glob("*.jpg"))[:12]
    pictures = [Image.open(file).convert("RGB") for file in files]
    smaller = pictures[3].resize((pictures[3].width // 2, pictures[3].height // 2))
    looks = [likeness(np.asarray(picture)) for picture in [*pictures, smaller]]
    names = [file.stem for file in files] + ["again"]
    records = [
        Record("train", name, f"{name}.jpg", f"{name}.png", (1, 1, 1, 1), counts={0: 1}, digest=name, likeness=look)
        for name, look in zip(names, looks, strict=True)
    ]
    for seed in range(5):
        assigned = assign(records, ["pet"], {"train": 0.5, "val": 0.5}, seed=seed)
        assert assigned.copies == ((names[3], "again"),) or assigned.copies == (("again", names[3]),)
        assert placed(assigned)["again"] == placed(assigned)[names[3]]


# --- the whole --------------------------------------------------------------------------------------------------------


def test_the_order_of_files_and_the_splits_they_are_in_do_not_count():
    rng = np.random.default_rng(0)
    records = [
        record(f"i{k}", {0: 3} | ({1: 2} if k % 7 == 0 else {}), split=("train", "val")[k % 2]) for k in range(50)
    ]
    first = assign(records, ["a", "b"], BOTH)
    for _ in range(3):
        assert assign([records[k] for k in rng.permutation(50)], ["a", "b"], BOTH) == first
    assert {split: len(pairs) for split, pairs in first.pairs.items()} == {"train": 40, "val": 10}
    assert all(list(pairs) == sorted(pairs) for pairs in first.pairs.values())
    assert placed(assign(records, ["a", "b"], BOTH, seed=1)) != placed(first)


def test_the_table_counts_images_and_labelled_pixels():
    records = [record(f"i{k}", {0: 30, 1: 10, IGNORE: 999} if k < 5 else {0: 10}) for k in range(10)]
    assigned = assign(records, ["road", "car"], {"train": 0.8, "val": 0.2})
    car, road = assigned.table[1], assigned.table[0]
    assert road.images == {"train": 8, "val": 2}
    assert car.images == {"train": 4, "val": 1}
    assert car.share == {"train": pytest.approx(40 / 200), "val": pytest.approx(10 / 50)}
    assert assigned.rows()[0] == ["class", "train_images", "val_images", "train_share", "val_share"]
    assert assigned.rows()[2] == ["car", "4", "1", "0.200000", "0.200000"]
    assert "train: 8 images in 8 groups" in str(assigned)


def test_a_class_that_a_split_lacks_is_named():
    records = [record(f"i{k}", {0: 1} | ({1: 1} if k == 3 else {})) for k in range(10)]
    (note,) = assign(records, ["road", "tram"], BOTH).notes
    assert note == "no image of val shows 'tram' (1 in train)"


def test_folders_are_pointed_out():
    records = [record(f"tile{k // 5}/{k}") for k in range(20)]
    (note,) = assign(records, ["a"], BOTH).notes
    assert "the images lie in 4 folders" in note
    assert not assign(records, ["a"], BOTH, by="folder").notes


def test_kept_splits_stay_and_what_belongs_to_them_is_left_out():
    records = [
        record(f"drive{d}/{k}", split="test" if (d, k) == (4, 0) else "train") for d in range(5) for k in range(4)
    ]
    records.append(record("drive0/copy", digest="drive4/0"))
    alone = assign(records, ["a"], BOTH, keep=["test"])
    assert [pair.name for pair in alone.pairs["test"]] == ["drive4/0"]
    assert alone.left_out == ("drive0/copy",)
    drives = assign(records, ["a"], {"train": 0.5, "val": 0.5}, by="folder", keep=["test"])
    assert set(drives.left_out) == {
        *(f"drive4/{k}" for k in (1, 2, 3)),
        *(f"drive0/{k}" for k in range(4)),
        "drive0/copy",
    }
    assert sorted(len(pairs) for pairs in drives.pairs.values()) == [1, 4, 8]
    assert any("8 images are in no list" in note for note in drives.notes)


def test_a_file_in_two_splits_counts_once():
    twice = [record("a"), record("a", split="val"), record("b"), record("c", split="val")]
    assert sorted(placed(assign(twice, ["x"], {"train": 0.5, "val": 0.5}))) == ["a", "b", "c"]
    kept = assign(twice, ["x"], {"train": 1.0}, keep=["val"])
    assert placed(kept) == {"a": "val", "b": "train", "c": "val"}


def test_too_few_groups():
    records = [record(f"one/{k}") for k in range(9)]
    with pytest.raises(InputError, match=r"9 images form 1 groups .*by=folder.*train, val need at least one each"):
        assign(records, ["a"], BOTH, by="folder")


@pytest.mark.parametrize(
    ("shares", "keep", "message"),
    [
        ({"train": 0.8, "val": 0.3}, (), "train 0.8, val 0.3; they must be above 0 and add up to 1"),
        ({"train": 1.2, "val": -0.2}, (), "must be above 0"),
        ({}, (), "the shares are nothing"),
        ({"train": float("nan")}, (), "must be above 0"),
        ({"val": 1.0}, (), "nothing is left to train on"),
        ({"train": 0.8, "test": 0.2}, ("test",), "test is kept as it is"),
    ],
)
def test_shares_that_are_none(shares, keep, message):
    with pytest.raises(InputError, match=message):
        checked_shares(shares, keep)


def test_shares_of_zero_make_no_split():
    assert checked_shares({"train": 0.9, "val": 0.1, "test": 0.0}) == {"train": 0.9, "val": 0.1}
    assert checked_shares({"val": 1.0}, keep=["train"]) == {"val": 1.0}
