"""The plain FCN over a ResNet: torchvision's features, the head as it is described, every depth."""

import pytest
import torch
from torch import nn

from terrazzo.models import FcnResnetModel, build_model


def bare(encoder: str, classes: int = 19, **options: object):
    return build_model(FcnResnetModel(encoder=encoder, weights_backbone="none", **options), classes)[0]


def test_features_are_torchvisions_at_stride_32():
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    segmenter = bare("resnet18").eval()
    whole = resnet18()
    unfit = whole.load_state_dict(segmenter.net.encoder.state_dict(), strict=False)
    assert (unfit.missing_keys, unfit.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    theirs = create_feature_extractor(whole, {"layer4": "last"}).eval()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = segmenter.net.encoder(images)
        assert features.shape == (2, 512, 2, 3)
        assert torch.equal(features, theirs(images)["last"])


@pytest.mark.parametrize(("encoder", "width"), [
    ("resnet18", 512), ("resnet34", 512), ("resnet50", 2048), ("resnet101", 2048), ("resnet152", 2048),
])  # fmt: skip
def test_every_depth(encoder, width):
    with torch.device("meta"):
        segmenter = bare(encoder)
    assert [type(layer) for layer in segmenter.net.decoder] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout]
    conv, head = segmenter.net.decoder[0], segmenter.net.head
    assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.bias) == (width, width // 4, (3, 3), None)
    assert (head.in_channels, head.out_channels, head.kernel_size) == (width // 4, 19, (1, 1))
    assert segmenter.net.decoder[3].p == 0.1
    assert segmenter(torch.empty(1, 3, 250, 256, device="meta")).logits.shape == (1, 19, 8, 8)


def test_dropout_can_be_set():
    with torch.device("meta"):
        assert bare("resnet18", dropout=0.3).net.decoder[3].p == 0.3
