"""A whole network as one program of torch.export: it runs without terrazzo, in Python and where else torch runs it.

    program = torch.export.load("pets.pt2").module()
    mask = program(images).argmax(1)      # uint8 [B, C, H, W] -> [B, H, W]

The file holds a graph and tensors, no pickled code. `terrazzo.json` in it is the description of the model.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.files import replacing
from terrazzo.models import Segmenter

ABOUT = "terrazzo.json"
"""The file in the archive that holds the description."""
TOLERANCE = 1e-4
"""Greatest difference of the reloaded program, as a share of the logits' standard deviation where that is above 1."""


class Whole(nn.Module):
    """Images in, logits at the images' own size out."""

    def __init__(self, segmenter: Segmenter):
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: Tensor) -> Tensor:
        output = self.segmenter(images)
        covers = [round(side) for side in output.covers]
        logits = functional.interpolate(output.logits, covers, mode="bilinear", align_corners=output.align_corners)
        return logits[..., : images.shape[2], : images.shape[3]]


def write_program(path: Path, segmenter: Segmenter, about: str, size: tuple[int, int]) -> bool:
    """Write the network for images of `size` = (height, width) pixels, after reading it back and comparing answers.

    Returns:
        Whether it takes any number of images at a time, not only one.

    Raises:
        InputError: torch cannot export this network, or the program answers otherwise.
    """
    whole = Whole(segmenter).eval()
    program = _exported(whole, images_of(segmenter, 2, size), dynamic=True)
    batched = _takes_any_batch(program)
    if not batched:
        program = _exported(whole, images_of(segmenter, 1, size), dynamic=False)
    program.example_inputs = None  # torch would pickle them
    with replacing(path) as draft:
        torch.export.save(program, draft, extra_files={ABOUT: about})
        again = torch.export.load(draft).module()
        for count in (1, 3) if batched else (1,):
            _compare(path, whole, again, images_of(segmenter, count, size))
    return batched


def images_of(segmenter: Segmenter, count: int, size: tuple[int, int]) -> Tensor:
    """Random images, always the same."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, segmenter.channels, *size), dtype=torch.uint8, generator=generator)


def _exported(whole: Whole, images: Tensor, *, dynamic: bool) -> ExportedProgram:
    shapes = {"images": {0: Dim.AUTO}} if dynamic else None  # AUTO: torch says itself if a network fixes the number
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries' code that is traced, about itself
            return torch.export.export(whole, (images,), dynamic_shapes=shapes, strict=False)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        name = type(whole.segmenter.net).__name__
        raise InputError(f"torch.export cannot make a program of {name}: {reason}; export its weights") from error


def _takes_any_batch(program: ExportedProgram) -> bool:
    """The number of images is all that may vary; torch lists the range of what does, from 2 where 1 works as well."""
    return bool(program.range_constraints) and all(each.upper > 1000 for each in program.range_constraints.values())


@torch.no_grad()
def _compare(path: Path, whole: Whole, program: nn.Module, images: Tensor) -> None:
    wanted, given = whole(images), program(images)
    difference = (wanted - given).abs().max().item()
    limit = TOLERANCE * max(1.0, wanted.std().item())
    if not difference <= limit:
        raise InputError(
            f"{path}: the program answers {len(images)} random images otherwise than the network: logits differ by up "
            f"to {difference:.2g}, more than {limit:.2g}; nothing was written"
        )
