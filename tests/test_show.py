"""Pictures show what they should: masks where they are, scores beside them, and nothing invented."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.images import read_image
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.errors import PredictionError, XsegError
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.jobs.pictures import GAP, MARGIN, PANEL_HEIGHT, SHEET_SCALE, closer, contact_sheet, draw_record
from egoexo_xseg.jobs.show import Answerer, Shown, choose, iter_shown, load_shown, show
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


def all_shown(source, annotations, captions=None) -> list[Shown]:
    return [record for take in annotations for record in iter_shown(Answerer(source), take, captions)]


def test_records_are_scored_and_ranked(predictions, annotations):
    records = all_shown(predictions, annotations)
    assert len(records) == 2 * (6 + 5)  # per take: 3 frames x 2 cameras, less a query frame that cam02 lacks
    assert all(record.iou > 0.99 for record in records if record.pair.frame == 0)
    source = Answerer(predictions)
    best, worst = (choose(source, annotations, 3, which) for which in ("best", "worst"))
    assert min(r.iou for r in best) > 0.99 and max(r.iou for r in worst) < 0.1
    spread = choose(source, annotations, 3, "spread")
    assert spread[0].iou >= spread[1].iou >= spread[2].iou and spread[0].iou > spread[2].iou
    assert [place.frame for place in choose(source, annotations, 99, "best", frame=60)] == [60] * 8
    everything = choose(source, annotations, 99, "worst")
    assert len(everything) == len(records) and [place.iou for place in everything[-2:]] == [None, None]
    shown = load_shown(spread, source, annotations)
    assert [record.iou for record in shown] == [place.iou for place in spread]


def test_records_of_a_split_whose_truth_is_hidden_are_drawn_too(predictions, data, tmp_path):
    path = data / "take-b" / "annotation.json"
    value = json.loads(path.read_text())
    for cameras in value["masks"].values():
        cameras["cam01"], cameras["cam02"] = {}, {}
    value["annotated_frames"] = {}
    path.write_text(json.dumps(value))
    annotations, source = open_annotations(data, takes=["take-b"]), Answerer(predictions)
    places = choose(source, annotations, 2, "spread")
    assert [place.iou for place in places] == [None, None] and len(set(places)) == 2
    record = load_shown(places, source, annotations)[0]
    assert draw_record(record).width == 2 * MARGIN + GAP + PANEL_HEIGHT + round(PANEL_HEIGHT * 64 / 36)  # no truth


def test_an_empty_mask_is_no_reason_to_stop(predictions, data):
    path = data / "take-a" / "annotation.json"
    value = json.loads(path.read_text())
    for cameras in value["masks"].values():
        cameras["cam01"]["0"] = mask_to_rle(np.zeros((36, 64), bool)).to_json()
    path.write_text(json.dumps(value))
    annotations = open_annotations(data, takes=["take-a"])
    records = [record for record in all_shown(predictions, annotations) if record.pair.target_camera == "cam01"]
    pictures = {record.pair.frame: draw_record(record) for record in records}
    assert pictures[0].width < pictures[60].width  # nothing to look closer at


def test_closer_around_nothing_is_what_fits():
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    empty = mask_to_rle(np.zeros((6, 8), bool))
    assert (closer(image, empty, None, (empty, None), "#000000", (6, 6)) == image[:, :6]).all()


def test_submissions_show_like_the_predictions_they_hold(predictions, annotations, tmp_path):
    pack(predictions, annotations, tmp_path / "s.json")
    folder, file = (all_shown(source, annotations) for source in (predictions, tmp_path / "s.json"))
    assert [record.ious for record in folder] == [record.ious for record in file]


def test_a_prediction_on_the_truth_is_painted_alike(predictions, annotations):
    record = next(r for r in all_shown(predictions, annotations) if r.pair.frame == 0)
    picture = np.asarray(draw_record(record)).astype(int)
    top = next(row for row in range(60, 120) if (picture[row, MARGIN : MARGIN + PANEL_HEIGHT] < 250).all())
    assert (picture[:top] < 100).any()  # title and names of the panels
    width = round(PANEL_HEIGHT * 64 / 36)
    left = MARGIN + PANEL_HEIGHT + GAP
    panels = picture[top : top + PANEL_HEIGHT]
    prediction, truth = (panels[:, x : x + width] for x in (left, left + width + GAP))
    assert np.abs(prediction - truth).mean() < 3
    frame = read_image(record.take.folder / record.pair.target_camera / "0.jpg")
    bare = np.asarray(Image.fromarray(frame).resize((width, PANEL_HEIGHT)))
    assert np.abs(prediction - bare).mean() > np.abs(prediction - truth).mean()


def test_files_bear_no_objects_names(predictions, annotations, tmp_path):
    source = Answerer(predictions)
    paths = show(load_shown(choose(source, annotations, 2, "best"), source, annotations), tmp_path / "out")
    assert all(re.fullmatch(rf"00{n}-(ego2exo|exo2ego)-take-[ab]-0\.png", path.name) for n, path in enumerate(paths, 1))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


@pytest.mark.parametrize("width", [1000, 1201])
def test_sheets_have_the_width_that_they_are_given(predictions, annotations, tmp_path, width):
    records = all_shown(predictions, annotations)[:3]
    sheet = read_image(contact_sheet(records, tmp_path / "sheet.png", width=width))
    assert sheet.shape[1] == width
    margin = round(SHEET_SCALE * MARGIN)
    assert (sheet[:, :margin] == 255).all() and (sheet[:, -margin:] == 255).all()
    assert (sheet[:, -margin - 1] < 250).any()  # the last panel ends exactly there


def test_captions_are_written_beside_the_objects(predictions, annotations, tmp_path):
    row = {"take_uid": "take-a", "object_id": "red cup _0", "camera": "aria01_214-1", "frame": None, "caption": "a cup"}
    (tmp_path / "c.jsonl").write_text(json.dumps(row))
    plain, *_ = all_shown(predictions, annotations)
    captioned, *_ = all_shown(predictions, annotations, Captions.read(tmp_path / "c.jsonl"))
    assert captioned.pair.objects[0].caption == "a cup"
    assert draw_record(plain).tobytes() != draw_record(captioned).tobytes()


def test_faulty_answers_are_left_out(predictions, annotations, tmp_path):
    pack(predictions, annotations, tmp_path / "s.json")
    value = json.loads((tmp_path / "s.json").read_text())
    del value["ego-exo"]["results"]["take-a"]
    pairs = value["ego-exo"]["results"]["take-b"]["masks"]["red cup _0"]
    pairs["aria01_214-1_cam01"]["0"]["pred_mask"] = None
    pairs["aria01_214-1_cam02"]["0"]["pred_mask"]["counts"] = "0"
    pairs["aria01_214-1_cam01"]["30"]["confidence"] = 10**400
    (tmp_path / "s.json").write_text(json.dumps(value))
    records = [r for r in all_shown(tmp_path / "s.json", annotations) if r.direction is Direction.EGO_EXO]
    assert {record.take.take_uid for record in records} == {"take-b"}
    lacking = {(r.pair.target_camera, r.pair.frame) for r in records if "red cup _0" not in r.answers}
    assert lacking == {("cam01", 0), ("cam02", 0), ("cam01", 30)}
    assert all("Bowl_1 " in record.answers for record in records)


def test_nothing_to_draw(predictions, annotations, tmp_path):
    assert choose(Answerer(predictions), annotations, 3, "best", frame=7) == []
    with pytest.raises(XsegError) as caught:
        show([], tmp_path / "out")
    assert str(caught.value) == "nothing to draw. No record has an answer, or none is of that take and frame"
    assert not (tmp_path / "out").exists()
    with pytest.raises(PredictionError, match="no predictions here"):
        Answerer(tmp_path)


def test_pictures_are_whole_or_not_there(predictions, annotations, tmp_path, monkeypatch):
    def refuse(self, file, *_):
        file.write(b"half a pict")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", refuse)
    records = all_shown(predictions, annotations)[:1]
    for draw in (lambda: show(records, tmp_path / "out"), lambda: contact_sheet(records, tmp_path / "out" / "a.png")):
        with pytest.raises(OSError, match="No space left"):
            draw()
        assert not list((tmp_path / "out").iterdir())
