"""Parameter groups to the tensor, optimizers, and every option changing something."""

import sys
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from terrazzo.base import InputError
from terrazzo.optim import (
    Adam,
    AdamW,
    GroupRow,
    OneCycle,
    OptimConfig,
    Poly,
    RmsProp,
    Role,
    Schedule,
    Sgd,
    build_optimizer,
    check_momentum,
    group_table,
    param_groups,
    set_rates,
)

optim: TypeAdapter[Any] = TypeAdapter(OptimConfig)
KINDS = [member.model_fields["kind"].default for member in get_args(get_args(OptimConfig)[0])]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.decoder = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.decoder(self.encoder(images)))
        return found


def role(name: str) -> Role:
    return "encoder" if name.startswith("encoder") else "head" if name.startswith("head") else "decoder"


def trained(steps: int = 4, **options: Any) -> list[torch.Tensor]:
    """Parameters of the net after a few steps; the gradients grow and shrink, so that amsgrad shows."""
    net = Net()
    optimizer = build_optimizer(net, role, optim.validate_python(options))
    images = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    for step in range(steps):
        optimizer.zero_grad()
        (net(images).square().mean() * (10.0 if step == 0 else 0.1)).backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in net.parameters()]


def differ(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return any(not torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_group_table() -> None:
    cfg = AdamW(lr=1e-3, weight_decay=0.05, lr_factors={"encoder": 0.1, "head": 10})
    rows = [row._replace(lr=round(row.lr, 9)) for row in group_table(param_groups(Net(), role, cfg))]
    assert rows == [
        GroupRow("encoder", 1, 12, 1e-4, 0.05),
        GroupRow("encoder/no_decay", 3, 12, 1e-4, 0.0),
        GroupRow("decoder", 1, 16, 1e-3, 0.05),
        GroupRow("decoder/no_decay", 1, 4, 1e-3, 0.0),
        GroupRow("head", 1, 8, 1e-2, 0.05),
        GroupRow("head/no_decay", 1, 2, 1e-2, 0.0),
    ]


def test_decay_norms_puts_everything_into_the_decaying_group() -> None:
    rows = group_table(param_groups(Net(), role, Sgd(decay_norms=True, weight_decay=0.1)))
    assert [(row.group, row.tensors, row.decay) for row in rows] == [
        ("encoder", 4, 0.1),
        ("decoder", 2, 0.1),
        ("head", 2, 0.1),
    ]


def test_frozen_parameters_are_in_no_group() -> None:
    net = Net()
    net.encoder.requires_grad_(False)
    assert {row.group for row in group_table(param_groups(net, role, AdamW(lr_factors={"head": 0.1})))} == {
        "decoder",
        "decoder/no_decay",
        "head",
        "head/no_decay",
    }
    with pytest.raises(InputError, match=r"lr_factors names encoder.*what learns is: decoder, head"):
        param_groups(net, role, AdamW(lr_factors={"encoder": 0.1}))
    with pytest.raises(InputError, match="no parameter to train"):
        param_groups(net.requires_grad_(False), role, AdamW())


def test_every_parameter_is_in_exactly_one_group() -> None:
    net = Net()
    found = [id(p) for group in param_groups(net, role, AdamW()) for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in net.parameters())


def test_a_factor_for_a_role_the_model_lacks_is_an_error() -> None:
    with pytest.raises(InputError, match=r"lr_factors names encoder.*head"):
        param_groups(nn.Linear(2, 2), lambda _: "head", AdamW(lr_factors={"encoder": 0.1}))


def test_set_rates_keeps_the_ratio_of_the_groups() -> None:
    optimizer = build_optimizer(Net(), role, AdamW(lr=1e-2, lr_factors={"encoder": 0.1}))
    for step, factor in ((2, 0.5), (3, 0.25), (0, 1.0)):
        set_rates(optimizer, Schedule(Poly(power=1), total=4, samples=8, batch=2), step)
        lrs = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert lrs["encoder"] == pytest.approx(1e-3 * factor)
        assert lrs["head/no_decay"] == pytest.approx(1e-2 * factor)


def test_adamw_is_the_default_kind() -> None:
    assert optim.validate_python({"lr": 0.1}) == AdamW(lr=0.1)
    assert optim.validate_python({}) == AdamW()
    assert optim.validate_python({"kind": "sgd"}) == Sgd()
    assert optim.validate_python(Sgd(momentum=0.5)) == Sgd(momentum=0.5)
    with pytest.raises(ValidationError, match="lrr"):
        optim.validate_python({"lrr": 0.1})
    with pytest.raises(ValidationError, match="'adamw', 'adamw_8bit', 'adam', 'sgd', 'rmsprop'"):
        optim.validate_python({"kind": "lion"})


def test_numbers_that_yaml_reads_as_strings_are_numbers() -> None:
    assert optim.validate_python({"lr": "1e-4"}).lr == 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_dumped_config_loads_to_the_same(kind: str) -> None:
    cfg = optim.validate_python({"kind": kind, "lr_factors": {"head": 10}})
    assert optim.validate_python(cfg.model_dump()) == cfg


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("adamw", {"lr": 0.01}),
        ("adamw", {"weight_decay": 0.9}),
        ("adamw", {"betas": (0.5, 0.9)}),
        ("adamw", {"eps": 0.1}),
        ("adamw", {"amsgrad": True}),
        ("adamw", {"lr_factors": {"head": 10}}),
        ("adamw", {"decay_norms": True}),
        ("adam", {"lr": 0.01}),
        ("adam", {"weight_decay": 0.9}),
        ("adam", {"betas": (0.5, 0.9)}),
        ("adam", {"eps": 0.1}),
        ("adam", {"amsgrad": True}),
        ("adam", {"lr_factors": {"head": 10}}),
        ("adam", {"weight_decay": 0.9, "decay_norms": True}),
        ("adamw_8bit", {"lr": 0.01}),
        ("adamw_8bit", {"betas": (0.5, 0.9)}),
        ("adamw_8bit", {"eps": 0.1}),
        ("rmsprop", {"lr": 0.01}),
        ("rmsprop", {"weight_decay": 0.9}),
        ("rmsprop", {"alpha": 0.5}),
        ("rmsprop", {"eps": 0.1}),
        ("rmsprop", {"momentum": 0.9}),
        ("rmsprop", {"centered": True}),
        ("rmsprop", {"lr_factors": {"decoder": 10}}),
        ("rmsprop", {"weight_decay": 0.9, "decay_norms": True}),
        ("sgd", {"lr": 0.1}),
        ("sgd", {"weight_decay": 0.1}),
        ("sgd", {"momentum": 0.5}),
        ("sgd", {"nesterov": True}),
        ("sgd", {"lr_factors": {"encoder": 0.0}}),
        ("sgd", {"decay_norms": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_every_option_changes_what_is_learned(kind: str, option: dict[str, Any]) -> None:
    given = option.copy()
    if option.keys() == {"weight_decay", "decay_norms"}:  # without decay there is nothing to extend
        given.pop("decay_norms")
    else:
        given.clear()
    assert differ(trained(kind=kind, **given), trained(kind=kind, **option))
    assert not differ(trained(kind=kind), trained(kind=kind))


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_fused_and_amsgrad_reach_the_optimizer(kind: type[Adam | AdamW], amsgrad: bool, fused: bool) -> None:
    optimizer = build_optimizer(Net(), role, kind(fused=fused, amsgrad=amsgrad))
    assert {(group["fused"], group["amsgrad"]) for group in optimizer.param_groups} == {(fused, amsgrad)}


def test_8_bits_are_a_quarter_of_the_state_and_nearly_the_same_steps() -> None:
    learned, sizes = [], []
    for kind in ("adamw", "adamw_8bit"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        optimizer = build_optimizer(net, lambda name: "head", optim.validate_python({"kind": kind, "lr": 1e-3}))
        before = [p.detach().clone() for p in net.parameters()]
        for _ in range(5):
            optimizer.zero_grad()
            net(torch.randn(16, 64)).square().mean().backward()
            optimizer.step()
        weight = net[0].weight
        learned.append(weight.detach() - before[0])
        means = [
            value
            for key, value in optimizer.state[weight].items()
            if key in ("exp_avg", "exp_avg_sq", "state1", "state2")
        ]
        scales = [value for key, value in optimizer.state[weight].items() if key.startswith("absmax")]
        sizes.append(sum(value.numel() * value.element_size() for value in [*means, *scales]))
    exact, coarse = learned
    assert torch.nn.functional.cosine_similarity(exact.flatten(), coarse.flatten(), dim=0) > 0.97
    assert 0 < (exact - coarse).abs().max() < 3e-3, "each step is 1e-3 at most"
    assert 3.8 < sizes[0] / sizes[1] < 4


def test_8_bits_without_the_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(InputError, match=r"optim.kind=adamw_8bit needs bitsandbytes .*terrazzo\[8bit\]"):
        build_optimizer(Net(), role, optim.validate_python({"kind": "adamw_8bit"}))


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_fused_learns_the_same_to_rounding(kind: str) -> None:
    for a, b in zip(trained(kind=kind, fused=True), trained(kind=kind, fused=False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_zero_factor_leaves_the_encoder_as_it_was() -> None:
    before, after = [p.detach() for p in Net().encoder.parameters()], trained(lr_factors={"encoder": 0.0})
    assert not differ(before, after[: len(before)])


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValidationError, match="nesterov=true and momentum=0"):
        Sgd(nesterov=True, momentum=0.0)


def peer(make: Any, cfg: Any, steps: int = 4) -> list[torch.Tensor]:
    """`trained` with torch's own optimizer over all parameters, decay added to the gradients by hand."""
    net, decay = Net(), cfg.weight_decay
    optimizer = make(net.parameters(), lr=cfg.lr)
    images = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    for step in range(steps):
        optimizer.zero_grad()
        (net(images).square().mean() * (10.0 if step == 0 else 0.1)).backward()
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter.grad += decay * parameter.detach()
        optimizer.step()
    return [parameter.detach().clone() for parameter in net.parameters()]


@pytest.mark.parametrize(
    ("cfg", "make"),
    [
        (Adam(weight_decay=0.3, decay_norms=True, fused=False), torch.optim.Adam),
        (RmsProp(weight_decay=0.3, decay_norms=True), torch.optim.RMSprop),
        (Sgd(weight_decay=0.3, decay_norms=True, momentum=0.0), torch.optim.SGD),
    ],
    ids=["adam", "rmsprop", "sgd"],
)
def test_decay_is_a_part_of_the_gradient(cfg: Any, make: Any) -> None:
    for ours, wanted in zip(trained(**cfg.model_dump()), peer(make, cfg), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)  # 4 steps of float32 in another order


def test_decay_of_adamw_is_not() -> None:
    cfg = AdamW(weight_decay=0.3, decay_norms=True, fused=False)
    assert differ(trained(**cfg.model_dump()), trained(**cfg.model_dump() | {"kind": "adam"}))


@pytest.mark.parametrize("betas", [(0.9, 1.0), (-0.1, 0.9), (0.9,)])
@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_betas_out_of_range_are_a_sentence_not_a_crash(kind: str, betas: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="betas"):
        optim.validate_python({"kind": kind, "betas": betas})


CYCLE = OneCycle(momenta=(0.95, 0.85, 0.95))


@pytest.mark.parametrize("kind", KINDS)
def test_momenta_reach_every_group(kind: str) -> None:
    """beta1 of Adam and AdamW, momentum of the others; beta2 stays."""
    optimizer = build_optimizer(Net(), role, optim.validate_python({"kind": kind}))
    schedule = Schedule(CYCLE, total=8, samples=8, batch=1)
    for step in (0, 2, 5):
        set_rates(optimizer, schedule, step)
        for group in optimizer.param_groups:
            found = group["betas"][0] if "betas" in group else group["momentum"]
            assert found == schedule.momentum(step)
            assert group.get("betas", (0, 0.999))[1] == 0.999
    assert schedule.momentum(2) == pytest.approx(0.85)


@pytest.mark.parametrize("kind", KINDS)
def test_without_momenta_the_optimizers_own_stays(kind: str) -> None:
    optimizer = build_optimizer(Net(), role, optim.validate_python({"kind": kind}))
    before = [(group.get("betas"), group.get("momentum")) for group in optimizer.param_groups]
    set_rates(optimizer, Schedule(OneCycle(), total=8, samples=8, batch=1), 3)
    assert [(group.get("betas"), group.get("momentum")) for group in optimizer.param_groups] == before


@pytest.mark.parametrize("cfg", [Adam(betas=(0.8, 0.999)), AdamW(betas=(0.8, 0.9)), Sgd(momentum=0.8)])
def test_a_momentum_that_would_change_nothing_is_an_error(cfg: Any) -> None:
    with pytest.raises(InputError, match=r"optim\.\w+ asks for a momentum of 0\.8.*leave one of them out"):
        check_momentum(cfg, CYCLE)
    check_momentum(cfg, OneCycle())
    check_momentum(type(cfg)(), CYCLE)
    check_momentum(cfg, Poly())


def test_momenta_that_rmsprop_could_not_take_up_later_are_refused() -> None:
    """torch makes room for them in the first step, if that has any."""
    late = OneCycle(momenta=(0, 0.85, 0.95))
    for schedule, first, where in ((late, None, "give schedule"), (CYCLE, Poly(), "give adapt.schedule")):
        with pytest.raises(InputError, match=f"rmsprop cannot take up .* {where} momenta that begin above"):
            check_momentum(RmsProp(), schedule, first)
        check_momentum(Sgd(), schedule, first)
    for schedule, first in ((CYCLE, None), (CYCLE, CYCLE), (Poly(), CYCLE)):
        check_momentum(RmsProp(), schedule, first)
        optimizer = build_optimizer(Net(), role, RmsProp())
        for cfg in (first or schedule, schedule):
            set_rates(optimizer, Schedule(cfg, total=8, samples=8, batch=1), 0)
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.ones_like(parameter)
            optimizer.step()


def test_beta2_may_be_set_beside_momenta() -> None:
    check_momentum(Adam(betas=(0.9, 0.99)), CYCLE)
