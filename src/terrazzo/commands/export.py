"""`terrazzo export`: a model's weights alone, in the network's own names, and their description beside them."""

from pathlib import Path
from typing import Literal, assert_never

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.bundle import CheckpointName, open_model
from terrazzo.description import BundleConfig, is_description
from terrazzo.engine.state import MODEL_FILE
from terrazzo.files import replacing, write_text

WeightsFormat = Literal["state_dict", "safetensors"]
ENDINGS: dict[str, WeightsFormat] = {
    ".pth": "state_dict",
    ".pt": "state_dict",
    ".bin": "state_dict",
    ".safetensors": "safetensors",
}
"""The format that a file's ending means, if none is asked for."""
METADATA = "terrazzo"
"""The one entry in a safetensors file's metadata: several would be written in random order."""


def export(
    source: str | Path,
    out: str | Path,
    *,
    format: WeightsFormat | None = None,
    checkpoint: CheckpointName | None = None,
    model: str | None = None,
    network: nn.Module | None = None,
) -> list[Path]:
    """Write a model's weights to `out`, and what describes them to a .json file of the same name beside it.

    The tensors have the names of the network itself, so that `network.load_state_dict` takes them. The description
    holds classes, normalisation, the way to look at images, and the model section of a recipe: with it beside them,
    terrazzo opens the weights as any other model, with the same answers.

    Args:
        source: as for `terrazzo.bundle.open_model`.
        format: `state_dict` (torch.save of the tensors alone) or `safetensors` (the description is in its metadata
            too); by default what the ending of `out` means.
        checkpoint: of a run folder; by default best_miou, else last.
        model: which published network a checkpoint file holds, where the file does not say.
        network: the module of a model that was passed from Python (model.kind: own).

    Returns:
        The two files.

    Raises:
        InputError: there is no such model, or `out` cannot be such a file.
    """
    path = Path(out)
    chosen, beside = _format_of(path, format), path.with_suffix(".json")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise InputError(f"{path}: the weights to be exported lie there; give --out another name")
    if beside.exists() and not is_description(beside):
        raise InputError(f"{beside} is no description of weights, and would be written over; choose another name")
    opened = open_model(source, model=model, checkpoint=checkpoint, network=network)
    state = opened.segmenter.net.state_dict()
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        _write(draft, tensors, chosen, opened.config)
    write_text(beside, opened.config.model_dump_json(indent=2) + "\n")
    return [path, beside]


def _format_of(path: Path, format: WeightsFormat | None) -> WeightsFormat:
    """What to write.

    Raises:
        InputError: the name does not say, says something else, or belongs to a bundle.
    """
    said = ENDINGS.get(path.suffix)
    if said is None or format not in (None, said):
        wanted = [ending for ending, meant in ENDINGS.items() if format in (None, meant)]
        raise InputError(f"{path}: weights {f'as {format} ' if format else ''}end in {', '.join(wanted)}")
    if path.name == MODEL_FILE:
        raise InputError(f"{path}: {MODEL_FILE} is a bundle's file, with names that differ; choose another name")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file, as {path / 'weights.safetensors'}")
    return said


def _write(path: Path, tensors: dict[str, Tensor], format: WeightsFormat, config: BundleConfig) -> None:
    match format:
        case "state_dict":
            torch.save(tensors, path)
        case "safetensors":
            save_file(tensors, path, metadata={METADATA: config.model_dump_json()})
        case _:
            assert_never(format)
