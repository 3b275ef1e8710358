"""Sliding window over 4096x4096 pixels, 19 classes: low-resolution row bands against full-resolution logits, added up.

python benchmarks/sliding_window.py       one thread; windows of 512, overlap 1/3, each weighted alike

The network is one convolution that answers at stride 4, so that what is left is mostly the windows' own work; its time
alone is printed too. The peer does as MMSegmentation's `slide` mode (EncoderDecoder.slide_inference): each window's
logits are enlarged to pixels and added to a full-size sum, which is divided by how many windows saw a pixel; then the
greatest class. It adds and divides in place, as well as that can be written. Targets, with C kernels: at most 1/5 of
the time and 1/10 of the memory.
"""

import sys
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import measure
from terrazzo.infer.answer import InferenceConfig, label_map
from terrazzo.infer.tiles import WindowConfig
from terrazzo.models import Segmenter
from terrazzo.models.segmenter import IMAGENET

CLASSES, SIDE, WINDOW, STRIDE = 19, 4096, 512, 340


def network() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(nn.Conv2d(3, CLASSES, 4, stride=4), normalization=IMAGENET, stride=4).eval()


def picture(side: int = SIDE) -> Tensor:
    """Smooth regions with some noise, as pictures have; uint8 [1, 3, side, side]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, side // 64, side // 64, generator=generator) * 255
    image = F.interpolate(coarse, (side, side), mode="bilinear").to(torch.uint8)
    return image ^ torch.randint(0, 8, image.shape, dtype=torch.uint8, generator=generator)


def windowed(accumulate: str, model: Segmenter, image: Tensor) -> Tensor:
    window = WindowConfig(size=WINDOW, overlap=1 - STRIDE / WINDOW, blend="mean", accumulate=accumulate, batch=1)
    return label_map(model, image, InferenceConfig(window=window), (image.shape[2], image.shape[3]))[0]


@torch.inference_mode()
def full_size(model: Segmenter, image: Tensor) -> Tensor:
    height, width = image.shape[2:]
    total, count = torch.zeros(1, CLASSES, height, width), torch.zeros(1, 1, height, width)
    for top in starts(height):
        for left in starts(width):
            place = ..., slice(top, top + WINDOW), slice(left, left + WINDOW)
            total[place] += F.interpolate(model(image[place]).logits, (WINDOW, WINDOW), mode="bilinear")
            count[place] += 1
    return total.div_(count).argmax(1)[0].to(torch.uint8)


@torch.inference_mode()
def network_alone(model: Segmenter, image: Tensor) -> None:
    for top in starts(image.shape[2]):
        for left in starts(image.shape[3]):
            model(image[..., top : top + WINDOW, left : left + WINDOW])


def starts(length: int) -> list[int]:
    return [*range(0, length - WINDOW, STRIDE), length - WINDOW]


CALLS = {
    "terrazzo, at stride 4": partial(windowed, "stride"),
    "terrazzo, exact": partial(windowed, "pixel"),
    "full-resolution logits": full_size,
    "the network alone": network_alone,
}
OURS = "terrazzo, at stride 4"


def compare() -> None:
    model, image = network(), picture()
    times = measure.seconds({name: partial(call, model, image) for name, call in CALLS.items()}, rounds=5)
    measure.report(f"{SIDE}x{SIDE}, {CLASSES} classes, windows of {WINDOW} every {STRIDE} pixels", times, OURS)
    peaks = {name: measure.peak_bytes_of(__file__, name) for name in CALLS}
    expected = full_size(model, image)
    for name, call in CALLS.items():
        found = call(model, image)
        same = "" if found is None else f"   {(found != expected).float().mean():.4%} of the pixels are other"
        print(
            f"  {name:34s} {peaks[name] / 2**20:8.1f} MiB   {peaks[name] / peaks[OURS]:6.2f} x ours{same}", flush=True
        )


if __name__ == "__main__":
    measure.one_thread()
    if len(sys.argv) == 2:
        call, model = CALLS[sys.argv[1]], network()
        call(model, picture(1024))  # libraries loaded, threads started
        image = picture()
        print(measure.peak_bytes(partial(call, model, image)))
    else:
        compare()
