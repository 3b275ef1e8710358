"""Publishing a trained model on a hub that speaks Hugging Face's protocol, and fetching it back."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from terrazzo.base import Classes, InputError
from terrazzo.bundle import BundleConfig, load_bundle, save_bundle
from terrazzo.commands.push import model_card, push_model
from terrazzo.data.augment import Keep
from terrazzo.description import BundleClasses
from terrazzo.models import SmpModel, UNetModel, build_model
from terrazzo.models.zoo import ZooModel
from terrazzo.published.hub import pull

TESTS = Path(__file__).parent

CLIENT = """
import json, os, sys
from pathlib import Path
from terrazzo.base import InputError
from terrazzo.bundle import load_network
from terrazzo.cli import main
from terrazzo.published.hub import pull, push

bundle, picture, folder = sys.argv[1:]
answers = {}
def said(name, act):
    try:
        answers[name] = str(act())
    except InputError as error:
        answers[name] = f"InputError: {error}"
def command(name, *arguments):
    sys.argv = ["terrazzo", *arguments]
    try:
        main()
    except SystemExit as left:
        answers[name] = left.code

os.environ["HF_TOKEN"] = "hf_write"
command("push", "models", "push", bundle, "me/pets", "--licence", "apache-2.0")
command("again", "models", "push", bundle, "me/pets", "--licence", "apache-2.0")
command("private", "models", "push", bundle, "me/secret", "--private")
del os.environ["HF_TOKEN"]
said("hidden", lambda: pull("me/secret"))
os.environ["HF_TOKEN"] = "hf_write"
said("with token", lambda: pull("me/secret"))
os.environ["HF_TOKEN"] = "hf_wrong"
command("wrong token", "models", "push", bundle, "me/other")
del os.environ["HF_TOKEN"]
command("no token", "models", "push", bundle, "me/other")
said("absent", lambda: pull("me/absent"))
said("gated", lambda: pull("me/gated-dinov3"))
said("a revision", lambda: pull("me/pets@main"))
said("no revision", lambda: pull("me/pets@v9"))
said("nothing in it", lambda: pull("me/empty"))
said("pickled", lambda: sorted(path.name for path in pull("me/pickled").iterdir()))
command("predict", "predict", "hf:me/pets", picture, "--out", folder)
os.environ["TERRAZZO_OFFLINE"] = "1"
said("offline", lambda: sorted(path.name for path in pull("me/pets").iterdir()))
said("offline, never fetched", lambda: pull("me/absent"))
os.environ["HF_TOKEN"] = "hf_write"
said("offline push", lambda: push({}, "me/pets", message="x"))
os.environ["TERRAZZO_OFFLINE"] = "0"
answers["parameters"] = sum(p.numel() for p in load_network("hf:me/pets").parameters())
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    save(folder, UNetModel(width=2, depth=2))
    return folder


def save(folder: Path, model: Any, **more: Any) -> None:
    torch.manual_seed(0)
    segmenter, _ = build_model(model, 2, 3, pretrained=False)
    config = BundleConfig(
        model=model,
        classes=BundleClasses.of(Classes.of(["pet", "Straße, nass"])),
        normalization=segmenter.normalization,
        resize=Keep(),
        step=7,
        scores={"val/miou": 0.51237, "val/loss": None},
        version="0.1.0",
        **more,
    )
    save_bundle(folder, segmenter, config)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A running hub: its folder and its address."""
    folder = tmp_path_factory.mktemp("hub")
    for repo, file in (("gated-dinov3", "model.safetensors"), ("empty", "README.md"), ("pickled", "model.pth")):
        (folder / "me" / repo).mkdir(parents=True)
        (folder / "me" / repo / file).write_bytes(b"x")
    command = [sys.executable, str(TESTS / "fakehub.py"), str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield folder, f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


@pytest.fixture(scope="module")
def client(bundle: Path, hub: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What a fresh process got: the library reads its address when it is imported."""
    home = tmp_path_factory.mktemp("home")
    places = {"HF_ENDPOINT": hub[1], "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    picture = TESTS.parent / "examples/pets/images/Abyssinian_1.jpg"
    command = [sys.executable, "-c", CLIENT, str(bundle), str(picture), str(home / "out")]
    done = subprocess.run(
        command, env={**os.environ, **places}, cwd=home, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (home / "out/pred/Abyssinian_1.png").exists(), done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_what_was_pushed_is_there_and_comes_back(
    client: tuple[dict[str, Any], str], hub: tuple[Path, str], bundle: Path
) -> None:
    answers, _ = client
    assert [answers[name] for name in ("push", "again", "private", "predict")] == [0, 0, 0, 0]
    pushed = hub[0] / "me" / "pets"
    assert {path.name for path in pushed.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert (pushed / "config.json").read_bytes() == (bundle / "config.json").read_bytes()
    own, there = load_file(bundle / "model.safetensors"), load_file(pushed / "model.safetensors")
    assert own.keys() == there.keys()
    assert all(torch.equal(tensor, there[name]) for name, tensor in own.items())
    assert answers["parameters"] == sum(p.numel() for p in load_bundle(bundle)[0].parameters())
    assert answers["with token"].endswith("a" * 40)
    assert answers["a revision"].endswith("a" * 40)
    assert answers["offline"] == "['config.json', 'model.safetensors']"
    assert answers["pickled"] == "['model.pth']"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent", r"me/absent is not there, or private: then set HF_TOKEN"),
        ("hidden", r"me/secret is not there, or private: then set HF_TOKEN"),
        ("gated", r"asks for an agreement first (DINOv3 License"),
        ("no revision", "me/pets has no such branch, tag or commit"),
        ("nothing in it", "hf:me/empty holds no weights"),
        ("offline, never fetched", "and TERRAZZO_OFFLINE or HF_HUB_OFFLINE forbids the net"),
        ("offline push", "forbids the net; unset it to push"),
    ],
)
def test_what_cannot_be_is_a_sentence(client: tuple[dict[str, Any], str], name: str, sentence: str) -> None:
    assert client[0][name].startswith("InputError: ")
    assert sentence in client[0][name]


def test_a_token_that_is_wrong_or_missing_is_a_sentence(client: tuple[dict[str, Any], str]) -> None:
    answers, said = client
    assert answers["wrong token"] == answers["no token"] == 2
    assert "me/other answers 401 Unauthorized; does the token in HF_TOKEN allow it?" in said
    assert "no token: set the environment variable HF_TOKEN to one that may write to me/other" in said


def test_the_card_says_what_a_reader_needs(bundle: Path) -> None:
    card = model_card(str(bundle), "me/pets", licence="apache-2.0")
    _, head, text = card.split("---\n", 2)
    about = yaml.safe_load(head)
    assert about["license"] == "apache-2.0"
    assert about["pipeline_tag"] == "image-segmentation"
    assert about["tags"] == ["terrazzo", "semantic-segmentation", "pytorch", "unet"]
    (result,) = about["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "mean_iou", "name": "mIoU", "value": 0.5124}]
    assert "| 1 | Straße, nass | `#800000` |" in text
    assert "terrazzo predict hf:me/pets" in text
    assert "mIoU: 0.5124" in text
    assert "loss" not in text


def test_the_card_names_non_commercial_weights_and_no_place_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, SmpModel(arch="segformer", encoder="mit_b0", weights=Path("/home/somebody/mit_b0.pth")))
    card = model_card(str(tmp_path), "me/roads")
    assert "NVIDIA Source Code License for SegFormer" in card
    assert "Not stated by whoever published these weights" in card
    sent: dict[str, Any] = {}
    monkeypatch.setattr("terrazzo.commands.push.push", lambda files, repo, **more: sent.update(files) or "page")
    assert push_model(str(tmp_path), "me/roads") == "page"
    assert json.loads(sent["config.json"])["model"]["weights"] == "mit_b0.pth"
    assert b"somebody" not in sent["README.md"] + sent["config.json"]
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("/home/somebody/mit_b0.pth", "none"))
    assert "NVIDIA" not in model_card(str(tmp_path), "me/roads")


def test_the_card_of_a_fine_tuned_published_network_says_what_it_was_trained_on(tmp_path: Path) -> None:
    save(tmp_path, ZooModel(name="fast_scnn_8xb4-160k_cityscapes-512x1024"))
    card = model_card(str(tmp_path), "me/roads")
    assert "weights of others: Apache-2.0, of MMSegmentation" in card
    assert "trained on Cityscapes: for non-commercial purposes" in card


def test_a_network_from_python_is_not_pushed_and_names_are_checked(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    for name in ("pets", "me/pets/more", "me/pe ts", ""):
        with pytest.raises(InputError, match="is no repository of the hub; expected OWNER/NAME"):
            push_model(str(bundle), name)
    with pytest.raises(InputError, match="expected OWNER/NAME"):
        pull("nobody")
    with pytest.raises(InputError, match="no such run folder"):
        push_model("nowhere", "me/pets")
