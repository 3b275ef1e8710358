"""Any encoder of timm, plain vision transformers among them, under one of our decoders."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.models.decoders import CLASSIFIER, DecoderConfig, LinearDecoder, Pyramid, pixel_decoder
from terrazzo.models.eomt import Eomt, EomtDecoder
from terrazzo.models.segmenter import ModelInput, Role, Segmenter, probe
from terrazzo.models.timm_encoder import Asked, Encoder, reason, timm_encoder
from terrazzo.models.used import remove_unused
from terrazzo.models.weights import LoadReport, compare, load_tensors, read_tensors
from terrazzo.output import Output
from terrazzo.published.networks.heads import FcnHead

ROLES: dict[str, Role] = {f"decoder.{CLASSIFIER}": "head"}
LEVELS = 4
"""Maps that a decoder reads of an encoder that has so many."""
FINEST = 4
"""Pixels per cell of the finest map that a decoder reads or that is made for it."""


class TimmModel(ModelInput):
    """An encoder of timm under a decoder of ours."""

    kind: Literal["timm"] = "timm"
    encoder: str = "resnet50"
    """Name of a timm model, with or without the tag of its weights ("vit_small_patch14_dinov2.lvd142m")."""
    decoder: DecoderConfig = LinearDecoder()
    """What makes logits of the encoder's maps."""
    layers: tuple[NonNegativeInt, ...] | None = None
    """Stages, or blocks of a plain transformer, that the decoder reads, from 0; null: the stages of strides 4 to 32, or
    the last blocks of four equal parts. `linear` reads the last of them, `eomt` none."""
    image_size: PositiveInt | None = None
    """Side, in pixels, of the square that the encoder's positions are made for; null: what its weights were trained at.
    An encoder that takes no other size gets smaller images padded to it, larger ones as windows."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Share of samples that skip the last block while training; it rises from 0 at the first."""
    aux: bool = False
    """Add an auxiliary head, one convolution and a classifier, on the last map but one."""
    weights: Literal["none", "pretrained"] | Path = "pretrained"
    """What the encoder starts from: none (random), pretrained (timm's, downloaded), or a file: of the encoder as timm
    or its authors publish it, or of a whole network like this one."""

    @field_validator("encoder")
    @classmethod
    def _as_timm_writes_it(cls, value: str) -> str:
        return value.removeprefix("tu-")

    @model_validator(mode="after")
    def _all_is_used(self) -> Self:
        eomt = isinstance(self.decoder, EomtDecoder)
        if eomt and (self.layers is not None or self.aux):
            raise ValueError(
                "decoder.kind=eomt goes through all blocks and answers before each of the last ones; "
                f"leave out {'aux' if self.aux else 'layers'}"
            )
        if self.layers is None:
            return self
        if not self.layers or [*self.layers] != sorted({*self.layers}):
            raise ValueError(f"layers={[*self.layers]} must be one or more numbers that rise, such as [2, 5, 8, 11]")
        wanted = 1 + self.aux
        if isinstance(self.decoder, LinearDecoder) and len(self.layers) != wanted:
            raise ValueError(
                f"layers={[*self.layers]}: decoder.kind=linear reads one layer, and aux the one before it; "
                f"give {wanted}, or another decoder"
            )
        return self


class TimmNet(nn.Module):
    """Images [B, C, H, W] to logits [B, K, h, w] at the first map's size (`linear`: the last one's)."""

    def __init__(self, cfg: TimmModel, encoder: Encoder, classes: int):
        super().__init__()
        assert not isinstance(cfg.decoder, EomtDecoder)
        self.encoder = encoder.model
        self.layers = [*encoder.layers]
        self.normed = encoder.normed
        spread = encoder.plain and not isinstance(cfg.decoder, LinearDecoder)
        self.pyramid = Pyramid(encoder.dims[0], len(encoder.dims), _enlargement(encoder.strides[0])) if spread else None
        self.decoder = pixel_decoder(cfg.decoder, encoder.dims, classes)
        self.aux_head = FcnHead(encoder.dims[-2], 256, classes) if cfg.aux else None
        self.only: int | None = None
        """Side of the only images that the encoder takes."""

    def forward(self, images: Tensor) -> Output:
        if self.only is not None and max(images.shape[-2:]) > self.only:
            raise InputError(
                f"this encoder takes images of at most {self.only} x {self.only} pixels: train on augment.crop="
                f"{self.only}, and predict with evaluation.window={{size: {self.only}}}; or build it for larger ones "
                "by model.image_size"
            )
        maps = self._maps(images)
        auxiliary = () if self.aux_head is None else (self.aux_head(maps[-2:-1]),)
        return Output(logits=self.decoder(maps if self.pyramid is None else self.pyramid(maps)), aux=auxiliary)

    def _maps(self, images: Tensor) -> list[Tensor]:
        encoder = cast(Any, self.encoder)
        maps: list[Tensor] = (
            encoder.forward_intermediates(images, indices=self.layers, intermediates_only=True, norm=True)
            if self.normed
            else encoder.forward_intermediates(images, indices=self.layers, intermediates_only=True)
        )
        return maps


def timm_model(cfg: TimmModel, classes: int, channels: int, *, pretrained: bool) -> tuple[Segmenter, LoadReport | None]:
    """The network, and what became of the weights that the config names (none if not `pretrained`).

    Raises:
        InputError: there is no such encoder, it does not fit the decoder, or its weights cannot be had.
    """
    _check_name(cfg.encoder)
    random_numbers = torch.get_rng_state()
    untrained = _segmenter(cfg, classes, channels, {})
    if not pretrained or cfg.weights == "none":
        return untrained, None
    torch.set_rng_state(random_numbers)
    if isinstance(cfg.weights, Path):
        return _from_file(cfg, untrained, classes, cfg.weights)
    try:
        segmenter = _segmenter(cfg, classes, channels, {"pretrained": True})
    except Exception as error:  # the same network was just built without weights, so this is the loading
        raise InputError(
            f"model.weights: the pretrained weights of {cfg.encoder} could not be loaded ({reason(error)}); "
            "give a local file by model.weights=PATH, or model.weights=none"
        ) from error
    settings = cast(Any, segmenter.net.encoder).pretrained_cfg
    source = settings.get("hf_hub_id") or settings.get("url") or cfg.encoder
    return segmenter, compare(segmenter, untrained, source=str(source))


def _from_file(cfg: TimmModel, untrained: Segmenter, classes: int, path: Path) -> tuple[Segmenter, LoadReport]:
    """A network like this one by name; else an encoder by timm, which knows its authors' names and resamples places."""
    found = read_tensors(path)
    own = {name.removeprefix("net.") for name in untrained.state_dict() if untrained.role(name) == "encoder"}
    if not any(key.removeprefix("net.") in own for key in found):
        options = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": found}}
        try:
            segmenter = _segmenter(cfg, classes, untrained.channels, options)
            return segmenter, compare(segmenter, untrained, source=str(path))
        except (RuntimeError, KeyError, ValueError, IndexError, AttributeError) as error:
            said = reason(error)  # wrapped or foreign names: what follows finds them, or says by name what is missing
        try:
            return untrained, load_tensors(untrained, found, source=str(path))
        except InputError as error:
            raise InputError(f"{error}. timm itself could not take the file either: {said}") from error
    return untrained, load_tensors(untrained, found, source=str(path))


def _check_name(name: str) -> None:
    import timm

    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), 3, cutoff=0.5)
        raise InputError(
            f"model.encoder: timm has no model {name!r}"
            + (f"; did you mean {' or '.join(close)}?" if close else "")
            + "; all names: terrazzo models list (those of encoders that start with tu-)"
        )


def _segmenter(cfg: TimmModel, classes: int, channels: int, loading: dict[str, Any]) -> Segmenter:
    asked = Asked(cfg.encoder, channels, cfg.image_size, cfg.drop_path, loading)
    encoder = timm_encoder(asked, partial(_layers, cfg))
    normalization = cfg.normalization(encoder.normalization, channels)
    net: nn.Module
    if isinstance(cfg.decoder, EomtDecoder):
        net = Eomt(cfg.decoder, encoder.model, name=cfg.encoder, patch=encoder.strides[-1], classes=classes)
    else:
        net = TimmNet(cfg, encoder, classes)
    segmenter = Segmenter(net, normalization=normalization, stride=max(encoder.strides), roles=ROLES)
    remove_unused(segmenter, lambda: _everything(_sized(segmenter, cfg, encoder, classes)))
    return segmenter


def _layers(cfg: TimmModel, strides: Sequence[int]) -> tuple[int, ...]:
    """Which of the maps, with these strides, the decoder reads; of `eomt`, all."""
    plain, count = len({*strides}) == 1, len(strides)
    if isinstance(cfg.decoder, EomtDecoder):
        return (*range(count),)
    if cfg.layers is not None:
        if cfg.layers[-1] >= count:
            parts = "blocks" if plain else f"stages of strides {', '.join(map(str, strides))}"
            raise InputError(
                f"model.layers={[*cfg.layers]}, but {cfg.encoder} has {count} {parts}; the last is {count - 1}"
            )
        found = [*cfg.layers]
    elif plain:
        levels = min(LEVELS, count)
        found = [count * level // levels - 1 for level in range(1, levels + 1)]
    else:
        deepest = {stride: place for place, stride in enumerate(strides)}
        found = [place for stride, place in deepest.items() if stride >= FINEST][-LEVELS:]
    if isinstance(cfg.decoder, LinearDecoder):
        found = found[-1 - cfg.aux :]
    if cfg.aux and len(found) < 2:
        raise InputError("model.aux reads the last map but one; give model.layers two or more")
    return tuple(found)


def _enlargement(stride: int) -> int:
    """By how many the sides of a plain transformer's map grow for the finest level: a power of two."""
    factor = 1
    while stride % (2 * factor) == 0 and stride // (2 * factor) >= FINEST:
        factor *= 2
    return factor


def _sized(segmenter: Segmenter, cfg: TimmModel, encoder: Encoder, classes: int) -> Output:
    """The answer to one small image, with its autograd graph; settles which sizes of images the network takes.

    Any multiple of the stride; else of the side that window transformers were trained at (maxvit); else one size only.
    """
    said, trained = segmenter.stride, encoder.trained
    refusal: Exception
    for stride in (said, trained) if said < trained <= 384 and trained % said == 0 else (said,):
        segmenter.stride = stride
        try:
            output = _even(probe(segmenter, classes), cfg)
        except Exception as error:  # whatever a third party raises is its reason
            refusal = error
            continue
        if cfg.image_size is not None and not encoder.sizable:
            raise InputError(
                f"model.image_size={cfg.image_size} changes nothing: {cfg.encoder} takes images of any size"
            )
        return output
    if cfg.image_size is not None:
        return _at_one_size(segmenter, cfg, cfg.image_size, classes)
    if not encoder.sizable:
        _at_one_size(segmenter, cfg, trained, classes)  # or it is of no use, and says why
    raise InputError(
        f"model: {cfg.encoder} does not take images of any size ({reason(refusal)}); type model.image_size={trained}, "
        f"which its published weights were trained at{', or another number' if encoder.sizable else ''}"
    ) from refusal


def _at_one_size(segmenter: Segmenter, cfg: TimmModel, side: int, classes: int) -> Output:
    """The answer to an image of the only size that the network takes from now on."""
    segmenter.stride = segmenter.smallest = side
    if isinstance(segmenter.net, TimmNet):
        segmenter.net.only = side
    try:
        return _even(probe(segmenter, classes, size=(side, side)), cfg)
    except Exception as error:  # whatever a third party raises is its reason
        raise InputError(
            f"model: {cfg.encoder} cannot be used for images of {side} x {side} pixels: {reason(error)}"
        ) from error


def _even(output: Output, cfg: TimmModel) -> Output:
    """The same, if the logits lie over the image in whole cells."""
    cells = (output.logits.shape[-2], output.logits.shape[-1])
    if any(side % count for side, count in zip(output.covers, cells, strict=True)):
        raise InputError(
            f"{cells[0]} x {cells[1]} cells do not lie evenly over {output.covers[0]} x {output.covers[1]} pixels: "
            f"{cfg.encoder} has convolutions without padding"
        )
    return output


def _everything(output: Output) -> Iterator[Tensor]:
    yield from (output.logits, *output.aux)
    for queries in () if output.queries is None else (output.queries, *output.queries.aux):
        yield from (queries.classes, queries.masks)
