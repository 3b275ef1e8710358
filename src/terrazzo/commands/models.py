"""What networks there are: those a recipe can build, and those that others published, trained."""

import csv
import io
import json as jsonlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from terrazzo.base import InputError
from terrazzo.files import replacing, write_text
from terrazzo.models import ModelEntry, list_models
from terrazzo.published.catalog import Entry, address, close_names, entries, find_entry
from terrazzo.published.download import cached, fetch
from terrazzo.published.licences import FREE, NON_COMMERCIAL, encoder_licence
from terrazzo.published.loading import UNVERIFIED, find_architecture, published_names
from terrazzo.published.runnable import short_reason, why_not


@dataclass(frozen=True)
class ModelRow:
    """A network of the list; what is not known of its sort is None."""

    kind: str
    """Value of model.kind; `zoo` for published networks."""
    part: str
    """architecture, encoder, or published."""
    name: str
    family: str
    weights: tuple[str, ...]
    """Tags of an encoder's published weights; the file of a published network."""
    dataset: str | None = None
    miou: float | None = None
    """Published mIoU in percent, of one look at each image."""
    miou_tta: float | None = None
    """The same with several scales and flips."""
    dice: float | None = None
    memory_gb: float | None = None
    licence: str | None = None
    commercial: bool | None = None
    """Whether the licence of the weights allows commercial use; of encoders, of all their weights."""
    licence_why: str | None = None
    """Whose licence it is and why; of encoders, the weights whose licence is no plainly free one."""
    dataset_terms: str | None = None
    runs: bool = True
    reason: str | None = None
    """Why it does not run."""
    short: str | None = None
    """The same in a few words."""


def model_rows(
    pattern: str = "",
    *,
    words: Sequence[str] = (),
    family: str | None = None,
    dataset: str | None = None,
    runnable: bool = False,
) -> list[ModelRow]:
    """Architectures, encoders and published networks, in any case of letters.

    Args:
        pattern: part of a name or a family, or a pattern such as '*mobilenet*'.
        words: all of them stand in the name, the family or the data set.
        family: the published networks and encoders of this family, or of those that fit a pattern.
        dataset: the published networks of data sets that have this in their name.
        runnable: only published networks that run.
    """
    rows = [] if dataset is not None or runnable else [_of_architecture(entry) for entry in _buildable()]
    rows += [_of_published(entry) for entry in entries() if dataset is None or _plain(dataset) in _plain(entry.dataset)]
    return [
        row
        for row in rows
        if (row.runs or not runnable)
        and (not pattern or _fits(row.name, pattern) or _fits(row.family, pattern))
        and (family is None or fnmatch(row.family.lower(), family.lower()))
        and all(word.lower() in f"{row.name} {row.family} {row.dataset} {row.kind}".lower() for word in words)
    ]


def describe_model(name: str) -> ModelRow:
    """The row of a published network (by its old name or its file's too), an architecture or an encoder.

    Raises:
        InputError: there is none of that name.
    """
    if (entry := find_entry(name)) is not None:
        return _of_published(entry)
    known = _buildable()
    for one in known:
        if one.name.lower() == name.lower():
            return _of_architecture(one)
    near = [*close_names(name), *get_close_matches(name.lower(), [one.name for one in known], n=2)]
    advice = f"did you mean {' or '.join(near)}?" if near else "`terrazzo models search WORD` finds names"
    raise InputError(f"no network is called {name!r}; {advice}")


def address_of(name: str) -> tuple[str, Path | None]:
    """Where a published network's file is, and its place here if it was downloaded."""
    entry = _entry(name)
    return f"{address()}/{entry.path}", cached(entry)


def get_model(name: str, out: Path | None = None) -> Path:
    """The downloaded and checked weights file of a published network: in the cache, or a copy at `out`.

    Args:
        name: of the network, or of its file.
        out: a file to write, or a folder to write into.

    Raises:
        InputError: there is no network of that name, or it cannot be downloaded.
    """
    file = fetch(_entry(name))
    if out is None:
        return file
    path = out / file.name if out.is_dir() or not out.suffix else out
    with replacing(path) as draft:
        shutil.copyfile(file, draft)
    return path


def write_rows(rows: Sequence[ModelRow], *, json: Path | None = None, csv: Path | None = None) -> None:
    """The list as a file for programs: every row with every column."""
    plain = [asdict(row) for row in rows]
    if json is not None:
        write_text(json, jsonlib.dumps(plain, indent=1) + "\n")
    if csv is not None:
        write_text(csv, _as_csv(plain))


def _as_csv(plain: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    columns = list(ModelRow.__dataclass_fields__)
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in plain:
        writer.writerow({key: " ".join(value) if isinstance(value, tuple) else value for key, value in row.items()})
    return text.getvalue()


def _entry(name: str) -> Entry:
    entry = find_entry(name)
    if entry is None:
        near = close_names(name)
        advice = f"did you mean {' or '.join(near)}?" if near else "`terrazzo models search WORD` finds names"
        raise InputError(f"no published network is called {name!r}; {advice}")
    return entry


def _of_architecture(entry: ModelEntry) -> ModelRow:
    licences = _licences(entry)
    said = set(licences.values())
    commercial = True if said and said <= FREE else False if said and said <= NON_COMMERCIAL else None
    strict: dict[str, list[str]] = {}
    for tag, licence in licences.items():
        if licence not in FREE:
            strict.setdefault(licence, []).append(tag)
    return ModelRow(
        entry.kind,
        entry.part,
        entry.name,
        entry.family,
        entry.weights,
        licence=", ".join(sorted(said)) or None,
        commercial=commercial,
        licence_why="; ".join(f"{licence}: {', '.join(tags)}" for licence, tags in strict.items()) or None,
    )


def _buildable() -> list[ModelEntry]:
    """What a recipe can build, published architectures among it: these by their own names, without weights."""
    zoo = []
    for name in published_names():
        if name not in UNVERIFIED:
            family = find_architecture(name).family.__name__.rpartition(".")[2]
            zoo.append(ModelEntry("zoo", "architecture", name, family))
    return [*list_models(), *zoo]


def _licences(entry: ModelEntry) -> dict[str, str]:
    """Of an encoder's weights by their tags, as far as their library says it."""
    import timm

    if entry.part != "encoder":
        return {}
    if not entry.name.startswith("tu-"):
        known = encoder_licence(entry.name)
        return {} if known is None else dict.fromkeys(entry.weights, known.name)
    configs = {tag: timm.get_pretrained_cfg(f"{entry.name.removeprefix('tu-')}.{tag}") for tag in entry.weights}
    return {tag: str(cfg.license or "unknown") for tag, cfg in configs.items() if cfg is not None}


def _of_published(entry: Entry) -> ModelRow:
    reason = why_not(entry)
    return ModelRow(
        kind="zoo",
        part="published",
        name=entry.name,
        family=entry.family,
        weights=(entry.weights_file,),
        dataset=entry.dataset,
        miou=entry.miou,
        miou_tta=entry.miou_tta,
        dice=entry.dice,
        memory_gb=entry.memory_gb,
        licence=entry.licence,
        commercial=entry.commercial,
        licence_why=entry.terms.why,
        dataset_terms=entry.dataset_terms.text,
        runs=reason is None,
        reason=reason,
        short=short_reason(entry, reason),
    )


def _fits(text: str, pattern: str) -> bool:
    wanted = pattern.lower()
    return fnmatch(text.lower(), wanted if any(sign in wanted for sign in "*?[") else f"*{wanted}*")


def _plain(text: str) -> str:
    """Without what differs between ways to write a data set: `COCO-Stuff 164k`, `coco-stuff164k`."""
    return "".join(letter for letter in text.lower() if letter.isalnum())
