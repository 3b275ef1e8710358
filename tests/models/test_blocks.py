"""Blocks of encoders and the depth of parameters, on networks whose blocks we can count ourselves."""

from typing import Any

import pytest
import torch
from small_zoo import small_zoo

from terrazzo.adapt import Adapter, Full, Lora, Ssf, Vpt, adapt
from terrazzo.models import (
    FcnResnetModel,
    SegFormerModel,
    Segmenter,
    SmpModel,
    TimmModel,
    TorchvisionModel,
    UNetModel,
    ZooModel,
    build_model,
)
from terrazzo.models.blocks import encoder_blocks, parameter_depths
from terrazzo.models.zoo import segmenter_of
from terrazzo.optim import AdamW, Depths, build_optimizer

FPN = {"kind": "fpn", "width": 8}
ZOO = small_zoo()

NETWORKS: dict[str, tuple[Any, int, str, str]] = {
    "resnet18": (FcnResnetModel(encoder="resnet18", weights_backbone="none"), 8, "conv1", "layer4.1.conv2"),
    "resnet d8": ("dilated-pspnet", 8, "stem.0", "layer4.1.conv2"),
    "mobilenet_v2": (SmpModel(encoder="mobilenet_v2", weights="none"), 19, "", "features.18.0"),
    "mobilenet_v3": (TorchvisionModel(arch="lraspp_mobilenet_v3_large", weights_backbone="none"), 17, "", "16.0"),
    "densenet121": (SmpModel(encoder="densenet121", weights="none"), 58, "features.conv0", "denselayer16.conv2"),
    "unet": (UNetModel(width=4, depth=2), 3, "", "stages.2.3"),
    "mit": (SegFormerModel(dims=(8, 8, 8, 8), heads=(1, 1, 1, 1)), 8, "0.embed", "3.norm"),
    "test_vit": (TimmModel(encoder="test_vit", weights="none"), 6, "patch_embed.proj", "encoder.norm"),
    "test_convnext": (TimmModel(encoder="test_convnext", weights="none", decoder=FPN), 9, "stem.0", "1.mlp.fc2"),
    "swin_tiny": (
        TimmModel(encoder="swin_tiny_patch4_window7_224", weights="none", decoder=FPN),
        12,
        "patch_embed.proj",
        "layers.3.blocks.1.mlp.fc2",
    ),
    "mscan": ("segnext-segnext", 4, "patch_embed1.proj.0", "norm4"),
    "published swin": ("swin_upernet-swin", 6, "patch_embed.projection", "norm3"),
    "published vit": ("segmenter_vit-segmenter mask", 2, "patch_embed.projection", "ln1"),
}
"""Network, blocks, end of the name of a layer of depth 0 (if there is one) and of one of the greatest depth."""


def network(name: str) -> Segmenter:
    torch.manual_seed(0)
    cfg = NETWORKS[name][0]
    if isinstance(cfg, str):
        return segmenter_of(ZooModel(name="segnext_mscan-t", weights="none"), ZOO[cfg], 3, 3)
    return build_model(cfg, 3)[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_depths_rise_from_the_image_to_the_last_block(name: str) -> None:
    _, count, first, last = NETWORKS[name]
    model = network(name)
    depths, blocks = parameter_depths(model)
    assert blocks == count
    assert depths.keys() == {name for name, _ in model.named_parameters() if model.role(name) == "encoder"}
    assert {*depths.values()} == {*range(0 if first else 1, count + 1)}, "every block has parameters"
    ends = {depth: {name for name in depths if depths[name] == depth} for depth in (0, count)}
    assert any(name.removesuffix(".weight").endswith(first) for name in ends[0]) == bool(first)
    assert any(name.removesuffix(".weight").endswith(last) for name in ends[count])
    inside = {block: next(iter(dict(part.named_parameters()))) for block, part in encoder_blocks(model).items()}
    assert [depths[f"{block}.{parameter}"] for block, parameter in inside.items()] == [*range(1, count + 1)]


@pytest.mark.parametrize("name", ["mscan", "resnet d8", "test_vit", "mit"])
@pytest.mark.parametrize("method", [Ssf(), Lora(rank=2), Adapter(width=2), Vpt(tokens=2)], ids=repr)
def test_an_adapted_network_has_the_blocks_that_it_had(name: str, method: Any) -> None:
    if isinstance(method, Vpt) and name != "test_vit":
        return
    model = network(name)
    before, (depths, _) = [*encoder_blocks(model)], parameter_depths(model)
    adapt(model, method)
    assert [*encoder_blocks(model)] == before
    after, blocks = parameter_depths(model)
    assert blocks == len(before)
    assert {key: after[key] for key in depths if key in after} == {key: depths[key] for key in depths if key in after}
    if isinstance(method, Adapter | Vpt):
        added = [after[key] for key in after if key.startswith("adapters.")]
        assert sorted({*added}) == [*range(1, blocks + 1)]


def test_layer_decay_is_a_factor_for_every_block() -> None:
    model = network("test_vit")
    adapt(model, Full())
    optimizer = build_optimizer(model, model.role, AdamW(lr=1.0, layer_decay=0.5), Depths(*parameter_depths(model)))
    rates = {group["name"]: group["base_lr"] for group in optimizer.param_groups}
    assert rates["encoder/06"] == 1
    assert rates["encoder/05"] == 0.5
    assert rates["encoder/00"] == 0.5**6
    assert rates["head"] == 1
