"""How this process computes: its threads, and whether every bit is the same each time."""

import os
from pathlib import Path

import cv2
import torch

from terrazzo.base import InputError
from terrazzo.config import RunConfig
from terrazzo.engine.place import Place
from terrazzo.engine.state import read_state
from terrazzo.engine.world import World


def set_threads(cfg: RunConfig, last: Path | None) -> int:
    """Threads of this process: as saved, else as asked, else its share of the cores. Part of the exact bits.

    Raises:
        InputError: a run that is resumed had more threads than this machine has cores.
    """
    cores = os.cpu_count() or 1
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores  # a launcher may give us some
    share = min(ours, max(1, cores // Place.of(os.environ).local_size))
    threads = int(read_state(last)["threads"]) if last else cfg.threads or share
    if last and threads > cores:
        raise InputError(
            f"{cfg.out} was started with threads={threads}, this machine has {cores} cores: the same bits cannot be "
            f"had. Go on where there are {threads} cores, or start a new run with out=... threads={cores}"
        )
    torch.set_num_threads(threads)
    cv2.setNumThreads(0)  # images are read and augmented by our own threads
    return threads


def set_determinism(cfg: RunConfig, world: World) -> None:
    """Exact bits: always on a CPU; on CUDA if asked, for it costs speed there."""
    exact = world.device.type == "cpu" or cfg.deterministic
    if exact and world.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch refuses exact matrix products without it
    torch.use_deterministic_algorithms(exact)
    # Filling every empty tensor costs time and only finds bugs in torch.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set through a module class
