"""Encoders of timm under our decoders: timm's own numbers, any size of image, weights of every origin, refusals."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

import terrazzo
from settings_own import OwnSet
from terrazzo.base import IMAGENET, InputError
from terrazzo.config import config_of
from terrazzo.models import Segmenter, TimmModel, build_model
from terrazzo.models.blocks import parameter_depths

pytestmark = pytest.mark.usefixtures("one_thread")

VIT = "vit_tiny_patch16_224"


def network(encoder: str = VIT, kind: str = "linear", channels: int = 3, **options) -> Segmenter:
    torch.manual_seed(0)
    chosen = {"decoder": {"kind": kind}, "weights": "none"} | options
    return build_model(TimmModel(encoder=encoder, **chosen), 3, channels)[0]


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def maps_of(segmenter: Segmenter, images: Tensor) -> list[Tensor]:
    """What the decoder is given."""
    seen: list[list[Tensor]] = []
    hook = segmenter.net.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.inference_mode():
        segmenter.eval()(images)
    hook.remove()
    return seen[-1]


def test_maps_of_a_transformer_are_timms_own():
    """Against timm's model without any option for other sizes, behind its last norm and without the class token."""
    segmenter, images = network(image_size=112), noise(1, 3, 112, 112)
    plain = timm.create_model(VIT, num_classes=0, img_size=112).eval()
    plain.load_state_dict(segmenter.net.encoder.state_dict())
    with torch.inference_mode():
        wanted = plain.forward_features(segmenter.normalized(images))[:, 1:].transpose(1, 2).unflatten(2, (7, 7))
    torch.testing.assert_close(maps_of(segmenter, images)[-1], wanted, atol=1e-5, rtol=1e-4)


def test_maps_of_a_convolutional_network_are_timms_own():
    segmenter, images = network("resnet18", "fpn"), noise(1, 3, 64, 96)
    plain = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    plain.load_state_dict(segmenter.net.encoder.state_dict())
    with torch.inference_mode():
        wanted = plain(segmenter.normalized(images))
    for found, expected in zip(maps_of(segmenter, images), wanted, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("encoder", "sides"), [
    (VIT, [16, 8, 4, 2]),
    ("vit_small_patch14_dinov2", [16, 8, 4, 2]),  # strides 7 to 56 of 112 pixels
    ("vit_small_patch8_224", [28, 14, 7, 4]),
    ("samvit_base_patch16", [28, 14, 7, 4]),  # without its neck
    ("swin_tiny_patch4_window7_224", [32, 16, 8, 4]),
    ("convmixer_768_32", [16, 8, 4, 2]),
])  # fmt: skip
def test_every_decoder_gets_maps_of_four_sizes(encoder, sides):
    side = {VIT: 64, "swin_tiny_patch4_window7_224": 128}.get(encoder, 112)
    with torch.device("meta"):
        segmenter = network(encoder, "fpn")
        maps = maps_of(segmenter, torch.empty(1, 3, side, side))
    assert [current.shape[-1] for current in maps] == sides


@pytest.mark.parametrize(("options", "layers"), [
    ({}, [11]),
    ({"aux": True}, [8, 11]),
    ({"layers": (4,)}, [4]),
    ({"decoder": {"kind": "fpn"}}, [2, 5, 8, 11]),
    ({"decoder": {"kind": "uper"}, "layers": (1, 10)}, [1, 10]),
    ({"encoder": "mobilevit_xxs"}, [4]),
    ({"encoder": "mobilevit_xxs", "decoder": {"kind": "segformer"}}, [1, 2, 3, 4]),
])  # fmt: skip
def test_layers_that_are_read_and_blocks_that_are_left(options, layers):
    with torch.device("meta"):
        net = network(**options).net
    assert net.layers == layers
    if not options.get("encoder"):
        assert len(net.encoder.blocks) == layers[-1] + 1


@pytest.mark.parametrize("encoder", ["vit_pwee_patch16_reg1_gap_256", "eva02_tiny_patch14_224"])
def test_a_norm_behind_the_pooling_is_the_last_norm_of_the_maps(encoder):
    with torch.device("meta"):
        plain, ours = timm.create_model(encoder), network(encoder).net.encoder
    assert isinstance(plain.norm, torch.nn.Identity)
    assert type(ours.norm) is type(plain.fc_norm)


def test_images_of_one_size_only():
    segmenter = network("beit_base_patch16_224", image_size=64)
    assert (segmenter.stride, segmenter.smallest) == (64, 64)
    with torch.inference_mode():
        output = segmenter.eval()(noise(1, 3, 50, 30))
        assert output.covers == (64, 64)
        assert output.logits.shape == (1, 3, 4, 4)
        with pytest.raises(InputError, match=r"at most 64 x 64 pixels.*augment\.crop=64.*window=\{size: 64\}"):
            segmenter(noise(1, 3, 50, 65))


@pytest.mark.parametrize(("options", "message"), [
    ({"encoder": "beit_base_patch16_224"}, r"does not take images of any size.*model\.image_size=224.*another number"),
    ({"encoder": "levit_128s", "image_size": 256}, r"levit_128s cannot be used for images of 256 x 256 pixels"),
    ({"encoder": "resnet18", "image_size": 224}, r"image_size=224 changes nothing: resnet18 takes images of any size"),
    ({"encoder": "vit_tinny_patch16_224"}, rf"no model 'vit_tinny_patch16_224'; did you mean .*{VIT}"),
    ({"encoder": "resnet18.foo"}, r"timm cannot build resnet18\.foo: Invalid pretrained tag"),
    ({"encoder": "vgg11", "drop_path": 0.1}, r"timm cannot build vgg11: .*drop_path_rate"),
    ({"encoder": "resnet18", "decoder": {"kind": "eomt"}}, r"resnet18 is a ResNet; give model\.encoder a vit_"),
    ({"decoder": {"kind": "eomt", "blocks": 13}}, rf"blocks=13, but {VIT} has 12 blocks"),
    ({"layers": (12,)}, rf"layers=\[12\], but {VIT} has 12 blocks; the last is 11"),
    ({"encoder": "resnet18", "layers": (5,)}, r"5 stages of strides 2, 4, 8, 16, 32; the last is 4"),
    ({"decoder": {"kind": "fpn"}, "layers": (3,), "aux": True}, r"model\.aux reads the last map but one"),
    ({"encoder": "levit_128s"}, r"128s does not take images of any size.*; type model\.image_size=224, which .* at$"),
    ({"encoder": "legacy_xception", "decoder": {"kind": "fpn"}}, r"299 x 299 pixels: 74 x 74 cells do not lie evenly"),
])  # fmt: skip
def test_what_cannot_be_built_gets_a_reason(options, message):
    with torch.device("meta"), pytest.raises(InputError, match=message):
        network(**options)


@pytest.mark.parametrize(("options", "message"), [
    ({"layers": [3, 2]}, "numbers that rise"),
    ({"layers": []}, "one or more numbers"),
    ({"layers": [1, 2]}, r"kind=linear reads one layer"),
    ({"layers": [1], "aux": True}, r"give 2, or another decoder"),
    ({"decoder": {"kind": "eomt"}, "aux": True}, "leave out aux"),
    ({"decoder": {"kind": "eomt"}, "layers": [1]}, "leave out layers"),
    ({"decoder": {"kind": "fpm"}}, r"'fpm' is not one of 'linear', 'fpn'|fpm"),
])  # fmt: skip
def test_settings_that_would_change_nothing_are_refused(options, message):
    model = {"kind": "timm", "encoder": VIT, **options}
    with pytest.raises(InputError, match=message):
        config_of({"data": {"kind": "own"}, "model": model})


def test_uper_says_that_it_needs_two_images():
    segmenter = network("resnet18", "uper").train()
    with pytest.raises(InputError, match=r"a single image to train on.*model\.decoder\.kind=fpn"):
        segmenter(noise(1, 3, 64, 64))


def test_mean_and_std_follow_the_weights():
    with torch.device("meta"):
        assert network("resnet18").normalization == IMAGENET
        assert network("tu-vit_tiny_patch16_224.augreg_in21k").normalization.mean == (0.5, 0.5, 0.5)
        assert network(channels=1).normalization.mean == (0.5,)
        assert network(mean=(1, 2, 3), std=(4, 5, 6), max_value=255).normalization.std == (4, 5, 6)


def test_depths_of_layers_rise_from_the_patches_to_the_last_norm():
    segmenter = network()
    depths, _ = parameter_depths(segmenter)
    assert depths.keys() == {name for name, _ in segmenter.named_parameters() if segmenter.role(name) == "encoder"}
    prefixes = ["patch_embed.proj", "blocks.0.norm1", *(f"blocks.{block}.mlp.fc2" for block in range(12))]
    found = [depths[f"net.encoder.{prefix}.weight"] for prefix in prefixes]
    assert found == [0, *found[1:2], *range(1, 13)]
    assert depths["net.encoder.pos_embed"] == 0
    assert depths["net.encoder.norm.weight"] >= 12


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """timm's own names, positions for 224 pixels, a classifier, and a tensor that the encoder has no place for."""
    path = tmp_path_factory.mktemp("published") / "vit.safetensors"
    torch.manual_seed(5)
    tensors = {name: tensor + 0.01 for name, tensor in timm.create_model(VIT).state_dict().items()}
    save_file(tensors | {"mask_token": torch.ones(1)}, path)
    return path


class TestWeights:
    """A file of the encoder alone, of a whole network, of another encoder."""

    @pytest.mark.parametrize(("decoder", "channels"), [("linear", 3), ("eomt", 1)])
    def test_timms_file(self, published, decoder, channels):
        cfg = TimmModel(encoder=VIT, decoder={"kind": decoder}, image_size=64, weights=published)
        segmenter, report = build_model(cfg, 3, channels)
        assert report is not None
        assert report.missing == ()
        own = segmenter.net.encoder
        assert own.pos_embed.shape == (1, 1 + 4 * 4, 192), "resampled from 14 x 14"
        plain = timm.create_model(VIT, num_classes=0, in_chans=channels, img_size=64, pretrained=True,
                                  pretrained_cfg_overlay={"file": str(published)})  # fmt: skip
        for name, tensor in plain.state_dict().items():
            assert torch.equal(own.state_dict()[name], tensor), name
        assert report.adapted == (("net.encoder.patch_embed.proj.weight",) if channels == 1 else ())

    def test_a_whole_network_and_its_encoder_with_a_wrappers_names(self, tmp_path):
        trained = network(kind="fpn")
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(0.01)
        save_file(trained.state_dict(), tmp_path / "whole.safetensors")
        encoder = {f"module.backbone.{k}": v for k, v in trained.net.encoder.state_dict().items()}
        torch.save({"state_dict": encoder}, tmp_path / "wrapped.pth")
        whole, _ = build_model(
            TimmModel(encoder=VIT, decoder={"kind": "fpn"}, weights=tmp_path / "whole.safetensors"), 3
        )
        assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in whole.state_dict().items())
        cfg = TimmModel(encoder=VIT, decoder={"kind": "fpn"}, weights=tmp_path / "wrapped.pth")
        wrapped, report = build_model(cfg, 3)
        assert report is not None
        assert report.missing == ()
        assert torch.equal(wrapped.net.encoder.pos_embed, trained.net.encoder.pos_embed)

    def test_another_encoders_file(self, published):
        with pytest.raises(InputError, match=r"The encoder got .* of its .* tensors"):
            build_model(TimmModel(encoder="resnet18", weights=published), 3)


def test_a_run_is_trained_kept_and_loaded(tmp_path, monkeypatch):
    """Two steps on the CPU, blocks recomputed; the bundle needs neither the recipe nor a file of weights."""
    monkeypatch.chdir(tmp_path)
    model = {"kind": "timm", "encoder": VIT, "decoder": {"kind": "fpn", "width": 16}, "aux": True, "weights": "none"}
    run = {"augment": {"crop": 24}, "step": {"recompute": True}, "length": {"steps": 2}, "batch": 2, "threads": 1}
    terrazzo.train(
        {"data": {"kind": "own"}, "device": "cpu", "model": model, **run}, train_set=OwnSet(), val_set=OwnSet()
    )
    output = terrazzo.load_network("runs/run")(noise(1, 3, 30, 40))
    assert output.logits.shape == (1, 2, 8, 12)
    assert len(output.aux) == 1


def test_a_file_that_nobody_can_use_says_what_timm_said_too(tmp_path):
    torch.save({"nobody.knows.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    cfg = TimmModel(encoder="resnet10t", weights=tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth.*timm itself could not take the file either"):
        build_model(cfg, 4)
