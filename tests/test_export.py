"""Weights alone: they open with the same answers, other programs read them, and nothing foreign is written over."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import terrazzo
from terrazzo.base import Classes, InputError
from terrazzo.bundle import BundleClasses, BundleConfig, open_model, save_bundle
from terrazzo.cli import main
from terrazzo.commands.export import export
from terrazzo.data.augment import ShortSide
from terrazzo.infer.tiles import WindowConfig
from terrazzo.models import OwnModel, UNetModel, build_model

UNET = UNetModel(width=4, depth=2, norm="batch")
CLASSES = Classes(("ground", "tree"), ((1, 2, 3), (40, 50, 60)), (7, 9), 0)
PICTURE = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(0)
    segmenter, _ = build_model(UNET, 2)
    save(folder, segmenter, UNET)
    return folder


def save(folder: Path, segmenter: nn.Module, model: UNetModel | OwnModel) -> None:
    config = BundleConfig(
        model=model,
        classes=BundleClasses.of(CLASSES),
        normalization=segmenter.normalization,
        resize=ShortSide(pixels=48),
        window=WindowConfig(size=40),
        step=3,
        scores={"val/miou": 0.5},
        version="test",
    )
    save_bundle(folder, segmenter, config)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "deep/er/weights.bin"])
def test_exported_weights_give_the_same_answers(bundle: Path, tmp_path: Path, name: str) -> None:
    weights, beside = export(bundle, tmp_path / name)
    assert (weights, beside) == (tmp_path / name, (tmp_path / name).with_suffix(".json"))
    before, after = terrazzo.load(bundle), terrazzo.load(weights)
    assert after.classes == CLASSES
    assert after.inference == before.inference
    assert np.array_equal(after(PICTURE).probabilities(), before(PICTURE).probabilities())
    images = torch.from_numpy(PICTURE).permute(2, 0, 1)[None]
    assert torch.equal(terrazzo.load_network(weights)(images).logits, terrazzo.load_network(bundle)(images).logits)
    again = export(weights, tmp_path / f"again{weights.suffix}")[0]
    assert again.read_bytes() == weights.read_bytes() or weights.suffix != ".safetensors"
    assert open_model(again).config == open_model(bundle).config


def test_other_programs_read_them(bundle: Path, tmp_path: Path) -> None:
    state = torch.load(export(bundle, tmp_path / "w.pth")[0], weights_only=True)
    net = build_model(UNET, 2)[0].net
    net.load_state_dict(state)
    with safe_open(export(bundle, tmp_path / "w.safetensors")[0], framework="pt") as file:
        assert {*file.keys()} == {*state}
        about = json.loads(file.metadata()["terrazzo"])
    assert about["classes"]["names"] == ["ground", "tree"]
    assert about["normalization"]["mean"]
    assert about == json.loads((tmp_path / "w.json").read_text())


def test_a_network_of_ones_own_comes_back_with_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mine, config = nn.Conv2d(3, 2, 1), OwnModel()
    segmenter, _ = build_model(config, 2, own=mine)
    (tmp_path / "bundle").mkdir()
    save(tmp_path / "bundle", segmenter, config)
    weights, _ = export(tmp_path / "bundle", tmp_path / "mine.safetensors", network=nn.Conv2d(3, 2, 1))
    with pytest.raises(InputError, match=r"model\.kind is own, but no network was passed"):
        terrazzo.load(weights)
    fresh = terrazzo.load_network(weights, network=nn.Conv2d(3, 2, 1))
    assert torch.equal(fresh.net.weight, mine.weight)


def test_wrong_files_are_refused_and_left_alone(bundle: Path, tmp_path: Path) -> None:
    for out, sentence in (
        ("w.onnx", "end in .pth, .pt, .bin, .safetensors"),
        ("w", "end in"),
        ("model.safetensors", "is a bundle's file"),
    ):
        with pytest.raises(InputError, match=sentence):
            export(bundle, tmp_path / out)
    with pytest.raises(InputError, match=r"weights as safetensors end in \.safetensors"):
        export(bundle, tmp_path / "w.pth", format="safetensors")
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match="would be written over"):
        export(bundle, tmp_path / "notes.pth")
    assert (tmp_path / "notes.json").read_text() == '{"mine": 1}'
    weights, _ = export(bundle, tmp_path / "w.pth")
    with pytest.raises(InputError, match="the weights to be exported lie there"):
        export(weights, weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.json", "w.json", "w.pth"]


def test_weights_and_description_that_do_not_fit_are_named(bundle: Path, tmp_path: Path) -> None:
    weights, beside = export(bundle, tmp_path / "w.safetensors")
    beside.write_text(beside.read_text().replace('"width": 4', '"width": 5'))
    with pytest.raises(InputError, match=r"w\.safetensors does not fit the network that w\.json beside it describes"):
        terrazzo.load(weights)
    beside.write_text(beside.read_text().replace("terrazzo-bundle-1", "terrazzo-bundle-9"))
    with pytest.raises(InputError, match="not a bundle this version reads"):
        terrazzo.load(weights)


def test_the_command(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.safetensors"
    monkeypatch.setattr(sys, "argv", ["terrazzo", "export", str(bundle), "--out", str(out), "--format", "safetensors"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code in (0, None)
    assert "w.json" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["terrazzo", "export", str(bundle), "--out", str(out), "--model", "stdc1"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "leave model=stdc1 out" in capsys.readouterr().err
