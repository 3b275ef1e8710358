"""`terrazzo models cost`: parameters, size, work, memory and time of networks side by side, on this machine."""

import csv as csvlib
import json as jsonlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from pydantic import TypeAdapter, ValidationError

from terrazzo.base import InputError
from terrazzo.bundle import HUB, open_model
from terrazzo.config import load_config
from terrazzo.cost import Cost, measure, parameters, size_in_bytes
from terrazzo.data import OwnData, build_dataset
from terrazzo.engine.world import choose_device
from terrazzo.files import write_text
from terrazzo.models import ModelConfig, Segmenter, SmpModel, TorchvisionModel, build_model
from terrazzo.models.smp import Arch, library_network
from terrazzo.models.torchvision import TorchvisionArch
from terrazzo.models.weights import SUFFIXES
from terrazzo.models.zoo import ZooModel
from terrazzo.published.catalog import find_entry
from terrazzo.recipe import recipe_names

CLASSES = 19
"""Of networks that do not say a number themselves: Cityscapes'."""
OUTPUTS = {
    **{"Cityscapes": 19, "ADE20K": 150, "Pascal VOC 2012 + Aug": 21, "COCO-Stuff 164k": 171, "COCO-Stuff 10k": 171},
    **{"Pascal Context": 60, "Pascal Context 59": 59, "LoveDA": 7, "Potsdam": 6, "Vaihingen": 6, "iSAID": 16},
    **{"DRIVE": 2, "STARE": 2, "CHASE_DB1": 2, "HRF": 2},
}
"""Classes of published networks, by the data set that they were trained on."""
SIZE = (512, 512)
"""Height and width of the image, in pixels, if nothing is said."""
LATENCY_SECONDS = 5.0
"""No further latency run of a network begins after so many seconds of them."""
PARTS = {
    "smp": ("arch", "encoder"),
    "torchvision": ("arch",),
    "timm": ("encoder",),
    "huggingface": ("name",),
    "zoo": ("name",),
}
"""What the words after a kind are called in a recipe: `smp/unet/resnet50`."""


@dataclass(frozen=True)
class CostRow:
    """What one network costs, or why nobody knows."""

    model: str
    """As it was given."""
    kind: str
    """Value of model.kind, and what it is within it."""
    classes: int | None = None
    cost: Cost | None = None
    library: tuple[int, int] | None = None
    """Parameters and bytes of the network as its library builds it, where terrazzo takes out what no logit needs."""
    reason: str = ""
    """Why there is no cost, or what to know about it."""

    def cells(self) -> dict[str, Any]:
        """The row of a table or a file; numbers in plain units."""
        cost = self.cost
        if cost is None:
            return {"model": self.model, "kind": self.kind, "reason": self.reason}
        whole, size = self.library or (cost.parameters, cost.size)
        found = {
            "model": self.model,
            "kind": self.kind,
            "input": "x".join(str(side) for side in cost.shape),
            "classes": self.classes,
            "parameters": whole,
            "trainable": cost.trainable,
            "executed": cost.executed,
            "bytes": size,
            "macs": cost.macs,
            "flops": cost.flops,
            "memory_prediction": cost.peak,
            "memory_training": cost.kept,
            "reason": self.reason,
        }
        latency = cost.latency
        if latency is None:
            return found
        return found | {
            "latency": latency.median,
            "latency_low": latency.low,
            "latency_high": latency.high,
            "images_per_second": latency.images_per_second,
            "device": latency.device,
            "threads": latency.threads,
        }


def cost(
    models: Sequence[str],
    *,
    size: tuple[int, int] = SIZE,
    classes: int | None = None,
    batch: int = 1,
    runs: int = 20,
    device: str = "auto",
    json: Path | None = None,
    csv: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[CostRow]:
    """Measure networks one after the other; one that cannot be built is a row with the reason.

    Args:
        models: each an `ARCH/ENCODER` of SMP, a kind of `model.kind` with or without its parts (`unet`,
            `torchvision/fcn_resnet50`), a model section as YAML in braces, a recipe, the name of a published network
            (its weights are not needed), a run folder, a bundle or a checkpoint file.
        size: height and width of the image in pixels.
        classes: for networks that do not say themselves; by default those of a recipe's data or of a published
            network's, else 19.
        batch: images at a time.
        runs: timed runs at most; with 0 everything but the time is counted, without computing anything.
        device: auto, cpu, cuda or mps.
        json: file for all numbers.
        csv: file for the same as a table.
        progress: called with (networks done, networks in all).

    Raises:
        InputError: none of them can be built, or the image is too small for all.
    """
    # choose_device checks what it is given
    where = choose_device(device) if runs else torch.device("meta")  # type: ignore[arg-type]  # choose_device checks it
    rows = []
    for done, name in enumerate(models, start=1):
        try:
            rows.append(_row(name, (batch, *size), classes, runs, where))
        except InputError as error:
            rows.append(CostRow(name, "", reason=str(error)))
        if progress is not None:
            progress(done, len(models))
    if not any(row.cost for row in rows):
        raise InputError("\n".join(row.reason for row in rows))
    if json is not None:
        write_text(json, jsonlib.dumps([row.cells() for row in rows], indent=2, ensure_ascii=False) + "\n")
    if csv is not None:
        write_text(csv, _as_csv(rows))
    return rows


def size_of(text: str) -> tuple[int, int]:
    """Height and width from `512` or `512x1024`.

    Raises:
        InputError: it is neither.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise InputError(f"size {text!r}: give one side in pixels, as 512, or HEIGHTxWIDTH, as 512x1024")
    return int(sides[0]), int(sides[-1])


def _row(name: str, shape: tuple[int, int, int], classes: int | None, runs: int, device: torch.device) -> CostRow:
    segmenter, config, outputs, remark = _network(name, classes)
    images = torch.zeros(shape[0], segmenter.channels, *shape[1:], dtype=torch.uint8, device=device)
    try:
        bill = measure(segmenter.to(device), images, runs=runs, seconds=LATENCY_SECONDS)
    except (RuntimeError, ValueError) as error:  # NotImplementedError is a RuntimeError
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"{name} takes no image of {shape[1]} x {shape[2]} pixels: {said}"
            if runs
            else f"{name} cannot be counted without computing ({said}); leave --runs 0 out"
        ) from error
    library = None
    if isinstance(config, SmpModel):
        whole = library_network(config, outputs, segmenter.channels)
        library = (parameters(whole), size_in_bytes(whole))
        if library[0] != bill.parameters:
            taken = (library[0] - bill.parameters) / 1e6
            remark = remark or f"terrazzo takes out {taken:.3f} M that no logit depends on"
    return CostRow(name, _described(config), outputs, bill, library, remark)


def _network(name: str, classes: int | None) -> tuple[Segmenter, ModelConfig, int, str]:
    """The network, what it is in a recipe, its number of classes, and a remark on them."""
    path = Path(name)
    if name.startswith(HUB) or (path.exists() and path.suffix not in (".yaml", ".yml")) or path.suffix in SUFFIXES:
        opened = open_model(name)
        own = len(opened.config.classes.names)
        remark = f"--classes {classes} left aside: the weights have {own}" if classes not in (None, own) else ""
        return opened.segmenter, opened.config.model, own, remark
    config, remark = _config(name), ""
    entry = find_entry(config.name) if isinstance(config, ZooModel) else None
    outputs = classes or (OUTPUTS.get(entry.dataset) if entry else None)
    if path.exists() or name in recipe_names():
        outputs = classes or _classes_of(name)
        remark = "" if outputs else f"the data is not here: taken to have {CLASSES} classes; --classes N says it"
    bare = config.model_copy(update={"weights": "none"})
    segmenter, _ = build_model(bare, outputs or CLASSES, pretrained=False)
    return segmenter.eval(), config, outputs or CLASSES, remark


def _classes_of(recipe: str) -> int | None:
    """How many classes a recipe's data has; None where it is not on this machine."""
    data = load_config(recipe).data
    if isinstance(data, OwnData):
        return None
    try:
        return len(build_dataset(data, "train").classes)
    except InputError:
        return None


def _config(name: str) -> ModelConfig:
    """The model section that a name stands for."""
    if name.startswith("{"):
        try:
            return _section(yaml.safe_load(name), name)
        except yaml.YAMLError:
            raise InputError(f"{name}: not valid YAML; a model section is {{kind: smp, arch: unet, ...}}") from None
    if Path(name).exists() or name in recipe_names():
        return load_config(name).model
    first, *others = name.split("/")
    kinds = [member.model_fields["kind"].default for member in get_args(get_args(ModelConfig)[0])]
    if first in kinds and len(others) <= len(PARTS.get(first, ())):
        keys = PARTS.get(first, ())[: len(others)]
        return _section({"kind": first, "weights": "none", **dict(zip(keys, others, strict=True))}, name)
    arch = first.lower().removeprefix("smp.")
    if arch in get_args(Arch) and len(others) <= 1:
        return _section({"kind": "smp", "arch": arch, **({"encoder": others[0]} if others else {})}, name)
    if name in get_args(TorchvisionArch):
        return TorchvisionModel(arch=name)
    # The last kind knows what to say about a name that nobody knows.
    return _section({"kind": "zoo", "weights": "none", "name": name}, name)


def _section(tree: object, name: str) -> ModelConfig:
    try:
        config: ModelConfig = TypeAdapter(ModelConfig).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["model", *(str(part) for part in first["loc"][1:])])
        raise InputError(f"{name}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
    return config


def _described(config: ModelConfig) -> str:
    """`smp unet resnet50`."""
    tree = config.model_dump(mode="json")
    return " ".join([config.kind, *(str(tree[key]) for key in PARTS.get(config.kind, ()))])


def _as_csv(rows: Sequence[CostRow]) -> str:
    listed = [row.cells() for row in rows]
    columns = max(listed, key=len)
    text = StringIO()
    writer = csvlib.DictWriter(text, [*columns], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return text.getvalue()
