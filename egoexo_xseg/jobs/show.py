"""Pictures of records: the query with its masks, the prediction and the truth side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from egoexo_xseg.data.annotations import Annotations, Take
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.images import frame_path, import_cv2, read_image
from egoexo_xseg.data.metrics import CONFIDENCE_THRESHOLD, box_rle, box_truth, score_masks
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.predictions import predicted_directions, read_take_predictions
from egoexo_xseg.data.submission import pair_key, read_submission
from egoexo_xseg.errors import MaskError, XsegError
from egoexo_xseg.masks import Rle, rle_area, rle_to_mask
from egoexo_xseg.records import Direction, Pair, PairObject

COLOURS = ("#e6194b", "#0082c8", "#f58231", "#3cb44b", "#911eb4", "#00a5a5", "#d4a600", "#f032e6", "#7a4b1e", "#5b6ee1")
"""Told apart on light and dark ground; an object keeps its colour in all pictures of a take."""

PAPER, INK, FAINT = "#ffffff", "#1f2328", "#6e7781"
PANEL_HEIGHT, MARGIN, GAP = 384, 28, 12
ZOOM_BELOW = 0.01
"""Of the image: smaller objects get a panel of their own."""

Answer = tuple[Rle, float]
Answers = Mapping[tuple[str, str, str, int], Answer]
"""Mask and confidence by object, query camera, target camera and frame."""


@dataclass(frozen=True)
class Shown:
    """A record that can be drawn, with the mean IoU of its visible objects (None if none is visible)."""

    direction: Direction
    take: Take
    pair: Pair
    answers: Mapping[str, Answer]
    ious: Mapping[str, float]

    @property
    def iou(self) -> float | None:
        return sum(self.ious.values()) / len(self.ious) if self.ious else None


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
                answer = _read_answer(entry, key)
                if answer:
                    answers[key] = answer
        return answers


def _read_answer(entry: Any, key: tuple[str, str, str, int]) -> Answer | None:
    """What a submission says, if it is usable; `xseg validate` is the place to complain."""
    object_id, query, target, frame = key
    try:
        answer = entry["masks"][object_id][pair_key(query, target)][str(frame)]
        return Rle.from_json(answer["pred_mask"]), float(answer["confidence"])
    except (KeyError, TypeError, ValueError, MaskError):
        return None


def iter_shown(source: Answerer, annotations: Annotations, captions: Captions | None = None) -> Iterator[Shown]:
    """Every record that has an answer, scored where the truth is known."""
    for take in annotations:
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
    ious = {}
    for item in pair.objects:
        if item.target_mask is not None and item.object_id in answers:
            truth = box_truth(item.target_mask)
            ious[item.object_id] = score_masks(truth, box_rle(answers[item.object_id][0], truth.hw)).iou
    return ious


def choose(records: Sequence[Shown], count: int, which: str) -> list[Shown]:
    """`count` records from the `best`, the `worst`, or evenly `spread` over all, by mean IoU."""
    scored = [record for record in records if record.iou is not None]
    ranked = sorted(scored, key=lambda record: (-(record.iou or 0.0), str(record.pair)))
    if which == "worst":
        return ranked[::-1][:count]
    if which == "best" or len(ranked) <= count:
        return ranked[:count]
    return [ranked[round(index * (len(ranked) - 1) / max(1, count - 1))] for index in range(count)]


def show(records: Sequence[Shown], out: Path) -> list[Path]:
    """Draw records into numbered PNG files; names of objects stay out of paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, record in enumerate(records, 1):
        path = out / f"{number:03d}-{record.direction.value}-{record.take.take_uid}-{record.pair.frame}.png"
        draw_record(record).save(path)
        paths.append(path)
    return paths


def contact_sheet(records: Sequence[Shown], path: Path, width: int = 1600) -> Path:
    """Several records under each other, in one picture."""
    drawn = [draw_record(record) for record in records]
    if not drawn:
        raise XsegError("nothing to draw: no record has a visible object and an answer")
    widest = max(image.width for image in drawn)
    sheet = Image.new("RGB", (widest, sum(image.height for image in drawn)), PAPER)
    top = 0
    for image in drawn:
        sheet.paste(image, (0, top))
        top += image.height
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = min(1.0, width / widest)
    sheet.resize((round(widest * scale), round(sheet.height * scale)), Image.Resampling.LANCZOS).save(path)
    return path


def draw_record(record: Shown) -> Image.Image:
    """One record: query, prediction, truth, and a closer look where the objects are small."""
    pair, folder = record.pair, record.take.folder
    if folder is None:
        raise XsegError("annotations without frames cannot be drawn", remedy="Give prepared takes: --data DATA")
    query = read_image(frame_path(folder, pair.query_camera, pair.frame))
    target = read_image(frame_path(folder, pair.target_camera, pair.frame))
    colours = {object_id: COLOURS[index % len(COLOURS)] for index, object_id in enumerate(record.take.masks)}
    queries = {item.object_id: item.query_mask for item in pair.objects}
    truths = {item.object_id: item.target_mask for item in pair.objects if item.target_mask is not None}
    found = {
        object_id: mask for object_id, (mask, confidence) in record.answers.items() if confidence > CONFIDENCE_THRESHOLD
    }
    hidden = {object_id: mask for object_id, (mask, _) in record.answers.items() if object_id not in found}
    panels = [
        (f"query: {pair.query_camera}", _overlay(query, queries, colours)),
        (f"prediction: {pair.target_camera}", _overlay(target, found, colours, faint=hidden)),
    ]
    if any(item.annotated for item in pair.objects):
        panels.append((f"ground truth: {pair.target_camera}", _overlay(target, truths, colours)))
        small = [object_id for object_id, mask in truths.items() if rle_area(mask) < ZOOM_BELOW * np.prod(mask.hw)]
        if small:
            panels.append(("closer (white: truth)", _zoom(target, record, small[0], colours)))
    title = f"{record.direction.value}   {record.take.take_name or pair.take_uid}   frame {pair.frame}"
    return _compose(title, panels, [_legend(record, item, colours) for item in pair.objects])


def _overlay(
    image: UInt8[np.ndarray, "H W 3"],
    masks: Mapping[str, Rle],
    colours: Mapping[str, str],
    faint: Mapping[str, Rle] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """An image at panel height with filled, outlined masks; `faint` ones (predicted not visible) as outlines only."""
    width = round(image.shape[1] * PANEL_HEIGHT / image.shape[0])
    panel = np.array(Image.fromarray(image).resize((width, PANEL_HEIGHT), Image.Resampling.LANCZOS))
    for object_id, rle in (faint or {}).items():
        _outline(panel, _soft(rle_to_mask(rle), panel.shape[:2]), colours[object_id], 1)
    for object_id, rle in masks.items():
        soft = _soft(rle_to_mask(rle), panel.shape[:2])
        blend = 0.45 * soft[..., None]
        panel[:] = np.rint(panel * (1 - blend) + blend * np.array(_rgb(colours[object_id]))).astype(np.uint8)
        _outline(panel, soft, colours[object_id], 2)
    return panel


def query_overlay(
    image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "h w"], colour: str = COLOURS[0]
) -> UInt8[np.ndarray, "H W 3"]:
    """An image with one mask shown in it."""
    shown = image.copy()
    soft = _soft(mask, image.shape[:2])
    blend = 0.45 * soft[..., None]
    shown[:] = np.rint(shown * (1 - blend) + blend * np.array(_rgb(colour))).astype(np.uint8)
    _outline(shown, soft, colour, 2)
    return shown


def _soft(mask: Bool[np.ndarray, "H W"], hw: tuple[int, int]) -> np.ndarray:
    """How much of each pixel of another size the mask covers."""
    cv2 = import_cv2()
    shrinks = mask.shape[0] > hw[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(mask, dtype=np.float32), (hw[1], hw[0]), interpolation=how)


def _outline(panel: np.ndarray, soft: np.ndarray, colour: str, thickness: int) -> None:
    cv2 = import_cv2()
    contours, _ = cv2.findContours((soft > 0.4).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(panel, contours, -1, _rgb(colour), thickness, cv2.LINE_AA)


def _zoom(image: np.ndarray, record: Shown, object_id: str, colours: Mapping[str, str]) -> UInt8[np.ndarray, "s s 3"]:
    """A square around one object: the prediction in its colour, the truth as a white line."""
    item = next(item for item in record.pair.objects if item.object_id == object_id)
    truth = rle_to_mask(item.target_mask)
    rows, columns = (np.flatnonzero(truth.any(axis)) / truth.shape[1 - axis] for axis in (1, 0))
    height, width = image.shape[:2]
    centre = (rows.mean() * height, columns.mean() * width)
    reach = max(24.0, 2.2 * max(np.ptp(rows) * height, np.ptp(columns) * width) / 2)
    top, left = (
        int(np.clip(middle - reach, 0, max(0, size - 2 * reach)))
        for middle, size in zip(centre, (height, width), strict=True)
    )
    side = int(min(2 * reach, height, width))
    large = (side * PANEL_HEIGHT // side, PANEL_HEIGHT)
    crop = Image.fromarray(image[top : top + side, left : left + side]).resize(large, Image.Resampling.BICUBIC)
    panel = np.array(crop)
    for rle, colour, thickness in (
        (record.answers.get(object_id, (None,))[0], colours[object_id], 2),
        (item.target_mask, "#ffffff", 2),
    ):
        if rle is not None:
            whole = _soft(rle_to_mask(rle), (height, width))[top : top + side, left : left + side]
            soft = np.array(Image.fromarray(whole).resize(large, Image.Resampling.BICUBIC))
            _outline(panel, soft, colour, thickness)
    return panel


def _legend(record: Shown, item: PairObject, colours: Mapping[str, str]) -> tuple[str, str]:
    """Colour and words for one object."""
    words = [item.object_id.strip() or "(no name)"]
    if item.caption:
        words.append(f"“{item.caption}”")
    if item.object_id in record.ious:
        words.append(f"IoU {record.ious[item.object_id]:.2f}")
    elif item.annotated:
        words.append("not there")
    if item.object_id in record.answers:
        words.append(f"visible {record.answers[item.object_id][1]:.2f}")
    return colours[item.object_id], "   ".join(words)


def _compose(title: str, panels: Sequence[tuple[str, np.ndarray]], legend: Sequence[tuple[str, str]]) -> Image.Image:
    """Title, panels with their names, and the objects' words in as many columns as fit."""
    large, small = ImageFont.load_default(22), ImageFont.load_default(17)
    width = 2 * MARGIN + sum(panel.shape[1] for _, panel in panels) + GAP * (len(panels) - 1)
    columns = max(1, width // 440)
    lines = -(-len(legend) // columns)
    top = MARGIN + 34
    height = top + 26 + PANEL_HEIGHT + 14 + 28 * lines + MARGIN // 2
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN - 6), title, INK, large)
    left = MARGIN
    for name, panel in panels:
        draw.text((left, top), name, FAINT, small)
        image.paste(Image.fromarray(panel), (left, top + 26))
        left += panel.shape[1] + GAP
    for index, (colour, words) in enumerate(legend):
        x = MARGIN + index % columns * ((width - 2 * MARGIN) // columns)
        y = top + 26 + PANEL_HEIGHT + 14 + 28 * (index // columns)
        draw.rounded_rectangle((x, y + 3, x + 16, y + 19), 4, colour)
        draw.text((x + 26, y), words, INK, small)
    return image


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(bytes.fromhex(colour[1:]))
