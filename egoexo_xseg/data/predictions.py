"""Folders of predictions: `<folder>/<direction>/<take_uid>.jsonl`, one prediction a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from egoexo_xseg.data.annotations import NAME
from egoexo_xseg.data.submission import written_whole
from egoexo_xseg.errors import PredictionError
from egoexo_xseg.records import Direction, Prediction

MANIFEST = "manifest.json"

Key = tuple[str, str, str, int]
"""object_id, query camera, target camera, frame."""


def predicted_directions(folder: Path) -> list[Direction]:
    """The directions that a folder holds; at least one."""
    found = [direction for direction in Direction if (folder / direction.value).is_dir()]
    if not found:
        raise PredictionError("no predictions here", where=folder, remedy="Run xseg predict --out with this folder")
    return found


def read_take_predictions(folder: Path, direction: Direction, take_uid: str) -> dict[Key, Prediction]:
    """A take's predictions; none if it was not predicted. A later line replaces an earlier one of the same key."""
    path = folder / direction.value / f"{take_uid}.jsonl"
    if not NAME.fullmatch(take_uid) or not path.is_file():
        return {}
    found: dict[Key, Prediction] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                prediction = Prediction.from_line(line)
            except PredictionError as fault:
                raise PredictionError(str(fault), where=f"{path}, line {number}") from None
            if prediction.take_uid != take_uid:
                raise PredictionError(f"a line of take {prediction.take_uid!r}", where=f"{path}, line {number}")
            found[prediction.key[1:]] = prediction
    return found


def read_manifest(folder: Path) -> dict[str, Any]:
    """What made the predictions of a direction's folder; nothing if another method did not say."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("identity", {}), dict):
        raise PredictionError("not readable as a manifest", where=path, remedy="Choose another folder, or delete it")
    return manifest


def settle_folder(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a direction's manifest, or make sure that the one in place has the same `identity`."""
    path = folder / MANIFEST
    if not path.is_file():
        with written_whole(path) as file:
            file.write(json.dumps(manifest, indent=1) + "\n")
        return
    before = read_manifest(folder).get("identity", {})
    other = [name for name, value in manifest["identity"].items() if before.get(name) != value]
    if other:
        problem = f"this folder holds predictions made with another {' and '.join(other)}"
        raise PredictionError(problem, where=folder, remedy="Choose another --out, or delete it")
