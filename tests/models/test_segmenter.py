"""The wrapper around every network: normalising, padding, what a network may answer; own networks and the UNet."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from terrazzo.base import IMAGENET, InputError, Normalization
from terrazzo.models import OwnModel, Segmenter, SmpModel, UNetModel, build_model, with_normalization
from terrazzo.models.segmenter import probe
from terrazzo.output import Output


class Echo(nn.Module):
    """Answers its input and keeps it."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return images


class Answers(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor):
        return self.answer(images)


class Parts(nn.Module):
    """A user's network whose parts carry other libraries' names."""

    def __init__(self, classes: int = 5):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.neck = nn.Conv2d(8, 8, 1)
        self.classifier = nn.Conv2d(8, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.neck(self.backbone(images)))


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def wrap(net: nn.Module, stride: int = 1, normalization: Normalization = IMAGENET, smallest: int = 1) -> Segmenter:
    return Segmenter(net, normalization=normalization, stride=stride, smallest=smallest)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("white", [1.0, 255.0])
def test_normalises_in_the_scale_and_order_of_the_weights(white, order):
    norm = Normalization(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), max_value=white, channel_order=order)
    echo, batch = Echo(), images(2, 3, 8, 8)
    wrap(echo, normalization=norm)(batch)
    ordered = (batch if order == "rgb" else batch[:, [2, 1, 0]]).double() / 255 * white
    expected = (ordered - torch.tensor(norm.mean).view(3, 1, 1)) / torch.tensor(norm.std).view(3, 1, 1)
    torch.testing.assert_close(echo.seen.double(), expected, atol=1e-3 if white > 1 else 1e-6, rtol=1e-5)


def test_floats_of_0_to_255_are_taken_as_bytes_are():
    echo, batch = Echo(), images(1, 3, 8, 8)
    wrap(echo)(batch)
    from_bytes = echo.seen
    wrap(echo)(batch.float())
    assert torch.equal(from_bytes, echo.seen)


@pytest.mark.parametrize(("size", "stride", "smallest", "padded"), [
    ((70, 90), 32, 1, (96, 96)),
    ((64, 96), 32, 1, (64, 96)),
    ((1, 33), 16, 1, (16, 48)),
    ((20, 200), 16, 128, (128, 208)),
])  # fmt: skip
def test_pads_bottom_and_right_with_the_mean_colour(size, stride, smallest, padded):
    echo = Echo()
    output = wrap(echo, stride, smallest=smallest)(images(1, 3, *size))
    assert echo.seen.shape[-2:] == padded
    assert output.covers == padded
    assert (echo.seen[:, :, size[0] :] == 0).all()
    assert (echo.seen[:, :, :, size[1] :] == 0).all()
    assert echo.seen[:, :, : size[0], : size[1]].abs().min() > 0


def test_keeps_channels_last():
    echo = Echo()
    wrap(echo, 32)(images(2, 3, 40, 40).to(memory_format=torch.channels_last))
    assert echo.seen.is_contiguous(memory_format=torch.channels_last)


def test_numbers_follow_the_type_of_the_network():
    echo = Echo()
    wrap(echo).double()(images(1, 3, 8, 8))
    assert echo.seen.dtype == torch.float64


def test_takes_a_tensor_a_tuple_or_an_output():
    batch = images(1, 3, 30, 30)
    alone = wrap(Answers(lambda x: x), 16)(batch)
    assert (alone.aux, alone.covers) == ((), (32, 32))
    several = wrap(Answers(lambda x: (x, x[:, :, ::2], x[:, :, ::4])), 16)(batch)
    assert [tuple(aux.shape) for aux in several.aux] == [(1, 3, 16, 32), (1, 3, 8, 32)]
    placed = wrap(Answers(lambda x: Output(logits=x, align_corners=True)), 16)(batch)
    assert (placed.covers, placed.align_corners) == ((32, 32), True)
    own_covers = wrap(Answers(lambda x: Output(logits=x, covers=(30.5, 30.5))), 16)(batch)
    assert own_covers.covers == (30.5, 30.5)


@pytest.mark.parametrize("answer", [lambda x: {"out": x}, lambda x: (x, {"aux": x}), lambda x: None, lambda x: ()])
def test_another_answer_is_named(answer):
    with pytest.raises(InputError, match=r"the network Answers answers a \w+; expected logits"):
        wrap(Answers(answer))(images(1, 3, 8, 8))


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match=r"this network takes \[B, 3, H, W\]"):
        wrap(Echo())(images(*shape))


def test_normalization_fits_other_channel_counts():
    assert IMAGENET.for_channels(3) is IMAGENET
    assert IMAGENET.for_channels(1).mean == pytest.approx((0.449,))
    five = IMAGENET.for_channels(5)
    assert five.mean == (0.485, 0.456, 0.406, 0.485, 0.456)
    assert five.std == (0.229, 0.224, 0.225, 0.229, 0.224)


def test_normalization_overrides():
    cfg = UNetModel(mean=(1, 2, 3, 4), std=(5, 6, 7, 8), max_value=255)
    assert build_model(cfg, 2, 4)[0].normalization == Normalization(mean=(1, 2, 3, 4), std=(5, 6, 7, 8), max_value=255)
    with pytest.raises(InputError, match=r"model\.mean has 4 numbers, model\.std 4 and the images have 3 channels"):
        build_model(cfg, 2, 3)
    assert build_model(UNetModel(channel_order="bgr"), 2)[0].normalization.channel_order == "bgr"
    with pytest.raises(InputError, match="channel_order is bgr, but the images have 1 channels"):
        build_model(UNetModel(channel_order="bgr"), 2, 1)


@pytest.mark.parametrize("half", [{"mean": (1, 2, 3)}, {"std": (1, 2, 3)}, {"max_value": 255}])
def test_normalization_is_given_whole_or_not_at_all(half):
    with pytest.raises(ValidationError, match="follow the weights"):
        UNetModel(**half)


def test_a_config_with_the_numbers_written_out_builds_the_same():
    cfg = UNetModel(depth=1, width=2)
    first = build_model(cfg, 2, 4)[0]
    resolved = with_normalization(cfg, first.normalization)
    assert resolved.mean == first.normalization.mean
    assert build_model(resolved, 2, 4)[0].normalization == first.normalization
    assert UNetModel.model_validate_json(resolved.model_dump_json()) == resolved


def test_normalization_is_not_in_the_state_dict():
    assert {name.split(".")[0] for name in build_model(UNetModel(), 2)[0].state_dict()} == {"net"}


def test_probe_leaves_modes_and_weights_alone():
    net = Parts()
    net.backbone[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    segmenter = wrap(net)
    assert probe(segmenter, 5).logits.shape[:2] == (1, 5)
    assert [module.training for module in (segmenter, net, net.backbone[1], net.backbone[2])] == [1, 1, 0, 1]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_own_network():
    segmenter, report = build_model(OwnModel(stride=16), 5, own=Parts())
    assert report is None
    assert segmenter(images(2, 3, 50, 60)).covers == (64, 64)
    roles = {name: segmenter.role(name) for name, _ in segmenter.named_parameters()}
    assert roles["net.backbone.0.weight"] == "encoder"
    assert roles["net.neck.weight"] == "decoder"
    assert roles["net.classifier.weight"] == "head"


def test_own_network_without_known_parts_is_all_decoder():
    segmenter, _ = build_model(OwnModel(), 4, own=nn.Conv2d(3, 4, 1))
    assert {segmenter.role(name) for name, _ in segmenter.named_parameters()} == {"decoder"}
    assert not segmenter.has_encoder


def test_own_network_is_asked_for_and_checked():
    with pytest.raises(InputError, match="no network was passed"):
        build_model(OwnModel(), 5)
    with pytest.raises(InputError, match=r"\[1, 7, 32, 48\] .* the data set's 5 classes need \[1, 5, h, w\]"):
        build_model(OwnModel(), 5, own=Parts(7))
    with pytest.raises(InputError, match=r"type model\.kind=own"):
        build_model(SmpModel(), 5, own=Parts())


def test_unet_deep_supervision():
    segmenter, _ = build_model(UNetModel(width=4, depth=3, deep_supervision=True, norm="group"), 6, 1)
    output = segmenter(images(1, 1, 40, 40))
    assert output.logits.shape == (1, 6, 40, 40)
    assert [tuple(aux.shape) for aux in output.aux] == [(1, 6, 20, 20), (1, 6, 10, 10)]
    assert segmenter.role("net.aux_heads.0.weight") == "head"
    with pytest.raises(ValidationError, match="give depth 2 or more"):
        UNetModel(depth=1, deep_supervision=True)


def test_unet_options_change_the_network():
    def count(cfg: UNetModel) -> int:
        return sum(parameter.numel() for parameter in build_model(cfg, 2)[0].parameters())

    assert count(UNetModel(width=4, depth=2)) < count(UNetModel(width=8, depth=2)) < count(UNetModel(width=8, depth=3))
    dropping = build_model(UNetModel(width=4, depth=2, dropout=0.5), 2)[0]
    batch = images(1, 3, 16, 16)
    assert not torch.equal(dropping(batch).logits, dropping(batch).logits)
    with pytest.raises(ValidationError, match="nobody publishes weights"):
        UNetModel(weights="pretrained")
