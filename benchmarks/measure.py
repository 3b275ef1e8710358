"""Ours and the peer in one run: interleaved CPU time, and the peak memory of a call in a process of its own (Linux)."""

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import torch

Calls = Mapping[str, Callable[[], object]]


def one_thread() -> None:
    """Ratios on one thread hold on other machines, and CPU time is then honest on a busy one."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def seconds(calls: Calls, rounds: int = 9) -> dict[str, float]:
    """Median CPU seconds of each call; every round runs all of them, so that a slow minute slows all alike."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def report(title: str, times: Mapping[str, float], ours: str) -> None:
    """Print every call's time and how many times as long as ours it took."""
    print(title)
    for name, found in times.items():
        print(f"  {name:34s} {found * 1e3:9.2f} ms   {found / times[ours]:6.2f} x ours", flush=True)


def peak_bytes(call: Callable[[], object]) -> int:
    """Greatest resident memory during `call` beyond that before it; wants a fresh process."""
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's high-water mark starts again from now
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def peak_bytes_of(script: str, *arguments: str) -> int:
    """Run `script` with arguments in a fresh process and read the number it prints last."""
    done = subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
