"""One pass over all images and labels, kept as it goes so that a later pass goes on from there."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from terrazzo.base import InputError, Split
from terrazzo.check.record import RECORD, Record, record_of, stamp_of
from terrazzo.data.folder import FolderData
from terrazzo.data.inventory import Inventory
from terrazzo.data.labels import Decoder
from terrazzo.data.pixels import one_thread_per_image
from terrazzo.data.templates import Pair
from terrazzo.files import write_text

__all__ = ["Progress", "Record", "scan"]

VERSION = 1
"""Of what a record holds and how it is measured; a cache of another one is begun anew."""

Progress = Callable[[int, int], None]
"""Called with (done, all), in the thread that asked for the pass."""


def scan(
    cfg: FolderData, found: Inventory, *, cache: Path | None = None, workers: int = 4, progress: Progress | None = None
) -> list[Record]:
    """A record of every pair, in the order of the inventory. A fault of a file is told in its record.

    Args:
        cache: file that records are appended to as they are made; a later pass reads only files that changed since,
            or all if `data` decodes differently now.
        workers: threads; 0 is one too.

    Raises:
        InputError: `cache` is another kind of file, or cannot be written.
    """
    listed = [(split, pair) for split, pairs in found.pairs.items() for pair in pairs]
    splits: dict[Pair, Split] = {}
    for split, pair in listed:
        splits.setdefault(pair, split)  # a pair in two splits is read once
    decoder = Decoder(cfg.classes, cfg.decode, cfg.remap)
    records: dict[Pair, Record] = {}
    with _Kept.opened(cache, cfg) as kept, one_thread_per_image(), ThreadPoolExecutor(max(1, workers)) as pool:

        def current(pair: Pair) -> tuple[Pair, Record, bool]:
            before = kept.records.get(pair)
            unread = before is None or before.image_fault or before.label_fault  # these may be mended from outside
            if before is not None and not unread and before.stamp == stamp_of(cfg.root, pair):
                return pair, before, False
            return pair, record_of(cfg, decoder, splits[pair], pair), True

        try:
            for done, future in enumerate(as_completed([pool.submit(current, pair) for pair in splits]), start=1):
                pair, records[pair], is_new = future.result()
                if is_new:
                    kept.append(records[pair])
                if progress is not None:
                    progress(done, len(splits))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interrupt need not wait for all that is queued
            raise
    return [replace(records[pair], split=split) for split, pair in listed]


@dataclass(frozen=True)
class _Title:
    """First line of a cache."""

    cache: str
    version: int
    decode: str
    """Digest of all settings that a record depends on."""


_TITLE = TypeAdapter(_Title)


class _Kept:
    """The records of earlier passes, and where those of this one go: a title, then a record a line."""

    def __init__(self, records: dict[Pair, Record], path: Path | None):
        self.records = records
        self._file = path.open("ab", buffering=0) if path is not None else None

    @classmethod
    @contextmanager
    def opened(cls, path: Path | None, cfg: FolderData) -> "Iterator[_Kept]":
        try:
            kept = cls({} if path is None else _read_cache(path, cfg), path)
        except OSError as error:
            raise _unkept(path, error) from error
        try:
            yield kept
        finally:
            if kept._file is not None:
                kept._file.close()

    def append(self, record: Record) -> None:
        if self._file is not None:
            try:
                self._file.write(RECORD.dump_json(record) + b"\n")
            except OSError as error:
                raise _unkept(Path(self._file.name), error) from error


def _unkept(path: Path | None, error: OSError) -> InputError:
    return InputError(f"{path}: cannot keep records in this file ({error.strerror}); name another")


def _read_cache(path: Path, cfg: FolderData) -> dict[Pair, Record]:
    """The records of a cache; if there is none, or one of other settings, a new one is begun."""
    title = _Title("terrazzo scan", VERSION, _settings(cfg))
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    if lines != [b""]:
        try:
            there = _TITLE.validate_json(lines[0])
        except ValidationError:
            there = None
        if there is None or there.cache != title.cache:
            raise InputError(f"{path} is no cache of a pass over data and would be overwritten; name another file")
        if there == title:
            if lines[-1]:
                with path.open("ab") as file:  # the pass before was killed in the middle of a line
                    file.write(b"\n")
            return _parsed(lines[1:])
    write_text(path, _TITLE.dump_json(title).decode() + "\n")
    return {}


def _parsed(lines: list[bytes]) -> dict[Pair, Record]:
    records = {}
    for line in lines:
        try:
            record = RECORD.validate_json(line)
        except ValidationError:
            continue  # empty, or cut off by a kill: the pair is read again
        records[Pair(record.image, record.label)] = record
    return records


def _settings(cfg: FolderData) -> str:
    included = {"classes", "decode", "remap", "exif", "align"}
    return blake2b(cfg.model_dump_json(include=included).encode(), digest_size=16).hexdigest()
