"""From a data set of any layout to plain pairs: images, index masks and lists, made in parallel and taken up again."""

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from terrazzo.base import SPLITS, InputError, Split
from terrazzo.data.augment import Keep, ResizeConfig, resize_image, resize_mask
from terrazzo.data.folder import Folder, FolderData
from terrazzo.data.labels import IGNORED, Values
from terrazzo.data.pixels import read_header
from terrazzo.data.split import FolderSplits, ListSplits, origin_of, source_of
from terrazzo.data.templates import Template
from terrazzo.files import write_text
from terrazzo.prepare.section import check_id, data_section, write_ids
from terrazzo.prepare.writing import ImageFormat, windows, write_image, write_mask

JOURNAL = "prepared.jsonl"
"""File of what is done: the settings, then a line for each image. A later call takes it up."""

SECTION = "data.yaml"
"""Written last: a folder without it is not complete."""

SHOWN = 20
"""How many bad files an error names."""


@dataclass(frozen=True)
class Changes:
    """What is done to every image and its mask, in this order."""

    resize: ResizeConfig = field(default_factory=Keep)
    """Images bilinear or averaged, masks nearest."""
    tile: int | None = None
    """Cut into squares of so many pixels."""
    overlap: int = 0
    """Pixels that neighbouring squares share at least."""
    image_format: ImageFormat = "copy"
    """`copy`: the very bytes where no pixel changes, else PNG."""

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < 1:
            raise InputError(f"tile={self.tile} must be at least 1 pixel")
        if self.overlap and (self.tile is None or not 0 <= self.overlap < self.tile):
            raise InputError(f"overlap={self.overlap} must be between 0 and tile={self.tile} pixels")


@dataclass(frozen=True)
class Prepared:
    """What is in the folder now."""

    out: Path
    images: dict[Split, int]
    """Of the original."""
    written: dict[Split, int]
    """Pairs of image and mask: more than `images` if they were cut."""
    reused: int
    """Images that an earlier call had done."""

    def __str__(self) -> str:
        lines = [
            f"{split}: {self.written[split]} pairs" + f" from {images} images" * (self.written[split] != images)
            for split, images in self.images.items()
        ]
        return "\n".join([*lines, *[f"{self.reused} images were done already"] * bool(self.reused)])


@dataclass(frozen=True)
class _Task:
    """One image of the original."""

    dataset: Folder
    index: int
    split: Split
    name: str
    """Below `SPLIT_img` and `SPLIT_label`, without extension."""

    @property
    def key(self) -> str:
        return f"{self.split}/{self.name}"

    def stamp(self) -> list[int]:
        """Bytes and time of change of both files."""
        found = [path.stat() for path in self.dataset.files[self.index]]
        return [number for each in found for number in (each.st_size, each.st_mtime_ns)]


@dataclass(frozen=True)
class _Done:
    """A line of the journal."""

    key: str
    image: str
    label: str
    """Where they came from."""
    stamp: list[int]
    files: dict[str, int]
    """Path below the folder -> bytes; image and mask in turn."""

    def holds(self, out: Path, task: _Task) -> bool:
        """Nothing changed since, neither there nor here."""
        there = all((out / file).is_file() and (out / file).stat().st_size == size for file, size in self.files.items())
        return there and self.stamp == task.stamp()


def prepare_files(
    cfg: FolderData,
    splits: Sequence[Split],
    out: Path,
    changes: Changes,
    *,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Write OUT/SPLIT_img, OUT/SPLIT_label, OUT/splits/SPLIT.txt and OUT/data.yaml; what is done already stays.

    Raises:
        InputError: `out` is no place for it, or some files cannot be read (the others are done first).
    """
    sets = {split: Folder(cfg, split) for split in splits}
    _check_apart(out, cfg.root, sets.values())
    tasks = {task.key: task for split, dataset in sets.items() for task in _tasks(cfg, split, dataset)}
    done = _take_up(out, _settings(cfg, changes), tasks)
    reused, faults = len(done), []
    todo = [task for key, task in tasks.items() if key not in done]
    with (
        (out / JOURNAL).open("a", encoding="utf-8") as journal,
        closing(_results(out, todo, changes, workers)) as results,
    ):
        for count, result in enumerate(results, start=reused + 1):
            if isinstance(result, _Done):
                done[result.key] = result
                journal.write(_line(asdict(result)))
                journal.flush()
            else:
                faults.append(str(result))
            if progress is not None:
                progress(count, len(tasks))
    if faults:
        shown = "\n  ".join([*sorted(faults)[:SHOWN], *["..."] * (len(faults) > SHOWN)])
        raise InputError(
            f"{len(faults)} of {len(tasks)} images failed; the others are in {out}. Repair these or leave them out with"
            f" data.exclude, then type the same again:\n  {shown}"
        )
    entries = {split: [done[key] for key, task in tasks.items() if task.split == split] for split in splits}
    _finish(out, cfg, sets, entries)
    written = {split: sum(len(entry.files) // 2 for entry in each) for split, each in entries.items()}
    return Prepared(out, {split: len(dataset) for split, dataset in sets.items()}, written, reused)


def _check_apart(out: Path, root: Path, sets: Iterable[Folder]) -> None:
    """Originals stay as they are, and what is written must not be found among them later. Links are followed."""
    home = out.resolve()
    folders = {path.parent for dataset in sets for pair in dataset.files for path in pair}
    for folder in (root, *sorted(folders)):
        source = folder.resolve()
        if home.is_relative_to(source) or source.is_relative_to(home):
            raise InputError(f"{out} and the original files in {source} lie in each other; choose a folder apart")


def _tasks(cfg: FolderData, split: Split, dataset: Folder) -> Iterator[_Task]:
    """Images keep their path below the fixed folders of `data.images`, so that equal names of two folders stay two."""
    source = source_of(cfg.splits, split) if isinstance(cfg.splits, FolderSplits) else origin_of(cfg.splits, split)
    base = "." if cfg.images is None else Template.of(cfg.images, source).folder
    seen: dict[str, str] = {}
    for index, name in enumerate(dataset.names):
        short = PurePosixPath(name).relative_to(base).as_posix()
        check_id(short)
        if (other := seen.setdefault(short.casefold(), name)) != name:
            raise InputError(
                f"{other} and {name} differ in upper and lower case only and would be one file on many systems; rename "
                "one, or leave it out with data.exclude"
            )
        yield _Task(dataset, index, split, short)


def _settings(cfg: FolderData, changes: Changes) -> dict[str, Any]:
    """What decides the pixels that are written."""
    paths = {"kind", "root", "workers", "worker_kind", "limit", "images", "labels", "splits", "exclude"}
    chosen = {"tile": changes.tile, "overlap": changes.overlap, "image_format": changes.image_format}
    return {**cfg.model_dump(mode="json", exclude=paths), "resize": changes.resize.model_dump(mode="json"), **chosen}


def _take_up(out: Path, settings: dict[str, Any], tasks: Mapping[str, _Task]) -> dict[str, _Done]:
    """What an earlier call did and still holds; the rest of what it wrote is removed.

    Raises:
        InputError: the folder holds something else, or was prepared with other settings.
    """
    journal = out / JOURNAL
    if not journal.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} is there already and was not made by `terrazzo data prepare`; name a new folder")
        write_text(journal, _line(settings))
        return {}
    try:
        found, *lines = _lines(journal)
        done = {entry.key: entry for entry in (_Done(**line) for line in lines)}
    except (ValueError, TypeError) as error:
        raise InputError(f"{journal} is damaged ({error}); name a new folder, or delete this one") from error
    if found != settings:
        differing = ", ".join(sorted(key for key in found | settings if found.get(key) != settings.get(key)))
        raise InputError(f"{out} was prepared with other settings ({differing}); name a new folder, or delete this one")
    for draft in out.rglob(".????????.*"):  # of `replacing`, left by a kill
        draft.unlink()
    kept = {key: each for key, each in done.items() if key in tasks and each.holds(out, tasks[key])}
    if kept.keys() != tasks.keys() or kept.keys() != done.keys():
        (out / SECTION).unlink(missing_ok=True)
    for key in done.keys() - kept.keys():
        for file in done[key].files:
            (out / file).unlink(missing_ok=True)
    write_text(journal, _line(settings) + "".join(_line(asdict(each)) for each in kept.values()))
    return kept


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=True) + "\n"


def _lines(journal: Path) -> list[dict[str, Any]]:
    """Without the last one if a kill cut it short."""
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _results(out: Path, tasks: Sequence[_Task], changes: Changes, workers: int) -> Generator[_Done | InputError]:
    """As they get done, by threads. When the caller stops, what has not begun does not begin."""
    with ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool:
        futures = [pool.submit(_prepare, out, task, changes) for task in tasks]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(out: Path, task: _Task, changes: Changes) -> _Done | InputError:
    """One image with its mask, whole or in tiles."""
    image_file, label_file = task.dataset.files[task.index]
    try:
        stamp = task.stamp()  # before it is read: what changes meanwhile is seen the next time
        sample = task.dataset[task.index]
        image = resize_image(sample.image, changes.resize)
        mask = resize_mask(sample.mask, (image.shape[0], image.shape[1]))
        # A file with an orientation tag is written anew, upright: not every reader obeys the tag.
        untouched = image is sample.image and read_header(image_file).orientation == 1
        files: dict[str, int] = {}
        for window in windows((mask.shape[0], mask.shape[1]), changes.tile, changes.overlap):
            name = task.name if changes.tile is None else f"{task.name}_{window.top}_{window.left}"
            original = image_file if untouched and window[2:] == mask.shape else None
            here = out / f"{task.split}_img" / name
            written = write_image(here, window.of(image), original, changes.image_format)
            label = write_mask(out / f"{task.split}_label" / name, window.of(mask))
            files |= {path.relative_to(out).as_posix(): path.stat().st_size for path in (written, label)}
    except InputError as error:
        return error
    except OSError as error:
        return InputError(f"{task.name}: cannot read or write {error.filename or 'it'} ({error.strerror})")
    return _Done(task.key, str(image_file), str(label_file), stamp, files)


def _finish(out: Path, cfg: FolderData, sets: Mapping[Split, Folder], entries: Mapping[Split, Sequence[_Done]]) -> None:
    """Lists, then the section that makes it a data set."""
    for split in SPLITS:
        if split not in entries:  # as an earlier call may have had it
            (out / "splits" / f"{split}.txt").unlink(missing_ok=True)
    for split, each in entries.items():
        folder = f"{split}_label/"
        labels = [file.removeprefix(folder) for entry in each for file in entry.files if file.startswith(folder)]
        write_ids(out / "splits" / f"{split}.txt", [label.removesuffix(".png") for label in labels])
    classes = next(iter(sets.values())).classes
    # Not `index`: where most masks hold 0 and 255 alone, that would ask whether 255 is the foreground.
    values = {**dict(enumerate(classes.names)), 255: IGNORED}
    prepared = FolderData(
        root=out,
        workers=cfg.workers,
        worker_kind=cfg.worker_kind,
        images="{split}_img/{id}.*",
        labels="{split}_label/{id}.png",
        classes=dict(zip(classes.names, classes.colors, strict=True)),
        decode=Values(map=values),
        splits=ListSplits.model_validate({split: f"splits/{split}.txt" for split in entries}),
    )
    write_text(out / SECTION, data_section(prepared, f"Images and masks by `terrazzo data prepare`, from {cfg.root}."))
