"""A Hugging Face hub in miniature: serves FOLDER/OWNER/REPO/FILE, whatever the revision. Prints its port, then serves.

`python fakehub.py FOLDER`; clients set HF_ENDPOINT=http://127.0.0.1:PORT and a fresh HF_HOME before any import, and
HF_HUB_DISABLE_XET=1: large files come by LFS. Whoever has the token TOKEN may write, and read private repositories; a
repository with "gated" in its name asks for an agreement. What was written is in the folder as the hub would serve it.
"""

import base64
import hashlib
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
COMMIT = "a" * 40
TOKEN = "hf_write"
LARGE = (".safetensors", ".bin", ".pth")
private: set[str] = set()
uploads: dict[str, bytes] = {}
"""LFS objects by their hash, before the commit that names them."""


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        asked = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        repo = about[1] if about else asked[1] if asked else ""
        name = asked[2] if asked else ""
        file = ROOT / repo / name
        if not (about or asked) or not (ROOT / repo).is_dir() or (repo in private and not self.known()):
            self.reply(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif "gated" in repo and not self.known():
            self.reply(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif about and about[3] not in (None, "main", COMMIT):
            self.reply(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        elif about:
            self.json(self.described(repo, tree=about[2] == "tree"))
        elif not file.is_file():
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self.send(file.read_bytes())

    def do_POST(self) -> None:
        """Making a repository, asking how files want to come, and the commit: as huggingface_hub 2.4 does them."""
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/validate-yaml":
            self.json({"errors": [], "warnings": []})
        elif not self.known():
            self.reply(401, b"", {"X-Error-Message": "Invalid username or password."})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            new = not (ROOT / repo).exists()
            (ROOT / repo).mkdir(parents=True, exist_ok=True)
            if new and asked.get("visibility") == "private":
                private.add(repo)
            self.json({"url": f"http://{self.headers['Host']}/{repo}"}, 200 if new else 409)
        elif preupload := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            self.json({"files": [self.mode(preupload[1], one["path"]) for one in json.loads(body)["files"]]})
        elif re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            self.json({"transfer": "basic", "objects": [self.action(one) for one in json.loads(body)["objects"]]})
        elif commit := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self.commit(commit[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.reply(404, b"", {})

    def do_PUT(self) -> None:
        """An LFS object."""
        given = self.headers.get("Content-Length")
        data = self.rfile.read(int(given)) if given else self.chunks()
        oid = self.path.rpartition("/")[2]
        right = hashlib.sha256(data).hexdigest() == oid
        uploads.update({oid: data} if right else {})
        self.reply(200 if right else 400, b"", {})

    def chunks(self) -> bytes:
        """A body without a length: each chunk behind its own."""
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def mode(self, repo: str, name: str) -> dict[str, object]:
        return {"path": name, "uploadMode": "lfs" if name.endswith(LARGE) else "regular", "shouldIgnore": False}

    def action(self, one: dict[str, object]) -> dict[str, object]:
        upload = {"href": f"http://{self.headers['Host']}/lfs/{one['oid']}"}
        return {**one, **({} if one["oid"] in uploads else {"actions": {"upload": upload}})}

    def commit(self, repo: str, lines: list[dict[str, dict[str, str]]]) -> None:
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    (ROOT / repo / value["path"]).write_bytes(base64.b64decode(value["content"]))
                case "lfsFile":
                    (ROOT / repo / value["path"]).write_bytes(uploads[value["oid"]])
        url = f"http://{self.headers['Host']}/{repo}/commit/{COMMIT}"
        self.json({"success": True, "commitOid": COMMIT, "commitUrl": url})

    def described(self, repo: str, *, tree: bool) -> object:
        files = [path for path in sorted((ROOT / repo).rglob("*")) if path.is_file()]
        names = [path.relative_to(ROOT / repo).as_posix() for path in files]
        if tree:
            return [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": digest(path.read_bytes())[:40]}
                for name, path in zip(names, files, strict=True)
            ]
        listed = [{"rfilename": name} for name in names]
        return {"id": repo, "modelId": repo, "sha": COMMIT, "private": repo in private, "tags": [], "siblings": listed}

    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def send(self, data: bytes) -> None:
        headers = {
            "ETag": f'"{digest(data)}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part and self.command == "GET":
            first, last = int(part[1]), int(part[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self.reply(206, data[first : last + 1], headers)
        else:
            self.reply(200, data, headers)

    def json(self, answer: object, status: int = 200) -> None:
        self.reply(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_port, flush=True)
    server.serve_forever()
