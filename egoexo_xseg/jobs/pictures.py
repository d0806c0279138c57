"""Pictures of one record: the query with its masks, the prediction and the truth side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from egoexo_xseg.data.annotations import Take
from egoexo_xseg.data.images import frame_path, import_cv2, read_image
from egoexo_xseg.data.metrics import CONFIDENCE_THRESHOLD
from egoexo_xseg.errors import XsegError, printable
from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.palette import FAINT, INK, OBJECTS, PAPER, TRUTH
from egoexo_xseg.masks import Rle, rle_area, rle_to_mask
from egoexo_xseg.records import Direction, Pair, PairObject

PANEL_HEIGHT, MARGIN, GAP = 384, 28, 12
TITLE, TEXT = 22, 17
FILL = 0.45
CLOSER = 2.2
"""Sides of the closer look, in sides of its object."""

SHEET_SCALE = 1.25
"""Text on a sheet is larger: pages show it at half its width."""

Answer = tuple[Rle, float]
"""Mask and confidence."""

Panel = tuple[str, float, Callable[[tuple[int, int]], UInt8[np.ndarray, "h w 3"]]]
"""A name, width by height, and what draws it at a given (height, width)."""


@dataclass(frozen=True)
class Shown:
    """A record that can be drawn; `ious` are those of its visible objects."""

    direction: Direction
    take: Take
    pair: Pair
    answers: Mapping[str, Answer]
    ious: Mapping[str, float]

    @property
    def iou(self) -> float | None:
        """The mean over visible objects; None if none is."""
        return sum(self.ious.values()) / len(self.ious) if self.ious else None


def contact_sheet(records: Sequence[Shown], path: Path, width: int = 1600) -> Path:
    """Several records under each other in one picture, all of them as wide as it is."""
    drawn = [draw_record(record, width, SHEET_SCALE) for record in records]
    if not drawn:
        raise XsegError("nothing to draw")
    sheet = Image.new("RGB", (width, sum(image.height for image in drawn)), PAPER)
    top = 0
    for image in drawn:
        sheet.paste(image, (0, top))
        top += image.height
    with written_whole(path, "wb") as file:
        sheet.save(file, "png")
    return path


def draw_record(record: Shown, width: int | None = None, scale: float = 1.0) -> Image.Image:
    """One record: query, prediction, truth, and a closer look at the smallest object; `width` sets the panels' size."""
    pair, folder = record.pair, record.take.folder
    if folder is None:
        raise XsegError("annotations without frames cannot be drawn", remedy="Give prepared takes: --data DATA")
    query = read_image(frame_path(folder, pair.query_camera, pair.frame))
    target = read_image(frame_path(folder, pair.target_camera, pair.frame))
    colours = object_colours(record.take.masks)
    queries = {item.object_id: item.query_mask for item in pair.objects}
    truths = {item.object_id: item.target_mask for item in pair.objects if item.target_mask is not None}
    found, hidden = {}, {}
    for object_id, (mask, confidence) in record.answers.items():
        (found if confidence > CONFIDENCE_THRESHOLD else hidden)[object_id] = mask
    panels = [
        _overlay_panel(f"query: {pair.query_camera}", query, queries, colours),
        _overlay_panel(f"prediction: {pair.target_camera}", target, found, colours, hidden),
    ]
    if any(item.annotated for item in pair.objects):
        panels.append(_overlay_panel(f"ground truth: {pair.target_camera}", target, truths, colours))
    areas = {object_id: area for object_id, truth in truths.items() if (area := rle_area(truth))}
    if areas:
        smallest = min(areas, key=areas.__getitem__)
        answer = found.get(smallest), hidden.get(smallest)
        look = partial(closer, target, truths[smallest], truths[smallest], answer, colours[smallest])
        panels.append(("closer (white: truth)", 1.0, look))
    title = f"{record.direction.value}   {record.take.take_name or pair.take_uid}   frame {pair.frame}"
    legend = [(colours[item.object_id], _words(record, item)) for item in pair.objects]
    return _compose(title, panels, legend, width, scale)


def object_colours(names: Iterable[str]) -> dict[str, str]:
    """An object keeps its colour in all pictures of a take."""
    return {name: OBJECTS[index % len(OBJECTS)] for index, name in enumerate(names)}


@dataclass(frozen=True, slots=True)
class Sketch:
    """An object of two plain images: what to call it, its mask in each, and how likely the second one is visible."""

    name: str
    caption: str | None
    query_mask: Rle
    mask: Rle
    visibility: float


def draw_sketches(
    title: str,
    query: UInt8[np.ndarray, "H W 3"],
    target: UInt8[np.ndarray, "h w 3"],
    objects: Sequence[Sketch],
) -> Image.Image:
    """Two images side by side, the objects' masks on both."""
    colours = object_colours(map(str, range(len(objects))))
    queries, found, hidden = {}, {}, {}
    legend = []
    for (key, colour), item in zip(colours.items(), objects, strict=True):
        queries[key] = item.query_mask
        (found if item.visibility > CONFIDENCE_THRESHOLD else hidden)[key] = item.mask
        words = [item.name, *([f"“{item.caption}”"] if item.caption else []), f"visible {item.visibility:.0%}"]
        legend.append((colour, "   ".join(map(printable, words))))
    panels = [
        _overlay_panel("query", query, queries, colours),
        _overlay_panel("answer (thin line: not visible)", target, found, colours, hidden),
    ]
    return _compose(printable(title), panels, legend, None, 1.0)


def _overlay_panel(
    name: str,
    image: UInt8[np.ndarray, "H W 3"],
    masks: Mapping[str, Rle],
    colours: Mapping[str, str],
    faint: Mapping[str, Rle] | None = None,
) -> Panel:
    return name, image.shape[1] / image.shape[0], partial(overlay, image, masks, colours, faint or {})


def overlay(
    image: UInt8[np.ndarray, "H W 3"],
    masks: Mapping[str, Rle],
    colours: Mapping[str, str],
    faint: Mapping[str, Rle],
    hw: tuple[int, int],
) -> UInt8[np.ndarray, "h w 3"]:
    """An image with filled, outlined masks; `faint` ones (predicted not visible) as thin outlines only."""
    panel = np.array(Image.fromarray(image).resize(hw[::-1], Image.Resampling.LANCZOS))
    for object_id, rle in faint.items():
        _outline(panel, _soften(rle_to_mask(rle), hw), colours[object_id], 1)
    for object_id, rle in masks.items():
        soft = _soften(rle_to_mask(rle), hw)
        blend = FILL * soft[..., None]
        panel[:] = np.rint(panel * (1 - blend) + blend * np.array(_rgb(colours[object_id]))).astype(np.uint8)
        _outline(panel, soft, colours[object_id], 2)
    return panel


def closer(
    image: UInt8[np.ndarray, "H W 3"],
    around: Rle,
    truth: Rle | None,
    answer: tuple[Rle | None, Rle | None],
    colour: str,
    hw: tuple[int, int],
) -> UInt8[np.ndarray, "h w 3"]:
    """A square around a mask: the prediction in its colour (thin if not visible), the truth as a white line.

    Around an empty mask it is as much of the image as fits.
    """
    mask = rle_to_mask(around)
    mask = mask if mask.any() else ~mask
    height, width = image.shape[:2]
    rows, columns = (np.flatnonzero(mask.any(axis)) / mask.shape[1 - axis] for axis in (1, 0))
    reach = max(24.0, CLOSER * max(np.ptp(rows) * height, np.ptp(columns) * width) / 2)
    side = int(min(2 * reach, height, width))
    top, left = (
        int(np.clip(line.mean() * size - side / 2, 0, size - side)) for line, size in ((rows, height), (columns, width))
    )
    crop = Image.fromarray(image[top : top + side, left : left + side]).resize(hw[::-1], Image.Resampling.BICUBIC)
    panel = np.array(crop)
    for rle, shade, thickness in ((answer[1], colour, 1), (answer[0], colour, 2), (truth, TRUTH, 2)):
        if rle is not None:
            whole = _soften(rle_to_mask(rle), (height, width))[top : top + side, left : left + side]
            soft = np.array(Image.fromarray(whole).resize(hw[::-1], Image.Resampling.BICUBIC))
            _outline(panel, soft, shade, thickness)
    return panel


def _soften(mask: Bool[np.ndarray, "H W"], hw: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """How much of each pixel of another size the mask covers."""
    cv2 = import_cv2()
    how = cv2.INTER_AREA if mask.shape[0] > hw[0] else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(mask, dtype=np.float32), hw[::-1], interpolation=how)


def _outline(panel: UInt8[np.ndarray, "h w 3"], soft: Float32[np.ndarray, "h w"], colour: str, thickness: int) -> None:
    cv2 = import_cv2()
    contours, _ = cv2.findContours((soft > 0.4).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(panel, contours, -1, _rgb(colour), thickness, cv2.LINE_AA)


def _words(record: Shown, item: PairObject) -> str:
    """What is known of one object, for the legend."""
    words = [printable(item.object_id.strip()) or "(no name)"]
    if item.caption:
        words.append(f"“{printable(item.caption)}”")
    if item.object_id in record.ious:
        words.append(f"IoU {record.ious[item.object_id]:.2f}")
    elif item.annotated:
        words.append("absent")
    if item.object_id in record.answers:
        words.append(f"visible {record.answers[item.object_id][1]:.0%}")
    return "   ".join(words)


def _compose(
    title: str, panels: Sequence[Panel], legend: Sequence[tuple[str, str]], width: int | None, scale: float
) -> Image.Image:
    """Title, panels with their names, and the objects' words in as many columns as fit."""
    margin, gap, line = (round(scale * length) for length in (MARGIN, GAP, 1.65 * TEXT))
    large, small = (ImageFont.load_default(scale * size) for size in (TITLE, TEXT))
    aspects = [aspect for _, aspect, _ in panels]
    room = 2 * margin + gap * (len(panels) - 1)
    height = PANEL_HEIGHT if width is None else max(1, int((width - room) / sum(aspects)))
    widths = [max(1, round(height * aspect)) for aspect in aspects]
    width = width or room + sum(widths)
    widths[-1] += width - room - sum(widths)  # what rounding left over
    columns = max(1, int((width - 2 * margin) // (max(small.getlength(words) for _, words in legend) + 3 * line / 2)))
    names_top = margin + round(scale * 1.3 * TITLE)
    panels_top = names_top + line
    legend_top = panels_top + height + round(0.6 * line)
    image = Image.new("RGB", (width, legend_top + line * -(-len(legend) // columns) + margin // 2), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((margin, margin - line // 4), title, INK, large)
    left = margin
    for (name, _, paint), own in zip(panels, widths, strict=True):
        fits = min(1.0, own / small.getlength(name))
        draw.text((left, names_top), name, FAINT, small if fits == 1 else ImageFont.load_default(scale * TEXT * fits))
        image.paste(Image.fromarray(paint((height, own))), (left, panels_top))
        left += own + gap
    for index, (colour, words) in enumerate(legend):
        x = margin + index % columns * ((width - 2 * margin) // columns)
        y = legend_top + line * (index // columns)
        swatch = round(0.58 * line)
        draw.rounded_rectangle((x, y + line // 8, x + swatch, y + line // 8 + swatch), swatch // 4, colour)
        draw.text((x + line, y), words, INK, small)
    return image


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(bytes.fromhex(colour[1:]))
