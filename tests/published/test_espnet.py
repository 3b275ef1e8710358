"""ESPNet: the names in the authors' files, the shape of its answer, and what its parts compute."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.published.networks.espnet import VARIANTS, EspBlock, EspNet, EspNetSizes, build

SMALL = EspNetSizes(level2=1, level3=1)


def net_of(classes: int = 7, sizes: EspNetSizes = SMALL) -> EspNet:
    """In eval mode, with BatchNorm statistics and weights that are not the neutral ones."""
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


@pytest.mark.parametrize(("data", "classes"), [("camvid", 12), ("cityscapes", 20)])
def test_the_authors_files_load_with_nothing_missing_or_unused(shared_data: Path, data, classes):
    path = shared_data / f"weights/espnet/espnet_p_2_q_8_{data}.pth"
    state = torch.load(path, weights_only=True, map_location="cpu")
    net = build(path.stem, classes)
    counters = {name for name in net.state_dict() if name.endswith("num_batches_tracked")}  # younger than the files
    assert {name: tuple(value.shape) for name, value in net.state_dict().items() if name not in counters} == {
        name: tuple(value.shape) for name, value in state.items()
    }
    net.load_state_dict(state, strict=True)
    for height, width in ((64, 96), (37, 51)):
        logits = net.eval()(images_of(height, width)).logits
        assert logits.shape == (1, classes, height, width)
        assert logits.isfinite().all()


def test_names_and_shapes_of_the_decoder_follow_the_number_of_classes():
    shapes = {name: tuple(value.shape) for name, value in build("espnet_p_2_q_8", 20).state_dict().items()}
    assert len({name.split(".")[2] for name in shapes if name.startswith("encoder.level3.")}) == 8
    assert shapes["encoder.level3_0.c1.conv.weight"] == (25, 131, 3, 3)
    assert shapes["encoder.level3.7.d1.conv.weight"] == (28, 25, 3, 3)
    assert shapes["encoder.classifier.conv.weight"] == (20, 256, 1, 1)
    assert shapes["conv.conv.weight"] == (20, 36, 3, 3)
    assert shapes["combine_l2_l3.1.d16.conv.weight"] == (4, 4, 3, 3)
    assert shapes["classifier.weight"] == (20, 20, 2, 2)
    assert build("espnet_p_2_q_8_camvid", 12).conv.conv.in_channels == 31


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_built_by_its_name(name):
    levels = {"3": 3, "5": 5, "8": 8}[name.split("_q_")[1][0]]
    net = build(name, 3)
    assert len(net.encoder.level2) == 2
    assert len(net.encoder.level3) == levels


def test_an_unknown_name_is_an_error_that_says_the_known_ones():
    with pytest.raises(InputError, match=r"no ESPNet is called espnet; there are: espnet_p_2_q_3"):
        build("espnet", 3)


@pytest.mark.parametrize("image_in_decoder", [False, True])
@pytest.mark.parametrize("classes", [2, 12])
@pytest.mark.parametrize("size", [(48, 64), (33, 47), (34, 20), (1, 1)])
def test_logits_have_the_images_size(classes, size, image_in_decoder):
    output = net_of(classes, replace(SMALL, image_in_decoder=image_in_decoder))(images_of(*size, batch=2))
    assert output.logits.shape == (2, classes, *size)
    assert output.logits.isfinite().all()
    assert (output.aux, output.covers, output.align_corners) == ((), (0, 0), False)


def test_a_trained_decoder_keeps_its_width_under_another_number_of_classes():
    trained, other = net_of(12).state_dict(), net_of(3, replace(SMALL, width=12)).state_dict()
    differ = {name for name in trained if trained[name].shape != other[name].shape}
    assert trained.keys() == other.keys()
    assert differ == {"classifier.weight"}


def test_a_side_that_is_one_short_of_8_answers_as_if_it_were_padded_by_one():
    # At stride 2, a convolution's own padding and a row of zeros in the image are the same.
    net, images = net_of(), images_of(23, 31)
    padded = nn.functional.pad(images, (0, 1, 0, 1))
    torch.testing.assert_close(net(images).logits, net(padded).logits[..., :23, :31], rtol=0, atol=1e-6)


def test_images_of_a_batch_do_not_see_each_other():
    net, images = net_of(), images_of(32, 24, batch=3)
    alone = torch.cat([net(image[None]).logits for image in images])
    torch.testing.assert_close(net(images).logits, alone, rtol=0, atol=1e-5)
    assert torch.equal(net(images).logits, net(images).logits)


@pytest.mark.parametrize("residual", [False, True])
def test_a_block_sums_up_its_dilated_branches_one_after_another(residual):
    torch.manual_seed(0)
    block = EspBlock(13, 13, residual=residual).eval()
    features = torch.randn(1, 13, 20, 20)
    reduced = block.c1(features)
    branches = [block.get_submodule(f"d{dilation}")(reduced) for dilation in (1, 2, 4, 8, 16)]
    assert [branch.shape[1] for branch in branches] == [5, 2, 2, 2, 2]
    sums = [branches[0], *(sum(branches[2:stop], start=branches[1]) for stop in range(2, 6))]
    expected = torch.cat(sums, 1) + (features if residual else 0)
    torch.testing.assert_close(block(features), block.bn(expected))


@pytest.mark.parametrize("image_in_decoder", [False, True])
def test_training_reaches_every_parameter(image_in_decoder):
    net = net_of(7, replace(SMALL, image_in_decoder=image_in_decoder)).train()
    net(images_of(40, 40, batch=2)).logits.square().mean().backward()
    still = [name for name, value in net.named_parameters() if value.grad is None or not value.grad.any()]
    assert still == []


def test_it_compiles_as_one_graph():
    net, images = net_of(), images_of(30, 24)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images).logits, net(images).logits)
