"""Scores against dense definitions written out here, and hand-made masks with known answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from egoexo_xseg.data.metrics import balanced_accuracy, read_stretches, score_masks
from egoexo_xseg.masks import mask_to_rle, resize_nearest, scored_hw


def score(truth, prediction):
    (scores,) = score_masks([mask_to_rle(truth)], [mask_to_rle(prediction)])
    return scores


def rectangle(hw, top, left, height, width):
    mask = np.zeros(hw, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def dense(stretches):
    """Every mask as a full image."""
    masks = np.zeros((len(stretches.first) - 1, *stretches.hw), bool)
    for mask, (start, stop) in zip(masks, itertools.pairwise(stretches.first), strict=True):
        for place in range(start, stop):
            mask[stretches.top[place] : stretches.bottom[place], stretches.column[place]] = True
    return masks


def dense_contour(mask):
    """A pixel is contour if it differs from its right, lower or lower right neighbour; beyond the image nothing differs."""
    more = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != more[:-1, 1:]) | (mask != more[1:, :-1]) | (mask != more[1:, 1:])


def dense_boundary(truth, prediction):
    reach = math.ceil(0.008 * math.hypot(*truth.shape)) ** 2
    own, other = (np.argwhere(dense_contour(mask)) for mask in (truth, prediction))
    if not len(own) or not len(other):
        return float(len(own) == len(other))
    near = ((own[:, None] - other[None]) ** 2).sum(-1) <= reach
    recall, precision = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


GRIDS = [(480, 12), (480, 67), (1, 480), (63, 480), (64, 480), (65, 480), (130, 480)]
"""As the benchmark scores on, but small: heights around those of a word of pixels."""


@st.composite
def mask_pairs(draw):
    """A truth and a prediction of rectangles and dust, borders included; some predictions are the truth, moved a little."""
    hw = draw(st.sampled_from(GRIDS))
    masks = []
    for _ in range(2):
        mask = np.zeros(hw, bool)
        for _ in range(draw(st.integers(0, 2))):
            top, left = draw(st.integers(0, hw[0] - 1)), draw(st.integers(0, hw[1] - 1))
            mask ^= rectangle(hw, top, left, draw(st.integers(1, hw[0])), draw(st.integers(1, hw[1])))
        for pixel in draw(st.lists(st.integers(0, mask.size - 1), max_size=5)):
            mask.flat[pixel] ^= True
        masks.append(mask)
    if draw(st.booleans()):
        masks[1] = np.roll(masks[0], draw(st.tuples(st.integers(-5, 5), st.integers(-5, 5))), (0, 1))
    return masks


@settings(deadline=None, max_examples=200)
@given(st.lists(mask_pairs(), min_size=1, max_size=4), st.booleans())
def test_scores_are_the_dense_ones(pairs, twice):
    pairs += pairs[:1] * twice
    truths, predictions = ([mask_to_rle(mask) for mask in masks] for masks in zip(*pairs, strict=True))
    for (truth, prediction), scores in zip(pairs, score_masks(truths, predictions), strict=True):
        union = (truth | prediction).sum()
        assert scores.iou == ((truth & prediction).sum() / (union + 1e-7) if union else 1)
        assert scores.contour_accuracy == pytest.approx(dense_boundary(truth, prediction), abs=1e-12)
        assert scores.existence == (truth.any() == prediction.any())


def test_more_pairs_than_are_scored_at_once():
    rng = np.random.default_rng(0)
    masks = [rectangle((270, 480), *rng.integers(0, 250, 2), *rng.integers(1, 90, 2)) for _ in range(150)]
    rles = [mask_to_rle(mask) for mask in masks]
    predictions = rles[1:] + rles[:1]
    together = score_masks(rles, predictions)
    assert together == [score(*pair) for pair in zip(masks, masks[1:] + masks[:1], strict=True)]
    assert score_masks([], []) == []


@settings(deadline=None, max_examples=200)
@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.tuples(st.integers(1, 80), st.integers(1, 40)), st.data())
def test_stretches_hold_the_nearest_samples(source, grid, data):
    masks = []
    for _ in range(data.draw(st.integers(1, 3))):
        top, left = data.draw(st.integers(0, source[0] - 1)), data.draw(st.integers(0, source[1] - 1))
        mask = rectangle(source, top, left, data.draw(st.integers(1, source[0])), data.draw(st.integers(1, source[1])))
        masks.append(mask ^ data.draw(arrays(bool, source, elements=st.booleans(), fill=st.just(False))))
    order = np.array([*range(len(masks)), 0])
    read = read_stretches([mask_to_rle(mask) for mask in masks], grid).take(order)
    assert np.array_equal(dense(read), [resize_nearest(masks[number], grid) for number in order])
    for mask, empty, corner, end in zip(dense(read), read.empty, read.corner.T, read.end.T, strict=True):
        places = np.argwhere(mask)
        assert empty == (not len(places))
        assert corner.tolist() == (places.min(0).tolist() if len(places) else list(grid))
        assert end.tolist() == ((places.max(0) + 1).tolist() if len(places) else [0, 0])


@pytest.mark.parametrize("hw", [(1408, 1408), (2160, 3840), (1520, 2704), (448, 796)])
def test_real_sizes(hw):
    rng = np.random.default_rng(0)
    mask = rectangle(hw, hw[0] // 3, hw[1] // 4, hw[0] // 2, hw[1] // 2) & (rng.random(hw) < 0.7)
    (found,) = dense(read_stretches([mask_to_rle(mask)], scored_hw(hw)))
    assert np.array_equal(found, resize_nearest(mask, scored_hw(hw)))


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
    truth = mask_to_rle(rectangle((2160, 3840), 1, 1, 4, 4))
    nothing, something = np.zeros((270, 480), bool), rectangle((270, 480), 5, 5, 3, 3)
    of_nothing, of_something = score_masks([truth] * 2, [mask_to_rle(nothing), mask_to_rle(something)])
    assert of_nothing.iou == 1 and of_nothing.contour_accuracy == 1
    assert of_something.iou == 0 and not of_something.existence


def test_boxes_midpoints_are_whole_numbers():
    masks = [rectangle((480, 480), 0, 0, 2, 4), rectangle((480, 480), 0, 0, 3, 5)]
    stretches = read_stretches([mask_to_rle(mask) for mask in masks], (480, 480))
    assert stretches.midpoints.T.tolist() == [[1, 0], [2, 1]]


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
