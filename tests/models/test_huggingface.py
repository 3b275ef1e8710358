"""Networks of transformers: the library's own answers, weights from a folder and the hub, bundles, training."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from huggingface_configs import SWIN, TINY, config
from terrazzo.base import Classes, InputError
from terrazzo.bundle import BundleClasses, BundleConfig, load_bundle, save_bundle
from terrazzo.data.augment import Keep
from terrazzo.losses import MaskClassification, build_loss, count
from terrazzo.models import HuggingFaceModel, build_model, self_contained
from terrazzo.models.huggingface import open_huggingface
from terrazzo.models.huggingface_nets import FAMILIES, QUERY_FAMILIES
from terrazzo.output import Output, Queries

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("road", "side walk", "tree", "sky", "car")
SIDE = 64


def library(kind: str, labels: tuple[str, ...] = CLASSES, **more: Any) -> Any:
    """The library's own network, its statistics and positions unlike any initial value."""
    import transformers

    torch.manual_seed(1)
    names = dict(enumerate(labels))
    settings = {key: value for key, value in (config(kind) | more).items() if key != "model_type"}
    made = transformers.AutoConfig.for_model(kind, **settings, id2label=names)
    model = getattr(transformers, FAMILIES[kind].library_class)(made).eval()
    for name, value in model.state_dict().items():
        if value.is_floating_point() and "attn_mask" not in name:
            value.add_(0.02 * torch.rand_like(value))
    return model


def published(folder: Path, kind: str, processor: dict[str, Any] | None = None, **more: Any) -> Any:
    model = library(kind, **more)
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def pictures(batch: int = 2, side: int = SIDE) -> Tensor:
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", TINY)
def test_the_answers_are_the_librarys(kind: str, tmp_path: Path) -> None:
    """At the library's own size, through its folder: logits, or queries, and semantic scores."""
    theirs = published(tmp_path, kind)
    opened = open_huggingface(str(tmp_path))
    assert opened.report.missing == opened.report.new == ()
    assert opened.facts.names == CLASSES
    with torch.no_grad():
        output = opened.segmenter(pictures())
        wanted = theirs(opened.segmenter.normalized(pictures()))
    if kind in QUERY_FAMILIES:
        assert output.queries is not None
        torch.testing.assert_close(output.queries.classes, wanted.class_queries_logits, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(output.queries.masks, wanted.masks_queries_logits, atol=2e-6, rtol=1e-5)
        assert torch.equal(output.logits, output.queries.scores())
        return
    logits, size = output.logits, wanted.logits.shape[2:]
    if logits.shape[2:] != size:  # UperNet and DPT enlarge theirs
        logits = functional.interpolate(logits, size, mode="bilinear", align_corners=output.align_corners)
    torch.testing.assert_close(logits, wanted.logits, atol=2e-6, rtol=1e-5)


def test_earlier_layers_are_those_that_the_library_trains(tmp_path: Path) -> None:
    theirs = published(tmp_path, "mask2former")
    segmenter = open_huggingface(str(tmp_path)).segmenter
    with torch.no_grad():
        queries = segmenter(pictures()).queries
        wanted = theirs(segmenter.normalized(pictures()), output_auxiliary_logits=True).auxiliary_logits
    assert len(queries.aux) == len(wanted) > 0
    for ours, layer in zip(queries.aux, wanted, strict=True):
        torch.testing.assert_close(ours.classes, layer["class_queries_logits"], atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(ours.masks, layer["masks_queries_logits"], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["eomt", "eomt_dinov3"])
def test_masks_that_faded_out_in_training_stay_out(kind: str, tmp_path: Path) -> None:
    """Published EoMT weights bring `attn_mask_probs` 0: no query is masked in training or afterwards."""
    theirs = library(kind)
    theirs.attn_mask_probs.zero_()
    theirs.save_pretrained(tmp_path)
    segmenter = open_huggingface(str(tmp_path)).segmenter
    with torch.no_grad():
        open_to_all = segmenter(pictures()).queries.masks
        wanted = theirs(segmenter.normalized(pictures())).masks_queries_logits
        torch.testing.assert_close(open_to_all, wanted, atol=2e-6, rtol=1e-5)
        segmenter.net.model.attn_mask_probs.fill_(1)
        assert not torch.allclose(segmenter(pictures()).queries.masks, open_to_all, atol=1e-6)


def test_earlier_names_of_tensors_are_known(tmp_path: Path) -> None:
    """Files on the hub are older than the library; it writes them by their first names, and so they are read."""
    from safetensors.torch import load_file

    published(tmp_path, "segformer")
    assert "decode_head.linear_c.0.proj.weight" in load_file(tmp_path / "model.safetensors")
    assert not open_huggingface(str(tmp_path)).report.missing


def test_pickled_and_cut_up_weights_are_read_and_unsafe_ones_refused(tmp_path: Path) -> None:
    model = library("segformer")
    model.save_pretrained(tmp_path / "parts", max_shard_size="30KB")
    assert len([*(tmp_path / "parts").glob("*.safetensors")]) > 1
    model.save_pretrained(tmp_path / "old")
    from safetensors.torch import load_file

    torch.save(load_file(tmp_path / "old" / "model.safetensors"), tmp_path / "old" / "pytorch_model.bin")
    (tmp_path / "old" / "model.safetensors").unlink()
    answers = [open_huggingface(str(tmp_path / name)).segmenter(pictures()).logits for name in ("parts", "old")]
    assert torch.equal(*answers)
    touched = tmp_path / "touched"
    torch.save({"a": Evil(str(touched))}, tmp_path / "old" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"(os|posix)\.system"):
        open_huggingface(str(tmp_path / "old"))
    assert not touched.exists()


class Evil:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


PROCESSOR = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_resize": True}
HALF = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]}


def test_the_processor_says_how_pixels_become_numbers_and_how_large_images_are(tmp_path: Path) -> None:
    from transformers import SegformerImageProcessor

    images = pictures(1)
    for number, said in enumerate(
        (
            PROCESSOR | HALF | {"size": {"height": 48, "width": 80}, "do_reduce_labels": True},
            PROCESSOR | {"image_mean": [120, 110, 100], "image_std": [50, 60, 70], "do_rescale": False, "size": 48},
            PROCESSOR | HALF | {"do_normalize": False, "size": {"shortest_edge": 32, "longest_edge": 96}},
        )
    ):
        folder = tmp_path / str(number)
        published(folder, "segformer", said)
        opened = open_huggingface(str(folder))
        given = {key: value for key, value in said.items() if key not in ("size", "do_resize", "do_reduce_labels")}
        wanted = SegformerImageProcessor(**given, do_resize=False)(
            images[0].permute(1, 2, 0).numpy(), return_tensors="pt"
        )
        torch.testing.assert_close(opened.segmenter.normalized(images), wanted["pixel_values"], atol=1e-5, rtol=1e-5)
        assert opened.facts.names == CLASSES
        sizes = opened.facts.exact, opened.facts.short, opened.facts.long
        assert sizes == [((48, 80), None, None), ((48, 48), None, None), (None, 32, 96)][number]


def test_mobilevit_wants_bgr_and_no_mean(tmp_path: Path) -> None:
    published(tmp_path, "mobilevit", {"do_flip_channel_order": True, "do_rescale": True, "rescale_factor": 1 / 255})
    images = pictures(1)
    seen = open_huggingface(str(tmp_path)).segmenter.normalized(images)
    torch.testing.assert_close(seen, images.flip(1).float() / 255)


def test_eomt_looks_through_windows_where_its_processor_does(tmp_path: Path) -> None:
    said = PROCESSOR | {"do_split_image": True, "size": {"shortest_edge": 64, "longest_edge": None}}
    published(tmp_path, "eomt", said)
    facts = open_huggingface(str(tmp_path)).facts
    assert (facts.short, facts.window) == (64, 64)


@pytest.mark.parametrize("kind", ["upernet", "mask2former"])
def test_other_classes_take_over_the_rows_of_the_same_names(kind: str, tmp_path: Path) -> None:
    theirs = published(tmp_path, kind)
    names = ("sky", "boat", "Side-Walk")
    segmenter, report = build_model(HuggingFaceModel(name=str(tmp_path)), 3, names=names)
    state, old = segmenter.state_dict(), theirs.state_dict()
    head = "class_predictor" if kind == "mask2former" else "auxiliary_head.classifier"
    ours, found = state[f"net.model.{head}.weight"], old[f"{head}.weight"]
    assert torch.equal(ours[[0, 2]], found[[3, 1]])
    assert not any(torch.equal(ours[1], row) for row in found)
    if kind == "mask2former":
        assert torch.equal(ours[3], found[5]), "no object"
    assert report is not None
    assert report.rows == ("sky", "side walk")
    assert report.missing == ()
    segmenter, report = build_model(HuggingFaceModel(name=str(tmp_path)), 2)
    assert report is not None
    assert all("classifier" in name or "class_predictor" in name for name in report.new)
    assert report.new


def test_images_of_other_channels_adapt_the_first_layer(tmp_path: Path) -> None:
    theirs = published(tmp_path, "eomt")
    segmenter, report = build_model(HuggingFaceModel(name=str(tmp_path)), 5, 1, names=CLASSES)
    name = "embeddings.patch_embeddings.projection.weight"
    summed = theirs.state_dict()[name].sum(1, keepdim=True)
    assert torch.equal(segmenter.state_dict()[f"net.model.{name}"], summed)
    assert report is not None
    assert report.adapted == (f"net.model.{name}",)


def test_settings_laid_over_a_published_config(tmp_path: Path) -> None:
    published(tmp_path, "segformer")
    with pytest.raises(InputError, match="segformer has no setting drop_path"):
        build_model(HuggingFaceModel(name=str(tmp_path), config={"drop_path": 0.5}), 5)
    segmenter, _ = build_model(HuggingFaceModel(name=str(tmp_path), config={"drop_path_rate": 0.5}), 5)
    assert segmenter.net.model.config.drop_path_rate == 0.5
    assert segmenter.net.model.config.hidden_sizes == TINY["segformer"]["hidden_sizes"]


@pytest.mark.parametrize("kind", TINY)
def test_a_bundle_needs_neither_folder_nor_hub(kind: str, tmp_path: Path) -> None:
    published(tmp_path / "there", kind)
    cfg = HuggingFaceModel(name=str(tmp_path / "there"))
    segmenter, _ = build_model(cfg, 5, names=CLASSES)
    for file in (tmp_path / "there").iterdir():
        file.unlink()
    kept = self_contained(cfg, segmenter)
    description = BundleConfig(
        model=kept, classes=BundleClasses.of(Classes.of(CLASSES)), normalization=segmenter.normalization, resize=Keep(),
        step=1, scores={}, version="0",
    )  # fmt: skip
    (tmp_path / "bundle").mkdir()
    save_bundle(tmp_path / "bundle", segmenter, description)
    again, read = load_bundle(tmp_path / "bundle")
    assert read.model == kept
    with torch.no_grad():
        assert torch.equal(again(pictures()).logits, segmenter.eval()(pictures()).logits)


REFUSALS = [
    ({}, "give name .* or a config with its model_type"),
    ({"config": {"model_type": "segformer"}}, "weights=pretrained are those of a name, and name is null"),
    (
        {"config": {"model_type": "bert"}, "weights": "none"},
        "model_type 'bert' is no network for semantic segmentation",
    ),
    (
        {"config": config("segformer", depth=3), "weights": "none"},
        "model.config: segformer has no setting depth; it has ",
    ),
    (
        {"config": config("upernet") | {"backbone_config": SWIN | {"embed_dims": 3}}, "weights": "none"},
        "model.config.backbone_config: swin has no setting embed_dims",
    ),
    (
        {"config": config("segformer", hidden_sizes=[7, 7, 7]), "weights": "none"},
        "transformers cannot build this segformer",
    ),
    ({"config": config("dpt", is_hybrid=True), "weights": "none"}, "cannot build this dpt"),
    ({"name": "EMPTY"}, "EMPTY has no config.json"),
    ({"name": "WRONG"}, "no weights of a eomt as configured|weights of another network"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSALS, ids=[sentence[:40] for _, sentence in REFUSALS])
def test_wrong_input_gets_a_sentence(options: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("EMPTY").mkdir()
    if options.get("name") == "WRONG":
        published(Path("WRONG"), "segformer")
        Path("WRONG/config.json").write_text(json.dumps(config("eomt")))
    with pytest.raises(ValueError, match=sentence):
        build_model(HuggingFaceModel(**options), 5)


def test_a_missing_library_is_named_with_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"needs the package transformers, .* pip install 'terrazzo\[transformers\]'"):
        build_model(HuggingFaceModel(config=config("segformer"), weights="none"), 5)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    queries = Queries(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4, 4))
    output, masks = Output(queries.scores(), queries=queries, are_scores=True), torch.zeros(1, 8, 8, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"by scipy, which is not installed: type pip install 'terrazzo\[trans"):
        build_loss((MaskClassification(),), Classes.of(["a", "b"]), auxiliary=0)(output, masks, count(masks))


@pytest.mark.parametrize("kind", TINY)
def test_training_after_inference_at_the_same_size(kind: str) -> None:
    """The library keeps tables that were made in inference mode, and those cannot be trained with."""
    segmenter, _ = build_model(HuggingFaceModel(config=config(kind), weights="none"), 5)
    with torch.inference_mode():
        segmenter.eval()(pictures())
    output = segmenter.train()(pictures())
    sum(logits.sum() for logits in (output.logits, *output.aux)).backward()


def squares(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Images with one coloured square each on grey, and their masks."""
    random = torch.Generator().manual_seed(3)
    colors = torch.tensor([[90, 90, 90], [220, 40, 40], [40, 200, 60]], dtype=torch.uint8)
    masks = torch.zeros(count, side, side, dtype=torch.uint8)
    for index in range(count):
        top, left = torch.randint(0, side // 2, (2,), generator=random).tolist()
        masks[index, top : top + side // 2, left : left + side // 2] = 1 + index % 2
    return colors[masks.long()].permute(0, 3, 1, 2).contiguous(), masks


@pytest.mark.parametrize("kind", ["mask2former", "eomt"])
def test_a_query_network_learns_four_images_by_heart(kind: str) -> None:
    from terrazzo.kernels import confusion

    torch.manual_seed(0)
    small = {"drop_path_rate": 0.0} if kind == "eomt" else {"backbone_config": SWIN | {"drop_path_rate": 0.0}}
    segmenter, _ = build_model(HuggingFaceModel(config=config(kind, **small), weights="none"), 3)
    images, masks = squares(4, 64)
    loss = build_loss((MaskClassification(points=128),), Classes.of(["none", "red", "green"]), auxiliary=0)
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=6e-3)
    segmenter.train()
    for _ in range(45):
        optimizer.zero_grad()
        loss(segmenter(images), masks, count(masks)).backward()
        optimizer.step()
    with torch.inference_mode():
        output = segmenter.eval()(images)
        matrix = confusion(output.logits, masks, output.covers).double()
    shared = matrix.diag() / (matrix.sum(0) + matrix.sum(1) - matrix.diag())
    assert shared.mean() > 0.8, shared


CLIENT = """
import json, sys
from terrazzo.base import InputError
from terrazzo.models import HuggingFaceModel, build_model
from terrazzo.models.huggingface import open_huggingface
answers = {}

def tried(name, **options):
    try:
        segmenter, report = build_model(HuggingFaceModel(name=name, **options), 5)
        answers[name] = [str(report), segmenter.normalization.model_dump(mode="json")]
    except InputError as error:
        answers[name] = str(error)

tried("nvidia/small")
tried("nvidia/absent")
tried("nvidia/gated")
tried("no such name")
tried("nvidia/bare")
tried("nvidia/bert")
answers["names"] = open_huggingface("nvidia/small").facts.names
print(json.dumps(answers))
"""


def test_a_repository_of_the_hub(tmp_path: Path) -> None:
    """In a fresh process, from a hub that speaks Hugging Face's protocol."""
    hub = tmp_path / "hub"
    published(hub / "nvidia/small", "segformer", PROCESSOR | HALF)
    published(hub / "nvidia/gated", "segformer")
    for name, said in (("bare", {"model_type": "segformer"}), ("bert", {"model_type": "bert"})):
        (hub / f"nvidia/{name}").mkdir()
        (hub / f"nvidia/{name}/config.json").write_text(json.dumps(said))
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parents[1] / "fakehub.py"), str(hub)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        port = server.stdout.readline().strip()
        places = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "home")}
        quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-W", "error", "-c", CLIENT]
        environment = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"} | places | quiet
        client = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()
    assert client.returncode == 0, client.stderr
    answers = json.loads(client.stdout.splitlines()[-1])
    report, normalization = answers.pop("nvidia/small")
    assert report.startswith("weights from nvidia/small: ")
    assert ", 0 adapted, 0 missing, 0 unused" in report
    assert normalization["mean"] == HALF["image_mean"]
    assert answers.pop("names") == list(CLASSES)
    for name, sentence in (
        ("nvidia/absent", "no such folder, and no such repository on the hub"),
        ("nvidia/gated", "is open only to those who accepted its terms"),
        ("no such name", "no such folder, and no such repository on the hub"),
        ("nvidia/bare", "nvidia/bare: no weights; expected model.safetensors or pytorch_model.bin"),
        ("nvidia/bert", "model_type 'bert' is no network for semantic segmentation"),
    ):
        assert sentence in answers[name], name
