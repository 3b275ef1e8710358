"""Averaging over flips and scales: against the same written out, for odd sizes, and together with windows."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Context, Local, Ramp, picture, wrap
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from terrazzo.infer.answer import InferenceConfig, answer, label_map
from terrazzo.infer.tiles import WindowConfig
from terrazzo.infer.tta import TtaConfig, resized

FLIPS: dict[str, list[list[int]]] = {
    "none": [[]],
    "horizontal": [[], [3]],
    "vertical": [[], [2]],
    "both": [[], [3], [2], [2, 3]],
}


def asking(**tta: Any) -> InferenceConfig:
    return InferenceConfig(tta=TtaConfig(**tta))


def probabilities(model: Any, image: Tensor, inference: InferenceConfig) -> Tensor:
    return answer(model, image, inference).logits.softmax(1)


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.5), (2.0,)])
def test_the_answer_is_the_mean_probability_of_all_copies(flip: str, scales: tuple[float, ...]) -> None:
    model, image = wrap(Context(4), 4), picture(48, 64)
    expected = torch.zeros(1, 3, 12, 16)
    with torch.no_grad():
        for scale in scales:
            shown = resized(image, scale)
            for dims in FLIPS[flip]:
                logits = model(shown.flip(dims)).logits.flip(dims)
                # read at the middles of the cells of scale 1: bilinear, without smoothing
                expected += functional.interpolate(logits, (12, 16), mode="bilinear").softmax(1)
    expected /= len(scales) * len(FLIPS[flip])
    output = answer(model, image, asking(flip=flip, scales=scales))
    assert output.covers == (48, 64)
    # float32, and exponentials of logits up to 20 or so
    torch.testing.assert_close(output.logits.softmax(1), expected, rtol=0, atol=1e-5)


def test_the_default_is_the_network_itself() -> None:
    model, image = wrap(Context(4), 4), picture(45, 61)
    with torch.inference_mode():
        own = model(image)
    assert torch.equal(answer(model, image, asking(flip="none", scales=(1.0,))).logits, own.logits)
    assert not torch.equal(answer(model, image, asking(flip="horizontal")).logits, own.logits)
    assert not torch.equal(answer(model, image, asking(scales=(1.0, 1.5))).logits, own.logits)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.sampled_from(list(FLIPS)), st.sampled_from([0.5, 0.75, 1.0, 1.7]))
def test_every_size_has_an_answer_of_its_own_size(height: int, width: int, flip: str, scale: float) -> None:
    model, image = wrap(Context(4), 8), picture(height, width)
    inference = asking(flip=flip, scales=(scale, 1.0))
    output = answer(model, image, inference)
    plain = answer(model, image, InferenceConfig())
    assert output.logits.shape == plain.logits.shape
    assert output.covers == plain.covers
    assert output.logits.isfinite().all()
    assert label_map(model, image, inference, (height, width)).shape == (1, height, width)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("width", [160, 157])
def test_a_mirrored_copy_of_an_odd_width_is_put_back_in_its_place(width: int, align_corners: bool) -> None:
    """Two classes with probabilities that a sigmoid of the column gives: a copy in a wrong place shows in the mean."""

    class Slope(Ramp):
        def forward(self, images: Tensor) -> Tensor:
            column = super().forward(images) / 40 - 2
            return torch.cat([column, torch.zeros_like(column)], 1)

    ramp = torch.arange(width, dtype=torch.uint8).expand(1, 1, 16, width)
    model = wrap(Slope(4, align_corners), 4, align_corners=align_corners, channels=1)
    found = probabilities(model, ramp, asking(flip="horizontal"))[0, 0, 0]
    wanted = torch.sigmoid((4 * torch.arange(float(len(found))) + 1.5) / 40 - 2)
    inner = slice(2, -2)  # the padding beyond an odd width is part of the last cells
    torch.testing.assert_close(found[inner], wanted[inner], rtol=0, atol=2e-3)  # one pixel off would be 0.006


def test_a_sure_network_stays_finite() -> None:
    image, net = picture(16, 16), Local(4)
    net.weight.data *= 1000
    output = answer(wrap(net, 4), image, asking(flip="both", scales=(1.0, 2.0)))
    assert output.logits.min() < -200, "its float32 probability is 0"
    assert output.logits.isfinite().all()


def test_windows_and_copies_go_together() -> None:
    model, image = wrap(Local(4), 4), picture(48, 92)  # whole cells: mirrored ones are the same cells
    tta = TtaConfig(flip="both")
    whole = answer(model, image, InferenceConfig(tta=tta)).logits.softmax(1)
    windows = answer(model, image, InferenceConfig(tta=tta, window=WindowConfig(size=32)))
    assert windows.covers == (48, 92)
    assert not torch.allclose(whole, answer(model, image, InferenceConfig()).logits.softmax(1), atol=1e-2)
    # mean of logarithms in a window's overlap, where all of them agree
    torch.testing.assert_close(windows.logits.softmax(1), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"scales": ()}, {"scales": (0.0,)}, {"scales": (1.0, -1.0)}, {"flip": "diagonal"}])
def test_impossible_copies_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TtaConfig(**wrong)
