"""Who may write to a run folder, and which recipe may go on with it."""

import subprocess
import sys
from pathlib import Path

import pytest

from terrazzo.base import InputError
from terrazzo.engine.rundir import RunDir, environment


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    with RunDir(tmp_path / "run"):
        code = (
            "from pathlib import Path; from terrazzo.engine.rundir import RunDir\n"
            f"RunDir(Path({str(tmp_path / 'run')!r})).__enter__()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "is being written by another terrazzo process" in done.stderr
    with RunDir(tmp_path / "run"):
        pass


def test_fresh_moves_the_old_folder_aside_and_never_over_another(tmp_path: Path) -> None:
    for n in (1, 2):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mark").write_text(str(n))
        aside = RunDir(tmp_path / "run").move_aside()
        assert aside == tmp_path / f"run.old-{n}"
        assert (aside / "mark").read_text() == str(n)
    assert RunDir(tmp_path / "run").move_aside() is None


def test_fresh_takes_nothing_from_a_process_that_writes(tmp_path: Path) -> None:
    with RunDir(tmp_path / "run") as held:
        held.log("first")
        with pytest.raises(InputError, match="is being written by another terrazzo process"):
            RunDir(tmp_path / "run").move_aside()
        held.log("second")
    assert RunDir(tmp_path / "run").move_aside() == tmp_path / "run.old-1"
    assert len((tmp_path / "run.old-1/log.txt").read_text().splitlines()) == 2


def test_every_differing_key_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    tree = {"optim": {"lr": 1.0, "betas": [0.9, 0.99]}, "losses": [{"kind": "a"}], "data": {"root": "x", "workers": 1}}
    with run:
        run.write(
            "config.yaml", "optim: {lr: 1.0, betas: [0.9, 0.99]}\nlosses: [{kind: a}]\ndata: {root: x, workers: 1}\n"
        )
        run.check_same_run(tree, tree)
        run.check_same_run(tree, tree | {"data": {"root": "y", "workers": 8}, "length": {"steps": 9}, "keep": 4})
        changed = tree | {"optim": {"lr": 2.0, "betas": [0.9, 0.9]}, "losses": [{"kind": "a", "weight": 1}]}
        with pytest.raises(
            InputError, match=r"(?s)losses\.0\.weight: \(absent\) -> 1.*optim\.betas.*optim\.lr: 1\.0 -> 2\.0.*--fresh"
        ):
            run.check_same_run(tree, changed)


def test_an_out_that_cannot_be_a_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the run folder cannot be made"), RunDir(tmp_path / "file" / "run"):
        pass


def test_the_environment_tells_versions_and_no_private_names() -> None:
    facts = environment()
    assert {"python", "torch", "terrazzo", "git", "command"} <= facts.keys()
    assert str(Path.home()) not in " ".join(v for k, v in facts.items() if k != "command")


def test_a_checkpoint_without_its_recipe_is_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds a checkpoint but no config\.yaml"):
        RunDir(tmp_path).check_same_run(None, {})
