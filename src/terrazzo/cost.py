"""What a network costs: parameters, size, multiplications, time, memory; of any module and an input for it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import finalize

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

    @property
    def images_per_second(self) -> float:
        """At the median."""
        return self.batch / self.median


@dataclass(frozen=True)
class Cost:
    """The bill of a network for one input."""

    shape: tuple[int, ...]
    """Of the input, [B, C, H, W]."""
    parameters: int
    trainable: int
    """Parameters that ask for a gradient."""
    executed: int
    """Parameters that the forward pass reads; the others are carried along for nothing, or for training alone."""
    size: int
    """Bytes of parameters and buffers."""
    macs: int
    """Multiplications with additions in convolutions and matrix products."""
    latency: Latency | None
    """None if nobody asked for it."""
    peak: int
    """Most bytes a forward pass holds beside network and input."""
    kept: int
    """Bytes that a forward pass of training keeps for its backward pass, beside network and input."""

    @property
    def flops(self) -> int:
        """Multiplications and additions counted apart."""
        return 2 * self.macs


def measure(model: nn.Module, images: Tensor, *, runs: int = 20, seconds: float = 10.0) -> Cost:
    """All figures of `model(images)` in eval mode, on the device they are on; `runs` and `seconds` as in `latency`.

    With runs=0 nothing is timed, and both may be on the meta device, where counting needs no computing.
    """
    return Cost(
        shape=tuple(images.shape),
        parameters=parameters(model),
        trainable=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        executed=executed_parameters(model, images),
        size=size_in_bytes(model),
        macs=macs(model, images),
        latency=latency(model, images, runs=runs, seconds=seconds) if runs else None,
        peak=peak_memory(model, images),
        kept=kept_memory(model, images),
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


def peak_memory(model: nn.Module, images: Tensor) -> int:
    """Most bytes that `model(images)` holds at a time beyond what is held before it.

    CUDA's allocator counts exactly. Elsewhere the tensors that operations give back are counted as long as they live;
    what an operation needs for itself alone is not. (A process's resident memory would tell less: it keeps what a
    former pass has freed.)
    """
    if images.device.type != "cuda":
        holds = _Holds(known=_storages(model, images))
        with holds:
            forward(model, images)
        return holds.peak
    torch.cuda.reset_peak_memory_stats(images.device)
    before = torch.cuda.memory_allocated(images.device)
    forward(model, images)
    return int(torch.cuda.max_memory_allocated(images.device)) - before


def kept_memory(model: nn.Module, images: Tensor) -> int:
    """Bytes that the autograd graph of `model(images)` keeps for the backward pass beside network and input.

    In eval mode, so that one image with BatchNorm works too; dropout's masks are missing. A tensor that several
    operations keep counts once.
    """
    known, kept = _storages(model, images), dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = _in_eval_mode(model, images)
    del answer  # until here it held the graph, and so all that was kept: no two of them had one address
    return sum(kept.values())


def _storages(model: nn.Module, images: Tensor) -> set[int]:
    """Addresses of the memory that is there before a pass."""
    return {tensor.untyped_storage()._cdata for tensor in (images, *model.parameters(), *model.buffers())}


@torch.no_grad()
def forward(model: nn.Module, images: Tensor) -> None:
    """One pass in eval mode; every module's own mode is put back."""
    _in_eval_mode(model, images)


def _in_eval_mode(model: nn.Module, images: Tensor) -> object:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return model(images)
    finally:
        for module, training in modes.items():
            module.training = training


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own class is not typed
    """Notes which of some tensors, {id: size}, are given to an operation."""

    def __init__(self, sizes: dict[int, int]):
        super().__init__()  # type: ignore[no-untyped-call]  # torch's method is not typed
        self.sizes = sizes
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # as torch calls it
        self.seen |= {id(tensor) for tensor in _tensors((args, kwargs or {}))} & self.sizes.keys()
        return func(*args, **(kwargs or {}))


class _Holds(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as above
    """Adds up the memory of the tensors that operations make, as long as somebody holds them; `known` memory is not."""

    def __init__(self, known: set[int]):
        super().__init__()  # type: ignore[no-untyped-call]  # torch's method is not typed
        self.known = known
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # as torch calls it
        answer = func(*args, **(kwargs or {}))
        for tensor in _tensors(answer):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return answer

    def _freed(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.now -= size


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
