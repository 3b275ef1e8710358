"""The page of a check opens anywhere and shows each verdict with its pictures and its fix, whatever the files hold."""

import base64
import csv
import io
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from pages import Page, check_asks_for_nothing

from terrazzo.base import IGNORE, Split
from terrazzo.check.record import Record
from terrazzo.check.statistics import statistics
from terrazzo.check.verdict import Verdict, override
from terrazzo.data.facts import components, counted_ids, moments
from terrazzo.data.folder import FolderData
from terrazzo.data.inventory import Inventory
from terrazzo.data.split import RatioSplits
from terrazzo.data.templates import Pair
from terrazzo.infer.draw import IGNORE_COLOR
from terrazzo.report.labels import LISTED, SHOWN, TINT, UNKNOWN_COLOR, LabelReport, write_label_report

HOSTILE = "<script>alert('x')</script>&\"'"
SIZE = (40, 60)


def pair(root: Path, name: str, ids: Sequence[int] = (0, 1), label_size: tuple[int, int] = SIZE) -> Record:
    """An image and a label in vertical stripes of these ids, and their record."""
    rng = np.random.default_rng(len(name))
    image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    mask = np.array(ids, np.uint8)[np.arange(label_size[1]) * len(ids) // label_size[1]][None].repeat(label_size[0], 0)
    for folder, picture in (("images", image), ("labels", mask)):
        (root / folder).mkdir(exist_ok=True)
        PIL.Image.fromarray(picture).save(root / folder / f"{name}.png")
    mean, square = moments(image)
    known = np.where((mask < 2) | (mask == IGNORE), mask, 254).astype(np.uint8)
    return Record(
        "train", f"images/{name}", f"images/{name}.png", f"labels/{name}.png", (1, 1, 1, 1), size=SIZE,
        label_size=label_size, counts=counted_ids(known), components=components(known, [0, 1]), mean=mean,
        square=square,
    )  # fmt: skip


def report_of(
    root: Path, records: Sequence[Record], verdicts: Sequence[Verdict] = (), names: Sequence[str] = ("ground", "thing")
) -> LabelReport:
    cfg = FolderData(root=root, images="images", labels="labels", classes=tuple(names), splits=RatioSplits())
    found = Inventory(
        pairs={"train": tuple(Pair(record.image, record.label) for record in records)},
        unlabelled=("images/alone.png",),
        orphans=("labels/orphan.png",),
        doubles=(),
        faults=(),
    )
    report = LabelReport("mine", "2026-11-21 15:42", "mine.yaml", cfg, found, records, verdicts, statistics=None)  # type: ignore[arg-type]
    return replace(report, statistics=statistics(report.classes, records))


def page_of(folder: Path, report: LabelReport) -> tuple[Page, str]:
    path = folder / "labels.html"
    write_label_report(path, report)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    check_asks_for_nothing(page, html)
    return page, html


def pixels(image: dict[str, str | None]) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(base64.b64decode((image["src"] or "").split(",")[1]))) as picture:
        return np.array(picture.convert("RGB"))


def test_a_verdict_has_evidence_advice_command_recipe_lines_and_files(tmp_path: Path) -> None:
    record = pair(tmp_path, "a b")
    fix = ("data.decode={kind: values, map: {0: ground, 255: thing}}", "data.exif=ignore")
    verdict = Verdict("some-code", "error", "Labels are odd", "255 in 1 file", (record.label,), fix, "Do this.")
    report = replace(report_of(tmp_path, [record], [verdict]), recipe="mine.yaml data.root=here")
    page, html = page_of(tmp_path, report)
    text = " ".join(page.text)
    for part in ("some-code", "Labels are odd", "255 in 1 file", "Do this.", "labels/a b.png", verdict.yaml.strip()):
        assert part in text
    (command,) = [part for part in page.text if part.startswith("terrazzo train")]
    assert shlex.split(command) == ["terrazzo", "train", "mine.yaml", "data.root=here", *fix]
    assert html.index("Labels are odd") < html.index('id="classes"'), "verdicts come first"
    assert [image["title"] for image in page.all("img")] == ["image", "label"]


def test_verdicts_stand_in_the_given_order_and_are_counted(tmp_path: Path) -> None:
    severities = ["error", "error", "warning", "note", "note", "note"]
    verdicts = [Verdict(f"code-{n}", s, f"title {n}", "seen") for n, s in enumerate(severities)]  # type: ignore[arg-type]
    page, html = page_of(tmp_path, report_of(tmp_path, [pair(tmp_path, "a")], verdicts))
    assert re.findall(r"<code>code-(\d)</code>", html) == list("012345")
    assert re.findall(r"(error|warning|note)s<b>(\d)</b>", html) == [("error", "2"), ("warning", "1"), ("note", "3")]
    anchors = [a["href"] for a in page.all("a") if (a["href"] or "").startswith("#verdict-")]
    ids = [section["id"] for section in page.all("section") if (section.get("id") or "").startswith("verdict-")]
    assert anchors == [f"#{each}" for each in ids]
    assert len(ids) == 6


def test_no_verdict_says_so(tmp_path: Path) -> None:
    page, _ = page_of(tmp_path, report_of(tmp_path, [pair(tmp_path, "a")]))
    assert "Nothing to say against these labels." in page.text


def test_the_label_lies_over_its_image_and_unknown_values_are_marked(tmp_path: Path) -> None:
    record = pair(tmp_path, "a", ids=(IGNORE, 77))
    verdict = Verdict("c", "error", "t", "e", (record.label,))
    page, _ = page_of(tmp_path, report_of(tmp_path, [record], [verdict]))
    image, seen = map(pixels, page.all("img"))
    half = SIZE[1] // 2
    ignored, unknown = seen[:, 8 : half - 8].astype(int), seen[:, half + 8 : -8]
    grey = image[:, 8 : half - 8].mean(-1, keepdims=True)
    assert np.abs(ignored - (1 - TINT) * grey - TINT * np.array(IGNORE_COLOR)).mean() < 20, (
        "ignored pixels are pale and have no colour"
    )
    assert np.abs(unknown.astype(int) - UNKNOWN_COLOR).mean() < 5
    assert "unknown to the recipe" in " ".join(page.text)


def test_regions_are_outlined_in_their_own_colour(tmp_path: Path) -> None:
    record = pair(tmp_path, "a")
    report = report_of(tmp_path, [record], [Verdict("c", "error", "t", "e", (record.label,))])
    page, _ = page_of(tmp_path, report)
    seen = pixels(page.all("img")[1]).astype(int)
    half = SIZE[1] // 2
    far = np.abs(seen - report.classes.colors[1]).mean((0, 2))
    assert far[half] + 20 < far[half + 8 : -8].mean(), "the first column of the second class is not tinted but painted"


def test_align_moves_the_shown_label_as_it_does_in_training(tmp_path: Path) -> None:
    record = pair(tmp_path, "a", ids=(IGNORE, 77))
    report = report_of(tmp_path, [record], [Verdict("c", "error", "t", "e", (record.label,))])
    mirrored = FolderData.model_validate(report.data.model_dump() | {"align": {"mirror": True}})
    page, _ = page_of(tmp_path, replace(report, data=mirrored))
    seen = pixels(page.all("img")[1])
    assert np.abs(seen[:, 8 : SIZE[1] // 2 - 8].astype(int) - UNKNOWN_COLOR).mean() < 5


def test_at_most_six_pairs_are_shown_each_once_the_first_files_first(tmp_path: Path) -> None:
    records = [pair(tmp_path, f"n{n}") for n in range(SHOWN + 2)]
    files = tuple(file for record in records[::-1] for file in (record.label, record.image))
    page, _ = page_of(tmp_path, report_of(tmp_path, records, [Verdict("c", "note", "t", "e", files)]))
    shown = [image["alt"] for image in page.all("img") if image["title"] == "image"]
    assert shown == [f"images/n{n}.png: image" for n in range(SHOWN + 1, 1, -1)]


def test_files_that_cannot_be_shown_are_said(tmp_path: Path) -> None:
    record, turned = pair(tmp_path, "a"), pair(tmp_path, "turned", label_size=SIZE[::-1])
    pair(tmp_path, "alone")
    pair(tmp_path, "orphan")
    whole = (tmp_path / record.image).read_bytes()
    (tmp_path / record.image).write_bytes(whole[: len(whole) // 2])
    files = (record.image, turned.label, "images/alone.png", "labels/orphan.png", "train.txt", "images/gone.png")
    report = report_of(tmp_path, [record, turned], [Verdict("c", "error", "t", "e", files)])
    page, _ = page_of(tmp_path, report)
    assert {"the image cannot be read", "image 60 × 40, label 40 × 60", "no label", "no image"} <= set(page.text)
    assert [image["title"] for image in page.all("img")] == ["label", "image", "label", "image", "label"]
    (tmp_path / record.label).write_bytes(b"")
    page, _ = page_of(tmp_path, report)
    assert {"the image cannot be read", "the label cannot be read"} <= set(page.text)


def test_what_users_named_is_text_and_never_markup(tmp_path: Path) -> None:
    record = pair(tmp_path, "空 дорога & co")
    fix, advice = (override("data.remap", {"a": HOSTILE}),), HOSTILE + "`x <b>`"
    verdict = Verdict("c", "warning", HOSTILE, HOSTILE, (record.label, HOSTILE), fix, advice)
    report = report_of(tmp_path, [record], [verdict], names=[HOSTILE, "空 $x$"])
    page, html = page_of(tmp_path, replace(report, title=HOSTILE, recipe=HOSTILE))
    assert "<script" not in html
    assert page.text.count(HOSTILE) >= 4
    assert "<code>x &lt;b&gt;</code>" in html, "what stands in backticks is set as code, and escaped all the same"
    assert "images/空 дорога & co.png" in page.text


def test_a_long_list_of_files_is_cut_and_says_so(tmp_path: Path) -> None:
    files = tuple(f"labels/{n}.png" for n in range(LISTED + 7))
    page, _ = page_of(tmp_path, report_of(tmp_path, [pair(tmp_path, "a")], [Verdict("c", "error", "t", "e", files)]))
    text = "".join(page.text)
    assert f"{LISTED + 7} files" in text
    assert "and 7 more" in text
    assert f"labels/{LISTED - 1}.png" in text
    assert f"labels/{LISTED}.png" not in text


@pytest.mark.parametrize("count", [2, 31, 150])
def test_any_number_of_classes_has_its_row_and_its_tables(tmp_path: Path, count: int) -> None:
    names = [f"class {k}" for k in range(count)]
    records = [pair(tmp_path, "a"), replace(pair(tmp_path, "b"), split="val")]
    page, html = page_of(tmp_path, report_of(tmp_path, records, names=names))
    assert re.findall(r'<th scope="row"><span class="chip"[^>]*></span>(class \d+)</th>', html) == names
    links = {a["download"]: a["href"] or "" for a in page.all("a") if "download" in a}
    assert links.keys() == {"classes.csv", "splits.csv", "sizes.csv"}
    table = base64.b64decode(links["classes.csv"].split(",")[1]).decode()
    assert [row["class"] for row in csv.DictReader(io.StringIO(table))] == names
    assert len(html) < 1_500_000


def test_images_of_many_sizes_are_a_chart_and_a_short_table(tmp_path: Path) -> None:
    record = pair(tmp_path, "a")
    records = [replace(record, name=str(n), size=(100 + n // 2, 200)) for n in range(1000)]
    page, html = page_of(tmp_path, report_of(tmp_path, records))
    assert "494 other sizes" in page.text
    assert "crop 200 × 352" not in html, "the label is width first"
    assert "crop 192 × 352" in html
    assert "mathdefault" not in html
    assert len(html) < 200_000


@pytest.mark.parametrize("splits", [(), ("train",), ("val",), ("train", "val", "test")])
def test_any_splits_and_even_nothing_readable(tmp_path: Path, splits: tuple[Split, ...]) -> None:
    broken = [Record(split, split, "i.png", "l.png", (1, 1, 1, 1)) for split in splits]
    page, _ = page_of(tmp_path, report_of(tmp_path, broken))
    assert not re.search(r"\bnan\b|None", " ".join(page.text))


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    report = report_of(tmp_path, [pair(tmp_path, "a")], [Verdict("c", "error", "t", "e", ("images/a.png",))])
    pages = [page_of(tmp_path, report)[1] for _ in range(2)]
    assert pages[0] == pages[1]


def test_large_pictures_make_a_small_page(tmp_path: Path) -> None:
    record = pair(tmp_path, "a")
    for path in (record.image, record.label):
        with PIL.Image.open(tmp_path / path) as picture:
            picture.resize((3000, 2000), PIL.Image.Resampling.NEAREST).save(tmp_path / path)
    page, html = page_of(tmp_path, report_of(tmp_path, [record], [Verdict("c", "error", "t", "e", (record.image,))]))
    assert [pixels(image).shape for image in page.all("img")] == [(347, 520, 3)] * 2
    assert len(html) < 400_000
