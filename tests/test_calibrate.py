"""Calibration on made-up answers of known truth, and on a model's own from one end to the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import EGO, OBJECT_IDS
from test_cli import error, run

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.predictions import read_take_predictions
from egoexo_xseg.data.visibility import SIGNALS, read_calibration
from egoexo_xseg.errors import CheckpointError, PredictionError
from egoexo_xseg.jobs.calibrate import CalibrateOptions, calibrate
from egoexo_xseg.jobs.predict import PredictOptions, predict
from egoexo_xseg.jobs.visibility_fit import Quality, Samples, judge
from egoexo_xseg.masks import mask_to_rle, scored_hw
from egoexo_xseg.records import Direction, Prediction

HW = (36, 64)


def samples(visible: np.ndarray, score: np.ndarray, takes: int = 20, **signals: np.ndarray) -> Samples:
    """Answers of which only the score, and what else is given, says something."""
    score = np.clip(score, 1e-4, 1 - 1e-4)
    columns = {"score": np.log(score / (1 - score)), **signals}
    table = np.stack([columns.get(name, np.zeros(len(score))) for name in SIGNALS], 1)
    names = tuple(f"take {index % takes}" for index in range(len(score)))
    return Samples(SIGNALS, table, score, visible.astype(bool), names)


def sigmoid(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


def probability(judged, score: float) -> float:
    signals = dict.fromkeys(SIGNALS, 0.0) | {"score": np.log(score / (1 - score))}
    return judged.map.probability(signals)


def best_constant(own: Samples) -> float:
    """Balanced accuracy of the best threshold on the raw score, each take judged by the others' best."""
    predicted = np.zeros(len(own), bool)
    places = np.array([sorted(set(own.takes)).index(take) % 10 for take in own.takes])
    for fold in range(10):
        held = places == fold
        seen, hidden = (np.sort(own.confidence[~held & (own.visible == kind)]) for kind in (True, False))
        cuts = np.unique(own.confidence[~held])
        right = (
            np.searchsorted(hidden, cuts, "right") / len(hidden) + 1 - np.searchsorted(seen, cuts, "right") / len(seen)
        )
        predicted[held] = own.confidence[held] > cuts[right.argmax()]
    return (predicted[own.visible].mean() + (~predicted[~own.visible]).mean()) / 2


def test_a_noisy_step_is_found():
    rng = np.random.default_rng(0)
    score = rng.random(3000)
    own = samples((score > 0.7) ^ (rng.random(3000) < 0.05), score)
    judged = judge(own, None, {})
    assert probability(judged, 0.68) < 0.5 < probability(judged, 0.72)
    assert judged.chosen == "score alone" and judged.folds == 10 and tuple(judged.map.terms) == ("score",)
    before, after = judged.qualities["as predicted"], judged.qualities["score alone"]
    assert before.balanced_accuracy < 0.85 < 0.93 < after.balanced_accuracy


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_rare_and_frequent_classes_meet_at_the_best_balanced_accuracy(share):
    rng = np.random.default_rng(1)
    visible = np.arange(4000) < 4000 * share
    odds = np.where(visible, 3.0, 1.0) + rng.normal(size=4000)  # best cut at 2, whatever the share
    judged = judge(samples(visible, sigmoid(odds)), None, {})
    assert (
        probability(judged, float(sigmoid(np.array(1.75)))) < 0.5 < probability(judged, float(sigmoid(np.array(2.25))))
    )
    assert judged.qualities["score alone"].balanced_accuracy == pytest.approx(0.841, abs=0.02)
    assert judged.qualities["score alone"].calibration_error < 0.05 < judged.qualities["as predicted"].calibration_error


def test_other_signals_are_used_where_they_help():
    rng = np.random.default_rng(2)
    size = rng.normal(size=2000)
    score = sigmoid(rng.normal(size=2000))
    own = samples(rng.random(2000) < sigmoid(np.log(score / (1 - score)) + 2 * size), score, query_area=size)
    judged = judge(own, None, {})
    assert judged.chosen == "all signals" and set(judged.map.terms) == {"score", "query_area"}
    assert judged.map.terms["query_area"].weight == pytest.approx(2, abs=0.3)
    qualities = judged.qualities
    assert qualities["all signals"].balanced_accuracy > qualities["score alone"].balanced_accuracy + 0.05


@pytest.mark.parametrize("seed", range(6))
def test_never_worse_than_the_best_constant_threshold(seed):
    """Among noise, with 300 answers of 12 takes that each have a temper of their own."""
    rng = np.random.default_rng(seed)
    visible = rng.random(300) < 0.8
    temper = rng.normal(0, 0.5, 12)[np.arange(300) % 12]
    score = sigmoid(np.where(visible, 2.0, -0.5) + temper + rng.normal(size=300))
    noise = {name: rng.normal(size=300) + temper for name in SIGNALS[1:]}
    own = samples(visible, score, takes=12, **noise)
    judged = judge(own, None, {})
    assert judged.qualities[judged.chosen].balanced_accuracy >= best_constant(own) - 0.005


def test_one_take_cannot_be_cross_validated():
    own = samples(np.arange(40) % 2 == 0, np.linspace(0.1, 0.9, 40), takes=1)
    judged = judge(own, None, {})
    assert (judged.folds, judged.chosen) == (0, "score alone")
    assert judged.basis == "40 targets (20 visible) of 1 takes, too few takes to cross-validate"
    # Two takes, but each has only one kind.
    assert judge(samples(np.arange(40) % 2 == 0, np.linspace(0.1, 0.9, 40), takes=2), None, {}).folds == 0


def test_constant_signals_decide_nothing():
    judged = judge(samples(np.arange(40) % 3 == 0, np.full(40, 0.8), takes=5), None, {})
    assert judged.map.terms == {} and judged.map.intercept == 0
    assert probability(judged, 0.8) == 0.5 and judged.qualities["all signals"].balanced_accuracy == 0.5


def test_classes_that_are_apart():
    visible = np.arange(100) % 2 == 0
    judged = judge(samples(visible, np.where(visible, 0.9, 0.1)), None, {})
    assert judged.qualities["score alone"].balanced_accuracy == 1
    assert 0.9 < probability(judged, 0.9) < 1 and probability(judged, 0.5) == pytest.approx(0.5)


def test_a_score_that_misleads_is_not_turned_around():
    visible = np.arange(400) % 2 == 0
    rng = np.random.default_rng(3)
    own = samples(visible, sigmoid(np.where(visible, -1, 1) + rng.normal(size=400)))
    assert judge(own, None, {}).map.terms["score"].weight == 0


def write_world(folder: Path, takes: int = 6, frames: int = 12, hidden: float = 0.3) -> None:
    """Prepared annotations without frames: three objects, always seen by the ego camera, now and then by the other."""
    rng = np.random.default_rng(0)
    for number in range(takes):
        masks: dict = {name: {EGO: {}, "cam01": {}} for name in OBJECT_IDS}
        for name in OBJECT_IDS:
            for frame in range(0, 30 * frames, 30):
                for camera, hw in ((EGO, (48, 48)), ("cam01", HW)):
                    if camera == EGO or rng.random() >= hidden:
                        mask = np.zeros(hw, bool)
                        row, column = rng.integers(0, 30, 2)
                        mask[row : row + 6, column : column + 6] = True
                        masks[name][camera][str(frame)] = mask_to_rle(mask).to_json()
        looked = {name: {camera: list(range(0, 30 * frames, 30)) for camera in (EGO, "cam01")} for name in OBJECT_IDS}
        annotation = {"masks": masks, "annotated_frames": looked, "camera_size": {EGO: [48, 48], "cam01": list(HW)}}
        (folder / f"take-{number}").mkdir(parents=True)
        (folder / f"take-{number}" / "annotation.json").write_text(json.dumps(annotation))


def write_answers(folder: Path, data: Path, seed: int = 1) -> None:
    """Another method's answers for the ego views: all above 0.5, higher where the object is visible."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(scored_hw(HW), bool)
    mask[100:140, 200:260] = True
    (folder / "ego2exo").mkdir(parents=True)
    for take in open_annotations(data):
        lines = []
        for name, cameras in take.masks.items():
            for frame in cameras[EGO]:
                confidence = 0.75 + 0.1 * (frame in cameras["cam01"]) + 0.06 * rng.normal()
                confidence = float(np.clip(confidence, 0.51, 1))
                answer = Prediction(take.take_uid, name, EGO, "cam01", frame, mask_to_rle(mask), confidence, 0.0, None)
                row = json.loads(answer.to_line())
                del row["score"]
                lines.append(json.dumps(row) + "\n")
        (folder / "ego2exo" / f"{take.take_uid}.jsonl").write_text("".join(lines))


@pytest.fixture
def world(tmp_path) -> CalibrateOptions:
    write_world(tmp_path / "world")
    write_answers(tmp_path / "answers", tmp_path / "world")
    return CalibrateOptions(tmp_path / "answers", tmp_path / "world", out=tmp_path / "out", workers=1)


def quality(folder: Path, data: Path) -> Quality:
    confidence, visible = [], []
    for take in open_annotations(data):
        for answer in read_take_predictions(folder, Direction.EGO_EXO, take.take_uid).values():
            confidence.append(answer.visibility)
            visible.append(answer.frame in take.masks[answer.object_id]["cam01"])
    return Quality.of(np.array(confidence), np.array(visible))


def test_another_methods_answers_are_rewritten(world):
    summary = calibrate(world)
    assert quality(world.predictions, world.data).balanced_accuracy == 0.5
    assert quality(world.out, world.data).balanced_accuracy > 0.75
    assert summary.notes == [] and summary.files == [world.out / "calibration.json", world.out / "reliability.png"]
    for take in open_annotations(world.data):
        before, after = (
            read_take_predictions(folder, Direction.EGO_EXO, take.take_uid) for folder in (world.predictions, world.out)
        )
        assert list(before) == list(after) and len(after) == 36
        for key, answer in after.items():
            assert answer.score == before[key].visibility and answer.margin is None and answer.mask == before[key].mask
    kept = read_calibration(world.out / "calibration.json")[Direction.EGO_EXO]
    assert kept.model is None and "margin" not in kept.terms
    assert kept.fitted["takes"] == 6 and kept.fitted["targets"] == 216 and kept.fitted["folds"] == 6
    assert kept.fitted["before"]["balanced_accuracy"] == 0.5 < 0.7 < kept.fitted["after"]["balanced_accuracy"]
    manifest = json.loads((world.out / "ego2exo" / "manifest.json").read_text())
    assert manifest == {"identity": {"calibration": kept.digest}, "calibrated": str(world.predictions)}


def test_calibrating_what_was_calibrated_changes_nothing(world, tmp_path):
    calibrate(world)
    again = CalibrateOptions(world.out, world.data, out=tmp_path / "again", workers=1)
    calibrate(again)
    first, second = (sorted((folder / "ego2exo").glob("*.jsonl")) for folder in (world.out, again.out))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_command_same_bytes_with_any_number_of_processes(world, tmp_path):
    calibrate(world)
    first = contents(world.out)
    calibrate(world)
    assert contents(world.out) == first
    calibrate(CalibrateOptions(world.predictions, world.data, out=tmp_path / "two", workers=2))
    assert contents(tmp_path / "two") == first


def test_what_was_learnt_is_applied_to_other_answers(world, tmp_path):
    line = ("calibrate", world.predictions, "--data", world.data, "--out", world.out, "--workers", 1)
    assert run(*line).exit_code == 0
    write_answers(tmp_path / "others", world.data, seed=5)
    result = run(
        "calibrate", tmp_path / "others", "--data", world.data, "--from", world.out / "calibration.json",
        "--out", tmp_path / "new",
    )  # fmt: skip
    assert result.stdout == f"{tmp_path / 'new'}: 216 predictions with calibrated confidences\n"
    assert quality(tmp_path / "new", world.data).balanced_accuracy > 0.75


def test_the_captions_behind_the_answers_are_told(world):
    manifest = world.predictions / "ego2exo" / "manifest.json"
    manifest.write_text(json.dumps({"identity": {"captions": "1234"}, "captions": "captions.jsonl"}))
    calibrate(world)
    assert read_calibration(world.out / "calibration.json")[Direction.EGO_EXO].fitted["captions"] == "captions.jsonl"


def test_the_table_and_the_picture(world):
    result = run("calibrate", world.predictions, "--data", world.data, "--out", world.out, "--workers", 1)
    assert result.exit_code == 0 and result.stderr == ""
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0] == "ego2exo" and lines[4].split()[:3] == ["as", "predicted", "0.5000"]
    assert sum("(kept)" in line for line in lines[5:7]) == 1
    assert "216 targets (156 visible) of 6 takes, cross-validated by take in 6 folds" in lines
    assert lines[-2:] == [str(world.out / "calibration.json"), str(world.out / "reliability.png")]
    assert (world.out / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_a_direction_of_one_kind_is_left_out_by_name(world):
    shutil.copytree(world.predictions / "ego2exo", world.predictions / "exo2ego")
    summary = calibrate(world)
    assert list(summary.judged) == [Direction.EGO_EXO]
    unanswered, reason = summary.notes
    assert unanswered.startswith("exo2ego: ") and unanswered.endswith(" annotated targets have no prediction")
    assert reason == "exo2ego: no annotated target has a prediction"
    assert not (world.out / "exo2ego").exists()


def test_nothing_to_learn_from(tmp_path):
    write_world(tmp_path / "world", takes=1, hidden=0)
    write_answers(tmp_path / "answers", tmp_path / "world")
    line = ("calibrate", tmp_path / "answers", "--data", tmp_path / "world", "--out", tmp_path / "out")
    problem = "nothing to learn from; ego2exo: all 36 annotated targets are visible"
    assert error(*line) == f"{tmp_path / 'answers'}: {problem}"
    assert not (tmp_path / "out").exists()


def test_mistakes_are_one_line(world, tmp_path):
    line = ("calibrate", world.predictions, "--data", world.data)
    assert error(*line) == "nowhere to keep the calibration. Give --model, --out or both"
    in_place = f"{world.predictions}: predictions are not rewritten in place. Choose another --out"
    assert error(*line, "--workers", 1, "--out", world.predictions) == in_place
    calibrate(world)
    given = (*line, "--from", world.out / "calibration.json")
    assert error(*given) == "a calibration that is given is applied to predictions. Give --out, and no --model"
    (tmp_path / "none.json").write_text("{}")
    nothing = f"{world.predictions}: no predictions of anything here, which is what was calibrated"
    assert error(*line, "--from", tmp_path / "none.json", "--out", tmp_path / "new") == nothing
    taken = "this folder holds predictions made with another calibration. Choose another --out, or delete it"
    edited = json.loads((world.out / "calibration.json").read_text())
    edited["ego2exo"]["intercept"] += 1
    (tmp_path / "edited.json").write_text(json.dumps(edited))
    assert error(*line, "--from", tmp_path / "edited.json", "--out", world.out) == f"{world.out / 'ego2exo'}: {taken}"


def test_a_mask_that_cannot_be_read_is_named(world):
    path = world.predictions / "ego2exo" / "take-0.jsonl"
    first, *rest = path.read_text().splitlines()
    row = json.loads(first)
    row["pred_mask"]["counts"] = "zzz"
    path.write_text("\n".join([json.dumps(row), *rest]))
    with pytest.raises(PredictionError) as caught:
        calibrate(world)
    where = f"{path}, line 1: object 'red cup _0', frame 0"
    assert str(caught.value) == f"{where}: a mask's counts are not a compressed run-length string"


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    """A checkpoint that may be calibrated."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_predict_applies_what_its_checkpoint_learnt(data, model, tmp_path):
    def options(out: str, direction=Direction.EGO_EXO) -> PredictOptions:
        return PredictOptions(data, tmp_path / out, direction, str(model), device="cpu")

    for direction in Direction:
        predict(options("raw", direction))
    summary = calibrate(CalibrateOptions(tmp_path / "raw", data, model=model, out=tmp_path / "rewritten", workers=1))
    assert [judged.samples.fault for judged in summary.judged.values()] == [None, None]

    with pytest.raises(PredictionError) as caught:
        predict(options("raw"))
    problem = "this folder holds predictions made with another calibration"
    assert str(caught.value) == f"{tmp_path / 'raw' / 'ego2exo'}: {problem}. Choose another --out, or delete it"

    for direction in Direction:
        predict(options("new", direction))
        for uid in ("take-a", "take-b"):
            new, rewritten, raw = (
                (tmp_path / name / direction.value / f"{uid}.jsonl").read_text() for name in ("new", "rewritten", "raw")
            )
            assert new == rewritten
            pairs = [
                (json.loads(one), json.loads(other))
                for one, other in zip(new.splitlines(), raw.splitlines(), strict=True)
            ]
            assert all(one["score"] == other["score"] == other["confidence"] for one, other in pairs)
            assert any(one["confidence"] != other["confidence"] for one, other in pairs)
    # The rewritten folder is as good as a predicted one: predict finds its work done.
    assert predict(options("rewritten")).already == 2


def test_a_calibration_belongs_to_its_weights(data, model, tmp_path):
    from egoexo_xseg.model.checkpoint import new_checkpoint
    from egoexo_xseg.model.configuration import CrossViewConfig

    for direction in Direction:
        predict(PredictOptions(data, tmp_path / "raw", direction, str(model), device="cpu"))
    calibrate(CalibrateOptions(tmp_path / "raw", data, model=model, workers=1))
    new_checkpoint(tmp_path / "other", CrossViewConfig.tiny(), seed=1)
    path = Path(shutil.copy(model / "calibration.json", tmp_path / "other"))
    with pytest.raises(CheckpointError) as caught:
        predict(PredictOptions(data, tmp_path / "pred", Direction.EGO_EXO, str(tmp_path / "other"), device="cpu"))
    problem = "ego2exo was calibrated for another checkpoint than this one"
    assert str(caught.value) == f"{path}: {problem}. Run xseg calibrate again, or delete the file"
    assert not (tmp_path / "pred").exists()
    with pytest.raises(PredictionError) as caught:
        calibrate(CalibrateOptions(tmp_path / "raw", data, model=tmp_path / "other", workers=1))
    reason = f"not predicted by {tmp_path / 'other'} as it is now"
    assert str(caught.value) == f"{tmp_path / 'raw'}: nothing to learn from; ego2exo: {reason}; exo2ego: {reason}"


def test_directions_are_learnt_one_after_the_other(data, model, tmp_path):
    for direction in Direction:
        out = tmp_path / direction.value
        predict(PredictOptions(data, out, direction, str(model), device="cpu"))
        calibrate(CalibrateOptions(out, data, model=model, workers=1))
    assert list(read_calibration(model / "calibration.json")) == list(Direction)
