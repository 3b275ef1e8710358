"""Adapter files: what a run learned, without the base model that it left as it was; many of them share one base.

One safetensors file: what the method added, the parts that trained beside it (head, decoder), statistics of norms that
moved, and in its header the model, the classes, how to look at images, and the base's name and SHA-256.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from terrazzo.adapt import AdaptConfig, Staged, adapt
from terrazzo.base import Config, InputError
from terrazzo.bundle import BundleConfig, find_bundle
from terrazzo.description import ADAPTER_HEADER
from terrazzo.engine.world import choose_device
from terrazzo.files import replacing, usual_mode
from terrazzo.infer.predictor import Predictor
from terrazzo.models import LoadReport, Segmenter, build_model, with_normalization
from terrazzo.models.weights import load_tensors
from terrazzo.sources import plain_name, read_source

BASE_FILE = "base.json"
"""File of a run folder: which of its tensors are the base model's, and what they were."""


class Base(Config):
    """The tensors of a network that came from elsewhere and that no training moves."""

    source: str
    """Where they were read from."""
    sha256: str
    """Over their names, shapes and bytes, in the order of their names."""
    tensors: tuple[str, ...]
    """Their names in the network as it was before anything was added."""


class Header(Config):
    """What an adapter file says of itself."""

    bundle: BundleConfig
    base: Base


def base_of(segmenter: Segmenter, report: LoadReport | None) -> Base | None:
    """The base model inside an adapted network, before its first step; None if nothing was loaded and left frozen."""
    if report is None:
        return None
    came = {*report.loaded, *report.adapted}
    # By every name that they have: some networks use a layer under two.
    parameters = segmenter.named_parameters(remove_duplicate=False)
    moving = {name for name, parameter in parameters if parameter.requires_grad}
    still = {id(buffer) for module in segmenter.still for buffer in module.buffers(recurse=False)}
    buffers = {name for name, buffer in segmenter.named_buffers(remove_duplicate=False) if id(buffer) not in still}
    kept = {
        plain_name(name): tensor
        for name, tensor in segmenter.state_dict().items()
        if plain_name(name) in came and name not in moving | buffers
    }
    return Base(source=report.source, sha256=fingerprint(kept), tensors=tuple(sorted(kept))) if kept else None


def still_random(
    segmenter: Segmenter, report: LoadReport | None, learnable: Collection[str], cfg: AdaptConfig
) -> list[str]:
    """The parts that hold what nothing was loaded into and what does not learn from the first step on: parameters, and
    statistics that stand still.

    `learnable` names the parameters that learned before the network was adapted; others are its own constants.
    """
    came = set() if report is None else {*report.loaded, *report.adapted}
    taken = {"head"} if report is not None and report.rows else set()
    late = {"encoder"} if isinstance(cfg, Staged) else set()
    parts = set()
    for name, parameter in segmenter.named_parameters():
        role = segmenter.role(name)
        frozen = (not parameter.requires_grad or role in late) and plain_name(name) in learnable
        if frozen and plain_name(name) not in came and role not in taken:
            parts.add(role)
    still = {id(buffer) for module in segmenter.still for buffer in module.buffers(recurse=False)}
    for name, buffer in segmenter.named_buffers():
        if id(buffer) in still and buffer.is_floating_point() and plain_name(name) not in came:
            parts.add(segmenter.role(name))
    return sorted(parts)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_adapter(run: str | Path, out: Path, checkpoint: str | None = None) -> Base:
    """Write what a run learned into one file.

    Raises:
        InputError: the run has no base model apart from which it could be told.
    """
    mine, header = adapter_of(run, checkpoint)
    with replacing(out) as draft:
        save_file(mine, draft, metadata={ADAPTER_HEADER: header.model_dump_json()})
        usual_mode(draft)
    return header.base


def adapter_of(run: str | Path, checkpoint: str | None = None) -> tuple[dict[str, Tensor], Header]:
    """The tensors that a run added or changed, and what goes with them.

    Raises:
        InputError: as `write_adapter`.
    """
    found = find_bundle(run, checkpoint)
    path = None if found.run is None else found.run / BASE_FILE
    if path is None or not path.is_file():
        raise InputError(
            f"{run}: no base model lies under this run (no {BASE_FILE}): it trained every tensor, or started from "
            "random weights. Use the whole model, or train with adapt: {kind: lora} or another from given weights"
        )
    base = Base.model_validate_json(path.read_text(encoding="utf-8"))
    config = BundleConfig.model_validate_json((found.folder / "config.json").read_text(encoding="utf-8"))
    whole = load_file(found.folder / "model.safetensors")
    mine = {name: tensor for name, tensor in whole.items() if plain_name(name) not in base.tensors}
    frozen = {plain_name(name): tensor for name, tensor in whole.items() if plain_name(name) in base.tensors}
    if fingerprint(frozen) != base.sha256:
        raise InputError(f"{found.folder}: tensors that were frozen are not what they were at the start of the run")
    return mine, Header(bundle=config, base=base)


def read_header(file: Path) -> Header:
    """What an adapter file says of itself.

    Raises:
        InputError: there is no such file, or it is no adapter.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(ADAPTER_HEADER)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read as an adapter: {error}") from None
    if text is None:
        raise InputError(f"{file} is no adapter of terrazzo: its header has no {ADAPTER_HEADER}")
    try:
        return Header.model_validate_json(text)
    except (ValidationError, json.JSONDecodeError) as error:
        raise InputError(f"{file}: an adapter that this version does not read: {error}") from None


def load_adapter(
    file: str | Path,
    base: str | Path,
    *,
    classes: Collection[str] | None = None,
    network: nn.Module | None = None,
) -> tuple[Segmenter, Header]:
    """The adapted network, in eval mode on the CPU.

    Args:
        file: what `write_adapter` wrote.
        base: the base model: a weights file, a bundle, a run folder (what an adapted one added is left out), a folder
            of transformers, or the name of a published network, which is downloaded once.
        classes: names that its outputs must have, in this order; None: whatever they are.
        network: the module of a model that was passed from Python (model.kind: own).

    Raises:
        InputError: the base is not the one that the adapter was trained on, or its classes are others.
    """
    header = read_header(Path(file))
    names = header.bundle.classes.names
    if classes is not None and (*classes,) != names:
        raise InputError(f"{file} was trained on the classes {', '.join(names)}, not on {', '.join(classes)}")
    segmenter = _bare(header, network)
    found = read_source(base, model=header.bundle.model, folded=False)
    advice = f"{file} was trained on {header.base.source}"
    load_tensors(segmenter, found.tensors, source=str(base), advice=advice)
    if found.left_out and _base_in(segmenter, header) != header.base.sha256:  # a run that began with `init`: folded
        folded = read_source(base, model=header.bundle.model, network=network)
        load_tensors(segmenter, folded.tensors, source=str(base), advice=advice)
    return _complete(segmenter, Path(file), header, str(base)), header


def _bare(header: Header, network: nn.Module | None) -> Segmenter:
    config = header.bundle
    model = with_normalization(config.model, config.normalization)
    return build_model(model, len(config.classes.names), config.channels, own=network, pretrained=False)[0]


def _base_in(segmenter: Segmenter, header: Header) -> str:
    state = segmenter.state_dict()
    return fingerprint({name: state[name] for name in header.base.tensors})


def _complete(segmenter: Segmenter, file: Path, header: Header, base: str) -> Segmenter:
    """Check the base's tensors in the network, and put the adapter's beside them."""
    found = _base_in(segmenter, header)
    if found != header.base.sha256:
        raise InputError(
            f"{file} was trained on another base than {base}: of its {len(header.base.tensors)} tensors at least one "
            f"differs (SHA-256 {found[:12]}..., wanted {header.base.sha256[:12]}...). It was trained on "
            f"{header.base.source}"
        )
    adapt(segmenter, header.bundle.adapt)
    missing, unused = segmenter.load_state_dict(load_file(file), strict=False)
    wanted = [name for name in missing if plain_name(name) not in header.base.tensors]
    if wanted or unused:
        raise InputError(f"{file} does not fit its own description: {_some(wanted)} missing, {_some(unused)} unused")
    return segmenter.eval()


def _some(names: Collection[str]) -> str:
    return ", ".join([*names][:4]) + (", ..." if len(names) > 4 else "") or "nothing"


class Adapters:
    """Several adapters on one base, held in memory once: `Adapters(BASE, {"pets": FILE, ...})["pets"](image)`."""

    def __init__(self, base: str | Path, files: Mapping[str, str | Path], *, device: str = "auto"):
        """Raises InputError if a file is no adapter, or was trained on another base."""
        self.predictors: dict[str, Predictor] = {}
        shared: dict[str, Tensor] = {}
        for name, file in files.items():
            segmenter, header = load_adapter(file, base)
            segmenter.to(choose_device(device))  # type: ignore[arg-type]  # choose_device checks it
            for key, tensor in [*segmenter.named_parameters(), *segmenter.named_buffers()]:
                if plain_name(key) in header.base.tensors:
                    tensor.data = shared.setdefault(plain_name(key), tensor.data)
            self.predictors[name] = Predictor(segmenter, header.bundle.classes.classes(), header.bundle.inference)

    def __getitem__(self, name: str) -> Predictor:
        if name not in self.predictors:
            raise InputError(f"no adapter is called {name!r}; there are {', '.join(self.predictors) or 'none'}")
        return self.predictors[name]
