"""The model for one pair of images, from Python and from the shell."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_cli import error, run

from egoexo_xseg import CrossViewSegmenter
from egoexo_xseg.data.images import frame_path, read_image
from egoexo_xseg.errors import XsegError
from egoexo_xseg.jobs.predict import PredictOptions, predict
from egoexo_xseg.masks import Rle, resize_nearest, rle_to_mask, scored_hw
from egoexo_xseg.model.checkpoint import checkpoint_hash
from egoexo_xseg.records import Direction

EGO, EXO = "aria01_214-1", "cam01"


@pytest.fixture
def scene(data):
    """One frame of a prepared take: both images and the ego masks of two objects."""
    take = data / "take-a"
    tracks = json.loads((take / "annotation.json").read_text())["masks"]
    masks = [rle_to_mask(Rle.from_json(track[EGO]["0"])) for track in tracks.values() if "0" in track[EGO]]
    return read_image(frame_path(take, EGO, 0)), np.stack(masks), read_image(frame_path(take, EXO, 0))


@pytest.fixture
def segmenter(tiny_model):
    return CrossViewSegmenter.from_pretrained(tiny_model, device="cpu")


def test_answers_are_those_of_predict(scene, data, segmenter, tiny_model, tmp_path):
    masks, visibility = segmenter.segment(*scene)
    assert masks.shape == (2, *scene[2].shape[:2]) and masks.dtype == bool and masks.any((1, 2)).all()
    predict(PredictOptions(data, tmp_path / "out", Direction.EGO_EXO, str(tiny_model), device="cpu", batch_size=1))
    rows = [json.loads(line) for line in (tmp_path / "out" / "ego2exo" / "take-a.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["target_camera"] == EXO and row["frame"] == 0]
    assert [row["confidence"] for row in rows] == pytest.approx(visibility.tolist(), abs=1e-6)
    for row, mask in zip(rows, masks, strict=True):
        there = rle_to_mask(Rle.from_json(row["pred_mask"]))
        assert (there == resize_nearest(mask, scored_hw(mask.shape))).mean() > 0.95


def test_each_object_gets_an_answer_even_if_there_are_more_than_proposals(scene, segmenter):
    query, masks, target = scene
    many = np.concatenate([masks] * 10)
    assert len(many) > segmenter.model.config.decoder.num_mask_tokens
    answer = segmenter.segment(query, many, target, captions=["red cup", None] * 10)
    assert len(answer.masks) == len(answer.visibility) == len(many)


def test_the_calibration_of_the_direction_judges_visibility(scene, segmenter, tiny_model, tmp_path):
    folder = tmp_path / "calibrated"
    folder.mkdir()
    for path in tiny_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    terms = {"score": {"mean": 0.0, "scale": 1.0, "weight": 2.0}}
    sure = {"model": checkpoint_hash(folder), "intercept": 3.0, "signals": terms}
    (folder / "calibration.json").write_text(json.dumps({"ego2exo": sure}))
    raw = segmenter.segment(*scene).visibility
    judged = CrossViewSegmenter.from_pretrained(folder, device="cpu").segment(*scene).visibility
    odds = np.exp(3) * (raw / (1 - raw)) ** 2
    assert judged == pytest.approx(odds / (1 + odds), abs=1e-6)
    other = CrossViewSegmenter.from_pretrained(folder, direction="exo2ego", device="cpu").segment(*scene).visibility
    assert other == pytest.approx(raw)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda q, m, t: (q.astype(float), m, t), "the query image must be RGB, uint8 (height, width, 3), found float64 of shape (48, 48, 3)"),
        (lambda q, m, t: (q, m, t[..., 0]), "the target image must be RGB, uint8 (height, width, 3), found uint8 of shape (36, 64)"),
        (lambda q, m, t: (q, m[:, :40], t), "the query masks must have the shape (objects, 48, 48) like the query image, found (2, 40, 48)"),
        (lambda q, m, t: (q, m[:0], t), "the query masks must have the shape (objects, 48, 48) like the query image, found (0, 48, 48)"),
        (lambda q, m, t: (q, m & ~m[:1], t), "query mask 0 (counted from 0) has no pixel"),
        (lambda q, m, t: (q, m, t, ["cup"]), "1 captions for 2 objects. Give one each, or None"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_named(scene, segmenter, spoil, words):
    with pytest.raises(XsegError) as caught:
        segmenter.segment(*spoil(*scene))
    assert str(caught.value) == words


def test_an_unknown_direction_is_refused(tiny_model):
    with pytest.raises(XsegError, match=r"no direction 'egoexo'. ego2exo or exo2ego"):
        CrossViewSegmenter.from_pretrained(tiny_model, direction="egoexo")


def test_the_package_waits_for_torch_until_the_model_is_asked_for():
    code = "import sys, egoexo_xseg; assert 'torch' not in sys.modules; egoexo_xseg.CrossViewSegmenter; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Segmenter'"):
        import egoexo_xseg

        _ = egoexo_xseg.Segmenter


@pytest.fixture
def files(scene, tmp_path):
    """The scene as pictures; the mask's picture has an object's number at each pixel."""
    query, masks, target = scene
    labels = np.zeros(masks.shape[1:], np.uint8)
    for number, mask in zip((7, 200), masks, strict=True):
        labels[mask] = number
    paths = [tmp_path / name for name in ("query.png", "mask.png", "target.png")]
    for path, pixels in zip(paths, (query, labels, target), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def test_try_draws_the_answer_and_tells_it(files, tiny_model, tmp_path):
    picture = tmp_path / "answer.png"
    result = run("try", *files, "--model", tiny_model, "--device", "cpu", "--out", picture)
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines() if line.strip()[:1].isdigit()] == ["7", "200"]
    assert f"{picture}: drawn" in result.stdout
    with Image.open(picture) as image:
        assert image.width > 500


def test_try_takes_captions_by_an_objects_number(files, tiny_model, tmp_path):
    line = ("try", *files, "--model", tiny_model, "--device", "cpu", "--out", tmp_path / "answer.png", "--caption")
    assert "red cup" in run(*line, "200=red cup").stdout
    for value in ("3=red cup", "red cup"):
        assert error(*line, value) == f"{value!r} is not NUMBER=WORDS of an object. {files[1]} holds 7, 200"


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((48, 48), np.uint8), "no object: all pixels are 0"),
        (np.arange(48 * 48, dtype=np.uint16).reshape(48, 48), "2303 different values: every object's pixels must have one value of their own, without soft edges"),
        (np.ones((40, 48), np.uint8), "40x48 pixels, the query image has 48x48"),
    ],
)  # fmt: skip
def test_try_names_what_is_wrong_with_a_mask(files, tiny_model, tmp_path, pixels, words):
    Image.fromarray(pixels).save(files[1])
    line = error("try", *files, "--model", tiny_model, "--device", "cpu", "--out", tmp_path / "answer.png")
    assert line.startswith(f"{files[1]}: {words}")
    assert not (tmp_path / "answer.png").exists()
