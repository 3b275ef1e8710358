"""What an optimizer can be told."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from terrazzo.base import Config, InputError

Role = Literal["encoder", "decoder", "head"]
"""What a parameter belongs to."""

Share = Annotated[float, Field(ge=0, lt=1)]


class OptimOptions(Config):
    """What all optimizers can be told."""

    lr: PositiveFloat = 1e-3
    """Learning rate of a role whose factor is 1, before the schedule."""
    weight_decay: NonNegativeFloat = 0.0
    """Multiple of a weight that is added to its gradient."""
    lr_factors: dict[Role, NonNegativeFloat] = Field(default_factory=dict)
    """Learning rate of "encoder", "decoder" or "head" as a multiple of `lr`; 1 for a role not named."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Of the encoder, each block learns at this share of the rate of the block behind it (0.65 to 0.9 are usual for
    transformers, Clark et al. 2020), the stem slowest; null: all alike."""
    decay_norms: bool = False
    """Decay norms, biases and other parameters of one dimension too."""


class AdamOptions(OptimOptions):
    """What Adam and AdamW can be told."""

    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the running square."""
    amsgrad: bool = False
    """Divide by the greatest running square so far (Reddi et al. 2018)."""
    fused: bool = True
    """One kernel for the whole update; 3 times as fast on a CPU."""


class AdamW(AdamOptions):
    """Adam with decay apart from the gradient (Loshchilov & Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: NonNegativeFloat = 0.01
    """Share of a weight taken off in every step, times the learning rate (decoupled)."""


class Adam(AdamOptions):
    """Kingma & Ba 2015; its weight decay is a part of the gradient (L2), and so divided by the running square too."""

    kind: Literal["adam"] = "adam"


class AdamW8bit(OptimOptions):
    """AdamW whose running means are kept in 8 bits, in blocks with a scale each: a quarter of their memory (Dettmers et
    al. 2022). Through bitsandbytes (`pip install 'terrazzo[8bit]'`)."""

    kind: Literal["adamw_8bit"] = "adamw_8bit"
    weight_decay: NonNegativeFloat = 0.01
    """Share of a weight taken off in every step, times the learning rate (decoupled)."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the running square."""
    min_values: PositiveInt = 4096
    """Parameters with fewer values (norms, biases) keep their running means in 32 bits."""


class Sgd(OptimOptions):
    """Gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 0.01
    """Learning rate of a role whose factor is 1, before the schedule."""
    weight_decay: NonNegativeFloat = 5e-4
    """Multiple of a weight that is added to its gradient."""
    momentum: Share = 0.9
    """Share of the previous update that is kept."""
    nesterov: bool = False
    """Look ahead along the momentum."""

    @model_validator(mode="after")
    def _momentum_to_look_along(self) -> "Sgd":
        if self.nesterov and not self.momentum:
            raise InputError("sgd has nesterov=true and momentum=0; give a momentum such as 0.9, or nesterov=false")
        return self


class RmsProp(OptimOptions):
    """The gradient divided by the root of its running square (Tieleman & Hinton 2012)."""

    kind: Literal["rmsprop"] = "rmsprop"
    alpha: Share = 0.99
    """Decay of the running mean of the gradient's square."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the running square."""
    momentum: Share = 0.0
    """Share of the previous update that is kept."""
    centered: bool = False
    """Divide by the running standard deviation instead."""
