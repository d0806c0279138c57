"""A stand-in for the Hub: as much of its protocol as a download and an upload need, from folders of this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by name, and how the server behaves; `asked` lists what it was asked for."""

    repositories: dict[str, Path]
    home: Path | None = None
    """Receives the repositories that are created."""
    url: str = ""
    status: int = 200
    """Of whatever is asked about a repository: 401 stands for one that is private, or not there."""
    error_code: str = ""
    """What the Hub puts into X-Error-Code."""
    refused: dict[str, int] = field(default_factory=dict)
    """Status of the steps of an upload that fail: create, preupload, batch, upload, commit."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Old names of repositories, and their new ones."""
    broken_off: set[str] = field(default_factory=set)
    """Files whose transfer breaks off in the middle, once."""
    always_broken: set[str] = field(default_factory=set)
    tampered: set[str] = field(default_factory=set)
    """Files that come with another content than their hash says, of the same size."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path, and the Range that was asked for."""
    tokens: set[str] = field(default_factory=set)
    private: dict[str, bool] = field(default_factory=dict)
    """Of the repositories that were created."""
    commits: list[list[dict]] = field(default_factory=list)
    """Lines of each commit that was made."""
    large: dict[str, bytes] = field(default_factory=dict)
    """Contents that were uploaded, by SHA-256, which a commit may name."""

    @property
    def commit(self) -> str:
        return hashlib.sha1(b"%d" % len(self.commits)).hexdigest() if self.commits else COMMIT


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_POST(self) -> None:
            content, path = self.receive(), self.note()
            steps = {
                "create": r"/api/repos/create",
                "validate": r"/api/validate-yaml",
                "preupload": r"/api/models/([^/]+/[^/]+)/preupload/main",
                "batch": r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch",
                "commit": r"/api/models/([^/]+/[^/]+)/commit/main",
            }
            step, found = next((step, m) for step, form in steps.items() if (m := re.fullmatch(form, path)))
            status = hub.refused.get(step) or (200 if self.headers.get("Authorization") else 401)
            if status != 200:  # the real one's words may hold anything
                words = f"refused, {self.headers.get('Authorization')}"
                self.reply(status, json.dumps({"error": words}).encode(), {"X-Error-Message": words})
            elif step == "create":
                self.create(json.loads(content))
            elif step == "validate":
                self.send({"warnings": [] if "license:" in json.loads(content)["content"] else [{"message": "empty"}]})
            elif step == "preupload":
                self.send({"files": [self.mode(found[1], each) for each in json.loads(content)["files"]]})
            elif step == "batch":
                self.send({"objects": [self.place(each) for each in json.loads(content)["objects"]]})
            else:
                self.accept(found[1], [json.loads(line) for line in content.splitlines()])

        def do_PUT(self) -> None:
            content, path = self.receive(), self.note()
            status = hub.refused.get("upload", 200)
            if status == 200:
                assert hashlib.sha256(content).hexdigest() == path.rpartition("/")[2]
                hub.large[path.rpartition("/")[2]] = content
            self.reply(status, b"", {})

        def note(self) -> str:
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path, self.headers.get("Range") or ""))
            hub.tokens.add(self.headers.get("Authorization") or "")
            return path

        def receive(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def create(self, wanted: dict) -> None:
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in hub.repositories:
                self.reply(409, json.dumps({"url": f"{hub.url}/{name}"}).encode(), {})
                return
            hub.repositories[name] = hub.home / wanted["name"]
            hub.repositories[name].mkdir()
            (hub.repositories[name] / ".gitattributes").write_text("*.safetensors filter=lfs")
            hub.private[name] = wanted.get("visibility") == "private"
            self.send({"url": f"{hub.url}/{name}"})

        def mode(self, name: str, wanted: dict) -> dict:
            path = hub.repositories[name] / wanted["path"]
            mode = "lfs" if is_large(path) else "regular"
            known = {"oid": digest(path)} if path.is_file() else {}
            return {"path": wanted["path"], "uploadMode": mode, "shouldIgnore": False, **known}

        def place(self, wanted: dict) -> dict:
            if wanted["oid"] in hub.large:
                return wanted
            return {**wanted, "actions": {"upload": {"href": f"{hub.url}/large/{wanted['oid']}"}}}

        def accept(self, name: str, lines: list[dict]) -> None:
            folder = hub.repositories[name]
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
                elif line["key"] == "lfsFile":
                    (folder / value["path"]).write_bytes(hub.large[value["oid"]])
                elif line["key"] == "deletedFile":
                    (folder / value["path"]).unlink()
            hub.commits.append(lines)
            self.send({"commitUrl": f"{hub.url}/{name}/commit/{hub.commit}", "commitOid": hub.commit})

        def send(self, value: object) -> None:
            self.reply(200, json.dumps(value).encode(), {})

        def answer(self, body: bool) -> None:
            path = self.note()
            for old, new in hub.renamed.items():
                if f"/{old}/" in path:
                    self.reply(307, b"", {"Location": path.replace(f"/{old}/", f"/{new}/")}, body)
                    return
            api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/?(revision|tree|)(?:/([^/]+))?", path)
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            found = api or file
            folder = hub.repositories.get(found[1]) if found else None
            if hub.status != 200 or folder is None:
                status = hub.status if hub.status != 200 else 404
                code = hub.error_code or ("RepoNotFound" if status == 404 else "")
                self.reply(status, b"{}", {"X-Error-Code": code} if code else {}, body)
            elif api and api[2] != "tree":
                names = [{"rfilename": each.name} for each in sorted(folder.iterdir())]
                info = {"id": api[1], "sha": hub.commit, "siblings": names, "private": hub.private.get(api[1], False)}
                self.reply(200, json.dumps(info).encode(), {}, body)
            elif api:
                rows = [describe(each) for each in sorted(folder.iterdir())]
                self.reply(200, json.dumps(rows).encode(), {}, body)
            elif not (folder / file[3]).is_file():
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            else:
                self.send_file(folder / file[3], body)

        def send_file(self, path: Path, body: bool) -> None:
            content = path.read_bytes()
            if path.name in hub.tampered:
                content = content[:-1] + bytes([content[-1] ^ 1])
            start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
            headers = {"ETag": f'"{digest(path)}"', "X-Repo-Commit": hub.commit, "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            cut = body and (path.name in hub.broken_off or path.name in hub.always_broken)
            if cut:
                hub.broken_off.discard(path.name)
            self.reply(206 if start else 200, content[start:], headers, body, cut)

        def reply(
            self, status: int, content: bytes, headers: dict[str, str], body: bool = True, cut: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self.wfile.flush()
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def is_large(path: Path) -> bool:
    """What the Hub keeps apart from git."""
    return path.suffix in (".safetensors", ".bin", ".png")


def digest(path: Path) -> str:
    """The hash that the Hub gives: SHA-256 of large files, git's of others."""
    content = path.read_bytes()
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def describe(path: Path) -> dict:
    """A row of a listing."""
    size = path.stat().st_size
    large = {"lfs": {"oid": digest(path), "size": size, "pointerSize": 130}} if is_large(path) else {}
    return {"type": "file", "path": path.name, "size": size, "oid": digest(path), **large}
