"""A server of published weights in miniature: made-up files by the real paths, and the catalog told their hashes.

`with published(folder) as server: entry = server.publish("fast_scnn_...", bytes)`. A file's name ends with its hash, so
a made-up one has another name than the real one: `publish` puts an entry with that name into the catalog for the
test's time. The server can be told to cut, to refuse, and to give whole files only.
"""

import hashlib
import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from terrazzo.published import catalog
from terrazzo.published.catalog import Entry


@dataclass
class ZooServer:
    """What it serves and how; `asked` are the requests so far: path, and the Range header."""

    root: Path
    monkeypatch: pytest.MonkeyPatch
    address: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    cut_after: int | None = None
    """Bytes of an answer after which the connection is cut."""
    status: int | None = None
    """Answer of every request, if not the file."""
    ranges: bool = True

    def publish(self, name: str, content: bytes) -> Entry:
        """Serve `content` as the weights of the catalog's entry `name`."""
        known = catalog.find_entry(name)
        assert known is not None, name
        stem = known.weights_file.rpartition("-")[0]
        entry = replace(known, weights_file=f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth")
        path = self.root / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        listed = tuple(entry if one.name == entry.name else one for one in catalog.entries())
        table = (catalog.address(), listed)
        self.monkeypatch.setattr(catalog, "_table", lambda: table)
        catalog._by_name.cache_clear()
        return entry

    def publish_network(self, name: str, checkpoint: dict[str, Any]) -> Entry:
        """The same with what `torch.save` makes of a checkpoint."""
        import torch

        file = io.BytesIO()
        torch.save(checkpoint, file)
        return self.publish(name, file.getvalue())


def handler_of(server: ZooServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            given = self.headers.get("Range")
            server.asked.append((self.path, given))
            file = server.root / self.path.lstrip("/")
            if server.status is not None or not file.is_file():
                self.answer(server.status or 404, b"no", {})
                return
            data = file.read_bytes()
            part = re.fullmatch(r"bytes=(\d+)-", given or "")
            if part is None or not server.ranges:
                self.answer(200, data, {})
            elif int(part[1]) >= len(data):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            else:
                first = int(part[1])
                self.answer(206, data[first:], {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"})

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if server.cut_after is not None and status in (200, 206):
                body = body[: server.cut_after]
                self.close_connection = True
            self.wfile.write(body)

    return Handler


@contextmanager
def published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZooServer]:
    """A running server of `folder`/served; TERRAZZO_MIRROR leads to it and TERRAZZO_CACHE to `folder`/cache."""
    server = ZooServer(folder / "served", monkeypatch)
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(server))
    server.address = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setenv("TERRAZZO_MIRROR", server.address)
    monkeypatch.setenv("TERRAZZO_CACHE", str(folder / "cache"))
    for name in ("TERRAZZO_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
        monkeypatch.undo()
        catalog._by_name.cache_clear()
