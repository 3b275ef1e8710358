"""The pass over all files: what its records say, and that nothing is read twice, whatever stops it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import terrazzo.check.scan
from terrazzo.base import IGNORE, InputError
from terrazzo.check.record import Record
from terrazzo.check.scan import scan
from terrazzo.data.facts import digest
from terrazzo.data.folder import Folder, FolderData
from terrazzo.data.inventory import inventory
from terrazzo.data.pixels import UNKNOWN


def picture(seed: int, size: tuple[int, int] = (24, 32)) -> tuple[np.ndarray, np.ndarray]:
    """An image of three regions, and its mask."""
    mask = np.zeros(size, np.uint8)
    cv2.circle(mask, (10 + seed, 12), 6, 1, -1)
    mask[-3:] = 2
    image = np.array([[200, 60, 30], [20, 160, 90], [90, 90, 220]], np.uint8)[mask]
    return image, mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in range(4):
        image, mask = picture(seed)
        for folder, array in (("images", image), ("labels", mask)):
            path = tmp_path / "data" / folder / ("val" if seed == 3 else "train") / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return tmp_path / "data"


def data(root: Path, **options: object) -> FolderData:
    given = {"images": "images/{split}", "labels": "labels/{split}", "classes": ["a", "b", "c"], **options}
    return FolderData.model_validate({"root": root, **given})


def scanned(cfg: FolderData, **options: object) -> list[Record]:
    return scan(cfg, inventory(cfg), **options)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that are read from here on."""
    names: list[str] = []
    original = terrazzo.check.scan.record_of

    def counting(cfg, decoder, split, pair):
        names.append(pair.image)
        return original(cfg, decoder, split, pair)

    monkeypatch.setattr(terrazzo.check.scan, "record_of", counting)
    return names


# --- what a record says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 3])
def test_a_record_of_every_pair_in_the_order_of_training(root, workers):
    cfg = data(root)
    seen: list[tuple[int, int]] = []
    records = scanned(cfg, workers=workers, progress=lambda *numbers: seen.append(numbers))
    assert [(r.split, r.name) for r in records] == [
        *(("train", name) for name in Folder(cfg, "train").names),
        *(("val", name) for name in Folder(cfg, "val").names),
    ]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    image, mask = picture(1)
    record = records[1]
    assert (record.image_fault, record.label_fault, record.decode_fault) == (None, None, None)
    assert record.size == record.stored == record.label_size == (24, 32)
    assert (record.orientation, record.mode, record.label_mode, record.label_format) == (1, "RGB", "L", "PNG")
    assert record.counts == record.values == {k: int((mask == k).sum()) for k in (0, 1, 2)}
    assert {k: region.number for k, region in record.components.items()} == {0: 1, 1: 1, 2: 1}
    assert all(mask[y, x] == k for k, positions in record.positions.items() for y, x in positions)
    np.testing.assert_allclose(record.mean, image.mean((0, 1)))
    assert (record.digest, record.label_digest) == (digest(image), digest(mask))
    assert record.alignment.poses["as it is"] > record.alignment.poses["upside down"]


def test_records_go_through_json_and_back(root):
    Image.fromarray(np.full((24, 32), 7, np.uint8)).save(root / "labels/train/0.png")
    (root / "images/train/1.png").write_bytes(b"")
    for record in scanned(data(root)):
        assert Record.of_json(json.loads(json.dumps(record.as_json()))) == record


def test_what_the_config_does_not_know_is_told_and_counted(root):
    _, mask = picture(0)
    mask[0, :5] = 9
    Image.fromarray(mask).save(root / "labels/train/0.png")
    first, second, *_ = scanned(data(root))
    assert first.counts[UNKNOWN] == first.values[9] == 5
    assert "value 9 (5 pixels)" in first.decode_fault
    assert second.decode_fault is None


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("images/train/0.png", b"", "image_fault"),
        ("images/train/0.png", b"no picture", "image_fault"),
        ("labels/train/0.png", b"", "label_fault"),
        ("labels/train/0.png", b"\x89PNG\r\n\x1a\n cut", "label_fault"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_the_other_is_read(root, file, content, fault):
    (root / file).write_bytes(content)
    record, whole, *_ = scanned(data(root))
    other = {"image_fault": "label_fault", "label_fault": "image_fault"}[fault]
    assert file in getattr(record, fault)
    assert getattr(record, other) is None
    assert (record.size is None, record.label_size is None) == (fault == "image_fault", fault == "label_fault")
    assert record.alignment is None
    assert whole.alignment is not None


def test_truncated_files_are_told(root):
    for file in ("images/train/0.png", "labels/train/1.png"):
        content = (root / file).read_bytes()
        (root / file).write_bytes(content[: len(content) // 2])
    first, second, *_ = scanned(data(root))
    assert "images/train/0.png" in first.image_fault
    assert "labels/train/1.png" in second.label_fault


def test_a_photograph_that_is_turned_by_its_tag(root):
    image, _ = picture(0)
    tags = Image.Exif()
    tags[0x0112] = 6
    (root / "images/train/0.png").unlink()
    Image.fromarray(image).save(root / "images/train/0.jpg", exif=tags)
    turned, *_ = scanned(data(root, images="images/{split}/{id}.*", labels="labels/{split}/{id}.png"))
    assert (turned.orientation, turned.stored, turned.size, turned.label_size) == (6, (24, 32), (32, 24), (24, 32))
    assert turned.alignment is None
    kept, *_ = scanned(data(root, images="images/{split}/{id}.*", labels="labels/{split}/{id}.png", exif="ignore"))
    assert (kept.orientation, kept.stored, kept.size) == (6, (24, 32), (24, 32))


def test_labels_are_counted_as_training_sees_them(root):
    """Merged, moved: the same mask as the data set gives."""
    cfg = data(root, remap={"c": "a"}, align={"shift": [4, 0]})
    for record, index in zip(scanned(cfg), range(3), strict=False):
        mask = Folder(cfg, "train")[index].mask
        assert record.counts == {k: int((mask == k).sum()) for k in np.unique(mask).tolist()}
        assert record.counts[IGNORE] == 4 * 24
        assert 2 in record.values, "the file still has its own ids"


# --- passes that go on from earlier ones ------------------------------------------------------------------------------


def test_only_what_changed_is_read_again(root, tmp_path, read):
    cfg, cache = data(root), tmp_path / "cache/scan.jsonl"
    first = scanned(cfg, cache=cache)
    assert len(read) == 4
    assert scanned(cfg, cache=cache) == first
    assert len(read) == 4
    _, mask = picture(7)
    Image.fromarray(mask).save(root / "labels/train/1.png")
    status = (root / "images/val/3.png").stat()
    os.utime(root / "images/val/3.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    second = scanned(cfg, cache=cache)
    assert sorted(read[4:]) == ["images/train/1.png", "images/val/3.png"]
    assert second == scanned(cfg)
    assert second[1].label_digest == digest(mask) != first[1].label_digest
    assert second[3] == replace(first[3], stamp=second[3].stamp)


def test_other_settings_of_the_labels_read_all_again(root, tmp_path, read):
    cache = tmp_path / "scan.jsonl"
    scanned(data(root), cache=cache)
    del read[:]
    scanned(data(root, workers=1, limit=2), cache=cache)
    assert read == [], "these do not change what is read"
    assert len(scanned(data(root), cache=cache)) == 4
    assert read == [], "what a shorter pass left out is still known"
    (merged, *_) = scanned(data(root, remap={"c": "b"}), cache=cache)
    assert len(read) == 4
    assert 2 not in merged.counts


def test_a_pass_that_was_stopped_goes_on(root, tmp_path, read):
    cfg, cache = data(root), tmp_path / "scan.jsonl"

    def interrupted(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scanned(cfg, cache=cache, workers=1, progress=interrupted)
    known = cache.read_bytes().count(b"\n") - 1
    assert known == 2
    cache.write_bytes(cache.read_bytes()[:-40])  # and the power went in the middle of a line
    del read[:]
    assert scanned(cfg, cache=cache) == scanned(cfg)
    assert len(read) == 3 + 4
    del read[:]
    assert scanned(cfg, cache=cache) == scanned(cfg)
    assert len(read) == 4, "all of the first of the two were known"


def test_faulty_files_are_always_read_again(root, tmp_path, read):
    """Access rights may be mended without a trace in size or time."""
    cfg, cache = data(root), tmp_path / "scan.jsonl"
    (root / "images/train/0.png").write_bytes(b"")
    scanned(cfg, cache=cache)
    del read[:]
    scanned(cfg, cache=cache)
    assert read == ["images/train/0.png"]


@pytest.mark.parametrize("content", ["precious notes\n", '{"cache": "of something else"}\n', "\x00"])
def test_a_file_that_is_no_cache_is_left_alone(root, tmp_path, content):
    cache = tmp_path / "notes.txt"
    cache.write_text(content)
    with pytest.raises(InputError, match=r"notes\.txt is no cache .* name another file"):
        scanned(data(root), cache=cache)
    assert cache.read_text() == content


def test_a_cache_that_cannot_be_written(root, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"folder: cannot keep records in this file"):
        scanned(data(root), cache=tmp_path / "folder")
    with pytest.raises(InputError, match="cannot keep records"):
        scanned(data(root), cache=root / "images/train/0.png/scan.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_becomes_full(root, monkeypatch):
    monkeypatch.setattr(terrazzo.check.scan, "_read_cache", lambda *_: {})
    with pytest.raises(InputError, match=r"/dev/full: cannot keep records in this file \(No space left"):
        scanned(data(root), cache=Path("/dev/full"))


def test_a_pair_in_two_splits_is_read_once_and_told_twice(root, read):
    (root / "train.txt").write_text("0\n1\n")
    (root / "val.txt").write_text("1\n2\n")
    lists = {"kind": "lists", "train": "train.txt", "val": "val.txt"}
    cfg = data(root, images="images/train", labels="labels/train", splits=lists)
    records = scanned(cfg)
    assert [(r.split, Path(r.image).stem) for r in records] == [
        ("train", "0"),
        ("train", "1"),
        ("val", "1"),
        ("val", "2"),
    ]
    assert records[2] == replace(records[1], split="val")
    assert len(read) == 3
