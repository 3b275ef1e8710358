"""Checkpoints of every form give the same tensors and say what they are about."""

import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.published.checkpoints import read_checkpoint

CLASSES = ("road", "tree")
PALETTE = ((1, 2, 3), (250, 0, 255))


def state() -> OrderedDict[str, Tensor]:
    """A real state dict, with the attribute `_metadata` that such have."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state().items()}


def save(content: object, path: Path, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def assert_is_state(found: dict[str, Tensor]) -> None:
    assert list(found) == list(state())
    for name, value in state().items():
        assert type(found[name]) is Tensor
        assert found[name].dtype == value.dtype
        assert not found[name].requires_grad
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


@pytest.fixture
def history_buffer(monkeypatch) -> type:
    """A class that pickles as mmengine's does: arrays, and its own methods by getattr."""

    class HistoryBuffer:
        def __init__(self):
            self._log_history = np.array([0.5, 0.25])
            self._count_history = np.array([1, 1], dtype=np.int64)
            self._statistics_methods = {"min": HistoryBuffer.smallest}

        @classmethod
        def smallest(cls):
            raise AssertionError("looked up and called")

    name = "mmengine.logging.history_buffer"
    module = types.ModuleType(name)
    module.HistoryBuffer = HistoryBuffer
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = name, "HistoryBuffer"
    for parent in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, module)
    return HistoryBuffer


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    ("content", "ignored", "prefix"),
    [
        (state(), (), ""),
        ({"state_dict": state()}, (), ""),
        ({"model": state(), "epoch": 3, "optimizer": {"lr": 0.1}}, ("epoch", "optimizer"), ""),
        ({"model_state": state()}, (), ""),
        ({"model": {"state_dict": state(), "step": 1}, "epoch": 3}, ("epoch", "model.step"), ""),
        ({**state(), "epoch": 3, 7: torch.zeros(1)}, ("epoch", "an entry whose name is a int"), ""),
        (prefixed("module."), (), "module."),
        ({"state_dict": prefixed("module._orig_mod.")}, (), "module._orig_mod."),
        ({"model": {name: nn.Parameter(v) if v.is_floating_point() else v for name, v in state().items()}}, (), ""),
        ({name: value.numpy() for name, value in state().items()}, (), ""),
    ],
)
def test_every_form_holds_the_same(tmp_path, content, ignored, prefix, zipped):
    found = read_checkpoint(save(content, tmp_path / "some.name", zipped=zipped))
    if any(isinstance(value, np.ndarray) for value in content.values()):
        found.state.setdefault("1.num_batches_tracked", torch.tensor(0))
    assert_is_state(found.state)
    assert (found.ignored, found.prefix) == (ignored, prefix)
    assert (found.classes, found.palette, found.config, found.step) == (None, None, None, None)


def test_a_part_that_is_called_module_keeps_its_name(tmp_path):
    content = {"module.weight": torch.zeros(1), "head.weight": torch.zeros(1)}
    assert list(read_checkpoint(save(content, tmp_path / "x.pth")).state) == list(content)


def test_tensors_of_a_gpu_come_to_the_cpu(tmp_path):
    path = save(state(), tmp_path / "cuda.pth", zipped=False)
    content = path.read_bytes()
    here, there = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    assert content.count(here) == 1, "named once, then taken from the memo"
    path.write_bytes(content.replace(here, there))
    assert_is_state(read_checkpoint(path).state)


def test_safetensors_are_known_by_content_and_by_folder(tmp_path):
    (tmp_path / "hub").mkdir()
    for path in (tmp_path / "x.safetensors", tmp_path / "x.pth", tmp_path / "hub" / "model.safetensors"):
        save_file(dict(state()), path)
        found = read_checkpoint(path.parent if path.parent.name == "hub" else path).state
        assert_is_state({name: found[name] for name in state()})
    (tmp_path / "old").mkdir()
    save(state(), tmp_path / "old" / "pytorch_model.bin")
    assert_is_state(read_checkpoint(tmp_path / "old").state)


@pytest.mark.parametrize(
    "meta",
    [
        {"dataset_meta": {"classes": CLASSES, "palette": [list(c) for c in PALETTE]}, "cfg": "a = 1", "iter": 9},
        {"CLASSES": list(CLASSES), "PALETTE": PALETTE, "config": "a = 1", "iter": 9, "mmseg_version": "0.5"},
        {"CLASSES": CLASSES, "PALETTE": np.array(PALETTE, np.uint8), "config": "a = 1", "iter": np.int64(9)},
        {"CLASSES": CLASSES, "PALETTE": np.array(PALETTE, ">i4", order="F"), "config": "a = 1", "iter": 9},
    ],
    ids=["current", "0.x", "numpy", "numpy of another machine"],
)
def test_what_a_file_says_of_itself(tmp_path, meta):
    found = read_checkpoint(save({"meta": meta, "state_dict": state()}, tmp_path / "x.pth"))
    assert (found.classes, found.palette, found.config, found.step) == (CLASSES, PALETTE, "a = 1", 9)
    assert found.ignored == ()
    assert not found.reduce_zero_label


@pytest.mark.parametrize(
    ("meta", "ignored"),
    [
        ("text", ()),
        ({"dataset_meta": {"classes": None, "palette": None}}, ()),
        ({"CLASSES": 5, "PALETTE": "random"}, ("meta.CLASSES", "meta.PALETTE")),
        ({"CLASSES": ["a", 1], "PALETTE": [[0, 0, 256]]}, ("meta.CLASSES", "meta.PALETTE")),
        ({"PALETTE": [[0, 0]], "config": {"a": 1}, "iter": True}, ("meta.PALETTE",)),
        ({"PALETTE": np.array([[0.5, 0, 0]])}, ("meta.PALETTE",)),
        ({"PALETTE": np.array(["a"], dtype=object)}, ("meta.PALETTE",)),
    ],
)
def test_what_has_no_known_form_is_none_and_said(tmp_path, meta, ignored):
    found = read_checkpoint(save({"meta": meta, "state_dict": state()}, tmp_path / "x.pth"))
    assert (found.classes, found.palette, found.config, found.step) == (None, None, None, None)
    assert found.ignored == ignored


@pytest.mark.parametrize("spelling", [b"numpy._core", b"numpy.core"])
@pytest.mark.parametrize("module", [b"__builtin__", b"builtins"])
def test_a_runners_own_file(tmp_path, history_buffer, spelling, module):
    content = {
        "meta": {"dataset_meta": {"classes": CLASSES, "reduce_zero_label": True}},
        "state_dict": state(),
        "message_hub": {"log_scalars": {"loss": history_buffer()}, "runtime_info": {"best": np.float32(0.5)}},
    }
    path = save(content, tmp_path / "iter_3.pth", zipped=False)
    raw = path.read_bytes()
    for name in (b"c__builtin__\ngetattr\n", b"cmmengine.logging.history_buffer\nHistoryBuffer\n"):
        assert name in raw
    path.write_bytes(
        raw.replace(b"numpy._core", spelling).replace(b"c__builtin__\ngetattr", b"c" + module + b"\ngetattr")
    )
    with pytest.raises(Exception, match=r"HistoryBuffer|multiarray|getattr"):
        torch.load(path, weights_only=True)
    found = read_checkpoint(path)
    assert_is_state(found.state)
    assert (found.classes, found.ignored, found.reduce_zero_label) == (CLASSES, ("message_hub",), True)


def test_a_genuine_runner_checkpoint(shared_parity):
    found = read_checkpoint(shared_parity / "runner_saved_segformer_mit-b0_3iters.pth")
    assert len(found.state) == 192
    assert found.state["decode_head.conv_seg.weight"].shape == (11, 256, 1, 1)
    assert found.classes is not None
    assert found.palette is not None
    assert found.config is not None
    assert (len(found.classes), found.classes[0], found.classes[-1]) == (11, "sky", "bicyclist")
    assert (len(found.palette), found.palette[1], found.step) == (11, (20, 235, 10), 3)
    assert "SegformerHead" in found.config
    assert found.ignored == ("message_hub", "param_schedulers")


def test_published_files_of_before_torch_1_6(shared_data):
    found = read_checkpoint(shared_data / "weights/espnet/espnet_p_2_q_8_camvid.pth")
    assert len(found.state) == 189
    assert {value.device.type for value in found.state.values()} == {"cpu"}
    assert found.ignored == ()


def test_tensors_without_plain_numbers_are_left_out_and_named(tmp_path):
    odd = {"sparse": torch.eye(3).to_sparse(), "empty": torch.zeros(2, device="meta")}
    found = read_checkpoint(save({**state(), **odd}, tmp_path / "x.pth"))
    assert_is_state(found.state)
    assert set(found.ignored) == set(odd)


def test_names_that_could_write_to_the_terminal_are_left_out(tmp_path):
    content = {**state(), "\x1b[2J": torch.zeros(1), "meta": {"CLASSES": ("a", "\a")}}
    found = read_checkpoint(save(content, tmp_path / "x.pth"))
    assert_is_state(found.state)
    assert (found.classes, found.ignored) == (None, ("\\x1b[2J", "meta.CLASSES"))
    with pytest.raises(InputError, match=r"only \\x07; expected"):
        read_checkpoint(save({"\a": 1}, tmp_path / "x.pth"))


def test_a_file_that_holds_itself_ends(tmp_path):
    content: dict[str, object] = {"epoch": 1}
    content["model"] = content
    with pytest.raises(InputError, match=r"no tensors of a network in it, only epoch, model; expected a state dict"):
        read_checkpoint(save(content, tmp_path / "x.pth"))


def test_other_files_get_a_sentence(tmp_path):
    path = tmp_path / "x.pth"
    for content, sentence in (
        (b"", r"x\.pth: damaged or no file of torch.save \(0 bytes"),
        (b"\x00" * 300, r"x\.pth: damaged or no file of torch.save \(300 bytes"),
        (b"\n<!DOCTYPE html><p>404", r"x\.pth: a web page \(22 bytes\), not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", r"x\.pth: a Git LFS pointer"),
        (b"storages".ljust(257, b"\0") + b"ustar\x0000".ljust(300, b"\0"), r"x\.pth: a tar archive"),
        (b"PK\x03\x04" + b"\x00" * 50, r"x\.pth: damaged or no file of torch.save"),
        (b"\x09\x00\x00\x00\x00\x00\x00\x00{nonsense", r"x\.pth: damaged or no safetensors file"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=sentence):
            read_checkpoint(path)
    with pytest.raises(InputError, match=r"nowhere: no such file"):
        read_checkpoint(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"a folder without model.safetensors or pytorch_model.bin"):
        read_checkpoint(tmp_path)
    for content in ([1, 2], 5, torch.zeros(3)):
        with pytest.raises(InputError, match=r"x\.pth: holds a (list|int|Tensor); expected the state dict"):
            read_checkpoint(save(content, path))
    with pytest.raises(InputError, match=r"x\.pth: no tensors of a network in it, only nothing"):
        read_checkpoint(save({}, path))


def test_programs_and_whole_modules_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/constants.pkl", b"")
        archive.writestr("net/data.pkl", b"")
    with pytest.raises(InputError, match=r"x\.pth: a TorchScript program, not weights"):
        read_checkpoint(path)
    for zipped in (True, False):
        with pytest.raises(InputError, match=r"refused, nothing in it was executed.* torch\.nn\.modules\.conv\.Conv2d"):
            read_checkpoint(save(nn.Conv2d(1, 1, 1), path, zipped=zipped))


@pytest.mark.parametrize("zipped", [True, False])
def test_half_a_file_is_refused_wherever_it_ends(tmp_path, zipped):
    whole = save({"state_dict": state(), "meta": {"iter": 1}}, tmp_path / "whole.pth", zipped=zipped).read_bytes()
    path = tmp_path / "half.pth"
    for size in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"half\.pth: damaged or no file of torch.save"):
            read_checkpoint(path)
