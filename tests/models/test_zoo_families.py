"""What every published network must do as a model of a recipe: the promises of all models, over small ones."""

import pytest
import torch
from small_zoo import SIZES, small_zoo
from torch import Tensor

from terrazzo.base import InputError
from terrazzo.models.segmenter import Segmenter
from terrazzo.models.zoo import ZooModel, roles_of, segmenter_of
from terrazzo.output import Output
from terrazzo.published.loading import FAMILIES
from terrazzo.published.networks import cgnet, deeplab_mobilenet, erfnet, espnet

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 5
ZOO = small_zoo()
CONFIG = ZooModel(name="segformer_mit-b0", weights="none")


def build(name: str, channels: int = 3) -> Segmenter:
    torch.manual_seed(0)
    return segmenter_of(CONFIG, ZOO[name], CLASSES, channels)


@pytest.fixture(scope="module", params=ZOO)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name) -> Segmenter:
    return build(name)


def images(batch: int, height: int, width: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)


def everything(output: Output) -> Tensor:
    return torch.cat([logits.flatten() for logits in (output.logits, *output.aux)])


def test_every_family_is_here():
    assert {*SIZES} == {*FAMILIES}


@pytest.mark.parametrize("size", [(50, 70), (33, 32)], ids=str)
def test_images_of_odd_sizes(model, size):
    with torch.inference_mode():
        output = model.eval()(images(1, *size))
    assert output.logits.shape[:2] == (1, CLASSES)
    assert all(logits.shape[:2] == (1, CLASSES) for logits in output.class_aux)
    assert everything(output).isfinite().all()
    for covers, side in zip(output.covers, size, strict=True):
        assert side <= covers < max(side, model.smallest) + max(model.stride, 16)


FROZEN = {
    "stdc-stdc": "net.auxiliary_head.2.",
    **dict.fromkeys(("pidnet-pidnet", "pidnet-pidnet-l"), "net.decode_head.d_"),
    **dict.fromkeys(("dilated-encnet", "fastfcn-enc"), "net.decode_head.se_layer."),
    "dilated-emanet": "net.decode_head.ema_mid_conv.",
}
"""What asks for no gradient: heads of edges, and of the classes that are in an image at all, until somebody has a loss
for them; and a layer of EMANet that was never trained."""

CANCELLED = {"bisenetv2-bisenetv2": {"net.backbone.semantic.stage4_CEBlock.gap.1.bias"}}
"""Numbers that can change nothing, since a normalisation follows that takes the mean away."""


def test_one_step_moves_every_parameter_that_it_should(name):
    model = build(name).train()
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    output = model(images(2, 64, 96))
    loss = sum(logits.square().mean() + logits.mean() for logits in (output.logits, *output.class_aux))
    loss.backward()
    optimizer.step()
    still = {key for key, parameter in model.named_parameters() if torch.equal(before[key], parameter)}
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    assert still - CANCELLED.get(name, set()) == frozen
    assert frozen == {key for key in before if key.startswith(FROZEN.get(name, "nothing"))}


def test_evaluation_does_not_depend_on_the_batch(name):
    """With numbers so exact that rounding cannot hide or make a difference."""
    model, batch = build(name).double().eval(), images(2, 32, 64)
    with torch.inference_mode():
        together, alone = model(batch), model(batch[1:])
    torch.testing.assert_close(together.logits[1:], alone.logits, atol=1e-8, rtol=1e-6)


def test_the_same_image_gives_the_same_bits(model):
    batch = images(1, 32, 64)
    with torch.inference_mode():
        assert torch.equal(everything(model.eval()(batch)), everything(model(batch)))


def test_auxiliary_logits_are_there_in_eval_mode_too(model):
    with torch.inference_mode():
        counts = [len(model.train(training)(images(2, 32, 64)).aux) for training in (True, False)]
    assert counts[0] == counts[1]


def test_state_dict_round_trip(model, name):
    other = build(name).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01).add_(1e-4)
    other.load_state_dict(model.state_dict())
    batch = images(1, 32, 64)
    with torch.inference_mode():
        assert torch.equal(everything(model.eval()(batch)), everything(other(batch)))


def test_roles_cover_the_network(model, name):
    roles = {model.role(key) for key, _ in model.named_parameters()}
    assert roles >= {"encoder", "head"}
    assert {key for key, role in roles_of(ZOO[name]).items() if role == "head"} >= {
        key.removeprefix("net.") for key in model.state_dict() if model.role(key) == "head"
    }


OFTEN = {"bisenetv2-bisenetv2", "dilated-pspnet", "segformer_mit-segformer", "segnext-segnext", "swin_upernet-swin"}


@pytest.mark.parametrize("case", [pytest.param(n, marks=() if n in OFTEN else pytest.mark.slow) for n in ZOO])
def test_compiles_as_one_graph(case):
    segmenter, batch = build(case).eval(), images(1, 32, 64)
    torch.compiler.reset()
    with torch.no_grad():
        eager = everything(segmenter(batch))
        compiled = torch.compile(segmenter, fullgraph=True, backend="eager")
        assert torch.equal(everything(compiled(batch)), eager)


def test_images_of_other_channels(name):
    channels = 4
    with torch.device("meta"):
        if ZOO[name].family in (cgnet, erfnet, espnet):
            with pytest.raises(InputError, match=r"takes images of 3 channels only, .* and these have \d; choose"):
                build(name, channels)
            return
        segmenter = build(name, channels)
    output = segmenter(torch.empty(2, channels, 50, 70, device="meta"))
    assert output.logits.shape[:2] == (2, CLASSES)
    with pytest.raises(InputError, match=rf"this network takes \[B, {channels}, H, W\]"):
        segmenter(torch.empty(2, channels + 1, 50, 70, device="meta"))


def test_deeplab_of_tensorflow_sees_small_images_as_it_was_scored():
    assert build("deeplab_mobilenet-deeplab").padded(50) == deeplab_mobilenet.WINDOW
