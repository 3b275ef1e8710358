"""Adapters: a narrow pair of layers behind every block, added to what it answers (Houlsby et al. 2019)."""

from typing import Any, Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.adapt.probing import block_axes, first_changed
from terrazzo.adapt.targets import AlsoTrain
from terrazzo.base import Config
from terrazzo.models import Segmenter


class Adapter(Config):
    """Add a narrow two-layer network to the output of every block of the encoder (Houlsby et al. 2019).

    It works at every position by itself, in networks of tokens and of feature maps; it cannot be folded into weights.
    """

    kind: Literal["adapter"] = "adapter"
    width: PositiveInt = 32
    """Channels in the middle."""
    also_train: AlsoTrain = "decoder"
    """What trains beside: the classifier, the decoder with it, or none."""


class Bottleneck(nn.Module):
    """x + up(GELU(down(x))) along one axis; `up` starts at zero, so the block's answer is first what it was."""

    def __init__(self, channels: int, width: int, axis: int):
        super().__init__()
        self.axis = axis
        self.down = nn.Linear(channels, width)
        self.up = nn.Linear(width, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, features: Tensor) -> Tensor:
        moved = features.movedim(self.axis, -1)
        added: Tensor = self.up(functional.gelu(self.down(moved)))
        return features + added.movedim(-1, self.axis)

    def after(self, block: nn.Module, inputs: Any, output: Any) -> Any:
        """As a forward hook of the block: code that calls the block, and the block's own names, stay as they are."""
        return first_changed(output, self)


def bottleneck(segmenter: Segmenter, cfg: Adapter) -> list[str]:
    """Put one behind every block of the encoder; the blocks' names."""
    found = block_axes(segmenter, "adapter")
    segmenter.adapters = nn.ModuleDict()
    segmenter.roles["adapters"] = "encoder"
    for name, (block, axis, channels) in found.items():
        added = Bottleneck(channels, cfg.width, axis).to(segmenter.mean.device)
        segmenter.adapters[name.replace(".", "/")] = added
        block.register_forward_hook(added.after, prepend=True)  # before those by which transformers takes features
    return [name.removeprefix("net.") for name in found]
