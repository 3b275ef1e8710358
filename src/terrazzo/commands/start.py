"""What `train` does before the first step: resolve the recipe against the data, set the machine up, open the folder."""

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from rich.console import Console
from rich.progress import Progress
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from terrazzo import __version__
from terrazzo.adapt import Adapted, Frozen, Full, Staged, adapt
from terrazzo.adapt.low_rank import LowRank
from terrazzo.adapt.targets import SHOWN
from terrazzo.adapters import BASE_FILE, Base, base_of, still_random
from terrazzo.base import Dataset, InputError, to_steps
from terrazzo.commands.lengths import Lengths
from terrazzo.commands.machine import set_determinism, set_threads
from terrazzo.commands.sets import Sets
from terrazzo.config import RunConfig, config_of, dump_yaml
from terrazzo.data.augment import augment
from terrazzo.data.draws import Sampler, mask_of
from terrazzo.data.loader import Batch, batches, checked_sample
from terrazzo.data.sampling import ClassIndex, Uniform, build_sampler, check_names, index_masks
from terrazzo.engine.batchnorm import is_synced
from terrazzo.engine.parallel import shared
from terrazzo.engine.recompute import recompute_blocks
from terrazzo.engine.rundir import RunDir, environment
from terrazzo.engine.state import TrainState
from terrazzo.engine.step import make_scaler
from terrazzo.engine.world import World
from terrazzo.losses import Loss, build_loss, class_frequencies, needs_frequencies
from terrazzo.models import LoadReport, Segmenter, build_model
from terrazzo.models.blocks import parameter_depths
from terrazzo.optim import Depths, GroupRow, build_optimizer, check_warmups, group_table
from terrazzo.sources import start_from
from terrazzo.track.jsonl import Jsonl

CLASS_INDEX = "class_index.npz"
"""File of a run folder: what the training labels show, if `sampling` asks for it."""


@dataclass(frozen=True)
class Job:
    """Everything that stays the same while a run trains."""

    cfg: RunConfig
    world: World
    run: RunDir
    console: Console
    sets: Sets
    lengths: Lengths

    def say(self, message: str) -> None:
        """Print a line for people, whole (rich would wrap it), on the main process."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)


def group_lines(rows: list[GroupRow]) -> str:
    """The parameter groups as the table that is printed and kept as parameters.txt."""
    lines = [f"{'group':<22}{'tensors':>8}{'params':>12}{'lr':>10}{'decay':>8}"]
    lines += [f"{r.group:<22}{r.tensors:>8}{r.params:>12,}{r.lr:>10.3g}{r.decay:>8.3g}" for r in rows]
    return "\n".join([*lines, f"{'total':<22}{sum(r.tensors for r in rows):>8}{sum(r.params for r in rows):>12,}"])


class Built(NamedTuple):
    """How a run's network came about."""

    weights: LoadReport | None
    """None if no weights were asked for."""
    adapted: Adapted
    base: Base | None
    """What of the weights no step moves; None if nothing, and in a run that goes on."""


def build_state(job: Job, last: Path | None, own: nn.Module | None) -> tuple[TrainState, Built]:
    """Model, optimizer and counters, new or as the checkpoint `last` holds them; and how the network came about.

    Raises:
        InputError: the recipe's parts do not fit each other or the machine.
    """
    cfg, device = job.cfg, job.world.device
    threads = set_threads(cfg, last)
    set_determinism(cfg, job.world)
    torch.manual_seed(cfg.seed)
    classes, channels = len(job.sets.train.classes), checked_sample(job.sets.train, 0).image.shape[2]
    names = job.sets.train.classes.names
    model, report = build_model(cfg.model, classes, channels, names=names, own=own, pretrained=last is None)
    if cfg.init is not None and last is None:
        report = start_from(model, cfg.init, cfg.model, names, report)
    model = model.to(device)
    if cfg.step.channels_last:
        model = model.to(memory_format=torch.channels_last)
    learnable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapted = adapt(model, cfg.adapt)
    known = last is not None or isinstance(cfg.adapt, Full)
    base = None if known else base_of(model, report)  # before the weights are shared out
    depths = Depths(*parameter_depths(model)) if cfg.optim.layer_decay is not None else None
    blocks = recompute_blocks(model) if cfg.step.recompute else []
    ema, divided = shared(model, cfg.parallel, cfg.ema, job.world)
    optimizer = build_optimizer(model, model.role, cfg.optim, depths)
    learning = {group["role"] for group in optimizer.param_groups}
    check_warmups(cfg.schedule, learning, "schedule")
    if isinstance(cfg.adapt, Staged):
        check_warmups(cfg.adapt.schedule, learning - {"encoder"}, "adapt.schedule")
    state = TrainState(
        model,
        optimizer,
        make_scaler(cfg.step, device),
        threads,
        torch.zeros(classes, classes, dtype=torch.int64, device=device),
        torch.zeros(job.world.size, dtype=torch.float64, device="cpu" if device.type == "mps" else device),
        ema,
        rank=job.world.rank,
        divided=bool(divided),
        learnable=frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad),
    )
    job.say(group_lines(group_table(optimizer.param_groups)))
    if report is not None:
        job.say(str(report))
    if cfg.adapt != Full():
        _tell(job, model, adapted)
        if last is None and own is None and (parts := still_random(model, report, learnable, cfg.adapt)):
            how = "frozen at first" if isinstance(cfg.adapt, Staged) else "frozen"
            job.say(f"{how}, and never trained: {', '.join(parts)}; give model.weights or init, or little is learned")
    if remark := parts_matter(model, job.world.size, cfg.step.accumulate):
        job.say(remark)
    if divided:
        job.say(f"shared out over {job.world.size} processes, and borrowed one by one: {', '.join(divided)}")
    if blocks:
        job.say(f"recomputed in the backward pass: {', '.join(blocks)}")
    if last is not None:
        state.restore(last)
    return state, Built(report, adapted, base)


def _tell(job: Job, model: Segmenter, adapted: Adapted) -> None:
    """What a method of adaptation did, and that it did nothing where it was asked for more."""
    cfg = job.cfg.adapt
    job.say(f"adapt.kind={cfg.kind}: {adapted}")
    if layers := adapted.layers:
        job.say(f"changed: {', '.join(layers[:SHOWN])}{', ...' * (len(layers) > SHOWN)}; all in adaptation.txt")
    if isinstance(cfg, Full | Frozen | Staged) and cfg.batchnorm != type(cfg)().batchnorm:
        encoder = [module for name, module in model.named_modules() if model.role(name) == "encoder"]
        if not any(isinstance(module, _BatchNorm) for module in encoder):
            job.say(f"adapt.batchnorm={cfg.batchnorm} changes nothing: the encoder has no BatchNorm")


def parts_matter(model: nn.Module, ranks: int, accumulate: int) -> str | None:
    """What makes this run's numbers depend on how a batch is divided, in a sentence; None if nothing does."""
    if ranks * accumulate == 1:
        return None
    training = [module for module in model.modules() if module.training]
    norms = [m for m in training if isinstance(m, _BatchNorm) and not (accumulate == 1 and is_synced(m))]
    there = ["BatchNorm's statistics"] if norms else []
    there += sorted({drawn for module in training if (drawn := _left_out_by_chance(module))})
    met = f"{ranks} x {accumulate} parts of a batch meet {' and '.join(there)} one by one"
    return f"{met}: the run depends on their number" if there else None


def _left_out_by_chance(module: nn.Module) -> str | None:
    """What a layer leaves out of a training step; libraries name the share of it as they like."""
    kind, share = type(module).__name__, 0.0
    if isinstance(module, LowRank):
        kind, share = "LoRA's dropout", module.dropout
    elif isinstance(module, nn.MultiheadAttention):
        kind, share = "dropout", module.dropout
    elif "Drop" in kind or "Stochastic" in kind:
        share = next((getattr(module, name) for name in ("p", "drop_prob", "prob") if hasattr(module, name)), 0.0)
        kind = "dropout" if isinstance(module, _DropoutNd) else "stochastic depth"
    elif type(module).__module__.startswith("terrazzo.published"):
        kind, share = "stochastic depth", getattr(module, "rate", 0.0)
    return kind if share else None


def build_loss_of(job: Job) -> Loss:
    """The recipe's losses; reads the training labels once if class weights are automatic."""
    cfg, dataset = job.cfg, job.sets.train
    frequencies = None
    if needs_frequencies(cfg.losses):
        masks = (mask_of(dataset, index) for index in range(len(dataset)))
        frequencies = class_frequencies(masks, len(dataset.classes))
    return build_loss(
        cfg.losses,
        dataset.classes,
        auxiliary=cfg.auxiliary_weight,
        frequencies=frequencies,
        device=job.world.device,
    )


def sampler_of(job: Job) -> Sampler | None:
    """The recipe's rule over the training set; reads the training labels once in the life of a run.

    Raises:
        InputError: the rule names no class of the data, or finds none.
    """
    cfg, dataset, path = job.cfg.sampling, job.sets.train, job.run.path / CLASS_INDEX
    if isinstance(cfg, Uniform):
        return None
    check_names(cfg, dataset.classes.names)

    def write() -> None:
        if path.exists() and ClassIndex.read(path).fits(dataset):
            return
        job.say(f"sampling.kind={cfg.kind}: {len(dataset)} training labels are read once")
        with Progress(console=job.console, disable=not job.console.is_terminal, transient=True) as bar:
            task = bar.add_task("labels")
            index = index_masks(
                dataset,
                workers=job.cfg.data.workers,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        index.write(path)

    job.world.main_does(write)
    return build_sampler(cfg, ClassIndex.read(path), job.cfg.seed)


def feed_from(job: Job, step: int) -> Generator[Batch, None, None]:
    """The batches of this rank from a step on."""
    return batches(
        job.sets.train,
        partial(augment, cfg=job.cfg.augment),
        seed=job.cfg.seed,
        batch=job.cfg.batch,
        first_step=step,
        sampler=sampler_of(job),
        rank=job.world.rank,
        world=job.world.size,
        workers=job.cfg.data.workers,
        worker_kind=job.cfg.data.worker_kind,
        device=job.world.device,
    )


def start_folder(job: Job, state: TrainState, built: Built) -> None:
    """Write what is known before the first step of a new run."""
    run, sets = job.run, job.sets
    told = ("weights.txt", "adaptation.txt", BASE_FILE, "nonfinite.json")
    for name in ("metrics.jsonl", "metrics.csv", "report.html", "log.txt", CLASS_INDEX, *told):
        (run.path / name).unlink(missing_ok=True)  # of a life that was killed before its first checkpoint
    run.write("config.yaml", dump_yaml(job.cfg))
    run.write("environment.yaml", yaml.safe_dump(environment(), sort_keys=False))
    run.write("parameters.txt", group_lines(group_table(state.optimizer.param_groups)) + "\n")
    if built.weights is not None:
        run.write("weights.txt", f"{built.weights}\n")
    if job.cfg.adapt != Full():
        if built.base is not None:
            run.write(BASE_FILE, built.base.model_dump_json(indent=2) + "\n")
        run.write("adaptation.txt", "\n".join([str(built.adapted), *built.adapted.layers, ""]))
    for name, split in {"train": sets.train, "val": sets.val, sets.score_split: sets.score}.items():
        run.write(f"splits/{name}.txt", "".join(f"{line}\n" for line in _split_lines(split)))
    run.log(f"terrazzo {__version__} starts: {len(sets.train)} training images, {len(sets.val)} for validation")
    for remark in job.lengths.remarks():
        job.say(remark)


def _split_lines(dataset: Dataset) -> list[str]:
    files = getattr(dataset, "files", None)  # a dataset passed from Python need not have files
    if files is None:
        return [f"item {index}" for index in range(len(dataset))]
    return [f"{image}\t{label}" for image, label in files]


def go_on(job: Job, state: TrainState) -> None:
    """Bring the folder of a resumed run to the restored step, and say what a changed length means.

    Raises:
        InputError: the length shrank.
    """
    run, lengths = job.run, job.lengths
    saved = config_of(run.saved_config() or {}, source=str(run.path / "config.yaml"))
    total = to_steps(saved.length, len(job.sets.train), saved.batch)
    if lengths.total < total:
        raise InputError(
            f"{run.path} was started for {total} steps; {lengths.total} is shorter: a length may only grow"
        )
    if not job.world.main:
        return
    Jsonl(run.path / "metrics.jsonl").cut(state.step)
    if lengths.total > total:
        job.say(
            f"length grows from {total} to {lengths.total} steps: the learning rates from step {state.step} on are not "
            "those of a run that was started so long, and neither are its bits"
        )
    if state.stopped_early:
        job.say(f"early stopping ended this run at step {state.step} of {lengths.total}; nothing is left to do")
    elif state.step < lengths.total:
        (run.path / "report.html").unlink(missing_ok=True)  # it tells of a shorter run
        job.say(f"going on with {run.path} at step {state.step} of {lengths.total}")
        run.log(f"goes on at step {state.step}")
    run.write("config.yaml", dump_yaml(job.cfg))
