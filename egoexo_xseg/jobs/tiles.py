"""What pages show of takes: their names, and pictures of single answers, each of them taken apart and closely."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from egoexo_xseg.data.annotations import Annotations, Take, UnreadTake
from egoexo_xseg.data.images import frame_path, import_cv2, read_image
from egoexo_xseg.data.metrics import CONFIDENCE_THRESHOLD
from egoexo_xseg.data.scoring import ScoredSample
from egoexo_xseg.data.sources import read_json
from egoexo_xseg.errors import MediaError
from egoexo_xseg.jobs.pictures import Answer, closer, object_colours, overlay
from egoexo_xseg.jobs.show import read_answer
from egoexo_xseg.masks import Rle, rle_area, rle_to_mask
from egoexo_xseg.parallel import map_processes
from egoexo_xseg.progress import track
from egoexo_xseg.records import Direction

HEIGHT, FILM_HEIGHT, QUALITY = 252, 168, 80
"""Pixels of a tile's panels and of a film's, and the JPEGs' quality: about 60 kB a tile."""

RINGED, RING = 0.005, 0.9
"""Objects below this share of the image get a circle around them, of so many of their sizes."""

Results = Mapping[Direction, Mapping[str, Any]]
"""A submission's answers by direction and take, as `read_submission` gives them."""

Tile = dict[str, Any]
"""`query`, `truth` and `closer` are pictures (data URIs, or None), `answers` and `closers` one of each method."""


@dataclass(frozen=True, slots=True)
class Spot:
    """One object in one target frame."""

    direction: Direction
    take_uid: str
    object_id: str
    query_camera: str
    target_camera: str
    frame: int

    @classmethod
    def of(cls, sample: ScoredSample) -> Spot:
        direction = Direction(sample.direction)
        return cls(
            direction, sample.take_uid, sample.object_id, sample.query_camera, sample.target_camera, sample.frame
        )


@dataclass(frozen=True)
class _Order:
    """What to draw of one take: each spot with the methods' answers."""

    unread: UnreadTake
    spots: list[tuple[Spot, list[Answer | None]]]
    film: bool


def describe(unread: UnreadTake) -> tuple[str, str]:
    """A take's name (or uid) and scenario, without its masks."""
    source = unread.source
    entry = read_json(source / "annotation.json") if isinstance(source, Path) else source
    name, scenario = (entry.get(key) if isinstance(entry, dict) else None for key in ("take_name", "scenario"))
    return (
        name if isinstance(name, str) and name else unread.take_uid,
        scenario if isinstance(scenario, str) else "",
    )


def has_frames(annotations: Annotations) -> bool:
    """Whether there is anything to draw on: prepared takes have frames, annotations alone do not."""
    return any(isinstance(annotations.unread(uid).source, Path) for uid in annotations.take_uids[:1])


def draw_tiles(
    spots: Iterable[Spot],
    methods: Sequence[Results],
    annotations: Annotations,
    workers: int | None = None,
    *,
    film: bool = False,
) -> dict[Spot, Tile]:
    """Tiles of the spots whose frames can be read; each take is read once. Of a `film` only what lies around an object.

    Raises nothing of its own: a missing frame leaves its tiles out.
    """
    takes: dict[str, list[Spot]] = {}
    for spot in dict.fromkeys(spots):
        takes.setdefault(spot.take_uid, []).append(spot)
    orders = (
        _Order(annotations.unread(uid), [(spot, [_answer(each, spot) for each in methods]) for spot in own], film)
        for uid, own in takes.items()
    )
    drawn: dict[Spot, Tile] = {}
    for tiles in track(map_processes(_draw_take, orders, workers), "Drawing takes", total=len(takes)):
        drawn |= tiles
    return drawn


def _answer(results: Results, spot: Spot) -> Answer | None:
    entry = results[spot.direction].get(spot.take_uid)
    return read_answer(entry, (spot.object_id, spot.query_camera, spot.target_camera, spot.frame))


def _draw_take(order: _Order) -> dict[Spot, Tile]:
    take, _ = order.unread.read()
    colours = object_colours(take.masks)
    draw = _draw_film if order.film else _draw_tile
    tiles = {}
    for spot, answers in order.spots:
        try:
            tiles[spot] = draw(take, spot, answers, colours[spot.object_id])
        except MediaError:
            continue
    return tiles


def _draw_tile(take: Take, spot: Spot, answers: Sequence[Answer | None], colour: str) -> Tile:
    query, target = _images(take, spot)
    asked, truth = _masks(take, spot)
    return {
        "query": data_uri(_panel(query, asked, None, colour)),
        "truth": data_uri(_panel(target, truth, None, colour)),
        "answers": [data_uri(_panel(target, *_shown(answer), colour)) for answer in answers],
        "closers": [_closer(target, truth, answer, colour, HEIGHT) for answer in answers],
    }


def _draw_film(take: Take, spot: Spot, answers: Sequence[Answer | None], colour: str) -> Tile:
    query, target = _images(take, spot)
    asked, truth = _masks(take, spot)
    side = (FILM_HEIGHT, FILM_HEIGHT)
    return {
        "query": data_uri(closer(query, asked, None, (asked, None), colour, side)),
        "closers": [_closer(target, truth, answer, colour, FILM_HEIGHT) for answer in answers],
    }


def _images(take: Take, spot: Spot) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    return [
        read_image(frame_path(Path(take.folder or ""), camera, spot.frame))
        for camera in (spot.query_camera, spot.target_camera)
    ]


def _masks(take: Take, spot: Spot) -> tuple[Rle, Rle | None]:
    """The query's mask, and the target's where an annotator saw the object."""
    cameras = take.masks[spot.object_id]
    annotated = spot.frame in take.annotated_frames[spot.object_id].get(spot.target_camera, ())
    truth = cameras.get(spot.target_camera, {}).get(spot.frame) if annotated else None
    return cameras[spot.query_camera][spot.frame], truth


def _shown(answer: Answer | None) -> tuple[Rle | None, Rle | None]:
    """The mask as one that is visible, or as one that is said not to be."""
    if answer is None:
        return None, None
    mask, confidence = answer
    return (mask, None) if confidence > CONFIDENCE_THRESHOLD else (None, mask)


def _panel(
    image: UInt8[np.ndarray, "H W 3"], mask: Rle | None, faint: Rle | None, colour: str
) -> UInt8[np.ndarray, "h w 3"]:
    width = max(1, round(HEIGHT * image.shape[1] / image.shape[0]))
    masks, faints = ({"": each} if each is not None else {} for each in (mask, faint))
    panel = overlay(image, masks, {"": colour}, faints, (HEIGHT, width))
    drawn = mask or faint
    if drawn is not None and 0 < rle_area(drawn) < RINGED * drawn.hw[0] * drawn.hw[1]:
        _ring(panel, drawn)
    return panel


def _ring(panel: UInt8[np.ndarray, "h w 3"], rle: Rle) -> None:
    """A circle around what is easily overlooked."""
    rows, columns = np.nonzero(rle_to_mask(rle))
    scale = panel.shape[0] / rle.hw[0]
    centre = round(scale * float(np.mean(columns))), round(scale * float(np.mean(rows)))
    reach = round(min(RING * max(8.0, scale * float(max(np.ptp(rows), np.ptp(columns)))), 0.2 * panel.shape[0]))
    import_cv2().circle(panel, centre, reach, (255, 255, 255), 1, import_cv2().LINE_AA)


def _closer(
    image: UInt8[np.ndarray, "H W 3"], truth: Rle | None, answer: Answer | None, colour: str, side: int
) -> str | None:
    """Around the truth, or where there is none around the answer; None where both are empty."""
    for around in (truth, answer[0] if answer else None):
        if around is not None and rle_area(around):
            return data_uri(closer(image, around, truth, _shown(answer), colour, (side, side)))
    return None


def data_uri(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """A picture as the text that a page holds it as."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
