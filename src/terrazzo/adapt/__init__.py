"""What may learn. A new method: one file here with its config, one member in the union, one case below.

A method is applied after the weights are loaded and before the optimizer is made. All of them start as the identity:
the adapted network answers as the base before the first step (prompts, by their nature, do not).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, assert_never

from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from terrazzo.adapt.bitfit import BitFit, bitfit
from terrazzo.adapt.bottleneck import Adapter, bottleneck
from terrazzo.adapt.frozen import Frozen, Full, Staged
from terrazzo.adapt.lora import Lora, lora
from terrazzo.adapt.ssf import Ssf, ssf
from terrazzo.adapt.targets import Regex
from terrazzo.adapt.vpt import Vpt, vpt
from terrazzo.base import InputError
from terrazzo.models import Segmenter

__all__ = [
    "AdaptConfig",
    "Adapted",
    "Adapter",
    "BitFit",
    "Frozen",
    "Full",
    "Lora",
    "Regex",
    "Ssf",
    "Staged",
    "Vpt",
    "adapt",
    "added",
    "open_stage",
]

AdaptConfig = Annotated[Full | Frozen | Staged | Ssf | Lora | Adapter | BitFit | Vpt, Field(discriminator="kind")]


@dataclass(frozen=True)
class Adapted:
    """What a method did."""

    layers: tuple[str, ...]
    """Names of the layers it changed; empty where whole parts learn."""
    trainable: int
    """Numbers that learn."""
    total: int
    """Numbers in all parameters, those of the method included."""
    still: int
    """Norms, and the like, whose statistics are not moved on."""

    def __str__(self) -> str:
        share = 100 * self.trainable / max(1, self.total)
        where = f"; {len(self.layers)} layers changed" if self.layers else ""
        kept = f"; {self.still} norms keep their statistics" if self.still else ""
        return f"{self.trainable:,} of {self.total:,} parameters learn ({share:.2f} %){where}{kept}"


def adapt(segmenter: Segmenter, cfg: AdaptConfig) -> Adapted:
    """Freeze what the method does not train, and add what it adds, in place.

    Parameters that were frozen before (a network's own constants) stay so. BatchNorm's statistics stand still in
    every part that does not learn as a whole, and in the encoder of a network that does, if the method says so.

    Raises:
        InputError: the method has nothing to work on in this network, or nothing would learn.
    """
    learnable = {name for name, parameter in segmenter.named_parameters() if parameter.requires_grad}
    if not isinstance(cfg, Full | Staged):
        segmenter.requires_grad_(False)
    layers: list[str] = []
    match cfg:
        case Full() | Staged():  # a staged run's optimizer holds everything from the start: see open_stage
            open_roles = {"encoder", "decoder", "head"}
        case Frozen():
            open_roles = {"decoder", "head"} if cfg.train == "decoder" else {"head"}
        case Ssf():
            layers = ssf(segmenter, cfg)
            open_roles = _beside(cfg.also_train)
        case Lora():
            layers = lora(segmenter, cfg)
            open_roles = _beside(cfg.also_train)
        case Adapter():
            layers = bottleneck(segmenter, cfg)
            open_roles = _beside(cfg.also_train)
        case BitFit():
            layers = bitfit(segmenter, cfg, learnable)
            open_roles = _beside(cfg.also_train)
        case Vpt():
            layers = vpt(segmenter, cfg)
            open_roles = _beside(cfg.also_train)
        case _:
            assert_never(cfg)
    for name, parameter in segmenter.named_parameters():
        if name in learnable and segmenter.role(name) in open_roles:
            parameter.requires_grad_(True)
    if isinstance(cfg, Full) and cfg.batchnorm == "frozen":
        _stand_still(segmenter, {"decoder", "head"})
    elif not (isinstance(cfg, Frozen) and cfg.batchnorm == "running"):
        _stand_still(segmenter, open_roles)
    learning = sum(parameter.numel() for parameter in segmenter.parameters() if parameter.requires_grad)
    if not learning:
        roles = sorted({segmenter.role(name) for name in learnable})
        raise InputError(f"adapt: nothing would learn: the network's parts are {', '.join(roles) or 'none'}; {cfg!r}")
    whole = sum(parameter.numel() for parameter in segmenter.parameters())
    return Adapted(tuple(layers), learning, whole, len(segmenter.still))


def added(cfg: AdaptConfig) -> AdaptConfig:
    """What a saved network must be given again: nothing, if the method only chose what learns."""
    return cfg if isinstance(cfg, Ssf | Lora | Adapter | Vpt) else Full()


def open_stage(segmenter: Segmenter, cfg: Staged, learnable: Collection[str], *, first: bool) -> None:
    """Freeze the encoder for the first stage, or let everything in `learnable` learn from now on.

    Raises:
        InputError: the network has no encoder, or nothing but one.
    """
    roles = {segmenter.role(name) for name in learnable}
    if "encoder" not in roles or len(roles) == 1:
        raise InputError(f"adapt: kind staged freezes the encoder first; this network's parts are {', '.join(roles)}")
    for name, parameter in segmenter.named_parameters():
        parameter.requires_grad_(name in learnable and not (first and segmenter.role(name) == "encoder"))
    frozen = first and cfg.batchnorm == "frozen"
    _stand_still(segmenter, {"decoder", "head"} if frozen else {"encoder", "decoder", "head"})


def _beside(also_train: str) -> set[str]:
    return {"classifier": {"head"}, "decoder": {"decoder", "head"}, "none": set[str]()}[also_train]


def _stand_still(segmenter: Segmenter, open_roles: set[str]) -> None:
    """Norms of the parts that do not learn stay in eval mode from now on, and so does what else follows the images
    without a gradient (EMANet's bases)."""
    segmenter.still = [
        module
        for name, module in segmenter.named_modules()
        if segmenter.role(name) not in open_roles
        and (isinstance(module, _BatchNorm | nn.InstanceNorm2d) or _follows_images(module))
    ]
    segmenter.train(segmenter.training)


def _follows_images(module: nn.Module) -> bool:
    """A layer of buffers alone. It may follow the images, and if it does not, eval mode changes nothing in it."""
    layer = next(module.children(), None) is None and next(module.parameters(), None) is None
    return layer and next(module.buffers(), None) is not None
