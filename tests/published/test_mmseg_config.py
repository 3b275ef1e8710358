"""MMSegmentation's configs as data: what is understood, what is skipped and never run, which network they say."""

import re
from pathlib import Path
from typing import Any

import pytest

from terrazzo.base import InputError
from terrazzo.published import mmseg_config
from terrazzo.published.checkpoints import read_checkpoint
from terrazzo.published.loading import find_architecture
from terrazzo.published.mmseg_config import architecture_name, parse_config, read_config
from terrazzo.published.mmseg_sizes import networks

PSP: dict[str, Any] = {
    "type": "EncoderDecoder",
    "pretrained": "open-mmlab://resnet18_v1c",
    "backbone": {
        "type": "ResNetV1c",
        "depth": 18,
        "out_indices": (0, 1, 2, 3),
        "dilations": (1, 1, 2, 4),
        "strides": (1, 2, 1, 1),
        "norm_cfg": {"type": "SyncBN", "requires_grad": True},
        "contract_dilation": True,
    },
    "decode_head": {
        "type": "PSPHead",
        "in_channels": 512,
        "in_index": 3,
        "channels": 128,
        "num_classes": 7,
        "norm_cfg": {"type": "BN"},
    },
    "auxiliary_head": {
        "type": "mmseg.models.FCNHead",
        "in_channels": 256,
        "in_index": 2,
        "channels": 64,
        "num_convs": 1,
        "concat_input": False,
        "num_classes": 7,
        "norm_cfg": {"type": "BN"},
    },
}
"""Only what differs from the classes' defaults is said here; published files say far more."""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x = dict(a=1, b=(2, 3.5), **dict(c=None))", {"a": 1, "b": (2, 3.5), "c": None}),
        ("n = 4\nx = [n // 2 * 3, -n, n / 8, 'a' + 'b', (0,) * 3]", [6, -4, 0.5, "ab", (0, 0, 0)]),
        ("y = dict(a=1)\nx = y\ny.update(dict(b=2), c=3)\ny['d'] = 4", {"a": 1}),
        ("x = dict(a=[1])\nx['a'] += [2]\nx['a'][0] -= 1", {"a": [0, 2]}),
        ("x = dict(a=dict(b=1))\nx['a']['b'] = 2\nx.update(c=3)\nx.pop('c')", {"a": {"b": 2}}),
        ("r = [1, 2]\nx = [dict(s=k) for k in r if k]\nx.append(5)", [{"s": 1}, {"s": 2}, 5]),
        ("x = {f'stage.{i}': [j for j in range(i)] for i in range(2)}", {"stage.0": [], "stage.1": [0]}),
        ("n = 3\nx = f'{n:02d}/{\"a\"}'", "03/a"),
        ("x, y = 1, 2", 1),
        ("x: int = len([1, 2]) + sum([1, 2]) + max(1, 7)", 12),
        ("from torch.nn import GELU\nimport torch.nn as nn\nx = [GELU, nn.ReLU]", ["GELU", "ReLU"]),
        ("x = [1, 2, 3][1:] if True else 0", [2, 3]),
        ("a = dict(b=1)\nx = a.copy()\na['b'] = 2", {"b": 1}),
    ],
)
def test_a_text_of_plain_data_is_understood(text: str, value: object) -> None:
    assert parse_config(text, folder=None)["x"] == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import os\nx = os.system('touch {mark}')", "os.system"),
        ("import os\nos.system('touch {mark}')", "system"),
        ("x = __import__('os').system('touch {mark}')", "calls"),
        ("x = eval('1')", "eval"),
        ("x = open('{mark}', 'w')", "open"),
        ("x = (lambda: open('{mark}', 'w'))()", "calls"),
        ("x = [].__class__.__base__", "attribute"),
        ("def x():\n    open('{mark}', 'w')", "function"),
        ("class x(open('{mark}', 'w')):\n    pass", "class"),
        ("@open('{mark}', 'w')\ndef x(): pass", "function"),
        ("if True:\n    x = 1", "if"),
        ("for x in [1]:\n    pass", "for"),
        ("x = 1 < 2", "not data"),
        ("x = dict(a=unknown)", "nothing sets unknown"),
        ("a = eval('1')\nx = a", "a was skipped"),
        ("x = dict(a=1)\nx.update(eval('1'))", "eval"),
        ("x = 2**10**10", "power"),
        ("x = 'a' * 10**9", "Mult"),
        ("x = f'{1:999999999}'", "format"),
        ("x = '%999999999d' % 1", "Mod"),
        ("x = [1]\nx.insert(10**30, 1)", "insert"),
        ("x = [1][7]", "there is no 7"),
        ("x = 1 / 0", "zero"),
    ],
)
def test_what_is_no_data_is_skipped_with_its_reason_and_never_run(text: str, reason: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    found = read_config(f"before = 1\n{text.replace('{mark}', str(mark))}\nafter = 2", folder=None)
    assert not mark.exists()
    assert found.values == {"before": 1, "after": 2}
    assert any(reason in skipped.reason for _, skipped in found.skipped), found.skipped


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = (", "line 1: no Python config"),
        ("x = 1\0", "no Python config"),
        ("x = " + "-" * 50_000 + "1", "too deep"),
        ("x = " + "[" * 5000, "no Python config"),
        ("x = [0] * 10**9", "1000000 values"),
        ("x = list(range(10**12))", "1000000 values"),
        ("x = [1] * 1000\n" + "x = [x, x]\n" * 40, "1000000 values"),
        ("x = 1\n" + "x = dict(a=x)\n" * 3000, "too deep|1000000 values"),
        ("# " + "x" * (1 << 18), "characters"),
        ("_base_ = 'other.py'", "nothing says where"),
        ("_base_ = 5", "no list of files"),
        ("_base_ = '\x1b[2J'", r"builds on \?"),
    ],
)
def test_traps_are_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_config(text, folder=None)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_a_config_is_laid_over_what_it_builds_on(tmp_path: Path) -> None:
    write(
        tmp_path,
        root="crop = (4, 8)\nmodel = dict(a=dict(b=1, c=2), heads=[dict(n=1), dict(n=2)])\nlr = 0.1",
        middle="_base_ = './root.py'\nmodel = dict(a=dict(b=3))",
        other="hooks = [1]",
    )
    text = (
        "_base_ = ['middle.py', 'other.py']\n"
        "model = dict(a=dict(_delete_=True, d=4), heads={'1': dict(n=5)})\n"
        "size = _base_.crop\nname = 'lr-{{_base_.lr}}'\nkept = {{_base_.hooks}}\nfirst = _base_.crop[0]"
    )
    found = parse_config(text, folder=tmp_path)
    assert found["model"] == {"a": {"d": 4}, "heads": [{"n": 1}, {"n": 5}]}
    assert (found["size"], found["name"], found["kept"], found["first"]) == ((4, 8), "lr-0.1", [1], 4)
    assert found["lr"] == 0.1
    assert "_base_" not in found


def test_new_style_configs_import_what_they_build_on(tmp_path: Path) -> None:
    write(tmp_path / "base", models="from mmseg.models import FCNHead\nmodel = dict(head=dict(type=FCNHead, n=1))")
    text = (
        "from mmengine.config import read_base\nfrom torch.optim import SGD\n"
        "with read_base():\n    from .base.models import *\n"
        "model['head'].update(n=2)\nmodel.update(dict(k=3))\noptimizer = dict(type=SGD)"
    )
    found = parse_config(text, folder=tmp_path)
    assert found == {"model": {"head": {"type": "FCNHead", "n": 2}, "k": 3}, "optimizer": {"type": "SGD"}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("_base_ = 'a.py'", "builds on it"),
        ("_base_ = 'missing.py'", "no such file"),
        ("_base_ = 'mmdet::x.py'", "which is no file"),
        ("_base_ = 'https://x.org/y.py'", "which is no file"),
        ("_base_ = ['same.py', 'again.py']", "sets n, which another"),
        ("_base_ = 'same.py'\nn = dict(a=1)", "_delete_=True"),
        ("_base_ = '/dev/zero'", "no such file"),
        ("_base_ = 'secret.txt'", r"only Python configs \(.py\)"),
        ("_base_ = 'heads.py'\nheads = {'7': dict(a=1)}", "no place 7"),
    ],
)
def test_what_cannot_be_built_on_is_named(text: str, says: str, tmp_path: Path) -> None:
    write(tmp_path, a="_base_ = 'b.py'", b="_base_ = 'a.py'", same="n = 1", again="n = 2", heads="heads = [dict(a=0)]")
    (tmp_path / "secret.txt").write_text("password = 1", encoding="utf-8")
    with pytest.raises(InputError, match=says):
        parse_config(text, folder=tmp_path)


def test_all_sizes_say_which_network_it_is() -> None:
    name = architecture_name({"model": PSP})
    assert name is not None
    assert find_architecture(name).name == "pspnet_r18-d8"
    aligned = {**PSP, "decode_head": {**PSP["decode_head"], "align_corners": True}}
    aligned["auxiliary_head"] = {**PSP["auxiliary_head"], "align_corners": True}
    name = architecture_name({"model": aligned})
    assert name is not None
    assert find_architecture(name).name == "pspnet_r18-d8_769x769"
    assert architecture_name({"optimizer": {}}) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"decode_head": {**PSP["decode_head"], "channels": 96}}, "model.decode_head.channels is 96, not 128"),
        ({"decode_head": {**PSP["decode_head"], "type": "MyHead\n"}}, r"model.decode_head: terrazzo has no MyHead\?"),
        ({"backbone": {**PSP["backbone"], "type": "MyNet"}}, "model.backbone: terrazzo has no MyNet"),
        ({"backbone": {"type": "SwinTransformer"}}, "terrazzo has no PSPHead over SwinTransformer"),
        ({"auxiliary_head": None}, "model.auxiliary_head is the default, not FCNHead"),
    ],
)
def test_a_network_of_other_sizes_is_refused_by_the_part_that_differs(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        architecture_name({"model": {**PSP, **change}})


def test_every_network_of_the_table_is_found_by_its_own_sizes() -> None:
    table = networks()
    assert len(table) > 200
    for name in [*table][::10]:
        assert architecture_name({"model": table[name]}) == name


def test_the_config_in_a_real_checkpoint_says_its_network(shared_parity: Path) -> None:
    text = read_checkpoint(shared_parity / "runner_saved_segformer_mit-b0_3iters.pth").config
    assert text is not None
    found = read_config(text, folder=None)
    assert found.skipped == []
    name = architecture_name(found.values)
    assert name is not None
    assert re.match("segformer_mit-b0_", name)
    assert mmseg_config.test_facts(found.values) == ((2048, 512), True, None, None)


def test_how_a_network_was_tested() -> None:
    sliding = {
        "model": {"test_cfg": {"mode": "slide", "crop_size": (64, 32), "stride": 21}},
        "test_dataloader": {"dataset": {"pipeline": [{"type": "mmseg.Resize", "scale": (80, 40)}]}},
    }
    assert mmseg_config.test_facts(sliding) == ((80, 40), False, (64, 32), (21, 21))
    old = {
        "data": {
            "test": {
                "pipeline": [
                    {
                        "type": "MultiScaleFlipAug",
                        "img_scale": (8, 4),
                        "transforms": [{"type": "Resize", "keep_ratio": True}],
                    }
                ]
            }
        },
        "test_cfg": {"mode": "whole"},
    }
    assert mmseg_config.test_facts(old) == ((8, 4), True, None, None)
    assert mmseg_config.test_facts({}) == (None, False, None, None)
