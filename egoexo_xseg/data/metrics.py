"""The official scores, equal to the last digit, of many masks together and on bits instead of full images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, UInt64

from egoexo_xseg.masks import Rle, nearest_indices, rle_to_runs, scored_hw

CONFIDENCE_THRESHOLD = 0.5
"""Above it, strictly, an object counts as predicted visible."""

BOUNDARY_TOLERANCE = 0.008
"""Of the image's diagonal: how far apart contours may lie and still agree (DAVIS)."""

LOCATION_UNIT = math.sqrt(480**2 + 480**2)
"""Location errors are shares of this length, whatever the image's shape."""

TOGETHER = 256
"""So many pairs of masks are read at once; numpy's calls cost little then."""

CACHED = 1 << 13
"""So many words of pixels are compared at once: what fits a processor's cache."""


class MaskScores(NamedTuple):
    """What the evaluator measures between a visible object's mask and its prediction."""

    iou: float
    location_error: float
    contour_accuracy: float
    existence: bool


def score_masks(truths: Sequence[Rle], answers: Sequence[Rle]) -> list[MaskScores]:
    """IoU with the evaluator's epsilon, distance of the boxes' midpoints, DAVIS boundary measure, both-or-none.

    Each answer is scored against the truth at its place, on the grid that the truth is scored on; one of another size
    is brought to it like the truth.
    """
    alike: dict[tuple[tuple[int, int], tuple[int, int]], list[int]] = {}
    for place, (truth, answer) in enumerate(zip(truths, answers, strict=True)):
        alike.setdefault((truth.hw, answer.hw), []).append(place)
    scores: dict[int, MaskScores] = {}
    for places in alike.values():
        for start in range(0, len(places), TOGETHER):
            chosen = places[start : start + TOGETHER]
            found = _score_alike([truths[place] for place in chosen], [answers[place] for place in chosen])
            scores.update(zip(chosen, found, strict=True))
    return [scores[place] for place in range(len(scores))]


def _score_alike(truths: list[Rle], answers: list[Rle]) -> Iterator[MaskScores]:
    """Scores of pairs whose truths share a size, and whose answers do."""
    hw = scored_hw(truths[0].hw)
    numbers = {truth: number for number, truth in enumerate(dict.fromkeys(truths))}  # several pairs may share a truth
    seen = read_stretches(list(numbers), hw).take(np.array([numbers[truth] for truth in truths]))
    said = read_stretches(answers, hw)
    distance = np.sqrt(((seen.midpoints - said.midpoints) ** 2).sum(0)) / LOCATION_UNIT
    iou, measure = np.zeros((2, len(truths)))
    # Of each pair only the box of both masks is looked at, and the row and the column before it: contours lie half a
    # pixel towards the origin.
    corner = np.maximum(np.minimum(seen.corner, said.corner) - 1, 0)
    size = np.maximum(np.maximum(seen.end, said.end) - corner, 0)
    order = np.argsort(size[0], kind="stable")  # pairs that are compared together take as many words as the tallest
    words = np.cumsum(((size[0] // 64 + 1) * size[1])[order])
    for batch in np.split(order, np.diff(words // CACHED).nonzero()[0] + 1):
        iou[batch], measure[batch] = _compare(seen.take(batch), said.take(batch), corner[:, batch], size[:, batch])
    columns = (iou.tolist(), distance.tolist(), measure.tolist(), (seen.empty == said.empty).tolist())
    return map(MaskScores, *columns)


def _compare(
    seen: Stretches, said: Stretches, corner: Int64[np.ndarray, "2 M"], size: Int64[np.ndarray, "2 M"]
) -> tuple[Float64[np.ndarray, " M"], Float64[np.ndarray, " M"]]:
    """IoU and contour accuracy of pairs, each within its own box."""
    hw, (rows, columns) = seen.hw, size
    # Boxes stand side by side, too far apart for a contour to reach the next one.
    reach = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*hw))
    stops = np.cumsum(columns + reach)
    starts = stops - columns - reach
    low = _low_bits(int(rows.max()) // 64 + 1)
    masks = np.stack([own.lay(corner, starts, low, int(stops[-1])) for own in (seen, said)])
    # Beyond the image's own borders there is nothing to differ from: its last column goes on like its last row.
    edge = (starts + columns)[corner[1] + columns == hw[1]]
    masks[..., edge] = masks[..., edge - 1]
    depth = np.zeros(int(stops[-1]), np.int64)
    depth[_ranges(starts, columns)] = rows.repeat(columns)
    inside = low[:, depth]
    contours = _contours(masks) & inside
    masks &= inside
    intersection, union = _count(masks[0] & masks[1], starts), _count(masks[0] | masks[1], starts)
    measure = _f_measure(_count(contours & _spread(contours, reach)[::-1], starts), _count(contours, starts))
    return np.where(union > 0, intersection / (union + 1e-7), 1.0), measure


@dataclass(frozen=True)
class Stretches:
    """M masks on the scored grid of `hw`: rows from `top` to before `bottom` in one column each, column by column.

    Mask m has those from `first[m]` to before `first[m + 1]`. Its box reaches from `corner` to before `end`, (row,
    column) each; an empty mask's from the image's end to its origin.
    """

    hw: tuple[int, int]
    column: Int64[np.ndarray, " P"]
    top: Int64[np.ndarray, " P"]
    bottom: Int64[np.ndarray, " P"]
    first: Int64[np.ndarray, " M1"]
    corner: Int64[np.ndarray, "2 M"]
    end: Int64[np.ndarray, "2 M"]

    @property
    def empty(self) -> Bool[np.ndarray, " M"]:
        return self.first[1:] == self.first[:-1]

    @property
    def midpoints(self) -> Int64[np.ndarray, "2 M"]:
        """(x, y) in the middle of the box; of an empty mask the evaluator's, whose axes are swapped."""
        return np.where(self.empty, np.array(self.hw)[:, None] // 2, (self.corner + self.end - 1)[::-1] // 2)

    def take(self, masks: Int64[np.ndarray, " M2"]) -> Stretches:
        """These masks in this order, some perhaps several times."""
        counts = np.diff(self.first)[masks]
        place = _ranges(self.first[masks], counts)
        parts = (part[place] for part in (self.column, self.top, self.bottom))
        return Stretches(self.hw, *parts, np.append(0, np.cumsum(counts)), self.corner[:, masks], self.end[:, masks])

    def lay(
        self,
        corner: Int64[np.ndarray, "2 M"],
        starts: Int64[np.ndarray, " M"],
        low: UInt64[np.ndarray, "W H"],
        width: int,
    ) -> UInt64[np.ndarray, "W width"]:
        """A canvas, 64 rows a word, with every mask's part from a corner on in columns from a start on.

        What reaches the image's last row goes on below it.
        """
        counts = np.diff(self.first)
        column = self.column + np.repeat(starts - corner[1], counts)
        above = np.repeat(corner[0], counts)
        words = low[:, self.bottom - above + (self.bottom == self.hw[0])] ^ low[:, self.top - above]
        begins = np.diff(column, prepend=-1).nonzero()[0]
        canvas = np.zeros((len(low), width), np.uint64)
        canvas[:, column[begins]] = np.bitwise_or.reduceat(words, begins, axis=1)
        return canvas


def read_stretches(rles: Sequence[Rle], hw: tuple[int, int]) -> Stretches:
    """Masks of one size on a grid of `hw`, sampled at the evaluator's nearest pixels without decoding the rest.

    They are read like one image, in which they stand side by side. Every run becomes a stretch of rows in each sampled
    column that it touches.
    """
    (height, width), (grid_height, grid_width) = rles[0].hw, hw
    columns, rows = _first_sampled(width, grid_width), _first_sampled(height, grid_height)
    begins, ends = _foreground(rles)
    begin_column, end_column = begins // height, ends // height
    begin_mask, end_mask = begin_column // width, end_column // width
    left = begin_mask * grid_width + columns[begin_column - begin_mask * width]
    right = end_mask * grid_width + columns[end_column - end_mask * width + 1]
    seen = right > left
    counts = (right - left)[seen]
    run = np.repeat(seen.nonzero()[0], counts)
    column = _ranges(left[seen], counts)
    source = nearest_indices(width, grid_width)[column % grid_width] + column // grid_width * width
    top = np.where(source == begin_column[run], rows[(begins - begin_column * height)[run]], 0)
    bottom = np.where(source == end_column[run], rows[(ends - end_column * height)[run] + 1], grid_height)
    kept = (bottom > top).nonzero()[0]
    # Only where the grid is finer than the mask does a run return to columns of the one before.
    order = kept[np.argsort(column[kept], kind="stable")]
    column, top, bottom = column[order], top[order], bottom[order]
    first = column.searchsorted(np.arange(len(rles) + 1) * grid_width)
    column %= grid_width
    corner, end = np.repeat([[grid_height], [grid_width]], len(rles), 1), np.zeros((2, len(rles)), np.int64)
    there = first[1:] > first[:-1]
    begin = first[:-1][there]
    if begin.size:
        corner[:, there] = np.minimum.reduceat(top, begin), column[begin]
        end[:, there] = np.maximum.reduceat(bottom, begin), column[first[1:][there] - 1] + 1
    return Stretches(hw, column, top, bottom, first, corner, end)


def _foreground(rles: Sequence[Rle]) -> tuple[Int64[np.ndarray, " R"], Int64[np.ndarray, " R"]]:
    """Where each run of foreground begins and ends, its last pixel included, in all masks one after the other."""
    runs = []
    for rle in rles:
        runs.append(rle_to_runs(rle))
        if runs[-1].size % 2:
            runs.append(np.zeros(1, np.int64))  # so that every second one is foreground
    stops = np.cumsum(np.concatenate(runs))
    begins, ends = stops[0::2], stops[1::2]
    kept = ends > begins
    return begins[kept], ends[kept] - 1


@lru_cache(maxsize=64)
def _first_sampled(source: int, size: int) -> Int64[np.ndarray, " L"]:
    """For each source line the first sampled line at or after it."""
    return np.searchsorted(nearest_indices(source, size), np.arange(source + 1))


@lru_cache(maxsize=16)
def _low_bits(words: int) -> UInt64[np.ndarray, "W H"]:
    """Words whose first 0, 1, ... pixels are set, up to all."""
    bits = np.clip(np.arange(64 * words + 1) - 64 * np.arange(words)[:, None], 0, 64)
    return np.array([(1 << count) - 1 for count in range(65)], np.uint64)[bits]


def _ranges(starts: Int64[np.ndarray, " S"], counts: Int64[np.ndarray, " S"]) -> Int64[np.ndarray, " N"]:
    """`counts` whole numbers from each start on."""
    stops = np.cumsum(counts)
    return np.repeat(starts - stops + counts, counts) + np.arange(stops[-1] if stops.size else 0)


def _count(words: UInt64[np.ndarray, "*A W N"], starts: Int64[np.ndarray, " M"]) -> Int64[np.ndarray, "*A M"]:
    """Pixels from each start to before the next."""
    return np.add.reduceat(np.bitwise_count(words).sum(-2, dtype=np.int64), starts, axis=-1)


def _contours(masks: UInt64[np.ndarray, "A W N"]) -> UInt64[np.ndarray, "A W N"]:
    """Pixels that differ from their right, lower or lower right neighbour."""
    right = np.zeros_like(masks)
    right[..., :-1] = masks[..., 1:]
    return (masks ^ right) | (masks ^ _below(masks)) | (masks ^ _below(right))


def _below(words: UInt64[np.ndarray, "A W N"]) -> UInt64[np.ndarray, "A W N"]:
    """Each pixel's lower neighbour."""
    moved = words >> np.uint64(1)
    moved[:, :-1] |= words[:, 1:] << np.uint64(63)
    return moved


def _above(words: UInt64[np.ndarray, "A W N"]) -> UInt64[np.ndarray, "A W N"]:
    """Each pixel's upper neighbour."""
    moved = words << np.uint64(1)
    moved[:, 1:] |= words[:, :-1] >> np.uint64(63)
    return moved


def _spread(words: UInt64[np.ndarray, "A W N"], reach: int) -> UInt64[np.ndarray, "A W N"]:
    """Pixels within `reach` of a set one: a disk of columns, whose height is grown pixel by pixel."""
    spread = np.zeros_like(words)
    tall = words.copy()
    for height in range(reach + 1):
        if height:
            tall |= _below(tall) | _above(tall)
        for shift in range(reach + 1):
            if math.isqrt(reach**2 - shift**2) == height:
                spread[..., shift:] |= tall[..., : tall.shape[-1] - shift]
                spread[..., : tall.shape[-1] - shift] |= tall[..., shift:]
    return spread


def _f_measure(matched: Int64[np.ndarray, "2 M"], counts: Int64[np.ndarray, "2 M"]) -> Float64[np.ndarray, " M"]:
    """From contour pixels of truths and predictions, and those that have one of the other in reach."""
    recall, precision = matched / np.maximum(counts, 1)
    both = precision + recall
    measure = 2 * precision * recall / np.where(both > 0, both, 1.0)
    return np.where(counts.any(0), measure, 1.0)


def mean_recall(recalls: Float[np.ndarray, "*rows classes"]) -> Float[np.ndarray, "*rows"]:
    """Balanced accuracy of the classes that occur; a class that does not has no recall, NaN."""
    known = np.isfinite(recalls)
    with np.errstate(invalid="ignore"):
        return np.where(known, recalls, 0).sum(-1) / known.sum(-1)


def balanced_accuracy(visible: Sequence[bool], predicted: Sequence[bool]) -> float:
    """Mean of the recalls of the classes that occur: of visible and of absent objects."""
    pairs = list(zip(visible, predicted, strict=True))
    recalls = [[own == kind for seen, own in pairs if seen == kind] for kind in (False, True)]
    recalls = [sum(recall) / len(recall) for recall in recalls if recall]
    return sum(recalls) / len(recalls) if recalls else math.nan
