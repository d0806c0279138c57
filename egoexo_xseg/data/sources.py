"""Where takes lie: a JSON file of many, or a folder of prepared ones; none of their masks is looked at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from egoexo_xseg.errors import AnnotationError, XsegError
from egoexo_xseg.files import load_json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
"""What may become part of a path: take uids, take names and cameras, never object ids."""


def read_json(path: Path, error: type[XsegError] = AnnotationError) -> dict[str, Any]:
    """A JSON object, or an error of the caller's kind that names the file."""
    value = load_json(path, error)
    if not isinstance(value, dict):
        raise error("the file must hold a JSON object", where=path)
    return value


class TakesFile:
    """A JSON file of many takes: `relations_*.json` or `correspondence-gt.json`."""

    unprepared: tuple[str, ...] = ()

    def __init__(self, path: Path, split: str | None) -> None:
        self.path = path
        if split and path.stem.startswith("relations_") and path.stem != f"relations_{split}":
            raise AnnotationError(f"these are not the annotations of {split!r}", where=path)
        self.takes = read_json(path).get("annotations")
        if not isinstance(self.takes, dict):
            remedy = "Give relations_*.json or correspondence-gt.json"
            raise AnnotationError("no annotations in this file", where=path, remedy=remedy)
        self.take_uids = tuple(uid for uid in self.takes if NAME.fullmatch(uid))

    def name(self, uid: str) -> str:
        entry = self.takes[uid]
        return text(entry.get("take_name") if isinstance(entry, dict) else None)

    def source(self, uid: str) -> Any:
        return self.takes[uid]


class TakesFolder:
    """A folder of processed takes, with the uids of each split in `split.json`."""

    def __init__(self, path: Path, split: str | None) -> None:
        self.path = path
        splits = read_json(path / "split.json") if (path / "split.json").is_file() else {}
        if split is None:
            uids = sorted(entry.parent.name for entry in path.glob("*/annotation.json"))
        elif isinstance(splits.get(split), list):
            uids = [uid for uid in splits[split] if isinstance(uid, str)]
        else:
            known = ", ".join(map(str, splits)) or "none"
            raise AnnotationError(f"no split {split!r}", where=path / "split.json", remedy=f"It has: {known}")
        uids = [uid for uid in uids if NAME.fullmatch(uid)]
        self.take_uids = tuple(uid for uid in uids if (path / uid / "annotation.json").is_file())
        self.unprepared = tuple(uid for uid in uids if uid not in self.take_uids)
        if not self.take_uids:
            raw = any((path / "annotations").glob("relations_*.json"))
            remedy = "Of a raw release, name annotations/relations_*.json" if raw else "Run xseg prepare first"
            raise AnnotationError("no prepared takes here", where=path, remedy=remedy)

    def name(self, uid: str) -> str:
        return text(read_json(self.path / uid / "annotation.json").get("take_name"))

    def source(self, uid: str) -> Path:
        return self.path / uid


def text(value: object) -> str:
    return value if isinstance(value, str) else ""
