"""What stands in a set of label files: values, colours, palettes, and how much of each is more than a stain."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from terrazzo.base import Color, InputError
from terrazzo.data.facts import counted_raw
from terrazzo.data.pixels import Raw, read_raw

Key = TypeVar("Key")
Mark = TypeVar("Mark", int, Color)

STAINS = 3
"""From so many values without an inside on, masks were resized smoothly."""
STRAY = 2e-4
"""A colour with a smaller share of all pixels, and without an inside, is none of the data set's own."""
APART = 24
"""True values, or colours, of stained masks differ by more than this."""

COVER = 32
"""So many values, or colours, cover nearly all of a label file, and little of a photograph."""


@dataclass
class Tally:
    """One value, or colour, over all files."""

    pixels: int = 0
    files: int = 0
    solid: int = 0
    """Pixels whose four neighbours are the same: what only stains borders has none."""

    def add(self, pixels: int, solid: int) -> None:
        self.pixels, self.files, self.solid = self.pixels + pixels, self.files + 1, self.solid + solid


@dataclass
class LabelFacts:
    """What stands in a set of label files."""

    files: int = 0
    modes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    values: dict[int, Tally] = field(default_factory=dict)
    """Of all files, if every one has values."""
    colors: dict[Color, Tally] = field(default_factory=dict)
    """Of all files, if every one has colours: RGB and palette files, and grey ones among them."""
    palette: dict[int, Color] = field(default_factory=dict)
    """The colour of each index that is used, if all palette files agree."""
    contradiction: str = ""
    """How palettes contradict each other, in words."""
    faults: dict[Path, str] = field(default_factory=dict)
    """Files that cannot be read."""
    more: int = 0
    """Further values or colours, that were too many to be counted."""

    @property
    def colored(self) -> bool:
        """Whether there are colours that are no greys."""
        return any(mode.startswith("RGB") for mode in self.modes)

    @property
    def pixels(self) -> int:
        return sum(each.pixels for each in (self.values or self.colors).values())


class _Look(NamedTuple):
    """One label file."""

    mode: str
    format: str
    values: dict[int, Tally] | None
    colors: dict[Color, Tally] | None
    palette: dict[int, Color]
    more: int


def label_facts(
    paths: Sequence[Path], *, workers: int = 4, progress: Callable[[int, int], None] | None = None
) -> LabelFacts:
    """Read label files and count what stands in them; those that cannot be read are named in `faults`."""
    facts = LabelFacts()
    owners: dict[int, tuple[Color, Path]] = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, (path, look) in enumerate(zip(paths, pool.map(_looked, paths), strict=True), start=1):
            if isinstance(look, str):
                facts.faults[path] = look
            else:
                _add(facts, look)
                _compare(facts, owners, path, look)
            if progress is not None:
                progress(done, len(paths))
    if facts.colored:
        facts.values = {}
    if not facts.contradiction:
        facts.palette = {index: color for index, (color, _) in owners.items()}
    return facts


def _looked(path: Path) -> _Look | str:
    try:
        raw = read_raw(path)
    except InputError as error:
        return str(error)
    counted = counted_raw(raw.array, raw.palette)
    inside = raw.array[_solid(raw.array)]
    solid = counted_raw(inside[None], raw.palette) if len(inside) else None
    values = _tallies(counted.values, solid and solid.values)
    texts = _tallies(counted.colors, solid and solid.colors)
    colors = None if texts is None else {_rgb(text): tally for text, tally in texts.items()}
    if colors is None and values is not None and raw.array.dtype == np.uint8:
        colors = {(value, value, value): tally for value, tally in values.items()}
    palette = {}
    if raw.palette is not None and values is not None:
        table = [(int(r), int(g), int(b)) for r, g, b in raw.palette.tolist()]
        palette = {index: table[index] for index in values if index < len(table)}
    mode = "grey as RGB" if raw.array.ndim == 3 and values is not None else raw.mode
    return _Look(mode, raw.format, values, colors, palette, counted.more)


def _tallies(counts: dict[Key, int] | None, solid: dict[Key, int] | None) -> dict[Key, Tally] | None:
    if counts is None:
        return None
    return {key: Tally(pixels, 1, (solid or {}).get(key, 0)) for key, pixels in counts.items()}


def _solid(array: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels that equal their four neighbours; those at the rim, where strays gather, do not count."""
    across, down = array[:, 1:] != array[:, :-1], array[1:] != array[:-1]
    if array.ndim == 3:
        across, down = across.any(2), down.any(2)
    border = np.ones(array.shape[:2], bool)
    border[1:-1, 1:-1] = False
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return ~border


def _add(facts: LabelFacts, look: _Look) -> None:
    facts.files += 1
    facts.modes[look.mode] += 1
    facts.formats[look.format] += 1
    facts.more += look.more
    for value, tally in (look.values or {}).items():
        facts.values.setdefault(value, Tally()).add(tally.pixels, tally.solid)
    for color, tally in (look.colors or {}).items():
        facts.colors.setdefault(color, Tally()).add(tally.pixels, tally.solid)


def _compare(facts: LabelFacts, owners: dict[int, tuple[Color, Path]], path: Path, look: _Look) -> None:
    """Notice an index that stands for another colour than in an earlier file."""
    for index, color in look.palette.items():
        known, first = owners.setdefault(index, (color, path))
        if known != color and not facts.contradiction:
            facts.contradiction = (
                f"index {index} is #{bytes(known).hex()} in {_tail(first)} and #{bytes(color).hex()} in {_tail(path)}"
            )


def _tail(path: Path) -> str:
    """The last folders of a path and its name: enough to find the file."""
    return "/".join(path.parts[-3:])


def _rgb(text: str) -> Color:
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def looks_like_labels(raw: Raw) -> bool | None:
    """Whether a picture is made of a few flat values or colours; None where one value fills it all."""
    counted = counted_raw(raw.array, raw.palette)
    counts = counted.values if counted.values is not None else counted.colors
    numbers = sorted((counts or {}).values(), reverse=True)
    if len(numbers) < 2:
        return None
    size = raw.array.shape[0] * raw.array.shape[1]
    return sum(numbers[:COVER]) >= 0.9 * size and float(_solid(raw.array).mean()) >= 0.25


def true_marks(tallies: Mapping[Mark, Tally], total: int, *, stained: bool) -> tuple[list[Mark], bool]:
    """The values, or colours, that somebody drew, the most frequent first, and whether others stain their borders.

    Stains are what JPEG and smooth resizing make of a border: values between two others that hardly ever fill an area.
    Stray colours (few pixels, no area) are left out too; stray values are not, for a thin class may look so.
    """
    ordered = sorted(tallies, key=lambda mark: -tallies[mark].pixels)
    thin = [m for m in ordered if tallies[m].solid < 0.05 * tallies[m].pixels and tallies[m].pixels < 0.05 * total]
    lean = sum(tallies[m].pixels for m in thin) < 0.3 * total
    if not stained and not (len(thin) >= STAINS and 2 * len(thin) > len(ordered) and lean):
        if ordered and isinstance(ordered[0], int):
            return ordered, False
        return [
            m for m in ordered if tallies[m].pixels >= STRAY * total or tallies[m].solid > 0.3 * tallies[m].pixels
        ], False
    kept: list[Mark] = []
    for mark in ordered:
        large = tallies[mark].pixels >= 5e-4 * total and tallies[mark].solid >= 0.05 * tallies[mark].pixels
        if large and all(away(mark, other) > APART for other in kept):
            kept.append(mark)
    return kept, len(kept) < len(ordered)


def away(first: Mark, second: Mark) -> int:
    """How far two values are from each other; of two colours, the greatest difference of a channel."""
    if isinstance(first, int) or isinstance(second, int):
        return abs(first - second)
    return max(abs(a - b) for a, b in zip(first, second, strict=True))
