"""`evaluation.protocol` and `evaluation.boundary` where a network is scored: they change what comes out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from terrazzo.base import IGNORE, Classes, InputError, Sample
from terrazzo.commands.evaluate import as_result, save_evaluation, score_dataset
from terrazzo.commands.score import score
from terrazzo.config import EvaluationConfig, RunConfig, config_of
from terrazzo.data import CityscapesData, build_dataset
from terrazzo.engine.world import World
from terrazzo.infer.predictor import Predictor
from terrazzo.metrics import Tally, cityscapes, idd
from terrazzo.models import UNetModel, build_model

ALONE = World(0, 1, torch.device("cpu"))


class Maps:
    """Random pictures with random labels of the given classes."""

    def __init__(self, classes: Classes, shown: int) -> None:
        self.classes, self.shown = classes, shown

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        generator = np.random.default_rng(index)
        mask = np.kron(generator.integers(0, self.shown, (4, 6), dtype=np.uint8), np.ones((8, 8), np.uint8))
        mask[:4] = IGNORE
        return Sample(generator.integers(0, 256, (32, 48, 3), dtype=np.uint8), mask, f"image{index}")


def config(**evaluation: Any) -> RunConfig:
    return config_of({"data": {"kind": "own"}, "model": {"kind": "unet"}, "evaluation": evaluation})


def scored(dataset: Any, loss: Any = None, **evaluation: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    model, _ = build_model(UNetModel(width=2, depth=2), len(dataset.classes))
    cfg = config(**evaluation)
    evaluated = score_dataset(model, dataset, cfg.evaluation, world=ALONE, loss=loss)
    return as_result(evaluated, cfg, "val", dataset)


def test_protocol_course_counts_absent_classes_as_zero() -> None:
    dataset = Maps(Classes.of(["a", "b", "c", "d", "e", "f", "g"]), shown=5)
    by_name = {name: scored(dataset, protocol=name) for name in ("default", "course")}
    there = [row["iou"] for row in by_name["default"]["per_class"].values() if row["iou"] is not None]
    assert len(there) < 7, "the untrained network names every class: choose another seed"
    assert by_name["course"]["miou"] == pytest.approx(sum(there) / 7)
    assert by_name["course"]["miou"] < by_name["default"]["miou"] == pytest.approx(sum(there) / len(there))
    for name, result in by_name.items():
        assert result["protocol"]["name"] == name
        assert result["protocol"]["split"] == "val"


def test_boundary_adds_the_score_in_a_band_of_that_width() -> None:
    dataset = Maps(Classes.of(["a", "b", "c"]), shown=3)
    without, narrow, wide = (scored(dataset, boundary=share) for share in (None, 0.02, 0.1))
    assert "boundary_miou" not in without
    assert narrow["boundary_miou"] != wide["boundary_miou"]
    assert without["confusion"] == narrow["confusion"] == wide["confusion"]
    assert "0.1 of the image diagonal" in wide["protocol"]["boundary"]


def test_protocol_idd_scores_three_levels_at_1280x720() -> None:
    dataset = Maps(idd.CLASSES, shown=26)
    result = scored(dataset, protocol="idd")
    assert sum(row["pixels"] for row in result["per_class"].values()) == 2 * 1280 * 720 * 28 / 32
    assert result["level1"]["miou"] != result["level2"]["miou"] != result["miou"]
    assert result["protocol"]["name"] == "idd"
    assert result["protocol"]["split"] == "val"


def test_settings_that_contradict_a_protocol_are_refused() -> None:
    for options, fault in (
        ({"protocol": "course", "absent": "zero"}, "absent=zero changes nothing"),
        ({"protocol": "idd", "score_at": "network"}, "scores at label size"),
        ({"boundary": 0}, "boundary"),
        ({"protocol": "pascal"}, "protocol"),
    ):
        with pytest.raises(InputError, match=fault):
            config(**options)
    assert EvaluationConfig().protocol == "default"
    with pytest.raises(InputError, match="protocol cityscapes scores 19 classes"):
        scored(Maps(Classes.of(["a", "b"]), shown=2), protocol="cityscapes")


@pytest.fixture
def city_tree(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for frame in ("aachen_000000_000019", "aachen_000001_000019"):
        label = np.kron(generator.integers(0, 34, (4, 6)), np.ones((8, 8), int))
        instances = np.where(np.isin(label, cityscapes.THINGS), label * 1000, label)
        for kind, pixels, dtype in (
            ("leftImg8bit/{}_leftImg8bit", generator.integers(0, 256, (32, 48, 3)), np.uint8),
            ("gtFine/{}_gtFine_labelIds", label, np.uint8),
            ("gtFine/{}_gtFine_instanceIds", instances, np.uint16),
        ):
            top, name = kind.format(frame).split("/")
            path = tmp_path / top / "val" / "aachen" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(dtype)).save(path)
    return tmp_path


def test_evaluate_and_score_of_saved_predictions_say_the_same(city_tree: Path, tmp_path: Path) -> None:
    """A network scored under `cityscapes`, and its id images scored by the command, to the last digit."""
    dataset = build_dataset(CityscapesData(root=city_tree), "val")
    torch.manual_seed(0)
    model, _ = build_model(UNetModel(width=2, depth=2), len(dataset.classes))
    cfg = config(protocol="cityscapes", boundary=0.02)
    evaluated = score_dataset(model, dataset, cfg.evaluation, world=ALONE)
    result = as_result(evaluated, cfg, "val", dataset)
    predictor = Predictor(model, dataset.classes, cfg.evaluation)
    for index in range(len(dataset)):
        predictor(dataset[index].image).save(tmp_path / "out", dataset[index].name)
    files = score(tmp_path / "out", city_tree, protocol="cityscapes")
    for key in ("miou", "miiou", "category_miou", "boundary_miou", "fwiou", "classInstScores"):
        assert result[key] == files[key], key
    # sums over several instances, added in the data set's order here and in the folder's there
    assert result["category_miiou"] == pytest.approx(files["category_miiou"], rel=1e-14)
    assert result["miiou"] is not None
    assert result["per_class"] == files["per_class"]
    folder = save_evaluation(tmp_path, evaluated, result | {"checkpoint": "last"}, dataset.classes)
    assert {"categories.csv", "classes.csv", "scores.csv", "scores.json"} <= {path.name for path in folder.iterdir()}
    assert "iiou" in (folder / "classes.csv").read_text().splitlines()[0]
    assert json.loads((folder / "scores.json").read_text())["protocol"]["name"] == "cityscapes"


def test_a_plain_tally_and_a_counted_one_agree() -> None:
    """With a boundary the label maps are counted on the host, without one the matrix on the device."""
    dataset = Maps(Classes.of(["a", "b", "c"]), shown=3)
    assert not Tally(dataset.classes, boundary=0.02).plain
    assert scored(dataset)["per_class"]["a"]["iou"] == scored(dataset, boundary=0.02)["per_class"]["a"]["iou"]
