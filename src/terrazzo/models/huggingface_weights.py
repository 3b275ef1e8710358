"""Published weights of transformers into a network that may have other classes and channels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from terrazzo.base import InputError
from terrazzo.models.huggingface_files import Facts
from terrazzo.models.huggingface_library import WITH_BACKBONE, library, library_config, quiet
from terrazzo.models.huggingface_nets import QUERY_FAMILIES, family_of
from terrazzo.models.segmenter import Segmenter
from terrazzo.models.weights import LoadReport, adapt_channels

LAST_BIASES = ("classifier.bias", "class_predictor.bias", "head.head.4.bias", "classifier.convolution.bias")
"""How the last layers' biases are called."""


def taken_over(
    segmenter: Segmenter,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    facts: Facts,
    ours: tuple[str, ...],
) -> LoadReport:
    """Copy the library's weights, under the names of any of its versions, into a network with `ours` classes."""
    donor, info = _donor(settings, tensors, facts)
    found = {f"net.model.{name}": tensor for name, tensor in donor.items()}
    targets, values = segmenter.state_dict(), dict[str, Tensor]()
    rows = _rows(facts.names, ours, outputs(found), outputs(targets), queries=settings["model_type"] in QUERY_FAMILIES)
    adapted: list[str] = []
    for name, target in targets.items():
        if name not in found:
            continue
        if segmenter.role(name) == "head" and rows is not None:
            values[name] = target.clone()
            for mine, theirs in rows:
                values[name][mine] = found[name][theirs]
        elif found[name].shape != target.shape:
            values[name] = adapt_channels(found[name], target.shape[1])
            adapted.append(name)
        else:
            values[name] = found[name]
    segmenter.load_state_dict(values, strict=False)
    head = {name for name in values if rows is not None and segmenter.role(name) == "head"}
    return LoadReport(
        source=facts.source,
        loaded=tuple(name for name in values if name not in head and name not in adapted),
        adapted=tuple(adapted),
        missing=tuple(name for name in targets if name not in values),
        unused=tuple(sorted({*info, *(found.keys() - targets.keys())})),
        rows=tuple(facts.names[theirs] for _, theirs in rows if theirs < len(facts.names)) if rows else (),
        new=() if rows else tuple(sorted(head)),
    )


def _donor(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], facts: Facts
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights under the names of the library's version in use, and the tensors of the file that it did not use.

    Raises:
        InputError: the weights are of another network.
    """
    inner = settings.get("backbone_config") if settings["model_type"] in WITH_BACKBONE else settings
    classes = outputs(tensors) - (settings["model_type"] in QUERY_FAMILIES)
    kind = getattr(library(), family_of(settings["model_type"]).library_class)
    try:
        config = library_config(settings, classes, (inner or {}).get("num_channels", 3))
        # From tensors in memory: the library would fetch and unpickle files by rules of its own.
        with quiet():
            donor, info = kind.from_pretrained(
                None, config=config, state_dict=dict(tensors), dtype=torch.float32, output_loading_info=True
            )
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{facts.source}: weights of another network than its settings say: {said}") from error
    state = {name: tensor for name, tensor in donor.state_dict().items() if not name.startswith("criterion.")}
    lost = {*info["missing_keys"]}
    if len(lost) > len(state) / 10:
        raise InputError(
            f"{facts.source}: no weights of a {settings['model_type']} as configured; {len(lost)} of {len(state)} "
            f"tensors are missing, such as {min(lost)}"
        )
    return {name: tensor for name, tensor in state.items() if name not in lost}, [*info["unexpected_keys"]]


def outputs(tensors: Mapping[str, Tensor]) -> int:
    """Rows of the last layer, from its bias; without one, the weights are of no network for segmentation."""
    for name, tensor in tensors.items():
        if "auxiliary" not in name and name.endswith(LAST_BIASES):
            return len(tensor)
    raise InputError(
        "model: these weights have no last layer for classes of pixels: an encoder alone, or another task?"
    )


def _rows(
    theirs: tuple[str, ...], ours: tuple[str, ...], their_rows: int, our_rows: int, *, queries: bool
) -> list[tuple[int, int]] | None:
    """(row of ours, row of theirs) that are taken over of the last layers; None: all, as they are."""
    if not theirs or not ours:
        rows: list[tuple[int, int]] | None = None if their_rows == our_rows else []
    else:
        there = {_plain(name): row for row, name in reversed([*enumerate(theirs)])}
        rows = [(row, there[_plain(name)]) for row, name in enumerate(ours) if _plain(name) in there]
        if len(theirs) == len(ours) and rows == [(row, row) for row in range(len(ours))]:
            rows = None
    return [*rows, (our_rows - 1, their_rows - 1)] if rows and queries else rows  # the last says "no object"


def _plain(name: str) -> str:
    """As names are compared: "Traffic_Light" is "traffic light"."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()
