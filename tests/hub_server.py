"""A stand-in for the Hub: as much of its protocol as a download needs, from folders of this machine."""

from __future__ import annotations

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
    url: str = ""
    status: int = 200
    """Of whatever is asked about a repository: 401 stands for one that is private, or not there."""
    error_code: str = ""
    """What the Hub puts into X-Error-Code."""
    broken_off: set[str] = field(default_factory=set)
    """Files whose transfer breaks off in the middle, once."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path, and the Range that was asked for."""
    tokens: set[str] = field(default_factory=set)


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

        def answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path, self.headers.get("Range") or ""))
            hub.tokens.add(self.headers.get("Authorization") or "")
            api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            found = api or file
            folder = hub.repositories.get(found[1]) if found else None
            if hub.status != 200 or folder is None:
                status = hub.status if hub.status != 200 else 404
                code = hub.error_code or ("RepoNotFound" if status == 404 else "")
                self.reply(status, b"{}", {"X-Error-Code": code} if code else {}, body)
            elif api and api[2] == "revision":
                names = [{"rfilename": each.name} for each in sorted(folder.iterdir())]
                self.reply(200, json.dumps({"id": api[1], "sha": COMMIT, "siblings": names}).encode(), {}, body)
            elif api:
                rows = [
                    {"type": "file", "path": each.name, "size": each.stat().st_size, "oid": digest(each)}
                    for each in sorted(folder.iterdir())
                ]
                self.reply(200, json.dumps(rows).encode(), {}, body)
            elif not (folder / file[3]).is_file():
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            else:
                self.send_file(folder / file[3], body)

        def send_file(self, path: Path, body: bool) -> None:
            content = path.read_bytes()
            start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
            headers = {"ETag": f'"{digest(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            cut = body and path.name in hub.broken_off
            if cut:
                hub.broken_off.remove(path.name)
            self.reply(206 if start else 200, content[start:], headers, body, cut)

        def reply(self, status: int, content: bytes, headers: dict[str, str], body: bool, cut: bool = False) -> None:
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


def digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
