"""The official evaluation, take by take, with tables that tell where the score comes from."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from egoexo_xseg.data.annotations import Annotations, Fault, UnreadTake
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.intervals import interval, total_and_draws
from egoexo_xseg.data.metrics import CONFIDENCE_THRESHOLD, balanced_accuracy, mean_recall
from egoexo_xseg.data.phrases import FALLBACK, names_colour
from egoexo_xseg.data.scoring import ScoredSample, score_take
from egoexo_xseg.data.submission import read_submission
from egoexo_xseg.errors import SubmissionError
from egoexo_xseg.files import written_whole
from egoexo_xseg.parallel import map_processes
from egoexo_xseg.progress import track
from egoexo_xseg.records import Direction

LISTED = 3

SIZES = (
    (0.001, "< 0.1%"),
    (0.0025, "0.1-0.25%"),
    (0.005, "0.25-0.5%"),
    (0.01, "0.5-1%"),
    (0.05, "1-5%"),
    (1.0, "> 5%"),
)
"""Upper bounds of the groups by the object's share of the image."""

WORDS = ("1", "2", "3", "4 or more")


WORTH_SPREADING = 1 << 22
"""Bytes of submissions; fewer are scored before another process would have started."""


@dataclass(frozen=True)
class Scores:
    """A direction's official scores (means over visible samples; visibility over all annotated ones)."""

    iou: float
    location_error: float
    contour_accuracy: float
    visibility_balanced_accuracy: float
    existence_accuracy: float
    samples: int

    def to_json(self) -> dict[str, float | int | None]:
        """By name; what is undefined (no absent object, none visible) is None."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: None if value != value else value for name, value in values.items()}


@dataclass(frozen=True)
class GroupRow:
    """Mean IoU of a group, with its 95% bootstrap interval over takes."""

    name: str
    samples: int
    iou: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """Every sample's scores, and what they come to."""

    samples: dict[Direction, list[ScoredSample]]

    @property
    def scores(self) -> dict[Direction, Scores]:
        return {direction: summarise(samples) for direction, samples in self.samples.items()}

    def to_json(self) -> dict[str, dict[str, float | int | None]]:
        return {direction.value: scores.to_json() for direction, scores in self.scores.items()}

    def tables(self, direction: Direction, captions: Captions | None = None) -> dict[str, list[GroupRow]]:
        """IoU of visible objects by their size, by take, by camera, and by what is said of them."""
        samples = [sample for sample in self.samples[direction] if sample.visible]
        tables = {
            "object size": group(samples, lambda sample: size_name(sample.area_share), [name for _, name in SIZES]),
            "take": group(samples, lambda sample: sample.take_uid),
            "target camera": group(samples, lambda sample: sample.target_camera),
        }
        return tables | (_caption_tables(samples, captions) if captions is not None else {})


def evaluate(
    submissions: Sequence[Path],
    annotations: Annotations,
    *,
    workers: int | None = None,
    names: Sequence[Path] | None = None,
) -> Evaluation:
    """Score submissions, each of one direction or both, against annotations with target masks.

    Equal to the official evaluator, whatever the number of processes. Takes that the annotations lack are ignored;
    an answer that is missing or unusable where one is scored is an error that lists the first of them. `names` are what
    errors call the submissions, where these are temporary files.
    """
    results: dict[Direction, Mapping[str, Any]] = {}
    names = names or submissions
    for path, name in zip(submissions, names, strict=True):
        for direction, takes in read_submission(path).items():
            if direction in results:
                raise SubmissionError(f"a second file with {direction.challenge_key} results", where=name)
            results[direction] = takes
    jobs = (
        (annotations.unread(uid), {direction: takes.get(uid) for direction, takes in results.items()})
        for uid in annotations.take_uids
    )
    if sum(path.stat().st_size for path in submissions) < WORTH_SPREADING:
        workers = 1
    samples: dict[Direction, list[ScoredSample]] = {direction: [] for direction in results}
    faults: list[str] = []
    for take in track(map_processes(_score_take, jobs, workers), "Evaluating takes", total=len(annotations)):
        annotations.note(take.skipped)
        faults += take.faults
        for direction, own in take.samples.items():
            samples[direction] += own
    if faults:
        shown = "; ".join(faults[:LISTED]) + ("; ..." if len(faults) > LISTED else "")
        where = ", ".join(map(str, names))
        raise SubmissionError(
            f"{len(faults)} answers cannot be scored: {shown}", where=where, remedy="See xseg validate"
        )
    if not any(samples.values()):
        raise SubmissionError(
            "no annotated target frames to score", where=annotations.source, remedy="Are its target masks hidden?"
        )
    return Evaluation(samples)


@dataclass(frozen=True)
class _Scored:
    """One take's samples, answers that cannot be scored, and masks of the annotations that were skipped."""

    samples: dict[Direction, list[ScoredSample]]
    faults: list[str]
    skipped: list[Fault]


def _score_take(job: tuple[UnreadTake, dict[Direction, Any]]) -> _Scored:
    unread, results = job
    take, skipped = unread.read()
    faults: list[str] = []
    samples = {direction: score_take(take, direction, entry, faults) for direction, entry in results.items()}
    return _Scored(samples, faults, skipped)


def summarise(samples: Sequence[ScoredSample]) -> Scores:
    """Micro-averages: every object, camera pair and frame counts once."""
    seen = [sample for sample in samples if sample.visible]

    def mean(name: str) -> float:
        return float(np.mean([getattr(sample, name) for sample in seen])) if seen else float("nan")

    predicted = [sample.confidence > CONFIDENCE_THRESHOLD for sample in samples]
    return Scores(
        iou=mean("iou"),
        location_error=mean("location_error"),
        contour_accuracy=mean("contour_accuracy"),
        visibility_balanced_accuracy=balanced_accuracy([sample.visible for sample in samples], predicted),
        existence_accuracy=mean("existence"),
        samples=len(samples),
    )


def group(
    samples: Sequence[ScoredSample], name_of: Callable[[ScoredSample], str], order: Sequence[str] | None = None
) -> list[GroupRow]:
    """Mean IoU by group, in the given order or by name."""
    groups: dict[str, list[ScoredSample]] = {}
    for sample in samples:
        groups.setdefault(name_of(sample), []).append(sample)
    names = [name for name in order if name in groups] if order else sorted(groups)
    return [_row(name, groups[name]) for name in names]


def _row(name: str, samples: Sequence[ScoredSample]) -> GroupRow:
    takes: dict[str, list[float]] = {}
    for sample in samples:
        takes.setdefault(sample.take_uid, []).append(sample.iou or 0.0)
    sums = np.array([(sum(values), len(values)) for values in takes.values()])  # (T, 2)
    totals = total_and_draws(sums)
    return GroupRow(name, len(samples), *interval(totals[:, 0] / totals[:, 1]))


def by_take(samples: Sequence[ScoredSample]) -> dict[str, Float[np.ndarray, "8"]]:
    """What the scores of any set of takes follow from: sums over visible samples, and counts of right answers.

    In this order: IoU, location error, contour accuracy, existence; visible samples, and those said to be; absent
    ones, and those said to be.
    """
    sums: dict[str, Float[np.ndarray, "8"]] = {}
    for sample in samples:
        said = sample.confidence > CONFIDENCE_THRESHOLD
        means = (sample.iou, sample.location_error, sample.contour_accuracy, sample.existence)
        counts = (sample.visible, sample.visible and said, not sample.visible, not sample.visible and not said)
        row = np.array([*(value or 0.0 for value in means), *counts], np.float64)
        sums[sample.take_uid] = sums[sample.take_uid] + row if sample.take_uid in sums else row
    return sums


def scores_of_sums(sums: Float[np.ndarray, "R 8"]) -> dict[str, Float[np.ndarray, " R"]]:
    """The official scores of rows as `by_take` makes them, or of sums of such rows; what is undefined is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (sums[:, :4] / sums[:, 4:5]).T
        balanced = mean_recall(sums[:, [5, 7]] / sums[:, [4, 6]])
    names = ("iou", "location_error", "contour_accuracy", "existence_accuracy")
    return dict(zip(names, means, strict=True)) | {"visibility_balanced_accuracy": balanced}


def _caption_tables(samples: Sequence[ScoredSample], captions: Captions) -> dict[str, list[GroupRow]]:
    """By properties of the caption that an object has in its query view."""
    owners: dict[tuple[str, str, str], set[str]] = {}
    for (take_uid, object_id, camera, _), text in captions.items():
        owners.setdefault((take_uid, camera, text), set()).add(object_id)

    def by(name_of: Callable[[ScoredSample, str], str], *names: str) -> list[GroupRow]:
        def name(sample: ScoredSample) -> str:
            text = captions.of(sample.take_uid, sample.object_id, sample.query_camera, sample.frame)
            return "no caption" if text is None else name_of(sample, text)

        return group(samples, name, [*names, "no caption"])

    def is_shared(sample: ScoredSample, text: str) -> bool:
        return bool(owners[sample.take_uid, sample.query_camera, text] - {sample.object_id})

    return {
        "words of the caption": by(lambda _, text: WORDS[min(len(text.split()), len(WORDS)) - 1], *WORDS),
        "colour in the caption": by(
            lambda _, text: "a colour" if names_colour(text) else "no colour", "a colour", "no colour"
        ),
        "caption among the take's objects": by(
            lambda sample, text: "shared" if is_shared(sample, text) else "unique", "unique", "shared"
        ),
        "what the caption names": by(
            lambda _, text: "nothing (fallback)" if text == FALLBACK else "something", "something", "nothing (fallback)"
        ),
    }


def size_name(share: float | None) -> str:
    return next(name for bound, name in SIZES if share is not None and share <= bound)


def write_samples(evaluation: Evaluation, path: Path) -> None:
    """One row of CSV per sample."""
    with written_whole(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(entry.name for entry in fields(ScoredSample))
        for samples in evaluation.samples.values():
            for sample in samples:
                row = (getattr(sample, entry.name) for entry in fields(ScoredSample))
                writer.writerow(int(value) if isinstance(value, bool) else value for value in row)


def write_scores(evaluation: Evaluation, path: Path) -> None:
    """The scores by direction as JSON."""
    with written_whole(path) as file:
        file.write(json.dumps(evaluation.to_json(), indent=1) + "\n")
