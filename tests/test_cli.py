"""The command line as a user meets it, with wrong input too: one sentence, exit status 2, no traceback."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from terrazzo.cli import main

ROOT = Path(__file__).parents[1]


def terrazzo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "terrazzo", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with one short run in it."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "examples").symlink_to(ROOT / "examples")
    done = terrazzo(
        "train", "pets_quickstart", "length={steps: 3}", "data.limit=4", "model.width=4", "out=run", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_help_and_version_need_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['terrazzo', '--help']\n"
        "from terrazzo.cli import main\n"
        "try:\n main()\nexcept SystemExit:\n pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'cv2', 'matplotlib', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
    assert terrazzo("--version", cwd=tmp_path).stdout.startswith("terrazzo 0.")


def test_a_run_folder_holds_what_others_rely_on(home: Path) -> None:
    run = home / "run"
    for name in ("config.yaml", "metrics.jsonl", "metrics.csv", "report.html", "environment.yaml", "splits/train.txt"):
        assert (run / name).exists(), name
    for name in ("last", "best_miou", "best_loss"):
        assert {"model.safetensors", "config.json"} <= {p.name for p in (run / "checkpoints" / name).iterdir()}
    assert (run / "checkpoints/last/train_state.pt").exists()
    assert not (run / "checkpoints/best_miou/train_state.pt").exists()
    assert (run / "evaluation/test-best_miou/cost.csv").read_text().startswith("what,value,of\nparameters,")
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"step", "epoch", "train/loss", "train/miou", "val/loss", "val/miou"} <= last.keys()
    assert any(key.startswith("lr/") for key in last)
    assert last["step"] == 3


def test_the_same_command_again_says_that_nothing_is_left_to_do(home: Path) -> None:
    before = (home / "run/checkpoints/last/model.safetensors").stat().st_mtime_ns
    done = terrazzo(
        "train", "pets_quickstart", "length={steps: 3}", "data.limit=4", "model.width=4", "out=run", cwd=home
    )
    assert done.returncode == 0
    assert "finished" in done.stderr
    assert (home / "run/checkpoints/last/model.safetensors").stat().st_mtime_ns == before


def test_another_recipe_in_the_same_folder_is_refused_by_key(home: Path) -> None:
    done = terrazzo(
        "train", "pets_quickstart", "length={steps: 3}", "data.limit=4", "model.width=8", "out=run", cwd=home
    )
    assert done.returncode == 2
    assert "model.width: 4 -> 8" in done.stderr
    assert "--fresh" in done.stderr


def test_evaluate_writes_json_with_the_promised_keys(home: Path) -> None:
    done = terrazzo("evaluate", "run", "--json", "s.json", cwd=home)
    assert done.returncode == 0, done.stderr
    result = json.loads((home / "s.json").read_text())
    assert 0 <= result["miou"] <= 1
    assert {"iou", "acc", "dice"} <= result["per_class"]["pet"].keys()
    assert result["protocol"]["split"] == "test"
    assert result["protocol"]["limit"] == 4
    assert result["checkpoint"] == "best_miou"
    assert "pet" in done.stdout
    done = terrazzo("evaluate", "run", "--checkpoint", "all", "--split", "val", "--json", "all.json", cwd=home)
    assert done.returncode == 0, done.stderr
    listed = json.loads((home / "all.json").read_text())
    assert [one["checkpoint"] for one in listed] == ["last", "best_miou", "best_loss"]


def test_scores_on_other_data_are_not_kept_as_the_runs_own(home: Path) -> None:
    def kept() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (home / "run/evaluation").rglob("*")}

    before = kept()
    done = terrazzo("evaluate", "run", "--data", "pets_quickstart", "--json", "other.json", cwd=home)
    assert done.returncode == 0, done.stderr
    assert json.loads((home / "other.json").read_text())["protocol"]["limit"] is None
    assert kept() == before


def test_a_bundle_stands_alone(home: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(home / "run/checkpoints/best_miou", bundle)
    image = str(ROOT / "examples/pets/images/Abyssinian_1.jpg")
    for model in (str(bundle), str(bundle / "model.safetensors")):
        done = terrazzo("predict", model, image, "--out", str(tmp_path / "out"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/pred/Abyssinian_1.png").exists()
    refused = terrazzo("evaluate", str(bundle), cwd=tmp_path)
    assert refused.returncode == 2
    assert "--data RECIPE" in refused.stderr
    done = terrazzo("evaluate", str(bundle), "--data", "pets_quickstart", cwd=home)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "camvid_unit"], "did you mean 'camvid_unet'"),
        (["train", "camvid_unet", "optim.lrr=1"], "did you mean 'lr'"),
        (["train", "camvid_unet", "data.root=nowhere"], "nowhere"),
        (["train", "pets_quickstart", "device=cuda", "out=gpu"], "device=cuda"),
        (["evaluate", "nowhere"], "no such run folder"),
        (["evaluate", "run", "--checkpoint", "best"], "best_miou"),
        (["evaluate", "run", "--data", "camvid_unet"], "data/camvid is no folder"),
        (["predict", "run", "nowhere.jpg", "--out", "o"], "nowhere.jpg: no such image or folder"),
        (["predict", "run", "run/splits", "--out", "o"], "no images in this folder"),
        (["predict", "run/config.yaml", "examples/pets/images", "--out", "o"], "config.yaml"),
        (["models", "list", "resnet9999"], "resnet9999"),
        (["config", "pets_quickstart", "batch=x"], "batch"),
        (["config"], "pets_quickstart"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_sentence_and_status_2(
    home: Path,
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, for the sentence: the exit status of a real one is looked at below."""
    if "device=cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["terrazzo", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert sentence in re.sub(r"\s+", " ", said)
    assert "Traceback" not in said


def test_an_unreadable_image_is_named_and_the_others_are_done(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images" / "deep"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "examples/pets/images/Abyssinian_1.jpg", folder / "good.jpg")
    (folder / "bad.jpg").write_text("this is text")
    done = terrazzo(
        "predict", "run", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--probabilities", cwd=home
    )
    assert done.returncode == 2
    assert "bad.jpg" in done.stderr
    assert (tmp_path / "out/pred/deep/good.png").exists()
    assert (tmp_path / "out/probabilities/deep/good.npz").exists()
