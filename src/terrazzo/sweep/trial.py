"""The life of one trial: taken from the study, its runs trained and followed, and told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import yaml
from filelock import FileLock, Timeout

from terrazzo.base import InputError
from terrazzo.config import RunConfig, config_of
from terrazzo.engine.stop import StopFlag
from terrazzo.launch.state import OVER, RunState, Status, read_state
from terrazzo.sweep.folder import Folder
from terrazzo.sweep.objective import Score, reports, value_of_run
from terrazzo.sweep.plan import PlannedRun, Sweep, planned, publish
from terrazzo.sweep.search import Constraints, SearchConfig, build_sampler, import_optuna
from terrazzo.sweep.space import Label, overlays, suggest
from terrazzo.sweep.storage import TrialRecord, Trials, attributes, read_records
from terrazzo.sweep.tables import close_search, write_trials
from terrazzo.sweep.training import train_followed, wait_until_free

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.trial import Trial

Command = Callable[[Path, str], Sequence[str]]
"""What trains run NAME of the sweep in a folder."""

Measure = Callable[[RunConfig, Constraints], dict[str, float]]
"""What the network of a recipe costs, by name of the bound."""

SILENT_STARTS = 3
"""Starts of a run in a row that never got as far as counting themselves, after which the trial has failed."""

LONGEST_REASON = 500
"""Characters of a reason that is told: databases keep no novels."""


@dataclass(frozen=True)
class Doing:
    """How a trial's parts are done."""

    train: Command
    measure: Measure
    score: Score
    say: Callable[[str], None]


@dataclass(frozen=True)
class Claim:
    """A trial that this process works on, alone."""

    record: TrialRecord
    lock: FileLock
    """Held already."""


@dataclass(frozen=True)
class Worker:
    """One process of a search."""

    sweep: Sweep
    search: SearchConfig
    trials: Trials
    pruner: "BasePruner"
    doing: Doing
    stop: StopFlag

    @property
    def folder(self) -> Folder:
        """Of the sweep."""
        return Folder(self.trials.folder)

    def claim(self) -> Claim | None:
        """A trial that nobody works on: one whose worker is gone, else a new one; None if there is none to begin."""
        return self.trials.do(self._claim)

    def _claim(self, study: "Study") -> Claim | None:
        states = import_optuna().trial.TrialState
        self._say_repairs()
        study.pruner = self.pruner
        found = study.get_trials(deepcopy=False)
        for trial in found:
            if trial.state == states.RUNNING and (lock := self._taken(trial.number)) is not None:
                self.doing.say(f"trial {trial.number}: nobody works on it any more; it goes on here")
                record = TrialRecord.read(self.trials.records, trial.number)
                return Claim(record, lock) if record else self._claimed(study, trial.number, lock)
        if sum(trial.state != states.WAITING for trial in found) >= self.search.trials:
            if all(trial.state.is_finished() for trial in found if trial.state != states.WAITING):
                close_search(study, self.folder.path, self.search, read_records(self.trials.records))
            return None
        asked = study.ask()  # one that waits in the queue, if somebody put it there, else a new one
        lock = self._taken(asked.number)
        assert lock is not None, "nobody works on a trial that has just been asked for"
        return self._claimed(study, asked.number, lock)

    def _claimed(self, study: "Study", number: int, lock: FileLock) -> Claim:
        try:
            return Claim(self._begun(study, number), lock)
        except BaseException:
            lock.release()  # where the journal breaks just here, the same number is asked for again
            raise

    def work(self, record: TrialRecord) -> None:
        """Bring a trial to its end and tell it; or leave it where a signal stopped it."""
        ended = record if record.over else self._outcome(record)
        if ended is None:
            self.doing.say(f"trial {record.number}: stopped; the next process of this search goes on with it")
        else:
            self._tell(ended)

    def _begun(self, study: "Study", number: int) -> TrialRecord:
        """Choose the point of a trial, and write what its runs are."""
        study.sampler = build_sampler(self.search, number)
        values = suggest(running(study, number), self.search.space)
        record = TrialRecord(number=number, values=values)
        try:
            runs = [self._planned(number, values, seed) for seed in self.sweep.block.seeds or (None,)]
        except InputError as error:  # values that are possible one by one and not together
            record = failed(record, str(error))
        else:
            for run in runs:
                publish(self.folder, run)
            record = record.model_copy(update={"runs": tuple(run.name for run in runs)})
            refused = next((run.refused for run in runs if run.refused), None)
            record = record if refused is None else failed(record, refused)
        record.write(self.trials.records)
        shown = ", ".join(f"{name} {label}" for name, label in values.items())
        self.doing.say(f"trial {number} (of {self.search.trials}): {shown}")
        return record

    def _planned(self, number: int, values: Mapping[str, Label], seed: int | None) -> PlannedRun:
        return planned(self.sweep, {"trial": number, **values}, overlays(self.search.space, values), seed=seed)

    def _outcome(self, record: TrialRecord) -> TrialRecord | None:
        """What comes of a trial; None if a signal stopped it."""
        if (twin := self._twin(record)) is not None:
            told = {"value": twin.value, "sd": twin.sd, "reports": twin.reports, "costs": twin.costs}
            reason = f"the same point as trial {twin.number}, whose value it gets"
            return record.model_copy(update={"status": "complete", "reason": reason, **told})
        try:
            if self.search.constraints.any:
                record = self._measured(record)
            for name in record.runs:
                if record.over:
                    return record
                trained = self._trained(record, name)
                if trained is None:
                    return None
                record = trained
            return record if record.over else self._complete(record)
        except StoppedError:
            raise
        except InputError as error:
            return failed(record, str(error))

    def _twin(self, record: TrialRecord) -> TrialRecord | None:
        """An earlier trial of the same point that was trained to its end: the same recipe gives the same bits."""
        before = read_records(self.trials.records)
        return next((one for one in before if one.status == "complete" and one.values == record.values), None)

    def _measured(self, record: TrialRecord) -> TrialRecord:
        """With what its network costs; infeasible if that breaks a bound."""
        bounds = self.search.constraints
        costs = record.costs or self.doing.measure(self._config(record.runs[0]), bounds)
        record = record.model_copy(update={"costs": costs})
        record.write(self.trials.records)
        broken = [name for name, share in bounds.broken_by(costs).items() if share > 0]
        if not broken:
            return record
        said = ", ".join(f"{name} {costs[name]:.4g} > {getattr(bounds, name):g}" for name in broken)
        for name in record.runs:
            self._set_state(name, "refused", f"breaks a constraint of the search: {said}")
        return record.model_copy(update={"status": "infeasible", "reason": said})

    def _trained(self, record: TrialRecord, name: str) -> TrialRecord | None:
        """Train a run to its end, over as many starts as the sweep allows; None if a signal stopped it."""
        silent = 0
        while (before := self._state(name)).status not in OVER:
            if before.status == "failed" and before.failures > self.sweep.block.retries:
                return failed(record, f"{name}: {before.reason}")
            if self.stop.set or not wait_until_free(self.folder.lock(name), lambda: self.stop.set):
                return None
            record, pruned, status = self._started(record, name)
            after = self._state(name)
            if pruned is not None and after.status != "finished":
                self._set_state(name, "pruned", pruned)
                return record.model_copy(update={"status": "pruned", "reason": pruned})
            if after.status == "stopped" and after.reason is not None:  # a full disk: all others would stop there too
                raise StoppedError(f"{name}: {after.reason}")
            silent = silent + 1 if after.attempts == before.attempts and after.failures == before.failures else 0
            if silent == SILENT_STARTS and not self.stop.set:
                log = self.folder.log(name)
                return failed(record, f"its process ended {silent} times with status {status} before it began: {log}")
        match before.status:
            case "refused":
                return failed(record, f"{name}: {before.reason}")
            case "pruned":  # and its worker was killed before it wrote so
                return record.model_copy(update={"status": "pruned", "reason": before.reason})
            case _:
                return self._reported(record, name)[0]  # what a killed worker did not see

    def _started(self, record: TrialRecord, name: str) -> tuple[TrialRecord, str | None, int]:
        """One start of a run: the record with what it reported, why it was pruned if it was, its exit status."""
        pruned: str | None = None

        def look() -> bool:
            nonlocal record, pruned
            if pruned is None:
                record, pruned = self._reported(record, name)
            return pruned is not None

        status = train_followed(
            self.doing.train(self.folder.path, name),
            self.folder.log(name),
            self.folder.run(name) / "metrics.jsonl",
            look=look,
            told=lambda: self.stop.set,
        )
        return record, pruned, status

    def _reported(self, record: TrialRecord, name: str) -> tuple[TrialRecord, str | None]:
        """Report what is new of a trial's first run, which speaks for those with other seeds; why it should end."""
        if name != record.runs[0]:
            return record, None
        found = reports(self.folder.run(name), self.search)
        new = {at: value for at, value in found.items() if at not in record.reports}
        if not new:
            return record, None
        return self.trials.do(partial(self._report, record, new))

    def _report(self, record: TrialRecord, new: Mapping[int, float], study: "Study") -> tuple[TrialRecord, str | None]:
        self._say_repairs()
        study.pruner = self.pruner
        for at, value in sorted(new.items()):
            record = record.model_copy(update={"reports": {**record.reports, at: value}})
            trial = running(study, record.number)
            if at not in study.get_trials(deepcopy=False)[record.number].intermediate_values:
                trial.report(value, at)
            if trial.should_prune():
                said = f"{self.search.objective} {value:.4g} was not among the best at {self.search.said(at)}"
                return record, said
        return record, None

    def _complete(self, record: TrialRecord) -> TrialRecord:
        values = [value_of_run(self.folder.run(name), self.search, self.doing.score) for name in record.runs]
        sd = stdev(values) if len(values) > 1 else None
        return record.model_copy(update={"status": "complete", "value": fmean(values), "sd": sd})

    def _tell(self, record: TrialRecord) -> None:
        """Write what came of a trial, then tell it: if we are killed in between, the next process tells it."""
        self.trials.do(partial(self._told, record))
        worth = "" if record.value is None else f", {self.search.objective} {record.value:.4f}"
        why = "" if record.reason is None else f": {record.reason}"
        self.doing.say(f"trial {record.number}: {record.status}{worth}{why}")

    def _told(self, record: TrialRecord, study: "Study") -> None:
        states = import_optuna().trial.TrialState
        self._say_repairs()
        known = study.get_trials(deepcopy=False)[record.number]
        if known.state.is_finished():  # the study was built anew from files that know it already
            return
        trial = running(study, record.number)
        for at, value in record.reports.items():
            if at not in known.intermediate_values:
                trial.report(value, at)
        for name, share in self.search.constraints.broken_by(record.costs).items():
            if name not in known.constraints:
                trial.set_constraint(name, share)
        noted = study.get_trials(deepcopy=False)[record.number].system_attrs
        record = record.model_copy(update={"attributes": dict(noted)})
        record.write(self.trials.records)
        for key, shown in attributes(record, self.folder).items():
            trial.set_user_attr(key, shown)
        match record.status:
            case "complete":
                study.tell(record.number, record.value)
            case "pruned" | "infeasible":
                study.tell(record.number, state=states.PRUNED)
            case _:
                study.tell(record.number, state=states.FAIL)
        for name in record.runs:
            if self._state(name).status == "waiting":  # another seed's, or that of a point which came again
                self._set_state(name, "pruned", f"not trained: {record.reason}")
        write_trials(self.folder.path, self.search, read_records(self.trials.records))

    def _taken(self, number: int) -> FileLock | None:
        """The lock of a trial, held from here on; None if its worker lives."""
        lock = self.trials.owner(number)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def _say_repairs(self) -> None:
        while self.trials.remarks:
            self.doing.say(self.trials.remarks.pop(0))

    def _state(self, name: str) -> RunState:
        return read_state(self.folder.state(name))

    def _set_state(self, name: str, status: Status, reason: str) -> None:
        self._state(name).model_copy(update={"status": status, "reason": reason}).write(self.folder.states)

    def _config(self, name: str) -> RunConfig:
        return config_of(yaml.safe_load(self.folder.recipe(name).read_text(encoding="utf-8")), source=name)


class StoppedError(InputError):
    """The search cannot go on here and now; its trials wait."""


def failed(record: TrialRecord, reason: str) -> TrialRecord:
    """A trial that gives no value, and why."""
    return record.model_copy(update={"status": "failed", "reason": reason[:LONGEST_REASON]})


def running(study: "Study", number: int) -> "Trial":
    """A trial as an object that can be reported to, whoever asked for it."""
    trial: Trial = import_optuna().trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    return trial
