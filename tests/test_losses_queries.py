"""The loss of networks that answer queries: what every loss must do, and what the papers say of this one."""

import pytest
import torch
from torch import Tensor

from terrazzo.base import IGNORE, IMAGENET, Classes, InputError
from terrazzo.config import config_of
from terrazzo.infer.answer import InferenceConfig, answer
from terrazzo.infer.tiles import WindowConfig
from terrazzo.infer.tta import TtaConfig
from terrazzo.losses import CrossEntropy, MaskClassification, build_loss, count
from terrazzo.models import Segmenter
from terrazzo.output import Output, Queries

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = Classes.of(["road", "tree", "sky", "car"])
FEW = MaskClassification(points=96)


def example(batch: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Queries, Tensor]:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(batch, 7, 5, dtype=dtype, generator=generator).requires_grad_()
    logits = torch.randn(batch, 7, 4, 6, dtype=dtype, generator=generator).requires_grad_()
    masks = torch.randint(0, 4, (batch, 16, 24), dtype=torch.uint8, generator=generator)
    return Queries(classes, logits), masks


def answered(queries: Queries) -> Output:
    return Output(queries.scores(), queries=queries, are_scores=True)


def loss_of(cfg: MaskClassification, queries: Queries, masks: Tensor, counted: Tensor | None = None) -> Tensor:
    torch.manual_seed(0)
    loss = build_loss((cfg,), CLASSES, auxiliary=0.4)
    return loss(answered(queries), masks, count(masks) if counted is None else counted)


def certain(masks: Tensor, shift: int = 0) -> Queries:
    """Sure queries, one for each class and two for none, masks at full size."""
    classes = torch.full((len(masks), 6, 5), -30.0)
    classes[:, range(4), [(k + shift) % 4 for k in range(4)]] = 30
    classes[:, 4:, 4] = 30
    inside = masks[:, None] == torch.arange(6)[:, None, None]
    return Queries(classes, torch.where(inside, 40.0, -40.0))


def blocks() -> Tensor:
    """Masks of flat areas, so that a bilinear reading between pixels hardly matters."""
    return (
        torch.tensor([[0, 1, 2], [3, 3, 1]], dtype=torch.uint8).repeat_interleave(32, 0).repeat_interleave(32, 1)[None]
    )


def test_right_queries_lose_almost_nothing_and_wrong_ones_a_lot() -> None:
    masks = blocks()
    right, wrong = certain(masks), certain(masks, shift=1)
    assert loss_of(MaskClassification(points=512, importance=0), right, masks) < 1.0  # at borders alone
    assert loss_of(MaskClassification(points=512), wrong, masks) > 10


def test_it_is_the_loss_of_transformers_where_nothing_is_ignored() -> None:
    """One image, as batches are averaged by images here and by masks there; enough points for the draws to agree."""
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    coarse, masks = example(1, torch.float32)[0], blocks()
    # At the label's size: their points within half a cell of the border are drawn towards 0, in logits and in truth.
    fine = torch.nn.functional.interpolate(coarse.masks, masks.shape[1:], mode="bilinear")
    inside = masks[:, None] == torch.arange(7)[:, None, None]
    queries = Queries(coarse.classes.detach(), fine.detach() + 2 * inside)  # so that the best match is clear
    shown = [0, 1, 2, 3]
    config = Mask2FormerConfig(num_labels=4, train_num_points=10000, importance_sample_ratio=0.0)
    targets = torch.stack([masks[0] == k for k in shown]).float()
    torch.manual_seed(0)
    parts = Mask2FormerLoss(config, {})(queries.masks, queries.classes, [targets], [torch.tensor(shown)])
    theirs = 2 * parts["loss_cross_entropy"] + 5 * parts["loss_mask"] + 5 * parts["loss_dice"]
    ours = loss_of(MaskClassification(points=10000, importance=0), queries, masks)
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0)


def test_ignored_pixels_have_no_gradient_and_are_no_negatives() -> None:
    queries, masks = example()
    masks[:, :, :10] = IGNORE  # columns 0..9 of 24: column 0 of the masks is read by none of the others
    (gradient,) = torch.autograd.grad(loss_of(FEW, queries, masks), queries.masks)
    assert (gradient[..., 0] == 0).all()
    assert gradient[..., 4].abs().sum() > 0
    changed = queries._replace(masks=torch.where(torch.arange(6) == 0, 50.0, queries.masks))
    assert loss_of(FEW, changed, masks) == loss_of(FEW, queries, masks)


def test_nothing_counted_gives_zero_and_a_graph_to_every_answer() -> None:
    queries, masks = example()
    earlier = queries._replace(aux=(example()[0],))
    loss = loss_of(FEW, earlier, torch.full_like(masks, IGNORE))
    leaves = [*queries[:2], *earlier.aux[0][:2]]
    assert loss == 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss, leaves))


def test_an_ignored_image_leaves_the_mean_as_it_is_and_parts_add_up() -> None:
    queries, masks = example(1)
    twice = Queries(*(torch.cat([values, values]) for values in queries[:2]))
    ignored = torch.cat([masks, torch.full_like(masks, IGNORE)])
    cfg = MaskClassification(points=20000)
    torch.testing.assert_close(loss_of(cfg, twice, ignored), loss_of(cfg, queries, masks), rtol=0.02, atol=0)
    queries, masks = example(3)
    masks[1, :, :3] = IGNORE
    counted = count(masks)
    parts = sum(
        loss_of(cfg, Queries(*(v[i : i + 1] for v in queries[:2])), masks[i : i + 1], counted) for i in range(3)
    )
    torch.testing.assert_close(parts, loss_of(cfg, queries, masks), rtol=0.02, atol=0)


def test_the_gradient_is_that_of_the_loss() -> None:
    queries, masks = example(1)
    masks[0, :4] = IGNORE
    fixed = MaskClassification(points=40, importance=0)
    assert torch.autograd.gradcheck(lambda c, m: loss_of(fixed, Queries(c, m), masks), [*queries[:2]])


def test_draws_follow_the_seed_in_training_and_never_change_in_validation() -> None:
    queries, masks = example()
    loss = build_loss((FEW,), CLASSES, auxiliary=0.4)

    def value(seed: int) -> float:
        torch.manual_seed(seed)
        return loss(answered(queries), masks, count(masks)).item()

    assert value(1) == value(1) != value(2)
    with torch.inference_mode():
        assert value(1) == value(2)


def test_deterministic_mode_is_accepted_and_repeats_bit_by_bit() -> None:
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    try:
        answers = []
        for _ in range(2):
            queries, masks = example(4)
            loss = loss_of(FEW, queries, masks)
            answers.append((loss, *torch.autograd.grad(loss, [*queries[:2]])))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


def test_earlier_layers_add_the_same_loss() -> None:
    queries, masks = example()
    deep = queries._replace(aux=(queries, queries))
    exact = {"points": 20000, "importance": 0}
    alone = loss_of(MaskClassification(**exact), queries, masks)
    torch.testing.assert_close(loss_of(MaskClassification(**exact), deep, masks), 3 * alone, rtol=0.02, atol=0)
    without = loss_of(MaskClassification(layers=0, **exact), deep, masks)
    torch.testing.assert_close(without, alone, rtol=0.02, atol=0)


@pytest.mark.parametrize(("align_corners", "covers"), [(False, (16, 24)), (False, (20, 32)), (True, (16, 24))])
def test_points_are_read_where_the_enlarged_mask_is(align_corners: bool, covers: tuple[float, float]) -> None:
    from terrazzo.kernels import upsample
    from terrazzo.losses.queries import sampled

    queries, _ = example(1)
    enlarged = upsample(queries.masks, (16, 24), covers=covers, align_corners=align_corners)[0]
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(24.0), indexing="ij")
    read = sampled(queries.masks[0], rows.reshape(1, -1), columns.reshape(1, -1), (covers, align_corners))
    torch.testing.assert_close(read.view(7, 16, 24), enlarged, atol=1e-6, rtol=0)


def test_more_classes_than_queries_match_as_many_as_there_are() -> None:
    queries, masks = example()
    assert loss_of(FEW, Queries(queries.classes[:, :2], queries.masks[:, :2]), masks).isfinite()


def test_the_wrong_pair_of_loss_and_network_is_refused() -> None:
    queries, masks = example()
    plain = build_loss((CrossEntropy(),), CLASSES, auxiliary=0.4)
    with pytest.raises(InputError, match="this network answers queries, which only mask_classification reads"):
        plain(answered(queries), masks, count(masks))
    with pytest.raises(InputError, match="mask_classification needs a network that answers queries"):
        build_loss((FEW,), CLASSES, auxiliary=0.4)(Output(queries.scores()), masks, count(masks))
    query_loss = {"losses": [{"kind": "mask_classification"}]}
    data = {"data": {"kind": "own"}}
    with pytest.raises(InputError, match=r"mask_classification cannot train this network \(model.kind=unet\), which"):
        config_of(data | {"model": {"kind": "unet"}} | query_loss)
    eomt = {"model": {"kind": "huggingface", "config": {"model_type": "eomt"}, "weights": "none"}}
    with pytest.raises(InputError, match=r"cross_entropy cannot train .* answers queries; its losses are mask_"):
        config_of(data | eomt)
    windows = {"evaluation": {"window": {"size": 64}}, "early_stop": {"metric": "val/loss"}}
    with pytest.raises(InputError, match=r"early_stop.metric=val/loss: mask_classification has no loss where"):
        config_of(data | eomt | query_loss | windows)
    assert config_of(data | eomt | query_loss).losses[0].kind == "mask_classification"
    assert config_of(data | {"model": {"kind": "own"}} | query_loss).losses[0].kind == "mask_classification"


class Squares(torch.nn.Module):
    """Queries that depend on the pixels, at stride 4."""

    def forward(self, images: Tensor) -> Queries:
        cells = torch.nn.functional.avg_pool2d(images, 4)
        return Queries(torch.eye(3, 4).mul(4).expand(len(images), 3, 4), cells * 3)


def squares() -> Segmenter:
    return Segmenter(Squares(), normalization=IMAGENET, stride=4).eval()


def test_scores_become_probabilities_by_their_share_not_by_softmax() -> None:
    image = torch.randint(0, 256, (1, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = squares()
    whole = answer(model, image, InferenceConfig())
    shares = whole.logits / whole.logits.sum(1, keepdim=True)
    torch.testing.assert_close(whole.log_probabilities().exp(), shares)
    assert whole.are_scores
    mirrored = answer(model, image, InferenceConfig(tta=TtaConfig(flip="horizontal")))
    torch.testing.assert_close(mirrored.logits, shares)  # this network does not care for the side
    assert mirrored.are_scores
    windows = answer(model, image, InferenceConfig(window=WindowConfig(size=12)))
    assert windows.are_scores
    torch.testing.assert_close(windows.logits, whole.logits)
    nothing = whole._replace(logits=torch.zeros_like(whole.logits))
    torch.testing.assert_close(nothing.log_probabilities().exp(), torch.full_like(whole.logits, 1 / 3))


@pytest.mark.parametrize("how", ["window", "tta"])
def test_blended_answers_have_no_loss(how: str) -> None:
    image = torch.zeros(1, 3, 16, 24, dtype=torch.uint8)
    seen = {"window": WindowConfig(size=12), "tta": TtaConfig(flip="both")}
    windows = answer(squares(), image, InferenceConfig(**{how: seen[how]}))
    per_pixel, per_image = build_loss((FEW,), CLASSES, auxiliary=0).sums(
        windows, torch.zeros(1, 16, 24, dtype=torch.uint8)
    )
    assert per_pixel == 0
    assert per_image.isnan()


def test_semantic_inference_is_that_of_transformers() -> None:
    from transformers import Mask2FormerImageProcessor
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

    queries, _ = example(2, torch.float32)
    theirs = Mask2FormerForUniversalSegmentationOutput(
        class_queries_logits=queries.classes, masks_queries_logits=queries.masks
    )
    maps = Mask2FormerImageProcessor().post_process_semantic_segmentation(theirs)  # at the 384 x 384 it always takes
    large = torch.nn.functional.interpolate(queries.masks, (384, 384), mode="bilinear", align_corners=False)
    ours = queries._replace(masks=large).scores().argmax(1)
    assert torch.equal(ours, torch.stack(maps))
