"""SegNeXt: the published names, the published numbers, and the factorisation in its head."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from terrazzo.base import InputError
from terrazzo.published.networks.segnext import NMF2D, VARIANTS, SegNextSizes, build, renamed

TINY = SegNextSizes((8, 16, 24, 32), (1, 2, 1, 1), 64, rank=4)


def filled(name, fill, shared_parity):
    net = build(name, 150).eval()
    state = fill.state_dict(shared_parity / f"{name}.keys.json")
    net.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
    bases = net.decode_head.hamburger.ham.bases
    bases.copy_(torch.from_numpy(fill.nmf_bases(tuple(bases.shape))))
    return net


def test_answers_as_published(fill, shared_parity):
    net, stored = filled("segnext_mscan-t", fill, shared_parity), np.load(shared_parity / "segnext_mscan-t.npz")
    for size in ("even", "odd"):
        with torch.inference_mode():
            output = net(torch.from_numpy(fill.image(size)))
        wanted = stored[f"logits_{size}"]
        assert output.logits.shape == wanted.shape
        assert np.abs(output.logits.numpy() - wanted).max() <= 1e-4 * max(1, wanted.std())
        assert not output.aux
        assert not output.align_corners


def test_the_small_one_loads_and_runs(fill, shared_parity):
    net = filled("segnext_mscan-s", fill, shared_parity)
    for size, shape in ((64, 96), (8, 12)), ((65, 91), (9, 12)):
        with torch.inference_mode():
            logits = net(torch.randn(1, 3, *size)).logits
        assert logits.shape == (1, 150, *shape)
        assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["segnext_mscan-t", "segnext_mscan-s"])
def test_names_and_shapes_are_those_of_the_manifest(name, shared_parity):
    keys = json.loads((shared_parity / f"{name}.keys.json").read_text())["keys"]
    with torch.device("meta"):
        state = build(name, 150).state_dict()
    assert {key: [*tensor.shape] for key, tensor in state.items()} == {key: shape for key, (shape, _) in keys.items()}


@pytest.mark.parametrize(("name", "millions"), [
    ("segnext_mscan-t", 4.3), ("segnext_mscan-s", 13.9), ("segnext_mscan-b", 27.6), ("segnext_mscan-l", 48.9),
])  # fmt: skip
def test_parameters_of_the_paper(name, millions):
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build(name, 150).parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.1)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="no SegNeXt is called segnext_mscan-x; there are segnext_mscan-t"):
        build("segnext_mscan-x", 2)
    assert all(isinstance(sizes, SegNextSizes) for sizes in VARIANTS.values())


def test_eval_answers_the_same_alone_and_in_a_batch():
    net, images = build(TINY, 5).eval(), torch.randn(3, 3, 45, 70)
    with torch.inference_mode():
        together = net(images).logits
        assert torch.equal(together, net(images).logits)
        torch.testing.assert_close(together[1:2], net(images[1:2]).logits, rtol=1e-4, atol=1e-6)


def test_two_networks_start_from_the_same_bases_whatever_was_drawn_before():
    torch.manual_seed(1)
    first = build(TINY, 5).decode_head.hamburger.ham.bases
    torch.manual_seed(2)
    second = build(TINY, 5).decode_head.hamburger.ham.bases
    assert torch.equal(first, second)
    assert first.shape == (1, 64, 4)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(1, 4))
    assert not [key for key in build(TINY, 5).state_dict() if "bases" in key]


def test_training_reaches_every_parameter():
    net = build(replace(TINY, drop_path=0.0, dropout=0.0), 5).train()
    logits = net(torch.randn(2, 3, 64, 64)).logits
    logits.square().mean().backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert not without
    # Biases before batch normalisation have a gradient of zero, or of rounding.
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    still = {name for name, parameter in net.named_parameters() if not parameter.grad.any() and parameter.ndim > 1}
    assert not still


def test_training_draws_bases_and_drops_samples():
    ham = NMF2D(TINY)
    current = torch.rand(2, 64, 6, 7)
    assert not torch.equal(ham(current), ham(current))
    assert torch.equal(ham.eval()(current), ham(current))
    net = build(replace(TINY, drop_path=0.5), 5).train()
    assert net(torch.randn(2, 3, 33, 40)).logits.shape == (2, 5, 5, 5)


def test_factorisation_finds_a_product_of_non_negative_factors():
    torch.manual_seed(0)
    product = (torch.rand(2, 64, 4) @ torch.rand(2, 4, 42)).unflatten(2, (6, 7))
    ham = NMF2D(replace(TINY, eval_steps=2000)).eval()
    assert (ham(product) - product).abs().mean() < 0.02 * product.mean()


def test_factorisation_keeps_its_numbers_under_autocast_and_in_half_precision():
    ham, current = NMF2D(TINY).eval(), 40 * torch.rand(1, 64, 30, 30)
    exact = ham(current)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ham(current), exact)
    half = ham.half()(current.half())
    assert half.dtype == torch.half
    torch.testing.assert_close(half.float(), exact, rtol=2e-2, atol=2e-2)


def test_compiles_in_one_graph():
    net, images = build(TINY, 5), torch.randn(2, 3, 64, 64)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    assert compiled(images).logits.shape == (2, 5, 8, 8)
    net.eval()
    torch.testing.assert_close(compiled(images).logits, net(images).logits)


def test_the_authors_own_names_are_understood():
    net = build(TINY, 5)
    theirs = {key.replace(".dwconv.", ".dwconv.dwconv."): tensor for key, tensor in net.state_dict().items()}
    assert theirs.keys() != net.state_dict().keys()
    assert renamed(theirs).keys() == net.state_dict().keys()
