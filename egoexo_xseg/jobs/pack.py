"""From predictions to the challenge's submission: complete, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from egoexo_xseg import __version__
from egoexo_xseg.data.annotations import Annotations
from egoexo_xseg.data.pairs import required_keys
from egoexo_xseg.data.predictions import predicted_directions, read_take_predictions
from egoexo_xseg.data.submission import Answers, SubmissionWriter, written_whole
from egoexo_xseg.errors import SubmissionError
from egoexo_xseg.masks import Rle, mask_to_rle, scored_hw
from egoexo_xseg.progress import track
from egoexo_xseg.records import Direction, Prediction

FILLS = ("error", "center", "propagate")
LISTED = 10


@dataclass
class PackSummary:
    """What went into the file, per direction; `missing` lists what was asked for and not predicted."""

    path: Path
    packed: dict[str, int] = field(default_factory=dict)
    filled: int = 0
    extra: int = 0
    missing: list[str] = field(default_factory=list)
    directions_left_out: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, object]]:
        packed = [(f"predictions {direction}", count) for direction, count in self.packed.items()]
        return [*packed, ("filled in", self.filled), ("predicted but not asked for", self.extra)]


def pack(
    predictions: Path, annotations: Annotations, out: Path, *, fill: str = "error", partial: bool = False
) -> PackSummary:
    """Write the submission of all takes of `annotations`, every object, camera pair and query frame in it.

    What was not predicted is one error that lists it, unless `fill` says what stands in for it, with confidence 0:
    `center`, a pixel in the middle of the image, or `propagate`, the same object's mask of the nearest frame.
    `partial` allows a file of one direction.
    """
    found = predicted_directions(predictions)
    absent = [direction.value for direction in Direction if direction not in found]
    if absent and not partial:
        remedy = f"Run xseg predict --direction {absent[0]}, or pack with --partial"
        raise SubmissionError(f"no predictions for {absent[0]}", where=predictions, remedy=remedy)
    summary = PackSummary(out, directions_left_out=absent)
    with written_whole(out) as file:
        writer = SubmissionWriter(file)
        for direction in found:
            writer.write_direction(direction, _iter_answers(predictions, annotations, direction, fill, summary))
        writer.close()
        if summary.missing and fill == "error":
            shown = "; ".join(summary.missing[:LISTED])
            raise SubmissionError(
                f"{len(summary.missing)} predictions are missing or unusable: {shown}"
                + ("; ..." if len(summary.missing) > LISTED else ""),
                where=predictions,
                remedy="Predict them, or pack with --fill center or --fill propagate",
            )
    with written_whole(out.with_suffix(".manifest.json")) as file:
        json.dump(_manifest(predictions, found, summary, fill), file, indent=1)
    return summary


def _iter_answers(
    predictions: Path, annotations: Annotations, direction: Direction, fill: str, summary: PackSummary
) -> Iterator[tuple[str, Answers, list[int]]]:
    summary.packed[direction.value] = 0
    for uid in track(annotations.take_uids, f"Packing {direction.value}", total=len(annotations)):
        take = annotations.load(uid)
        predicted = read_take_predictions(predictions, direction, uid)
        required = required_keys(take, direction)
        answers: dict[str, Any] = {}
        used = 0
        for object_id, pairs in required.items():
            answers[object_id] = {}
            for (query, target), frames in pairs.items():
                own = {frame: predicted.get((object_id, query, target, frame)) for frame in frames}
                used += sum(prediction is not None for prediction in own.values())
                hw = scored_hw(take.camera_hw[target])
                place = f"{direction.value}, take {uid}, object {object_id!r}, {query} to {target}"
                answers[object_id][query, target] = _complete(own, hw, fill, place, summary)
        summary.extra += len(predicted) - used
        summary.packed[direction.value] += used
        yield uid, answers, list(take.sampled_frames)


def _complete(
    predictions: dict[int, Prediction | None], hw: tuple[int, int], fill: str, place: str, summary: PackSummary
) -> dict[int, tuple[Rle, float]]:
    """Mask and confidence for every frame, holes noted and filled."""
    whole: dict[int, tuple[Rle, float]] = {}
    for frame, prediction in predictions.items():
        if prediction is None:
            summary.missing.append(f"{place}, frame {frame}")
        elif prediction.mask.hw != hw:
            found = "x".join(map(str, prediction.mask.hw))
            summary.missing.append(f"{place}, frame {frame} (a mask of {found}, not {hw[0]}x{hw[1]})")
        else:
            whole[frame] = prediction.mask, prediction.visibility
    answers = {}
    for frame in predictions:
        if frame in whole:
            answers[frame] = whole[frame]
        else:
            nearest = min(whole, key=lambda other: (abs(other - frame), other), default=None)
            mask = whole[nearest][0] if fill == "propagate" and nearest is not None else _center_pixel(hw)
            answers[frame] = mask, 0.0
            summary.filled += 1
    return answers


def _center_pixel(hw: tuple[int, int]) -> Rle:
    """The least that is not nothing: an empty mask would be placed off the middle by the evaluator."""
    mask = np.zeros(hw, bool)
    mask[hw[0] // 2, hw[1] // 2] = True
    return mask_to_rle(mask)


def _manifest(predictions: Path, found: list[Direction], summary: PackSummary, fill: str) -> dict[str, Any]:
    """What the submission was made of, by hash."""
    sources = {}
    for direction in found:
        path = predictions / direction.value / "manifest.json"
        sources[direction.value] = json.loads(path.read_bytes()) if path.is_file() else None
    with summary.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    counts = {"packed": summary.packed, "filled": summary.filled, "extra": summary.extra}
    return {"xseg": __version__, "sha256": digest, "fill": fill, **counts, "predictions": sources}
