"""Images a second that one, two, ... processes train on together, DDP and FSDP, in rounds that take turns.

python benchmarks/scaling.py [--sizes 1 2] [--rounds 3]
Target: on a machine with a free core or GPU for each, two processes train at least 1.8 times as many images.

The batch is the same however many share it, so a step is the same step. One CPU thread a process; data cost nothing.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

SIDE, BATCH, WARM, STEPS = 128, 8, 2, 6


def work(kind: str) -> None:
    """One process of a group: rank 0 prints images a second."""
    import torch

    from terrazzo.base import Classes
    from terrazzo.engine.parallel import Ddp, Fsdp
    from terrazzo.engine.step import StepConfig, make_scaler, make_step
    from terrazzo.engine.world import World
    from terrazzo.losses import CrossEntropy, build_loss
    from terrazzo.models import SegFormerModel, build_model

    torch.set_num_threads(1)
    world = World.join("auto")
    big = world.device.type == "cuda"
    side, batch = (512, 32) if big else (SIDE, BATCH)
    torch.manual_seed(0)
    model = build_model(SegFormerModel(), 19)[0].to(world.device).train()
    cfg = Fsdp() if kind == "fsdp" else Ddp()
    if isinstance(cfg, Fsdp) and world.size > 1:
        from terrazzo.engine.shards import share_out

        share_out(model, cfg, world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    loss = build_loss((CrossEntropy(),), Classes.of([str(k) for k in range(19)]), auxiliary=0.0, device=world.device)
    step_cfg = StepConfig()
    step = make_step(model, loss, optimizer, step_cfg, world, make_scaler(step_cfg, world.device))
    share = batch // world.size
    images = torch.randint(0, 256, (share, 3, side, side), dtype=torch.uint8, device=world.device)
    masks = torch.randint(0, 19, (share, side, side), dtype=torch.uint8, device=world.device)
    for number in range(WARM + STEPS):
        if number == WARM:
            world.barrier()
            began = time.perf_counter()
        step(images, masks).loss.item()
    world.barrier()
    if world.main:
        print(batch * STEPS / (time.perf_counter() - began))


def measured(kind: str, size: int) -> float:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", __file__, "--work", kind]
    done = subprocess.run([sys.executable, *launch], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", choices=["ddp", "fsdp"])
    given = parser.parse_args()
    if given.work:
        work(given.work)
        return
    cases = [("ddp", 1), *((kind, size) for size in given.sizes if size > 1 for kind in ("ddp", "fsdp"))]
    found: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(given.rounds):
        for case in cases:
            found[case].append(measured(*case))
    one = statistics.median(found["ddp", 1])
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}: figures mean something only where other work leaves cores free")
    for (kind, size), rates in found.items():
        rate = statistics.median(rates)
        spread = f"({min(rates):.2f} to {max(rates):.2f})"
        print(f"  {kind:5s}{size:3d} processes {rate:9.2f} images/s   {rate / one:5.2f} x one {spread}")


if __name__ == "__main__":
    main()
