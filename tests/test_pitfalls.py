"""Mistakes seen in other tools, each with the tests that stand against it: the index, and those with no other home."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from terrazzo.base import InputError
from terrazzo.commands.evaluate import score_dataset
from terrazzo.commands.lengths import Lengths
from terrazzo.commands.sets import Sets
from terrazzo.commands.start import Job, build_state
from terrazzo.config import config_of, load_config
from terrazzo.engine.rundir import RunDir
from terrazzo.engine.state import TrainState
from terrazzo.recipe import RECIPES, recipe_names
from test_engine_options import CPU, Noise, recipe, run

TESTS = Path(__file__).parent

INDEX = {
    # Config
    "an accepted key that changes nothing": "test_settings.py::test_a_setting_changes_what_comes_out",
    "README, config and code that disagree": "test_docs.py::test_every_terrazzo_command_of_the_readme_runs_in_order",
    "the reference and the code that disagree": "test_docs.py::test_the_reference_is_what_the_schema_says",
    "hidden units": "test_optim_schedules.py::test_hidden_units_are_refused",
    "hidden inherited settings": "test_pitfalls.py::test_pitfall_hidden_inherited_settings",
    "integers parsed as strings": "test_config.py::test_integers_written_as_scientific_strings_are_numbers",
    "runs that overwrite each other": "test_resume.py::test_another_recipe_is_refused_and_fresh_starts_anew",
    "secrets, tracker login on import": "test_pitfalls.py::test_pitfall_tracker_login_on_import",
    # Labels
    "off by one": "data/test_labels.py::test_pitfall_off_by_one",
    "raw ids trained as train ids": "data/test_labels.py::test_pitfall_raw_ids_trained_as_train_ids",
    "void trained as a class": "data/test_labels.py::test_pitfall_void_trained_as_a_class",
    "0/255 masks": "data/test_labels.py::test_pitfall_0_255_masks_whose_foreground_equals_ignore",
    "RGB masks read as luminance": "data/test_labels.py::test_pitfall_rgb_masks_read_as_luminance",
    "negative label cast to unsigned": "data/test_labels.py::test_pitfall_negative_label_cast_to_unsigned",
    "flattening overwrites frames": "data/test_folder.py::test_pitfall_flattening_by_file_name_overwrites_frames",
    "a random split that is a listing": "data/test_folder.py::test_pitfall_a_random_split_that_is_a_directory_listing",
    "a missing split file": "data/test_folder.py::test_pitfall_a_missing_split_file_that_silently_means_all_files",
    "BGR/RGB palettes": "data/test_labels.py::test_pitfall_bgr_rgb_palettes",
    # Geometry
    "flipped independently": "data/test_augment.py::test_pitfall_image_and_mask_flipped_independently",
    "augmentation on validation and test": "data/test_folder.py::test_pitfall_augmentation_on_validation_and_test",
    "mask resized bilinearly": "data/test_augment.py::test_pitfall_mask_resized_bilinearly_image_resized_nearest",
    "squashed aspect": "data/test_augment.py::test_pitfall_squashed_aspect",
    "scores at network size": "test_pitfalls.py::test_pitfall_scores_at_network_size_instead_of_label_size",
    "upsampled to a constant": "infer/test_predictor.py::test_a_resized_input_still_gives_a_mask_of_the_pictures_size",
    "odd sizes crash": "test_contracts_models.py::test_images_of_odd_sizes",
    # Loss and metrics
    "an all-ignored crop gives NaN": "test_losses.py::test_an_all_ignored_crop_gives_zero_not_nan",
    "mean over ignored pixels": "test_losses.py::test_the_mean_is_not_over_ignored_pixels",
    "Dice computed as 2I/U": "test_losses.py::test_dice_is_not_2i_over_u_so_perfect_is_one",
    "Dice of scores as 2I/U": "test_metrics.py::test_dice_of_a_perfect_prediction_is_one_not_two",
    "class skipped where absent": "test_metrics.py::test_a_class_absent_from_a_batch_still_counts_there",
    "float32 counters stop at 2^24": "test_metrics.py::test_counts_go_beyond_float32",
    "averaging per-batch IoU": "test_metrics.py::test_miou_is_of_the_summed_matrix_not_the_mean_of_per_batch_ious",
    "rounding first": "test_metrics.py::test_as_dict_is_unrounded_json_with_null_for_nothing",
    # Training
    "scheduler stepped twice": "test_optim_workflows.py::test_w4_exponential_per_epoch_is_taken_once",
    "parameters replaced": "test_pitfalls.py::test_pitfall_parameters_replaced_after_the_optimiser_took_them",
    "PEFT injected before the base weights load": "adapt/test_adapt_resume.py::test_pitfall_base_weights_come_first",
    "wrapped layers": "adapt/test_adapt.py::test_pitfall_wrapped_layers_lose_dilation_padding_mode_groups_or_eps",
    "scale axis guessed": "adapt/test_adapt.py::test_pitfall_the_scale_axis_is_guessed_from_the_shape",
    "grouped convs skipped": "adapt/test_adapt.py::test_pitfall_grouped_convolutions_are_skipped_and_left_trainable",
    "BN moving in a frozen encoder": "adapt/test_adapt.py::test_pitfall_batchnorm_moves_in_a_frozen_encoder",
    "merge on CUDA only": "adapt/test_export_adapted.py::test_folding_is_exact_enough_behind_batchnorm_and_groups_too",
    "a failed merge swallowed": "adapt/test_export_adapted.py::test_a_merge_that_changes_answers_is_refused",
    "accumulation that is a no-op": "test_engine_options.py::test_parts_of_a_batch_have_the_gradient_of_the_whole",
    '"last" not saved': "test_pitfalls.py::test_pitfall_last_not_saved",
    '"best" never saved at score 0': "test_resume.py::test_the_first_validation_is_the_best_even_at_0",
    "early-stop counters that differ between ranks": "test_engine_options.py::"
    "test_a_signal_to_one_rank_stops_all_and_the_run_goes_on_to_the_same_bits",
    "reduced values thrown away": "test_engine_options.py::test_two_ranks_are_one_to_1e_10",
    "random bases: one image, two answers": "test_contracts_models.py::test_the_same_image_gives_the_same_bits",
    # Resume
    "no RNG state": "test_resume.py::test_stopped_again_and_again_is_not_stopped",
    "EMA and optimiser stored as fp16": "test_pitfalls.py::test_pitfall_ema_and_optimiser_stored_as_fp16",
    "every past batch read again": "data/test_loader.py::test_pitfall_every_past_batch_is_read_again_on_resume",
    "order changes with workers": "data/test_loader.py::test_pitfall_the_order_changes_with_the_number_of_workers",
    # Outputs
    "predictions named by a counter": "infer/test_predictor.py::test_saved_files_keep_folders_ids_and_colors",
    "checkpoint without class names and palette": "test_cli.py::test_a_bundle_stands_alone",
    "pickles that run code on load": "models/test_weights.py::test_pickled_code_is_refused_and_not_run",
}
"""Pitfall -> the test that would fail if we made the mistake."""


@pytest.mark.parametrize("pitfall", INDEX)
def test_the_index_names_tests_that_exist(pitfall: str) -> None:
    file, _, name = INDEX[pitfall].partition("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_test_named_after_a_pitfall_is_here_or_a_variant_of_one() -> None:
    known = {entry.partition("::")[2] for entry in INDEX.values()}
    found = {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_pitfall_")
    }
    strays = {name for name in found - known if not any(name.startswith(known_one) for known_one in known)}
    assert strays <= {
        "test_pitfall_0_255_masks_are_found_when_the_folder_is_opened",
        "test_pitfall_odd_sizes_crash",
    } | {"test_pitfall_odd_sizes_crash_in_a_warp"}


def test_pitfall_hidden_inherited_settings(tmp_path: Path) -> None:
    """A recipe is one file: nothing is inherited, and the head learns at the encoder's rate unless the recipe says."""
    tree = recipe(tmp_path / "r") | {"_base_": "other.yaml"}
    with pytest.raises(InputError, match=r"_base_: there is no such key"):
        config_of(tree)
    for name in recipe_names():
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
        base = {key: value for key, value in yaml.safe_load(text).items() if key != "sweep"}
        assert load_config(name) == config_of({"out": f"runs/{name}"} | base), (
            "a recipe is its own text and the schema's defaults"
        )
    state = state_of(tmp_path / "r")
    assert {group["lr"] for group in state.optimizer.param_groups} == {0.01}


def test_pitfall_tracker_login_on_import() -> None:
    """Importing everything that a run needs opens no connection, and imports no tracker."""
    code = """
import socket, sys
def refused(*args, **options):
    raise AssertionError("a connection on import")
socket.socket.connect = socket.create_connection = refused
import terrazzo.cli, terrazzo.commands.train, terrazzo.commands.evaluate, terrazzo.commands.predict
print(sorted({"wandb", "mlflow", "tensorboard", "comet_ml"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_pitfall_scores_at_network_size_instead_of_label_size(tmp_path: Path) -> None:
    """The network sees 16x16; every pixel of the 40x40 labels that is no class 255 is counted."""
    small = {"resize": {"kind": "exact", "height": 16, "width": 16}}
    state = state_of(tmp_path / "r", evaluation=small)
    evaluation = config_of(recipe(tmp_path / "r", evaluation=small)).evaluation
    scored = score_dataset(state.model.eval(), Noise(4, 1), evaluation, world=CPU)
    assert [image.pixels for image in scored.images] == 4 * [37 * 40]


def state_of(out: Path, **changes: Any) -> TrainState:
    """The state before the first step of a run."""
    from rich.console import Console

    cfg = config_of(recipe(out, **changes))
    sets = Sets(Noise(12, 0), Noise(4, 1), Noise(4, 1), "val")
    job = Job(cfg, CPU, RunDir(out), Console(quiet=True), sets, Lengths.of(cfg, 12))
    return build_state(job, None, None)[0]


def test_pitfall_parameters_replaced_after_the_optimiser_took_them(tmp_path: Path) -> None:
    """What the optimiser updates are the model's own parameters, after a fresh start and after a resume."""
    run(tmp_path / "r", length={"steps": 2})
    state = state_of(tmp_path / "other")
    for again in (False, True):
        if again:
            state.restore(tmp_path / "r/checkpoints/last")
        updated = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
        assert updated == {id(p) for p in state.model.parameters()}


def test_pitfall_last_not_saved(tmp_path: Path) -> None:
    """The end of a run is saved although no interval falls on it, and it is the last step's weights."""
    run(tmp_path / "r", length={"steps": 3}, save_every={"steps": 2}, validate_every={"steps": 2})
    saved = torch.load(tmp_path / "r/checkpoints/last/train_state.pt", weights_only=True)
    assert saved["step"] == 3
    assert yaml.safe_load((tmp_path / "r/checkpoints/last/config.json").read_text())["step"] == 3


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_pitfall_ema_and_optimiser_stored_as_fp16(tmp_path: Path, precision: str) -> None:
    run(tmp_path / "r", step={"precision": precision}, ema={"decay": 0.9}, length={"steps": 2})
    last = tmp_path / "r/checkpoints/last"
    stored = [*load_file(last / "model.safetensors").values()]
    todo: list[Any] = [torch.load(last / "train_state.pt", weights_only=True)]
    while todo:
        match todo.pop():
            case torch.Tensor() as tensor:
                stored.append(tensor)
            case dict() as tree:
                todo += tree.values()
            case list() | tuple() as items:
                todo += items
    halves = [t.dtype for t in stored if t.is_floating_point() and t.dtype not in (torch.float32, torch.float64)]
    assert len(stored) > 20
    assert not halves
