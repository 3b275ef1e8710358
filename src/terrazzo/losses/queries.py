"""The loss of mask-classification networks: queries are matched to the classes of the label map, then both are learned.

After Cheng et al. 2022 (Mask2Former), sections 3.2 and 3.3, whose weights are the defaults. Points are drawn from the
counted pixels alone, uniformly: an ignored pixel is no negative of any mask, neither in the matching nor in the loss.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from terrazzo.base import IGNORE, Config, InputError
from terrazzo.kernels.layout import position, working_dtype
from terrazzo.output import Queries

QueryTerm = Callable[[Queries, Tensor, tuple[float, float], bool], Tensor]
"""(queries, masks [B, H, W], covers, align_corners) -> scalar, summed over images."""


class MaskClassification(Config):
    """For networks that answer queries (Mask2Former, EoMT): each class of an image is matched with one query, which
    learns its class and its mask; the other queries learn to say "no object". Per image; then the mean over images.

    Points are drawn at random: by seed and step in training, always the same in validation. Validation through windows
    or with test-time augmentation tells no loss (nan): answers that were blended have no queries any more.
    """

    kind: Literal["mask_classification"] = "mask_classification"
    weight: PositiveFloat = 1.0
    """Factor of this loss in the sum of losses."""
    class_weight: NonNegativeFloat = 2.0
    """Of the cross entropy of every query's class, in the loss and in the cost of a match."""
    mask_weight: NonNegativeFloat = 5.0
    """Of the binary cross entropy of matched masks, in the loss and in the cost of a match."""
    dice_weight: NonNegativeFloat = 5.0
    """Of the dice loss of matched masks, in the loss and in the cost of a match."""
    no_object: PositiveFloat = 0.1
    """Weight of an unmatched query in the cross entropy, where a matched one weighs 1."""
    points: PositiveInt = 12544
    """Points at which a mask is compared with the label map."""
    oversample: float = Field(3.0, ge=1)
    """Of so many times as many points, the least sure ones are compared."""
    importance: float = Field(0.75, ge=0, le=1)
    """Share of the points that are chosen so; the others are drawn evenly."""
    layers: NonNegativeFloat = 1.0
    """Weight of the same loss on each earlier decoder layer's answer."""


class Counted(NamedTuple):
    """One image's label map and where its counted pixels are."""

    mask: Tensor
    """uint8 [H, W]"""
    ranks: Tensor
    """Counted pixels up to each pixel, itself included, int32 [H * W]; rows one after the other."""

    @classmethod
    def of(cls, mask: Tensor) -> "Counted":
        return cls(mask, (mask != IGNORE).flatten().cumsum(0, dtype=torch.int32))

    def draw(self, sets: int, points: int, generator: torch.Generator | None) -> "Points":
        """Points spread evenly over the counted pixels, `sets` times."""
        random = torch.rand(3, sets, points, device=self.mask.device, generator=generator)
        total = self.ranks[-1]
        rank = (random[0].double() * total).to(torch.int32).minimum(total - 1)
        pixel = torch.searchsorted(self.ranks, rank, right=True).clamp(max=len(self.ranks) - 1)
        width = self.mask.shape[1]
        rows, columns = pixel // width, pixel % width
        # Anywhere in the pixel, not at its centre: a coarse mask is asked about everywhere.
        return Points(rows + random[1] - 0.5, columns + random[2] - 0.5, self.mask.flatten()[pixel])


class Points(NamedTuple):
    """Places in an image with the class that the label map says there, each [sets, points]."""

    rows: Tensor
    """In pixels; a pixel's centre is a whole number."""
    columns: Tensor
    classes: Tensor
    """uint8"""

    def chosen(self, places: Tensor) -> "Points":
        """The points at `places` [sets, fewer]."""
        return Points(*(values.gather(1, places) for values in self))

    def joined(self, other: "Points") -> "Points":
        return Points(*(torch.cat(pair, 1) for pair in zip(self, other, strict=True)))


def mask_classification(cfg: MaskClassification) -> QueryTerm:
    """Summed over images; an image without a counted pixel adds 0."""

    def term(queries: Queries, masks: Tensor, covers: tuple[float, float], align_corners: bool) -> Tensor:
        over = covers if covers != (0, 0) else (float(masks.shape[1]), float(masks.shape[2]))
        weighted = [(1.0, queries), *((cfg.layers, layer) for layer in queries.aux if cfg.layers)]
        layers = [in_working_type(layer) for _, layer in weighted]
        generator = None if torch.is_grad_enabled() else torch.Generator(masks.device).manual_seed(0)
        images = [Counted.of(mask) for mask in masks]
        pairs = matched(layers, images, cfg, (over, align_corners), generator)
        # A batch without a counted pixel still needs a graph to all answers, or other ranks would wait for it.
        total = torch.stack([values.flatten()[:0].sum() for layer in layers for values in layer[:2]]).sum()
        for (weight, _), layer, found in zip(weighted, layers, pairs, strict=True):
            for index, (image, pair) in enumerate(zip(images, found, strict=True)):
                if len(pair.queries):
                    answer = layer.classes[index], layer.masks[index]
                    total = total + weight * _image_loss(*answer, image, pair, cfg, (over, align_corners), generator)
        return total

    return term


def in_working_type(queries: Queries) -> Queries:
    """Without the earlier layers, in float32 (float64 stays)."""
    return Queries(queries.classes.to(working_dtype(queries.classes)), queries.masks.to(working_dtype(queries.masks)))


def sampled(logits: Tensor, rows: Tensor, columns: Tensor, placement: tuple[tuple[float, float], bool]) -> Tensor:
    """Logits [M, h, w] at places [M or 1, points] of the image they lie over, [M, points], as if enlarged bilinearly.

    By gathering: its backward is deterministic everywhere when that is asked for, that of grid_sample is not.
    """
    (height, width), (covers, align_corners) = logits.shape[1:], placement
    down = position(rows.to(logits.dtype), height, covers[0], align_corners)
    along = position(columns.to(logits.dtype), width, covers[1], align_corners)
    top, left = down.floor().long(), along.floor().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    flat = logits.flatten(1)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return flat.gather(1, (row * width + column).expand(len(logits), -1))

    upper = torch.lerp(at(top, left), at(top, right), along - left)
    lower = torch.lerp(at(bottom, left), at(bottom, right), along - left)
    return torch.lerp(upper, lower, down - top)


class Pairs(NamedTuple):
    """Which query of an image is to show which class, int64 [M] each, in the order of the queries."""

    queries: Tensor
    classes: Tensor


@torch.no_grad()
def matched(
    layers: Sequence[Queries],
    images: Sequence[Counted],
    cfg: MaskClassification,
    placement: tuple[tuple[float, float], bool],
    generator: torch.Generator | None,
) -> list[list[Pairs]]:
    """The cheapest pairs of queries and shown classes, for every layer and image. Waits once for the device."""
    assignment = _solver()
    kinds = layers[0].classes.shape[2] - 1
    costs = []
    for index, image in enumerate(images):
        points = image.draw(1, cfg.points, generator)
        truth = functional.one_hot(points.classes[0].long().clamp(max=kinds), kinds + 1)[:, :kinds]
        for layer in layers:
            logits = sampled(layer.masks[index], points.rows, points.columns, placement)
            costs.append(_costs(layer.classes[index], logits, truth.to(logits.dtype), cfg))
    shown = torch.stack([torch.bincount(image.mask.flatten(), minlength=kinds)[:kinds] for image in images]) > 0
    table = torch.stack([*costs]).nan_to_num(nan=1e30, posinf=1e30, neginf=1e30)
    table_there, shown_there = table.double().cpu().numpy(), shown.cpu().numpy()
    pairs: list[list[Pairs]] = [[] for _ in layers]
    for index in range(len(images)):
        present = np.flatnonzero(shown_there[index])
        for number, found in enumerate(pairs):
            queries, classes = assignment(table_there[index * len(layers) + number][:, present])
            device = layers[0].masks.device
            found.append(Pairs(torch.from_numpy(queries).to(device), torch.from_numpy(present[classes]).to(device)))
    return pairs


Solver = Callable[[NDArray[np.float64]], tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Costs [Q, K] to the rows and columns of the cheapest pairs, each row and each column once."""


def _solver() -> Solver:
    try:
        from scipy.optimize import linear_sum_assignment  # needed by this loss only
    except ImportError:
        raise InputError(
            "losses: mask_classification matches queries with classes by scipy, which is not installed: type "
            "pip install 'terrazzo[transformers]'"
        ) from None
    solver: Solver = linear_sum_assignment
    return solver


def _costs(classes: Tensor, logits: Tensor, truth: Tensor, cfg: MaskClassification) -> Tensor:
    """Of each query [Q, K + 1], [Q, points] for each class, by its points [points, K]; [Q, K]."""
    cross = functional.softplus(-logits) @ truth + functional.softplus(logits) @ (1 - truth)
    inside = logits.sigmoid()
    dice = 1 - (2 * inside @ truth + 1) / (inside.sum(1)[:, None] + truth.sum(0) + 1)
    kind = -classes.softmax(1)[:, :-1]
    return cfg.class_weight * kind + cfg.mask_weight * cross / len(truth) + cfg.dice_weight * dice


def _image_loss(
    classes: Tensor,
    masks: Tensor,
    image: Counted,
    pairs: Pairs,
    cfg: MaskClassification,
    placement: tuple[tuple[float, float], bool],
    generator: torch.Generator | None,
) -> Tensor:
    """Of one image and layer: classes [Q, K + 1], masks [Q, h, w]."""
    nothing = classes.shape[1] - 1
    wanted = torch.full((len(classes),), nothing, device=classes.device).scatter_(0, pairs.queries, pairs.classes)
    weights = torch.where(wanted == nothing, cfg.no_object, 1.0).to(classes.dtype)
    kind = (functional.cross_entropy(classes, wanted, reduction="none") * weights).sum() / weights.sum()
    found = masks.index_select(0, pairs.queries)
    points = _unsure_points(found.detach(), image, cfg, placement, generator)
    logits = sampled(found, points.rows, points.columns, placement)
    truth = (points.classes == pairs.classes[:, None]).to(logits.dtype)
    cross = functional.binary_cross_entropy_with_logits(logits, truth)
    inside = logits.sigmoid()
    dice = 1 - (2 * (inside * truth).sum(1) + 1) / (inside.sum(1) + truth.sum(1) + 1)
    return cfg.class_weight * kind + cfg.mask_weight * cross + cfg.dice_weight * dice.mean()


@torch.no_grad()
def _unsure_points(
    masks: Tensor,
    image: Counted,
    cfg: MaskClassification,
    placement: tuple[tuple[float, float], bool],
    generator: torch.Generator | None,
) -> Points:
    """Points for each of the masks [M, h, w], most of them where the mask is least sure."""
    unsure = int(cfg.importance * cfg.points)
    even = image.draw(len(masks), cfg.points - unsure, generator)
    if not unsure:
        return even
    many = image.draw(len(masks), int(cfg.oversample * cfg.points), generator)
    logits = sampled(masks, many.rows, many.columns, placement)
    return many.chosen(logits.abs().topk(unsure, dim=1, largest=False).indices).joined(even)
