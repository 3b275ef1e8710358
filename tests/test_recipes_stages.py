"""The recipes of two stages (W2) and of transfer (W5): their settings, and runs on trees of real layouts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import terrazzo
from data.fake_files import streets_and_pets
from terrazzo.adapt import Frozen, Full, Staged
from terrazzo.base import Epochs
from terrazzo.commands.lengths import Lengths
from terrazzo.config import load_config
from terrazzo.data import build_dataset
from terrazzo.models import build_model
from terrazzo.optim import build_optimizer

QUICK = ("device=cpu", "threads=1", "data.workers=0", "log_every={steps: 1}", "validate_every={epochs: 9}")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streets_and_pets(tmp_path_factory.mktemp("trees"), frames=4)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrazzo.commands.train.report_run", lambda *args, **options: None)


def test_w2_says_what_the_workflow_says() -> None:
    cfg = load_config("cityscapes_two_stage")
    assert (cfg.model.kind, cfg.model.arch, cfg.model.encoder, cfg.batch) == ("smp", "manet", "mit_b2", 8)
    assert isinstance(cfg.adapt, Staged)
    assert (cfg.adapt.frozen, cfg.length, cfg.adapt.batchnorm) == (Epochs(epochs=2), Epochs(epochs=7), "running")
    assert load_config("cityscapes_two_stage", ["model.arch=smp.UnetPlusPlus"]).model.arch == "unetplusplus"


def test_w2_learning_rates_of_both_stages() -> None:
    """Cityscapes' 2975 images; a one-cycle rises from 1 / div of its greatest rate and falls to 1 / 100000 of it."""
    cfg = load_config("cityscapes_two_stage", ["model.arch=fpn", "model.encoder=mobilenet_v2", "model.weights=none"])
    with torch.device("meta"):
        model = build_model(cfg.model, 35)[0]
    optimizer = build_optimizer(model, model.role, cfg.optim)
    lengths = Lengths.of(cfg, 2975)
    trace: dict[str, list[float]] = {"encoder": [], "decoder": [], "head": []}
    momenta = []
    for step in range(lengths.total):
        lengths.set_rates(optimizer, step)
        for group in optimizer.param_groups:
            if group["name"] in trace:
                trace[group["name"]].append(group["lr"])
        momenta.append(optimizer.param_groups[0]["betas"][0])
    turn = next(step for step in range(lengths.total) if not lengths.in_first_stage(step))
    assert lengths.total == pytest.approx(7 * 2975 / 8, abs=1)
    assert turn == pytest.approx(2 * 2975 / 8, abs=1)
    for name, top in {"encoder": 1e-5, "decoder": 1e-4, "head": 1e-3}.items():
        first, second = trace[name][:turn], trace[name][turn:]
        assert first[0] == pytest.approx(2e-3 / 25)
        assert max(first) == pytest.approx(2e-3, rel=1e-4)
        assert first.index(max(first)) == pytest.approx(0.99 * turn, abs=1)
        assert second[0] == pytest.approx(top / 5)
        assert max(second) == pytest.approx(top, rel=1e-4)
        assert second.index(max(second)) == pytest.approx(0.3 * len(second), abs=1)
        assert second[-1] < top / 1e4
    assert [momenta[0], min(momenta), momenta[turn]] == pytest.approx([0.95, 0.85, 0.95], abs=1e-4)


def test_w2_trains_its_stages(trees: Path, tmp_path: Path) -> None:
    overrides = ["model.arch=unet", "model.encoder=mobilenet_v2", "model.weights=none", f"out={tmp_path / 'run'}"]
    small = [
        "augment.base={kind: exact, height: 32, width: 64}",
        "evaluation.resize={kind: exact, height: 32, width: 64}",
    ]
    lengths = ["length={steps: 4}", "adapt.frozen={steps: 2}", "save_every={steps: 2}", "keep=9", "batch=2"]
    root = f"data.root={trees / 'cityscapes'}"
    cfg = load_config("cityscapes_two_stage", [root, *overrides, *small, *lengths, *QUICK])
    assert len(build_dataset(cfg.data, "train").classes) == 35
    assert terrazzo.train(cfg).finished
    torch.manual_seed(cfg.seed)
    start = build_model(cfg.model, 35)[0].state_dict()
    first, second = (load_file(tmp_path / f"run/checkpoints/step_{step:08}/model.safetensors") for step in (2, 4))
    encoder = [name for name in start if name.startswith("net.encoder.")]
    learned = [name for name in encoder if not torch.equal(start[name], first[name])]
    assert learned
    assert all("running_" in name or "num_batches" in name for name in learned), "its statistics alone"
    assert any(not torch.equal(first[name], second[name]) for name in encoder if name.endswith("weight"))


def test_w5_transfers_the_encoder(trees: Path, tmp_path: Path) -> None:
    """Trained on Cityscapes, then on pets: everything, and with a frozen encoder."""
    shared = ("length={steps: 1}", "batch=2", "save_every={steps: 1}", *QUICK)
    city = f"data={{kind: cityscapes, root: {trees / 'cityscapes'}}}"
    first = load_config("pets_segformer", [city, "evaluation.protocol=default", f"out={tmp_path / 'city'}", *shared])
    assert terrazzo.train(first).finished
    encoders = {}
    begin = [f"data.root={trees / 'pets'}", f"init={{from: {tmp_path / 'city'}, parts: [encoder]}}"]
    for name, adapt, kind in (("all", "{kind: full}", Full), ("frozen", "{kind: frozen}", Frozen)):
        cfg = load_config("pets_transfer", [*begin, f"adapt={adapt}", f"out={tmp_path / name}", *shared])
        assert isinstance(cfg.adapt, kind)
        assert (cfg.length, load_config("pets_transfer").length) == (first.length, Epochs(epochs=31))
        assert terrazzo.train(cfg).finished
        encoders[name] = load_file(tmp_path / name / "checkpoints/last/model.safetensors")
    before = load_file(tmp_path / "city/checkpoints/last/model.safetensors")
    tensors = [name for name in before if name.startswith("net.encoder.")]
    assert all(torch.equal(before[name], encoders["frozen"][name]) for name in tensors)
    assert all(not torch.equal(before[name], encoders["all"][name]) for name in tensors if name.endswith("weight"))
    groups = (tmp_path / "frozen/parameters.txt").read_text()
    assert "encoder" not in groups
    assert "decoder" in groups
    assert json.loads((tmp_path / "all/metrics.jsonl").read_text().splitlines()[0])["train/loss"] > 0
