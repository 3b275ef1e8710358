"""The whole of a run on one page, and how it is read from a recipe."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError, model_validator

from terrazzo.adapt import AdaptConfig, Full, Staged
from terrazzo.base import Config, Duration, Epochs, InputError, Steps
from terrazzo.data import DataConfig
from terrazzo.data.augment import AugmentConfig
from terrazzo.data.sampling import SamplingConfig, Uniform
from terrazzo.engine.ema import EmaConfig
from terrazzo.engine.parallel import Ddp, Fsdp, ParallelConfig
from terrazzo.engine.step import StepConfig
from terrazzo.engine.stop import EarlyStop
from terrazzo.faults import sentences, with_kinds
from terrazzo.infer.answer import InferenceConfig
from terrazzo.losses import CrossEntropy, LossConfig, MaskClassification
from terrazzo.metrics import Absent, Protocol
from terrazzo.models import ModelConfig, has_auxiliary_heads, has_queries
from terrazzo.models.weights import InitConfig
from terrazzo.optim import AdamW, Constant, OptimConfig, ScheduleConfig, check_momentum
from terrazzo.recipe import override, read_tree
from terrazzo.track import TrackerConfig, check_trackers


class ContradictionError(InputError):
    """Every key of a recipe is known and every value fits its key; they cannot stand together."""


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
    parallel: ParallelConfig = Ddp()
    """How several processes train together (torchrun, srun); one process needs none of it."""
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
    trackers: tuple[TrackerConfig, ...] = ()
    """Where numbers go besides the terminal and metrics.jsonl. One that fails is said so once and stops no training."""
    seed: NonNegativeInt = 0
    """Of initial weights, order, augmentation and dropout."""
    threads: PositiveInt | None = None
    """CPU threads of torch; null: as many as it has cores for at its first start. Part of a run's exact bits."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto`: cuda, else mps, else cpu."""
    deterministic: bool = False
    """On CUDA too, use deterministic algorithms only (slower). A CPU run always does."""

    def _fits_shards(self) -> None:
        """What cannot be had where each process holds a share of the weights."""
        bad = {
            "step.mode=compile (say eager)": self.step.mode == "compile",
            "step.precision=float16 (say bfloat16)": self.step.precision == "float16",
            "adapt.kind=staged (train the stages as two runs, the second with init)": self.adapt.kind == "staged",
            "optim.kind=adamw_8bit (say adamw; its running means are divided too)": self.optim.kind == "adamw_8bit",
        }
        for what, given in bad.items():
            if given:
                raise ValueError(f"parallel.kind=fsdp does not go with {what}; or say parallel.kind=ddp")

    @model_validator(mode="after")
    def _known_combinations(self) -> Self:
        check_momentum(self.optim, self.schedule, self.adapt.schedule if isinstance(self.adapt, Staged) else None)
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
        if isinstance(self.parallel, Fsdp):
            self._fits_shards()
        if self.trackers:
            check_trackers(self.trackers, self.model_dump(mode="json", by_alias=True))
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


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe, lay `a.b.c=value` over it, validate once; of a sweep, the run that its runs are made from.

    Raises:
        InputError: the recipe or an override is unknown or impossible; every fault is named in one sentence.
    """
    name, tree = read_tree(recipe, overrides)
    tree.pop("sweep", None)  # read by terrazzo.sweep; the rest is a whole run
    tree.setdefault("out", f"runs/{name}")
    return config_of(tree, source=str(recipe))


def config_of(tree: Mapping[str, Any], *, source: str = "config") -> RunConfig:
    """Validate a nested dict (the tree of a YAML file); faults become sentences."""
    try:
        return RunConfig.model_validate(with_kinds(RunConfig, dict(tree)))
    except ValidationError as error:
        contradicts = all(fault["type"] == "value_error" for fault in error.errors())
        kind = ContradictionError if contradicts else InputError
        raise kind(f"{source}: {sentences(error, RunConfig)}") from None


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
        override(tree, item)
    try:
        return InferenceConfig.model_validate(with_kinds(InferenceConfig, tree))
    except ValidationError as error:
        lines = sentences(error, RunConfig, within=("evaluation",)).split("\n")
        raise InputError("\n".join(line.removeprefix("evaluation.") for line in lines)) from None
