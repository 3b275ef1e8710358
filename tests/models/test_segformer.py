"""terrazzo's SegFormer: the paper's numbers, both stems, every option."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.models import SegFormerModel, build_model
from terrazzo.models.segformer import Block, Decoder, SegFormer

pytestmark = pytest.mark.usefixtures("one_thread")


def parameters(cfg: SegFormerModel, classes: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(cfg, classes)[0].parameters())


@pytest.mark.parametrize(("size", "stem", "classes", "millions"), [
    ("small", "5x5", 19, 3.72),
    ("base", "5x5", 19, 7.76),
    ("large", "5x5", 19, 15.80),
    ("small", "5x5", 3, 3.71),
    ("small", "7x7", 19, 3.72),
])  # fmt: skip
def test_parameters_of_the_named_sizes(size, stem, classes, millions):
    assert round(parameters(SegFormerModel(size=size, stem=stem), classes) / 1e6, 2) == millions


def test_a_size_is_its_channels_and_heads():
    written = SegFormerModel(dims=(64, 128, 256, 320), heads=(2, 2, 8, 8))
    assert written.layout == SegFormerModel(size="base").layout
    half = SegFormerModel(size="base", heads=(1, 1, 1, 1))
    assert half.layout == ((64, 128, 256, 320), (1, 1, 1, 1))
    with pytest.raises(ValidationError, match="size=base changes nothing beside dims and heads"):
        SegFormerModel(size="base", dims=(64, 128, 256, 320), heads=(2, 2, 8, 8))
    with pytest.raises(ValidationError, match="5 attention heads do not divide 128 channels"):
        SegFormerModel(dims=(32, 64, 128, 256))


SMP_NAMES = {
    "attention_norm": "norm1",
    "attention.query": "attn.q",
    "attention.key_value": "attn.kv",
    "attention.reduce_norm": "attn.norm",
    "attention.reduce": "attn.sr",
    "attention.project": "attn.proj",
    "mlp_norm": "norm2",
    "mlp.expand": "mlp.fc1",
    "mlp.depthwise": "mlp.dwconv.dwconv",
    "mlp.project": "mlp.fc2",
}


def smp_name(name: str) -> str:
    """ "stages.0.blocks.1.mlp_norm.weight" is "block1.1.norm2.weight" there."""
    _, stage, rest = name.split(".", 2)
    stage = str(int(stage) + 1)
    if not rest.startswith("blocks."):
        part, tensor = rest.split(".")
        return {"embed": f"patch_embed{stage}.proj", "embed_norm": f"patch_embed{stage}.norm", "norm": f"norm{stage}"}[
            part
        ] + f".{tensor}"
    _, block, inner = rest.split(".", 2)
    part, _, tensor = inner.rpartition(".")
    return f"block{stage}.{block}.{SMP_NAMES[part]}.{tensor}"


def test_features_equal_the_official_encoders():
    """SMP carries the authors' encoder; its norms of embeddings have another eps, which is set to the paper's here."""
    from segmentation_models_pytorch.encoders import get_encoder

    torch.manual_seed(0)
    ours = SegFormer(SegFormerModel(), 5, 3).encoder.eval()
    theirs = get_encoder("mit_b0", weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    tensors = {smp_name(name): value + 0.02 * torch.randn_like(value) for name, value in ours.state_dict().items()}
    theirs.load_state_dict(tensors)
    ours.load_state_dict({name: tensors[smp_name(name)] for name in ours.state_dict()})
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = [feature for feature in theirs(images) if feature.shape[1] in (32, 64, 160, 256)]
        for feature, expected in zip(ours(images), wanted, strict=True):
            # Attention in one kernel and in three: float32 rounding of sums over up to 384 positions.
            torch.testing.assert_close(feature, expected, atol=1e-4, rtol=1e-4)


def test_layer_norms_have_the_papers_eps():
    with torch.device("meta"):
        net = SegFormer(SegFormerModel(), 5, 3)
    norms = [module.eps for module in net.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 2 * 4 + 2 * 8 + 6
    assert set(norms) == {1e-6}


def test_the_decoder_equals_joining_the_maps_first():
    """The paper's order: enlarge every map, join them, one 1x1 convolution over all."""
    torch.manual_seed(0)
    decoder = Decoder(SegFormerModel(decoder_width=16)).eval()
    maps = [torch.randn(2, dim, 32 // 2**stage, 48 // 2**stage) for stage, dim in enumerate((32, 64, 160, 256))]
    with torch.inference_mode():
        large = [
            functional.interpolate(project(current), (32, 48), mode="bilinear", align_corners=False)
            for project, current in zip(decoder.project, maps, strict=True)
        ]
        weight = torch.cat([fuse.weight for fuse in decoder.fuse], dim=1)
        expected = decoder.norm(functional.conv2d(torch.cat(large, dim=1), weight)).relu()
        # The sum over 64 channels and the four corners are added up in another order.
        torch.testing.assert_close(decoder(maps), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("stem", "stride", "strides"), [
    ("7x7", 32, [4, 8, 16, 32]),
    ("5x5", 16, [2, 4, 8, 16]),
])  # fmt: skip
def test_stems(stem, stride, strides):
    with torch.device("meta"):
        segmenter = build_model(SegFormerModel(stem=stem), 3)[0]
    assert segmenter.stride == stride
    maps = segmenter.net.encoder(torch.empty(1, 3, 64, 96, device="meta"))
    assert [64 // current.shape[2] for current in maps] == [96 // current.shape[3] for current in maps] == strides
    assert segmenter(torch.empty(1, 3, 64, 64, device="meta")).logits.shape == (
        1,
        3,
        64 // strides[0],
        64 // strides[0],
    )


def test_images_are_padded_to_what_the_reductions_need():
    assert SegFormerModel(reductions=(16, 4, 2, 1)).stride == 64
    assert SegFormerModel(reductions=(1, 1, 1, 1)).stride == 32
    assert SegFormerModel(reductions=(3, 1, 1, 1)).stride == 96
    segmenter = build_model(SegFormerModel(reductions=(3, 1, 1, 1)), 3)[0]
    assert segmenter(torch.zeros(1, 3, 50, 100, dtype=torch.uint8)).covers == (96, 192)


def count(**options: object) -> int:
    return parameters(SegFormerModel(**options), 19)


def test_options_change_the_network():
    small = count()
    assert count(depths=(2, 2, 3, 2)) > small > count(reductions=(4, 4, 2, 1))
    assert count(mlp_ratio=2) < small
    assert count(decoder_width=128) < small


def answer(batch: Tensor, **options: object) -> Tensor:
    torch.manual_seed(0)
    segmenter = build_model(SegFormerModel(**options), 3)[0].train()
    torch.manual_seed(5)
    return segmenter(batch).logits


def test_dropout_and_drop_path_work_in_training_only():
    batch = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    plain, dropping, skipping = (
        answer(batch, dropout=0),
        answer(batch, dropout=0.5),
        answer(batch, dropout=0, drop_path=0.5),
    )
    assert not torch.equal(plain, dropping)
    assert not torch.equal(plain, skipping)
    assert torch.equal(plain, answer(batch, dropout=0))
    torch.manual_seed(0)
    segmenter = build_model(SegFormerModel(drop_path=0.5, dropout=0.5), 3)[0].eval()
    assert torch.equal(segmenter(batch).logits, segmenter(batch).logits)


def test_drop_path_takes_whole_samples_and_keeps_the_mean():
    block = Block(SegFormerModel(), 0, drop_path=0.25).train()
    torch.manual_seed(0)
    dropped = block._dropped(torch.ones(4000, 2, 3))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(dropped.amin((1, 2)), dropped.amax((1, 2)))
    # The mean of 4000 draws has the standard deviation sqrt(.25 * .75 / 4000) * 4 / 3 = 0.009.
    assert float(dropped.mean()) == pytest.approx(1, abs=0.04)
    shares = [
        block.drop_path
        for stage in SegFormer(SegFormerModel(drop_path=0.7), 2, 3).encoder.stages
        for block in stage.blocks
    ]
    assert shares == pytest.approx([0.1 * block for block in range(8)])
