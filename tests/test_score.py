"""`terrazzo score`: the official evaluator's numbers to the last digit, and files that are wrong, named."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from terrazzo.base import InputError
from terrazzo.cli import main
from terrazzo.commands.score import score
from terrazzo.metrics import Tally, cityscapes

FRAMES = ("aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313")


def save(path: Path, pixels: Any, dtype: Any = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype)).save(path)
    return path


@pytest.fixture
def city_tree(tmp_path: Path) -> Path:
    """A data set in Cityscapes' layout, with predictions as terrazzo predict writes them."""
    generator = np.random.default_rng(0)
    for frame in FRAMES:
        city = frame.split("_")[0]
        label = np.kron(generator.integers(0, 34, (4, 8)), np.ones((4, 4), int))
        instances = np.where(np.isin(label, cityscapes.THINGS), label * 1000, label)
        save(tmp_path / f"gtFine/val/{city}/{frame}_gtFine_labelIds.png", label)
        save(tmp_path / f"gtFine/val/{city}/{frame}_gtFine_instanceIds.png", instances, np.uint16)
        save(tmp_path / f"gtFine/train/{city}/{frame}_gtFine_labelIds.png", label)
        predicted = np.where(generator.random(label.shape) < 0.3, 7, label)
        for folder in ("pred", "palette"):
            save(tmp_path / f"out/{folder}/{city}/{frame}_leftImg8bit.png", predicted)
    return tmp_path


def equal(ours: Any, theirs: Any, tolerance: float = 0) -> bool:
    """Equal values, where they say nan and we say null; beyond dicts of numbers only if identical."""
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[key], theirs[key], tolerance) for key in theirs)
    if isinstance(theirs, float) and math.isnan(theirs):
        return ours is None
    return ours == theirs or (tolerance > 0 and ours == pytest.approx(theirs, rel=tolerance))


@pytest.fixture
def official(shared_parity: Path) -> tuple[Path, dict[str, Any]]:
    """Made-up labels and predictions in Cityscapes' layout, and what the official evaluator says about them."""
    folder = shared_parity / "cityscapes_eval"
    return folder, json.loads((folder / "resultPixelLevelSemanticLabeling.json").read_text())


def test_every_number_of_the_official_cityscapes_evaluator_to_the_last_digit(
    official: tuple[Path, dict[str, Any]],
) -> None:
    """In the order in which it read the images; another order ends in another last digit of the iIoU, its own too."""
    folder, expected = official
    tally = Tally(cityscapes.CLASSES, "cityscapes", instances=True)
    for city in ("frankfurt", "munster", "lindau"):
        for label in sorted((folder / "gtFine/val" / city).glob("*_labelIds.png")):
            name = label.name.removesuffix("_gtFine_labelIds.png")
            prediction, target, instances = (
                np.asarray(Image.open(path))
                for path in (
                    folder / f"results/{name}_pred_labelIds.png",
                    label,
                    label.with_name(f"{name}_gtFine_instanceIds.png"),
                )
            )
            tally.add(prediction, target, instances)
    result = tally.result()
    for key, value in expected.items():
        assert equal(result[key], value), key
    assert result["miou"] == expected["averageScoreClasses"] == 0.4538726726346163
    assert result["miiou"] == expected["averageScoreInstClasses"] == 0.4851525479000587
    assert result["category_miou"] == expected["averageScoreCategories"] == 0.5308368747763746
    assert result["category_miiou"] == expected["averageScoreInstCategories"] == 0.5584242359691268
    assert all(row["iou"] == expected["classScores"][name] for name, row in result["per_class"].items())


def test_the_command_reads_the_same_files_as_the_official_evaluator(
    official: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, expected = official
    result = score(folder / "results", folder, protocol="cityscapes", json=tmp_path / "scores.json")
    written = json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)
    assert written == result, "JSON, without nan"
    for key, value in expected.items():
        # 1e-14: the folder's order on this disk decides the last digit of sums over instances
        assert equal(written[key], value, 1e-14 if "Inst" in key else 0), key


def test_cityscapes_files_are_found_by_city_sequence_and_frame(city_tree: Path) -> None:
    result = score(city_tree / "out", city_tree, protocol="cityscapes")
    assert result["protocol"]["images"] == 3, "gtFine/val and out/pred are meant"
    assert result == score(city_tree / "out/pred", city_tree / "gtFine/val", protocol="cityscapes")
    assert 0 < result["miou"] < 1
    assert result["miiou"] is not None


def test_a_missing_prediction_is_named(city_tree: Path) -> None:
    (city_tree / f"out/pred/aachen/{FRAMES[1]}_leftImg8bit.png").unlink()
    with pytest.raises(InputError, match=rf"(?s)1 of 3 labels .* no prediction .*{FRAMES[1]}"):
        score(city_tree / "out", city_tree, protocol="cityscapes")


def test_two_predictions_for_one_image_are_named(city_tree: Path) -> None:
    other = save(city_tree / f"out/pred/{FRAMES[0]}_again.png", np.zeros((16, 32)))
    with pytest.raises(InputError, match="are for one image") as caught:
        score(city_tree / "out", city_tree, protocol="cityscapes")
    assert str(other) in str(caught.value)


def test_unreadable_and_wrong_size_and_unknown_ids_are_all_named_at_once(city_tree: Path) -> None:
    broken, small, strange = (city_tree / f"out/pred/{f.split('_')[0]}/{f}_leftImg8bit.png" for f in FRAMES)
    broken.write_bytes(broken.read_bytes()[:40])
    save(small, np.zeros((8, 32)))
    save(strange, np.full((16, 32), 255))
    with pytest.raises(InputError, match="3 of 3 images cannot be scored") as caught:
        score(city_tree / "out", city_tree, protocol="cityscapes")
    message = str(caught.value)
    assert f"{broken}: unreadable" in message
    assert f"{small} is 32x8, its label" in message
    assert f"{strange}: the prediction has values" in message
    assert "raw ids" in message


def test_a_colour_image_is_no_prediction(city_tree: Path) -> None:
    path = city_tree / f"out/pred/aachen/{FRAMES[0]}_leftImg8bit.png"
    save(path, np.random.default_rng(0).integers(0, 256, (16, 32, 3)))
    with pytest.raises(InputError, match="colour image"):
        score(city_tree / "out", city_tree, protocol="cityscapes")


def test_without_instance_files_there_is_no_iiou_and_with_some_an_error(city_tree: Path) -> None:
    first, *others = sorted((city_tree / "gtFine/val").rglob("*_instanceIds.png"))
    first.unlink()
    with pytest.raises(InputError, match=f"(?s)1 of 3 labels have no instance file.*{FRAMES[0]}"):
        score(city_tree / "out", city_tree, protocol="cityscapes")
    for path in others:
        path.unlink()
    result = score(city_tree / "out", city_tree, protocol="cityscapes")
    assert result["miiou"] is None
    assert result["protocol"]["iiou"].startswith("none")


@pytest.fixture
def idd_tree(tmp_path: Path) -> Path:
    """Two drives with a frame of the same name, as IDD has them."""
    for drive, value in (("0", 0), ("1", 9)):
        save(tmp_path / f"gtFine/val/{drive}/frame0029_gtFine_labellevel3Ids.png", np.full((54, 96), value))
        save(tmp_path / f"pred/{drive}/frame0029_leftImg8bit.png", np.full((54, 96), value))
    return tmp_path


def test_idd_frames_of_different_drives_are_not_mixed_up(idd_tree: Path) -> None:
    result = score(idd_tree / "pred", idd_tree, protocol="idd")
    assert result["miou"] == result["level1"]["miou"] == 1
    assert result["per_class"]["car"]["pixels"] == 1280 * 720
    save(idd_tree / "pred/1/frame0029_leftImg8bit.png", np.zeros((30, 40)))
    assert score(idd_tree / "pred", idd_tree, protocol="idd")["per_class"]["car"]["iou"] == 0


def test_idd_polygon_files_are_drawn_where_there_are_no_label_images(idd_tree: Path) -> None:
    outline = [[0, 0], [95, 0], [95, 53], [0, 53]]
    for drive, label in (("0", "road"), ("1", "car")):
        objects = [{"label": label, "polygon": outline}]
        path = idd_tree / f"gtFine/val/{drive}/frame0029_gtFine_polygons.json"
        path.write_text(json.dumps({"imgHeight": 54, "imgWidth": 96, "objects": objects}))
    with_both = score(idd_tree / "pred", idd_tree, protocol="idd")
    for path in (idd_tree / "gtFine").rglob("*.png"):
        path.unlink()
    assert score(idd_tree / "pred", idd_tree, protocol="idd") == with_both
    assert with_both["miou"] == 1


@pytest.fixture
def plain_tree(tmp_path: Path) -> Path:
    label = np.repeat([[0, 1, 3, 255]], 4, axis=0)
    for name in ("a", "sub/a"):
        save(tmp_path / f"labels/{name}.png", label)
        save(tmp_path / f"predictions/{name}.png", np.where(label == 255, 3, label))
    save(tmp_path / "predictions/sub/a.png", np.zeros((4, 4)))
    return tmp_path


def test_other_data_is_matched_by_folder_structure(plain_tree: Path) -> None:
    result = score(plain_tree / "predictions", plain_tree / "labels")
    assert list(result["per_class"]) == ["0", "1", "2", "3"]
    assert [row["iou"] for row in result["per_class"].values()] == [8 / 16, 4 / 8, None, 4 / 8]
    named = score(plain_tree / "predictions", plain_tree / "labels", protocol="course", classes=["a", "b", "c", "d"])
    assert named["miou"] == result["miou"] * 3 / 4, "the class in neither counts 0"
    assert list(named["per_class"]) == ["a", "b", "c", "d"]


def test_ids_that_mean_no_class_are_said(plain_tree: Path) -> None:
    result = score(plain_tree / "predictions", plain_tree / "labels", ignore=(255, 3))
    assert result["per_class"]["0"]["iou"] == 8 / 12
    with pytest.raises(InputError, match=r"none of the 3 classes.*3: 4"):
        score(plain_tree / "predictions", plain_tree / "labels", classes=["a", "b", "c"])


def test_the_boundary_band_changes_the_boundary_iou(plain_tree: Path) -> None:
    label = np.kron([[0, 1]], np.ones((40, 20), int))
    save(plain_tree / "labels/a.png", label)
    save(plain_tree / "predictions/a.png", np.roll(label, 2, axis=1))
    values = {
        width: score(plain_tree / "predictions", plain_tree / "labels", boundary=width).get("boundary_miou")
        for width in (None, 0.02, 0.2)
    }
    assert values[None] is None
    assert values[0.02] != values[0.2]


def test_every_table_is_a_file(city_tree: Path) -> None:
    folder = city_tree / "tables"
    result = score(city_tree / "out", city_tree, protocol="cityscapes", tables=folder)
    assert {path.name for path in folder.iterdir()} == {"classes.csv", "categories.csv", "images.csv", "scores.csv"}
    rows = list(csv.DictReader((folder / "classes.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == list(cityscapes.CLASSES.names)
    for row in rows:
        expected = result["per_class"][row["class"]]
        assert all((float(row[key]) if row[key] else None) == expected[key] for key in ("iou", "iiou", "boundary_iou"))
    images = csv.DictReader((folder / "images.csv").read_text().splitlines())
    assert [row["name"] for row in images] == list(FRAMES)
    scores = dict(csv.reader((folder / "scores.csv").read_text().splitlines()))
    assert float(scores["category_miou"]) == result["category_miou"]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"protocol": "cityscapes", "classes": ["a"]}, "leave out --classes"),
        ({"protocol": "idd", "ignore": (0,)}, "leave out --classes and --ignore"),
        ({"protocol": "course"}, "say with --classes"),
        ({"boundary": 2.0}, "boundary"),
        ({"protocol": "idd"}, "no labels below"),
    ],
)
def test_options_that_cannot_be_honoured_are_errors(plain_tree: Path, options: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        score(plain_tree / "predictions", plain_tree / "labels", **options)


def test_the_command_prints_the_table_and_writes_the_files(
    city_tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(city_tree)
    said = run(monkeypatch, capsys, "score", "out", ".", "--protocol", "cityscapes", "--json", "s.json")
    assert said[0] == 0
    result = json.loads(Path("s.json").read_text())
    assert f"mIoU {result['miou']:.4f}" in said[1]
    assert f"category iIoU {result['category_miiou']:.4f}" in said[1]
    assert "bicycle" in said[1]
    assert "vehicle" in said[1]
    assert result["protocol"]["name"] == "cityscapes"
    status, _, error = run(monkeypatch, capsys, "score", "nowhere", ".")
    assert status == 2
    assert error.startswith("error: nowhere: no such folder")


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["terrazzo", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err
