"""A picture in, a mask of its own size out, and files named after the picture."""

from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import IMAGENET, Classes, Image, InputError
from terrazzo.data.augment import Exact, Keep, ResizeConfig, ShortSide
from terrazzo.infer.answer import InferenceConfig
from terrazzo.infer.predictor import Picture, Predictor, as_image, network_input
from terrazzo.models import Segmenter

CLASSES = Classes.of({"road": (10, 20, 30), "sky": (200, 100, 50), "tree": (0, 255, 0)})


class Brightest(nn.Module):
    """Class = the brightest of the three channels, at stride `pool`; in train mode it answers nonsense."""

    def __init__(self, pool: int = 1):
        super().__init__()
        self.pool = pool
        self.scale = nn.Parameter(torch.tensor(IMAGENET.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        shown = images * self.scale + torch.tensor(IMAGENET.mean).view(1, 3, 1, 1)
        return functional.avg_pool2d(-shown if self.training else shown, self.pool) * 10


def predictor(pool: int = 1, resize: ResizeConfig | None = None, classes: Classes = CLASSES) -> Predictor:
    segmenter = Segmenter(Brightest(pool), normalization=IMAGENET, stride=pool)
    return Predictor(segmenter, classes, InferenceConfig(resize=resize or Keep()))


def blocks(height: int, width: int, side: int) -> tuple[Image, Image]:
    """An image of squares, each bright in one channel, and the channel's number per pixel."""
    rows, columns = np.mgrid[:height, :width] // side
    channel = ((rows + 2 * columns) % 3).astype(np.uint8)
    return (np.eye(3, dtype=np.uint8) * 200 + 20)[channel], channel


def test_the_mask_has_the_pictures_size_and_the_networks_classes() -> None:
    image, channel = blocks(37, 53, 8)
    prediction = predictor()(image)
    assert prediction.mask.dtype == np.uint8
    assert np.array_equal(prediction.mask, channel)
    assert prediction.image is image
    assert prediction.classes is CLASSES


def test_logits_of_a_padded_picture_are_enlarged_over_the_padding() -> None:
    image, _ = blocks(37, 53, 16)
    model = predictor(pool=8)
    prediction = model(image)
    output = model.output(image)
    assert output.logits.shape == (1, 3, 5, 7)
    assert output.covers == (40, 56)
    assert not output.logits.requires_grad
    whole = functional.interpolate(output.logits, (40, 56), mode="bilinear")[0, :, :37, :53]
    assert np.array_equal(prediction.mask, whole.argmax(0).numpy())
    probabilities = prediction.probabilities()
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, whole.softmax(0).numpy(), atol=1e-5)


@pytest.mark.parametrize("resize", [Exact(height=48, width=80), ShortSide(pixels=24), ShortSide(pixels=96)])
def test_a_resized_input_still_gives_a_mask_of_the_pictures_size(resize: ResizeConfig) -> None:
    image, channel = blocks(48, 60, 12)
    prediction = predictor(resize=resize)(image)
    assert prediction.mask.shape == (48, 60)
    assert (prediction.mask == channel).mean() > 0.85
    assert prediction.output.covers == (48, 60)
    assert prediction.probabilities().shape == (3, 48, 60)


def test_every_kind_of_picture_gives_the_same_mask(tmp_path: Path) -> None:
    image, channel = blocks(24, 36, 6)
    file = tmp_path / "a.png"
    PIL.Image.fromarray(image).save(file)
    read_only = image.copy()
    read_only.flags.writeable = False
    kinds: list[Picture] = [image, read_only, image[:, ::-1][:, ::-1], file, str(file), PIL.Image.open(file)]
    for picture in kinds:
        assert np.array_equal(predictor()(picture).mask, channel)


def test_files_and_pillow_images_are_turned_upright(tmp_path: Path) -> None:
    image, channel = blocks(24, 36, 6)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    PIL.Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(tmp_path / "a.png", exif=exif)
    for picture in (tmp_path / "a.png", PIL.Image.open(tmp_path / "a.png")):
        assert np.array_equal(predictor()(picture).mask, channel)


def test_grey_pictures_fill_all_channels() -> None:
    grey = np.full((4, 5), 7, np.uint8)
    assert np.array_equal(as_image(grey, 3), np.full((4, 5, 3), 7))
    assert np.array_equal(as_image(PIL.Image.fromarray(grey), 3), np.full((4, 5, 3), 7))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"float32 \[4, 5, 3\]; give an array uint8 \[height, width, 3\]"),
        (np.zeros((1, 3, 4, 5), np.uint8), r"uint8 \[1, 3, 4, 5\]; give"),
        (np.zeros((0, 5, 3), np.uint8), r"uint8 \[0, 5, 3\]; give"),
        (np.zeros((4, 5, 4), np.uint8), r"4 channels and the network reads 3; leave alpha out with image\[..., :3\]"),
        (np.zeros((4, 5, 2), np.uint8), r"2 channels and the network reads 3"),
        (PIL.Image.fromarray(np.full((4, 5), 3000, np.uint16)), r"mode I;16; scale it to 8 bit"),
        ("no_such_file.png", "no_such_file.png"),
        (7, r"the picture is int; give"),
    ],
)
def test_a_picture_that_cannot_be_read_is_said(picture: Picture, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predictor()(picture)


def test_the_network_answers_in_eval_mode_whatever_the_loop_does() -> None:
    image, channel = blocks(12, 12, 4)
    model = predictor()
    model.segmenter.train()
    assert np.array_equal(model(image).mask, channel)


def test_a_network_input_is_uint8_and_resized() -> None:
    image, _ = blocks(12, 18, 4)
    pixels = network_input(image, Exact(height=6, width=9))
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (1, 3, 6, 9)
    assert np.array_equal(network_input(image, Keep())[0].permute(1, 2, 0).numpy(), image)


def test_an_overlay_has_a_legend_below_unless_not_wanted() -> None:
    image, _ = blocks(60, 300, 20)
    prediction = predictor()(image)
    assert prediction.overlay(legend=False).shape == image.shape
    assert np.array_equal(prediction.overlay(0, legend=False), image)
    drawn = prediction.overlay()
    assert drawn.shape[0] > 60
    assert np.array_equal(drawn[:60, :300], prediction.overlay(legend=False))


def test_a_notebook_shows_the_overlay_with_its_legend() -> None:
    prediction = predictor()(blocks(60, 300, 20)[0])
    with PIL.Image.open(BytesIO(prediction._repr_png_())) as shown:
        assert shown.format == "PNG"
        assert np.array_equal(np.asarray(shown), prediction.overlay())


def test_saved_files_keep_folders_ids_and_colors(tmp_path: Path) -> None:
    image, channel = blocks(24, 36, 6)
    classes = Classes(CLASSES.names, CLASSES.colors, ids=(7, 21, 255), ignore_id=0)
    prediction = predictor(classes=classes)(image)
    path = prediction.save(tmp_path, "tile1/part.3", probabilities=True)
    assert path == tmp_path / "pred/tile1/part.3.png"
    assert np.array_equal(np.asarray(PIL.Image.open(path)), np.array([7, 21, 255])[channel])
    palette = PIL.Image.open(tmp_path / "palette/tile1/part.3.png")
    assert palette.mode == "P"
    assert np.array_equal(np.asarray(palette), channel)
    assert np.asarray(palette.convert("RGB"))[0, 0].tolist() == [10, 20, 30]
    vis = np.asarray(PIL.Image.open(tmp_path / "vis/tile1/part.3.png"))
    assert np.array_equal(vis, prediction.overlay())
    with np.load(tmp_path / "probabilities/tile1/part.3.npz") as saved:
        assert np.array_equal(saved["probabilities"], prediction.probabilities())
        assert saved["classes"].tolist() == list(classes.names)
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 4


def test_ids_above_255_are_written_with_16_bits(tmp_path: Path) -> None:
    image, channel = blocks(12, 12, 4)
    classes = Classes(CLASSES.names, CLASSES.colors, ids=(0, 256, 65535))
    read = PIL.Image.open(predictor(classes=classes)(image).save(tmp_path, "a"))
    assert np.array_equal(np.asarray(read), np.array([0, 256, 65535])[channel])
    assert not (tmp_path / "probabilities").exists()


@pytest.mark.parametrize("name", ["", "../a", "a/../../b", "/a"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="path inside the output folder"):
        predictor()(blocks(6, 6, 2)[0]).save(tmp_path / "out", name)
    assert list(tmp_path.iterdir()) == []


def test_ids_that_no_png_holds_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    classes = Classes(CLASSES.names, CLASSES.colors, ids=(-1, 0, 70000))
    with pytest.raises(InputError, match=r"ids \[-1, 70000\] of the label files do not fit"):
        predictor(classes=classes)(blocks(6, 6, 2)[0]).save(tmp_path, "a")
    assert list(tmp_path.iterdir()) == []


def test_a_real_picture(shared_data: Path) -> None:
    file = sorted((shared_data / "pets-mini" / "images").glob("*.jpg"))[0]
    prediction = predictor(pool=16, resize=ShortSide(pixels=128))(file)
    with PIL.Image.open(file) as picture:
        assert prediction.mask.shape == picture.size[::-1]
    red_green_blue = [int(prediction.image[prediction.mask == k].mean(0).argmax()) for k in np.unique(prediction.mask)]
    assert red_green_blue == np.unique(prediction.mask).tolist()
