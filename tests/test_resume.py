"""A run that was stopped or killed ends with the very bits of one that was not."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import terrazzo
from terrazzo.base import InputError
from terrazzo.engine.state import file_hash
from terrazzo.engine.step import make_step

ROOT = Path(__file__).parents[1]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe for 10 tiny images, in an empty working folder: batches cross epochs, dropout and BatchNorm are on."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, count in {"train": 10, "val": 3}.items():
        for n in range(count):
            mask = np.zeros((40, 48), np.uint8)
            mask[rng.integers(0, 20) :, rng.integers(0, 24) :] = 1
            image = (mask[..., None] * 90 + rng.integers(0, 120, (40, 48, 3))).astype(np.uint8)
            for kind, array in (("images", image), ("masks", mask)):
                path = tmp_path / "data" / kind / split / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), array)
    tree = {
        "data": {
            "kind": "folder",
            "root": "data",
            "images": "images/{split}",
            "labels": "masks/{split}",
            "classes": ["no", "yes"],
            "workers": 2,
        },
        "model": {"kind": "unet", "width": 4, "depth": 2, "dropout": 0.1},
        "augment": {"crop": 32},
        "losses": [{"kind": "cross_entropy"}, {"kind": "tversky"}],
        "schedule": {"kind": "cosine", "warmup": {"steps": 3}},
        "length": {"steps": 14},
        "batch": 4,
        "log_every": {"steps": 2},
        "validate_every": {"steps": 5},
        "save_every": {"steps": 3},
        "keep": 2,
        "threads": 2,
        "device": "cpu",
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "tiny.yaml"


def config(recipe: Path, *overrides: str) -> object:
    from terrazzo.config import load_config

    return load_config(recipe, overrides)


def bits(run: Path) -> dict[str, str]:
    names = [f"checkpoints/{name}/model.safetensors" for name in ("last", "best_miou", "best_loss")]
    names += [str(path.relative_to(run)) for path in sorted(run.glob("checkpoints/step_*/model.safetensors"))]
    names += [str(path.relative_to(run)) for path in sorted(run.glob("evaluation/*/scores.json"))]
    return {name: file_hash(run / name) for name in [*names, "metrics.jsonl", "metrics.csv"]}


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Send this process SIGTERM in the middle of a step, as a cluster would."""

    def counted(*args: object) -> object:
        step, done = make_step(*args), []  # type: ignore[arg-type]

        def wrapped(*inputs: torch.Tensor) -> object:
            done.append(1)
            if len(done) == steps:
                signal.raise_signal(signal.SIGTERM)
            return step(*inputs)

        return wrapped

    monkeypatch.setattr("terrazzo.commands.train.make_step", counted)


def test_stopped_again_and_again_is_not_stopped(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another number of workers each time; twice in one process: no global state is left behind either."""
    assert terrazzo.train(config(recipe, "out=whole")).finished
    reached = []
    for life, workers in enumerate((0, 8, 1, 3)):
        with monkeypatch.context() as patch:
            stop_after(patch, 1 + 2 * life)
            run = terrazzo.train(config(recipe, "out=cut", f"data.workers={workers}"))
            reached.append((run.step, run.finished))
    assert reached == [(1, False), (4, False), (9, False), (14, True)]
    assert terrazzo.train(config(recipe, "out=cut")).finished
    assert bits(Path("cut")) == bits(Path("whole"))


def test_every_step_stands_once_in_the_log(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        terrazzo.train(config(recipe, "out=cut"))
    terrazzo.train(config(recipe, "out=cut"))
    steps = [json.loads(line)["step"] for line in Path("cut/metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 5, 6, 8, 10, 12, 14]


def test_interval_checkpoints_are_the_newest_and_whole_bundles(recipe: Path) -> None:
    terrazzo.train(config(recipe, "out=run"))
    names = sorted(p.name for p in Path("run/checkpoints").glob("step_*"))
    assert names == ["step_00000009", "step_00000012"]
    assert not Path("run/checkpoints/step_00000012/train_state.pt").exists()
    image = np.zeros((30, 50, 3), np.uint8)
    assert terrazzo.load("run/checkpoints/step_00000012")(image).mask.shape == (30, 50)
    assert sorted(p.name for p in Path("run/checkpoints/last").iterdir()) == [
        "config.json",
        "model.safetensors",
        "train_state.pt",
    ]


def test_a_longer_length_goes_on_and_says_what_that_means(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terrazzo.train(config(recipe, "out=run"))
    run = terrazzo.train(config(recipe, "out=run", "length={steps: 16}"))
    assert (run.step, run.finished) == (16, True)
    assert "length grows from 14 to 16 steps" in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "steps: 16" in Path("run/report.html").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="may only grow"):
        terrazzo.train(config(recipe, "out=run", "length={steps: 14}"))


def test_another_recipe_is_refused_and_fresh_starts_anew(recipe: Path) -> None:
    terrazzo.train(config(recipe, "out=run"))
    other = config(recipe, "out=run", "optim.lr=0.5")
    with pytest.raises(InputError, match=r"optim\.lr: 0\.001 -> 0\.5"):
        terrazzo.train(other)
    assert terrazzo.train(other, fresh=True).finished
    assert Path("run.old-1/checkpoints/last/model.safetensors").exists()


def test_more_threads_than_cores_are_refused_on_resume(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        terrazzo.train(config(recipe, "out=run"))
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    with pytest.raises(InputError, match="threads=2, this machine has 1 cores"):
        terrazzo.train(config(recipe, "out=run"))


def test_the_number_of_threads_is_that_of_the_first_start(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        terrazzo.train(config(recipe, "out=run", "threads=1"))
    torch.set_num_threads(2)
    terrazzo.train(config(recipe, "out=run", "threads=1"))
    assert torch.get_num_threads() == 1


def test_a_damaged_checkpoint_is_named_not_trained_on(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        terrazzo.train(config(recipe, "out=run"))
    last = Path("run/checkpoints/last").resolve()
    whole = (last / "train_state.pt").read_bytes()
    (last / "train_state.pt").write_bytes(whole[:100])
    with pytest.raises(InputError, match=r"train_state\.pt cannot be read"):
        terrazzo.train(config(recipe, "out=run"))
    (last / "train_state.pt").write_bytes(whole)
    model = bytearray((last / "model.safetensors").read_bytes())
    model[-1] ^= 1
    (last / "model.safetensors").write_bytes(model)
    with pytest.raises(InputError, match=r"model\.safetensors is not the file that train_state\.pt was saved with"):
        terrazzo.train(config(recipe, "out=run"))


def test_the_first_validation_is_the_best_even_at_0(recipe: Path) -> None:
    """Pitfall: "best" never saved while the score stays 0."""
    terrazzo.train(config(recipe, "out=run", "length={steps: 1}", "optim.lr=1e-9"))
    assert Path("run/checkpoints/best_miou/model.safetensors").exists()
    assert Path("run/checkpoints/best_loss/model.safetensors").exists()


def test_a_loss_that_is_no_number_stops_with_advice_and_keeps_the_checkpoint(recipe: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)training loss is (nan|inf) at step .*images/train.*optim\.lr"):
        terrazzo.train(config(recipe, "out=run", "optim={kind: sgd, lr: 1e30}", "save_every={steps: 1}"))
    assert Path("run/checkpoints/last/train_state.pt").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is not a thing there")
def test_killed_with_9_ends_in_the_same_bits(recipe: Path, tmp_path: Path) -> None:
    """Three of the kills that benchmarks/kills.py deals out; it prints where each landed."""
    phases = ["step", "checkpoint", "evaluation"]
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), str(recipe), "--kills", "3", "--phases", *phases]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "kills")], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills (1 step, 1 checkpoint, 1 evaluation): the same bits" in done.stdout


def test_a_run_of_an_older_recipe_with_fewer_keys_goes_on(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        terrazzo.train(config(recipe, "out=run"))
    tree = yaml.safe_load(Path("run/config.yaml").read_text())
    del tree["ema"], tree["step"]["recompute"]
    Path("run/config.yaml").write_text(yaml.safe_dump(tree))
    assert terrazzo.train(config(recipe, "out=run")).finished
