"""Loss head, forward + backward: kernels.cross_entropy_sum against F.interpolate + F.cross_entropy.

python benchmarks/loss_head.py            C = 150 and 19, 128^2 -> 512^2, one image, one thread
Targets without C or Triton: C = 150 in at most 1/1.25 of the time and 1/15 of the peak extra memory.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

import measure
from terrazzo import kernels
from terrazzo.base import IGNORE

LOW, HIGH = 128, 512


def example(classes: int, low: int = LOW, high: int = HIGH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, classes, (1, high, high), dtype=torch.uint8, generator=generator)
    masks[:, : high // 10] = IGNORE
    return torch.randn(1, classes, low, low, generator=generator).mul_(3).requires_grad_(), masks


def ours(logits: Tensor, masks: Tensor) -> Tensor:
    return gradient(kernels.cross_entropy_sum(logits, masks), logits)


def peer(logits: Tensor, masks: Tensor) -> Tensor:
    enlarged = F.interpolate(logits, masks.shape[1:], mode="bilinear")
    return gradient(F.cross_entropy(enlarged, masks.long(), ignore_index=IGNORE, reduction="sum"), logits)


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"terrazzo": ours, "interpolate + cross_entropy": peer}


def compare(classes: int) -> None:
    logits, masks = example(classes)
    times = measure.seconds({name: partial(call, logits, masks) for name, call in CALLS.items()})
    measure.report(f"C={classes}, {LOW}^2 -> {HIGH}^2, forward + backward", times, "terrazzo")
    peaks = {name: measure.peak_bytes_of(__file__, name, str(classes)) for name in CALLS}
    exact = peer(logits.detach().double().requires_grad_(), masks)
    for name, call in CALLS.items():
        error = (call(logits, masks) - exact).abs().max().item()
        print(
            f"  {name:34s} {peaks[name] / 2**20:8.1f} MiB   {peaks[name] / peaks['terrazzo']:6.2f} x ours"
            f"   gradient error to float64 {error:.1e}"
        )


if __name__ == "__main__":
    measure.one_thread()
    if len(sys.argv) == 3:
        call = CALLS[sys.argv[1]]
        call(*example(int(sys.argv[2]), 8, 32))  # libraries loaded, threads started
        logits, masks = example(int(sys.argv[2]))
        print(measure.peak_bytes(partial(call, logits, masks)))
    else:
        compare(150)
        compare(19)
