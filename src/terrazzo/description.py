"""What stands beside weights, so that they can be used as they were trained: config.json of a bundle."""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from terrazzo import __version__
from terrazzo.adapt import AdaptConfig, Full
from terrazzo.base import Classes, Color, Config, InputError, Normalization
from terrazzo.data.augment import Exact, Fit, Keep, ResizeConfig, ShortSide
from terrazzo.engine.state import MODEL_FILE
from terrazzo.infer.answer import InferenceConfig
from terrazzo.infer.tiles import WindowConfig
from terrazzo.infer.tta import TtaConfig
from terrazzo.models import ModelConfig, Segmenter
from terrazzo.models.huggingface_files import Facts
from terrazzo.models.zoo import PublishedModel

CONFIG_FILE = "config.json"
FORMAT = "terrazzo-bundle-"
"""What `format` of a description begins with; other tools keep a config.json too."""
ADAPTER_HEADER = "terrazzo-adapter-1"
"""Key of an adapter file's metadata, and its format."""


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
    adapt: AdaptConfig = Full()
    """What was added to the network, if its weights have not been folded."""
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


def read_bundle_config(folder: Path) -> BundleConfig:
    """config.json of a bundle folder.

    Raises:
        InputError: it is missing, from another tool, or from a newer terrazzo.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        raise InputError(f"{folder} is no bundle: it has no {CONFIG_FILE}")
    return read_description(path)


def read_description(path: Path) -> BundleConfig:
    """What stands beside weights: config.json of a bundle, or NAME.json of exported weights.

    Raises:
        InputError: it is from another tool, or from a newer terrazzo.
    """
    try:
        return BundleConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is not a bundle this version reads: {where}: {first['msg']}") from None


def is_description(path: Path) -> bool:
    """Whether a JSON file is ours; other tools have files of the same name."""
    if not path.is_file():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return path.name == CONFIG_FILE and (path.parent / MODEL_FILE).exists()  # a damaged bundle: its reader says so
    return isinstance(content, dict) and str(content.get("format", "")).startswith(FORMAT)


def check_whole(path: Path) -> None:
    """A model can be made of this file, as far as its header tells.

    Raises:
        InputError: it is an adapter, which needs its base, or a program, which is opened otherwise.
    """
    if path.suffix == ".pt2":
        raise InputError(
            f"{path} is a program, which runs by itself: torch.export.load({str(path)!r}).module()(images). Here give "
            "the run or the weights that it was made of"
        )
    if path.suffix != ".safetensors" or not path.is_file():
        return
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (OSError, SafetensorError):
        return  # said in full where its tensors are read
    if ADAPTER_HEADER in metadata:
        raise InputError(
            f"{path} is an adapter: what a run learned, without the base beneath. In Python, terrazzo.adapters.Adapters"
            "(BASE, {NAME: FILE}) puts the two together; or give the run itself, or what `terrazzo export RUN --merge` "
            "writes"
        )


def describe(opened: PublishedModel) -> BundleConfig:
    """What a run would have written of a published network."""
    return BundleConfig(
        model=opened.config.model_copy(update={"weights": "none"}),
        channels=opened.segmenter.channels,
        classes=BundleClasses.of(opened.classes),
        normalization=opened.segmenter.normalization,
        resize=_resize(opened),
        window=_window(opened),
        step=opened.step,
        scores={},
        version=__version__,
    )


def _resize(opened: PublishedModel) -> ResizeConfig:
    if opened.scale is None:
        return Keep()
    width, height = opened.scale
    if not opened.keep_ratio:
        return Exact(height=height, width=width)
    return Fit(short=min(opened.scale), long=max(opened.scale))


def _window(opened: PublishedModel) -> WindowConfig | None:
    """The published sliding window: logits are enlarged first and averaged evenly."""
    if opened.crop is None:
        return None
    stride = opened.stride or opened.crop
    overlap = max(0.0, *(1 - step / side for side, step in zip(opened.crop, stride, strict=True)))
    return WindowConfig(size=opened.crop, overlap=overlap, blend="mean", accumulate="pixel")


def describe_transformers(config: ModelConfig, segmenter: Segmenter, classes: Classes, facts: Facts) -> BundleConfig:
    """The same of a network of transformers, from what its processor says."""
    resize: ResizeConfig = Keep()
    if facts.exact is not None:
        resize = Exact(height=facts.exact[0], width=facts.exact[1])
    elif facts.short is not None:
        resize = ShortSide(pixels=facts.short)
        if facts.long is not None:
            resize = Fit(short=facts.short, long=facts.long)
    window = facts.window and WindowConfig(size=facts.window, overlap=0, blend="mean", accumulate="pixel")
    return BundleConfig(
        model=config,
        channels=segmenter.channels,
        classes=BundleClasses.of(classes),
        normalization=segmenter.normalization,
        resize=resize,
        window=window or None,
        step=0,
        scores={},
        version=__version__,
    )
