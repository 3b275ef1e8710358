"""`terrazzo find-lr` and `terrazzo find-batch` on the example pictures."""

import csv
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from terrazzo.base import InputError
from terrazzo.cli import main
from terrazzo.commands import find_batch as find_batch_module
from terrazzo.commands.find_batch import Tried, find_batch
from terrazzo.commands.find_lr import find_lr, judge
from terrazzo.commands.start import Job
from terrazzo.config import load_config
from terrazzo.engine.state import TrainState
from terrazzo.engine.step import OneImageError, Step
from terrazzo.losses import Loss
from terrazzo.report.charts import write_rate_test

ROOT = Path(__file__).parents[1]
TINY = [
    "data.limit=4",
    "data.workers=0",
    "model.width=4",
    "model.depth=1",
    "augment.crop=32",
    "device=cpu",
    "threads=1",
]


@pytest.fixture
def terrazzo(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command line, beside the examples; what it printed."""
    monkeypatch.chdir(ROOT)

    def command(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["terrazzo", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, capfd.readouterr().err
        return capfd.readouterr().out

    return command


def test_find_lr_draws_a_curve_and_says_two_rates(terrazzo: Callable[..., str], tmp_path: Path) -> None:
    command = ["find-lr", "pets_quickstart", *TINY, "batch=4", "--steps", "40", "--low", "1e-4", "--out", str(tmp_path)]
    printed = terrazzo(*command)
    assert "steepest fall: optim.lr=" in printed
    assert "a tenth of where the loss is least: optim.lr=" in printed
    found = json.loads((tmp_path / "rates.json").read_text())
    rows = [*csv.DictReader((tmp_path / "rates.csv").read_text().splitlines())]
    assert len(rows) == len(found["rates"]) == len(found["losses"])
    assert found["rates"][0] == 1e-4
    ratios = {round(b / a, 9) for a, b in zip(found["rates"], found["rates"][1:], strict=False)}
    assert ratios == {round(10 ** (4 / 39), 9)}, "even in the logarithm"
    assert found["rates"][0] < found["steepest"] <= found["least"] <= 1
    assert (tmp_path / "rates.png").read_bytes()[:4] == b"\x89PNG"
    assert not (ROOT / "runs/pets_quickstart").exists()


def test_the_judge_takes_the_steepest_fall_before_the_least() -> None:
    rates = [10 ** (at / 10 - 4) for at in range(41)]
    losses = [1 / (1 + math.exp(at - 20)) + max(0, at - 30) ** 2 for at in range(41)]
    found = judge(rates, losses, losses, 41)
    assert found.steepest == rates[20]
    assert found.least == rates[30]


@pytest.mark.parametrize(
    ("losses", "words"),
    [([1.0] * 2, "diverged after 2 steps.*--low"), ([1.0 + at for at in range(20)], "did not fall.*--steps")],
)
def test_a_curve_that_says_nothing_is_a_sentence(losses: list[float], words: str) -> None:
    rates = [10.0 ** (at - 20) for at in range(len(losses))]
    with pytest.raises(InputError, match=words):
        judge(rates, losses, losses, 20)


def test_the_curve_has_rates_beneath_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def look(figure: Figure, path: Path) -> None:
        figure.canvas.draw()
        written.extend(label.get_text() for label in figure.axes[0].get_xticklabels())

    monkeypatch.setattr("terrazzo.report.charts._save", look)
    rates = [10.0**power for power in range(-6, 1)]
    write_rate_test(tmp_path / "rates.png", rates, [2.0] * 7, [2.0] * 7, 1e-3)
    assert {"1e-05", "0.001", "1"} <= {*written}
    assert not any("$" in text for text in written)


def test_of_a_staged_recipe_the_first_stage_is_tested_and_that_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    overrides = [*TINY, "adapt={kind: staged, frozen: {steps: 2}}", "length={steps: 4}", "batch=2"]
    found = find_lr(load_config(ROOT / "recipes/pets_quickstart.yaml", overrides), steps=40, low=1e-4)
    assert "this tests the first stage, with the encoder frozen: optim.lr" in capfd.readouterr().err
    assert found.setting == "optim.lr"


def test_of_a_first_stage_with_a_rate_of_its_own_that_is_tested_the_same_for_all(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Parts' factors are of the second stage alone, and so change nothing."""
    staged = [*TINY, "adapt={kind: staged, frozen: {steps: 2}, lr: 1e-3}", "length={steps: 4}", "batch=2"]
    plain, slowed = (
        find_lr(load_config(ROOT / "recipes/pets_quickstart.yaml", [*staged, *more]), steps=40, low=1e-4)
        for more in ((), ("optim.lr_factors={decoder: 1e-3}",))
    )
    assert plain.setting == slowed.setting == "adapt.lr"
    assert plain.losses == slowed.losses
    assert "with the encoder frozen: adapt.lr" in capfd.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_seen_before_the_test(tmp_path: Path) -> None:
    (tmp_path / "rates").touch()
    with pytest.raises(InputError, match="rates is a file; --out is a folder"):
        find_lr(load_config("pets_quickstart"), out=tmp_path / "rates")


@pytest.mark.parametrize("options", [{"low": 1.0, "high": 0.1}, {"low": 0.0}, {"steps": 3}])
def test_an_empty_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="give 0 < low < high and 10 steps"):
        find_lr(load_config("pets_quickstart"), **options)  # type: ignore[arg-type]


def test_find_batch_tries_each_size_in_a_process(terrazzo: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "sizes.csv"
    printed = terrazzo("find-batch", "pets_quickstart", *TINY, "--most", "2", "--out", str(out))
    assert "greatest that fits: batch=2" in printed
    rows = [*csv.DictReader(out.read_text().splitlines())]
    assert [(row["batch"], row["fits"]) for row in rows] == [("1", "True"), ("2", "True")]
    assert all(float(row["images_per_second"]) > 0 for row in rows)


def test_of_a_staged_recipe_the_stage_that_needs_more_memory_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def step_of(job: Job, state: TrainState, loss: Loss) -> Step:
        made = real(job, state, loss)
        seen.append(all(parameter.requires_grad for parameter in state.model.parameters()))
        return made

    real = find_batch_module.step_of
    monkeypatch.setattr(find_batch_module, "step_of", step_of)
    overrides = [*TINY, "adapt={kind: staged, frozen: {steps: 3}}", "length={epochs: 1}"]
    assert find_batch_module._steps(load_config("pets_quickstart", overrides), 4).fits
    assert seen == [True]


def test_a_greatest_batch_below_the_least_is_refused() -> None:
    with pytest.raises(InputError, match=r"--most 2 is less than the least batch, 4 \(step\.accumulate\)"):
        find_batch(load_config("pets_quickstart", ["step.accumulate=4", "batch=4"]), most=2)


@pytest.mark.parametrize(
    ("most", "accumulate", "fitting", "tried", "found"),
    [
        (512, 1, 11, [1, 2, 4, 8, 10, 11, 12, 16], 11),
        (512, 1, 100, [1, 2, 4, 8, 16, 32, 64, 96, 104, 112, 128], 96),
        (6, 1, 99, [1, 2, 4, 5, 6], 6),
        (512, 3, 9, [3, 6, 9, 12], 9),
        (1, 1, 1, [1], 1),
    ],
)
def test_the_search_doubles_then_halves(
    most: int, accumulate: int, fitting: int, tried: list[int], found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that `step.accumulate` divides; to an eighth of the answer."""
    cfg = load_config("pets_quickstart", [f"step.accumulate={accumulate}", f"batch={accumulate}"])
    monkeypatch.setattr(
        "terrazzo.commands.find_batch._attempt", lambda config, batch, memory: Tried(batch, fits=batch <= fitting)
    )
    sizes = find_batch(cfg, most=most)
    assert [size.batch for size in sizes] == tried
    assert max(size.batch for size in sizes if size.fits) == found


def test_a_network_that_needs_two_images_in_a_part_begins_with_two(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(config: object, batch: int, memory: object) -> Tried:
        if batch < 4:
            raise OneImageError("every part holds two at least")
        return Tried(batch, fits=batch <= 8)

    cfg = load_config("pets_quickstart", ["step.accumulate=2", "batch=2"])
    monkeypatch.setattr("terrazzo.commands.find_batch._attempt", attempt)
    assert [size.batch for size in find_batch(cfg)] == [4, 8, 10, 12, 16]
    with pytest.raises(OneImageError):
        find_batch(cfg, most=3)


def test_such_a_network_says_so_from_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    model = "model={kind: smp, arch: deeplabv3plus, encoder: mobilenet_v2, weights: none}"
    found = find_batch(load_config("pets_quickstart", [*TINY, model]), most=2)
    assert [(size.batch, size.fits) for size in found] == [(2, True)]


@pytest.mark.parametrize("memory", [0, -1])
def test_no_memory_at_all_is_refused(memory: int) -> None:
    with pytest.raises(InputError, match="--memory must be more than 0 GiB"):
        find_batch(load_config("pets_quickstart", TINY), memory=memory)


def dies(pipe: object, config: object, batch: int, memory: object) -> None:
    """As a process that the system kills for its memory."""
    os._exit(9)


def test_a_process_that_is_killed_is_a_size_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrazzo.commands.find_batch._measure", dies)
    with pytest.raises(InputError, match=r"not even 1 image fits \(the process ended \(exit status 9\)\)"):
        find_batch(load_config("pets_quickstart", TINY))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit a process's memory")
def test_a_recipe_of_which_not_one_image_fits_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=r"not even 1 image fits \(.*\); give .*, or a greater --memory"):
        find_batch(load_config("pets_quickstart", TINY), memory=2**20)
