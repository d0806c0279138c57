"""A take's answers against its annotations: what the official evaluator counts, sample by sample."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from egoexo_xseg.data.annotations import Take
from egoexo_xseg.data.metrics import score_masks
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.submission import pair_key
from egoexo_xseg.errors import MaskError
from egoexo_xseg.masks import Rle, parse_together, rle_area, rle_to_runs, scored_hw
from egoexo_xseg.records import Direction

MAX_FLOAT = sys.float_info.max

Place = tuple[str, str, str, str, str, int]
"""Direction, take, object, query camera, target camera and frame."""


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """One object in one annotated target frame; what needs a visible object is None where it is not."""

    direction: str
    take_uid: str
    object_id: str
    query_camera: str
    target_camera: str
    frame: int
    visible: bool
    confidence: float
    iou: float | None = None
    location_error: float | None = None
    contour_accuracy: float | None = None
    existence: bool | None = None
    area_share: float | None = None


def score_take(take: Take, direction: Direction, entry: Any, faults: list[str]) -> list[ScoredSample]:
    """A take's samples in the order of its pairs; `entry` is the submission's part for the take."""
    masks = entry.get("masks") if isinstance(entry, dict) else None
    found: list[tuple[Place, float, Rle | None, Rle]] = []  # confidence, target mask and answer
    if not isinstance(masks, dict):
        asked = sum(item.annotated for pair in iter_pairs(take, direction) for item in pair.objects)
        faults += [f"{direction.value}, take {take.take_uid}: no answers ({asked} are asked for)"] if asked else []
        return []
    for pair in iter_pairs(take, direction):
        key = pair_key(pair.query_camera, pair.target_camera)
        for item in pair.objects:
            if not item.annotated:
                continue
            place = (direction.value, take.take_uid, item.object_id, pair.query_camera, pair.target_camera, pair.frame)
            try:
                answer = masks[item.object_id][key][str(pair.frame)]
                confidence, coded = answer["confidence"], answer["pred_mask"]
            except (KeyError, TypeError):
                faults.append(f"{_spell(place)}: no answer")
                continue
            if not isinstance(confidence, (int, float)):
                faults.append(f"{_spell(place)}: confidence is {confidence!r}")
                continue
            confidence = float(min(max(confidence, -MAX_FLOAT), MAX_FLOAT))  # whole numbers may be larger
            try:
                # The evaluator takes it apart even where the object is absent.
                found.append((place, confidence, item.target_mask, Rle.from_json(coded)))
            except MaskError as fault:
                faults.append(f"{_spell(place)}: {fault}")
    parse_together([answer for _, _, truth, answer in found if truth is not None])
    good = []
    for asked in found:
        place, _, truth, answer = asked
        try:
            if truth is not None:
                _check(answer, truth)
            good.append(asked)
        except MaskError as fault:
            faults.append(f"{_spell(place)}: {fault}")
    visible = [(truth, answer) for _, _, truth, answer in good if truth is not None]
    scores = iter(score_masks([truth for truth, _ in visible], [answer for _, answer in visible]))
    return [
        ScoredSample(*place, truth is not None, confidence, *((*next(scores), _area_share(truth)) if truth else ()))
        for place, confidence, truth, _ in good
    ]


def _check(answer: Rle, truth: Rle) -> None:
    """A MaskError says what the evaluator could not score."""
    hw = scored_hw(truth.hw)
    if answer.hw != hw:
        raise MaskError(f"a mask of {answer.hw[0]}x{answer.hw[1]}, not {hw[0]}x{hw[1]}")
    rle_to_runs(answer)


def _area_share(rle: Rle) -> float:
    return rle_area(rle) / (rle.hw[0] * rle.hw[1])


def _spell(place: Place) -> str:
    direction, uid, object_id, query, target, frame = place
    return f"{direction}, take {uid}, object {object_id!r}, {query} to {target}, frame {frame}"
