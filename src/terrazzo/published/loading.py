"""A published network from its file: which one it is, how many classes it has, and every tensor in its place."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.published import (
    bisenetv2,
    ddrnet,
    deeplab_mobilenet,
    dilated,
    espnet,
    fast_scnn,
    hrnet,
    ocrnet,
    pidnet,
    segformer_mit,
    segformer_paper,
    segmenter_vit,
    segnext,
    stdc,
    swin_upernet,
    unet_s5,
)
from terrazzo.published.checkpoints import read_checkpoint

FAMILIES: tuple[ModuleType, ...] = (
    *(bisenetv2, ddrnet, deeplab_mobilenet, dilated, espnet, fast_scnn, hrnet, ocrnet, pidnet, segformer_mit),
    *(segformer_paper, segmenter_vit, segnext, stdc, swin_upernet, unet_s5),
)
"""One module each: VARIANTS, sizes by published name, and `build(name, classes)`."""

DERIVED = ("relative_position_index",)
"""Tables that follow from a network's sizes: in some files, and never read."""

SHOWN = 5
"""Tensors that an error names."""


def published_names() -> list[str]:
    """All names that `load_published` knows."""
    return sorted(name for family in FAMILIES for name in family.VARIANTS)


def load_published(path: Path, model: str | None = None) -> nn.Module:
    """The network of a checkpoint in eval mode: normalised float32 images [B, 3, H, W] in, Output out, in its classes.

    Args:
        path: a file of MMSegmentation, of the authors, or a plain state dict; or a Hugging Face folder.
        model: which network it is: a name of `published_names`, or a config's name that begins with one; the file's
            own name if left out. Capitals do not matter.

    Raises:
        InputError: the name is unknown, the file is damaged or unsafe, or a tensor is missing, unused or of another
            shape.
    """
    given = path.stem if model is None else model
    name, family = _known(given, path, asked=model is not None)
    state = read_checkpoint(path).state
    if family is segnext:
        state = segnext.renamed(state)
    if family is segformer_paper:
        state = segformer_paper.renamed(state)
    sizes = family.VARIANTS[name]
    if family is dilated and "769x769" in given:
        sizes = replace(sizes, align_corners=True)  # the published configs of this crop enlarge their logits so
    if family is segmenter_vit and segmenter_vit.PATCH_BIAS in state:
        sizes = replace(sizes, patch_bias=True)  # files from before MMSegmentation 1.0 have one
    build: Callable[[Any, int], nn.Module] = family.build
    network = build(sizes, _class_count(build, sizes, state, path, name))
    _load(network, state, name, path)
    return network.eval()


def _known(given: str, path: Path, *, asked: bool) -> tuple[str, ModuleType]:
    """The longest published name that `given` begins with, and its family."""
    wanted = given.lower()
    fits = [(name, family) for family in FAMILIES for name in family.VARIANTS if _begins(wanted, name.lower())]
    if not fits:
        where = f"no published network is called {given!r}" if asked else f"{path}: its name does not say which network"
        raise InputError(f"{where}; give model=NAME, one of: {', '.join(published_names())}")
    return max(fits, key=lambda fit: len(fit[0]))


def _begins(name: str, start: str) -> bool:
    """Whether a config's or a file's name is that of a network, or goes on after it ("..._r18-d8_4xb2-80k")."""
    return name == start or (name.startswith(start) and name[len(start)] in "_-.")


def _class_count(
    build: Callable[[Any, int], nn.Module], sizes: Any, state: Mapping[str, Tensor], path: Path, name: str
) -> int:
    """What the file's tensors say where a network's own shapes depend on the number of classes."""
    with torch.device("meta"):
        five, seven = (build(sizes, classes).state_dict() for classes in (5, 7))
    for key, tensor in five.items():
        sides = [
            side for side, (a, b) in enumerate(zip(tensor.shape, seven[key].shape, strict=True)) if (a, b) == (5, 7)
        ]
        if sides and key in state and state[key].ndim == tensor.ndim:
            return int(state[key].shape[sides[0]])
    raise InputError(
        f"{path}: no classifier of {name} in it, so it is another network, or a part of one; {_some(state)}"
    )


def _load(network: nn.Module, state: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Give every tensor its place.

    Raises:
        InputError: one is missing, unused or of another shape; nothing is loaded in part and silently.
    """
    own = network.state_dict()
    used = {key: tensor for key, tensor in state.items() if not key.endswith(DERIVED)}
    missing = [key for key in own.keys() - used.keys() if not key.endswith("num_batches_tracked")]
    unused = sorted(used.keys() - own.keys())
    odd = [key for key in own.keys() & used.keys() if own[key].shape != used[key].shape]
    if missing or unused or odd:
        raise InputError(
            f"{path} does not fit {name}: {len(own) - len(missing) - len(odd)} of {len(own)} tensors fit, "
            f"{len(missing)} are missing ({_some(missing)}), {len(unused)} unused ({_some(unused)}), {len(odd)} of "
            f"another shape ({_some(odd)}). Is it another network? Say which with model=NAME"
        )
    network.load_state_dict(used, strict=False)  # only counters of batches may be missing, which old files lack


def _some(keys: Iterable[str]) -> str:
    listed = sorted(keys)
    return ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "") if listed else "none"
