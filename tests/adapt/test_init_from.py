"""`init`: parts of a run, a bundle or a file as the start of a new run."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_runs import SEGFORMER, adapted_run, base_file, run_of, tree, write_data
from safetensors.torch import load_file, save_file
from torch import nn

import terrazzo
from terrazzo.adapt.folded import changed_layers
from terrazzo.base import IMAGENET, InputError
from terrazzo.commands.export import export
from terrazzo.config import config_of, dump_yaml
from terrazzo.models import Segmenter
from terrazzo.models.weights import InitConfig, take_parts

RATE = {"optim": {"kind": "sgd", "lr": 1e-9, "momentum": 0, "weight_decay": 0}}
"""So small that a run's end shows its start."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init")
    write_data(folder)
    base_file(folder / "base.safetensors", seed=1)
    adapted_run(folder, folder / "full", {"kind": "full"})
    adapted_run(folder, folder / "lora", {"kind": "lora", "rank": 2})
    adapted_run(folder, folder / "adapter", {"kind": "adapter", "width": 3})
    return folder


def started(home: Path, out: Path, init: dict[str, Any], **sections: Any) -> dict[str, torch.Tensor]:
    """Tensors of the encoder, decoder and head after a run that hardly learns."""
    sections = {"model": SEGFORMER | {"weights_backbone": "none"}, "length": {"steps": 1}, **RATE, **sections}
    run = run_of(tree(home, out, init=init, **sections))
    return load_file(run / "checkpoints/last/model.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], part: str) -> bool:
    weights = [name for name in one if part in name and name.endswith("weight") and one[name].std() > 0]
    assert weights
    return all(torch.allclose(one[name], two[name], rtol=0, atol=1e-6) for name in weights)


@pytest.mark.parametrize("source", ["full", "full/checkpoints/last", "full.safetensors", "bare.safetensors"])
def test_what_is_named_is_taken_and_the_rest_begins_anew(home: Path, tmp_path: Path, source: str) -> None:
    if source == "full.safetensors":
        export(home / "full", home / source, checkpoint="last")
    if source == "bare.safetensors":
        save_file(load_file(home / "full/checkpoints/last/model.safetensors"), home / source)
    whole = load_file(home / "full/checkpoints/last/model.safetensors")
    got = started(home, tmp_path / "run", {"from": str(home / source), "parts": ["encoder"]})
    assert same(got, whole, "encoder.")
    assert not same(got, whole, "head.")
    report = (tmp_path / "run/weights.txt").read_text()
    assert re.search(rf"weights from .*{source}: \d+ loaded", report)
    both = started(home, tmp_path / "both", {"from": str(home / source)})
    assert all(same(both, whole, part) for part in ("encoder.", "head."))


def test_what_an_adapted_run_learned_is_folded_first(home: Path, tmp_path: Path) -> None:
    got = started(home, tmp_path / "run", {"from": str(home / "lora")}, adapt={"kind": "frozen"})
    lora, base = terrazzo.load_network(home / "lora"), load_file(home / "base.safetensors")
    assert not any("parametrizations" in name for name in got)
    changed = changed_layers(lora)
    assert changed
    for name, layer in changed.items():
        torch.testing.assert_close(got[f"{name}.weight"], layer.weight, rtol=0, atol=0)
    plain = {name.removeprefix("net."): layer.weight for name, layer in changed.items()}
    assert not all(torch.equal(weight, base[f"{name}.weight"]) for name, weight in plain.items())
    with pytest.raises(InputError, match=r"adapt\.kind=adapter.* cannot be folded"):
        started(home, tmp_path / "none", {"from": str(home / "adapter")})


def test_a_run_goes_on_though_what_it_began_with_is_gone(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "full", tmp_path / "first")
    sections = {"model": SEGFORMER | {"weights_backbone": "none"}, "init": {"from": str(tmp_path / "first")}}
    run_of(tree(home, tmp_path / "run", length={"steps": 1}, **sections))
    shutil.rmtree(tmp_path / "first")
    run_of(tree(home, tmp_path / "run", length={"steps": 3}, **sections))
    with pytest.raises(InputError, match="first: no such"):
        run_of(tree(home, tmp_path / "another", **sections))


def test_init_goes_over_the_weights_of_the_model_but_not_over_all(home: Path, tmp_path: Path) -> None:
    base = load_file(home / "base.safetensors")
    full = load_file(home / "full/checkpoints/last/model.safetensors")
    weights = {"model": SEGFORMER | {"weights": str(home / "base.safetensors")}}
    got = started(home, tmp_path / "run", {"from": str(home / "full"), "parts": ["encoder"]}, **weights)
    assert same(got, full, "encoder.")
    head = next(name for name in base if name.startswith("head.") and name.endswith("weight"))
    torch.testing.assert_close(got[f"net.{head}"], base[head], rtol=0, atol=1e-6)
    with pytest.raises(InputError, match=r"writes over all \d+ tensors that model\.weights gave"):
        started(home, tmp_path / "all", {"from": str(home / "full")}, **weights)


def test_parts_that_cannot_be_had_are_sentences(home: Path, tmp_path: Path) -> None:
    def refused(words: str, init: dict[str, Any], **sections: Any) -> None:
        with pytest.raises(InputError, match=words):
            started(home, tmp_path / "no", init, **sections)
        assert not (tmp_path / "no/metrics.jsonl").exists()

    base_file(tmp_path / "three.safetensors", seed=1, classes=3)
    refused(r"is \[3, .*there and \[2, .*here; leave head out", {"from": str(tmp_path / "three.safetensors")})
    data = tree(home, tmp_path)["data"] | {"classes": ["off", "on"]}
    other = "knows the classes no, yes, and the data has off, on; "
    refused(other + r"leave head out: init\.parts=\[encoder, decoder\]", {"from": str(home / "full")}, data=data)
    refused(other + "a head of other classes is no start", {"from": str(home / "full"), "parts": ["head"]}, data=data)
    encoder = {name: t for name, t in load_file(home / "base.safetensors").items() if "encoder" in name}
    save_file(encoder, tmp_path / "encoder.safetensors")
    alone = {"from": str(tmp_path / "encoder.safetensors"), "parts": ["encoder", "decoder"]}
    refused("nothing of it is for this network's decoder", alone)
    other = {"model": SEGFORMER | {"weights_backbone": "none", "dims": [16, 16, 16, 16]}}
    refused("init.from holds another encoder", {"from": str(home / "full"), "parts": ["encoder"]}, **other)
    refused("no such", {"from": str(tmp_path / "nowhere")})


def test_a_network_without_parts() -> None:
    bare = Segmenter(nn.Conv2d(3, 2, 1), normalization=IMAGENET, stride=1)
    found = {"net.weight": torch.ones(2, 3, 1, 1), "net.bias": torch.ones(2)}
    for part in ("encoder", "head"):
        with pytest.raises(InputError, match=f"this network has no {part}; its parts are decoder"):
            take_parts(bare, InitConfig(from_=Path("x"), parts=(part,)), found, None)
    assert take_parts(bare, InitConfig(from_=Path("x")), found, None).loaded == ("net.weight", "net.bias")
    assert bare.net.bias.tolist() == [1, 1]


def test_the_recipes_words() -> None:
    tree = {"data": {"kind": "own"}, "model": {"kind": "unet"}, "init": {"from": "runs/a", "parts": ["encoder"]}}
    config = config_of(tree)
    assert config.init == InitConfig(from_=Path("runs/a"), parts=("encoder",))
    assert "from: runs/a" in dump_yaml(config)
    with pytest.raises(InputError, match=r"init\.form: there is no such key \(did you mean 'from'\?\)"):
        config_of(tree | {"init": {"form": "runs/a"}})
