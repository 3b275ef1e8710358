"""UNet s5-d16: the published logits from the published names, and sizes that the published code refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import fill_module

from terrazzo.base import InputError
from terrazzo.published.networks.unet_s5 import VARIANTS, UNetSizes, build

SMALL = UNetSizes(widths=(4, 6, 8, 10, 12), head_width=4, aux_width=4)


def test_published_logits(shared_parity: Path) -> None:
    fill = fill_module(shared_parity)
    net = build("unet-s5-d16_fcn", 19).eval()
    state = fill.state_dict(shared_parity / "unet-s5-d16_fcn.keys.json")
    net.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()}, strict=True)
    with torch.inference_mode():
        output = net(torch.from_numpy(fill.image("even")))
    stored = np.load(shared_parity / "unet-s5-d16_fcn.npz")
    for found, name in ((output.logits, "logits_even"), (output.aux[0], "aux_even")):
        wanted = stored[name]
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-4 * max(1.0, wanted.std()))


def test_manifest_is_the_state_dict(shared_parity: Path) -> None:
    keys = json.loads((shared_parity / "unet-s5-d16_fcn.keys.json").read_text())["keys"]
    with torch.device("meta"):
        net = build("unet-s5-d16_fcn", 19)
    assert {key: [*value.shape] for key, value in net.state_dict().items()} == {k: v[0] for k, v in keys.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_published_sizes_are_built(name: str) -> None:
    with torch.device("meta"):
        net = build(name, 2)
        output = net.eval()(torch.zeros(1, 3, 32, 32))
    assert output.logits.shape == (1, 2, 32, 32)
    assert [aux.shape for aux in output.aux] == [(1, 2, 16, 16)]


def test_other_sides_are_padded_and_covered() -> None:
    net = build(SMALL, 5).eval()
    images = torch.randn(1, 3, 33, 50)
    output = net(images)
    assert output.logits.shape == (1, 5, 48, 64)
    assert output.covers == (48, 64)
    padded = torch.zeros(1, 3, 48, 64)
    padded[:, :, :33, :50] = images
    torch.testing.assert_close(output.logits, net(padded).logits)


def test_images_of_a_batch_do_not_meet() -> None:
    net, images = build(SMALL, 5).eval(), torch.randn(3, 3, 32, 48)
    torch.testing.assert_close(net(images).logits[1:2], net(images[1:2]).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["fcn", "psp", "aspp"])
def test_every_parameter_learns(head: str) -> None:
    net = build(replace(SMALL, head=head), 5).train()
    output = net(torch.randn(2, 3, 41, 48))
    (output.logits.square().mean() + output.aux[0].square().mean()).backward()
    assert [name for name, value in net.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_compiles() -> None:
    net, images = build(SMALL, 5).eval(), torch.randn(1, 3, 33, 48)
    compiled = torch.compile(net, fullgraph=True, backend="eager")(images)
    torch.testing.assert_close(compiled.logits, net(images).logits)
    assert compiled.covers == (48, 48)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="choose one of unet-s5-d16_fcn"):
        build("resnet", 5)
