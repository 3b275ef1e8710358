"""The loader: draws have addresses, slots are lent, errors come in their turn."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from terrazzo.base import IGNORE, Classes, InputError, Sample
from terrazzo.data import CamvidData, build_dataset
from terrazzo.data.augment import AugmentConfig, augment
from terrazzo.data.folder import Folder, FolderData
from terrazzo.data.loader import Batch, batches, checked_sample, epoch_order, seed_of
from terrazzo.data.split import RatioSplits


class Noise:
    """Item i is noise of seed i; what was asked for is counted."""

    def __init__(self, count: int, size: tuple[int, int] = (20, 24), delay: float = 0):
        self.count, self.size, self.delay = count, size, delay
        self.classes = Classes.of(("a", "b", "c"))
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Sample:
        self.asked.append(index)
        time.sleep(self.delay * (index % 3))
        rng = np.random.default_rng(index)
        mask = rng.integers(0, 3, self.size, np.uint8)
        return Sample(rng.integers(0, 256, (*self.size, 3), np.uint8), mask, f"noise{index}")


def crop(sample: Sample, rng: np.random.Generator) -> Sample:
    return augment(sample, rng, AugmentConfig(crop=(12, 16)))


def alone(sample: Sample, rng: np.random.Generator) -> Sample:
    return sample


def taken(feed: Iterator[Batch], count: int) -> list[tuple]:
    """The next batches as copies: bytes of images and masks, names, draws."""
    return [(b.images.numpy().tobytes(), b.masks.numpy().tobytes(), b.names, b.draws) for b in islice(feed, count)]


def run(dataset, count: int, **options) -> list[tuple]:
    settings = {"seed": 7, "batch": 4, "first_step": 0, "workers": 0} | options
    with closing(batches(dataset, crop, **settings)) as feed:
        return taken(feed, count)


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("terrazzo-loader")]


@pytest.fixture(autouse=True)
def _no_thread_stays():
    yield
    assert loader_threads() == []


# --- draws ------------------------------------------------------------------------------------------------------------


def test_a_draw_is_what_the_formula_says():
    dataset = Noise(10)
    with closing(batches(dataset, crop, seed=7, batch=4, first_step=0)) as feed:
        for step in range(6):
            batch = next(feed)
            assert batch.draws == range(4 * step, 4 * step + 4)
            for place, draw in enumerate(batch.draws):
                index = int(epoch_order(7, draw // 10, 10)[draw % 10])
                expected = crop(dataset[index], np.random.default_rng([7, 1, draw]))
                assert batch.names[place] == f"noise{index}"
                assert (batch.images[place].permute(1, 2, 0).numpy() == expected.image).all()
                assert (batch.masks[place].numpy() == expected.mask).all()


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 12),
    seed=st.integers(0, 2**33),
    world=st.sampled_from([1, 2, 3]),
    share=st.integers(1, 4),
    first=st.integers(0, 30),
    workers=st.sampled_from([0, 1, 3]),
)
def test_ranks_threads_and_resumes_change_no_draw(count, seed, world, share, first, workers):
    """Ranks laid side by side, begun anywhere, with any threads, are the one-process run from its beginning."""
    batch = world * share
    whole = run(Noise(count, (3, 4)), first + 2, seed=seed, batch=batch)[first:]
    parts = [
        run(Noise(count, (3, 4)), 2, seed=seed, batch=batch, first_step=first, rank=rank, world=world, workers=workers)
        for rank in range(world)
    ]
    for step, (images, masks, names, draws) in enumerate(whole):
        pieces = [part[step] for part in parts]
        assert b"".join(piece[0] for piece in pieces) == images
        assert b"".join(piece[1] for piece in pieces) == masks
        assert sum((piece[2] for piece in pieces), ()) == names
        assert [draw for piece in pieces for draw in piece[3]] == list(draws)


@pytest.mark.parametrize("workers", [0, 2, 8])
def test_pitfall_the_order_changes_with_the_number_of_workers(workers):
    """Items take different times, so that threads finish out of order."""
    expected = run(Noise(11), 8)
    assert run(Noise(11, delay=0.002), 8, workers=workers) == expected


@pytest.mark.parametrize("workers", [0, 3])
def test_pitfall_every_past_batch_is_read_again_on_resume(workers):
    dataset = Noise(1000)
    resumed = run(dataset, 2, first_step=200, workers=workers)
    assert resumed == run(Noise(1000), 202)[200:]
    assert len(dataset.asked) < 40


def test_every_item_comes_once_an_epoch_and_epochs_differ():
    names = [name for _, _, batch, _ in run(Noise(10), 5) for name in batch]
    first, second = names[:10], names[10:]
    assert sorted(first) == sorted(second) == sorted(f"noise{k}" for k in range(10))
    assert first != second


def test_epoch_order_and_augmentation_share_no_stream():
    """numpy takes seeds [7, 1] and [7, 1, 0] for the same, so orders are addressed by [seed, 0, epoch]."""
    order = epoch_order(7, 1, 1000)
    assert sorted(order) == list(range(1000))
    assert (order != np.random.default_rng([7, 1, 0]).permutation(1000)).any()
    assert (order == epoch_order(7, 1, 1000)).all()


def test_seeds_are_mixed_well():
    seeds = {seed_of(a, b) for a in range(40) for b in range(40)}
    assert len(seeds) == 1600
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert seed_of(1, 2) == seed_of(1, 2)


def test_a_batch_is_channels_last_uint8():
    with closing(batches(Noise(5), crop, seed=0, batch=2, first_step=0)) as feed:
        batch = next(feed)
    assert (batch.images.shape, batch.masks.shape) == ((2, 3, 12, 16), (2, 12, 16))
    assert (batch.images.dtype, batch.masks.dtype) == (torch.uint8, torch.uint8)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


# --- slots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 2, 8])
def test_a_slot_is_not_reused_before_the_step_that_reads_it_returned(workers):
    """The consumer is slower than the threads; its batch must be untouched until it asks for the next."""
    dataset = Noise(50)
    expected = run(dataset, 12)
    with closing(batches(dataset, crop, seed=7, batch=4, first_step=0, workers=workers)) as feed:
        for step in range(12):
            batch = next(feed)
            time.sleep(0.01)
            late = (batch.images.numpy().tobytes(), batch.masks.numpy().tobytes(), batch.names, batch.draws)
            assert late == expected[step]


@pytest.mark.parametrize("workers", [0, 2, 8])
def test_slots_are_reused(workers):
    with closing(batches(Noise(50), crop, seed=7, batch=4, first_step=0, workers=workers)) as feed:
        places = {next(feed).images.data_ptr() for _ in range(40)}
    assert len(places) <= 1 + -(-workers // 4)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_threads_work_ahead_while_a_batch_is_lent_but_not_without_end(workers):
    dataset = Noise(1000)
    with closing(batches(dataset, crop, seed=7, batch=4, first_step=0, workers=workers)) as feed:
        next(feed)
        slots = 1 + -(-workers // 4)
        give_up = time.monotonic() + 10
        while len(dataset.asked) < 1 + 4 * slots and time.monotonic() < give_up:  # 1 tells the size
            time.sleep(0.005)
        time.sleep(0.05)
        assert len(dataset.asked) == 1 + 4 * slots, "the next batches are read, but no more than there is memory for"


def test_threads_end_with_the_generator():
    feed = batches(Noise(50), crop, seed=7, batch=4, first_step=0, workers=3)
    assert loader_threads() == [], "nothing starts before the first batch is asked for"
    next(feed)
    assert len(loader_threads()) >= 1
    feed.close()
    assert loader_threads() == []


# --- errors -----------------------------------------------------------------------------------------------------------


class Broken(Noise):
    def __init__(self, bad: int, error: Exception):
        super().__init__(40)
        self.bad, self.error = bad, error

    def __getitem__(self, index: int, /) -> Sample:
        if index == self.bad:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2, 8])
@pytest.mark.parametrize("error", [InputError("photo.jpg: truncated"), KeyError("a bug of the data set")])
def test_an_error_comes_at_its_own_batch(workers, error):
    order = epoch_order(7, 0, 40).tolist()
    dataset = Broken(order[22], error)  # in the 6th batch of 4
    expected = run(Noise(40), 5)
    with closing(batches(dataset, crop, seed=7, batch=4, first_step=0, workers=workers)) as feed:
        assert taken(feed, 5) == expected
        with pytest.raises(type(error)) as caught:
            next(feed)
    assert caught.value is error
    assert f"while reading item {order[22]} for draw 22" in caught.value.__notes__
    assert loader_threads() == []


def test_an_error_names_the_file(tmp_path):
    for what in ("images", "labels"):
        (tmp_path / what).mkdir()
        for name in "abc":
            Image.fromarray(np.zeros((20, 20, 3) if what == "images" else (20, 20), np.uint8)).save(
                tmp_path / what / f"{name}.png"
            )
    (tmp_path / "images/b.png").write_bytes((tmp_path / "images/b.png").read_bytes()[:50])
    cfg = FolderData(
        root=tmp_path, images="images", labels="labels", classes=("a", "b"), splits=RatioSplits(train=1, val=0)
    )
    with (
        closing(batches(Folder(cfg, "train"), crop, seed=0, batch=3, first_step=0, workers=2)) as feed,
        pytest.raises(InputError, match=r"images.b\.png: unreadable or truncated image") as caught,
    ):
        next(feed)
    assert str(tmp_path / "images/b.png") in "".join(caught.value.__notes__)


def broken_item(image: object, mask: object) -> Noise:
    dataset = Noise(1)
    dataset.__class__ = type("Given", (Noise,), {"__getitem__": lambda self, index: Sample(image, mask, "s7")})
    return dataset


IMAGE, MASK = np.zeros((5, 6, 3), np.uint8), np.zeros((5, 6), np.uint8)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (
            IMAGE.astype(np.float32),
            MASK,
            r"'s7' \(item 0\): its image is float32 \[5, 6, 3\]; expected a numpy array uint8 \[H, W, C\]",
        ),
        (IMAGE[..., 0], MASK, r"its image is uint8 \[5, 6\]"),
        (torch.zeros(3, 5, 6), MASK, r"its image is Tensor; expected a numpy array"),
        (IMAGE, MASK.astype(np.int64), r"its mask is int64 \[5, 6\]; expected a numpy array uint8 \[H, W\]"),
        (IMAGE, MASK[..., None], r"its mask is uint8 \[5, 6, 1\]"),
        (IMAGE, MASK[:4], r"'s7' \(item 0\): its image is 6x5 and its mask 6x4; they must have one size"),
        (
            IMAGE,
            MASK + np.uint8(3),
            r"30 pixels of its mask have values \[3\]; there are 3 classes, 0\.\.2, and 255 for none",
        ),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_that_breaks_the_contract_is_told_so(image, mask, message, workers):
    dataset = broken_item(image, mask)
    with pytest.raises(InputError, match=message):
        checked_sample(dataset, 0)
    with (
        closing(batches(dataset, alone, seed=0, batch=2, first_step=0, workers=workers)) as feed,
        pytest.raises(InputError, match=message),
    ):
        next(feed)


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_of_different_sizes_are_named(workers):
    dataset = broken_item(IMAGE, MASK)
    grow = iter(range(5, 50))

    def growing(sample: Sample, rng: np.random.Generator) -> Sample:
        side = next(grow)
        return Sample(np.zeros((side, 8, 3), np.uint8), np.zeros((side, 8), np.uint8), sample.name)

    with (
        closing(batches(dataset, growing, seed=0, batch=2, first_step=0, workers=workers)) as feed,
        pytest.raises(
            InputError, match=r"sample 's7' is 8x\d, the batch is 8x5; all samples of a run must have one size"
        ),
    ):
        next(feed)


def test_all_ignored_is_no_error():
    assert checked_sample(broken_item(IMAGE, np.full((5, 6), IGNORE, np.uint8)), 0).mask.min() == IGNORE


def test_impossible_requests_are_refused_at_once():
    with pytest.raises(InputError, match=r"batch=5 cannot be shared evenly by 2 processes; choose a multiple of 2"):
        batches(Noise(9), crop, seed=0, batch=5, first_step=0, world=2)
    with pytest.raises(InputError, match="the training set is empty"):
        batches(Noise(0), crop, seed=0, batch=5, first_step=0)


# --- real data --------------------------------------------------------------------------------------------------------


def test_real_camvid_is_the_same_with_any_number_of_workers(shared_data: Path):
    dataset = build_dataset(CamvidData(root=shared_data / "camvid", limit=20), "train")
    big = AugmentConfig(crop=(180, 240), cat_max_ratio=0.75)
    found = []
    for workers, first in ((0, 0), (2, 0), (8, 1)):
        with closing(
            batches(dataset, lambda s, rng: augment(s, rng, big), seed=1, batch=6, first_step=first, workers=workers)
        ) as feed:
            found.append(taken(feed, 3 - first))
    assert found[0] == found[1]
    assert found[0][1:] == found[2]
