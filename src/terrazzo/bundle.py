"""A trained model as one folder: model.safetensors + config.json, loadable without the recipe. Nothing in it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from terrazzo.base import Classes, Color, Config, InputError
from terrazzo.data.augment import ResizeConfig
from terrazzo.engine.state import MODEL_FILE, Checkpoints
from terrazzo.files import write_text
from terrazzo.infer.answer import InferenceConfig
from terrazzo.infer.tiles import WindowConfig
from terrazzo.infer.tta import TtaConfig
from terrazzo.models import ModelConfig, Normalization, Segmenter, build_model, with_normalization

CONFIG_FILE = "config.json"
CheckpointName = Literal["last", "best_miou", "best_loss"]
CHECKPOINTS: tuple[CheckpointName, ...] = ("last", "best_miou", "best_loss")


class BundleClasses(Config):
    """The label space, as in `base.Classes`."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ids: tuple[int, ...]
    ignore_id: int

    @classmethod
    def of(cls, classes: Classes) -> Self:
        return cls(names=classes.names, colors=classes.colors, ids=classes.ids, ignore_id=classes.ignore_id)

    def classes(self) -> Classes:
        return Classes(self.names, self.colors, self.ids, self.ignore_id)


class BundleConfig(Config):
    """config.json of a bundle: all that is needed to use the weights as they were trained."""

    format: Literal["terrazzo-bundle-1"] = "terrazzo-bundle-1"
    model: ModelConfig
    channels: int = 3
    """Of the image."""
    classes: BundleClasses
    normalization: Normalization
    resize: ResizeConfig
    """What is done to an image before the network sees it."""
    window: WindowConfig | None = None
    tta: TtaConfig = TtaConfig()
    step: int
    """Optimizer steps of the weights."""
    scores: dict[str, float | None]
    """Validation scores of the weights, if they were scored."""
    version: str
    """terrazzo's, when it was saved."""

    @property
    def inference(self) -> InferenceConfig:
        """How the network looked at pictures when it was validated."""
        return InferenceConfig(resize=self.resize, window=self.window, tta=self.tta)


def save_bundle(folder: Path, model: Segmenter, config: BundleConfig) -> None:
    """Fill an empty folder with the bundle's two files."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / MODEL_FILE)  # tensors only: safetensors writes metadata in random order
    write_text(folder / CONFIG_FILE, config.model_dump_json(indent=2) + "\n")


def read_bundle_config(folder: Path) -> BundleConfig:
    """config.json of a bundle folder.

    Raises:
        InputError: it is missing, from another tool, or from a newer terrazzo.
    """
    path = folder / CONFIG_FILE
    try:
        return BundleConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} is no bundle: it has no {CONFIG_FILE}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is not a bundle this version reads: {where}: {first['msg']}") from None


def load_bundle(folder: Path, *, network: nn.Module | None = None) -> tuple[Segmenter, BundleConfig]:
    """The network with its weights, in eval mode on the CPU, and its description.

    Args:
        folder: as `find_bundle` gives it.
        network: the module itself, for bundles trained with a module passed from Python (model.kind: own).

    Raises:
        InputError: files are missing, damaged, or do not fit each other.
    """
    config = read_bundle_config(folder)
    model, _ = build_model(
        with_normalization(config.model, config.normalization),
        len(config.classes.names),
        config.channels,
        own=network,
        pretrained=False,
    )
    try:
        tensors = load_file(folder / MODEL_FILE)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / MODEL_FILE} cannot be read: {error}") from None
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{folder / MODEL_FILE} does not fit the network described beside it: {error}") from None
    return model.eval(), config


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


def load_network(source: str | Path, *, model: str | None = None, network: nn.Module | None = None) -> nn.Module:
    """A network alone, in eval mode on the CPU.

    Of a run folder or a bundle: uint8 images [B, C, H, W] in, Output out. Of a checkpoint that others published
    (MMSegmentation's .pth, the authors' files): the bare network, normalised float32 images [B, 3, H, W] in, Output
    out, in the checkpoint's own classes.

    Args:
        source: run folder, bundle, or a published checkpoint.
        model: which published network a checkpoint holds, where its file name does not say: `segformer_mit-b0`.
        network: the module of a model that was passed from Python (model.kind: own).

    Raises:
        InputError: there is no such model, its files are damaged or unsafe, or a tensor finds no place.
    """
    path = Path(source)
    if model is not None or (path.is_file() and not (path.parent / CONFIG_FILE).exists()):
        from terrazzo.published.loading import load_published  # every family, needed by foreign files only

        if not path.exists():
            raise InputError(f"{path}: no such checkpoint")
        return load_published(path, model)
    return load_bundle(find_bundle(path).folder, network=network)[0]
