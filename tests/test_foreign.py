"""Any method's answers become a submission: lists of masks in files, and results of the official baselines."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from conftest import CAMERAS, EGO
from PIL import Image
from test_cli import error, run
from test_pack import annotations, predictions, square  # noqa: F401 - fixtures

from egoexo_xseg.data.foreign import ForeignAnswers
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.submission import read_submission
from egoexo_xseg.errors import PredictionError, SubmissionError
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.masks import mask_to_rle, rle_area, rle_to_mask, scored_hw
from egoexo_xseg.records import Direction, Prediction

PLACE = {"take_uid": "t", "object_id": "cup", "query_camera": "aria01_214-1", "target_camera": "cam01", "frame": 30}
HW = (27, 48)


def half(hw, value=1) -> np.ndarray:
    mask = np.zeros(hw, np.uint8)
    mask[:, : hw[1] // 2] = value
    return mask


def read(folder, *rows, name="answers.jsonl"):
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return ForeignAnswers.read([path])


def answer(folder, **row) -> Prediction:
    found = read(folder, PLACE | row).of_take(Direction.EGO_EXO, "t", {}, {"cam01": HW})
    ((key, prediction),) = found.items()
    assert key == ("cup", "aria01_214-1", "cam01", 30)
    return prediction


@pytest.mark.parametrize("factor", [1, 3])
def test_the_same_mask_in_every_form(tmp_path, factor):
    """Of the scorer's size, or a multiple that its nearest pixels bring back to it."""
    mask = half((HW[0] * factor, HW[1] * factor))
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask * 255).save(tmp_path / "masks" / "a.png")
    np.save(tmp_path / "a.npy", mask.astype(bool))
    np.savez_compressed(tmp_path / "many.npz", first=mask * 0, second=np.asfortranarray(mask * 7.0))
    np.savez(tmp_path / "one.npz", mask.astype(np.int32))
    expected = mask_to_rle(half(HW).astype(bool))
    for row in (
        {"mask": "masks/a.png"},
        {"mask": "a.npy"},
        {"mask": "many.npz", "key": "second"},
        {"mask": "one.npz"},
        {"pred_mask": mask_to_rle(mask.astype(bool)).to_json()},
    ):
        assert answer(tmp_path, **row, confidence=0.25).mask == expected, row
    assert answer(tmp_path, mask="a.npy", confidence=0.25).visibility == 0.25


def test_without_a_confidence_a_mask_means_visible(tmp_path):
    empty = mask_to_rle(np.zeros(HW, bool)).to_json()
    answers = read(
        tmp_path,
        PLACE | {"pred_mask": empty},
        PLACE | {"frame": 60, "pred_mask": square(HW, 3).to_json()},
        PLACE | {"frame": 90, "pred_mask": square((270, 480), 30).to_json(), "confidence": 1},
    )
    found = answers.of_take(Direction.EGO_EXO, "t", {}, {"cam01": HW})
    assert [each.visibility for each in found.values()] == [0.0, 1.0, 1.0]
    assert (answers.judged, answers.resized) == (2, 1) and answers.directions == [Direction.EGO_EXO]
    assert answers.of_take(Direction.EXO_EGO, "t", {}, {}) == {}


def archive(folder, content: bytes, name="x.npy"):
    with zipfile.ZipFile(folder / "bad.npz", "w") as file:
        file.writestr(name, content)


def header(shape, descr="|b1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no numpy", "bad.npz: not readable as a NumPy file"),
        (header((1 << 20, 1 << 20)), "a mask must be a numeric array (height, width), found bool of shape (1048576, 1048576)"),
        (header((4, 4)), "bad.npz: not readable as a NumPy file"),  # shorter than it says
        (header((4, 4, 4)), "a mask must be a numeric array (height, width), found bool of shape (4, 4, 4)"),
        (header((2, 2), "|O") + pickle.dumps([1]), "a mask must be a numeric array (height, width), found object of shape (2, 2)"),
    ],
)  # fmt: skip
def test_arrays_are_looked_at_before_they_are_read(tmp_path, content, problem):
    archive(tmp_path, content)
    with pytest.raises(PredictionError) as fault:
        answer(tmp_path, mask="bad.npz")
    assert problem in str(fault.value) and "answers.jsonl, line 1: " in str(fault.value)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"mask": "../secret.png"}, "'../secret.png' is not beside this file"),
        ({"mask": "/etc/passwd"}, "'/etc/passwd' is not beside this file"),
        ({"mask": "a\0.png"}, "'a\\x00.png' is no file's name"),
        ({"mask": "none.png"}, "no file 'none.png'"),
        ({"mask": "answers.jsonl"}, "'answers.jsonl' is neither PNG nor NPY nor NPZ"),
        ({}, "an answer needs pred_mask (run lengths), or mask (a PNG, NPY or NPZ file beside this one)"),
        ({"pred_mask": {"size": [4, 4], "counts": "0"}}, "a mask's runs do not fill its 4x4 pixels"),
        ({"pred_mask": {"size": HW, "counts": "0"}, "confidence": 1}, "a mask's runs do not fill its 27x48 pixels"),
        ({"pred_mask": mask_to_rle(np.ones(HW, bool)).to_json(), "confidence": 2}, "confidence must be a number within 0 and 1, found 2"),
    ],
)  # fmt: skip
def test_faults_name_their_line(tmp_path, row, problem):
    with pytest.raises(PredictionError) as fault:
        answer(tmp_path, **row)
    assert str(fault.value) == f"{tmp_path / 'answers.jsonl'}, line 1: {problem}"


@pytest.mark.parametrize("line", ["[]", "{", '{"take_uid": "t"}', json.dumps(PLACE | {"frame": "30"})])
def test_lines_that_are_no_answers(tmp_path, line):
    (tmp_path / "answers.jsonl").write_text(line)
    with pytest.raises(PredictionError, match=r"answers.jsonl, line 1: an answer"):
        ForeignAnswers.read([tmp_path / "answers.jsonl"])


def test_a_list_of_pictures_becomes_the_submission(data, annotations, tmp_path):  # noqa: F811
    """Pictures of the frames' original size, named by number: names of objects never become files."""
    rows = []
    for direction in Direction:
        for take in annotations:
            for pair in iter_pairs(take, direction):
                for item in pair.objects:
                    name = f"{len(rows)}.png"
                    Image.fromarray(half(pair.target_hw, 255)).save(tmp_path / name)
                    place = (take.take_uid, item.object_id, pair.query_camera, pair.target_camera, pair.frame)
                    rows.append(dict(zip(PLACE, place, strict=True)) | {"mask": name})
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = ("pack", tmp_path / "s.json", "--from", tmp_path / "answers.jsonl", "--data", data, "--split", "val")
    result = run(*line)
    assert result.exit_code == 0 and f"confidence from the mask alone {len(rows)}" in " ".join(result.stdout.split())
    assert run("validate", tmp_path / "s.json", "--annotations", data, "--split", "val").exit_code == 0
    manifest = json.loads((tmp_path / "s.manifest.json").read_text())
    assert manifest["predictions"][0]["file"] == str(tmp_path / "answers.jsonl")
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows[1:])))
    assert "1 predictions are missing or unusable: ego2exo, take" in error(*line)


def results(path, direction) -> dict:
    """The takes of a file that `xseg pack` wrote, one direction of it."""
    return json.loads(path.read_text())[direction]["results"]


def every_answer(takes, change, join=lambda key: key):
    """The same with each answer changed, and each key of a camera pair; what becomes None is left out."""
    return {
        uid: entry
        | {
            "masks": {
                name: {
                    join(key): {frame: new for frame, old in frames.items() if (new := change(key, frame, old)) is not None}
                    for key, frames in pairs.items()
                }
                for name, pairs in entry["masks"].items()
            }
        }
        for uid, entry in takes.items()
    }  # fmt: skip


@pytest.fixture
def ours(annotations, predictions, tmp_path):  # noqa: F811
    pack(predictions, annotations, tmp_path / "ours.json")
    return tmp_path / "ours.json"


PAIRS = {f"{a}_{b}": f"{a}__{b}" for a in CAMERAS for b in CAMERAS}


def test_a_file_for_each_direction_as_xsegtx_writes_them(ours, annotations, tmp_path):  # noqa: F811
    """Neither version nor challenge; masks of the target's shape at 480 pixels, a row more where the sum is odd."""
    paths = []
    for direction in ("ego-exo", "exo-ego"):
        paths.append(tmp_path / f"{direction}_val_results.json")
        paths[-1].write_text(json.dumps({direction: {"results": results(ours, direction)}}))
    pack(paths, annotations, tmp_path / "again.json")
    assert read_submission(tmp_path / "again.json") == read_submission(ours)
    manifest = json.loads((tmp_path / "again.manifest.json").read_text())
    assert [each["file"] for each in manifest["predictions"]] == list(map(str, paths))
    with pytest.raises(PredictionError) as fault:
        pack([*paths, ours], annotations, tmp_path / "no.json")
    assert str(fault.value) == f"{ours}: ego2exo is in {paths[0]} too"
    line = ("pack", tmp_path / "half.json", "--data", annotations.source, "--split", "val", "--from", paths[0])
    assert error(*line).startswith(f"{paths[0]}: no predictions for exo2ego.")
    assert run(*line, "--from", paths[1]).exit_code == 0
    assert read_submission(tmp_path / "half.json") == read_submission(ours)


def test_a_row_too_many(tmp_path):
    """A frame of 380x676 in a square of 480, the padding halved: 270 rows where the scorer wants 269."""
    large = half((270, 480)).astype(bool)
    row = PLACE | {"pred_mask": mask_to_rle(large).to_json(), "confidence": 0.5}
    (found,) = read(tmp_path, row).of_take(Direction.EGO_EXO, "t", {}, {"cam01": scored_hw((1520, 2704))}).values()
    assert found.mask == mask_to_rle(half((269, 480)).astype(bool))


def test_squares_and_whole_confidences_as_xmem_writes_them(ours, annotations, tmp_path):  # noqa: F811
    """The picture pulled to 480x480, not padded: so is the mask, and pulled back."""
    stretched = mask_to_rle(half((480, 480)).astype(bool)).to_json()
    for direction in ("ego-exo", "exo-ego"):
        answered = {"pred_mask": stretched, "confidence": int(direction == "ego-exo")}
        takes = every_answer(results(ours, direction), lambda *_, answered=answered: answered)
        whole = {direction: {"version": "xx", "challenge": "xx", "results": takes}}
        (tmp_path / f"{direction}.json").write_text(json.dumps(whole))
    summary = pack([tmp_path / "ego-exo.json", tmp_path / "exo-ego.json"], annotations, tmp_path / "again.json")
    assert summary.resized == summary.packed["ego2exo"] and summary.judged == 0
    for way, hw in ((Direction.EGO_EXO, (270, 480)), (Direction.EXO_EGO, (480, 480))):
        expected = {"pred_mask": mask_to_rle(half(hw).astype(bool)).to_json(), "confidence": float(way.query_is_ego)}
        takes = read_submission(tmp_path / "again.json")[way]
        assert {json.dumps(each) for each in every_leaf(takes)} == {json.dumps(expected)}


def every_leaf(takes):
    for entry in takes.values():
        for pairs in entry["masks"].values():
            for frames in pairs.values():
                yield from frames.values()


def test_masks_alone_and_pairs_joined_by_two_as_xmem_writes_them_on_its_way(ours, annotations, tmp_path):  # noqa: F811
    """`{}` stands for frames whose query mask vanished when it was made small: they have no answer."""

    def change(key, frame, old):
        return {} if frame == "60" else old["pred_mask"]

    value = {way: {"results": every_answer(results(ours, way), change, PAIRS.get)} for way in ("ego-exo", "exo-ego")}
    (tmp_path / "theirs.json").write_text(json.dumps(value))
    with pytest.raises(
        SubmissionError, match="theirs.json: 20 predictions are missing or unusable: ego2exo, take .* frame 60; "
    ):
        pack([tmp_path / "theirs.json"], annotations, tmp_path / "again.json")
    summary = pack([tmp_path / "theirs.json"], annotations, tmp_path / "again.json", fill="propagate")
    assert (summary.filled, summary.judged) == (20, sum(summary.packed.values()))
    before, after = (
        read_submission(path)[Direction.EGO_EXO]["take-a"]["masks"]["Bowl_1 "]
        for path in (ours, tmp_path / "again.json")
    )
    for cameras in before:
        for frame, answer in before[cameras].items():
            source, confidence = (answer, 1.0) if frame != "60" else (before[cameras]["30"], 0.0)
            assert after[cameras][frame] == {"pred_mask": source["pred_mask"], "confidence": confidence}


@pytest.mark.parametrize(
    "nothing",
    [None, [], {"confidence": 0.2}, {"pred_mask": None, "confidence": 0.2}, {"pred_mask": {}, "confidence": 0.2},
     {"pred_mask": {"size": [480, 0], "counts": "0"}, "confidence": 0.2}],
)  # fmt: skip
def test_an_answer_without_a_mask_is_none(ours, annotations, tmp_path, nothing):  # noqa: F811
    """The last one is what cutting the padding off a square leaves."""
    value = json.loads(ours.read_text())
    value["exo-ego"]["results"]["take-b"]["masks"]["Bowl_1 "][f"cam01_{EGO}"]["30"] = nothing
    (tmp_path / "theirs.json").write_text(json.dumps(value))
    with pytest.raises(
        SubmissionError,
        match="1 predictions are missing or unusable: exo2ego, take take-b, object 'Bowl_1 ', cam01 to aria01_214-1, frame 30",
    ):
        pack([tmp_path / "theirs.json"], annotations, tmp_path / "again.json")


def test_a_confidence_in_brackets(tmp_path):
    """As an array of one number looks in JSON."""
    mask = mask_to_rle(half(HW).astype(bool)).to_json()
    assert answer(tmp_path, pred_mask=mask, confidence=[0.25]).visibility == 0.25
    with pytest.raises(PredictionError, match="confidence must be a number within 0 and 1, found \\[0.1, 0.2\\]"):
        answer(tmp_path, pred_mask=mask, confidence=[0.1, 0.2])


def test_masks_of_another_size_keep_their_place(tmp_path):
    large = np.zeros((1080, 1920), bool)
    large[540:, 960:] = True
    hw = scored_hw(large.shape)
    row = PLACE | {"pred_mask": mask_to_rle(large).to_json()}
    (found,) = read(tmp_path, row).of_take(Direction.EGO_EXO, "t", {}, {"cam01": hw}).values()
    assert rle_area(found.mask) == hw[0] * hw[1] // 4 and rle_to_mask(found.mask)[hw[0] // 2 :, hw[1] // 2 :].all()


def test_answers_that_nobody_asks_for_are_counted(data, annotations, predictions, tmp_path):  # noqa: F811
    whole = tmp_path / "whole.json"
    pack(predictions, annotations, whole)
    value = json.loads(whole.read_text())
    results = value["ego-exo"]["results"]
    results["elsewhere"] = results.pop("take-b")
    whole.write_text(json.dumps(value))
    summary = pack([whole], annotations, tmp_path / "s.json", fill="center")
    assert summary.filled == summary.extra == 12 and summary.packed == {"ego2exo": 12, "exo2ego": 30}
    value["ego-exo"], value["exo-ego"] = value["exo-ego"], value["ego-exo"]
    whole.write_text(json.dumps(value))
    with pytest.raises(SubmissionError, match="none of the 30 ego2exo answers is asked for"):
        pack([whole], annotations, tmp_path / "s.json", fill="center")
