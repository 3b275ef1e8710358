"""The tensors of any model, by the names of a network that they are to go into: for `init`, and beneath adapters."""

import copy
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from terrazzo.adapt import Adapter, Full, Vpt
from terrazzo.adapt.folded import fold
from terrazzo.base import InputError
from terrazzo.bundle import find_bundle, load_bundle, open_model
from terrazzo.description import CONFIG_FILE, check_whole, is_description, read_bundle_config, read_description
from terrazzo.engine.state import MODEL_FILE, Checkpoints
from terrazzo.models import LoadReport, ModelConfig, Segmenter, ZooModel
from terrazzo.models.weights import InitConfig, read_tensors, take_parts
from terrazzo.published.loading import read_published


@dataclass(frozen=True)
class Source:
    """What a model is made of."""

    tensors: dict[str, Tensor]
    """By the network's names, or by the file's own if it is one of others."""
    classes: tuple[str, ...] | None
    """Names of the outputs, where they are known."""
    left_out: bool = False
    """Whether something was learned beside the tensors that could be folded into them, and was not."""


def plain_name(name: str) -> str:
    """A tensor's name without what a change adds to it: "conv.parametrizations.weight.original" is "conv.weight"."""
    return re.sub(r"\.parametrizations\.(\w+)\.original$", r".\1", name)


def read_source(
    source: str | Path, *, model: ModelConfig, network: nn.Module | None = None, folded: bool = True
) -> Source:
    """All tensors of a run, a bundle, a weights file, a folder of transformers or a published network, on the CPU.

    Args:
        source: a path, or the name of a published network, which is downloaded once.
        model: the network that they are to go into, which tells how a file of others is read.
        network: the module of a model that was passed from Python (model.kind: own).
        folded: with what an adapted run learned beside its weights folded into them; False: without it.

    Raises:
        InputError: there is no such model, or what it learned cannot be folded.
    """
    path = Path(source)
    if path.is_file() and not (path.name == MODEL_FILE and is_description(path.parent / CONFIG_FILE)):
        return _of_file(path, model)
    if (path / CONFIG_FILE).exists() and is_description(path / CONFIG_FILE):
        return _of_bundle(path, network, folded=folded)
    if path.is_file() or Checkpoints(path / "checkpoints").folder.is_dir():
        return _of_bundle(find_bundle(path).folder, network, folded=folded)
    opened = open_model(source if not path.exists() else path)
    return Source(opened.segmenter.state_dict(), opened.config.classes.names if opened.named else None)


def start_from(
    segmenter: Segmenter, init: InitConfig, model: ModelConfig, names: tuple[str, ...], before: LoadReport | None
) -> LoadReport:
    """Take parts of another model; the report of these and of model.weights (`before`) together.

    `names` are those of the data's classes.

    Raises:
        InputError: a part is not to be had there, knows other classes, or leaves nothing of model.weights.
    """
    found = read_source(init.from_, model=model, network=segmenter.net if model.kind == "own" else None)
    if "head" in init.parts and found.classes is not None and found.classes != names:
        others = [part for part in init.parts if part != "head"]
        advice = (
            f"leave head out: init.parts=[{', '.join(others)}]" if others else "a head of other classes is no start"
        )
        raise InputError(
            f"init.parts: the head of {init.from_} knows the classes {', '.join(found.classes)}, and the data has "
            f"{', '.join(names)}; {advice}"
        )
    return take_parts(segmenter, init, found.tensors, before)


def _of_file(path: Path, model: ModelConfig) -> Source:
    check_whole(path)
    beside = path.with_suffix(".json")
    if is_description(beside):
        return Source(read_tensors(path), read_description(beside).classes.names)
    if isinstance(model, ZooModel):
        published = read_published(path, model.name)
        tensors = {f"net.{name}": tensor for name, tensor in published.state.items()}
        return Source(tensors, published.checkpoint.classes)
    return Source(read_tensors(path), None)


def _of_bundle(folder: Path, network: nn.Module | None, *, folded: bool) -> Source:
    config = read_bundle_config(folder)
    names = config.classes.names
    if folded and isinstance(config.adapt, Adapter | Vpt):
        raise InputError(
            f"{folder} was trained with adapt.kind={config.adapt.kind}, whose layers work beside the base's weights "
            "and cannot be folded into them; take the base itself, or a run with ssf or lora"
        )
    if folded and not isinstance(config.adapt, Full):
        segmenter, _ = load_bundle(folder, network=copy.deepcopy(network))
        fold(segmenter)
        return Source(segmenter.state_dict(), names)
    try:
        tensors = load_file(folder / MODEL_FILE)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / MODEL_FILE} cannot be read: {error}") from None
    left_out = not isinstance(config.adapt, Full | Adapter | Vpt)
    return Source({plain_name(name): tensor for name, tensor in tensors.items()}, names, left_out)
