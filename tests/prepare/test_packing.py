"""Packs: the same samples, crops and weights as the originals; half ones, damaged ones and foreign folders refused."""

import os
import pickle
import shutil
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

import terrazzo
import terrazzo.prepare.packing as packing
from terrazzo.base import IGNORE, Dataset, InputError, Lazy, Masked
from terrazzo.commands.pack import pack
from terrazzo.config import RunConfig, config_of
from terrazzo.data import CamvidData, DataConfig, FolderData, OwnData, PackedData, available_splits, build_dataset
from terrazzo.data.augment import AugmentConfig, augment
from terrazzo.data.draws import Draws
from terrazzo.data.folder import Folder
from terrazzo.data.geometry import Warp
from terrazzo.data.loader import batches
from terrazzo.data.packed_tiles import FORMATS, Format, Tiles, cut
from terrazzo.data.photometry import Blur, Lighting, Photometric, Sharpness
from terrazzo.data.sampling import RareClasses, build_sampler, index_masks
from terrazzo.data.split import FolderSplits

SIZES = {"train": [(50, 70), (33, 16), (64, 64), (129, 40), (20, 130)], "val": [(40, 40), (41, 39)]}
EVERYTHING = AugmentConfig(
    crop=(48, 40),
    scale=(0.4, 2.5),
    cat_max_ratio=0.6,
    warp=Warp(rotate=30, shear=10, perspective=0.1, zoom=(0.7, 1.4), chance=0.5),
    sharpness=Sharpness(),
    hue=0.1,
    lighting=Lighting(),
    photometric=Photometric(),
    blur=Blur(),
)


@pytest.fixture
def original(tmp_path: Path) -> FolderData:
    """Pictures of many sizes; what is tested is what is validated."""
    rng = np.random.default_rng(0)
    for split, sizes in SIZES.items():
        for k, size in enumerate(sizes):
            image = cv2.GaussianBlur(rng.integers(0, 256, (*size, 3), np.uint8), (0, 0), 2)
            mask = np.kron(rng.choice([0, 1, 2, IGNORE], (20, 20)), np.ones((8, 8)))[: size[0], : size[1]]
            for what, array in (("images", image), ("labels", mask.astype(np.uint8))):
                path = tmp_path / "data" / split / what / f"Straße {k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(cv2.imencode(".png", array)[1].tobytes())
    return FolderData(
        root=tmp_path / "data",
        images="{split}/images/{id}.png",
        labels="{split}/labels/{id}.png",
        classes=("road", "sky", "tree"),
        splits=FolderSplits(test="val"),
    )


def recipe(cfg: DataConfig) -> RunConfig:
    return config_of({"data": cfg.model_dump(mode="json"), "model": {"kind": "unet"}})


def packed(cfg: DataConfig, out: Path, format: Format = "zstd", tile: int = 32, **options) -> PackedData:
    pack(recipe(cfg), out, format=format, tile=tile, workers=3, **options)
    return PackedData(root=out)


def same(first: Dataset, second: Dataset) -> None:
    assert first.classes == second.classes
    assert len(first) == len(second) > 0
    for index in range(len(first)):
        one, other = first[index], second[index]
        assert one.name == other.name
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.mask, other.mask)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("format", FORMATS)
def test_a_pack_holds_what_the_files_hold(original, tmp_path, format):
    cfg = packed(original, tmp_path / "pack", format)
    assert available_splits(cfg) == ("train", "val", "test")
    for split in available_splits(cfg):
        dataset, folder = build_dataset(cfg, split), Folder(original, split)
        same(dataset, folder)
        assert dataset.names == folder.names
        assert [original.root / image for image, _ in dataset.files] == [image for image, _ in folder.files]
        assert isinstance(dataset, Lazy)
        assert isinstance(dataset, Masked)
        assert np.array_equal(dataset.read_mask(1), folder[1].mask)
    assert build_dataset(cfg, "train")[0].image.flags.writeable, "as an image that was just decoded"


def test_what_two_splits_share_is_stored_once(original, tmp_path):
    result = pack(recipe(original), tmp_path / "pack", format="raw", tile=32)
    assert result.splits == {"train": 5, "val": 2, "test": 2}
    assert result.images == 7
    pixels = sum(height * width * 4 for sizes in SIZES.values() for height, width in sizes)
    assert pixels < result.bytes < pixels * 1.05
    assert "7 images (train 5, val 2, test 2) in 1 shard, " in str(result)


arrays = st.tuples(st.integers(1, 70), st.integers(1, 70), st.sampled_from([(), (3,)]))


@settings(max_examples=60)
@given(st.data(), arrays, st.integers(16, 40), st.sampled_from(FORMATS))
def test_every_window_is_what_numpy_cuts_out(tmp_path_factory, data, shape, tile, format):
    height, width, channels = shape
    array = np.random.default_rng(0).integers(0, 256, (height, width, *channels), np.uint8)
    path = tmp_path_factory.mktemp("tiles") / "shard"
    parts = [packing.tile_writer(format)(part) for part in cut(array, tile)]
    path.write_bytes(b"before" + b"".join(parts))
    start = np.cumsum([len(b"before"), *map(len, parts)])
    tiles = Tiles(path, start, array.shape, tile, format, "noise")
    assert (tiles.shape, tiles.ndim, tiles.dtype) == (array.shape, array.ndim, array.dtype)
    assert np.array_equal(np.asarray(tiles), array)
    bounds = st.one_of(st.none(), st.integers(-80, 80))
    for _ in range(8):
        window = slice(data.draw(bounds), data.draw(bounds)), slice(data.draw(bounds), data.draw(bounds))
        assert np.array_equal(tiles[window], array[window])


def test_only_the_tiles_that_a_window_touches_are_read(original, tmp_path):
    """All others are spoilt, and nobody notices."""
    cfg = packed(original, tmp_path / "pack")
    dataset = build_dataset(cfg, "train")
    image = dataset.lazy(0).image
    expected = np.asarray(image)[33:60, 34:63]
    spoilt = bytearray(image.file.read_bytes())
    kept = slice(image.start[4], image.start[5])  # the second of three columns in the second of two rows
    spoilt = bytes(kept.start) + spoilt[kept] + bytes(len(spoilt) - kept.stop)
    image.file.write_bytes(spoilt)
    assert np.array_equal(image[33:60, 34:63], expected)
    with pytest.raises(InputError, match="is damaged"):
        image[31:60, 34:63]
    with pytest.raises(IndexError, match="without a step"):
        image[::2, :]
    with pytest.raises(ValueError, match="without a copy"):
        np.array(image, copy=False)
    assert image[4:4, 1:9].shape == (0, 8, 3)


@pytest.mark.parametrize("format", FORMATS)
def test_all_augmentations_see_the_same(original, tmp_path, format):
    folder, dataset = Folder(original, "train"), build_dataset(packed(original, tmp_path / "pack", format), "train")
    change = partial(augment, cfg=EVERYTHING)
    ours, theirs = Draws(dataset, change, 5), Draws(folder, change, 5)
    for draw in range(40):
        one, other = ours(draw), theirs(draw)
        assert one.name == other.name
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.mask, other.mask)
        item = draw % 5
        seen = augment(dataset.lazy(item), np.random.default_rng(draw), EVERYTHING)
        assert np.array_equal(seen.image, augment(folder[item], np.random.default_rng(draw), EVERYTHING).image)


def test_rare_classes_are_found_in_the_same_places(original, tmp_path):
    folder, dataset = Folder(original, "train"), build_dataset(packed(original, tmp_path / "pack"), "train")
    ours, theirs = index_masks(dataset, workers=2), index_masks(folder, workers=0)
    for field in ("items", "ids", "pixels", "ends", "positions"):
        assert np.array_equal(getattr(ours, field), getattr(theirs, field))
    change = partial(augment, cfg=EVERYTHING)
    one, other = (Draws(data, change, 5, build_sampler(RareClasses(share=1), ours, 5)) for data in (dataset, folder))
    for draw in range(10):
        assert one(draw).name == other(draw).name
        assert np.array_equal(one(draw).image, other(draw).image)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_workers_of_both_kinds_make_the_same_batches(original, tmp_path, kind):
    def taken(dataset: Dataset, workers: int, kind: str) -> list[tuple[bytes, bytes, tuple[str, ...]]]:
        change = partial(augment, cfg=EVERYTHING)
        with closing(
            batches(dataset, change, seed=3, batch=4, first_step=0, workers=workers, worker_kind=kind)
        ) as feed:
            return [(b.images.numpy().tobytes(), b.masks.numpy().tobytes(), b.names) for b in islice(feed, 6)]

    dataset = build_dataset(packed(original, tmp_path / "pack"), "train")
    assert taken(dataset, 2, kind) == taken(Folder(original, "train"), 0, "thread")
    same(pickle.loads(pickle.dumps(dataset)), dataset)


def test_training_from_a_pack_ends_in_the_same_weights(original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("terrazzo.commands.train.report_run", lambda *args, **options: None)
    cfg = packed(original, tmp_path / "pack")

    def weights(data: DataConfig, out: str) -> bytes:
        tree = {
            "data": data.model_dump(mode="json") | {"workers": 2},
            "model": {"kind": "unet", "width": 4, "depth": 2},
            "augment": {"crop": 48},
            "losses": [{"kind": "cross_entropy", "class_weights": "auto"}],
            "length": {"steps": 3},
            "batch": 4,
            "threads": 1,
            "device": "cpu",
            "out": out,
        }
        terrazzo.train(config_of(tree))
        scores = (tmp_path / out / "metrics.csv").read_text().splitlines()[-1].split(",")
        assert len(scores) > 3
        return (tmp_path / out / "checkpoints/last/model.safetensors").read_bytes()

    exact, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    try:
        assert weights(cfg, "packed") == weights(original, "files")
    finally:
        torch.use_deterministic_algorithms(exact)
        torch.set_num_threads(threads)
    assert (tmp_path / "packed/splits/train.txt").read_text().startswith("train/images/Straße 0.png\t")


@pytest.mark.parametrize(
    "remap",
    [{"tree": "road"}, {"sky": "ignore"}, {"road": "sky", "sky": "road"}, {"road": "ground", "tree": "ground"}],
)
def test_remap_and_limit_work_on_packs_as_on_files(original, tmp_path, remap):
    cfg = packed(original, tmp_path / "pack").model_copy(update={"remap": remap, "limit": 3})
    files = original.model_copy(update={"remap": remap, "limit": 3})
    same(build_dataset(cfg, "train"), Folder(files, "train"))
    lazy = build_dataset(cfg, "train").lazy(2)
    assert np.array_equal(lazy.mask[3:40, 5:50], Folder(files, "train")[2].mask[3:40, 5:50])
    with pytest.raises(InputError, match=r"data\.remap: no class is called 'rood'; did you mean 'road'\?"):
        build_dataset(cfg.model_copy(update={"remap": {"rood": "sky"}}), "train")


@pytest.mark.parametrize(
    ("classes", "decode", "values"),
    [
        (("a", "b"), {"kind": "bits"}, [0, 255]),
        (("a", "b", "c"), {"kind": "values", "map": {0: "a", 128: "b", 255: "c", 9: "ignore"}}, [0, 9, 128, 255]),
        (("a", "b", "c"), {"kind": "values", "map": {1: "a", 7: "b", 3: "c"}}, [1, 3, 7]),
        (("a", "b"), {"kind": "index", "ignore": [2, 254]}, [0, 1, 2, 254]),
        ({"a": "#010101", "b": "#050505"}, {"kind": "palette", "ignore_colors": ["#ffffff"]}, [1, 5, 255]),
    ],
)
@pytest.mark.parametrize("remap", [{}, {"b": "a"}, {"b": "ignore"}, {"a": "b", "b": "a"}])
def test_ids_of_predictions_stay_those_of_the_label_files(tmp_path, classes, decode, values, remap):
    for what, array in (("i", np.zeros((8, 8, 3), np.uint8)), ("l", np.uint8(values).repeat(16)[: 8 * 8])):
        (tmp_path / what).mkdir()
        assert cv2.imwrite(str(tmp_path / what / "x.png"), np.resize(array, (8, 8, *array.shape[2:])))
    tree = {"kind": "folder", "root": tmp_path, "images": "i", "labels": "l", "classes": classes, "decode": decode}
    one_split = {"splits": {"kind": "ratio", "train": 1, "val": 0}}
    cfg = TypeAdapter(DataConfig).validate_python(tree | one_split)
    pack_of_all = packed(cfg, tmp_path / "pack").model_copy(update={"remap": remap})
    same(build_dataset(pack_of_all, "train"), Folder(cfg.model_copy(update={"remap": remap}), "train"))
    applied = packed(cfg.model_copy(update={"remap": remap}), tmp_path / "applied")
    same(build_dataset(applied, "train"), Folder(cfg.model_copy(update={"remap": remap}), "train"))


# --- killed, resumed, refused -----------------------------------------------------------------------------------------

LIFE = """
import os, signal, sys
from pathlib import Path
import terrazzo.prepare.packing as packing
from terrazzo.data.folder import Folder, FolderData

packing.SHARD_BYTES = 1
left, fsync = int(sys.argv[3]), os.fsync

def dying(file):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)

os.fsync = dying
cfg = FolderData.model_validate_json(sys.argv[1])
sets = {split: Folder(cfg, split) for split in ("train", "val", "test")}
packing.write_pack(sets, cfg, Path(sys.argv[2]), format="zstd", tile=32, workers=2)
"""


def test_a_killed_pack_goes_on_and_is_never_taken_for_a_whole_one(original, tmp_path, monkeypatch):
    """Each life is ended with -9 at one of its waits for the disk; what is finished by then is not touched again."""
    (tmp_path / "life.py").write_text(LIFE)
    out, seen, lives = tmp_path / "pack", {}, 0
    for fatal in (1, 2, 4, 5, 7, 9, 8, 999):
        command = [sys.executable, tmp_path / "life.py", original.model_dump_json(), out, str(fatal)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        lives += 1
        with pytest.raises(InputError, match=r"is half a pack: type the same|is no pack"):
            build_dataset(PackedData(root=out), "train")
        finished = {path: path.stat().st_mtime_ns for path in out.glob("shards/0*.npz")}
        assert seen.items() <= finished.items(), "a finished shard was written again"
        seen = finished
    assert lives == 7
    assert done.returncode == 0
    for split in ("train", "val", "test"):
        same(build_dataset(PackedData(root=out), split), Folder(original, split))
    monkeypatch.setattr(packing, "SHARD_BYTES", 1)
    packed(original, tmp_path / "undisturbed")
    assert content(out) == content(tmp_path / "undisturbed"), "to the last byte, and no leftovers"


def test_an_unreadable_file_is_named_and_after_its_repair_the_pack_goes_on(original, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BYTES", 1)
    bad = original.root / "train/images/Straße 3.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"Straße 3\.png"):
        packed(original, tmp_path / "pack")
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "pack").glob("shards/*.bin")}
    assert len(finished) == 3
    assert not [*(tmp_path / "pack").rglob(".*.bin")], "nothing half-written"
    bad.write_bytes(whole)
    seen: list[tuple[int, int]] = []
    cfg = packed(original, tmp_path / "pack", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 7), (5, 7), (6, 7), (7, 7)]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    same(build_dataset(cfg, "train"), Folder(original, "train"))


def test_shards_whose_files_changed_are_written_again(original, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BYTES", 1)
    bad, changed = (original.root / f"train/images/Straße {k}.png" for k in (4, 1))
    whole = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(InputError, match="Straße 4"):
        packed(original, tmp_path / "pack")
    bad.write_bytes(whole)
    changed.write_bytes(cv2.imencode(".png", np.full((33, 16, 3), 7, np.uint8))[1].tobytes())
    cfg = packed(original, tmp_path / "pack")
    same(build_dataset(cfg, "train"), Folder(original, "train"))
    assert (build_dataset(cfg, "train")[1].image == 7).all()


@pytest.mark.parametrize("lost", [lambda shard: shard.unlink(), lambda shard: shard.write_bytes(b"cut off")])
def test_finished_shards_that_were_lost_since_are_written_again(original, tmp_path, monkeypatch, lost):
    monkeypatch.setattr(packing, "SHARD_BYTES", 1)
    bad = original.root / "train/images/Straße 4.png"
    whole = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(InputError, match="Straße 4"):
        packed(original, tmp_path / "pack")
    bad.write_bytes(whole)
    lost(tmp_path / "pack/shards/00001.bin")
    same(build_dataset(packed(original, tmp_path / "pack"), "train"), Folder(original, "train"))


def test_half_a_pack_of_something_else_is_refused(original, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BYTES", 1)
    (original.root / "val/images/Straße 0.png").write_bytes(b"no")
    with pytest.raises(InputError, match="Straße 0"):
        packed(original, tmp_path / "pack")
    before = content(tmp_path / "pack")
    with pytest.raises(InputError, match=r"half a pack of format=zstd \(now raw\); choose another folder, or delete"):
        packed(original, tmp_path / "pack", "raw")
    with pytest.raises(InputError, match=r"half a pack of names=\['road', 'sky', 'tree'\] \(now \['road', 'sky'\]\)"):
        packed(original.model_copy(update={"remap": {"tree": "sky"}}), tmp_path / "pack")
    assert content(tmp_path / "pack") == before
    (tmp_path / "pack/unfinished.json").write_text("{}")
    with pytest.raises(InputError, match=r"unfinished\.json is damaged \(Field required\)"):
        packed(original, tmp_path / "pack")


def test_a_finished_pack_is_left_alone_and_another_one_refused(original, tmp_path):
    cfg = packed(original, tmp_path / "pack")
    before = {path: path.stat().st_mtime_ns for path in cfg.root.rglob("*.*")}
    packed(original, tmp_path / "pack")
    assert {path: path.stat().st_mtime_ns for path in cfg.root.rglob("*.*")} == before
    with pytest.raises(InputError, match=r"is a pack already, of tile=32 \(now 64\)"):
        packed(original, tmp_path / "pack", tile=64)
    with pytest.raises(InputError, match="is a pack already, of other images"):
        packed(original.model_copy(update={"limit": 2}), tmp_path / "pack")
    os.utime(original.root / "train/images/Straße 3.png", ns=(1, 1))
    with pytest.raises(InputError, match="or of these before they changed"):
        packed(original, tmp_path / "pack")


def test_foreign_folders_and_impossible_requests_are_refused(original, tmp_path):
    foreign = tmp_path / "foreign"
    (foreign / "shards").mkdir(parents=True)
    (foreign / "shards/mine.bin").write_text("precious")
    with pytest.raises(InputError, match=r"holds other things \(shards\): a pack gets a folder of its own"):
        packed(original, foreign)
    assert (foreign / "shards/mine.bin").read_text() == "precious"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: cannot be written \(File exists\)"):
        packed(original, tmp_path / "file")
    for tile in (0, 15, 5000):
        with pytest.raises(InputError, match=f"tile={tile}: tiles have sides of 16 to 4096 pixels"):
            packed(original, tmp_path / "pack", tile=tile)
    for source in (OwnData(), PackedData(root=tmp_path / "pack")):
        with pytest.raises(InputError, match=rf"data\.kind={source.kind} has no image files to pack"):
            packed(source, tmp_path / "pack")
    (tmp_path / "held").mkdir()
    with FileLock(tmp_path / "held/.lock"), pytest.raises(InputError, match="is being written by another"):
        packed(original, tmp_path / "held")


def test_a_full_disk_is_told_and_what_is_finished_stays(original, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BYTES", 1)
    compare = packing._compare

    def full(draft: Path, header: object, first: int, *rest: object) -> None:
        if first == 2:
            raise OSError(28, "No space left on device")
        compare(draft, header, first, *rest)

    monkeypatch.setattr(packing, "_compare", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); .* what is finished stays"):
        packed(original, tmp_path / "pack")
    assert len([*(tmp_path / "pack").glob("shards/*.bin")]) == 2
    monkeypatch.setattr(packing, "_compare", compare)
    same(build_dataset(packed(original, tmp_path / "pack"), "train"), Folder(original, "train"))


def test_what_the_disk_did_not_keep_is_noticed_at_once(original, tmp_path, monkeypatch):
    """A coder that changes one pixel."""
    write = packing.tile_writer

    def wrong(format: Format) -> object:
        return lambda tile: write(format)(tile ^ (np.arange(tile.size).reshape(tile.shape) == 5).view(np.uint8))

    monkeypatch.setattr(packing, "tile_writer", wrong)
    with pytest.raises(InputError, match=r"'train/images/Straße 0' read back is not what was written"):
        packed(original, tmp_path / "pack")
    with pytest.raises(InputError, match="is half a pack"):
        build_dataset(PackedData(root=tmp_path / "pack"), "train")


def test_shards_are_bounded(original, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BYTES", 20_000)
    cfg = packed(original, tmp_path / "pack", "raw")
    sizes = [path.stat().st_size for path in sorted(cfg.root.glob("shards/*.bin"))]
    largest = max(height * width * 4 for height, width in SIZES["train"])
    assert len(sizes) > 2
    assert all(20_000 <= size <= 20_000 + largest * 1.1 for size in sizes[:-1])
    same(build_dataset(cfg, "train"), Folder(original, "train"))
    same(build_dataset(cfg, "test"), Folder(original, "test"))


# --- damaged packs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("part", ["image", "mask"])
def test_one_flipped_bit_is_noticed_when_it_is_read(original, tmp_path, format, part):
    dataset = build_dataset(packed(original, tmp_path / "pack", format), "train")
    tiles = getattr(dataset.lazy(1), part)
    data = bytearray(tiles.file.read_bytes())
    for position in range(int(tiles.start[1]) - 8, int(tiles.start[1]), 3):
        data[position] ^= 4
        tiles.file.write_bytes(data)
        with pytest.raises(InputError, match=rf"00000\.bin: {part} 'train/images/Straße 1' is damaged .*copy the pack"):
            dataset[1]
        data[position] ^= 4
    tiles.file.write_bytes(data)
    same(dataset, Folder(original, "train"))


@pytest.mark.parametrize("format", FORMATS)
def test_tiles_that_stand_in_each_others_place_are_noticed_by_their_size(original, tmp_path, format):
    dataset = build_dataset(packed(original, tmp_path / "pack", format), "train")
    image = dataset.lazy(0).image
    moved = Tiles(image.file, image.start[1:], image.shape, image.tile, image.format, "moved")
    with pytest.raises(InputError, match="moved is damaged"):
        np.asarray(moved)


def test_missing_and_cut_off_parts_are_named(original, tmp_path):
    cfg = packed(original, tmp_path / "pack")
    shard, dataset = cfg.root / "shards/00000.bin", build_dataset(cfg, "train")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=rf"00000\.bin has {len(whole) - 1} bytes instead of {len(whole)}: copy"):
        build_dataset(cfg, "train")
    shard.write_bytes(whole[:300])
    with pytest.raises(InputError, match="is damaged"):
        dataset[4]
    shard.unlink()
    with pytest.raises(InputError, match=r"00000\.bin is missing: copy the pack again, or make it again"):
        build_dataset(cfg, "val")
    with pytest.raises(InputError, match=r"00000\.bin: cannot read this part of a pack \(No such file"):
        dataset[0]


def test_damaged_indexes_are_named(original, tmp_path):
    cfg = packed(original, tmp_path / "pack")
    index = cfg.root / "index.npz"
    whole = index.read_bytes()
    middle = len(whole) // 2
    for data in (b"", b"PK", whole[:middle], whole[:middle] + b"\0\1\2" + whole[middle + 3 :], b"\x93NUMPY" + whole):
        index.write_bytes(data)
        with pytest.raises(InputError, match=r"index\.npz: this index of a pack is damaged"):
            build_dataset(cfg, "train")
    header = b'{"version": 2}'
    np.savez(index, header=np.frombuffer(header, np.uint8), sizes=[], stored=[], shards=[])
    with pytest.raises(InputError, match="this index of a pack is damaged"):
        build_dataset(cfg, "train")
    index.unlink()
    for root in (cfg.root, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"is no pack: there is no .*index\.npz; `terrazzo data pack` makes one"):
            available_splits(PackedData(root=root))


def test_a_split_that_was_not_packed_is_named(original, tmp_path):
    cfg = packed(original.model_copy(update={"splits": FolderSplits()}), tmp_path / "pack")
    with pytest.raises(InputError, match="was packed without a test split, only with train, val"):
        build_dataset(cfg, "test")


def test_without_zstandard_raw_packs_work_and_others_name_the_extra(original, tmp_path, monkeypatch):
    compressed = packed(original, tmp_path / "zstd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    same(build_dataset(packed(original, tmp_path / "raw", "raw"), "train"), Folder(original, "train"))
    for attempt in (lambda: build_dataset(compressed, "train"), lambda: packed(original, tmp_path / "other")):
        with pytest.raises(InputError, match=r"pip install 'terrazzo\[pack\]'; packs with --format raw need none"):
            attempt()


def test_nothing_stays_behind(original, tmp_path):
    threads = set(threading.enumerate())
    cfg = packed(original, tmp_path / "pack")
    build_dataset(cfg, "train")[0]
    assert set(threading.enumerate()) == threads
    assert {path.name for path in cfg.root.iterdir()} <= {"index.npz", "shards", ".lock"}
    moved = shutil.move(cfg.root, tmp_path / "elsewhere")
    shutil.rmtree(original.root)
    assert len(build_dataset(PackedData(root=Path(moved)), "train")) == 5, "it needs neither its place nor the files"


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tree",
    [
        {"kind": "camvid", "root": "camvid", "limit": 4},
        {"kind": "voc", "root": "voc-person", "limit": 4},
        {
            "kind": "folder",
            "root": "pets-mini",
            "images": "images",
            "labels": "labels",
            "classes": ["background", "cat", "dog"],
            "splits": {"kind": "ratio"},
        },
    ],
    ids=lambda tree: tree["root"],
)
def test_real_data_sets_are_the_same_packed(shared_data: Path, tmp_path: Path, tree: dict):
    cfg = TypeAdapter(DataConfig).validate_python(tree | {"root": shared_data / tree["root"]})
    ours = packed(cfg, tmp_path / "pack", tile=128)
    for split in available_splits(cfg):
        same(build_dataset(ours, split), build_dataset(cfg, split))


def test_a_real_data_set_packs_smaller_than_its_pixels(shared_data: Path, tmp_path: Path):
    result = pack(recipe(CamvidData(root=shared_data / "camvid", limit=5)), tmp_path / "pack")
    assert result.bytes < 0.85 * 15 * 360 * 480 * 4
