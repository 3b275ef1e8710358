"""Workflow W1 on a made-up Stanford tree: a flat recipe is converted, and trains beside published weights."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import terrazzo
from convert.nyuntam_example import EXAMPLE, stanford_tree
from terrazzo.adapt import Adapter, BitFit, Frozen, Lora, Ssf, Staged, adapt
from terrazzo.adapt.folded import changed_layers
from terrazzo.adapters import plain_name
from terrazzo.cli import main
from terrazzo.config import load_config
from terrazzo.data import build_dataset
from terrazzo.models import Segmenter, build_model
from terrazzo.published.loading import find_architecture
from zoo_server import ZooServer, published

NAME = "segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512"
SMALL = [
    *("augment.crop=64", "augment.base={kind: fit, short: 48, long: 64}", "data.workers=0", "device=cpu", "threads=1"),
    *("evaluation.resize={kind: fit, short: 48, long: 64}", "log_every={steps: 1}"),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrazzo.commands.report.LATENCY_SECONDS", 0.0)  # no time is looked at here


def test_the_shipped_recipe_takes_a_tree_as_downloaded_and_its_own_overrides(tmp_path: Path) -> None:
    stanford_tree(tmp_path)
    cfg = load_config("stanford_segnext_ssf", [f"data.root={tmp_path}"])
    lists = "data.splits={kind: lists, train: train_ann_file.txt, val: val_ann_file.txt}"
    for given in ([], [lists]):
        data = load_config("stanford_segnext_ssf", [f"data.root={tmp_path}", *given]).data
        assert [len(build_dataset(data, split)) for split in ("train", "val")] == [6, 2]
    assert 255 in build_dataset(cfg.data, "train")[0].mask, "negative numbers are no class"
    text = Path(terrazzo.__file__).with_name("recipes").joinpath("stanford_segnext_ssf.yaml").read_text()
    overrides = re.findall(r"'((?:adapt|optim)[^']+)'", text[: text.index("\ndata:")])
    assert len(overrides) == 5
    for override in overrides:
        assert load_config("stanford_segnext_ssf", [override]) != load_config("stanford_segnext_ssf"), override


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Of MSCAN-t with 150 classes, made up; its norms are no identity."""
    torch.manual_seed(0)
    network = find_architecture(NAME).build(150)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    return network.state_dict()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, Tensor]) -> Iterator[ZooServer]:
    with published(tmp_path, monkeypatch) as running:
        running.publish_network(NAME, {"state_dict": weights, "meta": {}})
        yield running


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["terrazzo", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_from_a_flat_recipe_to_scores(
    server: ZooServer,
    weights: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    stanford_tree(tmp_path / "iccv09Data", "seg_maps", png=True)
    keys = {**yaml.safe_load(EXAMPLE), "CUSTOM_DATASET_PATH": "iccv09Data", "OUTPUT_DIR": "runs/w1"}
    (tmp_path / "flat.yaml").write_text(yaml.safe_dump(keys))
    assert run(monkeypatch, "convert", "nyuntam", "flat.yaml", "--out", "mine.yaml") == 0
    assert run(monkeypatch, "data", "check", "mine.yaml", *SMALL) == 0
    with monkeypatch.context() as patch:
        patch.setattr("terrazzo.commands.train.report_run", lambda *_, network: None)  # the longer run has one
        assert run(patch, "train", "mine.yaml", *SMALL) == 0

    folder = tmp_path / "runs/w1"
    assert len(server.asked) == 1
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2], "one epoch: six images, three a step"
    rates = {key: value for key, value in logged[0].items() if key.startswith("lr/")}
    assert rates == pytest.approx({key: 5e-4 if "encoder" in key else 5e-3 for key in rates})
    assert rates.keys() >= {"lr/encoder/no_decay", "lr/decoder", "lr/head"}
    about = (folder / "adaptation.txt").read_text().splitlines()
    assert "parameters learn" in about[0]
    # Grouped and dilated layers, and norms: all of the encoder's.
    network, _ = build_model(load_config("mine.yaml").model, 8, pretrained=False)
    adapt(network, Ssf())
    assert about[1:] == [name.removeprefix("net.") for name in changed_layers(network)]
    assert any("conv2_2" in name for name in about)

    kept = load_file(folder / "checkpoints/last/model.safetensors")
    frozen = {plain_name(name): tensor for name, tensor in kept.items() if name.endswith(".original")}
    assert len(frozen) == 418
    assert all(torch.equal(weights[name.removeprefix("net.")], tensor) for name, tensor in frozen.items())
    assert {kept[name].shape[0] for name in kept if network.role(name) == "head"} == {8}

    longer = [*SMALL, "length={epochs: 2}"]
    assert run(monkeypatch, "train", "mine.yaml", *longer) == 0, "it goes on, and downloads nothing"
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 3, 4]
    assert len(server.asked) == 1
    capsys.readouterr()
    assert run(monkeypatch, "evaluate", folder) == 0
    assert "foreground object" in capsys.readouterr().out
    mask = terrazzo.load(folder)("iccv09Data/images/9000006.jpg").mask
    assert mask.shape == (48, 64)
    assert mask.max() < 8
    assert run(monkeypatch, "predict", folder, "iccv09Data/images", "--out", "answers") == 0
    assert len([*(tmp_path / "answers").rglob("*.png")]) >= 8

    assert run(monkeypatch, "export", folder, "--names", "nyuntam", "--out", "old") == 0
    merged = torch.load(tmp_path / "old/merged_model_state_dict.pth")
    assert {name: tensor.shape for name, tensor in merged.items() if "conv_seg" not in name} == {
        name: tensor.shape for name, tensor in weights.items() if "conv_seg" not in name
    }
    names = {"merged_model.pth", "merged_model_safetensors.safetensors", "peft_modules.pth"}
    assert names <= {path.name for path in (tmp_path / "old").iterdir()}
    assert np.array_equal(terrazzo.load("old/merged_model.pth")("iccv09Data/images/9000006.jpg").mask, mask)


METHODS: dict[str, tuple[Any, set[str]]] = {
    "ssf": (Ssf(), {"encoder", "decoder", "head"}),
    "ssf alone": (Ssf(also_train="none"), {"encoder"}),
    "lora": (Lora(rank=2, also_train="classifier"), {"encoder", "head"}),
    "dora": (Lora(rank=2, dora=True, also_train="classifier"), {"encoder", "head"}),
    "adapter": (Adapter(width=4), {"encoder", "decoder", "head"}),
    "bitfit": (BitFit(also_train="classifier"), {"encoder", "decoder", "head"}),
    "decoder": (Frozen(), {"decoder", "head"}),
    "classifier": (Frozen(train="classifier"), {"head"}),
    "staged": (Staged(), {"encoder", "decoder", "head"}),
}
"""Methods and the parts of the network in which something learns; prompts are for plain ViTs."""


def mscan(weights: dict[str, Tensor]) -> Segmenter:
    model, _ = build_model(load_config("stanford_segnext_ssf").model, 8, pretrained=False)
    known = {name: tensor for name, tensor in weights.items() if "conv_seg" not in name}
    model.net.load_state_dict(known, strict=False)
    return model


@pytest.mark.parametrize("name", METHODS)
def test_methods_start_as_the_published_network_and_learn(name: str, weights: dict[str, Tensor]) -> None:
    method, parts = METHODS[name]
    torch.manual_seed(0)
    model = mscan(weights)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        before = model.eval()(images).logits
    adapt(model, method)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images).logits, before, rtol=0, atol=1e-5)
    old = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    learning = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()
    for _ in range(2):  # what lies behind a factor of 0 moves in the second
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images).logits, torch.randint(0, 8, (2, 8, 8))).backward()
        optimizer.step()
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, old[key])}
    assert moved >= {*learning}
    assert {model.role(key) for key in learning} == parts
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert all(key in learning or key.endswith(statistics) for key in moved)
    if not isinstance(method, Staged):
        assert not [key for key in moved if model.role(key) == "encoder" and key.endswith(statistics)]
