"""One, two and two times two processes train to the same network; who fails ends all. Real processes, tiny networks.

In float64: what is left of a difference is the order of sums.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from parallel_lives import LIVES, VAL, Noise, live, prepare
from safetensors.torch import load_file

import terrazzo
from terrazzo.adapters import write_adapter

SCRIPT = str(Path(__file__).with_name("parallel_lives.py"))
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
EXACT = 1e-10
SAME = ("step", "val/miou", "train/miou")
"""Keys of metrics.jsonl that rounding does not touch."""
REFUSED = (
    "batch=3 .* cannot be shared evenly by 2 processes; say batch=4",
    "batch=1 .* cannot be shared evenly by 2 processes; say batch=2",
    "step.accumulate=4 does not divide the 2 of 4 images .* say step.accumulate=2",
)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process: subprocess.Popen[str], seconds: float = 300) -> str:
    """What it said, once it is over."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"not over after {seconds} s: {process.communicate()[0]}")


def well(*processes: subprocess.Popen[str]) -> None:
    said = [ended(process) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Trained by this process alone."""
    out, threads = tmp_path_factory.mktemp("one"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch.setattr)
        live(out / "grown", "shards", length={"steps": 2})
        shutil.copytree(out / "grown", out / "begun", symlinks=True)
        for name in LIVES:
            live(out / name, name)
        yield out
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def difference(first: Path, second: Path, checkpoint: str = "last") -> float:
    """The greatest of all weights; names must be the same."""
    ours, theirs = (load_file(folder / "checkpoints" / checkpoint / "model.safetensors") for folder in (first, second))
    assert ours.keys() == theirs.keys()
    return max((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours)


def trained_as_one(one: Path, many: Path) -> None:
    """Every run has the weights and the numbers that one process has."""
    for life in LIVES:
        for checkpoint in ("last", "best_miou"):
            assert difference(one / life, many / life, checkpoint) <= EXACT, life
        ours, theirs = ((out / life / "metrics.jsonl").read_text().splitlines() for out in (one, many))
        assert len(ours) == len(theirs) == 2
        for line, other in zip(map(json.loads, ours), map(json.loads, theirs), strict=True):
            assert line.keys() == other.keys()
            assert [line[key] for key in SAME] == [other[key] for key in SAME]
            assert all(abs(line[key] - other[key]) <= EXACT for key in ("val/loss", "train/loss"))
    assert difference(one / "shards", many / "grown") <= EXACT, "begun by one process"


def test_two_processes_are_one(one: Path, tmp_path: Path) -> None:
    """One launch for all that is compared: each test that asked for it could run in another process."""
    shutil.copytree(one / "begun", tmp_path / "grown", symlinks=True)
    well(start([*TORCHRUN, "--standalone", "--nproc-per-node=2", SCRIPT, str(tmp_path), "equal", "again", "refused"]))
    trained_as_one(one, tmp_path)
    scored_once_and_in_order(tmp_path)
    saved_whole(one, tmp_path)
    one_goes_on(one, tmp_path)
    bases = [write_adapter(out / "lora", tmp_path / "adapter.safetensors", "last") for out in (one, tmp_path)]
    assert bases[0].sha256 == bases[1].sha256, "what was frozen is what it was, on shares too"
    whole, cut = (tmp_path / life / "checkpoints/last/model.safetensors" for life in ("shards", "cut"))
    assert whole.read_bytes() == cut.read_bytes(), "stopped is not stopped, bit by bit"
    for case, words in enumerate(REFUSED):
        for rank in range(2):
            assert re.search(f"rank {rank} of 2: {words}", (tmp_path / f"refused-{case}-{rank}.txt").read_text())


def test_two_processes_on_each_of_two_nodes_are_one(one: Path, tmp_path: Path) -> None:
    shutil.copytree(one / "begun", tmp_path / "grown", symlinks=True)
    meet = ["--nnodes=2", "--nproc-per-node=2", f"--master-port={free_port()}", "--master-addr=127.0.0.1"]
    well(*(start([*TORCHRUN, *meet, f"--node-rank={node}", SCRIPT, str(tmp_path), "equal"]) for node in range(2)))
    trained_as_one(one, tmp_path)
    scored_once_and_in_order(tmp_path)


def saved_whole(one: Path, many: Path) -> None:
    """A checkpoint does not tell how many processes wrote it."""
    for life in ("shards", "parts"):
        files = [out / life / "checkpoints/last/train_state.pt" for out in (one, many)]
        saved = [torch.load(file, weights_only=True)["optimizer"]["state"] for file in files]
        shapes = [{at: {key: value.shape for key, value in s.items()} for at, s in state.items()} for state in saved]
        assert shapes[0] == shapes[1]


def one_goes_on(one: Path, many: Path) -> None:
    """With a run of several, as with its own."""
    for out in (one, many):
        shutil.copytree(out / "shards", out / "longer", symlinks=True)
        live(out / "longer", "shards", length={"steps": 6})
    assert difference(one / "longer", many / "longer") <= EXACT


def scored_once_and_in_order(many: Path) -> None:
    """Five images on several processes; one process then scores the same checkpoint over it."""
    folder = many / "batchnorm/evaluation/test-last"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".csv", ".json")}
    terrazzo.evaluate(many / "batchnorm", checkpoint="last", dataset=Noise(VAL, 1), device="cpu")
    assert len(before["images.csv"].splitlines()) == VAL + 1
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before}


def srun(script: list[str], size: int = 2) -> list[subprocess.Popen[str]]:
    """The processes as srun starts them: with SLURM's variables, and with nobody who ends the others."""
    names = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(size), "SLURM_NODEID": "0"}
    names |= {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": str(size)}
    names |= {"MASTER_PORT": str(free_port())}
    ranks = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(size)]
    return [start([sys.executable, SCRIPT, *script], **names, **own) for own in ranks]


def test_a_rank_that_hangs_is_ended_and_says_where_it_was(tmp_path: Path) -> None:
    """By its own second thread, once rank 0 has waited for the timeout of 6 seconds; nobody kills it from outside.

    Both have waited for 8 seconds before, while labels were read.
    """
    ranks = srun([str(tmp_path), "hang"])
    waiting, hanging = (ended(process, 120) for process in ranks)
    assert all(process.returncode not in (0, -9) for process in ranks)
    assert "training labels are read once" in waiting
    assert "imed out" in waiting
    assert "[rank1]: this process ends: rank 0 of 2 failed: RuntimeError" in hanging
    assert "in stuck_here" in hanging


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("srun", marks=pytest.mark.slow)])
def test_bad_data_on_one_rank_ends_all_at_once_with_its_sentence(launcher: str, tmp_path: Path) -> None:
    if launcher == "torchrun":
        ranks = [start([*TORCHRUN, "--standalone", "--nproc-per-node=2", SCRIPT, str(tmp_path), "bad_label"])]
    else:
        ranks = srun([str(tmp_path), "bad_label"])
    began = time.monotonic()
    said = "".join(ended(process, 120) for process in ranks)
    assert time.monotonic() - began < 90, "not the timeout of 10 minutes"
    assert all(process.returncode not in (0, -9) for process in ranks)
    assert "InputError: rank 1 of 2: noise-" in said
    if launcher == "torchrun":
        assert "Root Cause" in said
        assert "the label is missing" in said.split("Root Cause")[1], "torchrun's summary has the traceback"


@pytest.mark.slow
def test_torchrun_starts_a_killed_rank_again_and_the_result_is_the_same(one: Path, tmp_path: Path) -> None:
    launch = [*TORCHRUN, "--standalone", "--nproc-per-node=2", "--max-restarts=2", SCRIPT, str(tmp_path), "killed"]
    process = start(launch)
    said = ended(process)
    assert process.returncode == 0, said
    assert f"going on with {tmp_path} at step 2 of 4" in said
    assert difference(one / "shards", tmp_path) <= EXACT
