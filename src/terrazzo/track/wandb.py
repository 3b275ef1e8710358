"""Weights & Biases: online, or offline into the run folder for `wandb sync`."""

import netrc
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import NonNegativeInt

from terrazzo.base import IGNORE, Config, InputError, Mask
from terrazzo.track.guarded import first_line
from terrazzo.track.kept import keep_id, kept_id, new_id
from terrazzo.track.names import filled
from terrazzo.track.tracker import About, ClassTable, End, Final, Shown, Validation, finite

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 30.0
"""How long W&B's server may take to answer at the start (environment variable WANDB_INIT_TIMEOUT wins)."""
FINISH_SECONDS = 30.0
"""How long the end of the run and of the process wait for uploads; the rest stays on the disk."""
DISK_SECONDS = 5.0
"""How long the end of the run waits for the end of its log on the disk: W&B says before that it is done, and a life of
the run that comes at once would take the missing lines for lost."""
NO_PROJECT = "/\\#?%:"
"""Characters that W&B allows in no project's name."""
LONGEST_TAG = 64
BLOCK = 32768
"""Bytes of a block of W&B's log."""


class Wandb(Config):
    """Weights & Biases. The key comes from `wandb login` or WANDB_API_KEY, never from a recipe. Names may hold keys of
    the recipe in braces: `{model.arch}_{model.encoder}`."""

    kind: Literal["wandb"] = "wandb"
    project: str = "terrazzo"
    """The project."""
    entity: str | None = None
    """User or team that the project belongs to; null: the key's own."""
    name: str | None = None
    """Name of the run; null: the run folder's."""
    group: str | None = None
    """Runs of one group are shown together; null: none."""
    tags: tuple[str, ...] = ()
    """To find the run by."""
    mode: Literal["auto", "online", "offline"] = "auto"
    """`auto`: what WANDB_MODE says, else online where there is a key. Offline runs are sent by `wandb sync`. A server
    that does not answer makes an online run an offline one."""
    images: NonNegativeInt = 4
    """Validation images shown after every validation, with the masks of truth and prediction; 0: none."""
    system: bool = True
    """Also record load of CPU, GPU, memory and disk, and the machine's facts (host name, user, command)."""

    def filled(self, recipe: Mapping[str, Any]) -> "Wandb":
        """With the recipe's values in all names.

        Raises:
            InputError: a name asks for a key that is not there, or is none that W&B takes.
        """
        at, names = "trackers.wandb", {}
        for key in ("project", "entity", "name", "group"):
            text = getattr(self, key)
            names[key] = None if text is None else filled(text, recipe, f"{at}.{key}")
        tags = tuple(filled(tag, recipe, f"{at}.tags") for tag in self.tags)
        if bad := sorted({*(names["project"] or "")} & {*NO_PROJECT}):
            raise InputError(f"{at}.project is {names['project']!r}, and W&B takes no {' '.join(bad)} in it")
        if long := [tag for tag in tags if len(tag) > LONGEST_TAG]:
            raise InputError(f"{at}.tags: {long[0]!r} has more than the {LONGEST_TAG} letters that W&B takes")
        return self.model_copy(update={**names, "tags": tags})

    def chosen_mode(self) -> str:
        """What `mode` comes to on this machine.

        Raises:
            InputError: an online run is asked for and there is no key.
        """
        if self.mode == "offline":
            return "offline"
        if self.mode == "online" and not has_key():
            raise InputError(
                "trackers.wandb.mode=online needs a key, and this machine has none: type `wandb login`, or set "
                "WANDB_API_KEY; or use mode=offline and `wandb sync` later"
            )
        said = os.environ.get("WANDB_MODE", "") if self.mode == "auto" else "online"
        return said if said in ("online", "offline", "disabled") else "online" if has_key() else "offline"


class WandbTracker:
    def __init__(self, cfg: Wandb, about: About, remark: Callable[[str], None]):
        self.cfg, self.about, self.remark = cfg.filled(about.recipe), about, remark
        self.folder = about.folder / "wandb"
        self.mode = self.cfg.chosen_mode()
        self.run: wandb.Run | None = None
        self.troubled = False
        self.known = 0
        """The last step that W&B has: it takes no step twice and none out of order."""

    def open(self) -> None:
        import wandb

        cfg, about = self.cfg, self.about
        to = f"{cfg.entity or ''}/{cfg.project}"
        run_id = kept_id(about, cfg.kind, to) or new_id()
        keep_id(about, cfg.kind, to, run_id)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else its crashes are sent away, offline too
        wandb.setup(wandb.Settings(silent=True))  # what matters is said by us
        try:
            self.run = self._init(run_id)
        except (wandb.Error, OSError) as error:
            if self.mode != "online":
                raise
            wandb.teardown()  # or the id counts as in use
            self.mode = "offline"
            self.run = self._init(run_id)
            self.remark(
                f"tracker wandb: the server cannot be used ({first_line(error)}); this run is kept on the disk, "
                f"and `wandb sync {self._place()}` sends it"
            )
        else:
            if self.mode == "online":
                self.remark(f"tracker wandb: {self.run.url}")
            elif self.mode == "offline" and cfg.mode == "auto" and not has_key():
                self.remark(f"tracker wandb: no key on this machine, so the run is kept in {self._place()}")
        if self.mode == "offline":
            self.known = last_offline_step(self.folder, run_id)
        elif self.run.resumed:
            self.known = self.run.starting_step - 1
        for step, values in about.missed(self.known):
            self.log(step, values, None)

    def log(self, step: int, values: Mapping[str, float], validation: Validation | None) -> None:
        assert self.run is not None
        if step <= self.known:
            return  # the same numbers stand there already: this step was done before the run was killed
        record: dict[str, Any] = finite(values)
        if validation is not None:
            record |= validation.classes.ious("val")
            if samples := validation.samples[: self.cfg.images]:
                record["val/samples"] = [self._picture(shown) for shown in samples]
        self.run.log(record, step=step, commit=False)
        if validation is not None and not self.troubled:  # asking again would take as long again
            self._log_table(validation.classes, step)
        self.run.log({}, step=step, commit=True)
        self.known = step

    def close(self, end: End, final: Final | None) -> None:
        assert self.run is not None
        if final is not None:
            self.run.summary.update(final.values())
        if end == "stopped":
            self.run.mark_preempting()  # the page says so instead of "crashed"
        try:
            self.run.finish(exit_code=0 if end == "finished" else 1)
        except TimeoutError:
            self._tell_trouble(f"not everything was taken in {FINISH_SECONDS:.0f} s")
        log, until = self._place() / f"run-{self.run.id}.wandb", time.monotonic() + DISK_SECONDS
        while log.exists() and not has_ended(log) and time.monotonic() < until:
            time.sleep(0.05)

    def _log_table(self, table: ClassTable, step: int) -> None:
        """Beside what else this step has to say; it is an artifact, for which W&B asks the server at once."""
        import wandb

        assert self.run is not None
        made = wandb.Table(columns=["class", *table.columns], data=table.rows())
        try:
            self.run.log({"val/classes": made}, step=step, commit=False)
        except wandb.Error as error:
            self._tell_trouble(first_line(error))

    def _tell_trouble(self, why: str) -> None:
        """Say once that the server lacks something: all but tables is on the disk."""
        if not self.troubled:
            self.troubled = True
            sync = f"`wandb sync {self._place()}` sends the rest"
            self.remark(f"tracker wandb: the server does not answer ({why}); {sync}")

    def _place(self) -> Path:
        """The folder of this life of the run on the disk."""
        assert self.run is not None
        return Path(self.run.dir).parent

    def _init(self, run_id: str) -> "wandb.Run":
        import wandb

        cfg, about = self.cfg, self.about
        colors = {name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in _named_colors(about)}
        settings = wandb.Settings(
            console="off",  # standard output is ours
            silent=True,
            disable_git=True,
            save_code=False,
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS)),
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
            x_disable_stats=not cfg.system,
            x_disable_meta=not cfg.system,
            host=None if cfg.system else "",
        )
        return wandb.init(
            project=cfg.project,
            entity=cfg.entity,
            name=cfg.name or about.folder.name,
            group=cfg.group,
            tags=list(cfg.tags),
            id=run_id,
            resume="allow",
            mode=self.mode,  # type: ignore[arg-type]  # chosen_mode gives one of its three
            dir=about.folder,
            config={**about.recipe, "environment": about.environment, "class_colors": colors},
            allow_val_change=True,  # workers, device or trackers may be others than in an earlier life
            reinit="create_new",  # runs that the caller's own code has open are left alone
            settings=settings,
        )

    def _picture(self, shown: Shown) -> "wandb.Image":
        import wandb

        labels = {**dict(enumerate(self.about.classes.names)), IGNORE: "not labelled"}
        masks: dict[str, Mask] = {"truth": shown.truth, "prediction": shown.prediction}
        return wandb.Image(
            shown.image,
            caption=shown.name,
            masks={key: {"mask_data": mask, "class_labels": labels} for key, mask in masks.items()},
        )


def has_key() -> bool:
    """Whether this machine has a key for the W&B server that is asked; nothing is sent, and nobody is asked."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    for path in (Path(os.environ.get("NETRC") or "~/.netrc").expanduser(), Path("~/_netrc").expanduser()):
        if path.is_file():
            try:
                return netrc.netrc(path).authenticators(host) is not None
            except netrc.NetrcParseError:
                return False
    return False


def last_offline_step(folder: Path, run_id: str) -> int:
    """The last step in the logs that earlier lives of a run left in its folder; 0 if there is none."""
    steps = [0]
    for path in sorted(folder.glob(f"*run-*-{run_id}/run-{run_id}.wandb")):
        for record in records(path):
            items = record.history.item if record.WhichOneof("record_type") == "history" else ()
            steps += [int(item.value_json) for item in items if "_step" in (item.key, *item.nested_key)]
    return max(steps)


def has_ended(path: Path) -> bool:
    """Whether a W&B log tells of its end."""
    last = max(0, path.stat().st_size // BLOCK - 1)
    return any(record.WhichOneof("record_type") == "exit" for record in records(path, last))


def records(path: Path, block: int = 0) -> Iterator[Any]:
    """The records of a W&B log: a head of 7 bytes, then LevelDB's log format, blocks that hold pieces with
    (checksum, length, place) before each; what a kill left unfinished at the end is left out. `block`: where to begin.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    from wandb.proto import wandb_internal_pb2

    with path.open("rb") as file:
        if file.read(4) != b":W&B":
            return  # killed before it was begun
        file.seek(block * BLOCK)
        data = file.read()
    record: bytes | None = None
    at = 0 if block else 7
    while at + 7 <= len(data):
        room = BLOCK - at % BLOCK
        _, length, place = struct.unpack("<IHB", data[at : at + 7])
        if room < 7 or place == 0:  # the rest of the block is empty
            at += room
            continue
        piece = data[at + 7 : at + 7 + length]
        if len(piece) < length:
            return
        at += 7 + length
        if place in (1, 2):  # 1 whole, 2 first, 3 middle, 4 last
            record = piece
        elif record is not None:  # else it begins before this block
            record += piece
        if place in (1, 4) and record is not None:
            message = wandb_internal_pb2.Record()  # type: ignore[attr-defined]  # made when it is imported
            message.ParseFromString(record)
            yield message


def _named_colors(about: About) -> Iterator[tuple[str, tuple[int, int, int]]]:
    return zip(about.classes.names, about.classes.colors, strict=True)
