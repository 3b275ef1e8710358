"""Run folders as they lie on the disk: what each was, how far it came, what it scored, what it cost."""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from terrazzo.base import InputError
from terrazzo.comparison.reading import Reader, number
from terrazzo.comparison.recipes import leaves
from terrazzo.launch.state import RunState

MARKS = ("config.yaml", "environment.yaml", "metrics.jsonl", "log.txt", "checkpoints", "evaluation")
"""A folder with two of these is taken for a run's, so that one with a lost file still shows up."""
DEEPEST = 8
"""Folders below a given one that are looked into."""
SWEEP_FILE = "sweep.yaml"
STATES = "states"


@dataclass(frozen=True)
class Scored:
    """One scored checkpoint: evaluation/SPLIT-CHECKPOINT/."""

    folder: Path
    split: str
    checkpoint: str
    step: int | None
    scores: Mapping[str, Any]
    """scores.json without the confusion matrix, which is large: `confusion_of` reads it."""
    protocol: Mapping[str, Any]
    """How the score was computed, with the hash of what it was computed on."""


@dataclass(frozen=True)
class Run:
    """All that a comparison knows about a run; what could not be read is missing, and `faults` say so."""

    name: str
    folder: Path | None
    """None for a run that a sweep refused or has not started."""
    status: str
    reason: str = ""
    tree: Mapping[str, Any] = field(default_factory=dict)
    """The resolved recipe."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Its leaves, as `recipes.leaves` gives them."""
    curves: Sequence[Mapping[str, Any]] = ()
    scored: tuple[Scored, ...] = ()
    checkpoints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Step and validation scores of each saved checkpoint, by name."""
    cost: Mapping[str, Any] = field(default_factory=dict)
    learned: int | None = None
    """Parameters that the optimizer held."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    state: RunState | None = None
    """Of the sweep that the run belongs to."""

    @property
    def step(self) -> int | None:
        """The last one that is on record."""
        steps = [line["step"] for line in self.curves[-1:]]
        steps += [saved["step"] for saved in self.checkpoints.values() if isinstance(saved.get("step"), int)]
        return max(steps, default=None)


@dataclass(frozen=True)
class Place:
    """Where a run was found, before it is read."""

    name: str
    folder: Path | None
    state_file: Path | None = None


def find_runs(given: Sequence[Path]) -> tuple[list[Place], list[str]]:
    """The runs in and below what was given, each once, and remarks on what was passed over.

    Raises:
        InputError: a path does not exist, or no run was found at all.
    """
    places: list[Place] = []
    remarks: list[str] = []
    for path in given:
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; give run folders, or folders with runs below them")
        found = list(_below(path.resolve(), 0, remarks, set()))
        if not found and len(given) > 1:
            remarks.append(f"{path} holds no run")
        places += found
    places = list({_identity(place): place for place in reversed(places)}.values())[::-1]
    if not places:
        names = ", ".join(str(path) for path in given)
        raise InputError(f"{names}: no run in there; a run folder holds {', '.join(MARKS[:4])}, checkpoints/")
    return _distinct(places), remarks


def _identity(place: Place) -> Path | None:
    """Where it really lies: a link to a run, or to a folder of runs, is not another run."""
    return place.state_file if place.folder is None else place.folder.resolve()


def is_run(folder: Path) -> bool:
    """Whether a folder looks like a run's."""
    return sum((folder / mark).exists() for mark in MARKS) >= 2


def _below(folder: Path, depth: int, remarks: list[str], seen: set[Path]) -> Iterator[Place]:
    if (real := folder.resolve()) in seen:
        return  # a link to where we are
    seen.add(real)
    sweep = (folder / SWEEP_FILE).is_file() or (folder / STATES).is_dir()
    if is_run(folder):
        yield Place(folder.name, folder, _state_file(folder))
        if not sweep:
            return
    if depth == DEEPEST:
        return
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        remarks.append(f"{folder} cannot be looked into ({error.strerror})")
        return
    for name in names:
        if ".old-" in name:  # `--fresh` moved it there
            remarks.append(f"{folder / name} was moved aside by --fresh and is left out; name it to see it")
        elif not (sweep and name in (STATES, "recipes", "logs")):
            yield from _below(folder / name, depth + 1, remarks, seen)
    if sweep:
        yield from _without_folder(folder)


def _state_file(run: Path) -> Path | None:
    """The state of a run that lies in SWEEP/runs/NAME."""
    path = run.parent.parent / STATES / f"{run.name}.json"
    return path if run.parent.name == "runs" and path.is_file() else None


def _without_folder(sweep: Path) -> Iterator[Place]:
    for path in sorted((sweep / STATES).glob("*.json")):
        if not path.name.startswith(".") and not is_run(sweep / "runs" / path.stem):
            yield Place(path.stem, None, path)


def _distinct(places: Sequence[Place]) -> list[Place]:
    """Names that two runs share get their parents' before them."""
    named: dict[str, list[Place]] = {}
    for place in places:
        named.setdefault(place.name, []).append(place)
    listed = []
    for place in places:
        home = place.folder or (place.state_file or Path()).parent / place.name
        parts, depth = home.parts, 1
        others = [o.folder or (o.state_file or Path()).parent / o.name for o in named[place.name] if o is not place]
        while depth < len(parts) and any(other.parts[-depth:] == parts[-depth:] for other in others):
            depth += 1
        listed.append(Place("/".join(parts[-depth:]), place.folder, place.state_file))
    return listed


def read_run(place: Place) -> Run:
    """Read the small files of a run; no tensor is touched."""
    state, faults = _read_state(place)
    if place.folder is None:
        return _not_there(place, state, faults)
    reader = Reader(place.folder)
    tree, curves = reader.yaml("config.yaml"), reader.json_lines("metrics.jsonl")
    environment, learned = reader.yaml("environment.yaml"), _learned(reader)
    if not (place.folder / "config.yaml").is_file():
        reader.faults.append("config.yaml is missing")
    scored = tuple(_scored(place.folder, reader))
    costs = [reader.json(f"evaluation/{one.folder.name}/cost.json") for one in scored]
    checkpoints = {
        name: saved
        for name in ("best_miou", "last", "best_loss")
        if (saved := reader.json(f"checkpoints/{name}/config.json"))
    }
    step = max([0, *(line["step"] for line in curves[-1:])])
    status, reason = _status(place.folder, reader, tree, step, state)
    return Run(
        name=place.name,
        folder=place.folder,
        status=status,
        reason="; ".join([*filter(None, [reason]), *faults, *reader.faults]),
        tree=tree,
        recipe=leaves(tree),
        curves=curves,
        scored=scored,
        checkpoints={name: saved for name, saved in checkpoints.items() if isinstance(saved.get("step"), int)},
        cost=next(filter(None, costs), {}),
        learned=learned,
        environment=environment,
        state=state,
    )


def _read_state(place: Place) -> tuple[RunState | None, list[str]]:
    if place.state_file is None:
        return None, []
    reader = Reader(place.state_file.parent)
    text = reader.text(place.state_file.name)
    if text is None:
        return None, reader.faults
    try:
        return RunState.model_validate_json(text), []
    except ValidationError:
        return None, [f"{STATES}/{place.state_file.name} is damaged"]


def _not_there(place: Place, state: RunState | None, faults: Sequence[str]) -> Run:
    assert place.state_file is not None
    reader = Reader(place.state_file.parent.parent / "recipes")
    tree = reader.yaml(f"{place.state_file.stem}.yaml")
    status, reason = ("unknown", "") if state is None else (state.status, state.reason or "")
    if status == "finished":
        status, reason = "missing", "its sweep says finished, but the run folder is not there"
    reasons = [*filter(None, [reason]), *faults, *reader.faults]
    return Run(place.name, None, status, "; ".join(reasons), tree=tree, recipe=leaves(tree), state=state)


def _status(
    folder: Path, reader: Reader, tree: Mapping[str, Any], step: int, state: RunState | None
) -> tuple[str, str]:
    """How a run stands; what its sweep knows wins, for it has seen the process end."""
    if state is not None and state.status != "finished":
        return state.status, state.reason or ""
    if (folder / "report.html").exists():
        return "finished", ""
    if broken := reader.json("nonfinite.json"):
        return "failed", f"the training loss was {broken.get('loss')} at step {broken.get('step')}"
    if state is not None:
        return "finished", "without a report"
    if not step:
        return "unfinished", "nothing has been logged yet"
    return "unfinished", f"stopped or still running at step {step}{_of(folder, tree)}"


def _of(folder: Path, tree: Mapping[str, Any]) -> str:
    """` of 200`, where the recipe's length can be told in steps."""
    length, batch = tree.get("length"), tree.get("batch")
    if not isinstance(length, Mapping):
        return ""
    if isinstance(length.get("steps"), int):
        return f" of {length['steps']}"
    epochs, images = number(length.get("epochs")), Reader(folder).text("splits/train.txt")
    if epochs is None or images is None or not isinstance(batch, int) or batch < 1:
        return ""
    return f" of {math.ceil(epochs * images.count(chr(10)) / batch)}"


def _scored(folder: Path, reader: Reader) -> Iterator[Scored]:
    for path in sorted((folder / "evaluation").glob("*/scores.json")):
        found = reader.json(f"evaluation/{path.parent.name}/scores.json")
        split, _, checkpoint = path.parent.name.partition("-")
        protocol = found.pop("protocol", None)
        if not isinstance(protocol, dict) or (number(found.get("miou")) is None and "per_class" not in found):
            if found or protocol is not None:
                reader.faults.append(f"evaluation/{path.parent.name}/scores.json has no scores with a protocol")
            continue
        found.pop("confusion", None)
        per_class = found.get("per_class")
        found["per_class"] = per_class if isinstance(per_class, dict) else {}
        facts = protocol | {
            "class names": ", ".join(map(str, found["per_class"])),
            "images' hash": _images_hash(reader, f"evaluation/{path.parent.name}/images.csv", protocol.get("images")),
        }
        step = found.get("step")
        yield Scored(path.parent, split, checkpoint, step if isinstance(step, int) else None, found, facts)


def _images_hash(reader: Reader, name: str, count: object) -> str:
    """First digits of a hash of the scored images' names and labelled pixels; `unknown` where no table says them."""
    text = reader.text(name)
    if not text:
        return "unknown"
    rows = [line.split(",") for line in text.splitlines()[1:]]
    if len(rows) != count or any(len(row) < 5 for row in rows):
        reader.faults.append(f"{name} has {len(rows)} rows for {count} scored images, or half a row")
        return "unknown"
    listed = sorted(f"{','.join(row[1:-3])} {row[-1]}" for row in rows)
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()[:8]


def image_scores(scored: Scored) -> dict[str, float]:
    """mIoU of each scored image by its name; {} where there is no table of them."""
    rows = Reader(scored.folder).table("images.csv")
    found = {}
    for row in rows:
        try:
            found[row["name"]] = float(row["miou"])
        except (KeyError, TypeError, ValueError):
            continue  # half a line
    return found


def confusion_of(scored: Scored) -> list[list[int]] | None:
    """The confusion matrix, rows are the truth."""
    matrix = Reader(scored.folder).json("scores.json").get("confusion")
    return matrix if isinstance(matrix, list) and matrix else None


def _learned(reader: Reader) -> int | None:
    for line in (reader.text("parameters.txt") or "").splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == "total" and words[2].replace(",", "").isdigit():
            return int(words[2].replace(",", ""))
    return None
