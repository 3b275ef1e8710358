"""`terrazzo score`: score predicted id images against label images; no model, no recipe."""

import csv
import json as jsonlib
import os
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, assert_never

import numpy as np

from terrazzo import __version__
from terrazzo.base import IGNORE, MAX_CLASSES, Classes, InputError, Mask
from terrazzo.data.labels import Decoder
from terrazzo.data.layouts_driving import IddData, idd
from terrazzo.data.pixels import IMAGE_SUFFIXES, read_values
from terrazzo.files import write_text
from terrazzo.metrics import Protocol, Scores, Tally, csv_tables
from terrazzo.metrics.cityscapes import CLASSES as CITYSCAPES
from terrazzo.metrics.idd import CLASSES as IDD

SHOWN = 8
"""How many files an error names."""
CITYSCAPES_LABEL = "_gtFine_labelIds.png"
IDD_LABELS = ("_gtFine_labellevel3Ids", "_gtFine_labelLevel3Ids", "_gtFine_polygons")
IDD_PREDICTIONS = ("_gtFine_labellevel3Ids", "_gtFine_labelLevel3Ids", "_leftImg8bit")


class Pair(NamedTuple):
    """What is scored against what."""

    name: str
    prediction: Path
    label: Path


def score(
    predictions: str | Path,
    labels: str | Path,
    *,
    protocol: Protocol = "default",
    classes: Sequence[str] | None = None,
    ignore: Sequence[int] = (IGNORE,),
    boundary: float | None = 0.02,
    json: str | Path | None = None,
    tables: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score id images, found by the protocol's naming rules, on all label images below `labels`.

    Args:
        predictions: folder of id images; of a `terrazzo predict` folder, its pred/.
        labels: folder of label images; of a data set in Cityscapes' or IDD's layout, its gtFine/val.
        protocol: what the ids are and what the mean is over.
        classes: names in the order of the ids (default and course); None: ids up to the greatest that occurs.
        ignore: ids in the labels that mean no class (default and course).
        boundary: share of the image diagonal for boundary IoU; None leaves it out.
        json: file to write the result to.
        tables: folder for the same as CSV: scores, classes, images, and what the protocol has besides.
        progress: called with (images done, images in all).

    Raises:
        InputError: predictions are missing, ambiguous, unreadable, of another size, or hold ids that are none; all of
            them are named.
    """
    _check_options(protocol, classes, ignore, boundary)
    official = "gtFine/val" if protocol in ("cityscapes", "idd") else ""
    pairs = find_pairs(_existing(predictions, "pred"), _existing(labels, official), protocol)
    instances = instance_files([pair.label for pair in pairs]) if protocol == "cityscapes" else {}
    tally = Tally(_classes(protocol, classes), protocol, boundary=boundary, instances=bool(instances))
    images = _count(tally, pairs, instances, ignore, progress)
    if classes is None and protocol == "default":
        tally = _cut(tally)
    result = tally.result()
    result["protocol"] |= {"images": len(pairs), "terrazzo": __version__}
    if json is not None:
        write_text(Path(json), jsonlib.dumps(result, indent=2, ensure_ascii=False) + "\n")
    if tables is not None:
        for name, text in (csv_tables(result) | {"images.csv": _image_table(images)}).items():
            write_text(Path(tables) / name, text)
    return result


def _count(
    tally: Tally,
    pairs: Sequence[Pair],
    instances: Mapping[Path, Path],
    ignore: Sequence[int],
    progress: Callable[[int, int], None] | None,
) -> dict[str, Scores]:
    """Add every image to the tally; the scores of each by itself. All that fail are named at the end, in one error."""
    images, failed = {}, []
    for done, pair in enumerate(pairs, start=1):
        try:
            images[pair.name] = _add(tally, pair, instances.get(pair.label), ignore)
        except InputError as error:
            failed.append(str(error))
        if progress is not None:
            progress(done, len(pairs))
    if failed:
        raise InputError(f"{len(failed)} of {len(pairs)} images cannot be scored: " + _listed(failed))
    return images


def find_pairs(predictions: Path, labels: Path, protocol: Protocol) -> list[Pair]:
    """Every label with its prediction, sorted by the label's path; cityscapes: in the order that folders list them.

    Raises:
        InputError: there are no labels, or labels have no prediction or several.
    """
    match protocol:
        case "cityscapes":
            files = _city_labels(labels)
            images = sorted(predictions.rglob("*.png"))
            found = {name: [p for p in images if p.name.startswith(name)] for name in files}
            wanted = "CITY_SEQUENCE_FRAME_gtFine_labelIds.png"
        case "idd":
            files, found = _keyed(labels, IDD_LABELS, strict=True), _keyed(predictions, IDD_PREDICTIONS)
            files = {name: _pngs_first(paths) for name, paths in files.items()}
            wanted = "DRIVE/FRAME_gtFine_labellevel3Ids.png or _polygons.json"
        case "default" | "course":
            files, found = _keyed(labels, ()), _keyed(predictions, ())
            wanted = "images"
        case _:
            assert_never(protocol)
    if not files:
        raise InputError(f"{labels}: no labels below this folder (protocol {protocol} looks for {wanted})")
    if missing := [name for name in files if not found.get(name)]:
        raise InputError(
            f"{len(missing)} of {len(files)} labels in {labels} have no prediction below {predictions}: "
            + _listed(missing)
        )
    for of_one in [*files.values(), *(found[name] for name in files)]:
        if len(of_one) > 1:
            raise InputError(f"{of_one[0]} and {of_one[1]} are for one image; move one away")
    return [Pair(name, found[name][0], paths[0]) for name, paths in files.items()]


def _city_labels(root: Path) -> dict[str, list[Path]]:
    """Label files by CITY_SEQUENCE_FRAME, as the folders list them: the official evaluator adds instances in that
    order, and the last digit of the iIoU depends on it."""
    found: dict[str, list[Path]] = {}
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            if name.endswith(CITYSCAPES_LABEL):
                found.setdefault(name.removesuffix(CITYSCAPES_LABEL), []).append(Path(folder, name))
    return found


def _keyed(root: Path, endings: tuple[str, ...], *, strict: bool = False) -> dict[str, list[Path]]:
    """Label or prediction files by their path below `root`, without suffix and ending; strict: only with an ending."""
    found: dict[str, list[Path]] = {}
    suffixes = {*IMAGE_SUFFIXES, ".json"} if strict else IMAGE_SUFFIXES
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
            continue
        name = path.relative_to(root).with_suffix("").as_posix()
        ending = next((each for each in endings if name.endswith(each)), "")
        if ending or not strict:
            found.setdefault(name.removesuffix(ending), []).append(path)
    return found


def _pngs_first(paths: list[Path]) -> list[Path]:
    """Of a frame's label files the images, if there are any: polygon files lie beside them."""
    return [path for path in paths if path.suffix.lower() != ".json"] or paths


def instance_files(labels: Sequence[Path]) -> dict[Path, Path]:
    """The Cityscapes instance file beside each label file; none at all if there is none anywhere.

    Raises:
        InputError: only some labels have one.
    """
    beside = {path: path.with_name(path.name.replace("labelIds", "instanceIds")) for path in labels}
    missing = [str(label) for label, path in beside.items() if path == label or not path.is_file()]
    if missing and len(missing) < len(beside):
        raise InputError(
            f"{len(missing)} of {len(beside)} labels have no instance file beside them; the iIoU needs all (with none "
            f"it is left out): {_listed(missing)}"
        )
    return {} if missing else beside


def _add(tally: Tally, pair: Pair, instance_file: Path | None, ignore: Sequence[int]) -> Scores:
    target, prediction = _read_label(pair.label), _bytes(pair.prediction)
    if tally.protocol in ("default", "course"):
        target = np.where(np.isin(target, ignore), np.uint8(IGNORE), target)
    if tally.protocol != "idd" and prediction.shape != target.shape:
        raise InputError(f"{pair.prediction} is {_size(prediction)}, its label {pair.label} is {_size(target)}")
    instances = None if instance_file is None else read_values(instance_file)
    if instances is not None and instances.shape != target.shape:
        raise InputError(f"{instance_file} is {_size(instances)}, its label {pair.label} is {_size(target)}")
    try:
        return tally.add(prediction, target, instances)
    except InputError as error:
        hint = "; Cityscapes is scored in raw ids (road is 7), not in train ids" * (tally.protocol == "cityscapes")
        raise InputError(f"{pair.prediction}: {error}{hint}") from error


def _read_label(path: Path) -> Mask:
    if path.suffix.lower() != ".json":
        return _bytes(path)
    outlines = idd(IddData(level=3, masks="polygons"))
    return Decoder(outlines.classes, outlines.decode, {}).read(path)


def _bytes(path: Path) -> Mask:
    values = read_values(path)
    if values.size and not 0 <= values.min() <= values.max() <= IGNORE:
        raise InputError(f"{path} holds ids from {values.min()} to {values.max()}; 0 to {IGNORE} can be scored")
    return values.astype(np.uint8)


def _classes(protocol: Protocol, names: Sequence[str] | None) -> Classes:
    match protocol:
        case "cityscapes":
            return CITYSCAPES
        case "idd":
            return IDD
        case "default" | "course":
            return Classes.of([*(map(str, range(MAX_CLASSES)) if names is None else names)])
        case _:
            assert_never(protocol)


def _cut(tally: Tally) -> Tally:
    """The same counts for as many classes as occur."""
    seen = np.flatnonzero(tally.confusion.sum(axis=0) + tally.confusion.sum(axis=1))
    count = int(seen[-1]) + 1 if seen.size else 1
    cut = Tally(Classes.of([str(k) for k in range(count)]), tally.protocol, boundary=tally.boundary)
    cut.confusion, cut.edges = tally.confusion[:count, :count], tally.edges[:, :count]
    return cut


def _check_options(
    protocol: Protocol, classes: Sequence[str] | None, ignore: Sequence[int], boundary: float | None
) -> None:
    if boundary is not None and not 0 < boundary <= 1:
        raise InputError(f"boundary={boundary} is no share of the image diagonal; write one in (0, 1], such as 0.02")
    if protocol in ("cityscapes", "idd") and (classes is not None or tuple(ignore) != (IGNORE,)):
        raise InputError(f"protocol {protocol} knows its classes and what it ignores: leave out --classes and --ignore")
    if protocol == "course" and classes is None:
        raise InputError("protocol course counts 0 for an absent class: say with --classes which classes there are")


def _existing(folder: str | Path, inside: str) -> Path:
    """The folder, or the one inside it that is meant."""
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    return path / inside if (path / inside).is_dir() else path


def _image_table(images: Mapping[str, Scores]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "miou", "accuracy", "pixels"])
    for name, scores in sorted(images.items()):
        writer.writerow([name, scores.miou, scores.accuracy, int(scores.pixels.sum())])
    return text.getvalue()


def _size(mask: np.ndarray[Any, Any]) -> str:
    return f"{mask.shape[1]}x{mask.shape[0]}"


def _listed(lines: Sequence[str]) -> str:
    more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "\n  " + "\n  ".join(lines[:SHOWN]) + more
