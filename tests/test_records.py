"""Predictions survive the trip through their file, and strangers' lines are refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egoexo_xseg.errors import PredictionError
from egoexo_xseg.masks import mask_to_rle
from egoexo_xseg.records import Direction, Prediction, is_ego

MASK = mask_to_rle(np.eye(4, dtype=bool))
probabilities = st.floats(0, 1)


@given(st.text(max_size=20), st.integers(0, 10**6), probabilities, probabilities, *[st.none() | probabilities] * 2)
def test_round_trip(object_id, frame, visibility, score, margin, likeness):
    prediction = Prediction("take", object_id, "aria01", "cam01", frame, MASK, visibility, score, margin, likeness)
    line = prediction.to_line()
    assert "\n" not in line and Prediction.from_line(line) == prediction


def test_other_methods_score_is_their_confidence_and_they_tell_nothing_else():
    row = json.loads(Prediction("t", "o", "a", "b", 0, MASK, 0.25, 1.0, 1.0, 1.0).to_line())
    del row["score"], row["margin"], row["likeness"]
    prediction = Prediction.from_line(json.dumps(row))
    assert (prediction.score, prediction.margin, prediction.likeness) == (0.25, None, None)
    assert Prediction.from_line(prediction.to_line()) == prediction
    assert not {"margin", "likeness"} & set(json.loads(prediction.to_line()))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"confidence": float("nan")}, "confidence must be a number within 0 and 1, found nan"),
        ({"confidence": True}, "confidence must be a number within 0 and 1, found True"),
        ({"confidence": "0.9"}, "confidence must be a number within 0 and 1, found '0.9'"),
        ({"frame": "30"}, "a prediction needs take_uid, object_id, query_camera, target_camera and frame"),
        ({"take_uid": 7}, "a prediction needs take_uid, object_id, query_camera, target_camera and frame"),
        ({"pred_mask": None}, "object 'o', frame 0: a mask must be an object with size and counts, found None"),
    ],
)
def test_faulty_lines(change, problem):
    row = json.loads(Prediction("t", "o", "a", "b", 0, MASK, 0.25, 1.0, 1.0, 1.0).to_line())
    with pytest.raises(PredictionError) as caught:
        Prediction.from_line(json.dumps(row | change))
    assert str(caught.value) == problem


@given(st.text(max_size=40) | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists).map(json.dumps))
def test_any_line_is_a_prediction_or_an_error(line):
    with pytest.raises(PredictionError):
        Prediction.from_line(line)


def test_directions_spell_both_ways():
    assert [d.challenge_key for d in Direction] == ["ego-exo", "exo-ego"]
    assert Direction("ego2exo").query_is_ego and not Direction("exo2ego").query_is_ego


def test_ego_cameras_are_aria_glasses():
    assert is_ego("aria01_214-1") and is_ego("aria02_1201-1") and not is_ego("cam01") and not is_ego("gp03")
