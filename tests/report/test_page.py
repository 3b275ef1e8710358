"""The report opens anywhere and shows what it was given, whatever the run looked like; tables hold the same numbers."""

import base64
import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from pages import Page, check_asks_for_nothing

from terrazzo.base import IGNORE, Classes
from terrazzo.metrics import Scores
from terrazzo.report.charts import curves_svg
from terrazzo.report.page import (
    Number,
    Panel,
    Panels,
    Report,
    row_shares,
    top_confusions,
    write_report,
    write_tables,
)

HOSTILE = "<script>alert('x')</script>&\"'"


def confusion_of(classes: Classes, seed: int = 0) -> np.ndarray:
    matrix = np.random.default_rng(seed).integers(0, 40, (len(classes), len(classes)))
    return (matrix + np.diag(np.full(len(classes), 500))).astype(np.int64)


def panel_of(classes: Classes, name: str, score: float | None, size: tuple[int, int] = (12, 16)) -> Panel:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, len(classes), size).astype(np.uint8)
    truth[0] = IGNORE
    image = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
    return Panel(name, image, truth, np.where(truth == IGNORE, 0, truth).astype(np.uint8), score)


def curves_of(steps: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        lines.append({"step": step, "epoch": step / 10, "train/loss": 1 / step, "train/miou": 0.5, "lr/encoder": 1e-4})
        lines[-1] |= {"lr/encoder/no_decay": 1e-4, "lr/head": 1e-3}
        if step % 5 == 0:
            lines[-1] |= {"val/loss": 2 / step, "val/miou": 1 - 1 / step}
    return lines


def full_report(classes: Classes, names: str = "image") -> Report:
    matrix = confusion_of(classes)
    panels = [panel_of(classes, f"{names} {n}", n / 10) for n in range(4)]
    return Report(
        title=f"run of {names}",
        when="2026-11-21 15:42",
        classes=classes,
        headline=[Number("mean IoU", 0.5123, f"on {names}"), Number("time", "3 min")],
        curves=curves_of(20),
        scores=Scores(matrix).as_dict(classes),
        confusion=matrix,
        panels=Panels(best=panels[::-1], worst=panels, samples=panels),
        cost=[Number("parameters", "1.2 M", "all trained"), Number("inference, ms", 8.25)],
        protocol={"split": "val", "limit": None, "resize": {"kind": "keep"}, "sizes": [1, 2]},
        config_yaml=f"out: runs/{names}\n",
        environment={"torch": "2.15", "cuda": None},
        notes=[f"a note on {names}"],
    )


def page_of(tmp_path: Path, report: Report) -> tuple[Page, str]:
    write_report(tmp_path / "report.html", report)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    return Page(html), html


@pytest.mark.parametrize("count", [1, 2, 31, 150])
def test_any_number_of_classes(tmp_path: Path, count: int) -> None:
    classes = Classes.of([f"class {k}" for k in range(count)])
    page, html = page_of(tmp_path, full_report(classes))
    check_asks_for_nothing(page, html)
    rows = re.findall(r'<th scope="row"><span class="chip"[^>]*></span>(class \d+)</th><td>(\d+)</td>', html)
    assert rows == [(f"class {k}", str(k)) for k in range(count)]
    cells = sum(attrs.get("fill-opacity") is not None and "title" not in attrs for attrs in page.all("rect"))
    least = 0.005 if count <= 60 else 0.01
    assert cells == (row_shares(confusion_of(classes)) >= least).sum()


def test_the_first_screen_comes_first_and_shows_score_curves_best_and_worst(tmp_path: Path) -> None:
    _, html = page_of(tmp_path, full_report(Classes.of(["a", "b"])))
    order = [
        html.index(text)
        for text in (">0.512<", 'aria-label="Loss, mean IoU', "<h2>Best images", "<h2>Worst images", 'id="classes"')
    ]
    assert order == sorted(order)
    front = Page(html[html.index('<div class="two front">') : html.index('<section class="card" id="classes">')])
    assert [img["alt"] for img in front.all("img")] == [
        f"image {n}: {what}" for n in (3, 2, 0, 1) for what in ("image", "truth", "prediction")
    ]


def test_numbers_tables_and_texts_are_all_there(tmp_path: Path) -> None:
    classes = Classes.of(["a", "b"])
    report = full_report(classes)
    page, _ = page_of(tmp_path, report)
    text = " ".join(" ".join(page.text).split())
    scores = Scores(confusion_of(classes)).as_dict(classes)["per_class"]
    for name in classes.names:
        for key in ("iou", "acc", "precision", "dice"):
            assert f"{scores[name][key]:.3f}" in text
    for part in (
        "3 min",
        "all trained",
        "8.250",
        "kind: keep",
        "limit –",
        "sizes 1, 2",
        "cuda –",
        "out: runs/image",
        "a note on image",
    ):
        assert part in text


def test_what_users_named_is_text_and_never_markup(tmp_path: Path) -> None:
    classes = Classes.of([HOSTILE, "空 дорога", "$x$", "_hidden", "a name " * 30])
    page, html = page_of(tmp_path, full_report(classes, HOSTILE))
    check_asks_for_nothing(page, html)
    assert "<script" not in html
    assert HOSTILE in page.text
    assert "空 дорога" in html
    title = html[html.index("<title>") : html.index("</title>")]
    assert "&lt;script&gt;" in title


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    page, html = page_of(tmp_path, Report("run", "now", Classes.of(["thing"])))
    check_asks_for_nothing(page, html)
    text = " ".join(page.text)
    assert "No score yet" in text
    assert "No validation has run yet." in text
    assert "No image has been scored yet." in text
    assert text.count("nothing logged yet") == 3


def test_scores_that_do_not_exist_are_dashes(tmp_path: Path) -> None:
    classes = Classes.of(["a", "b"])
    empty = np.zeros((2, 2), np.int64)
    report = Report(
        "run",
        "now",
        classes,
        headline=[Number("mean IoU", math.nan)],
        scores=Scores(empty).as_dict(classes),
        confusion=empty,
        panels=Panels(best=[panel_of(classes, "x", None)], worst=[panel_of(classes, "x", math.nan)]),
    )
    page, html = page_of(tmp_path, report)
    assert "<b>–</b>" in html
    assert not re.search(r"\bnan\b|None", " ".join(page.text))
    assert "no labelled pixel" in html


def test_a_picture_is_a_thumbnail_of_its_own_shape(tmp_path: Path) -> None:
    classes = Classes.of(["a", "b"])
    tall = panel_of(classes, "tall", 0.5, size=(1000, 500))
    page, html = page_of(tmp_path, Report("run", "now", classes, panels=Panels(samples=[tall])))
    assert len(html) < 1_000_000
    for img in page.all("img"):
        data = (img["src"] or "").split(",")[1]
        with PIL.Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (220, 440)


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    report = full_report(Classes.of(["a", "b", "c"]))
    for name in ("1.html", "2.html"):
        write_report(tmp_path / name, report)
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


@pytest.mark.parametrize("steps", [0, 1, 2, 40, 3000])
def test_curves_of_any_length_are_small(steps: int) -> None:
    svg = curves_svg(curves_of(steps))
    Page(svg)
    assert len(svg) < 120_000
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", svg)
    assert "#566270" not in svg, "colours are the page's"
    if steps >= 40:
        assert f"val (best {1 - 1 / (steps // 5 * 5):.3f})" in svg
    assert "mathdefault" not in svg, "a logarithmic axis of the loss writes plain numbers"


def test_curves_with_gaps_and_groups() -> None:
    lines: list[dict[str, Any]] = [
        {"step": 1, "train/loss": math.nan, "lr/a": 1e-3, "lr/a/no_decay": 1e-3, "lr/b": 1e-3, "lr/c": 2e-3},
        {
            "step": 2,
            "train/loss": None,
            "val/miou": math.nan,
            "lr/a": 1e-4,
            "lr/a/no_decay": 1e-4,
            "lr/b": 1e-4,
            "lr/c": 0,
        },
    ]
    svg = curves_svg(lines)
    assert svg.count("nothing logged yet") == 2
    assert ">a, b<" in svg
    assert ">c<" in svg


def test_the_most_frequent_confusions_are_sorted_by_pixels() -> None:
    matrix = np.array([[90, 10, 0], [3, 0, 27], [0, 0, 0]])
    assert top_confusions(matrix) == [(1, 2, 0.9, 27), (0, 1, 0.1, 10), (1, 0, 0.1, 3)]
    assert top_confusions(np.zeros((1, 1), np.int64)) == []


@pytest.mark.parametrize("names", [["thing"], ["road, wet", "空", "$x$ <b>"], [f"class {k}" for k in range(26)]])
def test_tables_hold_the_scores(tmp_path: Path, names: list[str]) -> None:
    classes = Classes.of(names)
    matrix = confusion_of(classes)
    matrix[0] = matrix[:, 0] = 0  # the first class is absent
    scores = Scores(matrix)
    write_tables(tmp_path, scores, classes, curves_of(10))
    expected = scores.as_dict(classes)
    assert json.loads((tmp_path / "classes.json").read_text(encoding="utf-8")) == expected

    with (tmp_path / "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == names
    for row in rows:
        for key, value in expected["per_class"][row["class"]].items():
            assert row[key] == ("" if value is None else str(value))
    with (tmp_path / "confusion.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    assert table[0][1:] == [row[0] for row in table[1:]] == names
    assert np.array_equal(np.array([row[1:] for row in table[1:]], np.int64), matrix)

    assert {path.name for path in tmp_path.iterdir()} == {
        "classes.csv", "classes.json", "classes.png", "confusion.csv", "confusion.png", "curves.png",
    }  # fmt: skip
    for path in tmp_path.glob("*.png"):
        with PIL.Image.open(path) as picture:
            assert min(picture.size) > 50
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 5


def test_tables_without_curves(tmp_path: Path) -> None:
    classes = Classes.of(["a", "b"])
    write_tables(tmp_path, Scores(confusion_of(classes)), classes)
    assert not (tmp_path / "curves.png").exists()
