"""Folders of predictions: `<folder>/<direction>/<take_uid>.jsonl`, one prediction a line."""

from __future__ import annotations

from pathlib import Path

from egoexo_xseg.data.annotations import NAME
from egoexo_xseg.errors import PredictionError
from egoexo_xseg.records import Direction, Prediction

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
