"""MLflow: into a database in the run folder, or to a server."""

import csv
import logging
import os
import re
import time
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import Field, NonNegativeInt, model_validator

from terrazzo.base import Config, InputError
from terrazzo.track.kept import keep_id, kept_id
from terrazzo.track.names import filled
from terrazzo.track.tracker import About, ClassTable, End, Final, Validation, finite

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
"""File of the run folder."""
PARAMS_AT_ONCE = 100
LONGEST_PARAM = 500
"""Letters of a parameter's value that every MLflow server takes."""
STATUS: Mapping[End, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Mlflow(Config):
    """MLflow. Names may hold keys of the recipe in braces: `{model.arch}_{model.encoder}`."""

    kind: Literal["mlflow"] = "mlflow"
    uri: str | None = None
    """Where runs are kept: `http://HOST:5000`, `sqlite:///PATH`. Null: what MLFLOW_TRACKING_URI says, else a database
    in the run folder, which `mlflow ui --backend-store-uri sqlite:///OUT/mlflow.db` shows."""
    experiment: str = "terrazzo"
    """The experiment that the run belongs to."""
    name: str | None = None
    """Name of the run; null: the run folder's."""
    tags: dict[str, str] = Field(default_factory=dict)
    """To find the run by."""
    images: NonNegativeInt = 4
    """Validation images kept after every validation as image | truth | prediction; 0: none."""

    @model_validator(mode="after")
    def _usable_uri(self) -> "Mlflow":
        check_uri(self.uri)
        return self

    def filled(self, recipe: Mapping[str, Any]) -> "Mlflow":
        """With the recipe's values in all names.

        Raises:
            InputError: a name asks for a key that is not there.
        """
        at = "trackers.mlflow"
        name = None if self.name is None else filled(self.name, recipe, f"{at}.name")
        experiment = filled(self.experiment, recipe, f"{at}.experiment")
        tags = {key: filled(value, recipe, f"{at}.tags") for key, value in self.tags.items()}
        return self.model_copy(update={"name": name, "experiment": experiment, "tags": tags})

    def chosen_uri(self, run: Path) -> str:
        """What `uri` comes to on this machine, for a run folder.

        Raises:
            InputError: MLFLOW_TRACKING_URI cannot be used.
        """
        if self.uri is not None:
            return self.uri
        said = os.environ.get("MLFLOW_TRACKING_URI")
        check_uri(said, at="MLFLOW_TRACKING_URI")
        return said or f"sqlite:///{run / DATABASE}"


class MlflowTracker:
    def __init__(self, cfg: Mlflow, about: About):
        self.cfg, self.about = cfg.filled(about.recipe), about
        self.uri = cfg.chosen_uri(about.folder)
        self.client: MlflowClient | None = None
        self.run = ""
        self.known = 0
        """The last step that is there: MLflow would keep a second line of the same step beside the first."""

    def open(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # tells of every new database
        about, to = self.about, f"{_without_password(self.uri)} {self.cfg.experiment}"
        self.client = MlflowClient(tracking_uri=self.uri)
        if (kept := kept_id(about, self.cfg.kind, to)) is not None:
            self.run = kept
            self.client.update_run(self.run, status="RUNNING")
            self.known = max((point.step for point in self.client.get_metric_history(self.run, "epoch")), default=0)
        else:
            self.run = self._new_run()
            keep_id(about, self.cfg.kind, to, self.run)
        for step, values in about.missed(self.known):
            self.log(step, values, None)

    def log(self, step: int, values: Mapping[str, float], validation: Validation | None) -> None:
        assert self.client is not None
        if step <= self.known:
            return  # the same numbers stand there already: this step was done before the run was killed
        scores = validation.classes.ious("val") if validation is not None else {}
        self._metrics({**scores, **values}, step)
        if validation is not None:
            self.client.log_text(self.run, comma_separated(validation.classes), f"classes/val_{step:08d}.csv")
            for shown in validation.samples[: self.cfg.images]:
                self.client.log_image(self.run, shown.panel, key=allowed(f"val/samples/{shown.name}"), step=step)
        self.known = step

    def close(self, end: End, final: Final | None) -> None:
        assert self.client is not None
        if final is not None:
            self._metrics(final.values(), final.step)
            self.client.log_text(self.run, comma_separated(final.classes), f"classes/final_{final.split}.csv")
        self.client.set_terminated(self.run, STATUS[end])

    def _new_run(self) -> str:
        from mlflow.entities import Param

        assert self.client is not None
        about, client = self.about, self.client
        run = str(client.create_run(self._experiment(), run_name=self.cfg.name or about.folder.name).info.run_id)
        for key, value in self.cfg.tags.items():
            client.set_tag(run, key, value)
        params = [Param(allowed(key), value[:LONGEST_PARAM]) for key, value in flat(about.recipe).items()]
        for first in range(0, len(params), PARAMS_AT_ONCE):
            client.log_batch(run, params=params[first : first + PARAMS_AT_ONCE])
        for name, tree in (("config", about.recipe), ("environment", about.environment)):
            client.log_text(run, yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True), f"{name}.yaml")
        return run

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        assert self.client is not None
        name = self.cfg.experiment
        if (found := self.client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(name, artifact_location=artifacts_beside(self.uri)))
        except MlflowException:  # another run has made it in the meantime
            if (found := self.client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        assert self.client is not None
        now = round(1000 * time.time())
        metrics = [Metric(allowed(key), value, now, step) for key, value in finite(values).items()]
        self.client.log_batch(self.run, metrics=metrics)


def check_uri(uri: str | None, at: str = "trackers.mlflow.uri") -> None:
    """Refuse what MLflow refuses later, and what should not stand in a recipe.

    Raises:
        InputError: the address is a folder, or holds a password.
    """
    if uri is None:
        return
    if "://" not in uri or uri.startswith("file:"):
        raise InputError(
            f"{at} is {uri!r}: MLflow keeps runs in folders no more. Give a database, sqlite:///PATH/mlflow.db, or a "
            "server, http://HOST:5000"
        )
    if at != "MLFLOW_TRACKING_URI" and urlsplit(uri).password is not None:
        raise InputError(
            f"{at} holds a password, which would stand in every run folder; set MLFLOW_TRACKING_URI instead, or "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def artifacts_beside(uri: str) -> str | None:
    """Where the files of a database's runs are: beside it, not in whatever folder the command is typed in; a server
    knows that for itself."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlflow").as_uri()


def flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """{dotted key: value} of a recipe; a list of plain values is one."""
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, list | tuple) and any(isinstance(item, Mapping) for item in tree):
        items = {str(at): item for at, item in enumerate(tree)}.items()
    else:
        return {prefix.removesuffix("."): str(tree)}
    return {key: value for name, item in items for key, value in flat(item, f"{prefix}{name}.").items()}


def comma_separated(table: ClassTable) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *table.columns])
    writer.writerows(table.rows())
    return text.getvalue()


def allowed(name: str) -> str:
    """A name with the letters that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _without_password(uri: str) -> str:
    return re.sub(r"://[^/@]+@", "://", uri)
