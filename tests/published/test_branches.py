"""DDRNet, PIDNet, HRNet and OCRNet: the published keys, the numbers they answer, and what every network promises."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks import ddrnet, hrnet, ocrnet, pidnet
from terrazzo.published.networks.ddrnet import DDRNetSizes
from terrazzo.published.networks.hrnet import HRNetSizes, sum_at
from terrazzo.published.networks.ocrnet import ObjectContext, OcrNetSizes, descriptions
from terrazzo.published.networks.pidnet import PIDNetSizes

FAMILIES = {name: module.build for module in (ddrnet, hrnet, ocrnet, pidnet) for name in module.VARIANTS}
MANIFESTS = ("ddrnet_23-slim", "pidnet-s", "fcn_hr18")
TINY_HR = HRNetSizes(width=4, blocks=1, modules=(1, 1, 1))
SMALL = {
    "ddrnet": lambda: ddrnet.build(DDRNetSizes(width=4, head_width=6, pooling_width=5, dropout=0.2), 3),
    "pidnet light": lambda: pidnet.build(PIDNetSizes(width=4, head_width=6, pooling_width=5), 3),
    "pidnet heavy": lambda: pidnet.build(
        PIDNetSizes(width=4, head_width=6, pooling_width=5, blocks=3, context_blocks=2, light=False), 3
    ),
    "hrnet": lambda: hrnet.build(TINY_HR, 3),
    "ocrnet": lambda: ocrnet.build(OcrNetSizes(TINY_HR, width=8, key_width=6), 3),
}
STRIDES = {"ddrnet": 8, "pidnet light": 8, "pidnet heavy": 8, "hrnet": 4, "ocrnet": 4}


@pytest.fixture(params=SMALL)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return SMALL[kind]()


def image(fill: ModuleType, name: str) -> Tensor:
    return torch.from_numpy(fill.image(name))


def filled(name: str, fill: ModuleType) -> nn.Module:
    """The network `name` with the stand-in numbers that its tensors' names and shapes stand for."""
    net = FAMILIES[name](name, classes=19)
    for key, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(fill.tensor(key, list(tensor.shape))))
    return net.eval()


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_the_state_dict(name: str, shared_parity: Path, fill: ModuleType) -> None:
    manifest = json.loads((shared_parity / f"{name}.keys.json").read_text())
    with torch.device("meta"):
        net = FAMILIES[name](name, classes=19)
    found = {key: (list(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in net.state_dict().items()}
    wanted = {key: (shape, dtype.removeprefix("torch.")) for key, (shape, dtype) in manifest["keys"].items()}
    assert found == wanted
    with torch.device("meta"), torch.inference_mode():
        assert net.eval()(torch.empty(1, 3, 64, 64)).align_corners == manifest["align_corners"]


@pytest.mark.parametrize("name", ["pidnet-s", "fcn_hr18"])
def test_published_logits(name: str, shared_parity: Path, fill: ModuleType) -> None:
    net = FAMILIES[name](name, classes=19)
    arrays = fill.state_dict(shared_parity / f"{name}.keys.json")
    net.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()}, strict=True)
    stored = np.load(shared_parity / f"{name}.npz")
    for key in stored.files:
        part, _, size = key.partition("_")
        assert part == "logits", "an auxiliary head that this test does not know"
        with torch.inference_mode():
            logits = net.eval()(image(fill, size)).logits
        assert logits.shape == stored[key].shape
        assert np.abs(logits.numpy() - stored[key]).max() <= 1e-4 * max(1, stored[key].std())


@pytest.mark.parametrize(
    ("name", "size", "part", "values", "std"),
    [
        ("ddrnet_23-slim", "even", "logits", (-39.41779, 14.28739, 68.37404), 31.12546),
        ("ddrnet_23-slim", "even", "aux", (-26.73602, -9.10523, 4.36325), 14.38631),
        ("pidnet-s", "even", "aux", (-1.64708, -14.24843, 4.08249), 9.18534),
        ("pidnet-s", "even", "boundary", (10.88824,), 5.41255),
        ("pidnet-l", "even", "logits", (15.30266, -56.24687, -15.33403), 51.41886),
        ("pidnet-l", "even", "aux", (-11.51326, 14.28508, 11.80114), 15.88786),
        ("pidnet-l", "even", "boundary", (25.47250,), 26.55948),
        ("ocrnet_hr18s", "even", "logits", (-1391.92188, -667.07410, 902.03839), 1609.37134),
        ("ocrnet_hr18s", "even", "aux", (-990.63281, 1952.23267, 3462.43164), 2477.65845),
        ("ocrnet_hr18s", "odd", "logits", (-1006.55353, -119.77524, 1086.82690), 1426.32056),
        ("ocrnet_hr18s", "odd", "aux", (-1446.30359, 1979.56055, 3534.04395), 1994.20557),
    ],
)
def test_published_implementation(
    name: str, size: str, part: str, values: tuple[float, ...], std: float, fill: ModuleType
) -> None:
    """MMSegmentation 1.2.2's own answers (its training forward in eval mode) at one position, and their spread."""
    net = filled(name, fill)
    with torch.inference_mode():
        output = net(image(fill, size))
    answer = {"logits": (output.logits,), "aux": output.aux, "boundary": output.aux[1:]}[part][0]
    assert answer[0, : len(values), 5, 7].tolist() == pytest.approx(values, abs=1e-4 * std)
    assert answer.std().item() == pytest.approx(std, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("ddrnet_23-slim", 5.7), ("ddrnet_23", 20.1), ("pidnet-s", 7.6), ("pidnet-l", 36.9), ("fcn_hr18s", 3.9)],
)
def test_parameters_are_as_many_as_the_papers_say(name: str, millions: float) -> None:
    with torch.device("meta"):
        net = FAMILIES[name](name, classes=19)
    training_only = ("aux_", "p_head", "p_cls", "d_head", "d_cls")
    counts = [t.numel() for key, t in net.named_parameters() if not any(part in key for part in training_only)]
    assert round(sum(counts) / 1e6, 1) == millions


@pytest.mark.parametrize("size", [(64, 96), (97, 131), (33, 40), (5, 7)])
def test_any_size(size: tuple[int, int], kind: str, net: nn.Module) -> None:
    with torch.inference_mode():
        output = net.eval()(torch.randn(2, 3, *size))
    expected = (2, 3, *(-(-side // STRIDES[kind]) for side in size))
    assert isinstance(output, Output)
    assert output.queries is None
    assert output.covers == (0, 0)
    assert output.align_corners == kind.startswith("pidnet")
    assert len(output.class_aux) == (kind != "hrnet")
    for logits in (output.logits, *output.class_aux):
        assert logits.shape == expected
        assert logits.isfinite().all()


def test_eval_is_deterministic_and_knows_no_batch(net: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        together, again, alone = net.eval()(images), net(images), net(images[:1])
    for first, second, one in zip(
        (together.logits, *together.aux), (again.logits, *again.aux), (alone.logits, *alone.aux), strict=True
    ):
        assert torch.equal(first, second)
        torch.testing.assert_close(first[:1], one, rtol=1e-4, atol=1e-4 * first.std().item())


def test_training_reaches_every_parameter(net: nn.Module) -> None:
    """But those of PIDNet's boundary head, which ask for no gradient."""
    output = net.train()(torch.randn(2, 3, 64, 96))
    sum(logits.square().mean() for logits in (output.logits, *output.class_aux)).backward()
    wanted = {key: t.grad for key, t in net.named_parameters() if t.requires_grad}
    frozen = [key for key, t in net.named_parameters() if not t.requires_grad]
    assert all(grad is not None and grad.abs().max() > 0 for grad in wanted.values())
    assert all(key.startswith(("decode_head.d_head", "decode_head.d_cls_seg")) for key in frozen)
    assert bool(frozen) == isinstance(net, pidnet.PIDNet)


@pytest.mark.parametrize("kind", ["pidnet light", "pidnet heavy"])
def test_boundary_head_learns_if_asked_to(kind: str, net: nn.Module) -> None:
    net.decode_head.train_boundary()
    output = net(torch.randn(2, 3, 64, 96))
    assert output.edges == (1,)
    assert output.aux[1].shape == (2, 1, 8, 12)
    sum(part.square().mean() for part in (output.logits, *output.aux)).backward()
    assert all(t.grad is not None and t.grad.abs().max() > 0 for t in net.parameters())
    net.decode_head.train_boundary(False)
    assert not net.decode_head.d_cls_seg.weight.requires_grad


@pytest.mark.parametrize("kind", ["ddrnet", "pidnet light"])
def test_dropout_is_for_training(kind: str, net: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64)
    net.decode_head.dropout.p = 0.5
    first, second = net.train()(images), net(images)
    assert not torch.equal(first.logits, second.logits)
    assert torch.equal(first.aux[0], second.aux[0])


def test_compiles_in_one_graph(net: nn.Module) -> None:
    """In training; evaluation differs from it in what normalisation and dropout do."""
    images = torch.randn(2, 3, 65, 72)
    for part in net.modules():
        if isinstance(part, nn.Dropout2d):
            part.p = 0.0
    torch._dynamo.reset()
    expected, compiled = net(images), torch.compile(net, fullgraph=True, backend="eager")(images)
    torch.testing.assert_close(compiled.logits, expected.logits)
    torch.testing.assert_close(compiled.aux, expected.aux)


def test_state_dict_round_trip(kind: str, net: nn.Module) -> None:
    other = SMALL[kind]()
    other.load_state_dict(net.state_dict(), strict=True)
    images = torch.randn(1, 3, 40, 48)
    with torch.inference_mode():
        assert torch.equal(net.eval()(images).logits, other.eval()(images).logits)


def test_exchange_enlarges_by_a_power_of_two_first() -> None:
    fine, coarse = torch.zeros(1, 1, 5, 5), torch.arange(9.0).view(1, 1, 3, 3)
    once = nn.functional.interpolate(coarse, (6, 6), mode="bilinear")
    twice = nn.functional.interpolate(once, (5, 5), mode="bilinear")
    assert torch.equal(sum_at(0, [fine, coarse]), twice)


def test_pixels_ask_the_descriptions_by_scaled_attention() -> None:
    """The filled weights above make the attention all or nothing, so its scale is checked here."""
    torch.manual_seed(0)
    block = ObjectContext(8, 6).eval()
    pixels, described = torch.randn(2, 8, 3, 4), torch.randn(2, 8, 5, 1)
    query, key, value = (
        part.flatten(2).transpose(1, 2)
        for part in (block.query_project(pixels), block.key_project(described), block.value_project(described))
    )
    answer = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(2, 6, 3, 4)
    expected = block.bottleneck(torch.cat([block.out_project(answer), pixels], dim=1))
    torch.testing.assert_close(block(pixels, described), expected)


def test_a_description_is_the_average_weighted_by_the_guess() -> None:
    pixels, guess = torch.randn(1, 2, 3, 4), torch.zeros(1, 5, 3, 4)
    guess[0, 1, 2, 3] = 100
    described = descriptions(pixels, guess)
    torch.testing.assert_close(described[0, :, 0, 0], pixels[0].mean(dim=(1, 2)))
    torch.testing.assert_close(described[0, :, 1, 0], pixels[0, :, 2, 3])


@pytest.mark.parametrize("module", [ddrnet, hrnet, ocrnet, pidnet])
def test_unknown_name(module: ModuleType) -> None:
    with pytest.raises(InputError, match=next(iter(module.VARIANTS))):
        module.build("unheard-of", 3)
