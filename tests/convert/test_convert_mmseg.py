"""`terrazzo convert mmseg`: a config becomes a recipe that loads and trains; what has no counterpart is listed."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from terrazzo.base import InputError
from terrazzo.cli import app
from terrazzo.commands.convert import convert
from terrazzo.config import load_config
from terrazzo.convert.mmseg import Converted, convert_mmseg
from terrazzo.data import build_dataset
from terrazzo.data.augment import augment
from terrazzo.engine.step import make_scaler, make_step
from terrazzo.engine.world import World
from terrazzo.losses import build_loss
from terrazzo.models import build_model
from terrazzo.optim import build_optimizer

PETS = Path(__file__).parents[2] / "examples" / "pets"

HEAD = """
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255, size=(32, 48)),
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(
        type='ResNetV1c', depth=18, num_stages=4, out_indices=(0, 1, 2, 3), dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1), norm_cfg=dict(type='SyncBN', requires_grad=True), contract_dilation=True, norm_eval=True),
    decode_head=dict(
        type='PSPHead', in_channels=512, in_index=3, channels=128, num_classes=3, norm_cfg=dict(type='SyncBN'),
        dropout_ratio=0.1, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(
        type='FCNHead', in_channels=256, in_index=2, channels=64, num_convs=1, concat_input=False, num_classes=3,
        norm_cfg=dict(type='SyncBN'), loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4)),
    train_cfg=dict(), test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(24, 24)))
"""
DATA = """
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomResize', scale=(96, 64), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(32, 48), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion', hue_delta=9),
    dict(type='CLAHE'),
    dict(type='PackSegInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 48), keep_ratio=False),
    dict(type='LoadAnnotations', reduce_zero_label=True), dict(type='PackSegInputs')]
pets = dict(
    type='BaseSegDataset', data_root='ROOT', reduce_zero_label=True,
    metainfo=dict(classes=('pet', 'background', 'border'), palette=[[128, 0, 0], [0, 0, 0], [224, 224, 192]]),
    data_prefix=dict(img_path='images', seg_map_path='annotations/trimaps'))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='RepeatDataset', times=10, dataset=dict(pipeline=train_pipeline, **pets)))
val_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(pipeline=test_pipeline, **pets))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
"""
SCHEDULE = """
optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', clip_grad=dict(max_norm=1.0),
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.99), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.), 'norm': dict(decay_mult=0.), 'odd': dict(lr_mult=2.)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=2),
    dict(type='PolyLR', power=0.9, eta_min=1e-5, begin=2, end=3, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3, val_interval=2)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1), timer=dict(type='IterTimerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=3))
custom_hooks = [dict(type='EMAHook', momentum=0.01)]
randomness = dict(seed=304)
default_scope = 'mmseg'
load_from = None
"""


def written(folder: Path, text: str, name: str = "psp_2xb2-mine") -> Path:
    path = folder / f"{name}.py"
    path.write_text(text.replace("ROOT", str(PETS)), encoding="utf-8")
    return path


def converted(folder: Path, text: str = HEAD + DATA + SCHEDULE, name: str = "psp_2xb2-mine") -> Converted:
    return convert_mmseg(written(folder, text, name))


def test_a_config_becomes_a_recipe(tmp_path: Path) -> None:
    found = converted(tmp_path)
    tree = found.tree
    assert tree["model"] == {"kind": "zoo", "name": "pspnet_r18-d8", "weights": "none"}
    assert tree["data"]["classes"] == {"pet": [128, 0, 0], "background": [0, 0, 0], "border": [224, 224, 192]}
    assert tree["data"]["decode"]["map"] == {0: "ignore", 1: "pet", 2: "background", 3: "border", 255: "ignore"}
    assert (tree["data"]["images"], tree["data"]["labels"]) == ("images/{id}.jpg", "annotations/trimaps/{id}.png")
    augment = found.config.augment
    assert (augment.crop, augment.scale, augment.cat_max_ratio, augment.flip) == ((32, 48), (0.5, 2.0), 0.75, 0.5)
    assert augment.base.model_dump() == {"kind": "fit", "short": 64, "long": 96}
    assert augment.photometric is not None
    assert (augment.photometric.hue, augment.photometric.brightness, augment.brightness) == (9, 32, 0)
    assert tree["evaluation"] == {
        "resize": {"kind": "exact", "height": 48, "width": 64},
        "window": {"size": [32, 32], "overlap": 0.25, "blend": "mean", "accumulate": "pixel"},
    }
    assert tree["losses"] == [{"kind": "cross_entropy", "weight": 1.0}]
    assert tree["auxiliary_weight"] == 0.4
    assert tree["optim"] == {
        "kind": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "betas": [0.9, 0.99],
        "decay_norms": False,
        "lr_factors": {"decoder": 10.0, "head": 10.0},
    }
    schedule = {"kind": "poly", "power": 0.9, "end_factor": 0.01, "warmup": {"steps": 2}, "warmup_factor": 1e-3}
    assert {**tree["schedule"], "end_factor": round(tree["schedule"]["end_factor"], 9)} == schedule
    assert tree["step"] == {"precision": "bfloat16", "clip": 1.0}
    assert tree["adapt"] == {"kind": "full", "batchnorm": "frozen"}  # norm_eval
    assert (tree["length"], tree["batch"], tree["seed"], tree["keep"]) == ({"steps": 3}, 4, 304, 3)
    assert (tree["validate_every"], tree["save_every"], tree["log_every"]) == ({"steps": 2}, {"steps": 2}, {"steps": 1})
    assert found.config.ema is not None
    assert found.config.ema.decay == 0.99


def test_what_has_no_counterpart_is_listed_key_by_key(tmp_path: Path) -> None:
    found = converted(tmp_path, HEAD + DATA + SCHEDULE + "import os\nextra = os.getcwd()\nuda = dict(alpha=0.99)\n")
    assert found.left == (
        ("train_dataloader.dataset.dataset.pipeline.6", "dict(type='CLAHE')"),
        ("optim_wrapper.paramwise_cfg.custom_keys.odd", "dict(lr_mult=2.0)"),
        ("uda", "dict(alpha=0.99)"),
    )
    assert any("CLAHE" in each for each in found.remarks)
    assert any("first weights" in each for each in found.remarks)
    assert any("batch_size=2 is per device, the file's name says 2 of them" in each for each in found.remarks)
    assert found.inner == ("default_scope",)
    assert [each.split(":")[0] for each in found.skipped] == [
        f"psp_2xb2-mine.py, line {len((HEAD + DATA + SCHEDULE).splitlines()) + 2}"
    ]
    comments = [line for line in found.yaml.splitlines() if line.startswith("#")]
    assert "# - uda = dict(alpha=0.99)" in comments
    assert yaml.safe_load(found.yaml) == yaml.safe_load(yaml.safe_dump(found.tree))


def test_the_recipe_trains_on_real_images(tmp_path: Path) -> None:
    """One step as the engine takes it, without a run's folder and report."""
    out = tmp_path / "mine.yaml"
    convert(written(tmp_path, HEAD + DATA + SCHEDULE), out)
    config = load_config(out, ["data.limit=2", "step.precision=float32"])
    data = build_dataset(config.data, "train")
    rng = np.random.default_rng(0)
    samples = [augment(data[item], rng, config.augment) for item in range(2)]
    images, masks = (torch.from_numpy(np.stack(part)) for part in list(zip(*samples, strict=True))[:2])
    segmenter, _ = build_model(config.model, len(data.classes), names=data.classes.names)
    optimizer = build_optimizer(segmenter, segmenter.role, config.optim)
    loss = build_loss(config.losses, data.classes, auxiliary=config.auxiliary_weight)
    scaler = make_scaler(config.step, torch.device("cpu"))
    step = make_step(segmenter.train(), loss, optimizer, config.step, World(0, 1, torch.device("cpu")), scaler)
    first, *others = (float(step(images.permute(0, 3, 1, 2), masks).loss) for _ in range(3))
    assert others[-1] < first


def test_the_command_writes_the_recipe_or_prints_it(tmp_path: Path) -> None:
    path, out = written(tmp_path, HEAD + DATA + SCHEDULE), tmp_path / "folder" / "mine.yaml"
    shown = CliRunner().invoke(app, ["convert", "mmseg", str(path)])
    assert shown.exit_code == 0
    assert load_recipe(shown.stdout) == load_recipe(convert(path).yaml)
    done = CliRunner().invoke(app, ["convert", "mmseg", str(path), "--out", str(out)])
    assert done.exit_code == 0
    assert load_config(out).model.kind == "zoo"
    with pytest.raises(InputError, match="is there already"):
        convert(path, out)


def load_recipe(text: str) -> Any:
    return yaml.safe_load(text)


OLD = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
img_norm_cfg = dict(mean=[100., 110., 120.], std=[50., 50., 50.], to_rgb=False)
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='Resize', img_scale=(96, 64), ratio_range=(0.5, 2.0)),
    dict(type='RandomCrop', crop_size=(32, 32), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion'),
    dict(type='Normalize', **img_norm_cfg), dict(type='Pad', size=(32, 32), pad_val=0, seg_pad_val=255),
    dict(type='DefaultFormatBundle'), dict(type='Collect', keys=['img', 'gt_semantic_seg'])]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(96, 64), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='RandomFlip'), dict(type='Normalize', **img_norm_cfg),
        dict(type='ImageToTensor', keys=['img']), dict(type='Collect', keys=['img'])])]
data = dict(
    samples_per_gpu=2, workers_per_gpu=1,
    train=dict(type='CustomDataset', data_root='data', img_dir='img/train', ann_dir='ann/train', img_suffix='.tif',
               classes=('a', 'b', 'c'), pipeline=train_pipeline),
    val=dict(type='CustomDataset', data_root='data', img_dir='img/val', ann_dir='ann/val', img_suffix='.tif',
             classes=('a', 'b', 'c'), pipeline=test_pipeline),
    test=dict(type='CustomDataset', data_root='data', img_dir='img/val', ann_dir='ann/val', img_suffix='.tif',
              classes=('a', 'b', 'c'), pipeline=test_pipeline))
optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005)
optimizer_config = dict(grad_clip=dict(max_norm=5, norm_type=2))
lr_config = dict(policy='poly', power=0.9, min_lr=1e-4, by_epoch=False, warmup='linear',
                 warmup_iters=5, warmup_ratio=0.1)
runner = dict(type='IterBasedRunner', max_iters=40)
checkpoint_config = dict(by_epoch=False, interval=20)
evaluation = dict(interval=10, metric='mIoU', pre_eval=True)
log_config = dict(interval=5, hooks=[dict(type='TextLoggerHook', by_epoch=False)])
dist_params = dict(backend='nccl')
"""


def test_a_config_of_0_x_becomes_one_too(tmp_path: Path) -> None:
    model = re.sub(r"data_preprocessor=dict\(.*?size=\(32, 48\)\),", "", HEAD, flags=re.DOTALL)
    found = converted(tmp_path, model + OLD, "mine")
    tree = found.tree
    assert tree["model"] == {
        **{"kind": "zoo", "name": "pspnet_r18-d8", "weights": "none"},
        **{"mean": [100.0, 110.0, 120.0], "std": [50.0] * 3, "max_value": 255.0, "channel_order": "bgr"},
    }
    data = {"kind": "folder", "root": "data", "images": "img/{split}/{id}.tif", "labels": "ann/{split}/{id}.png"}
    assert {key: tree["data"][key] for key in data} == data
    assert tree["data"]["splits"] == {"kind": "folders", "train": "train", "val": "val"}
    assert tree["augment"]["base"] == {"kind": "fit", "short": 64, "long": 96}
    assert tree["evaluation"]["resize"] == {"kind": "fit", "short": 64, "long": 96}
    assert tree["schedule"] == {
        **{"kind": "poly", "power": 0.9, "end_factor": 0.01, "warmup": {"steps": 5}, "warmup_factor": 0.1}
    }
    assert (tree["step"]["clip"], tree["length"], tree["batch"]) == (5, {"steps": 40}, 2)
    assert (tree["validate_every"], tree["save_every"], tree["log_every"]) == (
        {"steps": 10},
        {"steps": 20},
        {"steps": 5},
    )
    assert found.inner == ("dist_params",)


def loss_of(folder: Path, text: str, sampler: str = "") -> list[dict[str, Any]]:
    given = HEAD.replace("dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)", text + sampler)
    losses: list[dict[str, Any]] = converted(folder, given + DATA + SCHEDULE).tree["losses"]
    return losses


def test_losses_become_ours(tmp_path: Path) -> None:
    weighted = loss_of(tmp_path, "dict(type='CrossEntropyLoss', loss_weight=2.0, class_weight=[1., 2., .5])")
    assert weighted == [
        {"kind": "cross_entropy", "weight": 2.0, "class_weights": {"pet": 1.0, "background": 2.0, "border": 0.5}}
    ]
    sampled = loss_of(
        tmp_path, "dict(type='CrossEntropyLoss')", ", sampler=dict(type='OHEMPixelSampler', thresh=.7, min_kept=9)"
    )
    assert sampled == [{"kind": "ohem", "weight": 1.0, "threshold": 0.7, "min_kept": 9}]
    several = loss_of(
        tmp_path,
        "[dict(type='DiceLoss', loss_weight=3.0), dict(type='LovaszLoss', per_image=True, reduction='none'), "
        "dict(type='TverskyLoss', alpha=.4, beta=.6), dict(type='FocalLoss', gamma=3.), dict(type='MyLoss'),"
        "dict(type='OhemCrossEntropy', thres=.9, min_kept=8)]",
    )
    assert several == [
        {"weight": 3.0, "kind": "tversky", "setting": "dice"},
        {"weight": 1.0, "kind": "lovasz", "over": "image", "classes": "present"},
        {"weight": 1.0, "kind": "tversky", "alpha": 0.4, "beta": 0.6},
        {"weight": 1.0, "kind": "focal", "gamma": 3.0, "alpha": 0.5},
        {"kind": "ohem", "weight": 1.0, "threshold": 0.9, "min_kept": 4},
    ]


@pytest.mark.parametrize(
    ("scheduler", "schedule"),
    [
        (
            "dict(type='CosineAnnealingLR', T_max=3, eta_min=1e-4, by_epoch=False)",
            {"kind": "cosine", "end_factor": 0.1},
        ),
        (
            "dict(type='MultiStepLR', milestones=[1, 2], gamma=.5)",
            {"kind": "multi_step", "milestones": {"epochs": [1, 2]}, "gamma": 0.5},
        ),
        (
            "[dict(type='StepLR', step_size=2, by_epoch=False)]",
            {"kind": "multi_step", "milestones": {"steps": [2]}, "gamma": 0.1},
        ),
        ("dict(type='ExponentialLR', gamma=.9)", {"kind": "exponential", "gamma": {"per_epoch": 0.9}}),
        ("[dict(type='ConstantLR', factor=1)]", {"kind": "constant"}),
        ("dict(type='LinearLR', end_factor=.5, by_epoch=False)", {"kind": "linear", "end_factor": 0.5}),
        (
            "dict(type='PolyLRRatio', eta_min_ratio=.25, power=1, by_epoch=False)",
            {"kind": "poly", "power": 1, "end_factor": 0.25},
        ),
        ("dict(type='MyLR')", {"kind": "constant"}),
    ],
)
def test_schedules_become_ours(scheduler: str, schedule: dict[str, Any], tmp_path: Path) -> None:
    text = f"{HEAD}{DATA}{SCHEDULE}param_scheduler = {scheduler}\n"
    found = converted(tmp_path, text).tree["schedule"]
    assert {key: round(value, 9) if isinstance(value, float) else value for key, value in found.items()} == schedule


CROP = "[dict(type='RandomCrop', crop_size=8)]"


def test_public_data_sets_are_read_in_their_own_layout(tmp_path: Path) -> None:
    def data_of(kind: str, train_prefix: str, val_prefix: str, more: str = "") -> dict[str, Any]:
        sets = [
            f"{split}_dataloader = dict(batch_size=1, dataset=dict(type='{kind}', data_root='d/', "
            f"data_prefix=dict({prefix}){more.replace('SPLIT', split)}, pipeline={CROP}))\n"
            for split, prefix in (("train", train_prefix), ("val", val_prefix))
        ]
        data: dict[str, Any] = converted(tmp_path, HEAD + "".join(sets) + SCHEDULE).tree["data"]
        return data

    street = data_of(
        "CityscapesDataset",
        "img_path='leftImg8bit/train', seg_map_path='gtFine/train'",
        "img_path='leftImg8bit/val', seg_map_path='gtFine/val'",
    )
    assert street == {"kind": "cityscapes", "root": "d"}
    voc = "img_path='JPEGImages', seg_map_path='SegmentationClass'"
    assert data_of("PascalVOCDataset", voc, voc, ", ann_file='lists/SPLIT.txt'") == {
        **{"kind": "voc", "root": "d", "train_list": "lists/train.txt", "val_list": "lists/val.txt"}
    }
    drive = data_of(
        "DRIVEDataset",
        "img_path='images/training', seg_map_path='annotations/training'",
        "img_path='images/validation', seg_map_path='annotations/validation'",
    )
    assert drive["labels"] == "annotations/{split}/{id}_manual1.png"
    assert drive["splits"] == {"kind": "folders", "train": "training", "val": "validation"}
    listed = data_of("PascalContextDataset59", voc, voc, ", ann_file='SPLIT.txt'")
    assert listed["splits"] == {"kind": "lists", "train": "train.txt", "val": "val.txt"}
    assert listed["decode"]["map"][59] == "wood"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "no model"),
        (HEAD + SCHEDULE, "names no data set"),
        (HEAD.replace("'PSPHead'", "'MyHead'") + DATA + SCHEDULE, "terrazzo has no MyHead"),
        (HEAD.replace("num_classes=3", "num_classes='a'") + DATA + SCHEDULE, "num_classes is 'a'"),
        (HEAD + DATA + SCHEDULE.replace("lr=1e-3", "lr=-1"), "makes no recipe"),
        ("x = (", "no Python config"),
    ],
)
def test_what_makes_no_recipe_is_said_with_the_file(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"(?s)psp_2xb2-mine.py.*{says}"):
        converted(tmp_path, text)


def test_a_network_of_other_sizes_becomes_the_nearest_kind_and_says_so(tmp_path: Path) -> None:
    found = converted(tmp_path, HEAD.replace("channels=128", "channels=96") + DATA + SCHEDULE)
    assert {key: found.tree["model"][key] for key in ("kind", "arch", "encoder")} == {
        **{"kind": "smp", "arch": "pspnet", "encoder": "resnet18"}
    }
    assert any("model.decode_head.channels is 96, not 128" in each for each in found.remarks)
    assert "auxiliary_weight" not in found.tree


def test_names_with_line_ends_stay_in_their_comment(tmp_path: Path) -> None:
    text = HEAD + DATA.replace("'CLAHE'", r"'C\nseed: 5\u2028seed: 6'") + SCHEDULE
    assert yaml.safe_load(converted(tmp_path, text).yaml)["seed"] == 304
