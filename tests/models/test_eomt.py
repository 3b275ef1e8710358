"""EoMT over timm's transformers: queries beside the patches, masked attention that fades out, a task that it learns."""

import re

import pytest
import torch
from torch import Tensor

from terrazzo.base import Classes, InputError
from terrazzo.config import load_config
from terrazzo.engine.recompute import recompute_blocks
from terrazzo.kernels import upsample
from terrazzo.losses import MaskClassification, build_loss, count
from terrazzo.models import Segmenter, TimmModel, build_model, has_queries

pytestmark = pytest.mark.usefixtures("one_thread")

VIT = "vit_tiny_patch16_224"


def eomt(encoder: str = VIT, **options) -> Segmenter:
    torch.manual_seed(0)
    decoder = {"kind": "eomt", "queries": 6, "blocks": 2} | options
    return build_model(TimmModel(encoder=encoder, decoder=decoder, weights="none"), 3)[0]


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "encoder", [VIT, "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224", "vit_tiny_patch16_dinov3_qkvb"]
)
def test_patches_that_see_no_query_are_those_of_the_plain_transformer(encoder, monkeypatch):
    """Class token, registers and rotations stay where they belong when queries come in front of them."""
    segmenter = eomt(encoder, masked_steps=1).train()
    segmenter.net.encoder.eval()
    plain = build_model(TimmModel(encoder=encoder, weights="none"), 3)[0].net.encoder.eval()
    plain.load_state_dict(segmenter.net.encoder.state_dict())
    decoder, seen = segmenter.net.decoder, []

    def hidden(masks: Tensor, grid: tuple[int, int], tokens: int, block: int) -> Tensor:
        mask = torch.zeros(len(masks), 1, tokens, tokens)
        mask[..., : decoder.count] = float("-inf")
        return mask

    monkeypatch.setattr(decoder, "attention_mask", hidden)
    decoder.register_forward_pre_hook(lambda module, given: seen.append(given[1]))
    images = noise(2, 3, 56, 64)
    with torch.inference_mode():
        covers = segmenter(images).covers
        padded = torch.nn.functional.pad(segmenter.normalized(images), (0, int(covers[1]) - 64, 0, int(covers[0]) - 56))
        (wanted,) = plain.forward_intermediates(padded, indices=1, intermediates_only=True, norm=True)
    torch.testing.assert_close(seen[-1], wanted, atol=1e-4, rtol=1e-3)


NAMES = {
    r"net\.encoder\.cls_token": "embeddings.cls_token",
    r"net\.encoder\.reg_token": "embeddings.register_tokens",
    r"net\.encoder\.patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"net\.encoder\.norm\.": "layernorm.",
    r"net\.encoder\.blocks\.(\d+)\.attn\.proj\.": r"layers.\1.attention.out_proj.",
    r"net\.encoder\.blocks\.(\d+)\.ls(\d)\.gamma": r"layers.\1.layer_scale\2.lambda1",
    r"net\.encoder\.blocks\.": "layers.",
    r"net\.decoder\.mask_head\.0\.": "mask_head.fc1.",
    r"net\.decoder\.mask_head\.2\.": "mask_head.fc2.",
    r"net\.decoder\.mask_head\.4\.": "mask_head.fc3.",
    r"net\.decoder\.upscale\.0\.0\.": "upscale_block.block.0.conv1.",
    r"net\.decoder\.upscale\.0\.2\.": "upscale_block.block.0.conv2.",
    r"net\.decoder\.upscale\.0\.3\.": "upscale_block.block.0.layernorm2d.",
    r"net\.head\.": "class_predictor.",
}
"""Our names in transformers' words."""


def in_transformers_words(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." in name:
            layer, kind = name.split(".")[3], name.rpartition(".")[2]
            for part, share in zip("qkv", tensor.chunk(3), strict=True):
                found[f"layers.{layer}.attention.{part}_proj.{kind}"] = share
        elif name == "net.encoder.pos_embed":
            found["embeddings.position_embeddings.weight"] = tensor[0]
        elif name == "net.decoder.queries":
            found["query.weight"] = tensor[0]
        elif name != "net.decoder.passes":
            pattern = next(pattern for pattern in NAMES if re.match(pattern, name))
            found[re.sub(f"^{pattern}", NAMES[pattern], name)] = tensor
    return found


@pytest.mark.parametrize("masked", [False, True])
def test_the_numbers_of_transformers_eomt(masked):
    """EoMT over DINOv2 as its authors published it; masked attention as at the start of training."""
    from transformers import EomtConfig, EomtForUniversalSegmentation

    torch.manual_seed(0)
    decoder = {"kind": "eomt", "queries": 6, "blocks": 2, "masked_steps": 10}
    cfg = TimmModel(encoder="vit_small_patch14_reg4_dinov2", image_size=56, decoder=decoder, weights="none")
    ours, _ = build_model(cfg, 3)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # layer scales of 1e-5 would hide the attention
    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 56, "patch_size": 14}
    config = EomtConfig(**sizes, num_blocks=2, num_queries=6, num_upscale_blocks=1, num_labels=3)
    theirs = EomtForUniversalSegmentation(config).eval()
    unfit = theirs.load_state_dict(in_transformers_words(ours.state_dict()), strict=False)
    assert unfit.unexpected_keys == []
    assert set(unfit.missing_keys) == {"attn_mask_probs", "criterion.empty_weight"}
    theirs.attn_mask_probs.fill_(masked)
    images = noise(2, 3, 56, 56)
    with torch.inference_mode():
        answer = ours.train(masked)(images).queries
        wanted = theirs(ours.normalized(images))
        free = ours.eval()(images).queries
    assert answer is not None
    assert torch.allclose(answer.masks, free.masks, atol=1e-2) != masked, "the masks matter"
    torch.testing.assert_close(answer.classes, wanted.class_queries_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answer.masks, wanted.masks_queries_logits, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_the_answer(training):
    segmenter = eomt().train(training)
    output = segmenter(noise(2, 3, 60, 90))
    assert output.covers == (64, 96)
    assert output.logits.shape == (2, 3, 16, 24)
    queries = output.queries
    assert queries is not None
    assert (queries.classes.shape, queries.masks.shape) == ((2, 6, 4), (2, 6, 16, 24))
    assert len(queries.aux) == 2
    assert torch.equal(output.logits, queries.scores())
    assert output.are_scores
    assert eomt(deep_supervision=False)(noise(1, 3, 32, 32)).queries.aux == ()


def test_a_query_sees_its_own_masks_patches():
    decoder = eomt(masked_steps=12).net.decoder
    masks = torch.full((1, 6, 8, 8), -1.0)
    masks[0, 2, :4, :4] = 1.0
    mask = decoder.attention_mask(masks, (2, 2), 1 + 6 + 4, block=0)
    assert mask.shape == (1, 1, 11, 11)
    seen = mask[0, 0] == 0
    assert seen[6:].all(), "patches and class token see everything"
    assert seen[:6, :7].all(), "queries see each other and the class token"
    assert seen[2, 7:].tolist() == [True, False, False, False]
    assert not seen[:2, 7:].any()


def test_masking_fades_out_block_by_block():
    """In thirds of 12 passes: none fades, the first block fades, the second fades."""
    decoder = eomt(masked_steps=12).net.decoder
    masks = torch.full((500, 6, 8, 8), -1.0)

    def share(passes: int, block: int) -> float:
        decoder.passes.fill_(passes)
        return float((decoder.attention_mask(masks, (2, 2), 11, block)[:, 0, :6, 7] < 0).float().mean())

    torch.manual_seed(0)
    assert [share(passes, 0) for passes in (0, 4, 8, 100)] == [1, 1, 0, 0]
    assert [share(passes, 1) for passes in (4, 8, 12)] == [1, 1, 0]
    assert share(6, 0) == pytest.approx(0.5**0.9, abs=0.03)


def test_only_training_counts_and_a_resumed_run_goes_on():
    segmenter = eomt(masked_steps=12)
    images = noise(1, 3, 32, 32)
    segmenter.train()(images)
    segmenter.eval()(images)
    assert int(segmenter.state_dict()["net.decoder.passes"]) == 1
    assert "net.decoder.passes" not in eomt().state_dict()


@pytest.mark.parametrize("encoder", [VIT, "eva02_tiny_patch14_224"])
def test_blocks_can_be_recomputed(encoder):
    gradients = []
    for recompute in (False, True):
        segmenter = eomt(encoder, masked_steps=10).train()
        if recompute:
            assert "net.encoder.blocks.11" in recompute_blocks(segmenter)
        torch.manual_seed(1)
        segmenter(noise(1, 3, 42, 28)).logits.sum().backward()
        gradients.append(segmenter.net.encoder.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients)


def test_four_pictures_are_learned_by_heart():
    """Rectangles of two colours, in the corners of cells of 4 pixels."""
    torch.manual_seed(0)
    decoder = {"kind": "eomt", "queries": 8, "blocks": 2, "masked_steps": 12}
    segmenter, _ = build_model(TimmModel(encoder=VIT, decoder=decoder, weights="none"), 3)
    images, masks = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, 32, 32, dtype=torch.uint8)
    colors = torch.tensor([[200, 40, 90], [30, 220, 160]], dtype=torch.uint8)
    for picture, (top, left) in enumerate([(0, 4), (8, 16), (16, 0), (4, 12)]):
        masks[picture, top : top + 16, left : left + 16] = 1 + picture % 2
        images[picture, :, top : top + 16, left : left + 16] = colors[picture % 2].view(3, 1, 1)
    loss = build_loss((MaskClassification(points=128),), Classes.of(["a", "b", "c"]), auxiliary=0)
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=1e-3)
    segmenter.train()
    for step in range(25):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss(segmenter(images), masks, count(masks)).backward()
        torch.nn.utils.clip_grad_norm_(segmenter.parameters(), 1.0)
        optimizer.step()
    with torch.inference_mode():
        found = upsample(segmenter.eval()(images).logits, (32, 32)).argmax(1)
    for k in range(3):
        union = ((found == k) | (masks == k)).sum()
        assert ((found == k) & (masks == k)).sum() / union > 0.85, k


def test_the_recipe_is_whole():
    cfg = load_config("camvid_eomt")
    assert has_queries(cfg.model)
    assert cfg.losses[0].kind == "mask_classification"
    with torch.device("meta"):
        segmenter, _ = build_model(cfg.model.model_copy(update={"weights": "none"}), 11)
        assert segmenter(torch.empty(1, 3, 360, 480, device="meta")).logits.shape == (1, 11, 52, 70)
    with pytest.raises(InputError, match="cross_entropy cannot train this network"):
        load_config("camvid_eomt", ["losses=[{kind: cross_entropy}]"])
