"""Which records are worth a look, and their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoexo_xseg.data.annotations import Annotations, Take
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.metrics import score_masks
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.predictions import predicted_directions, read_take_predictions
from egoexo_xseg.data.submission import pair_key, read_submission
from egoexo_xseg.errors import MaskError, XsegError
from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.pictures import Answer, Shown, draw_record
from egoexo_xseg.masks import Rle, rle_to_runs
from egoexo_xseg.progress import track
from egoexo_xseg.records import Direction, Pair

Answers = Mapping[tuple[str, str, str, int], Answer]
"""By object, query camera, target camera and frame."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record is, and how well it was answered: all that has to be remembered of each to choose some."""

    direction: Direction
    take_uid: str
    query_camera: str
    target_camera: str
    frame: int
    iou: float | None  # the mean over visible objects; None if none is

    @classmethod
    def of(cls, record: Shown) -> Place:
        pair = record.pair
        return cls(record.direction, pair.take_uid, pair.query_camera, pair.target_camera, pair.frame, record.iou)


class Answerer:
    """Answers of a predictions folder or a submission, take by take."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._results = None if source.is_dir() else read_submission(source)
        self.directions = predicted_directions(source) if self._results is None else list(self._results)

    def of_take(self, take: Take, direction: Direction) -> Answers:
        if self._results is None:
            found = read_take_predictions(self.source, direction, take.take_uid)
            return {key: (prediction.mask, prediction.visibility) for key, prediction in found.items()}
        answers = {}
        entry = self._results[direction].get(take.take_uid)
        for pair in iter_pairs(take, direction):
            for item in pair.objects:
                key = (item.object_id, pair.query_camera, pair.target_camera, pair.frame)
                answer = read_answer(entry, key)
                if answer:
                    answers[key] = answer
        return answers


def read_answer(entry: Any, key: tuple[str, str, str, int]) -> Answer | None:
    """What a submission says, if it is usable; `xseg validate` is the place to complain."""
    object_id, query, target, frame = key
    try:
        answer = entry["masks"][object_id][pair_key(query, target)][str(frame)]
        rle, confidence = Rle.from_json(answer["pred_mask"]), float(answer["confidence"])
        rle_to_runs(rle)
    except (KeyError, TypeError, ValueError, OverflowError, MaskError):
        return None
    return rle, confidence


def iter_shown(source: Answerer, take: Take, captions: Captions | None = None) -> Iterator[Shown]:
    """Every record of a take that has an answer, scored where the truth is known."""
    for direction in source.directions:
        answers = source.of_take(take, direction)
        for pair in iter_pairs(take, direction, captions):
            cameras = pair.query_camera, pair.target_camera
            own = {
                item.object_id: answers[key]
                for item in pair.objects
                if (key := (item.object_id, *cameras, pair.frame)) in answers
            }
            if own:
                yield Shown(direction, take, pair, own, _ious(pair, own))


def _ious(pair: Pair, answers: Mapping[str, Answer]) -> dict[str, float]:
    truths = {
        item.object_id: item.target_mask
        for item in pair.objects
        if item.target_mask is not None and item.object_id in answers
    }
    scores = score_masks(list(truths.values()), [answers[object_id][0] for object_id in truths])
    return {object_id: own.iou for object_id, own in zip(truths, scores, strict=True)}


def choose(source: Answerer, annotations: Annotations, count: int, which: str, frame: int | None = None) -> list[Place]:
    """`count` records, of one `frame` or any: the `best`, the `worst`, or evenly `spread` over all, by mean IoU.

    Those without a visible object, or whose truth is hidden, come last.
    """
    places = [
        Place.of(record)
        for take in track(annotations, "Looking at takes", total=len(annotations))
        for record in iter_shown(source, take)
        if frame is None or record.pair.frame == frame
    ]
    scored = sorted((place for place in places if place.iou is not None), key=lambda place: -(place.iou or 0.0))
    others = [place for place in places if place.iou is None]
    if which == "spread" and len(scored or others) > count:
        ranked = scored or others
        return [ranked[round(index * (len(ranked) - 1) / max(1, count - 1))] for index in range(count)]
    return [*(scored[::-1] if which == "worst" else scored), *others][:count]


def load_shown(
    places: Sequence[Place], source: Answerer, annotations: Annotations, captions: Captions | None = None
) -> list[Shown]:
    """The records of chosen places, in their order; each take is read once."""
    found = {
        place: record
        for uid in dict.fromkeys(place.take_uid for place in places)
        for record in iter_shown(source, annotations.load(uid), captions)
        if (place := Place.of(record)) in places
    }
    return [found[place] for place in places]


def show(records: Sequence[Shown], out: Path) -> list[Path]:
    """Draw records into numbered PNG files; names of objects stay out of paths."""
    if not records:
        raise XsegError("nothing to draw", remedy="No record has an answer, or none is of that take and frame")
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, record in enumerate(track(records, "Drawing"), 1):
        path = out / f"{number:03d}-{record.direction.value}-{record.take.take_uid}-{record.pair.frame}.png"
        drawn = draw_record(record)
        with written_whole(path, "wb") as file:
            drawn.save(file, "png")
        paths.append(path)
    return paths
