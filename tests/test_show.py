"""Pictures show what they should: masks where they are, scores beside them, and nothing invented."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.images import read_image
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.errors import PredictionError, XsegError
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.jobs.show import Answerer, choose, contact_sheet, draw_record, iter_shown, query_overlay, show
from egoexo_xseg.masks import mask_to_rle, resize_nearest, rle_to_mask, scored_hw
from egoexo_xseg.records import Direction, Prediction


@pytest.fixture
def annotations(data):
    return open_annotations(data, split="val")


@pytest.fixture
def predictions(annotations, tmp_path):
    """The truth where the frame is 0, a pixel elsewhere."""
    for direction in Direction:
        (tmp_path / "pred" / direction.value).mkdir(parents=True)
        for take in annotations:
            lines = []
            for pair in iter_pairs(take, direction):
                for item in pair.objects:
                    hw = scored_hw(pair.target_hw)
                    mask = np.zeros(hw, bool)
                    mask[1, 1] = True
                    if pair.frame == 0 and item.target_mask:
                        mask = resize_nearest(rle_to_mask(item.target_mask), hw)
                    place = (take.take_uid, item.object_id, pair.query_camera, pair.target_camera, pair.frame)
                    lines.append(Prediction(*place, mask_to_rle(mask), 0.9, 0.9, 0.1).to_line())
            (tmp_path / "pred" / direction.value / f"{take.take_uid}.jsonl").write_text("\n".join(lines))
    return tmp_path / "pred"


def test_records_are_scored_and_ranked(predictions, annotations):
    records = list(iter_shown(Answerer(predictions), annotations))
    assert len(records) == 2 * (6 + 5)  # per take: 3 frames x 2 cameras, less a query frame that cam02 lacks
    assert all(record.iou > 0.99 for record in records if record.pair.frame == 0)
    best, worst = choose(records, 3, "best"), choose(records, 3, "worst")
    assert min(r.iou for r in best) > 0.99 and max(r.iou for r in worst) < 0.1
    spread = choose(records, 3, "spread")
    assert spread[0].iou >= spread[1].iou >= spread[2].iou and spread[0].iou > spread[2].iou
    assert all(record.iou is not None for record in choose(records, 99, "spread"))


def test_submissions_show_like_the_predictions_they_hold(predictions, annotations, tmp_path):
    pack(predictions, annotations, tmp_path / "s.json")
    folder, file = (list(iter_shown(Answerer(source), annotations)) for source in (predictions, tmp_path / "s.json"))
    assert [record.ious for record in folder] == [record.ious for record in file]


def test_a_prediction_on_the_truth_is_painted_alike(predictions, annotations):
    record = next(r for r in iter_shown(Answerer(predictions), annotations) if r.pair.frame == 0)
    picture = np.asarray(draw_record(record)).astype(int)
    heading = picture[:62]
    assert (heading < 100).any()  # title and names of the panels
    width = round(384 * 64 / 36)
    left = 28 + 384 + 12
    prediction, truth = (picture[88 : 88 + 384, x : x + width] for x in (left, left + width + 12))
    assert np.abs(prediction - truth).mean() < 3
    frame = read_image(record.take.folder / record.pair.target_camera / "0.jpg")
    bare = np.asarray(Image.fromarray(frame).resize((width, 384)))
    assert np.abs(prediction - bare).mean() > np.abs(prediction - truth).mean()


def test_files_bear_no_objects_names(predictions, annotations, tmp_path):
    records = list(iter_shown(Answerer(predictions), annotations))
    paths = show(choose(records, 2, "best"), tmp_path / "out")
    assert [path.name for path in paths] == ["001-ego2exo-take-a-0.png", "002-ego2exo-take-b-0.png"] or len(paths) == 2
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert read_image(contact_sheet(records[:3], tmp_path / "sheet.png", width=700)).shape[1] == 700


def test_captions_are_written_beside_the_objects(predictions, annotations, tmp_path):
    row = {"take_uid": "take-a", "object_id": "red cup _0", "camera": "aria01_214-1", "frame": None, "caption": "a cup"}
    (tmp_path / "c.jsonl").write_text(json.dumps(row))
    plain = next(iter_shown(Answerer(predictions), annotations))
    captioned = next(iter_shown(Answerer(predictions), annotations, Captions.read(tmp_path / "c.jsonl")))
    assert captioned.pair.objects[0].caption == "a cup"
    assert draw_record(plain).tobytes() != draw_record(captioned).tobytes()


def test_faulty_answers_are_left_out(predictions, annotations, tmp_path):
    pack(predictions, annotations, tmp_path / "s.json")
    value = json.loads((tmp_path / "s.json").read_text())
    del value["ego-exo"]["results"]["take-a"]
    value["ego-exo"]["results"]["take-b"]["masks"]["red cup _0"]["aria01_214-1_cam01"]["0"]["pred_mask"] = None
    (tmp_path / "s.json").write_text(json.dumps(value))
    records = [r for r in iter_shown(Answerer(tmp_path / "s.json"), annotations) if r.direction is Direction.EGO_EXO]
    assert {record.take.take_uid for record in records} == {"take-b"}
    first = next(record for record in records if record.pair.frame == 0 and record.pair.target_camera == "cam01")
    assert "red cup _0" not in first.answers and len(first.answers) == 1


def test_nothing_to_draw(annotations, tmp_path):
    with pytest.raises(XsegError, match="nothing to draw: no record has a visible object and an answer"):
        contact_sheet([], tmp_path / "sheet.png")
    with pytest.raises(PredictionError, match="no predictions here"):
        Answerer(tmp_path)


def test_overlay_changes_only_what_the_mask_covers():
    image, mask = np.full((60, 80, 3), 100, np.uint8), np.zeros((60, 80), bool)
    mask[20:40, 30:50] = True
    shown = query_overlay(image, mask)
    changed = (shown != image).any(-1)
    assert changed[mask].all() and not changed[:15].any() and not changed[:, :25].any() and (image == 100).all()
