"""Folders of predictions: `<folder>/<direction>/<take_uid>.jsonl`, one prediction a line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from egoexo_xseg.data.annotations import NAME
from egoexo_xseg.errors import PredictionError
from egoexo_xseg.files import written_whole
from egoexo_xseg.masks import parse_together
from egoexo_xseg.records import Direction, Prediction

SHARD = re.compile(r"shard-([0-9]{1,4})-of-([0-9]{1,4})\.json")

Key = tuple[str, str, str, int]
"""object_id, query camera, target camera, frame."""


def predicted_directions(folder: Path) -> list[Direction]:
    """The directions that a folder holds; at least one."""
    found = [direction for direction in Direction if (folder / direction.value).is_dir()]
    if not found:
        raise PredictionError("no predictions here", where=folder, remedy="Run xseg predict --out with this folder")
    return found


def note_shard(folder: Path, direction: Direction, shard: tuple[int, int], take_uids: Sequence[str]) -> None:
    """Leave word of which takes a shard is about to predict."""
    index, count = shard
    if count > 1:
        with written_whole(folder / direction.value / f"shard-{index}-of-{count}.json") as file:
            json.dump(list(take_uids), file)


def is_predicted(folder: Path, direction: Direction, take_uid: str) -> bool:
    """Whether a take is there with all its pairs; those that failed want another try."""
    path = folder / direction.value / f"{take_uid}.jsonl"
    return path.is_file() and not path.with_suffix(".faults.txt").exists()


def lost_shards(folder: Path, direction: Direction, take_uids: Sequence[str]) -> list[str]:
    """Shards, spelt `2/8`, that have some of these takes left to do, and those of the same count that left no word."""
    undone = {uid for uid in take_uids if not is_predicted(folder, direction, uid)}
    noted: dict[int, dict[int, set[str]]] = {}
    for path in (folder / direction.value).glob("shard-*-of-*.json"):
        if spelt := SHARD.fullmatch(path.name):
            index, count = map(int, spelt.groups())
            try:
                uids = set(json.loads(path.read_bytes()))
            except (ValueError, TypeError):
                uids = undone  # its word is broken: it may have been any of them
            noted.setdefault(count, {})[index] = uids
    lost: list[tuple[int, int]] = []
    for count, own in noted.items():
        lost += [(index, count) for index, uids in own.items() if uids & undone]
        if undone.difference(*own.values()):
            lost += [(index, count) for index in range(1, count + 1) if index not in own]
    return [f"{index}/{count}" for index, count in sorted(lost)]


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
