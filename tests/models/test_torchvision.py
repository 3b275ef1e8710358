"""torchvision's networks: the numbers of its own forward, its published files, weights for the backbone alone."""

import os
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.kernels import upsample
from terrazzo.models import FcnResnetModel, SegFormerModel, TorchvisionModel, build_model
from terrazzo.models.torchvision import TorchvisionArch

pytestmark = pytest.mark.usefixtures("one_thread")

LRASPP = "lraspp_mobilenet_v3_large"
DEEPLAB = "deeplabv3_mobilenet_v3_large"


def noisy(module: nn.Module) -> dict[str, Tensor]:
    """A state dict in which every number is unlike any initial value."""
    return {
        name: value + 0.01 * torch.rand_like(value) if value.is_floating_point() else value.clone()
        for name, value in module.state_dict().items()
    }


def bare(arch: str, **options: Any) -> TorchvisionModel:
    return TorchvisionModel(arch=arch, weights_backbone="none", **options)


def test_architectures_are_all_of_torchvision():
    from torchvision.models import list_models, segmentation

    assert set(get_args(TorchvisionArch)) == set(list_models(module=segmentation))


@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("arch", ["fcn_resnet50", "deeplabv3_resnet50", DEEPLAB, LRASPP])
def test_enlarged_logits_equal_torchvisions_own_forward(arch, aux):
    from torchvision.models import get_model

    if aux and arch == LRASPP:
        pytest.skip("it has no auxiliary head")
    ours = build_model(bare(arch, aux=aux), 5)[0].eval()
    theirs = get_model(arch, weights=None, weights_backbone=None, num_classes=5, aux_loss=aux).eval()
    theirs.load_state_dict(ours.net.state_dict())  # strict: the tensors have torchvision's names

    images = torch.randint(0, 256, (2, 3, 60, 75), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = ours(images)
        height, width = (int(side) for side in output.covers)
        padded = functional.pad(ours.normalized(images), (0, width - 75, 0, height - 60))
        wanted = theirs(padded)
        for name, logits in (("out", output.logits), *(("aux", logits) for logits in output.aux)):
            assert logits.shape[-2:] < (height, width)
            whole = upsample(logits, (height, width), output.covers, align_corners=output.align_corners)
            # Both enlarge the same numbers; only the order of four products differs.
            torch.testing.assert_close(whole, wanted[name], atol=1e-5 * float(wanted[name].abs().max()), rtol=1e-4)
    assert len(output.aux) == aux


@pytest.mark.parametrize("arch", ["fcn_resnet101", "deeplabv3_resnet101"])
def test_the_deep_ones_on_meta(arch):
    """Over 50 million parameters: shapes only."""
    with torch.device("meta"):
        segmenter = build_model(bare(arch, aux=True), 5)[0]
    output = segmenter(torch.empty(2, 3, 50, 70, device="meta"))
    assert [tuple(logits.shape) for logits in (output.logits, *output.aux)] == [(2, 5, 7, 9)] * 2


def test_the_last_layers_are_the_head():
    roles = {name: build_model(bare(DEEPLAB, aux=True), 5)[0].role(name) for name in (
        "net.backbone.0.0.weight", "net.classifier.0.convs.0.0.weight", "net.classifier.4.weight",
        "net.aux_classifier.0.weight",
    )}  # fmt: skip
    assert list(roles.values()) == ["encoder", "decoder", "head", "head"]
    lraspp = build_model(bare(LRASPP), 5)[0]
    heads = {name for name, _ in lraspp.named_parameters() if lraspp.role(name) == "head"}
    assert heads == {
        f"net.classifier.{layer}.{tensor}" for layer in ("low_classifier", "high_classifier")
        for tensor in ("weight", "bias")
    }  # fmt: skip


def test_lraspp_has_no_auxiliary_head():
    with pytest.raises(ValidationError, match=f"{LRASPP} has no auxiliary head: write aux: false"):
        TorchvisionModel(arch=LRASPP, aux=True)


@pytest.fixture
def torch_home(tmp_path, monkeypatch) -> Path:
    """A folder where torch finds "downloaded" files; hashes are checked by torch at the download only."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    folder = tmp_path / "torch_home/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def publish(folder: Path, name: str, content: object = None) -> dict[str, Tensor]:
    """Put unlikely numbers where torchvision looks for the published ones of a network."""
    from torchvision.models import get_model, get_model_weights

    torch.manual_seed(7)
    options = {} if name.startswith("resnet") or name.startswith("mobilenet") else {"weights_backbone": None}
    tensors = noisy(get_model(name, weights=None, **options))
    file = next(iter(get_model_weights(name))).url.rpartition("/")[2]
    torch.save(tensors if content is None else content, folder / file)
    return tensors


def test_published_weights_of_the_whole_network(torch_home):
    tensors = publish(torch_home, LRASPP)
    segmenter, report = build_model(TorchvisionModel(arch=LRASPP, weights="pretrained"), 21)
    state = segmenter.net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in tensors.items())
    assert report.source.endswith("/lraspp_mobilenet_v3_large-d234d4ea.pth")
    assert (len(report.loaded), report.missing, report.unused) == (len(tensors), (), ())

    segmenter, report = build_model(TorchvisionModel(arch=LRASPP, weights="pretrained"), 5)
    heads = {name for name in tensors if segmenter.role(name) == "head"}
    assert set(report.unused) == heads, "the two last convolutions have 21 classes in the file"
    assert len(heads) == 4
    assert len(report.loaded) == len(tensors) - 4


def test_published_weights_of_the_backbone_alone(torch_home):
    tensors = publish(torch_home, "mobilenet_v3_large")
    torch.manual_seed(1)
    untouched = build_model(bare(DEEPLAB), 5)[0].state_dict()
    torch.manual_seed(1)
    segmenter, report = build_model(TorchvisionModel(arch=DEEPLAB), 5)
    for name, value in segmenter.state_dict().items():
        if segmenter.role(name) == "encoder":
            assert torch.equal(value, tensors[name.replace("net.backbone", "features")])
        else:
            assert torch.equal(value, untouched[name])
    assert report.missing == ()
    assert set(report.unused) == {f"classifier.{layer}.{part}" for layer in (0, 3) for part in ("weight", "bias")}


@pytest.mark.parametrize("channels", [1, 6])
def test_published_weights_are_adapted_to_the_images_channels(torch_home, channels):
    tensors = publish(torch_home, "resnet18")
    segmenter, report = build_model(FcnResnetModel(encoder="resnet18"), 5, channels)
    assert report.adapted == ("net.encoder.conv1.weight",)
    assert report.unused == ("fc.weight", "fc.bias")
    adapted = segmenter.net.encoder.conv1.weight
    torch.testing.assert_close(adapted.sum(1), tensors["conv1.weight"].sum(1), msg="a grey image has another response")
    assert torch.equal(segmenter.net.encoder.layer4[1].conv2.weight, tensors["layer4.1.conv2.weight"])


class Trap:
    """Pickles into a call: what a malicious weights file holds."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_published_files_run_no_code_when_loaded(torch_home, tmp_path):
    publish(torch_home, LRASPP, Trap(tmp_path / "ran"))
    with pytest.raises(InputError, match=f"torchvision's weights of {LRASPP} could not be loaded from https://.*pth"):
        build_model(TorchvisionModel(arch=LRASPP, weights="pretrained"), 21)
    assert not (tmp_path / "ran").exists()


def test_damaged_published_files_say_what_to_type(torch_home):
    publish(torch_home, LRASPP)
    (file,) = torch_home.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="give a local file instead of pretrained, or none"):
        build_model(TorchvisionModel(arch=LRASPP, weights="pretrained"), 21)


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_for_the_whole_or_for_the_backbone_alone(tmp_path, whole):
    source = build_model(FcnResnetModel(encoder="resnet18", weights_backbone="none"), 5)[0]
    source.load_state_dict(noisy(source))
    save_file(source.state_dict(), path := tmp_path / "model.safetensors")
    setting = {"weights": path} if whole else {"weights_backbone": path}
    segmenter, report = build_model(FcnResnetModel(encoder="resnet18", **setting), 5)
    equal = {segmenter.role(name): [] for name in segmenter.state_dict()}
    for name, value in segmenter.state_dict().items():
        equal[segmenter.role(name)].append(torch.equal(value, source.state_dict()[name]))
    assert all(equal["encoder"])
    assert all(equal["head"]) == whole
    assert report.missing == ()
    assert bool(report.unused) != whole


def test_a_backbone_from_a_run_of_another_kind(tmp_path):
    """Pretrained as fcn_resnet, fine-tuned as torchvision's: the encoders have the same tensors."""
    source = build_model(FcnResnetModel(encoder="resnet50", weights_backbone="none"), 3)[0]
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    segmenter, _ = build_model(TorchvisionModel(arch="fcn_resnet50", weights_backbone=tmp_path), 5)
    state = segmenter.net.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in source.net.encoder.state_dict().items())


def test_weights_and_backbone_weights_exclude_each_other(tmp_path):
    path = tmp_path / "w.pth"
    with pytest.raises(ValidationError, match=r"weights=pretrained brings the backbone too, .* give one of the two"):
        TorchvisionModel(weights="pretrained", weights_backbone="pretrained")
    with pytest.raises(ValidationError, match="give one of the two"):
        SegFormerModel(weights=path, weights_backbone=path)
    assert TorchvisionModel(weights=path, weights_backbone="none").start == (path, False)
    assert TorchvisionModel().start == ("pretrained", True)
    assert SegFormerModel().start == ("none", True)


@pytest.mark.parametrize(
    ("member", "setting"),
    [(FcnResnetModel, "weights"), (SegFormerModel, "weights"), (SegFormerModel, "weights_backbone")],
)
def test_what_nobody_publishes_is_no_path_either(member, setting):
    with pytest.raises(ValidationError, match=f"{setting}=pretrained: nobody publishes"):
        member(**{setting: "pretrained"})


def test_a_first_convolution_for_other_channels_starts_as_torchvisions():
    """He's normal numbers by the outgoing connections, which do not depend on the image's channels."""
    torch.manual_seed(0)
    first = [
        build_model(FcnResnetModel(encoder="resnet18", weights_backbone="none"), 5, channels)[0].net.encoder.conv1
        for channels in (3, 4)
    ]
    for conv in first:
        # 9408 numbers and more: their standard deviation is known to 1 %
        assert float(conv.weight.detach().std()) == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.04)
    assert first[0].bias is first[1].bias is None
    assert first[0].padding == first[1].padding == (3, 3)
