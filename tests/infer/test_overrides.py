"""How a trained model looks at pictures: kept in its bundle, changed by `--set` for one evaluation or prediction."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import terrazzo
from terrazzo.base import Classes, InputError, Sample
from terrazzo.bundle import BundleClasses, BundleConfig, load_bundle, save_bundle
from terrazzo.cli import main
from terrazzo.config import EvaluationConfig, RunConfig, config_of, inference_with
from terrazzo.data import OwnData
from terrazzo.data.augment import Keep, ShortSide
from terrazzo.infer.answer import InferenceConfig
from terrazzo.infer.tiles import WindowConfig
from terrazzo.infer.tta import TtaConfig
from terrazzo.models import UNetModel, build_model

CLASSES = Classes.of(["a", "b", "c"])
UNET = UNetModel(width=4, depth=2, norm="group")


class Noise:
    """Three pictures with random truth, of odd sizes."""

    classes = CLASSES

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        size = 41 + 8 * index, 67
        image, mask = rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, 3, size, np.uint8)
        return Sample(image, mask, f"noise-{index}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained network that was validated through windows of 32 pixels."""
    folder = tmp_path_factory.mktemp("bundle")
    save(folder, window=WindowConfig(size=32))
    return folder


def save(folder: Path, window: WindowConfig | None = None, tta: TtaConfig | None = None) -> None:
    torch.manual_seed(0)
    segmenter, _ = build_model(UNET, 3)
    seen = segmenter(torch.from_numpy(Noise()[0].image).permute(2, 0, 1)[None]).logits
    segmenter.net.head.bias.data -= seen.detach().mean((0, 2, 3))  # else one class wins everywhere
    config = BundleConfig(
        model=UNET,
        classes=BundleClasses.of(CLASSES),
        normalization=segmenter.normalization,
        resize=Keep(),
        window=window,
        tta=tta or TtaConfig(),
        step=1,
        scores={},
        version="test",
    )
    save_bundle(folder, segmenter, config)


def scored(bundle: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    recipe = RunConfig(data=OwnData(), model=UNET)
    result = terrazzo.evaluate(bundle, data=recipe, dataset=Noise(), split="val", overrides=overrides, device="cpu")
    assert isinstance(result, dict)
    return result


def test_the_bundle_keeps_window_and_copies(tmp_path: Path) -> None:
    window, tta = WindowConfig(size=(16, 32), blend="mean"), TtaConfig(flip="both", scales=(0.5, 1.0))
    save(tmp_path, window, tta)
    _, config = load_bundle(tmp_path)
    assert config.inference == InferenceConfig(window=window, tta=tta)
    assert terrazzo.load(tmp_path).inference == config.inference


def test_a_run_keeps_its_window_and_its_report_shows_the_cost(tmp_path: Path) -> None:
    tree = {
        "data": {"kind": "own", "workers": 0},
        "model": {"kind": "unet", "width": 2, "depth": 1, "norm": "group"},
        "augment": {"crop": 16},
        "evaluation": {"window": {"size": 32}, "tta": {"flip": "vertical"}},
        "length": {"steps": 1},
        "batch": 1,
        "device": "cpu",
        "out": str(tmp_path / "run"),
    }
    terrazzo.train(tree, train_set=Noise(), val_set=Noise())
    expected = InferenceConfig(window=WindowConfig(size=32), tta=TtaConfig(flip="vertical"))
    assert terrazzo.load(tmp_path / "run").inference == expected
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    for text in ("convolutions and matrix products at 1x3x32x32", "GMACs", "of them run", "10 to 90 % of", "MiB"):
        assert text in page, text


def test_a_bundle_from_before_there_were_windows_loads(bundle: Path, tmp_path: Path) -> None:
    tree = json.loads((bundle / "config.json").read_text())
    del tree["window"], tree["tta"]
    (tmp_path / "config.json").write_text(json.dumps(tree))
    (tmp_path / "model.safetensors").write_bytes((bundle / "model.safetensors").read_bytes())
    assert load_bundle(tmp_path)[1].inference == InferenceConfig()


def test_a_recipe_names_window_and_copies() -> None:
    tree = {
        "data": {"kind": "own"},
        "model": {"kind": "unet"},
        "evaluation": {"window": {"size": [32, 64]}, "tta": {"flip": "horizontal"}},
    }
    expected = EvaluationConfig(window=WindowConfig(size=(32, 64)), tta=TtaConfig(flip="horizontal"))
    assert config_of(tree).evaluation == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], InferenceConfig(window=WindowConfig(size=32, batch=2))),
        (["window=null"], InferenceConfig()),
        (["window.size=64"], InferenceConfig(window=WindowConfig(size=64, batch=2))),
        (["window={size: [8, 9]}"], InferenceConfig(window=WindowConfig(size=(8, 9)))),
        (["window=null", "tta.scales=[1, 2]"], InferenceConfig(tta=TtaConfig(scales=(1, 2)))),
        (
            ["resize={kind: short_side, pixels: 8}", "window=null"],
            InferenceConfig(resize=ShortSide(pixels=8)),
        ),
    ],
)
def test_overrides_are_laid_over_what_the_bundle_holds(overrides: list[str], expected: InferenceConfig) -> None:
    assert inference_with(InferenceConfig(window=WindowConfig(size=32, batch=2)), overrides) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("window.siz=3", r"window\.siz: there is no such key \(did you mean 'size'\?\)"),
        ("window.overlap=1", r"window\.size: this key is missing|window\.overlap: Input should be less than 1"),
        ("tta.flip=diagonal", r"^tta\.flip: "),
        ("tta.scales=[]", r"^tta\.scales: "),
        ("score_at=network", r"^score_at: there is no such key"),
        ("window", r"not of the form key=value"),
    ],
)
def test_an_impossible_override_is_one_sentence(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inference_with(InferenceConfig(), [override])


def test_evaluation_uses_and_tells_the_window(bundle: Path) -> None:
    own, none, flipped = scored(bundle), scored(bundle, ["window=null"]), scored(bundle, ["tta.flip=horizontal"])
    assert own["protocol"]["window"]["size"] == 32
    assert own["protocol"]["tta"] is None
    assert none["protocol"]["window"] is None
    assert flipped["protocol"]["tta"]["flip"] == "horizontal"
    matrices = [np.array(result["confusion"]) for result in (own, none, flipped)]
    assert len({matrix.sum() for matrix in matrices}) == 1
    assert (matrices[0] != matrices[1]).any()
    assert (matrices[0] != matrices[2]).any()
    masks = [terrazzo.load(bundle)(Noise()[index].image).mask for index in range(3)]
    assert sum((mask == Noise()[index].mask).sum() for index, mask in enumerate(masks)) == matrices[0].trace()


def test_a_prediction_through_windows_can_be_sent_to_another_process(bundle: Path) -> None:
    for overrides in ([], ["window=null"]):
        prediction = terrazzo.load(bundle, overrides=overrides, device="cpu")(Noise()[0].image)
        again = pickle.loads(pickle.dumps(prediction))
        assert np.array_equal(again.mask, prediction.mask)
        assert np.array_equal(again.probabilities(), prediction.probabilities())


def test_the_command_line_sets_the_window(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PIL.Image.fromarray(Noise()[2].image).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    arguments = ["predict", str(bundle), "a.png", "--out", "out", "--device", "cpu", "--probabilities"]
    for extra in ([], ["--set", "window=null", "--set", "tta.flip=vertical"]):
        monkeypatch.setattr("sys.argv", ["terrazzo", *arguments, *extra])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        found = np.load(tmp_path / "out/probabilities/a.npz")["probabilities"]
        overrides = extra[1::2]
        expected = terrazzo.load(bundle, overrides=overrides, device="cpu")(Noise()[2].image).probabilities()
        assert np.array_equal(found, expected)
