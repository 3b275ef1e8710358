"""The published networks as a model of a recipe, with their weights or without, for any number of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from terrazzo.base import Classes, InputError
from terrazzo.models.backbone import take_channels
from terrazzo.models.segmenter import ModelInput, Role, Segmenter
from terrazzo.models.weights import LoadReport, adapt_channels
from terrazzo.published.catalog import close_names, find_entry
from terrazzo.published.download import fetch
from terrazzo.published.loading import (
    Architecture,
    Published,
    class_sides,
    find_architecture,
    published_names,
    read_published,
)
from terrazzo.published.mmseg_config import TestFacts, parse_config, test_facts

ROLES: dict[str, Role] = {"head": "decoder"}
"""Of all that is behind the backbone, only the layers that know the classes are the head: see `roles_of`."""


class ZooModel(ModelInput):
    """A published network; `terrazzo models list --runnable` names them."""

    kind: Literal["zoo"] = "zoo"
    name: str
    """A published result (segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512), or an architecture (segnext_mscan-t)."""
    weights: Literal["none", "pretrained"] | Path = "pretrained"
    """What the network starts from: none (random), pretrained (those of the published result, downloaded), or a file
    of this architecture."""
    head: Literal["by_name", "new"] = "by_name"
    """The last layers, where weights are loaded: by_name takes over the classes that the weights know under the same
    names (all, if the weights tell no names and have as many classes); new starts at random."""

    @model_validator(mode="after")
    def _there_is_such_a_network(self) -> Self:
        find_architecture(self.name)
        if self.weights == "pretrained" and find_entry(self.name) is None:
            examples = ", ".join(close_names(self.name)) or "see `terrazzo models list --runnable`"
            raise ValueError(
                f"model.name={self.name} is an architecture, and weights=pretrained needs a published result "
                f"({examples}); or give weights: none, or the path of a file"
            )
        if self.weights == "none" and self.head == "new":
            raise ValueError(
                "head=new with weights=none would change nothing: the whole network starts at random; leave head out, "
                "which is head: by_name"
            )
        return self


@dataclass(frozen=True)
class PublishedModel:
    """A published network with its weights, and how it was tested."""

    segmenter: Segmenter
    """In eval mode, on the CPU."""
    config: ZooModel
    """Rebuilds it without the file: `build_model(config, len(classes), pretrained=False)`."""
    classes: Classes
    """The outputs; without names in the file they are called class_0, class_1, ..."""
    named: bool
    """Whether the file, or what is known of it, tells the classes' names."""
    scale: tuple[int, int] | None
    """(width, height) that images were resized to, as `TestFacts` tells; None if the file does not say it."""
    keep_ratio: bool
    crop: tuple[int, int] | None
    """(height, width) of the sliding window, if there was one."""
    stride: tuple[int, int] | None
    """(rows, columns) between two windows."""
    step: int
    """Optimizer steps of the weights; 0 if the file does not say it."""
    report: LoadReport


def zoo_model(
    cfg: ZooModel, classes: int, channels: int, *, names: tuple[str, ...] = (), pretrained: bool
) -> tuple[Segmenter, LoadReport | None]:
    """The network for `classes` classes and images of `channels` channels, and what became of its weights.

    `names` are the data set's classes, which decide what of the head is taken over.

    Raises:
        InputError: the network or its weights are unknown, not to be had, or do not fit.
    """
    architecture = find_architecture(cfg.name)
    segmenter = segmenter_of(cfg, architecture, classes, channels)
    if not pretrained or cfg.weights == "none":
        return segmenter, None
    published = read_published(_file(cfg), cfg.name)
    if published.architecture.family is not architecture.family:
        name = published.architecture.name
        raise InputError(f"{published.checkpoint.source} is a {name}; type model.name={name}")
    if published.architecture.sizes != architecture.sizes:
        raise InputError(
            f"{published.checkpoint.source} is a {architecture.name} of other sizes: {published.architecture.sizes}; "
            "terrazzo.load_network(FILE) opens it, and model: {kind: own} trains on"
        )
    return segmenter, fill(segmenter, published, rows_taken(cfg, published, classes, names))


def _file(cfg: ZooModel) -> Path:
    """The weights' file, downloaded if need be."""
    if isinstance(cfg.weights, Path):
        return cfg.weights
    entry = find_entry(cfg.name)
    assert entry is not None, "the config's own check"
    return fetch(entry)


def segmenter_of(cfg: ZooModel, architecture: Architecture, classes: int, channels: int) -> Segmenter:
    """The network with random numbers.

    Raises:
        InputError: it cannot take images of so many channels.
    """
    wanted = architecture.input
    normalization = cfg.normalization(wanted.normalization, channels)
    if channels != 3:
        _check_channels(architecture, channels)
    return Segmenter(
        _built(architecture, classes, channels),
        normalization=normalization,
        stride=wanted.stride,
        smallest=wanted.smallest,
        roles=roles_of(architecture),
    )


def _built(architecture: Architecture, classes: int, channels: int) -> nn.Module:
    network = architecture.build(classes)
    for name in image_layers(architecture) if channels != 3 else ():
        take_channels(network, name, channels)
    return network


@cache
def image_layers(architecture: Architecture) -> tuple[str, ...]:
    """The convolutions that see the image; some networks have two."""
    with torch.device("meta"):
        network = architecture.build(2)
    convolutions = ((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    return tuple(name for name, module in convolutions if module.in_channels == 3 and module.groups == 1)


def _check_channels(architecture: Architecture, channels: int) -> None:
    try:
        with torch.device("meta"):
            _built(architecture, 2, channels).eval()(torch.empty(1, channels, 64, 64))
    except RuntimeError as error:
        raise InputError(
            f"{architecture.name} takes images of 3 channels only, as the image itself goes far into it, and these "
            f"have {channels}; choose another network"
        ) from error


@cache
def has_class_aux(architecture: Architecture) -> bool:
    """Whether auxiliary heads answer logits of the classes."""
    with torch.device("meta"):
        output = architecture.build(2).eval()(torch.empty(1, 3, 64, 64))
    return bool(output.class_aux)


def roles_of(architecture: Architecture) -> dict[str, Role]:
    """The tensors that know the classes, of auxiliary heads too, are the head; encoders are told by their names."""
    return {**ROLES, **dict.fromkeys(class_sides(architecture), "head")}


Rows = Sequence[tuple[int, int]]
"""(class of the data, class of the weights) whose rows of the head are taken over."""


def rows_taken(cfg: ZooModel, published: Published, classes: int, names: tuple[str, ...]) -> Rows | None:
    """What of the head is taken over; None: all of it, as it is."""
    if cfg.head == "new":
        return ()
    theirs = class_names(published)
    if theirs is None or not names:
        return None if classes == published.classes else ()
    there = {_plain(name): row for row, name in reversed([*enumerate(theirs)])}
    rows = [(row, there[plain]) for row, name in enumerate(names) if (plain := _plain(name)) in there]
    return None if rows == [(row, row) for row in range(published.classes)] and len(names) == len(rows) else rows


def _plain(name: str) -> str:
    """As names are compared: "Traffic_Light" is "traffic light"."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def class_names(published: Published) -> tuple[str, ...] | None:
    """The outputs' names: as the file says, else as they are known of such files; None if they are not."""
    for names in (published.checkpoint.classes, published.architecture.input.classes):
        if names is not None and len(names) == published.classes:
            return names
    return None


def fill(segmenter: Segmenter, published: Published, rows: Rows | None) -> LoadReport:
    """Copy the weights into a network of the same architecture; of the head, these rows."""
    sides = class_sides(published.architecture)
    own: Mapping[str, Tensor] = segmenter.net.state_dict()
    values: dict[str, Tensor] = {}
    adapted: list[str] = []
    for name, tensor in published.state.items():
        target = own[name]
        if name in sides and rows is not None:
            values[name] = _with_rows(target, tensor, sides[name], rows)
        elif tensor.shape != target.shape:
            values[name] = adapt_channels(tensor, target.shape[1])
            adapted.append(name)
        else:
            values[name] = tensor
    segmenter.net.load_state_dict(values, strict=False)  # counters of batches may be missing, which old files lack
    partly = {f"net.{name}" for name in sides} if rows is not None else set()
    changed = {f"net.{name}" for name in adapted}
    return LoadReport(
        source=published.checkpoint.source,
        loaded=tuple(key for name in values if (key := f"net.{name}") not in partly | changed),
        adapted=tuple(sorted(changed)),
        unused=tuple(sorted(sides)) if rows is not None and not rows else (),
        # where rows were matched, the file told names
        rows=tuple(class_names(published)[theirs] for _, theirs in rows) if rows else (),  # type: ignore[index]  # so
        new=tuple(sorted(partly)) if not rows else (),
    )


def _with_rows(fresh: Tensor, given: Tensor, side: int | None, rows: Rows) -> Tensor:
    """`fresh` with the rows that are taken over; as it is if they lie along no side of their own."""
    mixed = fresh.clone()
    if side is None:
        return mixed
    for ours, theirs in rows:
        mixed.select(side, ours).copy_(given.select(side, theirs))
    return mixed


def open_published(source: str | Path, model: str | None = None) -> PublishedModel:
    """A published network with its own classes: of a file, of a folder, or of a zoo name, whose file is downloaded.

    Args:
        source: file, folder or name.
        model: which network a file holds, where it does not say so itself.

    Raises:
        InputError: as `zoo_model`.
    """
    published, name = _opened(source, model)
    checkpoint, architecture = published.checkpoint, published.architecture
    config = ZooModel(name=name, weights="none")
    segmenter = segmenter_of(config, architecture, published.classes, 3)
    report = fill(segmenter, published, None)
    facts = _test_facts(checkpoint.config)
    return PublishedModel(
        segmenter=segmenter.eval(),
        config=config,
        classes=_classes(published),
        named=class_names(published) is not None,
        scale=facts.scale,
        keep_ratio=facts.keep_ratio,
        crop=facts.crop,
        stride=facts.stride,
        step=checkpoint.step or 0,
        report=report,
    )


def _opened(source: str | Path, model: str | None) -> tuple[Published, str]:
    """What a source holds, and a name that builds the same network again."""
    path, entry = Path(source), find_entry(str(source))
    if path.exists():
        published = read_published(path, model)
        return published, published.architecture.name
    if model is not None or entry is None:
        if model is None and str(source).lower() in map(str.lower, published_names()):
            raise InputError(
                f"{source} is an architecture; its weights are needed too: a file (FILE, model={source}), or a "
                f"published result, as {', '.join(close_names(str(source))) or 'terrazzo models list names them'}"
            )
        close = close_names(str(source))
        advice = f"did you mean {' or '.join(close)}?" if close else "`terrazzo models list` names what is published"
        raise InputError(f"{source}: no such file, and no published result is called so; {advice}")
    find_architecture(entry.name)  # the reason why it cannot run comes before a download
    return read_published(fetch(entry), entry.name), entry.name


def _test_facts(text: str | None) -> TestFacts:
    """How it was tested, as far as the config in the file says it."""
    nothing = TestFacts(scale=None, keep_ratio=True, crop=None, stride=None)
    if text is None:
        return nothing
    try:
        return test_facts(parse_config(text, folder=None))
    except InputError:
        return nothing


def _classes(published: Published) -> Classes:
    """The outputs as a label space: names and colours as the file says them."""
    count, checkpoint = published.classes, published.checkpoint
    names = class_names(published) or tuple(f"class_{row}" for row in range(count))
    given = checkpoint.palette
    if len({*names}) < count:
        names = tuple(name if names.count(name) == 1 else f"{name} ({row})" for row, name in enumerate(names))
    plain = Classes.of(names)
    colors = given if given is not None and len(given) == count else plain.colors
    if checkpoint.reduce_zero_label:
        return Classes(names, colors, tuple(range(1, count + 1)), ignore_id=0)
    return Classes(names, colors, plain.ids)
