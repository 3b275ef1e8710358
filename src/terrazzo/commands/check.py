"""`terrazzo data check`: read every label and image once, and say what is wrong, worst first."""

import json as jsonlib
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path

from terrazzo.base import SPLITS, Classes, InputError, Split
from terrazzo.check.record import Record
from terrazzo.check.scan import scan
from terrazzo.check.statistics import Statistics, statistics
from terrazzo.check.verdicts import Verdict, together, verdicts
from terrazzo.config import RunConfig
from terrazzo.data import as_folder, available_splits
from terrazzo.data.facts import counted_ids, counted_raw
from terrazzo.data.folder import FolderData
from terrazzo.data.inventory import Inventory, inventory
from terrazzo.data.labels import Decoder, Polygons
from terrazzo.data.pixels import read_header
from terrazzo.data.templates import Pair
from terrazzo.files import write_text

PEEKED = 32
"""Labels that are decoded before a run begins."""

HEADERS = 4000
"""Pairs at most whose headers are read before a run begins, evenly over all: about three seconds on two cores."""


@dataclass(frozen=True)
class Checked:
    """What the pass found."""

    verdicts: tuple[Verdict, ...]
    """Worst first."""
    statistics: Statistics
    records: tuple[Record, ...]
    classes: Classes

    @property
    def failed(self) -> bool:
        """Whether training would fail, learn something wrong or be scored wrongly."""
        return any(verdict.severity == "error" for verdict in self.verdicts)

    @property
    def fix(self) -> tuple[str, ...]:
        """The overrides that answer all errors at once."""
        return together(verdict for verdict in self.verdicts if verdict.severity == "error")


def check(
    config: RunConfig,
    *,
    recipe: str = "RECIPE",
    json: Path | None = None,
    html: Path | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Judge the data of a recipe by all its files.

    Args:
        recipe: what stands after `terrazzo train`, for the commands in the report.
        json: file for verdicts and statistics.
        html: file for the report with pictures.
        cache: where the pass keeps what it has read, so that it goes on there and reads only what changed; by default
            a file of the user's cache folder, one a data set.
        workers: threads that read; by default one a core.

    Raises:
        InputError: the data is not made of files, or there is nothing to look at.
    """
    cfg = as_folder(config.data)
    if cfg is None:
        raise InputError(
            f"data.kind={config.data.kind} has no image and label files to check; check the data that it was made of"
        )
    when = time.strftime("%Y-%m-%d %H:%M")
    found = _labelled(config, cfg)
    cache = cache or _default_cache(cfg)
    records = scan(cfg, found, cache=cache, workers=workers or os.cpu_count() or 1, progress=progress)
    classes = Decoder(cfg.classes, cfg.decode, cfg.remap).classes
    judged = verdicts(cfg, config.data.kind, found, records)
    checked = Checked(tuple(judged), statistics(classes, records), tuple(records), classes)
    if json is not None:
        write_text(json, jsonlib.dumps(_as_json(checked, config, found), indent=1, ensure_ascii=False) + "\n")
    if html is not None:
        from terrazzo.report.labels import LabelReport, write_label_report  # templates and charts

        title = f"Labels of {cfg.root}"
        report = LabelReport(title, when, recipe, cfg, found, records, checked.verdicts, checked.statistics)
        write_label_report(html, report)
    return checked


def quick_check(config: RunConfig) -> list[Verdict]:
    """What can be said before a run begins: how all files pair, what headers and a few labels hold."""
    cfg = as_folder(config.data)
    if cfg is None:
        return []
    found = _labelled(config, cfg)
    decoder = Decoder(cfg.classes, cfg.decode, cfg.remap)
    listed = [(split, pair) for split, pairs in found.pairs.items() for pair in pairs]
    listed = listed[:: max(1, -(-len(listed) // HEADERS))]
    with ThreadPoolExecutor(max(1, config.data.workers)) as pool:
        records = list(pool.map(lambda each: _header(cfg, *each), listed))
        peeked = list(_spread(records))
        for place, record in zip(peeked, pool.map(lambda k: _peek(cfg, decoder, records[k]), peeked), strict=True):
            records[place] = record
    return verdicts(cfg, config.data.kind, found, records, sample=True)


def check_labels(cfg: RunConfig) -> list[str]:
    """What headers and a few labels say about the data, in lines for people.

    Raises:
        InputError: training cannot work; what was seen, and what to type.
    """
    found = quick_check(cfg)
    errors = [verdict for verdict in found if verdict.severity == "error"]
    if errors:
        lines = [f"{each.title} ({each.evidence}){_named(each.files)}. {each.advice}".rstrip() for each in errors]
        fix = together(errors)
        typed = f"\nWhat answers it: {shlex.join(fix)}" if fix else ""
        raise InputError("\n".join(lines) + typed + "\n`terrazzo data check` reads all files and shows them")
    return [
        f"{each.title} ({each.evidence}); see `terrazzo data check`" for each in found if each.severity == "warning"
    ]


def _named(files: Sequence[str]) -> str:
    """': a.png, b.png and 7 more' for a sentence."""
    shown = ", ".join(files[:3])
    return (f": {shown}" + (f" and {len(files) - 3} more" if len(files) > 3 else "")) if files else ""


def _labelled(config: RunConfig, cfg: FolderData) -> Inventory:
    """The files of all splits that have labels: the dummies of a test split say nothing."""
    found, splits = inventory(cfg), available_splits(config.data)
    return replace(found, pairs={split: pairs for split, pairs in found.pairs.items() if split in splits})


def _default_cache(cfg: FolderData) -> Path | None:
    """A file of the user's cache folder; None where there is none to write to."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(home) if home else Path.home() / ".cache") / "terrazzo" / "check"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a read-only home, or none at all
        return None
    name = blake2b(str(cfg.root.resolve()).encode(), digest_size=16).hexdigest()
    return folder / f"{name}.jsonl" if os.access(folder, os.W_OK) else None


def _header(cfg: FolderData, split: Split, pair: Pair) -> Record:
    """What the headers of a pair say."""
    record = Record(split, pair.name, pair.image, pair.label, (-1, -1, -1, -1))
    try:
        header = read_header(cfg.root / pair.image)
        record = replace(
            record,
            stored=header.stored,
            size=header.size(cfg.exif),
            orientation=header.orientation,
            mode=header.mode,
        )
    except InputError as error:
        record = replace(record, image_fault=str(error))
    if isinstance(cfg.decode, Polygons) or pair.label.lower().endswith(".txt"):
        return record
    try:
        header = read_header(cfg.root / pair.label)
    except InputError as error:
        return replace(record, label_fault=str(error))
    return replace(record, label_size=header.size(), label_mode=header.mode, label_format=header.format)


def _spread(records: list[Record]) -> Iterator[int]:
    """Places of a few records, the same number of each split, evenly over it."""
    places = [[k for k, record in enumerate(records) if record.split == split] for split in SPLITS]
    there = [each for each in places if each]
    for each in there:
        most = max(1, PEEKED // len(there))
        yield from each[:: max(1, -(-len(each) // most))]


def _peek(cfg: FolderData, decoder: Decoder, record: Record) -> Record:
    """The record with what its label holds."""
    if record.label_fault is not None:
        return record
    try:
        raw, mask = decoder.look(cfg.root / record.label)
    except InputError as error:
        return replace(record, label_fault=str(error))
    record = replace(record, label_size=(mask.shape[0], mask.shape[1]), counts=counted_ids(mask))
    if raw is None:
        return record
    values, colors, more = counted_raw(raw.array, raw.palette)
    return replace(record, label_mode=raw.mode, label_format=raw.format, values=values, colors=colors, more=more)


def _as_json(checked: Checked, config: RunConfig, found: Inventory) -> dict[str, object]:
    return {
        "root": config.data.root.as_posix(),
        "kind": config.data.kind,
        "images": {split: len(pairs) for split, pairs in found.pairs.items()},
        "failed": checked.failed,
        "fix": list(checked.fix),
        "verdicts": [asdict(verdict) | {"yaml": verdict.yaml} for verdict in checked.verdicts],
        "statistics": checked.statistics.as_dict(),
    }
