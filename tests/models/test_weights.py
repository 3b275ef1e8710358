"""Weights from files: the right numbers, an honest report, nothing executed."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.models import OwnModel, SmpModel, UNetModel, build_model, load_weights
from terrazzo.models.weights import RENAMINGS, canonical

MOBILENET = "weights/mobilenet_v2_imagenet.safetensors"


def small(width: int = 4, classes: int = 3, channels: int = 3):
    return build_model(UNetModel(width=width, depth=2), classes, channels)[0]


def same(first: nn.Module, second: nn.Module, part: str = "") -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items() if part in name)


def noisy(module: nn.Module) -> dict[str, Tensor]:
    """A state dict in which every number is unlike any initial value."""
    return {
        name: value + 0.01 * torch.rand_like(value) if value.is_floating_point() else value.clone()
        for name, value in module.state_dict().items()
    }


@pytest.mark.parametrize("encoder", ["mobilenet_v2", "tu-mobilenetv2_100"])
def test_torchvision_mobilenet_gives_torchvision_features(shared_data, encoder):
    from torchvision.models import mobilenet_v2

    segmenter, report = build_model(SmpModel(arch="fpn", encoder=encoder, weights=shared_data / MOBILENET), 3)
    reference = mobilenet_v2()
    reference.load_state_dict(load_file(shared_data / MOBILENET))
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = segmenter.eval().net.encoder(images)[1:]
        wanted, current = [], images
        for index, layer in enumerate(reference.eval().features):
            current = layer(current)
            # timm takes its last features before the 1x1 convolution to 1280 channels, SMP after it
            if index in (1, 3, 6, 13, 18 if encoder == "mobilenet_v2" else 17):
                wanted.append(current)
    assert len(features) == len(wanted) == 5
    for ours, theirs in zip(features, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert report is not None
    assert (len(report.loaded), report.adapted, report.missing) == (312 if encoder == "mobilenet_v2" else 306, (), ())
    assert {"classifier.1.weight", "classifier.1.bias"} <= set(report.unused)
    assert str(report).endswith(f"{len(report.loaded)} loaded, 0 adapted, 0 missing, {len(report.unused)} unused")


@pytest.mark.parametrize(("encoder", "missing"), [("mobilenet_v2", 5), ("tu-mobilenetv2_100", 0)])
def test_backbone_of_a_published_deeplab_fits_the_encoder(shared_data, encoder, missing):
    path = shared_data / "weights/deeplabv3_mobilenetv2_os8_voc21.safetensors"
    _, report = build_model(SmpModel(encoder=encoder, weights=path), 3)
    assert len(report.loaded) == 306
    assert len(report.missing) == missing, "features.18 is not in the file"
    assert all(name.startswith("head.") for name in report.unused)


def test_every_mobilenet_name_has_a_place_in_timm():
    import timm
    from torchvision.models import mobilenet_v2

    with torch.device("meta"):
        wanted = timm.create_model("mobilenetv2_100").state_dict()
        found = mobilenet_v2().state_dict()
    renamed = {RENAMINGS[1](name): tensor.shape for name, tensor in found.items() if "classifier" not in name}
    assert renamed == {name: tensor.shape for name, tensor in wanted.items() if "classifier" not in name}


@pytest.mark.parametrize(
    "form", ["bundle", "safetensors", "state_dict in pth", "plain pt", "module. prefix", "encoder"]
)
def test_forms_of_a_file(tmp_path, form):
    source, target = small(), small()
    tensors = noisy(source)
    source.load_state_dict(tensors)
    bare = {name.removeprefix("net."): value for name, value in tensors.items()}
    match form:
        case "bundle":
            path = tmp_path
            save_file(tensors, tmp_path / "model.safetensors")
        case "safetensors":
            save_file(tensors, path := tmp_path / "w.safetensors")
        case "state_dict in pth":
            torch.save({"state_dict": bare, "epoch": 3}, path := tmp_path / "w.pth")
        case "plain pt":
            torch.save(bare, path := tmp_path / "w.pt")
        case "module. prefix":
            torch.save({f"module.{name}": value for name, value in bare.items()}, path := tmp_path / "w.pth")
        case "encoder":
            encoder = {name.removeprefix("encoder."): value for name, value in bare.items() if "encoder" in name}
            torch.save(encoder, path := tmp_path / "w.pth")
    report = load_weights(target, path)
    assert (report.missing, report.unused, report.source) == ((), (), str(path))
    assert same(source, target, "encoder")
    assert same(source, target) == (form != "encoder")


def test_another_head_keeps_its_own_numbers(tmp_path):
    source, target = small(classes=3), small(classes=7)
    save_file(noisy(source), path := tmp_path / "w.safetensors")
    before = target.net.head.weight.clone()
    report = load_weights(target, path)
    assert torch.equal(before, target.net.head.weight)
    assert report.unused == ("net.head.bias", "net.head.weight")
    assert any("decoder" in name for name in report.loaded)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_first_convolution_is_adapted_to_the_image_channels(tmp_path, channels):
    source, target = small(), small(channels=channels)
    save_file(source.state_dict(), path := tmp_path / "w.safetensors")
    report = load_weights(target, path)
    assert report.adapted == ("net.encoder.stages.0.0.weight",)
    theirs, ours = source.net.encoder.stages[0][0].weight, target.net.encoder.stages[0][0].weight
    torch.testing.assert_close(ours[:, 0], theirs.sum(1) if channels == 1 else theirs[:, 0] * 3 / channels)
    if channels != 2:
        torch.testing.assert_close(ours.sum(1), theirs.sum(1), msg="a grey image has another response")


def test_half_precision_files_are_cast(tmp_path):
    source, target = small(), small()
    save_file({name: value.half() for name, value in source.state_dict().items()}, path := tmp_path / "w.safetensors")
    load_weights(target, path)
    assert target.net.head.weight.dtype == torch.float32
    torch.testing.assert_close(target.net.head.weight, source.net.head.weight, atol=1e-3, rtol=1e-3)


def test_a_file_for_another_network_fails_with_the_counts(tmp_path):
    target = small()
    before = noisy(target)
    target.load_state_dict(before)
    save_file({"layer1.weight": torch.ones(3), "layer2.weight": torch.ones(3)}, path := tmp_path / "other.safetensors")
    with pytest.raises(
        InputError, match=r"other\.safetensors: 0 loaded, 0 adapted, 30 missing, 2 unused.*got 0 of its 30"
    ):
        load_weights(target, path)
    save_file(small(width=8).state_dict(), path)
    with pytest.raises(InputError, match=r"The encoder got 0 of its 30 tensors"):
        load_weights(target, path)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items()), "half-loaded"


def test_an_encoder_with_a_tenth_missing_is_refused(tmp_path):
    source = {name: value for name, value in small().state_dict().items() if "encoder" in name}
    kept = {name: value for name, value in source.items() if "stages.1.1" not in name}
    save_file(kept, path := tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="got 26 of its 30"):
        load_weights(small(), path)
    kept = {name: value for name, value in source.items() if name != "net.encoder.stages.1.1.bias"}
    save_file(kept, path)
    assert load_weights(small(), path).missing == ("net.encoder.stages.1.1.bias",)


class Trap:
    """Pickles into a call: what a malicious weights file holds."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(2)}, "trap": Trap(tmp_path / "ran")}, path := tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth: refused.*could run any code"):
        load_weights(small(), path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("kept", [0, 5, 100, -20])
def test_truncated_files_are_named(tmp_path, name, kept):
    path = tmp_path / name
    tensors = small().state_dict()
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=rf"{name}: .*damaged"):
        load_weights(small(), path)


def test_what_is_no_weights_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no file .*nowhere\.pth; write none, pretrained, or the path"):
        load_weights(small(), tmp_path / "nowhere.pth")
    with pytest.raises(InputError, match=r"a folder without model\.safetensors"):
        load_weights(small(), tmp_path)
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(InputError, match=r"w\.h5: weights files end in \.safetensors"):
        load_weights(small(), tmp_path / "w.h5")
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    with pytest.raises(InputError, match=r"tensor\.pth: holds a Tensor"):
        load_weights(small(), tmp_path / "tensor.pth")
    torch.save({"epoch": 1}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match=r"empty\.pth: no tensors of a network in it"):
        load_weights(small(), tmp_path / "empty.pth")
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"pointer\.safetensors: damaged or no safetensors file \(43 bytes"):
        load_weights(small(), tmp_path / "pointer.safetensors")


def test_bare_build_ignores_weights(tmp_path):
    cfg = UNetModel(width=4, depth=2, weights=tmp_path / "gone.safetensors")
    assert build_model(cfg, 3, pretrained=False)[1] is None
    with pytest.raises(InputError, match="no file"):
        build_model(cfg, 3)


def test_own_network_from_a_file(tmp_path):
    net = nn.Conv2d(3, 4, 1)
    save_file(noisy(net), path := tmp_path / "w.safetensors")
    before = net.weight.detach().clone()
    model, report = build_model(OwnModel(weights=path), 4, own=net)
    assert report.loaded == ("net.weight", "net.bias")
    assert torch.equal(model.net.weight, load_file(path)["weight"])
    assert torch.equal(net.weight, before), "what was passed stays as it is"


def test_canonical_names():
    assert canonical("module.encoder.model.stages_0.blocks.1.weight") == "stages.0.blocks.1.weight"
    assert canonical("net.decoder.blocks.x_0_1.conv1.weight") == "decoder.blocks.x_0.1.conv1.weight"
    assert canonical("layer1.0.conv1.weight") == "layer1.0.conv1.weight"
