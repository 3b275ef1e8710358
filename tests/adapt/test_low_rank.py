"""LoRA's narrow backward pass: the gradients of the plain layer for less work, and what peft's LoRA comes to."""

import copy
from typing import Any

import peft
import pytest
import torch
from adapted_runs import plain
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from terrazzo.adapt import Lora, adapt
from terrazzo.adapt.folded import fold
from terrazzo.base import IMAGENET
from terrazzo.models import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS: dict[str, nn.Module] = {
    "linear": nn.Linear(6, 6),
    "3x3": nn.Conv2d(6, 6, 3, padding=1),
    "1x1 without bias": nn.Conv2d(6, 6, 1, bias=False),
    "stride and dilation": nn.Conv2d(6, 6, (3, 5), stride=(2, 1), padding=(0, 3), dilation=(1, 2)),
    "padding by a word": nn.Conv2d(6, 6, 3, padding="same"),
    "reflected": nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"),
    "groups": nn.Conv2d(6, 6, 3, groups=2),
    "depth-wise": nn.Conv2d(6, 6, 3, groups=6, padding=2, dilation=2),
}
WITHOUT_NARROW_WAY = {"padding by a word", "reflected", "groups", "depth-wise"}


def lora_of(net: nn.Sequential, **settings: Any) -> Segmenter:
    """The network with products beside the weights of its layers, none of them zero."""
    torch.manual_seed(1)
    segmenter = Segmenter(net, normalization=IMAGENET, stride=1)
    targets = tuple(key for key, layer in net.named_children() if isinstance(layer, nn.Linear | nn.Conv2d))
    if len(targets) == len([*net.children()]):
        net.append(nn.Identity())
    adapt(segmenter, Lora(rank=2, alpha=6, targets=targets, also_train="none", **settings))
    for key, parameter in segmenter.named_parameters():
        if key.endswith(".up"):
            nn.init.normal_(parameter)
    return segmenter


def pixels(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


def learned(net: nn.Module) -> dict[str, Tensor]:
    return {key: parameter for key, parameter in net.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", LAYERS)
def test_answers_to_the_bit_and_the_gradients_of_the_plain_layer(name: str, dropout: float) -> None:
    """Two of them in a row: only the second one's input needs a gradient."""
    layer = LAYERS[name]
    features = pixels(2, 7, 5, 6) if isinstance(layer, nn.Linear) else pixels(2, 6, 33, 35)
    model = lora_of(nn.Sequential(copy.deepcopy(layer), nn.ReLU(), copy.deepcopy(layer)), dropout=dropout).double()
    answers, gradients = [], []
    for each in (model, plain(model)):
        torch.manual_seed(2)
        answers.append(each.net(features.double()))
        answers[-1].square().mean().backward()
        gradients.append({key: parameter.grad for key, parameter in learned(each).items()})
    assert torch.equal(*answers)
    assert len(gradients[0]) == 4
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_the_whole_weight_is_not_computed(name: str) -> None:
    """A third of the work, where it can be left out: forward, to the input, to the weight."""
    layer = copy.deepcopy(LAYERS[name])
    wide = (
        nn.Linear(64, 64)
        if name == "linear"
        else nn.Conv2d(64, 64, layer.kernel_size, groups=2 if layer.groups > 1 else 1)
    )
    for key in ("stride", "padding", "dilation", "padding_mode", "_reversed_padding_repeated_twice"):
        if isinstance(layer, nn.Conv2d):
            setattr(wide, key, getattr(layer, key))
    features = pixels(2000, 64) if isinstance(wide, nn.Linear) else pixels(2, 64, 33, 35)
    model = lora_of(nn.Sequential(wide))
    flops = []
    for each in (model, plain(model)):
        with FlopCounterMode(display=False) as counter:
            each.net(features.requires_grad_()).sum().backward()
        flops.append(counter.get_total_flops())
    share = flops[0] / flops[1]
    assert share == 1 if name in WITHOUT_NARROW_WAY else share < 0.75


@pytest.mark.parametrize("name", ["linear", "3x3"])
def test_under_autocast_it_holds_and_answers_what_a_plain_layer_does(name: str) -> None:
    features = pixels(50, 6) if name == "linear" else pixels(2, 6, 9, 11)
    model = lora_of(nn.Sequential(copy.deepcopy(LAYERS[name])))
    answers, held, gradients = [], [], []
    for each in (model, plain(model)):
        kept: list[Tensor] = []
        with (
            torch.autocast("cpu", torch.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: (kept.append(t), t)[1], lambda t: t),
        ):
            answers.append(each.net(features))
        answers[-1].float().square().mean().backward()
        held.append(sum(t.nbytes for t in kept if t.shape == features.shape))
        gradients.append({key: parameter.grad for key, parameter in learned(each).items()})
    assert torch.equal(*answers)
    assert answers[0].dtype == torch.bfloat16
    assert held == [2 * features.numel()] * 2
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.05)
    assert {gradient.dtype for gradient in gradients[0].values()} == {torch.float32}


def test_small_numbers_are_not_lost_in_float16() -> None:
    """`up` begins at 0, and what reaches `down` passes through it."""
    for name, features in {"linear": pixels(50, 6), "3x3": pixels(2, 6, 9, 11)}.items():
        model = lora_of(nn.Sequential(copy.deepcopy(LAYERS[name])))
        with torch.no_grad():
            for key, parameter in learned(model).items():
                parameter.mul_(1e-6 if key.endswith(".up") else 1)
        gradients = []
        for half in (True, False):
            model.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=half):
                answer = model.net(features)
            (answer.float() * 1e-3).sum().backward()
            gradients.append([parameter.grad for key, parameter in learned(model).items() if key.endswith(".down")])
        torch.testing.assert_close(*gradients, rtol=0.05, atol=1e-3 * gradients[1][0].abs().max().item())


class Halved(nn.Conv2d):
    """A convolution of which only the inner part is written anew, as libraries of weight norms do."""

    def _conv_forward(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(features, weight / 2, bias)


def test_a_layer_that_does_more_than_its_kind_keeps_its_own_way() -> None:
    model = lora_of(nn.Sequential(Halved(6, 6, 3)))
    features = pixels(2, 6, 9, 11)
    with torch.no_grad():
        wanted = model.net(features)
    assert torch.equal(model.net(features), wanted)


def test_where_nothing_learns_the_weight_is_read() -> None:
    """A frozen copy (a teacher, a running mean) hands on gradients to its input, and folding leaves plain layers."""
    model = lora_of(nn.Sequential(copy.deepcopy(LAYERS["3x3"])))
    still = copy.deepcopy(model).requires_grad_(False)
    features = [pixels(2, 6, 9, 11).requires_grad_() for _ in range(2)]
    for each, seen in zip((model, still), features, strict=True):
        each.net(seen).sum().backward()
    torch.testing.assert_close(features[0].grad, features[1].grad)
    answer = model.net(features[0])
    fold(model)
    assert type(model.net[0]) is nn.Conv2d
    assert torch.equal(model.net(features[0]), answer)
    assert type(still.net[0]).forward is not nn.Conv2d.forward, "folding takes nothing from the copies"


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("name", ["linear", "3x3", "1x1 without bias"])
def test_three_steps_end_where_those_of_peft_end(name: str, dora: bool) -> None:
    """On the layers that peft can train and fold: plain ones, of one group."""
    layer = LAYERS[name]
    base = nn.Sequential(copy.deepcopy(layer), nn.ReLU(), copy.deepcopy(layer)).double()
    theirs = peft.get_peft_model(
        copy.deepcopy(base), peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0", "2"], use_dora=dora)
    )
    segmenter = lora_of(base, dora=dora).double()
    peers = dict(theirs.named_parameters())
    with torch.no_grad():
        for key, mine in learned(segmenter).items():
            _, place, _, _, _, part = key.split(".")
            if part in ("down", "up"):
                peer = peers[f"base_model.model.{place}.lora_{'A' if part == 'down' else 'B'}.default.weight"]
                peer.copy_(mine.view(peer.shape))
    features = (pixels(20, 6) if name == "linear" else pixels(2, 6, 9, 11)).double()
    for net, model in ((segmenter.net, segmenter), (theirs, theirs)):
        optimizer = torch.optim.SGD(learned(model).values(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            (net(features) - 1).square().mean().backward()
            optimizer.step()
    fold(segmenter)
    folded = theirs.merge_and_unload()
    for place in ("0", "2"):
        found, wanted = (net.get_submodule(place).weight for net in (segmenter.net, folded))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
        assert (found - LAYERS[name].weight).abs().max() > 0.01
