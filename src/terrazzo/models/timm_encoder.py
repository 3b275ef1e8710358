"""A model of timm as an encoder: for images of any size where it can be, cut behind the last map that is read."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from terrazzo.base import InputError, Normalization


class Asked(NamedTuple):
    """What a model of timm is built for."""

    name: str
    channels: int
    """Of the images."""
    image_size: int | None
    """Side of the square that its positions are made for; None for that of its weights."""
    drop_path: float
    """Of the last block."""
    loading: Mapping[str, Any]
    """timm's own options for weights; empty for random ones."""


class Encoder(NamedTuple):
    """A model of timm, and the maps that are read of it."""

    model: Any
    layers: tuple[int, ...]
    """Which of its maps, by timm's count."""
    dims: tuple[int, ...]
    """Channels of each."""
    strides: tuple[int, ...]
    """Pixels per cell of each."""
    plain: bool
    """All maps of the model have one size: a transformer without stages, or a mixer."""
    normed: bool
    """Its last norm is for every map."""
    sizable: bool
    """Its positions can be made for images of another size."""
    trained: int
    """Side of the images that its published weights were trained on, or that its positions are made for."""
    normalization: Normalization


def timm_encoder(asked: Asked, choose: Callable[[list[int]], tuple[int, ...]]) -> Encoder:
    """The encoder; `choose` says which layers are read, given the strides of all.

    Raises:
        InputError: timm cannot build it so, or an option would change nothing.
    """
    known = _options_of(asked.name)
    model = _built(asked, known)
    strides = [int(info["reduction"]) for info in model.feature_info]
    plain = len({*strides}) == 1
    layers = choose(strides)
    normed = plain and hasattr(model, "norm") and _takes(model.forward_intermediates, "norm")
    if normed:
        _keep_last_norm(model)
    model.prune_intermediate_layers([*layers], prune_norm=not normed, prune_head=True)
    settings = model.pretrained_cfg
    return Encoder(
        model=model,
        layers=layers,
        dims=tuple(model.feature_info[layer]["num_chs"] for layer in layers),
        strides=tuple(strides[layer] for layer in layers),
        plain=plain,
        normed=normed,
        sizable="img_size" in known,
        trained=settings["input_size"][-1] if asked.image_size is None else asked.image_size,
        normalization=Normalization(mean=settings["mean"], std=settings["std"]),
    )


def _options_of(name: str) -> frozenset[str]:
    """Names of the options of timm's class, which nothing tells but the class."""
    import timm  # heavy, and needed by this model only

    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
    except RuntimeError as error:  # an unknown tag
        raise InputError(f"model: timm cannot build {name}: {reason(error)}") from error
    return frozenset(inspect.signature(type(model).__init__).parameters)


def _built(asked: Asked, known: frozenset[str]) -> Any:
    import timm

    options: dict[str, Any] = {
        option: on for option, on in (("dynamic_img_size", True), ("strict_img_size", False)) if option in known
    }
    if asked.image_size is not None and "img_size" in known:
        options["img_size"] = (asked.image_size, asked.image_size)
    if asked.drop_path:
        options["drop_path_rate"] = asked.drop_path
    try:
        model: Any = timm.create_model(asked.name, in_chans=asked.channels, num_classes=0, **options, **asked.loading)
    except Exception as error:  # whatever a third party raises is its reason to refuse the options
        if asked.loading:
            raise
        raise InputError(f"model: timm cannot build {asked.name}: {reason(error)}") from error
    if asked.drop_path and not any(getattr(module, "drop_prob", 0) for module in model.modules()):
        raise InputError(f"model.drop_path={asked.drop_path} changes nothing: no block of {asked.name} can be skipped")
    return model


def _takes(function: Callable[..., Any], option: str) -> bool:
    return option in inspect.signature(function).parameters


def _keep_last_norm(model: Any) -> None:
    """The norm behind the last block, which some transformers have behind their pooling, to its usual place."""
    pooled = getattr(model, "fc_norm", None)
    if isinstance(getattr(model, "norm", None), nn.Identity) and pooled is not None:
        model.norm, model.fc_norm = pooled, nn.Identity()


def reason(error: Exception) -> str:
    """What a library said, on one line; an assertion may have said nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__
