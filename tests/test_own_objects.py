"""A user's own network and dataset: the how-to page is run as it stands; resume and report work with it."""

import copy
import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import terrazzo
from terrazzo.base import Classes, InputError

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "own-model-or-dataset.md"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The names that the page's code defines, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, str(PAGE), "exec"), names)
    return SimpleNamespace(code=code, **names)


def test_the_page_runs_as_it_stands(page: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(page.code, str(PAGE), "exec"), {"__name__": "__main__"})
    assert float(capsys.readouterr().out.split()[-1]) > 0.8, "the stripes are easy"
    assert Path("predictions/pred/stripe-000.png").exists()
    assert "stripe-00" in Path("runs/stripes/report.html").read_text(encoding="utf-8")


def test_an_own_run_that_was_stopped_ends_in_the_same_bits(page: SimpleNamespace) -> None:
    page.run()
    whole = torch.load(Path("runs/stripes/checkpoints/last/train_state.pt"), weights_only=True)["model_sha256"]
    Path("runs/stripes").rename("runs/whole")

    class Stopping(page.Stripes):  # type: ignore[misc, name-defined]
        reads = 0

        def __getitem__(self, index: int) -> Any:
            Stopping.reads += 1
            if Stopping.reads == 60:
                signal.raise_signal(signal.SIGTERM)
            return super().__getitem__(index)

    stripes = page.run.__globals__["Stripes"]
    page.run.__globals__["Stripes"] = Stopping
    first = page.run()
    page.run.__globals__["Stripes"] = stripes
    assert not first.finished
    assert first.stopped_by == signal.SIGTERM
    assert page.run().finished
    again = torch.load(Path("runs/stripes/checkpoints/last/train_state.pt"), weights_only=True)["model_sha256"]
    assert again == whole


def test_a_forgotten_object_is_asked_for(page: SimpleNamespace) -> None:
    base = {"data": {"kind": "own"}, "model": {"kind": "own"}, "length": {"steps": 1}, "device": "cpu"}
    with pytest.raises(InputError, match="train_set="):
        terrazzo.train(base, model=page.TwoLayers(2))
    with pytest.raises(InputError, match="model="):
        terrazzo.train(base, train_set=page.Stripes(4, 0), val_set=page.Stripes(4, 1))
    with pytest.raises(InputError, match="kind: own"):
        terrazzo.train(base | {"data": {"kind": "camvid"}}, train_set=page.Stripes(4, 0), val_set=page.Stripes(4, 1))


def test_an_empty_set_is_named_before_training(page: SimpleNamespace) -> None:
    base = {"data": {"kind": "own"}, "model": {"kind": "own"}, "length": {"steps": 1}, "device": "cpu"}
    for train, val, sentence in ((0, 4, "train has no images"), (4, 0, "val has no images")):
        sets = {"train_set": page.Stripes(train, 0), "val_set": page.Stripes(val, 1)}
        with pytest.raises(InputError, match=sentence):
            terrazzo.train(base, model=page.TwoLayers(2), **sets)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ("sky", "road"),
            "test has 2; they are in another order, first at id 0: 'road' and 'sky'",
        ),
        (("sky", "tree"), r"train has 2 classes and test has 2; only train has \['road'\], only test has \['tree'\]"),
    ],
)
def test_splits_of_other_classes_are_told_apart(page: SimpleNamespace, names: tuple[str, str], sentence: str) -> None:
    base = {"data": {"kind": "own"}, "model": {"kind": "own"}, "length": {"steps": 1}, "device": "cpu"}
    sets = [page.Stripes(4, seed) for seed in range(3)]
    for one, its in zip(sets, (("road", "sky"), ("road", "sky"), names), strict=True):
        one.classes = Classes.of(its)
    with pytest.raises(InputError, match=sentence):
        terrazzo.train(base, model=page.TwoLayers(2), train_set=sets[0], val_set=sets[1], test_set=sets[2])


def test_a_bundle_of_an_own_network_asks_for_the_code(page: SimpleNamespace) -> None:
    page.run()
    with pytest.raises(InputError, match="network="):
        terrazzo.load("runs/stripes")
    with pytest.raises(InputError, match="does not fit"):
        terrazzo.load("runs/stripes", network=torch.nn.Conv2d(3, 2, 1))


@pytest.mark.parametrize(
    "method", [{"kind": "lora"}, {"kind": "adapter"}, {"kind": "frozen"}, {"kind": "full"}], ids=str
)
def test_a_network_that_was_passed_stays_as_it_was(page: SimpleNamespace, method: dict[str, Any]) -> None:
    """What a run adds and learns is in the run: the object goes into the report, a resume and the next run as new."""
    torch.manual_seed(0)
    net = page.TwoLayers(2)
    net.encoder = nn.Sequential(net.encoder, nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU()))
    before = copy.deepcopy(net.state_dict())
    sets = {"train_set": page.Stripes(8, 0), "val_set": page.Stripes(4, 1)}
    recipe = {"data": {"kind": "own"}, "model": {"kind": "own"}, "length": {"epochs": 2}, "batch": 4, "device": "cpu"}
    recipe |= {"validate_every": {"epochs": 2}}
    scores = []
    for out in ("a", "b"):
        run = terrazzo.train(recipe | {"adapt": method, "out": out}, model=net, **sets).folder
        scores.append(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["val/miou"])
        told = json.loads((run / "evaluation/val-best_miou/scores.json").read_text())
        assert told["miou"] == pytest.approx(scores[-1])
    assert scores[0] == scores[1]
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    assert net.state_dict().keys() == before.keys()
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
