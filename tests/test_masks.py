"""Coded masks against pycocotools, and the scorer's sizes against the official evaluator's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from egoexo_xseg.errors import MaskError
from egoexo_xseg.masks import (
    Rle,
    mask_to_rle,
    nearest_indices,
    parse_together,
    resize_nearest,
    rle_area,
    rle_to_mask,
    rle_to_runs,
    runs_to_rle,
    scored_hw,
)

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


def test_runs_of_a_known_mask():
    mask = np.array([[0, 1, 0], [0, 1, 1]], bool)
    assert rle_to_runs(mask_to_rle(mask)).tolist() == [2, 2, 1, 1]


@given(masks)
def test_round_trips(mask):
    rle = mask_to_rle(mask)
    assert runs_to_rle(rle_to_runs(rle), rle.hw) == rle
    assert np.array_equal(rle_to_mask(rle), mask)
    assert rle_area(rle) == mask.sum()
    assert Rle.from_json(rle.to_json()) == rle


@given(st.lists(st.integers(0, 1 << 24), min_size=1, max_size=12))
def test_long_runs_read_as_pycocotools_wrote_them(runs):
    """Runs longer than any small mask has, which need several characters each."""
    height = 1 << 12
    width = max(1, -(-sum(runs) // height))
    if width > 1 << 14:
        return
    runs = [*runs, height * width - sum(runs)]
    counts = coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]
    assert rle_to_runs(Rle((height, width), counts.decode())).tolist() == runs


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ("", "a mask's counts are not a compressed run-length string"),
        ("0", "a mask's runs do not fill its 4x4 pixels"),
        ("`", "a mask's counts are not a compressed run-length string"),
        ("\x01", "a mask's counts are not a compressed run-length string"),
        ("é", "a mask's counts must be ascii"),
        ("oooooooo0", "a mask's counts hold a number that no image can have"),
        ("A@", "a mask's runs do not fill its 4x4 pixels"),
    ],
)
def test_hostile_counts(counts, problem):
    with pytest.raises(MaskError) as caught:
        rle_to_mask(Rle((4, 4), counts))
    assert str(caught.value) == problem


@given(st.text(max_size=30), st.integers(1, 50), st.integers(1, 50))
def test_any_text_is_a_mask_or_a_mask_error(counts, height, width):
    try:
        runs = rle_to_runs(Rle((height, width), counts))
    except MaskError:
        return
    assert runs.min() >= 0 and runs.sum() == height * width


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "a mask must be an object with size and counts, found None"),
        ({"counts": "0"}, "a mask's size must be [height, width], found None"),
        ({"size": [4.0, 4], "counts": "0"}, "a mask's size must be [height, width], found [4.0, 4]"),
        ({"size": [4, True], "counts": "0"}, "a mask's size must be [height, width], found [4, True]"),
        (
            {"size": [100000, 100000], "counts": "0"},
            "a mask's sides must be within 1 and 16384, found [100000, 100000]",
        ),
        ({"size": [4, 4], "counts": [16]}, "a mask's counts must be a compressed run-length string, found [16]"),
    ],
)
def test_hostile_json(value, problem):
    with pytest.raises(MaskError) as caught:
        Rle.from_json(value)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("hw", "scored"),
    [
        ((1408, 1408), (480, 480)),
        ((448, 448), (480, 480)),
        ((2160, 3840), (270, 480)),
        ((540, 960), (270, 480)),
        ((2028, 2704), (360, 480)),
        ((1520, 2704), (269, 480)),
        ((1404, 2496), (270, 479)),
        ((3840, 2160), (480, 270)),
        ((491, 491), (479, 479)),
    ],
)
def test_scored_size_is_the_evaluators(hw, scored):
    assert scored_hw(hw) == scored


def test_683_squares_lose_a_pixel():
    """Counted with the official expression: float rounding is part of the format."""
    assert sum(scored_hw((side, side)) != (480, 480) for side in range(480, 4001)) == 683


@given(st.integers(1, 5000), st.integers(1, 480))
@example(1408, 480)
@example(1520, 269)
@example(2496, 479)
@example(3892, 480)  # exact arithmetic takes another pixel
@example(2038, 480)  # so does a single division
def test_nearest_is_opencvs(source, size):
    """Both axes; OpenCV computes them alike."""
    line = np.arange(source, dtype=np.float32)[None]
    expected = cv2.resize(line, (size, 1), interpolation=cv2.INTER_NEAREST)[0]
    assert np.array_equal(nearest_indices(source, size), expected)
    upright = cv2.resize(np.ascontiguousarray(line.T), (1, size), interpolation=cv2.INTER_NEAREST)[:, 0]
    assert np.array_equal(upright, expected)


def test_resize_nearest_picks_pixels():
    mask = np.zeros((4, 4), bool)
    mask[0, 2] = True
    assert resize_nearest(mask, (2, 2)).tolist() == [[False, True], [False, False]]


@given(st.lists(masks, max_size=8))
def test_many_at_once_read_as_one_by_one(several):
    rles = [mask_to_rle(mask) for mask in several]
    parse_together(rles)
    for rle in rles:
        assert rle._runs is not None and rle._runs.tolist() == rle_to_runs(Rle(rle.hw, rle.counts)).tolist()


@pytest.mark.parametrize("broken", ["", "0", "`", "\x7f", "é", "lots", "0`0" * 4, "PPPPPPPP0"])
def test_faulty_masks_among_many_are_left_to_be_named(broken):
    good = [mask_to_rle(np.eye(4, dtype=bool)), mask_to_rle(np.ones((4, 4), bool))]
    bad = Rle((4, 4), broken)
    parse_together([good[0], bad, good[1]])
    assert bad._runs is None
    assert [rle_to_mask(rle).sum() for rle in good] == [4, 16]
    with pytest.raises(MaskError):
        rle_to_runs(bad)
