"""The whole of a run on one page, and how it is read from a recipe."""

import difflib
import types
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError, model_validator

from terrazzo.adapt import AdaptConfig, Full, Staged
from terrazzo.base import Config, Duration, Epochs, InputError, Steps
from terrazzo.data import DataConfig
from terrazzo.data.augment import AugmentConfig
from terrazzo.data.sampling import SamplingConfig, Uniform
from terrazzo.engine.ema import EmaConfig
from terrazzo.engine.step import StepConfig
from terrazzo.engine.stop import EarlyStop
from terrazzo.infer.answer import InferenceConfig
from terrazzo.losses import CrossEntropy, LossConfig, MaskClassification
from terrazzo.metrics import Absent, Protocol
from terrazzo.models import ModelConfig, has_auxiliary_heads, has_queries
from terrazzo.models.weights import InitConfig
from terrazzo.optim import AdamW, Constant, OptimConfig, ScheduleConfig, check_momentum

RECIPES = files("terrazzo") / "recipes"


class EvaluationConfig(InferenceConfig):
    """How the network looks at images and where scores are counted."""

    score_at: Literal["label", "network"] = "label"
    """`label`: predictions are enlarged to the label's size. `network`: labels are resized to the network's input."""
    absent: Absent = "exclude"
    """A class in neither truth nor prediction is left out of the mean (`exclude`) or counts 0 (`zero`)."""
    protocol: Protocol = "default"
    """What "mean IoU" means. `course`: an absent class counts 0. `cityscapes`: also categories and, from the instance
    files beside the labels, iIoU. `idd`: at 1280x720, also levels 1 and 2."""
    boundary: Annotated[float, Field(gt=0, le=1)] | None = None
    """Also score boundary IoU, in a band this share of the image diagonal wide (Cheng et al., 2021: 0.02)."""

    @model_validator(mode="after")
    def _one_definition(self) -> Self:
        if self.protocol != "default" and self.absent != "exclude":
            raise ValueError(
                f"absent={self.absent} changes nothing: protocol {self.protocol} says what an absent class counts"
            )
        if self.protocol in ("cityscapes", "idd") and self.score_at != "label":
            raise ValueError(f"protocol {self.protocol} scores at label size; leave out score_at={self.score_at}")
        return self


class RunConfig(Config):
    """One training run."""

    out: Path = Path("runs/run")
    """Folder of this run (default: runs/NAME OF THE RECIPE). One that holds a checkpoint is resumed."""
    data: DataConfig
    """Where images and labels come from."""
    model: ModelConfig
    """The network."""
    init: InitConfig | None = None
    """Parts that a new run takes from another run or a file, over what model.weights says; null: none."""
    augment: AugmentConfig = AugmentConfig()
    """What training images go through."""
    sampling: SamplingConfig = Uniform()
    """Which training images are drawn, and what their crops contain."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How validation, test and prediction treat images and count scores."""
    losses: Annotated[tuple[LossConfig, ...], Field(min_length=1)] = (CrossEntropy(),)
    """Summed with their weights."""
    auxiliary_weight: NonNegativeFloat = 0.4
    """Weight of the same losses on each auxiliary head of the network, if it has any."""
    adapt: AdaptConfig = Full()
    """What of the network learns, and what is added to it to learn instead."""
    optim: OptimConfig = AdamW()
    """The optimiser."""
    schedule: ScheduleConfig = Constant()
    """Learning rate over the run, as a factor of `optim.lr`."""
    step: StepConfig = StepConfig()
    """How one optimizer step is computed."""
    ema: EmaConfig | None = None
    """Score and ship a running mean of the weights; null: the weights themselves."""
    early_stop: EarlyStop | None = None
    """End the run when a score has not become better for a while; null: never."""
    length: Duration = Epochs(epochs=10)
    """How long to train: `{steps: N}` or `{epochs: N}`."""
    batch: PositiveInt = 8
    """Images per optimizer step, over all devices."""
    log_every: Duration = Steps(steps=10)
    """Interval of lines in metrics.jsonl."""
    validate_every: Duration = Epochs(epochs=1)
    """Interval of scoring the validation split; the end of the run always does."""
    save_every: Duration = Epochs(epochs=1)
    """Interval of checkpoints; the end of the run always writes one."""
    keep: NonNegativeInt = 1
    """Interval checkpoints (checkpoints/step_...) kept besides last and best: the newest so many."""
    seed: NonNegativeInt = 0
    """Of initial weights, order, augmentation and dropout."""
    threads: PositiveInt | None = None
    """CPU threads of torch; the default is the number of cores at the first start. Part of a run's exact bits."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto`: cuda, else mps, else cpu."""
    deterministic: bool = False
    """On CUDA too, use deterministic algorithms only (slower). A CPU run always does."""

    @model_validator(mode="after")
    def _known_combinations(self) -> Self:
        check_momentum(self.optim, self.schedule)
        if isinstance(self.adapt, Staged):
            check_momentum(self.optim, self.adapt.schedule)
        if self.data.kind == "own" and self.data.remap:
            raise ValueError("data.remap works on label files; a dataset passed from Python maps its own classes")
        if self.sampling.kind == "foreground" and self.augment.crop is None:
            raise ValueError(
                "sampling.kind=foreground says where crops are, and augment.crop is null: samples are whole images; "
                "give augment a crop, or leave sampling out"
            )
        if self.evaluation.protocol == "cityscapes" and getattr(self.data, "align", None) is not None:
            raise ValueError(
                "data.align moves label files, but not the instance files that protocol cityscapes reads beside them; "
                "leave one of the two out"
            )
        if self.batch % self.step.accumulate:
            raise ValueError(
                f"step.accumulate={self.step.accumulate} does not divide batch={self.batch} (images per optimizer step)"
            )
        for loss in self.losses:
            fits = has_queries(self.model)
            if fits is not None and fits != isinstance(loss, MaskClassification):
                right = "mask_classification" if fits else "cross_entropy, focal, ohem, boundary, tversky or lovasz"
                raise ValueError(
                    f"losses: {loss.kind} cannot train this network (model.kind={self.model.kind}), which answers "
                    f"{'queries' if fits else 'logits'}; its losses are {right}"
                )
        blended = self.evaluation.window is not None or not self.evaluation.tta.is_off
        watched = self.early_stop is not None and self.early_stop.metric == "val/loss"
        if blended and watched and isinstance(self.losses[0], MaskClassification):
            raise ValueError(
                "early_stop.metric=val/loss: mask_classification has no loss where evaluation looks through windows or "
                "at turned and resized copies; give early_stop.metric=val/miou"
            )
        changed = self.auxiliary_weight != RunConfig.model_fields["auxiliary_weight"].default
        if changed and not has_auxiliary_heads(self.model):
            raise ValueError(
                f"auxiliary_weight={self.auxiliary_weight} changes nothing: this model has no auxiliary head "
                "(model.kind unet has some with deep_supervision: true, torchvision one with aux: true)"
            )
        return self


def recipe_names() -> list[str]:
    """Names of the recipes that ship with terrazzo."""
    return sorted(path.name.removesuffix(".yaml") for path in RECIPES.iterdir() if path.name.endswith(".yaml"))


def read_recipe(recipe: str | Path) -> tuple[str, str]:
    """Name and YAML text of a recipe given as a path (an existing path wins) or as the name of a shipped one."""
    path = Path(recipe)
    if path.is_file():
        try:
            return path.stem, path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not a YAML recipe (not UTF-8 text: {error.reason})") from None
    if str(recipe) in recipe_names():
        return str(recipe), (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")
    if path.is_dir():
        raise InputError(f"{path} is a folder; a recipe is a YAML file or one of {', '.join(recipe_names())}")
    near = _did_you_mean(str(recipe), recipe_names())
    raise InputError(
        f"recipe {str(recipe)!r} is neither a file nor a shipped recipe{near}: {', '.join(recipe_names())}"
    )


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe, lay `a.b.c=value` over it, validate once.

    Raises:
        InputError: the recipe or an override is unknown or impossible; every fault is named in one sentence.
    """
    name, text = read_recipe(recipe)
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{recipe}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{recipe}: a recipe is a list of `key: value` lines, found {type(tree).__name__}")
    tree.setdefault("out", f"runs/{name}")
    for item in overrides:
        _override(tree, item)
    return config_of(tree, source=str(recipe))


def config_of(tree: Mapping[str, Any], *, source: str = "config") -> RunConfig:
    """Validate a nested dict (the tree of a YAML file); faults become sentences."""
    try:
        return RunConfig.model_validate(_with_kinds(RunConfig, dict(tree)))
    except ValidationError as error:
        lines = [_sentence(fault) for fault in error.errors()]
        raise InputError(f"{source}: " + "\n".join(dict.fromkeys(lines))) from None


def dump_yaml(config: Config) -> str:
    """All keys, defaults included, as YAML that load_config reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True, width=110)


def inference_with(inference: InferenceConfig, overrides: Sequence[str]) -> InferenceConfig:
    """A bundle's way to look at pictures with `window.size=512`, `tta.flip=horizontal` and the like laid over it.

    Raises:
        InputError: an override is unknown or impossible, as in `load_config`.
    """
    tree = inference.model_dump(mode="json")
    for item in overrides:
        _override(tree, item)
    try:
        return InferenceConfig.model_validate(_with_kinds(InferenceConfig, tree))
    except ValidationError as error:
        lines = [_sentence({**fault, "loc": ("evaluation", *fault["loc"])}) for fault in error.errors()]
        raise InputError("\n".join(dict.fromkeys(line.removeprefix("evaluation.") for line in lines))) from None


def _override(tree: dict[str, Any], item: str) -> None:
    dotted, equals, text = item.partition("=")
    if not equals or not dotted:
        raise InputError(f"{item!r} is not of the form key=value (for example optim.lr=1e-3)")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{item!r}: the value is not valid YAML; quote it if it holds `:` or brackets") from None
    *parents, last = dotted.split(".")
    node: Any = tree
    for depth, key in enumerate(parents):
        if isinstance(node, list):
            node = node[_index(node, key, item)]
        else:
            if node.get(key) is None:
                node[key] = {}
            node = node[key]
        if not isinstance(node, dict | list):
            raise InputError(f"{item!r}: {'.'.join(parents[: depth + 1])} is {node!r} in the recipe and has no keys")
    if isinstance(node, list):
        node[_index(node, last, item)] = value
    else:
        node[last] = value


def _index(node: list[Any], key: str, item: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise InputError(f"{item!r}: {key!r} is not an index of this list of {len(node)} entries (they count from 0)")
    return int(key)


def _with_kinds(model: type[BaseModel], tree: dict[str, Any]) -> dict[str, Any]:
    """A section whose default has a kind may leave `kind` out: `optim: {lr: 1e-3}` is the default optimiser."""
    filled = dict(tree)
    for key, field in model.model_fields.items():
        value = filled.get(key)
        if not isinstance(value, dict):
            continue
        if (kind := getattr(field.default, "kind", None)) is not None:
            value = {"kind": kind, **value}
        members = [m for m in _members(field.annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
        chosen = _tagged(members, value["kind"]) if "kind" in value else members
        filled[key] = _with_kinds(chosen[0], value) if len(chosen) == 1 else value
    return filled


def _sentence(fault: Any) -> str:
    """One pydantic fault in the words of the recipe, with the nearest known key."""
    loc, kind = fault["loc"], fault["type"]
    where = ".".join(str(part) for part in _recipe_path(loc))
    match kind:
        case "extra_forbidden":
            known = _keys_at(RunConfig, loc[:-1])
            near = _did_you_mean(str(loc[-1]), known)
            return f"{where}: there is no such key{near}. Known keys here: {', '.join(sorted(known))}"
        case "missing":
            return f"{where}: this key is missing and has no default"
        case "union_tag_invalid":
            tags = [tag.strip(" '") for tag in fault["ctx"]["expected_tags"].split(",")]
            near = _did_you_mean(str(fault["ctx"]["tag"]), tags)
            return f"{where}.kind: {fault['ctx']['tag']!r} is not one of {', '.join(tags)}{near}"
        case "union_tag_not_found":
            return f"{where}.kind: this key is missing; it chooses what the section is"
        case "value_error":
            message = str(fault["msg"]).removeprefix("Value error, ")
            return message if not where or message.startswith(where) else f"{where}: {message}"
        case _:
            return f"{where}: {fault['msg']} (found {fault['input']!r})"


def _did_you_mean(word: str, known: Sequence[str] | set[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _recipe_path(loc: tuple[int | str, ...]) -> list[int | str]:
    """Pydantic's location without the union tags and class names that no recipe shows."""
    path: list[int | str] = []
    level: list[Any] = [RunConfig]
    for part in loc:
        known = _fields(level)
        if isinstance(part, int) or part in known or not _tagged(level, part):
            path.append(part)
            level = _members(known[part]) if part in known else _items(level)
        else:
            level = _tagged(level, part)
    return path


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    level: list[Any] = [model]
    for part in loc:
        known = _fields(level)
        if part in known:
            level = _members(known[str(part)])
        elif isinstance(part, int):
            level = _items(level)
        else:
            level = _tagged(level, part) or level
    return set(_fields(level))


def _fields(level: list[Any]) -> dict[Any, Any]:
    models = [t for t in level if isinstance(t, type) and issubclass(t, BaseModel)]
    return {field.alias or key: field.annotation for model in models for key, field in model.model_fields.items()}


def _tagged(level: list[Any], tag: int | str) -> list[Any]:
    """The members of a union that pydantic means by this entry of a location: by kind, or by class name."""
    models = [t for t in level if isinstance(t, type) and issubclass(t, BaseModel)]
    return [m for m in models if tag in (m.__name__, getattr(m.model_fields.get("kind"), "default", None))]


def _members(annotation: Any) -> list[Any]:
    """The plain types inside Annotated, unions and optionals; a tuple stays for `_items`."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for arg in get_args(annotation) for member in _members(arg)]
    return [annotation]


def _items(level: list[Any]) -> list[Any]:
    return [member for t in level if get_origin(t) in (tuple, list) for member in _members(get_args(t)[0])]
