"""The official scores, equal to the last digit, computed on runs and boxes instead of full images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from egoexo_xseg.data.images import import_cv2
from egoexo_xseg.masks import Rle, nearest_indices, rle_to_runs, scored_hw

CONFIDENCE_THRESHOLD = 0.5
"""Above it, strictly, an object counts as predicted visible."""

BOUNDARY_TOLERANCE = 0.008
"""Of the image's diagonal: how far apart contours may lie and still agree (DAVIS)."""

LOCATION_UNIT = math.sqrt(480**2 + 480**2)
"""Location errors are shares of this length, whatever the image's shape."""


@dataclass(frozen=True, slots=True)
class BoxedMask:
    """A mask on the scored grid of `hw`, kept only within its bounding box, whose corner is (top, left)."""

    hw: tuple[int, int]
    top: int
    left: int
    crop: Bool[np.ndarray, "h w"]

    @property
    def empty(self) -> bool:
        return not self.crop.size

    @property
    def midpoint(self) -> tuple[int, int]:
        """(x, y) in the middle of the box; of an empty mask the evaluator's, whose axes are swapped."""
        if self.empty:
            return self.hw[0] // 2, self.hw[1] // 2
        height, width = self.crop.shape
        return (2 * self.left + width - 1) // 2, (2 * self.top + height - 1) // 2

    def within(self, top: int, left: int, height: int, width: int) -> Bool[np.ndarray, "height width"]:
        """The same mask in another box, which contains its own."""
        canvas = np.zeros((height, width), bool)
        row, column = self.top - top, self.left - left
        canvas[row : row + self.crop.shape[0], column : column + self.crop.shape[1]] = self.crop
        return canvas


def box_rle(rle: Rle, hw: tuple[int, int]) -> BoxedMask:
    """A coded mask on a grid of `hw`, sampled at the evaluator's nearest pixels without decoding the rest.

    Every run becomes a stretch of rows in each column that it touches; only sampled columns are kept, and within them
    only sampled rows.
    """
    height, width = rle.hw
    ends = np.cumsum(rle_to_runs(rle))
    starts, stops = ends[0:-1:2], ends[1::2]
    kept = stops > starts
    column, first, last = _split_at_columns(starts[kept], stops[kept] - 1, height)
    columns, rows = _first_sampled(width, hw[1]), _first_sampled(height, hw[0])
    left, right = columns[column], columns[column + 1]  # the same where the column is not sampled
    top, bottom = rows[first], rows[last + 1]
    seen = (right > left) & (bottom > top)
    if not seen.any():
        return BoxedMask(hw, 0, 0, np.zeros((0, 0), bool))
    left, right, top, bottom = left[seen], right[seen], top[seen], bottom[seen]
    corner, box_hw = (int(top.min()), int(left.min())), (int(bottom.max() - top.min()), int(right.max() - left.min()))
    crop = _paint(top - corner[0], bottom - corner[0], left - corner[1], right - left, box_hw)
    return BoxedMask(hw, *corner, crop)


def _split_at_columns(
    starts: Int64[np.ndarray, " R"], ends: Int64[np.ndarray, " R"], height: int
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Runs, both ends inclusive, as pieces of one column each: column, first and last row."""
    first_column, last_column = starts // height, ends // height
    counts = last_column - first_column + 1
    run = np.repeat(np.arange(len(starts)), counts)
    place = np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)
    column = first_column[run] + place
    first = np.where(place == 0, starts[run] % height, 0)
    last = np.where(column == last_column[run], ends[run] % height, height - 1)
    return column, first, last


@lru_cache(maxsize=64)
def _first_sampled(source: int, size: int) -> Int64[np.ndarray, " L"]:
    """For each source line the first sampled line at or after it."""
    return np.searchsorted(nearest_indices(source, size), np.arange(source + 1))


def _paint(
    top: Int64[np.ndarray, " P"],
    bottom: Int64[np.ndarray, " P"],
    left: Int64[np.ndarray, " P"],
    widths: Int64[np.ndarray, " P"],
    hw: tuple[int, int],
) -> Bool[np.ndarray, "h w"]:
    """Fill stretches of columns: +1 where one begins, -1 where it ends, summed downwards."""
    if widths.max() > 1:  # sources smaller than the grid: a column is sampled several times
        piece = np.repeat(np.arange(len(widths)), widths)
        left = left[piece] + np.arange(len(piece)) - np.repeat(np.cumsum(widths) - widths, widths)
        top, bottom = top[piece], bottom[piece]
    steps = np.zeros((hw[0] + 1) * hw[1], np.int8)
    steps[top * hw[1] + left] = 1  # pieces are disjoint: no place begins two, or ends two
    steps[bottom * hw[1] + left] -= 1
    return np.cumsum(steps.reshape(hw[0] + 1, hw[1])[:-1], axis=0, dtype=np.int8).view(bool)


@dataclass(frozen=True, slots=True)
class MaskScores:
    """What the evaluator measures between a visible object's mask and its prediction."""

    iou: float
    location_error: float
    contour_accuracy: float
    existence: bool


def score_masks(truth: BoxedMask, prediction: BoxedMask) -> MaskScores:
    """IoU with the evaluator's epsilon, distance of the boxes' midpoints, DAVIS boundary measure, both-or-none."""
    distance = math.dist(truth.midpoint, prediction.midpoint) / LOCATION_UNIT
    boxes = [mask for mask in (truth, prediction) if not mask.empty]
    if not boxes:
        return MaskScores(1.0, distance, 1.0, True)
    # Contours lie half a pixel towards the origin, hence one more line above and to the left.
    top, left = (max(0, min(getattr(box, side) for box in boxes) - 1) for side in ("top", "left"))
    height = max(box.top + box.crop.shape[0] for box in boxes) - top
    width = max(box.left + box.crop.shape[1] for box in boxes) - left
    own, other = (mask.within(top, left, height, width) if not mask.empty else None for mask in (truth, prediction))
    if own is None or other is None:
        return MaskScores(0.0, distance, 0.0 if _contour_of_any(own, other, truth, top, left) else 1.0, False)
    intersection, union = np.count_nonzero(own & other), np.count_nonzero(own | other)
    touches = (top + height == truth.hw[0], left + width == truth.hw[1])
    accuracy = boundary_measure(_contour(own, touches), _contour(other, touches), truth.hw)
    return MaskScores(intersection / (union + 1e-7), distance, accuracy, True)


def _contour_of_any(
    own: Bool[np.ndarray, "h w"] | None, other: Bool[np.ndarray, "h w"] | None, mask: BoxedMask, top: int, left: int
) -> bool:
    """Whether the one mask that is there has a contour; the full image has none."""
    there = own if own is not None else other
    touches = (top + there.shape[0] == mask.hw[0], left + there.shape[1] == mask.hw[1])
    return bool(_contour(there, touches).any())


def _contour(mask: Bool[np.ndarray, "h w"], touches: tuple[bool, bool]) -> Bool[np.ndarray, "h w"]:
    """Pixels that differ from their right, lower or lower right neighbour; `touches` the image's bottom and right."""
    height, width = mask.shape
    padded = np.zeros((height + 1, width + 1), bool)
    padded[:height, :width] = mask
    right, below = padded[:height, 1:], padded[1:, :width]
    contour = (mask ^ right) | (mask ^ below) | (mask ^ padded[1:, 1:])
    # At the image's own border there is nothing to differ from.
    if touches[0]:
        contour[-1] = mask[-1] ^ right[-1]
    if touches[1]:
        contour[:, -1] = mask[:, -1] ^ below[:, -1]
    if touches == (True, True):
        contour[-1, -1] = False
    return contour


def boundary_measure(truth: Bool[np.ndarray, "h w"], prediction: Bool[np.ndarray, "h w"], hw: tuple[int, int]) -> float:
    """F measure of two contours, each pixel matched by any of the other within the tolerance of an image of `hw`."""
    num_truth, num_prediction = np.count_nonzero(truth), np.count_nonzero(prediction)
    if not num_truth and not num_prediction:
        return 1.0
    if not num_truth or not num_prediction:
        return 0.0
    disk = _disk(math.ceil(BOUNDARY_TOLERANCE * math.hypot(*hw)))
    cv2 = import_cv2()
    near_truth, near_prediction = (cv2.dilate(mask.view(np.uint8), disk).view(bool) for mask in (truth, prediction))
    precision = np.count_nonzero(prediction & near_truth) / num_prediction
    recall = np.count_nonzero(truth & near_prediction) / num_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@lru_cache(maxsize=8)
def _disk(radius: int) -> UInt8[np.ndarray, "d d"]:
    line = np.arange(-radius, radius + 1)
    return (line[:, None] ** 2 + line**2 <= radius**2).astype(np.uint8)


def balanced_accuracy(visible: Sequence[bool], predicted: Sequence[bool]) -> float:
    """Mean of the recalls of the classes that occur: of visible and of absent objects."""
    pairs = list(zip(visible, predicted, strict=True))
    recalls = [[own == kind for seen, own in pairs if seen == kind] for kind in (False, True)]
    recalls = [sum(recall) / len(recall) for recall in recalls if recall]
    return sum(recalls) / len(recalls) if recalls else math.nan


def box_truth(rle: Rle) -> BoxedMask:
    """Ground truth as the evaluator sees it."""
    return box_rle(rle, scored_hw(rle.hw))
