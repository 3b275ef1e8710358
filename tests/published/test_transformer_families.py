"""ViT, BEiT, MAE, SETR, DPT, ConvNeXt, PoolFormer, Twins and K-Net: published answers, and what networks promise."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_transformers import CLASSES, FAMILIES, SMALL, TINY_BEIT, TINY_VIT
from torch import Tensor, nn
from transformer_answers import ANSWERS, PARAMETERS

import terrazzo
from terrazzo.base import InputError
from terrazzo.published import loading
from terrazzo.published.loading import find_architecture
from terrazzo.published.networks import beit_upernet, vit_upernet
from terrazzo.published.networks.beit_upernet import distances, resized_table
from terrazzo.published.networks.twins import WindowAttention
from terrazzo.published.networks.vit import PATCH_BIAS

VARIANTS = {name: family for family in FAMILIES for name in family.VARIANTS}
STRIDES = {"vit": 16, "setr pup": 1}


@pytest.fixture(params=SMALL)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return SMALL[kind]()


def filled(net: nn.Module, fill: ModuleType) -> nn.Module:
    """The network with the stand-in numbers that its tensors' names and shapes stand for."""
    for key, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            numbers = torch.from_numpy(fill.tensor(key, list(tensor.shape)))
            # The reference's positions are too small for a mistake to show.
            tensor.copy_(numbers * (0.3 * tensor[0].numel() ** 0.5 if key.endswith("pos_embed") else 1))
    return net.eval()


@pytest.mark.parametrize(("name", "size"), ANSWERS)
def test_answers_are_those_of_the_published_tool(name: str, size: str, fill: ModuleType) -> None:
    images = torch.from_numpy(fill.image("even")[..., :112, :131] if size == "strip" else fill.image(size))
    with torch.inference_mode():
        output = filled(SMALL[name](), fill)(images)
    for found, wanted in zip((output.logits, *output.aux), ANSWERS[name, size], strict=True):
        sample = found.flatten()[:: found.numel() // 5][:5]
        # printed to 4 digits
        torch.testing.assert_close(
            sample, torch.tensor(wanted), rtol=0, atol=1e-4 * max(1.0, found.std().item()) + 5e-5
        )


@pytest.mark.parametrize("name", VARIANTS)
def test_published_sizes_have_as_many_parameters(name: str) -> None:
    """As the same network of MMSegmentation, for 150 classes."""
    with torch.device("meta"):
        net = VARIANTS[name].build(name, 150)
    assert sum(parameter.numel() for parameter in net.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("vit_deit-s16_upernet_8xb2-80k_ade20k-512x512", "vit_deit-s16_upernet"),
        ("vit_deit-s16-ln_mln_upernet_8xb2-160k_ade20k-512x512", "vit_deit-s16-ln_mln_upernet"),
        ("setr_vit-l_naive_8xb2-160k_ade20k-512x512", "setr_vit-l_naive"),
        ("setr_vit-l_naive_8xb1-80k_cityscapes-768x768", "setr_vit-l_naive_8xb1-80k_cityscapes"),
        ("setr_vit-l-mla_8xb1-160k_ade20k-512x512", "setr_vit-l-mla"),
        ("convnext-base_upernet_8xb2-amp-160k_ade20k-640x640", "convnext-base_upernet"),
        ("upernet_beit-large_fp16_8x1_640x640_160k_ade20k-8fc0dd5d", "beit-large_upernet"),
        ("mae-base_upernet_8xb2-amp-160k_ade20k-512x512", "mae-base_upernet"),
        ("fpn_poolformer_m48_8x4_512x512_40k_ade20k_20220504_003923-64168d3b", "fpn_poolformer_m48"),
        ("swin-base-patch4-window12-in22k-384x384-pre_upernet_8xb2-160k_ade20k-512x512", "upernet_swin-b-window12"),
        ("twins_svt-l_uperhead_8x2_512x512_160k_ade20k_20211130_141005-3e2cae61", "twins_svt-l_uperhead"),
        ("twins_pcpvt-l_uperhead", "twins_pcpvt-l_uperhead"),
        ("knet_s3_upernet_r50-d8_8x2_512x512_adamw_80k_ade20k_20220304_125657-215753b0", "knet-s3_r50-d8_upernet"),
        ("dpt_vit-b16_8xb2-160k_ade20k-512x512", "dpt_vit-b16"),
    ],
)
def test_published_names_find_their_network(given: str, name: str) -> None:
    family = next(family for family in loading.FAMILIES if name in family.VARIANTS)
    found = find_architecture(given)
    assert (found.family, found.sizes) == (family, family.VARIANTS[name])


def saved(net: nn.Module, path: Path, more: dict[str, Tensor]) -> Path:
    """A checkpoint as MMSegmentation writes it."""
    torch.save({"state_dict": {**net.state_dict(), **more}, "meta": {"iter": 7}}, path)
    return path


def test_a_file_with_a_bias_in_the_first_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All published ViTs have one, and MMSegmentation 1.2 builds none."""
    monkeypatch.setitem(vit_upernet.VARIANTS, "vit_tiny", TINY_VIT)
    bias, images = torch.randn(24), torch.randn(1, 3, 97, 131)
    net = vit_upernet.build(TINY_VIT, CLASSES).eval()
    path = saved(net, tmp_path / "vit_tiny_mine.pth", {PATCH_BIAS: bias})
    without = net(images).logits
    net.backbone.patch_embed.projection.bias = nn.Parameter(bias)
    wanted, found = net(images).logits, terrazzo.load_network(path)(images).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (found - without).abs().max() > 0.1


def test_a_file_with_derived_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(beit_upernet.VARIANTS, "beit_tiny", TINY_BEIT)
    net, images = beit_upernet.build(TINY_BEIT, CLASSES).eval(), torch.randn(1, 3, 128, 160)
    tables = {f"backbone.layers.{n}.attn.relative_position_index": distances((8, 10), images.device) for n in range(4)}
    path = saved(net, tmp_path / "beit_tiny.pth", tables)
    assert torch.equal(terrazzo.load_network(path)(images).logits, net(images).logits)


def sides(kind: str, size: tuple[int, int]) -> tuple[int, ...]:
    """Height and width of the logits."""
    if kind == "dpt":
        return tuple(16 * -(-side // 32) for side in size)
    patch = 16 if kind.startswith(("vit", "beit", "mae", "setr")) else 4
    if kind == "convnext":
        return tuple(side // 4 for side in size)
    if kind == "poolformer":
        return tuple((side + 1) // 4 for side in size)
    return tuple(-(-side // patch) * (patch // STRIDES.get(kind, 4)) for side in size)


@pytest.mark.parametrize("size", [(64, 96), (97, 131), (33, 40), (32, 32)])
def test_any_size(size: tuple[int, int], kind: str, net: nn.Module) -> None:
    with torch.inference_mode():
        output = net.eval()(torch.randn(2, 3, *size))
    assert output.logits.shape == (2, CLASSES, *sides(kind, size))
    whole = tuple(-(-side // 16) * 16 for side in size)
    assert output.covers == (whole if kind in ("beit", "mae") else (0, 0))
    assert all(aux.shape[:2] == (2, CLASSES) for aux in output.aux)
    assert all(logits.isfinite().all() for logits in (output.logits, *output.aux))


def test_eval_is_deterministic_and_knows_no_batch(net: nn.Module) -> None:
    images = torch.randn(2, 3, 65, 72)
    with torch.inference_mode():
        together, again, alone = net.eval()(images), net(images), net(images[:1])
    for first, second, one in zip(
        (together.logits, *together.aux), (again.logits, *again.aux), (alone.logits, *alone.aux), strict=True
    ):
        assert torch.equal(first, second)
        torch.testing.assert_close(first[:1], one, rtol=1e-4, atol=1e-4 * first.std().item())


def test_training_reaches_every_parameter(kind: str, net: nn.Module) -> None:
    output = net.train()(torch.randn(4, 3, 128, 160))
    sum(logits.square().mean() for logits in (output.logits, *output.aux)).backward()
    asleep = [key for key, t in net.named_parameters() if t.requires_grad and (t.grad is None or not t.grad.any())]
    assert asleep == []
    # SETR's blocks do not see the class token in this form.
    frozen = [key for key, t in net.named_parameters() if not t.requires_grad]
    assert frozen == (["backbone.cls_token"] if kind == "setr mla" else [])


@pytest.mark.parametrize("kind", ["vit mln", "beit", "setr mla", "dpt", "convnext", "poolformer", "knet", "svt uper"])
def test_compiles_in_one_graph(net: nn.Module) -> None:
    images = torch.randn(1, 3, 65, 72)
    torch._dynamo.reset()
    expected, compiled = net.eval()(images), torch.compile(net, fullgraph=True, backend="eager")(images)
    torch.testing.assert_close(compiled.logits, expected.logits)
    torch.testing.assert_close(compiled.aux, expected.aux)


def test_state_dict_round_trip(kind: str, net: nn.Module) -> None:
    other = SMALL[kind]()
    other.load_state_dict(net.state_dict(), strict=True)
    images = torch.randn(1, 3, 40, 48)
    with torch.inference_mode():
        assert torch.equal(net.eval()(images).logits, other.eval()(images).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_name(family: ModuleType) -> None:
    with pytest.raises(InputError, match=next(iter(family.VARIANTS))):
        family.build("unheard-of", 3)


def test_distances_of_smaller_maps_keep_their_numbers() -> None:
    """What is added between two patches depends on how far they lie apart and not on the map's size."""
    grid, size = (5, 6), (3, 4)
    rows = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3
    table = torch.arange(float(rows))[:, None]
    large = table[distances(grid, table.device)][..., 0]
    small = resized_table(table, grid, size)[distances(size, table.device)][..., 0]
    assert small[0, 0] == large[0, 0] == rows - 1
    assert small[0, 1] == large[0, 1] == rows - 3
    assert small[1, 0] == large[1, 0] == rows - 2
    places = [1 + row * grid[1] + column for row in range(size[0]) for column in range(size[1])]
    assert torch.equal(small[1:, 1:], large[places][:, places])


def test_distances_of_larger_maps_reach_from_end_to_end() -> None:
    table = torch.linspace(-1, 1, 7)[:, None].expand(7, 5).reshape(35, 1)  # rows -3 to 3 of a grid of 4 x 3
    table = torch.cat([table, torch.tensor([[7.0], [8.0], [9.0]])])
    larger = resized_table(table, (4, 3), (6, 3))
    assert larger.shape == (11 * 5 + 3, 1)
    assert larger[-3:].flatten().tolist() == [7, 8, 9]
    torch.testing.assert_close(larger[:5], table[:5])
    torch.testing.assert_close(larger[50:55], table[30:35])
    torch.testing.assert_close(larger[25:30], torch.zeros(5, 1), atol=1e-6, rtol=0)


def test_larger_and_smaller_images_than_the_tables_are_for() -> None:
    for positions in (False, True):
        net = beit_upernet.build(replace(TINY_BEIT, grid=(3, 3), positions=positions), CLASSES).eval()
        for size in ((48, 48), (32, 96), (96, 96)):
            assert net(torch.randn(1, 3, *size)).logits.isfinite().all()


@pytest.mark.parametrize(("size", "apart"), [((7, 14), False), ((7, 10), False), ((9, 14), False), ((9, 10), True)])
def test_a_windows_padding_is_apart_only_where_both_sides_have_some(size: tuple[int, int], apart: bool) -> None:
    """What the slices of the published code amount to. Nothing but means of values here: the padding's are 0."""
    attention, current = WindowAttention(6, 2, 7), torch.randn(1, 6, *size)
    height, width = size
    with torch.no_grad():
        attention.qkv.weight[:12] = 0
        attention.qkv.bias.zero_()
        last = current[0, :, 7 * ((height - 1) // 7) :, 7 * ((width - 1) // 7) :]
        values = attention.qkv.weight[12:] @ last.flatten(1)
        seen = values.shape[1] if apart else 49
        wanted = attention.proj(values.sum(1) / seen)
        torch.testing.assert_close(attention(current)[0, :, -1, -1], wanted, rtol=1e-4, atol=1e-5)
