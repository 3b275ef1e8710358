"""The rules for classes, splits, sizes, copies and how labels lie on images; and what a fix may be."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from verdict_records import ALL, codes, fixed, folder, judged, only, record

from terrazzo.base import Split
from terrazzo.check.alignment import Misfit, Misfits, Pose
from terrazzo.check.scan import Record
from terrazzo.check.verdict import override, together
from terrazzo.check.verdicts import Verdict
from terrazzo.check.verdicts_values import luma
from terrazzo.data.folder import Align, aligned
from terrazzo.data.split import chosen


def split_records(shown: dict[Split, list[set[int]]]) -> list[Record]:
    """Records that show these classes."""
    listed = [(split, classes) for split, sets in shown.items() for classes in sets]
    return [record(k, dict.fromkeys(classes, 100), split) for k, (split, classes) in enumerate(listed)]


LISTS = {"kind": "lists", "train": "train.txt", "val": "val.txt"}


def test_a_class_that_chance_may_have_left_out_is_a_note() -> None:
    rare = split_records({"train": [{0, 1, 2}] * 2 + [{0, 1}] * 28, "val": [{0, 1}] * 10})
    (verdict,) = judged(folder(splits=LISTS), rare)
    assert (verdict.code, verdict.severity) == ("class-absent-val", "note")
    common = split_records({"train": [{0, 1, 2}] * 25 + [{0, 1}] * 5, "val": [{0, 1}] * 10})
    (verdict,) = judged(folder(splits=LISTS), common)
    assert verdict.severity == "warning"
    assert verdict.fix[:2] == ("data.splits.val=null", "data.splits.val_fraction=0.25")


@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 9))
def test_the_odds_of_an_absence_are_those_of_all_divisions(train: int, val: int, holders: int) -> None:
    holders = min(holders, train)
    shown: list[set[int]] = [{0, 1, 2}] * holders + [{0, 1}] * (train - holders)
    found = judged(folder(splits=LISTS), split_records({"train": shown, "val": [{0, 1}] * val}))
    divisions = list(combinations(range(train + val), val))
    odds = sum(min(division) >= holders for division in divisions) / len(divisions)
    expected = "warning" if odds < 1e-3 else "note"
    assert only(found, "class-absent-val").severity == expected


def test_another_seed_that_gives_every_split_every_class() -> None:
    cfg = folder()
    names = [f"images/{k}" for k in range(40)]
    val = chosen(cfg.splits, "val", names)
    holders = [name for name in names if name not in val][:3]
    records = [
        record(k, dict.fromkeys({0, 1, 2} if name in holders else {0, 1}, 100), "val" if name in val else "train")
        for k, name in enumerate(names)
    ]
    verdict = only(judged(cfg, records), "class-absent-val")
    mended = fixed(cfg, verdict)
    assert set(holders) & chosen(mended.splits, "val", names)
    assert set(holders) & chosen(mended.splits, "train", names)


def test_a_class_that_one_image_shows_cannot_be_in_both_splits() -> None:
    records = split_records({"train": [{0, 1, 2}] + [{0, 1}] * 20, "val": [{0, 1}] * 5})
    assert only(judged(folder(), records), "class-absent-val").fix == ()


def test_an_unused_class_is_dropped_with_all_names_that_lead_to_it() -> None:
    cfg = folder(remap={"car": "vehicle", "road": "vehicle"})
    verdict = only(judged(cfg, split_records({"train": [{0}], "val": [{0}]})), "class-unused")
    assert verdict.fix == ("data.remap={car: ignore, road: ignore}",)


def test_a_limit_makes_absences_notes() -> None:
    records = split_records({"train": [{0, 1}] * 9, "val": [{0, 1, 2}] * 9})
    assert codes(judged(folder(splits=LISTS), records)) == ["class-absent-train"]
    assert codes(judged(folder(splits=LISTS, limit=9), records)) == []


def test_misread_labels_say_nothing_about_classes() -> None:
    records = [record(k, {0: 5, 127: 3, 255: 2}, split) for k, split in enumerate(("train", "val"))]
    assert [verdict.code for verdict in judged(folder(), records)] == ["spread-values"]


def test_all_ignored_and_mostly_ignored() -> None:
    empty = [record(0, {255: 1000})]
    found = judged(folder(), [*empty, record(1, ALL), record(2, ALL, "val")])
    assert codes(found) == ["all-ignored"]
    found = judged(folder(), [record(k, ALL | {255: 3000}, split) for k, split in enumerate(("train", "val"))])
    assert [verdict.code for verdict in found] == ["mostly-ignored"]


def test_splits_of_different_kinds() -> None:
    records = [record(k, {0: 999, 1: 1, 2: 1}) for k in range(12)]
    records += [record(k, {0: 1, 1: 999, 2: 1}, "val") for k in range(12, 20)]
    assert codes(judged(folder(splits=LISTS), records)) == ["drift-val"]


SIZES: dict[str, Any] = {"size": (60, 80), "stored": (60, 80), "label_size": (60, 80)}


def test_sizes_and_orientation() -> None:
    turned = {"size": (80, 60), "stored": (60, 80), "label_size": (60, 80), "orientation": 6}
    records = [record(k, ALL, **SIZES) for k in range(3)] + [record(3, ALL, **turned)]
    verdict = only(judged(folder(), records), "exif-rotation")
    assert verdict.fix == ("data.exif=ignore",)
    assert verdict.files == ("images/3.jpg",)
    records[3] = replace(records[3], orientation=1, stored=(80, 60))
    verdict = only(judged(folder(), records), "size-mismatch")
    assert verdict.fix == ("data.exclude=[labels/3.png]",)
    assert "labels/3.png is 80x60, images/3.jpg 60x80" in verdict.evidence


def test_the_other_rule_where_the_tag_is_ignored() -> None:
    upright = {"size": (60, 80), "stored": (60, 80), "label_size": (80, 60), "orientation": 8}
    verdict = only(judged(folder(exif="ignore"), [record(k, ALL, **upright) for k in range(3)]), "exif-rotation")
    assert verdict.fix == ("data.exif=obey",)


def test_where_one_rule_does_not_fit_all_tagged_images_the_fewer_are_left_out() -> None:
    wrong = {"size": (80, 60), "stored": (60, 80), "label_size": (60, 80), "orientation": 6}
    right = wrong | {"label_size": (80, 60)}
    plain = [record(k, ALL, **SIZES) for k in range(9)]
    few = [record(9, ALL, **wrong), record(10, ALL, **right), record(11, ALL, **right)]
    assert only(judged(folder(), plain + few), "exif-rotation").fix == ("data.exclude=[images/9.jpg]",)
    many = [record(9, ALL, **wrong), record(10, ALL, **wrong), record(11, ALL, **right)]
    fix = only(judged(folder(), plain + many), "exif-rotation").fix
    assert fix == ("data.exif=ignore", "data.exclude=[images/11.jpg]")


def test_a_fix_never_empties_a_split_or_leaves_most_files_out() -> None:
    truncated = {"image_fault": "broken", "counts": ALL}
    records = [record(k, **truncated) if k > 1 else record(k, ALL) for k in range(6)]
    assert only(judged(folder(), records), "unreadable-image").fix == ()
    records = [record(k, ALL) for k in range(5)] + [record(5, split="val", **truncated)]
    assert only(judged(folder(splits=LISTS), records), "unreadable-image").fix == ()


def test_copies_are_taken_out_of_training_and_out_of_both_where_one_file_is_listed_twice() -> None:
    records = [record(k, ALL, split, digest=f"{k}") for k, split in enumerate(("train",) * 6 + ("val",) * 4)]
    records[6] = replace(records[6], digest="0")
    verdict = only(judged(folder(splits=LISTS), records), "duplicate-across-splits")
    assert verdict.fix == ("data.exclude=[images/0.jpg]",)
    records[6] = replace(records[0], split="val")
    verdict = only(judged(folder(splits=LISTS), records), "duplicate-across-splits")
    assert verdict.fix == ("data.exclude=[images/0.jpg]",)


def test_one_picture_with_two_labels_is_said() -> None:
    records = [record(k, ALL, split, digest=f"{k}") for k, split in enumerate(("train",) * 6 + ("val",) * 4)]
    records[1] = replace(records[1], digest="0", label_digest="another")
    assert "with different labels" in only(judged(folder(splits=LISTS), records), "duplicate-images").evidence


def test_labels_copied_to_other_images() -> None:
    records = [record(k, ALL, digest=f"{k}", label_digest="same" if k < 2 else f"{k}") for k in range(5)]
    assert only(judged(folder(), records), "identical-labels").files == ("labels/0.png", "labels/1.png")


def fit(monkeypatch: pytest.MonkeyPatch, whole: Misfit | None, single: dict[int, Misfit] | None = None) -> None:
    monkeypatch.setattr("terrazzo.check.verdicts_fit.misfits", lambda _: Misfits(whole, single or {}))


MIRRORED = Misfit("turned", "mirrored", (0, 0), 0.0, 0.3)


def test_a_mirror_and_a_shift_are_laid_over_those_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(k, ALL) for k in range(3)]
    fit(monkeypatch, MIRRORED)
    assert only(judged(folder(), records), "mirrored-labels").fix == ("data.align={mirror: true, shift: [0, 0]}",)
    cfg = folder(align={"mirror": True, "shift": (5, 2)})
    assert only(judged(cfg, records), "mirrored-labels").fix == ("data.align={mirror: false, shift: [-5, 2]}",)
    fit(monkeypatch, Misfit("shifted", "as it is", (3, -4), 0.0, 0.3))
    verdict = only(judged(cfg, records), "shifted-labels")
    assert verdict.fix == ("data.align={mirror: true, shift: [8, -2]}",)
    assert "3 pixels right and 4 up" in verdict.evidence


@given(st.booleans(), st.tuples(st.integers(-3, 3), st.integers(-3, 3)))
def test_mirroring_after_a_shift_is_one_align(mirror: bool, shift: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 9, (11, 13)).astype(np.uint8)
    before = Align(mirror=mirror, shift=shift)
    with pytest.MonkeyPatch.context() as patch:
        fit(patch, MIRRORED)
        mended = fixed(folder(), only(judged(folder(align=before), [record(0, ALL)] * 3), "mirrored-labels"))
    assert np.array_equal(aligned(mask, mended.align), aligned(mask, before)[:, ::-1])


def test_no_setting_turns_labels_upside_down(monkeypatch: pytest.MonkeyPatch) -> None:
    fit(monkeypatch, Misfit("turned", "upside down", (0, 0), 0.0, 0.3))
    assert only(judged(folder(), [record(k, ALL) for k in range(3)]), "turned-labels").fix == ()


@pytest.mark.parametrize(
    ("orientation", "exif", "pose", "code"),
    [
        (2, "obey", "mirrored", "exif-rotation"),
        (6, "obey", "right turn", "exif-rotation"),
        (6, "obey", "left turn", "turned-labels"),
        (6, "ignore", "left turn", "exif-rotation"),
        (1, "obey", "mirrored", "mirrored-labels"),
    ],
)
def test_the_orientation_tag_explains_a_turn(
    orientation: int, exif: str, pose: Pose, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    misfit = Misfit("turned", pose, (0, 0), 0.0, 0.3)
    records = [record(k, ALL, orientation=orientation if k == 2 else 1) for k in range(5)]
    fit(monkeypatch, None, {2: misfit})
    assert codes(judged(folder(exif=exif), records)) == [code]
    fit(monkeypatch, misfit)
    records = [replace(each, orientation=orientation) for each in records]
    assert codes(judged(folder(exif=exif), records)) == [code]


def test_single_misfits_are_left_out_worst_first(monkeypatch: pytest.MonkeyPatch) -> None:
    fit(
        monkeypatch, None, {k: Misfit("unrelated", "as it is", (0, 0), score, 0.3) for k, score in ((1, 0.1), (4, 0.0))}
    )
    verdict = only(judged(folder(), [record(k, ALL) for k in range(9)]), "shuffled-pairs")
    assert verdict.severity == "warning"
    assert verdict.files == ("labels/4.png", "labels/1.png")
    assert verdict.fix == ("data.exclude=[labels/1.png, labels/4.png]",)


def test_of_two_files_for_one_name_the_usual_kind_is_kept() -> None:
    records = [record(k, ALL) for k in range(3)]
    found = judged(folder(), records, doubles=(("images/7.bmp", "images/7.jpg"),))
    assert only(found, "duplicate-stem").fix == ("data.exclude=[images/7.bmp]",)


def test_no_setting_of_a_layout_that_it_does_not_have() -> None:
    for values in ({1: 5, 2: 3, 3: 2}, {0: 5, 127: 3, 255: 2}, {0: 5, 9: 3}):
        for verdict in judged(folder(), [record(k, values) for k in range(3)], kind="voc"):
            assert all(item.startswith(("data.exclude", "data.remap")) for item in verdict.fix)


def test_several_fixes_are_joined() -> None:
    first = Verdict("a", "error", "", "", fix=("data.exclude=[a.png, b.png]", "data.remap={car: ignore}"))
    second = Verdict(
        "b", "error", "", "", fix=("data.exclude=[b.png, c.png]", "data.remap={sky: ignore}", "data.exif=ignore")
    )
    assert together((first, second)) == (
        "data.exclude=[a.png, b.png, c.png]",
        "data.remap={car: ignore, sky: ignore}",
        "data.exif=ignore",
    )


@given(
    st.recursive(st.text() | st.integers() | st.booleans() | st.none(), lambda x: st.lists(x, max_size=3), max_leaves=4)
)
def test_any_value_survives_being_typed(value: object) -> None:
    dotted, _, text = override("data.exclude", value).partition("=")
    assert dotted == "data.exclude"
    assert yaml.safe_load(text) == value
    assert yaml.safe_load(Verdict("a", "error", "", "", fix=(f"data.exclude={text}",)).yaml) == {
        "data": {"exclude": value}
    }


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_brightness_is_pillows(color: tuple[int, int, int]) -> None:
    assert luma(color) == Image.new("RGB", (1, 1), color).convert("L").getpixel((0, 0))
