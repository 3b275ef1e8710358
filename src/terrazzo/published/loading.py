"""A published network from its file: which one it is, how many classes it has, and every tensor in its place."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.published.catalog import close_names, find_entry
from terrazzo.published.checkpoints import Checkpoint, read_checkpoint
from terrazzo.published.facts import PublishedInput
from terrazzo.published.missing import cannot_run
from terrazzo.published.networks import (
    beit_upernet,
    bisenetv1,
    bisenetv2,
    cgnet,
    convnext_upernet,
    ddrnet,
    deeplab_mobilenet,
    dilated,
    dpt_vit,
    erfnet,
    espnet,
    fast_scnn,
    fastfcn,
    hrnet,
    icnet,
    knet,
    mobilenet_v3,
    ocrnet,
    pidnet,
    pointrend,
    poolformer_fpn,
    segformer_mit,
    segformer_paper,
    segmenter_vit,
    segnext,
    semantic_fpn,
    setr_vit,
    stdc,
    swin_upernet,
    twins,
    unet_s5,
    vit_upernet,
)
from terrazzo.published.old_names import renamed

FAMILIES: tuple[ModuleType, ...] = (
    *(bisenetv2, ddrnet, deeplab_mobilenet, dilated, espnet, fast_scnn, hrnet, ocrnet, pidnet, segformer_mit),
    *(segformer_paper, segmenter_vit, segnext, stdc, swin_upernet, unet_s5),
    *(bisenetv1, cgnet, erfnet, fastfcn, icnet, mobilenet_v3, pointrend, semantic_fpn),
    *(beit_upernet, convnext_upernet, dpt_vit, knet, poolformer_fpn, setr_vit, twins, vit_upernet),
)
"""One module each: VARIANTS, sizes by published name, and `build(name or sizes, classes)`.

A family may have `INPUT`, what it wants to see, or a property `input` of its sizes; and `renamed(state)`, which gives
the tensors of its authors' own files the published names.
"""

UNVERIFIED: Mapping[str, str] = {}
"""Networks that are written and not proven, by published name, and what there is no proof of. They are refused."""

ALIASES = {
    **{f"segnext_{size}": f"segnext_mscan-{size[0]}" for size in ("tiny", "small", "base", "large")},
    **{f"segformer-b{size}": f"segformer.b{size}" for size in range(6)},
}
"""What SegNeXt's authors and the Hugging Face hub call networks of ours: beginnings of names, in small letters."""

ALIGNED = "769x769"
"""The crop whose published networks enlarge maps and logits with aligned corners."""

DERIVED = ("relative_position_index",)
"""Tables that follow from a network's sizes: in some files, and not read."""

BUNDLED = "net."
"""Before every name in a bundle of ours."""

SHOWN = 5
"""Tensors that an error names."""


@dataclass(frozen=True)
class Architecture:
    """A published network without weights: its family, and its sizes."""

    name: str
    """Finds it again: one of `published_names`, with "_769x769" behind it where that makes its corners aligned."""
    family: ModuleType
    sizes: Any
    """One of the family's VARIANTS."""

    def build(self, classes: int) -> nn.Module:
        """The network with random numbers."""
        network: nn.Module = self.family.build(self.sizes, classes)
        return network

    @property
    def input(self) -> PublishedInput:
        """What it wants to see."""
        if hasattr(self.sizes, "input"):
            own: PublishedInput = self.sizes.input
            return own
        family: PublishedInput = vars(self.family).get("INPUT", PublishedInput())
        return family


@dataclass(frozen=True)
class Published:
    """A checkpoint whose tensors all have their place."""

    architecture: Architecture
    checkpoint: Checkpoint
    """What the file says in its own words."""
    state: dict[str, Tensor]
    """Tensors by the names and in the shapes of `architecture.build(classes)`, and nothing else."""
    classes: int
    """Outputs of the network."""


def published_names() -> list[str]:
    """The names of all architectures."""
    return sorted(name for family in FAMILIES for name in family.VARIANTS)


def find_architecture(given: str) -> Architecture:
    """The network that a name means, in any case: an architecture's, a published result's, or its weights file's.

    Other names count by what they begin with: segformer_mit-b0_mine is a segformer_mit-b0.

    Raises:
        InputError: there is no such network, or terrazzo lacks a part of it, which is named.
    """
    entry = find_entry(given)
    wanted = given.lower() if entry is None else entry.name.lower()
    found = _longest(wanted)
    if found is None and entry is not None:
        raise InputError(cannot_run(entry))
    if found is None:
        alike = [*close_names(given), *get_close_matches(wanted, published_names(), n=2)]
        advice = f"did you mean {' or '.join(alike)}? " if alike else ""
        raise InputError(
            f"no published network is called {given!r}; {advice}`terrazzo models list` shows all that there are"
        )
    name, family = found
    if (reason := UNVERIFIED.get(name)) is not None:
        raise InputError(f"{given} is not verified and does not run: {reason}")
    sizes = family.VARIANTS[name]
    # The published configs of this crop, and no others, enlarge maps and logits with aligned corners.
    if ALIGNED in wanted and hasattr(sizes, "align_corners"):
        return Architecture(f"{name}_{ALIGNED}", family, replace(sizes, align_corners=True))
    return Architecture(name, family, sizes)


def _longest(wanted: str) -> tuple[str, ModuleType] | None:
    """The longest known name that `wanted` begins with, and its family."""
    known = {name.lower(): (name, family) for family in FAMILIES for name in family.VARIANTS}
    known |= {alias: known[name] for alias, name in ALIASES.items()}
    fits = [name for name in known if _begins(wanted, name)]
    return known[max(fits, key=len)] if fits else None


def _begins(name: str, start: str) -> bool:
    """Whether a config's or a file's name is that of a network, or goes on after it ("..._r18-d8_4xb2-80k")."""
    return name == start or (name.startswith(start) and name[len(start)] in "_-.")


def read_published(path: Path, model: str | None = None) -> Published:
    """Everything of a published file, in our names.

    Args:
        path: a file of MMSegmentation, of the authors, or a plain state dict; or a Hugging Face folder.
        model: which network it is, for `find_architecture`. If left out: what the config in the file says, else the
            file's own name.

    Raises:
        InputError: the network is unknown, the file is damaged or unsafe, or a tensor is missing, unused or of another
            shape.
    """
    asked = None if model is None else find_architecture(model)
    checkpoint = read_checkpoint(path)
    architecture = asked or _architecture_of(path, checkpoint)
    architecture, state = _in_our_names(architecture, checkpoint.state)
    classes = _class_count(architecture, state, path)
    return Published(architecture, checkpoint, _fitted(architecture, state, classes, path), classes)


def load_published(path: Path, model: str | None = None) -> nn.Module:
    """The network of a checkpoint in eval mode: normalised float32 images [B, 3, H, W] in, Output out, in its classes.

    Arguments and errors are those of `read_published`.
    """
    published = read_published(path, model)
    network = published.architecture.build(published.classes)
    network.load_state_dict(published.state, strict=False)  # counters of batches may be missing, which old files lack
    return network.eval()


@cache
def class_sides(architecture: Architecture) -> Mapping[str, int | None]:
    """The tensors that have a row for each class, and the side along which the rows lie.

    None for those whose rows share a side with others, or lie along two, as in the head of PointRend that reads logits.
    """
    with torch.device("meta"):
        five, seven = (architecture.build(classes).state_dict() for classes in (5, 7))
    sides: dict[str, int | None] = {}
    for name, tensor in five.items():
        pairs = [*zip(tensor.shape, seven[name].shape, strict=True)]
        changed = [side for side, (a, b) in enumerate(pairs) if a != b]
        if changed:
            sides[name] = changed[0] if [pairs[side] for side in changed] == [(5, 7)] else None
    return sides


def _architecture_of(path: Path, checkpoint: Checkpoint) -> Architecture:
    """What the config in the file says, else the file's name.

    Raises:
        InputError: neither says it, or it is a network with a part that terrazzo lacks.
    """
    if checkpoint.config is not None and (said := _by_config(checkpoint.config, path)) is not None:
        return said
    try:
        return find_architecture(path.stem)
    except InputError as error:
        if find_entry(path.stem) is not None:
            raise
        raise InputError(
            f"{path}: its name does not say which network; give model=NAME, one of: {', '.join(published_names())}"
        ) from error


def _by_config(text: str, path: Path) -> Architecture | None:
    """The network of a training config; None if the text is none that can be read.

    A published file's name is believed before a config in which something is unknown.
    """
    from terrazzo.published.mmseg_config import architecture_name, parse_config  # it asks for the names in here

    try:
        config = parse_config(text, folder=None)
    except InputError:
        return None
    try:
        name = architecture_name(config)
        return None if name is None else find_architecture(name)
    except InputError as error:
        if find_entry(path.stem) is not None:
            return None
        raise InputError(f"{path}: {error}; give model=NAME if it is one of the known networks all the same") from error


def _in_our_names(architecture: Architecture, state: Mapping[str, Tensor]) -> tuple[Architecture, dict[str, Tensor]]:
    """The tensors as the family names them now, and the network that these are of, for a family has several forms."""
    whole = all(key.startswith(BUNDLED) for key in state)
    named = {key.removeprefix(BUNDLED) if whole else key: tensor for key, tensor in state.items()}
    tensors = renamed(architecture.name, {key: value for key, value in named.items() if not key.endswith(DERIVED)})
    if architecture.family is segformer_mit and segformer_paper.HEAD in tensors:
        name = architecture.name.replace("segformer_mit-", "segformer.")
        architecture = Architecture(name, segformer_paper, segformer_paper.VARIANTS[name])
    own: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = vars(architecture.family).get("renamed")
    if own is not None:
        tensors = own(tensors)
    if architecture.family is espnet:
        architecture = replace(architecture, sizes=espnet.as_wide_as(tensors, architecture.sizes))
    return architecture, tensors


def _class_count(architecture: Architecture, state: Mapping[str, Tensor], path: Path) -> int:
    """What the file's tensors say where a network's own shapes depend on the number of classes."""
    for key, side in class_sides(architecture).items():
        if side is not None and key in state and state[key].ndim > side:
            return int(state[key].shape[side])
    raise InputError(
        f"{path}: no classifier of {architecture.name} in it, so it is another network, or a part of one; "
        f"{_some(state)}"
    )


def _fitted(architecture: Architecture, state: Mapping[str, Tensor], classes: int, path: Path) -> dict[str, Tensor]:
    """The state, if every tensor has its place.

    Raises:
        InputError: one is missing, unused or of another shape; nothing is loaded in part and silently.
    """
    with torch.device("meta"):
        own = architecture.build(classes).state_dict()
    missing = [key for key in own.keys() - state.keys() if not key.endswith("num_batches_tracked")]
    unused = sorted(state.keys() - own.keys())
    odd = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unused or odd:
        raise InputError(
            f"{path} does not fit {architecture.name}: {len(own) - len(missing) - len(odd)} of {len(own)} tensors fit, "
            f"{len(missing)} are missing ({_some(missing)}), {len(unused)} unused ({_some(unused)}), {len(odd)} of "
            f"another shape ({_some(odd)}). Is it another network? Say which with model=NAME"
        )
    return dict(state)


def _some(keys: Iterable[str]) -> str:
    listed = sorted(keys)
    return ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "") if listed else "none"
