"""The rules for label values and colours, each on labels that show its pattern and on ones that only look like it."""

from typing import Any

import pytest
import yaml
from verdict_records import ALL, codes, fixed, folder, judged, only, record

from terrazzo.check.scan import Record
from terrazzo.data.labels import Palette
from terrazzo.data.pixels import UNKNOWN


def test_plain_ids_are_left_in_peace() -> None:
    records = [record(k, ALL | {255: 9}, split) for k, split in enumerate(("train", "train", "val"))]
    assert judged(folder(), records) == []


@pytest.mark.parametrize(
    ("values", "code", "expected"),
    [
        ({1: 5, 2: 3, 3: 2}, "ids-start-at-one", {1: "sky", 2: "road", 3: "car", 255: "ignore"}),
        ({1: 5, 2: 3, 3: 2, 255: 1}, "ids-start-at-one", {1: "sky", 2: "road", 3: "car", 255: "ignore"}),
        ({0: 5, 127: 3, 255: 2}, "spread-values", {0: "sky", 127: "road", 255: "car"}),
        ({0: 5, 100: 3, 200: 2}, "spread-values", {0: "sky", 100: "road", 200: "car"}),
        ({0: 5, 256: 3, 512: 2}, "ids-times-256", {0: "sky", 256: "road", 512: "car", 65280: "ignore"}),
        ({0: 5, 257: 3, 514: 2}, "ids-times-256", {0: "sky", 257: "road", 514: "car", 65535: "ignore"}),
        (
            {0: 5, 38: 3, 75: 2, 220: 1},
            "grey-of-palette",
            {0: "sky", 38: "road", 75: "car", 220: "ignore", 255: "ignore"},
        ),
    ],
)
def test_a_pattern_of_values_is_recognised(values: dict[int, int], code: str, expected: dict[int, str]) -> None:
    records = [record(k, values) for k in range(3)]
    verdict = only(judged(folder(), records), code)
    mended = fixed(folder(), verdict)
    assert mended.decode.model_dump()["map"] == expected
    assert code not in codes(judged(mended, records))


@pytest.mark.parametrize("top", [255, 65535])
def test_two_valued_masks_whose_foreground_is_lost(top: int) -> None:
    cfg = folder(classes=["rest", "vessel"])
    records = [record(k, {0: 90, top: 10}) for k in range(3)]
    verdict = only(judged(cfg, records), "foreground-255")
    assert verdict.fix == ("data.decode={kind: bits}",)
    assert codes(judged(fixed(cfg, verdict), records)) == []


def test_raw_ids_beyond_the_classes_are_no_smoothing() -> None:
    raw = dict.fromkeys(range(20), 100) | {255: 50}
    names = [f"class {k}" for k in range(8)]
    verdict = only(judged(folder(classes=names), [record(k, raw) for k in range(3)]), "unknown-values")
    assert "map" in verdict.fix[0]
    assert "unknown: ignore" in verdict.fix[0]


def test_smoothed_borders_are_no_new_classes() -> None:
    blends = dict.fromkeys(range(10, 250, 10), 2)
    records = [record(k, {0: 900, 1: 500, 255: 300} | blends) for k in range(3)]
    assert codes(judged(folder(classes=["rest", "cell"]), records)) == ["anti-aliased-labels"]


def test_one_smoothed_file_among_many_is_left_out() -> None:
    blends = dict.fromkeys(range(10, 250, 10), 2)
    records = [record(k, ALL | {255: 9}) for k in range(20)]
    records.append(record(20, ALL | {255: 9} | blends))
    verdict = only(judged(folder(), records), "anti-aliased-labels")
    assert verdict.fix == ("data.exclude=[labels/20.png]",)


def test_one_unknown_value_is_ignored_besides_the_others() -> None:
    records = [record(k, ALL) for k in range(3)] + [record(3, ALL | {37: 4})]
    verdict = only(judged(folder(), records), "unknown-values")
    assert verdict.fix == ("data.decode.ignore=[255, 37]",)
    assert verdict.files == ("labels/3.png",)
    assert "1 file of 4" in verdict.evidence


def test_a_value_one_too_high_may_also_mean_that_zero_is_void() -> None:
    verdict = only(judged(folder(), [record(k, ALL | {3: 50}) for k in range(3)]), "unknown-values")
    assert "{0: ignore, 1: sky, 2: road, 3: car, ...}" in verdict.advice


def test_negative_values() -> None:
    verdict = only(judged(folder(), [record(k, ALL | {-1: 50}) for k in range(3)]), "unknown-values")
    assert verdict.fix == ("data.decode.ignore_negative=true",)


def test_bits_with_a_third_value_keep_what_is_sure() -> None:
    cfg = folder(classes=["rest", "vessel"], decode={"kind": "bits"})
    records = [record(k, {0: 90, 128: 1, 255: 10}) for k in range(3)]
    verdict = only(judged(cfg, records), "unknown-values")
    mended = fixed(cfg, verdict)
    assert mended.decode.model_dump()["map"] == {0: "rest", 255: "vessel"}
    assert codes(judged(mended, records)) == []


def test_jpeg_ids_cannot_be_saved_and_jpeg_masks_can() -> None:
    noisy = dict.fromkeys((*range(9), *range(120, 136), *range(247, 256)), 10)
    records = [record(k, noisy, label_format="JPEG") for k in range(3)]
    assert only(judged(folder(), records), "jpeg-labels").fix == ()
    cfg = folder(decode={"kind": "values", "map": {0: "sky", 128: "road", 255: "car"}})
    verdict = only(judged(cfg, records), "jpeg-labels")
    assert codes(judged(fixed(cfg, verdict), records)) == []


def test_jpeg_masks_that_were_saved_as_png_afterwards() -> None:
    cfg = folder(decode={"kind": "values", "map": {0: "sky", 128: "road", 255: "car"}})
    stained = dict.fromkeys((*range(9), *range(120, 136), *range(247, 256)), 10) | {60: 2}
    verdict = only(judged(cfg, [record(k, stained) for k in range(3)]), "jpeg-labels")
    assert "tolerance: 31, unknown: ignore" in verdict.fix[0]
    colors = folder(classes=COLORS, decode=PAINTED)
    noise = {f"#{k:02x}{k:02x}ff": 1 for k in range(1, 34)}
    records = [painted(k, {"#0000ff": 50, **noise}, 33) for k in range(3)]
    assert only(judged(colors, records), "jpeg-labels").fix == (
        "data.decode.tolerance=32",
        "data.decode.unknown=ignore",
    )


def test_a_fix_for_values_takes_unused_classes_and_their_remaps_off() -> None:
    cfg = folder(classes=["rest", "vessel", "bone"], remap={"bone": "vessel"})
    verdict = only(judged(cfg, [record(k, {0: 90, 255: 10}) for k in range(3)]), "foreground-255")
    mended = fixed(cfg, verdict)
    assert mended.classes == ("rest", "vessel")
    assert mended.remap == {}


COLORS = {"sky": "#0000ff", "road": "#804080", "car": "#c00000"}
PAINTED = {"kind": "palette"}


def painted(k: int, colors: dict[str, int], unknown: int = 0, **changes: Any) -> Record:
    counts = {0: sum(colors.values()) - unknown, UNKNOWN: unknown}
    return record(k, colors=colors, counts={k: n for k, n in counts.items() if n}, label_mode="RGB", **changes)


def test_colours_where_numbers_are_wanted_get_the_names_of_the_colour_map() -> None:
    voc = {"#000000": 90, "#008000": 30, "#e0e0c0": 5}
    verdict = only(judged(folder(), [painted(k, voc, 125) for k in range(3)]), "colour-labels")
    assert yaml.safe_load(verdict.yaml)["data"] == {
        "classes": {"sky": "#000000", "road": "#800000", "car": "#008000"},
        "decode": {"kind": "palette", "ignore_colors": ["#e0e0c0"]},
    }
    assert "colour map" in verdict.advice


def test_unknown_colours_are_given_by_frequency_and_said_to_be_a_guess() -> None:
    colors = {"#112233": 90, "#445566": 30, "#778899": 60, "#000000": 500}
    verdict = only(judged(folder(), [painted(k, colors, 680) for k in range(3)]), "colour-labels")
    assert yaml.safe_load(verdict.yaml)["data"]["classes"] == {"sky": "#112233", "road": "#778899", "car": "#445566"}
    assert "cannot be known" in verdict.advice


def test_a_colour_file_among_ids_is_left_out() -> None:
    records = [record(k, ALL) for k in range(4)] + [painted(4, {"#112233": 90}, 90)]
    assert only(judged(folder(), records), "colour-labels").fix == ("data.exclude=[labels/4.png]",)


def test_palettes_that_change_meaning_and_palettes_that_only_look_different() -> None:
    def file(k: int, first: str, second: str) -> Record:
        return record(k, {0: 90, 1: 10}, colors={first: 90, second: 10}, label_mode="P")

    cfg = folder(classes=["rest", "vessel"])
    painted = [file(0, "#000000", "#ffffff"), file(1, "#000000", "#ff0000")]
    assert codes(judged(cfg, painted)) == []
    changing = [file(0, "#000000", "#800000"), file(1, "#800000", "#000000")]
    verdict = only(judged(cfg, changing), "palettes-disagree")
    assert isinstance(fixed(cfg, verdict).decode, Palette)


def test_swapped_channels_of_one_file_are_its_own_fault() -> None:
    cfg = folder(classes=COLORS, decode=PAINTED)
    right, wrong = {"#0000ff": 50, "#c00000": 50}, {"#ff0000": 50, "#0000c0": 50}
    found = judged(cfg, [painted(k, right) for k in range(4)] + [painted(4, wrong, 100)])
    assert only(found, "bgr-palette").fix == ("data.exclude=[labels/4.png]",)
    found = judged(cfg, [painted(k, wrong, 100) for k in range(4)])
    assert only(found, "bgr-palette").fix == ("data.decode.channels=bgr",)


def test_ids_where_colours_are_wanted() -> None:
    cfg = folder(classes=COLORS, decode=PAINTED)
    records = [record(k, ALL, counts={UNKNOWN: 1000}) for k in range(3)]
    assert only(judged(cfg, records), "ids-read-as-colours").fix == ("data.decode={kind: index}",)


def test_a_few_unknown_colours_are_named_and_many_are_smoothing() -> None:
    cfg = folder(classes=COLORS, decode=PAINTED | {"ignore_colors": ["#ffffff"]})
    few = [painted(k, {"#0000ff": 50, "#010203": 3}, 3) for k in range(3)]
    assert only(judged(cfg, few), "unknown-colours").fix == ("data.decode.ignore_colors=['#ffffff', '#010203']",)
    blends = {f"#{k:02x}00{255 - k:02x}": 1 for k in range(1, 60)}
    many = [painted(k, {"#0000ff": 5000, **blends}, 59) for k in range(3)]
    assert only(judged(cfg, many), "anti-aliased-labels").fix == ("data.decode.unknown=ignore",)


def test_jpeg_colours_get_a_tolerance_that_keeps_classes_apart() -> None:
    cfg = folder(classes=COLORS, decode=PAINTED)
    blends = {f"#{k:02x}00{255 - k:02x}": 1 for k in range(1, 60)}
    records = [painted(k, {"#0000ff": 5000, **blends}, 59, label_format="JPEG") for k in range(3)]
    assert only(judged(cfg, records), "jpeg-labels").fix == ("data.decode.tolerance=32", "data.decode.unknown=ignore")


def test_outlines_of_unknown_names() -> None:
    cfg = folder(decode={"kind": "polygons"})
    bad = record(0, counts={0: 10, UNKNOWN: 5}, decode_fault="labels/0.json: object 3 is labelled 'dog'")
    verdict = only(judged(cfg, [bad, record(1, counts=ALL)]), "unknown-outlines")
    assert verdict.fix == ("data.decode.unknown=skip",)
    assert "'dog'" in verdict.evidence
