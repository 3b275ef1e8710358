"""Verdicts about how labels lie on their images: mirrored, shifted, turned, or of another image."""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from terrazzo.base import SPLITS, Split
from terrazzo.check.alignment import Misfit, Pose, misfits
from terrazzo.check.scan import Record
from terrazzo.check.verdict import Verdict, override
from terrazzo.check.verdicts_case import Case, count, some
from terrazzo.check.verdicts_files import exif_verdict
from terrazzo.data.split import ListSplits

UPRIGHT: dict[int, Pose] = {2: "mirrored", 3: "half turn", 4: "upside down", 6: "right turn", 8: "left turn"}
"""What turns a picture with this EXIF orientation upright, and with it a label that was drawn on the stored pixels."""
SINGLE = {
    "mirrored-labels": "mirrored against the image",
    "turned-labels": "turned against the image",
    "shifted-labels": "shifted against the image",
    "shuffled-pairs": "of another image, it seems",
}
BACK: dict[Pose, Pose] = {"right turn": "left turn", "left turn": "right turn"}


def fit_verdicts(case: Case) -> Iterator[Verdict]:
    found = misfits([record.alignment for record in case.records])
    if found.whole is not None:
        yield _whole(case, found.whole)
    singles = [(case.records[place], misfit) for place, misfit in found.single.items()]
    turned = [record for record, misfit in singles if _is_exif(case, record, misfit)]
    if turned:
        yield exif_verdict(case, turned)
    for code, what in SINGLE.items():
        chosen = [(r, misfit) for r, misfit in singles if not _is_exif(case, r, misfit) and _code(misfit) == code]
        if chosen:
            chosen.sort(key=lambda one: one[1].score - one[1].better)
            files = tuple(record.label for record, _ in chosen)
            yield Verdict(
                code,
                "warning",
                f"{count(len(files), 'label')} {what}",
                some((f"{record.label} {_scores(misfit)}" for record, misfit in chosen), 3, "; "),
                files,
                case.leave_out(files),
                "Look at these pairs; correct the files, or leave them out.",
            )


def _code(misfit: Misfit) -> str:
    match misfit.kind:
        case "turned":
            return "mirrored-labels" if misfit.pose == "mirrored" else "turned-labels"
        case "shifted":
            return "shifted-labels"
        case "unrelated":
            return "shuffled-pairs"


def _is_exif(case: Case, record: Record, misfit: Misfit) -> bool:
    """Whether the orientation tag explains how a label is turned."""
    pose = UPRIGHT.get(record.orientation)
    if misfit.kind != "turned" or pose is None:
        return False
    return misfit.pose == (pose if case.cfg.exif == "obey" else BACK.get(pose, pose))


def _whole(case: Case, misfit: Misfit) -> Verdict:
    """What is wrong with the whole data set alike."""
    tagged = [record for record in case.records if _is_exif(case, record, misfit)]
    if 2 * len(tagged) > len(case.records):
        return exif_verdict(case, tagged)
    files = tuple(record.label for record in case.records)
    now = case.cfg.align
    mirror, (right, down) = (now.mirror, now.shift) if now else (False, (0, 0))
    evidence = f"label borders against image edges, typical correlation: {_scores(misfit)}"
    fix: tuple[str, ...]
    match misfit.kind:
        case "turned" if misfit.pose == "mirrored":
            fix = (override("data.align", {"mirror": not mirror, "shift": [-right, down]}),)
            advice = "The setting turns every label over, left for right."
            return Verdict("mirrored-labels", "error", "The labels are mirrored", evidence, files, fix, advice)
        case "turned":
            advice = f"Every label needs a {misfit.pose}" if "turn" in misfit.pose else f"Every label is {misfit.pose}"
            advice += ": no setting does this, write the label files anew."
            return Verdict("turned-labels", "error", "The labels are turned", evidence, files, (), advice)
        case "shifted":
            moved = [right + misfit.shift[0], down + misfit.shift[1]]
            fix = (override("data.align", {"mirror": mirror, "shift": moved}),)
            advice = f"The setting moves every label {_way(moved)}."
            return Verdict("shifted-labels", "error", "The labels are shifted", evidence, files, fix, advice)
        case "unrelated":
            fix = _by_name(case)
            evidence = (
                f"label borders against image edges, typical correlation: {misfit.score:.2f} as it is, "
                f"{misfit.better:.2f} at best if turned or moved; chance gives as much"
            )
            advice = (
                "The setting pairs the files by their names instead of by the lists."
                if fix
                else "Images and labels are paired by their names, so the names are wrong: find out how the files were "
                "numbered. No setting can help."
            )
            return Verdict("shuffled-pairs", "error", "The labels belong to other images", evidence, files, fix, advice)


def _by_name(case: Case) -> tuple[str, ...]:
    """The settings that pair files of the same name, where lists of pairs say otherwise."""
    splits = case.cfg.splits
    if not case.open or not isinstance(splits, ListSplits) or splits.lines != "pairs":
        return ()
    folders = {
        split: ({_folder(r.image) for r in records}, {_folder(r.label) for r in records})
        for split, records in case.splits.items()
    }
    same_names = all(
        sorted(_stem(r.image) for r in records) == sorted(_stem(r.label) for r in records)
        for records in case.splits.values()
    )
    single = all(len(images) == len(labels) == 1 for images, labels in folders.values())
    if not single or not same_names or splits.val_fraction is not None:
        return ()
    images, labels = ({split: next(iter(pair[k])) for split, pair in folders.items()} for k in (0, 1))
    suffixes = [_suffix(record.image for record in case.records), _suffix(record.label for record in case.records)]
    templates = [_template(each, suffix) for each, suffix in zip((images, labels), suffixes, strict=True)]
    if None not in templates:
        kind: dict[str, object] = {"kind": "folders"}
        kind |= {split: split if split in images else None for split in SPLITS}
    elif len({*images.values()}) == len({*labels.values()}) == 1:
        one = [next(iter(each.values())) for each in (images, labels)]
        templates = [f"{folder}/{{id}}{suffix}" for folder, suffix in zip(one, suffixes, strict=True)]
        shares = {split: round(len(records) / len(case.records), 3) for split, records in case.splits.items()}
        shares["train"] = round(1 - sum(n for split, n in shares.items() if split != "train"), 3)
        kind = {"kind": "ratio", **{split: shares.get(split, 0.0) for split in SPLITS}}
    else:
        return ()
    return (
        override("data.images", templates[0]),
        override("data.labels", templates[1]),
        override("data.splits", kind),
    )


def _template(folders: dict[Split, str], suffix: str) -> str | None:
    """`{split}annot/{id}.png` where the folders are train annot, valannot, ...; None where they are not."""
    texts = {folder.replace(split, "{split}", 1) for split, folder in folders.items() if split in folder}
    return f"{texts.pop()}/{{id}}{suffix}" if len(texts) == 1 and all(s in f for s, f in folders.items()) else None


def _suffix(files: Iterable[str]) -> str:
    suffixes = {PurePosixPath(file).suffix for file in files}
    return suffixes.pop() if len(suffixes) == 1 else ".*"


def _scores(misfit: Misfit) -> str:
    match misfit.kind:
        case "turned":
            return f"{misfit.score:.2f} as it is, {misfit.better:.2f} {misfit.pose}"
        case "shifted":
            return f"{misfit.score:.2f} as it is, {misfit.better:.2f} if moved {_way(misfit.shift)}"
        case "unrelated":
            return f"{misfit.score:.2f} as it is, where others have {misfit.better:.2f} and chance gives 0"


def _way(shift: tuple[int, int] | list[int]) -> str:
    """'9 pixels left and 5 down'."""
    right, down = shift
    across, along = "right" if right >= 0 else "left", "down" if down >= 0 else "up"
    return f"{count(abs(right), 'pixel')} {across} and {abs(down)} {along}"


def _folder(file: str) -> str:
    return PurePosixPath(file).parent.as_posix()


def _stem(file: str) -> str:
    return PurePosixPath(file).stem
