"""What a recipe may say of trackers: names filled from its keys, and refusals in sentences."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from terrazzo.base import InputError
from terrazzo.commands.tracking import Samples, class_table, small, tracking
from terrazzo.config import RunConfig, config_of
from terrazzo.engine.world import World
from terrazzo.track.mlflow import Mlflow, artifacts_beside
from terrazzo.track.names import filled
from terrazzo.track.wandb import Wandb, has_key
from track.tracked_runs import config

TREE: dict[str, Any] = {
    "model": {"arch": "Unet", "encoder": "mit_b2", "aux": False, "weights": None},
    "optim": {"lr": 1e-5},
    "losses": [{"kind": "dice"}, {"kind": "focal"}],
}


def test_names_are_filled_from_the_recipe() -> None:
    assert filled("{model.arch}_{model.encoder}", TREE, "name") == "Unet_mit_b2"
    text = filled("lr {optim.lr}, {losses.1.kind}, aux {model.aux}, {model.weights}", TREE, "name")
    assert text == "lr 1e-05, focal, aux false, none"
    assert filled("plain", {}, "name") == "plain"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{model.encodr}", r"w: {model.encodr} names no key .*did you mean 'encoder'.*arch, encoder, aux, weights"),
        ("{arch}", "w: {arch} names no key of this recipe"),
        ("{model}", "w: {model} is a whole section; name one of its keys: arch, encoder"),
        ("{losses.2.kind}", "known keys there: 0, 1"),
        ("{optim.lr.x}", "names no key"),
        ("{}", "names no key"),
        (" ", "w: the name is empty"),
    ],
)
def test_a_name_that_cannot_be_filled_is_a_sentence(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        filled(text, TREE, "w")


@pytest.mark.parametrize(
    ("tracker", "words"),
    [
        ({"kind": "wandb", "name": "{model.arch}"}, r"trackers.wandb.name: {model.arch} names no key"),
        ({"kind": "wandb", "project": "{data.images}"}, r"project is 'images/{split}', and W&B takes no / in it"),
        ({"kind": "wandb", "tags": ["x" * 65]}, "more than the 64 letters"),
        ({"kind": "mlflow", "tags": {"a": "{nothing}"}}, "trackers.mlflow.tags: {nothing} names no key"),
        ({"kind": "mlflow", "uri": "file:./mlruns"}, r"is 'file:./mlruns': .*sqlite:///PATH"),
        ({"kind": "mlflow", "uri": "mlruns"}, r"trackers.0.*is 'mlruns'"),
        ({"kind": "mlflow", "uri": "http://me:secret@host"}, "holds a password"),
        ({"kind": "wandb", "key": "abc"}, "there is no such key"),
        ({"kind": "wandbb"}, "not one of tensorboard, wandb, mlflow .did you mean 'wandb'"),
    ],
)
def test_a_wrong_setting_is_a_sentence(tracker: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        config(tracker)


def test_a_kind_stands_once() -> None:
    with pytest.raises(InputError, match="tensorboard stands more than once"):
        config({"kind": "tensorboard"}, {"kind": "tensorboard", "images": 1})


def test_there_is_none_unless_asked() -> None:
    assert RunConfig.model_fields["trackers"].default == ()


@pytest.mark.parametrize(
    ("mode", "said", "key", "chosen"),
    [
        ("auto", None, False, "offline"),
        ("auto", None, True, "online"),
        ("auto", "offline", True, "offline"),
        ("auto", "online", True, "online"),
        ("auto", "disabled", True, "disabled"),
        ("offline", "online", True, "offline"),
        ("online", "offline", True, "online"),
    ],
)
def test_the_mode_follows_recipe_environment_and_key(
    mode: str, said: str | None, key: bool, chosen: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in {"WANDB_MODE": said, "WANDB_API_KEY": "k" * 40 if key else None}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert Wandb(mode=mode).chosen_mode() == chosen  # type: ignore[arg-type]


def test_a_key_is_found_in_netrc_for_the_server_that_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password abc\n")
    (tmp_path / "netrc").chmod(0o600)
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
    assert not has_key()
    (tmp_path / "netrc").write_text("this is no netrc")
    assert not has_key()


def test_mlflow_takes_the_environment_where_the_recipe_is_silent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Mlflow().chosen_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host")
    assert Mlflow().chosen_uri(tmp_path) == "http://me:secret@host", "a password may stand there"
    assert Mlflow(uri="http://other").chosen_uri(tmp_path) == "http://other"
    assert artifacts_beside(f"sqlite:///{tmp_path}/x.db") == (tmp_path / "mlflow").as_uri()
    assert artifacts_beside("http://other") is None


def test_only_the_main_process_has_trackers() -> None:
    cfg = config({"kind": "tensorboard", "images": 0})
    world = replace(World.join("cpu"), rank=1, size=2)
    job = SimpleNamespace(cfg=cfg, world=world)
    with tracking(job, SimpleNamespace(step=0)) as session:  # type: ignore[arg-type]
        assert session.trackers == []


def test_samples_are_spread_over_the_set() -> None:
    def chosen(size: int, count: int) -> list[int]:
        return Samples(range(size), count).indexes  # type: ignore[arg-type]

    assert chosen(100, 4) == [12, 37, 62, 87]
    assert chosen(3, 8) == [0, 1, 2]
    assert chosen(1, 1) == [0]


def test_large_pictures_are_made_small() -> None:
    import cv2
    import numpy as np

    mask = np.repeat(np.repeat(np.array([[0, 7], [255, 3]], np.uint8), 640, 0), 1024, 1)
    found = small(mask, cv2.INTER_NEAREST)
    assert found.shape == (400, 640)
    assert sorted(np.unique(found)) == [0, 3, 7, 255]
    assert small(mask[:10, :10], cv2.INTER_NEAREST).shape == (10, 10)


def test_the_table_leaves_pixel_counts_out() -> None:
    table = class_table({"a": {"iou": 0.5, "acc": None, "pixels": 3}, "b": {"iou": None, "acc": 1.0, "pixels": 0}})
    assert [row[0] for row in table.rows()] == ["a", "b"]
    assert table.ious("val") == {"val/iou/a": 0.5}
    assert list(table.columns) == ["iou", "acc"]


def test_a_run_may_go_on_with_other_trackers() -> None:
    from terrazzo.engine.rundir import RunDir

    with_some, without = config({"kind": "mlflow"}), config()
    trees = [each.model_dump(mode="json", by_alias=True) for each in (with_some, without)]
    RunDir(Path("x")).check_same_run(*trees)
    assert config_of(trees[0]) == with_some
