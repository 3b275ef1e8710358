"""Adapted runs that were stopped end with the bits of those that were not; ways to compute a step change no number."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_runs import SEGFORMER
from torch import Tensor

import terrazzo
from models.small_zoo import small_zoo
from terrazzo.adapt import Lora, adapt
from terrazzo.base import IMAGENET, InputError
from terrazzo.commands.start import parts_matter
from terrazzo.engine.state import file_hash
from terrazzo.engine.step import make_step
from terrazzo.models import SegFormerModel, Segmenter, TimmModel, ZooModel, build_model
from terrazzo.models.zoo import segmenter_of
from test_engine_options import recipe, run, weights

PUBLISHED = ZooModel(name="segnext_mscan-t", weights="none")
CYCLE = {"kind": "one_cycle", "momenta": [0.95, 0.85, 0.95]}
BATCH = {"kind": "unet", "width": 4, "depth": 2, "dropout": 0.1}
MIT = {"kind": "segformer", "dims": [8] * 4, "heads": [1] * 4, "depths": [2, 1, 1, 1], "decoder_width": 16}

RUNS: dict[str, dict[str, Any]] = {
    "staged": {
        "model": BATCH,
        "adapt": {"kind": "staged", "frozen": {"steps": 4}, "lr": 0.02, "schedule": CYCLE},
        "schedule": {"kind": "cosine", "warmups": {"encoder": {"steps": 3}}},
        "optim": {"kind": "adam", "lr": 0.01, "lr_factors": {"encoder": 0.1}},
    },
    "staged with moving statistics": {
        "model": BATCH,
        "adapt": {"kind": "staged", "frozen": {"steps": 4}, "batchnorm": "running"},
        "optim": {"kind": "sgd", "lr": 0.01, "momentum": 0.9},
        "ema": {"decay": 0.5},
    },
    "lora": {"model": BATCH, "adapt": {"kind": "lora", "rank": 2, "dropout": 0.3, "dora": True}, "ema": {"decay": 0.5}},
    "8 bits": {"model": BATCH, "optim": {"kind": "adamw_8bit", "min_values": 64}},
    "frozen": {"model": BATCH, "adapt": {"kind": "frozen", "batchnorm": "running"}},
    "adapter": {"model": MIT, "adapt": {"kind": "adapter", "width": 2}, "step": {"recompute": True}},
    "vpt": {"model": {"kind": "timm", "encoder": "test_vit", "weights": "none"}, "adapt": {"kind": "vpt", "tokens": 2}},
}


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do runs wait for a disk."""
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr("terrazzo.commands.train.report_run", lambda *args, **options: None)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Send this process SIGTERM in a step, counted over the stages of a run, which have a step function each."""
    done: list[int] = []

    def counted(*args: Any) -> Any:
        step = make_step(*args)

        def wrapped(*inputs: Tensor) -> Any:
            done.append(1)
            if len(done) == steps:
                signal.raise_signal(signal.SIGTERM)
            return step(*inputs)

        return wrapped

    monkeypatch.setattr("terrazzo.commands.train.make_step", counted)


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_is_not_stopped(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before, at and behind the end of a first stage."""
    assert run(tmp_path / "whole", **RUNS[name]).finished
    reached = []
    for steps in (3, 1, 1):
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            reached.append(run(tmp_path / "cut", **RUNS[name]).step)
    assert reached == [3, 4, 5]
    assert run(tmp_path / "cut", **RUNS[name]).finished
    files = ["metrics.jsonl", *(f"checkpoints/{kept}/model.safetensors" for kept in ("last", "best_miou", "best_loss"))]
    whole, cut = ({file: file_hash(tmp_path / out / file) for file in files} for out in ("whole", "cut"))
    assert cut == whole


def test_a_first_stage_leaves_its_momentum_behind(tmp_path: Path) -> None:
    """The second stage schedules none, so it has the optimizer's own."""
    run(tmp_path / "r", **RUNS["staged"])
    saved = torch.load(tmp_path / "r/checkpoints/last/train_state.pt", weights_only=True)
    assert {group["betas"] for group in saved["optimizer"]["param_groups"]} == {(0.9, 0.999)}


def test_learning_rates_of_two_stages(tmp_path: Path) -> None:
    """Logged behind every second step: the first stage's rate is one for all, the second's has the roles' factors."""
    run(tmp_path / "r", **RUNS["staged"] | {"adapt": {"kind": "staged", "frozen": {"steps": 4}, "lr": 0.02}})
    lines = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    assert [line["lr/head"] for line in lines[:2]] == [0.02, 0.02]
    assert lines[2]["lr/encoder"] < 0.1 * lines[2]["lr/decoder"], "its warm-up is its own"
    assert lines[3]["lr/encoder"] == pytest.approx(0.1 * lines[3]["lr/decoder"])


@pytest.mark.parametrize("step", [{"recompute": True}, {"mode": "compile", "backend": "eager"}], ids=repr)
@pytest.mark.parametrize("adapt", [{"kind": "lora", "rank": 2}, {"kind": "ssf"}, RUNS["adapter"]["adapt"]], ids=repr)
def test_recomputing_and_compiling_change_no_number(
    adapt: dict[str, Any], step: dict[str, Any], tmp_path: Path
) -> None:
    torch._dynamo.reset()
    model = {"kind": "unet", "width": 4, "depth": 1}
    for name, how in {"plain": {}, "other": step}.items():
        run(tmp_path / name, model=model, adapt=adapt, step=how, length={"steps": 3}, validate_every={"steps": 9})
    plain, other = weights(tmp_path / "plain"), weights(tmp_path / "other")
    assert plain.keys() == other.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_pitfall_base_weights_come_first(method: str, tmp_path: Path) -> None:
    """The frozen tensors of an adapted run are those of the file, every one of them."""
    run(tmp_path / "base", model=MIT, length={"steps": 2})
    base = tmp_path / "base/checkpoints/last/model.safetensors"
    run(tmp_path / "r", model=MIT | {"weights": str(base)}, adapt={"kind": method}, length={"steps": 2})
    before, after = weights(tmp_path / "base"), weights(tmp_path / "r")
    plain = {name.replace("parametrizations.", "").removesuffix(".original"): name for name in after}
    encoder = [name for name in before if name.startswith("net.encoder.")]
    assert all(torch.equal(before[name], after[plain[name]]) for name in encoder)


BAD = {
    "a first stage as long as the run": (
        {"adapt": {"kind": "staged", "frozen": {"steps": 8}}},
        "frozen is 8 steps .* 8",
    ),
    "a first stage without end": ({"adapt": {"kind": "staged", "frozen": {"epochs": 9}}}, "frozen is 27 steps .* 8"),
    "a pattern for nothing": (
        {"adapt": {"kind": "lora", "targets": {"regex": "block.*"}}},
        "matches no layer; .*called",
    ),
    "a pattern for everything": ({"adapt": {"kind": "ssf", "targets": {"regex": ".*"}}}, "matches all .* layers"),
    "no pattern": ({"adapt": {"kind": "ssf", "targets": {"regex": "("}}}, "is no regular expression"),
    "a name of nothing": ({"adapt": {"kind": "ssf", "targets": ["encoder.layer9"]}}, "'encoder.layer9' is no layer"),
    "prompts for a convnet": ({"adapt": {"kind": "vpt"}}, "for plain ViTs"),
    "two momenta": (
        {"optim": {"kind": "sgd", "momentum": 0.5}, "adapt": {"kind": "staged", "schedule": CYCLE}},
        r"optim\.momentum asks for .* 0\.5",
    ),
    "a rate for what does not learn": (
        {"optim": {"lr_factors": {"encoder": 0.1}}, "adapt": {"kind": "frozen"}},
        "lr_factors names encoder, but what learns is: decoder, head",
    ),
    "decay by depth of what does not learn": (
        {"optim": {"layer_decay": 0.8}, "adapt": {"kind": "frozen"}},
        r"layer_decay=0\.8: no encoder that learns",
    ),
    "another method on resume": ({"adapt": {"kind": "ssf"}}, r"adapt\.kind"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_meant_is_a_sentence_before_any_step(name: str, tmp_path: Path) -> None:
    changes, words = BAD[name]
    if "resume" in name:
        run(tmp_path / "r", length={"steps": 1})
    with pytest.raises(InputError, match=words):
        run(tmp_path / "r", **changes)
    assert not list(tmp_path.glob("r/checkpoints/step_*8"))
    assert not (tmp_path / "r/metrics.jsonl").exists() or "resume" in name


def test_a_network_in_which_nothing_is_left_to_learn_is_a_sentence(tmp_path: Path) -> None:
    from test_engine_options import Noise

    changes = {"model": {"kind": "own"}, "adapt": {"kind": "frozen", "train": "classifier"}}
    with pytest.raises(InputError, match="nothing would learn"):
        terrazzo.train(
            recipe(tmp_path / "r", **changes),
            model=torch.nn.Conv2d(3, 3, 1),
            train_set=Noise(4, 0),
            val_set=Noise(2, 1),
        )


def test_the_dropout_of_lora_is_one_of_what_parts_of_a_batch_meet() -> None:
    segmenter, _ = build_model(SegFormerModel.model_validate(SEGFORMER | {"dropout": 0}), 2)
    segmenter.train()
    adapt(segmenter, Lora(rank=2, also_train="none"))
    assert parts_matter(segmenter, 1, 3) is None
    segmenter, _ = build_model(SegFormerModel.model_validate(SEGFORMER | {"dropout": 0}), 2)
    adapt(segmenter, Lora(rank=2, dropout=0.1, also_train="none"))
    segmenter.train()
    said = parts_matter(segmenter, 1, 3)
    assert said == "1 x 3 parts of a batch meet LoRA's dropout one by one: the run depends on their number"


def test_stochastic_depth_is_one_of_what_parts_of_a_batch_meet() -> None:
    """Of a library, of the published networks, and the dropout of attention."""
    segmenters = [
        build_model(TimmModel(encoder="test_vit", weights="none", decoder={"kind": "linear"}, drop_path=rate), 2)[0]
        for rate in (0.1, 0.0)
    ]
    zoo = {name: segmenter_of(PUBLISHED, architecture, 2, 3) for name, architecture in small_zoo().items()}
    published = next(each for each in zoo.values() if any(getattr(m, "rate", 0) for m in each.modules()))
    attention = Segmenter(torch.nn.MultiheadAttention(4, 2, dropout=0.1), normalization=IMAGENET, stride=1)
    for segmenter, wanted in zip(
        (*segmenters, published, attention), ("stochastic depth", None, "stochastic depth", "dropout"), strict=True
    ):
        for module in segmenter.train().modules():
            if isinstance(module, torch.nn.BatchNorm2d) or type(module) is torch.nn.Dropout:
                module.eval()
        said = parts_matter(segmenter, 2, 1)
        assert (said is None) if wanted is None else (wanted in str(said)), said
