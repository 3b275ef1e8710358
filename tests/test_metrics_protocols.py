"""The protocols against loops over pixels, and their tables against those of the data layouts."""

import math
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from terrazzo.base import IGNORE, Classes, InputError, Mask
from terrazzo.data.labels import IGNORED
from terrazzo.data.layouts_driving import CITYSCAPES, IDD, IDD_GROUPS, CityscapesData, IddData
from terrazzo.data.layouts_driving import cityscapes as cityscapes_layout
from terrazzo.data.layouts_driving import idd as idd_layout
from terrazzo.metrics import Tally, cityscapes, csv_tables, idd

SHAPE = (6, 7)
raw_maps = arrays(np.uint8, SHAPE, elements=st.integers(0, 33))
VEHICLES = {26, 27, 28, 29, 30, 31, 32, 33}


def test_the_tables_are_those_of_the_layouts() -> None:
    """Rooms of one floor do not import each other, so names stand in both; this keeps them one."""
    names = list(CITYSCAPES)[:34]
    assert [label.name for label in cityscapes.LABELS] == names
    for label in cityscapes.LABELS:
        category = CITYSCAPES[label.name][0]
        assert label.scored == (category != IGNORED)
        assert not label.scored or label.category == category
    classes, decode = cityscapes_layout(CityscapesData()).classes, cityscapes_layout(CityscapesData()).decode
    assert cityscapes.CLASSES.names == tuple(classes)
    assert decode.kind == "values"
    assert tuple(IDD) == idd.NAMES == tuple(idd_layout(IddData()).classes)
    assert tuple(level2 for level2, _, _ in IDD.values()) == idd.LEVEL2
    assert tuple(level1 for _, level1, _ in IDD.values()) == idd.LEVEL1
    assert {1: idd.LEVEL1_NAMES, 2: idd.LEVEL2_NAMES} == IDD_GROUPS


def brute_iou(pairs: list[tuple[int, int]], truths: set[int], scored: set[int]) -> float:
    """IoU of a set of raw ids over (truth, prediction) pixels; truth outside `scored` is not there."""
    counted = [(t, p) for t, p in pairs if t in scored]
    both = sum(t in truths and p in truths for t, p in counted)
    either = sum(t in truths or p in truths for t, p in counted)
    return both / either if either else math.nan


@settings(max_examples=60, deadline=None)
@given(raw_maps, raw_maps)
def test_cityscapes_classes_and_categories_equal_sets_of_pixels(prediction: Mask, target: Mask) -> None:
    tally = Tally(cityscapes.CLASSES, "cityscapes")
    tally.add(prediction, target)
    result = tally.result()
    pairs = list(zip(target.flatten().tolist(), prediction.flatten().tolist(), strict=True))
    scored = set(cityscapes.SCORED)
    for raw, label in enumerate(cityscapes.LABELS):
        expected = brute_iou(pairs, {raw}, scored) if label.scored else math.nan
        assert same(result["classScores"][label.name], expected)
    for category in cityscapes.CATEGORIES:
        inside = {raw for raw in scored if cityscapes.LABELS[raw].category == category}
        assert same(result["per_category"][category]["iou"], brute_iou(pairs, inside, scored))
    assert result["miou"] == result["averageScoreClasses"]
    assert result["confMatrix"] == [[pairs.count((t, p)) for p in range(34)] for t in range(34)]
    assert result["miiou"] is None
    assert result["protocol"]["iiou"].startswith("none")


def same(found: float | None, expected: float) -> bool:
    return found is None if math.isnan(expected) else found == pytest.approx(expected, abs=1e-14)


@settings(max_examples=60, deadline=None)
@given(raw_maps, raw_maps, arrays(np.int32, SHAPE, elements=st.integers(0, 2)))
def test_cityscapes_iiou_equals_a_loop_over_instances(prediction: Mask, target: Mask, number: Any) -> None:
    """Number 2 stands for a group: its pixels have the class, and no instance."""
    ids = target.astype(np.int32)
    instances = np.where(np.isin(ids, (*cityscapes.THINGS, 29, 30)) & (number < 2), ids * 1000 + number, ids)
    tally = Tally(cityscapes.CLASSES, "cityscapes", instances=True)
    tally.add(prediction, target, instances)
    result = tally.result()
    scored = np.isin(target, cityscapes.SCORED)
    for raw in cityscapes.THINGS:
        size = cityscapes.LABELS[raw].size
        hits = misses = 0.0
        for one in (instances == raw * 1000, instances == raw * 1000 + 1):
            if one.any():
                hits += size * (prediction[one] == raw).mean()
                misses += size * (prediction[one] != raw).mean()
        whole = hits + misses + ((prediction == raw) & (target != raw) & scored).sum()
        assert same(result["classInstScores"][cityscapes.LABELS[raw].name], hits / whole if whole else math.nan)
    hits = misses = 0.0
    for one in np.unique(instances[instances > 1000]):
        raw = int(one) // 1000
        if raw in VEHICLES - {29, 30}:
            inside = np.isin(prediction[instances == one], [*VEHICLES])
            hits += cityscapes.LABELS[raw].size * inside.mean()
            misses += cityscapes.LABELS[raw].size * (~inside).mean()
    outside = scored & ~np.isin(target, [*VEHICLES])
    whole = hits + misses + (np.isin(prediction, [*VEHICLES]) & outside).sum()
    assert same(result["categoryInstScores"]["vehicle"], hits / whole if whole else math.nan)
    assert result["categoryInstScores"]["flat"] is None


def test_cityscapes_counts_of_class_ids_equal_those_of_raw_ids() -> None:
    """A trained model knows the 19 classes, files the 34 raw ids."""
    generator = np.random.default_rng(0)
    truth, found = (generator.integers(0, 19, SHAPE, dtype=np.uint8) for _ in range(2))
    truth[0] = IGNORE
    raw = np.array(cityscapes.SCORED, np.uint8)
    classes, files = (Tally(cityscapes.CLASSES, "cityscapes", boundary=0.1) for _ in range(2))
    classes.add(classes.file_ids(found), classes.file_ids(truth))
    files.add(raw[found], np.where(truth == IGNORE, 0, raw[truth % 19]).astype(np.uint8))
    assert classes.result() == files.result()
    plain = Tally(cityscapes.CLASSES, boundary=0.1)
    plain.add(found, truth)
    assert plain.result()["per_class"]["road"]["boundary_iou"] == classes.result()["per_class"]["road"]["boundary_iou"]
    assert plain.scores().miou == classes.scores().miou


def test_idd_predicted_void_is_a_miss_on_every_level() -> None:
    target = np.zeros(idd.SIZE, np.uint8)
    target[:, 640:] = 9  # car
    target[:180] = IGNORE
    prediction = target.copy()
    prediction[:, 960:] = IGNORE  # half of the car
    prediction[:180] = 4
    tally = Tally(idd.CLASSES, "idd")
    tally.add(prediction, target)
    result = tally.result()
    assert result["per_class"]["car"]["iou"] == 0.5
    assert result["per_class"]["road"]["iou"] == 1
    assert result["per_class"]["person, animal"]["iou"] is None, "predicted on ignored truth only"
    assert result["level2"]["per_class"]["autorickshaw or car"]["iou"] == 0.5
    assert result["level1"]["per_class"]["vehicles"]["iou"] == 0.5
    assert result["miou"] == result["level1"]["miou"] == result["level2"]["miou"] == 0.75
    assert result["predicted_void"] == 540 * 320
    assert "miss" in result["protocol"]["void"]


def test_idd_levels_equal_scores_of_relabelled_maps() -> None:
    generator = np.random.default_rng(0)
    prediction, target = (
        np.kron(generator.integers(0, 26, (36, 64), dtype=np.uint8), np.ones((20, 20), np.uint8)) for _ in range(2)
    )
    target[:100] = IGNORE
    tally = Tally(idd.CLASSES, "idd")
    tally.add(prediction, target)
    for level, groups in (("level1", idd.LEVEL1), ("level2", idd.LEVEL2)):
        table = np.full(256, IGNORE, np.uint8)
        table[:26] = groups
        merged = Tally(Classes.of([str(k) for k in range(max(groups) + 1)]))
        merged.add(table[prediction], table[target])
        ours = tally.result()[level]
        assert [row["iou"] for row in ours["per_class"].values()] == merged.scores().iou.tolist()
        assert ours["miou"] == merged.scores().miou


@pytest.mark.parametrize("size", [(1080, 1920), (720, 1280), (227, 320), (964, 1280)])
def test_idd_compares_at_1280x720_nearest_as_pillow_does(size: tuple[int, int]) -> None:
    """The official evaluator resizes both files with Pillow."""
    generator = np.random.default_rng(0)
    prediction = generator.integers(0, 26, size, dtype=np.uint8)
    target = generator.integers(0, 26, (1080, 1920), dtype=np.uint8)
    found, truth = idd.compared(prediction, target)
    for ours, original in ((found, prediction), (truth, target)):
        theirs = PIL.Image.fromarray(original).resize((1280, 720), PIL.Image.Resampling.NEAREST)
        assert (ours == np.asarray(theirs)).all()


def test_course_counts_an_absent_class_as_zero_and_default_leaves_it_out() -> None:
    target = np.zeros((4, 4), np.uint8)
    tallies = {name: Tally(Classes.of(["a", "b"]), name) for name in ("default", "course")}  # type: ignore[arg-type]
    for tally in tallies.values():
        assert tally.add(target, target).miou == 1, "an image's own score is of what it shows"
    assert tallies["default"].scores().miou == 1
    assert tallies["course"].scores().miou == 0.5
    assert "left out" in tallies["default"].describe()["mean"]
    assert "counts 0" in tallies["course"].describe()["mean"]


@pytest.mark.parametrize("protocol", ["default", "course", "cityscapes", "idd"])
def test_the_protocol_names_the_definition_it_used(protocol: Any) -> None:
    classes = {"cityscapes": cityscapes.CLASSES, "idd": idd.CLASSES}.get(protocol, Classes.of(["a", "b"]))
    tally = Tally(classes, protocol, boundary=0.02)
    tally.add(*(np.full((4, 4), classes.ids[0], np.uint8) for _ in range(2)))
    result = tally.result()
    said = result["protocol"]
    assert said["name"] == protocol
    assert said["mean"].startswith("over classes of one confusion matrix")
    assert "0.02" in said["boundary"]
    assert result["per_class"][classes.names[0]]["boundary_iou"] == result["boundary_miou"] * (
        2 if protocol == "course" else 1
    )


@pytest.mark.parametrize("protocol", ["cityscapes", "idd"])
def test_other_classes_are_refused(protocol: Any) -> None:
    with pytest.raises(InputError, match=rf"protocol {protocol} scores .* these are 3 classes"):
        Tally(Classes.of(["a", "b", "c"]), protocol)


def test_counts_of_processes_add_up() -> None:
    generator = np.random.default_rng(0)
    maps = generator.choice(np.array(cityscapes.SCORED, np.uint8), (4, 2, *SHAPE))
    instances = maps[:, 1].astype(np.int32) * 1000

    def tally_of(indexes: tuple[int, ...]) -> Tally:
        tally = Tally(cityscapes.CLASSES, "cityscapes", boundary=0.1, instances=True)
        for k in indexes:
            tally.add(maps[k, 0], maps[k, 1], instances[k])
        return tally

    whole, first, second = tally_of((0, 1, 2, 3)), tally_of((0, 1)), tally_of((2, 3))
    others = iter((second.confusion, second.edges, second.weighted))
    first.reduce(lambda counts: counts + next(others))
    assert (first.confusion == whole.confusion).all()
    assert (first.edges == whole.edges).all()
    assert np.allclose(first.weighted, whole.weighted, rtol=1e-14)  # sums of sums: the last digit may differ


def test_every_table_is_csv_too() -> None:
    tally = Tally(idd.CLASSES, "idd")
    tally.add(np.zeros(idd.SIZE, np.uint8), np.zeros(idd.SIZE, np.uint8))
    files = csv_tables(tally.result())
    assert set(files) == {"classes.csv", "level1.csv", "level2.csv", "scores.csv"}
    assert files["level1.csv"].splitlines()[0] == "class,iou,acc,precision,dice,pixels"
    assert files["level1.csv"].splitlines()[1] == f"drivable,1.0,1.0,1.0,1.0,{720 * 1280}"
    assert files["level1.csv"].splitlines()[2] == "non-drivable,,,,,0"
    assert "miou,1.0" in files["scores.csv"].splitlines()


def test_a_plain_tally_needs_only_the_matrix() -> None:
    """Where evaluation counts on the device, it gives the matrix alone: then nothing else may be asked for."""
    assert Tally(Classes.of(["a"])).plain
    assert Tally(Classes.of(["a"]), "course").plain
    assert not Tally(Classes.of(["a"]), boundary=0.02).plain
    assert not Tally(idd.CLASSES, "idd").plain
