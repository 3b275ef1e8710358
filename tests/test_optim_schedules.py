"""Learning rate and momentum of every schedule, to the step."""

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.optim import lr_scheduler

from terrazzo.base import Epochs, InputError, Steps
from terrazzo.optim import (
    AtEpochs,
    AtSteps,
    Constant,
    Cosine,
    Exponential,
    FlatCos,
    Linear,
    MultiStep,
    OneCycle,
    PerEpoch,
    PerStep,
    Poly,
    Schedule,
    ScheduleConfig,
    check_warmups,
)

schedule: TypeAdapter[Any] = TypeAdapter(ScheduleConfig)

NEEDS = {"exponential": {"gamma": {"per_step": 0.9}}, "multi_step": {"milestones": {"steps": [3, 6]}}}
EXAMPLES = [
    schedule.validate_python({"kind": kind, **NEEDS.get(kind, {})})
    for kind in (member.model_fields["kind"].default for member in get_args(get_args(ScheduleConfig)[0]))
]
each_schedule = pytest.mark.parametrize("cfg", EXAMPLES, ids=lambda cfg: cfg.kind)

WARM = Steps(steps=4)


def trace(cfg: Any, total: int, samples: int = 100, batch: int = 10) -> list[float]:
    resolved = Schedule(cfg, total, samples, batch)
    return [resolved.lr_factor(step) for step in range(total)]


def peer_trace(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], total: int) -> list[float]:
    """Rates of torch's scheduler, stepped after every step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    peer, found = make(optimizer), []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        peer.step()
    return found


@each_schedule
def test_the_factor_is_a_function_of_the_step_alone_so_it_cannot_be_stepped_twice(cfg: Any) -> None:
    """W4's scheduler was stepped twice an epoch: its .99 was .9801. Here any order and number of calls is the same."""
    forward = trace(cfg, 12)
    assert [Schedule(cfg, 12, 100, 10).lr_factor(step) for step in reversed(range(12))] == forward[::-1]


@each_schedule
def test_factors_are_shares_before_during_and_after_the_run(cfg: Any) -> None:
    resolved = Schedule(cfg, 12, 100, 10)
    assert all(0 <= resolved.lr_factor(step) <= 1 for step in range(30))
    assert max(trace(cfg, 40)) == pytest.approx(1, abs=0.01)


@each_schedule
def test_a_dumped_config_loads_to_the_same(cfg: Any) -> None:
    assert schedule.validate_python(cfg.model_dump()) == cfg


@pytest.mark.parametrize("cfg", [cfg for cfg in EXAMPLES if "warmup" in type(cfg).model_fields], ids=lambda c: c.kind)
def test_warmup_is_a_line_to_the_curve(cfg: Any) -> None:
    """Milestones count from the start of the run; all other curves begin where the warm-up ends."""
    warm = trace(cfg.model_copy(update={"warmup": WARM, "warmup_factor": 0.2}), 12)
    if cfg.kind == "multi_step":
        assert warm == pytest.approx([0.2, 0.4, 0.6, 0.08, 0.1, 0.1, *[0.01] * 6])
    else:
        assert warm == pytest.approx([0.2, 0.4, 0.6, 0.8, *trace(cfg, 8)])


def test_cosine_to_the_step() -> None:
    half = math.sqrt(0.5)
    expected = [1, (1 + half) / 2, 0.5, (1 - half) / 2]
    assert trace(Cosine(), 4) == pytest.approx(expected)
    assert trace(Cosine(end_factor=0.5), 4) == pytest.approx([0.5 + x / 2 for x in expected])


def test_poly_and_linear_to_the_step() -> None:
    assert trace(Poly(power=1), 4) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert trace(Poly(power=2, warmup=WARM, warmup_factor=0), 8) == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1, 0.5625, 0.25, 0.0625]
    )
    assert trace(Poly(power=1, end_factor=0.2), 4) == pytest.approx([1, 0.8, 0.6, 0.4])
    assert trace(Linear(end_factor=0.2), 4) == pytest.approx([1, 0.8, 0.6, 0.4])
    assert trace(Linear(), 9) == pytest.approx(trace(Poly(power=1), 9))


def test_exponential_per_step_and_per_epoch() -> None:
    """10 samples in batches of 4: epochs begin in steps 0, 2.5 and 5, so the rate falls at steps 3 and 5."""
    assert trace(Exponential(gamma=PerStep(per_step=0.5)), 4) == pytest.approx([1, 0.5, 0.25, 0.125])
    per_epoch = Exponential(gamma=PerEpoch(per_epoch=0.5))
    assert trace(per_epoch, 8, samples=10, batch=4) == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    warm = per_epoch.model_copy(update={"warmup": Epochs(epochs=1), "warmup_factor": 0.0})
    assert trace(warm, 8, samples=10, batch=4) == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 0.5, 0.5, 0.5])


def test_milestones_in_epochs_are_steps_of_that_data_set() -> None:
    cfg = MultiStep(milestones=AtEpochs(epochs=(1, 1.5)), gamma=0.5)
    assert Schedule(cfg, 9, samples=10, batch=4).milestones == (3, 4)
    assert trace(cfg, 6, samples=10, batch=4) == [1, 1, 1, 0.5, 0.25, 0.25]
    assert trace(cfg.model_copy(update={"milestones": AtSteps(steps=(3, 4))}), 6) == [1, 1, 1, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("cfg", "make"),
    [
        (Constant(), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (Linear(end_factor=0.1), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=20)),
        (Cosine(), lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=20)),
        (Poly(), lambda o: lr_scheduler.PolynomialLR(o, total_iters=20, power=0.9)),
        (Exponential(gamma=PerStep(per_step=0.9)), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
        (MultiStep(milestones=AtSteps(steps=(5, 12)), gamma=0.3), lambda o: lr_scheduler.MultiStepLR(o, [5, 12], 0.3)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_curves_agree_with_torchs_schedulers(cfg: Any, make: Any) -> None:
    assert trace(cfg, 20) == pytest.approx(peer_trace(make, 20))


def test_all_warmup_and_no_steps_left_is_finite() -> None:
    assert trace(Cosine(warmup=WARM), 4) == pytest.approx([0.1, 0.325, 0.55, 0.775])
    for cfg in (Cosine(), Poly(), Linear()):
        assert Schedule(cfg, 8, 100, 10).lr_factor(9) == 0.0


def test_flat_cos_is_flat_and_then_falls() -> None:
    half = math.sqrt(0.5)
    wanted = [1, 1, 1, 1, 1, (1 + half) / 2, 0.5, (1 - half) / 2]
    assert trace(FlatCos(pct_start=0.5, final_div=1e12), 8) == pytest.approx(wanted)
    resolved = Schedule(FlatCos(pct_start=0.5, momenta=(0.9, 0.8, 0.6)), 8, 100, 10)
    assert [resolved.momentum(step) for step in (0, 2, 4, 6)] == pytest.approx([0.9, 0.85, 0.8, 0.7])


@pytest.mark.parametrize(
    ("cfg", "option"),
    [
        (OneCycle(), {"pct_start": 0.5}),
        (OneCycle(), {"div": 2}),
        (OneCycle(), {"final_div": 2}),
        (FlatCos(), {"pct_start": 0.5}),
        (FlatCos(), {"final_div": 2}),
        (Linear(), {"end_factor": 0.5}),
        (Linear(), {"warmup": {"steps": 3}}),
        (Exponential(gamma=PerStep(per_step=0.9)), {"gamma": {"per_step": 0.8}}),
        (Exponential(gamma=PerStep(per_step=0.9)), {"gamma": {"per_epoch": 0.9}}),
        (Exponential(gamma=PerEpoch(per_epoch=0.9)), {"gamma": {"per_epoch": 0.8}}),
        (MultiStep(milestones=AtSteps(steps=(3,))), {"gamma": 0.5}),
        (MultiStep(milestones=AtSteps(steps=(3,))), {"milestones": {"steps": [4]}}),
        (MultiStep(milestones=AtSteps(steps=(3,))), {"milestones": {"epochs": [1]}}),
        (MultiStep(milestones=AtEpochs(epochs=(1,))), {"milestones": {"epochs": [1.5]}}),
    ],
    ids=lambda value: getattr(value, "kind", "") or next(iter(value)),
)
def test_every_option_changes_the_trace(cfg: Any, option: dict[str, Any]) -> None:
    other = schedule.validate_python(cfg.model_dump() | option)
    assert trace(cfg, 25) != pytest.approx(trace(other, 25))


@pytest.mark.parametrize("cfg", [OneCycle(), FlatCos()], ids=lambda cfg: cfg.kind)
def test_momenta_change_the_momentum(cfg: Any) -> None:
    assert Schedule(cfg, 8, 100, 10).momentum(3) is None
    given = cfg.model_copy(update={"momenta": (0.9, 0.8, 0.7)})
    assert Schedule(given, 8, 100, 10).momentum(0) == pytest.approx(0.9)
    assert Schedule(given, 8, 100, 10).momentum(8) == pytest.approx(0.7)


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "poly", "warmup": 4},
        {"kind": "multi_step", "milestones": [5, 10]},
        {"kind": "exponential", "gamma": 0.99},
        {"kind": "multi_step", "milestones": {"steps": []}},
        {"kind": "one_cycle", "pct_start": 1.0},
        {"kind": "one_cycle", "momenta": [0.95, 0.85]},
        {"kind": "one_cycle", "warmup": {"steps": 3}},
    ],
)
def test_hidden_units_are_refused(given: dict[str, Any]) -> None:
    """Steps or epochs, per step or per epoch: a bare number says neither. Nor is there half an option."""
    with pytest.raises(ValidationError):
        schedule.validate_python(given)


def test_sentences_about_what_cannot_be_meant() -> None:
    with pytest.raises(ValidationError, match=r"0.99 per what\? Give {per_epoch: 0.99} or {per_step: 0.99}"):
        schedule.validate_python({"kind": "exponential", "gamma": 0.99})
    with pytest.raises(ValidationError, match=r"\[5, 10\] in what unit\? Give {epochs: \[5, 10\]} or"):
        schedule.validate_python({"kind": "multi_step", "milestones": [5, 10]})
    with pytest.raises(ValidationError, match="changes nothing without a warm-up"):
        schedule.validate_python({"kind": "poly", "warmup_factor": 0.5})
    with pytest.raises(ValidationError, match=r"milestones \[10.0, 5.0\] must rise"):
        schedule.validate_python({"kind": "multi_step", "milestones": {"epochs": [10, 5]}})


def test_what_a_short_run_never_reaches_is_said() -> None:
    cfg = MultiStep(milestones=AtEpochs(epochs=(0.5, 5, 10)), warmup=Steps(steps=40))
    assert Schedule(cfg, 30, samples=100, batch=10).remarks() == [
        "the run ends at step 30, inside its warm-up of 40 steps",
        "the run ends at step 30, before the milestones at 50, 100",
    ]
    assert Schedule(cfg, 101, samples=100, batch=10).remarks() == []
    slow = Constant(warmups={"encoder": Steps(steps=30), "head": Steps(steps=29)})
    assert Schedule(slow, 30, samples=100, batch=10, begins=20).remarks() == [
        "the run ends at step 50, inside the encoder's warm-up of 30 steps",
    ]


def test_a_warm_up_of_what_does_not_learn_is_refused() -> None:
    slow = Constant(warmups={"encoder": Steps(steps=30)})
    check_warmups(slow, {"encoder", "head"}, "schedule")
    with pytest.raises(InputError, match=r"adapt\.schedule\.warmups names encoder, but what learns is: decoder, head"):
        check_warmups(slow, {"head", "decoder"}, "adapt.schedule")
