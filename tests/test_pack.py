"""Submissions are complete by construction, deterministic, and refused with a list where something is missing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.submission import read_submission
from egoexo_xseg.errors import PredictionError, SubmissionError
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.jobs.validate import validate
from egoexo_xseg.masks import Rle, mask_to_rle, rle_to_mask, scored_hw
from egoexo_xseg.records import Direction, Prediction


def square(hw, size):
    mask = np.zeros(hw, bool)
    mask[:size, :size] = True
    return mask_to_rle(mask)


@pytest.fixture
def annotations(data):
    return open_annotations(data, split="val")


@pytest.fixture
def predictions(annotations, tmp_path):
    """Everything that is asked for, written as `xseg predict` does; the frame decides the mask."""
    for direction in Direction:
        (tmp_path / "pred" / direction.value).mkdir(parents=True)
        for take in annotations:
            lines = [
                Prediction(take.take_uid, o.object_id, p.query_camera, p.target_camera, p.frame, square(scored_hw(p.target_hw), p.frame + 5), 0.3 + p.frame / 100, 1.0, 0.0).to_line()
                for p in iter_pairs(take, direction)
                for o in p.objects
            ]  # fmt: skip
            (tmp_path / "pred" / direction.value / f"{take.take_uid}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "pred"


def drop(predictions, direction, frame, camera="cam01", uid="take-a"):
    path = predictions / direction / f"{uid}.jsonl"
    lines = [Prediction.from_line(line) for line in path.read_text().splitlines()]
    kept = [line for line in lines if not (line.frame == frame and line.target_camera == camera)]
    path.write_text("".join(line.to_line() + "\n" for line in kept))
    return [line for line in lines if line not in kept]


def test_a_packed_submission_is_valid(predictions, annotations, tmp_path):
    summary = pack(predictions, annotations, tmp_path / "submission.json")
    report = validate(tmp_path / "submission.json", annotations)
    assert report.valid and report.predictions == summary.packed
    assert summary.filled == summary.extra == 0
    manifest = json.loads((tmp_path / "submission.manifest.json").read_text())
    assert manifest["packed"] == summary.packed and len(manifest["sha256"]) == 64
    results = read_submission(tmp_path / "submission.json")[Direction.EXO_EGO]
    assert results["take-a"]["masks"]["knife_2"] and results["take-a"]["subsample_idx"] == [0, 30, 60]


def test_same_predictions_same_bytes(predictions, annotations, tmp_path):
    pack(predictions, annotations, tmp_path / "a.json")
    pack(predictions, annotations, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_missing_predictions_are_one_error(predictions, annotations, tmp_path):
    gone = drop(predictions, "ego2exo", 30)
    with pytest.raises(SubmissionError) as caught:
        pack(predictions, annotations, tmp_path / "submission.json")
    places = "; ".join(
        f"ego2exo, take take-a, object {p.object_id!r}, {p.query_camera} to cam01, frame 30" for p in gone
    )
    assert len(gone) <= 3
    expected = f"{predictions}: {len(gone)} predictions are missing or unusable: {places}"
    assert (
        str(caught.value)
        == f"{' '.join(expected.split())}. Predict them, or pack with --fill center or --fill propagate"
    )
    assert not [path for path in tmp_path.iterdir() if "submission" in path.name]


def test_many_missing_predictions_are_not_all_listed(predictions, annotations, tmp_path):
    (predictions / "ego2exo" / "take-a.jsonl").unlink()
    with pytest.raises(
        SubmissionError, match=r"^.*: 12 predictions are missing or unusable: (ego2exo, take [^;]*; ){3}\.\.\."
    ):
        pack(predictions, annotations, tmp_path / "submission.json")


def answers(path, object_id="red cup _0", key="aria01_214-1_cam01"):
    return read_submission(path)[Direction.EGO_EXO]["take-a"]["masks"][object_id][key]


def test_fill_with_the_nearest_frame(predictions, annotations, tmp_path):
    drop(predictions, "ego2exo", 30)
    summary = pack(predictions, annotations, tmp_path / "s.json", fill="propagate")
    found = answers(tmp_path / "s.json")
    assert summary.filled == len(summary.missing) == 2
    assert found["30"] == {"pred_mask": found["0"]["pred_mask"], "confidence": 0.0}


def test_fill_with_a_pixel(predictions, annotations, tmp_path):
    drop(predictions, "ego2exo", 30)
    pack(predictions, annotations, tmp_path / "s.json", fill="center")
    mask = rle_to_mask(Rle.from_json(answers(tmp_path / "s.json")["30"]["pred_mask"]))
    assert mask.shape == (270, 480) and np.argwhere(mask).tolist() == [[135, 240]]
    assert validate(tmp_path / "s.json", annotations).valid


def test_masks_of_another_size_are_named(predictions, annotations, tmp_path):
    path = predictions / "ego2exo" / "take-b.jsonl"
    lines = path.read_text().splitlines()
    lines[0] = replace(Prediction.from_line(lines[0]), mask=square((480, 480), 3)).to_line()
    path.write_text("\n".join(lines))
    with pytest.raises(
        SubmissionError,
        match=r"1 predictions are missing or unusable: .*frame 0 \(a mask of 480x480, not 270x480\)\. Predict",
    ):
        pack(predictions, annotations, tmp_path / "s.json")


def test_extra_predictions_are_counted(predictions, annotations, tmp_path):
    path = predictions / "ego2exo" / "take-a.jsonl"
    extra = replace(Prediction.from_line(path.read_text().splitlines()[0]), frame=999)
    path.write_text(path.read_text() + extra.to_line() + "\n")
    assert pack(predictions, annotations, tmp_path / "s.json").extra == 1


def test_one_direction_wants_a_word(predictions, annotations, tmp_path):
    for file in (predictions / "exo2ego").iterdir():
        file.unlink()
    (predictions / "exo2ego").rmdir()
    with pytest.raises(SubmissionError) as caught:
        pack(predictions, annotations, tmp_path / "s.json")
    assert (
        str(caught.value)
        == f"{predictions}: no predictions for exo2ego. Run xseg predict --direction exo2ego, or pack with --partial"
    )
    summary = pack(predictions, annotations, tmp_path / "s.json", partial=True)
    assert list(read_submission(tmp_path / "s.json")) == [Direction.EGO_EXO] and summary.left_out == ["exo2ego"]


def test_takes_that_are_not_prepared_are_missed(predictions, data, tmp_path):
    (data / "split.json").write_text(json.dumps({"val": ["take-a", "take-b", "take-c"]}))
    annotations = open_annotations(data, split="val")
    with pytest.raises(SubmissionError) as caught:
        pack(predictions, annotations, tmp_path / "s.json")
    assert str(caught.value) == (
        f"{data}: 1 takes of the split are not prepared: take-c. xseg prepare tells why; or give the split's JSON file as "
        "--data, and --fill; or pack with --partial"
    )
    assert pack(predictions, annotations, tmp_path / "s.json", partial=True).left_out == ["take take-c"]


def test_frames_whose_query_mask_is_lost_are_answered_all_the_same(predictions, data, tmp_path):
    """The server's own file has them, and wants an answer."""
    path = data / "take-a" / "annotation.json"
    value = json.loads(path.read_text())
    value["masks"]["red cup _0"]["aria01_214-1"]["30"] = None
    path.write_text(json.dumps(value))
    for camera in ("cam01", "cam02"):
        drop(predictions, "ego2exo", 30, camera)
    annotations = open_annotations(data, split="val")
    with pytest.raises(SubmissionError, match="2 predictions are missing .*: .*object 'Bowl_1 '.*; .*object 'Bowl_1 '"):
        pack(predictions, annotations, tmp_path / "s.json")
    summary = pack(predictions, annotations, tmp_path / "s.json", fill="propagate")
    found = answers(tmp_path / "s.json")
    assert list(found) == ["0", "30", "60"] and found["30"] == {"pred_mask": found["0"]["pred_mask"], "confidence": 0.0}
    assert (summary.filled, len(summary.missing)) == (4, 2)
    assert validate(tmp_path / "s.json", annotations).valid


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{}", "a prediction needs take_uid, object_id, query_camera, target_camera and frame"),
        ("\xff\xfe", "a prediction must be one JSON object a line"),
    ],
)
def test_faulty_prediction_files(predictions, annotations, tmp_path, line, problem):
    path = predictions / "ego2exo" / "take-a.jsonl"
    path.write_bytes(path.read_bytes() + line.encode("latin-1"))
    with pytest.raises(PredictionError) as caught:
        pack(predictions, annotations, tmp_path / "s.json")
    assert str(caught.value) == f"{path}, line 13: {problem}"
    assert not (tmp_path / "s.json").exists()


def test_no_predictions(annotations, tmp_path):
    with pytest.raises(PredictionError, match="no predictions here. Run xseg predict --out with this folder"):
        pack(tmp_path, annotations, tmp_path / "s.json")


def test_answers_of_another_split_are_no_submission(predictions, annotations, tmp_path):
    for folder in predictions.iterdir():
        for path in list(folder.glob("*.jsonl")):
            path.rename(path.with_name(f"other-{path.name}"))
    with pytest.raises(SubmissionError) as fault:
        pack(predictions, annotations, tmp_path / "s.json", fill="center")
    assert "none of the 24 ego2exo answers is asked for. Another split's" in str(fault.value)
    assert not (tmp_path / "s.json").exists()
