"""`terrazzo export`: a model's weights alone, or folded into one network; what a run learned alone; a whole program."""

from pathlib import Path
from typing import Literal, assert_never

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from terrazzo.adapt import Adapter, Full, Vpt
from terrazzo.adapt.folded import fold
from terrazzo.adapters import BASE_FILE, adapter_of, write_adapter
from terrazzo.base import InputError
from terrazzo.bundle import CheckpointName, OpenModel, open_model
from terrazzo.data.augment import Exact
from terrazzo.description import BundleConfig, is_description
from terrazzo.engine.state import MODEL_FILE
from terrazzo.files import replacing, usual_mode, write_text
from terrazzo.infer.program import write_program
from terrazzo.models import Segmenter

ExportFormat = Literal["state_dict", "safetensors", "adapter", "program"]
ENDINGS: dict[str, ExportFormat] = {
    ".pth": "state_dict",
    ".pt": "state_dict",
    ".bin": "state_dict",
    ".safetensors": "safetensors",
    ".pt2": "program",
}
"""The format that a file's ending means, if none is asked for."""
METADATA = "terrazzo"
"""The one entry in a safetensors file's metadata: several would be written in random order."""
NYUNTAM = ("merged_model_state_dict.pth", "merged_model.pth", "merged_model_safetensors.safetensors")
"""Files of `names="nyuntam"`; that tool pickled a module as the second, here it is a state dict like the first."""
NYUNTAM_ADAPTER = "peft_modules.pth"
TOLERANCE = 1e-4
"""Greatest difference that folding may make, as a share of the logits' standard deviation where that is above 1."""


def export(
    source: str | Path,
    out: str | Path,
    *,
    format: ExportFormat | None = None,
    merge: bool = False,
    names: Literal["nyuntam"] | None = None,
    size: tuple[int, int] | None = None,
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
        format: `state_dict` (torch.save of the tensors alone), `safetensors` (the description is in its metadata too),
            `adapter` (what a run learned beside weights that it left as they were; a .safetensors file), or `program`
            (torch.export of the whole model, see `infer.program`); by default what the ending of `out` means.
        merge: fold what SSF or LoRA learned into the weights. Random images are answered before and after.
        names: `nyuntam`: `out` is a folder that gets the files by the names of that tool, folded where it can be.
        size: (height, width) of a program's images; by default that of the model's
            window, or to which all images are resized.
        checkpoint: of a run folder; by default best_miou, else last.
        model: which published network a checkpoint file holds, where the file does not say.
        network: the module of a model that was passed from Python (model.kind: own).

    Returns:
        The files.

    Raises:
        InputError: there is no such model, `out` cannot be such a file, or the answers changed in folding.
    """
    path = Path(out)
    if names is not None and (format is not None or merge):
        raise InputError("--names nyuntam writes all its files, folded; leave --format and --merge out")
    chosen = None if names is not None else _format_of(path, format)
    if size is not None and chosen != "program":
        raise InputError("--size is of a program's images; weights take any: give --out FILE.pt2")
    _check_place(path, Path(source), chosen)
    if chosen == "adapter":
        if merge or model is not None or network is not None:
            raise InputError("--format adapter keeps what was learned apart; leave --merge and --model out")
        write_adapter(source, path, checkpoint)
        return [path]
    opened = open_model(source, model=model, checkpoint=checkpoint, network=network)
    whole = chosen == "program" and not merge and isinstance(opened.config.adapt, Adapter | Vpt)
    config = opened.config if whole else _merged(opened, merge=merge or names is not None, strict=names is None)
    if chosen is None:
        return _by_old_names(path, opened, config)
    if chosen == "program":
        write_program(path, opened.segmenter, config.model_dump_json(indent=2), size or _only_size(config))
        return [path]
    return _weights(path, opened.segmenter, chosen, config)


def _only_size(config: BundleConfig) -> tuple[int, int]:
    if isinstance(config.resize, Exact):
        return config.resize.height, config.resize.width
    if config.window is not None:
        size = config.window.size
        return (size, size) if isinstance(size, int) else size
    raise InputError("a program takes images of one size; give --size HxW")


def _check_place(path: Path, source: Path, format: ExportFormat | None) -> None:
    if path.exists() and source.exists() and path.samefile(source):
        raise InputError(f"{path}: the weights to be exported lie there; give --out another name")
    for file in (path.with_suffix(".json"),) if format in ("state_dict", "safetensors") else ():
        if file.exists() and not is_description(file):
            raise InputError(f"{file} is no description of weights, and would be written over; choose another name")
    if format is None and path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; --names nyuntam fills a folder")


def _merged(opened: OpenModel, *, merge: bool, strict: bool) -> BundleConfig:
    """The description of what is to be written, after folding if that is asked for.

    `strict` refuses to fold where there is nothing to be folded.
    """
    method = opened.config.adapt
    if isinstance(method, Full):
        if merge and strict:
            raise InputError(f"{opened.name}: nothing lies beside its weights that could be folded; leave --merge out")
        return opened.config
    if isinstance(method, Adapter | Vpt):
        raise InputError(
            f"{opened.name}: what adapt.kind={method.kind} adds works on the images' features, and cannot be folded "
            "into weights; leave --merge out and export a whole program (.pt2), or keep it by --format adapter"
        )
    if not merge:
        raise InputError(
            f"{opened.name}: adapt.kind={method.kind} learned beside the network's own weights. Give --merge to fold "
            "it into them, or --format adapter to keep it alone"
        )
    difference, limit = merge_verified(opened.segmenter)
    if not difference <= limit:
        raise InputError(
            f"{opened.name}: folding changed the answers to random images by up to {difference:.2g}, more than "
            f"{limit:.2g}; nothing was written"
        )
    return opened.config.model_copy(update={"adapt": Full()})


@torch.no_grad()
def merge_verified(segmenter: Segmenter) -> tuple[float, float]:
    """Fold in place, on the device that the network is on.

    Returns:
        The greatest difference of logits that it made on random images, and what it may be.
    """
    segmenter.eval()
    sides = [side * segmenter.stride * -(-32 // segmenter.stride) for side in (2, 3)]
    sides = [segmenter.padded(side) for side in sides]
    generator = torch.Generator().manual_seed(0)
    shape = (2, segmenter.channels, *sides)
    batches = [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(3)]
    batches = [batch.to(segmenter.mean.device) for batch in batches]
    cudnn = torch.backends.cudnn
    with cudnn.flags(cudnn.enabled, allow_tf32=False):  # its rounding differs with every weight
        before = torch.stack([segmenter(batch).logits.float() for batch in batches])
        fold(segmenter)
        after = torch.stack([segmenter(batch).logits.float() for batch in batches])
    return (after - before).abs().max().item(), TOLERANCE * max(1.0, before.std().item())


def _by_old_names(folder: Path, opened: OpenModel, config: BundleConfig) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name in NYUNTAM:
        written += _weights(folder / name, opened.segmenter, "safetensors" if "safe" in name else "state_dict", config)
    run = None if opened.found is None else opened.found.run
    if run is not None and (run / BASE_FILE).is_file() and opened.found is not None:
        tensors, _ = adapter_of(opened.found.folder)
        with replacing(folder / NYUNTAM_ADAPTER) as draft:
            torch.save(tensors, draft)
        written.append(folder / NYUNTAM_ADAPTER)
    return written


def _weights(path: Path, segmenter: Segmenter, format: ExportFormat, config: BundleConfig) -> list[Path]:
    """Weights and the description beside them."""
    beside = path.with_suffix(".json")
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in segmenter.net.state_dict().items()}
    with replacing(path) as draft:
        _write(draft, tensors, format, config)
    write_text(beside, config.model_dump_json(indent=2) + "\n")
    return [path, beside]


def _format_of(path: Path, format: ExportFormat | None) -> ExportFormat:
    """What to write.

    Raises:
        InputError: the name does not say, says something else, or belongs to a bundle.
    """
    said = ENDINGS.get(path.suffix)
    fits = {"safetensors", "adapter"} if said == "safetensors" else {said}
    if said is None or (format is not None and format not in fits):
        written = "safetensors" if format == "adapter" else format
        wanted = [ending for ending, meant in ENDINGS.items() if written in (None, meant)]
        what = {None: "weights", "adapter": "an adapter", "program": "a program"}.get(format, f"weights as {format}")
        raise InputError(f"{path}: {what} end{'s' if format in ('adapter', 'program') else ''} in {', '.join(wanted)}")
    if path.name == MODEL_FILE:
        raise InputError(f"{path}: {MODEL_FILE} is a bundle's file, with names that differ; choose another name")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file, as {path / 'weights.safetensors'}")
    return format or said


def _write(path: Path, tensors: dict[str, Tensor], format: ExportFormat, config: BundleConfig) -> None:
    match format:
        case "state_dict":
            torch.save(tensors, path)
        case "safetensors":
            save_file(tensors, path, metadata={METADATA: config.model_dump_json()})
            usual_mode(path)
        case "adapter" | "program":
            raise AssertionError("these are written whole, in other files")
        case _:
            assert_never(format)
