"""`terrazzo models` as a user meets it, against a server of made-up weights."""

import csv
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import terrazzo
from terrazzo.cli import main
from terrazzo.published import download
from terrazzo.published.loading import find_architecture
from zoo_server import ZooServer, published

NAME = "fast_scnn_8xb4-160k_cityscapes-512x1024"
ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "examples/pets/images/Abyssinian_1.jpg"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZooServer]:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    with published(tmp_path, monkeypatch) as running:
        yield running


class Terminal:
    """`terrazzo models ...` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        self.monkeypatch.setattr(sys, "argv", ["terrazzo", *arguments])
        found = 0
        try:
            main()
        except SystemExit as left:
            found = int(left.code or 0)
        said = self.capsys.readouterr()
        assert found == status, said.err
        return said.out, re.sub(r"\s+", " ", said.err)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


def test_the_list_shows_architectures_and_published_networks(run: Terminal, tmp_path: Path) -> None:
    out, err = run("models", "list", "segformer*", "--json", str(tmp_path / "l.json"), "--csv", str(tmp_path / "l.csv"))
    assert "architecture" in out
    (line,) = [line for line in out.splitlines() if "segformer_mit-b0_8xb2-160k_ade20k-512x512" in line]
    assert line.split()[1:] == ["ADE20K", "37.41", "38.34", "non-commercial", "yes"]
    assert "13 published networks, 13 of them run here" in err
    rows = json.loads((tmp_path / "l.json").read_text())
    (row,) = [row for row in rows if row["name"] == "segformer_mit-b0_8xb2-160k_ade20k-512x512"]
    assert row["miou"] == 37.41
    assert row["commercial"] is False
    assert row["runs"] is True
    with (tmp_path / "l.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["name"] for row in listed] == [row["name"] for row in rows]
    assert listed[0].keys() == rows[0].keys()


def test_filters_narrow_the_list(run: Terminal) -> None:
    out, err = run("models", "list", "--dataset", "coco-stuff164k", "--family", "deeplab*")
    assert re.findall(r"COCO-Stuff 164k", out) == ["COCO-Stuff 164k"] * 6
    assert "architecture" not in out
    assert "6 published networks" in err
    out, err = run("models", "list", "vpd")
    assert "no: lacks depth estimation" in out
    _, err = run("models", "list", "vpd", "--runnable", status=2)
    assert "no architecture, encoder or published network matches 'vpd'" in err


def test_encoders_name_licences_that_are_not_plainly_free(run: Terminal, tmp_path: Path) -> None:
    run("models", "list", "*", "--json", str(tmp_path / "all.json"))
    rows = {row["name"]: row for row in json.loads((tmp_path / "all.json").read_text())}
    assert len(rows) > 1500
    assert rows["mit_b0"]["commercial"] is False
    assert rows["tu-resnet18"]["commercial"] is None
    assert "cc-by-nc-4.0: fb_ssl_yfcc100m_ft_in1k, fb_swsl_ig1b_ft_in1k" in rows["tu-resnet18"]["licence_why"]
    assert "dinov3-license: dinov3_lvd1689m" in rows["tu-convnext_tiny"]["licence_why"]


def test_search_wants_every_word(run: Terminal) -> None:
    out, _ = run("models", "search", "hr18", "LoveDA")
    assert [line.split()[0] for line in out.splitlines() if "LoveDA" in line] == [
        "fcn_hr18s_4xb4-80k_loveda-512x512",
        "fcn_hr18_4xb4-80k_loveda-512x512",
    ]
    _, err = run("models", "search", "hr18", "nowhere", status=2)
    assert "nothing has hr18 and nowhere in its name" in err


def test_show_tells_all(run: Terminal, server: ZooServer) -> None:
    entry = server.publish(NAME, b"made up")
    out, _ = run("models", "show", NAME.upper())
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines())
    assert facts["mIoU"] == "70.96"
    assert facts["licence of the weights"] == "Apache-2.0"
    assert facts["training images"].startswith("for non-commercial purposes")
    assert facts["address"].endswith(entry.path)
    assert facts["in the cache"] == "no"
    assert facts["recipe"] == f"model: {{kind: zoo, name: {NAME}}}"
    out, _ = run("models", "show", "vpd_sd_4xb8-25k_nyu-480x480")
    assert "cannot run: terrazzo lacks depth estimation" in out
    assert "recipe" not in out
    out, _ = run("models", "show", "stdc1")
    assert "model: {kind: zoo, name: stdc1, weights: none}" in out
    out, _ = run("models", "show", "resnet50")
    assert "pretrained weights" in out
    _, err = run("models", "show", "fast_scnn_8xb4-160k_cityskapes", status=2)
    assert f"did you mean {NAME}" in err


def test_get_prints_the_place_and_copies(run: Terminal, server: ZooServer, tmp_path: Path) -> None:
    entry = server.publish(NAME, b"made up")
    out, _ = run("models", "get", NAME)
    assert Path(out.strip()).read_bytes() == b"made up"
    out, _ = run("models", "get", entry.weights_file, "--out", str(tmp_path / "folder"))
    assert Path(out.strip()) == tmp_path / "folder" / entry.weights_file
    out, _ = run("models", "get", NAME, "--out", str(tmp_path / "mine.pth"))
    assert (tmp_path / "mine.pth").read_bytes() == b"made up"
    assert len(server.asked) == 1
    mit = server.publish("segformer_mit-b0_8xb2-160k_ade20k-512x512", b"other")
    _, err = run("models", "get", mit.name)
    assert f"{mit.name}: NVIDIA Source Code License for SegFormer, not for commercial use" in err
    _, err = run("models", "get", "fast_scn", status=2)
    assert f"no published network is called 'fast_scn'; did you mean {NAME}" in err
    _, err = run("models", "get", NAME, mit.name, "--out", str(tmp_path / "one.pth"), status=2)
    assert "is one file, and 2 networks were named" in err
    server.status = 404
    _, err = run("models", "get", "stdc1_4xb12-80k_cityscapes-512x1024", status=2)
    assert "answers 404 Not Found" in err


def test_a_name_is_enough_for_masks_and_for_the_network(run: Terminal, server: ZooServer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = find_architecture(NAME).build(19)
    server.publish_network(NAME, {"meta": {}, "state_dict": network.state_dict()})
    run("predict", NAME, str(PICTURE), "--out", str(tmp_path / "out"))
    assert (tmp_path / "out/pred/Abyssinian_1.png").exists()
    loaded = terrazzo.load_network(NAME)
    images = torch.rand(1, 3, 64, 96)
    assert torch.equal(loaded(images).logits, network.eval()(images).logits)
    assert len(server.asked) == 1


def test_the_commands_of_the_page_run(
    run: Terminal, server: ZooServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.publish("segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512", b"one")
    server.publish("stdc1_4xb12-80k_cityscapes-512x1024", b"two")
    text = (ROOT / "docs/how-to/zoo.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("terrazzo models")]
    monkeypatch.chdir(tmp_path)
    for command in commands:
        if command[1] != "push":
            run(*command)
    assert {command[1] for command in commands} == {"list", "search", "show", "get", "push"}
