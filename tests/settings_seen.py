"""Looking at what a setting does: each function takes a RunConfig and tells what came of it."""

import hashlib
import json
import multiprocessing
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import terrazzo
from settings_own import SIZE, OwnSet
from terrazzo.base import Classes, InputError, Sample, Split
from terrazzo.commands.evaluate import Evaluated, score_dataset
from terrazzo.commands.lengths import Lengths
from terrazzo.commands.machine import set_determinism
from terrazzo.commands.sets import Sets, build_sets
from terrazzo.commands.start import Job, feed_from
from terrazzo.config import RunConfig
from terrazzo.data import available_splits, build_dataset
from terrazzo.data.augment import augment
from terrazzo.data.loader import Batch
from terrazzo.engine.rundir import RunDir
from terrazzo.engine.state import read_state
from terrazzo.engine.world import World
from terrazzo.losses import build_loss, count
from terrazzo.models import Segmenter, build_model
from terrazzo.models.blocks import parameter_depths
from terrazzo.optim import Depths, Schedule, build_optimizer
from terrazzo.output import Output, Queries
from terrazzo.track.jsonl import read_lines

See = Callable[[RunConfig], Any]


class OwnNet(nn.Module):
    """A user's network; it never says the last class."""

    def __init__(self, classes: int):
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Conv2d(4, classes, 1)
        with torch.no_grad():
            self.head.bias[-1] = -1000

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(images).relu())
        return logits


def bits(*arrays: Any) -> str:
    """A short name of arrays or tensors that any changed bit changes."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array.detach().numpy() if isinstance(array, Tensor) else array)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def trained(cfg: RunConfig) -> Path:
    """The folder of a real run, the only one in runs/."""
    shutil.rmtree("runs", ignore_errors=True)
    own = cfg.data.kind == "own"
    classes = 2 if own else len(build_dataset(cfg.data, "train").classes)
    terrazzo.train(
        cfg,
        model=OwnNet(classes) if cfg.model.kind == "own" else None,
        train_set=OwnSet() if own else None,
        val_set=OwnSet() if own else None,
    )
    return cfg.out


def weights(cfg: RunConfig) -> str:
    """Of the network at the end of a run."""
    return bits(np.fromfile(trained(cfg) / "checkpoints/last/model.safetensors", np.uint8))


def run_folders(cfg: RunConfig) -> list[str]:
    trained(cfg)
    return [path.as_posix() for path in Path("runs").glob("*/checkpoints/last")]


def lines_with(key: str) -> See:
    """The steps of a run at which metrics.jsonl holds `key`."""
    return lambda cfg: [line["step"] for line in read_lines(trained(cfg) / "metrics.jsonl") if key in line]


def validation(cfg: RunConfig) -> list[float]:
    return [line[key] for line in read_lines(trained(cfg) / "metrics.jsonl") for key in ("val/loss", "val/miou")]


def bundle_resize(cfg: RunConfig) -> Any:
    """What prediction will do to images, and what validation did."""
    scores = validation(cfg)
    return json.loads((cfg.out / "checkpoints/last/config.json").read_text())["resize"], scores


def last_step(cfg: RunConfig) -> int:
    """At which a run ended."""
    return int(read_lines(trained(cfg) / "metrics.jsonl")[-1]["step"])


def kept_checkpoints(cfg: RunConfig) -> list[str]:
    return sorted(path.name for path in (trained(cfg) / "checkpoints").glob("step_*"))


def torch_threads(cfg: RunConfig) -> tuple[int, int]:
    saved = read_state(trained(cfg) / "checkpoints/last")["threads"]
    return saved, torch.get_num_threads()


def training_convolutions(look: Callable[[nn.Conv2d, Tensor, Tensor], Any]) -> See:
    """What `look(module, input, output)` finds at the 3x3 convolutions while a run trains."""

    def see(cfg: RunConfig) -> set[Any]:
        found = set()

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if module.training and isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                found.add(look(module, inputs[0], output))

        handle = nn.modules.module.register_module_forward_hook(hook)
        try:
            trained(cfg)
        finally:
            handle.remove()
        return found

    return see


def forwards(cfg: RunConfig) -> int:
    """Calls of linear layers and convolutions in one training run; what is recomputed is called twice."""
    calls = 0

    def hook(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal calls
        calls += module.training and isinstance(module, nn.Linear | nn.Conv2d)

    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        trained(cfg)
    finally:
        handle.remove()
    return calls


def compilers(cfg: RunConfig) -> list[str]:
    """What torch.compile was asked to compile with in a run; it runs with "eager", which takes no minutes."""
    found = []
    real = torch.compile

    def recorded(model: Any, *, backend: str, **options: Any) -> Any:
        found.append(backend)
        return real(model, backend="eager", **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.compile", recorded)
        trained(cfg)
    return found


def captured(cfg: RunConfig) -> bool:
    """Whether a run made compiled graphs."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trained(cfg)
    return torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def feeding(cfg: RunConfig) -> Generator[Batch, None, None]:
    """The batches that a run with this config would train on."""
    own = OwnSet()
    sets = Sets(own, own, own, "val") if cfg.data.kind == "own" else build_sets(cfg)
    world, run, console = World.join(cfg.device), RunDir(cfg.out), Console(quiet=True)
    return feed_from(Job(cfg, world, run, console, sets, Lengths.of(cfg, len(sets.train))), 0)


def fed(cfg: RunConfig) -> list[Any]:
    """Of the first batches."""
    with closing(feeding(cfg)) as feed:
        return [(batch.names, bits(batch.images, batch.masks)) for batch in islice(feed, 4)]


def crew(cfg: RunConfig) -> set[str]:
    """Threads or processes, as the loader has them while it feeds; how many threads there are is up to chance."""
    with closing(feeding(cfg)) as feed:
        next(feed)
        everyone = [*threading.enumerate(), *multiprocessing.active_children()]
        return {type(each).__name__ for each in everyone if each.name.startswith("terrazzo-loader")}


def read(*splits: Split) -> See:
    """All samples and classes of the splits named, else of all that there are."""

    def see(cfg: RunConfig) -> Any:
        sets = {split: build_dataset(cfg.data, split) for split in splits or available_splits(cfg.data)}
        return {
            split: (
                dataset.classes,
                [(s.name, bits(s.image, s.mask)) for s in map(dataset.__getitem__, range(len(dataset)))],
            )
            for split, dataset in sets.items()
        }

    return see


def or_refusal(see: See) -> See:
    """What is seen, or the sentence that refuses it."""

    def answer(cfg: RunConfig) -> Any:
        try:
            return see(cfg)
        except InputError as error:
            return str(error)

    return answer


def device(cfg: RunConfig) -> torch.device:
    return World.join(cfg.device).device


def exact_on_cuda(cfg: RunConfig) -> bool:
    set_determinism(cfg, World(0, 1, torch.device("cuda")))  # needs no such device
    return torch.are_deterministic_algorithms_enabled()


def crops(cfg: RunConfig) -> str:
    rng = np.random.default_rng(0)
    sample = Sample(rng.integers(0, 256, (*SIZE, 3), np.uint8), rng.integers(0, 3, SIZE, np.uint8), "noise")
    made = [augment(sample, np.random.default_rng(k), cfg.augment) for k in range(4)]
    return bits(*chain(*(each[:2] for each in made)))


def built(cfg: RunConfig, classes: int = 3, seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    return build_model(cfg.model, classes, own=OwnNet(classes) if cfg.model.kind == "own" else None)[0]


def answer(cfg: RunConfig) -> Any:
    """Of the network, in train mode, to two images."""
    network, rng = built(cfg).train(), np.random.default_rng(0)
    output = network(torch.from_numpy(rng.integers(0, 256, (2, 3, *SIZE), np.uint8)))
    return bits(output.logits, *output.aux), output.covers


def queries(cfg: RunConfig) -> Any:
    """Of the network, in train mode, to two images, and what it says of queries, before its last blocks too."""
    network, rng = built(cfg).train(), np.random.default_rng(0)
    output = network(torch.from_numpy(rng.integers(0, 256, (2, 3, *SIZE), np.uint8)))
    said = [] if output.queries is None else [output.queries, *output.queries.aux]
    return bits(output.logits, *output.aux, *(tensor for each in said for tensor in (each.classes, each.masks)))


def evaluated(cfg: RunConfig) -> Evaluated:
    """What an untrained network is worth on the validation images."""
    dataset = build_dataset(cfg.data, "val")
    fn = build_loss(cfg.losses, dataset.classes, auxiliary=cfg.auxiliary_weight)
    network = built(cfg, len(dataset.classes))
    return score_dataset(network, dataset, cfg.evaluation, world=World.join("cpu"), loss=fn)


def scored(cfg: RunConfig) -> float:
    """The loss of an untrained network over the validation images; its scores hardly differ."""
    return evaluated(cfg).loss


def told(cfg: RunConfig) -> str:
    """All scores of an untrained network, without the words on how they were made."""
    return json.dumps({key: value for key, value in evaluated(cfg).tally.result().items() if key != "protocol"})


def shown(cfg: RunConfig) -> set[int]:
    """How many images the network sees at a time while it is scored."""
    found = set()

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(module, Segmenter):
            found.add(len(inputs[0]))

    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        evaluated(cfg)
    finally:
        handle.remove()
    return found


def loss(cfg: RunConfig) -> float:
    """Of fixed logits and masks, with an auxiliary head. Regions have an inside, the second image no class c."""
    random = torch.Generator().manual_seed(0)
    main, auxiliary = (torch.randn(2, 3, 6, 10, generator=random) for _ in range(2))
    blocks = torch.randint(0, 3, (2, 3, 5), generator=random, dtype=torch.uint8)
    blocks[1].clamp_(max=1)
    masks = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    frequencies = torch.tensor([0.5, 0.3, 0.2])
    fn = build_loss(cfg.losses, Classes.of(["a", "b", "c"]), auxiliary=cfg.auxiliary_weight, frequencies=frequencies)
    asked = None
    if cfg.losses[0].kind == "mask_classification":
        classes, inside = torch.randn(2, 2, 5, 4, generator=random), torch.randn(2, 2, 5, 6, 10, generator=random)
        asked = Queries(classes[0], inside[0], (Queries(classes[1], inside[1]),))
        torch.manual_seed(0)  # points are drawn by it
    output = Output(main, (auxiliary,), queries=asked, covers=SIZE, are_scores=asked is not None)
    return fn(output, masks, count(masks)).item()


def updated(cfg: RunConfig) -> str:
    """Parameters after three steps along given gradients, the first one large: amsgrad remembers it."""
    network, random = built(cfg), torch.Generator().manual_seed(0)
    optimizer = build_optimizer(network, network.role, cfg.optim)
    for scale in (10, 0.1, 0.1):
        for parameter in network.parameters():
            parameter.grad = scale * torch.randn(parameter.shape, generator=random)
        optimizer.step()
    return bits(*network.parameters())


def state_types(cfg: RunConfig) -> list[str]:
    """Types of the running means after a step, parameter by parameter."""
    network = built(cfg)
    optimizer = build_optimizer(network, network.role, cfg.optim)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return [str(optimizer.state[parameter]["state1"].dtype) for parameter in network.parameters()]


def fused(cfg: RunConfig) -> bool:
    network = built(cfg)
    return bool(build_optimizer(network, network.role, cfg.optim).param_groups[0]["fused"])


def rates(cfg: RunConfig) -> Any:
    """Factors of the learning rate, of the encoder's too, and momenta, in a run over 4 samples."""
    return curve(Lengths.of(cfg, 4).schedule)


def first_rates(cfg: RunConfig) -> Any:
    """The same of the first stage of a staged run."""
    schedule = Lengths.of(cfg, 4).frozen
    assert schedule is not None
    return curve(schedule)


def curve(schedule: Schedule) -> list[tuple[float | None, ...]]:
    steps = range(schedule.total)
    return [(schedule.lr_factor(at), schedule.lr_factor(at, "encoder"), schedule.momentum(at)) for at in steps]


def boundary(cfg: RunConfig) -> int | None:
    """The first step of a staged run's second stage."""
    return next((step for step in range(99) if not Lengths.of(cfg, 4).in_first_stage(step)), None)


def slowed(cfg: RunConfig) -> list[tuple[str, float]]:
    """Groups and their learning rates."""
    network = built(cfg)
    groups = build_optimizer(network, network.role, cfg.optim, Depths(*parameter_depths(network))).param_groups
    return [(group["name"], group["base_lr"]) for group in groups]
