"""Every architecture of segmentation-models-pytorch (SMP), over its own encoders and timm's (`tu-`)."""

import inspect
import warnings
from collections import OrderedDict
from difflib import get_close_matches
from math import lcm
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from pydantic import field_validator
from torch import Tensor, nn

from terrazzo.base import IMAGENET, InputError, Normalization
from terrazzo.models.segmenter import ModelInput, Segmenter, probe
from terrazzo.models.used import remove_unused
from terrazzo.models.weights import LoadReport, compare

Arch = Literal[
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
    "dpt",
]

INCEPTION = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""TensorFlow's -1..1."""
DPN = Normalization(mean=(124 / 255, 117 / 255, 104 / 255), std=(1 / (0.0167 * 255),) * 3)
"""MXNet's dual path networks (pretrainedmodels, models/dpn.py)."""


HINTS = {
    "downsampling pattern": "plain vision transformers need model.arch=dpt",
    "does not take images of any size": "model.kind=timm has it with model.image_size, and decoders of our own",
    "output_stride": "it cannot be dilated, as this architecture asks; unet, fpn, upernet and segformer do not",
}
"""What to type, by a part of what the libraries say."""


class SmpModel(ModelInput):
    """A network of segmentation-models-pytorch."""

    kind: Literal["smp"] = "smp"
    arch: Arch = "unet"
    """Architecture around the encoder, in any case, with or without "smp." before it."""
    encoder: str = "resnet34"
    """An SMP encoder, "tu-" and the name of a timm model, or either with the tag of its weights ("resnet50.ssl")."""
    weights: Literal["none", "pretrained"] | Path = "pretrained"
    """What the encoder starts from: none (random), pretrained (downloaded by SMP or timm), or a local file."""

    @field_validator("arch", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower().removeprefix("smp.") if isinstance(value, str) else value


def smp_model(cfg: SmpModel, classes: int, channels: int, *, download: bool) -> tuple[Segmenter, LoadReport | None]:
    """The network, with the library's own pretrained weights if `download`, and what became of each encoder tensor.

    Raises InputError for an unknown encoder, for a pair that SMP refuses or that cannot take images of any size, and
    for a download that fails.
    """
    _check_encoder(cfg.encoder)
    random_numbers = torch.get_rng_state()
    try:
        untrained = _segmenter(cfg, classes, channels, download=False)
    except InputError:
        raise
    except Exception as error:  # whatever a third party raises is its reason to refuse the pair
        reason = _reason(error)
        hint = next((f"; {advice}" for said, advice in HINTS.items() if said in reason), "")
        raise InputError(f"model: SMP's {cfg.arch} cannot use the encoder {cfg.encoder}: {reason}{hint}") from error
    if not download:
        return untrained, None
    torch.set_rng_state(random_numbers)
    try:
        segmenter = _segmenter(cfg, classes, channels, download=True)
    except Exception as error:  # the same network was just built without weights, so this is the loading
        raise InputError(
            f"model.weights: the pretrained weights of {cfg.encoder} could not be loaded ({_reason(error)}); "
            "give a local file by model.weights=PATH, or model.weights=none"
        ) from error
    return segmenter, compare(segmenter, untrained, source=_source(cfg.encoder))


def library_network(cfg: SmpModel, classes: int, channels: int = 3, *, download: bool = False) -> Any:
    """The network as SMP builds it, with parts that no logit depends on: what other tools count."""
    import segmentation_models_pytorch as smp  # heavy, and needed by this model only

    name, tag = _name_and_tag(cfg.encoder)
    with warnings.catch_warnings():
        # SMP advises DPT to ignore prefix tokens where an encoder has none; its default then finds none and works.
        warnings.filterwarnings("ignore", "Encoder does not have prefix tokens")
        return smp.create_model(
            cfg.arch,
            name,
            encoder_weights=tag if download else None,
            in_channels=channels,
            classes=classes,
            **_size_options(name),
        )


def _segmenter(cfg: SmpModel, classes: int, channels: int, *, download: bool) -> Segmenter:
    net = library_network(cfg, classes, channels, download=download)
    align_corners = _take_off_upsampling(net)
    segmenter = Segmenter(
        net,
        normalization=cfg.normalization(_wanted_normalization(cfg.encoder, download=download), channels),
        stride=lcm(32, net.encoder.output_stride) if cfg.arch == "dpt" else net.encoder.output_stride,
        smallest=128 if cfg.arch == "pan" else 1,  # PAN halves the features of stride 16 three times more
        align_corners=align_corners,
    )
    name, _ = _name_and_tag(cfg.encoder)
    remove_unused(segmenter, lambda: [_logits_on_probe(segmenter, name, classes)])
    return segmenter


def _name_and_tag(encoder: str) -> tuple[str, str | bool]:
    """SMP's arguments encoder_name and encoder_weights: timm's tags are part of the name, SMP's own are not."""
    from segmentation_models_pytorch.encoders import encoders

    if encoder.startswith("tu-"):
        return encoder, True
    name, _, tag = encoder.partition(".")
    tags = [*encoders[name]["pretrained_settings"]]
    return name, tag or ("imagenet" if "imagenet" in tags else tags[0])


def _check_encoder(encoder: str) -> None:
    import timm
    from segmentation_models_pytorch.encoders import encoders

    name, _, tag = encoder.partition(".")
    if name in encoders:
        tags = [*encoders[name]["pretrained_settings"]]
        if tag and tag not in tags:
            raise InputError(f"model.encoder: {name} has no weights {tag!r}; it has {', '.join(tags)}")
    elif not (encoder.startswith("tu-") and timm.is_model(encoder.removeprefix("tu-"))):
        names = [*encoders, *(f"tu-{name}" for name in timm.list_models())]
        close = get_close_matches(encoder, names, 3, cutoff=0.5) or get_close_matches(f"tu-{encoder}", names, 3)
        raise InputError(
            f"model.encoder: no encoder {encoder!r}"
            + (f"; did you mean {' or '.join(close)}?" if close else "")
            + "; all names: terrazzo models list"
        )


def _size_options(name: str) -> dict[str, bool]:
    """timm's options that let a transformer take images of any size; a family that has none needs none, or refuses."""
    import timm

    if not name.startswith("tu-"):
        return {}
    with torch.device("meta"):
        model = timm.create_model(name.removeprefix("tu-"))
    known = inspect.signature(type(model).__init__).parameters
    return {option: on for option, on in (("dynamic_img_size", True), ("strict_img_size", False)) if option in known}


def _take_off_upsampling(net: Any) -> bool:
    """Leave the logits at their own stride; return align_corners of the enlargement that was taken off."""
    from segmentation_models_pytorch.decoders.dpt.decoder import DPTSegmentationHead

    head = net.segmentation_head
    if isinstance(head, DPTSegmentationHead):
        net.segmentation_head = nn.Sequential(OrderedDict(head=head.head))  # the tensors keep their names
        return True
    if isinstance(head[1], nn.Upsample):
        align_corners = bool(head[1].align_corners)
        head[1] = nn.Identity()
        return align_corners
    return False


def _logits_on_probe(segmenter: Segmenter, encoder: str, classes: int) -> Tensor:
    """Logits of one small image, with their autograd graph; finds the stride of window transformers.

    These (maxvit) say 32, but take only multiples of the size that they were trained at. Raises ValueError if the
    network takes neither: an encoder made for one size of image only.
    """
    import timm

    said = segmenter.stride
    settings: Any = timm.get_pretrained_cfg(encoder.removeprefix("tu-")) if encoder.startswith("tu-") else None
    trained = settings.input_size[-1] if settings else said
    for stride in (said, trained) if said < trained <= 384 and trained % said == 0 else (said,):
        segmenter.stride = stride
        try:
            return probe(segmenter, classes).logits
        except Exception as error:  # whatever a third party raises is its reason
            refusal = error
    raise ValueError(f"it does not take images of any size: {_reason(refusal)}") from refusal


def _wanted_normalization(encoder: str, *, download: bool) -> Normalization:
    """What an encoder's published weights want: timm's settings; SMP's from its hub, or this table when offline."""
    import timm
    from segmentation_models_pytorch.encoders import get_preprocessing_params

    if encoder.startswith("tu-"):
        settings: Any = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        return Normalization(mean=settings.mean, std=settings.std)
    if download:
        found = get_preprocessing_params(*_name_and_tag(encoder))
        order: Literal["rgb", "bgr"] = "bgr" if found["input_space"] == "BGR" else "rgb"
        return Normalization(
            mean=found["mean"], std=found["std"], max_value=found["input_range"][1], channel_order=order
        )
    if encoder.startswith("dpn"):
        return DPN
    if encoder.startswith(("inception", "xception", "timm-tf_efficientnet_lite")) or encoder.endswith(".advprop"):
        return INCEPTION
    return IMAGENET


def _source(encoder: str) -> str:
    """Where the library's own loader finds the weights."""
    import timm
    from segmentation_models_pytorch.encoders import encoders

    if encoder.startswith("tu-"):
        settings: Any = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        return str(settings.hf_hub_id or settings.url or encoder)
    name, tag = _name_and_tag(encoder)
    return str(encoders[name]["pretrained_settings"][tag]["repo_id"])


def _reason(error: Exception) -> str:
    """What a library said, on one line; an assertion may have said nothing."""
    said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(said.split())[:200] or type(error).__name__


class ModelEntry(NamedTuple):
    """A line of `terrazzo models list`."""

    kind: str
    """Value of model.kind."""
    part: Literal["architecture", "encoder"]
    name: str
    """Value of model.arch or model.encoder (for other kinds, the kind itself)."""
    family: str
    """Encoders of one family share their code."""
    weights: tuple[str, ...] = ()
    """Tags of published weights; of an encoder's, one can be chosen by model.encoder=NAME.TAG."""


def smp_entries() -> list[ModelEntry]:
    """Every architecture, every SMP encoder, every timm model."""
    import timm
    from segmentation_models_pytorch.encoders import encoders

    entries = [ModelEntry("smp", "architecture", arch, "") for arch in get_args(Arch)]
    for name, settings in encoders.items():
        family = settings["encoder"].__module__.rpartition(".")[2]
        entries.append(ModelEntry("smp", "encoder", name, family, tuple(settings["pretrained_settings"])))
    tags: dict[str, list[str]] = {}
    for tagged in timm.list_pretrained():
        name, _, tag = tagged.partition(".")
        tags.setdefault(name, []).append(tag)
    for name in timm.list_models():
        family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
        entries.append(ModelEntry("smp", "encoder", f"tu-{name}", family, tuple(filter(None, tags.get(name, [])))))
    return entries
