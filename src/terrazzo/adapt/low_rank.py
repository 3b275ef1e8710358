"""Weights changed by a product of two narrow matrices, and a backward pass without the gradient of the whole weight.

Forward, a layer is one product or convolution with the changed weight: to the bit what the folded network answers.
Backward, a plain layer computes the gradient of the whole weight, as large a product as the forward pass, of which
`up` and `down` need only what goes through the narrow dimension (Hu et al. 2022). The changed weight and the narrow
features are computed again instead of kept: the input and the weight itself are all that is held for the backward pass.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from terrazzo.adapt.folded import Change, kept_in


class LowRank(Change):
    """weight + alpha / rank * up @ down, for DoRA scaled to a learned length of every row (one of 0 stays 0).

    Args:
        weight: [F, C / groups, ...], what is changed.
        rank: columns of `up`; no more are used than the weight has rows or columns.
        dropout: share of input channels that the product does not see in a step.
    """

    magnitude: nn.Parameter | None

    def __init__(self, weight: Tensor, rank: int, alpha: float, dropout: float, *, dora: bool, groups: int):
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.groups = groups
        self.share = alpha / rank
        self.dropout = dropout
        rank = min(rank, rows, columns)
        self.down = nn.Parameter(torch.empty(rank, columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        lengths = nn.Parameter(weight.detach().flatten(1).norm(dim=1).clone()) if dora else None
        self.register_parameter("magnitude", lengths)

    def forward(self, weight: Tensor) -> Tensor:
        seen = self._seen(weight)
        if seen is None or self.groups == 1:
            changed = _changed(weight, *self._narrow(weight, seen))
        else:  # a row is of one group and has its channels only; a depth-wise one has a single channel
            with _in_full(weight):
                product = (self.up @ self.down).view(weight.shape)
            changed = weight + self.share * product * seen.repeat_interleave(len(weight) // self.groups, 0)
        if self.magnitude is None:
            return changed
        # Detached, as in the paper's section 4.3: a constant in the backward pass.
        lengths: Tensor = changed.detach().flatten(1).norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        return changed * (self.magnitude / lengths).view(-1, *(1 for _ in weight.shape[1:]))

    def narrow(self, weight: Tensor) -> tuple[Tensor, Tensor, float]:
        """`up`, what `down` is in this step, and how often their product counts; for layers of one group."""
        return self._narrow(weight, self._seen(weight))

    def _narrow(self, weight: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor, float]:
        down = self.down if seen is None else (self.down.view(-1, *weight.shape[1:]) * seen).flatten(1)
        return self.up, down, self.share

    def _seen(self, weight: Tensor) -> Tensor | None:
        """The factor of every input channel in this step, [groups, C / groups, 1, ...]; None: all are seen."""
        if not (self.training and self.dropout):
            return None
        seen = functional.dropout(weight.new_ones(self.groups, weight.shape[1]), self.dropout)
        return seen.view(*seen.shape, *(1 for _ in weight.shape[2:]))


def learn_narrowly(layer: nn.Module) -> None:
    """Give a layer that a `LowRank` changes the narrow backward pass, where it is a plain layer with one group.

    Not with DoRA, whose lengths need the gradient of the whole weight, and not where other code reads `layer.weight`.
    """
    (kept,) = kept_in(layer).values()
    (change,) = kept
    narrow = isinstance(change, LowRank) and change.magnitude is None and change.groups == 1
    # A parametrized layer has a class of its own, which only its copies share.
    if narrow and type(layer).forward is nn.Linear.forward:
        type(layer).forward = _linear
    elif narrow and _is_plain(type(layer)):
        type(layer).forward = _conv2d


def _is_plain(kind: type) -> bool:
    """A convolution, no part of which was written anew."""
    ours, plain = (getattr(kind, "forward", None), getattr(kind, "_conv_forward", None)), nn.Conv2d
    return ours == (plain.forward, plain._conv_forward)


def _linear(layer: nn.Linear, features: Tensor) -> Tensor:
    if (change := _learning(layer)) is None:
        return nn.Linear.forward(layer, features)
    weight = kept_in(layer)["weight"].original
    answer: Tensor = _Linear.apply(_cast(features), weight, layer.bias, *change.narrow(weight))
    return answer


def _conv2d(layer: nn.Conv2d, features: Tensor) -> Tensor:
    change = _learning(layer)
    if change is None or layer.padding_mode != "zeros" or isinstance(layer.padding, str) or features.ndim != 4:
        return nn.Conv2d.forward(layer, features)
    weight = kept_in(layer)["weight"].original
    place = _Place(layer.stride, layer.padding, layer.dilation)
    answer: Tensor = _Conv2d.apply(_cast(features), weight, layer.bias, *change.narrow(weight), place)
    return answer


def _learning(layer: nn.Module) -> LowRank | None:
    """The layer's change, where it is what learns and the weight is not."""
    kept = kept_in(layer)["weight"]
    change = kept[0]
    if not isinstance(change, LowRank) or not torch.is_grad_enabled():
        return None
    return change if change.up.requires_grad and not kept.original.requires_grad else None


def _cast(features: Tensor) -> Tensor:
    """What autocast would do in front of the layer, so that the backward pass holds the narrower of the two."""
    device = features.device.type
    if device == "meta" or features.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return features
    return features.to(torch.get_autocast_dtype(device))


class _Place(NamedTuple):
    """Where a convolution looks: of two axes each."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


_POINT = _Place((1, 1), (0, 0), (1, 1))


def _changed(weight: Tensor, up: Tensor, down: Tensor, share: float) -> Tensor:
    """weight + share * up @ down, never in bfloat16: a step is smaller than what that tells apart.

    Args:
        weight: [F, ...].
        up: [F, rank].
        down: [rank, numbers of one row of the weight].
        share: so many times the product counts.
    """
    with _in_full(weight):
        return torch.addmm(weight.flatten(1), up, down, alpha=share).view(weight.shape)


class _Linear(torch.autograd.Function):
    """functional.linear with the changed weight; features [..., C] -> [..., F]. The weight itself gets no gradient."""

    @staticmethod
    def forward(
        features: Tensor, weight: Tensor, bias: Tensor | None, up: Tensor, down: Tensor, share: float
    ) -> Tensor:
        changed = _changed(weight, up, down, share).to(features.dtype)
        return functional.linear(features, changed, _like(bias, features))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        features, weight, _, up, down, share = inputs
        ctx.save_for_backward(features, weight, up, down)
        ctx.share = share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, up, down = ctx.saved_tensors
        rows, seen = gradient.reshape(-1, gradient.shape[-1]), features.reshape(-1, features.shape[-1])
        with _in_full(features):
            changed = _changed(weight, up, down, ctx.share).to(gradient.dtype) if ctx.needs_input_grad[0] else None
            of_up = rows.T @ (seen @ down.to(seen.dtype).T)
            scaled, size = _scaled(up)
            of_down = (rows @ scaled.to(rows.dtype)).T @ seen
            return (
                None if changed is None else gradient @ changed,
                None,
                rows.sum(0) if ctx.needs_input_grad[2] else None,
                ctx.share * of_up.to(up.dtype),
                ctx.share * size * of_down.to(down.dtype),
                None,
            )


class _Conv2d(torch.autograd.Function):
    """functional.conv2d of one group with the changed weight; features [B, C, h, w] -> [B, F, h', w'].

    `down` is a convolution of the same kernel, stride and dilation to `rank` channels, and `up` one of 1 x 1 behind it.
    The weight itself gets no gradient.
    """

    @staticmethod
    def forward(
        features: Tensor, weight: Tensor, bias: Tensor | None, up: Tensor, down: Tensor, share: float, place: _Place
    ) -> Tensor:
        changed = _changed(weight, up, down, share).to(features.dtype)
        return functional.conv2d(features, changed, _like(bias, features), *place)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        features, weight, _, up, down, share, place = inputs
        ctx.save_for_backward(features, weight, up, down)
        ctx.share, ctx.place = share, place

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, up, down = ctx.saved_tensors
        with _in_full(features):
            before = None
            if ctx.needs_input_grad[0]:
                changed = _changed(weight, up, down, ctx.share).to(gradient.dtype)
                before, _ = _gradients(gradient, features, changed, ctx.place, (True, False))
            kernel = down.view(len(down), *weight.shape[1:]).to(features.dtype)
            scaled, size = _scaled(up)
            point = scaled.to(features.dtype)[:, :, None, None]
            narrow = functional.conv2d(features, kernel, None, *ctx.place)
            of_narrow, of_up = _gradients(gradient, narrow, point, _POINT, (True, True))
            _, of_down = _gradients(of_narrow, features, kernel, ctx.place, (False, True))
            of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
            of_up = ctx.share * of_up.flatten(1).to(up.dtype)
            of_down = ctx.share * size * of_down.flatten(1).to(down.dtype)
            return before, None, of_bias, of_up, of_down, None, None


def _gradients(
    gradient: Tensor, features: Tensor, kernel: Tensor, place: _Place, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """What a convolution of one group hands on to its input and to its kernel; None for what is not wanted."""
    before, of_kernel, _ = torch.ops.aten.convolution_backward(
        gradient, features, kernel, None, *place, False, (0, 0), 1, (*wanted, False)
    )
    return before, of_kernel


def _scaled(up: Tensor) -> tuple[Tensor, Tensor]:
    """`up` with 1 as its greatest number, and what it was divided by: it begins at 0 and is soon learned, but in
    float16 what passes through such small numbers is lost."""
    size = up.abs().amax().clamp_min(torch.finfo(up.dtype).tiny)
    return up / size, size


def _like(bias: Tensor | None, features: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(features.dtype)


def _in_full(tensor: Tensor) -> AbstractContextManager[object]:
    """Without autocast, which has nothing to say of devices that hold no numbers (meta)."""
    device = tensor.device.type
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
