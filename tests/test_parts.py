"""Connected parts of coded masks against OpenCV's of dense ones."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from egoexo_xseg.data.parts import connect, cut_into_columns, find_parts
from egoexo_xseg.masks import Rle, mask_to_rle, rle_to_mask, runs_to_rle

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(st.lists(masks, min_size=1, max_size=5))
@example([np.eye(3, dtype=bool), ~np.eye(4, dtype=bool)])
@example([np.zeros((2, 3), bool), np.ones((3, 2), bool)])
def test_parts_are_opencvs(several):
    pieces = cut_into_columns([mask_to_rle(mask) for mask in several])
    left, right = connect(pieces)
    size = pieces.mask.size
    count, part = connected_components(coo_array((np.ones(left.size), (left, right)), shape=(size, size)), False)
    parts = [cv2.connectedComponents(mask.astype(np.uint8), connectivity=8) for mask in several]
    assert count == sum(number - 1 for number, _ in parts)
    for mask, column, first, last, own in zip(*pieces, part, strict=True):
        labels = parts[mask][1][first : last + 1, column]
        assert labels.min() == labels.max() > 0
        # The same of our parts wherever it is the same of theirs.
        same = (pieces.mask == mask) & (part == own)
        places = zip(pieces.column[same], pieces.first[same], strict=True)
        assert {int(parts[mask][1][row, column]) for column, row in places} == {int(labels[0])}


def test_an_empty_run_splits_nothing():
    """Background 2, foreground 2, background 0, foreground 1: three pixels in one column."""
    rle = runs_to_rle(np.array([2, 2, 0, 1, 1]), (6, 1))
    assert rle_to_mask(rle)[:, 0].tolist() == [False, False, True, True, True, False]
    assert find_parts([rle], 0.6).widened.tolist() == [False]


def test_only_strays_that_widen_the_box_count():
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    mask[15:20, 15:20] = False
    inside, outside, large = mask.copy(), mask.copy(), mask.copy()
    inside[17, 17] = True
    outside[2, 35] = True
    large[0:5, 35:40] = True
    parts = find_parts([mask_to_rle(each) for each in (mask, inside, outside, large, mask & False)], 0.02)
    assert parts.areas.tolist() == [375, 376, 376, 400, 0]
    assert parts.widened.tolist() == [False, False, True, False, False]


def test_no_masks_at_all():
    assert find_parts([Rle((4, 4), "`0")], 0.02).areas.tolist() == [0]
