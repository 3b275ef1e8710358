"""How a step may be computed: precision, parts, recomputed, compiled, averaged, stopped early, on two ranks."""

import copy
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import terrazzo
from terrazzo.base import Classes, InputError, Sample
from terrazzo.commands.replay import replay
from terrazzo.config import load_config
from terrazzo.engine.ema import Ema, EmaConfig
from terrazzo.engine.memory import explained
from terrazzo.engine.recompute import recompute_blocks
from terrazzo.engine.step import StepConfig, make_scaler, make_step
from terrazzo.engine.stop import EarlyStop
from terrazzo.engine.world import World
from terrazzo.losses import CrossEntropy, Tversky, build_loss
from terrazzo.models import SegFormerModel, SmpModel, UNetModel, build_model

CPU = World(0, 1, torch.device("cpu"))
CLASSES = Classes.of(["a", "b", "c"])


class Noise:
    """Images of noise with a bright square; deterministic by index."""

    classes = CLASSES

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index >= self.count:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, index])
        image, mask = rng.integers(0, 120, (40, 40, 3), dtype=np.uint8), np.zeros((40, 40), np.uint8)
        top, left = rng.integers(0, 20, 2)
        mask[top : top + 15, left : left + 15] = 1 + index % 2
        image[mask > 0] += 100
        mask[:3] = 255
        return Sample(image, mask, f"noise-{index}")


def recipe(out: Path, **changes: Any) -> dict[str, Any]:
    base = {
        "out": str(out),
        "data": {"kind": "own", "workers": 0},
        "model": {"kind": "unet", "width": 4, "depth": 2, "norm": "group"},
        "augment": {"crop": 32},
        "optim": {"kind": "adamw", "lr": 0.01},
        "length": {"steps": 8},
        "batch": 4,
        "log_every": {"steps": 2},
        "validate_every": {"steps": 4},
        "save_every": {"steps": 2},
        "device": "cpu",
        "threads": 1,
    }
    return base | changes


def run(out: Path, **changes: Any) -> Any:
    return terrazzo.train(recipe(out, **changes), train_set=Noise(12, 0), val_set=Noise(4, 1))


def weights(out: Path, name: str = "last") -> dict[str, Tensor]:
    return dict(terrazzo.load_network(out / "checkpoints" / name).state_dict())


def one_step(model: nn.Module, cfg: StepConfig, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of one fixed batch."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, 3, (4, 32, 32), dtype=torch.uint8, generator=generator)
    masks[0, :20] = 255  # parts with unequal numbers of counted pixels
    model = model.to(dtype).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loss = build_loss((CrossEntropy(), Tversky()), CLASSES, auxiliary=0.0)
    torch.manual_seed(0)
    result = make_step(model, loss, optimizer, cfg, CPU, make_scaler(cfg, CPU.device))(images, masks)  # type: ignore[arg-type]
    return result.loss, [p.grad for p in model.parameters() if p.grad is not None]


def network(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(UNetModel(width=4, depth=2, **{"norm": "group", **options}), 3)[0]


def test_parts_of_a_batch_have_the_gradient_of_the_whole() -> None:
    """Pitfall: accumulation that is a no-op, or that weighs ignored pixels."""
    whole = one_step(network(), StepConfig(), dtype=torch.float64)
    for parts in (2, 4):
        loss, gradients = one_step(network(), StepConfig(accumulate=parts), dtype=torch.float64)
        torch.testing.assert_close(loss, whole[0], rtol=1e-10, atol=1e-12)
        for ours, theirs in zip(gradients, whole[1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_parts_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(InputError, match="accumulate=3 does not divide batch=8"):
        load_config("camvid_unet", ["step.accumulate=3"])


def test_recomputing_changes_no_number_and_moves_statistics_once() -> None:
    cfg = SmpModel(encoder="resnet18", weights="none")
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = build_model(cfg, 3)[0]
        if recompute:
            assert any("layer1" in name for name in recompute_blocks(model))
        loss, gradients = one_step(model, StepConfig())
        results.append((loss, gradients, dict(model.named_buffers()), set(model.state_dict())))
    (loss, gradients, buffers, names), (loss2, gradients2, buffers2, names2) = results
    assert loss == loss2
    assert names == names2
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients2, strict=True))
    assert all(torch.equal(buffers[name], buffers2[name]) for name in buffers)


def test_recomputing_a_network_without_blocks_is_refused() -> None:
    from terrazzo.models import OwnModel

    model = build_model(OwnModel(), 3, own=nn.Conv2d(3, 3, 1))[0]
    with pytest.raises(InputError, match="no sequence of blocks"):
        recompute_blocks(model)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_near_and_not_equal(precision: Any) -> None:
    loss, gradients = one_step(network(), StepConfig(precision=precision))
    exact, exact_gradients = one_step(network(), StepConfig())
    assert loss != exact
    torch.testing.assert_close(loss, exact, rtol=0.03, atol=0.03)
    ours, theirs = (torch.cat([g.flatten() for g in part]).norm() for part in (gradients, exact_gradients))
    assert 0.9 < ours / theirs < 1.1, "float16's scale is taken off again"


def test_float16_trains_and_its_scale_is_kept(tmp_path: Path) -> None:
    run(tmp_path / "r", step={"precision": "float16"})
    saved = torch.load(tmp_path / "r/checkpoints/last/train_state.pt", weights_only=True)
    assert saved["scaler"]["scale"] > 0
    assert all(value.isfinite().all() for value in weights(tmp_path / "r").values())


def test_a_compiled_step_is_the_step() -> None:
    eager = one_step(network(), StepConfig())
    compiled = one_step(network(), StepConfig(mode="compile", backend="eager"))
    torch.testing.assert_close(eager, compiled)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch's compiler needs a C++ compiler on a CPU")
@pytest.mark.parametrize("name", ["unet", "segformer"])
def test_a_step_compiled_by_inductor_learns_what_the_eager_step_learns(name: str) -> None:
    """Kernels of torch's own compiler, forward and backward; equal to rounding."""
    configs = {
        "unet": UNetModel(width=4, depth=2),
        "segformer": SegFormerModel(
            dims=(8, 16, 16, 16), heads=(1, 1, 2, 2), depths=(1, 1, 1, 1), decoder_width=16, dropout=0
        ),
    }
    torch.manual_seed(0)
    model = build_model(configs[name], 3)[0]
    eager = one_step(copy.deepcopy(model), StepConfig())
    compiled = one_step(model, StepConfig(mode="compile"))
    torch.testing.assert_close(eager, compiled, rtol=1e-4, atol=1e-5)


def test_a_network_that_cannot_be_captured_is_an_error_not_a_fallback() -> None:
    """Pitfall: a requested mode that does not engage."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            if images.mean().item() > 0:
                return self.head(images)
            return self.head(-images)

    from terrazzo.models import OwnModel

    model = build_model(OwnModel(), 3, own=Branching())[0]
    with pytest.raises(InputError, match=r"step\.mode=compile: torch cannot compile"):
        one_step(model, StepConfig(mode="compile", backend="eager"))


def test_the_average_follows_its_formula() -> None:
    model = network()
    ema = Ema(model, EmaConfig(decay=0.9, warmup=False))
    start = [p.clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p += 1
    ema.update(model, 1)
    for mean, before in zip(ema.model.parameters(), start, strict=True):
        torch.testing.assert_close(mean, before + 0.1)
    warm = Ema(model, EmaConfig(decay=0.9))
    with torch.no_grad():
        for p in model.parameters():
            p += 1
    warm.update(model, 1)  # (1 + 1) / (10 + 1) is kept
    for mean, now in zip(warm.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mean, now - 2 / 11)


def test_the_average_is_shipped_and_survives_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    run(tmp_path / "plain")
    run(tmp_path / "whole", ema={"decay": 0.5})
    assert any(not torch.equal(v, weights(tmp_path / "plain")[k]) for k, v in weights(tmp_path / "whole").items())
    calls = []

    def stopping(*args: Any) -> Any:
        step = make_step(*args)

        def one(*inputs: Tensor) -> Any:
            calls.append(1)
            if len(calls) == 3:
                signal.raise_signal(signal.SIGTERM)
            return step(*inputs)

        return one

    with monkeypatch.context() as patch:
        patch.setattr("terrazzo.commands.train.make_step", stopping)
        assert not run(tmp_path / "cut", ema={"decay": 0.5}).finished
    assert run(tmp_path / "cut", ema={"decay": 0.5}).finished
    for name in ("last", "best_miou"):
        one, other = weights(tmp_path / "whole", name), weights(tmp_path / "cut", name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_early_stopping_counts_validations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = {"metric": "train/loss", "mode": "max", "patience": 2}  # the loss falls, so nothing gets "better"
    left = run(tmp_path / "r", length={"steps": 60}, validate_every={"steps": 2}, early_stop=rule)
    assert left.finished
    assert left.step < 60
    last = json.loads((tmp_path / "r/metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == left.step
    assert (tmp_path / "r/report.html").exists()
    report = (tmp_path / "r/report.html").stat().st_mtime_ns
    capsys.readouterr()
    assert run(tmp_path / "r", length={"steps": 60}, validate_every={"steps": 2}, early_stop=rule).step == left.step
    said = capsys.readouterr().err
    assert f"early stopping ended this run at step {left.step} of 60; nothing is left to do" in " ".join(said.split())
    assert "going on" not in said
    assert (tmp_path / "r/report.html").stat().st_mtime_ns == report


def test_early_stopping_takes_the_better_direction_by_itself() -> None:
    assert EarlyStop(metric="val/loss").sign == -1
    assert EarlyStop(metric="val/miou").sign == 1
    assert EarlyStop(metric="val/miou", mode="min").sign == -1


def test_out_of_memory_names_a_setting_that_was_tried_and_fits() -> None:
    class Hungry(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            if images.shape[0] > 1 and self.training:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return self.head(images)

    from terrazzo.models import OwnModel

    model = build_model(OwnModel(), 3, own=Hungry())[0]
    with pytest.raises(InputError, match=r"4 images of 32x32.*20\.00 GiB.*step\.accumulate=4 was tried and fits"):
        one_step(model, StepConfig())


def test_a_full_host_is_out_of_memory_too_and_other_faults_are_not() -> None:
    images, masks = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4)

    def never(*_: Tensor) -> None:
        torch.empty(2**60)

    with pytest.raises(InputError, match="not even one image at a time fits"), explained(images, masks, 1, never):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="other"), explained(images, masks, 1, never):
        raise RuntimeError("other")


def test_a_loss_that_is_no_number_is_dumped_and_replayed(tmp_path: Path) -> None:
    class Poisoned(Noise):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return sample._replace(image=np.full_like(sample.image, 255)) if index == 7 else sample

    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.encoder = nn.Conv2d(3, 4, 1)
            self.spoil = Spoil()
            self.head = nn.Conv2d(4, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.spoil(self.encoder(images), images))

    class Spoil(nn.Module):
        def forward(self, features: Tensor, images: Tensor) -> Tensor:
            white = images.amin((1, 2, 3), keepdim=True) > 2  # only the all-white image, normalised
            return torch.where(white, features / 0, features)

    def start() -> Any:
        changes = {"model": {"kind": "own"}, "augment": {"crop": 32, "brightness": 0, "contrast": 0, "saturation": 0}}
        return terrazzo.train(
            recipe(tmp_path / "r", **changes, length={"steps": 30}),
            model=Fragile(),
            train_set=Poisoned(12, 0),
            val_set=Noise(4, 1),
        )

    with pytest.raises(InputError, match=r"training loss is (nan|inf|-inf) at step \d+ .*noise-7.*terrazzo replay"):
        start()
    dump = json.loads((tmp_path / "r/nonfinite.json").read_text())
    assert "noise-7" in dump["images"]
    found = replay(tmp_path / "r", network=Fragile(), train_set=Poisoned(12, 0), val_set=Noise(4, 1))
    assert found.step == dump["step"]
    assert list(found.images) == dump["images"]
    assert found.weights_finite
    assert found.first_layer == "net.spoil"
    assert found.bad_gradients
    assert len(list(found.folder.glob("*-image.png"))) == 4


def test_a_signal_does_not_save_weights_that_are_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    def poisoned(*args: Any) -> Any:
        step = make_step(*args)

        def one(*inputs: Tensor) -> Any:
            signal.raise_signal(signal.SIGTERM)
            result = step(*inputs)
            return result._replace(loss=result.loss / 0)

        return one

    monkeypatch.setattr("terrazzo.commands.train.make_step", poisoned)
    with pytest.raises(InputError, match=r"training loss is inf at step 1 "):
        run(tmp_path / "r")
    assert not (tmp_path / "r/checkpoints").exists()


def test_what_cannot_be_replayed_says_why(tmp_path: Path) -> None:
    run(tmp_path / "r")
    with pytest.raises(InputError, match="was not stopped by its loss"):
        replay(tmp_path / "r", train_set=Noise(12, 0), val_set=Noise(4, 1))
    with pytest.raises(InputError, match="last checkpoint is of step 8; only later steps can be replayed"):
        replay(tmp_path / "r", step=3, train_set=Noise(12, 0), val_set=Noise(4, 1))
    with pytest.raises(InputError, match="no run folder"):
        replay(tmp_path / "nowhere")


DDP = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_engine_options import Noise, recipe
from terrazzo.base import Steps
import terrazzo, terrazzo.commands.start as start
build = start.build_model
def double(*args, **kwargs):
    model, report = build(*args, **kwargs)
    return model.double(), report
start.build_model = double
from pathlib import Path
changes = dict(length=dict(steps=10), validate_every=dict(steps=10), save_every=dict(steps=10), adapt={adapt!r})
terrazzo.train(recipe(Path({out!r}), **changes), train_set=Noise(12, 0), val_set=Noise(5, 1))
"""


@pytest.mark.parametrize("adapt", [{"kind": "full"}, {"kind": "staged", "frozen": {"steps": 4}}])
def test_two_ranks_are_one_to_1e_10(adapt: dict[str, Any], tmp_path: Path) -> None:
    """float64, no BatchNorm, no dropout, 10 AdamW steps: the loss is divided by the global count of counted pixels."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for out, size in (("one", 1), ("two", 2)):
        env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
        code = DDP.format(tests=str(Path(__file__).parent), out=str(tmp_path / out), adapt=adapt)
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                env=env | {"RANK": str(r), "LOCAL_RANK": "0"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for r in range(size)
        ]
        for process in ranks:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / out / "checkpoints/last/model.safetensors") for out in ("one", "two"))
    assert one.keys() == two.keys()
    assert max((one[key] - two[key]).abs().max().item() for key in one) <= 1e-10
    first, second = ((tmp_path / out / "metrics.jsonl").read_text().splitlines()[-1] for out in ("one", "two"))
    first, second = json.loads(first), json.loads(second)
    assert first["val/miou"] == second["val/miou"]
    assert abs(first["val/loss"] - second["val/loss"]) < 1e-9
    assert abs(first["train/loss"] - second["train/loss"]) < 1e-6  # what is reduced over ranks is what is logged
    assert (tmp_path / "two/report.html").exists()


STOPPED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_engine_options import Noise, recipe
import terrazzo, terrazzo.commands.train as training

make, rank = training.make_step, int(os.environ["RANK"])

def told(*args):
    step, done = make(*args), []
    def one(*inputs):
        done.append(1)
        if rank == 1 and len(done) == 3:
            signal.raise_signal(signal.SIGTERM)
        return step(*inputs)
    return one

def life(out, **more):
    changes = dict(length=dict(steps=14), validate_every=dict(steps=7), save_every=dict(steps=14)) | more
    run = terrazzo.train(recipe(Path(out), **changes), train_set=Noise(12, 0), val_set=Noise(5, 1))
    with open({out!r} + "/ended.txt", "a") as file:
        file.write(f"rank {{rank}} step {{run.step}} finished {{run.finished}} signal {{run.stopped_by}}\\n")

life({out!r} + "/whole")
training.make_step = told
life({out!r} + "/cut")
training.make_step = make
life({out!r} + "/cut")
if rank == 1:
    training.TrainState.waits_too_long = lambda *args: False
life({out!r} + "/early", validate_every=dict(steps=2), early_stop=dict(metric="val/loss", patience=1, min_change=9.0))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process at once")
def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Launched by torchrun. Rank 1 alone is told to stop in step 3; both leave after the vote at step 10. The last life
    ends early on rank 0's word, whatever rank 1 would say."""
    script = tmp_path / "lives.py"
    script.write_text(STOPPED.format(tests=str(Path(__file__).parent), out=str(tmp_path)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "ended.txt").read_text().splitlines()
    assert sorted(lines) == sorted(
        f"rank {rank} {life}"
        for rank in (0, 1)
        for life in (
            "step 14 finished True signal None",
            "step 10 finished False signal 15",
            "step 14 finished True signal None",
            "step 4 finished True signal None",
        )
    )
    for name in ("checkpoints/last/model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
