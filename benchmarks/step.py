"""A whole training step: terrazzo's against the plain loop that people write, on the same network and the same weights.

python benchmarks/step.py            SegFormer-b0, 2 images of 512 x 512, 150 classes; U-Net over ResNet-34, 8 of 256 x
                                     256, 19 classes; one thread
Ours: uint8 images in, normalised by the network, the loss and the training score from low-resolution logits. The plain
loops: float images and int64 masks in, logits enlarged, torch's cross entropy (for SegFormer the loss of transformers
itself), AdamW as it comes, and the same training score from the argmax. The loops leave out normalising.
Targets: SegFormer fp32 1.7 x, bf16 with fused AdamW 2.8 x (both with a loss head in C), 0.55 of the memory; U-Net
fp32 1.1 x, bf16 1.9 x. bfloat16 is only as fast as the processor's own instructions for it.
"""

import argparse
import functools
from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import measure
from terrazzo.base import IGNORE, Classes
from terrazzo.engine.step import Precision, StepConfig, make_scaler, make_step
from terrazzo.engine.world import World
from terrazzo.losses import CrossEntropy, build_loss
from terrazzo.models import HuggingFaceModel, ModelConfig, SmpModel, build_model
from terrazzo.optim import AdamW, build_optimizer

SHAPES = {"segformer": (2, 512, 150), "unet": (8, 256, 19)}
"""Images, their side, classes."""


def pictures(name: str) -> tuple[Tensor, Tensor]:
    """uint8 images and masks; a tenth of the rows is not labelled."""
    count, side, classes = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, classes, (count, side, side), dtype=torch.uint8, generator=generator)
    masks[:, : side // 10] = IGNORE
    return images, masks


def ours(name: str, precision: Precision) -> Callable[[], object]:
    classes = SHAPES[name][2]
    kinds: dict[str, ModelConfig] = {
        "segformer": HuggingFaceModel(config={"model_type": "segformer"}, weights="none"),
        "unet": SmpModel(arch="unet", encoder="resnet34", weights="none"),
    }
    torch.manual_seed(0)
    model, _ = build_model(kinds[name], classes)
    model = model.train().to(memory_format=torch.channels_last)  # as step.channels_last does
    loss = build_loss((CrossEntropy(),), Classes.of([str(k) for k in range(classes)]), auxiliary=0.4)
    optimizer = build_optimizer(model, model.role, AdamW())
    cfg, world = StepConfig(precision=precision), World(0, 1, torch.device("cpu"))
    step = make_step(model, loss, optimizer, cfg, world, make_scaler(cfg, world.device))
    return functools.partial(step, *pictures(name))


def plain(name: str) -> Callable[[], object]:
    classes = SHAPES[name][2]
    torch.manual_seed(0)
    net: nn.Module = (
        SegformerForSemanticSegmentation(SegformerConfig(num_labels=classes))
        if name == "segformer"
        else smp.Unet("resnet34", encoder_weights=None, classes=classes)
    ).train()
    optimizer = torch.optim.AdamW(net.parameters())
    images, masks = pictures(name)
    floats, labels = images.float() / 255, masks.long()

    def step() -> Tensor:
        optimizer.zero_grad()
        if name == "segformer":
            output = net(floats, labels=labels)
            loss, logits = output.loss, F.interpolate(output.logits, masks.shape[1:], mode="bilinear")
        else:
            logits = net(floats)
            loss = F.cross_entropy(logits, labels, ignore_index=IGNORE)
        loss.backward()
        optimizer.step()
        counted = labels != IGNORE
        pairs = labels[counted] * classes + logits.detach().argmax(1)[counted]
        return torch.bincount(pairs, minlength=classes**2)

    return step


CALLS: dict[str, Callable[[str], Callable[[], object]]] = {
    "terrazzo fp32": functools.partial(ours, precision="float32"),
    "terrazzo bf16": functools.partial(ours, precision="bfloat16"),
    "plain loop fp32": plain,
}


def compare(name: str, rounds: int) -> None:
    count, side, classes = SHAPES[name]
    times = measure.seconds({key: make(name) for key, make in CALLS.items()}, rounds=rounds)
    measure.report(f"{name}, {count} images of {side}^2, {classes} classes", times, "terrazzo fp32")
    for key in CALLS:
        size = measure.peak_bytes_of(__file__, "--peak", key, name)
        print(f"  {key:34s} {size / 2**20:9.1f} MiB beside network and images", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peak", nargs=2, metavar=("CALL", "NETWORK"), help="print the peak memory of one step, in bytes"
    )
    args = parser.parse_args()
    measure.one_thread()
    if args.peak:
        step = CALLS[args.peak[0]](args.peak[1])
        print(measure.peak_bytes(step))
    else:
        for name in SHAPES:
            compare(name, args.rounds)
