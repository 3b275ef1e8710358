"""Loader processes: the same batches, errors that tell, and nothing left behind."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from loader_sets import Broken, Deadly, Foreign, Hanging, Homesick, Noise, crop
from PIL import Image
from pydantic import ValidationError

from terrazzo.base import InputError
from terrazzo.data import CamvidData
from terrazzo.data.folder import Folder, FolderData
from terrazzo.data.loader import batches, epoch_order
from terrazzo.data.split import RatioSplits

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="loader processes need Linux")


def feed(dataset, augment=crop, **options):
    given = {"seed": 7, "batch": 4, "first_step": 0, "workers": 2, "worker_kind": "process"} | options
    return closing(batches(dataset, augment, **given))


def taken(found, count: int) -> list[tuple]:
    return [(b.images.numpy().tobytes(), b.masks.numpy().tobytes(), b.names, b.draws) for b in islice(found, count)]


@pytest.fixture(autouse=True)
def _nothing_stays():
    """No process, no thread, no open file; the shared memory is one."""
    gc.collect()
    handles = psutil.Process().num_fds()
    yield
    gc.collect()
    assert multiprocessing.active_children() == []
    assert [thread for thread in threading.enumerate() if "terrazzo" in thread.name] == []
    assert psutil.Process().num_fds() <= handles + 1, "one pipe to Python's own resource tracker stays"


def test_processes_give_the_batches_that_threads_give():
    with feed(Noise(11), worker_kind="thread") as threads, feed(Noise(11), workers=3) as processes:
        assert taken(threads, 8) == taken(processes, 8)
    share = {"first_step": 5, "rank": 1, "world": 2}
    with feed(Noise(11), worker_kind="thread", **share) as threads, feed(Noise(11), workers=1, **share) as processes:
        assert taken(threads, 3) == taken(processes, 3)
        assert len(multiprocessing.active_children()) == 1


def test_a_batch_is_untouched_until_the_next_is_asked_for_and_lives_on_after_the_end():
    with feed(Noise(), workers=0) as alone:
        expected = taken(alone, 6)
    with feed(Noise()) as processes:
        for step in range(6):
            batch = next(processes)
            time.sleep(0.02)
            assert batch.images.numpy().tobytes() == expected[step][0]
    assert batch.images.numpy().tobytes() == expected[5][0], "its memory is still there"


def test_an_error_of_a_process_comes_at_its_own_batch_with_its_notes():
    order = epoch_order(7, 0, 40).tolist()
    with feed(Noise(), workers=0) as alone, feed(Broken(order[10], InputError("photo.jpg: truncated"))) as processes:
        assert taken(processes, 2) == taken(alone, 2)
        with pytest.raises(InputError, match=r"^photo\.jpg: truncated") as caught:
            next(processes)
    assert caught.value.__notes__ == [f"while reading item {order[10]} for draw 10"]


def test_an_error_of_a_process_names_the_file(tmp_path):
    for what in ("images", "labels"):
        (tmp_path / what).mkdir()
        for name in "abc":
            Image.fromarray(np.zeros((20, 20, 3) if what == "images" else (20, 20), np.uint8)).save(
                tmp_path / what / f"{name}.png"
            )
    cfg = FolderData(
        root=tmp_path, images="images", labels="labels", classes=("a", "b"), splits=RatioSplits(train=1, val=0)
    )
    dataset = Folder(cfg, "train")
    last = epoch_order(7, 0, 3)[-1]
    bad = dataset.files[last][0]
    bad.write_bytes(bad.read_bytes()[:50])
    with feed(dataset, batch=3) as processes, pytest.raises(InputError, match="unreadable or truncated") as caught:
        next(processes)
    assert str(bad) in str(caught.value)
    assert str(bad) in "".join(caught.value.__notes__)


def test_a_bug_in_a_process_brings_its_traceback():
    """Foreign's exception cannot be unpickled, so that its text comes in another."""
    for dataset, kind, text in (
        (Broken(int(epoch_order(7, 0, 40)[1]), KeyError("a bug")), KeyError, "a bug"),
        (Foreign(), RuntimeError, "Odd: bad, worse"),
    ):
        with feed(dataset, workers=1) as processes, pytest.raises(kind, match=text) as caught:
            next(processes)
        assert "in __getitem__" in "".join(caught.value.__notes__)


def test_processes_without_a_number_are_refused():
    with pytest.raises(ValidationError, match=r"worker_kind=process with data\.workers=0 starts none"):
        CamvidData(workers=0, worker_kind="process")


def test_a_process_that_was_killed_is_told():
    with (
        feed(Deadly()) as processes,
        pytest.raises(InputError, match=r"loader process 0 ended with exit code -9.*fewer data\.workers"),
    ):
        next(processes)


def test_a_data_set_that_cannot_be_sent_is_told_so():
    dataset = Noise()
    dataset.lock = threading.Lock()
    with (
        feed(dataset) as processes,
        pytest.raises(InputError, match=r"cannot be sent \(.*lock.*worker_kind=thread"),
    ):
        next(processes)
    with feed(Homesick()) as processes, pytest.raises(InputError, match="stays where it was made"):
        next(processes)


def test_a_process_that_hangs_is_killed_in_the_end(monkeypatch):
    monkeypatch.setattr("terrazzo.data.processes.PATIENCE", 1.0)
    with feed(Hanging(epoch_order(7, 0, 40).tolist()[5])) as processes:
        next(processes)
        children = multiprocessing.active_children()
    assert -signal.SIGKILL in [child.exitcode for child in children]


def test_processes_leave_signals_to_the_trainer():
    """Ctrl-C and a scheduler's warning reach every process of a job; the loop still wants its batches to stop well."""
    with feed(Noise(), workers=0) as alone, feed(Noise()) as processes:
        expected = taken(alone, 9)
        found = taken(processes, 1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            for child in multiprocessing.active_children():
                os.kill(child.pid, number)
        assert found + taken(processes, 8) == expected


CRASH = """
import sys
sys.path.insert(0, {folder!r})

if __name__ == "__main__":
    import multiprocessing, os, signal
    from loader_sets import Noise, crop
    from terrazzo.data.loader import batches

    feed = batches(Noise(), crop, seed=7, batch=4, first_step=0, workers=2, worker_kind="process")
    next(feed)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    {end}
"""


@pytest.mark.parametrize(("end", "code"), [("os.kill(os.getpid(), signal.SIGKILL)", -9), ("pass", 0)])
def test_a_trainer_that_dies_or_forgets_to_close_leaves_nothing(tmp_path, end, code):
    script = tmp_path / "crash.py"
    script.write_text(CRASH.format(folder=str(Path(__file__).parent), end=end))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr == ""
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    give_up = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("workers", "worker_kind"), [(0, "thread"), (2, "thread"), (2, "process")])
def test_batches_on_a_cuda_device_are_the_same(workers, worker_kind):
    device = torch.device("cuda")
    with (
        feed(Noise(), workers=0) as alone,
        feed(Noise(), workers=workers, worker_kind=worker_kind, device=device) as sent,
    ):
        for _ in range(12):
            expected, batch = next(alone), next(sent)
            busy = torch.randn(2000, 2000, device=device) @ torch.randn(2000, 2000, device=device)
            assert batch.images.device.type == batch.masks.device.type == busy.device.type == "cuda"
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(batch.images.cpu(), expected.images)
            assert torch.equal(batch.masks.cpu(), expected.masks)
            assert (batch.names, batch.draws) == (expected.names, expected.draws)
