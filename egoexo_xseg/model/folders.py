"""Folders that appear whole or not at all, and what tells one from another."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from egoexo_xseg.files import file_digest


@contextmanager
def whole_folder(target: Path, replaced: bool = False) -> Iterator[Path]:
    """A new folder for a checkpoint, which becomes `target` in the end: all of it at once, or nothing.

    What is there already is `replaced`, or stays, since another process was faster. Whoever may read the configuration
    may read the weights, too: safetensors writes them for their owner alone.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh = temporary / "new"
        fresh.mkdir()
        yield fresh
        for path in fresh.glob("*.safetensors"):
            shutil.copymode(fresh / "config.json", path)
        if replaced and target.exists():
            os.replace(target, temporary / "old")
        try:
            os.replace(fresh, target)
        except OSError:
            if replaced or not target.is_dir():
                raise
    finally:
        if (temporary / "old").exists() and not target.exists():
            os.replace(temporary / "old", target)
        shutil.rmtree(temporary, ignore_errors=True)


def clear_abandoned(target: Path) -> None:
    """Delete what killed writers of `whole_folder(target)` left, while nobody writes; what they moved away returns."""
    for temporary in target.parent.glob(f".{target.name}.*"):
        if (temporary / "old").exists() and not target.exists():
            os.replace(temporary / "old", target)
        shutil.rmtree(temporary, ignore_errors=True)


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over names and contents of a folder's files, in whatever order they are given."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return digest.hexdigest()
