"""BatchNorm over the images of all ranks: with it, the number of ranks changes no number.

On CUDA this is torch's (and timm's) own; torch has none for a CPU, so there it is written out here. A module only
changes its class: its name, tensors, hooks and place in the network stay, and a bundle holds plain BatchNorm.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from terrazzo.base import InputError
from terrazzo.engine.world import World

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Summed(torch.autograd.Function):
    """The sum over all ranks; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class HostSyncBatchNorm(_BatchNorm):
    """As torch.nn.SyncBatchNorm, on a CPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # its plain class has been asked when the network was probed

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            answer: Tensor = super().forward(input)
            return answer
        dims = [dim for dim in range(input.ndim) if dim != 1]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        values = input if input.dtype == torch.float64 else input.float()
        one: Tensor = torch.full((1,), values.numel() / values.shape[1], dtype=values.dtype)
        sums = Summed.apply(torch.cat([values.sum(dims), one]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean.view(shape)
        variance = Summed.apply(centred.square().sum(dims)) / count
        self._count(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        output = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        same: Tensor = output.to(input.dtype)
        return same

    @torch.no_grad()
    def _count(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum or 0.0)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum or 0.0)


class HostSyncBatchNormAct(HostSyncBatchNorm):
    """timm's BatchNorm that brings its activation along."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output


def sync_batchnorm(network: nn.Module, world: World) -> int:
    """Let every BatchNorm see the whole batch, in place; how many there are.

    Raises:
        InputError: one of them is of a kind that is not known here.
    """
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm)]
    for name, module in found:
        module.__class__ = _synced(name, module, world.device)
        if isinstance(module, nn.SyncBatchNorm):
            module.process_group = None  # that of all ranks
    return len(found)


def is_synced(module: nn.Module) -> bool:
    return isinstance(module, HostSyncBatchNorm | nn.SyncBatchNorm)


def _synced(name: str, module: _BatchNorm, device: torch.device) -> type[_BatchNorm]:
    if type(module) in PLAIN:
        return nn.SyncBatchNorm if device.type == "cuda" else HostSyncBatchNorm
    if is_synced(module):
        return type(module)
    if type(module).__name__ == "BatchNormAct2d":
        from timm.layers.norm_act import SyncBatchNormAct  # heavy, and the network has loaded it already

        act: type[_BatchNorm] = SyncBatchNormAct if device.type == "cuda" else HostSyncBatchNormAct
        return act
    raise InputError(
        f"parallel.sync_batchnorm: {name} is a {type(module).__name__}, and only BatchNorm1d, 2d, 3d and timm's "
        "BatchNormAct2d are known; leave parallel.sync_batchnorm out"
    )
