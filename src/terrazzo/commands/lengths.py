"""A run's durations in optimizer steps: what the recipe says in steps or epochs, counted on the data."""

from dataclasses import dataclass

import torch

from terrazzo.adapt import Staged
from terrazzo.base import InputError, to_steps
from terrazzo.config import RunConfig
from terrazzo.optim import Schedule, set_rates


@dataclass(frozen=True)
class Lengths:
    """The recipe's durations in optimizer steps, and the schedule that knows them."""

    total: int
    log: int
    validate: int
    save: int
    schedule: Schedule
    """Of the run; of a staged one, of its second stage."""
    frozen: Schedule | None = None
    """Of the first stage of a staged run."""
    frozen_lr: float | None = None

    @classmethod
    def of(cls, cfg: RunConfig, samples: int) -> "Lengths":
        """Raises InputError if a staged run's first stage leaves nothing for the second."""
        durations = (cfg.length, cfg.log_every, cfg.validate_every, cfg.save_every)
        total, log, validate, save = (to_steps(duration, samples, cfg.batch) for duration in durations)
        if not isinstance(cfg.adapt, Staged):
            return cls(total, log, validate, save, Schedule(cfg.schedule, total, samples, cfg.batch))
        first = to_steps(cfg.adapt.frozen, samples, cfg.batch)
        if first >= total:
            raise InputError(
                f"adapt.frozen is {first} steps and the run's length {total}: nothing is left for the second stage; "
                "give a greater length, which counts both, or adapt: {kind: frozen}"
            )
        second = Schedule(cfg.schedule, total - first, samples, cfg.batch, begins=first)
        frozen = Schedule(cfg.adapt.schedule, first, samples, cfg.batch)
        return cls(total, log, validate, save, second, frozen, cfg.adapt.lr)

    def remarks(self) -> list[str]:
        """What of its schedules the run is too short to reach, in sentences."""
        first = [] if self.frozen is None else self.frozen.remarks()
        return [*(line.replace("the run", "the first stage", 1) for line in first), *self.schedule.remarks()]

    def in_first_stage(self, step: int) -> bool:
        """Whether step number `step` (from 0) is one with a frozen encoder, of a staged run."""
        return self.frozen is not None and step < self.frozen.total

    def set_rates(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Learning rates and momenta of a step."""
        if self.frozen is not None and step < self.frozen.total:
            set_rates(optimizer, self.frozen, step, self.frozen_lr)
        else:
            set_rates(optimizer, self.schedule, step)
