"""One page that shows how good answers are, where, and what they look like; it opens from disk, without a network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from egoexo_xseg import __version__
from egoexo_xseg.data.annotations import Annotations, Take
from egoexo_xseg.data.metrics import CONFIDENCE_THRESHOLD
from egoexo_xseg.data.submission import written_whole
from egoexo_xseg.jobs.evaluate import (
    SIZES,
    ScoredSample,
    by_take,
    evaluate,
    group,
    resample,
    scores_of_sums,
    size_name,
)
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.jobs.pictures import Shown, draw_film, draw_record
from egoexo_xseg.jobs.published import PUBLISHED, TEST_TAKES
from egoexo_xseg.jobs.show import Answerer, Place, iter_shown, load_shown
from egoexo_xseg.progress import track
from egoexo_xseg.records import Direction

PAGE = Path(__file__).with_name("report.html")
PLACEHOLDER = "/*DATA*/"

PICTURES, PICTURE_WIDTH = 6, 1300
"""Of each gallery and direction, and their pixels."""

FILMS, FILM_FRAMES = 3, 8

BINS = 10
"""Of the reliability curve."""

WRONG_IOU = 0.1
"""An answer below is somewhere else."""


@dataclass(frozen=True)
class Gallery:
    """Some records with a common name."""

    name: str
    words: str
    places: list[Place]


def report(source: Path, annotations: Annotations, out: Path, workers: int | None = None) -> Path:
    """Write `out/index.html` from a predictions folder or a submission; returns its path.

    Pictures are drawn where `annotations` are prepared takes. Raises what evaluating the answers raises.
    """
    answered = source
    if source.is_dir():
        answered = out / "submission.json"
        pack(source, annotations, answered, partial=True)
    evaluation = evaluate([answered], annotations, workers=workers)
    takes = {take.take_uid: take for take in track(annotations, "Reading takes", total=len(annotations))}
    page = {
        "title": f"{source.resolve().name}",
        "version": __version__,
        "annotations": f"{annotations.source}",
        "published": PUBLISHED,
        "comparable": len(takes) == TEST_TAKES,
        "takes": [[take.take_name or uid, take.scenario] for uid, take in takes.items()],
        "directions": [
            _direction(direction, samples, takes) for direction, samples in evaluation.samples.items() if samples
        ],
        "galleries": [],
        "films": [],
    }
    if any(take.folder for take in takes.values()):
        answerer = Answerer(source)
        for direction, samples in evaluation.samples.items():
            page["galleries"] += _draw_galleries(direction, samples, answerer, annotations)
            page["films"] += _draw_films(direction, samples, answerer, annotations)
    path = out / "index.html"
    head, tail = PAGE.read_text("utf-8").split(PLACEHOLDER)
    with written_whole(path) as file:
        file.write(head + script_json(page) + tail)
    return path


def script_json(value: object) -> str:
    """JSON that may stand inside a script element: whatever names hold, none of it ends the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


def _direction(direction: Direction, samples: Sequence[ScoredSample], takes: dict[str, Take]) -> dict[str, Any]:
    """Everything about a direction but its pictures."""
    seen = [sample for sample in samples if sample.visible]
    groups = {
        "object size, share of the image": group(
            seen, lambda sample: size_name(sample.area_share), [name for _, name in SIZES]
        ),
        "scenario": group(seen, lambda sample: takes[sample.take_uid].scenario or "unknown"),
        "target camera": group(seen, lambda sample: sample.target_camera),
    }
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
        "records": _columns(samples, list(takes)),
    }


def score_intervals(samples: Sequence[ScoredSample]) -> dict[str, list[float] | None]:
    """Each official score with the interval that holds 95% of it when takes are drawn anew; None if undefined."""
    table = np.stack(list(by_take(samples).values()))  # (T, 8)
    columns = scores_of_sums(np.concatenate([table.sum(0, keepdims=True), resample(table)]))
    return {
        name: None if np.isnan(column[0]) else [float(column[0]), *np.nanquantile(column[1:], [0.025, 0.975]).tolist()]
        for name, column in columns.items()
    }


def reliability(samples: Sequence[ScoredSample]) -> list[tuple[int, float, float]]:
    """Of each tenth of the confidence that occurs: how many, their mean, and the share that is visible."""
    confidence = np.clip([sample.confidence for sample in samples], 0, 1)
    visible = np.array([sample.visible for sample in samples])
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        (int(own.sum()), float(confidence[own].mean()), float(visible[own].mean()))
        for own in (bins == number for number in range(BINS))
        if own.any()
    ]


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
            round(1000 * min(max(sample.confidence, 0.0), 1.0)),
        )
        for sample in samples
    ]
    keys = ("take", "object", "cameras", "frame", "iou", "confidence")
    return {
        "names": list(names),
        **{key: list(column) for key, column in zip(keys, zip(*rows, strict=True), strict=True)},
    }


# Pictures


def _draw_galleries(
    direction: Direction, samples: Sequence[ScoredSample], answerer: Answerer, annotations: Annotations
) -> list[dict[str, Any]]:
    galleries = choose_galleries(direction, samples)
    places = list(dict.fromkeys(place for gallery in galleries for place in gallery.places))
    shown = dict(zip(map(Place.of, found := load_shown(places, answerer, annotations)), found, strict=True))
    drawn = {place: _picture(record) for place, record in track(shown.items(), "Drawing", total=len(shown))}
    return [
        {
            "direction": direction.value,
            "name": gallery.name,
            "words": gallery.words,
            "pictures": [drawn[place] for place in gallery.places if place in drawn],
        }
        for gallery in galleries
    ]


def choose_galleries(direction: Direction, samples: Sequence[ScoredSample]) -> list[Gallery]:
    """Which records are worth a look; of a take at most two in each gallery."""
    records: dict[Place, list[ScoredSample]] = {}
    for key, own in _grouped(samples, _key).items():
        ious = [sample.iou for sample in own if sample.iou is not None]
        mean = sum(ious) / len(ious) if ious else None
        records[Place(direction, *key, iou=mean)] = own
    scored = sorted((place for place in records if place.iou is not None), key=lambda place: -(place.iou or 0.0))
    middle = len(scored) // 2
    around = [scored[index] for index in sorted(range(len(scored)), key=lambda index: abs(index - middle))]

    def wrongness(place: Place) -> float:
        """The highest confidence of an answer that is somewhere else, or nowhere to be seen."""
        return max(
            (
                s.confidence
                for s in records[place]
                if (s.iou or 0.0) < WRONG_IOU and s.confidence > CONFIDENCE_THRESHOLD
            ),
            default=0.0,
        )

    wrong = sorted((place for place in records if wrongness(place)), key=lambda place: -wrongness(place))
    return [
        Gallery("Best", "the highest mean IoU", _varied(scored)),
        Gallery("Median", "as good as half of all", _varied(around)),
        Gallery("Worst", "the lowest mean IoU", _varied(scored[::-1])),
        Gallery("Sure and wrong", "an object said to be visible that is elsewhere, or hidden", _varied(wrong)),
    ]


def _key(sample: ScoredSample) -> tuple[str, str, str, int]:
    return sample.take_uid, sample.query_camera, sample.target_camera, sample.frame


def _grouped(samples: Iterable[ScoredSample], key: Callable[[ScoredSample], Any]) -> dict[Any, list[ScoredSample]]:
    groups: dict[Any, list[ScoredSample]] = {}
    for sample in samples:
        groups.setdefault(key(sample), []).append(sample)
    return groups


def _varied(places: Sequence[Place], each: int = 2) -> list[Place]:
    chosen: list[Place] = []
    for place in places:
        if sum(other.take_uid == place.take_uid for other in chosen) < each:
            chosen.append(place)
        if len(chosen) == PICTURES:
            break
    return chosen


def _draw_films(
    direction: Direction, samples: Sequence[ScoredSample], answerer: Answerer, annotations: Annotations
) -> list[dict[str, Any]]:
    """Objects over time, of those that are seen most the ones whose IoU changes most."""
    tracks = _grouped(
        (sample for sample in samples if sample.visible),
        lambda sample: (sample.take_uid, sample.object_id, sample.query_camera, sample.target_camera),
    )
    films, seen = [], set()
    for key in sorted(tracks, key=lambda key: (-min(len(tracks[key]), FILM_FRAMES), -_swing(tracks[key]), key)):
        if key[0] not in seen and len(films) < FILMS:
            seen.add(key[0])
            chosen = tracks[key][:: max(1, len(tracks[key]) // FILM_FRAMES)][:FILM_FRAMES]
            records = _records_of(direction, chosen, answerer, annotations)
            films.append(
                {"direction": direction.value, "name": f"{key[1].strip()}: {key[2]} to {key[3]}",
                 "picture": _data_uri(draw_film(records, key[1]))}
            )  # fmt: skip
    return films


def _swing(samples: Sequence[ScoredSample]) -> float:
    return float(np.std([sample.iou for sample in samples]))


def _records_of(
    direction: Direction, samples: Sequence[ScoredSample], answerer: Answerer, annotations: Annotations
) -> list[Shown]:
    wanted = [_key(sample) for sample in samples]
    take = annotations.load(wanted[0][0])
    found = {
        (record.pair.take_uid, record.pair.query_camera, record.pair.target_camera, record.pair.frame): record
        for record in iter_shown(answerer, take)
        if record.direction is direction
    }
    return [found[key] for key in wanted]


def _picture(record: Shown) -> dict[str, Any]:
    iou = "nothing visible" if record.iou is None else f"IoU {record.iou:.2f}"
    name = record.take.take_name or record.pair.take_uid
    words = f"{name}, {record.pair.query_camera} to {record.pair.target_camera}, frame {record.pair.frame}: {iou}"
    return {"words": words, "picture": _data_uri(draw_record(record, PICTURE_WIDTH))}


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
