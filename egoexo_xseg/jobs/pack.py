"""From predictions to the challenge's submission: complete, or not at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from egoexo_xseg import __version__
from egoexo_xseg.data.annotations import Annotations, Take
from egoexo_xseg.data.foreign import ForeignAnswers
from egoexo_xseg.data.pairs import Required, required_keys
from egoexo_xseg.data.predictions import Key, lost_shards, predicted_directions, read_take_predictions
from egoexo_xseg.data.submission import Answers, SubmissionWriter
from egoexo_xseg.errors import SubmissionError
from egoexo_xseg.files import file_digest, written_whole
from egoexo_xseg.jobs.manifest import MANIFEST, read_manifest
from egoexo_xseg.masks import Rle, mask_to_rle, scored_hw
from egoexo_xseg.progress import track
from egoexo_xseg.records import Direction, Prediction

LISTED = 3
"""Examples in a message; of shards to be run again there are more."""


@dataclass
class PackSummary:
    """What went into the file, per direction; `missing` lists what was asked for and not predicted.

    `left_out` are directions and takes that the server wants and that this file does not have. `resized` and `judged`
    count another method's masks of another size, and its answers without a confidence.
    """

    path: Path
    packed: dict[str, int] = field(default_factory=dict)
    filled: int = 0
    extra: int = 0
    resized: int = 0
    judged: int = 0
    missing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, object]]:
        packed = [(f"predictions {direction}", count) for direction, count in self.packed.items()]
        rows = [*packed, ("filled in", self.filled), ("predicted but not asked for", self.extra)]
        foreign = [("masks resized", self.resized), ("confidence from the mask alone", self.judged)]
        return [*rows, *(row for row in foreign if row[1])]


def pack(
    predictions: Path | Sequence[Path],
    annotations: Annotations,
    out: Path,
    *,
    fill: str = "error",
    partial: bool = False,
) -> PackSummary:
    """Write the submission of all takes of `annotations`, every object, camera pair and query frame in it.

    What was not predicted is one error that lists it, unless `fill` says what stands in for it, with confidence 0:
    `center`, a pixel in the middle of the image, or `propagate`, the same object's mask of the nearest frame. Frames
    whose query mask cannot be used could not be predicted, and are filled in any case. `partial` allows a file that
    lacks a direction, or takes of the split that are not prepared. Instead of a folder, `predictions` may be files of
    another method (`ForeignAnswers`).
    """
    source = FolderAnswers(predictions) if isinstance(predictions, Path) else ForeignAnswers.read(predictions)
    found = source.directions
    absent = [direction.value for direction in Direction if direction not in found]
    if absent and not partial:
        remedy = f"{source.way_to(absent[0])}, or pack with --partial"
        raise SubmissionError(f"no predictions for {absent[0]}", where=source.where, remedy=remedy)
    if annotations.unprepared and not partial:
        count, names = len(annotations.unprepared), _listed(annotations.unprepared, ", ")
        remedy = "xseg prepare tells why; or give the split's JSON file as --data, and --fill; or pack with --partial"
        raise SubmissionError(
            f"{count} takes of the split are not prepared: {names}", where=annotations.source, remedy=remedy
        )
    summary = PackSummary(out, left_out=[*absent, *(f"take {uid}" for uid in annotations.unprepared)])
    origin = source.origin()
    demands = [
        Demand.of(annotations.load(uid), found)
        for uid in track(annotations.take_uids, "Reading takes", total=len(annotations))
    ]
    with written_whole(out) as file:
        writer = SubmissionWriter(file)
        for direction in found:
            writer.write_direction(direction, _iter_answers(source, demands, direction, fill, summary))
        writer.close()
        if summary.missing and fill == "error":
            raise SubmissionError(
                f"{len(summary.missing)} predictions are missing or unusable: {_listed(summary.missing, '; ')}",
                where=source.where,
                remedy=_remedy(source.lost_shards(annotations.take_uids)),
            )
    summary.resized, summary.judged = source.resized, source.judged
    with written_whole(out.with_suffix(".manifest.json")) as file:
        json.dump(_manifest(origin, summary, fill), file, indent=1)
    return summary


class FolderAnswers:
    """What `xseg predict` wrote, to be asked like `ForeignAnswers`; its masks have the scorer's size already."""

    resized = judged = 0

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = folder, str(folder)
        self.directions = predicted_directions(folder)

    def way_to(self, direction: str) -> str:
        """How another direction gets in."""
        return f"Run xseg predict --direction {direction}"

    def origin(self) -> dict[str, Any]:
        """The manifests by direction, for the submission's own."""
        return {each.value: read_manifest(self.folder / each.value / MANIFEST) or None for each in self.directions}

    def lost_shards(self, take_uids: Sequence[str]) -> list[tuple[Direction, str]]:
        return [(each, shard) for each in self.directions for shard in lost_shards(self.folder, each, take_uids)]

    def of_take(
        self, direction: Direction, take_uid: str, _required: Required, _scored_hw: Mapping[str, tuple[int, int]]
    ) -> dict[Key, Prediction]:
        return read_take_predictions(self.folder, direction, take_uid)

    def count(self, direction: Direction) -> int:
        """All its predictions of a direction, asked for or not."""
        total = 0
        for path in (self.folder / direction.value).glob("*.jsonl"):
            with path.open("rb") as lines:
                total += sum(1 for _ in lines)
        return total


def _remedy(lost: Sequence[tuple[Direction, str]]) -> str:
    if not lost:
        return "Predict them, or pack with --fill center or --fill propagate"
    again = [f"--direction {direction.value} --shard {shard}" for direction, shard in lost]
    return f"Run xseg predict again with {_listed(again, '; ', 16)}"


def _listed(places: Sequence[str], separator: str, most: int = LISTED) -> str:
    return separator.join([*places[:most], *["..."] * (len(places) > most)])


@contextmanager
def packed(sources: Sequence[Path], annotations: Annotations) -> Iterator[list[Path]]:
    """Submissions: files as they are, and of folders of predictions what they pack to, for as long as this lasts."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for index, source in enumerate(sources):
            out = Path(folder, f"{index}.json")
            files.append(pack(source, annotations, out, partial=True).path if source.is_dir() else source)
        yield files


@dataclass(frozen=True, slots=True)
class Demand:
    """What the server wants of a take, without the masks that it was read from."""

    take_uid: str
    required: dict[Direction, Required]
    usable: dict[tuple[str, str], frozenset[int]]
    """Frames with a query mask that can be used, by object and camera."""
    scored_hw: dict[str, tuple[int, int]]
    """By camera."""
    sampled_frames: tuple[int, ...]

    @classmethod
    def of(cls, take: Take, directions: Sequence[Direction]) -> Demand:
        return cls(
            take.take_uid,
            {direction: required_keys(take, direction) for direction in directions},
            {(name, camera): frozenset(own) for name, cameras in take.masks.items() for camera, own in cameras.items()},
            {camera: scored_hw(hw) for camera, hw in take.camera_hw.items()},
            take.sampled_frames,
        )


def _iter_answers(
    source: FolderAnswers | ForeignAnswers,
    demands: Sequence[Demand],
    direction: Direction,
    fill: str,
    summary: PackSummary,
) -> Iterator[tuple[str, Answers, list[int]]]:
    summary.packed[direction.value] = used = wanted = 0
    for demand in track(demands, f"Packing {direction.value}", total=len(demands)):
        uid = demand.take_uid
        predicted = source.of_take(direction, uid, demand.required[direction], demand.scored_hw)
        answers: dict[str, Any] = {}
        for object_id, pairs in demand.required[direction].items():
            answers[object_id] = {}
            for (query, target), frames in pairs.items():
                own = {frame: predicted.get((object_id, query, target, frame)) for frame in frames}
                hw = demand.scored_hw[target]
                holes = dict(_iter_holes(own, hw))
                used += sum(prediction is not None for prediction in own.values())
                wanted += len(own)
                summary.packed[direction.value] += len(own) - len(holes)
                summary.filled += len(holes)
                place = f"{direction.value}, take {uid}, object {object_id!r}, {query} to {target}"
                summary.missing += [
                    f"{place}, frame {frame}{problem}"
                    for frame, problem in holes.items()
                    if frame in demand.usable[object_id, query]
                ]
                answers[object_id][query, target] = _fill(own, holes, hw, fill)
        yield uid, answers, list(demand.sampled_frames)
    there = source.count(direction)
    summary.extra += there - used
    if wanted and there and not used:
        problem = f"none of the {there} {direction.value} answers is asked for"
        raise SubmissionError(problem, where=source.where, remedy="Another split's, or the wrong direction's?")


def _iter_holes(predictions: Mapping[int, Prediction | None], hw: tuple[int, int]) -> Iterator[tuple[int, str]]:
    """Frames without a prediction of the right size, and what is wrong with the one that is there."""
    for frame, prediction in predictions.items():
        if prediction is None:
            yield frame, ""
        elif prediction.mask.hw != hw:
            yield frame, f" (a mask of {'x'.join(map(str, prediction.mask.hw))}, not {hw[0]}x{hw[1]})"


def _fill(
    predictions: Mapping[int, Prediction | None], holes: Collection[int], hw: tuple[int, int], fill: str
) -> dict[int, tuple[Rle, float]]:
    """Mask and confidence for every frame."""
    whole = {frame: own for frame, own in predictions.items() if own is not None and frame not in holes}
    answers = {frame: (own.mask, own.visibility) for frame, own in whole.items()}
    for frame in holes:
        nearest = min(whole, key=lambda other: (abs(other - frame), other), default=None)
        answers[frame] = _center_pixel(hw) if fill == "center" or nearest is None else whole[nearest].mask, 0.0
    return dict(sorted(answers.items()))


def _center_pixel(hw: tuple[int, int]) -> Rle:
    """The least that is not nothing: an empty mask would be placed off the middle by the evaluator."""
    mask = np.zeros(hw, bool)
    mask[hw[0] // 2, hw[1] // 2] = True
    return mask_to_rle(mask)


def _manifest(origin: Any, summary: PackSummary, fill: str) -> dict[str, Any]:
    """What the submission was made of, by hash."""
    counts = {"packed": summary.packed, "filled": summary.filled, "extra": summary.extra}
    return {"xseg": __version__, "sha256": file_digest(summary.path), "fill": fill, **counts, "predictions": origin}
