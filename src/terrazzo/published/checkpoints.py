"""Checkpoints as other codebases save them: the tensors, and what the file says about classes, colours and config.

Read are MMSegmentation's (0.x and current, a Runner's own files too), `{"model": ...}` and its like, bare state dicts,
all with or without the prefixes of wrappers, in the forms torch.save has had, and safetensors. Which network the
tensors belong to is not decided here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from terrazzo.base import Color, InputError
from terrazzo.published.pickles import Array, load_pickled, printable


@dataclass(frozen=True)
class Checkpoint:
    """What is in a file, in its own words. Nothing is filled in: a field is None if the file does not say."""

    source: str
    """The file."""
    state: dict[str, Tensor]
    """Tensors on the CPU, by name without `prefix`."""
    classes: tuple[str, ...] | None = None
    palette: tuple[Color, ...] | None = None
    """RGB, one for each class."""
    reduce_zero_label: bool = False
    """Trained on labels whose 0 was made void and whose other values were lowered by one."""
    config: str | None = None
    """Text of the training config (Python): data to parse, never code to run."""
    step: int | None = None
    """Optimizer steps it was trained for."""
    prefix: str = ""
    """Taken off every tensor's name: what a wrapper around the network had added ("module.")."""
    ignored: tuple[str, ...] = ()
    """Entries of the file that were not used, by their path: the optimizer, counters, values of an unknown form."""


def read_checkpoint(path: Path) -> Checkpoint:
    """All of a file or a Hugging Face folder that is of use here. Nothing in it is executed.

    Raises InputError that names the file and, if it holds more than tensors and plain data, what it wanted to call.
    """
    file = _file(path)
    content = _read_safetensors(file) if _is_safetensors(file) else load_pickled(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds a {type(content).__name__}; expected the state dict of a network")
    content = _mapping(content)
    ignored: list[str] = []
    tensors = _tensors(_unwrap(content, ignored), ignored)
    if not tensors:
        entries = ", ".join(printable(str(key))[:40] for key in list(content)[:8])
        raise InputError(f"{file}: no tensors of a network in it, only {entries or 'nothing'}; expected a state dict")
    meta = _mapping(content.get("meta"))
    about = _mapping(meta.get("dataset_meta")) or meta  # in `meta` itself before MMSegmentation 1.0
    prefix = _common_prefix(tensors)
    return Checkpoint(
        source=str(path),
        state={name.removeprefix(prefix): tensor for name, tensor in tensors.items()},
        classes=_classes(about, ignored),
        palette=_palette(about, ignored),
        reduce_zero_label=about.get("reduce_zero_label") is True,
        config=next((text for key in ("cfg", "config") if isinstance(text := meta.get(key), str)), None),
        step=next((count for key in ("iter", "step") if type(count := meta.get(key)) is int), None),
        prefix=prefix,
        ignored=tuple(printable(entry) for entry in ignored),
    )


def _file(path: Path) -> Path:
    if path.is_dir():
        names = ("model.safetensors", "pytorch_model.bin")
        found = next((path / name for name in names if (path / name).is_file()), None)
        if found is None:
            raise InputError(f"{path}: a folder without {' or '.join(names)}; give the path of a weights file")
        return found
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a weights file")
    return path


def _is_safetensors(file: Path) -> bool:
    """By what the file holds, as names lie: a header's length in 8 bytes, then the header, which is JSON."""
    with file.open("rb") as stream:
        head = stream.read(9)
    return file.suffix == ".safetensors" or (head[8:] == b"{" and not head.startswith(b"PK"))


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        reason = f"{file.stat().st_size} bytes; {printable(str(error))}"
        raise InputError(f"{file}: damaged or no safetensors file ({reason})") from error


_NETWORK_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net")
"""Where the tensors are kept if the file holds more than them. The first that is there counts."""


def _mapping(value: object) -> dict[object, object]:
    """A plain copy; empty if it is no dict. (A pickle can give an OrderedDict attributes of its own, say a `get`.)"""
    return dict(dict.items(value)) if isinstance(value, dict) else {}


def _unwrap(content: dict[object, object], ignored: list[str]) -> dict[object, object]:
    """The mapping that holds the network's tensors; what lies beside it goes to `ignored`."""
    path = ""
    # Not `while`: a pickle can hold itself
    for _ in range(3):
        key = next((key for key in _NETWORK_KEYS if isinstance(content.get(key), dict)), None)
        if key is None:
            break
        ignored += [f"{path}{other}" for other in content if isinstance(other, str) and other not in (key, "meta")]
        content, path = _mapping(content[key]), f"{path}{key}."
    return content


def _tensors(content: dict[object, object], ignored: list[str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str):
            ignored.append(f"an entry whose name is a {type(name).__name__}")
        elif name.isprintable() and (tensor := _tensor(value)) is not None:
            tensors[name] = tensor
        elif name != "meta":
            ignored.append(name)
    return tensors


def _tensor(value: object) -> Tensor | None:
    """A plain dense tensor on the CPU; None for what else torch can pickle (quantised, sparse, without data)."""
    if isinstance(value, Array):
        numbers = value.numbers()
        return None if numbers is None else torch.from_numpy(numbers)
    if not isinstance(value, Tensor) or value.device.type != "cpu" or value.layout != torch.strided:
        return None
    # Not `value.detach()`: a pickle can set attributes of a tensor, this one too
    return None if value.is_quantized else Tensor.detach(value)


_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""Of DistributedDataParallel and of torch.compile."""


def _common_prefix(names: Mapping[str, Tensor]) -> str:
    """What wrappers added to every name; a part that is itself called "module" is not on every name, and stays."""
    prefix = ""
    while more := next((more for more in _WRAPPER_PREFIXES if all(n.startswith(prefix + more) for n in names)), ""):
        prefix += more
    return prefix


def _classes(about: dict[object, object], ignored: list[str]) -> tuple[str, ...] | None:
    for key in ("classes", "CLASSES"):
        names = about.get(key)
        if (
            isinstance(names, list | tuple)
            and names
            and all(isinstance(name, str) and name.isprintable() for name in names)
        ):
            return tuple(names)
        if names is not None:
            ignored.append(f"meta.{key}")
    return None


def _palette(about: dict[object, object], ignored: list[str]) -> tuple[Color, ...] | None:
    for key in ("palette", "PALETTE"):
        rows = about.get(key)
        if isinstance(rows, Array):
            numbers = rows.numbers()
            rows = None if numbers is None else numbers.tolist()
        if isinstance(rows, list | tuple) and rows:
            colors = [_color(row) for row in rows]
            if None not in colors:
                return tuple(color for color in colors if color is not None)
        if about.get(key) is not None:
            ignored.append(f"meta.{key}")
    return None


def _color(row: object) -> Color | None:
    if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != 3:
        return None
    red, green, blue = row
    whole = all(type(part) is int and 0 <= part <= 255 for part in (red, green, blue))
    return (red, green, blue) if whole else None
