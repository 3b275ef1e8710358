"""The worker of a sweep: trains runs of a sweep's folder in this process, and says in each one's state how it ended."""

import errno
import os
import platform
import shutil
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from terrazzo import __version__
from terrazzo.base import InputError
from terrazzo.commands.sets import build_sets
from terrazzo.commands.sweep_score import score_checkpoints
from terrazzo.commands.train import train
from terrazzo.config import RunConfig, load_config
from terrazzo.data.loader import checked_sample
from terrazzo.description import read_bundle_config
from terrazzo.engine.place import Place
from terrazzo.engine.state import Checkpoints
from terrazzo.engine.stop import StopFlag
from terrazzo.launch.state import OVER, RunState, read_state
from terrazzo.launch.task import REQUEUE
from terrazzo.models import build_model
from terrazzo.sweep.block import Scored
from terrazzo.sweep.folder import Folder
from terrazzo.sweep.plan import load_sweep, recipe_digest

BEAT_SECONDS = 20.0
"""Between two notes of a run that it is alive and how far it is."""

LITTLE_ROOM = 16 * 2**20
"""Bytes left on a disk of which one says that it is full."""

DEATHS = 3
"""So many ends in a row without a word and without one more step in a checkpoint, and a run is given up."""


def work_through(sweep: Path, names: Sequence[str]) -> int:
    """Work on runs one after the other; the exit status that a launcher reads.

    0: all ended well. 1: one failed or cannot work. REQUEUE: told to stop, or what failed may be tried again, or the
    rest wants a fresh process (after a failure CUDA may be broken in this one).
    """
    folder, retries = Folder(sweep), load_sweep(sweep).block.retries
    well = True
    # Of several processes the first one's status counts; srun would end it for the sake of another's.
    stopped = REQUEUE if Place.of(os.environ).rank == 0 else 0
    with StopFlag() as stop:
        for name in names:
            if stop.set:
                return stopped
            if (state := known(folder, name)) is None or not is_over(state, retries):
                state = work(sweep, name)
                if state.status == "stopped":
                    return 1 if state.reason else stopped
                if state.status == "failed" and (name != names[-1] or not is_over(state, retries)):
                    return REQUEUE
            well = well and state.status in ("finished", "pruned")
    return 0 if well else 1


def is_over(state: RunState, retries: int) -> bool:
    """Whether a run is not started again without being told to."""
    return state.status in OVER or (state.status == "failed" and state.failures > retries)


def known(folder: Folder, name: str) -> RunState | None:
    """The state of a run, if it has been started or planned."""
    path = folder.state(name)
    return read_state(path) if path.is_file() else None


def work(sweep: Path, name: str) -> RunState:
    """Train one run and score its checkpoints; how it ended, which its state says too.

    A run that is over, or given up, is left as it is. Of several processes that train together the first one writes.

    Raises:
        InputError: there is no such run, another process works on it, or its state is damaged.
    """
    folder = Folder(sweep)
    block = load_sweep(sweep).block
    if not folder.recipe(name).is_file():
        raise InputError(f"{sweep} has no run {name}; `terrazzo sweep {sweep} --status` names its runs")
    cfg = load_config(folder.recipe(name)).model_copy(update={"out": folder.run(name)})
    main = Place.of(os.environ).rank == 0
    with holding(folder, name) if main else nullcontext():
        before = known(folder, name) or RunState(name=name, hash=recipe_digest(cfg, folder.runs))
        if is_over(before, block.retries):
            return before
        if not main:
            return _ended(before, cfg, ())
        began = time.time()
        state = _started(before, cfg, block.retries)
        state.write(folder.states)
        if state.status != "running":
            return state
        with beating(folder, state, cfg.out):
            ended = _ended(state, cfg, block.checkpoints)
        ended = ended.model_copy(update={"seconds": before.seconds + time.time() - began, "step": steps_of(cfg.out)})
        ended.write(folder.states)
        return ended


@contextmanager
def holding(folder: Folder, name: str) -> Iterator[None]:
    """Work on a run by nobody else.

    Raises:
        InputError: another process works on it.
    """
    lock = FileLock(folder.lock(name))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"another process works on {name} right now; look with `terrazzo sweep --status`") from None
    try:
        yield
    finally:
        lock.release()


def _started(before: RunState, cfg: RunConfig, retries: int) -> RunState:
    """The state of a run that is about to be trained, or of one that died too often."""
    reached = steps_of(cfg.out)
    trained = (cfg.out / "report.html").exists()
    died = before.status == "running" and reached <= before.began and not trained
    deaths = before.deaths + 1 if died else 0
    now = {"deaths": deaths, "step": reached, "began": reached, "version": code_version(), "where": where()}
    if deaths >= DEATHS:
        reason = f"died {deaths} times without a step (killed, perhaps for want of memory); its log may say more"
        return before.model_copy(update={**now, "status": "failed", "reason": reason, "failures": retries + 1})
    attempts = before.attempts + 1
    return before.model_copy(update={**now, "status": "running", "reason": None, "attempts": attempts})


def _ended(state: RunState, cfg: RunConfig, scored: Sequence[Scored]) -> RunState:
    """Train and score; what became of it. Whatever goes wrong is the run's own and ends up in its state."""
    try:
        run = train(cfg)
        if not run.finished:
            return state.model_copy(update={"status": "stopped"})
        score_checkpoints(cfg, scored)
        return state.model_copy(update={"status": "finished", "reason": None})
    except InputError as error:
        print(f"error: {error}", flush=True)
        if state.began == 0 and (reason := refusal(cfg)):
            return state.model_copy(update={"status": "refused", "reason": reason})
        return _failed(state, str(error))
    except Exception as error:
        traceback.print_exc()
        if disk_is_full(error, cfg.out):
            reason = f"no space is left on the disk of {cfg.out}; the last good checkpoint is kept: make room, go on"
            return state.model_copy(update={"status": "stopped", "reason": reason})
        lines = traceback.format_exception(error)[-1].strip().splitlines()
        return _failed(state, " ".join(lines[:3]))


def disk_is_full(error: Exception, folder: Path) -> bool:
    """Whether a run broke for want of room. torch and safetensors speak of streams then, and not of the disk."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return True
    return folder.exists() and shutil.disk_usage(folder).free < LITTLE_ROOM


def _failed(state: RunState, reason: str) -> RunState:
    return state.model_copy(update={"status": "failed", "reason": reason, "failures": state.failures + 1})


def refusal(cfg: RunConfig) -> str | None:
    """Why the network of a recipe can never be built; None if it can, or if its data cannot even be read.

    Weights are not asked for: a file that is missing today may be there tomorrow.
    """
    try:
        train_set = build_sets(cfg).train
        channels = checked_sample(train_set, 0).image.shape[2]
    except InputError:
        return None  # what is wrong is the data, and not the recipe
    names = train_set.classes.names
    try:
        build_model(cfg.model, len(names), channels, names=names, pretrained=False)
    except InputError as error:
        return str(error)
    return None


@contextmanager
def beating(folder: Folder, state: RunState, run: Path) -> Iterator[None]:
    """Note from time to time that the run is alive and how far it is."""
    over, began = threading.Event(), time.time()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            seconds = state.seconds + time.time() - began
            try:
                state.model_copy(update={"step": steps_of(run), "seconds": seconds}).write(folder.states)
            except OSError as error:  # of a full disk the run itself says more; this note is worth no run
                print(f"remark: the state of {state.name} cannot be written: {error}", flush=True)

    thread = threading.Thread(target=beat, name="terrazzo-sweep-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def steps_of(run: Path) -> int:
    """Optimizer steps in the last checkpoint of a run; 0 without one."""
    last = Checkpoints(run / "checkpoints").find("last")
    return 0 if last is None else read_bundle_config(last).step


def where() -> str:
    """Machine and process, or the job of the cluster."""
    if job := os.environ.get("SLURM_JOB_ID"):
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        return f"job {array}_{task}" if array and task else f"job {job}"
    return f"{platform.node()}, process {os.getpid()}"


def code_version() -> str:
    """Of terrazzo; with the commit, and whether it was changed since, where it runs from a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            command = ["git", "-C", str(here), *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return __version__  # installed: a repository around it is not ours
    commit = git("describe", "--always", "--dirty=+changes", "--abbrev=12", "--exclude=*")
    return f"{__version__} {commit}" if commit else __version__
