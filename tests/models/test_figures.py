"""Sizes and costs of networks as others published or measured them; on the meta device, where they are free."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

from terrazzo.cost import executed_parameters, macs, parameters, size_in_bytes
from terrazzo.models import SmpModel, UNetModel, build_model


class Figures(NamedTuple):
    mebibytes: float
    """Of parameters and buffers."""
    parameters: float
    """Millions."""
    gigamacs: float
    """Of one 256x256 image."""


COMPARED = {
    ("unet", "resnet50"): Figures(124.288, 32.526, 10.953),
    ("manet", "resnet50"): Figures(562.702, 147.445, 18.898),
    ("fpn", "resnet50"): Figures(99.845, 26.120, 7.804),
    ("unetplusplus", "resnet50"): Figures(187.114, 48.991, 57.762),
    ("unet", "resnext50_32x4d"): Figures(122.331, 31.998, 11.138),
    ("pspnet", "resnet50"): Figures(93.509, 24.458, 3.074),
}
"""35 classes. Measured by the project that compared them, on SMP's networks."""


IMAGE = torch.empty(1, 3, 256, 256, device="meta")


def figures(net: nn.Module) -> Figures:
    return Figures(
        round(size_in_bytes(net) / 2**20, 3), round(parameters(net) / 1e6, 3), round(macs(net, IMAGE) / 1e9, 3)
    )


@pytest.mark.parametrize(("arch", "encoder"), COMPARED)
def test_figures_of_the_architecture_comparison(arch, encoder):
    with torch.device("meta"):
        found = figures(build_model(SmpModel(arch=arch, encoder=encoder, weights="none"), 35)[0])
    if arch == "pspnet":  # stages that no logit depends on are taken out: only what is executed is left
        assert found.parameters == 2.395
        assert found.gigamacs == COMPARED[arch, encoder].gigamacs
    else:
        assert found == COMPARED[arch, encoder]


def test_figures_of_pspnet_with_its_unused_stages():
    import segmentation_models_pytorch as smp

    with torch.device("meta"):
        whole = smp.create_model("pspnet", "resnet50", encoder_weights=None, classes=35)
    assert figures(whole) == COMPARED["pspnet", "resnet50"]
    assert round(executed_parameters(whole, IMAGE) / 1e6, 3) == 2.395


@pytest.mark.parametrize(("depth", "millions"), [(4, 31.0), (5, 124.4), (6, 497.7)])
def test_unet_of_64_to_512_1024_or_2048_channels(depth, millions):
    with torch.device("meta"):
        segmenter = build_model(UNetModel(width=64, depth=depth, norm="none"), 19)[0]
    assert round(sum(parameter.numel() for parameter in segmenter.parameters()) / 1e6, 1) == millions
    assert segmenter.net.encoder.stages[-1][0].out_channels == 2 * 64 * 2 ** (depth - 1), (
        "the bottom has twice the last"
    )
    kinds = {type(module) for module in segmenter.net.modules() if type(module).__module__.startswith("torch.nn")}
    containers = {nn.ModuleList, nn.Sequential}
    assert kinds - containers == {nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.ConvTranspose2d}
    assert all(conv.bias is not None for conv in segmenter.modules() if isinstance(conv, nn.Conv2d))
    assert segmenter(torch.empty(1, 3, 64, 64, device="meta")).logits.shape == (1, 19, 64, 64)
