"""Annotations of all three kinds, with every fault of the release named and skipped."""

from __future__ import annotations

import copy
import json
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egoexo_xseg.data.annotations import Fault, open_annotations
from egoexo_xseg.data.lzstring import compress
from egoexo_xseg.errors import AnnotationError, XsegError
from egoexo_xseg.masks import mask_to_rle

UID = "11111111-2222"
MASK = mask_to_rle(np.eye(4, 6, dtype=bool))


def coded(rle=MASK):
    return {"height": rle.hw[0], "width": rle.hw[1], "encodedMask": compress(rle.counts)}


def relations():
    track = {"annotation": {"0": coded(), "30": coded()}, "annotated_frames": [0, 30, 60], "annotation_fps": 1}
    empty = {"annotation": {}, "annotated_frames": [0]}
    take = {
        "take_name": "kitchen_1",
        "scenario": "Tea",
        "object_masks": {"red  cup _0 ": {"cam01": track, "cam02": empty}},
    }
    return {"annotations": {UID: take}}


def write(folder, value, name="relations_val.json"):
    (folder / name).write_text(json.dumps(value))
    return folder / name


def test_relations(tmp_path):
    (take,) = open_annotations(write(tmp_path, relations()))
    assert (take.take_uid, take.take_name, take.scenario) == (UID, "kitchen_1", "Tea")
    assert take.masks == {"red  cup _0 ": {"cam01": {0: MASK, 30: MASK}, "cam02": {}}}
    assert take.annotated_frames == {"red  cup _0 ": {"cam01": (0, 30, 60), "cam02": (0,)}}
    assert take.sampled_frames == (0, 30, 60)
    assert take.camera_hw == {"cam01": (4, 6), "cam02": (4, 6)}  # the unseen camera like its neighbours


def test_real_relations(real_relations):
    annotations = open_annotations(real_relations / "relations_sample.json")
    (take,) = annotations
    assert take.camera_hw == {"aria01_214-1": (1408, 1408), "cam04": (2160, 3840)} and not annotations.faults
    assert take.annotated_frames["stainless bowl_0"]["cam04"] == tuple(range(0, 240, 30))


def test_official_ground_truth_and_processed_takes(tmp_path):
    take = {
        "masks": {"cup": {"aria01_214-1": {"30": MASK.to_json()}, "cam01": {}}},
        "annotated_frames": {"cup": {"aria01_214-1": [30], "cam01": [30]}},
        "subsample_idx": [0, 30],
    }
    file = write(tmp_path, {"version": "xx", "challenge": "xx", "annotations": {UID: take}}, "correspondence-gt.json")
    (tmp_path / "data" / UID).mkdir(parents=True)
    write(tmp_path / "data" / UID, take | {"camera_size": {"cam01": [8, 9]}, "take_name": "n"}, "annotation.json")
    write(tmp_path / "data", {"val": [UID]}, "split.json")
    (official,), (processed,) = open_annotations(file), open_annotations(tmp_path / "data", split="val")
    assert official.masks == processed.masks and official.sampled_frames == processed.sampled_frames == (0, 30)
    assert official.camera_hw["cam01"] == (2160, 3840) and processed.camera_hw["cam01"] == (8, 9)
    assert official.folder is None and processed.folder == tmp_path / "data" / UID
    assert processed.cameras == ("aria01_214-1", "cam01")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda track: track.update({"30": {"height": 4, "width": 6, "encodedMask": "?"}}), "a mask's text is not LZString"),
        (lambda track: track.update({"30": coded() | {"width": 7}}), "a mask's runs do not fill its 4x7 pixels"),
        (lambda track: track.update({"30": coded() | {"width": 10**6}}), "a mask's sides must be within 1 and 16384, found [4, 1000000]"),
        (lambda track: track.update({"30": None}), "a mask must be an object with size and counts, found None"),
        (lambda track: track.update({"30": {"encodedMask": 7}}), "a packed mask must be text"),
        (lambda track: track.update({"0030": coded()}), "not a frame index"),
        (lambda track: track.update({"-30": coded()}), "not a frame index"),
        (lambda track: track.update({"90": coded(mask_to_rle(np.eye(2, dtype=bool)))}), "a mask of 2x2 in a camera of 4x6"),
    ],
)  # fmt: skip
def test_faulty_masks_are_named_and_skipped(tmp_path, change, fault):
    value = relations()
    change(value["annotations"][UID]["object_masks"]["red  cup _0 "]["cam01"]["annotation"])
    annotations = open_annotations(write(tmp_path, value))
    (take,) = annotations
    assert [found.problem for found in annotations.faults] == [fault]
    assert str(annotations.faults[0]).startswith(f"take '{UID}', object 'red  cup _0 ', camera 'cam01', frame '")
    assert take.masks["red  cup _0 "]["cam01"][0] == MASK
    annotations.load(UID)
    assert len(annotations.faults) == 1  # reading again does not count again


def test_a_lost_mask_does_not_say_that_the_object_is_absent(tmp_path):
    value = relations()
    value["annotations"][UID]["object_masks"]["red  cup _0 "]["cam01"]["annotation"]["30"] = None
    (take,) = open_annotations(write(tmp_path, value))
    assert take.annotated_frames["red  cup _0 "]["cam01"] == (0, 60)


def test_cameras_never_become_paths_unseen(tmp_path):
    value = relations()
    cameras = value["annotations"][UID]["object_masks"]["red  cup _0 "]
    cameras["../../etc"] = cameras.pop("cam02")
    value["annotations"]["../up"] = value["annotations"][UID]
    annotations = open_annotations(write(tmp_path, value))
    (take,) = annotations
    assert take.cameras == ("cam01",) and [fault.problem for fault in annotations.faults] == ["not a camera's name"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("[]", "the file must hold a JSON object"),
        ("{}", "no annotations in this file. Give relations_*.json or correspondence-gt.json"),
    ],
)
def test_files_that_are_something_else(tmp_path, text, problem):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(AnnotationError) as caught:
        open_annotations(tmp_path / "x.json")
    assert str(caught.value) == f"{tmp_path / 'x.json'}: {problem}"


def test_choosing_takes_and_splits(tmp_path):
    path = write(tmp_path, relations())
    assert len(open_annotations(path, takes=["kitchen_1"])) == len(open_annotations(path, takes=[UID])) == 1
    with pytest.raises(AnnotationError, match="no take 'nobody' here"):
        open_annotations(path, takes=["nobody"])
    with pytest.raises(AnnotationError, match="no prepared takes here. Run xseg prepare first"):
        open_annotations(tmp_path)
    write(tmp_path, {"train": []}, "split.json")
    with pytest.raises(AnnotationError, match="no split 'val'. It has: train"):
        open_annotations(tmp_path, split="val")


def mutations(value):
    """Every way to replace one node of a JSON tree."""
    if isinstance(value, dict):
        for key in value:
            yield (key,)
            for path in mutations(value[key]):
                yield (key, *path)


PATHS = list(mutations(relations()))
junk = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(st.sampled_from(PATHS), junk | st.dictionaries(st.text(max_size=4), junk, max_size=3))
def test_any_json_is_read_or_refused(tmp_path, path, value):
    tree = copy.deepcopy(relations())
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    try:
        list(open_annotations(write(tmp_path, tree)))
    except XsegError:
        pass


def test_a_file_of_another_split(tmp_path):
    path = write(tmp_path, {"annotations": {}}, "relations_val.json")
    assert len(open_annotations(path, split="val")) == 0
    with pytest.raises(AnnotationError) as fault:
        open_annotations(path, split="test")
    assert str(fault.value) == f"{path}: these are not the annotations of 'test'"


def test_a_raw_release_is_no_folder_of_prepared_takes(tmp_path):
    (tmp_path / "annotations").mkdir()
    write(tmp_path / "annotations", {"annotations": {}}, "relations_val.json")
    with pytest.raises(AnnotationError) as fault:
        open_annotations(tmp_path)
    assert "no prepared takes here. Of a raw release, name annotations/relations_*.json" in str(fault.value)


def test_small_files_that_unpack_to_very_much_are_read_in_little_memory(tmp_path):
    """20 masks of a million run lengths, the last a broken one: 40 kB of text that once took a gigabyte."""
    value = relations()
    noise = {"height": 4, "width": 6, "encodedMask": compress("1" * (1 << 20))}
    value["annotations"][UID]["object_masks"]["red  cup _0 "]["cam01"]["annotation"] |= {
        str(frame): noise for frame in range(90, 690, 30)
    }
    annotations = open_annotations(write(tmp_path, value))
    tracemalloc.start()
    (take,) = annotations
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert take.masks["red  cup _0 "]["cam01"] == {0: MASK, 30: MASK} and len(annotations.faults) == 20
    assert peak < 150e6


def test_a_take_may_unpack_so_much_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("egoexo_xseg.data.annotations.MOST", len(MASK.counts) + 2)
    annotations = open_annotations(write(tmp_path, relations()))
    (take,) = annotations
    assert take.masks["red  cup _0 "]["cam01"] == {0: MASK}
    assert [fault.problem for fault in annotations.faults] == [
        f"the masks of its take have more than {len(MASK.counts) + 2} characters"
    ]
    assert take.lost_frames["red  cup _0 "]["cam01"] == (30,)


def test_a_track_is_settled_in_parts(tmp_path, monkeypatch):
    whole = next(iter(open_annotations(write(tmp_path, relations()))))
    monkeypatch.setattr("egoexo_xseg.data.annotations.HELD", 1)
    monkeypatch.setattr("egoexo_xseg.masks.TOGETHER", 1)
    assert next(iter(open_annotations(write(tmp_path, relations())))) == whole


def test_noting_many_faults_takes_no_time_to_speak_of(tmp_path):
    annotations = open_annotations(write(tmp_path, relations()))
    faults = [Fault("broken", UID, frame=str(frame)) for frame in range(20_000)]
    before = time.perf_counter()
    annotations.note(faults)
    annotations.note(faults)
    assert annotations.faults == faults and time.perf_counter() - before < 5  # compared one by one: minutes
