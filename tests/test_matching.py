"""A network's outputs and a data set's classes: which stands for which, and what a prediction of none of them is."""

import numpy as np
import pytest
import torch
from torch import nn

from terrazzo.base import IGNORE, Classes, InputError, Normalization, Sample
from terrazzo.commands.evaluate import score_dataset
from terrazzo.config import EvaluationConfig
from terrazzo.engine.world import World
from terrazzo.metrics import Tally, cityscapes, idd, match_classes
from terrazzo.models import Segmenter

CITY = Classes.of(["road", "car", "sky"])


def test_the_same_classes_are_themselves() -> None:
    match = match_classes(CITY, CITY, "net")
    assert match.is_identity
    assert match.by == "name"
    found = torch.tensor([[0, 2]], dtype=torch.uint8)
    assert match.in_classes(found) is found


def test_names_are_found_in_another_order_and_spelling_and_others_are_misses() -> None:
    network = Classes.of(["background", "Traffic_Light", "tv/monitor", "road", "void"])
    data = Classes.of(["road", "tvmonitor", "traffic light"])
    match = match_classes(network, data, "net")
    assert match.answers == (3, 2, 1)
    assert match.others == ("background", "void")
    found = torch.tensor([[0, 1, 2, 3, 4, IGNORE]], dtype=torch.uint8)
    assert match.in_classes(found).tolist() == [[3, 2, 1, 0, 3, IGNORE]]
    assert match.in_classes(found).dtype == torch.uint8
    assert match.as_dict() == {
        "by": "name",
        "classes": {"road": "road", "tvmonitor": "tv/monitor", "traffic light": "Traffic_Light"},
        "others": ["background", "void"],
    }


def test_a_name_that_two_others_could_be_is_none_of_them() -> None:
    network = Classes.of(["cars", "a-b", "ab"])
    assert match_classes(network, Classes.of(["ab", "a-b"]), "net").answers == (2, 1)
    with pytest.raises(InputError, match=r"only the data has \['A B'\]"):
        match_classes(network, Classes.of(["A B"]), "net")


def test_outputs_without_names_are_taken_in_their_order() -> None:
    network = Classes.of(["class_0", "class_1", "class_2", "class_3"])
    match = match_classes(network, CITY, "net", named=False)
    assert (match.by, match.answers, match.others) == ("order", (0, 1, 2), ("class_3",))
    with pytest.raises(InputError, match="has 4 classes and the data 5; in their order, the last 1 have no output"):
        match_classes(network, Classes.of("abcde"), "net", named=False)
    with pytest.raises(InputError, match="--match order"):
        match_classes(network, CITY, "net", named=False, by="name")


def test_other_names_are_refused_unless_their_order_is_asked_for() -> None:
    network = Classes.of(["street", "vehicle", "sky"])
    with pytest.raises(InputError, match=r"only the model has \['street', 'vehicle'\].*--match order"):
        match_classes(network, CITY, "net")
    assert match_classes(network, CITY, "net", by="order").answers == (0, 1, 2)
    with pytest.raises(InputError) as few:
        match_classes(Classes.of(["sky"]), CITY, "net")
    assert "order" not in str(few.value)


def test_254_outputs_and_classes_fit_into_a_byte() -> None:
    names = [f"c{k}" for k in range(254)]
    match = match_classes(Classes.of([*names[1:], "other"]), Classes.of(names[1:]), "net")
    assert match.table[253] == 253
    assert match.table[IGNORE] == IGNORE


@pytest.mark.parametrize("boundary", [None, 0.05])
def test_a_predicted_void_is_a_miss_of_the_true_class(boundary: float | None) -> None:
    tally = Tally(CITY, boundary=boundary, void=True)
    truth = np.array([[0, 0, 1, 1, 2, IGNORE]], np.uint8)
    found = np.array([[0, 3, 1, 0, 3, 3]], np.uint8)
    tally.add(found, truth)
    scores = tally.scores()
    assert scores.pixels.tolist() == [2, 2, 1]
    assert scores.iou.tolist() == [1 / 3, 1 / 2, 0]
    assert scores.accuracy == 2 / 5
    result = tally.result()
    assert result["predicted_void"] == 2
    assert "none of the classes" in result["protocol"]["void"]
    assert np.array(result["confusion"]).shape == (3, 3)


@pytest.mark.parametrize(("protocol", "classes"), [("cityscapes", cityscapes.CLASSES), ("idd", idd.CLASSES)])
def test_the_protocols_with_a_void_of_their_own_count_it_so_too(protocol: str, classes: Classes) -> None:
    tally = Tally(classes, protocol, void=True)  # type: ignore[arg-type]
    truth = np.zeros((720, 1280), np.uint8)
    truth[:10] = IGNORE
    found = np.zeros_like(truth)
    found[:, :640] = len(classes)
    tally.add(tally.file_ids(found), tally.file_ids(truth))
    assert tally.scores().iou[0] == 0.5
    assert tally.result()["predicted_void"] == 710 * 640


class Painted:
    """Pictures whose first channel is the class, with truth of another class list."""

    classes = Classes.of(["b", "a"])

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        image = np.zeros((8, 9, 3), np.uint8)
        image[:, :3] = 1  # b
        image[:, 6:] = 2  # no class of the data
        mask = np.where(image[..., 0] == 1, 0, 1).astype(np.uint8)
        return Sample(image, mask, str(index))


def test_scores_of_a_network_with_other_outputs_are_those_of_a_loop_over_pixels() -> None:
    class Reader(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return -(images[:, :1] - torch.arange(3.0).view(1, 3, 1, 1)).abs()

    plain = Normalization(mean=(0, 0, 0), std=(1, 1, 1), max_value=255)
    match = match_classes(Classes.of(["a", "b", "c"]), Painted.classes, "net")
    segmenter = Segmenter(Reader(), normalization=plain, stride=1)
    alone = World(0, 1, torch.device("cpu"))
    evaluated = score_dataset(segmenter, Painted(), EvaluationConfig(), world=alone, match=match)
    scores = evaluated.tally.scores()
    assert scores.iou.tolist() == [1, 0.5]
    assert scores.confusion.tolist() == [[48, 0], [0, 48]]
    assert evaluated.tally.result()["predicted_void"] == 48
    assert [image.miou for image in evaluated.images] == [0.75, 0.75]
