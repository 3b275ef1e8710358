"""The zoo in a recipe: names, weights from files and downloads, heads for other classes, bundles without the file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import terrazzo
from terrazzo.base import IMAGENET, InputError
from terrazzo.bundle import load_bundle
from terrazzo.models import build_model, has_auxiliary_heads
from terrazzo.models.zoo import ZooModel, open_published
from terrazzo.published.networks import espnet, fast_scnn, segformer_mit
from test_engine_options import CLASSES, Noise, recipe
from zoo_server import ZooServer, published

NAME = "fast_scnn_8xb4-160k_cityscapes-512x1024"
THEIRS = ("road", "Traffic_Light", "sky", "tree")


def network_file(folder: Path, meta: dict[str, Any] | None = None, classes: int = 4) -> Path:
    """A checkpoint of Fast-SCNN in the form of MMSegmentation, no tensor of it as any network begins."""
    torch.manual_seed(1)
    state = fast_scnn.build("fast_scnn", classes).state_dict()
    state = {key: tensor + 0.1 * torch.rand_like(tensor.float()) for key, tensor in state.items()}
    path = folder / "fast_scnn_mine.pth"
    torch.save({"state_dict": state, "meta": meta or {}}, path)
    return path


def state_of(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "cache"))
    with published(tmp_path / "served", monkeypatch) as found:
        yield found


def images(side: int = 64) -> Tensor:
    return torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_rows_of_the_head_are_taken_over_by_name(tmp_path):
    path = network_file(tmp_path, {"CLASSES": THEIRS})
    torch.manual_seed(0)
    cfg = ZooModel(name="fast_scnn", weights=path)
    segmenter, report = build_model(cfg, 3, names=("sky", "traffic light", "cow"))
    torch.manual_seed(0)
    fresh = build_model(cfg.model_copy(update={"weights": "none"}), 3)[0].state_dict()
    theirs, ours = state_of(path), segmenter.state_dict()
    for head in ("decode_head", "auxiliary_head.0", "auxiliary_head.1"):
        for kind in ("weight", "bias"):
            given, taken = theirs[f"{head}.conv_seg.{kind}"], ours[f"net.{head}.conv_seg.{kind}"]
            assert torch.equal(taken[:2], given[[2, 1]])
            assert torch.equal(taken[2], fresh[f"net.{head}.conv_seg.{kind}"][2])
    assert torch.equal(ours["net.auxiliary_head.0.convs.0.bn.weight"], theirs["auxiliary_head.0.convs.0.bn.weight"])
    assert report is not None
    assert report.rows == ("sky", "Traffic_Light")
    assert len(report.loaded) == len(theirs) - 6
    assert "2 classes taken over by name" in str(report)


@pytest.mark.parametrize(
    ("meta", "classes", "names", "options", "kept"),
    [
        ({"CLASSES": THEIRS}, 4, THEIRS, {}, True),
        ({"CLASSES": THEIRS}, 4, THEIRS, {"head": "new"}, False),
        ({"CLASSES": THEIRS}, 4, ("a", "b", "c", "d"), {}, False),
        ({"CLASSES": THEIRS}, 5, (), {}, False),
        ({}, 4, ("a", "b", "c", "d"), {}, True),
        ({}, 3, ("a", "b", "c"), {}, False),
    ],
)
def test_when_a_head_is_kept_whole_and_when_it_starts_anew(tmp_path, meta, classes, names, options, kept):
    path = network_file(tmp_path, meta)
    segmenter, report = build_model(ZooModel(name="fast_scnn", weights=path, **options), classes, names=names)
    whole, given = (
        segmenter.state_dict()["net.decode_head.conv_seg.weight"],
        state_of(path)["decode_head.conv_seg.weight"],
    )
    assert (whole.shape == given.shape and torch.equal(whole, given)) == kept
    assert report is not None
    assert len(report.new) == len(report.unused) == (0 if kept else 6)
    assert ("6 new for other classes" in str(report)) != kept


@pytest.mark.parametrize("head", ["by_name", "new"])
def test_a_published_result_is_downloaded_trained_and_loaded_again_without_its_file(tmp_path, server: ZooServer, head):
    checkpoint = torch.load(network_file(tmp_path, {"CLASSES": (*CLASSES.names, "more")}), weights_only=True)
    server.publish_network(NAME, checkpoint)
    model = {"kind": "zoo", "name": NAME, "head": head}
    tree = recipe(tmp_path / "run", model=model, length={"steps": 1}, augment={"crop": 64}, batch=2)
    assert terrazzo.train(tree, train_set=Noise(4, 0), val_set=Noise(2, 1)).finished
    report = (tmp_path / "run/weights.txt").read_text()
    assert ("3 classes taken over by name" in report) is (head == "by_name")
    for kept in (tmp_path / "cache").rglob("*.pth"):
        kept.unlink()
    server.status = 404
    segmenter, config = load_bundle(tmp_path / "run/checkpoints/last")
    assert isinstance(config.model, ZooModel)
    assert (config.model.name, config.normalization, segmenter.stride) == (NAME, IMAGENET, 1)
    weights = {key: value for key, value in segmenter.net.named_parameters() if value.ndim > 1}
    assert not [
        key for key, value in weights.items() if torch.equal(value, checkpoint["state_dict"][key][: len(value)])
    ]


def test_a_file_is_opened_with_its_own_classes_colours_and_labels(tmp_path):
    colors = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0]]
    meta = {"dataset_meta": {"classes": THEIRS, "palette": colors, "reduce_zero_label": True}, "iter": 9}
    opened = open_published(network_file(tmp_path, meta))
    assert (opened.classes.names, opened.classes.colors[1]) == (THEIRS, (4, 5, 6))
    assert (opened.classes.ids, opened.classes.ignore_id) == ((1, 2, 3, 4), 0)
    assert (opened.named, opened.step, opened.config.name) == (True, 9, "fast_scnn")
    assert (opened.report.missing, opened.report.unused, opened.report.new) == ((), (), ())
    again = build_model(opened.config, 4, pretrained=False)[0].eval()
    again.load_state_dict(opened.segmenter.state_dict())
    with torch.inference_mode():
        assert torch.equal(again(images()).logits, opened.segmenter(images()).logits)


def test_a_file_without_names_has_numbered_classes(tmp_path):
    opened = open_published(network_file(tmp_path))
    assert (opened.classes.names, opened.named, opened.scale, opened.crop) == (
        ("class_0", "class_1", "class_2", "class_3"),
        *(False, None, None),
    )


def test_a_published_name_is_opened_by_itself(tmp_path, server: ZooServer):
    server.publish_network(NAME, torch.load(network_file(tmp_path, {"CLASSES": THEIRS}), weights_only=True))
    opened = open_published(NAME.upper())
    assert (opened.config.name, opened.classes.names) == (NAME, THEIRS)


def test_the_files_own_config_says_which_network_it_is_and_how_it_was_tested(shared_parity):
    opened = open_published(shared_parity / "runner_saved_segformer_mit-b0_3iters.pth")
    assert opened.config.name.startswith("segformer_mit-b0")
    assert len(opened.classes) == 11
    assert opened.step == 3


def test_espnets_decoder_keeps_its_width_for_other_classes(tmp_path):
    path = tmp_path / "espnet_p_2_q_8_camvid.pth"
    torch.save(espnet.build("espnet_p_2_q_8_camvid", 12).state_dict(), path)
    cfg = ZooModel(name="espnet_p_2_q_8_camvid", weights=path)
    segmenter, report = build_model(cfg, 2, names=("Car", "Boat"))
    assert report is not None
    assert report.rows == ("Car",)
    assert segmenter.normalization.channel_order == "bgr"
    given, taken = (
        torch.load(path, weights_only=True)["classifier.weight"],
        segmenter.state_dict()["net.classifier.weight"],
    )
    assert torch.equal(taken[:, 0], given[:, 8])
    narrow = espnet.build(replace(espnet.VARIANTS["espnet_p_2_q_8_camvid"], width=5), 3)
    torch.save(narrow.state_dict(), path)
    assert open_published(path).classes.names == ("class_0", "class_1", "class_2")
    with pytest.raises(InputError, match=r"is a espnet_p_2_q_8_camvid of other sizes: .*width=5"):
        build_model(cfg, 3)


def test_grey_images_get_an_adapted_first_layer(tmp_path):
    path = network_file(tmp_path)
    segmenter, report = build_model(ZooModel(name="fast_scnn", weights=path), 4, 1)
    first = "backbone.learning_to_downsample.conv.conv.weight"
    assert report is not None
    assert report.adapted == (f"net.{first}",)
    torch.testing.assert_close(segmenter.state_dict()[f"net.{first}"], state_of(path)[first].sum(1, keepdim=True))


def test_auxiliary_heads_are_told_from_edge_heads():
    told = {name: has_auxiliary_heads(ZooModel(name=name, weights="none")) for name in ("stdc1", "segformer_mit-b0")}
    assert told == {"stdc1": True, "segformer_mit-b0": False}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"name": "segformer_mit-b9"},
            "no published network is called 'segformer_mit-b9'; did you mean segformer_mit-b",
        ),
        ({"name": "san-vit-b16_coco-stuff164k-640x640"}, "cannot run: terrazzo lacks SAN's side adapter"),
        ({"name": "fast_scnn"}, r"is an architecture, and weights=pretrained needs a published result \(fast_scnn_"),
        ({"name": "fast_scnn", "weights": "none", "head": "new"}, "head=new with weights=none would change nothing"),
        ({"name": "fast_scnn", "wieghts": "none"}, "Extra inputs"),
    ],
)
def test_wrong_settings_get_a_sentence(options, words):
    with pytest.raises(ValidationError, match=words):
        ZooModel(**options)


def test_wrong_files_get_a_sentence(tmp_path):
    path = network_file(tmp_path)
    with pytest.raises(InputError, match=r"fast_scnn_mine\.pth: no classifier of stdc1|does not fit stdc1"):
        build_model(ZooModel(name="stdc1", weights=path), 4)
    with pytest.raises(InputError, match=r"gone\.pth: no such file"):
        build_model(ZooModel(name="stdc1", weights=tmp_path / "gone.pth"), 4)
    with pytest.raises(InputError, match="fast_scnn is an architecture; its weights are needed too: a file"):
        open_published("fast_scnn")
    with pytest.raises(InputError, match="fast_skn: no such file, and no published result is called so; "):
        open_published("fast_skn")
    with pytest.raises(InputError, match="cannot run: terrazzo lacks SAN's side adapter"):
        open_published("san-vit-b16_coco-stuff164k-640x640")


def test_a_batch_of_one_image_that_batchnorm_cannot_take_is_explained(tmp_path):
    model = {"kind": "zoo", "name": "pspnet_r18-d8", "weights": "none"}
    tree = recipe(tmp_path / "run", model=model, length={"steps": 1}, augment={"crop": 32}, batch=1)
    with pytest.raises(InputError, match=r"average over a whole image .* holds 1 image .*: give batch"):
        terrazzo.train(tree, train_set=Noise(4, 0), val_set=Noise(2, 1))


def test_the_authors_head_under_a_published_name_is_named(tmp_path):
    from terrazzo.published.networks import segformer_paper

    path = tmp_path / "weights.pth"
    torch.save(segformer_paper.build("segformer.b0", 3).state_dict(), path)
    assert open_published(path, "segformer_mit-b0").config.name == "segformer.b0"
    with pytest.raises(InputError, match=r"weights\.pth is a segformer\.b0; type model\.name=segformer\.b0"):
        build_model(ZooModel(name="segformer_mit-b0", weights=path), 3)
    torch.save(segformer_mit.build("segformer_mit-b0", 3).state_dict(), path)
    assert build_model(ZooModel(name="segformer_mit-b0", weights=path), 3)[1] is not None
