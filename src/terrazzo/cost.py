"""What a network costs: parameters, size, multiplications, time, memory; of any module and an input for it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

LEAST_RUNS = 3
"""Timed runs that are made whatever they take."""


@dataclass(frozen=True)
class Latency:
    """Seconds from input to answer."""

    median: float
    low: float
    """10 % of the runs were faster."""
    high: float
    """10 % of the runs were slower."""
    runs: int
    batch: int
    threads: int
    """Of torch, on the CPU."""
    device: str


@dataclass(frozen=True)
class Cost:
    """The bill of a network for one input."""

    shape: tuple[int, ...]
    """Of the input, [B, C, H, W]."""
    parameters: int
    executed: int
    """Parameters that the forward pass reads; the others are carried along for nothing, or for training alone."""
    size: int
    """Bytes of parameters and buffers."""
    macs: int
    """Multiplications with additions in convolutions and matrix products."""
    latency: Latency
    peak: int | None
    """Most bytes a forward pass holds beside network and input; None where it cannot be measured (all but CUDA)."""


def measure(model: nn.Module, images: Tensor, *, runs: int = 20, seconds: float = 10.0) -> Cost:
    """All figures of `model(images)` in eval mode, on the device they are on; `runs` and `seconds` as in `latency`."""
    return Cost(
        shape=tuple(images.shape),
        parameters=parameters(model),
        executed=executed_parameters(model, images),
        size=size_in_bytes(model),
        macs=macs(model, images),
        latency=latency(model, images, runs=runs, seconds=seconds),
        peak=peak_memory(model, images),
    )


def parameters(model: nn.Module) -> int:
    """Numbers in the network's parameters, trainable or not; one that is used twice counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def size_in_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers as they are held now; / 2**20 is the "size in MB" of most tables."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def executed_parameters(model: nn.Module, images: Tensor) -> int:
    """Numbers in those parameters that some operation of `model(images)` reads."""
    reads = _Reads({id(parameter): parameter.numel() for parameter in model.parameters()})
    with reads:
        forward(model, images)
    return sum(reads.sizes[key] for key in reads.seen)


def macs(model: nn.Module, images: Tensor) -> int:
    """Multiply-accumulate operations of `model(images)`: convolutions and matrix products, attention's included.

    Half of what torch's FlopCounterMode counts. Norms, activations and resizing are not counted; thop's figures, which
    count some of them, are about 0.5 % above.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operation, of which the counter knows nothing
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            forward(model, images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops()) // 2


def latency(
    model: nn.Module, images: Tensor, *, runs: int = 20, warm: int = 3, seconds: float = float("inf")
) -> Latency:
    """Time of `model(images)` over at most `runs` runs after `warm` more; no new run begins after `seconds` of runs.

    At least three runs are timed. A run ends when the device is done.
    """
    for _ in range(warm):
        forward(model, images)
    _wait(images.device)
    times: list[float] = []
    while len(times) < LEAST_RUNS or (len(times) < runs and sum(times) < seconds):
        began = time.perf_counter()
        forward(model, images)
        _wait(images.device)
        times.append(time.perf_counter() - began)
    low, middle, high = np.percentile(times, [10, 50, 90]).tolist()
    return Latency(middle, low, high, len(times), images.shape[0], torch.get_num_threads(), images.device.type)


def peak_memory(model: nn.Module, images: Tensor) -> int | None:
    """Most bytes that `model(images)` holds at a time beyond what is held before it; None where nobody can say.

    CUDA's allocator counts exactly. A process's resident memory does not: it keeps what a former pass has freed.
    """
    if images.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(images.device)
    before = torch.cuda.memory_allocated(images.device)
    forward(model, images)
    return int(torch.cuda.max_memory_allocated(images.device)) - before


@torch.no_grad()
def forward(model: nn.Module, images: Tensor) -> None:
    """One pass in eval mode; every module's own mode is put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        model(images)
    finally:
        for module, training in modes.items():
            module.training = training


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own class is not typed
    """Notes which of some tensors, {id: size}, are given to an operation."""

    def __init__(self, sizes: dict[int, int]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes = sizes
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # as torch calls it
        self.seen |= {id(tensor) for tensor in _tensors((args, kwargs or {}))} & self.sizes.keys()
        return func(*args, **(kwargs or {}))


def _tensors(tree: object) -> Iterator[Tensor]:
    """Tensors in nested tuples, lists and dicts."""
    match tree:
        case Tensor():
            yield tree
        case tuple() | list():
            for item in tree:
                yield from _tensors(item)
        case dict():
            yield from _tensors([*tree.values()])


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
