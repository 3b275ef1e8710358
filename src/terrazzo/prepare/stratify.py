"""Groups of images shared out so that every part gets its share of the images and of every class."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

TRIES = 8
"""Seeded attempts, of which the one nearest to the shares is taken: ties and large groups make them differ."""

FEW = 40
"""Up to so many groups every step from one division to the next is tried."""

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]


def share_out(sizes: Counts, present: Counts, pixels: Counts, shares: Shares, seed: int) -> Counts:
    """The split [G] of each group, every split having at least one.

    Iterative stratification (Sechidis et al., 2011): the class with the fewest groups left is given away first, each of
    its groups to the split that lacks most images of that class. Here groups of several images count as many, the
    largest go first, and of `TRIES` seeded attempts the one that comes nearest to the shares is taken. For a few groups
    that need not be near: then groups are moved and exchanged as long as that helps.

    Args:
        sizes: images of each group, [G].
        present: images that show a class, of each group, [G, K]; K = 0 shares out by size alone.
        pixels: of each class in each group, [G, K].
        shares: of each split, [S]; together 1.
    """
    shown = present.any(0)
    weights = np.concatenate([sizes[:, None], present[:, shown], pixels[:, shown]], axis=1) / 1.0
    weights /= weights.sum(0)
    attempts = [_attempt(sizes, present, shares, np.random.default_rng([seed, k])) for k in range(TRIES)]
    chosen = min(attempts, key=lambda attempt: deviation(attempt, weights, shares))
    return _refined(chosen, weights, shares) if len(sizes) <= FEW else chosen


def deviation(chosen: Counts, weights: NDArray[np.float64], shares: Shares) -> float:
    """How far the splits are from their shares of `weights` [G, 1 + W], whose columns sum up to 1.

    Of the first column (the images) plus the mean of the others; each is a sum of squares relative to the share, so
    that it weighs as it should if a small split has nothing of a class.
    """
    sums = np.stack([weights[chosen == k].sum(0) for k in range(len(shares))])
    away = ((sums - shares[:, None]) ** 2 / shares[:, None]).sum(0)
    return float(away[0] + (away[1:].mean() if len(away) > 1 else 0))


def _refined(chosen: Counts, weights: NDArray[np.float64], shares: Shares) -> Counts:
    """One group moved, or two exchanged, while that comes nearer to the shares: the best such step each time."""
    best = deviation(chosen, weights, shares)
    while True:
        ways = list(_neighbours(chosen, len(shares)))
        found = [deviation(way, weights, shares) for way in ways]
        if not found or min(found) >= best - 1e-9:
            return chosen
        best = min(found)
        chosen = ways[found.index(best)]


def _neighbours(chosen: Counts, splits: int) -> Iterator[Counts]:
    groups = range(len(chosen))
    moves = [((g, split),) for g in groups for split in range(splits) if (chosen == chosen[g]).sum() > 1]
    swaps = [((g, chosen[h]), (h, chosen[g])) for g in groups for h in range(g)]
    for step in (*moves, *swaps):
        if any(chosen[g] != split for g, split in step):
            way = chosen.copy()
            for g, split in step:
                way[g] = split
            yield way


def _attempt(sizes: Counts, present: Counts, shares: Shares, rng: np.random.Generator) -> Counts:
    lacking = np.outer(shares, present.sum(0))  # [S, K]: images of each class that a split still lacks
    room = shares * sizes.sum()
    chosen = np.full(len(sizes), -1)
    order = rng.permutation(len(sizes))

    def give_away(members: Counts, amounts: Counts, wish: NDArray[np.float64]) -> None:
        """To the split with the greatest wish (a view that follows what is given), then room, then luck."""
        for group in members[np.argsort(-amounts[members], kind="stable")].tolist():
            rank = zip(wish.round(9).tolist(), room.round(9).tolist(), rng.random(len(shares)).tolist(), strict=True)
            *_, split = max((*wishes, k) for k, wishes in enumerate(rank))
            chosen[group] = split
            lacking[split] -= present[group]
            room[split] -= sizes[group]

    while True:
        free = chosen < 0
        left = (present[free] > 0).sum(0)
        if not left.any():
            break
        label = int(np.argmin(np.where(left > 0, left, len(sizes) + 1)))
        give_away(order[(free & (present[:, label] > 0))[order]], present[:, label], lacking[:, label])
    give_away(order[(chosen < 0)[order]], sizes, room)
    for split in np.flatnonzero(np.bincount(chosen, minlength=len(shares)) == 0).tolist():
        chosen[_dispensable(chosen, sizes, present)] = split
    return chosen


def _dispensable(chosen: Counts, sizes: Counts, present: Counts) -> int:
    """The group that the split with the most groups misses least: for its classes, then for its size."""
    members = np.flatnonzero(chosen == np.bincount(chosen).argmax())
    others = (present[members] > 0).sum(0) - (present[members] > 0)
    lost = ((present[members] > 0) & (others == 0)).sum(1)
    return int(members[np.lexsort((sizes[members], lost))[0]])
