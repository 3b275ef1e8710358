"""Which layers of a network a method changes: by role, by name, or by a pattern; and what trains beside them."""

import re
from collections.abc import Callable
from typing import Literal

from pydantic import field_validator
from torch import nn

from terrazzo.base import Config, InputError
from terrazzo.models import Segmenter

AlsoTrain = Literal["classifier", "decoder", "none"]

SHOWN = 6
"""Names that an error lists."""


class Regex(Config):
    """Layers by a pattern."""

    regex: str
    """Python regular expression that a layer's whole name must fit: 'backbone\\.block\\d\\..*\\.attn\\..*'."""

    @field_validator("regex")
    @classmethod
    def _compiles(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"{text!r} is no regular expression: {error}") from None
        return text


Targets = Literal["auto"] | tuple[str, ...] | Regex
"""`auto`: every layer of the encoder that the method can change; names (whole, or their end: "attn.qkv"); a pattern."""


def find_targets(segmenter: Segmenter, targets: Targets, fits: Callable[[nn.Module], bool]) -> dict[str, nn.Module]:
    """Layers by name that `fits` and `targets` agree on, in the network's order.

    Layers on which no answer of the network depends are none: they would never learn.

    Raises:
        InputError: nothing is matched, a name is of no layer, or of one that the method cannot change, or a pattern
            matches every layer, the classifier's too.
    """
    layers = {
        name: layer for name, layer in segmenter.net.named_modules() if fits(layer) and _is_used(segmenter, name, layer)
    }
    if not layers:
        raise InputError("adapt: this method can change no layer of this network")
    match targets:
        case "auto":
            roles = {name: segmenter.role(name) for name in layers}
            wanted = "encoder" if "encoder" in roles.values() else "decoder"
            found = {name: layer for name, layer in layers.items() if roles[name] == wanted}
        case Regex(regex=text):
            found = {name: layer for name, layer in layers.items() if re.fullmatch(text, name)}
            if len(found) == len(layers):
                raise InputError(
                    f"adapt.targets.regex {text!r} matches all {len(layers)} layers, the classifier's too; name a part "
                    "of the network, write targets: auto for its encoder, or adapt: {kind: full} to train everything"
                )
        case _:
            found = _named(segmenter, targets, layers)
    if not found:
        what = f".regex {targets.regex!r}" if isinstance(targets, Regex) else f"={targets}"
        raise InputError(f"adapt.targets{what} matches no layer; the layers are called {_some(layers)}")
    return found


def _named(segmenter: Segmenter, names: tuple[str, ...], layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for wanted in names:
        mine = {name: layer for name, layer in layers.items() if name == wanted or name.endswith(f".{wanted}")}
        if not mine:
            others = ((n, m) for n, m in segmenter.net.named_modules() if n == wanted or n.endswith(f".{wanted}"))
            why = next((_why_not(segmenter, *other) for other in others), "is no layer of this network")
            raise InputError(f"adapt.targets: {wanted!r} {why}; layers that can be changed: {_some(layers)}")
        found |= mine
    return {name: layer for name, layer in layers.items() if name in found}


def _why_not(segmenter: Segmenter, name: str, layer: nn.Module) -> str:
    why = ", which the method cannot change" if _is_used(segmenter, name, layer) else " on which no answer depends"
    return f"is a {type(layer).__name__}{why}"


def _is_used(segmenter: Segmenter, name: str, layer: nn.Module) -> bool:
    own = [f"net.{name}.{key}" for key, _ in layer.named_parameters(recurse=False)]
    return not own or any(key not in segmenter.unused for key in own)


def _some(layers: dict[str, nn.Module]) -> str:
    return ", ".join([*layers][:SHOWN]) + (f", ... ({len(layers)} in all)" if len(layers) > SHOWN else "")
