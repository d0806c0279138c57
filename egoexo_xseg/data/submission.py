"""The challenge server's file: its spelling, read whole and written take by take."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from egoexo_xseg.errors import SubmissionError
from egoexo_xseg.files import load_json
from egoexo_xseg.masks import Rle
from egoexo_xseg.records import Direction

STAMP = {"version": "xx", "challenge": "xx"}
"""What the server wants to read, literally."""

Answers = Mapping[str, Mapping[tuple[str, str], Mapping[int, tuple[Rle, float]]]]
"""object_id -> (query camera, target camera) -> frame -> (mask, confidence)."""


def pair_key(query_camera: str, target_camera: str) -> str:
    """Camera names contain underscores: the key is only ever built, never taken apart."""
    return f"{query_camera}_{target_camera}"


def read_submission(path: Path) -> dict[Direction, dict[str, Any]]:
    """Each direction's `results` by take, unchecked below that; a file may hold one direction or both."""
    value = load_json(path, SubmissionError)
    found = {}
    for direction in Direction:
        part = value.get(direction.challenge_key) if isinstance(value, dict) else None
        if isinstance(part, dict) and isinstance(part.get("results"), dict):
            found[direction] = part["results"]
    if not found:
        raise SubmissionError(
            "neither ego-exo nor exo-ego results in this file", where=path, remedy="See xseg validate"
        )
    return found


class SubmissionWriter:
    """Writes directions and takes one after the other; nothing but the current take is held in memory."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._directions = 0

    def write_direction(self, direction: Direction, takes: Iterable[tuple[str, Answers, list[int]]]) -> None:
        """`takes` gives uid, answers and sampled frames."""
        head = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in STAMP.items())
        opening = ", " if self._directions else "{"
        self._file.write(f'{opening}"{direction.challenge_key}": {{{head}, "results": {{')
        for index, (uid, answers, frames) in enumerate(takes):
            entry = {"masks": _spell(answers), "subsample_idx": frames}
            text = json.dumps(entry, allow_nan=False)
            self._file.write(f"{', ' if index else ''}{json.dumps(uid)}: {text}")
        self._file.write("}}")
        self._directions += 1

    def close(self) -> None:
        self._file.write("}\n" if self._directions else "{}\n")


def _spell(answers: Answers) -> dict[str, Any]:
    return {
        object_id: {
            pair_key(*cameras): {
                str(frame): {"pred_mask": mask.to_json(), "confidence": confidence}
                for frame, (mask, confidence) in frames.items()
            }
            for cameras, frames in pairs.items()
        }
        for object_id, pairs in answers.items()
    }
