"""`terrazzo data split`: divide the images of a recipe into train, val and test, as list files without leaks."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

from terrazzo.base import SPLITS, InputError, Split
from terrazzo.check.record import Record
from terrazzo.check.scan import scan
from terrazzo.config import RunConfig
from terrazzo.data import as_folder, available_splits
from terrazzo.data.folder import FolderData
from terrazzo.data.inventory import Inventory, inventory
from terrazzo.data.labels import Decoder
from terrazzo.data.split import ListSplits
from terrazzo.files import new_folder, write_text
from terrazzo.prepare.assign import Assigned, assign, checked_shares, group_names
from terrazzo.prepare.section import data_section, write_pairs

SHOWN = 5
"""How many bad files an error names."""


def split(
    config: RunConfig,
    out: Path,
    *,
    shares: Sequence[float] = (0.8, 0.2, 0.0),
    by: str = "image",
    stratify: bool = True,
    seed: int = 0,
    keep: Sequence[Split] = (),
    cache: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Assigned:
    """Write OUT/train.txt, val.txt, test.txt (image and label of a pair, relative to data.root), data.yaml (the section
    for a recipe) and classes.csv (images and share of pixels per class and split).

    All labelled images of the recipe's splits are shared out anew, but for those of the splits in `keep`.

    Args:
        config: the recipe; `data.limit` does not count.
        out: a new folder, written whole or not at all.
        shares: of train, val and test.
        by, stratify, seed, keep: as in `assign`.
        cache: file that keeps what was read, as in `scan`.
        workers: threads; default: data.workers.
        progress: called with (images read, images in all).

    Raises:
        InputError: `out` exists, files cannot be read, or `assign` cannot do what is asked.
    """
    if len(shares) > len(SPLITS):
        raise InputError(f"{len(shares)} shares for {len(SPLITS)} splits: give those of {', '.join(SPLITS)}")
    named = dict(zip(SPLITS, shares, strict=False))
    checked_shares(named, keep)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already; name a new folder, or delete this one")
    cfg = as_folder(config.data)
    if cfg is None:
        raise InputError(f"data.kind={config.data.kind} has no image and label files that a list could name")
    cfg = cfg.model_copy(update={"limit": None})
    found, there = inventory(cfg), available_splits(config.data)
    if missing := [name for name in keep if name not in there]:
        raise InputError(f"keep={missing[0]}: the recipe has no such split, only {', '.join(there)}")
    found = replace(found, pairs={name: pairs for name, pairs in found.pairs.items() if name in there})
    group_names([pair.name for pairs in found.pairs.values() for pair in pairs], by)  # its faults, before all is read
    records = scan(cfg, found, cache=cache, workers=cfg.workers if workers is None else workers, progress=progress)
    _check_readable(records)
    classes = Decoder(cfg.classes, cfg.decode, cfg.remap).classes.names
    assigned = assign(records, classes, named, by=by, stratify=stratify, seed=seed, keep=keep)
    assigned = replace(assigned, notes=(*assigned.notes, *_remarks(found)))
    try:
        with new_folder(out) as draft:
            _write(draft, out, cfg, assigned)
    except OSError as error:
        raise InputError(f"{out}: cannot write here ({error.strerror})") from error
    return assigned


def _check_readable(records: Sequence[Record]) -> None:
    faults = []
    for record in records:
        fault = record.image_fault or record.label_fault or record.decode_fault
        if fault is None and record.size != record.label_size:
            fault = f"{record.image} and its label {record.label} differ in size"
        if fault is not None:
            faults.append(fault)
    if faults:
        shown = "\n  ".join([*faults[:SHOWN], *["..."] * (len(faults) > SHOWN)])
        raise InputError(
            f"{len(faults)} of {len(records)} pairs cannot be trained on; `terrazzo data check` says what to do, "
            f"data.exclude leaves files out:\n  {shown}"
        )


def _remarks(found: Inventory) -> list[str]:
    notes = [*found.faults]
    if found.unlabelled:
        notes.append(
            f"{len(found.unlabelled)} images without a label are in no list, for example {found.unlabelled[0]}"
        )
    notes += [f"in no list, for their names are not unique: {', '.join(group)}" for group in found.doubles]
    return notes


def _write(draft: Path, out: Path, cfg: FolderData, assigned: Assigned) -> None:
    for name, pairs in assigned.pairs.items():
        write_pairs(draft / f"{name}.txt", pairs)
    root, home = cfg.root.resolve(), out.resolve()
    lists = home.relative_to(root) if home.is_relative_to(root) else home
    splits = ListSplits.model_validate(
        {"lines": "pairs"} | {name: (lists / f"{name}.txt").as_posix() for name in assigned.pairs}
    )
    # Lists of pairs name the files themselves: templates have no meaning beside them, nor has what to leave out.
    listed = {"images": None, "labels": None, "exclude": (), "limit": None, "splits": splits}
    section = data_section(
        FolderData.model_validate(dict(cfg) | listed), f"Lists by `terrazzo data split`, relative to {cfg.root}."
    )
    write_text(draft / "data.yaml", section)
    table = StringIO()
    csv.writer(table, lineterminator="\n").writerows(assigned.rows())
    write_text(draft / "classes.csv", table.getvalue())
