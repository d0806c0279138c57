"""The official evaluator's values, and evaluations that say what is wrong instead of stopping dead."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from test_cli import error, run
from test_pack import annotations, predictions  # noqa: F401 - fixtures
from test_validate import perfect

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.scoring import ScoredSample
from egoexo_xseg.errors import SubmissionError
from egoexo_xseg.jobs.evaluate import Evaluation, evaluate, group, summarise, write_samples, write_scores
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.records import Direction


@pytest.fixture
def case(golden):
    folder = golden / "evaluator" / "case11"
    if not folder.is_dir():
        pytest.skip("no evaluator case in this folder")
    return folder


def test_equals_the_official_evaluator(golden):
    cases = sorted((golden / "evaluator").glob("*/expected.json"))
    if not cases:
        pytest.skip("no evaluator cases in this folder")
    for expected in cases:
        files = [expected.with_name(f"{direction.challenge_key}_pred.json") for direction in Direction]
        found = evaluate(files, open_annotations(expected.with_name("gt.json")), workers=1).to_json()
        for direction in Direction:
            for name, value in json.loads(expected.read_text())[direction.challenge_key].items():
                assert found[direction.value][name] == pytest.approx(value, abs=1e-9), (expected, direction, name)


def test_number_of_processes_changes_nothing(case, monkeypatch):
    monkeypatch.setattr("egoexo_xseg.jobs.evaluate.WORTH_SPREADING", 0)
    truth = open_annotations(case / "gt.json")
    one, two = (evaluate([case / "ego-exo_pred.json"], truth, workers=workers) for workers in (1, 2))
    assert one.to_json() == two.to_json() and one.samples == two.samples


def test_files(case, tmp_path):
    evaluation = evaluate([case / "ego-exo_pred.json"], open_annotations(case / "gt.json"), workers=1)
    write_scores(evaluation, tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores) == ["ego2exo"]
    assert list(scores["ego2exo"]) == [
        "iou", "location_error", "contour_accuracy", "visibility_balanced_accuracy", "existence_accuracy", "samples",
    ]  # fmt: skip
    write_samples(evaluation, tmp_path / "samples.csv")
    rows = list(csv.DictReader((tmp_path / "samples.csv").read_text().splitlines()))
    assert len(rows) == scores["ego2exo"]["samples"]
    ious = [float(row["iou"]) for row in rows if row["visible"] == "1"]
    assert np.mean(ious) == pytest.approx(scores["ego2exo"]["iou"], abs=1e-12)


def change(case, edit):
    """The case's submission after `edit(answers of the first scored object, camera pair and frame)`."""
    value = json.loads((case / "ego-exo_pred.json").read_text())
    for take in open_annotations(case / "gt.json"):
        for pair in iter_pairs(take, Direction.EGO_EXO):
            for item in pair.objects:
                if item.visible:
                    key = f"{pair.query_camera}_{pair.target_camera}"
                    frames = value["ego-exo"]["results"][take.take_uid]["masks"][item.object_id][key]
                    edit(frames, str(pair.frame))
                    return (
                        value,
                        f"ego2exo, take {take.take_uid}, object {item.object_id!r}, {pair.query_camera} to {pair.target_camera}, frame {pair.frame}",
                    )
    raise AssertionError


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda frames, key: frames.pop(key), "no answer"),
        (lambda frames, key: frames.update({key: None}), "no answer"),
        (lambda frames, key: frames[key].update(confidence=None), "confidence is None"),
        (lambda frames, key: frames[key].update(confidence="0.9"), "confidence is '0.9'"),
        (lambda frames, key: frames[key].update(pred_mask=None), "a mask must be an object with size and counts, found None"),
        (lambda frames, key: frames[key]["pred_mask"].update(size=[480, 480]), "a mask of 480x480, not 270x480"),
        (lambda frames, key: frames[key]["pred_mask"].update(counts=""), "a mask's counts are not a compressed run-length string"),
    ],
)  # fmt: skip
def test_what_stops_the_official_evaluator_is_named(case, tmp_path, edit, problem):
    value, place = change(case, edit)
    (tmp_path / "s.json").write_text(json.dumps(value))
    with pytest.raises(SubmissionError) as caught:
        evaluate([tmp_path / "s.json"], open_annotations(case / "gt.json"), workers=1)
    expected = f"1 answers cannot be scored: {place}: {problem}. See xseg validate"
    assert str(caught.value) == f"{tmp_path / 's.json'}: {expected}"


def test_a_direction_twice(case):
    with pytest.raises(SubmissionError, match="a second file with ego-exo results"):
        evaluate([case / "ego-exo_pred.json"] * 2, open_annotations(case / "gt.json"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "not readable as JSON"),
        ("[]", "neither ego-exo nor exo-ego results in this file. See xseg validate"),
        ('{"ego-exo": {"results": []}}', "neither ego-exo nor exo-ego results in this file. See xseg validate"),
    ],
)
def test_files_that_are_no_submission(case, tmp_path, text, problem):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(SubmissionError) as caught:
        evaluate([tmp_path / "s.json"], open_annotations(case / "gt.json"))
    assert str(caught.value) == f"{tmp_path / 's.json'}: {problem}"


def sample(take, iou, visible=True, confidence=1.0, share=0.002):
    scores = {"iou": iou, "location_error": 0.0, "contour_accuracy": 0.0, "existence": True} if visible else {}
    return ScoredSample("ego2exo", take, "o", "a", "b", 0, visible, confidence, area_share=share, **scores)


def test_summary_counts_every_annotated_frame():
    scores = summarise([sample("a", 0.2), sample("a", 0.6, confidence=0.5), sample("b", None, False, 0.1)])
    assert scores.iou == pytest.approx(0.4) and scores.samples == 3
    assert scores.visibility_balanced_accuracy == 0.75  # exactly 0.5 is not visible


def test_intervals_come_from_takes():
    rows = group([sample("a", 0.0)] * 50 + [sample("b", 1.0)] * 50, lambda _: "all")
    assert (rows[0].iou, rows[0].low, rows[0].high, rows[0].samples) == (0.5, 0.0, 1.0, 100)
    (alone,) = group([sample("a", 0.3)] * 9, lambda _: "all")
    assert alone.low == alone.high == pytest.approx(0.3)


def test_tables(case):
    evaluation = evaluate([case / "exo-ego_pred.json"], open_annotations(case / "gt.json"), workers=1)
    tables = evaluation.tables(Direction.EXO_EGO)
    scores = evaluation.scores[Direction.EXO_EGO]
    for rows in tables.values():
        total = sum(row.samples for row in rows)
        assert sum(row.iou * row.samples for row in rows) / total == pytest.approx(scores.iou)
        assert all(row.low <= row.iou <= row.high for row in rows)
    assert [row.name for row in tables["target camera"]] == ["aria01_214-1"]


def test_tables_by_what_captions_say():
    ious = {"cup": 0.1, "pan": 0.3, "jar": 0.5, "lid": 0.7, "box": 0.9}
    texts = {"cup": "red cup", "pan": "red cup", "jar": "object", "lid": "lid of the small pan"}
    samples = [replace(sample("t", iou), object_id=name) for name, iou in ious.items()]
    samples.append(sample("t", None, visible=False))
    captions = Captions(
        {("t", name, "a", None): text for name, text in texts.items()} | {("t", "jar", "b", None): "red cup"}
    )
    tables = Evaluation({Direction.EGO_EXO: samples}).tables(Direction.EGO_EXO, captions)
    found = {name: {row.name: (row.samples, round(row.iou, 3)) for row in rows} for name, rows in tables.items()}
    assert found["words of the caption"] == {
        "1": (1, 0.5),
        "2": (2, 0.2),
        "4 or more": (1, 0.7),
        "no caption": (1, 0.9),
    }
    assert found["colour in the caption"] == {"a colour": (2, 0.2), "no colour": (2, 0.6), "no caption": (1, 0.9)}
    assert found["caption among the take's objects"] == {"unique": (2, 0.6), "shared": (2, 0.2), "no caption": (1, 0.9)}
    assert found["what the caption names"] == {
        "something": (3, 0.367),
        "nothing (fallback)": (1, 0.5),
        "no caption": (1, 0.9),
    }
    plain = Evaluation({Direction.EGO_EXO: samples}).tables(Direction.EGO_EXO)
    assert list(plain) == ["object size", "take", "target camera"]


def test_what_validate_refuses_is_not_scored_in_silence(data, tmp_path):
    value = perfect(open_annotations(data, split="val"))
    pairs = value["ego-exo"]["results"]["take-a"]["masks"]["red cup _0"]["aria01_214-1_cam01"]
    pairs["0"]["confidence"], pairs["30"]["confidence"] = 75.98, float("nan")
    path = tmp_path / "s.json"
    path.write_text(json.dumps(value))
    result = run("evaluate", path, "--annotations", data)
    assert result.exit_code == 0
    assert result.stderr == "Warning: 2 confidences are not within 0 and 1: see xseg validate.\n"
    del value["ego-exo"]["results"]["take-a"]
    path.write_text(json.dumps(value))
    assert "1 answers cannot be scored: ego2exo, take take-a: no answers (12 are asked for)." in error(
        "evaluate", path, "--annotations", data
    )


def test_folders_of_predictions_score_like_what_they_pack_to(data, predictions, annotations, tmp_path):  # noqa: F811
    pack(predictions, annotations, tmp_path / "s.json")
    rest = ("--data", data, "--split", "val")
    folder = run("evaluate", predictions, *rest, "--json", tmp_path / "folder.json")
    file = run("evaluate", tmp_path / "s.json", *rest, "--json", tmp_path / "file.json")
    assert folder.exit_code == file.exit_code == 0 and folder.stdout == file.stdout and not folder.stderr
    scores = json.loads((tmp_path / "folder.json").read_text())
    assert scores == json.loads((tmp_path / "file.json").read_text())
    mean = (scores["ego2exo"]["iou"] + scores["exo2ego"]["iou"]) / 2
    told = f"Mean IoU of both directions, by which the challenge ranked in 2025: {mean:.4f}\n"
    assert told in file.stdout and 0 < mean < 1
    twice = error("evaluate", tmp_path / "s.json", predictions, *rest)
    assert twice == f"{predictions}: a second file with ego-exo results"
    shutil.rmtree(predictions / "exo2ego")
    alone = run("evaluate", predictions, *rest)
    assert alone.exit_code == 0 and "ego2exo" in alone.stdout and "Mean IoU of both" not in alone.stdout
