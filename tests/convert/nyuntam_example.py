"""A flat recipe of Nyuntam's "adapt": the keys and values of a real one, and a tree of files for it."""

from pathlib import Path

import numpy as np

from data.fake_files import label, lines
from terrazzo.data.layouts import STANFORD

EXAMPLE = """
JOB_SERVICE: Adapt
CUSTOM_DATASET_PATH : "/custom_data/iccv09Data"
MODEL : 'segnext'
MODEL_PATH :  'segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512'
CACHE_BOOL : False
LOCAL_MODEL_PATH:
SEED : 56
DO_TRAIN : True
DO_EVAL : False
NUM_WORKERS : 4
BATCH_SIZE : 1
EPOCHS : 1
STEPS :
OPTIMIZER : 'AdamW'
LR : 5e-4
SCHEDULER_TYPE : 'MultiStepLR'
WEIGHT_DECAY : 0.0
BETA1 : 0.9
BETA2 : 0.999
ADAM_EPS : 1e-8
INTERVAL : 'steps'
INTERVAL_STEPS : 4
NO_OF_CHECKPOINTS : 5
FP16 : False
RESUME_FROM_CHECKPOINT : False
GRADIENT_ACCUMULATION_STEPS : 3
GRADIENT_CHECKPOINTING : False
BEGIN: 0
END: 50
amp :  False
resume  :
auto_scale_lr :  False
cfg_options  : None
launcher :  none
dest_root : './.mmseg_cache'
train_ann_file : "train_ann_file.txt"
val_ann_file : "val_ann_file.txt"
work_dir : ./results/mmseg
checkpoint_interval : 45
train_img_file: images
train_seg_file: seg_maps
val_img_file: images
val_seg_file: seg_maps
num_classes: 8
class_list: ['sky', 'tree', 'road', 'grass', 'water', 'bldg', 'mntn', 'fg obj']
palette: [[128, 128, 128], [129, 127, 38], [120, 69, 125], [53, 125, 34],
           [0, 11, 123], [118, 20, 12], [122, 81, 25], [241, 134, 51]]
LAST_LAYER_TUNING : True
FULL_FINE_TUNING : False
PEFT_METHOD : 'SSF'
peft_type : 'SSF'
Library :  'MMSEG'
cuda_id : '0'
OUTPUT_DIR : "/user_data/jobs/Adapt/IMGSEG"
OVERWRITE_OUTPUT_DIR : False
LOGGING_PATH : "/user_data/logs/Adapt/IMGSEG"
MERGE_ADAPTER: False
TASK : 'image_segmentation'
auto_select_modules: True
SAVE_METHOD : 'state_dict'
"""


def stanford_tree(root: Path, labels: str = "labels", *, png: bool = False, lists: str = "_ann_file") -> None:
    """Eight pictures of 48x64 in the layout of Stanford Background; six are listed to train on, two for validation."""
    rng = np.random.default_rng(0)
    names = [f"{9000000 + k}" for k in range(8)]
    for name in names:
        mask = rng.integers(0, 8, (6, 8)).repeat(8, 0).repeat(8, 1)
        # As a photo is: its edges lie where the labels' do, or they would be said to belong to other images.
        colors = np.array([*STANFORD.values()])[mask]
        label(root / f"images/{name}.jpg", (colors + rng.integers(-9, 10, colors.shape)).clip(0, 255))
        if png:
            label(root / labels / f"{name}.png", mask)
        else:
            mask[0, 0] = -1
            lines(root / labels / f"{name}.regions.txt", *(" ".join(map(str, row)) for row in mask.tolist()))
    lines(root / f"train{lists}.txt", *names[:6])
    lines(root / f"val{lists}.txt", *names[6:])
