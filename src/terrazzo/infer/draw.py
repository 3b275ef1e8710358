"""Pictures of masks for people: colours, overlays with a legend, panels and error maps. No torch in here."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from terrazzo.base import IGNORE, Classes, Color, Image, InputError, Mask

IGNORE_COLOR: Color = (224, 224, 192)
"""Where the truth says nothing: the cream that PASCAL VOC draws its "void" in; no class of its colour map has it."""
WRONG_COLOR: Color = (226, 74, 20)
"""Wrong pixels of an error map; apart from grey for colour-blind eyes too."""
PAPER: Color = (255, 255, 255)
INK: Color = (26, 32, 39)
LONGEST_NAME = 40
"""Letters of a class name that a legend shows."""


def color_table(classes: Classes) -> NDArray[np.uint8]:
    """RGB of every mask value, uint8 [256, 3]: the classes' colours, and IGNORE_COLOR for all other values."""
    table = np.tile(np.array(IGNORE_COLOR, np.uint8), (256, 1))
    table[: len(classes)] = classes.colors
    return table


def colorize(mask: Mask, classes: Classes) -> Image:
    """The mask in its classes' colours, RGB uint8 [H, W, 3]."""
    colors: Image = color_table(classes)[mask]
    return colors


def palette_image(mask: Mask, classes: Classes) -> PIL.Image.Image:
    """A mode-P image: its values are the class ids, its palette is the classes' colours."""
    picture = PIL.Image.fromarray(mask)
    picture.putpalette(color_table(classes).tobytes())
    return picture


def overlay(image: Image, mask: Mask, classes: Classes, opacity: float = 0.5) -> Image:
    """The image, tinted with its classes' colours; ignored pixels stay as they are. RGB uint8 [H, W, 3]."""
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity is {opacity}; give a number from 0 (the image alone) to 1 (the colours alone)")
    rgb = as_rgb(image)
    _check_sizes(rgb, mask)
    tinted = cv2.addWeighted(rgb, 1 - opacity, colorize(mask, classes), opacity, 0)
    return np.where((mask == IGNORE)[..., None], rgb, tinted)


def error_map(image: Image, truth: Mask, prediction: Mask) -> Image:
    """Wrong pixels in WRONG_COLOR and ignored ones in IGNORE_COLOR over the pale grey image; RGB uint8 [H, W, 3]."""
    rgb = as_rgb(image)
    _check_sizes(rgb, truth)
    _check_sizes(rgb, prediction)
    pale = (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 3 // 5 + 90).astype(np.uint8)
    errors = np.repeat(pale[..., None], 3, axis=2)
    errors[truth == IGNORE] = IGNORE_COLOR
    errors[(truth != IGNORE) & (truth != prediction)] = WRONG_COLOR
    return errors


def as_rgb(image: Image) -> Image:
    """Three channels to look at: grey is repeated, of more than three channels the first three are shown."""
    if image.ndim == 2 or image.shape[2] < 3:
        grey = image if image.ndim == 2 else image[..., 0]
        return np.repeat(grey[..., None], 3, axis=2)
    return np.ascontiguousarray(image[..., :3])


def shares(masks: Iterable[Mask], classes: Classes) -> list[tuple[int, float]]:
    """Class ids that occur in the masks and their share of all pixels that are not ignored, the largest first."""
    counts = np.zeros(256, np.int64)
    for mask in masks:
        counts += np.bincount(mask.ravel(), minlength=256)
    counts = counts[: len(classes)]
    total = max(1, int(counts.sum()))
    return [(int(k), float(counts[k] / total)) for k in np.argsort(-counts, kind="stable") if counts[k]]


def percent(share: float) -> str:
    """A share of pixels as people read it; what is there is never shown as 0."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{share:.1%}".replace("%", " %")


def legend(entries: Sequence[tuple[int, float]], classes: Classes, width: int) -> Image:
    """Colour, name and share of each class (see `shares`) in lines of `width` pixels; RGB uint8 [h, >= width, 3].

    IGNORE may stand among them. The picture becomes wider than asked only where one entry alone does not fit.
    """
    size = min(40, max(12, width // 60))
    gap = size // 2
    names, colors = {IGNORE: "not labelled"} | dict(enumerate(classes.names)), color_table(classes)
    texts = [f"{short(names[k])}  {percent(share)}" for k, share in entries] or ["no labelled pixel"]
    chips = [(int(colors[k, 0]), int(colors[k, 1]), int(colors[k, 2])) for k, _ in entries] or [PAPER]
    fonts = [ImageFont.truetype(str(font_file(text)), size) for text in texts]
    widths = [size + gap + round(font.getlength(text)) for font, text in zip(fonts, texts, strict=True)]
    width = max(width, max(widths) + 2 * gap)

    places, x, y = [], gap, gap
    for entry in widths:
        if x > gap and x + entry + gap > width:
            x, y = gap, y + size + gap
        places.append((x, y))
        x += entry + 2 * gap

    canvas = PIL.Image.new("RGB", (width, y + size + gap), PAPER)
    pen = ImageDraw.Draw(canvas)
    for (x, y), text, chip, font in zip(places, texts, chips, fonts, strict=True):
        pen.rectangle((x, y, x + size - 1, y + size - 1), fill=chip, outline=INK if entries else PAPER)
        pen.text((x + size + gap, y + size / 2), text, fill=INK, font=font, anchor="lm")
    return np.array(canvas)


def with_legend(image: Image, masks: Sequence[Mask], classes: Classes) -> Image:
    """The picture and, below it, the legend of what occurs in the masks; RGB uint8 [H + h, >= W, 3].

    Shares of classes are of the labelled pixels, the share of what is not labelled is of all.
    """
    entries = shares(masks, classes)
    if ignored := sum(int((mask == IGNORE).sum()) for mask in masks):
        entries.append((IGNORE, ignored / sum(mask.size for mask in masks)))
    return stacked([image, legend(entries, classes, image.shape[1])])


def panel(image: Image, truth: Mask, prediction: Mask, classes: Classes) -> Image:
    """Image | truth | prediction side by side over one legend; RGB uint8."""
    pictures = [as_rgb(image), colorize(truth, classes), colorize(prediction, classes)]
    return with_legend(side_by_side(pictures), [truth, prediction], classes)


def side_by_side(pictures: Sequence[Image], gap: int = 8) -> Image:
    """RGB pictures in one row, aligned at the top, with white between them and below shorter ones."""
    upright = [picture.transpose(1, 0, 2) for picture in pictures]
    return np.ascontiguousarray(stacked(upright, gap).transpose(1, 0, 2))


def stacked(pictures: Sequence[Image], gap: int = 0) -> Image:
    """RGB pictures below one another, aligned at the left, with white between them and beside narrower ones."""
    height = sum(picture.shape[0] for picture in pictures) + gap * (len(pictures) - 1)
    canvas = np.full((height, max(picture.shape[1] for picture in pictures), 3), PAPER, np.uint8)
    top = 0
    for picture in pictures:
        canvas[top : top + picture.shape[0], : picture.shape[1]] = picture
        top += picture.shape[0] + gap
    return canvas


def short(name: str) -> str:
    """A class name on one line, cut where it would fill the picture."""
    line = " ".join(name.split())
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


@cache
def font_file(text: str) -> Path:
    """A font that has every letter of the text: DejaVu Sans (it comes with Matplotlib), else an installed one.

    Where no installed font has them (often so for Chinese or Korean on a server), DejaVu draws boxes for them.
    """
    import matplotlib  # slow to import, and only pictures with text need it
    from matplotlib.ft2font import FT2Font

    usual = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    if _letters(text) <= FT2Font(str(usual)).get_charmap().keys():
        return usual

    from matplotlib.font_manager import fontManager  # lists the installed fonts: seconds at the first use

    # Matplotlib's "Last Resort" has a box for every letter there is.
    for path in sorted({entry.fname for entry in fontManager.ttflist if not entry.name.startswith("Last Resort")}):
        font = FT2Font(path)
        if font.scalable and _letters(text) <= font.get_charmap().keys():
            return Path(path)
    return usual


def _letters(text: str) -> set[int]:
    return {ord(letter) for letter in text if not letter.isspace()}


def _check_sizes(image: Image, mask: Mask) -> None:
    if image.shape[:2] != mask.shape:
        raise InputError(
            f"the image is {image.shape[1]} x {image.shape[0]} pixels (width x height) and the mask "
            f"{mask.shape[1]} x {mask.shape[0]}; give a mask of the image's own size"
        )
