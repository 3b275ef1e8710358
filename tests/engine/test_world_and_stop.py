"""One process is a world; two agree; a signal sets a flag and a second one does what it always did."""

import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest
import torch

from terrazzo.base import InputError
from terrazzo.engine.stop import StopFlag
from terrazzo.engine.world import World, choose_device


def test_a_world_of_one_is_a_world() -> None:
    world = World.join("cpu")
    assert (world.rank, world.size, world.main) == (0, 1, True)
    assert world.sum(torch.tensor([2.0])).item() == 2
    assert world.any(True)
    assert not world.any(False)
    world.barrier()


def test_two_processes_sum_and_vote() -> None:
    code = textwrap.dedent("""
        import torch
        from terrazzo.engine.world import World
        w = World.join("cpu")
        assert w.size == 2
        assert w.sum(torch.tensor([w.rank + 1.0])).item() == 3
        assert w.any(w.rank == 1) and not w.any(False)
        w.barrier()
        torch.distributed.destroy_process_group()
    """)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", code], env=env | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(InputError, match=r"device=cuda: .* finds none on this machine; usable: .*cpu"):
        choose_device("cuda")


def test_a_device_of_another_name_is_a_sentence() -> None:
    for name in ("cpuu", "cuda:0"):
        with pytest.raises(InputError, match=f"device={name} is not one of auto, cuda, mps, cpu"):
            choose_device(name)  # type: ignore[arg-type]


def test_the_first_signal_sets_the_flag_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopFlag() as stop:
        assert not stop.set
        signal.raise_signal(signal.SIGTERM)
        assert stop.set
        assert stop.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_comes_too_late_for_a_run_reaches_who_started_it() -> None:
    """A worker that trains several runs must not begin the next one."""
    with StopFlag() as worker:
        with StopFlag():
            assert not worker.set
            signal.raise_signal(signal.SIGTERM)
        assert worker.set
        assert worker.number == signal.SIGTERM


def test_a_second_ctrl_c_is_a_keyboard_interrupt() -> None:
    """Also where a sweep's flag is around the run's: what was opened is closed."""
    with StopFlag(), StopFlag() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process at once")
def test_a_second_signal_ends_the_process() -> None:
    code = (
        "import signal\nfrom terrazzo.engine.stop import StopFlag\n"
        "with StopFlag():\n signal.raise_signal(signal.SIGTERM)\n print('first', flush=True)\n"
        " signal.raise_signal(signal.SIGTERM)\n print('not reached')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "first"
    assert done.returncode == -signal.SIGTERM
