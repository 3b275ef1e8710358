"""Packs: lossless copies of data sets from which any rectangle of an image is read without the rest of it."""

import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, ValidationError

from terrazzo.base import IGNORE, Classes, Color, Config, InputError, Mask, Sample, Split
from terrazzo.data.folder import DataOptions
from terrazzo.data.labels import Decoder, Values
from terrazzo.data.packed_tiles import Format, Tiles, tile_reader

INDEX = "index.npz"
"""File of a pack that is written last: a folder without it is no pack."""

PLAN = "unfinished.json"
"""File of a pack that is there while it is being made: the header of the index."""


class PackedData(DataOptions):
    """A copy made by `terrazzo data pack`; `root` is its folder. Crops are read from it without the whole image."""

    kind: Literal["packed"] = "packed"


class PackedItem(Config):
    """An image with its label, as they were when they were packed."""

    name: str
    """Of the sample."""
    image: str
    """Path below the root of the original."""
    label: str
    """Path below the root of the original."""
    stamp: tuple[int, int, int, int]
    """Bytes and time of change (ns) of the image, then of the label."""


class Header(Config):
    """What a pack knows about its pixels, written as JSON into the index."""

    version: Literal[1] = 1
    """Of this layout of files."""
    format: Format
    tile: PositiveInt
    """Side of a tile in pixels; those at the right and lower edges are as large as what is left."""
    names: tuple[str, ...]
    """The label space: names, colours, ids and ignore_id as in `base.Classes`."""
    colors: tuple[Color, ...]
    ids: tuple[int, ...]
    ignore_id: int
    settings: dict[str, Any]
    """Of the recipe: what decides on pixels."""
    splits: dict[Split, tuple[int, ...]]
    """The items of each split, in order. One item may belong to several."""
    items: tuple[PackedItem, ...]

    @property
    def classes(self) -> Classes:
        return Classes(self.names, self.colors, self.ids, self.ignore_id)


@dataclass(frozen=True)
class Index:
    """Where everything is. An item's tiles stand behind each other: the image's row by row, then the mask's."""

    header: Header
    sizes: NDArray[np.int64]
    """Height and width of each item, [N, 2]."""
    stored: NDArray[np.int64]
    """Bytes of every tile of every item, [T]."""
    shards: NDArray[np.int64]
    """The first item of each shard, and N, [S + 1]."""

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """The first tile of each item, and T, [N + 1]."""
        rows, columns = -(-self.sizes // self.header.tile).T
        return np.concatenate(([0], np.cumsum(2 * rows * columns)))

    @cached_property
    def start(self) -> NDArray[np.int64]:
        """Where each tile starts, if all shards were one file, and where the last one ends, [T + 1]."""
        return np.concatenate(([0], np.cumsum(self.stored)))

    @cached_property
    def shard_bytes(self) -> NDArray[np.int64]:
        """[S]"""
        return np.diff(self.start[self.first[self.shards]])

    def shard(self, item: int) -> int:
        """The shard of an item."""
        return int(np.searchsorted(self.shards, item, side="right")) - 1

    def tiles(self, item: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in their shard the tiles of an item's image and of its mask start, the last end included."""
        first, last = self.first[item : item + 2].tolist()
        here = self.start[first : last + 1] - self.start[self.first[self.shards[self.shard(item)]]]
        half = (last - first) // 2
        return here[: half + 1], here[half:]


def read_index(root: Path) -> Index:
    """The index of a pack.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = root / INDEX
    if (root / PLAN).is_file() and not path.is_file():
        raise InputError(f"{root} is half a pack: type the same `terrazzo data pack` again, and it goes on")
    if not path.is_file():
        raise InputError(f"data.root={root} is no pack: there is no {path}; `terrazzo data pack` makes one")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            header = Header.model_validate_json(file["header"].tobytes())
            index = Index(header, *(file[name].astype(np.int64) for name in ("sizes", "stored", "shards")))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"{path}: this index of a pack is damaged ({detail}); make the pack again") from error
    return index


def shard_file(root: Path, shard: int) -> Path:
    return root / "shards" / f"{shard:05d}.bin"


class Pack:
    """One split of a pack. Item `i` is read from disk when asked for, from any thread; every tile is checked.

    Raises:
        InputError: it is no whole pack, or has no such split.
    """

    classes: Classes
    names: tuple[str, ...]
    files: tuple[tuple[Path, Path], ...]
    """Image and label of each item, below the root of the original; they need not be there."""

    def __init__(self, cfg: PackedData, split: Split) -> None:
        index = read_index(cfg.root)
        header = index.header
        if split not in header.splits:
            raise InputError(f"{cfg.root} was packed without a {split} split, only with {', '.join(header.splits)}")
        self._root, self._index = cfg.root, index
        self._items = header.splits[split][: cfg.limit]
        self.classes, self._table = _remapped(header.classes, cfg.remap)
        mine = [header.items[item] for item in self._items]
        self.names = tuple(item.name for item in mine)
        self.files = tuple((Path(item.image), Path(item.label)) for item in mine)
        _check_shards(cfg.root, index)
        tile_reader(header.format)  # it may have to be installed

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Sample:
        image, mask, name = self.lazy(index)
        return Sample(np.asarray(image), np.asarray(mask), name)

    def lazy(self, index: int) -> Sample:
        """The sample as `Tiles`, of which nothing is read yet."""
        item = self._items[index]
        shard = shard_file(self._root, self._index.shard(item))
        image, mask = tiles_of(shard, self._index, item, self._table)
        return Sample(image, mask, self.names[index])  # type: ignore[arg-type]  # as `base.Lazy` says

    def read_mask(self, index: int) -> Mask:
        """The mask of an item alone."""
        return np.asarray(self.lazy(index).mask)


def packed_splits(cfg: PackedData) -> tuple[Split, ...]:
    """The splits of a pack."""
    return tuple(read_index(cfg.root).header.splits)


def _remapped(classes: Classes, remap: dict[str, str]) -> tuple[Classes, Mask | None]:
    """The label space after `data.remap`, and the new id of each of 256 old ones (None: all stay)."""
    if not remap:
        return classes, None
    named = dict(zip(classes.names, classes.colors, strict=True))
    values = dict(zip(classes.ids, classes.names, strict=True))
    if classes.ignore_id != max({*range(IGNORE + 1)} - {*classes.ids}):  # the data set's own, not just a free one
        values[classes.ignore_id] = "ignore"
    new = Decoder(named, Values(map=values), remap).classes
    table = np.full(256, IGNORE, np.uint8)
    for k, name in enumerate(classes.names):
        if (target := remap.get(name, name)) in new.names:
            table[k] = new.names.index(target)
    return new, table


def _check_shards(root: Path, index: Index) -> None:
    for shard, expected in enumerate(index.shard_bytes.tolist()):
        path = shard_file(root, shard)
        found = path.stat().st_size if path.is_file() else None
        if found != expected:
            there = "is missing" if found is None else f"has {found} bytes instead of {expected}"
            raise InputError(f"{path} {there}: copy the pack again, or make it again")


def tiles_of(shard: Path, index: Index, item: int, table: Mask | None = None) -> tuple["Tiles", "Tiles"]:
    """Image [H, W, 3] and mask [H, W] of an item, `table` applied; nothing is read yet."""
    (image, mask), (height, width) = index.tiles(item), index.sizes[item].tolist()
    header, name = index.header, index.header.items[item].name
    return (
        Tiles(shard, image, (height, width, 3), header.tile, header.format, f"image {name!r}"),
        Tiles(shard, mask, (height, width), header.tile, header.format, f"mask {name!r}", table),
    )
