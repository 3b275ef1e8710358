"""Exports of adapted runs: folded weights answer alike, what cannot be folded is said; programs; the old names."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapted_runs import PICTURE, SEGFORMER, adapted_run, base_file, write_data
from safetensors import safe_open
from torch import Tensor, nn

import terrazzo
from terrazzo.adapt import Full, Lora, Ssf, adapt
from terrazzo.adapt.folded import changed_layers
from terrazzo.base import IMAGENET, InputError
from terrazzo.bundle import open_model
from terrazzo.cli import main
from terrazzo.commands.export import NYUNTAM, export, merge_verified
from terrazzo.infer.program import ABOUT, write_program
from terrazzo.models import SegFormerModel, Segmenter, UNetModel, ZooModel, build_model

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "rank": 2},
    "dora": {"kind": "lora", "rank": 2, "dora": True},
    "ssf": {"kind": "ssf"},
    "adapter": {"kind": "adapter", "width": 3},
    "bitfit": {"kind": "bitfit"},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    write_data(folder)
    base_file(folder / "base.safetensors", seed=1)
    for name, method in METHODS.items():
        adapted_run(folder, folder / name, method)
    return folder


@pytest.mark.parametrize("method", ["lora", "dora", "ssf"])
def test_folded_weights_are_a_plain_model_with_the_same_answers(home: Path, tmp_path: Path, method: str) -> None:
    before = terrazzo.load(home / method)
    plain = build_model(SegFormerModel.model_validate(SEGFORMER), 2)[0].net
    for name in ("w.safetensors", "w.pth"):
        weights, _ = export(home / method, tmp_path / name, merge=True)
        after = terrazzo.load(weights)
        np.testing.assert_allclose(after(PICTURE).probabilities(), before(PICTURE).probabilities(), rtol=0, atol=1e-5)
        assert isinstance(open_model(weights).config.adapt, Full)
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    plain.load_state_dict(state)
    base = dict(safe_tensors(home / "base.safetensors"))
    assert not all(torch.equal(state[name], tensor) for name, tensor in base.items() if "encoder" in name)


def safe_tensors(path: Path) -> list[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        return [(name, file.get_tensor(name)) for name in file.keys()]  # noqa: SIM118  # no dict


@pytest.mark.parametrize("method", [Lora(rank=3), Lora(rank=3, dora=True), Ssf()], ids=repr)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_folding_is_exact_enough_behind_batchnorm_and_groups_too(device: str, method: Any) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(0)
    segmenter = build_model(ZooModel(name="fast_scnn", weights="none"), 3)[0]
    adapt(segmenter, method)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in segmenter.named_parameters():
            if parameter.requires_grad and "parametrizations" in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    difference, limit = merge_verified(segmenter.to(device))
    assert difference <= limit
    assert not changed_layers(segmenter)


def test_a_merge_that_changes_answers_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(segmenter: Segmenter) -> None:
        with torch.no_grad():
            for parameter in segmenter.net.head.parameters():
                parameter += 0.01

    monkeypatch.setattr("terrazzo.commands.export.fold", careless)
    with pytest.raises(InputError, match=r"changed the answers to random images by up to 0\.\d+, more than 0\.0001"):
        export(home / "lora", tmp_path / "w.safetensors", merge=True)
    assert [*tmp_path.iterdir()] == []


def test_what_cannot_be_asked_for_is_said(home: Path, tmp_path: Path) -> None:
    def refused(words: str, run: str, out: str, **options: Any) -> None:
        with pytest.raises(InputError, match=words):
            export(home / run, tmp_path / out, **options)

    refused("Give --merge to fold it into them, or --format adapter", "lora", "w.pth")
    for options in ({}, {"merge": True}):
        refused(r"adapt\.kind=adapter adds .* cannot be folded .*--format adapter", "adapter", "w.pth", **options)
    refused("cannot be folded", "adapter", "folder", names="nyuntam")
    refused("leave --merge out", "bitfit", "w.pth", merge=True)
    refused("nothing lies beside its weights", "bitfit", "w.pth", merge=True)
    refused(r"an adapter ends in \.safetensors", "lora", "w.pth", format="adapter")
    refused(r"a program ends in \.pt2", "bitfit", "w.pth", format="program")
    refused("leave --merge and --model out", "lora", "w.safetensors", format="adapter", merge=True)
    refused("--size is of a program's images", "bitfit", "w.pth", size=(32, 32))
    refused("a program takes images of one size; give --size HxW", "bitfit", "w.pt2")
    refused("leave --format and --merge out", "lora", "folder", names="nyuntam", merge=True)
    assert [*tmp_path.iterdir()] == []


def test_the_files_of_nyuntam(home: Path, tmp_path: Path) -> None:
    written = export(home / "ssf", tmp_path / "out", names="nyuntam")
    names = {path.name for path in written if path.suffix != ".json"}
    assert names == {*NYUNTAM, "peft_modules.pth"}
    first, second = (torch.load(tmp_path / "out" / name, weights_only=True) for name in NYUNTAM[:2])
    third = dict(safe_tensors(tmp_path / "out" / NYUNTAM[2]))
    assert all(torch.equal(tensor, other[name]) for name, tensor in first.items() for other in (second, third))
    alone = torch.load(tmp_path / "out/peft_modules.pth", weights_only=True)
    assert any(name.endswith("gamma") for name in alone)
    assert not any(name.endswith("original") for name in alone)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="fills a folder"):
        export(home / "ssf", tmp_path / "file", names="nyuntam")
    adapted_run(home, home / "full", {"kind": "full"})
    only = export(home / "full", tmp_path / "full", names="nyuntam")
    assert "peft_modules.pth" not in {path.name for path in only}


@pytest.mark.parametrize("source", ["adapter", "unet"])
def test_a_program_answers_as_the_model_for_any_batch(home: Path, tmp_path: Path, source: str) -> None:
    out = tmp_path / "it.pt2"
    if source == "unet":
        torch.manual_seed(0)
        segmenter = build_model(UNetModel(width=4, depth=2, norm="batch"), 2)[0].eval()
        assert write_program(out, segmenter, "{}", (40, 56))
    else:
        segmenter = open_model(home / source).segmenter
        export(home / source, out, size=(40, 56))
    program = torch.export.load(out).module()
    images = torch.from_numpy(np.stack([PICTURE] * 3)).permute(0, 3, 1, 2)
    logits = program(images)
    assert logits.shape == (3, 2, 40, 56)
    with torch.no_grad():
        answer = segmenter(images)
    expected = terrazzo.kernels.upsample(answer.logits, (40, 56), covers=answer.covers)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    with zipfile.ZipFile(out) as archive:
        begins = {name: archive.read(name)[:2] for name in archive.namelist()}
        about = json.loads(archive.read(next(name for name in begins if name.endswith(ABOUT))))
    assert [name for name, start in begins.items() if start in (b"PK", b"\x80\x02")] == [], "no pickles"
    assert source == "unet" or about["classes"]["names"] == ["no", "yes"]


def test_a_network_that_torch_cannot_export_is_said(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :2] if images.mean().item() > 0 else images[:, 1:]

    with pytest.raises(InputError, match="cannot make a program of Odd"):
        write_program(tmp_path / "x.pt2", Segmenter(Odd(), normalization=IMAGENET, stride=1), "{}", (8, 8))
    assert [*tmp_path.iterdir()] == []


def test_the_command_folds_and_keeps_adapters(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, file in (
        (["--merge"], "w.pth"),
        (["--format", "adapter"], "a.safetensors"),
        (["--merge", "--size", "32x48"], "p.pt2"),
        (["--names", "nyuntam"], "folder/peft_modules.pth"),
    ):
        out = tmp_path / file.partition("/")[0]
        monkeypatch.setattr(sys, "argv", ["terrazzo", "export", str(home / "lora"), "--out", str(out), *options])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code in (0, None)
        assert (tmp_path / file).is_file()
        said = capsys.readouterr().err
        assert file in said
        assert "no peft_modules.pth" not in said


def test_the_command_says_that_there_is_no_adapter(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapted_run(home, home / "full", {"kind": "full"})
    monkeypatch.setattr(
        sys, "argv", ["terrazzo", "export", str(home / "full"), "--out", str(tmp_path), "--names", "nyuntam"]
    )
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code in (0, None)
    assert "no peft_modules.pth: nothing was learned beside given weights that stayed" in capsys.readouterr().err
