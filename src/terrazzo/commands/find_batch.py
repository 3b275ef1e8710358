"""`terrazzo find-batch`: the greatest batch that fits into memory, and how fast each is."""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from rich.console import Console

from terrazzo.adapt import Full, Staged
from terrazzo.base import InputError
from terrazzo.commands.lengths import Lengths
from terrazzo.commands.sets import build_sets
from terrazzo.commands.start import Job, build_loss_of, build_state, feed_from
from terrazzo.commands.train import step_of
from terrazzo.config import RunConfig
from terrazzo.engine.rundir import RunDir
from terrazzo.engine.step import OneImageError
from terrazzo.engine.world import World

TIMED = 2
"""Steps that are timed, after one that is not."""


@dataclass(frozen=True)
class Tried:
    """A batch size that was tried in a process of its own."""

    batch: int
    fits: bool
    images_per_second: float = 0.0
    peak: int | None = None
    """Most bytes held: of the GPU's memory, or of the process on a CPU; None where nobody can say."""
    reason: str = ""
    """Why it did not fit."""


def find_batch(
    config: RunConfig,
    *,
    most: int = 512,
    memory: int | None = None,
    progress: Callable[[Tried], None] | None = None,
) -> list[Tried]:
    """Double the batch until one does not fit, then halve the gap; what was tried, in the order of size.

    Every size runs three training steps in a new process, so that running out of memory, even if the system kills the
    process for it, ends that process only. `memory` limits a process's data, in bytes, where the system can (Linux).

    Raises:
        InputError: not even one image fits, or the recipe cannot run at all.
    """
    if most < config.step.accumulate:
        raise InputError(
            f"find-batch: --most {most} is less than the least batch, {config.step.accumulate} (step.accumulate)"
        )
    if memory is not None and memory <= 0:
        raise InputError("find-batch: --memory must be more than 0 GiB; without it there is no limit")
    tried: dict[int, Tried] = {}

    def fits(batch: int) -> bool:
        if batch not in tried:
            tried[batch] = _attempt(config, batch, memory)
            if progress is not None:
                progress(tried[batch])
        return tried[batch].fits

    good, size = 0, config.step.accumulate
    try:
        fits(size)
    except OneImageError:  # two of them in every part may do
        size *= 2
        if size > most:
            raise
    while size <= most and fits(size):
        good, size = size, 2 * size
    if not good:
        limit = "" if memory is None else ", or a greater --memory"
        raise InputError(
            f"find-batch: not even {size} image{'s' if size > 1 else ''} fits ({tried[size].reason}); give a smaller "
            f"augment.crop or network, or step.recompute=true{limit}"
        )
    bad = size if size in tried else most + 1
    while bad - good > max(config.step.accumulate, good // 8):
        middle = (good + bad) // 2 // config.step.accumulate * config.step.accumulate
        if middle in (good, bad):
            break
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return [tried[batch] for batch in sorted(tried)]


def _attempt(config: RunConfig, batch: int, memory: int | None) -> Tried:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, config, batch, memory))
    process.start()
    theirs.close()
    try:
        answer: Tried | InputError = ours.recv()
    except EOFError:
        process.join()
        how = "was killed" if (process.exitcode or 0) < 0 else "ended"
        answer = Tried(batch, fits=False, reason=f"the process {how} (exit status {process.exitcode})")
    process.join()
    if isinstance(answer, InputError):
        raise answer
    return answer


def _measure(pipe: Connection, config: RunConfig, batch: int, memory: int | None) -> None:
    """In the new process: three steps; sends a Tried, or the error if the recipe itself is at fault."""
    if memory is not None and sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    try:
        pipe.send(_steps(config, batch))
    except (torch.OutOfMemoryError, MemoryError) as error:
        pipe.send(Tried(batch, fits=False, reason=str(error).partition("\n")[0] or "out of memory"))
    except (ImportError, OSError) as error:
        if memory is None:
            raise
        short = str(error).partition("\n")[0]
        pipe.send(Tried(batch, fits=False, reason=f"the program itself does not fit into --memory: {short}"))
    except (InputError, RuntimeError) as error:
        short = str(error).partition("\n")[0]
        out_of_memory = "out of memory" in short or "can't allocate memory" in short or "not enough memory" in short
        if not out_of_memory and not isinstance(error, InputError):
            raise
        pipe.send(
            error if isinstance(error, InputError) and not out_of_memory else Tried(batch, fits=False, reason=short)
        )


def _steps(config: RunConfig, batch: int) -> Tried:
    with tempfile.TemporaryDirectory() as scratch:
        cfg = config.model_copy(update={"out": Path(scratch), "batch": batch})
        if isinstance(cfg.adapt, Staged):
            cfg = cfg.model_copy(update={"adapt": Full()})  # its second stage needs more memory than the first
        sets, world = build_sets(cfg), World.join(cfg.device)
        job = Job(cfg, world, RunDir(cfg.out), Console(quiet=True), sets, Lengths.of(cfg, len(sets.train)))
        state, _ = build_state(job, None, None)
        step_fn = step_of(job, state, build_loss_of(job))
        state.model.train()
        began = 0.0
        with closing(feed_from(job, 0)) as feed:
            for step in range(TIMED + 1):
                images = next(feed)
                step_fn(images.images.to(world.device), images.masks.to(world.device)).loss.item()
                if step == 0:
                    began = time.perf_counter()
        seconds = time.perf_counter() - began
    return Tried(batch, fits=True, images_per_second=TIMED * batch / seconds, peak=_peak(world.device))


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
