"""One page that shows how good answers are, where, and what they look like; it opens from disk, without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from egoexo_xseg import __version__
from egoexo_xseg.data.annotations import Annotations
from egoexo_xseg.data.intervals import interval, total_and_draws
from egoexo_xseg.data.metrics import CONFIDENCE_THRESHOLD
from egoexo_xseg.data.scoring import ScoredSample
from egoexo_xseg.data.submission import read_submission
from egoexo_xseg.jobs.evaluate import SIZES, by_take, evaluate, group, scores_of_sums, size_name
from egoexo_xseg.jobs.pack import packed
from egoexo_xseg.jobs.page import write_page
from egoexo_xseg.jobs.published import PUBLISHED, TEST_TAKES
from egoexo_xseg.jobs.tiles import Results, Spot, describe, draw_tiles, has_frames
from egoexo_xseg.records import Direction

PICTURES = 6
"""Of each gallery and direction."""

FILMS, FILM_FRAMES = 3, 12

ALBUM = 24
"""Takes whose middling answers are drawn, in even steps over all takes: a picture of everything would fill the disk."""

BINS = 10
"""Of the reliability curve."""

WRONG_IOU = 0.1
"""An answer below is somewhere else."""

Interval = tuple[float, float, float]
"""A value, and what 95% of its redraws lie within."""


@dataclass(frozen=True)
class Gallery:
    """Some answers with a common name: `rows` are places in the list of samples."""

    name: str
    words: str
    rows: list[int]


def report(source: Path, annotations: Annotations, out: Path, workers: int | None = None) -> Path:
    """Write `out/index.html` from a predictions folder or a submission; returns its path.

    Pictures are drawn where `annotations` are prepared takes. Raises what evaluating the answers raises.
    """
    with packed([source], annotations) as (answered,):
        return _report(source, answered, annotations, out, workers)


def _report(source: Path, answered: Path, annotations: Annotations, out: Path, workers: int | None) -> Path:
    samples = {key: own for key, own in evaluate([answered], annotations, workers=workers).samples.items() if own}
    takes = {uid: describe(annotations.unread(uid)) for uid in annotations.take_uids}
    page: dict[str, Any] = {
        "title": source.resolve().name,
        "version": __version__,
        "annotations": str(annotations.source),
        "published": PUBLISHED,
        "comparable": len(takes) == TEST_TAKES,
        "takes": list(takes.values()),
        "directions": [_direction(direction, own, takes) for direction, own in samples.items()],
        "galleries": [],
        "films": [],
        "album": 0,
    }
    tiles: dict[str, Any] = {}
    if has_frames(annotations):
        results, album = read_submission(answered), choose_album(annotations.take_uids)
        page["album"] = len(album)
        page["films"] = _draw_films(samples, results, annotations, workers)
        wanted: dict[str, Spot] = {}
        for direction, own in samples.items():
            galleries = choose_galleries(own)
            page["galleries"] += [{"direction": direction.value, **asdict(gallery)} for gallery in galleries]
            rows = [*(row for gallery in galleries for row in gallery.rows), *_middling(own, album)]
            wanted |= {f"{direction.value} {row}": Spot.of(own[row]) for row in rows}
        drawn = draw_tiles(wanted.values(), [results], annotations, workers)
        tiles = {key: drawn[spot] for key, spot in wanted.items() if spot in drawn}
    return write_page("report", out / "index.html", page, tiles)


def _direction(
    direction: Direction, samples: Sequence[ScoredSample], takes: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """Everything about a direction but its pictures."""
    seen = [sample for sample in samples if sample.visible]
    sizes = [name for _, name in SIZES]
    groups = {
        "object size, share of the image": group(seen, lambda sample: size_name(sample.area_share), sizes),
        "scenario": group(seen, lambda sample: takes[sample.take_uid][1] or "unknown"),
        "target camera": group(seen, lambda sample: sample.target_camera),
    }
    missed: dict[str, list[bool]] = {}
    for sample in seen:
        missed.setdefault(size_name(sample.area_share), []).append(sample.confidence <= CONFIDENCE_THRESHOLD)
    return {
        "name": direction.value,
        "samples": len(samples),
        "visible": len(seen),
        "scores": score_intervals(samples),
        "groups": [
            {"name": name, "rows": [[row.name, row.samples, row.iou, row.low, row.high] for row in rows]}
            for name, rows in groups.items()
        ],
        "reliability": reliability(samples),
        "confusion": [
            sum(sample.visible is visible and (sample.confidence > CONFIDENCE_THRESHOLD) is said for sample in samples)
            for visible, said in ((True, True), (True, False), (False, True), (False, False))
        ],
        "errors": error_rates(samples),
        "missed": [
            [name, len(missed[name]), sum(missed[name]) / len(missed[name])] for name in sizes if name in missed
        ],
        "records": _columns(samples, list(takes)),
    }  # fmt: skip


def score_intervals(samples: Sequence[ScoredSample]) -> dict[str, Interval | None]:
    """Each official score with the interval that holds 95% of it when takes are drawn anew; None if undefined."""
    table = np.stack(list(by_take(samples).values()))  # (T, 8)
    return {name: _known(interval(column)) for name, column in scores_of_sums(total_and_draws(table)).items()}


def error_rates(samples: Sequence[ScoredSample]) -> dict[str, Interval | None]:
    """How many of the visible objects are said to be absent, and of the absent ones to be visible, with intervals."""
    table = np.stack(list(by_take(samples).values()))  # (T, 8)
    sums = total_and_draws(table)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "false_absent": _known(interval(1 - sums[:, 5] / sums[:, 4])),
            "false_visible": _known(interval(1 - sums[:, 7] / sums[:, 6])),
        }


def _known(found: Interval) -> Interval | None:
    return None if np.isnan(found[0]) else found


def reliability(samples: Sequence[ScoredSample]) -> list[tuple[int, float, float]]:
    """Of each tenth of the confidence that occurs: how many, their mean, and the share that is visible."""
    confidence = np.array([_probability(sample) for sample in samples])
    visible = np.array([sample.visible for sample in samples])
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        (int(own.sum()), float(confidence[own].mean()), float(visible[own].mean()))
        for own in (bins == number for number in range(BINS))
        if own.any()
    ]


def _probability(sample: ScoredSample) -> float:
    """The confidence within 0 and 1; what is no number is not above the evaluator's threshold."""
    return 0.0 if isnan(sample.confidence) else min(max(sample.confidence, 0.0), 1.0)


def _thousandths(sample: ScoredSample) -> int:
    """The confidence as the page has it: no rounding brings it to the other side of the threshold."""
    least = round(1000 * CONFIDENCE_THRESHOLD) + 1 if sample.confidence > CONFIDENCE_THRESHOLD else 0
    return max(least, round(1000 * _probability(sample)))


def _columns(samples: Sequence[ScoredSample], uids: Sequence[str]) -> dict[str, list[Any]]:
    """Records for the browser, a list a column: names are numbers into a table, scores are thousandths."""
    names: dict[str, int] = {}

    def number(name: str) -> int:
        return names.setdefault(name, len(names))

    place = {uid: index for index, uid in enumerate(uids)}
    rows = [
        (
            place[sample.take_uid],
            number(sample.object_id),
            number(f"{sample.query_camera} to {sample.target_camera}"),
            sample.frame,
            -1 if sample.iou is None else round(1000 * sample.iou),
            _thousandths(sample),
        )
        for sample in samples
    ]
    keys = ("take", "object", "cameras", "frame", "iou", "confidence")
    return {
        "names": list(names),
        **{key: list(column) for key, column in zip(keys, zip(*rows, strict=True), strict=True)},
    }


# Pictures


def choose_galleries(samples: Sequence[ScoredSample]) -> list[Gallery]:
    """Which answers are worth a look; in each gallery at most two of a take, and an object once."""
    seen = [row for row, sample in enumerate(samples) if sample.iou is not None]
    by_iou = sorted(seen, key=lambda row: (-(samples[row].iou or 0.0), samples[row].area_share))
    middle = len(by_iou) // 2
    around = [by_iou[index] for index in sorted(range(len(by_iou)), key=lambda index: abs(index - middle))]
    sure = sorted(
        (row for row, sample in enumerate(samples) if sample.confidence > CONFIDENCE_THRESHOLD),
        key=lambda row: -samples[row].confidence,
    )
    wrong = [row for row in sure if (samples[row].iou or 0.0) < WRONG_IOU]
    claimed = [row for row in sure if not samples[row].visible]
    missed = sorted(
        (row for row in seen if samples[row].confidence <= CONFIDENCE_THRESHOLD),
        key=lambda row: samples[row].confidence,
    )
    small = sorted(seen, key=lambda row: samples[row].area_share or 0.0)
    chosen = {
        "Best": ("the highest IoU", by_iou),
        "Median": ("half of all answers are better, half are worse", around),
        "Worst": ("the lowest IoU, the largest objects first", by_iou[::-1]),
        "Sure and wrong": ("the highest confidence in an object that is elsewhere, or hidden", wrong),
        "False visible": ("the highest confidence in an object that is hidden", claimed),
        "False absent": ("the lowest confidence in an object that is there", missed),
        "Smallest": ("the objects that cover the least of the target", small),
    }
    return [Gallery(name, words, _varied(samples, rows)) for name, (words, rows) in chosen.items()]


def _varied(samples: Sequence[ScoredSample], rows: Sequence[int], each: int = 2) -> list[int]:
    chosen: list[int] = []
    takes: dict[str, set[str]] = {}
    for row in rows:
        own = takes.setdefault(samples[row].take_uid, set())
        if len(own) < each and samples[row].object_id not in own:
            own.add(samples[row].object_id)
            chosen.append(row)
        if len(chosen) == PICTURES:
            break
    return chosen


def choose_album(take_uids: Sequence[str]) -> set[str]:
    """At most `ALBUM` takes, in even steps."""
    count = min(ALBUM, len(take_uids))
    return {take_uids[index * len(take_uids) // count] for index in range(count)}


def _middling(samples: Sequence[ScoredSample], takes: Iterable[str]) -> list[int]:
    """Of each of the takes the visible object of median IoU."""
    own: dict[str, list[int]] = {uid: [] for uid in takes}
    for row, sample in enumerate(samples):
        if sample.take_uid in own and sample.visible:
            own[sample.take_uid].append(row)
    return [sorted(rows, key=lambda row: samples[row].iou or 0.0)[len(rows) // 2] for rows in own.values() if rows]


def choose_films(samples: Sequence[ScoredSample]) -> list[list[int]]:
    """Objects over time, at most one of a take: of those that are seen most the ones whose IoU changes most."""
    tracks: dict[tuple[str, str, str, str], list[int]] = {}
    for row, sample in enumerate(samples):
        if sample.visible:
            key = (sample.take_uid, sample.object_id, sample.query_camera, sample.target_camera)
            tracks.setdefault(key, []).append(row)

    def worth(key: tuple[str, str, str, str]) -> tuple[int, float]:
        ious = [samples[row].iou or 0.0 for row in tracks[key]]
        return min(len(ious), FILM_FRAMES), float(np.std(ious))

    best: dict[str, tuple[str, str, str, str]] = {}
    for key in sorted(tracks, key=worth, reverse=True):
        best.setdefault(key[0], key)
    films = [sorted(tracks[key], key=lambda row: samples[row].frame) for key in list(best.values())[:FILMS]]
    return [rows[:: -(-len(rows) // FILM_FRAMES)] for rows in films]


def _draw_films(
    samples: Mapping[Direction, Sequence[ScoredSample]], results: Results, annotations: Annotations, workers: int | None
) -> list[dict[str, Any]]:
    films = [(direction, rows) for direction, own in samples.items() for rows in choose_films(own)]
    spots = [[Spot.of(samples[direction][row]) for row in rows] for direction, rows in films]
    drawn = draw_tiles([spot for own in spots for spot in own], [results], annotations, workers, film=True)
    return [
        {"direction": direction.value, "rows": rows, "frames": [drawn.get(spot) for spot in own]}
        for (direction, rows), own in zip(films, spots, strict=True)
    ]
