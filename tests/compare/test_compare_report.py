"""`terrazzo compare` on real runs of a second: what it says is what they hold; its report, figures and page."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from made_up_runs import CLASSES, COST, recipe, write_grid, write_run
from typer.testing import CliRunner

import terrazzo
from terrazzo.base import InputError
from terrazzo.cli import app
from terrazzo.comparison.figures import best_rows, curves_figure, labels_of
from terrazzo.comparison.page import figures_of, write_folder
from terrazzo.comparison.table import build_table
from terrazzo.comparison.trades import effects_figure, pareto_figure, pareto_front
from terrazzo.comparison.writing import footnotes
from terrazzo.report.charts import chart_style

sys.path.append(str(Path(__file__).parents[1] / "report"))
from pages import Page


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in {"train": 4, "val": 3}.items():
        for n in range(count):
            mask = np.zeros((40, 48), np.uint8)
            mask[rng.integers(0, 20) :, rng.integers(0, 24) :] = 1
            image = (mask[..., None] * 90 + rng.integers(0, 120, (40, 48, 3))).astype(np.uint8)
            for kind, array in (("images", image), ("masks", mask)):
                path = folder / kind / split / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), array)


def tree_of(home: Path, out: Path, **sections: Any) -> dict[str, Any]:
    data = {"kind": "folder", "root": str(home / "data"), "images": "images/{split}", "labels": "masks/{split}"}
    return {
        "out": str(out),
        "data": {**data, "classes": ["no", "yes"], "workers": 0},
        "model": {"kind": "unet", "width": 4, "depth": 2},
        "augment": {"crop": 32},
        "length": {"steps": 4},
        "validate_every": {"steps": 2},
        **{"batch": 2, "threads": 1, "device": "cpu"},
        **sections,
    }


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three runs: two seeds, and one that looks at pictures in another size."""
    home = tmp_path_factory.mktemp("real")
    write_data(home / "data")
    exact = {"resize": {"kind": "exact", "height": 32, "width": 32}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        for name, sections in {"first": {}, "second": {"seed": 1}, "small": {"evaluation": exact}}.items():
            terrazzo.train(tree_of(home, home / "runs" / name, **sections))
        yield home


def test_cost_json_has_what_cost_csv_tells(real: Path) -> None:
    folder = real / "runs" / "first" / "evaluation" / "val-best_miou"
    facts = json.loads((folder / "cost.json").read_text())
    told = {line["what"]: line["value"] for line in csv.DictReader((folder / "cost.csv").read_text().splitlines())}
    model = terrazzo.load_network(real / "runs" / "first")
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert told["parameters"] == f"{facts['parameters'] / 1e6:.3f} M"
    assert told["latency"] == f"{1e3 * facts['latency']['median']:.1f} ms"
    assert told["work"] == f"{facts['macs'] / 1e9:.3f} GMACs"
    assert told["training speed"] == f"{facts['images_per_second']:.1f} images/s"
    assert facts["shape"] == [1, 3, 40, 48]
    assert (facts["train_steps"], facts["threads"], facts["device"], facts["train_device"]) == (4, 1, "cpu", "cpu")
    assert facts["latency"]["low"] <= facts["latency"]["median"] <= facts["latency"]["high"]


def test_real_runs_in_one_table(real: Path) -> None:
    table = terrazzo.compare(real / "runs")
    assert [row.protocol for row in table.rows] == ["A", "A", "B"]
    assert table.varied == ("evaluation.resize.kind", "seed")
    for row in table.rows:
        assert row.run.folder is not None
        scores = json.loads((row.run.folder / "evaluation" / "val-best_miou" / "scores.json").read_text())
        facts = json.loads((row.run.folder / "evaluation" / "val-best_miou" / "cost.json").read_text())
        logged = [json.loads(line) for line in (row.run.folder / "metrics.jsonl").read_text().splitlines()]
        (line,) = [line for line in logged if line["step"] == scores["step"]]
        assert row.values["miou"] == scores["miou"]
        assert row.values["val_miou"] == line["val/miou"]
        assert row.values["train_loss"] == line["train/loss"]
        assert row.values["gmacs"] == facts["macs"] / 1e9
        assert row.values["learned"] == row.values["parameters"], "all of a U-Net learns"
    assert footnotes(table)[0] == "scored on val, not on a test split"
    assert "differs in resize: keep -> exact height=32 width=32" in footnotes(table)[1]
    titles = [column.title for column in table.columns]
    assert len(set(titles)) == len(titles)


def test_evaluate_fills_what_is_missing(real: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(real / "runs" / "first", run, symlinks=True)
    (run / "evaluation" / "val-best_miou" / "cost.json").unlink()
    (before,) = terrazzo.compare(run, checkpoint="last").rows
    assert before.values["miou"] is None
    assert before.values["latency"] is None
    (after,) = terrazzo.compare(run, checkpoint="last", evaluate=True).rows
    assert after.values["miou"] == json.loads((run / "evaluation" / "val-last" / "scores.json").read_text())["miou"]
    assert after.values["steps"] == 4
    old = json.loads((real / "runs" / "first" / "evaluation" / "val-best_miou" / "cost.json").read_text())
    assert after.values["gmacs"] == old["macs"] / 1e9
    assert after.values["images_per_second"] == pytest.approx(old["images_per_second"])


def test_evaluate_without_the_data_says_so(real: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(real / "runs" / "first", run, symlinks=True)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["root"] = str(tmp_path / "moved")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (row,) = terrazzo.compare(run, checkpoint="last", evaluate=True).rows
    assert str(row.values["reason"]).startswith("not scored: data.root=")
    terrazzo.compare(run, out=tmp_path / "out")
    assert "No sample images: data.root=" in (tmp_path / "out" / "report.html").read_text()


def check_page(html: str) -> Page:
    """It is whole, and asks for nothing that is not in it."""
    page = Page(re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL))
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    for _, attrs in page.tags:
        for key, value in attrs.items():
            if key in {"src", "href", "xlink:href", "srcset"}:
                assert (value or "").startswith(("data:image/", "#")), value
    (policy,) = [meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert (policy["content"] or "").startswith("default-src 'none'")
    assert html.count("<script>") == 1
    return page


def test_the_folder_of_real_runs(real: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["compare", str(real / "runs"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "first" in result.output
    assert "protocol B (1 rows) is not ranked with A" in result.output.replace("\n", " ")
    page = check_page((tmp_path / "out" / "report.html").read_text())
    text = " ".join(page.text)
    assert "Protocol B" in text
    assert "Seeds" in text
    pictures = [str(image.get("alt")) for image in page.all("img")]
    assert len(pictures) == 3 * 4, "image, truth, two runs"
    assert [alt.split(": ")[1] for alt in pictures[:2]] == ["image", "truth"]
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    names = {"curves", "effects", "classes", "samples", "significance", "confusion_1", "confusion_2"}
    assert figures >= {f"{name}.{suffix}" for name in names for suffix in ("svg", "pdf")}
    for name in figures:
        head = (tmp_path / "out" / "figures" / name).read_bytes()[:200]
        assert head.startswith(b"%PDF") or b"<?xml" in head
    tables = {path.name for path in (tmp_path / "out" / "tables").iterdir()}
    assert tables == {"runs.csv", "runs.json", "runs.md", "runs.tex", "seeds.csv"}


@pytest.mark.parametrize(("suffix", "start"), [(".csv", "run,"), (".json", "{"), (".md", "| run"), (".tex", "% ")])
def test_one_table_as_a_file(tmp_path: Path, suffix: str, start: str) -> None:
    write_run(tmp_path / "a")
    terrazzo.compare(tmp_path / "a", out=tmp_path / f"table{suffix}")
    assert (tmp_path / f"table{suffix}").read_text().startswith(start)
    with pytest.raises(InputError, match="give a folder, or a file that ends in"):
        terrazzo.compare(tmp_path / "a", out=tmp_path / "page.html")


def test_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_grid(tmp_path / "sweep", 10)
    monkeypatch.setenv("COLUMNS", "90")
    arguments = ["compare", str(tmp_path / "sweep"), "--where", "miou>0.5", "--sort", "latency"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 90
    assert "test mIoU" in lines[0]
    assert "columns more do not fit here" in result.output
    monkeypatch.delenv("COLUMNS")
    whole = CliRunner().invoke(app, [*arguments, "--columns", "miou,classes"]).output
    assert whole.split("\n")[0].split() == ["run", "test", "mIoU", *CLASSES], "a pipe gets every column"
    wrong = CliRunner().invoke(app, ["compare", str(tmp_path / "sweep"), "--sort", "speeed"])
    assert isinstance(wrong.exception, InputError)


def test_many_runs_in_one_plot(tmp_path: Path) -> None:
    table = build_table([write_grid(tmp_path / "sweep", 45, points=5)])
    with chart_style():
        drawn = curves_figure(table)
    assert drawn is not None
    (legend,) = drawn.figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == 7
    assert labels[-1] == "39 others"
    assert labels[:6] == labels_of([row.run.name for row in best_rows(table, 6)])
    for axes in drawn.figure.axes:
        assert len(axes.lines) == 45
        assert sum(line.get_linewidth() > 1 for line in axes.lines) == 6


def test_effects(tmp_path: Path) -> None:
    table = build_table([write_grid(tmp_path / "sweep", 20, points=2)])
    with chart_style():
        drawn = effects_figure(table)
    assert drawn is not None
    panels = {axes.get_title(loc="left"): axes for axes in drawn.figure.axes if axes.get_title(loc="left")}
    assert set(panels) == {"model.encoder", "optim.lr"}
    assert panels["optim.lr"].get_xscale() == "log"
    assert [text.get_text() for text in panels["model.encoder"].get_xticklabels()][:2] == ["efficientnet-b0", "mit_b0"]


def test_pareto_front_and_names_that_cover_nothing(tmp_path: Path) -> None:
    assert pareto_front([(1, 0.5), (2, 0.4), (2, 0.6), (1, 0.5), (3, 0.6)]) == {0, 2, 3}
    table = build_table([write_grid(tmp_path / "sweep", 12, points=2)])
    with chart_style():
        drawn = pareto_figure(table, "parameters")
        assert drawn is not None
        drawn.figure.draw_without_rendering()
    (axes,) = drawn.figure.axes
    names = [text for text in axes.texts if text.get_text()]
    boxes = [text.get_window_extent() for text in names]
    assert len(names) >= 6
    for n, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[n + 1 :])
    others = build_table([write_run(tmp_path / "alone")])
    with chart_style():
        assert pareto_figure(others, "parameters") is None


def test_what_was_measured_otherwise_is_not_in_the_plot(tmp_path: Path) -> None:
    for n in range(3):
        write_run(tmp_path / str(n), miou=0.4 + n / 10, cost=COST | {"macs": 10**9 * (n + 1)})
    write_run(tmp_path / "large", miou=0.9, cost=COST | {"shape": [1, 3, 512, 512]})
    with chart_style():
        drawn = pareto_figure(build_table([tmp_path]), "gmacs")
    assert drawn is not None
    assert "1 runs measured under other conditions are left out" in drawn.caption


def test_labels() -> None:
    assert labels_of(["model=a-0123abcd", "model=b-0123abcd"]) == ["model=a", "model=b"]
    assert labels_of(["a-0123abcd", "a-0123abce"]) == ["a-0123abcd", "a-0123abce"]
    long = ["x" * 30 + middle + "y" * 30 for middle in "ab"]
    assert len(set(labels_of(long))) == 2


def test_odd_classes_and_names_in_figures(tmp_path: Path) -> None:
    """No mathematics is read into `$`, no mark-up into `<`; a run without scores still gives curves."""
    write_run(tmp_path / "$a_1^<b>$", miou=0.7)
    write_run(tmp_path / "面", miou=0.6, tree=recipe(**{"optim.lr": 0.5}))
    write_run(tmp_path / "going", finished=False)
    table = build_table([tmp_path])
    write_folder(tmp_path / "out", table, "why <not>")
    html = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;b&gt;" in html
    assert "No sample images: why &lt;not&gt;" in html
    check_page(html)


def test_unscored_runs_alone(tmp_path: Path) -> None:
    for n in range(2):
        write_run(tmp_path / str(n), finished=False, miou=0.4 + n / 5, tree=recipe(**{"optim.lr": 0.1 / (n + 1)}))
    table = build_table([tmp_path])
    assert [row.run.name for row in table.rows] == ["1", "0"]
    assert (0, "val_miou") in table.best
    with chart_style():
        assert {drawn.name for drawn in figures_of(table)} == {"curves", "effects"}


SCRIPT = """<script>
const shown = () => [...document.querySelectorAll("tr.run")]
  .filter((row) => !row.hidden && !row.closest("tbody").hidden).map((row) => row.cells[0].dataset.v).join(" ");
const head = (key) => document.querySelector(`th[data-key="${key}"]`);
const out = { start: shown() };
head("latency").querySelector("button").click(); out.latency = shown(); out.aria = head("latency").ariaSort;
head("latency").querySelector("button").click(); out.again = shown();
head("miou").querySelector("button").click(); out.miou = shown();
const box = document.getElementById("filter");
const type = (text) => { box.value = text; box.dispatchEvent(new Event("input")); return shown(); };
out.number = type("miou>0.6"); out.text = type("model.encoder=MIT_B0"); out.word = type("b"); out.count =
  document.getElementById("count").textContent; out.none = type("nothing"); type("");
const cell = () => getComputedStyle(document.querySelector("td.k-class")).display;
out.hidden = cell(); document.querySelector("[data-kind=class]").click(); out.opened = cell();
document.body.innerHTML = `<pre id="answer">${JSON.stringify(out)}</pre>`;
</script></body>"""


def test_the_table_sorts_and_filters_in_a_browser(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    for name, miou, seconds, encoder in (("a", 0.5, 0.02, "x"), ("b", 0.7, 0.1, "mit_b0"), ("c", 0.65, 0.003, "x")):
        cost = COST | {"latency": {"median": seconds}}
        write_run(tmp_path / name, miou=miou, cost=cost, tree=recipe(**{"model.encoder": encoder}))
    write_run(tmp_path / "z", miou=0.9, resize={"kind": "exact"}, cost=None)
    terrazzo.compare(tmp_path, out=tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    page.write_text(page.read_text().replace("</body>", SCRIPT))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    told = subprocess.run(
        [browser, *options, "--virtual-time-budget=3000", "--dump-dom", page.as_uri()], capture_output=True, check=True
    ).stdout.decode()
    found = re.search(r'<pre id="answer">(.*?)</pre>', told)
    assert found is not None
    out = json.loads(found[1].replace("&gt;", ">"))
    assert out == {
        "start": "b c a z",
        **{"latency": "c a b z", "aria": "ascending", "again": "b a c z"},
        "miou": "b c a z",
        **{"number": "b c z", "text": "b", "word": "b", "count": "1 of 4 rows", "none": ""},
        **{"hidden": "none", "opened": "table-cell"},
    }
