"""A tiny W&B server for tests: it knows runs and their history, refuses all else, and takes no more when told to.

Clients: WANDB_BASE_URL=http://127.0.0.1:PORT and any WANDB_API_KEY of 40 letters.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

OWNER = {"id": "owner", "name": "me"}


class FakeWandb(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.history: dict[str, list[dict[str, Any]]] = {}
        """Of each run, by its id."""
        self.made: dict[str, dict[str, Any]] = {}
        """The last word on each run: name, group, tags, ..."""
        self.exits: list[int] = []
        self.others: list[str] = []
        """Questions that it does not know."""
        self.knows_me = True
        # Whether numbers that are sent get no answer.
        self.hanging, self.over = False, Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def resume_status(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["name"] not in self.history:
            return {"model": None}
        lines = self.history[given["name"]]
        bucket = {
            "id": given["name"],
            "name": given["name"],
            "summaryMetrics": "{}",
            "displayName": "shown",
            "logLineCount": 0,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(line) for line in lines[-1:]]),
            "eventsTail": "[]",
            "config": "{}",
            "tags": [],
            "notes": "",
            "wandbConfig": '{"t": {}}',  # else the run counts as never begun
        }
        return {"model": {"id": "project", "name": given["project"], "entity": OWNER, "bucket": bucket}}

    def upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        known = given["name"] in self.history
        self.history.setdefault(given["name"], [])
        self.made[given["name"]] = given
        bucket = {
            "id": given["name"],
            "name": given["name"],
            "displayName": given.get("displayName") or "shown",
            "description": "",
            "config": "{}",
            "sweepName": None,
            "project": {"id": "project", "name": given["project"], "entity": OWNER},
            "historyLineCount": len(self.history[given["name"]]),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": not known}}

    def stream(self, run: str, tree: dict[str, Any]) -> None:
        """Lines of history are put where the client says that they belong."""
        if (part := tree.get("files", {}).get("wandb-history.jsonl")) is not None:
            lines = self.history[run]
            lines[part["offset"] :] = [json.loads(line) for line in part["content"]]
        if tree.get("complete"):
            self.exits.append(tree["exitcode"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeWandb

    def log_message(self, *args: object) -> None: ...

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if found := re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            if self.server.hanging:
                self.server.over.wait(300)
                self.close_connection = True
                return
            self.server.stream(found[1], json.loads(body))
            self.answer({})
            return
        asked = json.loads(body)
        (name,) = re.findall(r"^\s*(?:query|mutation)\s+(\w+)", asked["query"]) or [""]
        match name:
            case "RunResumeStatus":
                self.answer({"data": self.server.resume_status(asked["variables"])})
            case "Viewer" if self.server.knows_me:
                self.answer(
                    {
                        "data": {
                            "viewer": {**OWNER, "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
                        }
                    }
                )
            case "UpsertBucket":
                self.answer({"data": self.server.upsert(asked["variables"])})
            case _:
                self.server.others.append(name)
                self.answer({"errors": [{"message": f"not here: {name}"}]})

    def answer(self, tree: dict[str, Any]) -> None:
        body = json.dumps(tree).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def fake_wandb() -> Iterator[FakeWandb]:
    with FakeWandb() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
