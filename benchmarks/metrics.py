"""Scores of 1024x2048 pixels and 19 classes: label maps to a confusion matrix, low-resolution logits to one, and
label maps to boundary IoU.

python benchmarks/metrics.py              one thread; the peer of the first is torchmetrics, of the second plain torch,
                                          of the third erosion class by class
Target without C: at least 15 times as fast as torchmetrics with its default checks.
"""

import cv2
import numpy as np
import torch
import torchmetrics
from torch import Tensor
from torch.nn import functional as F

import measure
from terrazzo import kernels
from terrazzo.base import IGNORE, Mask
from terrazzo.metrics import band_width, boundary_counts, confusion_matrix

CLASSES, HEIGHT, WIDTH = 19, 1024, 2048


def blocks(side: int, random: np.random.Generator) -> Mask:
    """A label map of squares, like real ones in that neighbours mostly agree; side 1 is noise."""
    small = random.integers(0, CLASSES, (HEIGHT // side, WIDTH // side), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST), np.uint8)


def counting() -> None:
    random = np.random.default_rng(0)
    checked, unchecked = (
        torchmetrics.ConfusionMatrix("multiclass", num_classes=CLASSES, ignore_index=IGNORE, validate_args=checks)
        for checks in (True, False)
    )
    for name, sides in {"squares of 16 and 32 pixels": (16, 32), "noise": (1, 1)}.items():
        prediction, target = (torch.from_numpy(blocks(side, random)) for side in sides)
        target[:100] = IGNORE
        expected = checked(prediction, target)
        assert torch.equal(confusion_matrix(prediction, target, CLASSES), expected)
        calls = {
            "terrazzo": lambda p=prediction, t=target: confusion_matrix(p, t, CLASSES),
            "torchmetrics": lambda p=prediction, t=target: checked.update(p, t),
            "torchmetrics, validate_args=False": lambda p=prediction, t=target: unchecked.update(p, t),
        }
        measure.report(f"confusion update, {name}", measure.seconds(calls, rounds=15), "terrazzo")


def eager(logits: Tensor, masks: Tensor) -> Tensor:
    prediction = F.interpolate(logits, masks.shape[1:], mode="bilinear").argmax(1)
    counted = masks != IGNORE
    pairs = masks[counted].long() * CLASSES + prediction[counted]
    return torch.bincount(pairs, minlength=CLASSES**2).view(CLASSES, CLASSES)


def from_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, CLASSES, HEIGHT // 64, WIDTH // 64, generator=generator) * 4
    logits = F.interpolate(coarse, (HEIGHT // 4, WIDTH // 4), mode="bicubic")
    logits += torch.randn(logits.shape, generator=generator) * 0.3
    masks = torch.from_numpy(blocks(32, np.random.default_rng(0)))[None]
    masks[:, :100] = IGNORE
    prediction = F.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear").argmax(1)
    different = (kernels.argmax(logits, (HEIGHT, WIDTH)) != prediction).sum().item()
    times = measure.seconds(
        {"terrazzo": lambda: kernels.confusion(logits, masks), "torch, eager": lambda: eager(logits, masks)}
    )
    measure.report("logits 256x512 -> confusion matrix 1024x2048", times, "terrazzo")
    print(f"  {different} of {HEIGHT * WIDTH} pixels different")


def eroded(prediction: Mask, target: Mask, share: float) -> list[tuple[int, int]]:
    """Boundary counts as the paper defines them: each class's mask minus itself eroded, in a frame of zeros."""
    square, width = np.ones((3, 3), np.uint8), band_width(target.shape, share)
    counts = []
    for k in range(CLASSES):
        bands = []
        for mask in (prediction, target):
            region = ((mask == k) & (target != IGNORE)).astype(np.uint8)
            framed = cv2.copyMakeBorder(region, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
            bands.append(region - cv2.erode(framed, square, iterations=width)[1:-1, 1:-1] > 0)
        counts.append((int((bands[0] & bands[1]).sum()), int((bands[0] | bands[1]).sum())))
    return counts


def borders() -> None:
    random = np.random.default_rng(0)
    prediction, target = (blocks(side, random) for side in (32, 64))
    target[:100] = IGNORE
    for share in (0.005, 0.02):
        ours = boundary_counts(prediction, target, CLASSES, share)
        assert list(map(tuple, ours.T.tolist())) == eroded(prediction, target, share)
        calls = {
            "terrazzo": lambda s=share: boundary_counts(prediction, target, CLASSES, s),
            "erosion, class by class": lambda s=share: eroded(prediction, target, s),
        }
        measure.report(f"boundary counts, {share} of the diagonal", measure.seconds(calls, rounds=5), "terrazzo")


if __name__ == "__main__":
    measure.one_thread()
    counting()
    from_logits()
    borders()
