"""Files that are whole or not there, what tells them apart, and JSON that may be anything."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from egoexo_xseg.errors import XsegError


def load_json(path: Path, error: type[XsegError]) -> Any:
    """What a JSON file holds, or an error of the caller's kind that names the file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise error("no such file", where=path) from None
    except (ValueError, RecursionError):
        raise error("not readable as JSON", where=path) from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_whole(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file (of text, unless `mode` is "wb") that gets its name only when all of it is written.

    Until then it has a name that nobody else writes to. A device or a pipe is written to as it is.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace"}
    if path.exists() and (not path.is_file() or path.is_relative_to("/dev")):
        with path.open(mode, **text) as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        try:
            file = partial.open(mode, **text)
        except OSError as fault:
            raise type(fault)(fault.errno, fault.strerror, str(path)) from None  # the name that somebody knows
        with file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
