"""SegFormer as its authors published it, against SMP's copy of their encoder and head."""

import pytest
import torch

from terrazzo.base import InputError
from terrazzo.published.networks.segformer_mit import MitSizes
from terrazzo.published.networks.segformer_paper import VARIANTS, build, renamed

smp = pytest.importorskip("segmentation_models_pytorch")

TINY = MitSizes((8, 16, 20, 32), (1, 2, 1, 1), head_channels=16, inner_eps=1e-5)


def scattered(module):
    """Numbers that make a swapped tensor visible: normalisations do not start at 1 and 0."""
    torch.manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and (tensor.ndim == 1 or name.endswith("bias")):
            tensor.uniform_(0.5, 1.5)


def authors_names(model):
    """SMP's state dict with the authors' names and shapes, as their files hold them."""
    answer = {}
    for key, tensor in model.state_dict().items():
        stage = key.split(".")[2] if key.startswith("decoder.mlp_stage") else ""
        ours = (
            key.replace("encoder.", "backbone.", 1)
            .replace(f"decoder.mlp_stage.{stage}.linear.", f"decode_head.linear_c{4 - int(stage or 0)}.proj.")
            .replace("decoder.fuse_stage.0.", "decode_head.linear_fuse.conv.")
            .replace("decoder.fuse_stage.1.", "decode_head.linear_fuse.bn.")
            .replace("segmentation_head.0.", "decode_head.linear_pred.")
        )
        answer[ours] = tensor
    answer["decode_head.conv_seg.weight"] = torch.zeros(5, 256, 1, 1)
    answer["decode_head.conv_seg.bias"] = torch.zeros(5)
    return answer


def test_answers_as_smp_does():
    """SMP's Segformer is the authors' network; it enlarges its logits by 4 at the end."""
    model = smp.Segformer("mit_b0", encoder_weights=None, classes=5).eval()
    scattered(model)
    net = build("segformer.b0", 5).eval()
    net.load_state_dict(renamed(authors_names(model)), strict=True)
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        wanted = model.segmentation_head[0](model.decoder(model.encoder(images)))
        logits = net(images).logits
    assert logits.shape == (2, 5, 16, 24)
    assert (logits - wanted).abs().max() <= 1e-4 * max(1, wanted.std())


def test_an_encoder_alone_is_renamed_too_in_any_order():
    encoder = smp.encoders.get_encoder("mit_b0", weights=None)
    scattered(encoder)
    state = dict(reversed(encoder.state_dict().items()))
    net = build("segformer.b0", 5).eval()
    net.backbone.load_state_dict(renamed(state), strict=True)
    images = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        maps, wanted = net.backbone(images), encoder.eval()(images)[2:]
    for ours, theirs in zip(maps, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match=r"no SegFormer is called b9; there are segformer.b0"):
        build("b9", 2)
    assert all(isinstance(sizes, MitSizes) for sizes in VARIANTS.values())


def test_odd_sizes_training_and_one_graph():
    net = build(TINY, 5).train()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    logits = compiled(torch.randn(2, 3, 45, 71)).logits
    assert logits.shape == (2, 5, 12, 18)
    logits.square().mean().backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]
