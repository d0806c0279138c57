"""Scores against dense definitions written out here, and hand-made masks with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from egoexo_xseg.data.metrics import balanced_accuracy, box_rle, box_truth, score_masks
from egoexo_xseg.masks import mask_to_rle, resize_nearest, scored_hw


def boxed(mask):
    return box_rle(mask_to_rle(mask), mask.shape)


def score(truth, prediction):
    return score_masks(boxed(truth), boxed(prediction))


def rectangle(hw, top, left, height, width):
    mask = np.zeros(hw, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def dense(box):
    mask = np.zeros(box.hw, bool)
    mask[box.top : box.top + box.crop.shape[0], box.left : box.left + box.crop.shape[1]] = box.crop
    return mask


def dense_contour(mask):
    """A pixel is contour if it differs from its right, lower or lower right neighbour; beyond the image nothing differs."""
    height, width = mask.shape
    contour = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            contour[y, x] = any(mask[y, x] != mask[b, a] for b, a in neighbours if b < height and a < width)
    return contour


def dense_boundary(truth, prediction):
    reach = math.ceil(0.008 * math.hypot(*truth.shape)) ** 2
    own, other = (np.argwhere(dense_contour(mask)) for mask in (truth, prediction))
    if not len(own) or not len(other):
        return float(len(own) == len(other))
    near = ((own[:, None] - other[None]) ** 2).sum(-1) <= reach
    recall, precision = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@st.composite
def mask_pairs(draw):
    """Two masks of rectangles and dust on one small grid, borders included."""
    hw = draw(st.tuples(st.integers(2, 30), st.integers(2, 30)))
    masks = []
    for _ in range(2):
        mask = np.zeros(hw, bool)
        for _ in range(draw(st.integers(0, 2))):
            top, left = draw(st.integers(0, hw[0] - 1)), draw(st.integers(0, hw[1] - 1))
            mask |= rectangle(hw, top, left, draw(st.integers(1, hw[0])), draw(st.integers(1, hw[1])))
        if draw(st.booleans()):
            mask ^= draw(arrays(bool, hw, elements=st.booleans(), fill=st.just(False)))
        masks.append(mask)
    return masks


@settings(deadline=None, max_examples=200)
@given(mask_pairs())
def test_scores_are_the_dense_ones(masks):
    truth, prediction = masks
    scores = score(truth, prediction)
    union = (truth | prediction).sum()
    assert scores.iou == ((truth & prediction).sum() / (union + 1e-7) if union else 1)
    assert scores.contour_accuracy == pytest.approx(dense_boundary(truth, prediction), abs=1e-12)
    assert scores.existence == (truth.any() == prediction.any())


@settings(deadline=None, max_examples=200)
@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.tuples(st.integers(1, 40), st.integers(1, 40)), st.data())
def test_boxes_hold_the_nearest_samples(source, grid, data):
    top, left = data.draw(st.integers(0, source[0] - 1)), data.draw(st.integers(0, source[1] - 1))
    mask = rectangle(source, top, left, data.draw(st.integers(1, source[0])), data.draw(st.integers(1, source[1])))
    mask ^= data.draw(arrays(bool, source, elements=st.booleans(), fill=st.just(False)))
    box = box_rle(mask_to_rle(mask), grid)
    assert np.array_equal(dense(box), resize_nearest(mask, grid))
    if not box.empty:
        assert box.crop[0].any() and box.crop[-1].any() and box.crop[:, 0].any() and box.crop[:, -1].any()


@pytest.mark.parametrize("hw", [(1408, 1408), (2160, 3840), (1520, 2704), (448, 796)])
def test_real_sizes(hw):
    rng = np.random.default_rng(0)
    mask = rectangle(hw, hw[0] // 3, hw[1] // 4, hw[0] // 2, hw[1] // 2) & (rng.random(hw) < 0.7)
    assert np.array_equal(dense(box_truth(mask_to_rle(mask))), resize_nearest(mask, scored_hw(hw)))


def test_a_perfect_prediction_misses_one_by_the_evaluators_epsilon():
    mask = rectangle((270, 480), 100, 100, 20, 20)
    scores = score(mask, mask)
    assert scores.iou == 400 / (400 + 1e-7) < 1
    assert (scores.location_error, scores.contour_accuracy, scores.existence) == (0, 1, True)


def test_the_same_shape_elsewhere_scores_nothing_in_contour():
    """The documentation promises registered contours; the code compares them where they are."""
    scores = score(rectangle((270, 480), 100, 100, 20, 20), rectangle((270, 480), 100, 130, 20, 20))
    assert (scores.iou, scores.contour_accuracy) == (0, 0)
    assert scores.location_error == pytest.approx(30 / math.hypot(480, 480))


def test_an_empty_prediction_lies_in_the_swapped_middle():
    truth, nothing = rectangle((270, 480), 100, 100, 21, 21), np.zeros((270, 480), bool)
    scores = score(truth, nothing)
    assert (scores.iou, scores.contour_accuracy, scores.existence) == (0, 0, False)
    assert scores.location_error == pytest.approx(math.dist((110, 110), (135, 240)) / math.hypot(480, 480))


def test_a_truth_too_small_to_survive_wants_nothing():
    truth = box_truth(mask_to_rle(rectangle((2160, 3840), 1, 1, 4, 4)))
    assert truth.empty
    nothing, something = boxed(np.zeros((270, 480), bool)), boxed(rectangle((270, 480), 5, 5, 3, 3))
    assert score_masks(truth, nothing).iou == 1 and score_masks(truth, nothing).contour_accuracy == 1
    assert score_masks(truth, something).iou == 0 and not score_masks(truth, something).existence


def test_boxes_midpoints_are_whole_numbers():
    even, odd = rectangle((480, 480), 0, 0, 2, 4), rectangle((480, 480), 0, 0, 3, 5)
    assert boxed(even).midpoint == (1, 0) and boxed(odd).midpoint == (2, 1)


@pytest.mark.parametrize(
    ("visible", "predicted", "expected"),
    [
        ([True, True, False, False], [True, False, False, False], 0.75),
        ([True, True, True, False], [True, True, True, True], 0.5),
        ([True, True], [True, False], 0.5),
        ([False], [False], 1.0),
    ],
)
def test_balanced_accuracy(visible, predicted, expected):
    assert balanced_accuracy(visible, predicted) == expected


def test_balanced_accuracy_of_nothing_is_undefined():
    assert math.isnan(balanced_accuracy([], []))
