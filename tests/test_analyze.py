"""What the analyses stand on: statistics with known answers, images seen once, runs that go on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_take

from egoexo_xseg.data.metrics import balanced_accuracy
from egoexo_xseg.errors import PredictionError, XsegError
from egoexo_xseg.jobs import analyze as job
from egoexo_xseg.jobs.analyze import Study, estimate, intervals_note, mean
from egoexo_xseg.jobs.analyze_text import _balanced_accuracy
from egoexo_xseg.model.checkpoint import checkpoint_hash
from egoexo_xseg.model.segmenter import CrossViewModel
from egoexo_xseg.records import Direction


@pytest.fixture
def options(analyze_options):
    return analyze_options


def look_only(analyst, take, direction, faults):
    looks = analyst.iter_looks(take, direction, faults)
    return {"looks": np.array([float(look.sight.encoding.tokens.sum()) for look in islice(looks, 2)])}


def count_batches(analyst, take, direction, faults):
    looks = analyst.iter_looks(take, direction, faults)
    names = [pair.target_camera for look in looks for pair in look.pairs]
    return {"names": np.array(names)} if names else {}


def test_a_mean_and_its_interval():
    found = mean(np.array(["a"] * 3 + ["b"]), np.array([0.0, 0.0, 0.0, 1.0]))
    assert (found.value, found.low, found.high, found.samples) == (0.25, 0.0, 1.0, 4)
    assert f"{found:+.2f}" == "+0.25 [+0.00, +1.00]" and found.cells == (4, "0.250000", "0.000000", "1.000000")
    alone = mean(np.array(["a", "a"]), np.array([0.0, 1.0]))
    assert alone.value == alone.low == alone.high == 0.5


def test_intervals_are_paired():
    """Takes differ widely, the two sides hardly: drawn together, all that is left is the difference."""
    uids = np.repeat([f"take {index}" for index in range(20)], 5)
    hard = np.repeat(np.linspace(0, 1, 20), 5)
    both = np.stack([hard + 0.01, hard, np.ones(100)], 1)
    paired = estimate(uids, both, lambda sums: (sums[:, 0] - sums[:, 1]) / sums[:, 2])
    assert paired.low == pytest.approx(0.01) and paired.high == pytest.approx(0.01)
    assert np.ptp([mean(uids, hard).low, mean(uids, hard).high]) > 0.2


def test_draws_without_the_kind_that_is_asked_for_do_not_count():
    uids, small = np.array(["a", "b"]), np.array([1.0, 0.0])
    found = estimate(uids, np.stack([small * 0.4, small], 1), lambda sums: sums[:, 0] / sums[:, 1])
    assert found.low == found.value == found.high == 0.4


def test_nothing_has_no_mean():
    found = mean(np.array([], str), np.zeros(0))
    assert np.isnan([found.value, found.low, found.high]).all() and found.samples == 0


@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_is_the_official_one(seed):
    visible, first, second = np.random.default_rng(seed).random((3, 40)) < 0.6
    if seed == 4:
        visible[:] = True
    official = [balanced_accuracy(visible.tolist(), told.tolist()) for told in (first, second)]
    uids = np.repeat(["a", "b"], 20)
    assert _balanced_accuracy(uids, visible, [visible == first]).value == pytest.approx(official[0])
    both = _balanced_accuracy(uids, visible, [visible == first, visible == second])
    assert both.value == pytest.approx(official[0] - official[1])


def test_one_take_says_that_it_has_no_interval():
    assert intervals_note(np.array(["a", "a"])) == "All of it is one take: intervals need several."
    assert "the 2 takes" in intervals_note(np.array(["a", "b"]))


def test_each_image_is_encoded_once_for_both_directions(options, monkeypatch):
    seen = []

    def encode(self, images):
        seen.append(images.clone())
        return original(self, images)

    original = CrossViewModel.encode
    monkeypatch.setattr(CrossViewModel, "encode", encode)
    Study(replace(options, takes=("take-a",), batch_size=1)).measure(look_only)
    assert len(seen) == len({image.numpy().tobytes() for image in seen}) == 4  # two cameras, two frames


def test_what_is_forgotten_is_encoded_again_to_the_same(options, monkeypatch):
    options = replace(options, directions=(Direction.EGO_EXO,), takes=("take-a",), batch_size=1)
    whole = Study(options).measure(look_only, "whole")
    monkeypatch.setattr(job, "KEPT_BYTES", 1)
    forgetful = Study(options).measure(look_only, "forgetful")
    assert (whole[Direction.EGO_EXO]["looks"] == forgetful[Direction.EGO_EXO]["looks"]).all()


def test_visibility_is_calibrated_as_in_predictions(options, tmp_path):
    model = Path(shutil.copytree(options.model, tmp_path / "calibrated"))
    certain = {"model": checkpoint_hash(model), "intercept": 3.0, "signals": {}}
    (model / "calibration.json").write_text(json.dumps({"exo2ego": certain}))

    def answer(analyst, take, direction, faults):
        look = next(analyst.iter_looks(take, direction, faults))
        canvas = analyst.segmenter.unroll(look.sight.batch, look.sight.encoding)
        predictions = analyst.answer(look, canvas, analyst.read(look, None))
        return {"visibility": np.array([prediction.visibility for prediction in predictions])}

    options = replace(options, model=str(model), takes=("take-a",), batch_size=1)
    found = Study(options).measure(answer)
    assert found[Direction.EXO_EGO]["visibility"] == pytest.approx(1 / (1 + np.exp(-3)))
    assert (found[Direction.EGO_EXO]["visibility"] < 0.9).all()


def test_goes_on_where_it_stopped(options):
    def stop(analyst, take, direction, faults):
        if (take.take_uid, direction) == ("take-b", Direction.EXO_EGO):
            raise KeyboardInterrupt
        return count_batches(analyst, take, direction, faults)

    asked = []

    def count(analyst, take, direction, faults):
        asked.append((take.take_uid, direction))
        return count_batches(analyst, take, direction, faults)

    with pytest.raises(KeyboardInterrupt):
        Study(options).measure(stop)
    (options.out / "takes" / "answers-ego2exo" / "take-a.npz").write_bytes(b"half a file")
    resumed = Study(options).measure(count)
    assert asked == [("take-a", Direction.EGO_EXO), ("take-b", Direction.EXO_EGO)]
    calm = Study(options).measure(count_batches, "calm")
    for direction in Direction:
        assert {name: column.tolist() for name, column in resumed[direction].items()} == {
            name: column.tolist() for name, column in calm[direction].items()
        }


def test_what_cannot_be_read_is_named_and_tried_again(options):
    options = replace(options, takes=("take-a",), batch_size=1)
    frame = options.data / "take-a" / "cam01" / "0.jpg"
    kept = frame.read_bytes()
    frame.unlink()
    study = Study(options)
    before = study.measure(count_batches)
    where = f"{frame}: the frame is missing. Run xseg prepare"
    assert study.faults == [
        f"take take-a, aria01_214-1 to cam01, frame 0: {where}",
        f"take take-a, cam01 to aria01_214-1, frame 0: {where}",
    ]
    frame.write_bytes(kept)
    again = Study(options)
    after = again.measure(count_batches)
    assert not again.faults and len(after[Direction.EGO_EXO]["names"]) == len(before[Direction.EGO_EXO]["names"]) + 1


def test_a_folder_of_other_results_is_refused(options):
    Study(options).begin("text", seed=0)
    Study(options).begin("text", seed=0)
    with pytest.raises(PredictionError) as caught:
        Study(options).begin("text", seed=1)
    problem = "this folder holds results made with another seed"
    assert str(caught.value) == f"{options.out}: {problem}. Choose another --out, or delete it"
    manifest = json.loads((options.out / "manifest.json").read_text())
    assert manifest["identity"]["choice of takes"] == ["take-a", "take-b"]
    assert manifest["versions"]["torch"] == torch.__version__


def test_takes_without_any_pair(options):
    for uid in ("take-a", "take-b"):
        write_take(options.data / uid, np.random.default_rng(0), ())
    with pytest.raises(XsegError) as caught:
        Study(options).measure(count_batches)
    assert str(caught.value) == f"{options.data}: nothing to compare ego2exo"


def test_out_of_memory_says_what_helps(options):
    def fail(analyst, take, direction, faults):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(XsegError) as caught:
        Study(options).measure(fail)
    assert str(caught.value) == "take take-a: out of memory on cpu. Give a smaller --batch-size"
