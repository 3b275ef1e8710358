"""Pretrained weights through the libraries' own loaders, from a small hub that speaks Hugging Face's protocol."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def noisy(module: nn.Module) -> dict[str, Tensor]:
    """A state dict in which every number is unlike any initial value."""
    return {
        name: value + 0.01 * torch.rand_like(value) if value.is_floating_point() else value.clone()
        for name, value in module.state_dict().items()
    }


CLIENT = """
import json, sys, torch
from safetensors.torch import load_file
from terrazzo.base import InputError
from terrazzo.models import SmpModel, TimmModel, build_model
hub, answers = sys.argv[1], {}

def build(name, channels=3, kind=SmpModel, **options):
    torch.manual_seed(3)
    segmenter, report = build_model(kind(**options if kind is TimmModel else {"arch": "fpn"} | options), 4, channels)
    answers[name] = {"report": str(report), "normalization": segmenter.normalization.model_dump(mode="json"),
                     "unequal": [], "adapted": report.adapted if report else []}
    return segmenter

def compare(name, segmenter, prefix, file, ignore=()):
    wanted = load_file(file)
    for key, value in segmenter.state_dict().items():
        short = key.removeprefix(prefix)
        if short != key and not (short in wanted and torch.equal(value, wanted[short])) and short not in ignore:
            answers[name]["unequal"].append(short)

def fails(name, kind=SmpModel, **options):
    try:
        build_model(kind(**options), 4)
    except InputError as error:
        answers[name] = str(error)

file = f"{hub}/smp-hub/resnet18.imagenet/model.safetensors"
smp = build("smp", encoder="resnet18", weights="pretrained")
compare("smp", smp, "net.encoder.", file)
compare("grey", build("grey", 1, encoder="resnet18", weights="pretrained"), "net.encoder.", file, ["conv1.weight"])
bare = build("bare", encoder="resnet18", weights="none")
answers["same decoder"] = all(
    torch.equal(a, b) for (n, a), b in zip(smp.state_dict().items(), bare.state_dict().values()) if "decoder" in n)
timm = build("timm", encoder="tu-mobilenetv3_small_050", weights="pretrained")
compare("timm", timm, "net.encoder.model.", f"{hub}/timm/mobilenetv3_small_050.lamb_in1k/model.safetensors")
ours = build("ours", 1, TimmModel, encoder="mobilenetv3_small_050", weights="pretrained")
compare("ours", ours, "net.encoder.", f"{hub}/timm/mobilenetv3_small_050.lamb_in1k/model.safetensors",
        ["conv_stem.weight"])
fails("nowhere", TimmModel, encoder="resnet34", weights="pretrained")
fails("absent", encoder="resnet34", weights="pretrained")
fails("wrong", encoder="mobilenet_v2", weights="pretrained")
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def loaded_from_hub(tmp_path_factory) -> dict:
    """What a fresh process got through SMP's and timm's own loaders from a hub that speaks Hugging Face's protocol."""
    import segmentation_models_pytorch as smp
    import timm

    hub = tmp_path_factory.mktemp("hub")

    def publish(repo: str, tensors: dict[str, Tensor], config: dict) -> None:
        (hub / repo).mkdir(parents=True)
        save_file(tensors, hub / repo / "model.safetensors")
        (hub / repo / "config.json").write_text(json.dumps(config))

    odd = {"mean": [10, 20, 30], "std": [40, 50, 60], "input_space": "BGR", "input_range": [0, 255]}
    publish("smp-hub/resnet18.imagenet", noisy(smp.encoders.get_encoder("resnet18")), odd)
    publish("smp-hub/mobilenet_v2.imagenet", {"features.0.0.weight": torch.ones(3)}, odd)
    publish("timm/mobilenetv3_small_050.lamb_in1k", noisy(timm.create_model("mobilenetv3_small_050")), {})
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parents[1] / "fakehub.py"), str(hub)], stdout=subprocess.PIPE, text=True
    )
    try:
        port = server.stdout.readline().strip()
        home = tmp_path_factory.mktemp("home")
        places = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-c", CLIENT, str(hub)]
        client = subprocess.run(command, env={**os.environ, **places}, capture_output=True, text=True, timeout=120)
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()
    assert client.returncode == 0, client.stderr
    return json.loads(client.stdout.splitlines()[-1])


def test_smp_loads_its_own_pretrained_weights(loaded_from_hub):
    answer = loaded_from_hub["smp"]
    assert answer["unequal"] == []
    assert answer["report"] == ("weights from smp-hub/resnet18.imagenet: 100 loaded, 0 adapted, 0 missing, 0 unused")


def test_mean_and_std_follow_the_published_settings(loaded_from_hub):
    assert loaded_from_hub["smp"]["normalization"] == {
        "mean": [10, 20, 30], "std": [40, 50, 60], "max_value": 255, "channel_order": "bgr"
    }  # fmt: skip
    assert loaded_from_hub["timm"]["normalization"]["mean"] == [0.485, 0.456, 0.406]


def test_pretrained_weights_for_grey_images_are_adapted(loaded_from_hub):
    answer = loaded_from_hub["grey"]
    assert answer["unequal"] == []
    assert answer["adapted"] == ["net.encoder.conv1.weight"]
    assert answer["normalization"]["mean"] == [20]


def test_timm_loads_its_own_pretrained_weights(loaded_from_hub):
    answer = loaded_from_hub["timm"]
    assert answer["unequal"] == []
    assert answer["report"].startswith("weights from timm/mobilenetv3_small_050.lamb_in1k: ")
    assert ", 0 missing, " in answer["report"]


def test_timms_weights_under_a_decoder_of_ours(loaded_from_hub):
    answer = loaded_from_hub["ours"]
    assert answer["unequal"] == []
    assert answer["adapted"] == ["net.encoder.conv_stem.weight"]
    assert answer["report"].startswith("weights from timm/mobilenetv3_small_050.lamb_in1k: ")
    assert ", 0 missing, " in answer["report"]


def test_the_decoder_does_not_depend_on_the_encoders_weights(loaded_from_hub):
    assert loaded_from_hub["same decoder"]
    assert loaded_from_hub["bare"]["report"] == "None"


def test_a_failing_download_says_what_to_type(loaded_from_hub):
    for name, encoder in (("absent", "resnet34"), ("wrong", "mobilenet_v2"), ("nowhere", "resnet34")):
        assert f"the pretrained weights of {encoder} could not be loaded" in loaded_from_hub[name]
        assert "give a local file by model.weights=PATH" in loaded_from_hub[name]
