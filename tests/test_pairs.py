"""Pairs are what the server's validator demands: nothing less, nothing twice."""

from __future__ import annotations

import numpy as np
import pytest

from egoexo_xseg.data.annotations import Take
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.pairs import iter_pairs, required_keys
from egoexo_xseg.masks import mask_to_rle
from egoexo_xseg.records import Direction

EGO = "aria01_214-1"
MASK = mask_to_rle(np.eye(4, dtype=bool))
OTHER = mask_to_rle(np.ones((4, 4), bool))


def take(masks, annotated=None, sizes=None):
    annotated = annotated or {}
    looked = {o: {c: annotated.get((o, c), ()) for c in cameras} for o, cameras in masks.items()}
    sizes = sizes or {EGO: (4, 4), "cam01": (4, 4), "cam02": (4, 4)}
    return Take("uid", "name", "", masks, looked, (0, 30), sizes)


CUP = {EGO: {0: MASK, 30: MASK}, "cam01": {30: OTHER}, "cam02": {}}
SPOON = {EGO: {30: MASK}, "cam02": {0: OTHER, 30: OTHER}}
FORK = {"cam01": {0: MASK}}


def test_required_keys_ego_to_exo():
    assert required_keys(take({"cup": CUP, "spoon": SPOON, "fork": FORK}), Direction.EGO_EXO) == {
        "cup": {(EGO, "cam01"): (0, 30), (EGO, "cam02"): (0, 30)},
        "spoon": {(EGO, "cam02"): (30,)},
        "fork": {},
    }


def test_required_keys_exo_to_ego():
    assert required_keys(take({"cup": CUP, "spoon": SPOON, "fork": FORK}), Direction.EXO_EGO) == {
        "cup": {("cam01", EGO): (30,), ("cam02", EGO): ()},
        "spoon": {("cam02", EGO): (0, 30)},
        "fork": {},
    }


def test_objects_of_one_frame_and_camera_pair_come_together():
    pairs = list(iter_pairs(take({"cup": CUP, "spoon": SPOON}), Direction.EGO_EXO))
    assert [(p.frame, p.target_camera, [o.object_id for o in p.objects]) for p in pairs] == [
        (0, "cam01", ["cup"]),
        (0, "cam02", ["cup"]),
        (30, "cam01", ["cup"]),
        (30, "cam02", ["cup", "spoon"]),
    ]
    assert all(p.query_camera == EGO and p.target_hw == (4, 4) for p in pairs)


def test_absent_and_unknown_targets_are_told_apart():
    annotated = {("cup", "cam01"): (0, 30), ("spoon", "cam02"): (0,)}
    pairs = iter_pairs(take({"cup": CUP, "spoon": SPOON}, annotated), Direction.EGO_EXO)
    found = {(o.object_id, p.target_camera, p.frame): (o.visible, o.annotated) for p in pairs for o in p.objects}
    assert found == {
        ("cup", "cam01", 0): (False, True),  # somebody looked: not visible
        ("cup", "cam01", 30): (True, True),
        ("cup", "cam02", 0): (False, False),  # nobody looked
        ("cup", "cam02", 30): (False, False),
        ("spoon", "cam02", 30): (False, False),  # a mask, but the frame is not annotated: never scored
    }


def test_a_split_whose_targets_are_hidden_asks_for_every_camera_of_the_other_side():
    hidden = take({"cup": {EGO: {30: MASK}}}, sizes={EGO: (4, 4), "cam01": (4, 4), "cam02": (8, 4)})
    assert required_keys(hidden, Direction.EGO_EXO) == {"cup": {(EGO, "cam01"): (30,), (EGO, "cam02"): (30,)}}
    assert [pair.target_hw for pair in iter_pairs(hidden, Direction.EGO_EXO)] == [(4, 4), (8, 4)]


@pytest.mark.parametrize("direction", Direction)
def test_pairs_hold_the_required_keys_exactly(golden, direction):
    from egoexo_xseg.data.annotations import open_annotations

    cases = sorted((golden / "evaluator").glob("*/gt.json"))
    assert cases
    for case in cases:
        for recording in open_annotations(case):
            pairs = iter_pairs(recording, direction)
            found = [(o.object_id, p.query_camera, p.target_camera, p.frame) for p in pairs for o in p.objects]
            wanted = [
                (object_id, query, target, frame)
                for object_id, cameras in required_keys(recording, direction).items()
                for (query, target), frames in cameras.items()
                for frame in frames
            ]
            assert sorted(found) == sorted(wanted) and len(set(found)) == len(found) > 0


def test_captions_come_along():
    captions = Captions({("uid", "cup", EGO, None): "a cup", ("uid", "cup", EGO, 30): "a red cup"})
    pairs = iter_pairs(take({"cup": CUP}), Direction.EGO_EXO, captions)
    assert [pair.objects[0].caption for pair in pairs] == ["a cup", "a cup", "a red cup", "a red cup"]
