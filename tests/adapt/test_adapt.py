"""What every method of adaptation must do. Methods are read off the union, networks are one of each build."""

import copy
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from models.small_zoo import small_zoo
from terrazzo.adapt import AdaptConfig, Adapter, BitFit, Frozen, Full, Lora, Regex, Ssf, Staged, Vpt, adapt
from terrazzo.adapt.folded import changed_layers, fold, is_matrix, is_norm
from terrazzo.base import IMAGENET, InputError
from terrazzo.engine.recompute import recompute_blocks
from terrazzo.models import SegFormerModel, Segmenter, TimmModel, ZooModel, build_model
from terrazzo.models.blocks import encoder_blocks
from terrazzo.models.zoo import segmenter_of

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 4

FPN = {"kind": "fpn", "width": 8}
NETWORKS: dict[str, Any] = {
    "dilated": "dilated-fcn",
    "depth-wise": "segnext-segnext",
    "published swin": "swin_upernet-swin",
    "grouped": TimmModel(encoder="regnetx_002", weights="none", decoder=FPN),
    "convnext": TimmModel(encoder="test_convnext", weights="none", decoder=FPN),
    "mit": SegFormerModel(dims=(8, 16, 24, 32), heads=(1, 1, 1, 1), decoder_width=16),
    "vit": TimmModel(encoder="test_vit", weights="none", decoder=FPN),
}
"""A word is a published architecture, at a small size."""
METHODS: dict[type, list[Any]] = {
    Full: [Full()],
    Frozen: [Frozen(), Frozen(train="classifier")],
    Staged: [Staged()],
    Ssf: [Ssf(), Ssf(also_train="none")],
    Lora: [Lora(rank=2), Lora(rank=64, alpha=8, dora=True, also_train="classifier"), Lora(rank=3, dropout=0.01)],
    Adapter: [Adapter(width=3)],
    BitFit: [BitFit(), BitFit(parts="norm"), BitFit(parts="both", also_train="none")],
    Vpt: [Vpt(tokens=2)],
}


def methods() -> list[Any]:
    """Every member of the union; one without an entry above is a KeyError."""
    return [method for member in get_args(get_args(AdaptConfig)[0]) for method in METHODS[member]]


@pytest.fixture(scope="module", params=NETWORKS)
def network(request) -> Segmenter:
    """Built once; every test adapts a copy."""
    torch.manual_seed(0)
    cfg = NETWORKS[request.param]
    if isinstance(cfg, str):
        any_name = ZooModel(name="segnext_mscan-t", weights="none")
        built = segmenter_of(any_name, small_zoo()[cfg], CLASSES, 3)
    else:
        built = build_model(cfg, CLASSES)[0]
    with torch.no_grad():
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)  # no identity, so that a norm which moves can be told
                nn.init.ones_(module.weight)  # libraries start some at 0, behind which nothing frozen could learn
    return built


def images(count: int = 2, height: int = 32, width: int = 64) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@torch.no_grad()
def answer(model: Segmenter) -> Tensor:
    return model.eval()(images()).logits


def train(model: Segmenter, steps: int = 2) -> None:
    model.train()
    # No decay, which would move what no gradient reaches; and any gradient moves, however small.
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2, eps=1e-30)
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(images())
        loss = sum(logits.square().mean() for logits in (output.logits, *output.aux))
        loss.backward()
        optimizer.step()


def fits(network: Segmenter, method: Any) -> bool:
    """Prompts are for plain ViTs, adapters for encoders with a sequence of blocks."""
    if isinstance(method, Vpt):
        return any("pos_embed" in name for name, _ in network.named_parameters())
    return not isinstance(method, Adapter) or bool(encoder_blocks(network))


@pytest.mark.parametrize("method", methods(), ids=repr)
def test_it_starts_as_the_base_and_moves_what_learns_and_nothing_else(network: Segmenter, method: Any) -> None:
    model = copy.deepcopy(network)
    if not fits(network, method):
        with pytest.raises(InputError, match=r"plain ViTs|no sequence of any"):
            adapt(model, method)
        return
    before = answer(model)
    adapted = adapt(model, method)
    if not isinstance(method, Vpt):  # more tokens in every softmax
        torch.testing.assert_close(answer(model), before, rtol=0, atol=1e-5)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert adapted.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, old[name])}
    assert learning - moved == set(), "these should have learned"
    statistics = {name for name in moved if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert moved - learning - statistics == set(), "these are frozen"
    if not isinstance(method, Full | Staged):
        assert {model.role(name) for name in statistics} <= {"decoder", "head"}, "statistics of a frozen part moved"


@pytest.mark.parametrize("method", [Ssf(), Lora(rank=2), Lora(rank=2, dora=True)], ids=repr)
def test_folding_gives_the_same_answers_under_the_bases_own_names(network: Segmenter, method: Any) -> None:
    model = copy.deepcopy(network)
    adapt(model, method)
    train(model)
    mean = copy.deepcopy(model)  # as EMA holds one: folding one must leave the other whole
    before = answer(model)
    layers = fold(model)
    torch.testing.assert_close(answer(model), before, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(answer(mean), before, rtol=0, atol=0)
    assert set(layers)
    assert not changed_layers(model)
    plain = copy.deepcopy(network)
    plain.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(answer(plain), before, rtol=1e-6, atol=1e-6)


def test_every_kind_of_layer_is_reached(network: Segmenter) -> None:
    """Grouped, dilated and depth-wise convolutions, linear layers, attention's own matrix, norms."""
    model = copy.deepcopy(network)
    adapt(model, Ssf())
    kinds = {name for name, layer in network.net.named_modules() if is_matrix(layer) or is_norm(layer)}
    encoder = {name for name in kinds if network.role(name) == "encoder"}
    assert {name.removeprefix("net.") for name in changed_layers(model)} == encoder


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
            nn.BatchNorm2d(8, eps=0.1),
            nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=False),
        )
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.encoder(pixels)
        tokens = maps.flatten(2).transpose(1, 2)
        seen = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(maps + seen.transpose(1, 2).reshape(maps.shape))


def plain() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(Plain(), normalization=IMAGENET, stride=1, roles={"attention": "encoder"})


def test_pitfall_wrapped_layers_lose_dilation_padding_mode_groups_or_eps() -> None:
    model = plain()
    adapt(model, Ssf())
    first, norm, second = model.net.encoder
    assert (first.padding_mode, norm.eps, second.dilation, second.groups) == ("reflect", 0.1, (2, 2), 4)


def test_pitfall_the_scale_axis_is_guessed_from_the_shape() -> None:
    """Images whose width is the number of channels: a factor must still be a channel's."""
    model = plain()
    adapt(model, Ssf())
    layer = model.net.encoder[0]
    pixels = torch.randn(1, 3, 8, 8)
    before = layer(pixels)
    with torch.no_grad():
        layer.parametrizations.weight[0].gamma.copy_(torch.arange(8.0))
        layer.parametrizations.bias[0].beta.copy_(torch.arange(8.0) - 3)
    expected = before * torch.arange(8.0).view(1, 8, 1, 1) + (torch.arange(8.0) - 3).view(1, 8, 1, 1)
    torch.testing.assert_close(layer(pixels), expected, rtol=1e-5, atol=1e-5)


def test_ssf_after_a_norm_is_the_papers_formula() -> None:
    model = plain()
    adapt(model, Ssf())
    norm, gamma, beta = model.eval().net.encoder[1], torch.rand(8), torch.rand(8)
    maps = torch.randn(2, 8, 4, 4)
    before = norm(maps)
    with torch.no_grad():
        norm.parametrizations.weight[0].gamma.copy_(gamma)
        norm.parametrizations.bias[0].beta.copy_(beta)
    torch.testing.assert_close(norm(maps), before * gamma.view(1, 8, 1, 1) + beta.view(1, 8, 1, 1))


def test_lora_of_a_linear_layer_is_the_papers_formula() -> None:
    model = plain()
    adapt(model, Lora(rank=2, alpha=6, targets=("attention.out_proj", "encoder.2")))
    kept = model.net.attention.out_proj.parametrizations.weight
    with torch.no_grad():
        kept[0].up.normal_()
    expected = kept.original + 3 * kept[0].up @ kept[0].down
    torch.testing.assert_close(model.net.attention.out_proj.weight, expected)
    assert kept[0].down.shape == (2, 8)
    assert model.net.encoder[2].parametrizations.weight[0].down.shape == (2, 18), "two channels of nine taps in a group"


def test_doras_rows_have_the_learned_length() -> None:
    model = plain()
    adapt(model, Lora(rank=2, dora=True, targets=("encoder.0",)))
    part = model.net.encoder[0].parametrizations.weight[0]
    with torch.no_grad():
        part.up.normal_()
        part.magnitude.copy_(torch.arange(1.0, 9))
    torch.testing.assert_close(model.net.encoder[0].weight.flatten(1).norm(dim=1), torch.arange(1.0, 9))


def test_dropout_leaves_out_whole_input_channels_while_training_only() -> None:
    model = plain()
    adapt(model, Lora(rank=8, alpha=8, dropout=0.5, targets=("encoder.0",)))
    layer = model.net.encoder[0]
    with torch.no_grad():
        layer.parametrizations.weight[0].up.normal_()
    added = (layer.train().weight - layer.parametrizations.weight.original).detach()
    per_channel = added.abs().amax((0, 2, 3))
    assert any(
        (layer.weight - layer.parametrizations.weight.original).abs().amax((0, 2, 3)).min() == 0 for _ in range(9)
    )
    assert per_channel.shape == (3,)
    torch.testing.assert_close(layer.eval().weight, layer.weight)


def test_pitfall_grouped_convolutions_are_skipped_and_left_trainable() -> None:
    for method in (Ssf(), Lora(rank=2)):
        model = plain()
        adapt(model, method)
        assert changed_layers(model).keys() >= {"net.encoder.2"}
        assert not model.net.encoder[2].parametrizations.weight.original.requires_grad


def test_pitfall_batchnorm_moves_in_a_frozen_encoder() -> None:
    for cfg, moves in (
        (Frozen(), False),
        (Frozen(batchnorm="running"), True),
        (Full(batchnorm="frozen"), False),
        (Full(), True),
    ):
        model = plain()
        adapt(model, cfg)
        before = model.net.encoder[1].running_mean.clone()
        train(model, steps=1)
        assert (not torch.equal(before, model.net.encoder[1].running_mean)) is moves
        assert model.net.encoder[1].weight.requires_grad is isinstance(cfg, Full)


@pytest.mark.filterwarnings("ignore:.*Function.* should not be instantiated:DeprecationWarning")  # torch 2.11's own
@pytest.mark.parametrize("dora", [False, True])
def test_recompute_and_compile_work_on_changed_weights(dora: bool) -> None:
    torch.manual_seed(0)
    model, _ = build_model(NETWORKS["mit"], CLASSES)
    adapt(model, Lora(rank=2, dora=dora, dropout=0.2))
    train(model)
    recomputed, compiled = copy.deepcopy(model), copy.deepcopy(model)
    assert recompute_blocks(recomputed)
    compiled.compile(fullgraph=True, backend="eager")
    gradients = []
    for each in (model, recomputed, compiled):
        each.train().zero_grad()
        torch.manual_seed(1)
        each(images()).logits.square().mean().backward()
        gradients.append([parameter.grad for parameter in each.parameters() if parameter.requires_grad])
    for others in gradients[1:]:
        torch.testing.assert_close(others, gradients[0])


@pytest.mark.parametrize("method", [Lora(rank=2), Lora(rank=2, dora=True, dropout=0.1), Ssf(), Adapter(width=3), Vpt()])
def test_methods_work_under_autocast_and_keep_weights_in_full(method: Any) -> None:
    torch.manual_seed(0)
    model, _ = build_model(NETWORKS["vit"], CLASSES)
    adapt(model, method)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images())
        assert {layer.weight.dtype for layer in changed_layers(model).values()} <= {torch.float32}
    output.logits.float().square().mean().backward()
    learned = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in learned)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Lora(targets=Regex(regex="nothing.*")), "matches no layer"),
        (Lora(targets=Regex(regex=".*")), "matches all 5 layers.*auto"),
        (Ssf(targets=("encoder.7",)), "'encoder.7' is no layer"),
        (Lora(targets=("encoder.1",)), "'encoder.1' is a BatchNorm2d, which the method cannot change"),
    ],
    ids=repr,
)
def test_targets_that_cannot_be_meant_are_errors(method: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        adapt(plain(), method)


def test_a_pattern_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="is no regular expression"):
        Regex(regex="(")


def test_a_network_without_the_part_that_should_learn_is_refused() -> None:
    model = Segmenter(nn.Conv2d(3, CLASSES, 1), normalization=IMAGENET, stride=1)
    with pytest.raises(InputError, match="nothing would learn"):
        adapt(model, Frozen(train="classifier"))
