"""Sampling: what is drawn follows the rule that is stated, crops contain their focus, and nothing else has a say."""

import pickle
from contextlib import closing
from itertools import islice
from math import exp
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from loader_sets import Noise, crop
from PIL import Image
from rich.console import Console

import terrazzo
from terrazzo.base import IGNORE, Classes, InputError, Sample
from terrazzo.commands.lengths import Lengths
from terrazzo.commands.sets import build_sets
from terrazzo.commands.start import CLASS_INDEX, Job, feed_from
from terrazzo.config import config_of
from terrazzo.data import CamvidData, build_dataset
from terrazzo.data.augment import AugmentConfig, augment
from terrazzo.data.draws import Draws
from terrazzo.data.geometry import Warp
from terrazzo.data.loader import batches, epoch_order
from terrazzo.data.sampling import (
    ClassIndex,
    Foreground,
    RareClasses,
    build_sampler,
    check_names,
    class_chances,
    index_masks,
)
from terrazzo.engine.rundir import RunDir
from terrazzo.engine.world import World


class Made:
    """Given masks below black images."""

    def __init__(self, masks: list[np.ndarray], classes: int = 4):
        self.masks, self.classes = masks, Classes.of(tuple("abcdefgh"[:classes]))
        self.names = tuple(f"m{k}" for k in range(len(masks)))

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int, /) -> Sample:
        mask = self.masks[index]
        return Sample(np.zeros((*mask.shape, 3), np.uint8), mask, self.names[index])


def fields(*shares: tuple[int, ...]) -> Made:
    """One mask for each tuple: so many pixels of class 0, 1, ... in a row of 100, the rest is ignored."""
    masks = []
    for each in shares:
        row = np.full(100, IGNORE, np.uint8)
        row[: sum(each)] = np.repeat(np.arange(len(each)), np.array(each, int))
        masks.append(row.reshape(10, 10))
    return Made(masks)


ROAD_SCENES = fields((80, 20), (70, 25, 5), (90, 8, 1, 1), (60, 40), (0, 95, 5), (100,))


def drawn(
    dataset: Made, rule: RareClasses | Foreground, count: int, seed: int = 0
) -> list[tuple[int, int, int | None]]:
    """Item whose turn it was, item drawn, class of the focus."""
    sampler = build_sampler(rule, index_masks(dataset), seed)
    found = []
    for draw in range(count):
        turn = draw % len(dataset)
        item, focus = sampler(draw, turn)
        found.append((turn, item, None if focus is None else int(dataset.masks[item][focus])))
    return found


def near(found: int, chance: float, count: int) -> bool:
    """Within 5 standard deviations of a binomial distribution."""
    return abs(found - chance * count) <= 5 * (count * chance * (1 - chance)) ** 0.5 + 1e-9


# --- what the labels show ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=5),
    workers=st.sampled_from([0, 3]),
    seed=st.integers(0, 99),
)
def test_the_index_is_what_brute_force_counts(sizes, workers, seed):
    rng = np.random.default_rng(seed)
    dataset = Made([rng.choice([0, 1, 3, IGNORE], size, p=[0.9, 0.02, 0.03, 0.05]).astype(np.uint8) for size in sizes])
    told: list[tuple[int, int]] = []
    index = index_masks(dataset, workers=workers, progress=lambda done, total: told.append((done, total)))
    assert told == [(k + 1, len(sizes)) for k in range(len(sizes))]
    expected = [(n, k, int((mask == k).sum())) for n, mask in enumerate(dataset.masks) for k in range(4)]
    entries = list(zip(index.items.tolist(), index.ids.tolist(), index.pixels.tolist(), strict=True))
    assert entries == [each for each in expected if each[2]]
    for entry, (item, k, pixels) in enumerate(entries):
        assert entry in index.entries_of(item)
        first = int(index.ends[entry - 1]) if entry else 0
        places = {*map(tuple, index.positions[first : index.ends[entry]].tolist())}
        assert {dataset.masks[item][place] for place in places} == {k}
        assert len(places) == pixels if pixels <= 32 else len(places) > 15
        assert {index.position(entry, np.random.default_rng(n)) for n in range(40)} <= places


def test_the_index_is_kept_and_knows_whose_it_is(tmp_path):
    index = index_masks(ROAD_SCENES)
    index.write(tmp_path / "run" / "index.npz")
    again = ClassIndex.read(tmp_path / "run" / "index.npz")
    for key, value in vars(index).items():
        assert np.array_equal(value, getattr(again, key)), key
    assert [*tmp_path.glob("run/*")] == [tmp_path / "run" / "index.npz"]
    assert again.fits(ROAD_SCENES)
    fewer, renamed = Made(ROAD_SCENES.masks[:-1]), Made(ROAD_SCENES.masks, classes=5)
    assert not again.fits(fewer)
    assert not again.fits(renamed)


# --- the rules --------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(pixels=st.lists(st.integers(0, 10**6), min_size=1, max_size=20), temperature=st.floats(0.01, 10))
def test_class_chances_are_the_published_formula(pixels, temperature):
    assume(sum(pixels))
    frequencies = np.array(pixels) / sum(pixels)
    found = class_chances(frequencies, temperature)
    weights = [exp((1 - f) / temperature) if f else 0 for f in frequencies.tolist()]
    assert np.allclose(found, np.array(weights) / sum(weights), rtol=1e-6)


def test_class_chances_survive_a_temperature_that_no_exponential_does():
    assert class_chances(np.array([0.9, 0.1, 0]), 1e-6).tolist() == [0, 1, 0]


def test_classes_are_drawn_as_often_as_the_formula_says_and_their_images_evenly():
    rule, count = RareClasses(share=1, temperature=0.3), 4000
    found = drawn(ROAD_SCENES, rule, count)
    pixels = np.array([400, 188, 11, 1])
    for k, chance in enumerate(class_chances(pixels / pixels.sum(), 0.3)):
        items = [item for _, item, shown in found if shown == k]
        assert near(len(items), chance, count)
        showing = [n for n, mask in enumerate(ROAD_SCENES.masks) if (mask == k).any()]
        assert {*items} == {*showing}
        assert all(near(items.count(n), 1 / len(showing), len(items)) for n in showing)


@pytest.mark.parametrize("share", [0.2, 0.5, 1])
@pytest.mark.parametrize("kind", [RareClasses, Foreground])
def test_the_share_of_draws_is_the_one_asked_for(kind, share):
    found = drawn(ROAD_SCENES, kind(share=share), 2000)
    assert near(sum(shown is not None for *_, shown in found), share, 2000)
    assert all(item == turn for turn, item, shown in found if shown is None), "the others are those whose turn it is"


def test_foreground_keeps_the_order_and_draws_the_classes_of_an_image_evenly():
    rule = Foreground(share=1, background=("a",))
    found = drawn(ROAD_SCENES, rule, 6000)
    assert all(item == turn for turn, item, _ in found)
    for n, mask in enumerate(ROAD_SCENES.masks):
        shown = [k for _, item, k in found if item == n]
        classes = [k for k in np.unique(mask).tolist() if k not in (0, IGNORE)]
        assert {*shown} == ({*classes} or {None})
        assert all(near(shown.count(k), 1 / len(classes), 1000) for k in classes)


@pytest.mark.parametrize("rule", [RareClasses(), Foreground(background=("a",))])
def test_a_draw_depends_on_its_number_and_the_seed_alone(rule):
    sampler = build_sampler(rule, index_masks(ROAD_SCENES), 3)
    there = [sampler(draw, 1) for draw in range(200)]
    copied = pickle.loads(pickle.dumps(sampler))
    assert [copied(draw, 1) for draw in reversed(range(200))] == there[::-1]
    other = build_sampler(rule, index_masks(ROAD_SCENES), 4)
    assert [other(draw, 1) for draw in range(200)] != there


# --- crops around a focus ---------------------------------------------------------------------------------------------

PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0}


def with_blob(size: tuple[int, int], focus: tuple[int, int], radius: int) -> Sample:
    mask = np.zeros(size, np.uint8)
    row, column = focus
    mask[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1] = 1
    return Sample(np.zeros((*size, 3), np.uint8), mask, "blob")


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    crop=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    scale=st.floats(1, 4),
    where=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    seed=st.integers(0, 99),
)
def test_a_crop_shows_its_focus_even_if_it_is_a_single_pixel(size, crop, scale, where, seed):
    focus = int(where[0] * size[0]), int(where[1] * size[1])
    cfg = AugmentConfig(crop=crop, scale=(scale, scale), **PLAIN)
    made = augment(with_blob(size, focus, 0), np.random.default_rng(seed), cfg, focus)
    assert made.mask.shape == crop
    assert (made.mask == 1).any()


@settings(max_examples=100, deadline=None)
@given(where=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), scale=st.floats(0.25, 1), seed=st.integers(0, 999))
def test_a_crop_shows_its_focus_in_a_smaller_image_too(where, scale, seed):
    focus = int(where[0] * 150), int(where[1] * 200)
    cfg = AugmentConfig(crop=(30, 40), scale=(scale, scale), cat_max_ratio=0.75, **PLAIN)
    made = augment(with_blob((150, 200), focus, round(1 / scale)), np.random.default_rng(seed), cfg, focus)
    assert (made.mask == 1).any()


def test_the_focus_is_anywhere_in_the_crop():
    cfg = AugmentConfig(crop=40, scale=(1, 1), **PLAIN)
    sample = with_blob((200, 200), (100, 100), 0)
    places = [np.argwhere(augment(sample, np.random.default_rng(k), cfg, (100, 100)).mask)[0] for k in range(600)]
    for axis in (0, 1):
        tenths = np.bincount(np.array(places)[:, axis] // 4, minlength=10)
        assert tenths.min() > 25
        assert tenths.max() < 100


WARPS = [
    Warp(rotate=180),
    Warp(shear=45, rotate=10),
    Warp(perspective=0.4),
    Warp(zoom=(0.5, 3)),
    Warp(rotate=90, shear=20, perspective=0.2, zoom=(0.7, 1.5)),
]


@pytest.mark.parametrize("warp", WARPS, ids=str)
def test_a_warped_crop_shows_a_focus_that_is_away_from_the_edges(warp):
    sample, cfg = with_blob((300, 300), (150, 140), 2), AugmentConfig(crop=(40, 60), scale=(0.8, 2), warp=warp)
    shown = [(augment(sample, np.random.default_rng(k), cfg, (150, 140)).mask == 1).any() for k in range(150)]
    assert all(shown)


@pytest.mark.parametrize("warp", WARPS[:2], ids=str)
def test_a_warped_crop_shows_what_is_near_the_edges_much_more_often_than_not(warp):
    rng, cfg, shown = np.random.default_rng(0), AugmentConfig(crop=40, scale=(1, 1), warp=warp), []
    for k in range(300):
        focus = int(rng.integers(100)), int(rng.choice([2, 5, 94, 97]))
        made = augment(with_blob((100, 100), focus, 2), np.random.default_rng(k), cfg, focus)
        shown.append((made.mask == 1).any())
    assert np.mean(shown) > 0.8


def test_a_focus_leaves_the_greatest_share_of_one_class_in_force():
    mask = np.zeros((200, 200), np.uint8)
    mask[:, 100:] = 1
    mask[100, 95] = 2
    sample, wrong = Sample(np.zeros((200, 200, 3), np.uint8), mask, "halves"), {}
    for ratio in (1.0, 0.75):
        cfg = AugmentConfig(crop=40, scale=(1, 1), cat_max_ratio=ratio)
        made = [augment(sample, np.random.default_rng(k), cfg, (100, 95)).mask for k in range(200)]
        assert all((each == 2).any() for each in made)
        wrong[ratio] = sum(np.bincount(each.reshape(-1)).max() > 0.75 * each.size for each in made)
    assert wrong[1.0] > 60
    assert wrong[0.75] <= 5


# --- draws ------------------------------------------------------------------------------------------------------------


def taken(dataset, count: int, **options) -> list[tuple]:
    feed_options = {"seed": 7, "batch": 6, "first_step": 0} | options
    with closing(batches(dataset, crop, **feed_options)) as feed:
        return [(b.images.numpy().tobytes(), b.masks.numpy().tobytes(), b.names, b.draws) for b in islice(feed, count)]


@pytest.mark.parametrize("rule", [RareClasses(temperature=1e-4), Foreground(share=1)], ids=["rare", "foreground"])
def test_workers_ranks_and_resumes_change_no_draw(rule):
    dataset = Noise(11)
    sampler = build_sampler(rule, index_masks(dataset), 7)
    whole = taken(dataset, 8, sampler=sampler)
    assert [each[0] for each in whole] != [each[0] for each in taken(dataset, 8)]
    for options in ({"workers": 3}, {"workers": 2, "worker_kind": "process"}):
        assert taken(dataset, 8, sampler=sampler, **options) == whole
    assert taken(dataset, 3, sampler=sampler, first_step=5) == whole[5:]
    ranks = [taken(dataset, 8, sampler=sampler, rank=rank, world=2) for rank in (0, 1)]
    for step, (images, _, names, _) in enumerate(whole):
        assert ranks[0][step][0] + ranks[1][step][0] == images
        assert ranks[0][step][2] + ranks[1][step][2] == names


def test_every_crop_of_a_draw_contains_its_class():
    rng = np.random.default_rng(0)
    dataset = Made([np.zeros((40, 50), np.uint8) for _ in range(9)])
    for k, mask in enumerate(dataset.masks[:3]):
        mask[rng.integers(40), rng.integers(50)] = 1 + k % 2
    cfg = AugmentConfig(crop=(12, 16), scale=(1, 2))
    sampler = build_sampler(RareClasses(share=1, temperature=0.001), index_masks(dataset), 0)
    draws = Draws(dataset, lambda sample, rng, focus=None: augment(sample, rng, cfg, focus), 0, sampler)
    masks = [draws(draw).mask for draw in range(60)]
    assert all(((mask == 1) | (mask == 2)).any() for mask in masks)
    assert 15 < sum((mask == 1).any() for mask in masks) < 45


class Part:
    """An array of which only parts can be had; how many pixels were read is noted."""

    def __init__(self, array: np.ndarray, read: list[int]):
        self._array, self._read = array, read
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        part = self._array[window]
        self._read.append(part.shape[0] * part.shape[1])
        return part

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[: self.shape[0], : self.shape[1]]


class InParts(Noise):
    """Noise that can be read in parts."""

    def __init__(self) -> None:
        super().__init__(8, (90, 120))
        self.read: list[int] = []

    def lazy(self, index: int, /) -> Sample:
        image, mask, name = super().__getitem__(index)
        return Sample(Part(image, self.read), Part(mask, self.read), name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"warp": Warp(rotate=20, outside="mirror")},
        {"base": {"kind": "exact", "height": 70, "width": 70}, "scale": (1, 1), "crop": None},
        {"scale": (2.5, 3), "cat_max_ratio": 0.4},
        {"crop": 150},
    ],
    ids=str,
)
def test_a_data_set_that_reads_parts_gives_the_same_samples_and_reads_no_more(options):
    cfg = AugmentConfig.model_validate({"crop": (24, 32), "scale": (0.9, 1.5)} | options)

    def made(sample: Sample, rng: np.random.Generator, focus=None) -> Sample:
        return augment(sample, rng, cfg, focus)

    lazy = InParts()
    index = index_masks(lazy)
    assert index.pixels.tolist() == index_masks(Noise(8, (90, 120))).pixels.tolist()
    lazy.read.clear()
    for sampler in (None, build_sampler(RareClasses(), index, 5)):
        pairs = (Draws(lazy, made, 5, sampler), Draws(Noise(8, (90, 120)), made, 5, sampler))
        for draw in range(20):
            one, other = (draws(draw) for draws in pairs)
            assert (one.image == other.image).all()
            assert (one.mask == other.mask).all()
            assert one.name == other.name
    if cfg.crop == (24, 32) and cfg.warp is None and cfg.cat_max_ratio == 1:
        assert max(lazy.read) < 28 * 37
        assert len(lazy.read) == 2 * 2 * 20


def test_a_users_data_set_may_have_a_flag_called_lazy():
    dataset = Noise(4)
    dataset.lazy = True
    assert taken(dataset, 2) == taken(Noise(4), 2)


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Of a recipe for six tiny images; class c is in two of them."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 6, "val": 1}.items():
        for n in range(count):
            mask = np.zeros((40, 48), np.uint8)
            mask[rng.integers(0, 20) :, rng.integers(0, 24) :] = 1
            mask[:3, :4] = 2 if n < 2 else 0
            for kind, array in (("images", rng.integers(0, 256, (40, 48, 3), np.uint8)), ("labels", mask)):
                path = tmp_path / split / kind / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return job_of(tmp_path, {"kind": "rare_classes", "share": 1})


def job_of(folder: Path, sampling: dict) -> Job:
    cfg = config_of(
        {
            "out": folder / "run",
            "data": {
                "kind": "folder",
                "root": folder,
                "images": "{split}/images",
                "labels": "{split}/labels",
                "classes": ["a", "b", "c"],
                "workers": 2,
            },
            "model": {"kind": "unet", "width": 4, "depth": 2},
            "augment": {"crop": 16, "scale": [1, 1]},
            "sampling": sampling,
            "batch": 4,
            "length": {"steps": 1},
            "threads": 1,
            "device": "cpu",
        }
    )
    sets = build_sets(cfg)
    return Job(cfg, World.join("cpu"), RunDir(cfg.out), Console(quiet=True), sets, Lengths.of(cfg, len(sets.train)))


def first(job: Job, step: int, count: int) -> list[tuple]:
    with closing(feed_from(job, step)) as feed:
        return [(b.masks.numpy().tobytes(), b.images.numpy().tobytes(), b.names) for b in islice(feed, count)]


def test_a_run_reads_its_labels_once_and_a_resume_draws_what_it_would_have_drawn(job, monkeypatch):
    whole = first(job, 0, 6)
    assert sum(name in ("train/images/0", "train/images/1") for _, _, names in whole for name in names) > 18

    def again(*args: object, **options: object) -> None:
        raise AssertionError("the labels are read again")

    monkeypatch.setattr("terrazzo.commands.start.index_masks", again)
    assert first(job, 3, 3) == whole[3:]


def test_a_run_with_other_classes_does_not_take_an_index_for_its_own(job, tmp_path):
    first(job, 0, 1)
    before = ClassIndex.read(tmp_path / "run" / CLASS_INDEX)
    tree = job.cfg.model_dump()
    tree["data"]["remap"] = {"c": "a"}
    cfg = config_of(tree)
    sets = build_sets(cfg)
    first(Job(cfg, job.world, job.run, job.console, sets, job.lengths), 0, 1)
    after = ClassIndex.read(tmp_path / "run" / CLASS_INDEX)
    assert (before.classes, after.classes) == (("a", "b", "c"), ("a", "b"))


@pytest.fixture
def _machine_as_it_was():
    """Training sets threads and exactness for the whole process."""
    before = torch.get_num_threads(), cv2.getNumThreads(), torch.are_deterministic_algorithms_enabled()
    yield
    for put_back, value in zip(
        (torch.set_num_threads, cv2.setNumThreads, torch.use_deterministic_algorithms), before, strict=True
    ):
        put_back(value)


@pytest.mark.usefixtures("_machine_as_it_was")
def test_a_run_that_begins_anew_reads_its_labels_anew(job, tmp_path, monkeypatch):
    """One was killed before its first checkpoint, and the labels were corrected since."""
    first(job, 0, 1)
    for n, here in enumerate((False, False, True, True, True, False)):
        path = tmp_path / "train" / "labels" / f"{n}.png"
        mask = np.array(Image.open(path))
        mask[:3, :4] = 2 if here else 0
        Image.fromarray(mask).save(path)
    monkeypatch.setattr("terrazzo.commands.train.report_run", lambda *args, **options: None)
    assert terrazzo.train(job.cfg).finished
    index = ClassIndex.read(tmp_path / "run" / CLASS_INDEX)
    assert index.items[index.ids == 2].tolist() == [2, 3, 4]


def test_a_uniform_run_writes_no_index_and_keeps_the_order(job, tmp_path):
    names = [name for _, _, each in first(job_of(tmp_path, {"kind": "uniform"}), 0, 3) for name in each]
    order = [*epoch_order(0, 0, 6), *epoch_order(0, 1, 6)]
    assert names == [f"train/images/{k}" for k in order]
    assert not (tmp_path / "run" / CLASS_INDEX).exists()


# --- what cannot be done ----------------------------------------------------------------------------------------------


def test_a_background_that_is_no_class_is_named_before_any_label_is_read(job, tmp_path, monkeypatch):
    monkeypatch.setattr("terrazzo.commands.start.index_masks", None)
    with pytest.raises(InputError, match=r"sampling\.background names 'aa', .* did you mean 'a'\?"):
        first(job_of(tmp_path, {"kind": "foreground", "background": ["aa"]}), 0, 1)
    with pytest.raises(InputError, match="there are a, b, c"):
        check_names(Foreground(background=("something",)), ("a", "b", "c"))


def test_rules_that_find_nothing_to_aim_at_are_refused():
    with pytest.raises(InputError, match=r"show no other class, so no crop would be aimed"):
        build_sampler(Foreground(background=("a", "b", "c", "d")), index_masks(ROAD_SCENES), 0)
    with pytest.raises(InputError, match="no training label shows any class"):
        build_sampler(RareClasses(), index_masks(fields(())), 0)


def test_crops_that_are_not_cut_out_cannot_be_aimed(job):
    tree = job.cfg.model_dump()
    exact = {"kind": "exact", "height": 20, "width": 20}
    tree |= {"augment": {"crop": None, "base": exact, "scale": [1, 1]}}
    assert config_of(tree).sampling.kind == "rare_classes"
    with pytest.raises(InputError, match=r"sampling.kind=foreground .* augment.crop is null"):
        config_of(tree | {"sampling": {"kind": "foreground"}})


# --- real data --------------------------------------------------------------------------------------------------------


def test_rare_classes_of_camvid_come_more_often(shared_data: Path):
    dataset = build_dataset(CamvidData(root=shared_data / "camvid", limit=60), "train")
    index, cfg = index_masks(dataset, workers=2), AugmentConfig(crop=180, scale=(1, 1))
    rarest = np.argsort(index.frequencies())[:4]
    share = []
    for sampler in (None, build_sampler(RareClasses(), index, 0)):
        draws = Draws(dataset, lambda sample, rng, focus=None: augment(sample, rng, cfg, focus), 0, sampler)
        counts = sum(np.bincount(draws(draw).mask.reshape(-1), minlength=256)[:11] for draw in range(100))
        share.append(counts[rarest].sum() / counts.sum())
    assert share[1] > 1.5 * share[0]
