"""The label linter on real data: planted faults are found and mended, clean data is left in peace."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from planted import BASES, CAMVID, FAULTS, Fault, Section, first, image_without_label, recipe, truncated_image
from real_sets import SETS
from terrazzo.base import InputError
from terrazzo.commands.check import Checked, check, quick_check
from terrazzo.config import RunConfig, config_of, load_config

Base = Callable[[str], tuple[Path, Section]]


@pytest.fixture(scope="session")
def base(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Makes a small copy of a real data set once."""
    made: dict[str, tuple[Path, Section]] = {}

    def of(name: str) -> tuple[Path, Section]:
        if name not in made:
            root = tmp_path_factory.mktemp("bases") / name
            made[name] = root, BASES[name](shared_data, root)
        return made[name]

    return of


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def copied(name: str, base: Base, tmp_path: Path) -> tuple[Path, Section]:
    source, section = base(name)
    shutil.copytree(source, tmp_path / name)
    return tmp_path / name, section


def planted(fault: Fault, base: Base, tmp_path: Path) -> Path:
    """The recipe of a copy with the fault in it."""
    root, section = copied(fault.base, base, tmp_path)
    changes = fault.plant(root) or {}
    return recipe(root, {key: value for key, value in {**section, **changes}.items() if value is not None})


def codes(checked: Checked, *severities: str) -> set[str]:
    return {verdict.code for verdict in checked.verdicts if not severities or verdict.severity in severities}


def errors(config: RunConfig) -> set[str]:
    return {verdict.code for verdict in quick_check(config) if verdict.severity == "error"}


@pytest.mark.parametrize("name", BASES)
def test_the_copies_are_clean(name: str, base: Base) -> None:
    config = load_config(recipe(*base(name)))
    assert not codes(check(config), "error", "warning")
    assert not errors(config)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.code)
def test_a_planted_fault_is_found_and_its_fix_mends_it(fault: Fault, base: Base, tmp_path: Path) -> None:
    path = planted(fault, base, tmp_path)
    before = check(load_config(path))
    found = next((verdict for verdict in before.verdicts if verdict.code == fault.code), None)
    assert found is not None, codes(before)
    assert found.severity in ("error", "warning")
    assert found.fix
    if fault.quick:
        assert fault.code in {verdict.code for verdict in quick_check(load_config(path))}
    mended = load_config(path, found.fix)
    after = check(mended)
    assert fault.code not in codes(after)
    assert codes(after, "error") <= codes(before, "error") - {fault.code}
    if not codes(after, "error"):
        assert not errors(mended)


@pytest.mark.parametrize("name", SETS)
def test_clean_real_data_raises_no_false_alarm(name: str, shared_data: Path) -> None:
    section = SETS[name] | {"root": str(shared_data / name), "limit": 60 if name == "camvid" else None}
    config = config_of({"data": section, "model": {"kind": "unet"}})
    checked = check(config)
    assert not codes(checked, "error", "warning")
    assert not errors(config)
    remarks = {"voc-person": "class-absent-val", "dubai-aerial": "class-file-differs", "wbc": "duplicate-images"}
    assert name not in remarks or remarks[name] in codes(checked, "note")


def test_palettes_that_differ_from_file_to_file_are_not_read_by_index(shared_data: Path, tmp_path: Path) -> None:
    section = SETS["dubai-aerial"] | {"images": "Tile 2/images/{id}.jpg", "labels": "Tile 2/masks/{id}.png"}
    path = recipe(shared_data / "dubai-aerial", section | {"decode": {"kind": "index"}}, tmp_path)
    before = check(load_config(path))
    (found,) = (verdict for verdict in before.verdicts if verdict.code == "palettes-disagree")
    assert not check(load_config(path, found.fix)).failed


def test_a_label_of_another_frame_is_found_in_camvid(shared_data: Path) -> None:
    """The published label of Seq05VD_f02610 is not of this frame, as one look at it shows."""
    section = {
        "kind": "folder",
        "root": str(shared_data / "camvid"),
        "images": "test/Seq05VD_f02{id}.jpg",
        "labels": "testannot/Seq05VD_f02{id}.png",
        "classes": list(CAMVID),
        "decode": {"kind": "index", "ignore": [11]},
        "splits": {"kind": "ratio"},
    }
    checked = check(config_of({"data": section, "model": {"kind": "unet"}}))
    found = [verdict for verdict in checked.verdicts if verdict.code in ("shifted-labels", "shuffled-pairs")]
    assert [verdict.files for verdict in found] == [("testannot/Seq05VD_f02610.png",)]


def test_all_errors_are_answered_at_once(base: Base, tmp_path: Path) -> None:
    root, section = copied("camvid", base, tmp_path)
    first(root, "valannot").unlink()
    truncated_image(root)
    for path in sorted((root / "testannot").iterdir())[:2]:
        Image.new("L", (7, 5)).save(path)
    path = recipe(root, section)
    before = check(load_config(path))
    assert codes(before, "error") == {"image-without-label", "unreadable-image", "size-mismatch"}
    assert before.failed
    assert not check(load_config(path, before.fix)).failed


def test_the_worst_and_widest_verdict_comes_first(base: Base, tmp_path: Path) -> None:
    root, section = copied("wbc", base, tmp_path)
    first(root, "masks").unlink()
    checked = check(load_config(recipe(root, section | {"decode": {"kind": "index"}})))
    assert [verdict.code for verdict in checked.verdicts][:2] == ["spread-values", "image-without-label"]
    assert [verdict.severity for verdict in checked.verdicts] == sorted(
        verdict.severity for verdict in checked.verdicts
    )


def test_a_layout_is_given_only_settings_that_it_has(base: Base, tmp_path: Path) -> None:
    root, _ = copied("camvid", base, tmp_path)
    label = first(root, "trainannot")
    Image.new("L", (240, 180), 99).save(label)
    path = recipe(root, {"kind": "camvid"})
    before = check(load_config(path))
    (found,) = (verdict for verdict in before.verdicts if verdict.code == "unknown-values")
    assert found.fix == (f"data.exclude=[trainannot/{label.name}]",)
    assert not check(load_config(path, found.fix)).failed


def test_the_report_and_the_json_say_the_same(base: Base, tmp_path: Path) -> None:
    root, section = copied("pets", base, tmp_path)
    image_without_label(root)
    checked = check(load_config(recipe(root, section)), json=tmp_path / "a.json", html=tmp_path / "a.html")
    plain = json.loads((tmp_path / "a.json").read_text())
    page = (tmp_path / "a.html").read_text()
    assert plain["failed"] is True
    assert plain["images"] == {"train": 15, "val": 5, "test": 5}
    assert [each["code"] for each in plain["verdicts"]] == [verdict.code for verdict in checked.verdicts]
    assert plain["verdicts"][0]["fix"] == ["data.exclude=[images/Abyssinian_1.jpg]"]
    assert plain["verdicts"][0]["yaml"] == "data:\n  exclude: [images/Abyssinian_1.jpg]\n"
    assert all(verdict.title in page for verdict in checked.verdicts)


def test_a_second_pass_reads_nothing_again(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(recipe(*copied("wbc", base, tmp_path)))
    once = check(config)
    monkeypatch.setattr("terrazzo.check.scan.record_of", lambda *_: pytest.fail("a file was read again"))
    assert check(config).records == once.records


def test_data_where_no_label_is_found_is_still_judged(base: Base, tmp_path: Path) -> None:
    root, section = copied("pets", base, tmp_path)
    (root / "empty").mkdir()
    checked = check(load_config(recipe(root, section | {"labels": "empty"})), html=tmp_path / "a.html")
    assert checked.failed
    assert "image-without-label" in codes(checked)
    assert not checked.records


def test_data_that_is_no_files_is_refused_in_a_sentence() -> None:
    config = config_of({"data": {"kind": "own"}, "model": {"kind": "unet"}})
    assert quick_check(config) == []
    with pytest.raises(InputError, match=r"data\.kind=own has no image and label files"):
        check(config)
