"""The fusion weight swept: the learnt value answers as the model does, and at 1 captions do not matter."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.errors import XsegError
from egoexo_xseg.jobs.analyze import score
from egoexo_xseg.jobs.analyze_fusion import Sweep, analyze_fusion, fusion_weight
from egoexo_xseg.jobs.predict import PredictOptions, predict
from egoexo_xseg.model import answers
from egoexo_xseg.model.checkpoint import load_checkpoint
from egoexo_xseg.records import Direction, Prediction


def test_at_1_captions_do_not_reach_the_conditions(tiny_model):
    segmenter, _ = load_checkpoint(tiny_model)
    draw = torch.Generator().manual_seed(0)
    objects, here, there = (torch.randn(1, rows, 32, generator=draw) for rows in (3, 1, 1))
    rows = torch.ones(1, 3, dtype=torch.bool)
    with torch.inference_mode():
        with fusion_weight(segmenter, 1.0):
            fused = [segmenter.fusion(objects, captions, rows, rows) for captions in (here, there)]
        assert torch.equal(*fused) and torch.equal(fused[0], objects)
        assert not torch.equal(*(segmenter.fusion(objects, captions, rows, rows) for captions in (here, there)))
    assert segmenter.fusion.k.item() == 0.5


def sweep(ious, learnt=0.5) -> Sweep:
    uids = np.repeat(["a", "b"], len(ious) // 2)
    return Sweep(Direction.EGO_EXO, [0.0, 0.5, 1.0], learnt, uids, np.array(ious))


def test_curve_and_gain():
    found = sweep([[0.0, 0.5, 0.6], [0.0, 0.5, 0.6]])
    assert [round(each.value, 9) for each in found.curve()] == [0, 0.5, 0.6] and found.best == 1.0
    gain = found.gain(1.0)
    assert gain.value == gain.low == gain.high == pytest.approx(0.1) and found.gain(0.5).value == 0


def test_without_visible_objects_there_is_no_curve():
    with pytest.raises(XsegError) as caught:
        sweep(np.zeros((0, 3)))
    assert str(caught.value) == "no visible object ego2exo: there is no IoU to compare"


def test_results(analyze_options, captions_file, monkeypatch):
    options = replace(
        analyze_options, captions=captions_file, directions=(Direction.EXO_EGO,), takes=("take-a",), batch_size=1
    )
    reads, read = [], answers.read
    monkeypatch.setattr(answers, "read", lambda *given: (reads.append(1), read(*given))[1])
    text, faults = analyze_fusion(options, values=4)
    assert not faults and text == (options.out / "fusion.md").read_text("utf-8")
    assert len(reads) == 2  # a pair at a time: the language model does not depend on k
    assert "at the learnt k = 0.500. The best of 5 values is k = " in text
    assert (options.out / "fusion.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((options.out / "fusion.csv").read_text().splitlines()))
    assert [(row["k"], row["learnt"]) for row in rows] == [
        ("0.000000", "0"), ("0.333333", "0"), ("0.500000", "1"), ("0.666667", "0"), ("1.000000", "0"),
    ]  # fmt: skip
    swept = np.load(options.out / "takes" / "answers-exo2ego" / "take-a.npz")
    own = predicted(options)
    for name in ("object_id", "target_camera", "frame", "visible"):
        assert (swept[name] == own[name]).all()
    np.testing.assert_allclose(swept["confidence"][:, 2], own["confidence"][:, 0], atol=1e-4)
    np.testing.assert_allclose(swept["iou"][:, 2], own["iou"][:, 0], atol=2e-3)  # a pixel may tip over
    assert (swept["confidence"][:, 0] != own["confidence"][:, 0]).all()


def predicted(options) -> dict[str, np.ndarray]:
    """The scores of what `xseg predict` writes for take-a."""
    (direction,) = options.directions
    names = ("data", "model", "captions", "takes", "device")
    asked = PredictOptions(out=options.out, direction=direction, **{name: getattr(options, name) for name in names})
    lines = (predict(asked).folder / "take-a.jsonl").read_text("utf-8").splitlines()
    (take,) = open_annotations(options.data, takes=options.takes)
    return score(take, direction, [[Prediction.from_line(line) for line in lines]])
