"""What a trial's network costs, measured before it is trained, and the bounds that it breaks."""

from torch import Tensor

from terrazzo.adapt import adapt
from terrazzo.base import Dataset
from terrazzo.config import EvaluationConfig, RunConfig
from terrazzo.cost import measure
from terrazzo.data import build_dataset
from terrazzo.data.loader import checked_sample
from terrazzo.engine.world import choose_device
from terrazzo.infer.predictor import network_input
from terrazzo.infer.tiles import window_sides
from terrazzo.models import Segmenter, build_model
from terrazzo.sweep.search import Constraints

LATENCY_SECONDS = 5.0
"""No further pass is timed after so many seconds of them."""

LATENCY_RUNS = 20
"""Timed passes at most."""


def measure_costs(config: RunConfig, bounds: Constraints) -> dict[str, float]:
    """What there is a bound for, by its name, on the first validation image as the network sees it.

    Raises:
        InputError: the network cannot be built, or there is no data.
    """
    dataset = build_dataset(config.data, "val")
    classes, channels = dataset.classes, checked_sample(dataset, 0).image.shape[2]
    device = choose_device(config.device)
    model, _ = build_model(config.model, len(classes), channels, names=classes.names, pretrained=False)
    adapt(model.to(device), config.adapt)
    runs = LATENCY_RUNS if bounds.latency_ms is not None else 0
    bill = measure(model, _seen(model, dataset, config.evaluation), runs=runs, seconds=LATENCY_SECONDS)
    found = {
        "latency_ms": 0.0 if bill.latency is None else 1e3 * bill.latency.median,
        "parameters_m": bill.parameters / 1e6,
        "gmacs": bill.macs / 1e9,
        "peak_memory_mib": bill.peak / 2**20,
    }
    return {name: round(value, 6) for name, value in found.items() if getattr(bounds, name) is not None}


def _seen(model: Segmenter, dataset: Dataset, evaluation: EvaluationConfig) -> Tensor:
    """The first image as the network gets it, or its first window; uint8 [1, C, h, w] on the network's device."""
    images = network_input(dataset[0].image, evaluation.resize)
    if evaluation.window is not None:
        height, width = window_sides((images.shape[2], images.shape[3]), model.padded, evaluation.window)
        images = images[:, :, :height, :width]
    return images.to(model.mean.device)
