"""Adapter files of real, tiny runs: they answer as the run did, on their own base only, and share it in memory."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapted_runs import CLASSES, PICTURE, SEGFORMER, adapted_run, base_file, run_of, tree, write_data
from safetensors.torch import load_file, save_file

import terrazzo
from terrazzo.adapters import Adapters, load_adapter, read_header, write_adapter
from terrazzo.base import InputError
from terrazzo.commands.export import export
from terrazzo.files import remove_tree
from zoo_server import published

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "rank": 2},
    "dora": {"kind": "lora", "rank": 2, "dora": True, "also_train": "classifier"},
    "ssf": {"kind": "ssf"},
    "frozen": {"kind": "frozen"},
    "adapter": {"kind": "adapter", "width": 3},
    "bitfit": {"kind": "bitfit"},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    write_data(folder)
    base_file(folder / "base.safetensors", seed=1)
    base_file(folder / "other.safetensors", seed=2)
    return folder


@pytest.fixture(scope="module", params=METHODS)
def run(request: pytest.FixtureRequest, home: Path) -> Path:
    """With a running mean of the weights, whose frozen ones must not move by a bit."""
    out = home / f"runs/{request.param}"
    return adapted_run(home, out, METHODS[request.param], ema={"decay": 0.7})


def test_a_run_comes_back_from_its_adapter_and_the_base(run: Path, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    base = write_adapter(run, file)
    assert base.tensors
    held, whole = load_file(file), load_file(run / "checkpoints/best_miou/model.safetensors")
    assert {*held} < {*whole}, "the base is not in it"
    for source in (home / "base.safetensors", run, run / "checkpoints/last"):
        segmenter, header = load_adapter(file, source, classes=CLASSES)
        assert header.bundle.classes.names == CLASSES
        images = torch.from_numpy(PICTURE).permute(2, 0, 1)[None]
        assert torch.equal(segmenter(images).logits, terrazzo.load_network(run)(images).logits)
    predictor = Adapters(home / "base.safetensors", {"it": file}, device="cpu")["it"]
    assert np.array_equal(predictor(PICTURE).mask, terrazzo.load(run)(PICTURE).mask)
    with pytest.raises(InputError, match=r"was trained on another base than .*other\.safetensors"):
        load_adapter(file, home / "other.safetensors")
    with pytest.raises(InputError, match="was trained on the classes no, yes, not on yes, no"):
        load_adapter(file, home / "base.safetensors", classes=("yes", "no"))


def test_an_adapter_or_a_program_is_no_model(home: Path, tmp_path: Path) -> None:
    file, program = tmp_path / "lora.safetensors", tmp_path / "lora.pt2"
    write_adapter(adapted_run(home, home / "runs/lora", METHODS["lora"], ema={"decay": 0.7}), file)
    program.touch()
    for path, words in ((file, "is an adapter: what a run learned"), (program, "is a program, which runs by itself")):
        with pytest.raises(InputError, match=words):
            terrazzo.load(path)
        with pytest.raises(InputError, match=words):
            run_of(tree(home, tmp_path / "run", model=SEGFORMER, init={"from": str(path)}))


def test_random_weights_that_stay_are_spoken_of(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = {n: t for n, t in load_file(home / "base.safetensors").items() if n.startswith("encoder.")}
    assert encoder
    save_file(encoder, tmp_path / "encoder.safetensors")
    model = SEGFORMER | {"weights_backbone": str(tmp_path / "encoder.safetensors")}
    adapted_run(home, tmp_path / "a", {"kind": "ssf", "also_train": "classifier"}, model=model)
    said = capsys.readouterr().err
    assert "frozen, and never trained: decoder; give model.weights or init" in said
    assert "changed: encoder." in said
    adapted_run(home, tmp_path / "b", {"kind": "ssf"}, model=model)
    adapted_run(home, tmp_path / "c", {"kind": "ssf", "also_train": "none"})
    assert "never trained" not in capsys.readouterr().err


def test_the_report_says_what_learned(home: Path, tmp_path: Path) -> None:
    """Of every method but the one in which everything does."""
    for name, method in {"a": {"kind": "full", "batchnorm": "frozen"}, "b": {"kind": "bitfit"}}.items():
        run = terrazzo.train(tree(home, tmp_path / name, adapt=method)).folder
        told = (run / "adaptation.txt").read_text().splitlines()[0]
        rows = csv.reader((run / "evaluation/val-best_miou/cost.csv").read_text().splitlines())
        assert ["adaptation", method["kind"], told] in [*rows]
        assert told in (run / "report.html").read_text()
    run = terrazzo.train(tree(home, tmp_path / "c")).folder
    assert "adaptation" not in (run / "evaluation/val-best_miou/cost.csv").read_text()


def test_statistics_that_stay_as_nothing_made_them_are_spoken_of(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = {"kind": "full", "batchnorm": "frozen"}
    resnet = {"kind": "fcn_resnet", "encoder": "resnet18", "weights_backbone": "none"}
    adapted_run(home, tmp_path / "a", still, model=resnet)
    said = capsys.readouterr().err
    assert "norms keep their statistics" in said
    assert "frozen, and never trained: encoder;" in said
    init = {"from": str(tmp_path / "a"), "parts": ["encoder"]}
    adapted_run(home, tmp_path / "b", still, model=resnet, init=init)
    assert "never trained" not in capsys.readouterr().err


def test_a_setting_of_batchnorm_where_there_is_none_is_spoken_of(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "changes nothing: the encoder has no BatchNorm"
    adapted_run(home, tmp_path / "a", {"kind": "full", "batchnorm": "frozen"})
    assert f"adapt.batchnorm=frozen {said}" in capsys.readouterr().err
    adapted_run(home, tmp_path / "b", {"kind": "frozen", "batchnorm": "running"})
    assert f"adapt.batchnorm=running {said}" in capsys.readouterr().err
    adapted_run(home, tmp_path / "c", {"kind": "frozen"})
    assert said not in capsys.readouterr().err


def test_a_first_stage_that_ends_in_its_warm_up_is_spoken_of(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = {"kind": "constant", "warmup": {"steps": 5}}
    staged = {"kind": "staged", "frozen": {"steps": 1}, "schedule": slow}
    adapted_run(home, tmp_path / "a", staged, schedule={"kind": "constant"})
    assert "the first stage ends at step 1, inside its warm-up of 5 steps" in capsys.readouterr().err


def test_adapters_hold_one_base(home: Path, tmp_path: Path) -> None:
    files = {}
    for name in ("lora", "ssf"):
        run = adapted_run(home, home / f"runs/{name}", METHODS[name], ema={"decay": 0.7})
        files[name] = tmp_path / f"{name}.safetensors"
        write_adapter(run, files[name])
    models = Adapters(home / "base.safetensors", files, device="cpu")
    lora, ssf = (models[name].segmenter for name in files)
    places = []
    for segmenter in (lora, ssf):
        tensors = dict(segmenter.named_parameters())
        names = [name for name in tensors if name.endswith(".parametrizations.weight.original")]
        assert names
        places.append({name: tensors[name].data_ptr() for name in names})
    shared = places[0].keys() & places[1].keys()
    assert shared
    assert all(places[0][name] == places[1][name] for name in shared)
    with pytest.raises(InputError, match="no adapter is called 'cats'; there are lora, ssf"):
        models["cats"]


def test_a_base_by_the_name_of_a_published_network(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from terrazzo.published.networks import fast_scnn

    name = "fast_scnn_8xb4-160k_cityscapes-512x1024"
    torch.manual_seed(1)
    state = fast_scnn.build("fast_scnn", 19).state_dict()
    with published(tmp_path, monkeypatch) as server:
        server.publish_network(name, {"state_dict": state, "meta": {}})
        model = {"kind": "zoo", "name": name}
        run = adapted_run(home, tmp_path / "run", METHODS["lora"], model=model)
        file = tmp_path / "mine.safetensors"
        write_adapter(run, file)
        segmenter, _ = load_adapter(file, name)
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "fast_scnn_here.pth")
    again, _ = load_adapter(file, tmp_path / "fast_scnn_here.pth")
    images = torch.from_numpy(PICTURE).permute(2, 0, 1)[None]
    for loaded in (segmenter, again):
        assert torch.equal(loaded(images).logits, terrazzo.load_network(run)(images).logits)


def test_the_base_may_be_a_run_whose_change_was_folded_in(home: Path, tmp_path: Path) -> None:
    first = adapted_run(home, tmp_path / "first", METHODS["lora"])
    init = {"from": str(first), "parts": ["encoder"]}
    bare = {"model": SEGFORMER | {"weights_backbone": "none"}, "init": init}
    second = adapted_run(home, tmp_path / "second", {"kind": "frozen", "batchnorm": "running"}, **bare)
    write_adapter(second, tmp_path / "a.safetensors")
    images = torch.from_numpy(PICTURE).permute(2, 0, 1)[None]
    segmenter, _ = load_adapter(tmp_path / "a.safetensors", first)
    assert torch.equal(segmenter(images).logits, terrazzo.load_network(second)(images).logits)
    with pytest.raises(InputError, match="was trained on another base"):
        load_adapter(tmp_path / "a.safetensors", home / "base.safetensors")


def test_what_is_no_adapter_is_said(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no adapter of terrazzo"):
        read_header(home / "base.safetensors")
    with pytest.raises(InputError, match="cannot be read as an adapter"):
        read_header(tmp_path / "nowhere.safetensors")
    run = adapted_run(home, tmp_path / "full", {"kind": "full"})
    with pytest.raises(InputError, match="no base model lies under this run"):
        write_adapter(run, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_a_checkpoint_whose_frozen_tensors_moved_is_refused(home: Path, tmp_path: Path) -> None:
    run = adapted_run(home, tmp_path / "run", METHODS["lora"])
    path = run / "checkpoints/last/model.safetensors"
    state = load_file(path)
    name = next(name for name in state if name.endswith("weight.original"))
    save_file(state | {name: state[name] + 1}, path)
    with pytest.raises(InputError, match="tensors that were frozen are not what they were"):
        write_adapter(run, tmp_path / "a.safetensors", "last")


def test_others_may_read_what_is_written(home: Path, tmp_path: Path) -> None:
    """safetensors makes its files for the owner alone."""
    run = adapted_run(home, tmp_path / "run", METHODS["lora"])
    write_adapter(run, tmp_path / "alone.safetensors")
    export(run, tmp_path / "merged.safetensors", merge=True)
    (tmp_path / "usual").touch()
    files = [*run.glob("checkpoints/*/model.safetensors"), *tmp_path.glob("*.safetensors")]
    assert len(files) >= 4
    assert {file.stat().st_mode for file in files} == {(tmp_path / "usual").stat().st_mode}
    assert not [*run.rglob("*.mode"), *tmp_path.glob(".*mode")]


def test_a_life_without_a_checkpoint_leaves_nothing_behind(home: Path, tmp_path: Path) -> None:
    """A run that was killed early, and another in its folder."""
    shutil.copytree(adapted_run(home, tmp_path / "killed", METHODS["lora"]), tmp_path / "run")
    remove_tree(tmp_path / "run/checkpoints")
    run = adapted_run(home, tmp_path / "run", {"kind": "full"}, model=SEGFORMER)
    assert not {"adaptation.txt", "base.json", "weights.txt"} & {path.name for path in run.iterdir()}


def test_an_encoder_that_is_frozen_at_first_is_not_said_to_stay_so(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapted_run(home, tmp_path / "run", {"kind": "staged", "frozen": {"steps": 1}}, model=SEGFORMER)
    assert "frozen at first, and never trained: encoder;" in capsys.readouterr().err
