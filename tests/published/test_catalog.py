"""The list of published networks: complete, found by every name, with licences, and a reason for what cannot run."""

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from terrazzo.published.catalog import Entry, address, close_names, entries, find_entry
from terrazzo.published.licences import STARTED_FROM, TERMS, UNKNOWN, gated
from terrazzo.published.loading import find_architecture
from terrazzo.published.missing import PARTS
from terrazzo.published.runnable import short_reason, why_not

ROOT = Path(__file__).parents[2]


def entry(name: str) -> Entry:
    found = find_entry(name)
    assert found is not None, name
    return found


def test_all_entries_are_there_and_different() -> None:
    assert len(entries()) == 617
    assert len({one.name.lower() for one in entries()}) == len({one.weights_file.lower() for one in entries()}) == 617
    assert all(re.fullmatch("[0-9a-f]{8}", one.digest) for one in entries())
    assert all(one.weights_dir[0] == "v0.5" for one in entries())
    assert len({one.dataset for one in entries()}) == 17


def test_the_shipped_table_is_what_the_script_makes(shared_parity: Path, tmp_path: Path) -> None:
    spec = spec_from_file_location("zoo_table", ROOT / "docs" / "zoo_table.py")
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    kept = script.OUT
    script.OUT = tmp_path / kept.name
    script.main(shared_parity / "mmseg_zoo.json")
    assert script.OUT.read_text(encoding="utf-8") == kept.read_text(encoding="utf-8")
    for model in json.loads((shared_parity / "mmseg_zoo.json").read_text())["models"]:
        found = entry(model["name"])
        assert found.config == model["config"]
        assert found.path.endswith("/".join([*model["weights_dir"], model["weights_file"]]))


def test_an_address_is_the_published_one() -> None:
    found = entry("san-vit-b16_coco-stuff164k-640x640")
    assert f"{address()}/{found.path}" == (
        "https://download.openmmlab.com/mmsegmentation/v0.5/san/san-vit-b16_20230906-fd0a7684.pth"
    )
    found = entry("stdc1_4xb12-80k_cityscapes-512x1024")
    assert f"{address()}/{found.path}" == (
        "https://download.openmmlab.com/mmsegmentation/v0.5/stdc/stdc1_512x1024_80k_cityscapes/"
        "stdc1_512x1024_80k_cityscapes_20220224_073048-74e6920a.pth"
    )
    assert (found.miou, found.miou_tta, found.memory_gb) == (71.82, 73.89, 7.15)


@pytest.mark.parametrize(
    "given",
    [
        "segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512",
        "SegNeXt_MSCAN-T_1xb16-adamw-160k_ade20k-512x512.py",
        "segnext_mscan-t_1x16_512x512_adamw_160k_ade20k_20230210_140244-05bd8466.pth",
        "segnext_mscan-t_1x16_512x512_adamw_160k_ade20k_20230210_140244-05bd8466",
        "segnext_mscan-t_1x16_512x512_adamw_160k_ade20k",
    ],
)
def test_every_name_of_an_entry_finds_it(given: str) -> None:
    assert entry(given).name == "segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512"


def test_no_entry_hides_behind_another() -> None:
    for one in entries():
        assert find_entry(one.name) == one
        assert find_entry(one.weights_file) == one
    assert find_entry("segnext") is None
    assert find_entry("") is None
    assert close_names("segnext_mscan-t")[0].startswith("segnext_mscan-t_")
    assert close_names("stdc1_4xb12-80k_citiscapes-512x1024")[0] == "stdc1_4xb12-80k_cityscapes-512x1024"
    assert close_names("") == []


def test_vessel_data_sets_have_a_dice_score_and_others_an_miou() -> None:
    assert {one.dataset for one in entries() if one.dice is not None} == {"DRIVE", "STARE", "CHASE_DB1", "HRF"}
    assert {one.dataset for one in entries() if one.miou is None and one.dice is None} == {"NYU"}


def test_licences_say_what_may_not_be_sold() -> None:
    non_commercial = {one.family for one in entries() if not one.commercial}
    assert non_commercial == {"segformer", "mae"}
    assert entry("segformer_mit-b0_8xb2-160k_ade20k-512x512").licence == "NVIDIA Source Code License for SegFormer"
    assert entry("pspnet_r50-d8_4xb2-40k_cityscapes-512x1024").licence == "Apache-2.0"
    assert entry("pspnet_r50-d8_4xb2-40k_cityscapes-512x1024").dataset_terms.commercial is False
    families = {one.family for one in entries()}
    assert STARTED_FROM.keys() <= families
    datasets = {one.dataset for one in entries()}
    assert TERMS.keys() <= datasets
    unknown = {one.dataset for one in entries() if one.dataset_terms == UNKNOWN}
    assert unknown == {"DRIVE", "STARE", "CHASE_DB1", "HRF", "NYU"}
    asked = gated("facebook/dinov3-vits16-pretrain-lvd1689m")
    assert asked is not None
    assert asked.name == "DINOv3 License"
    assert gated("facebook/dinov2-small") is None


def test_every_entry_runs_or_names_its_missing_part() -> None:
    reasons = {one.name: why_not(one) for one in entries()}
    assert sum(reason is None for reason in reasons.values()) >= 550
    for one in entries():
        reason = reasons[one.name]
        if reason is None:
            assert find_architecture(one.weights_file.removesuffix(".pth")) == find_architecture(one.name)
            assert short_reason(one, reason) is None
        else:
            assert one.name in reason
            assert "lacks" in reason or "not verified" in reason
    lacking = {one.family for one in entries() if "lacks" in (reasons[one.name] or "")}
    assert lacking == PARTS.keys(), "published/missing.py names the missing part of each family, and of no other"
    assert reasons["vpd_sd_4xb8-25k_nyu-480x480"] is not None
    assert reasons["segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512"] is None
