"""The one contract of every network: uint8 images [B, C, H, W] in, an `Output` of low-resolution logits out."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import PositiveFloat, model_validator
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import Config, InputError, Normalization
from terrazzo.output import Output, Queries

Role = Literal["encoder", "decoder", "head"]

ROLES: dict[str, Role] = {
    "encoder": "encoder",
    "backbone": "encoder",
    "head": "head",
    "segmentation_head": "head",
    "classifier": "head",
    "aux_head": "head",
    "aux_heads": "head",
    "aux_classifier": "head",
}
"""Role of each direct child of a network, by its name; every other child is the decoder."""


class ModelInput(Config):
    """The part that all model configs share: how pixels become numbers. None means: what the weights want."""

    mean: tuple[float, ...] | None = None
    """Mean per image channel, in the scale of max_value; give std with it."""
    std: tuple[PositiveFloat, ...] | None = None
    """Standard deviation per image channel, in the scale of max_value; give mean with it."""
    max_value: PositiveFloat | None = None
    """Value of a white pixel before mean and std are applied (1 or 255); give mean and std with it."""
    channel_order: Literal["rgb", "bgr"] | None = None
    """Order of the channels that the weights want."""

    @model_validator(mode="after")
    def _mean_with_std(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: give both, or neither to follow the weights")
        if self.max_value is not None and self.mean is None:
            raise ValueError("max_value is the scale of mean and std: give all three, or none to follow the weights")
        return self

    def normalization(self, wanted: Normalization, channels: int) -> Normalization:
        """What the weights want, fitted to the image's channels, with the user's own values in place of it."""
        fitted = wanted.for_channels(channels)
        order = self.channel_order or fitted.channel_order
        if order == "bgr" and channels != 3:
            raise InputError(f"model.channel_order is bgr, but the images have {channels} channels; type rgb")
        if self.mean is None or self.std is None:
            return fitted.model_copy(update={"channel_order": order})
        if not len(self.mean) == len(self.std) == channels:
            raise InputError(
                f"model.mean has {len(self.mean)} numbers, model.std {len(self.std)} and the images have {channels} "
                "channels; give one number per channel"
            )
        return Normalization(mean=self.mean, std=self.std, max_value=self.max_value or 1.0, channel_order=order)


class Segmenter(nn.Module):
    """Normalise, pad to the network's own stride, run the network, say what its logits cover.

    `net` answers a tensor [B, K, h, w], a tuple of it and auxiliary logits, an `Output`, or `Queries`. The sides of its
    input are multiples of `stride` and at least `smallest` pixels. `align_corners` says how its logits are to be
    enlarged.
    `roles` are those of parts whose names (as "classifier.4") do not tell them, before the ones of `ROLES`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        normalization: Normalization,
        stride: int,
        smallest: int = 1,
        align_corners: bool = False,
        roles: Mapping[str, Role] | None = None,
    ):
        super().__init__()
        self.net = net
        self.normalization = normalization
        self.stride = stride
        self.smallest = smallest
        self.align_corners = align_corners
        self.roles = {**ROLES, **(roles or {})}
        self.still: list[nn.Module] = []
        """Modules that stay in eval mode while the network trains: norms whose statistics must not move."""
        self.unused: frozenset[str] = frozenset()
        """Parameters that no answer depends on, as far as whoever built the network has looked: see `models.used`."""
        white = 255 / normalization.max_value
        device = next((tensor.device for tensor in (*net.parameters(), *net.buffers())), torch.get_default_device())
        # Not in the state dict: the bundle's config says it, and a number must stand in one place only.
        mean = torch.tensor(normalization.mean, device=device).view(1, -1, 1, 1) * white
        std = torch.tensor(normalization.std, device=device).view(1, -1, 1, 1) * white
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("scale", 1 / std, persistent=False)

    @property
    def channels(self) -> int:
        """Channels an image must have."""
        return len(self.normalization.mean)

    @property
    def has_encoder(self) -> bool:
        """False for a user's own network whose parts carry none of the known names."""
        return any(self.role(name) == "encoder" for name, _ in self.named_parameters())

    def role(self, name: str) -> Role:
        """Part of the network that a parameter or buffer ("net.encoder.conv1.weight") belongs to."""
        parts = name.removeprefix("net.").split(".")
        longest_first = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        return next((self.roles[part] for part in longest_first if part in self.roles), "decoder")

    def train(self, mode: bool = True) -> Self:
        """As every module's, but `still` modules stay in eval mode."""
        super().train(mode)
        for module in self.still:
            module.eval()
        return self

    def forward(self, images: Tensor) -> Output:
        """`images` [B, C, H, W], RGB, uint8 or floats in 0..255, to logits over the padded image."""
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise InputError(f"images have the shape {[*images.shape]}; this network takes [B, {self.channels}, H, W]")
        height, width = images.shape[-2:]
        covers = self.padded(height), self.padded(width)
        # Padding comes after normalising, so its zeros have the mean colour.
        padded = functional.pad(self.normalized(images), (0, covers[1] - width, 0, covers[0] - height))
        return self._output(self.net(padded), covers)

    def padded(self, side: int) -> int:
        """The next side, in pixels, that the network takes."""
        return -(-max(side, self.smallest) // self.stride) * self.stride

    def normalized(self, images: Tensor) -> Tensor:
        """The numbers that the network sees, in the type of its own weights."""
        ordered = images.flip(1) if self.normalization.channel_order == "bgr" else images
        return (ordered.to(self.mean.dtype) - self.mean) * self.scale

    def _output(self, answer: Any, covers: tuple[int, int]) -> Output:
        # No `match` here: torch.compile of torch 2.11 breaks the graph at class patterns (pytorch issue 171274).
        if isinstance(answer, Queries):
            answer = Output(logits=answer.scores(), queries=answer, align_corners=self.align_corners)
        if isinstance(answer, Output):
            output: Output = answer._replace(are_scores=answer.are_scores or answer.queries is not None)
            return output if any(output.covers) else output._replace(covers=covers)
        if isinstance(answer, Tensor):
            return Output(logits=answer, covers=covers, align_corners=self.align_corners)
        if isinstance(answer, (tuple, list)) and answer and all(isinstance(part, Tensor) for part in answer):
            return Output(logits=answer[0], aux=tuple(answer[1:]), covers=covers, align_corners=self.align_corners)
        raise InputError(
            f"the network {type(self.net).__name__} answers a {type(answer).__name__}; expected logits as a "
            "tensor [B, K, h, w], a tuple (logits, auxiliary logits, ...) or terrazzo.output.Output"
        )


def probe(segmenter: Segmenter, classes: int, *, size: tuple[int, int] | None = None) -> Output:
    """Run one small image, whose sides are 2 and 3 multiples of the stride unless `size` says them; check the answer.

    In eval mode; every module's own mode is put back. Raises what the network raises, or InputError for a wrong shape.
    """
    output: Output
    modes = {module: module.training for module in segmenter.modules()}
    segmenter.eval()
    unit = segmenter.stride * -(-32 // segmenter.stride)
    height, width = size or (2 * unit, 3 * unit)
    images = torch.zeros(1, segmenter.channels, height, width, dtype=torch.uint8, device=segmenter.mean.device)
    try:
        output = segmenter(images)
    finally:
        for module, training in modes.items():
            module.training = training
    for name, logits in (("logits", output.logits), *(("auxiliary logits", aux) for aux in output.class_aux)):
        if logits.ndim != 4 or logits.shape[:2] != (1, classes):
            raise InputError(
                f"the network {type(segmenter.net).__name__} answers {name} of the shape {[*logits.shape]} for one "
                f"image; the data set's {classes} classes need [1, {classes}, h, w]"
            )
    return output
