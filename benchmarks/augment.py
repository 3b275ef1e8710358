"""From a decoded 1280x720 photograph to a batch of 8 augmented 512x512 crops: terrazzo, torchvision v2, OpenCV.

python benchmarks/augment.py IMAGE LABEL      an RGB photograph and its label map (CamVid: train/X.jpg trainannot/X.png)
Targets, CPU time of one thread: 1/6 of torchvision's and 1/3 of a pipeline that resizes the whole image with OpenCV.

All draw a scale in 0.7-1.9, a crop, a flip and colour changes; the peers normalise to float and stack, ours leaves that
to the network, as it does in training; the last lines add a float copy to ours all the same.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

import measure
from terrazzo.base import Sample
from terrazzo.data.augment import AugmentConfig, augment
from terrazzo.data.draws import Shape, Slot
from terrazzo.data.geometry import Warp
from terrazzo.data.photometry import Photometric

WIDTH, HEIGHT, CROP, BATCH = 1280, 720, 512, 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pair = tuple[Tensor, Tensor]
Feed = Callable[[], object]


def photograph(image: Path, label: Path) -> Sample:
    """At 1280x720, once through JPEG as a photograph would be."""
    pixels = cv2.resize(cv2.imread(str(image)), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    decoded = cv2.imdecode(cv2.imencode(".jpg", pixels)[1], cv2.IMREAD_COLOR)
    mask = cv2.resize(
        cv2.imread(str(label), cv2.IMREAD_GRAYSCALE), (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return Sample(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.asarray(mask, np.uint8), "photograph")


def ours(sample: Sample, cfg: AugmentConfig, *, normalized: bool = False) -> Feed:
    shape = Shape(BATCH, CROP, CROP, 3)
    slot, rng = Slot(np.empty(shape.bytes, np.uint8), shape), np.random.default_rng(0)
    mean, std = (torch.tensor(v) * 255 for v in (MEAN, STD))

    def batch() -> object:
        for place in range(BATCH):
            made = augment(sample, rng, cfg)
            slot.images[place], slot.masks[place] = made.image, made.mask
        images, masks = torch.from_numpy(slot.images), torch.from_numpy(slot.masks)
        return ((images - mean) / std, masks.long()) if normalized else (images, masks)

    return batch


def torchvision_v2(sample: Sample, *changes: v2.Transform) -> Feed:
    pipeline = v2.Compose(
        [
            v2.ScaleJitter((HEIGHT, WIDTH), (0.7, 1.9)),
            v2.RandomCrop((CROP, CROP), pad_if_needed=True),
            v2.RandomHorizontalFlip(0.5),
            *changes,
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    image = tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1).contiguous())
    mask = tv_tensors.Mask(torch.from_numpy(sample.mask)[None])
    return lambda: stacked([pipeline(image, mask) for _ in range(BATCH)])


def opencv(sample: Sample, *, photometric: bool) -> Feed:
    """Resize the whole, crop, flip, colours, float, normalise: what a pipeline of separate steps does."""
    rng, mean, std = np.random.default_rng(0), np.float32(MEAN) * 255, np.float32(STD) * 255

    def one() -> Pair:
        scale = rng.uniform(0.7, 1.9)
        size = round(WIDTH * scale), round(HEIGHT * scale)
        image = cv2.resize(sample.image, size, interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(sample.mask, size, interpolation=cv2.INTER_NEAREST)
        top, left = rng.integers(max(1, size[1] - CROP + 1)), rng.integers(max(1, size[0] - CROP + 1))
        image, mask = (part[top : top + CROP, left : left + CROP] for part in (image, mask))
        below, right = CROP - mask.shape[0], CROP - mask.shape[1]
        if below or right:
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(124, 116, 104))
            mask = cv2.copyMakeBorder(mask, 0, below, 0, right, cv2.BORDER_CONSTANT, value=255)
        if rng.random() < 0.5:
            image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
        image = photometric_steps(image, rng) if photometric else jitter_steps(image, rng)
        pixels = (image.astype(np.float32) - mean) / std
        return (
            torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            torch.from_numpy(mask.astype(np.int64)),
        )

    return lambda: stacked([one() for _ in range(BATCH)])


def jitter_steps(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation, hue by factors, each in float and back, as OpenCV pipelines do."""
    brightness, contrast, saturation = 1 + rng.uniform(-0.2, 0.2, 3).astype(np.float32)
    image = (image.astype(np.float32) * brightness).clip(0, 255).astype(np.uint8)
    image = ((image.astype(np.float32) - 127.5) * contrast + 127.5).clip(0, 255).astype(np.uint8)
    return in_hsv(image, saturation, int(rng.integers(-9, 10)))


def photometric_steps(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    first, does = rng.random() < 0.5, rng.random(4) < 0.5
    contrast, saturation = rng.uniform(0.5, 1.5, 2).astype(np.float32)
    if does[0]:
        image = (image.astype(np.float32) + np.float32(rng.uniform(-32, 32))).clip(0, 255).astype(np.uint8)
    if does[1] and first:
        image = (image.astype(np.float32) * contrast).clip(0, 255).astype(np.uint8)
    if does[2]:
        image = in_hsv(image, saturation, 0)
    if does[3]:
        image = in_hsv(image, np.float32(1), int(rng.integers(-18, 19)))
    if does[1] and not first:
        image = (image.astype(np.float32) * contrast).clip(0, 255).astype(np.uint8)
    return image


def in_hsv(image: np.ndarray, saturation: np.float32, turn: int) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if saturation != 1:
        hsv[..., 1] = (hsv[..., 1].astype(np.float32) * saturation).clip(0, 255).astype(np.uint8)
    if turn:
        hsv[..., 0] = (hsv[..., 0].astype(int) + turn) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def stacked(pairs: list[Pair]) -> Pair:
    images, masks = zip(*pairs, strict=True)
    return torch.stack(images), torch.stack(masks)


def compare(title: str, calls: dict[str, Feed]) -> None:
    measure.report(f"{title}: a batch of {BATCH}", measure.seconds(calls, rounds=7), "terrazzo")


def main(image: Path, label: Path) -> None:
    sample = photograph(image, label)
    plain = AugmentConfig(crop=CROP, scale=(0.7, 1.9), brightness=0, contrast=0, saturation=0)
    jitter = AugmentConfig(crop=CROP, scale=(0.7, 1.9), hue=0.05)
    compare(
        "crop, flip, brightness, contrast, saturation, hue",
        {
            "terrazzo": ours(sample, jitter),
            "terrazzo, float in the loader": ours(sample, jitter, normalized=True),
            "torchvision v2, uint8 tensors": torchvision_v2(sample, v2.ColorJitter(0.2, 0.2, 0.2, 0.05)),
            "OpenCV, whole image resized": opencv(sample, photometric=False),
        },
    )
    distortion = plain.model_copy(update={"photometric": Photometric()})
    compare(
        "crop, flip, photometric distortion",
        {
            "terrazzo": ours(sample, distortion),
            "torchvision v2, uint8 tensors": torchvision_v2(sample, v2.RandomPhotometricDistort(p=0.5)),
            "OpenCV, whole image resized": opencv(sample, photometric=True),
        },
    )
    turned = jitter.model_copy(update={"warp": Warp(rotate=10, shear=5)})
    compare(
        "the first with rotation and shear",
        {
            "terrazzo": ours(sample, turned),
            "torchvision v2, uint8 tensors": torchvision_v2(
                sample,
                v2.RandomAffine(10, shear=5, interpolation=v2.InterpolationMode.BILINEAR),
                v2.ColorJitter(0.2, 0.2, 0.2, 0.05),
            ),
        },
    )


if __name__ == "__main__":
    measure.one_thread()
    torch.manual_seed(0)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
