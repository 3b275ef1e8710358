"""Every architecture of segmentation-models-pytorch with every encoder: does terrazzo build it, and if not, why not?

python benchmarks/all_pairs.py [--seconds 240] [--out all_pairs.csv] [--encoders PATTERN] [--processes N]

Networks are built on the meta device and run once on shapes alone: nothing is downloaded, no memory is needed. The
pairs come in a shuffled order that is always the same, so that a run cut short is a fair sample. The whole table (about
17 000 pairs) takes a few hours of one core; the last lines say what was covered.
"""

import argparse
import csv
import multiprocessing
import os
import random
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import torch
from torch.overrides import TorchFunctionMode

from terrazzo.base import InputError
from terrazzo.models import SmpModel, build_model, list_models
from terrazzo.models.smp import Arch

COLUMNS = ("arch", "encoder", "family", "result", "stride", "logits", "million_parameters", "reason")


class ReadableRates(TorchFunctionMode):
    """Leaves torch.linspace on the CPU: SMP's mix transformers read their drop rates from one."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        options = dict(options or {})
        if function is torch.linspace:
            options["device"] = "cpu"
        return function(*args, **options)


def pairs(pattern: str) -> list[tuple[str, str, str]]:
    """(arch, encoder, family) of all encoders that fit the pattern, shuffled."""
    encoders = [entry for entry in list_models(pattern) if entry.part == "encoder"]
    found = [(arch, entry.name, entry.family) for entry in encoders for arch in get_args(Arch)]
    random.Random(0).shuffle(found)
    return found


def check(pair: tuple[str, str, str]) -> tuple[str, ...]:
    """One line of the table."""
    arch, encoder, family = pair
    try:
        with torch.device("meta"), ReadableRates():
            segmenter, _ = build_model(SmpModel(arch=arch, encoder=encoder, weights="none"), classes=19)
            output = segmenter.eval()(torch.empty(1, 3, 200, 300, dtype=torch.uint8))
    except InputError as error:
        return arch, encoder, family, "refused", "", "", "", str(error)
    except Exception as error:  # built, yet fails on an image: a fault of ours, and the table must show it
        return arch, encoder, family, "FAULT", "", "", "", f"{type(error).__name__}: {error}"
    size = "x".join(str(side) for side in output.logits.shape[-2:])
    million = sum(parameter.numel() for parameter in segmenter.parameters()) / 1e6
    return arch, encoder, family, "ok", str(segmenter.stride), size, f"{million:.1f}", ""


def quiet() -> None:
    """Each process has one core; deprecation warnings of a thousand encoders help nobody."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--out", type=Path, default=Path("all_pairs.csv"))
    parser.add_argument("--encoders", default="", help="only encoders whose name or family fits, e.g. 'resnet*'")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()

    started, every = time.monotonic(), pairs(options.encoders)
    counts: Counter[tuple[str, str]] = Counter()
    encoders, families = set(), set()
    pool = multiprocessing.get_context("spawn").Pool(options.processes, quiet)
    with options.out.open("w", newline="", encoding="utf-8") as file, pool:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for line in pool.imap(check, every):
            table.writerow(line)
            counts[line[0], line[3]] += 1
            encoders.add(line[1])
            families.add(line[2])
            if time.monotonic() - started > options.seconds:
                break
    covered = sum(counts.values())
    for arch in get_args(Arch):
        results = {result: counts[arch, result] for result in ("ok", "refused", "FAULT")}
        print(f"{arch:15s}" + "".join(f"{number:6d} {result}" for result, number in results.items()))
    print(f"{covered} of {len(every)} pairs, {len(encoders)} encoders of {len(families)} families, in {options.out}")
    if faults := sum(number for (_, result), number in counts.items() if result == "FAULT"):
        raise SystemExit(f"{faults} faults: see {options.out}")


if __name__ == "__main__":
    main()
