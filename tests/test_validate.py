"""Every deviation that stops the official evaluator is an error of ours, by name and place; the rest are warnings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import run

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.pairs import required_keys
from egoexo_xseg.errors import SubmissionError
from egoexo_xseg.jobs import validate as job
from egoexo_xseg.jobs.validate import validate
from egoexo_xseg.masks import mask_to_rle, scored_hw
from egoexo_xseg.records import Direction

EGO = "aria01_214-1"
MASK = mask_to_rle(np.eye(40, 60, dtype=bool))
GT = {
    "annotations": {
        "uid": {
            "subsample_idx": [0, 30, 60],
            "masks": {
                "cup _0": {EGO: {key: MASK.to_json() for key in ("0", "30", "60")}, "cam01": {"30": MASK.to_json()}},
                "fork": {"cam01": {"0": MASK.to_json()}},
            },
            "annotated_frames": {"cup _0": {EGO: [0, 30], "cam01": [0, 30]}, "fork": {"cam01": [0]}},
        }
    }
}


@pytest.fixture
def annotations(tmp_path):
    (tmp_path / "gt.json").write_text(json.dumps(GT))
    return open_annotations(tmp_path / "gt.json")


def perfect(annotations):
    """A submission without a fault: a small square everywhere, confidences that differ."""
    value = {}
    for direction in Direction:
        results = {}
        for take in annotations:
            masks = {}
            for object_id, pairs in required_keys(take, direction).items():
                masks[object_id] = {}
                for (query, target), frames in pairs.items():
                    square = np.zeros(scored_hw(take.camera_hw[target]), bool)
                    square[10:20, 10:20] = True
                    masks[object_id][f"{query}_{target}"] = {
                        str(frame): {"pred_mask": mask_to_rle(square).to_json(), "confidence": 0.4 + frame / 100}
                        for frame in frames
                    }
            results[take.take_uid] = {"masks": masks, "subsample_idx": list(take.sampled_frames)}
        value[direction.challenge_key] = {"version": "xx", "challenge": "xx", "results": results}
    return value


def check(tmp_path, annotations, value):
    (tmp_path / "s.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return validate(tmp_path / "s.json", annotations)


def test_a_submission_without_fault(tmp_path, annotations):
    report = check(tmp_path, annotations, perfect(annotations))
    kinds = {kind for _, kind in report.counts}
    # One sample per direction on one side is what this small case has.
    assert report.valid and kinds <= {
        "more than 99% of the objects predicted alike",
        "the same confidence everywhere: visibility scores 50%",
    }
    assert report.predictions == {"ego2exo": 3, "exo2ego": 1}


def frames(value, direction="ego-exo"):
    """The frames of the only scored object and camera pair."""
    pairs = value[direction]["results"]["uid"]["masks"]["cup _0"]
    return pairs[next(iter(pairs))]


TAKE = "ego-exo, take uid"
CUP = f"{TAKE}, object 'cup _0'"
PAIR = f"{CUP}, {EGO} to cam01"
DECISIVE, UNSEEN = f"{PAIR}, frame 30", f"{PAIR}, frame 0"


def edit_results(key, new):
    def edit(value):
        results = value["ego-exo"]["results"]
        results[new] = results.pop(key) if key in results else results["uid"]

    return edit


def edit_answer(frame="30", **changes):
    return lambda value: frames(value)[frame].update(changes)


def edit_mask(frame="30", **changes):
    return lambda value: frames(value)[frame]["pred_mask"].update(changes)


def rename_pair(new):
    def edit(value):
        pairs = value["ego-exo"]["results"]["uid"]["masks"]["cup _0"]
        pairs[new] = pairs.pop(f"{EGO}_cam01")

    return edit


HUGE = mask_to_rle(np.ones((320, 480), bool)).to_json()
EMPTY = mask_to_rle(np.zeros((320, 480), bool)).to_json()
STRAY = np.zeros((320, 480), bool)
STRAY[10:30, 10:30], STRAY[300, 470] = True, True


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda v: v.pop("exo-ego"), "exo-ego: direction missing (the server wants both)"),
        (lambda v: v.update({"ego-exo": []}), "ego-exo: no results"),
        (edit_results("uid", "other"), f"{TAKE}: take missing"),
        (edit_results("extra", "extra"), "ego-exo, take 'extra': take that is not asked for"),
        (lambda v: v["ego-exo"]["results"]["uid"].pop("subsample_idx"), f"{TAKE}: subsample_idx missing"),
        (lambda v: v["ego-exo"]["results"]["uid"].pop("masks"), f"{TAKE}: masks missing"),
        (lambda v: v["ego-exo"]["results"].update(uid=3), f"{TAKE}: a take must be a JSON object"),
        (lambda v: v["ego-exo"]["results"]["uid"]["masks"].pop("fork"), f"{TAKE}, object 'fork': object missing"),
        (lambda v: v["ego-exo"]["results"]["uid"]["masks"].update(spoon={}), f"{TAKE}, object 'spoon': object that is not asked for"),
        (rename_pair(f"{EGO}__cam01"), f"{PAIR}: camera pair missing (found '{EGO}__cam01', expected '{EGO}_cam01')"),
        (rename_pair(f"cam01_{EGO}"), f"{PAIR}: camera pair missing (found 'cam01_{EGO}', expected '{EGO}_cam01')"),
        (rename_pair("x"), f"{PAIR}: camera pair missing (expected '{EGO}_cam01')"),
        (lambda v: frames(v).pop("0"), f"{UNSEEN}: frame missing"),
        (lambda v: frames(v).update({"000030": frames(v).pop("30")}), f"{PAIR}: frame key with leading zeros (found '000030')"),
        (lambda v: frames(v)["30"].pop("confidence"), f"{DECISIVE}: confidence missing"),
        (lambda v: frames(v)["30"].pop("pred_mask"), f"{DECISIVE}: pred_mask missing"),
        (lambda v: frames(v).update({"30": None}), f"{DECISIVE}: pred_mask missing"),
        (edit_mask(size=[2160, 3840]), f"{DECISIVE}: mask of the wrong size (found 2160x3840, expected 320x480)"),
        (edit_mask(size=[480, 480]), f"{DECISIVE}: mask of the wrong size (found 480x480, expected 320x480)"),
        (edit_mask(size=[480, 320]), f"{DECISIVE}: mask of the wrong size (found 480x320, expected 320x480)"),
        (edit_answer(pred_mask=None), f"{DECISIVE}: unusable mask (a mask must be an object with size and counts, found None)"),
        (edit_answer("0", pred_mask=None), f"{UNSEEN}: unusable mask (a mask must be an object with size and counts, found None)"),
        (edit_answer("0", pred_mask={"size": [320, 480], "counts": [3, 4]}), f"{UNSEEN}: unusable mask (a mask's counts must be a compressed run-length string, found [3, 4])"),
        (edit_answer(pred_mask={}), f"{DECISIVE}: unusable mask (a mask's size must be [height, width], found None)"),
        (edit_mask(counts=[3, 4]), f"{DECISIVE}: unusable mask (a mask's counts must be a compressed run-length string, found [3, 4])"),
        (edit_mask(counts="0"), f"{DECISIVE}: unusable mask (a mask's runs do not fill its 320x480 pixels)"),
        (edit_answer(confidence=None), f"{DECISIVE}: confidence is not a number (found None)"),
        (edit_answer(confidence="0.9"), f"{DECISIVE}: confidence is not a number (found '0.9')"),
        (edit_answer(confidence=[0.9]), f"{DECISIVE}: confidence is not a number (found [0.9])"),
        (edit_answer(confidence=float("nan")), f"{DECISIVE}: confidence is not finite (found nan)"),
        (edit_answer(confidence=float("inf")), f"{DECISIVE}: confidence is not finite (found inf)"),
    ],
)  # fmt: skip
def test_errors(tmp_path, annotations, edit, line):
    value = perfect(annotations)
    edit(value)
    report = check(tmp_path, annotations, value)
    assert not report.valid
    assert line in [str(finding) for finding in report.findings if finding.severity == "error"]


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda v: v.update(note=1), "'note': unknown top-level key"),
        (lambda v: v["ego-exo"].update(version="1"), "ego-exo: version is not 'xx' (found '1')"),
        (lambda v: v["ego-exo"]["results"]["uid"].update(subsample_idx=[]), f"{TAKE}: subsample_idx differs from the annotations'"),
        (lambda v: frames(v).update({"90": frames(v)["30"]}), f"{PAIR}: frame that is not asked for ('90')"),
        (lambda v: v["ego-exo"]["results"]["uid"]["masks"]["fork"].update(x={}), f"{TAKE}, object 'fork': camera pair that is not asked for ('x')"),
        (edit_mask("0", size=[480, 480]), f"{UNSEEN}: mask of the wrong size (found 480x480, expected 320x480)"),
        (edit_mask("0", counts="0"), f"{UNSEEN}: unusable mask (a mask's runs do not fill its 320x480 pixels)"),
        (edit_answer("60", pred_mask=None), f"{PAIR}, frame 60: unusable mask (a mask must be an object with size and counts, found None)"),
        (edit_answer(confidence=0.5), f"{DECISIVE}: confidence is exactly 0.5, which counts as not visible"),
        (edit_answer(confidence=10**400), f"{DECISIVE}: confidence is not a number within 0 and 1 (found {'1' + 56 * '0'}...)"),
        (edit_answer(confidence=99), f"{DECISIVE}: confidence is not a number within 0 and 1 (found 99)"),
        (edit_answer(confidence=True), f"{DECISIVE}: confidence is not a number within 0 and 1 (found True)"),
        (edit_answer(pred_mask=EMPTY), f"{DECISIVE}: empty mask, which only loses points"),
        (edit_answer(pred_mask=HUGE), f"{DECISIVE}: mask of more than half the image (100%)"),
        (edit_answer(pred_mask=mask_to_rle(STRAY).to_json()), f"{DECISIVE}: small stray parts that widen the mask's box"),
        (lambda v: [a.update(confidence=0.7) for a in frames(v).values()], "ego-exo: the same confidence everywhere: visibility scores 50% (0.7)"),
        (lambda v: [a.update(confidence=float(k == "0")) for k, a in frames(v).items()], "ego-exo: only 0 and 1 as confidences: nothing to calibrate"),
        (lambda v: [a.update(confidence=0.9 + int(k) / 1000) for k, a in frames(v).items()], "ego-exo: more than 99% of the objects predicted alike (100.0% visible)"),
    ],
)  # fmt: skip
def test_warnings(tmp_path, annotations, edit, line):
    value = perfect(annotations)
    edit(value)
    report = check(tmp_path, annotations, value)
    assert report.valid
    assert line in [str(finding) for finding in report.findings]


def test_keys_that_stand_twice(tmp_path, annotations):
    text = json.dumps(perfect(annotations)).replace('"confidence": 0.7', '"confidence": 0.7, "confidence": 0.6')
    report = check(tmp_path, annotations, text)
    assert "'confidence': the same key twice in one JSON object" in map(str, report.findings)


def test_findings_are_counted_and_the_first_of_each_kind_kept(tmp_path, annotations, monkeypatch):
    monkeypatch.setattr(job, "KEPT", 40)
    value = perfect(annotations)
    for frame in range(1000, 1050):
        frames(value)[str(frame)] = frames(value)["30"]
    frames(value)["30"] = None
    report = check(tmp_path, annotations, value)
    assert report.counts["warning", "frame that is not asked for"] == 50
    assert sum(finding.kind == "frame that is not asked for" for finding in report.findings) == 40
    first = [finding.kind for finding in report.first(3)]
    assert first.count("frame that is not asked for") == 3 and "pred_mask missing" in first
    assert [finding.detail for finding in report.first(2)][:2] == ["'1000'", "'1001'"]


def test_places_are_told_apart_in_json(tmp_path, annotations):
    value = perfect(annotations)
    del frames(value)["30"]["confidence"]
    found = [f for f in check(tmp_path, annotations, value).to_json()["findings"] if f["severity"] == "error"]
    assert found == [
        {
            "severity": "error",
            "kind": "confidence missing",
            "part": "ego-exo",
            "take_uid": "uid",
            "object_id": "cup _0",
            "query_camera": EGO,
            "target_camera": "cam01",
            "frame": 30,
            "detail": "",
        }
    ]


def test_golden_submissions_are_valid(golden, tmp_path):
    case = golden / "evaluator" / "case11"
    if not case.is_dir():
        pytest.skip("no evaluator case in this folder")
    value = {}
    for direction in Direction:
        value |= json.loads((case / f"{direction.challenge_key}_pred.json").read_text())
    report = check(tmp_path, open_annotations(case / "gt.json"), value)
    assert report.valid and json.loads(json.dumps(report.to_json()))["valid"]


def test_a_file_that_is_no_json(tmp_path, annotations):
    with pytest.raises(SubmissionError) as caught:
        check(tmp_path, annotations, "{")
    assert str(caught.value) == f"{tmp_path / 's.json'}: not readable as JSON"
    assert not check(tmp_path, annotations, "[]").valid


def nodes(value, path=()):
    yield path
    for key in value if isinstance(value, dict) else ():
        yield from nodes(value[key], (*path, key))


junk = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
trees = st.recursive(
    junk,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.data(), trees)
def test_any_json_is_reported_on(tmp_path, annotations, data, junk):
    value = perfect(annotations)
    path = data.draw(st.sampled_from(sorted(nodes(value), key=str)))
    if not path:
        value = junk
    else:
        node = value
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = junk
    report = check(tmp_path, annotations, json.dumps(value))  # a bare text would be taken for the file's content
    json.dumps(report.to_json())


def test_takes_that_are_not_prepared_are_demanded_all_the_same(data, tmp_path):
    annotations = open_annotations(data, split="val")
    value = perfect(annotations)
    del value["ego-exo"]["results"]["take-b"]
    (data / "take-b" / "annotation.json").unlink()
    annotations = open_annotations(data, split="val")
    report = check(tmp_path, annotations, value)
    assert [str(finding) for finding in report.findings if finding.severity == "error"] == [
        "ego-exo, take take-b: take missing"
    ]
    assert report.counts["warning", "take that is not prepared, and not looked into"] == 1


def test_the_same_line_is_printed_once(data, tmp_path):
    value = perfect(open_annotations(data, split="val"))
    for results in value.values():
        for objects in results["results"]["take-a"]["masks"].values():
            for pairs in objects.values():
                for answer in pairs.values():
                    answer["confidence"] = float("nan")
    (tmp_path / "s.json").write_text(json.dumps(value))
    result = run("validate", tmp_path / "s.json", "--annotations", data)
    assert result.exit_code == 1
    assert result.stdout.count("error: NaN: a number that JSON does not have") == 1
    assert "(20 of a kind are shown; --json has more)" in result.stdout
