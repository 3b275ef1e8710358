"""What networks share whose weights may come for the whole or for the encoder alone; torchvision's published files."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, NamedTuple, Self, cast

from pydantic import model_validator
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.models.segmenter import ModelInput, Role, Segmenter
from terrazzo.models.weights import PARTS, LoadReport, load_tensors, load_weights

Source = Literal["none", "pretrained"] | Path


class Start(NamedTuple):
    """The weights that a network starts from."""

    source: Source
    encoder_only: bool

    @property
    def parts(self) -> tuple[Role, ...]:
        return ("encoder",) if self.encoder_only else PARTS


class BackboneInput(ModelInput):
    """The part of a config that says which weights the network starts from; every kind writes its own choices."""

    weights: Source = "none"
    """What the whole network starts from."""
    weights_backbone: Source | None = None
    """What the encoder alone starts from."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.weights == Path("pretrained"):
            raise ValueError(
                "weights=pretrained: nobody publishes this network as a whole; write none or a path "
                "(published backbones, where there are any, are weights_backbone: pretrained)"
            )
        if self.weights_backbone == Path("pretrained"):
            raise ValueError("weights_backbone=pretrained: nobody publishes this backbone; write none or a path")
        if self.weights != "none" and self.weights_backbone not in (None, "none"):
            raise ValueError(
                f"weights={self.weights} brings the backbone too, so weights_backbone={self.weights_backbone} would "
                "change nothing; give one of the two"
            )
        return self

    @property
    def start(self) -> Start:
        """`weights` if given, else `weights_backbone`; with neither, the backbone's published weights."""
        if self.weights != "none":
            return Start(self.weights, encoder_only=False)
        return Start("pretrained" if self.weights_backbone is None else self.weights_backbone, encoder_only=True)


def load_start(segmenter: Segmenter, start: Start, *, name: str | None = None) -> LoadReport | None:
    """Load what a network starts from; `name` is torchvision's for the network whose weights it publishes.

    Raises:
        InputError: there is no such file, it is for another network, or it cannot be downloaded.
    """
    match start.source:
        case Path() as path:
            return load_weights(segmenter, path, parts=start.parts)
        case "pretrained":
            assert name is not None, "a kind without published weights refuses the word in its config"
            url, tensors = published(name)
            return load_tensors(segmenter, tensors, source=url, parts=start.parts)
        case "none":
            return None


def published(name: str) -> tuple[str, dict[str, Tensor]]:
    """Address and tensors of torchvision's first published weights of a network; torch keeps them in TORCH_HOME.

    Of a classifier these are IMAGENET1K_V1, which torchvision's own segmentation networks start from.

    Raises:
        InputError: they cannot be downloaded, or the file is damaged.
    """
    from torchvision.models import get_model_weights  # heavy

    weights: Any = next(iter(get_model_weights(name)))
    try:
        tensors = weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise InputError(
            f"model: torchvision's weights of {name} could not be loaded from {weights.url} "
            f"({' '.join(str(error).split())[:200]}); give a local file instead of pretrained, or none"
        ) from error
    return str(weights.url), cast(dict[str, Tensor], tensors)


def take_channels(net: nn.Module, name: str, channels: int) -> None:
    """Put a convolution for images of `channels` channels in the place of `name`, which was made for 3.

    Its numbers are drawn as torchvision draws those of its networks (He et al. 2015, by the outgoing connections).
    """
    old = net.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    if old.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        old.out_channels,
        cast(tuple[int, int], old.kernel_size),
        stride=cast(tuple[int, int], old.stride),
        padding=cast(tuple[int, int], old.padding),
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    net.set_submodule(name, new)
