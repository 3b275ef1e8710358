"""Memory of a prediction through windows: a band of rows, however tall the picture is."""

import weakref
from typing import Any

import numpy as np
from networks import Local, picture, wrap
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from terrazzo.base import Classes
from terrazzo.infer.answer import InferenceConfig, label_map
from terrazzo.infer.predictor import Predictor
from terrazzo.infer.tiles import WindowConfig
from terrazzo.infer.tta import TtaConfig


class Living(TorchDispatchMode):
    """Counts the bytes of all tensors that operations have made and that are still held; every storage once."""

    def __init__(self, before: Tensor):
        super().__init__()
        self.known = {before.untyped_storage().data_ptr()}
        self.held: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.held[id(tensor)] = (weakref.ref(tensor), storage.data_ptr(), storage.nbytes())
        self.held = {key: entry for key, entry in self.held.items() if entry[0]() is not None}
        live = {pointer: size for _, pointer, size in self.held.values() if pointer not in self.known}
        self.peak = max(self.peak, sum(live.values()))
        return made


def peak(height: int, width: int, inference: InferenceConfig, classes: int = 8) -> int:
    """Most bytes held at a time beside the picture, the network and the mask."""
    model, image = wrap(Local(4, classes), 4), picture(height, width)
    with Living(image) as living:
        mask = label_map(model, image, inference, (height, width))
    return living.peak - mask.numel()


def test_memory_does_not_grow_with_the_height_of_a_picture() -> None:
    window = WindowConfig(size=64)
    for inference in (
        InferenceConfig(window=window),
        InferenceConfig(window=window.model_copy(update={"accumulate": "pixel"})),
        InferenceConfig(window=window, tta=TtaConfig(flip="both", scales=(1.0, 1.5))),
    ):
        low, high = peak(256, 192, inference), peak(2048, 192, inference)
        assert high < 1.05 * low, inference
    whole = InferenceConfig()
    assert peak(2048, 192, whole) > 6 * peak(256, 192, whole), "the count sees what grows"


def test_a_side_of_30000_pixels_needs_a_band() -> None:
    height, width, classes = 30_000, 96, 8
    found = peak(height, width, InferenceConfig(window=WindowConfig(size=(192, 96))), classes)
    logits = classes * (height // 4) * (width // 4) * 4
    assert found < logits / 5, "far less than even the low-resolution logits of the whole picture"


def test_the_exact_mode_costs_the_full_size_and_the_other_one_does_not() -> None:
    low, exact = (
        peak(512, 512, InferenceConfig(window=WindowConfig(size=128, accumulate=mode)), 19)
        for mode in ("stride", "pixel")
    )
    assert exact > 4 * low


def test_a_prediction_through_windows_keeps_the_mask_alone() -> None:
    classes = Classes.of(["a", "b", "c"])
    image = np.ascontiguousarray(picture(400, 64)[0].permute(1, 2, 0).numpy())
    model = Predictor(wrap(Local(4), 4), classes, InferenceConfig(window=WindowConfig(size=32)))
    prediction = model(image)
    held = [value for value in vars(prediction).values() if isinstance(value, Tensor)]
    assert not held
    assert prediction.output.logits.shape == (1, 3, 100, 16)
    assert np.array_equal(prediction.probabilities().argmax(0), prediction.mask)
