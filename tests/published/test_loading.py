"""Checkpoints in their real form, through the loader that everybody uses, against what their own tool answered."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import fill_module

import terrazzo
from terrazzo.base import InputError
from terrazzo.published import loading
from terrazzo.published.loading import FAMILIES, published_names
from terrazzo.published.networks import segformer_mit, vit
from test_engine_options import Noise, recipe

LOGITS = (
    *("deeplabv3plus_r18-d8", "fast_scnn", "fcn_hr18", "pidnet-s", "pspnet_r18-d8", "segformer_mit-b0"),
    *("segnext_mscan-t", "stdc1", "unet-s5-d16_fcn"),
)
MANIFESTS = (
    *("bisenetv2_fcn", "ddrnet_23-slim", "deeplabv3_r50-d8", "deeplabv3plus_r101-d8", "deeplabv3plus_r50-d8"),
    *("fcn_r50-d8", "pspnet_r50-d8", "segformer_mit-b2", "segmenter_vit-t_mask", "segnext_mscan-s"),
    *("upernet_r50", "upernet_swin-t"),
)


def checkpoint(folder: Path, parity: Path, name: str, file: str | None = None) -> Path:
    """A file as MMSegmentation writes it, filled with the reference's numbers."""
    state = fill_module(parity).state_dict(parity / f"{name}.keys.json")
    path = folder / (file or f"{name}.pth")
    torch.save({"state_dict": {k: torch.from_numpy(v) for k, v in state.items()}, "meta": {"iter": 7}}, path)
    return path


def set_bases(network: torch.nn.Module, parity: Path) -> None:
    """Give SegNeXt the bases that the reference used in place of random ones."""
    for key, buffer in network.named_buffers():
        if key.endswith("bases"):
            buffer.copy_(torch.from_numpy(fill_module(parity).nmf_bases(tuple(buffer.shape))))


def test_all_manifests_are_here(shared_parity):
    there = {path.name.removesuffix(".keys.json") for path in shared_parity.glob("*.keys.json")}
    assert there == {*LOGITS, *MANIFESTS}
    assert {path.stem for path in shared_parity.glob("*.npz")} == {*LOGITS}


@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_those_of_the_published_tool(shared_parity, tmp_path, name):
    network = terrazzo.load_network(checkpoint(tmp_path, shared_parity, name))
    set_bases(network, shared_parity)
    fill = fill_module(shared_parity)
    stored = np.load(shared_parity / f"{name}.npz")
    compared = 0
    for size in ("even", "odd"):
        if f"logits_{size}" not in stored:
            continue
        with torch.inference_mode():
            output = network(torch.from_numpy(fill.image(size)))
        answers = {f"logits_{size}": output.logits} | {
            key: output.aux[0] for key in stored if key == f"aux_{size}" and output.aux
        }
        for key, answer in answers.items():
            wanted = torch.from_numpy(stored[key])
            assert answer.shape == wanted.shape
            assert (answer - wanted).abs().max() <= 1e-4 * max(1.0, wanted.std().item())
            compared += 1
    assert compared >= 1


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_load_with_nothing_missing_or_unused(shared_parity, tmp_path, name):
    network = terrazzo.load_network(checkpoint(tmp_path, shared_parity, name))
    with torch.inference_mode():
        output = network(torch.zeros(1, 3, 64, 96))
    keys = json.loads((shared_parity / f"{name}.keys.json").read_text())["keys"]
    assert {k for k in keys if not k.endswith("relative_position_index")} == {*network.state_dict()}
    assert output.logits.isfinite().all()


def test_a_config_name_or_the_files_own_name_says_which_network(shared_parity, tmp_path):
    path = checkpoint(tmp_path, shared_parity, "pspnet_r18-d8", "weights.pth")
    with pytest.raises(InputError, match=r"its name does not say which network; give model=NAME, one of: .*pspnet_r18"):
        terrazzo.load_network(path)
    for model in ("pspnet_r18-d8", "PSPNet_r18-d8_4xb2-80k_cityscapes-512x1024"):
        assert not terrazzo.load_network(path, model=model).training
    aligned = terrazzo.load_network(path, model="pspnet_r18-d8_4xb2-80k_cityscapes-769x769")
    with torch.inference_mode():
        assert aligned(torch.zeros(1, 3, 64, 64)).align_corners
    with pytest.raises(InputError, match="no published network is called 'pspnet_r1'; did you mean pspnet_r1"):
        terrazzo.load_network(path, model="pspnet_r1")


def test_a_segmenter_of_old_files_has_a_bias_more(shared_parity, tmp_path):
    path = checkpoint(tmp_path, shared_parity, "segmenter_vit-t_mask")
    saved = torch.load(path, weights_only=True)
    saved["state_dict"][vit.PATCH_BIAS] = torch.ones(192)
    torch.save(saved, path)
    positions = terrazzo.load_network(path).state_dict()[vit.POSITIONS]
    given = saved["state_dict"][vit.POSITIONS]
    assert torch.equal(positions[:, 1:], given[:, 1:] + 1)
    assert torch.equal(positions[:, 0], given[:, 0])


def test_another_network_is_refused_with_the_tensors_that_do_not_fit(shared_parity, tmp_path):
    path = checkpoint(tmp_path, shared_parity, "pspnet_r18-d8")
    with pytest.raises(InputError, match=r"does not fit fcn_r50-d8: \d+ of \d+ tensors fit, \d+ are missing \("):
        terrazzo.load_network(path, model="fcn_r50-d8")
    saved = torch.load(path, weights_only=True)
    del saved["state_dict"]["backbone.layer1.0.conv1.weight"]
    torch.save(saved, path)
    with pytest.raises(InputError, match=r"1 are missing \(backbone\.layer1\.0\.conv1\.weight\), 0 unused \(none\)"):
        terrazzo.load_network(path)


@pytest.mark.parametrize("model", ["segformer_mit-b0", None])
def test_a_genuine_runner_checkpoint_loads(shared_parity, model):
    """Without a name too: the config in it says which network it is."""
    network = terrazzo.load_network(shared_parity / "runner_saved_segformer_mit-b0_3iters.pth", model=model)
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 11, 16, 16)


@pytest.mark.parametrize(
    ("file", "classes"),
    [
        ("espnet/espnet_p_2_q_8_camvid.pth", 12),
        ("espnet/espnet_p_2_q_8_cityscapes.pth", 20),
        ("deeplabv3_mobilenetv2_os8_voc21.safetensors", 21),
    ],
)
def test_real_published_files_load_by_their_names(shared_data, file, classes):
    network = terrazzo.load_network(shared_data / "weights" / file)
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 65, 65)).logits.shape[1] == classes


def test_names_are_unique_over_all_families():
    assert len(published_names()) == len({*published_names()}) == sum(len(family.VARIANTS) for family in FAMILIES)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth: no such"):
        terrazzo.load_network(tmp_path / "none.pth", model="stdc1")


def test_a_loaded_network_can_be_trained_on(tmp_path):
    """From a file to a run of terrazzo, in the file's own classes."""
    torch.save(segformer_mit.build("segformer_mit-b0", 3).state_dict(), tmp_path / "segformer_mit-b0_mine.pth")
    network = terrazzo.load_network(tmp_path / "segformer_mit-b0_mine.pth")
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    tree = recipe(tmp_path / "run", model={"kind": "own"}, length={"steps": 1}, augment={"crop": 40}, batch=2)
    assert terrazzo.train(tree, model=network, train_set=Noise(4, 0), val_set=Noise(2, 1)).finished
    trained = terrazzo.load_network(tmp_path / "run", network=network).state_dict()
    moved = [key for key in before if not torch.equal(before[key], trained[f"net.{key}"])]
    assert len(moved) == len(before)


def test_what_is_not_proven_is_refused_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "UNVERIFIED", {"stdc1": "nobody has compared its numbers"})
    with pytest.raises(
        InputError, match="stdc1_mine is not verified and does not run: nobody has compared its numbers"
    ):
        loading.find_architecture("stdc1_mine")
    assert loading.find_architecture("stdc2").name == "stdc2"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("fcn_r50-d8_512x1024_40k_cityscapes_20200604_192608-efe53f0d", "fcn_r50-d8"),
        ("FCN_R50-D8_4xb2-40k_cityscapes-512x1024", "fcn_r50-d8"),
        ("fcn_r50-d8_4xb2-40k_cityscapes-769x769", "fcn_r50-d8_769x769"),
        ("fcn_r50-d8_769x769", "fcn_r50-d8_769x769"),
        ("segnext_tiny_512x512_ade_160k", "segnext_mscan-t"),
        ("segformer.b0.512x512.ade.160k", "segformer.b0"),
        ("segformer-b0-finetuned-ade-512-512", "segformer.b0"),
        ("segformer_mit-b0_mine", "segformer_mit-b0"),
        ("fcn_unet_s5-d16_64x64_40k_drive_20201223_191051-5daf6d3b", "unet-s5-d16_fcn"),
    ],
)
def test_names_of_results_files_and_authors_lead_to_their_architecture(given, name):
    assert loading.find_architecture(given).name == name


def test_a_bundles_own_tensors_load_as_well(tmp_path):
    state = segformer_mit.build("segformer_mit-b0", 3).state_dict()
    path = tmp_path / "weights.pth"
    torch.save({f"net.{key}": tensor for key, tensor in state.items()}, path)
    loaded = terrazzo.load_network(path, model="segformer_mit-b0").state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


def test_a_config_that_terrazzo_cannot_run_is_named_before_the_files_name_is_believed(tmp_path):
    config = "model = dict(type='EncoderDecoder', backbone=dict(type='UnheardOf'), decode_head=dict(type='FCNHead'))"
    path = tmp_path / "segformer_mit-b0_mine.pth"
    state = segformer_mit.build("segformer_mit-b0", 3).state_dict()
    torch.save({"state_dict": state, "meta": {"cfg": config}}, path)
    with pytest.raises(InputError, match=r"UnheardOf; give model=NAME if it is one of the known networks all the same"):
        terrazzo.load_network(path)
    assert not terrazzo.load_network(path, model="segformer_mit-b0").training
    torch.save({"state_dict": state, "meta": {"cfg": "no Python ("}}, path)
    assert not terrazzo.load_network(path).training
