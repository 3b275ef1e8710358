"""`terrazzo models cost`: the published figures to the printed digit, and every way to name a network."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest

from terrazzo.base import InputError
from terrazzo.cli import main
from terrazzo.commands.cost import CLASSES, cost, size_of

COMPARED = {
    "unet/resnet50": ("32.526", "32.526", "124.288", "10.953"),
    "MAnet/resnet50": ("147.445", "147.445", "562.702", "18.898"),
    "smp.FPN/resnet50": ("26.120", "26.120", "99.845", "7.804"),
    "unetplusplus/resnet50": ("48.991", "48.991", "187.114", "57.762"),
    "smp/unet/resnext50_32x4d": ("31.998", "31.998", "122.331", "11.138"),
    "PSPNet/resnet50": ("24.458", "2.395", "93.509", "3.074"),
}
"""Parameters and executed ones in millions, MiB, GMACs of a 256x256 image for 35 classes, as others printed them."""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["terrazzo", "models", "cost", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    "names",
    [["smp.FPN/resnet50", "PSPNet/resnet50"], pytest.param([*COMPARED], marks=pytest.mark.slow)],
    ids=["two", "all"],
)
def test_the_architecture_comparison_to_the_printed_digit(
    names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *names, "--classes", "35", "--size", "256", "--runs", "0") == 0
    said = capsys.readouterr().out
    for name in names:
        figures = COMPARED[name]
        cells = next(line for line in said.splitlines() if line.strip().startswith(name)).split()
        model, shape, classes, parameters, _, executed, size, macs, flops, *_ = cells
        assert (model, shape, classes) == (name, "1x3x256x256", "35")
        assert (parameters, executed, size, macs) == figures
        assert float(flops) == pytest.approx(2 * float(macs), abs=0.002)
    assert "PSPNet/resnet50: terrazzo takes out 22.063 M" in said


def test_files_hold_plain_numbers_and_a_refused_network_is_a_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", str(tmp_path / "cost.json"), "--csv", str(tmp_path / "cost.csv")]
    tiny = "{kind: unet, width: 4, depth: 2}"
    assert run(monkeypatch, "unetplusplus/mit_b0", tiny, *files, "--size", "40x64", "--runs", "1", "--batch", "2") == 0
    refused, row = json.loads((tmp_path / "cost.json").read_text())
    assert "SMP's unetplusplus cannot use the encoder mit_b0" in refused["reason"]
    assert (row["model"], row["kind"], row["input"], row["classes"]) == (tiny, "unet", "2x3x40x64", CLASSES)
    assert row["latency_low"] <= row["latency"] <= row["latency_high"]
    assert row["images_per_second"] == pytest.approx(2 / row["latency"])
    assert 0 < row["memory_prediction"] < row["memory_training"]
    listed = list(csv.DictReader((tmp_path / "cost.csv").read_text().splitlines()))
    assert [line["model"] for line in listed] == ["unetplusplus/mit_b0", tiny]
    assert int(listed[1]["macs"]) == row["macs"]
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "unetplusplus/mit_b0: model: SMP's" in said
    assert "2x3x40x64" in said


@pytest.mark.parametrize(
    ("name", "kind", "classes"),
    [
        ("segformer", "segformer", 19),
        ("fpn", "smp fpn resnet34", 19),
        ("lraspp_mobilenet_v3_large", "torchvision lraspp_mobilenet_v3_large", 19),
        ("pets_quickstart", "unet", 19),
        ("segformer_mit-b0", "zoo segformer_mit-b0", 19),
        ("stdc1", "zoo stdc1", 19),
        ("fast_scnn_8xb4-160k_cityscapes-512x1024", "zoo fast_scnn_8xb4-160k_cityscapes-512x1024", 19),
        ("unet-s5-d16_fcn_4xb4-40k_drive-64x64", "zoo unet-s5-d16_fcn_4xb4-40k_drive-64x64", 2),
    ],
)
def test_ways_to_name_a_network(
    name: str, kind: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no recipe finds its data
    (row,) = cost([name], size=(64, 64), runs=0)
    assert (row.kind, row.classes) == (kind, classes)
    assert ("the data is not here" in row.reason) == (name == "pets_quickstart")


def test_a_recipe_is_measured_for_the_classes_of_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    (row,) = cost(["pets_quickstart"], size=(64, 64), runs=0)
    assert row.classes == 2


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["unet/resnet9999"], "resnet9999"),
        (["smp/unet/resnet50/more"], "smp/unet/resnet50/more: model"),
        (["{kind: unet, wdith: 3}"], "model.wdith"),
        (["{kind: [unet"], "not valid YAML"),
        (["no_such_network"], "no_such_network"),
        (["nowhere.safetensors"], "no such run folder"),
        (["nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_name_of_nothing_is_a_sentence(names: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        cost(names, runs=0)


def test_sizes() -> None:
    assert size_of("512") == (512, 512)
    assert size_of("512X1024") == (512, 1024)
    for wrong in ("", "0", "12x", "a", "1x2x3", "-5"):
        with pytest.raises(InputError, match="HEIGHTxWIDTH"):
            size_of(wrong)
