"""What a network says about one picture: whole or through windows, alone or averaged over flips and scales."""

from functools import partial

import torch
from torch import Tensor

from terrazzo import kernels
from terrazzo.base import Config
from terrazzo.data.augment import Keep, ResizeConfig
from terrazzo.infer.tiles import Ask, WindowConfig, Windows, window_sides
from terrazzo.infer.tta import TtaConfig, averaged
from terrazzo.models import Segmenter
from terrazzo.output import Output


class InferenceConfig(Config):
    """How a network looks at pictures; kept in the bundle, so that prediction does as validation did."""

    resize: ResizeConfig = Keep()
    """What is done to an image before the network sees it; kept in the bundle for prediction."""
    window: WindowConfig | None = None
    """Look through overlapping windows of the resized image; none: at all of it at once. Kept in the bundle."""
    tta: TtaConfig = TtaConfig()
    """Test-time augmentation: flips and scales. With windows, each window's are taken. Kept in the bundle."""


@torch.inference_mode()
def answer(segmenter: Segmenter, images: Tensor, cfg: InferenceConfig) -> Output:
    """The network's answer to an image [1, C, H, W] that is resized already; all logits at once, at their own stride.

    The network is to be in eval mode; the image may lie on another device than it. Through windows or averaged, the
    answer has no auxiliary logits.
    """
    device, windows = segmenter.mean.device, _windows(segmenter, images, cfg)
    return _ask(segmenter, cfg.tta)(images.to(device)) if windows is None else windows.output()


@torch.inference_mode()
def label_map(segmenter: Segmenter, images: Tensor, cfg: InferenceConfig, size: tuple[int, int]) -> Tensor:
    """The class of every pixel of `size` = (height, width), uint8 [1, height, width], for an image as in `answer`.

    Through windows and at the image's own size, only a band of logits exists at a time, and the map is on the CPU.
    """
    given = images.shape[2], images.shape[3]
    windows = _windows(segmenter, images, cfg) if size == given else None
    if windows is not None:
        return windows.classes()
    output = answer(segmenter, images, cfg).rescaled(given, size)
    return kernels.argmax(output.logits, size, covers=output.covers, align_corners=output.align_corners)


def _windows(segmenter: Segmenter, images: Tensor, cfg: InferenceConfig) -> Windows | None:
    """The windows over an image, or None where one shows all of it."""
    if cfg.window is None:
        return None
    sides = window_sides((images.shape[2], images.shape[3]), segmenter.padded, cfg.window)
    if sides[0] >= images.shape[2] and sides[1] >= images.shape[3]:
        return None
    return Windows(_ask(segmenter, cfg.tta), images, sides, cfg.window, segmenter.mean.device)


def _ask(segmenter: Segmenter, tta: TtaConfig) -> Ask:
    return segmenter if tta.is_off else partial(averaged, segmenter, segmenter.padded, cfg=tta)
