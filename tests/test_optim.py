"""Learning rates to the step, parameter groups to the tensor, and every option changing something."""

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from terrazzo.base import InputError, Steps
from terrazzo.optim import (
    AdamW,
    Constant,
    Cosine,
    GroupRow,
    OptimConfig,
    Poly,
    Role,
    ScheduleConfig,
    Sgd,
    build_optimizer,
    group_table,
    lr_factor,
    param_groups,
    set_lr,
)

optim: TypeAdapter[Any] = TypeAdapter(OptimConfig)
schedule: TypeAdapter[Any] = TypeAdapter(ScheduleConfig)


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


def trace(cfg: Constant | Cosine | Poly, total: int, warmup: int) -> list[float]:
    return [lr_factor(step, total, cfg, warmup) for step in range(total)]


WARM = Steps(steps=4)


def test_constant_after_warmup_to_the_step() -> None:
    cfg = Constant(warmup=WARM, warmup_factor=0.2)
    assert trace(cfg, 8, 4) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


def test_cosine_after_warmup_to_the_step() -> None:
    cfg = Cosine(warmup=WARM)
    half = math.sqrt(0.5)
    after = [1, (1 + half) / 2, 0.5, (1 - half) / 2]
    assert trace(cfg, 8, 4) == pytest.approx([0.1, 0.325, 0.55, 0.775, *after])
    assert trace(Cosine(end_factor=0.5), 4, 0) == pytest.approx([0.5 + x / 2 for x in after])


def test_poly_after_warmup_to_the_step() -> None:
    assert trace(Poly(power=1), 4, 0) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert trace(Poly(power=2, warmup=WARM, warmup_factor=0), 8, 4) == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1, 0.5625, 0.25, 0.0625]
    )
    assert trace(Poly(power=1, end_factor=0.2), 4, 0) == pytest.approx([1, 0.8, 0.6, 0.4])
    assert trace(Poly(), 10, 0) == pytest.approx([(1 - step / 10) ** 0.9 for step in range(10)])


@pytest.mark.parametrize("cfg", [Constant(), Cosine(), Poly()], ids=["constant", "cosine", "poly"])
def test_cosine_and_poly_agree_with_torchs_schedulers(cfg: Constant | Cosine | Poly) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    peer: torch.optim.lr_scheduler.LRScheduler
    match cfg:
        case Constant():
            peer = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        case Cosine():
            peer = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
        case Poly():
            peer = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=20, power=0.9)
    for step in range(20):
        assert lr_factor(step, 20, cfg, 0) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        peer.step()


def test_the_factor_is_a_function_of_the_step_alone() -> None:
    """Nothing is stepped, so nothing can be stepped twice: any order, any number of calls."""
    cfg = Poly(warmup=WARM)
    forward = trace(cfg, 12, 4)
    assert [lr_factor(step, 12, cfg, 4) for step in reversed(range(12))] == forward[::-1]


def test_all_warmup_and_no_steps_left_is_finite() -> None:
    assert trace(Cosine(warmup=WARM), 4, 4) == pytest.approx([0.1, 0.325, 0.55, 0.775])
    assert lr_factor(9, 8, Cosine(), 0) == 0.0
    assert lr_factor(9, 8, Poly(), 0) == 0.0


def test_schedules_load_by_kind_with_a_unit_on_the_warmup() -> None:
    assert schedule.validate_python({"kind": "poly", "warmup": {"steps": 4}}) == Poly(warmup=WARM)
    with pytest.raises(ValidationError):
        schedule.validate_python({"kind": "poly", "warmup": 4})  # of what?
    with pytest.raises(ValidationError, match="changes nothing without a warm-up"):
        schedule.validate_python({"kind": "poly", "warmup_factor": 0.5})


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
    assert {row.group for row in group_table(param_groups(net, role, AdamW(lr_factors={"encoder": 0.1})))} == {
        "decoder",
        "decoder/no_decay",
        "head",
        "head/no_decay",
    }
    with pytest.raises(InputError, match="no parameter to train"):
        param_groups(net.requires_grad_(False), role, AdamW())


def test_every_parameter_is_in_exactly_one_group() -> None:
    net = Net()
    found = [id(p) for group in param_groups(net, role, AdamW()) for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in net.parameters())


def test_a_factor_for_a_role_the_model_lacks_is_an_error() -> None:
    with pytest.raises(InputError, match=r"lr_factors names encoder.*head"):
        param_groups(nn.Linear(2, 2), lambda _: "head", AdamW(lr_factors={"encoder": 0.1}))


def test_set_lr_keeps_the_ratio_of_the_groups() -> None:
    optimizer = build_optimizer(Net(), role, AdamW(lr=1e-2, lr_factors={"encoder": 0.1}))
    for factor in (0.5, 0.25, 1.0):
        set_lr(optimizer, factor)
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
    with pytest.raises(ValidationError, match="'adamw', 'sgd'"):
        optim.validate_python({"kind": "lion"})


def test_numbers_that_yaml_reads_as_strings_are_numbers() -> None:
    assert optim.validate_python({"lr": "1e-4"}).lr == 1e-4


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
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
    assert differ(trained(kind=kind), trained(kind=kind, **option))
    assert not differ(trained(kind=kind), trained(kind=kind))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_fused_and_amsgrad_reach_the_optimizer(amsgrad: bool, fused: bool) -> None:
    optimizer = build_optimizer(Net(), role, AdamW(fused=fused, amsgrad=amsgrad))
    assert {(group["fused"], group["amsgrad"]) for group in optimizer.param_groups} == {(fused, amsgrad)}


def test_fused_learns_the_same_to_rounding() -> None:
    for a, b in zip(trained(fused=True), trained(fused=False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_zero_factor_leaves_the_encoder_as_it_was() -> None:
    before, after = [p.detach() for p in Net().encoder.parameters()], trained(lr_factors={"encoder": 0.0})
    assert not differ(before, after[: len(before)])


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValidationError, match="nesterov=true and momentum=0"):
        Sgd(nesterov=True, momentum=0.0)
