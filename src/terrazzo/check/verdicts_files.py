"""Verdicts about files: what has no partner, cannot be read, or has another size than its partner."""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import PurePosixPath

from terrazzo.base import InputError
from terrazzo.check.scan import Record
from terrazzo.check.verdict import Verdict, override
from terrazzo.check.verdicts_case import Case, count, some
from terrazzo.data.folder import Folder
from terrazzo.data.split import ListSplits, RatioSplits

DEEP = ("I;16", "I;16B", "I;16L", "I", "F")
"""Pillow's modes of more than 8 bits."""
VAL_SHARE = 0.2
"""Of the training images, where there are none for validation."""


def file_verdicts(case: Case) -> Iterator[Verdict]:
    yield from _pairing(case)
    yield from _unreadable(case)
    yield from _sizes(case)
    yield from _modes(case)


def _pairing(case: Case) -> Iterator[Verdict]:
    found = case.found
    if found.faults:
        yield Verdict(
            "file-tree",
            "error" if _refused(case) else "warning",
            f"{count(len(found.faults), 'fault')} in folders and lists",
            some(found.faults, between="; "),
            fix=_without_empty(case),
            advice="Correct the folders or lists; data.splits says what they are.",
        )
    if found.unlabelled:
        yield Verdict(
            "image-without-label",
            "error",
            f"{count(len(found.unlabelled), 'image')} without a label",
            f"no file at the place that data.labels gives for {some(found.unlabelled, 3)}",
            found.unlabelled,
            case.leave_out(found.unlabelled),
            "Add the labels, correct data.labels, or leave the images out.",
        )
    if found.orphans:
        # Lists choose among the files, so that labels which no list names are nobody's loss.
        yield Verdict(
            "label-without-image",
            "note" if isinstance(case.cfg.splits, ListSplits) else "warning",
            f"{count(len(found.orphans), 'label')} without an image",
            f"data.images finds no image for {some(found.orphans, 3)}",
            found.orphans,
            case.leave_out(found.orphans),
            "Add the images, correct data.images, or leave the labels out: nothing is trained on them either way.",
        )
    if found.doubles:
        suffixes = Counter(_suffix(file) for pairs in found.pairs.values() for pair in pairs for file in pair)
        kept = [max(group, key=lambda file: suffixes[_suffix(file)]) for group in found.doubles]
        spare = [f for group, keep in zip(found.doubles, kept, strict=True) for f in group if f != keep]
        yield Verdict(
            "duplicate-stem",
            "error",
            f"{count(len(found.doubles), 'name')} with more than one file",
            some((" = ".join(group) for group in found.doubles), 4),
            tuple(chain.from_iterable(found.doubles)),
            case.leave_out(spare),
            f"Which file is meant? The setting keeps {some(kept, 3)}. Or write the extension in data.images or "
            "data.labels instead of .*",
        )


def _without_empty(case: Case) -> tuple[str, ...]:
    """The settings that do without a test split that is empty, and take validation images from train."""
    cfg, pairs = case.cfg.splits, case.found.pairs
    if not case.open or isinstance(cfg, RatioSplits) or cfg.val_fraction is not None or not pairs.get("train"):
        return ()
    val = {"val": None, "val_fraction": VAL_SHARE} if not pairs.get("val", True) else {}
    test = {"test": None} if not pairs.get("test", True) else {}
    return tuple(override(f"data.splits.{key}", value) for key, value in {**val, **test}.items())


def _refused(case: Case) -> bool:
    """Whether training would stop at how the files lie."""
    try:
        for split in case.found.pairs:
            Folder(case.cfg, split)
    except InputError:
        return True
    return False


def _unreadable(case: Case) -> Iterator[Verdict]:
    for what in ("image", "label"):
        faults = {
            (record.image if what == "image" else record.label): fault
            for record in case.records
            if (fault := record.image_fault if what == "image" else record.label_fault)
        }
        if faults:
            files = tuple(faults)
            yield Verdict(
                f"unreadable-{what}",
                "error",
                f"{count(len(files), what)} cannot be read",
                some(faults.values(), 3, "; "),
                files,
                case.leave_out(files),
                "Copy the files again from where they came, or leave them out.",
            )


def _sizes(case: Case) -> Iterator[Verdict]:
    """EXIF turns and plain mismatches; turns that keep the size are seen by how labels lie."""
    odd = [r for r in case.records if r.size and r.label_size and r.size != r.label_size]
    turned = [record for record in odd if _is_turned(record)]
    rest = [record for record in odd if not _is_turned(record)]
    if turned:
        yield exif_verdict(case, turned)
    if rest:
        files = tuple(record.label for record in rest)
        yield Verdict(
            "size-mismatch",
            "error",
            f"{count(len(rest), 'label')} of another size than the image",
            some((f"{r.label} is {_size(r.label_size)}, {r.image} {_size(r.size)}" for r in rest), 3),
            files,
            case.leave_out(files),
            "These are labels of other images, or of resized ones. Find the right ones, or leave them out.",
        )


def _is_turned(record: Record) -> bool:
    height, width = record.size or (0, 0)
    return record.orientation != 1 and record.label_size == (width, height)


def exif_verdict(case: Case, wrong: list[Record]) -> Verdict:
    """Labels that fit their images only if the orientation tag is treated the other way."""
    other = "obey" if case.cfg.exif == "ignore" else "ignore"
    tagged = [record for record in case.records if record.orientation != 1]
    files = tuple(record.image for record in wrong)
    right = [r.image for r in tagged if r.image not in set(files) and r.size is not None and r.size == r.label_size]
    fix = case.leave_out(files)
    if len(wrong) > len(right):  # the rule of the larger part; the others have no place in it
        fix = (override("data.exif", other), *case.leave_out(right))
    return Verdict(
        "exif-rotation",
        "error",
        f"{count(len(wrong), 'image')} turned against the label by the orientation tag",
        f"{len(wrong)} of {count(len(tagged), 'image')} with an EXIF orientation other than 1 fit their labels only if "
        f"it is {'obeyed' if other == 'obey' else 'ignored'}: "
        + some((f"{r.image} (orientation {r.orientation}, label {_size(r.label_size)})" for r in wrong), 3),
        files,
        fix,
        "The labels were drawn on the pictures as "
        + ("viewers show them." if other == "obey" else "they are stored, before viewers turn them upright."),
    )


def _modes(case: Case) -> Iterator[Verdict]:
    for modes, code, title, advice in (
        (("CMYK",), "cmyk-images", "printed colours (CMYK)", "They are converted to RGB; colours may look off."),
        (
            DEEP,
            "deep-images",
            "more than 8 bits",
            "The upper 8 bits are used: are they black?",
        ),
    ):
        files = tuple(record.image for record in case.records if record.mode in modes)
        if files:
            yield Verdict(code, "note", f"{count(len(files), 'image')} of {title}", some(files, 3), files, (), advice)


def _suffix(file: str) -> str:
    return PurePosixPath(file).suffix


def _size(size: tuple[int, int] | None) -> str:
    return "unknown" if size is None else f"{size[1]}x{size[0]}"
