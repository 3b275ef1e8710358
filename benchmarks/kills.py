"""Kill a training run with -9 again and again; started again by the same command it must end in the undisturbed bits.

    python benchmarks/kills.py RECIPE [key=value ...] --kills 20 --out FOLDER

Every phase of a run gets its share of the kills: import, step, checkpoint write, evaluation, report. Each kill prints
where it landed; the last line says whether weights, metrics and scores are equal, and the exit status follows it.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PHASES = ("import", "step", "checkpoint", "evaluation", "report")


def die(where: str) -> None:
    """End this process as a power cut would: no handler, no flush, no clean-up."""
    with Path(os.environ["TERRAZZO_KILL_LOG"]).open("a") as log:
        log.write(where + "\n")
        log.flush()
        os.fsync(log.fileno())
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    time.sleep(60)


def after(seconds: float, where: Callable[[], str]) -> None:
    def wait() -> None:
        time.sleep(seconds)
        die(where())

    threading.Thread(target=wait, daemon=True).start()


def arm_import(rng: random.Random) -> None:
    after(rng.uniform(0.02, 1.5), lambda: f"import: {len(sys.modules)} modules were loaded")


def arm_step(rng: random.Random) -> None:
    import terrazzo.commands.train as target

    make_step, at, part = target.make_step, rng.randint(1, 5), rng.uniform(0, 0.9)

    def armed(*args: Any) -> Any:
        step, calls, took = make_step(*args), [0], [0.05]

        def counted(*inputs: Any) -> Any:
            calls[0] += 1
            if calls[0] == at:
                after(part * took[0], lambda: f"step: call {at} of this life, {part:.0%} through it")
            began = time.perf_counter()
            result = step(*inputs)
            took[0] = time.perf_counter() - began
            return result

        return counted

    target.make_step = armed


def arm_checkpoint(rng: random.Random) -> None:
    import terrazzo.engine.state as target

    point, skip = rng.choice(["filled", "synced", "renamed", "linked", "replaced", "half written"]), rng.randint(0, 2)
    seen = [0]

    def reached(name: str) -> None:
        if name == point:
            seen[0] += 1
            if seen[0] > skip:
                die(f"checkpoint: right after it was {name}, write {seen[0]} of this life")

    sync_tree, rename, link, replace = target.sync_tree, Path.rename, Path.symlink_to, Path.replace
    write = target.TrainState.write

    def armed_sync(folder: Path) -> None:
        reached("filled")
        sync_tree(folder)
        reached("synced")

    def armed_rename(self: Path, to: Any) -> Path:
        result = rename(self, to)
        if self.name.startswith(".draft"):
            reached("renamed")
        return result

    def armed_link(self: Path, *args: Any, **kwargs: Any) -> None:
        link(self, *args, **kwargs)
        reached("linked")

    def armed_replace(self: Path, to: Any) -> Path:
        result = replace(self, to)
        if self.name.startswith(".link"):
            reached("replaced")
        return result

    def armed_write(self: Any, folder: Path) -> None:
        write(self, folder)
        if point == "half written" and seen[0] == skip:  # die in the middle of this file
            with (folder / target.STATE_FILE).open("r+b") as file:
                file.truncate(100)
        reached("half written")

    target.sync_tree, target.TrainState.write = armed_sync, armed_write
    Path.rename, Path.symlink_to, Path.replace = armed_rename, armed_link, armed_replace  # type: ignore[method-assign, assignment]


def arm_evaluation(rng: random.Random) -> None:
    import terrazzo.commands.evaluate as target

    network_input, at, calls = target.network_input, rng.randint(1, 6), [0]

    def armed(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            die(f"evaluation: at image {at} of this life")
        return network_input(*args)

    target.network_input = armed


def arm_report(rng: random.Random) -> None:
    import terrazzo.commands.report as target

    when = rng.choice(["before", "drawn", "after"])
    write_report = target.write_report

    def armed(path: Path, report: Any) -> None:
        if when == "before":
            die("report: scored, not yet written")
        if when == "drawn":
            Path.replace = lambda self, to: die("report: drawn, not yet renamed")  # type: ignore[method-assign, assignment, return-value]
        write_report(path, report)
        die("report: written, the process not yet ended")

    target.write_report = armed


ARM = {
    "import": arm_import,
    "step": arm_step,
    "checkpoint": arm_checkpoint,
    "evaluation": arm_evaluation,
    "report": arm_report,
}


def child(phase: str, seed: int, arguments: list[str]) -> None:
    ARM[phase](random.Random(seed))
    from terrazzo.cli import main

    sys.argv = ["terrazzo", *arguments]
    main()


def launch(arguments: list[str], out: Path, *, phase: str | None = None, seed: int = 0) -> int:
    command = [sys.executable, "-m", "terrazzo", *arguments]
    if phase is not None:
        command = [sys.executable, __file__, "--child", phase, str(seed), *arguments]
    log = out.with_name(out.name + ".kills.txt")
    with out.with_name(out.name + ".console.txt").open("a") as console:
        done = subprocess.run(
            command, stdout=console, stderr=console, env=os.environ | {"TERRAZZO_KILL_LOG": str(log)}, check=False
        )
    return done.returncode


def fingerprint(run: Path) -> dict[str, str]:
    """Hashes of all that must be the same: weights of every checkpoint, the log of the numbers, the final scores."""
    names = ["metrics.jsonl"]
    names += [f"checkpoints/{name}/model.safetensors" for name in ("last", "best_miou", "best_loss")]
    names += sorted(str(path.relative_to(run)) for path in run.glob("checkpoints/step_*/model.safetensors"))
    names += sorted(str(path.relative_to(run)) for path in run.glob("evaluation/*/scores.json"))
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}


def main() -> int:
    if sys.argv[1] == "--child":
        child(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_intermixed_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train = ["train", options.recipe, *options.overrides]

    whole = options.out / "whole"
    began = time.time()
    if launch([*train, f"out={whole}"], whole) != 0:
        print((options.out / "whole.console.txt").read_text()[-3000:])
        return 1
    print(f"undisturbed run: {time.time() - began:.0f} s", flush=True)

    cut, landed, attempt = options.out / "cut", [], 0
    # report last: once it is written the run is over, and earlier phases no longer come
    plan = sorted((options.phases[n % len(options.phases)] for n in range(options.kills)), key=lambda p: p == "report")
    while plan:
        phase, attempt = plan[0], attempt + 1
        workers = attempt % 3  # the bits may not depend on it
        before = cut.with_name("cut.kills.txt").read_text() if cut.with_name("cut.kills.txt").exists() else ""
        code = launch([*train, f"out={cut}", f"data.workers={workers}"], cut, phase=phase, seed=options.seed + attempt)
        where = (
            cut.with_name("cut.kills.txt").read_text()[len(before) :] if cut.with_name("cut.kills.txt").exists() else ""
        )
        if code == 0 and phase != "report":
            print(f"  the run ended before a kill in {phase} came: use a longer one")
            return 1
        if code == 0:
            print("  the run ended before its report was killed")
        elif not where:
            print((options.out / "cut.console.txt").read_text()[-3000:])
            return 1
        else:
            landed.append(where.strip())
            print(f"kill {len(landed):2d}: {where.strip()} (workers={workers})", flush=True)
            if phase == "report":
                (cut / "report.html").unlink(missing_ok=True)  # so that the next life has a report to write again
        plan.pop(0)
    if launch([*train, f"out={cut}"], cut) != 0:
        print((options.out / "cut.console.txt").read_text()[-3000:])
        return 1
    one, other = fingerprint(whole), fingerprint(cut)
    for name in sorted(one.keys() | other.keys()):
        print(f"{'same' if one.get(name) == other.get(name) else 'DIFFERS'}: {name}")
    same = one == other and (cut / "report.html").exists()
    counts = ", ".join(f"{sum(line.startswith(phase) for line in landed)} {phase}" for phase in options.phases)
    print(f"{len(landed)} kills ({counts}): {'the same bits' if same else 'NOT the same bits'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
