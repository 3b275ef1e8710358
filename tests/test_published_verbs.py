"""Predict, score and export what others published: by file, by name, by folder; and what cannot work, in sentences."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import terrazzo
from terrazzo.base import IMAGENET, Classes, InputError, Sample
from terrazzo.bundle import open_model
from terrazzo.cli import main
from terrazzo.commands.export import export
from terrazzo.config import config_of
from terrazzo.data.augment import Exact, Fit
from terrazzo.infer.answer import InferenceConfig
from terrazzo.infer.tiles import WindowConfig
from terrazzo.metrics.cityscapes import CLASSES as CITYSCAPES
from terrazzo.models import Segmenter
from terrazzo.published.loading import find_architecture
from zoo_server import ZooServer, published

NAME = "fast_scnn_8xb4-160k_cityscapes-512x1024"
TESTED = """
model = dict(type='EncoderDecoder', test_cfg=dict(mode='slide', crop_size=(64, 96), stride=(48, 64)))
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(192, 96), keep_ratio=True)]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""
PICTURE = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
OWN = config_of({"data": {"kind": "own", "workers": 0}, "model": {"kind": "own"}})


def checkpoint(classes: Classes | None, config: str | None = None, outputs: int = 19) -> dict[str, Any]:
    """As MMSegmentation saves Fast-SCNN, with made-up weights."""
    torch.manual_seed(0)
    network = find_architecture(NAME).build(outputs)
    about = {} if classes is None else {"classes": list(classes.names), "palette": [list(c) for c in classes.colors]}
    meta: dict[str, Any] = {"dataset_meta": about, "iter": 7}
    return {"state_dict": network.state_dict(), "meta": meta | ({"cfg": config} if config else {})}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZooServer]:
    with published(tmp_path, monkeypatch) as running:
        yield running


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["terrazzo", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


class Streets:
    """Two pictures; the truth is in classes of its own order, of which one is spelt another way."""

    classes = Classes.of(["sky", "road", "traffic_light"])

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        mask = np.random.default_rng(index).integers(0, 3, PICTURE.shape[:2], np.uint8)
        return Sample(np.roll(PICTURE, index, 0), mask, f"street{index}")


def test_a_name_predicts_after_one_download(
    server: ZooServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.publish_network(NAME, checkpoint(CITYSCAPES, TESTED))
    PIL.Image.fromarray(PICTURE).save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "predict", NAME, "street.png") == 0
    assert run(monkeypatch, "predict", NAME.upper(), "street.png", "--out", "again") == 0
    assert len(server.asked) == 1
    assert {path.name for path in (tmp_path / "predictions").iterdir()} == {"pred", "palette", "vis"}
    predicted = np.array(PIL.Image.open(tmp_path / "predictions/palette/street.png"))
    assert np.array_equal(predicted, np.array(PIL.Image.open(tmp_path / "again/palette/street.png")))

    predictor = terrazzo.load(NAME)
    assert predictor.classes.names == CITYSCAPES.names
    assert predictor.classes.colors == CITYSCAPES.colors
    window = WindowConfig(size=(64, 96), overlap=1 - 64 / 96, blend="mean", accumulate="pixel")
    assert predictor.inference == InferenceConfig(resize=Fit(short=96, long=192), window=window)
    assert np.array_equal(predictor("street.png").mask, predicted)


def test_the_network_of_a_name_takes_normalised_images(server: ZooServer) -> None:
    made = checkpoint(CITYSCAPES)
    server.publish_network(NAME, made)
    network = terrazzo.load_network(NAME)
    expected = find_architecture(NAME).build(19).eval()
    expected.load_state_dict(made["state_dict"])
    images = torch.randn(1, 3, 65, 97)
    assert torch.equal(network(images).logits, expected(images).logits)
    pixels = torch.from_numpy(PICTURE).permute(2, 0, 1)[None]
    whole = Segmenter(expected, normalization=IMAGENET, stride=1)(pixels)
    assert torch.equal(open_model(NAME).segmenter(pixels).logits, whole.logits)


def test_scores_are_of_the_classes_that_the_data_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(checkpoint(CITYSCAPES), tmp_path / f"{NAME}.pth")
    result = terrazzo.evaluate(tmp_path / f"{NAME}.pth", data=OWN, dataset=Streets(), json=tmp_path / "s.json")
    assert isinstance(result, dict)
    predictor, counted = terrazzo.load(tmp_path / f"{NAME}.pth"), np.zeros((3, 4), np.int64)
    own = {"sky": 0, "road": 1, "traffic light": 2}
    table = np.array([own.get(name, 3) for name in CITYSCAPES.names])
    for index in range(2):
        sample = Streets()[index]
        np.add.at(counted, (sample.mask, table[predictor(sample.image).mask]), 1)
    assert result["confusion"] == counted[:, :3].tolist()
    assert result["predicted_void"] == counted[:, 3].sum() > 0
    union = counted.sum(1) + counted[:, :3].sum(0) - counted[:, :3].diagonal()
    assert result["miou"] == pytest.approx((counted[:, :3].diagonal() / union).mean())
    assert result["match"]["classes"] == {"sky": "sky", "road": "road", "traffic_light": "traffic light"}
    assert len(result["match"]["others"]) == 16
    assert (result["checkpoint"], result["step"]) == (f"{NAME}.pth", 7)
    assert json.loads((tmp_path / "s.json").read_text()) == result


def test_outputs_without_names_are_scored_in_their_order(tmp_path: Path) -> None:
    torch.save(checkpoint(None, outputs=4), tmp_path / "mine.pth")
    for model in (None, "pspnet_r18-d8"):
        with pytest.raises(InputError):
            terrazzo.evaluate(tmp_path / "mine.pth", model=model, data=OWN, dataset=Streets())
    result = terrazzo.evaluate(tmp_path / "mine.pth", model="fast_scnn", data=OWN, dataset=Streets())
    assert isinstance(result, dict)
    assert result["match"]["by"] == "order"
    assert result["match"]["others"] == ["class_3"]
    torch.save(checkpoint(None, outputs=2), tmp_path / "few.pth")
    with pytest.raises(InputError, match="2 classes and the data 3; in their order, the last 1 have no output"):
        terrazzo.evaluate(tmp_path / "few.pth", model="fast_scnn", data=OWN, dataset=Streets())


def test_other_names_are_refused_until_their_order_is_asked_for(tmp_path: Path) -> None:
    torch.save(checkpoint(Classes.of(["heaven", "road", "lamp"]), outputs=3), tmp_path / f"{NAME}.pth")
    with pytest.raises(InputError, match=r"only the data has \['sky', 'traffic_light'\].*--match order"):
        terrazzo.evaluate(tmp_path / f"{NAME}.pth", data=OWN, dataset=Streets())
    result = terrazzo.evaluate(tmp_path / f"{NAME}.pth", data=OWN, dataset=Streets(), match="order")
    assert isinstance(result, dict)
    assert result["match"] == {
        "by": "order",
        "classes": {"sky": "heaven", "road": "road", "traffic_light": "lamp"},
        "others": [],
    }


def test_a_published_network_is_exported_with_what_it_needs(tmp_path: Path) -> None:
    made = checkpoint(CITYSCAPES, TESTED)
    torch.save(made, tmp_path / f"{NAME}.pth")
    weights, _ = export(tmp_path / f"{NAME}.pth", tmp_path / "plain.pth")
    exported = torch.load(weights, weights_only=True)
    assert exported.keys() == made["state_dict"].keys(), "the checkpoint's own names"
    before, after = terrazzo.load(tmp_path / f"{NAME}.pth"), terrazzo.load(weights)
    assert (after.classes, after.inference) == (before.classes, before.inference)
    assert np.array_equal(after(PICTURE).mask, before(PICTURE).mask)


def test_a_folder_of_transformers_opens_with_its_own_classes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    names = ["road", "car", "sky"]
    sizes = {"depths": [1] * 4, "hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}
    theirs = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**sizes, **labels)).eval()
    theirs.save_pretrained(tmp_path / "folder")
    processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 96})
    processor.save_pretrained(tmp_path / "folder")
    predictor = terrazzo.load(tmp_path / "folder")
    assert predictor.classes.names == tuple(names)
    assert predictor.inference.resize == Exact(height=64, width=96)
    images = torch.randn(2, 3, 64, 96)
    assert torch.equal(terrazzo.load_network(tmp_path / "folder")(images).logits, theirs(images).logits)
    weights, _ = export(tmp_path / "folder", tmp_path / "w.safetensors")
    shutil.rmtree(tmp_path / "folder")
    assert np.array_equal(terrazzo.load(weights)(PICTURE).mask, predictor(PICTURE).mask)


def camvid_score(shared_data: Path, *, limit: int | None) -> dict[str, Any]:
    data = {"kind": "camvid", "root": str(shared_data / "camvid"), "limit": limit}
    recipe = config_of({"data": data, "model": {"kind": "own"}})
    result = terrazzo.evaluate(shared_data / "weights/espnet/espnet_p_2_q_8_camvid.pth", data=recipe)
    assert isinstance(result, dict)
    assert (result["protocol"]["split"], result["match"]["others"]) == ("test", ["void"])
    return result


def voc_score(shared_data: Path, *, limit: int | None) -> dict[str, Any]:
    data = {"kind": "voc", "root": str(shared_data / "voc-person"), "limit": limit}
    recipe = config_of({"data": data, "model": {"kind": "own"}})
    weights = shared_data / "weights/deeplabv3_mobilenetv2_os8_voc21.safetensors"
    result = terrazzo.evaluate(weights, data=recipe, split="val")
    assert isinstance(result, dict)
    return result


def test_the_shared_weights_score_on_a_few_images_as_when_the_whole_agreed(shared_data: Path) -> None:
    camvid = camvid_score(shared_data, limit=8)
    assert camvid["protocol"]["images"] == 8
    assert camvid["miou"] == pytest.approx(0.5837, abs=0.002)
    assert voc_score(shared_data, limit=3)["miou_present"] == pytest.approx(0.7394, abs=0.002)


@pytest.mark.slow
def test_the_shared_weights_reach_their_published_scores(shared_data: Path) -> None:
    camvid = camvid_score(shared_data, limit=None)
    assert camvid["protocol"]["images"] == 233
    assert camvid["miou"] == pytest.approx(0.551, abs=0.005)
    voc = voc_score(shared_data, limit=None)
    assert sum(row["pixels"] > 0 for row in voc["per_class"].values()) == 19
    assert voc["miou_present"] == pytest.approx(0.585, abs=0.01)
    assert voc["per_class"]["person"]["iou"] == pytest.approx(0.838, abs=0.005)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predict", "fast_scn", "x.png"], f"no published network has this name; did you mean {NAME}"),
        (["predict", "zebra", "x.png"], "`terrazzo models search WORD` finds them"),
        (["predict", "fast_scnn", "x.png"], "is an architecture; its weights are needed too"),
        (
            ["predict", f"{NAME}.pth", "x.png"],
            f"checkpoint file; the published network of that name is {NAME}",
        ),
        (["predict", "notes.txt", "x.png"], "notes.txt"),
        (["predict", "empty", "x.png"], "neither a run folder (no checkpoints/) nor a bundle"),
        (["predict", "mine.pth", "x.png"], "mine.pth"),
        (["predict", "mine.pth", "x.png", "--model", "no_such"], "no_such"),
        (["predict", "mine.pth", "x.png", "--model", "pspnet_r18-d8"], "pspnet_r18-d8"),
        (["predict", NAME, "x.png", "--model", "stdc1"], "says itself which network it is; leave model=stdc1 out"),
        (["evaluate", "mine.pth", "--model", "fast_scnn"], "--data RECIPE"),
        (["evaluate", "mine.pth", "--model", "fast_scnn", "--checkpoint", "last"], "mine.pth is no run folder"),
        (["evaluate", "mine.pth", "--model", "fast_scnn", "--data", "nowhere.yaml"], "nowhere.yaml"),
        (["export", "mine.pth", "--model", "fast_scnn", "--out", "w.zip"], "end in .pth"),
        (["export", "nowhere", "--out", "w.pth"], "no such run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TERRAZZO_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    PIL.Image.fromarray(PICTURE).save("x.png")
    torch.save(checkpoint(None), "mine.pth")
    Path("notes.txt").write_text("no weights")
    Path("empty").mkdir()
    assert run(monkeypatch, *arguments) == 2
    said = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert sentence in said
    assert "Traceback" not in said
    assert not Path("predictions").exists()


def test_a_network_from_python_does_not_go_with_a_published_one(tmp_path: Path) -> None:
    torch.save(checkpoint(None), tmp_path / f"{NAME}.pth")
    for open_it in (terrazzo.load, terrazzo.load_network):
        with pytest.raises(InputError, match="is a published network; network="):
            open_it(tmp_path / f"{NAME}.pth", network=torch.nn.Identity())
