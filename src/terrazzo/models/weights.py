"""Weights into a network, with a report of what was loaded, adapted, left as it was, and not used.

Files may come from terrazzo, segmentation-models-pytorch, timm or torchvision: names are compared without the prefixes
that wrappers add. A new origin whose names differ in more than that gets a renaming function, listed in `RENAMINGS`.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from terrazzo.base import Config, InputError
from terrazzo.models.segmenter import Role, Segmenter
from terrazzo.published.checkpoints import read_checkpoint

ENOUGH = 0.9
"""An encoder that got a smaller share of its tensors than this was given the wrong file."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")

_WRAPPERS = ("module.", "_orig_mod.", "net.", "encoder.", "backbone.", "model.")


PARTS: tuple[Role, ...] = get_args(Role)


class InitConfig(Config):
    """Where a new run takes parts of its network from: what another run learned, or a file."""

    model_config = ConfigDict(populate_by_name=True)

    from_: Path = Field(alias="from")
    """A run folder, a bundle, or a weights file; what a run has learned beside its weights is folded into them."""
    parts: Annotated[tuple[Role, ...], Field(min_length=1)] = PARTS
    """What is taken: `encoder`, `decoder`, `head`. Others keep what model.weights gives them, or start at random."""


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors by what happened to them; network's names, except `unused`, which are the source's own."""

    source: str
    loaded: tuple[str, ...]
    """Copied as they were."""
    adapted: tuple[str, ...] = ()
    """Copied after fitting the first convolution to another number of image channels."""
    missing: tuple[str, ...] = ()
    """Not in the source, or there in another shape: these keep the values they had (in the parts that were loaded)."""
    unused: tuple[str, ...] = ()
    """In the source, but of no use here (a classifier)."""
    rows: tuple[str, ...] = ()
    """Classes, by the source's names, whose rows of the last layers were taken over; other classes start at random."""
    new: tuple[str, ...] = ()
    """The last layers' tensors, if they start at random for classes that the source does not know."""

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count, _ in self.table())
        return f"weights from {self.source}: {counts}"

    def table(self) -> tuple[tuple[str, int, str], ...]:
        """Rows (what happened, number of tensors or of classes, first three names)."""
        groups = [
            ("loaded", self.loaded),
            ("adapted", self.adapted),
            ("missing", self.missing),
            ("unused", self.unused),
        ]
        head = [("classes taken over by name", self.rows), ("new for other classes", self.new)]
        groups += [(what, names) for what, names in head if names]
        return tuple((what, len(names), _first(names)) for what, names in groups)


def load_weights(segmenter: Segmenter, path: Path, *, parts: Collection[Role] = PARTS) -> LoadReport:
    """Copy every tensor of a file that fits into the network; fail if the encoder got less than 90 % of its own.

    `path` is a .safetensors file, a file of torch.save, or a folder with model.safetensors (a bundle).
    Parts of the network that are not in `parts` stay as they are.
    """
    return load_tensors(segmenter, read_tensors(path), source=str(path), parts=parts)


def load_tensors(
    segmenter: Segmenter,
    found: Mapping[str, Tensor],
    *,
    source: str,
    parts: Collection[Role] = PARTS,
    advice: str = "another encoder's file? Give model.encoder the network it was made for, or model.weights=none",
) -> LoadReport:
    """As `load_weights`, for tensors that are in memory already.

    `source` names them in the report, `advice` ends the sentence about an encoder that got too few.
    """
    targets = {name: tensor for name, tensor in segmenter.state_dict().items() if segmenter.role(name) in parts}
    match = _best_match(found, targets)
    first_conv = _first_conv(segmenter)
    values: dict[str, Tensor] = {}
    adapted: list[str] = []
    for key, name in match.items():
        tensor, target = found[key], targets[name]
        if name == first_conv and tensor.ndim == 4 and tensor.shape[1] != target.shape[1]:
            tensor = adapt_channels(tensor, target.shape[1])
            adapted.append(name)
        if tensor.shape == target.shape:
            values[name] = tensor
    used = {key for key, name in match.items() if name in values}
    report = LoadReport(
        source=source,
        loaded=tuple(name for name in targets if name in values and name not in adapted),
        adapted=tuple(name for name in adapted if name in values),
        missing=_missing(segmenter, values.keys(), parts),
        unused=tuple(key for key in found if key not in used),
    )
    if "encoder" in parts:
        _check_enough(segmenter, report, advice)
    segmenter.load_state_dict(values, strict=False)
    return report


def compare(segmenter: Segmenter, untrained: Segmenter, source: str) -> LoadReport:
    """The report of a library's own loader, which tells nothing itself: what differs from the same network unloaded.

    `untrained` was built from the same random numbers, so an encoder tensor that is equal there was not loaded.
    """
    before, after = untrained.state_dict(), segmenter.state_dict()
    encoder = _encoder_names(segmenter)
    new = [name for name in encoder if not torch.equal(before[name], after[name])]
    adapted = tuple(name for name in new if segmenter.channels != 3 and name == _first_conv(segmenter))
    report = LoadReport(
        source=source,
        loaded=tuple(name for name in new if name not in adapted),
        adapted=adapted,
        missing=tuple(name for name in encoder if name not in new),
    )
    advice = "the library's own loader left it random; give a local file by model.weights=PATH, or model.weights=none"
    _check_enough(segmenter, report, advice)
    return report


def take_parts(
    segmenter: Segmenter, cfg: InitConfig, found: Mapping[str, Tensor], before: LoadReport | None
) -> LoadReport:
    """Copy the parts that `cfg` names, of tensors that are in memory; `before` is what became of model.weights.

    Returns:
        What both together did.

    Raises:
        InputError: a part got nothing, or nothing would be left of model.weights.
    """
    there = {segmenter.role(name) for name in segmenter.state_dict()}
    wanted = [part for part in cfg.parts if part in there] if {*cfg.parts} == {*PARTS} else cfg.parts
    for part in wanted:
        if part not in there:
            raise InputError(f"init.parts: this network has no {part}; its parts are {', '.join(sorted(there))}")
    advice = "init.from holds another encoder, or none; give model the network that it is of"
    report = load_tensors(segmenter, found, source=str(cfg.from_), parts=cfg.parts, advice=advice)
    names = (*report.loaded, *report.adapted)
    got = {segmenter.role(name) for name in names}
    for part in wanted:
        if part not in got:
            raise InputError(f"init.parts: {_why_nothing(segmenter, part, found)}; leave {part} out of init.parts")
    if before is None:
        return report
    first = {*before.loaded, *before.adapted}
    if first <= {*names}:
        raise InputError(
            f"init.from={cfg.from_} writes over all {len(first)} tensors that model.weights gave ({before.source}); "
            "leave one of the two out: model.weights=none (model.weights_backbone=none), or init=null"
        )
    return LoadReport(
        source=f"{before.source} and {report.source}",
        loaded=tuple(sorted(first - {*before.adapted, *names} | {*report.loaded})),
        adapted=tuple(sorted({*before.adapted} - {*names} | {*report.adapted})),
        missing=tuple(name for name in before.missing if name not in names),
        unused=report.unused,
        rows=before.rows if "head" not in cfg.parts else (),
        new=tuple(name for name in before.new if name not in names),
    )


def _why_nothing(segmenter: Segmenter, part: Role, found: Mapping[str, Tensor]) -> str:
    own = {name: tensor for name, tensor in segmenter.state_dict().items() if segmenter.role(name) == part}
    for name, tensor in own.items():
        theirs = found.get(name, found.get(name.removeprefix("net.")))
        if theirs is not None and theirs.shape != tensor.shape:
            shapes = f"{name} is {[*theirs.shape]} there and {[*tensor.shape]} here"
            return f"nothing of it fits this network's {part}: {shapes}"
    return f"nothing of it is for this network's {part} ({_first(tuple(own))})"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU. Nothing in it is executed. Raises InputError that names the file."""
    if path.is_file() and path.suffix not in SUFFIXES:
        raise InputError(f"{path}: weights files end in {', '.join(SUFFIXES)}, not {path.suffix!r}")
    if not path.exists():
        raise InputError(f"model.weights: no file {path}; write none, pretrained, or the path of a weights file")
    return read_checkpoint(path).state


def canonical(name: str) -> str:
    """A tensor's name without what wrappers add: prefixes, and timm's "stages_0" for "stages.0"."""
    while prefix := next((prefix for prefix in _WRAPPERS if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return re.sub(r"_(\d+)(?=\.)", r".\1", name)


_BLOCK_TENSORS = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
_FIRST_BLOCK_TENSORS = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
_REPEATS = (1, 2, 3, 4, 3, 3, 1)
"""Blocks in each stage of MobileNetV2 (Sandler et al. 2018, table 2)."""


def torchvision_mobilenet_to_timm(name: str) -> str:
    """torchvision's mobilenet_v2 names ("features.2.conv.0.0.weight") to timm's ("blocks.1.0.conv_pw.weight")."""
    if stem := re.fullmatch(r"features\.(0|18)\.(0|1)\.(\w+)", name):
        part, layer, tensor = stem.groups()
        return {"00": "conv_stem", "01": "bn1", "180": "conv_head", "181": "bn2"}[part + layer] + f".{tensor}"
    if inner := re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", name):
        index, layer, tensor = int(inner[1]) - 1, inner[2], inner[3]
        layers = _FIRST_BLOCK_TENSORS if index == 0 else _BLOCK_TENSORS
        places = [f"blocks.{stage}.{block}" for stage, count in enumerate(_REPEATS) for block in range(count)]
        if layer in layers and index < len(places):
            return f"{places[index]}.{layers[layer]}.{tensor}"
    return name


def features_alone(name: str) -> str:
    """torchvision's classifiers keep their layers under "features."; its segmentation backbones are these layers."""
    return name.removeprefix("features.")


RENAMINGS: tuple[Callable[[str], str], ...] = (str, torchvision_mobilenet_to_timm, features_alone)
"""Tried one after the other on the canonical names of a file; the one with most matches is used."""


def _best_match(found: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, str]:
    """Which tensor of the file is which of the network's, by name alone: file's name -> network's name."""
    plain = [canonical(name) for name in targets]
    counts = Counter(plain)
    wanted = {short: name for short, name in zip(plain, targets, strict=True) if counts[short] == 1}
    best: dict[str, str] = {}
    for rename in RENAMINGS:
        taken: dict[str, str] = {}
        for key in found:
            exact = next((name for name in (key, f"net.{key}") if name in targets), None)
            name = exact or wanted.get(rename(canonical(key)))
            if name is not None:
                taken.setdefault(name, key)
        match = {key: name for name, key in taken.items()}
        best = max(best, match, key=len)
    return best


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """First convolution [F, C, h, w] for images of another number of channels, as SMP and timm do it.

    One channel gets the sum; otherwise the filters repeat, scaled so that the response keeps its size.
    """
    known = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, [i % known for i in range(channels)]] * (known / channels)


def _first_conv(segmenter: Segmenter) -> str | None:
    """Name of the weight of the convolution that sees the image, if it sees nothing else."""
    for name, module in segmenter.named_modules():
        if isinstance(module, nn.Conv2d):
            sees_image = module.groups == 1 and module.in_channels == segmenter.channels
            return f"{name}.weight" if sees_image else None
    return None


def _encoder_names(segmenter: Segmenter) -> tuple[str, ...]:
    """The encoder's floating-point tensors (counters of batches are no weights), or all if no part is the encoder."""
    everything = not segmenter.has_encoder
    return tuple(
        name
        for name, tensor in segmenter.state_dict().items()
        if tensor.is_floating_point() and (everything or segmenter.role(name) == "encoder")
    )


def _missing(segmenter: Segmenter, loaded: Collection[str], wanted: Collection[Role]) -> tuple[str, ...]:
    """What the file could have held: tensors of the encoder, and of every other part of which it held something."""
    parts = {segmenter.role(name) for name in loaded}
    encoder = _encoder_names(segmenter)
    return tuple(
        name
        for name, tensor in segmenter.state_dict().items()
        if name not in loaded
        and tensor.is_floating_point()
        and segmenter.role(name) in wanted
        and (name in encoder or segmenter.role(name) in parts)
    )


def _check_enough(segmenter: Segmenter, report: LoadReport, advice: str) -> None:
    encoder = set(_encoder_names(segmenter))
    got = encoder & {*report.loaded, *report.adapted}
    if len(got) < ENOUGH * len(encoder):
        missing = _first(tuple(name for name in report.missing if name in encoder))
        part = "encoder" if segmenter.has_encoder else "network"
        raise InputError(
            f"{report}. The {part} got {len(got)} of its {len(encoder)} tensors (missing: {missing}; "
            f"unused: {_first(report.unused)}); {advice}"
        )


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
