"""STDC, Fast-SCNN and BiSeNetV2: the published keys, and the numbers they answer."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from terrazzo.base import Classes, InputError
from terrazzo.losses import CrossEntropy, build_loss, count
from terrazzo.output import Output
from terrazzo.published.networks import bisenetv2, fast_scnn, stdc

MODULES = {"stdc1": stdc, "stdc2": stdc, "fast_scnn": fast_scnn, "bisenetv2_fcn": bisenetv2}
MANIFESTS = ("stdc1", "fast_scnn", "bisenetv2_fcn")

ODD_ANSWERS = {
    "stdc1": (
        (0.40975, -1.3299, 0.44929, -0.1216, 0.91709),
        (0.06354, 0.41596, 1.07379, -0.09551, 0.57084),
        (0.13171, -0.45584, 0.09158, 0.07525, 0.40957),
        (-0.47184, -0.70429, 0.03984, -0.44511, 0.34792),
    ),
    "stdc2": (
        (0.10685, -0.39669, 0.22139, -0.14565, 0.90567),
        (0.32136, -0.58643, 1.41377, -0.14198, 0.54745),
        (-0.00283, -1.00654, -0.45741, -0.00064, 0.57269),
        (-0.26215, -0.76114, -0.1209, -0.36105, 0.26438),
    ),
    "fast_scnn": (
        (-13.72367, -72.3251, 9.46585, -13.87828, 28.09768),
        (-15.03797, -8.7306, 4.67851, -0.26756, 12.23516),
        (-3.40493, -1.50338, -0.76303, -0.10791, 2.5905),
    ),
    "bisenetv2_fcn": (
        (-0.6002, 2.79699, -0.40364, -0.01182, 1.0515),
        (-0.43086, -0.62956, -0.1649, -0.17893, 1.04503),
        (-0.39828, 0.80415, -0.31377, 1.70843, 4.165),
        (-5.70897, 21.74117, 2.13794, 2.54564, 8.78925),
        (19.04306, 8.38422, -29.71656, 4.01368, 30.80957),
    ),
}
"""What MMSegmentation 1.2.2 itself answered for fill.py's odd image and weights, the main head and the auxiliary ones:
the first, the middle and the last number, the mean and the standard deviation."""

SMALL = {
    "stdc": stdc.StdcSizes((1, 2, 1), widths=(4, 4, 16, 24, 32), context=8, fused=8, aux=4),
    "fast_scnn": fast_scnn.FastScnnSizes((4, 6, 8), (8, 12, 16), (1, 2, 2), expansion=2, fused=8, aux=4),
    "bisenetv2": bisenetv2.BiSeNetV2Sizes(
        (4, 4, 8), (1, 2, 2), (4, 4, 8, 8), (1, 2, 1), expansion=2, head=8, aux=(4, 4, 4, 4)
    ),
}


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    match SMALL[name]:
        case stdc.StdcSizes() as sizes:
            return stdc.build(sizes, classes=3)
        case fast_scnn.FastScnnSizes() as sizes:
            return fast_scnn.build(sizes, classes=3)
        case bisenetv2.BiSeNetV2Sizes() as sizes:
            return bisenetv2.build(sizes, classes=3)


def run(net: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """The logits of all heads, the edges of STDC's last one too, which only it has."""
    with torch.inference_mode():
        output = net(images)
    assert output.edges == ((2,) if isinstance(net, stdc.Stdc) else ())
    return output.logits, *output.aux


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_the_state_dict(name: str, shared_parity: Path) -> None:
    manifest = json.loads((shared_parity / f"{name}.keys.json").read_text())
    with torch.device("meta"):
        net = MODULES[name].build(name, 19)
    found = {key: (list(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in net.state_dict().items()}
    assert found == {key: (shape, dtype.removeprefix("torch.")) for key, (shape, dtype) in manifest["keys"].items()}


@pytest.mark.parametrize("name", MANIFESTS)
def test_filled_from_the_manifest(name: str, shared_parity: Path, fill: ModuleType) -> None:
    net = MODULES[name].build(name, 19).eval()
    state = fill.state_dict(shared_parity / f"{name}.keys.json")
    net.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()}, strict=True)
    align_corners = json.loads((shared_parity / f"{name}.keys.json").read_text())["align_corners"]
    stored = np.load(shared_parity / f"{name}.npz") if (shared_parity / f"{name}.npz").exists() else {}
    for side, size in (("even", (16, 20)), ("odd", (13, 17))):
        with torch.inference_mode():
            output = net(torch.from_numpy(fill.image(side)))
        assert output.logits.shape == (1, 19, *size)
        assert output.align_corners == align_corners
        if f"logits_{side}" in stored:
            wanted = stored[f"logits_{side}"]
            np.testing.assert_allclose(output.logits, wanted, rtol=0, atol=1e-4 * max(1.0, wanted.std()))


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_every_head_answers_what_is_published(name: str, fill: ModuleType) -> None:
    net = MODULES[name].build(name, 19).eval()
    numbers = {key: fill.tensor(key, list(t.shape)) for key, t in net.state_dict().items() if t.is_floating_point()}
    net.load_state_dict({key: torch.from_numpy(array) for key, array in numbers.items()}, strict=False)
    answers = run(net, torch.from_numpy(fill.image("odd")))
    for answer, wanted in zip(answers, ODD_ANSWERS[name], strict=True):
        flat = answer.double().flatten()
        found = [flat[0], flat[len(flat) // 2], flat[-1], flat.mean(), flat.std(correction=0)]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * max(1.0, wanted[-1]))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(32, 64), (33, 47), (7, 90), (1, 1)])
def test_any_size_and_images_on_their_own(name: str, size: tuple[int, int]) -> None:
    net, images = small(name).eval(), torch.randn(3, 3, *size)
    answers = run(net, images)
    strides = {"stdc": (8, 8, 16, 8), "fast_scnn": (8, 32, 8), "bisenetv2": (8, 4, 8, 16, 32)}[name]
    edges = [2] if name == "stdc" else []
    outputs = [3] * (len(strides) - len(edges)) + edges
    shapes = [(3, k, *(-(-side // stride) for side in size)) for k, stride in zip(outputs, strides, strict=True)]
    assert [(*answer.shape,) for answer in answers] == shapes
    for alone, together in zip(run(net, images[1:2]), answers, strict=True):
        torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name: str) -> None:
    net = small(name).train()
    output: Output = net(torch.randn(4, 3, 65, 79))
    assert all(logits.shape[:2] == (4, 3) for logits in (output.logits, *output.class_aux))
    sum(logits.square().mean() for logits in (output.logits, *output.class_aux)).backward()
    asked = {key: value.grad for key, value in net.named_parameters() if value.requires_grad}
    assert [key for key, grad in asked.items() if grad is None or not grad.isfinite().all() or not grad.any()] == []
    others = {key.rsplit(".", 1)[0] for key, value in net.named_parameters() if not value.requires_grad}
    edges = {f"auxiliary_head.2.{part}" for part in ("conv_seg", "convs.0.conv", "convs.0.bn")}
    assert others == (edges if name == "stdc" else set())


def test_edges_learn_when_asked() -> None:
    net = small("stdc").train()
    assert isinstance(net, stdc.Stdc)
    net.train_edges()
    net(torch.randn(2, 3, 33, 40)).aux[2].square().mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in net.auxiliary_head[2].parameters())


def test_losses_of_classes_leave_edges_out() -> None:
    """Also for as many classes as the edge head has channels."""
    net = stdc.build(SMALL["stdc"], classes=2).eval()
    output: Output = net(torch.randn(2, 3, 32, 40))
    classes = Classes(names=("road", "sky"), colors=((0, 0, 0), (9, 9, 9)), ids=(0, 1))
    loss, masks = build_loss((CrossEntropy(),), classes, auxiliary=0.4), torch.ones(2, 32, 40, dtype=torch.uint8)
    without = output._replace(aux=output.aux[:2], edges=())
    assert [len(output.aux), len(output.class_aux)] == [3, 2]
    assert loss(output, masks, count(masks)) == loss(without, masks, count(masks))
    assert loss(output, masks, count(masks)) != loss(output._replace(edges=()), masks, count(masks))


def test_edge_filters() -> None:
    """A step of 1 answers above 0 on its brighter side only; the weights of the three strides sum to 1."""
    head = small("stdc").get_submodule("auxiliary_head.2")
    step = (torch.arange(6.0) > 2).expand(1, 1, 5, 6).float()
    answer = nn.functional.conv2d(step, head.get_buffer("laplacian_kernel"))
    assert answer[0, 0, 1].tolist() == [0, -3, 3, 0]
    assert head.get_buffer("fusion_kernel").sum().item() == pytest.approx(1)


@pytest.mark.parametrize("name", SMALL)
def test_one_graph(name: str) -> None:
    net, images = small(name).eval(), torch.randn(2, 3, 33, 47)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    with torch.no_grad():
        found, wanted = compiled(images), net(images)
    assert found.align_corners == wanted.align_corners
    for one, other in zip((found.logits, *found.aux), (wanted.logits, *wanted.aux), strict=True):
        torch.testing.assert_close(one, other)


def test_running_statistics() -> None:
    momenta = {module.momentum for module in small("fast_scnn").modules() if isinstance(module, nn.BatchNorm2d)}
    assert momenta == {0.01}


@pytest.mark.parametrize("name", MODULES)
def test_unknown_name(name: str) -> None:
    with pytest.raises(InputError, match=rf"is called resnet; choose one of .*{name}"):
        MODULES[name].build("resnet", 2)
