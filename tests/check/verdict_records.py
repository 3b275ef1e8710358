"""Made-up records for the rules of the label linter, and the way from a verdict to the config that its fix makes."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from terrazzo.base import Split
from terrazzo.check.scan import Record
from terrazzo.check.verdicts import Verdict, verdicts
from terrazzo.config import load_config
from terrazzo.data.facts import counted_ids
from terrazzo.data.folder import FolderData
from terrazzo.data.inventory import Inventory
from terrazzo.data.labels import Decoder
from terrazzo.data.pixels import UNKNOWN
from terrazzo.data.templates import Pair

NAMES = ["sky", "road", "car"]


def folder(**changes: Any) -> FolderData:
    data = {"root": ".", "images": "images", "labels": "labels", "classes": NAMES, "splits": {"kind": "ratio"}}
    return FolderData.model_validate(data | changes)


def record(k: int, values: dict[int, int] | None = None, split: Split = "train", **changes: Any) -> Record:
    made = Record(split, f"images/{k}", f"images/{k}.jpg", f"labels/{k}.png", (0, 0, 0, 0), values=values, **changes)
    return replace(made, label_mode=made.label_mode or "L", label_format=made.label_format or "PNG")


def judged(cfg: FolderData, records: list[Record], kind: str = "folder", **found: Any) -> list[Verdict]:
    """Verdicts on records whose counts follow from their values as the config decodes them."""
    decoder = Decoder(cfg.classes, cfg.decode, cfg.remap)
    counted = [each if each.counts is not None else replace(each, counts=counts_of(decoder, each)) for each in records]
    pairs: dict[Split, tuple[Pair, ...]] = {}
    for each in counted:
        pairs[each.split] = (*pairs.get(each.split, ()), Pair(each.image, each.label))
    lists = {"unlabelled": (), "orphans": (), "doubles": (), "faults": ()} | found
    return verdicts(cfg, kind, Inventory(pairs, **lists), counted)


def counts_of(decoder: Decoder, record: Record) -> dict[int, int]:
    """What the decoder makes of the record's values, written as a text label."""
    if record.values is None:
        return {UNKNOWN: sum((record.colors or {}).values())}
    with TemporaryDirectory() as place:
        path = Path(place) / "label.txt"
        path.write_text(" ".join(f"{value} " * pixels for value, pixels in record.values.items()))
        return counted_ids(decoder.look(path).mask)


def codes(found: list[Verdict]) -> list[str]:
    return [verdict.code for verdict in found if verdict.severity != "note"]


def only(found: list[Verdict], code: str) -> Verdict:
    (verdict,) = (each for each in found if each.code == code)
    return verdict


def fixed(cfg: FolderData, verdict: Verdict) -> FolderData:
    """The config with the fix laid over it, through the door that users take."""
    tree = {"data": cfg.model_dump(mode="json"), "model": {"kind": "unet"}}
    with TemporaryDirectory() as place:
        path = Path(place) / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        data = load_config(path, verdict.fix).data
    assert isinstance(data, FolderData)
    return data


ALL = {0: 500, 1: 300, 2: 200}
