"""SegFormer as MMSegmentation published it: the names, the numbers, and an encoder that is SMP's."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from terrazzo.base import InputError
from terrazzo.published.networks.segformer_mit import VARIANTS, MitSizes, build

TINY = MitSizes((8, 16, 20, 32), (1, 2, 1, 1), heads=(1, 2, 5, 8), head_channels=16)


def filled(name, fill, shared_parity):
    net = build(name, 150).eval()
    state = fill.state_dict(shared_parity / f"{name}.keys.json")
    net.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
    return net


def test_answers_as_published(fill, shared_parity):
    net, stored = filled("segformer_mit-b0", fill, shared_parity), np.load(shared_parity / "segformer_mit-b0.npz")
    for size in ("even", "odd"):
        with torch.inference_mode():
            output = net(torch.from_numpy(fill.image(size)))
        wanted = stored[f"logits_{size}"]
        assert output.logits.shape == wanted.shape
        assert np.abs(output.logits.numpy() - wanted).max() <= 1e-4 * max(1, wanted.std())
        assert not output.aux
        assert not output.align_corners


def test_b2_loads_and_runs(fill, shared_parity):
    net = filled("segformer_mit-b2", fill, shared_parity)
    for size, shape in ((64, 96), (16, 24)), ((65, 91), (17, 23)):
        with torch.inference_mode():
            logits = net(torch.randn(1, 3, *size)).logits
        assert logits.shape == (1, 150, *shape)
        assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["segformer_mit-b0", "segformer_mit-b2"])
def test_names_and_shapes_are_those_of_the_manifest(name, shared_parity):
    keys = json.loads((shared_parity / f"{name}.keys.json").read_text())["keys"]
    with torch.device("meta"):
        state = build(name, 150).state_dict()
    assert {key: [*tensor.shape] for key, tensor in state.items()} == {key: shape for key, (shape, _) in keys.items()}


@pytest.mark.parametrize(("name", "millions"), [
    ("segformer_mit-b0", 3.4), ("segformer_mit-b1", 13.1), ("segformer_mit-b2", 24.2),
    ("segformer_mit-b3", 44.0), ("segformer_mit-b4", 60.8), ("segformer_mit-b5", 81.4),
])  # fmt: skip
def test_parameters_of_the_paper(name, millions):
    """Of the encoder (Xie et al. 2021, table 1)."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build(name, 150).backbone.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.2)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="no SegFormer is called b9; there are segformer_mit-b0, segformer_mit-b1"):
        build("b9", 2)
    assert all(isinstance(sizes, MitSizes) for sizes in VARIANTS.values())


def test_eval_answers_the_same_alone_and_in_a_batch():
    net, images = build(TINY, 5).eval(), torch.randn(3, 3, 45, 70)
    with torch.inference_mode():
        together = net(images).logits
        assert torch.equal(together, net(images).logits)
        torch.testing.assert_close(together[1:2], net(images[1:2]).logits, rtol=1e-4, atol=1e-6)


def test_training_reaches_every_parameter():
    net = build(replace(TINY, drop_path=0.0, dropout=0.0), 5).train()
    net(torch.randn(2, 3, 64, 64)).logits.square().mean().backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert not [name for name, parameter in net.named_parameters() if parameter.ndim > 1 and not parameter.grad.any()]


def test_samples_skip_blocks_while_training_only():
    net, images = build(replace(TINY, drop_path=0.5, dropout=0.0), 5).train(), torch.randn(2, 3, 37, 40)
    assert not torch.equal(net(images).logits, net(images).logits)
    assert torch.equal(net.eval()(images).logits, net(images).logits)


def test_compiles_in_one_graph():
    net, images = build(TINY, 5), torch.randn(2, 3, 64, 64)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    assert compiled(images).logits.shape == (2, 5, 16, 16)
    net.eval()
    torch.testing.assert_close(compiled(images).logits, net(images).logits)
