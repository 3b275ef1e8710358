"""DeepLabV3 on MobileNetV2: torchvision's encoder dilated, the head's arithmetic, and the shape of the answer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from terrazzo.base import IMAGENET, InputError
from terrazzo.models.segmenter import Segmenter
from terrazzo.published.networks.deeplab_mobilenet import WINDOW, DeepLabMobileNet, DeepLabMobileNetSizes, build

NAME = "deeplabv3_mobilenetv2_os8_voc21"
SMALL = DeepLabMobileNetSizes(width_multiplier=0.25, channels=16)


def net_of(sizes: DeepLabMobileNetSizes = SMALL, classes: int = 5) -> DeepLabMobileNet:
    """In eval mode, with BatchNorm statistics that are not the neutral ones."""
    torch.manual_seed(0)
    net = build(sizes, classes)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
    return net.eval()


def images_of(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn((batch, 3, height, width), generator=torch.Generator().manual_seed(1))


def test_the_shared_file_loads_with_nothing_missing_or_unused(shared_data: Path):
    state = load_file(shared_data / f"weights/{NAME}.safetensors")
    net = build(NAME, 21)
    assert {name: value.shape for name, value in net.state_dict().items()} == {
        name: value.shape for name, value in state.items()
    }
    net.load_state_dict(state, strict=True)
    for height, width in ((64, 96), (65, 71)):
        logits = net.eval()(images_of(height, width)).logits
        assert logits.shape == (1, 21, -(-height // 8), -(-width // 8))
        assert logits.isfinite().all()


def test_its_strides_and_dilations_are_the_published_ones():
    depthwise = [
        (number, part.stride, part.dilation, part.padding)
        for number, block in enumerate(build(NAME, 21).backbone.features)
        for part in block.modules()
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)
    ]
    strides = dict.fromkeys((0, 2, 4), 2)
    dilations = {**dict.fromkeys(range(8, 15), 2), **dict.fromkeys(range(15, 18), 4)}
    assert depthwise == [
        (number, (strides.get(number, 1),) * 2, (dilations.get(number, 1),) * 2, (dilations.get(number, 1),) * 2)
        for number in range(18)
    ]


@pytest.mark.parametrize("size", [(64, 96), (65, 51), (1, 3)])
@pytest.mark.parametrize(("output_stride", "every"), [(32, 1), (16, 2), (8, 4)])
def test_the_dilated_encoder_answers_between_the_positions_of_torchvisions(size, output_stride, every):
    encoder = net_of(DeepLabMobileNetSizes(output_stride=output_stride)).backbone
    theirs = mobilenet_v2(weights=None).eval()
    missing, unused = theirs.load_state_dict(encoder.state_dict(), strict=False)
    assert unused == []
    assert all(name.startswith(("features.18.", "classifier.")) for name in missing)
    images = images_of(*size)
    torch.testing.assert_close(
        encoder(images)[..., ::every, ::every], theirs.features[:18](images), rtol=1e-4, atol=1e-5
    )


def test_the_head_joins_the_pooled_image_before_each_pixel():
    head = net_of().head
    features = torch.randn(2, head.aspp0[0].in_channels, 5, 4)
    pooled = head.image_pooling(features.mean((2, 3), keepdim=True))
    enlarged = nn.functional.interpolate(pooled, (5, 4), mode="bilinear", align_corners=True)
    expected = head.logits(head.concat_projection(torch.cat((enlarged, head.aspp0(features)), 1)))
    torch.testing.assert_close(head(features), expected)


@pytest.mark.parametrize("size", [(64, 48), (33, 47), (1, 1)])
def test_logits_lie_corner_on_corner_over_images_of_any_size(size):
    output = net_of()(images_of(*size, batch=2))
    assert output.logits.shape == (2, 5, -(-size[0] // 8), -(-size[1] // 8))
    assert (output.aux, output.covers, output.align_corners) == ((), (0, 0), True)


def test_the_window_of_the_published_scores_is_padded_never_stretched():
    segmenter = Segmenter(net_of(), normalization=IMAGENET, stride=1, smallest=WINDOW).eval()
    with torch.inference_mode():
        output = segmenter(torch.zeros(1, 3, 375, 500, dtype=torch.uint8))
    assert output.covers == (513, 513)
    assert output.logits.shape == (1, 5, 65, 65)


def test_an_unknown_name_is_an_error_that_says_the_known_one():
    with pytest.raises(InputError, match=rf"is called mobilenet; there are: {NAME}"):
        build("mobilenet", 3)


def test_images_of_a_batch_do_not_see_each_other():
    net, images = net_of(), images_of(32, 24, batch=3)
    alone = torch.cat([net(image[None]).logits for image in images])
    torch.testing.assert_close(net(images).logits, alone, rtol=0, atol=1e-5)
    assert torch.equal(net(images).logits, net(images).logits)


def test_training_reaches_every_parameter():
    net = net_of().train()
    net(images_of(65, 65, batch=2)).logits.square().mean().backward()
    still = [name for name, value in net.named_parameters() if value.grad is None or not value.grad.any()]
    assert still == []


def test_dropout_is_for_training_only():
    net = net_of(DeepLabMobileNetSizes(width_multiplier=0.25, channels=16, dropout=0.5))
    features = torch.randn(2, net.backbone.channels, 5, 4)
    assert torch.equal(net.head(features), net.head(features))
    net.head.dropout.train()
    assert not torch.equal(net.head(features), net.head(features))


def test_it_compiles_as_one_graph():
    net, images = net_of(), images_of(30, 24)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images).logits, net(images).logits)
