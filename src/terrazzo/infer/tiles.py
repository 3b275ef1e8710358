"""A picture seen through overlapping windows, blended at the network's own stride, a band of rows at a time.

Nothing as large as the picture is made but the mask: a band of logits is complete as soon as no later window touches
it, and is dropped when its classes are known.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import floor
from typing import Annotated, Literal, assert_never

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from terrazzo import kernels
from terrazzo.base import Config, InputError
from terrazzo.infer.grid import on_grid
from terrazzo.kernels.layout import working_dtype
from terrazzo.output import Output

Ask = Callable[[Tensor], Output]
"""Images [B, C, H, W] to logits over them, as a Segmenter answers."""

SIGMA = 0.125
"""Standard deviation of `gauss` in sides of a window: nnU-Net's (Isensee et al. 2021)."""


class WindowConfig(Config):
    """Overlapping windows, for pictures larger than the memory or than what the network was trained on."""

    size: PositiveInt | tuple[PositiveInt, PositiveInt]
    """Height and width of a window in pixels of the resized picture, or one number for both. Rounded up to what the
    network takes (`accumulate: pixel` pads instead)."""
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of a window's sides that the next one sees again, at least."""
    blend: Literal["mean", "gauss"] = "gauss"
    """Weight of a window's logits: the same everywhere (`mean`), or less towards its borders, where it sees less."""
    accumulate: Literal["stride", "pixel"] = "stride"
    """`stride`: logits are added up at the network's own stride, then enlarged. `pixel`: each window's logits are
    enlarged first, which is exact and takes stride^2 times the memory and far more time."""
    batch: PositiveInt = 4
    """Windows that the network sees at once."""


@dataclass(frozen=True, eq=False)
class Axis:
    """The windows along one side of a picture, in cells of the grid that they are added up on."""

    cell: int
    """Pixels."""
    cells: int
    """Along the whole side; the last one may reach over the picture's end."""
    side: int
    """Of a window."""
    starts: tuple[int, ...]
    """First cell of each window; the last window ends where the cells end."""
    shares: tuple[Tensor, ...]
    """Weights [side] of each window; over all windows they sum to 1 at every cell."""

    @classmethod
    def of(cls, length: int, side: int, cell: int, cfg: WindowConfig, like: Tensor) -> "Axis":
        """Windows of `side` pixels, a multiple of `cell`, over `length` pixels; weights as logits `like` want them."""
        window = side // cell
        cells = max(window, -(-length // cell))
        stride = max(1, floor(side * (1 - cfg.overlap) / cell + 1e-9))  # 10 * (1 - 0.8) is just below 2
        starts = (*range(0, cells - window, stride), cells - window)
        weights = _weights(window, cfg.blend)
        total = torch.zeros(cells, dtype=torch.float64)
        for start in starts:
            total[start : start + window] += weights
        parts = (weights / total[start : start + window] for start in starts)
        shares = tuple(part.to(working_dtype(like)).to(like.device) for part in parts)
        return cls(cell, cells, window, starts, shares)

    def span(self, window: int) -> slice:
        """Cells of a window."""
        return slice(self.starts[window], self.starts[window] + self.side)

    def pixels(self, window: int, length: int) -> slice:
        """Pixels of a window, up to the picture's end."""
        cells = self.span(window)
        return slice(cells.start * self.cell, min(length, cells.stop * self.cell))

    def groups(self, first: int, batch: int, length: int) -> list[list[int]]:
        """Windows from number `first` on, at most `batch` together; one cut off by the picture's end is by itself."""
        numbers = range(first, len(self.starts))
        whole = [n for n in numbers if (self.starts[n] + self.side) * self.cell <= length]
        groups = [whole[n : n + batch] for n in range(0, len(whole), batch)]
        return groups + [[n] for n in numbers if n not in whole]


def _weights(count: int, blend: Literal["mean", "gauss"]) -> Tensor:
    """Weight of each cell along a window's side, float64 [count], all above 0."""
    match blend:
        case "mean":
            return torch.ones(count, dtype=torch.float64)
        case "gauss":
            off = (torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5
            return torch.exp(-0.5 * (off / SIGMA) ** 2)
        case _:
            assert_never(blend)


def window_sides(size: tuple[int, int], padded: Callable[[int], int], cfg: WindowConfig) -> tuple[int, int]:
    """Height and width in pixels of the windows over a picture of `size`; a small picture has small windows."""
    wanted = cfg.size if isinstance(cfg.size, tuple) else (cfg.size, cfg.size)
    height, width = min(wanted[0], size[0]), min(wanted[1], size[1])
    return (height, width) if cfg.accumulate == "pixel" else (padded(height), padded(width))


class Windows:
    """One picture, [1, C, H, W] on any device, seen through windows of `sides` pixels by a network on `device`.

    The first window is asked about at once: its answer says how large the network's cells are.
    """

    def __init__(self, ask: Ask, image: Tensor, sides: tuple[int, int], cfg: WindowConfig, device: torch.device):
        self.ask, self.image, self.cfg, self.device = ask, image, cfg, device
        self.size = image.shape[2], image.shape[3]
        self.first = self._ask([(slice(0, min(sides[0], self.size[0])), slice(0, min(sides[1], self.size[1])))])
        cell = (1, 1) if cfg.accumulate == "pixel" else _cell(self.first, sides)
        self.rows = Axis.of(self.size[0], sides[0], cell[0], cfg, self.first.logits)
        self.columns = Axis.of(self.size[1], sides[1], cell[1], cfg, self.first.logits)

    @property
    def covers(self) -> tuple[int, int]:
        """Pixels under the grid: the picture and, where cells do not divide it, a little more."""
        return self.rows.cells * self.rows.cell, self.columns.cells * self.columns.cell

    def output(self) -> Output:
        """The blended logits whole, at the grid's cells."""
        return Output(torch.cat([*self.bands()], dim=2), covers=self.covers, are_scores=self.first.are_scores)

    def classes(self) -> Tensor:
        """The class of every pixel, uint8 [1, H, W] on the CPU, from a band of logits at a time."""
        cell, (height, width) = self.rows.cell, self.size
        found = torch.empty((1, height, width), dtype=torch.uint8)
        strip: Tensor | None = None
        reached = done = 0
        for band in self.bands():
            reached += band.shape[2]
            # A pixel row reads the cells above and below it: the last half cell waits for the next band.
            strip = band if strip is None else torch.cat([strip[:, :, -1:], band], dim=2)
            top = (reached - strip.shape[2]) * cell
            stop = height if reached == self.rows.cells else reached * cell - cell // 2
            area = strip.shape[2] * cell, self.covers[1]
            found[:, done:stop] = kernels.argmax(strip, (stop - top, width), area)[:, done - top :].cpu()
            done = stop
        return found

    def bands(self) -> Iterator[Tensor]:
        """The blended logits [1, K, rows, w] from top to bottom; each is final, and free to be kept."""
        rows, columns = self.rows, self.columns
        shape = (1, self.first.logits.shape[1], rows.side, columns.cells)
        held = torch.zeros(shape, dtype=working_dtype(self.first.logits), device=self.first.logits.device)
        for row, top in enumerate(rows.starts):
            if row == 0:
                self._add(held, self.first, row, [0])
            for group in columns.groups(1 if row == 0 else 0, self.cfg.batch, self.size[1]):
                down = rows.pixels(row, self.size[0])
                output = self._ask([(down, columns.pixels(column, self.size[1])) for column in group])
                self._add(held, output, row, group)
            ready = (rows.starts[row + 1] if row + 1 < len(rows.starts) else rows.cells) - top
            yield held[:, :, :ready]
            held = torch.cat([held[:, :, ready:], torch.zeros_like(held[:, :, :ready])], dim=2)

    def _ask(self, places: list[tuple[slice, slice]]) -> Output:
        return self.ask(torch.cat([self.image[:, :, down, along] for down, along in places]).to(self.device))

    def _add(self, held: Tensor, output: Output, row: int, columns: list[int]) -> None:
        """Add the answers of some windows of one row to the rows that are not final yet."""
        down = self.rows.shares[row][:, None]
        for column, logits in zip(columns, self._on_cells(output, row, columns[0]), strict=True):
            held[0, :, :, self.columns.span(column)] += logits * (down * self.columns.shares[column])

    def _on_cells(self, output: Output, row: int, column: int) -> Tensor:
        """Answers [n, K, side, side] on the cells of their windows."""
        if self.cfg.accumulate == "pixel":
            down, along = self.rows.pixels(row, self.size[0]), self.columns.pixels(column, self.size[1])
            size = down.stop - down.start, along.stop - along.start
            return kernels.upsample(output.logits, size, output.covers, output.align_corners)
        side = self.rows.side, self.columns.side
        covers = side[0] * self.rows.cell, side[1] * self.columns.cell
        if tuple(output.covers) != covers or tuple(output.logits.shape[2:]) != side:
            raise _not_on_a_grid(output, covers)
        return on_grid(output, side, covers)


def _cell(output: Output, sides: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of a cell of the network's answer to a window."""
    height, width = output.logits.shape[2:]
    if tuple(output.covers) != sides or sides[0] % height or sides[1] % width:
        raise _not_on_a_grid(output, sides)
    return sides[0] // height, sides[1] // width


def _not_on_a_grid(output: Output, sides: tuple[int, int]) -> InputError:
    height, width = output.logits.shape[2:]
    return InputError(
        f"window: the network answers {height} x {width} logits over {output.covers[0]:g} x {output.covers[1]:g} "
        f"pixels for a window of {sides[0]} x {sides[1]}; to add windows up at its stride, whole cells are needed. "
        "Give model.stride the network's stride, or type window.accumulate=pixel"
    )
