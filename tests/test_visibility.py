"""Signals by hand, maps that stay finite, calibration files that are believed only when they fit."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egoexo_xseg.data.visibility import (
    SIGNALS,
    Term,
    VisibilityMap,
    checkpoint_map,
    measure,
    read_calibration,
)
from egoexo_xseg.errors import CheckpointError, MaskError, PredictionError
from egoexo_xseg.masks import Rle, mask_to_rle
from egoexo_xseg.records import Direction, Prediction

MODEL = "c0ffee"


def drawn(picture: str) -> Rle:
    return mask_to_rle(np.array([[pixel == "#" for pixel in line] for line in picture.split()]))


INSIDE = drawn("..... .##.. .##.. .....")


def prediction(score: float = 0.5, margin: float | None = 0.25, mask: Rle = INSIDE, like: float | None = 0.8):
    return Prediction("take", "a cup", "aria01", "cam01", 30, mask, 0.9, score, margin, like)


@pytest.mark.parametrize(
    ("picture", "area", "cut"),
    [
        ("..... .##.. .##.. .....", 4 / 20, 0),
        (".##.. .##.. ..... .....", 4 / 20, 2 / 2),  # along the top
        ("..... ..... ..... .#...", 1 / 20, 1),  # one pixel at the bottom
        ("..... #.... #.... .....", 2 / 20, 2 / math.sqrt(2)),  # along the left
        ("....# ..... ..... .....", 1 / 20, 2),  # a corner lies on two sides
        ("..... ....# ..... #....", 2 / 20, 3 / math.sqrt(2)),
        ("##### ##### ##### #####", 1, 18 / math.sqrt(20)),
        ("##### ..... ..... .....", 5 / 20, 7 / math.sqrt(5)),
        ("..... ..... ..... .....", 0.5 / 20, 0),  # nothing at all
    ],
)
def test_areas_and_cuts_by_hand(picture, area, cut):
    expected = pytest.approx((math.log(area), min(cut, 2)))
    own, query = measure(prediction(mask=drawn(picture)), INSIDE), measure(prediction(), drawn(picture))
    assert (own["mask_area"], own["mask_cut"]) == (query["query_area"], query["query_cut"]) == expected
    assert (own["query_area"], own["query_cut"]) == (query["mask_area"], query["mask_cut"]) == (math.log(0.2), 0)


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
def test_cuts_equal_those_counted_on_pixels(seed, height, width):
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    border = mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum()
    signals = measure(prediction(mask=mask_to_rle(mask)), INSIDE)
    assert signals["mask_cut"] == pytest.approx(min(border / math.sqrt(max(mask.sum(), 1)), 2))


def test_scores_become_bounded_log_odds():
    assert measure(prediction(0.5), INSIDE)["score"] == 0
    assert measure(prediction(0.9), INSIDE)["score"] == pytest.approx(math.log(9))
    assert measure(prediction(0.0), INSIDE)["score"] == pytest.approx(-9.21024)
    assert measure(prediction(1.0), INSIDE)["score"] == pytest.approx(9.21024)


def test_signals_of_a_method_without_proposals():
    assert tuple(measure(prediction(), INSIDE)) == SIGNALS
    assert measure(prediction(), INSIDE)["likeness"] == 0.8
    own = measure(prediction(margin=None, like=None), INSIDE)
    assert tuple(own) == tuple(name for name in SIGNALS if name not in ("margin", "likeness"))


def test_masks_that_cannot_be_read():
    with pytest.raises(MaskError):
        measure(prediction(mask=Rle((4, 5), "zzz")), INSIDE)


STEP = VisibilityMap(MODEL, -3.0, {"score": Term(1.0, 2.0, 4.0), "margin": Term(0.0, 0.5, 1.0)}, {"takes": 3})
"""Log odds 2 logit(score) + 2 margin - 5."""


def test_the_map_judges_visibility_alone():
    judged = STEP.apply(prediction(0.9, 0.25), INSIDE)
    odds = 2 * math.log(9) + 0.5 - 5
    assert judged == replace(prediction(0.9, 0.25), visibility=judged.visibility)
    assert judged.visibility == pytest.approx(1 / (1 + math.exp(-odds)))


def test_a_map_of_nothing_is_undecided():
    assert VisibilityMap(None, 0.0, {}).apply(prediction(), INSIDE).visibility == 0.5


def test_a_signal_that_is_missing():
    with pytest.raises(PredictionError) as caught:
        STEP.apply(prediction(margin=None), INSIDE)
    assert str(caught.value) == "no margin in this prediction, which the calibration goes by"


def write(folder, value) -> None:
    (folder / "calibration.json").write_text(value if isinstance(value, str) else json.dumps(value))


def test_round_trip(tmp_path):
    write(tmp_path, {"exo2ego": STEP.to_json()})
    assert read_calibration(tmp_path / "calibration.json") == {Direction.EXO_EGO: STEP}


def test_digest_is_of_what_decides():
    assert STEP.digest == replace(STEP, fitted={}).digest
    others = replace(STEP, intercept=-3.1), replace(STEP, model=None), replace(STEP, terms={})
    assert len({STEP.digest, *(other.digest for other in others)}) == 4


def test_a_checkpoints_map(tmp_path):
    assert checkpoint_map(tmp_path, MODEL, Direction.EGO_EXO) is None
    write(tmp_path, {"exo2ego": STEP.to_json()})
    assert checkpoint_map(tmp_path, MODEL, Direction.EXO_EGO) == STEP
    assert checkpoint_map(tmp_path, MODEL, Direction.EGO_EXO) is None


def test_another_checkpoints_map_is_refused(tmp_path):
    write(tmp_path, {"exo2ego": STEP.to_json()})
    with pytest.raises(CheckpointError) as caught:
        checkpoint_map(tmp_path, "decaf", Direction.EXO_EGO)
    problem = "exo2ego was calibrated for another checkpoint than this one"
    remedy = "Run xseg calibrate again, or delete the file"
    assert str(caught.value) == f"{tmp_path / 'calibration.json'}: {problem}. {remedy}"


def changed(**changes) -> dict:
    return {"ego2exo": {**STEP.to_json(), **changes}}


NUMBER = "must be a number within -1e+06 and 1e+06, found"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{", "not readable as JSON"),
        ("[]", "the file must hold a JSON object"),
        ({"ego2exo": None}, "not a calibration: a direction needs model, intercept and signals"),
        ({"ego2exo": {"signals": {}}}, "not a calibration: a direction needs model, intercept and signals"),
        (changed(signals=[]), "not a calibration: a direction needs model, intercept and signals"),
        (changed(model=7), "not a calibration: model must be a checkpoint's hash or null"),
        (changed(intercept=None), f"not a calibration: intercept {NUMBER} None"),
        (changed(intercept=math.nan), f"not a calibration: intercept {NUMBER} nan"),
        (changed(signals={"luck": {}}), f"not a calibration: no signal 'luck'; there are: {', '.join(SIGNALS)}"),
        (changed(signals={"score": 1}), f"not a calibration: score's mean {NUMBER} None"),
        (changed(signals={"score": {"mean": 0, "scale": 1, "weight": True}}), f"not a calibration: score's weight {NUMBER} True"),
        (changed(signals={"score": {"mean": 0, "scale": 1, "weight": math.inf}}), f"not a calibration: score's weight {NUMBER} inf"),
        (changed(signals={"score": {"mean": 0, "scale": 0, "weight": 1}}), "not a calibration: score's scale must be at least 1e-06, found 0.0"),
    ],
)  # fmt: skip
def test_files_that_are_no_calibration(tmp_path, value, problem):
    write(tmp_path, value)
    with pytest.raises(CheckpointError) as caught:
        read_calibration(tmp_path / "calibration.json")
    assert str(caught.value) == f"{tmp_path / 'calibration.json'}: {problem}"


numbers = st.floats(-1e6, 1e6)
terms = st.builds(Term, numbers, st.floats(1e-6, 1e6), numbers)


@given(
    numbers, st.dictionaries(st.sampled_from(SIGNALS), terms), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**6)
)
def test_no_map_gives_anything_but_a_probability(intercept, parts, score, margin, seed):
    mask = mask_to_rle(np.random.default_rng(seed).random((5, 7)) < 0.3)
    judged = VisibilityMap(None, intercept, parts).apply(prediction(score, margin, mask), INSIDE)
    assert 0 <= judged.visibility <= 1
