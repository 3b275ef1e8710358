"""Adaptation of every network that there is: all published families, and one of each kind of a library's."""

import copy
from typing import Any

import pytest
import torch
from adapted_runs import plain
from timm.layers import ScaledStdConv2d, StdConv2d
from torch import Tensor, nn

from models.small_zoo import small_zoo
from terrazzo.adapt import Adapter, BitFit, Frozen, Lora, Ssf, adapt
from terrazzo.adapt.folded import changed_layers
from terrazzo.adapters import base_of
from terrazzo.base import IMAGENET, InputError
from terrazzo.models import LoadReport, Segmenter, ZooModel
from terrazzo.models.blocks import encoder_blocks
from terrazzo.models.zoo import segmenter_of
from test_contracts_models import CASES, build

pytestmark = pytest.mark.usefixtures("one_thread")

ZOO = {f"published {name}": architecture for name, architecture in small_zoo().items()}
WITHOUT_BLOCKS = {"own"}
METHODS: list[Any] = [Ssf(also_train="none"), Lora(rank=2, dora=True, also_train="none"), Adapter(width=2)]


def network(name: str) -> Segmenter:
    torch.manual_seed(0)
    if name in CASES:
        return build(name)
    return segmenter_of(ZooModel(name="segnext_mscan-t", weights="none"), ZOO[name], 4, 3)


def answers(model: Segmenter) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    output = model(torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=generator))
    if output.queries is None:
        return [output.logits, *output.aux]
    return [part for layer in (output.queries, *output.queries.aux) for part in (layer.masks, layer.classes)]


@pytest.mark.parametrize("name", [*ZOO, *CASES])
def test_it_starts_as_the_base_and_every_number_that_was_added_has_a_gradient(name: str) -> None:
    base = network(name)
    with torch.no_grad():
        before = [each.clone() for each in answers(base.eval())]
    for method in METHODS:
        model = copy.deepcopy(base)
        if isinstance(method, Adapter) and name in WITHOUT_BLOCKS:
            continue
        layers = adapt(model, method).layers
        assert {*layers} <= {key for key, _ in model.net.named_modules()}
        with torch.no_grad():
            for found, wanted in zip(answers(model.eval()), before, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * max(1.0, wanted.std().item()))
        sum(each.square().mean() for each in answers(model.train())).backward()
        learning = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
        assert [key for key, parameter in learning.items() if parameter.grad is None] == []


@pytest.mark.parametrize("name", [*ZOO, *CASES])
def test_lora_learns_as_it_would_by_the_gradient_of_the_whole_weight(name: str) -> None:
    """Layers that are called, and those of which other code reads the weight (attention, BEiT's)."""
    model = network(name).double()
    adapt(model, Lora(rank=2, also_train="none"))
    added = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    for key, parameter in added.items():
        if key.endswith(".up"):
            nn.init.normal_(parameter, std=0.05)
    gradients = []
    for each in (model, plain(model)):
        loss = sum(answer.square().mean() for answer in answers(each.eval()))
        gradients.append(torch.autograd.grad(loss, [each.get_parameter(key) for key in added]))
    for key, found, wanted in zip(added, *gradients, strict=True):
        assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max() + 1e-12, key


def test_dropout_of_a_depth_wise_convolution_leaves_out_channels_and_not_the_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 4, 1))
    model = Segmenter(net, normalization=IMAGENET, stride=1)
    adapt(model, Lora(rank=2, dropout=0.5, targets=("1",)))
    layer = model.train().net[1]
    with torch.no_grad():
        layer.parametrizations.weight[0].up.normal_()
    added = (layer.weight - layer.parametrizations.weight.original).detach().abs().amax((1, 2, 3))
    assert 16 < int((added == 0).sum()) < 48


def test_layers_on_which_no_answer_depends_are_no_targets() -> None:
    model = network("pspnet-tu-mobilenetv3_small_050")
    assert "net.encoder.model.blocks.2.0" not in encoder_blocks(model)
    with pytest.raises(InputError, match="is a Conv2d on which no answer depends"):
        adapt(model, Lora(targets=("model.blocks.2.0.conv_dw",)))


class Odd(nn.Module):
    """Layers whose weight is made from others, or standardized, and a norm of each image by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            StdConv2d(3, 8, 3, bias=False),
            ScaledStdConv2d(8, 8, 3),
            nn.InstanceNorm2d(8, affine=True),
            nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3)),
        )
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.encoder(pixels))


def odd() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(Odd(), normalization=IMAGENET, stride=1)


def test_a_factor_of_ssf_is_a_factor_of_the_answer_or_is_not_there() -> None:
    model = odd()
    adapt(model, Ssf())
    layers = changed_layers(model)
    assert [*layers] == ["net.encoder.1", "net.encoder.2"]
    for layer in layers.values():
        maps = torch.randn(2, 8, 6, 6)
        before = layer(maps)
        for kept in layer.parametrizations.values():
            with torch.no_grad():
                (kept[0].gamma if hasattr(kept[0], "gamma") else kept[0].beta).fill_(3)
        torch.testing.assert_close(layer(maps), 3 * before + 3, rtol=1e-4, atol=1e-4)


def test_norms_of_single_images_are_norms() -> None:
    assert adapt(odd(), BitFit(parts="norm", also_train="none")).layers == ("encoder.2",)
    with pytest.raises(InputError, match=r"'encoder\.3' is a .*Conv2d, which"):
        adapt(odd(), Lora(targets=("encoder.3",)))


def test_a_layer_of_two_names_is_no_part_of_the_base_if_it_learns() -> None:
    model = network("published dilated-ann")
    report = LoadReport(source="a file", loaded=tuple(model.state_dict()))
    adapt(model, Lora(rank=2))
    base = base_of(model, report)
    assert base is not None
    assert {model.role(name) for name in base.tensors} == {"encoder"}


@pytest.mark.parametrize("groups", [1, 2])
def test_ssf_scales_the_answer_of_a_transposed_convolution(groups: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 2, stride=2, groups=groups), nn.Conv2d(6, 4, 1))
    model = Segmenter(net, normalization=IMAGENET, stride=1)
    layer = model.net[1]
    maps = torch.randn(2, 8, 5, 7)
    before = layer(maps)
    adapt(model, Ssf(targets=("1",)))
    torch.testing.assert_close(layer(maps), before, rtol=0, atol=0)
    gamma, beta = torch.arange(1.0, 7), torch.arange(6.0)
    with torch.no_grad():
        layer.parametrizations.weight[0].gamma.copy_(gamma)
        layer.parametrizations.bias[0].beta.copy_(beta)
    torch.testing.assert_close(layer(maps), gamma.view(-1, 1, 1) * before + beta.view(-1, 1, 1))


@pytest.mark.parametrize("train", ["classifier", "decoder"])
def test_bases_that_follow_the_images_stand_still_in_a_frozen_decoder(train: str) -> None:
    model = network("published dilated-emanet")
    adapt(model, Frozen(train=train))
    before = model.state_dict()["net.decode_head.ema_module.bases"].clone()
    answers(model.train())
    assert torch.equal(model.state_dict()["net.decode_head.ema_module.bases"], before) is (train == "classifier")
