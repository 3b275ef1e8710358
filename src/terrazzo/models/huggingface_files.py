"""Files of a model of transformers, in a local folder or on the Hugging Face hub, and what they say of its input."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from terrazzo.base import InputError, Normalization
from terrazzo.models.huggingface_nets import Family
from terrazzo.published.checkpoints import read_checkpoint

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In this order; the one of a larger network is cut into parts that NAME.index.json lists."""


@dataclass(frozen=True)
class Facts:
    """What stands beside the weights of a published network."""

    source: str
    """Folder or repository."""
    normalization: Normalization
    names: tuple[str, ...]
    """Of the classes; empty if the file has none but LABEL_0, LABEL_1, ..."""
    exact: tuple[int, int] | None = None
    """(height, width) that images are resized to for the published scores."""
    short: int | None = None
    """Or the pixels of their short side, in their own proportions."""
    long: int | None = None
    """And of their long side, which must not be longer; only with `short`."""
    window: int | None = None
    """Side of the square windows that are looked through one after the other, if they are."""


def read_facts(source: str, family: Family) -> Facts:
    """What config.json and preprocessor_config.json of a folder or repository say; a file alone says nothing.

    Labels with a reduced zero (`do_reduce_labels`) need nothing: the classes are those without the zero, and the data
    set says which values of its files they have.
    """
    if Path(source).is_file():
        return Facts(source, family.normalization, ())
    config, processor = (_optional(source, name) for name in ("config.json", "preprocessor_config.json"))
    names = [config.get("id2label", {}).get(str(row), "") for row in range(len(config.get("id2label", {})))]
    known = bool(names) and names != [f"LABEL_{row}" for row in range(len(names))] and len({*names}) == len(names)
    size = processor.get("size") if processor.get("do_resize", True) else None
    exact, short, long = _sides(size)
    split = bool(processor.get("do_split_image"))
    return Facts(
        source=source,
        normalization=_normalization(processor, family, source),
        names=tuple(names) if known else (),
        exact=exact,
        short=short,
        long=None if split else long,
        window=short if split else None,
    )


def _sides(size: Any) -> tuple[tuple[int, int] | None, int | None, int | None]:
    """(height, width), short side and long side, of which the file gives some."""
    match size:
        case {"height": int(height), "width": int(width)}:
            return (height, width), None, None
        case {"shortest_edge": int(short), **rest}:
            long = rest.get("longest_edge")
            return None, short, long if isinstance(long, int) else None
        case int(side):  # of files from before the library named its sides
            return (side, side), None, None
        case _:
            return None, None, None


def _normalization(processor: Mapping[str, Any], family: Family, source: str) -> Normalization:
    """(image * rescale_factor - mean) / std, each step only if the processor does it."""
    usual = family.normalization
    if not processor:
        return usual
    factor = float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 1.0
    normalizes = processor.get("do_normalize", usual.mean != (0, 0, 0))
    mean = tuple(processor.get("image_mean") or usual.mean) if normalizes else (0.0,) * 3
    std = tuple(processor.get("image_std") or usual.std) if normalizes else (1.0,) * 3
    flips = processor.get("do_flip_channel_order", usual.channel_order == "bgr")
    order: Literal["rgb", "bgr"] = "bgr" if flips else "rgb"
    try:
        return Normalization(mean=mean, std=std, max_value=255 * factor, channel_order=order)
    except ValueError as error:
        raise InputError(f"{source}: preprocessor_config.json: {error}") from error


def read_weights(source: str) -> dict[str, Tensor]:
    """All tensors of a file, a folder or a repository, on the CPU. Nothing in them is executed.

    Raises:
        InputError: there are no weights, or they are damaged or unsafe.
    """
    if Path(source).is_file():
        return _tensors(Path(source))
    for name in WEIGHTS:
        if file := find_file(source, name):
            return _tensors(file)
        if index := find_file(source, f"{name}.index.json"):
            tensors: dict[str, Tensor] = {}
            for part in sorted({*map(str, read_json(index).get("weight_map", {}).values())}):
                if Path(part).name != part or (piece := find_file(source, part)) is None:
                    raise InputError(f"{source}: the weights' part {part!r} is not there")
                tensors |= _tensors(piece)
            return tensors
    raise InputError(f"{source}: no weights; expected {' or '.join(WEIGHTS)} beside its config.json")


def _tensors(file: Path) -> dict[str, Tensor]:
    checkpoint = read_checkpoint(file)
    return {checkpoint.prefix + name: tensor for name, tensor in checkpoint.state.items()}


def _optional(source: str, name: str) -> dict[str, Any]:
    file = find_file(source, name)
    return {} if file is None else read_json(file)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; InputError that names the file if it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: damaged or no JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds a {type(content).__name__}; expected an object")
    return content


def find_file(source: str, name: str) -> Path | None:
    """A file of a folder, or of a repository of the hub (fetched once); None if that has no such file.

    Raises:
        InputError: there is no such folder or repository, or it is not to be had: offline, gated, cut off.
    """
    if Path(source).is_dir():
        file = Path(source, name)
        return file if file.is_file() else None
    from huggingface_hub import hf_hub_download  # needed for the hub alone
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(source, name))
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{source}/{name} could not be fetched from the hub and is not kept from before "
            f"({' '.join(str(error).split())[:200]}); give a local folder instead"
        ) from error
    except EntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise InputError(
            f"{source} is open only to those who accepted its terms: do so on its page of the hub, then give your "
            "token in the environment variable HF_TOKEN"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"{source}: no such folder, and no such repository on the hub (a private one needs HF_TOKEN); "
            "names look like nvidia/segformer-b0-finetuned-ade-512-512"
        ) from error
    except OSError as error:
        raise InputError(
            f"{source}/{name} could not be fetched from the hub: {' '.join(str(error).split())[:200]}"
        ) from error
