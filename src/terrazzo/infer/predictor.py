"""One picture in, one mask of its own size out: the network at its input size, its answer at the picture's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL import ImageOps
from torch import Tensor

from terrazzo.base import Classes, Image, InputError, Mask
from terrazzo.data.augment import ResizeConfig, resize_image
from terrazzo.data.pixels import read_image
from terrazzo.files import replacing
from terrazzo.infer import draw
from terrazzo.infer.answer import InferenceConfig, answer, label_map
from terrazzo.kernels import argmax, upsample
from terrazzo.models import Segmenter
from terrazzo.output import Output

Picture = Image | Path | str | PIL.Image.Image
"""What can be predicted: uint8 [H, W, channels] in RGB order, grey uint8 [H, W], an image file, or a Pillow image."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A mask and the picture it belongs to."""

    image: Image
    """As it was read, RGB uint8 [H, W, C]."""
    mask: Mask
    """Class ids 0..K-1, uint8 [H, W]."""
    classes: Classes
    answer: Callable[[], Output]
    """Gives `output`."""

    @property
    def output(self) -> Output:
        """The network's answer at its own stride, with `covers` in pixels of `image`.

        Of a picture that was seen through windows nothing is kept but the mask: the network is asked again.
        """
        return self.answer()

    @torch.inference_mode()
    def probabilities(self) -> NDArray[np.float32]:
        """Of the classes at the picture's own size, float32 [K, H, W], 1 in sum; made anew at each call."""
        output, size = self.output, (self.mask.shape[0], self.mask.shape[1])
        logits = upsample(output.logits, size, covers=output.covers, align_corners=output.align_corners)
        logarithms = output._replace(logits=logits.float()).log_probabilities()
        probabilities: NDArray[np.float32] = logarithms.exp()[0].cpu().numpy()
        return probabilities

    def overlay(self, opacity: float = 0.5, *, legend: bool = True) -> Image:
        """The picture tinted with the classes' colours, RGB uint8; a legend adds lines below it, [H + h, >= W, 3]."""
        tinted = draw.overlay(self.image, self.mask, self.classes, opacity)
        return draw.with_legend(tinted, [self.mask], self.classes) if legend else tinted

    def _repr_png_(self) -> bytes:
        """The overlay with its legend as a PNG file: IPython shows a value that has this method."""
        file = BytesIO()
        PIL.Image.fromarray(self.overlay()).save(file, "PNG")
        return file.getvalue()

    def save(self, folder: Path | str, name: str, *, probabilities: bool = False) -> Path:
        """Write the mask as files named after the picture; sub-folders in `name` are kept. Each file is atomic.

        pred/NAME.png holds the data set's own ids (16 bit if one is above 255), palette/NAME.png the class ids with
        the classes' colours, vis/NAME.png the overlay with its legend, and on request probabilities/NAME.npz the
        float32 array "probabilities" [K, H, W] and the array "classes" of the names.

        Returns:
            The path of pred/NAME.png.

        Raises:
            InputError: `name` leads out of the folder, or an id does not fit into a PNG.
        """
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"name is {name!r}; give a path inside the output folder and without extension, as 'a/b'")
        ids = self._id_map()
        pred = Path(folder, "pred", f"{name}.png")
        for path, picture in (
            (pred, PIL.Image.fromarray(ids)),
            (Path(folder, "palette", f"{name}.png"), draw.palette_image(self.mask, self.classes)),
            (Path(folder, "vis", f"{name}.png"), PIL.Image.fromarray(self.overlay())),
        ):
            with replacing(path) as draft:
                picture.save(draft)
        if probabilities:
            with replacing(Path(folder, "probabilities", f"{name}.npz")) as draft:
                names = np.array(self.classes.names)
                np.savez_compressed(draft, probabilities=self.probabilities(), classes=names)
        return pred

    def _id_map(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The mask in the data set's own ids, [H, W]."""
        if bad := [k for k in self.classes.ids if not 0 <= k <= 65535]:
            raise InputError(f"ids {bad} of the label files do not fit into a PNG (0 to 65535); use `.mask` instead")
        if max(self.classes.ids) <= 255:
            return np.array(self.classes.ids, np.uint8)[self.mask]
        return np.array(self.classes.ids, np.uint16)[self.mask]


class Predictor:
    """A trained network as a function of one picture; the network is put into eval mode."""

    def __init__(self, segmenter: Segmenter, classes: Classes, inference: InferenceConfig):
        self.segmenter = segmenter.eval()
        self.classes = classes
        self.inference = inference

    def __call__(self, picture: Picture) -> Prediction:
        """The mask of a picture, at the picture's own size.

        Raises:
            InputError: the file cannot be read, or an array is not uint8 [H, W, channels].
        """
        image = as_image(picture, self.segmenter.channels)
        size = image.shape[0], image.shape[1]
        if self.inference.window is not None:
            pixels = network_input(image, self.inference.resize)
            mask = label_map(self.segmenter.eval(), pixels, self.inference, size)
            return Prediction(image, mask[0].cpu().numpy(), self.classes, partial(self._answer, image))
        output = self._answer(image)
        mask = argmax(output.logits, size, covers=output.covers, align_corners=output.align_corners)
        return Prediction(image, mask[0].cpu().numpy(), self.classes, partial(_kept, output))

    def output(self, picture: Picture) -> Output:
        """The network's answer at its own stride, logits [1, K, h, w], with `covers` in pixels of the picture."""
        return self._answer(as_image(picture, self.segmenter.channels))

    def _answer(self, image: Image) -> Output:
        pixels = network_input(image, self.inference.resize)
        output = answer(self.segmenter.eval(), pixels, self.inference)  # eval again: a training loop may share it
        return output.rescaled((pixels.shape[2], pixels.shape[3]), (image.shape[0], image.shape[1]))


def _kept(output: Output) -> Output:
    return output


def network_input(image: Image, resize: ResizeConfig) -> Tensor:
    """An image as the network gets it at inference, resized, uint8 [1, C, h, w]."""
    resized = np.require(resize_image(image, resize), requirements=["C", "W"])  # torch warns about read-only arrays
    return torch.from_numpy(resized).permute(2, 0, 1)[None]


def as_image(picture: Picture, channels: int) -> Image:
    """Any picture as uint8 [H, W, channels]; files and Pillow images are turned upright by their EXIF orientation.

    Raises:
        InputError: it cannot be read, or is not of this type, shape or number of channels.
    """
    match picture:
        case str() | Path():
            image = read_image(Path(picture))
        case PIL.Image.Image():
            image = _from_pillow(picture)
        case _:
            image = picture
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0:
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(
            f"the picture is {found}; give an array uint8 [height, width, {channels}] with values 0..255 in RGB order, "
            "a path, or a Pillow image"
        )
    if image.ndim == 2:
        image = np.repeat(image[..., None], channels, axis=2)
    if image.shape[2] != channels:
        hint = "; leave alpha out with image[..., :3]" if (image.shape[2], channels) == (4, 3) else ""
        raise InputError(f"the picture has {image.shape[2]} channels and the network reads {channels}{hint}")
    return image


def _from_pillow(picture: PIL.Image.Image) -> Image:
    if picture.mode.startswith(("I", "F")):  # Pillow would clip them to 255 without a word
        raise InputError(f"the Pillow image has mode {picture.mode}; scale it to 8 bit and convert it to 'RGB' first")
    return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
