"""What a run folder keeps of a tracker's run, so that a resume goes on with that one."""

import json
import uuid

from terrazzo.files import write_text
from terrazzo.track.tracker import About

FOLDER = "trackers"
"""Of the run folder."""


def kept_id(about: About, kind: str, to: str) -> str | None:
    """The id of this run at `to` (a project, an experiment), or None if it has none there."""
    path = about.folder / FOLDER / f"{kind}.json"
    if not about.step or not path.exists():  # a new run is a new one there too
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    return str(kept["id"]) if kept["to"] == to else None


def keep_id(about: About, kind: str, to: str, run: str) -> None:
    """Remember the id of this run at `to`."""
    write_text(about.folder / FOLDER / f"{kind}.json", json.dumps({"to": to, "id": run}) + "\n")


def new_id() -> str:
    return uuid.uuid4().hex[:12]
