"""ResNet with FCN, PSP, DeepLabV3, DeepLabV3+ and UPer heads: the published keys, and the numbers they answer."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.published.networks.dilated import VARIANTS, DilatedSizes, HeadKind, build
from terrazzo.published.networks.resnet_v1c import D8, D16, D32, ResNet, ResnetSizes

MANIFESTS = (
    *("deeplabv3plus_r18-d8", "deeplabv3plus_r50-d8", "deeplabv3plus_r101-d8", "deeplabv3_r50-d8"),
    *("pspnet_r18-d8", "pspnet_r50-d8", "fcn_r50-d8", "upernet_r50"),
)
HEADS: tuple[HeadKind, ...] = ("fcn", "pspnet", "deeplabv3", "deeplabv3plus", "upernet")


def small(head: HeadKind, **changes: object) -> DilatedSizes:
    """Of ResNet-18, with narrow heads."""
    backbone = replace(D32, depth=18) if head == "upernet" else ResnetSizes(18)
    sizes = DilatedSizes(head, backbone, channels=8, aux_channels=8, fine_channels=4)
    return replace(sizes, **changes)


def filled(name: str, folder: Path, fill: ModuleType) -> nn.Module:
    """The network `name` with the numbers of its manifest; strict, so nothing is missing and nothing left."""
    net = build(name, classes=19)
    arrays = fill.state_dict(folder / f"{name}.keys.json")
    net.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()}, strict=True)
    return net.eval()


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_the_state_dict(name: str, shared_parity: Path) -> None:
    manifest = json.loads((shared_parity / f"{name}.keys.json").read_text())
    with torch.device("meta"):
        net = build(name, classes=19)
    found = {key: (list(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in net.state_dict().items()}
    wanted = {key: (shape, dtype.removeprefix("torch.")) for key, (shape, dtype) in manifest["keys"].items()}
    assert found == wanted
    assert net.align_corners == manifest["align_corners"]


@pytest.mark.parametrize("side", ["even", "odd"])
@pytest.mark.parametrize("name", ["deeplabv3plus_r18-d8", "pspnet_r18-d8"])
def test_stored_logits(name: str, side: str, shared_parity: Path, fill: ModuleType) -> None:
    net, stored = filled(name, shared_parity, fill), np.load(shared_parity / f"{name}.npz")
    with torch.inference_mode():
        output = net(torch.from_numpy(fill.image(side)))
    for logits, key in ((output.logits, f"logits_{side}"), (output.aux[0], f"aux_{side}")):
        np.testing.assert_allclose(logits, stored[key], rtol=0, atol=1e-4 * max(1.0, stored[key].std()))


@pytest.mark.parametrize("name", ["deeplabv3_r50-d8", "fcn_r50-d8", "upernet_r50"])
def test_manifests_without_logits_run(name: str, shared_parity: Path, fill: ModuleType) -> None:
    net = filled(name, shared_parity, fill)
    for height, width in ((32, 48), (33, 47)):
        with torch.inference_mode():
            output = net(torch.randn(1, 3, height, width))
        stride = 4 if name == "upernet_r50" else 8
        assert output.logits.shape == (1, 19, -(-height // stride), -(-width // stride))
        assert output.logits.isfinite().all()


@pytest.mark.parametrize("sizes", [D32, D8, D16, replace(D32, depth=18)])
def test_plain_stem_is_torchvision_resnet(sizes: ResnetSizes) -> None:
    dilate = [sizes.strides[number] == 1 for number in (1, 2, 3)]
    theirs = getattr(torchvision.models, f"resnet{sizes.depth}")(replace_stride_with_dilation=dilate)
    ours = ResNet(replace(sizes, stem="plain"))
    missing = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == ([], ["fc.weight", "fc.bias"])
    images = torch.randn(1, 3, 49, 64)
    theirs.eval(), ours.eval()
    with torch.inference_mode():
        wanted = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for number, answer in enumerate(ours(images), start=1):
            wanted = getattr(theirs, f"layer{number}")(wanted)
            torch.testing.assert_close(answer, wanted)


def test_dilations_of_the_blocks() -> None:
    def dilations(layer: nn.Module) -> list[int]:
        return [block.conv2.dilation[0] for block in layer.children()]

    with torch.device("meta"):
        usual, multi_grid = build("deeplabv3_r50-d8", 2), build("deeplabv3_r101-d16-mg124", 2)
        whole = ResNet(ResnetSizes(contract_dilation=False))
    assert dilations(usual.backbone.layer3) == [1, 2, 2, 2, 2, 2]
    assert dilations(usual.backbone.layer4) == [2, 4, 4]
    assert dilations(multi_grid.backbone.layer3) == [1] * 23
    assert dilations(multi_grid.backbone.layer4) == [1, 2, 4]
    assert dilations(whole.layer4) == [4, 4, 4]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_the_stride_of_its_name(name: str) -> None:
    with torch.device("meta"):
        net = build(name, classes=5).eval()
        output = net(torch.empty(1, 3, 65, 97))
    stride = 4 if name.startswith("upernet") or "deeplabv3plus" in name else 8
    stride = 16 if "-d16" in name and stride != 4 else 32 if "-d32" in name else stride
    assert output.logits.shape == (1, 5, -(-65 // stride), -(-97 // stride))
    assert len(output.aux) == (3 if name.startswith("danet") else 1)
    assert all(logits.shape[:2] == (1, 5) for logits in output.aux)


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_learns(head: HeadKind) -> None:
    net = build(small(head), classes=3).train()
    output = net(torch.randn(2, 3, 65, 47))
    loss: Tensor = output.logits.square().sum() + output.aux[0].square().sum()
    loss.backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert dead == []
    assert [name for name, p in net.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize("head", HEADS)
def test_one_graph_and_images_on_their_own(head: HeadKind) -> None:
    net = build(small(head, align_corners=True), classes=3).eval()
    images = torch.randn(2, 3, 33, 47)
    with torch.inference_mode():
        eager = net(images)
        alone = net(images[1:])
    torch.testing.assert_close(alone.logits[0], eager.logits[1], atol=1e-5, rtol=1e-4)
    assert eager.align_corners
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images).logits, eager.logits)


def test_corners_change_the_enlargement() -> None:
    images = torch.randn(1, 3, 65, 65)
    torch.manual_seed(0)
    centred = build(small("deeplabv3plus"), classes=3).eval()
    aligned = build(small("deeplabv3plus", align_corners=True), classes=3).eval()
    aligned.load_state_dict(centred.state_dict())
    with torch.inference_mode():
        assert not torch.allclose(centred(images).logits, aligned(images).logits, atol=1e-6)


def test_every_entry_of_the_zoo_has_a_variant(shared_parity: Path) -> None:
    zoo = json.loads((shared_parity / "mmseg_zoo.json").read_text())["models"]
    families = tuple(f"{head}_r" for head in HEADS)
    names = [entry["name"] for entry in zoo if entry["name"].startswith((*families, "fcn-d6_r"))]
    unknown = [name for name in names if not name.startswith(tuple(f"{variant}_" for variant in VARIANTS))]
    assert len(names) > 150
    assert unknown == []


def test_unknown_name() -> None:
    with pytest.raises(InputError, match=r"no published configuration fcn_r99; choose one of .*fcn_r50-d8"):
        build("fcn_r99", classes=2)
