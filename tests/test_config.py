"""Recipes, overrides, and the sentences that answer a wrong one."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from terrazzo.base import Epochs, InputError, Steps, to_steps
from terrazzo.config import RunConfig, dump_yaml, load_config
from terrazzo.recipe import recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_resolves_without_data_or_weights(name: str) -> None:
    config = load_config(name)
    assert config.out == Path("runs") / name
    assert load_config(name).model_dump() == config.model_dump()


@pytest.mark.parametrize("name", recipe_names())
def test_the_printed_config_reads_back_equal(name: str, tmp_path: Path) -> None:
    config = load_config(name, ["optim.lr=1e-4", "length={steps: 7}"])
    path = tmp_path / "again.yaml"
    path.write_text(dump_yaml(config))
    assert load_config(path) == config


def test_the_two_names_others_rely_on_ship() -> None:
    assert {"camvid_unet", "pets_quickstart"} <= set(recipe_names())


def test_an_existing_path_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("camvid_unet").write_text("data: {kind: camvid}\nmodel: {kind: unet}\nseed: 41\n")
    assert load_config("camvid_unet").seed == 41


def test_an_override_replaces_the_whole_value_and_keeps_its_type() -> None:
    config = load_config("camvid_unet", ["length={steps: 12}", "optim.lr=1e-4", "losses.1.weight=2", "seed=3"])
    assert config.length == Steps(steps=12)
    assert config.optim.lr == 1e-4
    assert config.losses[1].weight == 2
    assert config.seed == 3
    assert load_config("camvid_unet", ["model={kind: unet}"]).model.kind == "unet"
    assert load_config("camvid_unet", ["losses=[{kind: cross_entropy}]"]).losses[0].kind == "cross_entropy"


def test_a_section_left_out_of_the_recipe_can_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("data: {kind: camvid}\nmodel: {kind: unet}\n")
    config = load_config(path, ["optim.lr=0.5", "evaluation.score_at=network", "schedule.warmup={steps: 3}"])
    assert config.optim.lr == 0.5
    assert config.optim.kind == "adamw"
    assert config.evaluation.score_at == "network"
    assert config.schedule.warmup == Steps(steps=3)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optim.lrr=1", r"optim\.lrr: there is no such key \(did you mean 'lr'\?\)"),
        ("optm.lr=1", r"optm: there is no such key \(did you mean 'optim'\?\)"),
        ("model.kind=smq", r"model\.kind: 'smq' is not one of .*\(did you mean 'smp'\?\)"),
        ("losses.0.wieght=1", r"losses\.0\.wieght: there is no such key \(did you mean 'weight'\?\)"),
        ("losses.7.weight=1", r"'7' is not an index of this list of 2 entries"),
        ("losses=[]", r"losses: .*at least 1"),
        ("batch=0", r"batch: .*greater than 0 \(found 0\)"),
        ("batch=many", r"batch: .*integer.*\(found 'many'\)"),
        ("length={epochs: 1, steps: 2}", r"length"),
        ("length=5", r"length"),
        ("seed", r"not of the form key=value"),
        ("seed.a=1", r"seed is .* in the recipe and has no keys|seed"),
        ("data.colour=1", r"data\.colour: there is no such key"),
        ("device=gpu", r"device: .*'cuda'"),
        ("augment.crop=[1", r"not valid YAML"),
        ("auxiliary_weight=1", r"changes nothing: this model has no auxiliary head"),
    ],
)
def test_a_wrong_override_is_answered_in_a_sentence(override: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_config("camvid_unet", [override])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("length=5", "length: found 5; write {steps: ...} or {epochs: ...}"),
        ("length={steps: 0}", "length.steps: Input should be greater than 0 (found 0)"),
        ("length={epochs: 0}", "length.epochs: Input should be greater than 0 (found 0)"),
        ("length={step: 3}", "length: found {'step': 3}; write {steps: ...} or {epochs: ...}"),
        ("schedule.warmups={encoder: 5}", "schedule.warmups.encoder: found 5; write {steps: ...} or {epochs: ...}"),
        (
            "optim.lr_factors={body: 1}",
            "optim.lr_factors: a key should be 'encoder', 'decoder' or 'head' (found 'body')",
        ),
        ("adapt=lora", "adapt: found 'lora', where a section with keys stands: {kind: lora}"),
        ("adapt={kind: lora, targets: q}", "adapt.targets: found 'q'; write auto or a list or {regex: ...}"),
        (
            "adapt={kind: lora, targets: {regex: '('}}",
            "adapt.targets.regex: '(' is no regular expression: missing ), unterminated subpattern at position 0",
        ),
        ("init=runs/a", "init: found 'runs/a'; write {from: ...}"),
        ("init={from: a, parts: head}", "init.parts: found 'head'; write a list: [head]"),
        ("init={from: a, parts: [b]}", "init.parts.0: Input should be 'encoder', 'decoder' or 'head' (found 'b')"),
        ("evaluation.window.size=0", "evaluation.window.size: Input should be greater than 0 (found 0)"),
        ("model.weights=[1]", "model.weights: found [1]; write none or pretrained or a path"),
    ],
)
def test_of_the_forms_that_a_value_may_have_the_nearest_is_spoken_of(override: str, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        load_config("camvid_unet", [override])
    assert str(error.value) == f"camvid_unet: {sentence}"


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("pets_quickstart", ["data.val_fraction=null", "data.split_seed=3"]),
        (
            "camvid_unet",
            ["data={kind: folder, images: '{split}/i', labels: '{split}/m', classes: [a], splits: {seed: 3}}"],
        ),
    ],
)
def test_a_seed_that_nothing_is_shuffled_by_is_refused(recipe: str, overrides: list[str]) -> None:
    with pytest.raises(InputError, match=r"seed=3 changes nothing: without val_fraction"):
        load_config(recipe, overrides)


def test_a_missing_recipe_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean 'camvid_unet'.*pets_quickstart"):
        load_config("camvid_unit")
    with pytest.raises(InputError, match="is a folder"):
        load_config(tmp_path)


def test_a_file_that_is_no_recipe_says_so(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_config(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(InputError, match="found list"):
        load_config(path)
    path.write_text("a: [b")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(path)


def test_two_faults_are_both_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)optim\.lrr.*batch"):
        load_config("camvid_unet", ["optim.lrr=1", "batch=-1"])


def test_integers_written_as_scientific_strings_are_numbers() -> None:
    """Pitfall: YAML reads 1e-4 as a string."""
    assert yaml.safe_load("1e-4") == "1e-4"
    assert load_config("camvid_unet", ["optim.lr=1e-4"]).optim.lr == 1e-4


def test_epochs_are_a_rounded_up_number_of_steps() -> None:
    assert to_steps(Epochs(epochs=3), samples=10, batch=4) == 8
    assert to_steps(Epochs(epochs=0.01), samples=10, batch=4) == 1
    assert to_steps(Steps(steps=5), samples=10, batch=4) == 5


def test_every_leaf_of_the_schema_says_what_it_is() -> None:
    def walk(model: type[BaseModel], seen: set[type]) -> list[str]:
        missing = []
        if model in seen:
            return []
        seen.add(model)
        for name, field in model.model_fields.items():
            if name != "kind" and not field.description:
                missing.append(f"{model.__name__}.{name}")
            for inner in models_in(field.annotation):
                missing += walk(inner, seen)
        return missing

    assert walk(RunConfig, set()) == []


def models_in(annotation: object) -> list[type[BaseModel]]:
    from typing import get_args

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in models_in(arg)]
