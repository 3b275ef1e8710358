"""Any model, from wherever it lies: a run, a bundle (model.safetensors + config.json), exported weights, others' files.

`open_model` is the door of all verbs. Nothing in a file is executed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from terrazzo.adapt import adapt
from terrazzo.base import Classes, InputError, Normalization
from terrazzo.description import (
    CONFIG_FILE,
    BundleClasses,
    BundleConfig,
    check_whole,
    describe,
    describe_transformers,
    is_description,
    read_bundle_config,
    read_description,
)
from terrazzo.engine.state import MODEL_FILE, Checkpoints
from terrazzo.files import usual_mode, write_text
from terrazzo.models import Segmenter, build_model, with_normalization
from terrazzo.models.huggingface import open_huggingface
from terrazzo.models.huggingface_files import read_json
from terrazzo.models.huggingface_nets import FAMILIES
from terrazzo.models.weights import SUFFIXES, LoadReport
from terrazzo.models.zoo import PublishedModel, open_published
from terrazzo.published.catalog import close_names, find_entry
from terrazzo.published.checkpoints import read_checkpoint
from terrazzo.published.loading import load_published, published_names

__all__ = [
    "CHECKPOINTS",
    "CONFIG_FILE",
    "BundleClasses",
    "BundleConfig",
    "CheckpointName",
    "Found",
    "OpenModel",
    "find_bundle",
    "load_bundle",
    "load_network",
    "open_model",
    "read_bundle_config",
    "save_bundle",
]

HUB = "hf:"
"""Before OWNER/NAME of a repository of the Hugging Face hub."""
CheckpointName = Literal["last", "best_miou", "best_loss"]
CHECKPOINTS: tuple[CheckpointName, ...] = ("last", "best_miou", "best_loss")


def save_bundle(
    folder: Path, model: Segmenter, config: BundleConfig, *, state: Mapping[str, Tensor] | None = None
) -> None:
    """Fill an empty folder with the bundle's two files; `state` is the network's state dict if it is not all here."""
    state = model.state_dict() if state is None else state
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / MODEL_FILE)  # tensors only: safetensors writes metadata in random order
    usual_mode(folder / MODEL_FILE)
    write_text(folder / CONFIG_FILE, config.model_dump_json(indent=2) + "\n")


def load_bundle(folder: Path, *, network: nn.Module | None = None) -> tuple[Segmenter, BundleConfig]:
    """The network with its weights, in eval mode on the CPU, and its description.

    Args:
        folder: as `find_bundle` gives it.
        network: the module itself, for bundles trained with a module passed from Python (model.kind: own).

    Raises:
        InputError: files are missing, damaged, or do not fit each other.
    """
    config = read_bundle_config(folder)
    model = _untrained(config, network)
    try:
        tensors = load_file(folder / MODEL_FILE)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / MODEL_FILE} cannot be read: {error}") from None
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{folder / MODEL_FILE} does not fit the network described beside it: {error}") from None
    return model.eval(), config


def _untrained(config: BundleConfig, network: nn.Module | None) -> Segmenter:
    """The network that a description is of, with random numbers, and with what a method of adaptation added."""
    wanted = with_normalization(config.model, config.normalization)
    model, _ = build_model(wanted, len(config.classes.names), config.channels, own=network, pretrained=False)
    adapt(model, config.adapt)
    return model


@dataclass(frozen=True)
class Found:
    """Where MODEL led: the bundle's folder, its checkpoint name, and the run it belongs to, if any."""

    folder: Path
    checkpoint: str
    run: Path | None


def find_bundle(model: str | Path, checkpoint: str | None = None) -> Found:
    """Resolve MODEL: a run folder (its best_miou, else last), a bundle, or a checkpoint's model file.

    Raises:
        InputError: there is no such thing; it says what was found instead.
    """
    path = Path(model)
    if path.is_file():
        if path.name != MODEL_FILE:
            raise InputError(f"{path}: a checkpoint file is a bundle's {MODEL_FILE}, with {CONFIG_FILE} beside it")
        path = path.parent
    if not path.exists():
        raise InputError(f"{model}: no such run folder, bundle or checkpoint file")
    if (path / CONFIG_FILE).exists():
        if checkpoint is not None:
            raise InputError(f"{path} is one bundle; checkpoint={checkpoint} chooses among those of a run folder")
        run = path.parent.parent if path.parent.name == "checkpoints" else None
        return Found(path, path.name, run if run and (run / "config.yaml").exists() else None)
    checkpoints = Checkpoints(path / "checkpoints")
    for name in [checkpoint] if checkpoint else ["best_miou", "last"]:
        if found := checkpoints.find(name):
            return Found(found, name, path)
    if not checkpoints.folder.is_dir():
        raise InputError(f"{path} is neither a run folder (no checkpoints/) nor a bundle (no {CONFIG_FILE})")
    there = sorted(p.name for p in checkpoints.folder.iterdir() if not p.name.startswith("."))
    raise InputError(
        f"{path} has no checkpoint {checkpoint or 'best_miou or last'}; it has: {', '.join(there) or 'none'}"
    )


@dataclass(frozen=True)
class OpenModel:
    """A model that is ready to be used, wherever it came from."""

    segmenter: Segmenter
    """In eval mode, on the CPU."""
    config: BundleConfig
    """Its description; of what others published, made from what their files say."""
    name: str
    """What it was opened from, for messages."""
    checkpoint: str
    """Which weights these are: the checkpoint's name of a run, else a file's or a published result's."""
    found: Found | None = None
    """Of a run folder or a bundle."""
    named: bool = True
    """Whether its classes have names; those of a foreign file without any are only numbered."""
    report: LoadReport | None = None
    """What became of a foreign file's tensors."""


def open_model(
    source: str | Path, *, model: str | None = None, checkpoint: str | None = None, network: nn.Module | None = None
) -> OpenModel:
    """The model behind anything that a verb may be given.

    Args:
        source: a run folder, a bundle, weights exported from one, a checkpoint of others, a folder of transformers,
            the name of a published network (downloaded once), or hf:OWNER/NAME of the Hugging Face hub.
        model: which published network a checkpoint of others holds, where the file does not say: `segformer_mit-b0`.
        checkpoint: of a run folder: last, best_miou or best_loss; by default best_miou, else last.
        network: the module itself, of a model that was passed from Python (model.kind: own).

    Raises:
        InputError: there is no such thing; its files are damaged, unsafe or do not fit each other; or an argument does
            not go with what was found.
    """
    path = _located(source)
    if path is None:
        _refuse(str(source), model=model, checkpoint=checkpoint, network=network)
        _check_name(str(source))
        return _published(open_published(source), str(source), str(source))
    check_whole(path)
    if described := _described(path):
        _refuse(str(path), model=model, checkpoint=checkpoint)
        return _exported(path, described, network)
    if _is_foreign(path):
        _refuse(str(path), checkpoint=checkpoint, network=network)
        if model is None and _is_of_transformers(path):
            return _of_transformers(path, str(source))
        return _published(open_published(path, model), str(source), path.name)
    _refuse(str(path), model=model)
    found = find_bundle(path, checkpoint)
    segmenter, config = load_bundle(found.folder, network=network)
    return OpenModel(segmenter, config, str(found.folder), found.checkpoint, found)


def _located(source: str | Path) -> Path | None:
    """Where the source lies, fetched from the hub if need be; None for a published network's name."""
    text = str(source)
    if text.startswith(HUB):
        from terrazzo.published.hub import pull  # the hub's library, needed for this alone

        return pull(text.removeprefix(HUB))
    path = Path(source)
    written_as_path = isinstance(source, Path) or len(path.parts) > 1 or path.suffix in SUFFIXES
    if path.exists():
        return path
    if written_as_path:
        entry = find_entry(path.stem)
        hint = f"; the published network of that name is {entry.name}: give this name to download it" if entry else ""
        raise InputError(f"{source}: no such run folder, bundle or checkpoint file{hint}")
    return None


def _check_name(source: str) -> None:
    """Raise InputError for what is neither a file nor anything published; an architecture's name gets its own."""
    if find_entry(source) is None and source.lower() not in map(str.lower, published_names()):
        near = close_names(source)
        raise InputError(
            f"{source}: no such run folder, bundle or checkpoint file, and no published network has this name"
            + (f"; did you mean {' or '.join(near)}?" if near else "; `terrazzo models search WORD` finds them")
        )


def _refuse(
    where: str, *, model: str | None = None, checkpoint: str | None = None, network: nn.Module | None = None
) -> None:
    """Raise InputError for an argument that says nothing about what was found."""
    if model is not None:
        raise InputError(f"{where} says itself which network it is; leave model={model} out")
    if checkpoint is not None:
        raise InputError(f"{where} is no run folder; checkpoint={checkpoint} chooses among those of a run folder")
    if network is not None:
        raise InputError(f"{where} is a published network; network=... is for models that were passed from Python")


def _is_foreign(path: Path) -> bool:
    """Whether a file or folder holds weights that are not ours; what is nothing at all, `find_bundle` tells."""
    if path.is_file():
        return _described(path) is None and not (path.name == MODEL_FILE and is_description(path.parent / CONFIG_FILE))
    files = (path / name for name in (MODEL_FILE, f"{MODEL_FILE}.index.json", "pytorch_model.bin"))
    return not is_description(path / CONFIG_FILE) and any(file.is_file() for file in files)


def _is_of_transformers(folder: Path) -> bool:
    """Whether a folder's config.json is of a network that `kind: huggingface` knows."""
    path = folder / CONFIG_FILE
    return path.is_file() and read_json(path).get("model_type") in FAMILIES


def _of_transformers(folder: Path, name: str) -> OpenModel:
    """A network of transformers in its own classes."""
    opened = open_huggingface(str(folder))
    named = len(opened.facts.names) == opened.classes
    classes = Classes.of(opened.facts.names if named else tuple(f"class_{k}" for k in range(opened.classes)))
    description = describe_transformers(opened.config, opened.segmenter, classes, opened.facts)
    return OpenModel(opened.segmenter, description, name, folder.name, named=named, report=opened.report)


def _described(file: Path) -> BundleConfig | None:
    """The description beside exported weights, if there is one."""
    beside = file.with_suffix(".json")
    if file.is_file() and file.name != MODEL_FILE and file != beside and is_description(beside):
        return read_description(beside)
    return None


def _exported(file: Path, config: BundleConfig, network: nn.Module | None) -> OpenModel:
    segmenter = _untrained(config, network)
    try:
        segmenter.net.load_state_dict(read_checkpoint(file).state)
    except RuntimeError as error:
        beside = file.with_suffix(".json").name
        raise InputError(f"{file} does not fit the network that {beside} beside it describes: {error}") from None
    return OpenModel(segmenter.eval(), config, str(file), file.name)


def _published(opened: PublishedModel, name: str, checkpoint: str) -> OpenModel:
    segmenter, report = opened.segmenter.eval(), opened.report
    return OpenModel(segmenter, describe(opened), name, checkpoint, named=opened.named, report=report)


def load_network(source: str | Path, *, model: str | None = None, network: nn.Module | None = None) -> nn.Module:
    """A network alone, in eval mode on the CPU.

    Of what terrazzo wrote (a run folder, a bundle, exported weights): uint8 images [B, C, H, W] in, Output out. Of
    what others published (MMSegmentation's .pth, the authors' files): the bare network, normalised float32 images
    [B, 3, H, W] in, Output out, in the checkpoint's own classes.

    Args:
        source: as in `open_model`; a published network's name is downloaded once.
        model: which published network a checkpoint holds, where its file name does not say: `segformer_mit-b0`.
        network: the module of a model that was passed from Python (model.kind: own).

    Raises:
        InputError: there is no such model, its files are damaged or unsafe, or a tensor finds no place.
    """
    path = _located(source)
    foreign = path is not None and _is_foreign(path)
    if path is not None and foreign and not (model is None and _is_of_transformers(path)):
        _refuse(str(path), network=network)
        return load_published(path, model)
    segmenter = open_model(path or source, model=model, network=network).segmenter
    if foreign:  # of transformers, whose networks answer no Output themselves
        return _unnormalized(segmenter).eval()
    return segmenter.net if path is None else segmenter


def _unnormalized(segmenter: Segmenter) -> Segmenter:
    """The same for images that are normalised already."""
    channels = segmenter.channels
    return Segmenter(
        segmenter.net,
        normalization=Normalization(mean=(0.0,) * channels, std=(1.0,) * channels, max_value=255),
        stride=segmenter.stride,
        smallest=segmenter.smallest,
        align_corners=segmenter.align_corners,
        roles=segmenter.roles,
    )
