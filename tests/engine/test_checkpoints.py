"""Checkpoints are whole or absent, whatever kills the process, and wherever there are no symlinks."""

from pathlib import Path

import pytest

from terrazzo.engine.state import Checkpoints


def fill_with(text: str):
    def fill(folder: Path) -> None:
        (folder / "config.json").write_text(text)
        (folder / "model.safetensors").write_text(text)

    return fill


def refuse(*_: object, **__: object) -> None:
    raise OSError("symlinks are not allowed here")


@pytest.mark.parametrize("links", [True, False], ids=["symlinks", "no symlinks"])
def test_publishing_replaces_the_whole_folder_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(Path, "symlink_to", refuse)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for text in ("one", "two", "three"):
        checkpoints.publish("last", fill_with(text))
        checkpoints.publish("best_miou", fill_with(text))
        found = checkpoints.find("last")
        assert found is not None
        assert (found / "model.safetensors").read_text() == text
    assert len([p for p in checkpoints.folder.iterdir() if not p.is_symlink()]) == 2
    assert (checkpoints.folder / "last").is_symlink() == links


@pytest.mark.parametrize("links", [True, False], ids=["symlinks", "no symlinks"])
@pytest.mark.parametrize("at", range(12))
def test_a_crash_at_any_move_leaves_the_old_or_the_new_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool, at: int
) -> None:
    """Every rename, link and replace of the second write is made to fail in turn."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    if not links:
        monkeypatch.setattr(Path, "symlink_to", refuse)
    checkpoints.publish("last", fill_with("old"))
    moves = iter(range(1000))

    def crash_at(method):
        def move(*args, **kwargs):
            if next(moves) == at:
                raise KeyboardInterrupt
            return method(*args, **kwargs)

        return move

    with monkeypatch.context() as patch:
        for name in ("rename", "replace", *(["symlink_to"] if links else [])):
            patch.setattr(Path, name, crash_at(getattr(Path, name)))
        try:
            checkpoints.publish("last", fill_with("new"))
        except KeyboardInterrupt:
            pass
        else:
            assert next(moves) <= at, "no move was left to crash at"
    found = checkpoints.find("last")
    assert found is not None
    texts = {(found / name).read_text() for name in ("config.json", "model.safetensors")}
    assert texts in ({"old"}, {"new"})
    checkpoints.publish("last", fill_with("newer"))
    found = checkpoints.find("last")
    assert found is not None
    assert (found / "config.json").read_text() == "newer"
    assert len([p for p in checkpoints.folder.iterdir() if not p.is_symlink()]) == 1


def test_interval_checkpoints_keep_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (5, 10, 15, 100):
        checkpoints.publish_interval(f"step_{step:08d}", fill_with(str(step)), newest=2)
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step_00000015", "step_00000100"]
    checkpoints.publish_interval("step_00000200", fill_with("200"), newest=0)
    assert list(checkpoints.folder.iterdir()) == []


def test_a_half_written_folder_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")

    def broken(folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoints.publish("last", broken)
    assert checkpoints.find("last") is None
    checkpoints.publish("last", fill_with("whole"))
    assert checkpoints.find("last") is not None
    assert not list(checkpoints.folder.glob(".draft*"))
