"""The whole street, command by command, as the documentation shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_cli import error, run

from egoexo_xseg.jobs import demo as job

MODEL = Path(__file__).parents[1] / "weights" / "xseg-tiny"


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A folder in which the documented lines ran, but for two takes only one."""
    folder = tmp_path_factory.mktemp("street")
    raw, data, pred, submission = (folder / name for name in ("RAW", "DATA", "PRED", "submission.json"))
    annotations = raw / "annotations" / "relations_val.json"
    for line in (
        ("sample", raw, "--seed", 7, "--takes", 1, "--split", "val"),
        ("prepare", raw, data, "--split", "val"),
        ("predict", "--direction", "both", "--data", data, "--split", "val", "--model", MODEL, "--out", pred),
        ("pack", submission, "--predictions", pred, "--data", data, "--split", "val"),
        ("validate", submission, "--annotations", annotations),
        ("evaluate", submission, "--annotations", annotations, "--json", folder / "scores.json"),
        ("show", pred, "--data", data, "--split", "val", "--count", 2, "--out", folder / "pictures"),
    ):
        result = run(*line)
        assert result.exit_code == 0, (line, result.output)
    return folder


def test_scores_of_both_directions(street):
    scores = json.loads((street / "scores.json").read_text())
    assert list(scores) == ["ego2exo", "exo2ego"]
    assert all(entry["samples"] > 10 and 0 <= entry["iou"] <= 1 for entry in scores.values())


def test_prepared_takes_ask_for_the_same_as_the_raw_release(street):
    for truth in (street / "RAW/annotations/relations_val.json", street / "DATA"):
        result = run("validate", street / "submission.json", "--annotations", truth, "--json")
        assert result.exit_code == 0 and json.loads(result.stdout)["valid"]
    again = run(
        "evaluate", street / "submission.json", "--annotations", street / "DATA", "--json", street / "again.json"
    )
    assert again.exit_code == 0
    assert (street / "again.json").read_bytes() == (street / "scores.json").read_bytes()


def test_pictures(street):
    assert len(list((street / "pictures").glob("*.png"))) == 2


def test_captions_along_the_street(street, tmp_path):
    take_uid = next(path.parent.name for path in (street / "DATA").glob("*/annotation.json"))
    masks = json.loads((street / "DATA" / take_uid / "annotation.json").read_text())["masks"]
    rows = [
        {
            "take_uid": take_uid,
            "object_id": object_id,
            "camera": camera,
            "frame": None,
            "caption": f"red cup {index % 2}",
        }
        for index, (object_id, cameras) in enumerate(masks.items())
        for camera in cameras
    ]
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "captions-1-of-1.jsonl").write_text("\n".join(map(json.dumps, rows)))
    captions = ("--captions", tmp_path / "captions")
    result = run("evaluate", street / "submission.json", "--annotations", street / "DATA", *captions)
    assert result.exit_code == 0, result.output
    for title in ("words of the caption", "colour in the caption", "caption among the take's objects"):
        assert f"ego2exo by {title}" in result.stdout
    result = run("show", street / "PRED", "--data", street / "DATA", "--count", 1, "--out", tmp_path, *captions)
    assert result.exit_code == 0, result.output
    line = ("predict", "--direction", "ego2exo", "--data", street / "DATA", "--model", MODEL, "--out", street / "PRED")
    assert "0 takes predicted, 1 were there" in run(*line, "--captions", "none").stdout
    problem = "this folder holds predictions made with another captions and shuffle_captions"
    assert problem in error(*line, *captions, "--shuffle-captions", 3)


def test_an_invalid_submission_exits_with_one(street, tmp_path):
    value = json.loads((street / "submission.json").read_text())
    del value["exo-ego"]
    (tmp_path / "half.json").write_text(json.dumps(value))
    result = run("validate", tmp_path / "half.json", "--annotations", street / "DATA")
    assert result.exit_code == 1 and result.stderr == f"Error: {tmp_path / 'half.json'} would be refused\n"
    assert "error: exo-ego: direction missing (the server wants both)" in result.stdout


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (("predict", "--direction", "ego2exo", "--data", "DATA", "--model", "nowhere"), "nowhere: no such model folder. Give a folder, or a repository: owner/name"),
        (("predict", "--direction", "ego2exo", "--data", "DATA", "--split", "train", "--model", MODEL), "DATA/split.json: no split 'train'. It has: val"),
        (("predict", "--direction", "ego2exo", "--data", "DATA", "--shard", "3/2", "--model", MODEL), "Invalid value for '--shard': '3/2' is not a shard: the second of eight is 2/8. See xseg predict --help."),
        (("predict", "--direction", "sideways", "--data", "DATA"), "Invalid value for '--direction': 'sideways' is not one of 'ego2exo', 'exo2ego', 'both'. See xseg predict --help."),
        (("predict", "--direction", "ego2exo", "--data", "DATA", "--device", "tpu", "--model", MODEL), f"no device 'tpu' here. Use cpu or cuda; {torch.cuda.device_count()} CUDA devices are seen"),
        (("predict", "--direction", "ego2exo", "--data", "DATA", "--model", MODEL, "--shuffle-captions", "1"), "no captions to shuffle. Give --captions FILE"),
        (("predict", "--direction", "ego2exo", "--data", "DATA", "--captions", "nowhere"), "Invalid value for '--captions': Path 'nowhere' does not exist. See xseg predict --help."),
        (("pack", "s.json", "--predictions", "DATA", "--data", "DATA"), "DATA: no predictions here. Run xseg predict --out with this folder"),
        (("evaluate", "scores.json", "--annotations", "DATA"), "scores.json: neither ego-exo nor exo-ego results in this file. See xseg validate"),
        (("evaluate", "submission.json", "--annotations", "scores.json"), "scores.json: no annotations in this file. Give relations_*.json or correspondence-gt.json"),
        (("prepare", "DATA", "OUT"), "DATA: no annotations/relations_*.json here. Download part `annotations`"),
        (("sample", "DATA", "--split", "../up"), "DATA: not a split's name: '../up'. Use letters, digits, - and _"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(street, monkeypatch, line, problem):
    monkeypatch.chdir(street)
    assert error(*line) == problem


def test_predicting_with_another_model_into_the_same_folder(street, tiny_model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in MODEL.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"pad_value": 127}))
    (other / "calibration.json").unlink()  # it is for the other weights
    line = ("predict", "--direction", "ego2exo", "--data", street / "DATA", "--model", other, "--out", street / "PRED")
    problem = (
        "this folder holds predictions made with another model and calibration. Choose another --out, or delete it"
    )
    assert error(*line) == f"{street / 'PRED' / 'ego2exo'}: {problem}"


def test_a_missing_frame_is_told_and_the_rest_goes_on(street, tmp_path):
    import shutil

    shutil.copytree(street / "DATA", tmp_path / "DATA")
    (camera,) = (tmp_path / "DATA").glob("*/cam01")
    frame = sorted(camera.iterdir())[0]
    frame.unlink()
    line = ("predict", "--direction", "ego2exo", "--data", tmp_path / "DATA", "--model", MODEL, "--out", tmp_path / "P")
    result = run(*line)
    assert result.exit_code == 1 and "the frame is missing. Run xseg prepare" in result.stderr
    assert result.stderr.endswith(f"pairs have no answer in {tmp_path / 'P' / 'ego2exo'}\n")
    assert list((tmp_path / "P" / "ego2exo").glob("*.jsonl"))


def test_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "TAKES", 1)
    result = run("demo", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    assert (
        "xseg caption" in result.stdout
        and "xseg predict --direction both" in result.stdout
        and "Scores" in result.stdout
    )
    made = {path.name for path in (tmp_path / "demo").iterdir()}
    assert made == {"raw", "data", "captions.jsonl", "captions.manifest.json", "predictions", "submission.json", "submission.manifest.json", "scores.json", "pictures", "overview.png", "report"}  # fmt: skip
    again = run("demo", tmp_path / "demo")
    assert again.exit_code == 0 and "xseg sample" not in again.stdout
