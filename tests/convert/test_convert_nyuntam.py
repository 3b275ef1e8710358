"""`terrazzo convert nyuntam`: flat keys become a recipe, and the report has a line on every one of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from convert.nyuntam_example import EXAMPLE, stanford_tree
from terrazzo.adapt import Frozen, Full, Lora, Regex, Ssf
from terrazzo.base import InputError, Steps
from terrazzo.cli import app
from terrazzo.commands.convert import convert_flat
from terrazzo.config import load_config
from terrazzo.convert.nyuntam import Imported
from terrazzo.data import build_dataset
from terrazzo.data.folder import FolderData
from terrazzo.data.layouts import StanfordData
from terrazzo.optim import MultiStep


def imported(folder: Path, example: str = EXAMPLE, **changes: Any) -> Imported:
    """The recipe of the example with other values; ... takes a key out."""
    keys = {**yaml.safe_load(example), **changes}
    file = folder / "flat.json"
    file.write_text(json.dumps({key: value for key, value in keys.items() if value is not ...}))
    return convert_flat(file)


def became(found: Imported) -> dict[str, str]:
    return {key: what for key, _, what in found.rows}


def test_the_example_becomes_the_shipped_recipe(tmp_path: Path) -> None:
    found = imported(tmp_path).config
    ours = load_config(
        "stanford_segnext_ssf",
        [
            *("out=/user_data/jobs/Adapt/IMGSEG", "data.root=/custom_data/iccv09Data", "validate_every={steps: 4}"),
            *("data.labels=seg_maps/{id}.png", "data.splits={kind: lists, train: train_ann_file.txt}"),
            "data.splits.val=val_ann_file.txt",
        ],
    )
    assert found == ours
    assert found.adapt == Ssf(also_train="decoder")
    assert found.schedule == MultiStep(milestones={"epochs": [5, 10]}, gamma=0.1)  # type: ignore[arg-type]  # as YAML
    assert (found.batch, found.step.accumulate, found.keep, found.seed, found.data.workers) == (3, 3, 5, 56, 4)
    assert (found.optim.lr, found.optim.lr_factors) == (5e-4, {"decoder": 10, "head": 10})


def test_the_example_is_the_real_one(shared_data: Path) -> None:
    real = shared_data.with_name("spec") / "nyuntam_example.yaml"
    if not real.is_file():
        pytest.skip(f"no {real}")
    assert yaml.safe_load(real.read_text()) == yaml.safe_load(EXAMPLE)


def test_every_key_has_a_line_and_the_old_tools_ways_are_told(tmp_path: Path) -> None:
    found = imported(tmp_path, unheard_of=3)
    told = became(found)
    assert [*told] == [*yaml.safe_load(EXAMPLE), "unheard_of"]
    assert told["unheard_of"] == "nothing: no such key is known"
    assert [key for key, what in told.items() if "no such key" in what] == ["unheard_of"]
    for key in ("FULL_FINE_TUNING", "SEED", "FP16", "DO_TRAIN", "NUM_WORKERS", "STEPS", "INTERVAL"):
        assert told[key].endswith("(the old tool ignored it)")
    assert told["MERGE_ADAPTER"].endswith("(the old tool ignored it and always merged)")
    assert "read it as epochs" in told["INTERVAL_STEPS"]
    assert told["checkpoint_interval"].startswith("save_every: 15 optimizer steps of 3 batches")
    assert "whole decode head" in told["LAST_LAYER_TUNING"]
    assert told["work_dir"] == "nothing: OUTPUT_DIR says it"
    comments = re.sub(r"\n#  +", " ", found.yaml)
    assert all(f"\n# - {key} = " in comments for key in told)


def test_the_command_writes_a_recipe_and_prints_the_report(tmp_path: Path) -> None:
    (tmp_path / "flat.yaml").write_text(EXAMPLE)
    out = tmp_path / "mine.yaml"
    answer = CliRunner().invoke(app, ["convert", "nyuntam", str(tmp_path / "flat.yaml"), "--out", str(out)])
    assert answer.exit_code == 0, answer.output
    assert "MODEL_PATH = 'segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512': model.name" in answer.output
    assert load_config(out) == convert_flat(tmp_path / "flat.yaml").config
    again = CliRunner().invoke(app, ["convert", "nyuntam", str(tmp_path / "flat.yaml"), "--out", str(out)])
    assert again.exit_code != 0
    shown = CliRunner().invoke(app, ["convert", "nyuntam", str(tmp_path / "flat.yaml")])
    assert shown.stdout == out.read_text()


def test_data_follows_the_files_that_are_there(tmp_path: Path) -> None:
    for name, png, lists in (("texts", False, "_ann"), ("pictures", True, "_ann_file")):
        root = tmp_path / name
        stanford_tree(root, "seg_maps", png=png, lists=lists)
        found = imported(tmp_path, CUSTOM_DATASET_PATH=str(root))
        data = found.config.data
        assert isinstance(data, StanfordData)
        assert [len(build_dataset(data, split)) for split in ("train", "val")] == [6, 2]
        told = "train_ann.txt, which is there" in became(found)["train_ann_file"]
        assert told is (lists == "_ann"), "its README's name for the lists"
        assert len(found.remarks) == 1, "nothing is missing"


def test_other_classes_are_a_folder_of_label_maps(tmp_path: Path) -> None:
    own = {"class_list": ["wet", "dry"], "palette": [[1, 2, 3], [4, 5, 6]], "num_classes": 2}
    places = {"train_img_file": "img/train", "val_img_file": "img/val", "train_seg_file": "ann/train"}
    data = imported(tmp_path, **own, **places, val_seg_file="ann/val").config.data
    assert isinstance(data, FolderData)
    assert (data.images, data.labels) == ("img/{split}/{id}.*", "ann/{split}/{id}.png")
    assert data.classes == {"wet": (1, 2, 3), "dry": (4, 5, 6)}


@pytest.mark.parametrize(
    ("changes", "adapt"),
    [
        ({"PEFT_METHOD": "SSF", "LAST_LAYER_TUNING": False}, Ssf(also_train="classifier")),
        ({"PEFT_METHOD": "LoRA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1}, Lora(rank=4, alpha=8, dropout=0.1)),
        ({"PEFT_METHOD": "DoRA", "alpha": 2, "dropout": "0.5"}, Lora(rank=16, alpha=2, dropout=0.5, dora=True)),
        ({"target_modules": ["conv0"]}, Ssf(targets=("conv0",))),
        ({"target_modules": r"backbone\.block1\..*"}, Ssf(targets=Regex(regex=r"backbone\.block1\..*"))),
        ({"PEFT_METHOD": "", "peft_type": ...}, Frozen()),
        ({"PEFT_METHOD": ..., "peft_type": ..., "FULL_FINE_TUNING": True}, Full()),
        ({"PEFT_METHOD": None, "peft_type": None, "LAST_LAYER_TUNING": False}, Full()),
    ],
    ids=str,
)
def test_methods(tmp_path: Path, changes: dict[str, Any], adapt: Any) -> None:
    assert imported(tmp_path, **changes).config.adapt == adapt


@pytest.mark.parametrize(
    ("changes", "section", "values"),
    [
        ({"SCHEDULER_TYPE": "CosineAnnealingLR", "T_MAX": 9}, "schedule", {"kind": "cosine", "warmup": None}),
        ({"SCHEDULER_TYPE": "LinearLR"}, "schedule", {"kind": "linear"}),
        ({"SCHEDULER_TYPE": "poly"}, "schedule", {"kind": "poly"}),
        ({"SCHEDULER_TYPE": None}, "schedule", {"kind": "constant"}),
        ({"SCHEDULER_TYPE": "ExponentialLR", "GAMMA": 0.9}, "schedule", {"gamma": {"per_epoch": 0.9}}),
        ({"MILESTONES": "[2, 3]", "GAMMA": "0.5"}, "schedule", {"milestones": {"epochs": (2, 3)}, "gamma": 0.5}),
        (
            {"WARMUP": True, "WARMUP_ITERS": 10, "WARMUP_RATIO": 0.2},
            "schedule",
            {"warmup": {"steps": 4}, "warmup_factor": 0.2},
        ),
        ({"WARMUP": False, "WARMUP_ITERS": 10}, "schedule", {"warmup": None}),
        ({"OPTIMIZER": "sgd", "WEIGHT_DECAY": "1e-4"}, "optim", {"kind": "sgd", "lr": 5e-4, "weight_decay": 1e-4}),
        ({"OPTIMIZER": "RMSprop"}, "optim", {"kind": "rmsprop"}),
        ({"LAST_LAYER_TUNING": False}, "optim", {"lr_factors": {"head": 10}}),
        ({"FP16": True, "amp": True}, "step", {"precision": "float16"}),
        ({"amp": "True", "GRADIENT_CHECKPOINTING": True}, "step", {"precision": "float16", "recompute": True}),
        ({"LOCAL_MODEL_PATH": "mscan.pth"}, "model", {"weights": Path("mscan.pth"), "head": "new"}),
    ],
    ids=str,
)
def test_values(tmp_path: Path, changes: dict[str, Any], section: str, values: dict[str, Any]) -> None:
    found = getattr(imported(tmp_path, **changes).config, section).model_dump()
    assert {key: found[key] for key in values} == values


def test_lengths_have_their_units(tmp_path: Path) -> None:
    found = imported(tmp_path, STEPS=20, INTERVAL="epoch", INTERVAL_STEPS=2, GRADIENT_ACCUMULATION_STEPS=1)
    assert found.config.length == Steps(steps=20)
    assert became(found)["EPOCHS"] == "nothing: STEPS says it"
    assert found.config.validate_every.model_dump() == {"epochs": 2}
    assert found.config.save_every == Steps(steps=45)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"CUSTOM_DATASET_PATH": ""}, "CUSTOM_DATASET_PATH is missing"),
        ({"MODEL_PATH": ...}, "MODEL_PATH is missing"),
        ({"MODEL_PATH": "segnext_mscan-x"}, "segnext_mscan-x"),
        ({"LR": "fast"}, "LR is 'fast', and must be a number"),
        ({"LR": -1}, "makes no recipe"),
        ({"LR": "nan"}, "LR is 'nan', and must be a number"),
        ({"EPOCHS": 0}, "makes no recipe"),
        ({"BATCH_SIZE": 1.5}, "BATCH_SIZE is 1.5, and must be a whole number"),
        ({"SEED": True}, "SEED is True"),
        ({"FP16": "maybe"}, "FP16 is 'maybe', and must be True or False"),
        ({"PEFT_METHOD": "IA3"}, "PEFT_METHOD is 'IA3', and must be SSF, LoRA, DoRA"),
        ({"OPTIMIZER": "Lion"}, "OPTIMIZER is 'Lion'"),
        ({"SCHEDULER_TYPE": "Plateau"}, "SCHEDULER_TYPE is 'Plateau'"),
        ({"MILESTONES": "soon"}, "MILESTONES is 'soon', and must be a list of epochs"),
        ({"INTERVAL": "hours"}, "INTERVAL is 'hours', and must be steps or epochs"),
        ({"num_classes": 9}, "num_classes is 9, and class_list has 8 names"),
        ({"class_list": "sky"}, "class_list is 'sky', and must be a list of names"),
        ({"class_list": ["a", "b"], "num_classes": 2}, "palette is .* a list of 2 colours"),
        ({"val_img_file": "others"}, "train_img_file is 'images' and val_img_file 'others'"),
        ({"target_modules": 3}, "target_modules is 3"),
        ({"target_modules": "("}, "is no regular expression"),
        ({"Library": "Huggingface"}, "Library is 'Huggingface', and must be mmseg"),
        ({"OUTPUT_DIR": ["a"]}, r"OUTPUT_DIR is \['a'\], and must be a text"),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_sentence(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        imported(tmp_path, **changes)


@pytest.mark.parametrize(
    ("text", "words"), [("- a", "found a list"), ("a: [", "cannot be read"), ("1: 2", "found a dict"), ("", "NoneType")]
)
def test_files_that_are_no_flat_recipe_are_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "flat.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        convert_flat(tmp_path / "flat.yaml")
    with pytest.raises(InputError, match="no such file"):
        convert_flat(tmp_path / "none.yaml")
