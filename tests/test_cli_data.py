"""`terrazzo data ...` as it is typed: what is printed, what is written, and the exit status."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strange_trees import areas
from terrazzo.cli import main


def cells(count: int = 10) -> None:
    """Photographs whose edges are where their labels have borders."""
    for k in range(count):
        mask = areas([0, 1, 2], k).astype(np.uint8)
        grain = np.random.default_rng(k).integers(0, 40, (*mask.shape, 3))
        image = np.array([[40, 60, 50], [120, 90, 160], [200, 180, 90]])[mask] + grain
        for path, pixels in ((Path(f"cells/images/{k:03}.png"), image), (Path(f"cells/masks/{k:03}.png"), mask)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def typed(capfd, monkeypatch, tmp_path):
    """Type a command in an empty folder: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["terrazzo", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capfd.readouterr()

    return run


def test_from_a_folder_to_a_pack(typed):
    cells()
    status, out, remarks = typed("data", "init", "cells", "--out", "cells.yaml")
    assert status == 0
    assert "layout" in out
    assert "encoding" in out
    assert "written to cells.yaml" in remarks

    status, out, remarks = typed("data", "check", "cells.yaml", "--json", "found.json", "--html", "found.html")
    assert status == 0
    assert "10 image and label pairs read: 0 errors" in out
    assert "written to found.html" in remarks
    assert json.loads(Path("found.json").read_text())["failed"] is False
    assert Path("found.html").read_text().startswith("<!doctype html>")

    status, out, remarks = typed("data", "split", "cells.yaml", "--out", "lists", "--shares", "0.6,0.2,0.2")
    assert status == 0
    assert [len(Path(f"lists/{name}.txt").read_text().splitlines()) for name in ("train", "val", "test")] == [6, 2, 2]

    status, out, _ = typed("data", "prepare", "cells.yaml", "--out", "squares", "--exact", "32x48", "--images", "jpg")
    assert status == 0
    assert len([*Path("squares").glob("*_img/*.jpg")]) == 10

    status, out, remarks = typed("data", "pack", "cells.yaml", "--out", "packed", "--format", "raw")
    assert status == 0
    assert "10 images" in out
    assert "'data={kind: packed, root: packed}'" in remarks


def test_a_check_that_fails_says_what_to_type_and_typing_it_helps(typed):
    cells()
    assert typed("data", "init", "cells", "--out", "cells.yaml")[0] == 0
    mask = areas([0, 1, 2], 4)
    mask[:3, :3] = 77
    Image.fromarray(mask.astype(np.uint8)).save("cells/masks/004.png")
    status, out, _ = typed("data", "check", "cells.yaml")
    assert status == 1
    assert "[unknown-values]" in out
    assert "cells/masks" not in out.partition("masks/004.png")[0]
    line = next(line for line in out.splitlines() if line.startswith("what answers all errors at once"))
    assert line.startswith("what answers all errors at once: terrazzo train cells.yaml 'data.")
    fix = line.split("'")[1]
    assert typed("data", "check", "cells.yaml", fix)[0] == 0

    status, _, sentence = typed("train", "cells.yaml")
    assert status == 2
    assert "masks/004.png" in sentence
    assert fix in sentence
    assert not Path("runs").exists() or not [*Path("runs").rglob("*.safetensors")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data", "init", "nowhere", "--out", "x.yaml"), "nowhere is no folder"),
        (("data", "check", "nothing.yaml"), "neither a file nor a shipped recipe"),
        (("data", "check", "pets_quickstart", "data.root=nowhere"), "data.root=nowhere is no folder"),
        (("data", "split", "pets_quickstart", "--out", "o", "--shares", "a,b"), "is no list of shares"),
        (("data", "split", "pets_quickstart", "--out", "o", "--keep", "trian"), "the splits are train, val, test"),
        (("data", "prepare", "pets_quickstart", "--out", "o", "--fit", "3"), "is no size such as 512x1024"),
        (("data", "prepare", "pets_quickstart", "--out", "o", "--fit", "3x4", "--exact", "3x4"), "give one of"),
        (("data", "pack", "pets_quickstart", "--out", "o", "--tile", "3"), "tiles have sides of 16 to 4096"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(typed, words, said):
    status, out, errors = typed(*words)
    assert status == 2
    assert said in errors
    assert "Traceback" not in out + errors
    assert not Path("o").exists()
