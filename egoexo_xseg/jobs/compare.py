"""Two methods on the same takes: what differs, how surely, and for which objects most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from egoexo_xseg import __version__
from egoexo_xseg.data.annotations import Annotations
from egoexo_xseg.data.intervals import interval, total_and_draws
from egoexo_xseg.data.scoring import ScoredSample
from egoexo_xseg.data.submission import read_submission
from egoexo_xseg.errors import SubmissionError
from egoexo_xseg.jobs.evaluate import by_take, evaluate, scores_of_sums
from egoexo_xseg.jobs.pack import packed
from egoexo_xseg.jobs.page import write_page
from egoexo_xseg.jobs.tiles import Results, Spot, describe, draw_tiles, has_frames
from egoexo_xseg.records import Direction

PICTURES = 6
"""Objects drawn of those that got better, and of those that got worse, in each direction."""

LISTED = 100
"""The same, of those that the page lists."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A score of both methods; 95% of the second's lead lies within `low` and `high` when takes are drawn anew."""

    name: str
    first: float
    second: float
    low: float
    high: float

    @property
    def lead(self) -> float:
        return self.second - self.first

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Change:
    """An object of a take: its mean IoU over all camera pairs and frames in which it is visible.

    `spot` is where it changed most in the direction of its mean, from one IoU to the other of `ious`.
    """

    take_uid: str
    object_id: str
    samples: int
    first: float
    second: float
    spot: Spot
    ious: tuple[float, float]

    @property
    def lead(self) -> float:
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class TakeChange:
    """A take's mean IoU over visible objects; 95% of the lead is within `interval` when its objects are drawn anew.

    A single object has nothing to be drawn from: there is no interval then.
    """

    take_uid: str
    samples: int
    first: float
    second: float
    interval: tuple[float, float] | None

    @property
    def lead(self) -> float:
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """One direction; `changes` and `takes` from the largest gain to the largest loss."""

    direction: Direction
    samples: int
    differences: list[Difference]
    changes: list[Change]
    takes: list[TakeChange]


def compare(
    first: Path, second: Path, annotations: Annotations, *, out: Path | None = None, workers: int | None = None
) -> list[Comparison]:
    """Score two submissions, or folders of predictions, and pair their samples.

    Writes the page `out/index.html` too, with pictures where `annotations` are prepared takes. Raises a
    SubmissionError where the two share no direction that can be scored.
    """
    with packed([first, second], annotations) as answered:
        evaluations = [evaluate([path], annotations, workers=workers) for path in answered]
        shared = [way for way, own in evaluations[0].samples.items() if own and way in evaluations[1].samples]
        if not shared:
            raise SubmissionError("the two share no direction that can be scored", where=f"{first}, {second}")
        found = [compare_samples(way, *(each.samples[way] for each in evaluations)) for way in shared]
        if out is not None:
            methods = [read_submission(path) for path in answered]
            _write_page(found, _names(first, second), methods, annotations, out, workers)
    return found


def compare_samples(direction: Direction, first: Sequence[ScoredSample], second: Sequence[ScoredSample]) -> Comparison:
    """Both methods' samples of the same annotations, in the same order."""
    sums = [by_take(samples) for samples in (first, second)]
    tables = [np.stack([own[uid] for uid in sums[0]]) for own in sums]  # 2 x (T, 8)
    before, after = (scores_of_sums(total_and_draws(table)) for table in tables)  # the same takes for both
    differences = []
    for name in before:
        pair = float(before[name][0]), float(after[name][0])
        if not np.isnan(pair).any():
            differences.append(Difference(name, *pair, *interval(after[name] - before[name])[1:]))
    return Comparison(direction, len(first), differences, _changes(first, second), _take_changes(first, second))


def _changes(first: Sequence[ScoredSample], second: Sequence[ScoredSample]) -> list[Change]:
    objects: dict[tuple[str, str], list[tuple[ScoredSample, float, float]]] = {}
    for one, other in zip(first, second, strict=True):
        if one.iou is not None and other.iou is not None:
            objects.setdefault((one.take_uid, one.object_id), []).append((one, one.iou, other.iou))
    changes = []
    for key, rows in objects.items():
        before, after = (float(np.mean([row[column] for row in rows])) for column in (1, 2))
        sign = 1 if after >= before else -1
        _, place = max((sign * (row[2] - row[1]), -place) for place, row in enumerate(rows))
        sample, *ious = rows[-place]
        changes.append(Change(*key, len(rows), before, after, Spot.of(sample), (ious[0], ious[1])))
    return sorted(changes, key=lambda change: -change.lead)


def _take_changes(first: Sequence[ScoredSample], second: Sequence[ScoredSample]) -> list[TakeChange]:
    takes: dict[str, dict[str, Float[np.ndarray, "3"]]] = {}
    for one, other in zip(first, second, strict=True):
        if one.iou is not None and other.iou is not None:
            objects = takes.setdefault(one.take_uid, {})
            row = np.array([one.iou, other.iou, 1.0])
            objects[one.object_id] = objects[one.object_id] + row if one.object_id in objects else row
    found = []
    for uid, objects in takes.items():
        table = np.stack(list(objects.values()))  # (objects, 3)
        before, after, count = table.sum(0)
        bounds = None
        if len(table) > 1:
            drawn = total_and_draws(table)  # of a take, its objects
            bounds = interval((drawn[:, 1] - drawn[:, 0]) / drawn[:, 2])[1:]
        found.append(TakeChange(uid, int(count), float(before / count), float(after / count), bounds))
    return sorted(found, key=lambda take: -take.lead)


def _write_page(
    found: Sequence[Comparison],
    labels: Sequence[str],
    methods: Sequence[Results],
    annotations: Annotations,
    out: Path,
    workers: int | None,
) -> None:
    names = {uid: describe(annotations.unread(uid))[0] for uid in annotations.take_uids}
    chosen = {each.direction: _most_changed(each.changes, PICTURES) for each in found}
    wanted = {_key(change.spot): change.spot for own in chosen.values() for changes in own for change in changes}
    tiles: dict[str, Any] = {}
    if has_frames(annotations):
        drawn = draw_tiles(wanted.values(), methods, annotations, workers)
        tiles = {key: drawn[spot] for key, spot in wanted.items() if spot in drawn}
    page = {
        "names": labels,
        "version": __version__,
        "annotations": str(annotations.source),
        "directions": [_page(each, chosen[each.direction], names) for each in found],
        "drawn": bool(tiles),
    }
    write_page("compare", out / "index.html", page, tiles)


def _most_changed(changes: Sequence[Change], count: int) -> tuple[list[Change], list[Change]]:
    """Those that gained and those that lost most, as far as they gained or lost at all."""
    better, worse = ([change for change in changes if sign * change.lead > 0] for sign in (1, -1))
    return better[:count], worse[::-1][:count]


def _names(first: Path, second: Path) -> list[str]:
    """What to call the two: by file or folder, and by where it lies where those are called alike."""
    paths = [path.resolve() for path in (first, second)]
    if paths[0].name == paths[1].name:
        return [f"{path.parent.name}/{path.name}" for path in paths]
    return [path.name if path.is_dir() else path.stem for path in paths]


def _key(spot: Spot) -> str:
    return " ".join(
        (spot.direction.value, spot.take_uid, spot.query_camera, spot.target_camera, str(spot.frame), spot.object_id)
    )


def _page(found: Comparison, drawn: tuple[list[Change], list[Change]], names: Mapping[str, str]) -> dict[str, Any]:
    """Everything about a direction but its pictures."""

    def row(change: Change) -> dict[str, Any]:
        spot = change.spot
        return {
            "object": change.object_id,
            "take": names[change.take_uid],
            "place": f"{spot.query_camera} to {spot.target_camera}, frame {spot.frame}",
            "samples": change.samples,
            "ious": [change.first, change.second],
            "shown": change.ious,
            "key": _key(spot),
        }

    return {
        "name": found.direction.value,
        "samples": found.samples,
        "differences": [
            {"name": each.name, "values": [each.first, each.second], "interval": [each.low, each.high],
             "sure": each.is_sure}
            for each in found.differences
        ],
        "takes": [
            {"name": names[each.take_uid], "samples": each.samples, "values": [each.first, each.second],
             "interval": each.interval}
            for each in found.takes
        ],
        "pictures": [[row(change) for change in changes] for changes in drawn],
        "changes": [[row(change) for change in changes] for changes in _most_changed(found.changes, LISTED)],
        "counts": [sum(sign * change.lead > 0 for change in found.changes) for sign in (1, -1)] + [len(found.changes)],
    }  # fmt: skip
