"""Visual prompt tuning (Jia et al. 2022), deep: learned tokens beside the image's own in every block of a ViT."""

from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import nn

from terrazzo.adapt.probing import block_axes, first_changed
from terrazzo.adapt.targets import AlsoTrain
from terrazzo.base import Config, InputError
from terrazzo.models import Segmenter


class Vpt(Config):
    """Give every block of a plain ViT tokens of its own that attention sees beside the image's (Jia et al. 2022).

    They take part in attention from the start, so the adapted network does not quite answer as the base; and they
    cannot be folded into weights.
    """

    kind: Literal["vpt"] = "vpt"
    tokens: PositiveInt = 10
    """Learned tokens in every block."""
    also_train: AlsoTrain = "decoder"
    """What trains beside: the classifier, the decoder with it, or none."""


class Prompts(nn.Module):
    """Tokens put behind the others [B, N, C] before a block, and taken off behind it."""

    def __init__(self, tokens: int, channels: int):
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(1, tokens, channels))
        nn.init.normal_(self.tokens, std=0.02)

    def before(self, block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """As a forward hook before the block."""
        image = inputs[0]
        return (torch.cat([image, self.tokens.expand(len(image), -1, -1).to(image.dtype)], dim=1), *inputs[1:])

    def after(self, block: nn.Module, inputs: Any, output: Any) -> Any:
        """As a forward hook behind the block."""
        return first_changed(output, lambda tokens: tokens[:, : -self.tokens.shape[1]])


def vpt(segmenter: Segmenter, cfg: Vpt) -> list[str]:
    """Give every block its tokens; the blocks' names.

    Raises:
        InputError: the encoder is no plain ViT: its blocks know where in the image a token lies.
    """
    found = block_axes(segmenter, "vpt")
    refusal = "adapt: kind vpt is for plain ViTs, whose blocks take tokens [B, N, C] of any number"
    if any(axis != 2 for _, axis, _ in found.values()):
        raise InputError(f"{refusal}; the blocks of this encoder answer feature maps")
    segmenter.adapters = nn.ModuleDict()
    segmenter.roles["adapters"] = "encoder"
    for name, (block, _, channels) in found.items():
        prompts = Prompts(cfg.tokens, channels).to(segmenter.mean.device)
        segmenter.adapters[name.replace(".", "/")] = prompts
        block.register_forward_pre_hook(prompts.before)
        block.register_forward_hook(prompts.after, prepend=True)  # before those that take features
    try:
        block_axes(segmenter, "vpt")
    except (RuntimeError, IndexError, AssertionError) as error:
        raise InputError(f"{refusal}; here one more token does not fit: {str(error).splitlines()[0]}") from error
    return [name.removeprefix("net.") for name in found]
