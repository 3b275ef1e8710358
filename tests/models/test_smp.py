"""segmentation-models-pytorch: the same numbers as its own forward, refusals with reasons, unused parts taken out."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional

from terrazzo.base import IMAGENET, InputError
from terrazzo.kernels import upsample
from terrazzo.models import ModelConfig, SmpModel, build_model, list_models
from terrazzo.models.smp import DPN, INCEPTION, Arch
from terrazzo.models.torchvision import TorchvisionArch

pytestmark = pytest.mark.usefixtures("one_thread")


def smp_segmenter(arch: str, encoder: str, classes: int = 5, channels: int = 3):
    return build_model(SmpModel(arch=arch, encoder=encoder, weights="none"), classes, channels)[0]


def test_architectures_are_all_of_smp():
    import segmentation_models_pytorch as smp

    assert set(get_args(Arch)) == set(smp.MODEL_ARCHITECTURES_MAPPING)


@pytest.mark.parametrize("arch", get_args(Arch))
def test_enlarged_logits_equal_smps_own_forward(arch):
    import segmentation_models_pytorch as smp

    encoder = "tu-vit_tiny_patch16_224" if arch == "dpt" else "tu-mobilenetv3_small_050"
    options = {"dynamic_img_size": True} if arch == "dpt" else {}
    torch.manual_seed(0)
    ours = smp_segmenter(arch, encoder).eval()
    theirs = smp.create_model(arch, encoder, encoder_weights=None, classes=5, **options).eval()
    unfit = theirs.load_state_dict(ours.net.state_dict(), strict=False)
    assert unfit.unexpected_keys == []
    assert all("encoder" in key for key in unfit.missing_keys), "only unused stages of the encoder may be gone"

    images = torch.randint(0, 256, (2, 3, 120, 150), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = ours(images)
        height, width = (int(side) for side in output.covers)
        padded = functional.pad(ours.normalized(images), (0, width - 150, 0, height - 120))
        whole = upsample(output.logits, (height, width), output.covers, align_corners=output.align_corners)
        wanted = theirs(padded)
        # torch's own enlargement is up to 1e-6 of the largest logit (28 with dpt) away from float64's.
        torch.testing.assert_close(whole, wanted, atol=max(1e-5, 3e-6 * float(wanted.abs().max())), rtol=1e-4)
        cropped = upsample(output.logits, (120, 150), output.covers, align_corners=output.align_corners)
        torch.testing.assert_close(cropped, whole[:, :, :120, :150], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("written", ["Unet", "UNET", "smp.Unet", "unet"])
def test_architecture_in_any_case(written):
    cfg = TypeAdapter(ModelConfig).validate_python({"kind": "smp", "arch": written})
    assert cfg.arch == "unet"


def test_unknown_architecture_lists_the_known():
    with pytest.raises(ValidationError, match=r"'unet', 'unetplusplus', .* or 'dpt'"):
        SmpModel(arch="unett")


@pytest.mark.parametrize(("encoder", "message"), [
    ("resnet43", r"no encoder 'resnet43'; did you mean .*resnet34"),
    ("convnext_tiny", "did you mean tu-convnext_tiny"),
    ("mit-b0", "did you mean mit_b0"),
    ("qqqqqqqq", "no encoder 'qqqqqqqq'; all names: terrazzo models list"),
    ("resnet18.foo", "resnet18 has no weights 'foo'; it has imagenet, ssl, swsl"),
    ("tu-resnet18.foo", r"Invalid pretrained tag \(foo\)"),
])  # fmt: skip
def test_unknown_encoders_get_a_suggestion(encoder, message):
    with pytest.raises(InputError, match=message):
        smp_segmenter("unet", encoder)


@pytest.mark.parametrize(("arch", "encoder", "reason"), [
    ("unetplusplus", "mit_b0", "UnetPlusPlus is not support encoder_name=mit_b0"),
    ("linknet", "mit_b0", "Encoder `mit_b0` is not supported for Linknet"),
    ("dpt", "resnet18", "Only Timm encoders are supported for DPT"),
    ("unet", "tu-vit_tiny_patch16_224", "downsampling pattern.*; plain vision transformers need model.arch=dpt"),
    ("deeplabv3", "vgg11", "dilated mode"),
    ("pan", "tu-fastvit_t8", "output_stride.*; it cannot be dilated"),
    ("fpn", "tu-coat_lite_tiny", "it does not take images of any size: Input height.*; model.kind=timm has it with"),
])  # fmt: skip
def test_impossible_pairs_give_smps_reason(arch, encoder, reason):
    with pytest.raises(InputError, match=f"(?i)SMP's {arch} cannot use the encoder {encoder}: .*{reason}"):
        smp_segmenter(arch, encoder)


@pytest.mark.parametrize(("encoder", "normalization"), [
    ("resnet18", IMAGENET),
    ("dpn68", DPN),
    ("xception", INCEPTION),
    ("efficientnet-b0.advprop", INCEPTION),
    ("tu-mobilenetv2_100", IMAGENET),
    ("tu-tf_mobilenetv3_small_minimal_100", INCEPTION),
])  # fmt: skip
def test_mean_and_std_follow_the_encoder(encoder, normalization):
    with torch.device("meta"):
        assert smp_segmenter("fpn", encoder).normalization == normalization


def test_mean_and_std_can_be_given():
    cfg = SmpModel(encoder="resnet18", weights="none", mean=(1, 2, 3), std=(4, 5, 6), max_value=255)
    with torch.device("meta"):
        assert build_model(cfg, 2)[0].normalization.mean == (1, 2, 3)
        with pytest.raises(InputError, match=r"^model\.mean has 3 numbers, .* the images have 4 channels"):
            build_model(cfg, 2, 4)


def test_stages_that_no_logit_depends_on_are_taken_out():
    segmenter = smp_segmenter("pspnet", "resnet18")
    assert not any("layer3" in name or "layer4" in name for name in segmenter.state_dict())
    assert all(parameter.requires_grad for parameter in segmenter.parameters())
    transformer = smp_segmenter("dpt", "tu-vit_tiny_patch16_224")
    assert not any(name.startswith("net.encoder.model.head") for name in transformer.state_dict())


def test_a_window_transformers_stride_is_the_size_it_was_trained_at():
    with torch.device("meta"):
        assert smp_segmenter("fpn", "tu-maxvit_nano_rw_256").stride == 256
        assert smp_segmenter("fpn", "tu-swin_tiny_patch4_window7_224").stride == 32


@pytest.mark.parametrize("channels", [1, 5])
def test_other_numbers_of_channels(channels):
    segmenter = smp_segmenter("unet", "resnet18", channels=channels)
    assert segmenter(torch.zeros(2, channels, 32, 32, dtype=torch.uint8)).logits.shape == (2, 5, 32, 32)


def test_the_same_seed_gives_the_same_network():
    torch.manual_seed(4)
    first = smp_segmenter("unet", "resnet18").state_dict()
    torch.manual_seed(4)
    second = smp_segmenter("unet", "resnet18").state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_list_models():
    everything = list_models()
    kinds = {member.model_fields["kind"].default for member in get_args(get_args(ModelConfig)[0])}
    kinds -= {"zoo"}  # listed beside these from the catalog: tests/test_cli_models.py
    assert {entry.kind for entry in everything} == kinds
    named = {*get_args(Arch), *get_args(TorchvisionArch), *(kinds - {"smp", "torchvision"})}
    assert {entry.name for entry in everything if entry.part == "architecture"} == named
    assert {entry.kind for entry in list_models("lraspp")} == {"torchvision"}
    (resnet50,) = [entry for entry in list_models("resnet50") if entry.name == "resnet50"]
    assert (resnet50.family, resnet50.weights) == ("resnet", ("imagenet", "ssl", "swsl"))
    convnexts = list_models("TU-convnext_*")
    assert len(convnexts) > 5
    assert all(entry.name.startswith("tu-convnext_") for entry in convnexts)
    assert "in12k_ft_in1k" in {tag for entry in convnexts for tag in entry.weights}
    assert list_models("no such model") == []
