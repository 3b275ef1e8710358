"""`terrazzo data pack`: a lossless copy of a recipe's data that crops are read from fast."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from terrazzo.base import InputError, Split
from terrazzo.config import RunConfig
from terrazzo.data import as_folder, available_splits
from terrazzo.data.folder import Folder
from terrazzo.data.packed_tiles import Format
from terrazzo.prepare.packing import write_pack

TILES = range(16, 4097)
"""Sides that a tile may have."""


@dataclass(frozen=True)
class Packed:
    """A finished pack."""

    path: Path
    format: Format
    splits: dict[Split, int]
    """Images of each split."""
    images: int
    shards: int
    bytes: int
    """Of all shards."""
    original_bytes: int
    """Of the image and label files."""

    def __str__(self) -> str:
        splits = ", ".join(f"{split} {images}" for split, images in self.splits.items())
        size, original = self.bytes / 1e6, self.original_bytes / 1e6
        return (
            f"{self.path}: {self.images} images ({splits}) in {self.shards} shard{'s' * (self.shards > 1)}, "
            f"{size:.1f} MB, {size / original:.2f} x the originals' {original:.1f} MB; read back and compared"
        )


def pack(
    config: RunConfig,
    out: Path,
    *,
    format: Format = "zstd",
    tile: int = 128,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Write all splits that have labels, decoded as the recipe says, into the folder `out`.

    A call that was killed is gone on with by the same call; a pack that is finished and right is left as it is.

    Args:
        config: its `data` is packed, `limit` and `remap` applied.
        out: a new folder, or one that this call has begun.
        format: `zstd` is smaller, `raw` is faster to read.
        tile: side of the squares that images are cut into, in pixels.
        workers: threads that read and compress; default: the number of cores.
        progress: called with (images done, images in all).

    Raises:
        InputError: the data is no files, one of them cannot be read, or `out` cannot be written.
    """
    folder = as_folder(config.data)
    if folder is None:
        raise InputError(f"data.kind={config.data.kind} has no image files to pack; give a recipe whose data has some")
    if tile not in TILES:
        raise InputError(
            f"tile={tile}: tiles have sides of {TILES.start} to {TILES.stop - 1} pixels, 128 is a good one"
        )
    sets = {split: Folder(folder, split) for split in available_splits(config.data)}
    index = write_pack(
        sets, folder, out, format=format, tile=tile, workers=workers or os.cpu_count() or 1, progress=progress
    )
    header = index.header
    return Packed(
        out,
        header.format,
        {split: len(items) for split, items in header.splits.items()},
        len(header.items),
        len(index.shards) - 1,
        int(index.shard_bytes.sum()),
        sum(item.stamp[0] + item.stamp[2] for item in header.items),
    )
