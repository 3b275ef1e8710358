"""The same 24 runs twice, on this machine and on a SLURM whose jobs are killed, requeued, preempted and cancelled at
random: both must end with the same scores, steps and bits, with no run lost and none run twice.

    python benchmarks/sweep_slurm.py --data FOLDER_OF_CAMVID --out FOLDER --accidents 30 [--partition main --high high]

Every accident is printed. A job is submitted to the partition `--high` to preempt others (leave it out where there is
none). `kill -9` reaches the processes of this machine only, which for a SLURM of one machine are all. The exit status
is 0 if the two sweeps agree.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from terrazzo.launch.slurm import Job, poll
from terrazzo.launch.slurm_jobs import read_ledger
from terrazzo.launch.state import RunState, read_states

HEIGHT, WIDTH = 72, 96

AUGMENTED = {"flip": 0.5, "sharpness": {"factor": 2, "chance": 0.5}, "brightness": 0.2, "contrast": 0.2, "hue": 0.2}

RECIPE: dict[str, Any] = {
    "data": {"kind": "camvid", "limit": 24, "workers": 0},
    "model": {"kind": "fcn_resnet", "encoder": "resnet18", "weights_backbone": "none"},
    "augment": {
        **{"crop": None, "base": {"kind": "exact", "height": HEIGHT, "width": WIDTH}, "scale": [1, 1], "flip": 0},
        **{"brightness": 0, "contrast": 0, "saturation": 0},
    },
    "evaluation": {"resize": {"kind": "exact", "height": HEIGHT, "width": WIDTH}, "score_at": "network"},
    "optim": {"kind": "adamw", "amsgrad": True, "lr": 1e-3, "weight_decay": 1e-4, "decay_norms": True},
    "schedule": {"kind": "exponential", "gamma": {"per_epoch": 0.99}},
    "length": {"steps": 24},
    "batch": 2,
    "log_every": {"steps": 4},
    "validate_every": {"steps": 12},
    "save_every": {"steps": 8},
    "threads": 1,
    "device": "cpu",
    "sweep": {
        "grid": {
            "model": {
                "resnet_18": {"model": {"kind": "fcn_resnet", "encoder": "resnet18"}},
                "segformer_small": {"model": {"kind": "segformer", "size": "small", "stem": "5x5"}},
                "unet_tiny": {"model": {"kind": "unet", "width": 8, "depth": 4, "norm": "none"}},
            },
            "aug": {"no": {}, "yes": {"augment": AUGMENTED}},
            "optim.lr": [1e-2, 1e-3],
            "schedule.gamma.per_epoch": [0.95, 0.99],
        },
        "retries": 1,
    },
}
"""A 24-run cut of the 576-run grid: 3 models x 2 augmentations x 2 learning rates x 2 decays, tiny."""

TIMES = ("second", "time", "date", "latency", "images_per")
"""What a key says that may differ from one execution to the next."""


def terrazzo(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "terrazzo", *words], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"terrazzo {' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def jobs_of(sweep: Path) -> dict[str, list[Job]]:
    """All jobs that each run ever had."""
    elements = {id: e for s in read_ledger(sweep).submissions if s.number for id, e in s.ids().items()}
    found = poll(elements.keys())
    jobs: dict[str, list[Job]] = {}
    for id, element in elements.items():
        for run in element.runs:
            jobs.setdefault(run, []).append(found[id])
    return jobs


def workers_here(sweep: Path) -> list[int]:
    """Processes of this machine that train a run of the sweep."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "--work" in words and str(sweep) in words and Path(words[0]).name.startswith("python"):
            found.append(int(entry.name))
    return found


class Accidents:
    """What happens to a sweep on a cluster, at random."""

    def __init__(self, sweep: Path, high: str | None, seed: int):
        self.sweep, self.high, self.rng = sweep, high, random.Random(seed)
        self.happened: Counter[str] = Counter()

    def one(self, running: list[str], waiting: list[str]) -> None:
        kinds = ["kill -9", "kill -9", "requeue", "USR1", "TERM", "cancel a running job"] if running else []
        kinds += ["cancel a waiting job"] if waiting else []
        kinds += ["preempt"] if running and self.high else []
        if not kinds:
            return
        kind = self.rng.choice(kinds)
        target = self.rng.choice(waiting if kind == "cancel a waiting job" else running)
        if (what := self._do(kind, target)) is not None:
            self.happened[kind] += 1
            print(f"{time.strftime('%H:%M:%S')} accident {self.happened.total()}: {kind} {what}", flush=True)

    def _do(self, kind: str, job: str) -> str | None:
        match kind:
            case "kill -9":
                pids = workers_here(self.sweep)
                if not pids:
                    return None
                os.kill(pid := self.rng.choice(pids), signal.SIGKILL)
                return str(pid)
            case "preempt":
                command = ["srun", f"--partition={self.high}", "--nodes=1", "--ntasks=1", "sleep", "1"]
            case "requeue":
                command = ["scontrol", "requeue", job]
            case "USR1" | "TERM":
                command = ["scancel", f"--signal={kind}", job]
            case _:
                command = ["scancel", job]
        try:  # scancel tries for a minute or two to signal a job that has just ended
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
        except subprocess.TimeoutExpired:
            return None
        return job if done.returncode == 0 else None


def through_accidents(sweep: Path, submit: list[str], accidents: Accidents, count: int, pause: float) -> None:
    """Submit until every run is over, while accidents happen; asserts that no run has two jobs at a time."""
    submissions, last = 0, 0.0
    while True:
        states = read_states(sweep / "states") if (sweep / "states").is_dir() else {}
        jobs = jobs_of(sweep)
        active = {run: [job for job in all_jobs if job.in_queue] for run, all_jobs in jobs.items()}
        assert all(len(some) < 2 for some in active.values()), f"a run has two jobs: {active}"
        listed = [some[0] for some in active.values() if some]
        if not listed and states and all(state.status == "finished" for state in states.values()):
            print(f"{submissions} calls of terrazzo sweep")
            return
        again = accidents.rng.random() < 0.02  # while jobs are in the queue: nothing may be submitted twice
        if not listed or again:
            terrazzo(*submit)
            submissions += 1
            print(f"{time.strftime('%H:%M:%S')} terrazzo sweep: {summary(read_states(sweep / 'states'))}", flush=True)
            if submissions > 40:
                raise SystemExit("40 calls of terrazzo sweep, and not all runs are over")
        elif accidents.happened.total() < count and time.monotonic() - last > pause:
            accidents.one(
                [job.id for job in listed if job.state == "RUNNING"],
                [job.id for job in listed if job.state == "PENDING"],
            )
            last = time.monotonic() + accidents.rng.uniform(-pause / 2, pause / 2)
        time.sleep(0.5)


def summary(states: dict[str, RunState]) -> str:
    return ", ".join(f"{count} {status}" for status, count in Counter(s.status for s in states.values()).items())


def facts(run: Path) -> dict[str, Any]:
    """All that two executions of a run must agree in."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {"metrics.jsonl": [timeless(line) for line in lines]}
    for path in sorted((run / "evaluation").glob("*/scores.json")):
        found[str(path.relative_to(run))] = timeless(json.loads(path.read_text()))
    for name in ("last", "best_miou", "best_loss"):
        weights = run / "checkpoints" / name / "model.safetensors"
        found[f"weights of {name}"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    return found


def timeless(value: Any) -> Any:
    """Without times, and without the path of the run."""
    if isinstance(value, dict):
        kept = {key: entry for key, entry in value.items() if not any(word in key for word in (*TIMES, "path", "run"))}
        return {key: timeless(entry) for key, entry in kept.items()}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


def compared(local: Path, slurm: Path) -> int:
    """Runs that differ or are missing."""
    one, other = read_states(local / "states"), read_states(slurm / "states")
    wrong = 0
    if one.keys() != other.keys():
        print(f"other runs: {sorted(one.keys() ^ other.keys())}")
        wrong += 1
    for name in sorted(one.keys() & other.keys()):
        here, there = facts(local / "runs" / name), facts(slurm / "runs" / name)
        steps = [line["step"] for line in there["metrics.jsonl"]]
        differs = [key for key in here.keys() | there.keys() if here.get(key) != there.get(key)]
        doubled = len({*steps}) < len(steps)
        over = one[name].status == other[name].status == "finished" and one[name].step == other[name].step
        wrong += bool(differs) or doubled or not over
        print(
            f"{'same' if over and not differs and not doubled else 'DIFFERS'}  {name}  attempts {other[name].attempts}",
            end="",
        )
        print(f"  {differs}" if differs else "")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--out", type=Path, required=True, help="folder for both sweeps")
    parser.add_argument("--accidents", type=int, default=30)
    parser.add_argument("--pause", type=float, default=6, help="seconds between two, in the mean")
    parser.add_argument("--partition", help="of the runs")
    parser.add_argument("--high", help="partition whose jobs preempt those of the runs")
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time on this machine")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = options.out / "cut.yaml"
    RECIPE["data"]["root"] = str(options.data.absolute())
    recipe.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    local, slurm = options.out.absolute() / "local", options.out.absolute() / "slurm"
    launch = {"kind": "slurm", "time_minutes": 60, "partition": options.partition}

    began = time.monotonic()
    terrazzo("sweep", str(recipe), f"out={local}", f"sweep.launch={{kind: local, at_once: {options.at_once}}}", "--yes")
    print(f"local: {summary(read_states(local / 'states'))} in {time.monotonic() - began:.0f} s", flush=True)

    began = time.monotonic()
    accidents = Accidents(slurm, options.high, options.seed)
    words = ["sweep", str(recipe), f"out={slurm}", f"sweep.launch={json.dumps(launch)}", "--yes"]
    through_accidents(slurm, words, accidents, options.accidents, options.pause)
    print(f"slurm: {summary(read_states(slurm / 'states'))} in {time.monotonic() - began:.0f} s", flush=True)
    print(f"{accidents.happened.total()} accidents: {dict(accidents.happened)}")

    wrong = compared(local, slurm)
    print(f"{wrong} of {len(read_states(local / 'states'))} runs differ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
