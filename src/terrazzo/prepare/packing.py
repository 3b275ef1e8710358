"""Writing packs: every image is decoded once, cut into tiles and put into shards; a killed pass goes on."""

import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import ValidationError

from terrazzo.base import InputError, Split
from terrazzo.data.draws import checked_sample
from terrazzo.data.folder import Folder, FolderData
from terrazzo.data.geometry import Size
from terrazzo.data.packed import INDEX, PLAN, Header, Index, PackedItem, read_index, shard_file, tiles_of
from terrazzo.data.packed_tiles import Format, cut, tile_writer
from terrazzo.files import replacing, write_text

SHARD_BYTES = 1 << 28
"""A shard ends with the item that brings it to this size."""

RESOLVED = {"root", "workers", "worker_kind", "limit", "splits", "images", "labels", "exclude"}
"""Settings of a data set that change which files there are, not what is in them."""

LOCK = ".lock"

Progress = Callable[[int, int], None]

Source = tuple[Folder, int]
"""An item of a split that is to be packed."""


@dataclass(frozen=True)
class Encoded:
    """An item as it will stand in a shard."""

    size: tuple[int, int]
    tiles: list[bytes]
    """The image's, then the mask's."""
    checksum: int
    """Of all pixels."""


@dataclass(frozen=True)
class Shard:
    """What the index has to know of a shard."""

    sizes: NDArray[np.int64]
    """Height and width of its items, [n, 2]."""
    stored: NDArray[np.int64]
    """Bytes of each of their tiles."""


def write_pack(
    sets: Mapping[Split, Folder],
    cfg: FolderData,
    out: Path,
    *,
    format: Format,
    tile: int,
    workers: int,
    progress: Progress | None = None,
) -> Index:
    """Pack all items of `sets` into the folder `out`, or go on with what a killed call left there.

    The index is written last, so that half a pack is never taken for a whole one. Every shard is read back and
    compared before it counts.

    Raises:
        InputError: an image or label cannot be read, `out` holds something else, or cannot be written.
    """
    header, sources = planned(sets, cfg, format, tile)
    try:
        with _held(out):
            if (out / INDEX).exists():
                return _already_there(out, header)
            shards = _left_there(out, header)
            _write_shards(out, header, sources, shards, workers, progress)
            index = _joined(header, shards)
            _write_index(out, index)
            _tidy(out)
            return index
    except OSError as error:  # those of reading the originals are InputErrors
        raise InputError(
            f"{out}: cannot be written ({error.strerror or error}); choose another folder, or make room and type the "
            "same again: what is finished stays"
        ) from error


def planned(sets: Mapping[Split, Folder], cfg: FolderData, format: Format, tile: int) -> tuple[Header, list[Source]]:
    """What will stand in the pack, in its order: every pair of files once, whatever splits it belongs to."""
    numbers: dict[tuple[Path, Path], int] = {}
    items, sources = list[PackedItem](), list[Source]()
    for folder in sets.values():
        for index, (name, files) in enumerate(zip(folder.names, folder.files, strict=True)):
            if files in numbers:
                continue
            numbers[files] = len(items)
            image, label = (file.relative_to(cfg.root).as_posix() for file in files)
            items.append(PackedItem(name=name, image=image, label=label, stamp=_stamp(*files)))
            sources.append((folder, index))
    classes = next(iter(sets.values())).classes
    header = Header(
        format=format,
        tile=tile,
        names=classes.names,
        colors=classes.colors,
        ids=classes.ids,
        ignore_id=classes.ignore_id,
        settings=json.loads(cfg.model_dump_json(exclude=RESOLVED)),
        splits={split: tuple(numbers[files] for files in folder.files) for split, folder in sets.items()},
        items=tuple(items),
    )
    return header, sources


def _stamp(image: Path, label: Path) -> tuple[int, int, int, int]:
    try:
        of_image, of_label = image.stat(), label.stat()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be opened ({error.strerror})") from error
    return of_image.st_size, of_image.st_mtime_ns, of_label.st_size, of_label.st_mtime_ns


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """The folder `out`, made if it is not there, for this process alone."""
    out.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    if names and not names & {INDEX, PLAN}:
        raise InputError(f"{out} holds other things ({', '.join(sorted(names)[:3])}): a pack gets a folder of its own")
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{out} is being written by another terrazzo process") from None
    try:
        yield
    finally:
        lock.release()


def _already_there(out: Path, header: Header) -> Index:
    """The whole pack in `out`, if it is the one that was asked for."""
    index = read_index(out)
    if (differs := _difference(index.header, header)) or index.header != header:
        raise InputError(
            f"{out} is a pack already, of {differs or 'other images, or of these before they changed'}; choose another "
            "folder, or delete it"
        )
    _tidy(out)  # if the process was killed before it could
    return index


def _left_there(out: Path, header: Header) -> list[Shard]:
    """The shards that an earlier call finished and that are what would be written now; everything else is removed."""
    plan, shards = out / PLAN, list[Shard]()
    if plan.is_file():
        before = _read_plan(plan)
        if differs := _difference(before, header):
            raise InputError(f"{out} holds half a pack of {differs}; choose another folder, or delete it")
        shards = _still_right(out, before, header)
    kept = {path for k in range(len(shards)) for path in (shard_file(out, k), _notes(shard_file(out, k)))}
    for path in {*out.glob("shards/*"), *out.glob(".*.json"), *out.glob(".*.npz")} - kept:
        path.unlink()
    write_text(plan, header.model_dump_json())
    return shards


def _read_plan(plan: Path) -> Header:
    try:
        return Header.model_validate_json(plan.read_bytes())
    except ValidationError as error:
        raise InputError(f"{plan} is damaged ({error.errors()[0]['msg']}); delete its folder and pack again") from error


def _difference(before: Header, now: Header) -> str | None:
    """The first setting that decides on pixels and was another; which items there are is another question."""
    old, new = (
        header.model_dump(mode="json", exclude={"items", "splits", "settings"}) | header.settings
        for header in (before, now)
    )
    return next(
        (f"{key}={old.get(key)} (now {new.get(key)})" for key in old | new if old.get(key) != new.get(key)), None
    )


def _still_right(out: Path, before: Header, now: Header) -> list[Shard]:
    """Finished shards up to the first whose items were changed, added or taken away."""
    shards: list[Shard] = []
    first = 0
    while _notes(path := shard_file(out, len(shards))).is_file():
        with np.load(_notes(path), allow_pickle=False) as file:
            shard = Shard(file["sizes"], file["stored"])
        last = first + len(shard.sizes)
        whole = path.is_file() and path.stat().st_size == shard.stored.sum()
        if not whole or before.items[first:last] != now.items[first:last]:
            break
        shards.append(shard)
        first = last
    return shards


def _ahead(
    pool: ThreadPoolExecutor, make: Callable[[Source], Encoded], sources: Iterable[Source], most: int
) -> Iterator[Encoded]:
    """Items in order, at most so many of them finished or under way at once."""
    todo = iter(sources)
    waiting = deque(pool.submit(make, source) for source in islice(todo, most))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(make, source) for source in islice(todo, 1))


def _encoded(source: Source, *, format: Format, tile: int) -> Encoded:
    image, mask, _ = checked_sample(*source)
    write = tile_writer(format)
    tiles = [write(part) for array in (image, mask) for part in cut(array, tile)]
    return Encoded((mask.shape[0], mask.shape[1]), tiles, _checksum(image, mask))


def _checksum(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(mask).data, zlib.crc32(np.ascontiguousarray(image).data))


def _write_shards(
    out: Path,
    header: Header,
    sources: Sequence[Source],
    shards: list[Shard],
    workers: int,
    progress: Progress | None,
) -> None:
    """Append the shards that are not in `shards` yet. The pool works ahead while one is filled."""
    done = sum(len(shard.sizes) for shard in shards)
    encode = partial(_encoded, format=header.format, tile=header.tile)
    with ThreadPoolExecutor(workers, thread_name_prefix="terrazzo-pack") as pool:
        encoded = _told(_ahead(pool, encode, sources[done:], workers + 1), done, len(sources), progress)
        while done < len(sources):
            shards.append(_write_shard(shard_file(out, len(shards)), header, done, encoded, pool))
            done += len(shards[-1].sizes)


def _told(encoded: Iterator[Encoded], done: int, total: int, progress: Progress | None) -> Iterator[Encoded]:
    for number, item in enumerate(encoded, start=done + 1):
        if progress is not None:
            progress(number, total)
        yield item


def _write_shard(path: Path, header: Header, first: int, encoded: Iterator[Encoded], pool: ThreadPoolExecutor) -> Shard:
    """Write items from `first` on until the shard is full, read them back, and note that it is there."""
    checksums, sizes, stored = list[int](), list[Size](), list[int]()
    with replacing(path) as draft:
        with draft.open("wb") as file:
            for item in encoded:
                file.writelines(item.tiles)
                checksums.append(item.checksum)
                sizes.append(item.size)
                stored.extend(map(len, item.tiles))
                if file.tell() >= SHARD_BYTES:
                    break
        shard = Shard(np.array(sizes, np.int64), np.array(stored, np.int64))
        _compare(draft, header, first, shard, checksums, pool)
    with replacing(_notes(path)) as draft:
        np.savez(draft, sizes=shard.sizes, stored=shard.stored)
    return shard


def _compare(
    draft: Path, header: Header, first: int, shard: Shard, checksums: list[int], pool: ThreadPoolExecutor
) -> None:
    """Read a shard back as training will.

    Raises:
        InputError: it does not hold what was written.
    """
    part = header.model_copy(update={"items": header.items[first : first + len(shard.sizes)]})
    index = _joined(part, [shard])

    def read_back(item: int) -> int:
        image, mask = tiles_of(draft, index, item)
        return _checksum(np.asarray(image), np.asarray(mask))

    for item, (found, expected) in enumerate(zip(pool.map(read_back, range(len(checksums))), checksums, strict=True)):
        if found != expected:
            raise InputError(f"{draft.parent}: {part.items[item].name!r} read back is not what was written")


def _joined(header: Header, shards: Sequence[Shard]) -> Index:
    counts = [len(shard.sizes) for shard in shards]
    return Index(
        header,
        np.concatenate([shard.sizes for shard in shards]),
        np.concatenate([shard.stored for shard in shards]),
        np.concatenate(([0], np.cumsum(counts))),
    )


def _write_index(out: Path, index: Index) -> None:
    header = np.frombuffer(index.header.model_dump_json().encode(), np.uint8)
    with replacing(out / INDEX) as draft:
        np.savez_compressed(draft, header=header, sizes=index.sizes, stored=index.stored, shards=index.shards)


def _notes(shard: Path) -> Path:
    """File that is there while a pack is made: it says of a shard that it is finished, and what stands in it."""
    return shard.with_suffix(".npz")


def _tidy(out: Path) -> None:
    """Remove what only an unfinished pack needs."""
    for path in (*out.glob("shards/*.npz"), out / PLAN):
        path.unlink(missing_ok=True)
