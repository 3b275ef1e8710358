"""Pictures of masks: exact where they carry values, present and well formed where they are for looking at."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from terrazzo.base import IGNORE, Classes, InputError
from terrazzo.infer import draw

CLASSES = Classes.of({"road": (10, 20, 30), "sky": (200, 100, 50), "tree": (0, 255, 0)})
MASK = np.array([[0, 1, 1], [2, IGNORE, 0]], np.uint8)
IMAGE = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


def test_colors_are_the_classes_own() -> None:
    picture = draw.colorize(MASK, CLASSES)
    assert picture[0].tolist() == [[10, 20, 30], [200, 100, 50], [200, 100, 50]]
    assert picture[1, 1].tolist() == list(draw.IGNORE_COLOR)


def test_a_palette_file_keeps_ids_and_colors(tmp_path: Path) -> None:
    draw.palette_image(MASK, CLASSES).save(tmp_path / "mask.png")
    read = PIL.Image.open(tmp_path / "mask.png")
    assert read.mode == "P"
    assert np.array_equal(np.asarray(read), MASK)
    assert np.array_equal(np.asarray(read.convert("RGB")), draw.colorize(MASK, CLASSES))


@pytest.mark.parametrize("opacity", [0.0, 0.3, 1.0])
def test_an_overlay_blends_and_leaves_ignored_pixels_alone(opacity: float) -> None:
    blend = (1 - opacity) * IMAGE + opacity * draw.colorize(MASK, CLASSES)
    blend[MASK == IGNORE] = IMAGE[MASK == IGNORE]
    assert np.abs(draw.overlay(IMAGE, MASK, CLASSES, opacity) - blend).max() <= 0.51


def test_an_opacity_or_a_size_that_cannot_be_is_said() -> None:
    with pytest.raises(InputError, match=r"opacity is 50; give a number from 0 .* to 1"):
        draw.overlay(IMAGE, MASK, CLASSES, 50)
    with pytest.raises(InputError, match=r"image is 3 x 2 pixels .* mask 2 x 2"):
        draw.overlay(IMAGE, MASK[:, :2], CLASSES)


def test_an_error_map_shows_wrong_right_and_ignored_pixels() -> None:
    prediction = MASK.copy()
    prediction[0, 0], prediction[1, 1] = 1, 2
    errors = draw.error_map(IMAGE, MASK, prediction)
    assert errors[0, 0].tolist() == list(draw.WRONG_COLOR)
    assert errors[1, 1].tolist() == list(draw.IGNORE_COLOR)
    right = errors[0, 1:]
    assert (right == right[..., :1]).all(), "right pixels are grey"


def test_shares_count_all_but_ignored_pixels() -> None:
    assert draw.shares([MASK], CLASSES) == [(0, 0.4), (1, 0.4), (2, 0.2)]
    assert draw.shares([MASK, MASK[:1]], CLASSES) == [(1, 0.5), (0, 0.375), (2, 0.125)]
    assert draw.shares([np.full((2, 2), IGNORE, np.uint8)], CLASSES) == []
    assert draw.shares([], CLASSES) == []


@pytest.mark.parametrize(("share", "text"), [(0.0, "0.0 %"), (0.0004, "<0.1 %"), (0.1234, "12.3 %"), (1.0, "100.0 %")])
def test_percent(share: float, text: str) -> None:
    assert draw.percent(share) == text


def test_a_legend_has_a_chip_of_each_class_in_the_mask() -> None:
    picture = draw.legend([(0, 0.7), (1, 0.3)], CLASSES, width=300)
    assert picture.shape[1] == 300
    colors = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
    assert {(10, 20, 30), (200, 100, 50)} <= colors
    assert (0, 255, 0) not in colors


def test_a_legend_breaks_lines_and_widens_only_for_one_long_entry() -> None:
    every = [(k, 1 / 3) for k in range(3)]
    wide, narrow, tiny = (draw.legend(every, CLASSES, width) for width in (600, 150, 1))
    assert wide.shape[0] < narrow.shape[0]
    assert narrow.shape[1] == 150
    assert 1 < tiny.shape[1] < 150


@pytest.mark.parametrize("name", ["空", "дорога", "a\nb\tc", "<b>", "$x", "", "long " * 100])
def test_any_name_can_be_drawn(name: str) -> None:
    classes = Classes.of([name])
    picture = draw.with_legend(IMAGE, [np.zeros((2, 3), np.uint8)], classes)
    assert picture.shape[0] > 2
    assert np.array_equal(picture[:2, :3], IMAGE)


def test_a_legend_has_a_chip_for_pixels_that_are_not_labelled() -> None:
    def has_chip(mask: np.ndarray) -> bool:
        below = draw.with_legend(IMAGE, [mask], CLASSES)[2:]
        return bool((below == draw.IGNORE_COLOR).all(axis=2).sum() > 50)

    assert has_chip(MASK)
    assert has_chip(np.full_like(MASK, IGNORE))
    assert not has_chip(np.zeros_like(MASK))


def test_a_legend_of_nothing_says_so() -> None:
    assert draw.legend([], CLASSES, 200).min() < 100


def test_pictures_side_by_side_keep_their_pixels() -> None:
    low, high = IMAGE[:1], IMAGE
    row = draw.side_by_side([low, high], gap=4)
    assert row.shape == (2, 10, 3)
    assert np.array_equal(row[:1, :3], low)
    assert np.array_equal(row[:, 7:], high)
    assert (row[1, :3] == 255).all()
    assert (row[:, 3:7] == 255).all()


def test_a_panel_shows_image_truth_and_prediction() -> None:
    prediction = np.zeros_like(MASK)
    panel = draw.panel(IMAGE, MASK, prediction, CLASSES)
    assert np.array_equal(panel[:2, :3], IMAGE)
    assert np.array_equal(panel[:2, 11:14], draw.colorize(MASK, CLASSES))
    assert np.array_equal(panel[:2, 22:25], draw.colorize(prediction, CLASSES))


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_any_number_of_channels_can_be_looked_at(channels: int) -> None:
    image = np.repeat(IMAGE[..., :1], channels, axis=2)
    assert np.array_equal(draw.as_rgb(image), np.repeat(IMAGE[..., :1], 3, axis=2))
    assert draw.as_rgb(IMAGE[..., 0]).shape == (2, 3, 3)


def test_the_font_that_has_a_box_for_every_letter_is_not_taken() -> None:
    private = chr(0xF8FE) + chr(0x10FFFD)
    assert "LastResort" not in draw.font_file(private).name
    assert draw.font_file("plain") == draw.font_file("дорога")
