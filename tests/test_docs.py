"""The README's commands and code are run, its recipes loaded, its links followed; the reference is the schema's."""

import re
import shlex
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import cv2
import numpy as np
import pytest

from terrazzo.config import load_config
from terrazzo.sweep.plan import load_sweep, plan

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples/pets/README.md",
]
QUICK = ["length={steps: 2}", "data.limit=4", "validate_every={steps: 2}"]
"""Laid over the README's `terrazzo train` lines: what they show is the command, not the score."""


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("terrazzo ")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder as the README assumes it: the examples, and CamVid (a tiny tree of its layout) under data/."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "examples").symlink_to(ROOT / "examples")
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for n in range(3):
            image, label = (folder / f"data/camvid/{split}{end}/{n}.png" for end in ("", "annot"))
            for path, size in ((image, (90, 120, 3)), (label, (90, 120))):
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), rng.integers(0, 12, size, dtype=np.uint8))
    return folder


def test_every_terrazzo_command_of_the_readme_runs_in_order(home: Path) -> None:
    found = commands()
    assert [command[1] for command in found][:3] == ["train", "evaluate", "predict"]
    for command in found:
        extra = QUICK if command[1] == "train" or (command[1] == "sweep" and "--status" not in command) else []
        done = subprocess.run(
            [sys.executable, "-m", *command, *extra], cwd=home, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert (home / "runs/pets_quickstart/report.html").exists()
    assert (home / "scores.json").exists()
    assert (home / "predictions/pred/Bengal_185.png").exists()
    assert (home / "runs/rates/results.csv").exists()
    assert (home / "comparison/report.html").exists()
    code = "\n".join(blocks("python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_readmes_recipe_loads(tmp_path: Path) -> None:
    recipe, decode, sweep = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(recipe)
    assert load_config(tmp_path / "mine.yaml").model.kind == "smp"
    joined = recipe.replace("  splits:", decode + "  splits:").replace(
        "[background, road, building]", "[background, cytoplasm, nucleus]"
    )
    (tmp_path / "mine.yaml").write_text(joined)
    assert load_config(tmp_path / "mine.yaml").data.decode.kind == "values"
    (tmp_path / "mine.yaml").write_text(recipe + sweep)
    assert len(plan(load_sweep(tmp_path / "mine.yaml"))) == 12


def test_the_make_commands_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {line.split()[1] for block in blocks("bash") for line in block.splitlines() if line.startswith("make ")}
    assert named == {"quickstart", "test"}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert not missing


def test_the_reference_is_what_the_schema_says(tmp_path: Path) -> None:
    spec = spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = module_from_spec(spec)
    spec.loader.exec_module(generate)
    generate.write(tmp_path)
    for path in tmp_path.iterdir():
        kept = ROOT / "docs" / "reference" / path.name
        assert path.read_text(encoding="utf-8") == kept.read_text(encoding="utf-8"), "run `python docs/generate.py`"


def test_recipes_say_what_they_reach_on_what_in_how_long() -> None:
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# "), path
        head = text[: text.index("\n\n") if "\n\n" in text else None]
        assert re.search(r"minute|hour", head), f"{path.name} does not say how long it takes"
        if not re.search(r"0\.\d\d", head):
            assert "not trained in full" in head, f"{path.name} neither says what it reaches nor that nobody knows"
