"""Folders of predictions: `<folder>/<direction>/<take_uid>.jsonl`, one prediction a line."""

from __future__ import annotations

from pathlib import Path

from egoexo_xseg.data.annotations import NAME
from egoexo_xseg.errors import PredictionError
from egoexo_xseg.masks import parse_together
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
    read: list[Prediction] = []

    def at(number: int, fault: PredictionError) -> PredictionError:
        return PredictionError(str(fault), where=f"{path}, line {number}")

    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                read.append(Prediction.unchecked(line))
            except PredictionError as fault:
                raise at(number, fault) from None
            if read[-1].take_uid != take_uid:
                raise at(number, PredictionError(f"a line of take {read[-1].take_uid!r}"))
    parse_together([prediction.mask for prediction in read])
    for number, prediction in enumerate(read, 1):
        try:
            prediction.check_mask()
        except PredictionError as fault:
            raise at(number, fault) from None
    return {prediction.key[1:]: prediction for prediction in read}
