"""Where a search's trials are kept: in Optuna's storage, and once more as one small file each, should it break."""

import os
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from filelock import FileLock, Timeout
from pydantic import Field, NonNegativeInt

from terrazzo.base import Config, InputError
from terrazzo.files import write_text
from terrazzo.sweep.folder import Folder
from terrazzo.sweep.search import SearchConfig, import_optuna
from terrazzo.sweep.space import Label, distribution

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

JOURNAL = "search.journal"
"""File of a sweep's folder: every operation on the study, a line each."""

LOCK_SECONDS = 600.0
"""Nobody holds the lock of a search for more than moments; whoever waits so long says so and ends."""

Result = TypeVar("Result")

UNREADABLE = (ValueError, KeyError, TypeError, AssertionError)
"""What reading a journal with strange lines ends in."""

TrialStatus = Literal["running", "complete", "pruned", "infeasible", "failed"]


class TrialRecord(Config):
    """One trial: what it tries, and what came of it."""

    number: NonNegativeInt
    values: dict[str, Label] = Field(default_factory=dict)
    """By axis."""
    runs: tuple[str, ...] = ()
    """Names of its runs: one, or one for each seed."""
    status: TrialStatus = "running"
    value: float | None = None
    """Of the objective, the mean over seeds."""
    sd: float | None = None
    """Standard deviation over seeds; null with fewer than two."""
    reason: str | None = None
    """Why it ended early or failed."""
    reports: dict[int, float] = Field(default_factory=dict)
    """The objective on the way, of the first seed: {how far, as Optuna counts: value}."""
    costs: dict[str, float] = Field(default_factory=dict)
    """What was measured for the constraints."""
    attributes: dict[str, Any] = Field(default_factory=dict)
    """What Optuna's sampler and pruner noted about it."""

    @property
    def over(self) -> bool:
        return self.status != "running"

    def write(self, folder: Path) -> None:
        write_text(folder / f"{self.number:05d}.json", self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path, number: int) -> Self | None:
        """None if its worker was killed before it was written."""
        path = folder / f"{number:05d}.json"
        return cls.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None


def read_records(folder: Path) -> list[TrialRecord]:
    """All trials of a search, by number."""
    return [TrialRecord.model_validate_json(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


class Identity(Config):
    """What a search in a folder is; a search that is another one does not go on there."""

    study: str
    """Name of the study in the storage."""
    id: str
    """Tells it from another folder's study of that name in a shared database."""
    objective: str
    maximize: bool
    space: dict[str, Any]
    recipe: str
    """Hash of what all its runs share."""


class Trials:
    """The trials of one search folder; any number of processes may hold one of these."""

    def __init__(self, folder: Path, search: SearchConfig, recipe: str):
        """`recipe` is a hash of what all runs share."""
        self.folder = folder
        self.search = search
        self.records = folder / "trials"
        self.recipe = recipe
        self.remarks: list[str] = []
        """What was repaired, in sentences."""
        self._lock = FileLock(folder / "search.lock")
        self._study: Study | None = None
        self._opened: int | None = None
        self.records.mkdir(parents=True, exist_ok=True)

    def do(self, action: Callable[["Study"], Result]) -> Result:
        """Do something with the study, by this process alone; once more if its journal breaks under it.

        Raises:
            InputError: the storage cannot be reached, or the folder holds another search.
        """
        try:
            self._lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise InputError(
                f"{self.folder / 'search.lock'} has been held by another process for {LOCK_SECONDS / 60:.0f} minutes; "
                "if none works on this search, delete it"
            ) from None
        try:
            try:
                return action(self._current())
            except UNREADABLE:
                if self._is_readable():
                    raise
            return action(self._current())
        finally:
            self._lock.release()

    def _is_readable(self) -> bool:
        if self.search.storage is not None:
            return True
        try:
            self._journal_storage()
        except UNREADABLE:
            return False
        return True

    def _current(self) -> "Study":
        if self._study is not None and self._opened == self._inode():
            try:
                self._study.get_trials(deepcopy=False)
                return self._study
            except UNREADABLE:
                pass  # damaged since: opening it says so
        self._study = self._open()
        self._opened = self._inode()
        return self._study

    def owner(self, number: int) -> FileLock:
        """The lock that whoever works on a trial holds: free if nobody does, however its last worker ended."""
        return FileLock(self.records / f"{number:05d}.lock")

    @property
    def journal(self) -> Path:
        return self.folder / JOURNAL

    def _inode(self) -> int | None:
        return self.journal.stat().st_ino if self.search.storage is None and self.journal.exists() else None

    def _open(self) -> "Study":
        optuna = import_optuna()
        identity = self._identity()
        storage = self._database() if self.search.storage is not None else self._journal()
        known = {study.study_name: study.user_attrs.get("id") for study in optuna.get_all_study_summaries(storage)}
        name = identity.study
        if known.get(name, identity.id) != identity.id:  # another folder's, in a shared database
            name = next(new for n in range(2, 10_000) if known.get(new := f"{name}-{n}", identity.id) == identity.id)
            identity = identity.model_copy(update={"study": name})
            write_text(self.folder / "search.json", identity.model_dump_json(indent=2) + "\n")
        direction = "maximize" if identity.maximize else "minimize"
        study: Study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
        if name not in known:
            self._fill(study, identity)
        return study

    def _fill(self, study: "Study", identity: Identity) -> None:
        """A new study: its attributes, and the trials that are known from their files."""
        attributes = {"id": identity.id, "objective": identity.objective, "recipe": self.folder.name}
        for key, value in {**attributes, "folder": str(self.folder.resolve())}.items():
            study.set_user_attr(key, value)
        with warnings.catch_warnings():  # an experiment of Optuna's since 3.2: the dashboard's axis gets its name
            warnings.simplefilter("ignore", import_optuna().exceptions.ExperimentalWarning)
            study.set_metric_names([identity.objective])
        records = read_records(self.records)
        by_number = {record.number: record for record in records}
        for number in range(max(by_number, default=-1) + 1):  # a trial's number is its place
            record = by_number.get(number) or TrialRecord(number=number, status="failed", reason="its file is lost")
            study.add_trial(frozen(record, self.search, Folder(self.folder)))
        if records:
            self.remarks.append(f"the study was built anew from {len(records)} trials in {self.records}")

    def _identity(self) -> Identity:
        path, search = self.folder / "search.json", self.search
        now = Identity(
            study=self.folder.resolve().name,
            id=uuid.uuid4().hex,
            objective=search.objective,
            maximize=search.maximize,
            space=search.model_dump(mode="json", by_alias=True)["space"],
            recipe=self.recipe,
        )
        if not path.exists():
            write_text(path, now.model_dump_json(indent=2) + "\n")
            return now
        before = Identity.model_validate_json(path.read_text(encoding="utf-8"))
        differs = [
            key for key in ("objective", "maximize", "space", "recipe") if getattr(before, key) != getattr(now, key)
        ]
        if differs:
            raise InputError(
                f"{self.folder} holds another search; these differ: {', '.join(differs)}. Trials of two searches "
                "cannot be compared: go on with the recipe in sweep.yaml (trials may grow), or give another out=..."
            )
        return before

    def _journal(self) -> "BaseStorage":
        """The journal as a storage; one that cannot be read is moved aside, and a new one begun."""
        if torn := self._cut():
            self.remarks.append(f"{self.journal}: {torn} bytes of a last line that was never finished were cut off")
        try:
            return self._journal_storage()
        except UNREADABLE as error:
            numbers = range(1, 10_000)
            aside = next(p for n in numbers if not (p := self.journal.with_name(f"{JOURNAL}.damaged-{n}")).exists())
            self.journal.rename(aside)
            said = " ".join(str(error).split())[:100] or type(error).__name__
            self.remarks.append(f"{self.journal} cannot be read ({said}); it was moved to {aside.name}")
            return self._journal_storage()

    def _journal_storage(self) -> "BaseStorage":
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

        # Windows lets only some users make links
        lock = JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock
        return JournalStorage(JournalFileBackend(str(self.journal), lock(str(self.journal))))

    def _cut(self) -> int:
        """Cut off a last line without an end, which a full disk or a kill leaves; the next one would be glued to it."""
        if not self.journal.exists() or not (size := self.journal.stat().st_size):
            return 0
        with self.journal.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) == b"\n":
                return 0
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)
            return size - whole

    def _database(self) -> "BaseStorage":
        from optuna.storages import RDBStorage
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import SQLAlchemyError

        assert self.search.storage is not None
        filled = os.path.expandvars(self.search.storage)
        try:
            url = make_url(filled)
        except SQLAlchemyError as error:
            raise InputError(f"sweep.search.storage={self.search.storage}: {error}") from None
        options = {"connect_args": {"timeout": 60}} if url.get_backend_name() == "sqlite" else {"pool_pre_ping": True}
        try:
            return RDBStorage(filled, engine_kwargs=options)
        except (SQLAlchemyError, ImportError) as error:
            said = " ".join(str(error).replace(url.password or "\0", "***").split())[:300]
            shown = url.render_as_string(hide_password=True)
            raise InputError(f"sweep.search.storage={shown} cannot be opened: {said}") from None


def frozen(record: TrialRecord, search: SearchConfig, folder: Folder) -> "FrozenTrial":
    """A trial as its file tells, for a study that has lost it."""
    from optuna.trial import TrialState, create_trial

    states = {
        "running": TrialState.RUNNING,
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "infeasible": TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }
    last = record.reports[max(record.reports)] if record.reports else None
    return create_trial(
        state=states[record.status],
        value=record.value if record.status == "complete" else last if record.status == "pruned" else None,
        params=dict(record.values),
        distributions={name: distribution(search.space[name]) for name in record.values},
        user_attrs=attributes(record, folder),
        system_attrs=record.attributes,
        intermediate_values=record.reports,
    )


def attributes(record: TrialRecord, folder: Folder) -> dict[str, Any]:
    """What people see of a trial in the dashboard, besides its values."""
    shown: dict[str, Any] = {"runs": list(record.runs), **record.costs}
    shown |= {"folder": str(folder.run(record.runs[0]).resolve())} if record.runs else {}
    shown |= {} if record.sd is None else {"sd": record.sd}
    return shown if record.reason is None else shown | {"reason": record.reason}
