"""Hostile files, in every form and with the payload in every place: nothing runs, and people read its name."""

import builtins
import contextlib
import io
import os
import pickle
import pickletools
import random
import subprocess
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.serialization import get_safe_globals, safe_globals

from terrazzo.base import InputError
from terrazzo.published.checkpoints import read_checkpoint
from terrazzo.published.pickles import STAND_INS, load_pickled


class Call:
    """Pickles as a call of `function`, which happens when it is unpickled."""

    def __init__(self, function, *arguments, then=None):
        self.function, self.arguments, self.then = function, arguments, then

    def __reduce__(self):
        call = (self.function, self.arguments)
        return call if self.then is None else (*call, self.then)


def payloads(marker: Path) -> dict[str, tuple[Call, str]]:
    """Calls that make the file `marker`, and how the error is to name them."""
    code = f"open({str(marker)!r}, 'w').close()"
    nested = pickle.dumps(Call(exec, code), protocol=2)
    return {
        "os.system": (Call(os.system, f"touch {marker}"), r"posix\.system"),
        "eval": (Call(eval, code), r"builtins\.eval"),
        "exec": (Call(exec, code), r"builtins\.exec"),
        "open": (Call(open, str(marker), "w"), r"_?io\.open|builtins\.open"),
        "Popen": (Call(subprocess.Popen, ["touch", str(marker)]), r"subprocess\.Popen"),
        "torch.load": (Call(torch.load, str(marker.with_suffix(".inner")), None, None), r"torch\.serialization\.load"),
        "storage": (Call(torch.storage._load_from_bytes, nested), r"torch\.storage\._load_from_bytes"),
        "pickle": (Call(pickle.loads, nested), r"_?pickle\.loads"),
        "import": (Call(builtins.__import__, "antigravity"), r"builtins\.__import__"),
    }


PAYLOADS = tuple(payloads(Path("x")))


def places(bad: object) -> dict[str, object]:
    weight = torch.zeros(2)
    order = OrderedDict(weight=weight)
    order._metadata = {"": bad}
    return {
        "the file itself": bad,
        "a tensor": {"state_dict": {"weight": weight, "bias": bad}},
        "bare": {"weight": weight, "bias": bad},
        "beside the tensors": {"state_dict": {"weight": weight}, "optimizer": bad},
        "meta": {"state_dict": {"weight": weight}, "meta": bad},
        "config": {"state_dict": {"weight": weight}, "meta": {"cfg": bad}},
        "classes": {"state_dict": {"weight": weight}, "meta": {"CLASSES": ("a", bad)}},
        "message hub": {"state_dict": {"weight": weight}, "message_hub": {"log_scalars": [bad]}},
        "attribute of the state dict": {"state_dict": order},
        "array": {"state_dict": {"weight": weight}, "meta": {"PALETTE": np.array([bad, None], dtype=object)}},
        "argument of getattr": {"weight": weight, "x": Call(getattr, bad, "real")},
        "argument of dtype": {"weight": weight, "x": Call(np.dtype, bad)},
        "state of an array": {"weight": weight, "x": Call(np._core.multiarray._reconstruct, then=bad)},
        "key": {"weight": weight, (bad,): 1},
    }


# Without torch.load, which is safe by default by now, and the import, which would open a browser
@pytest.mark.parametrize("payload", [name for name in PAYLOADS if name not in ("torch.load", "import")])
def test_the_payloads_are_real(tmp_path, payload):
    """Otherwise the tests below would prove nothing."""
    marker = tmp_path / "ran"
    call, _ = payloads(marker)[payload]
    result = None
    with contextlib.suppress(RuntimeError):  # torch, which finds afterwards that it was no file of torch.save
        result = pickle.loads(pickle.dumps(call, protocol=2))
    if isinstance(result, subprocess.Popen):
        result.wait()
    elif isinstance(result, io.IOBase):
        result.close()
    assert marker.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("place", tuple(places(None)))
@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_runs_and_the_error_names_it(tmp_path, payload, place, zipped):
    marker, path = tmp_path / "ran", tmp_path / "hostile.pth"
    call, name = payloads(marker)[payload]
    torch.save(places(call)[place], path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=rf"hostile\.pth: refused, nothing in it was executed: .*({name})"):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("number", range(5))
def test_every_pickle_of_the_older_form_is_watched(tmp_path, number):
    """Such a file is five pickles: magic number, version, machine, content, keys of the storages."""
    marker, path = tmp_path / "ran", tmp_path / "hostile.pth"
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    parts, stream = [], io.BytesIO(path.read_bytes())
    for _ in range(5):
        start = stream.tell()
        end = max(position for *_, position in pickletools.genops(stream)) + 1
        parts.append(stream.getvalue()[start:end])
    rest = stream.read()
    call, name = payloads(marker)["os.system"]
    parts[number] = pickle.dumps(call, protocol=2)
    path.write_bytes(b"".join(parts) + rest)
    with pytest.raises(InputError, match=name):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_pickle_protocol_is_named(tmp_path, protocol, zipped):
    """torch itself reads protocol 2 alone, and says of the others only which byte it did not know."""
    marker, path = tmp_path / "ran", tmp_path / "hostile.pth"
    call, name = payloads(marker)["os.system"]
    raw = pickle.dumps({"system": "posix", "weight": call}, protocol=protocol)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", raw)
            archive.writestr("archive/version", b"3\n")
    else:
        path.write_bytes(raw)
    with pytest.raises(InputError, match=rf"refused, .*{name}"):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["torch.storage.EvilStorage", "torch.EvilTensor", "torch._utils._rebuild_evil"])
def test_a_name_that_only_looks_like_torchs_is_refused_and_told_too(tmp_path, name):
    module, _, function = name.rpartition(".")
    path = tmp_path / "x.pth"
    path.write_bytes(b"\x80\x02c" + f"{module}\n{function}\n".encode() + b")R.")
    with pytest.raises(InputError, match=rf"GLOBAL {name} was not an allowed global\)$"):
        read_checkpoint(path)


def test_all_names_are_told_and_none_can_write_to_the_terminal(tmp_path):
    path = tmp_path / "x.pth"
    many = [Call(function, ".") for function in (os.system, eval, os.listdir, os.mkdir, os.rmdir, exec, os.stat)]
    torch.save({"weight": torch.zeros(1), "x": many, "y": [Call(os.chdir, "."), Call(os.lstat, ".")]}, path)
    with pytest.raises(InputError, match=r"posix\.system, .*posix\.chdir and 1 more, which could run any code"):
        read_checkpoint(path)
    path.write_bytes(b"\x80\x02cos\x1b[2J\nsystem\x07\n.")
    with pytest.raises(InputError, match=r"os\\x1b\[2J\.system\\x07") as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()


def test_getattr_looks_nothing_up(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"weight": torch.zeros(1), "x": Call(getattr, OrderedDict, "fromkeys")}, path)
    content = load_pickled(path)
    assert isinstance(content, dict)
    assert content["x"] is None
    # What it gives cannot be called either
    raw = b"\x80\x02c__builtin__\ngetattr\nccollections\nOrderedDict\nX\x08\x00\x00\x00fromkeys\x86R)R."
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"damaged or no file of torch.save .*unrecognized function None"):
        read_checkpoint(path)


class Dtype:
    """Pickles as a dtype of one field, which claims to hold no objects though the field is one."""

    def __reduce__(self):
        fields = {"x": (np.dtype("O"), 0)}
        return (np.dtype, ("V8", False, True), (3, "|", None, ("x",), fields, 8, 1, 0))


@pytest.mark.parametrize(
    "dtype", [Dtype(), np.dtype("O"), np.dtype("V8"), np.dtype("M8[s]"), Call(np.dtype, "i3"), Call(np.dtype), None]
)
def test_bytes_are_never_taken_for_objects(tmp_path, dtype):
    path = tmp_path / "x.pth"
    start = (np._core.multiarray._reconstruct, np.ndarray, (0,), b"b")
    forged = Call(*start, then=(1, (1,), dtype, False, b"\x01" * 8))
    one = Call(np._core.multiarray.scalar, dtype, b"\x01" * 8)
    torch.save({"weight": torch.zeros(1), "x": forged, "y": one, "meta": {"PALETTE": forged}}, path)
    found = read_checkpoint(path)
    assert list(found.state) == ["weight"]
    assert set(found.ignored) == {"x", "y", "meta.PALETTE"}


@pytest.mark.parametrize(
    ("shape", "size"), [((2, 2), 3), ((-1, -4), 4), ((2**40,), 4), ((), 4), ((1,) * 40, 1), ((True, 4), 4), ([4], 4)]
)
def test_an_arrays_shape_is_checked(tmp_path, shape, size):
    path = tmp_path / "x.pth"
    state = (1, shape, np.dtype("u1"), False, b"\x01" * size)
    forged = Call(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", then=state)
    torch.save({"weight": torch.zeros(1), "x": forged}, path)
    assert read_checkpoint(path).ignored == ("x",)


def test_attributes_in_a_file_override_no_method_of_ours(tmp_path):
    path = tmp_path / "x.pth"
    # An OrderedDict whose `get`, `items` and `keys` are None
    order = Call(OrderedDict, then=dict.fromkeys(("get", "items", "keys")))
    raw = pickle.dumps({"order": order}, protocol=2)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", raw.replace(b"X\x05\x00\x00\x00order", b"X\x0a\x00\x00\x00state_dict"))
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
    with pytest.raises(InputError, match=r"no tensors of a network in it, only state_dict"):
        read_checkpoint(path)


def test_what_other_libraries_allow_is_not_allowed_here(tmp_path):
    path, marker = tmp_path / "x.pth", tmp_path / "ran"
    call, name = payloads(marker)["exec"]
    torch.save({"weight": torch.zeros(1), "x": call}, path)
    with safe_globals([exec, (np._core.multiarray._reconstruct, "numpy._core.multiarray._reconstruct")]):
        before = set(get_safe_globals())
        with pytest.raises(InputError, match=name):
            read_checkpoint(path)
        assert set(get_safe_globals()) == before, "theirs is as it was"
    assert not marker.exists()


def test_threads_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"weight": torch.zeros(1), "meta": {"iter": np.int64(3)}}, path)
    steps: list[int | None] = []
    threads = [threading.Thread(target=lambda: steps.append(read_checkpoint(path).step)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert steps == [3] * 8
    assert not {name for entry in get_safe_globals() if isinstance(entry, tuple) for name in entry} & set(STAND_INS)


def test_no_damage_ends_in_anything_but_a_sentence(tmp_path):
    """Single bytes changed anywhere in the pickles: read, or refused by InputError."""
    path, damaged = tmp_path / "x.pth", tmp_path / "y.pth"
    meta = {"PALETTE": np.zeros((2, 3), np.uint8), "iter": np.int64(3), "CLASSES": ("a", "b")}
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "meta": meta}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    generator = random.Random(0)
    said = []
    for _ in range(300):
        changed = bytearray(whole)
        changed[generator.randrange(len(whole))] = generator.randrange(256)
        damaged.write_bytes(changed)
        try:
            read_checkpoint(damaged)
        except InputError as error:
            said.append(str(error))
    assert 100 < len(said) < 300
    assert all(sentence.isprintable() for sentence in said)
