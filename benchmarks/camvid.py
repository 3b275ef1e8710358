"""CamVid test mIoU after the same minutes: terrazzo's recipe against a plain SMP loop, same encoder weights and crop.

python benchmarks/camvid.py --data CAMVID --weights mobilenet_v2.safetensors --out FOLDER [--minutes 25] [--seeds 0 1 2]
                            [--who ours peer]

Resumable: our runs go on where they were, a finished run is not repeated, and results.jsonl has a line for each. Give
the machine nothing else to do: the number of steps that fit into the minutes is found by a short trial before each run.
The peer is DeepLabV3+ as SMP ships it: AdamW 1e-4 encoder and 1e-3 rest, poly, batch 8, crops of 320, scale .75-2,
flip, brightness; float32; scored at the label's size, like ours.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import terrazzo
from terrazzo.config import load_config
from terrazzo.data import build_dataset
from terrazzo.data.augment import AugmentConfig, augment
from terrazzo.data.layouts_driving import CamvidData
from terrazzo.data.loader import batches
from terrazzo.metrics import Scores, confusion_matrix

RECIPE = "camvid_deeplabv3plus"
TRIAL = 12
"""Steps of the trial; the first two are left out of its time."""
VALIDATIONS = 4


def options_of(args: argparse.Namespace, out: Path, steps: int, seed: int) -> list[str]:
    return [
        f"out={out}",
        f"seed={seed}",
        "threads=2",
        "device=cpu",
        f"data.root={args.data}",
        f"model.weights={args.weights}",
        f"length={{steps: {steps}}}",
        f"validate_every={{steps: {max(1, steps // VALIDATIONS)}}}",
    ]


def our_steps(args: argparse.Namespace) -> int:
    """Steps that fit into the minutes, with their validations, on this machine as it is now."""
    with tempfile.TemporaryDirectory() as folder:
        rate = []
        for steps in (2, TRIAL):
            run = terrazzo.train(
                load_config(RECIPE, [*options_of(args, Path(folder) / str(steps), steps, 0), "data.limit=8"])
            )
            saved = torch.load(run.folder / "checkpoints/last/train_state.pt", weights_only=True)
            rate.append(saved["seconds"])
        step = (rate[1] - rate[0]) / (TRIAL - 2)
        began = time.perf_counter()
        terrazzo.evaluate(Path(folder) / str(TRIAL), split="val", data=load_config(RECIPE, [f"data.root={args.data}"]))
        validation = time.perf_counter() - began
    return int((60 * args.minutes - VALIDATIONS * validation) / step)


def ours(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    out = args.out / f"ours-{seed}"
    plan = args.out / f"ours-{seed}.steps"
    if not plan.exists():
        plan.write_text(str(our_steps(args)))
    steps = int(plan.read_text())
    terrazzo.train(load_config(RECIPE, options_of(args, out, steps, seed)))
    results = terrazzo.evaluate(out, split="test", checkpoint="all")
    val = terrazzo.evaluate(out, split="val")
    assert isinstance(results, list)
    assert isinstance(val, dict)
    best = next(one for one in results if one["checkpoint"] == "best_miou")
    saved = torch.load(out / "checkpoints/last/train_state.pt", weights_only=True)
    return {
        "steps": steps,
        "minutes_in_steps": saved["seconds"] / 60,
        "test": best["miou"],
        "val": val["miou"],
        "test_of_all": {one["checkpoint"]: one["miou"] for one in results},
        "per_class": {name: row["iou"] for name, row in best["per_class"].items()},
    }


def peer(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    import segmentation_models_pytorch as smp

    torch.manual_seed(seed)
    torch.set_num_threads(2)
    model = smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=11)
    model.encoder.load_state_dict({k: v for k, v in load_file(args.weights).items() if k.startswith("features.")})
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    data = CamvidData(root=args.data)
    cfg = AugmentConfig(crop=320, scale=(0.75, 2.0), brightness=0.25, contrast=0, saturation=0)
    feed = batches(build_dataset(data, "train"), partial(augment, cfg=cfg), seed=seed, batch=8, first_step=0, workers=2)
    rest = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
    groups = [{"params": list(model.encoder.parameters()), "base": 1e-4}, {"params": rest, "base": 1e-3}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    model.train()
    began, step = time.perf_counter(), 0
    while (done := (time.perf_counter() - began) / (60 * args.minutes)) < 1:
        for group in optimizer.param_groups:  # poly over the minutes: the peer uses all of them, and its rate ends at 0
            group["lr"] = group["base"] * (1 - done) ** 0.9
        batch = next(feed)
        logits = model((batch.images.float() - mean) / std)
        loss = F.cross_entropy(logits, batch.masks.long(), ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 50 == 0:
            print(f"peer: step {step}, {done:.0%} of the minutes, loss {loss.item():.3f}", flush=True)
    feed.close()
    minutes = (time.perf_counter() - began) / 60
    model.eval()
    return {"steps": step, "minutes_in_steps": minutes} | {
        split: _score_peer(model, build_dataset(data, split), mean, std) for split in ("test", "val")
    }


@torch.inference_mode()
def _score_peer(model: torch.nn.Module, dataset: Any, mean: torch.Tensor, std: torch.Tensor) -> float:
    total = torch.zeros(11, 11, dtype=torch.int64)
    for index in range(len(dataset)):
        image = (torch.from_numpy(dataset[index].image).permute(2, 0, 1)[None].float() - mean) / std
        height, width = image.shape[2:]
        padded = F.pad(image, (0, -width % 16, 0, -height % 16))
        found = model(padded)[:, :, :height, :width].argmax(1).to(torch.uint8)
        total += confusion_matrix(found, torch.from_numpy(dataset[index].mask)[None], 11)
    return Scores.of(total).miou


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--who", nargs="+", choices=["ours", "peer"], default=["ours", "peer"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    ledger = args.out / "results.jsonl"
    done = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    for seed in args.seeds:
        for who in args.who:
            if any((one["who"], one["seed"]) == (who, seed) for one in done):
                continue
            found = ours(args, seed) if who == "ours" else peer(args, seed)
            result = {"who": who, "seed": seed, "minutes": args.minutes, **found}
            with ledger.open("a") as file:
                file.write(json.dumps(result) + "\n")
            done.append(result)
    for one in done:
        scores = f"test mIoU {one['test']:.4f}, val {one['val']:.4f}"
        print(f"{one['who']:5s} seed {one['seed']}: {scores}, {one['steps']} steps")


if __name__ == "__main__":
    main()
